// SPDX-License-Identifier: Apache-2.0
//! Routes: parents and backends that aren't there, rules that nothing can reach, retries that do nothing.

use super::traffic;
use crate::catalog::Catalog;
use crate::check::{port, port_list};
use crate::view::filter_key;
use byrnie_model::diagnostic::nearest;
use byrnie_model::route::{Backend, Destination, Match, Parent, ParentKind, RouteFilter, Rule, Standing};
use byrnie_model::service::ServicePort;
use byrnie_model::{Diagnostic, Key, Kind, Protocol, Revision, Route, ServiceRef, Spec, code};

pub(crate) fn check(catalog: &Catalog, key: &Key, route: &Route) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    if route.parents.is_empty() {
        let message = "a parent is {group: \"\", kind: Service, name: NAME} or {name: GATEWAY}";
        found.push(Diagnostic::warning(&code::NO_PARENTS, "spec", message));
    }
    for (i, parent) in route.parents.iter().enumerate() {
        let at = format!("spec.parentRefs[{i}]");
        found.extend(match parent.kind {
            ParentKind::Service => {
                parent_fits(catalog, key.kind, parent, &at).or_else(|| outranked(catalog, key, parent, &at))
            }
            _ => {
                let refused = catalog.attached(key, route, parent).err();
                refused.map(|refused| Diagnostic::error(&code::NOT_ATTACHED, at, refused.message))
            }
        });
    }
    for (i, rule) in route.rules.iter().enumerate() {
        let at = format!("spec.rules[{i}]");
        backends_fit(catalog, rule, &at, &mut found);
        found.extend(answer_stands(catalog, key, rule, &at));
        found.extend(backends_take(catalog, key.kind, rule, &at));
        found.extend(granted(catalog, (key, route), rule, &at));
        found.extend(retry_works(catalog, route, rule, &at));
        if let Some(timeout) = rule.backend_timeout.or(rule.timeout) {
            let path = || format!("{at}.timeouts");
            let outlasts = |backend: &Backend| traffic::outlasts(catalog, &backend.to.service, timeout, path());
            found.extend(rule.backends.iter().find_map(outlasts));
        }
        found.extend(reachable(catalog, key, route, i));
    }
    found
}

/// References from a gateway into other namespaces need a grant.
fn granted(catalog: &Catalog, (key, route): (&Key, &Route), rule: &Rule, at: &str) -> Vec<Diagnostic> {
    let Some(parent) = route.parents.iter().find(|parent| parent.kind != ParentKind::Service) else {
        return Vec::new();
    };
    let refused = rule.backends.iter().enumerate().filter_map(|(i, backend)| {
        let refused =
            catalog.unresolved(key, parent, &backend.to).filter(|refused| refused.reason == "RefNotPermitted")?;
        Some(Diagnostic::error(&code::NOT_GRANTED, format!("{at}.backendRefs[{i}].namespace"), refused.message))
    });
    refused.collect()
}

/// Whether a port takes what routes of a kind send. Connections whose bytes nobody looks at are refused by whoever serves
/// requests there, as rules of access for requests would not be asked; and datagrams are no connections.
fn backends_take(catalog: &Catalog, kind: Kind, rule: &Rule, at: &str) -> Vec<Diagnostic> {
    let refused = rule.backends.iter().enumerate().filter_map(|(i, backend)| {
        let to = &backend.to;
        let protocol = port(catalog.service(&to.service)?, to.port)?.protocol;
        let code = match kind {
            _ if (kind == Kind::UdpRoute) != (protocol == Protocol::Udp) => &code::DATAGRAMS_DIFFER,
            Kind::TlsRoute | Kind::TcpRoute if !protocol.is_opaque() => &code::OPAQUE_TO_HTTP,
            _ => return None,
        };
        let message = format!("port {} of Service \"{}\" serves {}", to.port, to.service.name, protocol.name());
        Some(Diagnostic::error(code, format!("{at}.backendRefs[{i}].port"), message))
    });
    refused.collect()
}

fn parent_fits(catalog: &Catalog, kind: Kind, parent: &Parent, at: &str) -> Option<Diagnostic> {
    let name = parent.as_service()?;
    let Some(service) = catalog.service(name) else {
        return Some(catalog.absent_service(&code::PARENT_ABSENT, format!("{at}.name"), name));
    };
    let (code, carries) = match kind {
        Kind::UdpRoute => (&code::DATAGRAMS_DIFFER, "takes no datagrams"),
        _ if kind.is_opaque() => (&code::ROUTE_WITHOUT_TCP, "carries no opaque TCP"),
        _ => (&code::ROUTE_WITHOUT_HTTP, "serves no requests"),
    };
    let fits = |port: &ServicePort| kind.stands_on(port.protocol);
    let Some(number) = parent.port else {
        let none = !service.ports.iter().any(fits);
        let message = format!("every port of Service \"{}\" {carries}", name.name);
        return none.then(|| Diagnostic::error(code, format!("{at}.name"), message));
    };
    match port(service, number) {
        None => Some(no_port(name, number, &port_list(service), format!("{at}.port"))),
        Some(port) if !fits(port) => {
            let message = format!("port {number} of Service \"{}\" {carries}", name.name);
            Some(Diagnostic::error(code, format!("{at}.port"), message))
        }
        Some(_) => None,
    }
}

