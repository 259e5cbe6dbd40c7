// SPDX-License-Identifier: Apache-2.0
//! `byrnie canary SVC VERSION PERCENT`: writes an ordinary route that gives a version its part, and the ordinary
//! Services that it splits among: each selects the instances of one version, so that shares are what is said.

use crate::console::{self, Console};
use crate::failure::{Exit, Failure};
use crate::globals::Globals;
use crate::output;
use byrnie_model::{Kind, ServiceRef, code};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Give a version of a service its part of the requests
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  byrnie canary payments v2 10
  byrnie canary payments.shop v2 50
  byrnie canary payments v2 0 --to canary.yaml
  byrnie canary payments --off")]
pub(crate) struct Args {
    /// The service: NAME or NAME.NAMESPACE
    #[arg(value_name = "SVC")]
    service: String,
    /// The version: instances with the label version=VERSION, or those of the service SVC-VERSION if there is one
    #[arg(value_name = "VERSION", required_unless_present = "off")]
    version: Option<String>,
    /// Of a hundred requests
    #[arg(value_name = "PERCENT", required_unless_present = "off", value_parser = super::fault::share)]
    percent: Option<u8>,
    /// Delete what canaries of the service wrote: calls go to all its instances alike
    #[arg(long, conflicts_with_all = ["version", "percent", "to"])]
    off: bool,
    /// Write the documents to a file instead
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

/// Marks what canaries wrote; its value is the service's name.
const MARK: &str = "mesh.byrnie.dev/canary";
/// By this label versions of a service are told apart.
const VERSION: &str = "version";
/// The largest weight that a backend may have.
const WEIGHT_MAX: u64 = 1_000_000;

pub(crate) fn run(args: &Args, globals: &Globals) -> anyhow::Result<Exit> {
    let target = ServiceRef::from_word(&args.service, globals.namespace());
    let console = Console::find(globals)?;
    let scene = Scene::read(&console, &target)?;
    let (Some(version), Some(percent)) = (&args.version, args.percent) else {
        return end(&console, &scene, globals);
    };
    let documents = scene.documents(version, percent)?;
    for (said, next) in scene.refused(&documents) {
        eprintln!("warning: {said}\n   = next: {next}");
    }
    let documents = Value::Array(documents);
    super::fault::write(&documents, &[("why", "canary"), ("since", &scene.revision)], args.to.as_ref(), globals)
}

/// What of a mesh a canary of one service has to do with.
struct Scene {
    target: ServiceRef,
    /// All of it is as it was then, or newer: what was written since isn't overwritten.
    revision: String,
    services: Vec<Value>,
    workloads: Vec<Value>,
    /// Access and traffic policies.
    policies: Vec<Value>,
    /// Of every namespace.
    routes: Vec<Value>,
}

/// Who gets calls, and who of them is yet to be written.
#[derive(Debug)]
struct Parts {
    /// The version's service.
    version: Part,
    /// Those that share the rest.
    rest: Vec<Part>,
    /// Services that aren't there yet.
    fresh: Vec<Value>,
    /// How many ports the service itself has.
    ports: usize,
}

/// A service among others that calls are split among.
#[derive(Clone, Debug)]
struct Part {
    name: String,
    ports: Vec<u64>,
    /// How many serve it.
    instances: u64,
}

impl Scene {
    fn read(console: &Console, target: &ServiceRef) -> Result<Self, Failure> {
        let revision = console.get("/api/v1/status")?["revision"].to_string();
        let of = |kind: Kind| -> Result<Vec<Value>, Failure> {
            let query = console::query(&[("kind", kind.name()), ("namespace", &target.namespace)]);
            Ok(list(console.get(&format!("/api/v1/resources{query}"))?))
        };
        let mut policies = of(Kind::AccessPolicy)?;
        policies.extend(of(Kind::TrafficPolicy)?);
        Ok(Self {
            target: target.clone(),
            revision,
            services: of(Kind::Service)?,
            workloads: of(Kind::Workload)?,
            policies,
            routes: list(console.get("/api/v1/routes")?),
        })
    }

