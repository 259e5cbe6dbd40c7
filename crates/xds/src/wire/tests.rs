// SPDX-License-Identifier: Apache-2.0
//! What is encoded is decoded the same; what isn't valid isn't decoded; nothing panics.

use super::*;
use byrnie_base::Text;
use byrnie_model::outside::{AltName, BackendTls, Bundle, Target, Trust};
use byrnie_model::policy::access::{AccessPolicy, Action, HttpMatch, Mode, PathPattern, Source};
use byrnie_model::policy::enlist::{Act, Enlist};
use byrnie_model::policy::fault::Fault;
use byrnie_model::policy::health::{Check, HealthCheck};
use byrnie_model::policy::idempotency::{Guarantee, Idempotency, KeyMode, OnAmbiguous, OnServerError};
use byrnie_model::policy::traffic::{
    Admission, Balance, By, Choice, Compression, Distribution, Eject, Failover, Hash, HashOn, Hedge, Limits,
    LoadReport, Nearness, Quota, Rate, RetryBudget, TrafficPolicy,
};
use byrnie_model::policy::{access, traffic};
use byrnie_model::range::Range;
use byrnie_model::resource::{DefaultAccess, Mesh};
use byrnie_model::route::*;
use byrnie_model::service::{Area, Endpoint, Locality, PortPair, Service, ServicePort, TargetPort};
use byrnie_model::site::{Import, Site, WAYS, Way};
use byrnie_model::slice::{Address, Slice, SlicePort};
use byrnie_model::telemetry::{self, Otlp, Share};
use byrnie_model::workload::{Workload, WorkloadPort};
use byrnie_model::{Health, Identity, Protocol, ServiceRef};
use proptest::collection::{btree_map, vec};
use proptest::option::of;
use proptest::prelude::*;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

fn text(pattern: &'static str) -> impl Strategy<Value = Text> {
    pattern.prop_map(Text::from)
}

fn name() -> impl Strategy<Value = Text> {
    text("[a-z][a-z0-9-]{0,12}")
}

fn service_ref() -> impl Strategy<Value = ServiceRef> {
    (name(), name()).prop_map(|(namespace, name)| ServiceRef { namespace, name })
}

fn labels() -> impl Strategy<Value = Labels> {
    btree_map(text("[a-z./]{1,12}"), text("[a-zA-Z0-9]{0,8}"), 0..4)
}

fn identity() -> impl Strategy<Value = Identity> {
    ("[a-z.]{1,9}", "[a-z]{1,9}", "[a-z]{1,9}").prop_map(|(domain, ns, sa)| Identity::new(&domain, &ns, &sa).unwrap())
}

fn address() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), 1_u16..).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![
        Just(Protocol::Http1),
        Just(Protocol::Http2),
        Just(Protocol::Grpc),
        Just(Protocol::Tcp),
        Just(Protocol::Udp),
        Just(Protocol::Undeclared)
    ]
}

fn health() -> impl Strategy<Value = Health> {
    prop_oneof![Just(Health::Healthy), Just(Health::Draining), Just(Health::Unhealthy)]
}

fn locality() -> impl Strategy<Value = Locality> {
    (text("[a-z0-9-]{0,8}"), text("[a-z0-9-]{0,8}")).prop_map(|(region, zone)| Locality { region, zone })
}

fn span() -> impl Strategy<Value = Duration> {
    (0_u64..100_000, 0_u32..1_000_000_000).prop_map(|(seconds, nanos)| Duration::new(seconds, nanos))
}

fn mesh() -> impl Strategy<Value = Spec> {
    let access = prop_oneof![Just(DefaultAccess::Deny), Just(DefaultAccess::Allow)];
    let limits = (of(any::<u32>()), of(rate())).prop_map(|(pending_max, rate)| Limits {
        pending_max,
        rate,
        ..Limits::default()
    });
    (text("[a-z.]{1,20}"), access, of(otlp().prop_map(Arc::new)), limits).prop_map(
        |(trust_domain, default_access, otlp, limits)| {
            Spec::Mesh(Mesh { trust_domain, default_access, otlp, limits: Box::new(limits) })
        },
    )
}

