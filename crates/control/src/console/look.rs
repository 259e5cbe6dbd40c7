// SPDX-License-Identifier: Apache-2.0
//! What there is: resources, workloads, services, proxies, certificates, revisions, and whether all is
//! well. Reads only.

use super::wire::{found, json_response, list, parameter};
use super::{Aside, Console, Outcome, Problem};
use crate::ads::Proxy;
use crate::observe::{Observer, short};
use crate::state::REPORT_FRESH;
use crate::{State, ca, history};
use byrnie_base::Text;
use byrnie_catalog::Catalog;
use byrnie_model::diagnostic::nearest;
use byrnie_model::policy::access::Action;
use byrnie_model::slice::Address;
use byrnie_model::{
    Diagnostic, Endpoint, Health, Identity, Key, Kind, Resource, Service, ServiceRef, Spec, Workload, code, yaml,
};
use byrnie_net::serve::{Request, Response};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

/// A proxy whose certificate ends sooner is a warning: it should have been renewed at half its life.
const CERTIFICATE_WARNING: Duration = Duration::from_secs(3600);

/// The key that a path names.
///
/// # Errors
/// If there's no such kind.
pub(super) fn key(kind: &str, namespace: &str, name: &str) -> Result<Key, Problem> {
    let Some(found) = Kind::from_word(kind) else {
        let names = Kind::APPLICABLE.map(Kind::name);
        let meant = nearest(kind, names).map_or(String::new(), |name| format!("; did you mean {name}?"));
        return Err(Problem::new(404, &code::UNKNOWN_KIND, format!("there is no kind {kind:?}{meant}")));
    };
    let namespace = match (found.namespaced(), namespace) {
        (false, _) => "",
        (true, "") => "default",
        (true, namespace) => namespace,
    };
    Ok(Key::new(found, namespace, name))
}

/// `GET /api/v1/resources?kind=&namespace=`.
pub(super) fn resources(console: &Console, request: &Request) -> Outcome {
    let kinds = match parameter(request, "kind").filter(|kind| !kind.is_empty()) {
        Some(kind) => vec![key(&kind, "", "")?.kind],
        None => Kind::APPLICABLE.to_vec(),
    };
    let namespace = parameter(request, "namespace").filter(|namespace| !namespace.is_empty());
    let fits = |resource: &&std::sync::Arc<Resource>| {
        namespace.as_ref().is_none_or(|n| *resource.key.namespace == **n || !resource.key.kind.namespaced())
    };
    let all = console.state.catalog(|catalog| {
        let of_kind = |kind: &Kind| catalog.iter(*kind).filter(fits).cloned().collect::<Vec<_>>();
        kinds.iter().flat_map(of_kind).collect::<Vec<_>>()
    });
    Ok(found(&list(all, |resource| document(console, &resource))))
}

/// `GET /api/v1/resources/{kind}/{namespace}/{name}`.
pub(super) fn resource(console: &Console, kind: &str, namespace: &str, name: &str) -> Outcome {
    let key = key(kind, namespace, name)?;
    let (resource, others) = console.state.catalog(|catalog| {
        let others: Vec<_> = catalog.iter(key.kind).map(|other| other.key.name.clone()).collect();
        (catalog.resource(&key).cloned(), others)
    });
    match resource {
        Some(resource) => Ok(found(&document(console, &resource))),
        None => {
            let problem = Problem::absent(&key);
            Err(match nearest(name, others.iter().map(|other| &**other)) {
                Some(meant) => {
                    problem.next(format!("did you mean {meant}? `byrnie get {}` lists all", key.kind.name()))
                }
                None => problem.next(format!("`byrnie get {}` lists all", key.kind.name())),
            })
        }
    }
}