    /// All that is written to give a version its part.
    fn documents(&self, version: &str, percent: u8) -> Result<Vec<Value>, Failure> {
        let mut parts = self.parts(version, percent)?;
        let there = self.own_routes();
        let mut routes = Vec::new();
        for route in &there {
            routes.extend(shifted((*route).clone(), &self.target, &parts, percent)?);
        }
        if there.is_empty() {
            routes.extend(self.split(&parts, percent)?);
        }
        if routes.is_empty() {
            let said = format!("{} of {} has no backends to share with", named(&there), self.target);
            return Err(Failure::usage(said).next("byrnie get httproute"));
        }
        let own: BTreeSet<&str> = routes.iter().flat_map(backends).map(|backend| text(&backend["name"])).collect();
        parts.fresh.retain(|service| own.contains(text(&service["metadata"]["name"])));
        for route in &routes {
            self.tell_apart(route, &parts.fresh)?;
        }
        let own: BTreeSet<&str> = own.into_iter().filter(|name| self.is_marked(name, &parts.fresh)).collect();
        let policies: Vec<Value> = self.policies.iter().filter_map(|policy| self.widened(policy, &own)).collect();
        let mut documents = parts.fresh;
        documents.extend(policies);
        documents.extend(routes);
        Ok(documents)
    }

    /// Who gets a share and refuses it, by what is written, and what to do: callers are let through to the service by
    /// name, and to a version's service of somebody's own by no policy.
    fn refused(&self, documents: &[Value]) -> Vec<(String, String)> {
        let allows: Vec<&Value> = self
            .policies
            .iter()
            .filter(|policy| policy["kind"] == Kind::AccessPolicy.name() && policy["spec"]["action"] == "ALLOW")
            .collect();
        let names = |policy: &Value, name: &str| each(&policy["spec"]["targetRefs"]).any(|of| of["name"] == *name);
        let routes = documents.iter().filter(|document| !document["spec"]["parentRefs"].is_null());
        let weighted = routes.flat_map(backends).filter(|backend| weight(backend) > 0);
        let shares: BTreeSet<&str> = weighted.map(|backend| text(&backend["name"])).collect();
        let own = |name: &str| *name != *self.target.name && !self.is_marked(name, documents);
        let own = shares.into_iter().filter(|name| own(name) && self.service(name).is_some());
        let mut found = Vec::new();
        for name in own.filter(|name| !allows.iter().any(|policy| names(policy, name))) {
            let to = ServiceRef::new(&*self.target.namespace, name);
            let of_base = allows.iter().filter(|policy| names(policy, &self.target.name));
            let next: BTreeSet<String> = of_base.flat_map(|policy| allowing(policy, &to)).collect();
            if next.is_empty() {
                continue;
            }
            let said = format!("policies let callers reach {}, but none lets them reach {to}", self.target);
            found.push((said, next.into_iter().collect::<Vec<_>>().join("; ")));
        }
        found
    }

    fn service(&self, name: &str) -> Option<&Value> {
        self.services.iter().find(|service| service["metadata"]["name"] == *name)
    }

    /// Instances that a service selects, by name.
    fn members(&self, service: &Value) -> BTreeSet<&str> {
        let selector = &service["spec"]["selector"];
        let members = self.workloads.iter().filter(|workload| selects(selector, &workload["metadata"]["labels"]));
        members.filter_map(|workload| workload["metadata"]["name"].as_str()).collect()
    }

    /// The routes of the service. Those that no canary wrote are somebody's work: they are changed, not replaced.
    fn own_routes(&self) -> Vec<&Value> {
        let is_parent = |parent: &Value, own: &str| {
            // A gateway may have the service's name.
            parent["kind"] == Kind::Service.name() && is(parent, &self.target, own)
        };
        let has = |route: &&Value| {
            each(&route["spec"]["parentRefs"]).any(|parent| is_parent(parent, text(&route["metadata"]["namespace"])))
        };
        self.routes.iter().filter(has).collect()
    }