fn otlp() -> impl Strategy<Value = Otlp> {
    let endpoint = "https?://([a-z0-9]{1,9}|\\[::1\\])(:[1-9][0-9]{0,3})?(/[a-z]{1,4}){0,2}";
    let endpoint = endpoint.prop_map(|url| telemetry::Endpoint::parse(&url).unwrap());
    let header = ("[a-z-]{1,8}", "OTLP_[A-Z0-9_]{1,8}").prop_map(|(n, e)| telemetry::Header::new(&n, &e).unwrap());
    let headers = vec(header, 0..4);
    let traces = of((0..=Share::ALL).prop_map(|share| Share::of_millionths(share).unwrap()));
    let metrics = of((1_000_u64..=3_600_000).prop_map(Duration::from_millis));
    (endpoint, of(text("[ -~]{0,20}")), headers, traces, metrics)
        .prop_map(|(endpoint, ca, headers, traces, metrics)| Otlp { endpoint, ca, headers, traces, metrics })
}

fn service() -> impl Strategy<Value = Spec> {
    let target = prop_oneof![(1_u16..).prop_map(TargetPort::Number), name().prop_map(TargetPort::Name)];
    let port = (target, protocol());
    let ports = btree_map(1_u16.., port, 1..5);
    (ports, labels(), of(name()), any::<bool>()).prop_map(|(ports, selector, outside, publish_not_ready)| {
        let port = |(at, (port, (target, protocol))): (usize, (u16, (TargetPort, Protocol)))| ServicePort {
            name: if at == 0 { Text::default() } else { format!("p{at}").into() },
            port,
            target,
            protocol,
            prefixed: false,
        };
        let ports = ports.into_iter().enumerate().map(port).collect();
        Spec::Service(Service { ports, selector, outside, publish_not_ready, pool: None })
    })
}

fn workload() -> impl Strategy<Value = Spec> {
    let port = (name(), 1_u16.., protocol()).prop_map(|(name, port, protocol)| WorkloadPort { name, port, protocol });
    let places = (any::<IpAddr>(), of(address()), of(address()));
    let check = (1_u16.., 1_u8.., 1_u8..).prop_map(|(port, sick_after, well_after)| {
        let (interval, timeout) = (Duration::from_secs(5), Duration::from_secs(1));
        HealthCheck { how: Check::Http("/".into()), port: Some(port), interval, timeout, sick_after, well_after }
    });
    let health = (health(), of(check));
    (identity(), places, vec(port, 0..4), vec(service_ref(), 0..4), locality(), 1_u32.., health).prop_map(
        |(identity, (address, inbound, admin), ports, uses, locality, weight, (health, check))| {
            let workload = Workload { identity, address, ports, inbound, admin, uses, locality, weight, health, check };
            Spec::Workload(Box::new(workload))
        },
    )
}

fn endpoint() -> impl Strategy<Value = Spec> {
    let pair = (1_u16.., 1_u16..).prop_map(|(service, target)| PortPair { service, target });
    let way = of((name(), 0..WAYS).prop_map(|(site, number)| Way { site, number }));
    let names = (service_ref(), (name(), way), identity());
    (names, address(), vec(pair, 0..4), labels(), locality(), 1_u32.., health()).prop_map(
        |((service, (workload, way), identity), address, ports, labels, locality, weight, health)| {
            let endpoint =
                Endpoint { service, workload, way, identity, address, ports, labels, locality, weight, health };
            Spec::Endpoint(Box::new(endpoint))
        },
    )
}

fn path_edit() -> impl Strategy<Value = PathEdit> {
    prop_oneof![text("/[a-z/]{0,8}").prop_map(PathEdit::Full), text("/[a-z/]{0,8}").prop_map(PathEdit::Prefix)]
}

fn filter() -> impl Strategy<Value = RouteFilter> {
    let pair = || (text("[A-Za-z-]{1,8}"), text("[ -~]{0,8}"));
    let edits = || {
        (vec(pair(), 0..3), vec(pair(), 0..3), vec(text("[a-z-]{1,8}"), 0..3))
            .prop_map(|(set, add, remove)| HeaderEdits { set, add, remove })
    };
    let scheme = prop_oneof![Just(Text::from("http")), Just(Text::from("https"))];
    let status = prop_oneof![Just(301_u16), Just(302), Just(303), Just(307), Just(308)];
    let redirect = (of(scheme), of(text("[a-z.]{1,9}")), of(path_edit()), of(1_u16..), status)
        .prop_map(|(scheme, hostname, path, port, status)| Redirect { scheme, hostname, path, port, status });
    let mirror = (destination(), 0_u32..9, 9_u32..).prop_map(|(to, share, of)| Mirror { to, share, of });
    let texts = || vec(text("[a-z*/:.]{1,9}"), 0..3);
    let cors = (texts(), any::<bool>(), texts(), texts(), texts(), any::<u32>()).prop_map(
        |(origins, credentials, methods, headers, expose, max_age)| Cors {
            origins,
            credentials,
            methods,
            headers,
            expose,
            max_age,
        },
    );
    let response = (prop_oneof![Just(200_u16), Just(418), Just(503)], of(text("[a-z/]{1,9}")), text("[ -~\n]{0,40}"))
        .prop_map(|(status, content_type, body)| Arc::new(DirectResponse { status, content_type, body }));
    let direct = (text("[a-z.]{1,9}"), of(response)).prop_map(|(filter, response)| Direct { filter, response });
    prop_oneof![
        direct.prop_map(RouteFilter::Direct),
        mirror.prop_map(RouteFilter::Mirror),
        cors.prop_map(RouteFilter::Cors),
        edits().prop_map(RouteFilter::RequestHeaders),
        edits().prop_map(RouteFilter::ResponseHeaders),
        redirect.prop_map(RouteFilter::Redirect),
        (of(text("[a-z.]{1,9}")), of(path_edit()))
            .prop_map(|(hostname, path)| RouteFilter::Rewrite(Rewrite { hostname, path })),
    ]
}