/// A resource as its canonical document, with what proxies made of it as its status.
fn document(console: &Console, resource: &Resource) -> Value {
    let mut document = yaml::to_json(resource);
    yaml::redact(&mut document);
    let refusals = console.state.refusals(&resource.key);
    let refusal = |refusal: &crate::state::Refusal| json!({"proxy": refusal.proxy, "reason": refusal.nack.reason});
    let closed = console.state.closed_ports();
    let mut upstream =
        console.state.catalog(|catalog| catalog.upstream_status(resource, &|at| closed.get(&at).cloned()));
    if let Some(status) = &mut upstream {
        let now = console.state.now().wall;
        console.state.conditions(|conditions| conditions.stamp(&resource.key, status, now));
        // One that is served has listeners.
        let served = resource.key.kind == Kind::Gateway && status["listeners"].is_array();
        if let Some(address) = console.state.edge_address().filter(|_| served) {
            status["addresses"] = json!([{"type": "IPAddress", "value": address}]);
        }
    }
    // What is said of it is said of this state.
    document["metadata"]["generation"] = json!(resource.revision);
    // A workload's own says how it is.
    let own = document["status"].take();
    document["status"] = upstream.or(Some(own).filter(Value::is_object)).unwrap_or_else(|| json!({}));
    if let Some((names, not_after)) = super::certificate::facts(resource) {
        document["status"]["names"] = json!(names);
        document["status"]["notAfter"] = json!(not_after);
    }
    document["status"]["revision"] = json!(resource.revision);
    document["status"]["accepted"] = json!(refusals.is_empty() && !is_out_of_force(&document["status"]));
    document["status"]["refusals"] = list(&refusals, refusal);
    document
}

/// Whether a policy is in force for none of those that it's for.
fn is_out_of_force(status: &Value) -> bool {
    let ancestors = status["ancestors"].as_array().map(Vec::as_slice).unwrap_or_default();
    let refused = |ancestor: &Value| ancestor["conditions"][0]["status"] == "False";
    !ancestors.is_empty() && ancestors.iter().all(refused)
}

/// `GET /api/v1/status`.
pub(super) fn status(console: &Console) -> Value {
    let proxies = console.state.proxies();
    let in_sync = proxies.iter().filter(|proxy| proxy.in_sync).count();
    let warnings = warnings(console);
    let counts = console.state.catalog(|catalog| {
        let count = |kind: Kind| (kind.name().to_owned(), json!(catalog.iter(kind).count()));
        Kind::APPLICABLE.into_iter().map(count).collect::<serde_json::Map<_, _>>()
    });
    let bad = warnings.iter().any(|warning| warning["severity"] == "error");
    json!({
        "ok": !bad,
        "warnings": warnings,
        "proxies": proxies.len(),
        "inSync": in_sync,
        "revision": console.state.revision(),
        "trustDomain": console.state.trust_domain,
        "version": env!("CARGO_PKG_VERSION"),
        "resources": counts,
    })
}

/// What an operator should know: refused resources, proxies behind, certificates near their end,
/// entries of the store that can't be read, transactions that don't go on.
fn warnings(console: &Console) -> Vec<Value> {
    let mut out = Vec::new();
    let mut warn = |severity: &str, code: &code::Code, place: String, message: String| {
        out.push(json!({"code": code.id, "severity": severity, "where": place, "message": message, "next": code.next}));
    };
    for (severity, code, message) in console.aside.iter().flat_map(|aside| (aside.warnings)()) {
        warn(severity.name(), code, "transactions".to_owned(), message.to_string());
    }
    for (entry, why) in console.state.bad_entries() {
        warn("error", &code::UNREADABLE, entry.to_string(), why.to_string());
    }
    for proxy in console.state.proxies() {
        if proxy.refused > 0 {
            let message = format!("{} refused {} resources and keeps the last good ones", proxy.name, proxy.refused);
            warn("error", &code::REFUSED_BY_PROXY, proxy.name.to_string(), message);
        } else if let Some(why) = why_behind(&proxy) {
            warn("warning", &code::BEHIND, proxy.name.to_string(), format!("{}: {why}", proxy.name));
        }
    }
    let now = console.state.now();
    for diagnostic in unfit(console) {
        let place = diagnostic.subject.map_or_else(String::new, |key| key.to_string());
        warn("warning", diagnostic.code, place, diagnostic.message);
    }
    for (code, place, message) in elsewhere(console) {
        warn("warning", code, place, message);
    }
    for (place, message) in unserved(console) {
        warn("warning", &code::UNSERVED, place, message);
    }
    console.state.observe(|observer| {
        for (name, node) in observer.nodes() {
            let left = node.certificate_not_after.as_millis().saturating_sub(now.wall.as_millis());
            let fresh = now.mono.since(node.seen) < REPORT_FRESH && node.certificate_not_after.as_millis() > 0;
            if fresh && Duration::from_millis(left) < CERTIFICATE_WARNING {
                let message = format!("the certificate of {name} ends in {} min", left / 60_000);
                warn("warning", &code::LEAF_EXPIRES, name.to_string(), message);
            }
            if now.mono.since(node.seen) < REPORT_FRESH {
                for (port, why) in &node.closed {
                    warn(
                        "warning",
                        &code::PORT_CLOSED,
                        name.to_string(),
                        format!("{name} does not serve port {port}: {why}"),
                    );
                }
            }
        }
    });
    out
}