    fn parts(&self, version: &str, percent: u8) -> Result<Parts, Failure> {
        let target = &self.target;
        let absent = || {
            Failure::new(code::NOT_FOUND.id, format!("there is no Service/{target}")).next(format!(
                "`byrnie get services` lists those there are; `byrnie run --name {}` makes one",
                target.name
            ))
        };
        let base = self.service(&target.name).ok_or_else(absent)?;
        let mut fresh = Vec::new();
        let own = self.of_version(base, version, &mut fresh);
        let (all, fitting) = (self.members(base), self.members(&own));
        let selectorless = base["spec"]["selector"].as_object().is_none_or(serde_json::Map::is_empty);
        if !fresh.is_empty() && (selectorless || percent > 0 && fitting.is_empty()) {
            let said = format!(
                "no instance of {target} has the label {VERSION}={version}, and there is no service {}",
                name_of(target, version)
            );
            let next = format!("start one: byrnie run --name {} --labels {VERSION}={version} ...", target.name);
            return Err(Failure::new(code::NOT_FOUND.id, said).next(next));
        }
        let part = |service: &Value| Part {
            name: text(&service["metadata"]["name"]).to_owned(),
            ports: each(&service["spec"]["ports"]).filter_map(|port| port["port"].as_u64()).collect(),
            instances: self.members(service).len() as u64,
        };
        let within = selects(&base["spec"]["selector"], &own["spec"]["selector"]);
        let rest = if within || !all.is_disjoint(&fitting) {
            let others = self.versions(all.difference(&fitting).copied(), version)?;
            if others.is_empty() && percent < 100 {
                let said =
                    format!("every instance of {target} is of version {version}: there is nobody to take the rest");
                return Err(Failure::usage(said).next(format!("byrnie canary {target} {version} 100")));
            }
            let rest = others.into_iter().map(|(other, count)| {
                let service = self.of_version(base, other, &mut fresh);
                Part { instances: count, ..part(&service) }
            });
            rest.collect()
        } else {
            vec![Part { instances: 1, ..part(base) }]
        };
        Ok(Parts { version: part(&own), rest, fresh, ports: part(base).ports.len() })
    }

    /// How many of these instances there are of each version, but of the one.
    fn versions<'a>(&'a self, of: impl Iterator<Item = &'a str>, but: &str) -> Result<BTreeMap<&'a str, u64>, Failure> {
        let mut versions = BTreeMap::new();
        for name in of {
            let workload = self.workloads.iter().find(|workload| workload["metadata"]["name"] == *name);
            let version = workload.and_then(|workload| workload["metadata"]["labels"][VERSION].as_str());
            let version = version.filter(|version| *version != but).ok_or_else(|| {
                let said = format!("{name} serves {} and can't be told from version {but}", self.target);
                Failure::new(code::SHARED_ENDPOINTS.id, said)
                    .next(format!("start it with --labels {VERSION}=... of its own, and the service's others too"))
            })?;
            *versions.entry(version).or_default() += 1;
        }
        Ok(versions)
    }

    /// The service of a version: the one that is there, or one that selects what the base does, of this version.
    fn of_version(&self, base: &Value, version: &str, fresh: &mut Vec<Value>) -> Value {
        let name = name_of(&self.target, version);
        if let Some(there) = self.service(&name).or_else(|| fresh.iter().find(|made| made["metadata"]["name"] == name))
        {
            return there.clone();
        }
        let mut spec = json!({"selector": base["spec"]["selector"], "ports": base["spec"]["ports"]});
        spec["selector"][VERSION] = json!(version);
        fresh.push(json!({
            "apiVersion": Kind::Service.api_version(),
            "kind": Kind::Service.name(),
            "metadata": {"name": name, "namespace": self.target.namespace, "labels": {MARK: self.target.name}},
            "spec": spec,
        }));
        fresh.last().cloned().unwrap_or_default()
    }