fn value() -> impl Strategy<Value = ValueMatch> {
    prop_oneof![text("[ -~]{0,8}").prop_map(ValueMatch::Exact), text("[a-z.*]{0,8}").prop_map(ValueMatch::Regex)]
}

fn destination() -> impl Strategy<Value = Destination> {
    let standing = prop_oneof![Just(Standing::Granted), Just(Standing::Foreign), name().prop_map(Standing::Unserved)];
    (service_ref(), 0_u16.., standing).prop_map(|(service, port, standing)| Destination { service, port, standing })
}

fn match_() -> impl Strategy<Value = Match> {
    let path = prop_oneof![
        text("/[a-z/%]{0,8}").prop_map(PathMatch::Exact),
        text("/[a-z/]{0,8}").prop_map(PathMatch::Prefix),
        text("/[a-z]*").prop_map(PathMatch::Regex),
        (of(value()), of(value())).prop_map(|(service, method)| PathMatch::Grpc { service, method }),
    ];
    let header = (text("[a-z-]{1,8}"), value()).prop_map(|(name, value)| NamedMatch { name, value });
    let query = (text("[a-zA-Z_]{1,8}"), value()).prop_map(|(name, value)| NamedMatch { name, value });
    (path, vec(header, 0..3), vec(query, 0..3), of(text("[A-Z]{3,6}")))
        .prop_map(|(path, headers, query, method)| Match { path, headers, query, method })
}

fn route() -> impl Strategy<Value = Spec> {
    let kind = prop_oneof![Just(ParentKind::Service), Just(ParentKind::Gateway), Just(ParentKind::ListenerSet)];
    let parent = (kind, service_ref(), of(name()), of(1_u16..)).prop_map(|(kind, name, section, port)| Parent {
        kind,
        name,
        section,
        port,
    });
    let backend = (destination(), any::<u32>(), vec(filter(), 0..2)).prop_map(|(to, weight, filters)| Backend {
        to,
        weight,
        filters,
    });
    let retry = (vec(400_u16..600, 0..3), 0_u8..=10, of(span())).prop_map(|(codes, attempts, backoff)| Retry {
        codes,
        attempts,
        backoff,
    });
    let carrier = prop_oneof![Just(Carrier::Cookie), Just(Carrier::PermanentCookie), Just(Carrier::Header)];
    let session = (name(), carrier, of(span()), of(span())).prop_map(|(name, carrier, absolute, idle)| Session {
        name,
        carrier,
        absolute,
        idle,
    });
    let times = (of(span()), of(span()), of(retry), of(session));
    let rule = (name(), vec(match_(), 1..3), vec(filter(), 0..3), vec(backend, 0..3), times).prop_map(
        |(name, matches, filters, backends, (timeout, backend_timeout, retry, session))| Rule {
            name,
            matches,
            filters,
            backends,
            timeout,
            backend_timeout,
            retry,
            session,
        },
    );
    let host = prop_oneof![text("[a-z.]{1,9}"), text("[*][.][a-z.]{1,9}")];
    (vec(parent, 1..3), vec(host, 0..3), vec(rule, 0..3))
        .prop_map(|(parents, hostnames, rules)| Spec::Route(Arc::new(Route { parents, hostnames, rules })))
}