/// What `lint` finds and an operator should know though nobody asks, and certificates that end.
fn unfit(console: &Console) -> Vec<Diagnostic> {
    let told = [
        &code::CERTIFICATE_ABSENT,
        &code::AUTHORITY_ABSENT,
        &code::CALLERS_UNPROVEN,
        &code::CALLERS_UNASKED,
        &code::PORT_CLASH,
        &code::BUNDLE_ABSENT,
        &code::CLIENT_CERTIFICATE_ABSENT,
        &code::SELECTS_NOTHING,
        &code::OUTSIDE_IN_CLEAR,
        &code::TRAFFIC_CONFLICT,
        &code::CHOICE_EMPTY,
    ];
    let now = console.state.now().wall;
    let kinds = Kind::GATEWAYS.into_iter().chain([Kind::BackendTlsPolicy, Kind::TrafficPolicy, Kind::Service]);
    let held = [Kind::Secret, Kind::Site];
    let (mut found, held) = console.state.catalog(|catalog| {
        let all = kinds.flat_map(|kind| catalog.iter(kind)).flat_map(|resource| catalog.check_one(resource));
        let found: Vec<_> = all.filter(|found| told.iter().any(|code| code.id == found.code.id)).collect();
        (found, held.into_iter().flat_map(|kind| catalog.iter(kind)).cloned().collect::<Vec<_>>())
    });
    found.extend(held.iter().filter_map(|resource| super::certificate::judge(resource, now)));
    found
}

/// Services that other sites serve alone, and those that can't be reached there.
fn elsewhere(console: &Console) -> Vec<(&'static code::Code, String, String)> {
    let ejected = console.state.observe(|observer| ejections(observer));
    console.state.catalog(|catalog| {
        let mut out = Vec::new();
        for resource in catalog.iter(Kind::Service) {
            let at = ServiceRef::new(resource.key.namespace.clone(), resource.key.name.clone());
            let mut sites: BTreeMap<&Text, (usize, usize)> = BTreeMap::new();
            for way in catalog.ways(&at) {
                let Spec::Endpoint(way) = &way.spec else { continue };
                let Some(to) = &way.way else { continue };
                let (all, out) = sites.entry(&to.site).or_default();
                *all += 1;
                *out += usize::from(ejected_by(&ejected, way) > 0);
            }
            if sites.is_empty() {
                continue;
            }
            let place = resource.key.to_string();
            for (site, _) in sites.iter().filter(|(_, (all, out))| all == out) {
                let message = format!("{at} is not reached at site {site}");
                out.push((&code::SITE_UNREACHED, place.clone(), message));
            }
            let here = |r: &Arc<Resource>| matches!(&r.spec, Spec::Endpoint(e) if e.health == Health::Healthy);
            let Spec::Service(service) = &resource.spec else { continue };
            if !service.selector.is_empty() && !catalog.endpoints(&at).any(here) {
                let names: Vec<&str> = sites.keys().map(|site| site.as_str()).collect();
                let message = format!("{at} has no healthy endpoint here; other sites serve it: {}", names.join(", "));
                out.push((&code::ELSEWHERE, place, message));
            }
        }
        out
    })
}

/// Services none of whose endpoints is healthy, of those that callers use, and which no other site serves.
fn unserved(console: &Console) -> Vec<(String, String)> {
    let judge = |catalog: &Catalog, resource: &Resource| {
        let at = ServiceRef::new(resource.key.namespace.clone(), resource.key.name.clone());
        let choice = catalog.choice(&at).map(|(_, choice)| choice);
        let used = catalog.endpoints(&at).filter_map(|found| match &found.spec {
            Spec::Endpoint(endpoint) => Some(endpoint).filter(|e| choice.is_none_or(|c| c.admits(&e.labels))),
            _ => None,
        });
        let (mut all, mut healthy) = (0, 0);
        for endpoint in used {
            all += 1;
            healthy += usize::from(endpoint.health == Health::Healthy);
        }
        let alone = catalog.ways(&at).next().is_none();
        let message = || format!("{at} has no healthy endpoint ({all} draining or unhealthy)");
        (all > 0 && healthy == 0 && alone).then(|| (resource.key.to_string(), message()))
    };
    console.state.catalog(|catalog| catalog.iter(Kind::Service).filter_map(|r| judge(catalog, r)).collect())
}