    /// A route of its own for the first port of the service.
    fn split(&self, parts: &Parts, percent: u8) -> Result<Option<Value>, Failure> {
        let target = &self.target;
        let ports = self.service(&target.name).map(|base| list(base["spec"]["ports"].clone())).unwrap_or_default();
        let first = ports.first().cloned().unwrap_or_default();
        let kind = match (text(&first["protocol"]), text(&first["appProtocol"])) {
            ("UDP", _) => Kind::UdpRoute,
            (_, "tcp") => Kind::TcpRoute,
            _ => Kind::HttpRoute,
        };
        let mut parent = json!({"group": "", "kind": "Service", "name": target.name});
        if ports.len() > 1 {
            parent["port"] = first["port"].clone();
        }
        // A route of the service's name may be for something else, such as a gateway.
        let is_free = |name: &String| {
            let mut known = self.routes.iter().filter(|route| route["kind"] == kind.name());
            let is = |known: &Value| known["name"] == **name && known["namespace"] == *target.namespace;
            known.all(|route| !is(&route["metadata"]) || marked(route, target))
        };
        let names = [target.name.to_string(), format!("{}-canary", target.name)];
        let Some(name) = names.iter().find(|name| is_free(name)) else {
            let said =
                format!("{0} {1} and {0} {2} are there and are for something else", kind.name(), names[0], names[1]);
            let next = format!("write a route with the parent Service {}, which is changed then", target.name);
            return Err(Failure::usage(said).next(next));
        };
        let route = json!({
            "apiVersion": kind.api_version(),
            "kind": kind.name(),
            "metadata": {"name": name, "namespace": target.namespace, "labels": {MARK: target.name}},
            "spec": {"parentRefs": [parent], "rules": [{"backendRefs": [{"name": target.name, "port": first["port"]}]}]},
        });
        // Where the rest is the service itself, it's the one backend that is there already.
        shifted(route, target, parts, percent)
    }

    /// Refuses shares that wouldn't hold, as somebody serves two of a rule's backends.
    fn tell_apart(&self, route: &Value, fresh: &[Value]) -> Result<(), Failure> {
        for rule in each(&route["spec"]["rules"]) {
            let weighted = each(&rule["backendRefs"]).filter(|backend| backend["weight"] != 0);
            let names: Vec<&str> = weighted.map(|backend| text(&backend["name"])).collect();
            let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
            for name in names {
                let made = fresh.iter().find(|made| made["metadata"]["name"] == *name);
                let members = made.or_else(|| self.service(name)).map(|service| self.members(service));
                for member in members.unwrap_or_default() {
                    let Some(other) = seen.insert(member, name).filter(|other| *other != name) else { continue };
                    let said = format!("{member} serves {other} and {name}: a share of one is a share of the other");
                    return Err(Failure::new(code::SHARED_ENDPOINTS.id, said).next(code::SHARED_ENDPOINTS.next));
                }
            }
        }
        Ok(())
    }

    /// Whether a canary of this service made, or makes, the service of this name.
    fn is_marked(&self, name: &str, written: &[Value]) -> bool {
        let is = |service: &&Value| {
            service["kind"] == Kind::Service.name()
                && service["metadata"]["name"] == *name
                && marked(service, &self.target)
        };
        self.services.iter().chain(written).find(is).is_some()
    }