fn access() -> impl Strategy<Value = Spec> {
    let source = prop_oneof![
        (name(), name()).prop_map(|(namespace, name)| Source::ServiceAccount { namespace, name }),
        name().prop_map(Source::Namespace),
        identity().prop_map(Source::Identity),
    ];
    let pattern = prop_oneof![
        text("/[a-z/]{0,8}").prop_map(PathPattern::Exact),
        text("/[a-z/]{0,8}/").prop_map(PathPattern::Below),
        vec(of(text("[a-z]{1,8}")), 1..4).prop_map(PathPattern::Template),
    ];
    let http =
        (vec(text("[A-Z]{3,6}"), 0..3), vec(pattern, 0..3)).prop_map(|(methods, paths)| HttpMatch { methods, paths });
    let rule = (vec(source, 0..3), vec(1_u16.., 0..3), vec(http, 0..3))
        .prop_map(|(sources, ports, http)| access::Rule { sources, ports, http });
    let mode = prop_oneof![Just(Mode::Enforce), Just(Mode::Shadow)];
    let action = prop_oneof![Just(Action::Allow), Just(Action::Deny)];
    (mode, vec(service_ref(), 0..3), action, vec(rule, 0..3)).prop_map(|(mode, targets, action, rules)| {
        Spec::Access(Arc::new(AccessPolicy { mode, targets, action, rules }))
    })
}

fn rate() -> impl Strategy<Value = Rate> {
    (any::<u32>(), 1_u64..1_000).prop_map(|(requests, seconds)| Rate { requests, per: Duration::from_secs(seconds) })
}

fn traffic() -> impl Strategy<Value = Spec> {
    let balance = prop_oneof![
        Just(Balance::PeakEwma),
        Just(Balance::LeastRequest),
        Just(Balance::RoundRobin),
        Just(Balance::Random),
        Just(Balance::WeightedRoundRobin),
        Just(Balance::RingHash),
        Just(Balance::Maglev)
    ];
    let on = prop_oneof![
        Just(HashOn::Source),
        name().prop_map(HashOn::Header),
        name().prop_map(HashOn::Cookie),
        name().prop_map(HashOn::Query)
    ];
    let hash = (on, of(101_u32..)).prop_map(|(on, load_percent_max)| Hash { on, load_percent_max });
    let choice =
        (labels(), of(1_u32..), of(span()), of(0_u8..=100)).prop_map(|(labels, most, slow_start, panic_percent)| {
            Choice { labels, most, slow_start, panic_percent, health_check: None, load_report: None }
        });
    // A rule that hashes has something to hash.
    let balance = (of(balance), of(hash)).prop_map(|(balance, hash)| {
        let plain = if hash.is_some() { balance } else { balance.filter(|balance| !balance.hashes()) };
        (plain, hash)
    });
    let nearness = prop_oneof![Just(Nearness::SameZone), Just(Nearness::SameRegion), Just(Nearness::Any)];
    let area = || (text("[a-z]{1,5}"), text("[a-z]{0,5}")).prop_map(|(region, zone)| Area { region, zone });
    let to = (area(), 1_u8..100).prop_map(|(area, share)| std::vec![(area, share), (Area::default(), 100 - share)]);
    let distribute = vec((area(), to).prop_map(|(from, to)| Distribution { from, to }), 0..3);
    let failover = (vec(nearness, 0..3), 0_u8..=100, vec(0_u8..=100, 0..3), distribute)
        .prop_map(|(prefer, below_percent, shares, distribute)| Failover { prefer, below_percent, shares, distribute });
    let rows = (of(any::<u32>()), of(any::<u32>()), of(any::<u32>()));
    let parts = (of(any::<u32>()), of(0_u8..=100), of(any::<u32>()), span(), any::<u32>());
    let eject = (rows, parts, span(), 0_u8..=100).prop_map(|(rows, parts, span, ejected_percent_max)| Eject {
        consecutive_errors: rows.0,
        consecutive_gateway_errors: rows.1,
        consecutive_local_errors: rows.2,
        deviation_percent: parts.0,
        failure_percent: parts.1,
        latency_percent: parts.2,
        interval: parts.3,
        volume: parts.4,
        span,
        ejected_percent_max,
    });
    let by = prop_oneof![Just(By::All), Just(By::Caller), text("x-[a-z]{1,5}").prop_map(By::Header)];
    let quota = (rate(), by, any::<bool>()).prop_map(|(rate, by, shared)| Quota { rate, by, shared });
    let admission = (1_u8..=100, rate(), any::<u32>(), 1_u8..=100, vec(400_u16..600, 0..3)).prop_map(
        |(success_percent, rate, volume, rejected_percent_max, codes)| Admission {
            success_percent,
            window: rate.per,
            volume,
            rejected_percent_max,
            codes,
        },
    );
    let limits = ((of(any::<u32>()), of(any::<u32>())), of(rate()), of(span()), vec(quota, 0..3), of(admission));
    let limits = limits.prop_map(|((pending_max, queued_max), rate, idle_max, quotas, admission)| Limits {
        pending_max,
        queued_max,
        rate,
        idle_max,
        quotas,
        admission,
    });
    let hedge = prop_oneof![(50_u8..=99).prop_map(Hedge::Percentile), span().prop_map(Hedge::Delay)];
    let budget = (0_u8..=100, span(), rate(), of(hedge)).prop_map(|(percent, interval, least, hedge)| RetryBudget {
        percent,
        interval,
        least,
        hedge,
    });
    let whole = (vec(service_ref(), 1..3), balance, of(choice), of(failover), of(eject), of(limits), of(budget));
    let words = (of(text("[A-Z]{1,5}")), of(text("/[a-z]{0,5}")), of((text("[a-z]{1,5}"), text("[a-z]{0,5}"))));
    let fault = (0_u8..=100, of(span()), of(200_u16..600), (any::<bool>(), of(span())), words, any::<u64>()).prop_map(
        |(percent, delay, abort, (reset, slow_body), (method, path_prefix, header), until)| Fault {
            percent,
            delay,
            abort,
            reset,
            slow_body,
            method,
            path_prefix,
            header,
            until: byrnie_base::Timestamp::from_millis(until),
        },
    );
    let compression = (any::<u32>(), vec(text("[a-z]{1,5}/[a-z*]{1,5}"), 0..3));
    let compression = of(compression.prop_map(|(bytes_min, kinds)| Compression { bytes_min, kinds }));
    (whole, any::<bool>(), of(span()), (of(fault), compression)).prop_map(
        |(
            (targets, (balance, hash), endpoints, failover, eject, limits, retry_budget),
            unsafe_retry,
            connect_timeout,
            (fault, compression),
        )| {
            let policy = TrafficPolicy {
                targets,
                balance,
                hash,
                endpoints,
                failover,
                eject,
                limits,
                retry_budget,
                unsafe_retry,
                fault,
                connect_timeout,
                idempotency: None,
                compression,
            };
            Spec::Traffic(Arc::new(policy))
        },
    )
}

