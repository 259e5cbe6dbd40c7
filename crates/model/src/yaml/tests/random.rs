// SPDX-License-Identifier: Apache-2.0
//! Random input: no bytes make the reader panic, and every resource survives its own document.

use super::super::*;
use crate::gateway::{
    Carries, CertificateRef, Expression, From, Frontend, Gateway, GatewayClass, Grant, Listener, Parameters, Referent,
    Referrer, Selector, Validation, Wanted,
};
use crate::outside::{AltName, BackendTls, Bundle, Target, Trust};
use crate::policy::access::{AccessPolicy, Action, HttpMatch, Mode, PathPattern, Rule as AccessRule, Source};
use crate::policy::enlist::{Act, Enlist};
use crate::policy::fault::Fault;
use crate::policy::health::{Check, HealthCheck};
use crate::policy::idempotency::{Guarantee, Idempotency, KeyMode, OnAmbiguous, OnServerError};
use crate::policy::traffic::{
    Admission, Balance, By, Choice, Compression, Distribution, Eject, Failover, Hash, HashOn, Hedge, Limits,
    LoadReport, Nearness, Quota, Rate, RetryBudget, TrafficPolicy,
};
use crate::pool::{InferencePool, Picker};
use crate::range::Range;
use crate::resource::{DefaultAccess, Mesh};
use crate::route::{
    Backend, Carrier, Cors, Destination, Direct, DirectResponse, HeaderEdits, Match, Mirror, NamedMatch, Parent,
    ParentKind, PathEdit, PathMatch, Redirect, Retry, Rewrite, Route, RouteFilter, Rule, Session, Standing, ValueMatch,
};
use crate::secret::{Private, Secret};
use crate::service::{Area, Health, Locality, Service, ServicePort, TargetPort};
use crate::site::{Import, Site};
use crate::slice::{Address, SERVICE_LABEL, Slice, SlicePort};
use crate::workload::{Workload, WorkloadPort};
use crate::{Identity, Labels, Protocol, ServiceRef};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

mod traffic;
use traffic::{checked, keyed, traffic};

fn label() -> impl Strategy<Value = Text> {
    "[a-z]([a-z0-9-]{0,6}[a-z0-9])?".prop_map(Text::from)
}

fn labels() -> impl Strategy<Value = Labels> {
    btree_map("[a-z]{1,4}(/[a-zA-Z0-9]{1,4})?".prop_map(Text::from), "[a-zA-Z0-9]{0,4}".prop_map(Text::from), 0..4)
}

fn span() -> impl Strategy<Value = Duration> {
    (1u64..3_600_000).prop_map(Duration::from_millis)
}

fn protocol() -> impl Strategy<Value = Protocol> {
    select(vec![Protocol::Http1, Protocol::Http2, Protocol::Grpc, Protocol::Tcp, Protocol::Udp])
}

fn stream(protocol: Protocol) -> Protocol {
    if protocol == Protocol::Udp { Protocol::Tcp } else { protocol }
}

fn service() -> impl Strategy<Value = Service> {
    let target = prop_oneof![
        (1u16..).prop_map(TargetPort::Number),
        "[a-z]{1,8}".prop_map(|name| TargetPort::Name(name.as_str().into()))
    ];
    (vec((target, protocol(), any::<bool>()), 1..5), labels()).prop_map(|(ports, selector)| {
        let several = ports.len() > 1;
        let ports = ports.into_iter().enumerate().map(|(i, (target, protocol, prefixed))| {
            // No datagrams leave the mesh.
            let protocol = if selector.is_empty() { stream(protocol) } else { protocol };
            ServicePort {
                name: if several { format!("p{i}").into() } else { Text::default() },
                port: 80 + u16::try_from(i).unwrap(),
                target,
                protocol,
                prefixed: prefixed && protocol.prefixed_name().is_some(),
            }
        });
        Service { ports: ports.collect(), selector, outside: None, publish_not_ready: false, pool: None }
    })
}

fn pool() -> impl Strategy<Value = InferencePool> {
    let picker =
        (label(), 1u16.., any::<bool>()).prop_map(|(service, port, open)| Picker { service, port, fail_open: open });
    let protocol = any::<bool>().prop_map(|h2| if h2 { Protocol::Http2 } else { Protocol::Http1 });
    let ports = proptest::collection::btree_set(1u16.., 1..9);
    (ports, protocol, option::of(picker)).prop_map(|(ports, protocol, picker)| {
        let selector = [("app".into(), "vllm".into())].into();
        InferencePool { selector, ports: ports.into_iter().collect(), protocol, picker }
    })
}