/// Of several kinds of routes at one port only the most special counts.
fn outranked(catalog: &Catalog, key: &Key, parent: &Parent, at: &str) -> Option<Diagnostic> {
    let other = catalog.outranked(key, parent).into_iter().flatten().next()?;
    let message = format!("{other} stands at the same port, where this route has no say beside it");
    let effect = "All that comes to that port goes by the other; what fits none of its rules is refused.";
    Some(Diagnostic::warning(&code::ROUTE_CONFLICT, at, message).so_that(effect))
}

fn no_port(at: &ServiceRef, number: u16, ports: &str, path: String) -> Diagnostic {
    let message = format!("Service \"{}\" has no port {number}; it has {ports}", at.name);
    Diagnostic::error(&code::PORT_ABSENT, path, message)
}

fn backends_fit(catalog: &Catalog, rule: &Rule, at: &str, found: &mut Vec<Diagnostic>) {
    let total: u64 = rule.backends.iter().map(|backend| u64::from(backend.weight)).sum();
    if rule.backends.is_empty() && !rule.needs_no_backend() {
        let message = "this rule has neither backends nor an answer of its own: its requests are answered 500";
        found.push(Diagnostic::warning(&code::NO_BACKENDS, at, message));
    }
    if !rule.backends.is_empty() && total == 0 {
        let message = "every backend of this rule has weight 0: its requests are answered 500";
        found.push(Diagnostic::warning(&code::WEIGHTS_ZERO, format!("{at}.backendRefs"), message));
    }
    for (i, backend) in rule.backends.iter().enumerate() {
        let at = format!("{at}.backendRefs[{i}]");
        let share = (u64::from(backend.weight) * 100).checked_div(total).unwrap_or(0);
        let effect = format!("{share}% of the requests that fit this rule would be answered 500.");
        found.extend(destination_fits(catalog, &backend.to, &at).map(|found| found.so_that(effect)));
        copies_fit(catalog, &backend.filters, &at, found);
    }
    found.extend(shares_hold(catalog, rule, at));
    copies_fit(catalog, &rule.filters, at, found);
}

/// Most backends of a rule that are compared with each other: as many as a rule of Gateway API may have.
const COMPARED_MAX: usize = 16;

/// Weights say who gets how many only if nobody serves two backends.
fn shares_hold(catalog: &Catalog, rule: &Rule, at: &str) -> Option<Diagnostic> {
    let weighted: Vec<_> = rule.backends.iter().enumerate().filter(|(_, b)| b.weight > 0).take(COMPARED_MAX).collect();
    let both = |a: &Backend, b: &Backend| {
        let (a, b) = (&a.to.service, &b.to.service);
        catalog.services.members(a).find(|place| a != b && catalog.services.is_member(b, place))
    };
    weighted.iter().enumerate().find_map(|(n, (i, one))| {
        let (other, shared) = weighted[..n].iter().find_map(|(_, other)| Some((other, both(one, other)?)))?;
        let message = format!("{} serves \"{}\" and \"{}\"", shared.name, other.to.service.name, one.to.service.name);
        Some(Diagnostic::warning(&code::SHARED_ENDPOINTS, format!("{at}.backendRefs[{i}].name"), message))
    })
}

/// A rule that answers by itself needs the filter that says what.
fn answer_stands(catalog: &Catalog, key: &Key, rule: &Rule, at: &str) -> Option<Diagnostic> {
    let filter = filter_key(key, &rule.answer()?.filter);
    if catalog.resource(&filter).is_some() {
        return None;
    }
    let message = format!("no HTTPRouteFilter \"{}\" in namespace \"{}\"", filter.name, filter.namespace);
    let index = rule.filters.iter().position(|filter| matches!(filter, RouteFilter::Direct(_))).unwrap_or_default();
    let path = format!("{at}.filters[{index}].extensionRef.name");
    let near = nearest(&filter.name, catalog.iter(Kind::HttpRouteFilter).map(|other| &*other.key.name));
    let found = Diagnostic::error(&code::FILTER_ABSENT, path, message);
    Some(match near {
        Some(meant) => found.fixed_by(format!("Write \"{meant}\", or create the filter.")),
        None => found,
    })
}

fn copies_fit(catalog: &Catalog, filters: &[RouteFilter], at: &str, found: &mut Vec<Diagnostic>) {
    for (i, filter) in filters.iter().enumerate() {
        if let RouteFilter::Mirror(mirror) = filter {
            let at = format!("{at}.filters[{i}].requestMirror.backendRef");
            let absent = destination_fits(catalog, &mirror.to, &at);
            found.extend(
                absent.map(|found| found.so_that("No copies are sent there; the requests themselves are not touched.")),
            );
        }
    }
}