fn gateway() -> impl Strategy<Value = Spec> {
    use byrnie_model::gateway::{
        Carries, CertificateRef, Expression, From, Frontend, Gateway, Listener, Selector, Validation, Wanted,
    };
    let wanted = prop_oneof![
        vec(name(), 1..3).prop_map(Wanted::In),
        vec(name(), 1..3).prop_map(Wanted::NotIn),
        Just(Wanted::Exists),
        Just(Wanted::DoesNotExist)
    ];
    let expression = (name(), wanted).prop_map(|(key, value)| Expression { key, value });
    let selector = (labels(), vec(expression, 0..3)).prop_map(|(labels, expressions)| Selector { labels, expressions });
    let from = prop_oneof![Just(From::Same), Just(From::All), selector.prop_map(From::Selected)];
    let certificate = (name(), name(), of(text("K[a-z]{0,5}[.][a-z.]{0,9}")))
        .prop_map(|(namespace, name, unserved)| CertificateRef { namespace, name, unserved });
    let certificates = vec(certificate, 0..3).boxed();
    let validation =
        of((certificates.clone(), any::<bool>())
            .prop_map(|(authorities, optional)| Validation { authorities, optional }))
        .boxed();
    let ports = proptest::collection::btree_map(1_u16..4, validation.clone(), 0..3);
    let frontend = (validation, ports).prop_map(|(default, ports)| Frontend { default, ports });
    let carries = prop_oneof![
        Just(Carries::Http),
        Just(Carries::Tcp),
        Just(Carries::Udp),
        Just(Carries::Passthrough),
        certificates.clone().prop_map(Carries::Https),
        certificates.prop_map(Carries::Tls)
    ];
    let port = prop_oneof![1_u16.., 1_u16..4];
    let listener = (name(), of(text("[*][.][a-z.]{1,9}")), port, from, vec(name(), 0..3), carries).prop_map(
        |(name, hostname, port, from, kinds, carries)| Listener { name, hostname, port, carries, from, kinds },
    );
    let parent = of((name(), name()).prop_map(|(namespace, name)| ServiceRef::new(namespace, name)));
    let balancers =
        of(any::<IpAddr>()).prop_map(|ip| ip.iter().filter_map(|ip| Range::parse(&ip.to_string())).collect());
    (name(), parent, vec(listener, 0..3), balancers, frontend).prop_map(
        |(class, parent, listeners, balancers, frontend)| {
            let (sets, parameters) = (None, None);
            Spec::Gateway(Arc::new(Gateway { class, parent, sets, balancers, parameters, frontend, listeners }))
        },
    )
}