fn outside() -> impl Strategy<Value = Service> {
    (service(), 1u16.., label()).prop_map(|(service, number, host)| {
        let ports = service.ports.into_iter().map(|port| ServicePort {
            target: TargetPort::Number(number),
            protocol: stream(port.protocol),
            ..port
        });
        Service {
            ports: ports.collect(),
            selector: Labels::new(),
            outside: Some(format!("{host}.example").into()),
            publish_not_ready: false,
            pool: None,
        }
    })
}

fn backend_tls() -> impl Strategy<Value = BackendTls> {
    let host = || label().prop_map(|host| Text::from(format!("{host}.example")));
    let uri = label().prop_map(|path| AltName::Uri(format!("spiffe://a.test/{path}").into()));
    let alt = prop_oneof![host().prop_map(AltName::Host), uri];
    let trust = prop_oneof![Just(Trust::System), vec(label(), 1..3).prop_map(Trust::Bundles)];
    (btree_set(label(), 1..3), option::of(label()), host(), vec(alt, 0..3), trust, option::of(label())).prop_map(
        |(names_of, section, hostname, names, trust, certificate)| {
            let service = |name: Text| ServiceRef::new("ns", name);
            let targets = names_of.into_iter().map(|name| Target { service: service(name), section: section.clone() });
            BackendTls { targets: targets.collect(), hostname, names, trust, certificate }
        },
    )
}

fn site(account: &str, gateway: SocketAddr) -> Spec {
    let service = ServiceRef::new("ns", account);
    let identity = Identity::new("far.test", "ns", account).unwrap();
    let reached = !gateway.ip().is_unspecified() && !gateway.ip().is_multicast() && gateway.port() != 0;
    let gateway = if reached { gateway } else { SocketAddr::from(([192, 0, 2, 1], 7790)) };
    // Zones of IPv6 mean something on one machine only.
    let gateway = SocketAddr::new(gateway.ip(), gateway.port());
    let authorities = "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n".into();
    let services = vec![Import { service, identity }];
    Spec::Site(Site { trust_domain: "far.test".into(), authorities, gateways: vec![gateway], services }.into())
}

fn slice() -> impl Strategy<Value = Slice> {
    let addresses = prop_oneof![
        vec((1u8..200, any::<u8>()).prop_map(|(a, b)| std::net::IpAddr::from([a, b, 0, 1])), 0..4),
        vec(any::<u16>().prop_map(|n| std::net::IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, n])), 1..4),
    ];
    let health = select(vec![Health::Healthy, Health::Draining, Health::Unhealthy]);
    (label(), vec(1u16.., 0..3), addresses, health, "[a-z]{0,3}", vec("[a-z]{1,3}", 0..3)).prop_map(
        |(service, ports, addresses, health, zone, zones)| {
            let port = |(i, port)| SlicePort { name: if i == 0 { "".into() } else { format!("p{i}").into() }, port };
            let address = |ip| Address {
                ip,
                health,
                locality: Locality { region: "".into(), zone: zone.as_str().into() },
                zones: zones.iter().map(|zone| zone.as_str().into()).collect(),
            };
            Slice {
                service,
                ports: ports.into_iter().enumerate().map(port).collect(),
                endpoints: addresses.into_iter().map(address).collect(),
            }
        },
    )
}