/// What is wrong with a reference to where requests go.
fn destination_fits(catalog: &Catalog, to: &Destination, at: &str) -> Option<Diagnostic> {
    if let Standing::Unserved(kind) = &to.standing {
        let message = format!("requests cannot be sent to {kind} \"{}\"; only to a core Service", to.service.name);
        return Some(Diagnostic::error(&code::BACKEND_KIND, format!("{at}.kind"), message));
    }
    match catalog.service(&to.service) {
        _ if to.is_pool() => catalog.pool(&to.service).is_none().then(|| {
            let message = format!("no InferencePool \"{}\" in namespace \"{}\"", to.service.name, to.service.namespace);
            Diagnostic::error(&code::SERVICE_ABSENT, format!("{at}.name"), message)
        }),
        None => Some(catalog.absent_service(&code::SERVICE_ABSENT, format!("{at}.name"), &to.service)),
        Some(service) if port(service, to.port).is_none() => {
            Some(no_port(&to.service, to.port, &port_list(service), format!("{at}.port")))
        }
        Some(_) => None,
    }
}

/// Retries of POST and PATCH need a word that repeating is safe.
fn retry_works(catalog: &Catalog, route: &Route, rule: &Rule, at: &str) -> Option<Diagnostic> {
    rule.retry.as_ref().filter(|retry| retry.attempts > 0)?;
    let unsafe_method =
        rule.matches.iter().filter_map(|m| m.method.as_deref()).find(|m| matches!(*m, "POST" | "PATCH"))?;
    let declared = |at: &ServiceRef| {
        catalog
            .policies
            .traffic(at)
            .any(|key| matches!(catalog.spec(key), Some(Spec::Traffic(policy)) if policy.unsafe_retry))
    };
    if route.services().all(declared) {
        return None;
    }
    let message =
        format!("{unsafe_method} is not retried unless a TrafficPolicy of the service says unsafeRetry: true");
    Some(Diagnostic::warning(&code::RETRY_UNSAFE, format!("{at}.retry"), message))
}

/// A rule is unreachable if each of its matches also stands in an earlier rule, of this route or of one
/// that comes first by name at the same parent. (A more general match doesn't hide a more special one:
/// the more special wins, wherever it stands.)
fn reachable(catalog: &Catalog, key: &Key, route: &Route, index: usize) -> Option<Diagnostic> {
    let rule = &route.rules[index];
    let at = format!("spec.rules[{index}]");
    let earlier = &route.rules[..index];
    if rule.matches.iter().all(|m| holds(earlier, m)) {
        let first = earlier.iter().position(|other| rule.matches.iter().any(|m| holds(std::slice::from_ref(other), m)));
        let message = format!("each match of this rule stands already in rules[{}]", first.unwrap_or_default());
        return Some(Diagnostic::warning(&code::RULE_UNREACHABLE, at, message));
    }
    let mut others: Vec<(&Key, &Route)> = Vec::new();
    let age = |key: &Key| catalog.resource(key).map_or(Revision(u64::MAX), |resource| resource.created);
    let rank = |key: &Key| (age(key), key.namespace.clone(), key.name.clone());
    let own = rank(key);
    for other in route.services().flat_map(|parent| catalog.routes.of_parent(parent)) {
        let same_side = other.namespace == key.namespace && other.kind == key.kind;
        if same_side
            && rank(other) < own
            && let Some(Spec::Route(other_route)) = catalog.spec(other)
            && (key.kind != Kind::TlsRoute || same_hosts(route, other_route))
        {
            others.push((other, other_route));
        }
    }
    // Hidden at every parent, or not hidden.
    let hider = |parent: &Parent| {
        others.iter().find(|(_, other)| {
            other.parents.iter().any(|p| covers(p, parent)) && rule.matches.iter().all(|m| holds(&other.rules, m))
        })
    };
    let (hider, _) = route.parents.iter().map(hider).collect::<Option<Vec<_>>>()?.into_iter().next()?;
    let message = format!("{hider} matches the same requests and comes first: it is older, or earlier by name");
    Some(Diagnostic::warning(&code::ROUTE_CONFLICT, at, message))
}

/// Whether each host of a route is one of another's. One for any host yields to those that name theirs.
fn same_hosts(route: &Route, other: &Route) -> bool {
    let names = &other.hostnames;
    names.is_empty() == route.hostnames.is_empty() && route.hostnames.iter().all(|name| names.contains(name))
}

fn covers(wide: &Parent, narrow: &Parent) -> bool {
    wide.kind == narrow.kind && wide.name == narrow.name && (wide.port.is_none() || wide.port == narrow.port)
}

fn holds(rules: &[Rule], wanted: &Match) -> bool {
    rules.iter().flat_map(|rule| &rule.matches).any(|m| equal(m, wanted))
}

/// The same conditions, in whatever order.
fn equal(a: &Match, b: &Match) -> bool {
    let same = |a: &[_], b: &[_]| a.len() == b.len() && a.iter().all(|condition| b.contains(condition));
    a.path == b.path && a.method == b.method && same(&a.headers, &b.headers) && same(&a.query, &b.query)
}