fn secret() -> impl Strategy<Value = Spec> {
    use byrnie_model::secret::{Private, Secret};
    (text("[ -~\n]{1,40}"), text("[ -~\n]{1,40}"))
        .prop_map(|(chain, key)| Spec::Secret(Arc::new(Secret { chain, key: Private::new(key) })))
}

fn bundle() -> impl Strategy<Value = Spec> {
    text("[ -~\n]{1,40}").prop_map(|pem| Spec::Bundle(Arc::new(Bundle { pem })))
}

fn backend_tls() -> impl Strategy<Value = Spec> {
    let target = (service_ref(), of(name())).prop_map(|(service, section)| Target { service, section });
    let trust = prop_oneof![Just(Trust::System), vec(name(), 1..3).prop_map(Trust::Bundles)];
    let alt = prop_oneof![name().prop_map(AltName::Host), text("[a-z]{1,4}://[a-z./]{1,9}").prop_map(AltName::Uri)];
    (vec(target, 1..3), name(), vec(alt, 0..3), trust, of(name())).prop_map(
        |(targets, hostname, names, trust, certificate)| {
            Spec::BackendTls(Arc::new(BackendTls { targets, hostname, names, trust, certificate }))
        },
    )
}

fn slice() -> impl Strategy<Value = Spec> {
    let address = (any::<IpAddr>(), health(), locality(), vec(name(), 0..3))
        .prop_map(|(ip, health, locality, zones)| Address { ip, health, locality, zones });
    let ports = btree_map(text("[a-z-]{0,5}"), 1_u16.., 0..3)
        .prop_map(|ports| ports.into_iter().map(|(name, port)| SlicePort { name, port }).collect());
    (name(), ports, vec(address, 0..4))
        .prop_map(|(service, ports, endpoints)| Spec::Slice(Arc::new(Slice { service, ports, endpoints })))
}

fn site() -> impl Strategy<Value = Spec> {
    let import = (service_ref(), name()).prop_map(|(service, account)| Import {
        service,
        identity: Identity::new("far.test", "ns", &account).unwrap(),
    });
    (text("[A-Z \n]{1,9}"), vec(address(), 0..3), vec(import, 0..2)).prop_map(
        |(authorities, gateways, mut services)| {
            services.dedup_by(|a, b| a.service == b.service);
            Spec::Site(Site { trust_domain: "far.test".into(), authorities, gateways, services }.into())
        },
    )
}

fn kind_of(spec: &Spec, age: u64) -> Kind {
    match spec {
        Spec::Service(_) => Kind::Service,
        Spec::Workload(_) => Kind::Workload,
        Spec::Access(_) => Kind::AccessPolicy,
        Spec::Traffic(_) => Kind::TrafficPolicy,
        Spec::Gateway(_) => Kind::GATEWAYS[usize::try_from(age % 2).unwrap()],
        Spec::Secret(_) => Kind::Secret,
        Spec::Slice(_) => Kind::EndpointSlice,
        Spec::Export => Kind::ServiceExport,
        Spec::Bundle(_) => Kind::ConfigMap,
        Spec::BackendTls(_) => Kind::BackendTlsPolicy,
        Spec::Route(_) => Kind::ROUTES[usize::try_from(age % 5).unwrap()],
        other => panic!("{other:?} has its own name"),
    }
}

fn checked() -> impl Strategy<Value = Spec> {
    let how = prop_oneof![
        text("/[a-z]{0,5}").prop_map(Check::Http),
        text("[a-z]{0,5}").prop_map(Check::Grpc),
        Just(Check::Tcp)
    ];
    let spans = ((1_u64..100_000).prop_map(Duration::from_millis), (1_u64..100_000).prop_map(Duration::from_millis));
    (traffic().boxed(), how, of(1_u16..), spans, 1_u8.., 1_u8..).prop_map(
        |(spec, how, port, (interval, timeout), sick_after, well_after)| {
            let Spec::Traffic(policy) = spec else { unreachable!() };
            let health_check = Some(HealthCheck { how, port, interval, timeout, sick_after, well_after });
            let load_report = Some(LoadReport { port, interval });
            let endpoints = Some(Choice { health_check, load_report, ..policy.endpoints.clone().unwrap_or_default() });
            Spec::Traffic(Arc::new(TrafficPolicy { endpoints, ..(*policy).clone() }))
        },
    )
}