/// Why a proxy isn't in sync; `None` if it is.
fn why_behind(proxy: &Proxy) -> Option<String> {
    if let Some(silence) = proxy.silent {
        let silence = silence.as_secs();
        return Some(format!("nothing was heard of it for {silence} s; it may be stopped, overloaded or cut off"));
    }
    (!proxy.in_sync).then(|| "it has not yet confirmed the newest configuration".to_owned())
}

/// `GET /api/v1/proxies`.
pub(super) fn proxies(console: &Console) -> Value {
    let now = console.state.now();
    let proxies = console.state.proxies();
    console.state.observe(|observer| {
        list(proxies, |proxy| {
            let node = observer.node(&proxy.name);
            json!({
                "name": proxy.name,
                "identity": proxy.identity,
                "revision": proxy.revision,
                "inSync": proxy.in_sync,
                "reason": why_behind(&proxy),
                "silentMs": proxy.silent.map(|silence| silence.as_millis() as u64),
                "admin": proxy.admin,
                "inbound": proxy.inbound,
                "version": proxy.version,
                "refused": proxy.refused,
                "reportedMsAgo": node.map(|node| now.mono.since(node.seen).as_millis() as u64),
                "certificateNotAfter": node.map(|node| node.certificate_not_after).filter(|at| at.as_millis() > 0),
            })
        })
    })
}

/// `GET /api/v1/certificates`: the one that each proxy uses, as it says itself, and the control plane's
/// own. What the authority wrote down about it comes beside.
pub(super) async fn certificates(console: &Console) -> Outcome {
    let issued = ca::issue::list(&console.state).await?;
    let now = console.state.now().wall.as_millis();
    let row = |name: &str, identity: &Identity, ends: Option<u64>| {
        // Proxies report whole seconds.
        let fits = |one: &&ca::issue::Certificate| {
            one.identity == *identity && ends.is_some_and(|at| at / 1000 == one.not_after.as_secs())
        };
        let mut fitting = issued.iter().filter(fits);
        // Two instances of one account may have been certified in the same second: then neither is told.
        let found = fitting.next().filter(|_| fitting.next().is_none());
        json!({
            "name": name,
            "identity": identity,
            "notAfter": ends,
            "secondsLeft": ends.map(|at| at.saturating_sub(now) / 1000),
            "issued": found.map(|one| one.issued),
            "by": found.map(|one| &one.by),
            "serial": found.map(|one| &one.serial),
        })
    };
    let proxies = console.state.proxies();
    let mut rows: Vec<Value> = console.state.observe(|observer| {
        let ends = |name: &str| observer.node(name).map(|node| node.certificate_not_after.as_millis());
        proxies.iter().map(|proxy| row(&proxy.name, &proxy.identity, ends(&proxy.name).filter(|at| *at > 0))).collect()
    });
    // Those that end last are the ones in use.
    if let Some(own) =
        issued.iter().rev().find(|one| *one.by == *"own" && *one.identity.service_account().as_str() == *"control")
    {
        rows.push(row("byrnie/control", &own.identity, Some(own.not_after.as_millis())));
    }
    Ok(found(&Value::Array(rows)))
}

/// `GET /api/v1/workloads`.
pub(super) fn workloads(console: &Console) -> Value {
    let proxies: BTreeMap<_, _> =
        console.state.proxies().into_iter().map(|proxy| (proxy.name.clone(), proxy)).collect();
    console.state.catalog(|catalog| {
        list(catalog.iter(Kind::Workload), |resource| {
            let Spec::Workload(workload) = &resource.spec else { return Value::Null };
            let proxy = proxies.get(&*format!("{}/{}", resource.key.namespace, resource.key.name));
            let mut row = workload_row(resource, workload);
            row["services"] = json!(services_of(catalog, resource));
            row["connected"] = json!(proxy.is_some());
            row["inSync"] = json!(proxy.map(|proxy| proxy.in_sync));
            row
        })
    })
}