fn bundle(text: &str) -> Bundle {
    Bundle { pem: format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n").into() }
}

fn probe() -> impl Strategy<Value = HealthCheck> {
    let how = select(vec![Check::Http("/healthz?deep=1".into()), Check::Grpc("".into()), Check::Tcp]);
    (how, 1u16.., 1u64..=3600, 1u64..=100, 1u8..=100, 1u8..=100).prop_map(
        |(how, port, interval, part, sick_after, well_after)| {
            let timeout = Duration::from_secs((interval * part / 100).max(1));
            let interval = Duration::from_secs(interval);
            HealthCheck { how, port: Some(port), interval, timeout, sick_after, well_after }
        },
    )
}

fn workload() -> impl Strategy<Value = (Text, Text, Workload)> {
    let address = prop_oneof![
        any::<std::net::Ipv6Addr>()
            .prop_filter("one", |a| !a.is_unspecified() && !a.is_multicast())
            .prop_map(std::net::IpAddr::from),
        (1u8..200, any::<u8>()).prop_map(|(a, b)| std::net::IpAddr::from([a, b, 0, 1])),
    ];
    let ports = vec(protocol(), 0..3);
    let uses = proptest::collection::btree_set((label(), label()), 0..3);
    let health = select(vec![Health::Healthy, Health::Draining, Health::Unhealthy]);
    let locality = option::of(("[a-z]{1,3}", option::of("[a-z]{1,3}")));
    let health = (health, option::of(probe()));
    (label(), label(), address, ports, option::of(1u16..), uses, locality, 1u32..65536, health).prop_map(
        |(ns, sa, address, ports, inbound, uses, locality, weight, (health, check))| {
            let ports = ports.into_iter().enumerate().map(|(i, protocol)| WorkloadPort {
                name: if i == 0 { Text::default() } else { format!("p{i}").into() },
                port: 8080 + u16::try_from(i).unwrap(),
                protocol,
            });
            let (region, zone) = locality.map(|(r, z)| (r, z.unwrap_or_default())).unwrap_or_default();
            let workload = Workload {
                identity: Identity::new("mesh.local", &ns, &sa).unwrap(),
                address,
                ports: ports.collect(),
                inbound: inbound.map(|port| (address, port).into()),
                admin: None,
                uses: uses.into_iter().map(|(ns, name)| ServiceRef::new(ns, name)).collect(),
                locality: Locality { region: region.into(), zone: zone.into() },
                weight,
                health,
                check,
            };
            (ns, sa, workload)
        },
    )
}

fn path() -> impl Strategy<Value = Text> {
    "(/[a-z]{1,3}){1,3}".prop_map(Text::from)
}

fn edits() -> impl Strategy<Value = HeaderEdits> {
    let pairs = || btree_map("x-[a-z]{1,4}".prop_map(Text::from), "[a-z]{1,4}".prop_map(Text::from), 0..3);
    (pairs(), pairs(), proptest::collection::btree_set("x-[a-z]{1,4}".prop_map(Text::from), 0..3)).prop_map(
        |(set, add, remove)| HeaderEdits {
            set: set.into_iter().collect(),
            add: add.into_iter().collect(),
            remove: remove.into_iter().collect(),
        },
    )
}

fn filters(redirect: bool) -> impl Strategy<Value = Vec<RouteFilter>> {
    let edit = || prop_oneof![path().prop_map(PathEdit::Full), path().prop_map(PathEdit::Prefix)];
    let scheme = option::of(select(vec![Text::from("http"), Text::from("https")]));
    let redirection =
        (scheme, option::of(label()), option::of(edit()), option::of(1u16..), select(vec![301u16, 302, 308])).prop_map(
            |(scheme, hostname, path, port, status)| {
                RouteFilter::Redirect(Redirect { scheme, hostname, path, port, status })
            },
        );
    let rewrite = (label(), option::of(edit()))
        .prop_map(|(hostname, path)| RouteFilter::Rewrite(Rewrite { hostname: Some(hostname), path }));
    let last = if redirect { redirection.boxed() } else { rewrite.boxed() };
    let others = (vec(mirror(), 0..3), option::of(cors()));
    (option::of(edits()), option::of(edits()), option::of(last), others).prop_map(
        |(request, response, last, (mirrors, cors))| {
            let mut filters: Vec<RouteFilter> = request.map(RouteFilter::RequestHeaders).into_iter().collect();
            filters.extend(response.map(RouteFilter::ResponseHeaders));
            filters.extend(last);
            filters.extend(mirrors.into_iter().map(RouteFilter::Mirror));
            filters.extend(cors.map(RouteFilter::Cors));
            filters
        },
    )
}

fn destination() -> impl Strategy<Value = Destination> {
    (label(), label(), 1u16.., 0..4).prop_map(|(namespace, name, port, sort)| match sort {
        0 => Destination { service: ServiceRef::new(namespace, name), port, standing: Standing::Foreign },
        1 => {
            let standing = Standing::Unserved("ServiceImport.multicluster.x-k8s.io".into());
            Destination { service: ServiceRef::new(namespace, name), port, standing }
        }
        _ => Destination::new(ServiceRef::new("ns", name), port),
    })
}

fn mirror() -> impl Strategy<Value = Mirror> {
    (destination(), 0u32..10, 10u32..100).prop_map(|(to, share, of)| Mirror { to, share, of })
}

fn cors() -> impl Strategy<Value = Cors> {
    let texts = |pool: &[&'static str]| {
        let pool: Vec<Text> = pool.iter().map(|text| Text::from(*text)).collect();
        proptest::sample::subsequence(pool.clone(), 0..=pool.len())
    };
    let origins = texts(&["https://a.example", "http://*.b.example:8080", "https://*", "https://*foo.com"]);
    let headers = texts(&["X-A", "x-b"]);
    (origins, any::<bool>(), texts(&["GET", "PUT"]), headers, texts(&["x-c", "*"]), 1u32..1000).prop_map(
        |(origins, credentials, methods, headers, expose, max_age)| Cors {
            origins,
            credentials,
            methods,
            headers,
            expose,
            max_age,
        },
    )
}

fn session() -> impl Strategy<Value = Session> {
    let carrier = select(vec![Carrier::Cookie, Carrier::PermanentCookie, Carrier::Header]);
    let some = || span().prop_filter("longer than nothing", |span| !span.is_zero());
    ("[a-z]{1,8}", carrier, some(), any::<bool>(), option::of(some())).prop_map(
        |(name, carrier, absolute, ends, idle)| {
            let absolute = Some(absolute).filter(|_| ends || carrier == Carrier::PermanentCookie);
            let carries = if carrier == Carrier::Header { format!("x-{name}") } else { name };
            Session { name: carries.into(), carrier, absolute, idle }
        },
    )
}

fn rule() -> impl Strategy<Value = Rule> {
    let value = || {
        prop_oneof![
            "[a-z ]{0,4}[a-z]".prop_map(|v| ValueMatch::Exact(v.as_str().into())),
            "[a-z]{1,4}[.*]".prop_map(|v| ValueMatch::Regex(v.as_str().into()))
        ]
    };
    let named = move || {
        btree_map("[a-z]{1,4}".prop_map(Text::from), value(), 0..3)
            .prop_map(|map| map.into_iter().map(|(name, value)| NamedMatch { name, value }).collect::<Vec<_>>())
    };
    let method = option::of(select(vec![Text::from("GET"), Text::from("PATCH")]));
    let paths = prop_oneof![
        path().prop_map(PathMatch::Prefix),
        path().prop_map(PathMatch::Exact),
        "/[a-z]{1,3}[.*]".prop_map(|v| PathMatch::Regex(v.as_str().into())),
    ];
    let first = (paths, named(), named(), method).prop_map(|(path, headers, query, method)| Match {
        path,
        headers,
        query,
        method,
    });
    let retry = (proptest::collection::btree_set(400u16..600, 0..3), 0u8..11, option::of(span()))
        .prop_map(|(codes, attempts, backoff)| Retry { codes: codes.into_iter().collect(), attempts, backoff });
    let backends = vec((destination(), 0u32..1_000_001, filters(false)), 0..3);
    (any::<bool>(), first, backends, option::of(span()), option::of(retry), option::of(session()))
        .prop_flat_map(|(redirect, first, backends, timeout, retry, session)| {
            let redirect = redirect && backends.is_empty();
            (Just((first, backends, timeout, retry, session)), filters(redirect))
        })
        .prop_map(|((first, backends, timeout, retry, session), filters)| Rule {
            name: Text::default(),
            backends: backends
                .into_iter()
                .map(|(to, weight, filters)| Backend { to, weight, filters: fitting(filters, &first) })
                .collect(),
            filters: fitting(filters, &first),
            matches: vec![first],
            timeout,
            backend_timeout: timeout,
            retry,
            session,
        })
}

/// Without edits of a prefix where none is matched.
fn fitting(mut filters: Vec<RouteFilter>, first: &Match) -> Vec<RouteFilter> {
    if matches!(first.path, PathMatch::Prefix(_)) {
        return filters;
    }
    for filter in &mut filters {
        let (RouteFilter::Redirect(Redirect { path, .. }) | RouteFilter::Rewrite(Rewrite { path, .. })) = filter else {
            continue;
        };
        if matches!(path, Some(PathEdit::Prefix(_))) {
            *path = None;
        }
    }
    filters
}

/// The same rule as a GRPCRoute says it.
fn grpc(rule: Rule) -> Rule {
    let filters = |filters: Vec<RouteFilter>| {
        let fits =
            |f: &RouteFilter| !matches!(f, RouteFilter::Cors(_) | RouteFilter::Redirect(_) | RouteFilter::Rewrite(_));
        filters.into_iter().filter(fits).collect::<Vec<_>>()
    };
    let one = |m: Match| Match {
        path: match (m.headers.len(), m.query.len(), m.method.is_some()) {
            (0, _, _) => PathMatch::Grpc { service: None, method: Some(ValueMatch::Regex("a.*".into())) },
            (_, 0, true) => PathMatch::Grpc { service: Some(ValueMatch::Exact("a.B".into())), method: None },
            (_, 1, true) => PathMatch::Grpc {
                service: Some(ValueMatch::Exact("a.B".into())),
                method: Some(ValueMatch::Exact("C".into())),
            },
            _ => PathMatch::default(),
        },
        query: vec![],
        method: None,
        ..m
    };
    Rule {
        matches: rule.matches.into_iter().map(one).collect(),
        filters: filters(rule.filters),
        backends: rule.backends.into_iter().map(|b| Backend { filters: filters(b.filters), ..b }).collect(),
        timeout: None,
        backend_timeout: None,
        retry: None,
        ..rule
    }
}

fn route() -> impl Strategy<Value = Route> {
    let namespace = select(vec!["ns", "other"]);
    (btree_map(label(), (option::of(1u16..), namespace), 1..3), vec(rule(), 1..4)).prop_map(|(parents, rules)| Route {
        parents: parents
            .into_iter()
            .map(|(n, (port, namespace))| Parent::service(ServiceRef::new(namespace, n), port))
            .collect(),
        hostnames: vec![],
        rules,
    })
}

fn access() -> impl Strategy<Value = AccessPolicy> {
    let source = prop_oneof![
        (label(), label()).prop_map(|(namespace, name)| Source::ServiceAccount { namespace, name }),
        label().prop_map(|name| Source::ServiceAccount { namespace: "ns".into(), name }),
        label().prop_map(Source::Namespace),
        (label(), label()).prop_map(|(ns, sa)| Source::Identity(Identity::new("other.domain", &ns, &sa).unwrap())),
    ];
    let segment = option::of("[a-z]{1,3}".prop_map(Text::from));
    let pattern = prop_oneof![
        path().prop_map(PathPattern::Exact),
        path().prop_map(|path| PathPattern::Below(format!("{path}/").into())),
        vec(segment, 1..3).prop_map(|mut segments| {
            segments.push(None);
            PathPattern::Template(segments)
        }),
    ];
    let http = (vec(select(vec![Text::from("GET"), Text::from("PUT")]), 0..2), vec(pattern, 0..3))
        .prop_map(|(methods, paths)| HttpMatch { methods, paths });
    let rule = (vec(source, 0..3), vec(1u16.., 0..3), vec(http, 0..3)).prop_map(|(sources, ports, http)| AccessRule {
        sources,
        ports,
        http,
    });
    let targets = proptest::collection::btree_set(label(), 0..3);
    (any::<bool>(), any::<bool>(), targets, vec(rule, 0..4)).prop_map(|(shadow, allow, targets, rules)| AccessPolicy {
        mode: if shadow { Mode::Shadow } else { Mode::Enforce },
        targets: targets.into_iter().map(|name| ServiceRef::new("ns", name)).collect(),
        action: if allow { Action::Allow } else { Action::Deny },
        rules,
    })
}

fn selector() -> impl Strategy<Value = Selector> {
    let some = || vec(label(), 1..3);
    let wanted = prop_oneof![
        some().prop_map(Wanted::In),
        some().prop_map(Wanted::NotIn),
        Just(Wanted::Exists),
        Just(Wanted::DoesNotExist)
    ];
    let expression = (label(), wanted).prop_map(|(key, value)| Expression { key, value });
    (labels(), vec(expression, 0..3)).prop_map(|(labels, expressions)| Selector { labels, expressions })
}

fn gateway() -> impl Strategy<Value = Gateway> {
    let from = prop_oneof![Just(From::Same), Just(From::All), selector().prop_map(From::Selected)];
    let kinds = vec(label().prop_map(|k| format!("K{k}.a.b").into()), 0..3);
    let unserved = option::of(label().prop_map(|k| format!("K{k}.a.b").into()));
    let certificate = (label(), label(), unserved).prop_map(|(namespace, name, unserved)| CertificateRef {
        namespace,
        name,
        unserved,
    });
    let certificates = vec(certificate, 1..3).boxed();
    let validation =
        (certificates.clone(), any::<bool>()).prop_map(|(authorities, optional)| Validation { authorities, optional });
    let validation = option::of(validation).boxed();
    let ports = btree_map(80_u16..84, validation.clone(), 0..3);
    let frontend = (validation, ports).prop_map(|(default, ports)| Frontend { default, ports });
    let carries = prop_oneof![
        Just(Carries::Http),
        Just(Carries::Tcp),
        Just(Carries::Udp),
        Just(Carries::Passthrough),
        certificates.clone().prop_map(Carries::Https),
        certificates.prop_map(Carries::Tls)
    ];
    let listener = (option::of(label()), from, kinds, carries);
    let sets = option::of(prop_oneof![Just(From::Same), Just(From::All), selector().prop_map(From::Selected)]);
    let whole = prop_oneof![
        (label(), sets).prop_map(|(class, sets)| (class, sets, None)),
        (label(), label()).prop_map(|(ns, name)| ("".into(), None, Some(ServiceRef::new(ns, name)))),
    ];
    let balancers = select(vec![vec![], vec!["10.0.0.0/8", "2001:db8::1/128"]]);
    let parameters = option::of((select(vec!["", "a.b"]), label()).prop_map(|(group, name)| Parameters {
        group: group.into(),
        kind: "Some".into(),
        name,
    }));
    let more = (balancers, parameters, frontend);
    (whole, vec(listener, 1..4), more).prop_map(|((class, sets, parent), listeners, more)| Gateway {
        balancers: match parent {
            None if listeners.iter().all(|(.., carries)| *carries != Carries::Udp) => {
                more.0.into_iter().filter_map(Range::parse).collect()
            }
            _ => Vec::new(),
        },
        parameters: more.1.filter(|_| parent.is_none()),
        frontend: if parent.is_none() { more.2 } else { Frontend::default() },
        class,
        sets,
        parent,
        listeners: listeners
            .into_iter()
            .enumerate()
            .map(|(i, (hostname, from, kinds, carries))| Listener {
                name: format!("l{i}").into(),
                hostname: hostname.filter(|_| !carries.is_hostless()).map(|name| format!("*.{name}").into()),
                port: u16::try_from(i + 80).unwrap(),
                carries,
                from,
                kinds,
            })
            .collect(),
    })
}

fn quota() -> impl Strategy<Value = Quota> {
    let by =
        prop_oneof![Just(By::All), Just(By::Caller), label().prop_map(|name| By::Header(format!("x-{name}").into()))];
    let rate = (1u32..1000, span()).prop_map(|(requests, per)| Rate { requests, per });
    (rate, by, any::<bool>()).prop_map(|(rate, by, shared)| Quota { rate, by, shared })
}

fn secret(text: &str) -> Secret {
    let pem = |word: &str| format!("-----BEGIN {word}-----\n{text}\n-----END {word}-----\n");
    Secret { chain: pem("CERTIFICATE").into(), key: Private::new(pem("PRIVATE KEY")) }
}

/// A route for connections or flows, as TLSRoute has it or, without hosts, as TCPRoute and UDPRoute.
fn opaque(hosts: bool) -> impl Strategy<Value = Route> {
    let to = (label(), 1u16.., 0u32..9).prop_map(|(name, port, weight)| Backend {
        to: Destination::new(ServiceRef::new("ns", name), port),
        weight,
        filters: vec![],
    });
    (label(), vec(to, 1..3), option::of(label())).prop_map(move |(gateway, backends, name)| {
        let parent =
            Parent { kind: ParentKind::Gateway, name: ServiceRef::new("ns", gateway), section: None, port: None };
        let rule = Rule {
            name: name.unwrap_or_default(),
            matches: vec![Match::default()],
            filters: vec![],
            backends,
            timeout: None,
            backend_timeout: None,
            retry: None,
            session: None,
        };
        let hostnames = if hosts { vec!["*.a.b".into()] } else { vec![] };
        Route { parents: vec![parent], hostnames, rules: vec![rule] }
    })
}

fn grant() -> impl Strategy<Value = Grant> {
    let from = (label(), label()).prop_map(|(kind, namespace)| Referrer {
        group: "a.b".into(),
        kind: format!("K{kind}").into(),
        namespace,
    });
    let to = (label(), option::of(label())).prop_map(|(kind, name)| Referent {
        group: "".into(),
        kind: format!("K{kind}").into(),
        name,
    });
    (vec(from, 1..3), vec(to, 1..3)).prop_map(|(from, to)| Grant { from, to })
}

fn resource() -> impl Strategy<Value = Resource> {
    let mesh = (any::<bool>(), option::of(super::telemetry::otlp().prop_map(Arc::new)), option::of(1u32..1000));
    let mesh = mesh.prop_map(|(allow, otlp, pending_max)| {
        let default_access = if allow { DefaultAccess::Allow } else { DefaultAccess::Deny };
        let limits = Limits { pending_max, ..Limits::default() };
        (
            Kind::Mesh,
            Spec::Mesh(Mesh { trust_domain: "demo.local".into(), default_access, otlp, limits: Box::new(limits) }),
        )
    });
    let spec = prop_oneof![
        Just((Kind::Namespace, Spec::Namespace)),
        mesh,
        service().prop_map(|service| (Kind::Service, Spec::Service(service))),
        workload().prop_map(|(_, _, workload)| (Kind::Workload, Spec::Workload(Box::new(workload)))),
        route().prop_map(|route| (Kind::HttpRoute, Spec::Route(route.into()))),
        route().prop_map(|route| {
            let rules = route.rules.into_iter().map(grpc).collect();
            (Kind::GrpcRoute, Spec::Route(Route { rules, ..route }.into()))
        }),
        (route(), label()).prop_map(|(mut route, name)| {
            for rule in &mut route.rules {
                rule.backends.clear();
                rule.filters.retain(|filter| matches!(filter, RouteFilter::Cors(_) | RouteFilter::ResponseHeaders(_)));
                rule.filters.push(RouteFilter::Direct(Direct { filter: name.clone(), response: None }));
            }
            (Kind::HttpRoute, Spec::Route(route.into()))
        }),
        (200u16..600, "[ -~]{0,40}", "[a-z]{1,4}/[a-z]{1,4}").prop_map(|(status, text, kind)| {
            let body = if DirectResponse::has_body(status) { Text::from(text) } else { Text::default() };
            let content_type = (!body.is_empty()).then(|| kind.into());
            (Kind::HttpRouteFilter, Spec::Direct(DirectResponse { status, content_type, body }.into()))
        }),
        outside().prop_map(|service| (Kind::Service, Spec::Service(service))),
        (service(), any::<bool>()).prop_map(|(mut service, publish_not_ready)| {
            for port in &mut service.ports {
                port.protocol = stream(port.protocol);
            }
            let service = Service { selector: Labels::new(), publish_not_ready, ..service };
            (Kind::Service, Spec::Service(service))
        }),
        slice().prop_map(|slice| (Kind::EndpointSlice, Spec::Slice(slice.into()))),
        pool().prop_map(|pool| (Kind::InferencePool, Spec::Pool(pool.into()))),
        (label(), any::<SocketAddr>()).prop_map(|(account, gateway)| (Kind::Site, site(&account, gateway))),
        Just((Kind::ServiceExport, Spec::Export)),
        backend_tls().prop_map(|policy| (Kind::BackendTlsPolicy, Spec::BackendTls(policy.into()))),
        "[ -~\n]{0,40}".prop_map(|text| (Kind::ConfigMap, Spec::Bundle(bundle(&text).into()))),
        "[ -~\n]{0,40}".prop_map(|text| (Kind::Secret, Spec::Secret(secret(&text).into()))),
        opaque(true).prop_map(|route| (Kind::TlsRoute, Spec::Route(route.into()))),
        opaque(false).prop_map(|route| (Kind::TcpRoute, Spec::Route(route.into()))),
        opaque(false).prop_map(|route| (Kind::UdpRoute, Spec::Route(route.into()))),
        gateway().prop_map(|gateway| {
            let kind = if gateway.parent.is_some() { Kind::ListenerSet } else { Kind::Gateway };
            (kind, Spec::Gateway(gateway.into()))
        }),
        (label(), option::of("[ -~]{1,40}".prop_map(Text::from))).prop_map(|(path, description)| {
            let class = GatewayClass { controller: format!("a.b/{path}").into(), description };
            (Kind::GatewayClass, Spec::GatewayClass(class))
        }),
        grant().prop_map(|grant| (Kind::ReferenceGrant, Spec::Grant(grant.into()))),
        access().prop_map(|policy| (Kind::AccessPolicy, Spec::Access(policy.into()))),
        traffic().prop_map(|policy| (Kind::TrafficPolicy, Spec::Traffic(policy.into()))),
        checked().prop_map(|policy| (Kind::TrafficPolicy, Spec::Traffic(policy.into()))),
        keyed().prop_map(|policy| (Kind::TrafficPolicy, Spec::Traffic(policy.into()))),
    ];
    (label(), labels(), spec).prop_map(|(name, labels, (kind, spec))| {
        let namespace = match &spec {
            Spec::Workload(workload) => workload.identity.namespace().clone(),
            _ if kind.namespaced() => "ns".into(),
            _ => Text::default(),
        };
        let name = if kind == Kind::Mesh { "mesh".into() } else { name };
        let labels = match &spec {
            Spec::Slice(slice) => {
                [labels, [(SERVICE_LABEL.into(), slice.service.clone())].into()].into_iter().flatten().collect()
            }
            _ => labels,
        };
        Resource {
            key: Key::new(kind, namespace, name),
            revision: Revision(0),
            created: Revision(0),
            labels,
            origin: None,
            spec,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_resource_survives_its_own_document(resource in resource()) {
        let document = to_json(&resource);
        let read = from_json(&document, &Defaults::default())
            .map_err(|errors| errors.iter().map(Diagnostic::render).collect::<String>());
        prop_assert_eq!(read.as_ref(), Ok(&resource), "{}", document);
        // As text, it's YAML too.
        let parsed = parse("", &document.to_string(), &Defaults::default());
        let mut again = parsed.documents[0].resource.clone();
        again.origin = None;
        prop_assert_eq!(again, resource);
    }

    #[test]
    fn bytes_never_panic(bytes in vec(any::<u8>(), 0..400)) {
        let parsed = parse("x", &String::from_utf8_lossy(&bytes), &Defaults::default());
        for diagnostic in &parsed.diagnostics {
            let _ = (diagnostic.render(), diagnostic.to_json());
        }
    }

    #[test]
    fn near_yaml_never_panics(text in "[-a-z:{}\\[\\],\"'&*!|>#%@ \n\t]{0,200}") {
        for diagnostic in parse("x", &text, &Defaults::default()).diagnostics {
            let _ = diagnostic.render();
        }
    }

    #[test]
    fn broken_documents_never_panic(resource in resource(), cut in any::<prop::sample::Index>(), put in "[\\PC\n]{0,3}") {
        let mut text = to_json(&resource).to_string();
        let at = (0..text.len()).filter(|i| text.is_char_boundary(*i)).nth(cut.index(text.len())).unwrap_or(0);
        text.replace_range(at..(at + 1).min(text.len()), &put);
        for diagnostic in parse("x", &text, &Defaults::default()).diagnostics {
            let _ = diagnostic.render();
        }
    }

    #[test]
    fn no_place_in_a_document_may_be_of_another_type(resource in resource(), which in any::<prop::sample::Index>(), to in 0usize..6) {
        let mut document = to_json(&resource);
        let mut places = Vec::new();
        pointers(&document, String::new(), &mut places);
        let place = &places[which.index(places.len())];
        let values = [json!(null), json!(true), json!(-1), json!(1e300), json!([[{}]]), json!({"": ""})];
        *document.pointer_mut(place).unwrap() = values[to].clone();
        if let Err(errors) = from_json(&document, &Defaults::default()) {
            prop_assert!(!errors.is_empty());
            for error in errors {
                let _ = error.render();
            }
        }
    }
}

fn pointers(value: &Value, at: String, into: &mut Vec<String>) {
    match value {
        Value::Array(items) => items.iter().enumerate().for_each(|(i, item)| pointers(item, format!("{at}/{i}"), into)),
        Value::Object(fields) => fields.iter().for_each(|(name, item)| {
            pointers(item, format!("{at}/{}", name.replace('~', "~0").replace('/', "~1")), into)
        }),
        _ => {}
    }
    into.push(at);
}