fn keyed() -> impl Strategy<Value = Spec> {
    let mode = prop_oneof![Just(KeyMode::Off), Just(KeyMode::Optional), Just(KeyMode::Required)];
    let guarantee = prop_oneof![Just(Guarantee::G0), Just(Guarantee::G1), Just(Guarantee::G2)];
    let ambiguous =
        prop_oneof![Just(OnAmbiguous::Hold), Just(OnAmbiguous::Reexecute), Just(OnAmbiguous::Probe("/keys".into()))];
    let error = prop_oneof![Just(OnServerError::Ambiguous), Just(OnServerError::Keep), Just(OnServerError::Release)];
    let lease = (1_u64..100_000).prop_map(Duration::from_millis);
    // Boxed: the value of so many strategies in one is more than a test's stack holds.
    (traffic().boxed(), mode, guarantee, span(), lease, (ambiguous, error, any::<bool>())).prop_map(
        |(spec, mode, guarantee, key_ttl, lease, (on_ambiguous, on_server_error, mint_keys))| {
            let Spec::Traffic(policy) = spec else { unreachable!() };
            let act = |path: &str| Act { method: "POST".into(), path: path.into() };
            let (complete, status_only) = (mint_keys.then(|| act("/c")), mint_keys);
            let enlist = vec![Enlist { call: act("/a"), compensate: act("/b"), complete }];
            let idempotency = Idempotency {
                mode,
                guarantee,
                key_ttl,
                lease,
                on_ambiguous,
                on_server_error,
                mint_keys,
                status_only,
                enlist,
            };
            Spec::Traffic(Arc::new(TrafficPolicy { idempotency: Some(idempotency), ..(*policy).clone() }))
        },
    )
}

fn resource() -> impl Strategy<Value = Resource> {
    let spec = prop_oneof![
        mesh(),
        service(),
        workload(),
        endpoint(),
        route(),
        gateway().boxed(),
        secret().boxed(),
        bundle().boxed(),
        slice().boxed(),
        site().boxed(),
        Just(Spec::Export).boxed(),
        backend_tls().boxed(),
        access(),
        traffic().boxed(),
        keyed().boxed(),
        checked().boxed()
    ];
    (spec, labels(), name(), name(), any::<u64>()).prop_map(|(spec, labels, namespace, name, age)| {
        let (key, labels) = match &spec {
            Spec::Endpoint(endpoint) => {
                let name = format!("{}/{}", endpoint.service.name, endpoint.workload);
                (Key::new(Kind::Endpoint, endpoint.service.namespace.clone(), name), Labels::new())
            }
            Spec::Mesh(_) => (Key::new(Kind::Mesh, "", name), labels),
            Spec::Site(_) => (Key::new(Kind::Site, "", name), labels),
            other => (Key::new(kind_of(other, age), namespace, name), labels),
        };
        let created = Revision(if key.kind.is_route() || key.kind.is_gateway() { age } else { 0 });
        Resource { key, revision: Revision(7), created, labels, origin: None, spec }
    })
}