fn workload_row(resource: &Resource, workload: &Workload) -> Value {
    let port = |port: &byrnie_model::workload::WorkloadPort| json!({"name": port.name, "port": port.port, "protocol": port.protocol.name()});
    json!({
        "name": resource.key.name,
        "namespace": resource.key.namespace,
        "identity": workload.identity,
        "address": workload.address,
        "inbound": workload.inbound,
        "admin": workload.admin,
        "ports": list(&workload.ports, port),
        "labels": resource.labels,
        "uses": list(&workload.uses, |service| json!(service.to_string())),
        "region": workload.locality.region,
        "zone": workload.locality.zone,
        "weight": workload.weight,
        "health": health(workload.health),
        "revision": resource.revision,
    })
}

/// Names of the services that a workload serves: those of its namespace whose selector it fits.
fn services_of(catalog: &Catalog, workload: &Resource) -> Vec<String> {
    let serves = |resource: &&std::sync::Arc<Resource>| match &resource.spec {
        Spec::Service(service) => {
            resource.key.namespace == workload.key.namespace
                && !service.selector.is_empty()
                && service.selector.iter().all(|(name, value)| workload.labels.get(name) == Some(value))
        }
        _ => false,
    };
    catalog.iter(Kind::Service).filter(serves).map(|resource| resource.key.name.to_string()).collect()
}

pub(super) const fn health(health: Health) -> &'static str {
    match health {
        Health::Healthy => "healthy",
        Health::Draining => "draining",
        Health::Unhealthy => "unhealthy",
    }
}

/// `GET /api/v1/services`: each with its endpoints and what is attached to it.
pub(super) fn services(console: &Console) -> Value {
    let ejected = console.state.observe(|observer| ejections(observer));
    console.state.catalog(|catalog| {
        list(catalog.iter(Kind::Service), |resource| {
            let Spec::Service(service) = &resource.spec else { return Value::Null };
            let name = ServiceRef::new(resource.key.namespace.clone(), resource.key.name.clone());
            let endpoints: Vec<Value> =
                catalog.endpoints(&name).filter_map(|resource| endpoint_row(resource, &ejected)).collect();
            let healthy = endpoints.iter().filter(|endpoint| endpoint["health"] == "healthy").count();
            let port = |port: &byrnie_model::service::ServicePort| {
                json!({"name": port.name, "port": port.port, "protocol": port.protocol.name()})
            };
            json!({
                "name": name.name,
                "namespace": name.namespace,
                "ports": list(&service.ports, port),
                "selector": service.selector,
                "endpoints": endpoints,
                "addresses": addresses(catalog, &name, service),
                "sites": list(catalog.ways(&name), |way| way_row(way, &ejected)),
                "exported": catalog.is_exported(&name),
                "healthy": healthy,
                "attached": attached(catalog, &name),
                "revision": resource.revision,
            })
        })
    })
}

/// How many proxies leave out a workload of a service.
type Ejected = BTreeMap<(Text, Text), usize>;

fn ejections(observer: &Observer) -> Ejected {
    let mut by = Ejected::new();
    for (_, node) in observer.nodes() {
        // One that serves several ports of the service is told of once for each.
        let out = node.endpoints.iter().filter(|endpoint| endpoint.ejected);
        let out: BTreeSet<_> = out.map(|endpoint| (endpoint.destination.clone(), endpoint.workload.clone())).collect();
        out.into_iter().for_each(|one| *by.entry(one).or_default() += 1);
    }
    by
}

fn ejected_by(ejected: &Ejected, endpoint: &Endpoint) -> usize {
    let one = (short(&endpoint.service.to_string()), endpoint.workload.clone());
    ejected.get(&one).copied().unwrap_or(0)
}

fn endpoint_row(resource: &Resource, ejected: &Ejected) -> Option<Value> {
    let Spec::Endpoint(endpoint) = &resource.spec else { return None };
    Some(json!({
        "workload": endpoint.workload,
        "address": endpoint.address,
        "identity": endpoint.identity,
        "labels": endpoint.labels,
        "weight": endpoint.weight,
        "health": health(endpoint.health),
        "ejectedBy": ejected_by(ejected, endpoint),
    }))
}

/// A way to a service at another site.
fn way_row(resource: &Resource, ejected: &Ejected) -> Value {
    let Spec::Endpoint(endpoint) = &resource.spec else { return Value::Null };
    json!({
        "site": endpoint.way.as_ref().map(|way| &way.site),
        "way": endpoint.workload,
        "gateway": endpoint.address,
        "identity": endpoint.identity,
        "ejectedBy": ejected_by(ejected, endpoint),
    })
}