    /// A policy for the service, for those behind it too: what arrives is judged under the name of the backend.
    fn widened(&self, policy: &Value, by: &BTreeSet<&str>) -> Option<Value> {
        let targets: BTreeSet<&str> = each(&policy["spec"]["targetRefs"]).map(|target| text(&target["name"])).collect();
        if !targets.contains(&*self.target.name) || by.is_subset(&targets) {
            return None;
        }
        let mut policy = without_status(policy.clone());
        let refs = policy["spec"]["targetRefs"].as_array_mut()?;
        refs.extend(by.difference(&targets).map(|name| json!({"group": "", "kind": "Service", "name": name})));
        Some(policy)
    }
}

/// Deletes what canaries of a service wrote: its route first, the services behind it last.
fn end(console: &Console, scene: &Scene, globals: &Globals) -> anyhow::Result<Exit> {
    let target = &scene.target;
    let before: Vec<&Value> = scene.own_routes().into_iter().filter(|route| !marked(route, target)).collect();
    if !before.is_empty() {
        let said = format!("{} of {target} was there before any canary: it is changed, not deleted", named(&before));
        let next = "`byrnie undo REV` for each `canary` line of `byrnie history`, newest first";
        return Err(Failure::usage(said).next(next).into());
    }
    let routes: Vec<&Value> = scene.routes.iter().filter(|route| marked(route, target)).collect();
    // Somebody else's route may lead to them meanwhile.
    let elsewhere = scene.routes.iter().filter(|route| !marked(route, target));
    let needed: BTreeSet<&str> = elsewhere.flat_map(backends).map(|backend| text(&backend["name"])).collect();
    let services = scene.services.iter().filter(|service| marked(service, target));
    let services: Vec<&Value> =
        services.filter(|service| !needed.contains(text(&service["metadata"]["name"]))).collect();
    if routes.is_empty() && services.is_empty() {
        let said = format!("{target} has no canary");
        return Err(Failure::new(code::NOT_FOUND.id, said).next("byrnie get routes").into());
    }
    let mut answers = Vec::new();
    let ended = take_away(console, scene, &routes, &services, &mut answers);
    // What was done before a failure is said too, as it can be taken back.
    if !answers.is_empty() {
        let results: Vec<&Value> = answers.iter().flat_map(|answer| each(&answer["results"])).collect();
        let revisions: Vec<&Value> = answers.iter().map(|answer| &answer["revision"]).collect();
        let said = json!({"results": results, "revisions": revisions});
        output::print(globals, &said, |_| if globals.quiet { String::new() } else { draw(&said) })?;
    }
    ended?;
    Ok(Exit::Fine)
}

/// Each is a change of its own: what leads to a service goes before it.
fn take_away(
    console: &Console,
    scene: &Scene,
    routes: &[&Value],
    services: &[&Value],
    answers: &mut Vec<Value>,
) -> Result<(), Failure> {
    let since = ("since", &*scene.revision);
    let user = console::query(&[("user", &console::user()), since]);
    let delete = |resource: &Value| {
        let metadata = &resource["metadata"];
        let kind = Kind::from_word(text(&resource["kind"]));
        let path = kind.map(|kind| super::get::path(kind, text(&metadata["namespace"]), text(&metadata["name"])));
        path.map(|path| console.delete(&(path + &user))).transpose()
    };
    for route in routes {
        answers.extend(delete(route)?);
    }
    let gone: BTreeSet<&str> = services.iter().map(|service| text(&service["metadata"]["name"])).collect();
    let narrowed = |policy: &Value| {
        let mut policy = without_status(policy.clone());
        let targets = policy["spec"]["targetRefs"].as_array_mut()?;
        let before = targets.len();
        targets.retain(|target| !gone.contains(text(&target["name"])));
        // A policy without targets would be for the whole namespace.
        (targets.len() < before && !targets.is_empty()).then_some(policy)
    };
    let policies: Vec<Value> = scene.policies.iter().filter_map(narrowed).collect();
    if !policies.is_empty() {
        let documents = output::yaml::emit(&Value::Array(policies));
        let query = console::query(&[("user", &console::user()), ("why", "canary"), since]);
        let answer = console.post_yaml(&format!("/api/v1/apply{query}"), documents)?;
        super::apply::warn(crate::documents::place(&answer["diagnostics"], &[]));
        answers.push(answer);
    }
    for service in services {
        answers.extend(delete(service)?);
    }
    Ok(())
}

/// A line for each resource, and how to take all of it back.
fn draw(said: &Value) -> String {
    let results = each(&said["results"]);
    let mut out: String = results
        .map(|result| format!("{} {}\n", super::apply::reference(result), output::cell(result, "action")))
        .collect();
    let made: Vec<String> = each(&said["revisions"]).map(Value::to_string).collect();
    let back: Vec<String> = made.iter().rev().map(|revision| format!("byrnie undo {revision}")).collect();
    out.push_str(&format!("revision {}  (take it back with: {})\n", made.join(", "), back.join(" && ")));
    out
}

/// The route with `percent` for the version in every rule that has backends; the others share the rest as before.
/// Nothing if no rule has any.
fn shifted(mut route: Value, target: &ServiceRef, parts: &Parts, percent: u8) -> Result<Option<Value>, Failure> {
    route = without_status(route);
    let name = text(&route["metadata"]["name"]).to_owned();
    let own_namespace = text(&route["metadata"]["namespace"]).to_owned();
    let version = &parts.version.name;
    let mut changed = false;
    for rule in route["spec"]["rules"].as_array_mut().into_iter().flatten() {
        let Some(backends) = rule["backendRefs"].as_array_mut().filter(|backends| !backends.is_empty()) else {
            continue;
        };
        let port = port_of(backends, target, &own_namespace, parts);
        replace(backends, target, &own_namespace, parts)?;
        let mut others: u64 = backends.iter().filter(|b| b["name"] != *version).map(weight).sum();
        if others == 0 {
            // The version had all of it: who comes back gets as much as it has instances.
            for backend in backends.iter_mut().filter(|backend| backend["name"] != *version) {
                let part = parts.rest.iter().find(|part| backend["name"] == *part.name);
                let part = part.map_or(1, |part| part.instances.max(1));
                backend["weight"] = json!(part);
                others += part;
            }
        }
        if others == 0 && percent < 100 {
            let said = format!("route {name} sends nothing but to {version}: there is nobody to take the rest");
            return Err(Failure::usage(said).next("byrnie get httproute"));
        }
        // A hundred parts for each of the others' weights, so that their proportions stay exact.
        for backend in backends.iter_mut().filter(|b| b["name"] != *version) {
            backend["weight"] = json!(weight(backend) * u64::from(100 - percent));
        }
        let own = (others * u64::from(percent)).max(u64::from(percent == 100));
        if let Some(backend) = backends.iter_mut().find(|backend| backend["name"] == *version) {
            backend["weight"] = json!(own);
        } else {
            let mut backend = json!({"name": version, "port": parts.port(&parts.version, port)?, "weight": own});
            if own_namespace != *target.namespace {
                backend["namespace"] = json!(target.namespace);
            }
            backends.push(backend);
        }
        reduce(backends);
        changed = true;
    }
    Ok(changed.then_some(route))
}

/// The port that a rule sends to: that of the service itself, or of those in its place.
fn port_of(backends: &[Value], target: &ServiceRef, at: &str, parts: &Parts) -> u64 {
    let base = backends.iter().find(|backend| is(backend, target, at));
    let rest = || backends.iter().find(|backend| parts.rest.iter().any(|part| backend["name"] == *part.name));
    base.or_else(rest).or(backends.first()).and_then(|backend| backend["port"].as_u64()).unwrap_or(80)
}

impl Parts {
    /// The port of a part that stands for this one of the service itself.
    fn port(&self, part: &Part, of: u64) -> Result<u64, Failure> {
        if part.ports.contains(&of) {
            return Ok(of);
        }
        match part.ports[..] {
            // Where each has but one, there is nothing to mistake.
            [only] if self.ports == 1 => Ok(only),
            _ => {
                let said = format!("service {} has no port {of}, to which a rule of the route sends", part.name);
                Err(Failure::usage(said).next(format!("give it that port: byrnie get service {} -o yaml", part.name)))
            }
        }
    }
}

/// Puts those that share the rest in the place of the service itself, by how many serve each.
fn replace(backends: &mut Vec<Value>, target: &ServiceRef, at: &str, parts: &Parts) -> Result<(), Failure> {
    let rest = &parts.rest;
    let base = backends.iter().position(|backend| is(backend, target, at));
    let Some(place) = base.filter(|_| rest.iter().all(|part| part.name != *target.name)) else { return Ok(()) };
    let total: u64 = rest.iter().map(|part| part.instances).sum::<u64>().max(1);
    let base = backends.remove(place);
    for backend in backends.iter_mut() {
        backend["weight"] = json!(weight(backend) * total);
    }
    for part in rest.iter().rev() {
        let own = weight(&base) * part.instances;
        if let Some(there) = backends.iter_mut().find(|backend| backend["name"] == *part.name) {
            there["weight"] = json!(weight(there) + own);
            continue;
        }
        let port = parts.port(part, base["port"].as_u64().unwrap_or(80))?;
        let mut backend = base.clone();
        (backend["name"], backend["port"], backend["weight"]) = (json!(part.name), json!(port), json!(own));
        backends.insert(place.min(backends.len()), backend);
    }
    Ok(())
}

/// Weights in lowest terms, and within what a route may say: beyond it the nearest that may be, at least 1 of some.
fn reduce(backends: &mut [Value]) {
    fn gcd(a: u64, b: u64) -> u64 {
        if b == 0 { a } else { gcd(b, a % b) }
    }
    let weights = || backends.iter().filter_map(|backend| backend["weight"].as_u64());
    let unit = weights().fold(0, gcd).max(1);
    let over = (weights().max().unwrap_or_default() / unit).div_ceil(WEIGHT_MAX).max(1);
    for backend in backends {
        if let Some(weight) = backend["weight"].as_u64().map(|weight| weight / unit) {
            backend["weight"] = json!(((weight + over / 2) / over).max(weight.min(1)));
        }
    }
}

/// Whether a reference in a route of this namespace is to the service.
fn is(reference: &Value, target: &ServiceRef, at: &str) -> bool {
    reference["name"] == *target.name && *reference["namespace"].as_str().unwrap_or(at) == *target.namespace
}

/// Routes by kind and name.
fn named(routes: &[&Value]) -> String {
    let name = |route: &&Value| format!("{} {}", text(&route["kind"]), text(&route["metadata"]["name"]));
    routes.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// What lets the callers that a policy lets through reach a service; where no command says it, what to change.
fn allowing(policy: &Value, to: &ServiceRef) -> Vec<String> {
    let mut commands = Vec::new();
    for rule in each(&policy["spec"]["rules"]) {
        let mut requests: Vec<String> = Vec::new();
        for http in each(&rule["http"]) {
            let words = |list: &Value, any: &str| -> Vec<String> {
                let words: Vec<String> = each(list).map(|word| text(word).to_owned()).collect();
                if words.is_empty() { vec![any.to_owned()] } else { words }
            };
            for method in words(&http["methods"], "*") {
                let paths = words(&http["paths"], "/*").into_iter();
                requests.extend(paths.map(|path| format!(" \"{method} {path}\"")));
            }
        }
        if each(&rule["http"]).next().is_none() {
            requests.push(String::new());
        }
        let accounts: Option<Vec<String>> = each(&rule["sources"])
            .map(|source| {
                let account = &source["serviceAccount"];
                let namespace = account["namespace"].as_str().unwrap_or(&to.namespace);
                Some(format!("{}.{namespace}", account["name"].as_str()?))
            })
            .collect();
        match accounts.filter(|accounts| !accounts.is_empty() && rule["networkAttributes"].is_null()) {
            Some(accounts) => commands.extend(accounts.iter().flat_map(|account| {
                requests.iter().map(move |request| format!("byrnie allow {account} {to}{request}"))
            })),
            None => {
                let name = text(&policy["metadata"]["name"]);
                return vec![format!("add Service {} to the targetRefs of accesspolicy {name}", to.name)];
            }
        }
    }
    commands
}

/// The name of a version's service: `payments-v2`; what no name may hold becomes `-`.
fn name_of(target: &ServiceRef, version: &str) -> String {
    let fit = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    format!("{}-{}", target.name, version.chars().map(fit).collect::<String>().trim_end_matches('-'))
}

/// Whether labels hold a selector; an empty one selects nothing.
fn selects(selector: &Value, labels: &Value) -> bool {
    let wanted = selector.as_object().filter(|wanted| !wanted.is_empty());
    wanted.is_some_and(|wanted| wanted.iter().all(|(key, value)| labels[key.as_str()] == *value))
}

fn marked(resource: &Value, target: &ServiceRef) -> bool {
    let metadata = &resource["metadata"];
    metadata["namespace"] == *target.namespace && metadata["labels"][MARK] == *target.name
}

fn backends(route: &Value) -> impl Iterator<Item = &Value> {
    each(&route["spec"]["rules"]).flat_map(|rule| each(&rule["backendRefs"]))
}

fn without_status(mut resource: Value) -> Value {
    if let Some(object) = resource.as_object_mut() {
        object.remove("status");
    }
    resource
}

fn weight(backend: &Value) -> u64 {
    backend["weight"].as_u64().unwrap_or(1)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn each(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn list(value: Value) -> Vec<Value> {
    if let Value::Array(items) = value { items } else { Vec::new() }
}

#[cfg(test)]
mod tests;