proptest! {
    #[test]
    fn every_resource_comes_back_the_same(resource in resource()) {
        let name = crate::name::of(&resource.key);
        prop_assert_eq!(crate::name::parse(resource.key.kind, &name), Some(resource.key.clone()));
        let bytes = encode(&resource);
        prop_assert_eq!(decode(resource.key.clone(), Revision(7), &bytes), Ok(resource));
    }

    /// Whatever is read from damaged bytes is as valid as what is read from good ones.
    #[test]
    fn damaged_bytes_are_refused_or_valid(resource in resource(), at: prop::sample::Index, byte: u8) {
        let mut bytes = encode(&resource).to_vec();
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(read) = decode(resource.key.clone(), Revision(7), &bytes) {
            prop_assert_eq!(decode(resource.key.clone(), Revision(7), &encode(&read)), Ok(read));
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes: Vec<u8>, kind in 0_usize..7) {
        let kind = crate::name::ORDER[kind];
        let _ = decode(Key::new(kind, "default", "a/b"), Revision(1), &bytes);
    }
}

#[test]
fn what_the_model_forbids_is_not_decoded() {
    use crate::proto::Message;
    use crate::proto::byrnie::v1 as pb;
    fn check(kind: Kind, message: &impl Message, expected: &str) {
        let key = Key::new(kind, "default", "a/b");
        let error = decode(key, Revision(1), &message.encode_to_vec()).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    let port = |number: u32, name: &str| pb::ServicePort {
        name: name.into(),
        port: number,
        target: Some(pb::service_port::Target::TargetNumber(1)),
        protocol: 1,
        undeclared: false,
    };
    let service = |ports| pb::Service { ports, ..Default::default() };
    check(Kind::Service, &service(vec![]), "ports is missing");
    let bare = |ports| pb::Service { bare: true, ..service(ports) };
    check(Kind::Service, &bare(vec![port(80, "")]), "bare is invalid");
    let name = Spec::Service(Service::default());
    assert_eq!(
        decode(Key::new(Kind::Service, "a", "b"), Revision(1), &bare(vec![]).encode_to_vec()).unwrap().spec,
        name
    );
    check(Kind::Service, &service(vec![port(0, "")]), "ports[].port is invalid");
    check(Kind::Service, &service(vec![port(65_536, "")]), "ports[].port is invalid");
    check(Kind::Service, &service(vec![port(80, ""), port(80, "")]), "ports has a name twice");
    check(Kind::Service, &service(vec![port(80, "a"), port(81, "a")]), "ports has a name twice");
    check(Kind::Service, &service(vec![port(80, "a"); 257]), "ports has too many entries");
    check(Kind::Mesh, &pb::Mesh::default(), "trustDomain is invalid");
    let mesh = pb::Mesh { trust_domain: "a".into(), default_access: 9, ..Default::default() };
    check(Kind::Mesh, &mesh, "defaultAccess is invalid");
    let sent = |otlp: pb::Otlp| pb::Mesh {
        trust_domain: "a".into(),
        default_access: 1,
        otlp: Some(otlp),
        ..Default::default()
    };
    let endpoint = || "http://a".to_owned();
    check(Kind::Mesh, &sent(pb::Otlp::default()), "otlp.endpoint is invalid");
    let otlp = pb::Otlp { endpoint: endpoint(), traces: Some(1_000_001), ..Default::default() };
    check(Kind::Mesh, &sent(otlp), "otlp.traces is invalid");
    let otlp = pb::Otlp { endpoint: endpoint(), metrics_every_ms: Some(1), ..Default::default() };
    check(Kind::Mesh, &sent(otlp), "otlp.metricsEveryMs is invalid");
    let header = pb::OtlpHeader { name: "authorization".into(), env: "BYRNIE_TOKEN".into() };
    let otlp = pb::Otlp { endpoint: endpoint(), headers: vec![header], ..Default::default() };
    check(Kind::Mesh, &sent(otlp), "otlp.headers is invalid");
    check(Kind::AccessPolicy, &pb::AccessPolicy::default(), "mode is invalid");
    let unknown_source = pb::AccessPolicy {
        mode: 1,
        action: 1,
        rules: vec![pb::AccessRule { sources: vec![pb::Source { source: None }], ..Default::default() }],
        ..Default::default()
    };
    check(Kind::AccessPolicy, &unknown_source, "rules[].sources[] is missing");
    check(Kind::TrafficPolicy, &pb::TrafficPolicy::default(), "targetRefs is missing");
    check(Kind::HttpRoute, &pb::Route::default(), "parentRefs is missing");
    let answered = |status, body: &str| {
        let response = pb::DirectResponse { status, content_type: None, body: body.to_owned() };
        let direct = pb::Direct { filter: "a".into(), response: Some(response) };
        let filter = pb::RouteFilter { filter: Some(pb::route_filter::Filter::Direct(direct)) };
        let name = pb::ServiceRef { namespace: "a".into(), name: "b".into() };
        let parent = pb::Parent { kind: pb::ParentKind::Service.into(), name: Some(name), ..Default::default() };
        let path = Some(pb::route_match::Path::Prefix("/".into()));
        let matches = vec![pb::RouteMatch { path, ..Default::default() }];
        let rule = pb::RouteRule { matches, filters: vec![filter], ..Default::default() };
        pb::Route { parents: vec![parent], rules: vec![rule], ..Default::default() }
    };
    for (status, body) in [(199, ""), (600, ""), (204, "a"), (70_000, ""), (200, &*"a".repeat(4097))] {
        check(Kind::HttpRoute, &answered(status, body), "rules[].filters[].directResponse is invalid");
    }
    check(Kind::Site, &pb::Site::default(), "trustDomain is invalid");
    let site = |identity: &str| pb::Site {
        trust_domain: "far.test".into(),
        authorities: "PEM".into(),
        services: vec![pb::Import {
            service: Some(pb::ServiceRef { namespace: "a".into(), name: "b".into() }),
            identity: identity.into(),
        }],
        ..Default::default()
    };
    // A site speaks for nobody but its own.
    check(Kind::Site, &site("spiffe://demo.local/ns/a/sa/b"), "services[].identity is invalid");
    let foreign = pb::Endpoint {
        service: Some(pb::ServiceRef { namespace: "default".into(), name: "other".into() }),
        workload: "b".into(),
        ..Default::default()
    };
    check(Kind::Endpoint, &foreign, "name is invalid");
    assert_eq!(traffic::Balance::default(), Balance::PeakEwma);
}