/// Where EndpointSlices say a service is: reached by the egress.
fn addresses(catalog: &Catalog, name: &ServiceRef, service: &Service) -> Vec<Value> {
    let slices = catalog.slices(name).filter(|_| service.takes_slices());
    let row = |slice: &Key, address: &Address| {
        json!({
            "address": address.ip,
            "zone": address.locality.zone,
            "health": health(address.health),
            "slice": slice.name,
        })
    };
    slices.flat_map(|(key, slice)| slice.endpoints.iter().map(move |address| row(key, address))).collect()
}

/// Routes and policies that concern a service, with a line on what each says.
fn attached(catalog: &Catalog, service: &ServiceRef) -> Vec<Value> {
    let mut out = Vec::new();
    let mut attach = |resource: &Resource, says: String| {
        out.push(json!({"kind": resource.key.kind.name(), "namespace": resource.key.namespace, "name": resource.key.name, "says": says}));
    };
    let kinds = Kind::ROUTES.into_iter().chain([Kind::AccessPolicy, Kind::TrafficPolicy]);
    for resource in kinds.flat_map(|kind| catalog.iter(kind)) {
        match &resource.spec {
            Spec::Route(route) if route.services().any(|parent| parent == service) => {
                attach(resource, format!("{} rules", route.rules.len()));
            }
            Spec::Access(policy)
                if policy.targets.contains(service)
                    || (policy.targets.is_empty() && resource.key.namespace == service.namespace) =>
            {
                let verb = if policy.action == Action::Allow { "allows" } else { "denies" };
                attach(resource, format!("{verb} by {} rules", policy.rules.len()));
            }
            Spec::Traffic(policy) if policy.targets.contains(service) => {
                attach(resource, "says how it is called".into())
            }
            _ => {}
        }
    }
    out
}

/// `GET /api/v1/routes`.
pub(super) fn routes(console: &Console) -> Value {
    let routes = console
        .state
        .catalog(|catalog| Kind::ROUTES.into_iter().flat_map(|kind| catalog.iter(kind)).cloned().collect::<Vec<_>>());
    list(routes, |resource| document(console, &resource))
}

/// Most changes listed.
const REVISIONS_MAX: usize = 200;

/// `GET /api/v1/revisions`: changes of configuration, newest first.
pub(super) async fn revisions(console: &Console) -> Outcome {
    let records = history::list(&console.state, REVISIONS_MAX).await?;
    Ok(found(&list(&records, |record| {
        json!({
            "revision": record.revision,
            "at": record.at,
            "who": record.who,
            "why": record.why,
            "changes": list(&record.changes, change_row),
        })
    })))
}

fn change_row(change: &history::Changed) -> Value {
    let action = match (&change.before, &change.after) {
        (None, _) => "created",
        (_, None) => "deleted",
        _ => "changed",
    };
    let document = |text: &Option<String>| {
        let mut document = serde_json::from_str::<Value>(text.as_ref()?).ok()?;
        yaml::redact(&mut document);
        Some(document)
    };
    json!({
        "kind": change.key.kind.name(),
        "namespace": change.key.namespace,
        "name": change.key.name,
        "action": action,
        "before": document(&change.before),
        "after": document(&change.after),
    })
}

/// `GET /readyz`.
pub(super) fn ready(console: &Console) -> Response {
    json_response(200, &json!({"ready": true, "revision": console.state.revision()}))
}

/// `GET /metrics`: of the control plane itself; proxies have their own.
pub(crate) fn metrics(state: &State, aside: Option<&Aside>) -> String {
    let proxies = state.proxies();
    let (reports, flows) = state.observe(|observer| (observer.reports(), observer.flows()));
    let mut out = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, value: u64| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    };
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    metric("byrnie_config_revision", "gauge", "The newest revision taken in.", state.revision().0);
    metric("byrnie_proxies", "gauge", "Proxies with a stream.", count(proxies.len()));
    let in_sync = proxies.iter().filter(|proxy| proxy.in_sync).count();
    metric("byrnie_proxies_in_sync", "gauge", "Proxies that have confirmed all of it.", count(in_sync));
    metric("byrnie_reports_total", "counter", "Reports of proxies taken in.", reports);
    metric("byrnie_flows", "gauge", "Flows kept apart.", count(flows));
    metric("byrnie_task_panics_total", "counter", "Tasks that ended by a panic.", byrnie_net::runtime::panics());
    if let Some(aside) = aside {
        out.push_str(&(aside.metrics)());
    }
    out
}
