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

pub(crate) fn run(args: &Args, globals: &Globals) -> anyhow::Result<Exit> {
    let target = ServiceRef::from_word(&args.service, globals.namespace());
    let console = Console::find(globals)?;
    let scene = Scene::read(&console, &target)?;
    let (Some(version), Some(percent)) = (&args.version, args.percent) else {
        return end(&console, &scene, globals);
    };
    let documents = scene.documents(version, percent)?;
    super::fault::write(&Value::Array(documents), "canary", args.to.as_ref(), globals)
}

/// What of a mesh a canary of one service has to do with.
struct Scene {
    target: ServiceRef,
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
}

/// A service among others that calls are split among.
#[derive(Clone, Debug)]
struct Part {
    name: String,
    port: u64,
    /// How many serve it.
    instances: u64,
}

impl Scene {
    fn read(console: &Console, target: &ServiceRef) -> Result<Self, Failure> {
        let of = |kind: Kind| -> Result<Vec<Value>, Failure> {
            let query = console::query(&[("kind", kind.name()), ("namespace", &target.namespace)]);
            Ok(list(console.get(&format!("/api/v1/resources{query}"))?))
        };
        let mut policies = of(Kind::AccessPolicy)?;
        policies.extend(of(Kind::TrafficPolicy)?);
        Ok(Self {
            target: target.clone(),
            services: of(Kind::Service)?,
            workloads: of(Kind::Workload)?,
            policies,
            routes: list(console.get("/api/v1/routes")?),
        })
    }

    /// All that is written to give a version its part.
    fn documents(&self, version: &str, percent: u8) -> Result<Vec<Value>, Failure> {
        let mut parts = self.parts(version, percent)?;
        let route = match self.route() {
            Some(route) => shifted(route.clone(), &self.target, &parts, percent)?,
            None => self.split(&parts, percent)?,
        };
        parts.fresh.retain(|service| backends(&route).any(|backend| backend["name"] == service["metadata"]["name"]));
        self.tell_apart(&route, &parts.fresh)?;
        let own: Vec<&str> = backends(&route).filter_map(|backend| backend["name"].as_str()).collect();
        let own: BTreeSet<&str> = own.into_iter().filter(|name| self.is_marked(name, &parts.fresh)).collect();
        let policies: Vec<Value> = self.policies.iter().filter_map(|policy| self.widened(policy, &own)).collect();
        let mut documents = parts.fresh;
        documents.extend(policies);
        documents.push(route);
        Ok(documents)
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

    /// The route of the service. One of another name than a canary's is somebody's work: it's changed, not replaced.
    fn route(&self) -> Option<&Value> {
        let is_parent = |parent: &Value, own: &str| {
            parent["name"] == *self.target.name
                && *parent["namespace"].as_str().unwrap_or(own) == *self.target.namespace
        };
        self.routes.iter().rev().find(|route| {
            let own = route["metadata"]["namespace"].as_str().unwrap_or_default();
            each(&route["spec"]["parentRefs"]).any(|parent| is_parent(parent, own))
        })
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
            port: service["spec"]["ports"][0]["port"].as_u64().unwrap_or(80),
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
        Ok(Parts { version: part(&own), rest, fresh })
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
    fn split(&self, parts: &Parts, percent: u8) -> Result<Value, Failure> {
        let target = &self.target;
        let ports = self.service(&target.name).map(|base| list(base["spec"]["ports"].clone())).unwrap_or_default();
        let first = ports.first().cloned().unwrap_or_default();
        let kind = if first["appProtocol"] == "tcp" { Kind::TcpRoute } else { Kind::HttpRoute };
        let mut parent = json!({"group": "", "kind": "Service", "name": target.name});
        if ports.len() > 1 {
            parent["port"] = first["port"].clone();
        }
        let route = json!({
            "apiVersion": kind.api_version(),
            "kind": kind.name(),
            "metadata": {"name": target.name, "namespace": target.namespace, "labels": {MARK: target.name}},
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
    fn is_marked(&self, name: &str, fresh: &[Value]) -> bool {
        let is = |service: &&Value| service["metadata"]["name"] == *name && marked(service, &self.target);
        self.services.iter().chain(fresh).find(is).is_some()
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
    if let Some(route) = scene.route().filter(|route| !marked(route, target)) {
        let name = text(&route["metadata"]["name"]);
        let said = format!("route {name} of {target} was there before any canary: it is changed, not deleted");
        return Err(Failure::usage(said).next("`byrnie history` lists what can be taken back; `byrnie undo`").into());
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
    let gone: BTreeSet<&str> = services.iter().map(|service| text(&service["metadata"]["name"])).collect();
    for route in routes {
        delete(console, route, globals)?;
    }
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
        super::fault::write(&Value::Array(policies), "canary", None, globals)?;
    }
    for service in services {
        delete(console, service, globals)?;
    }
    Ok(Exit::Fine)
}

fn delete(console: &Console, resource: &Value, globals: &Globals) -> anyhow::Result<()> {
    let (kind, metadata) = (Kind::from_word(text(&resource["kind"])), &resource["metadata"]);
    let Some(kind) = kind else { return Ok(()) };
    let path = super::get::path(kind, text(&metadata["namespace"]), text(&metadata["name"]));
    let answer = console.delete(&(path + &console::query(&[("user", &console::user())])))?;
    output::print(globals, &answer, |_| super::apply::draw(&answer, globals.quiet))
}

/// The route with `percent` for the version in every rule that has backends; the others share the rest as before.
fn shifted(mut route: Value, target: &ServiceRef, parts: &Parts, percent: u8) -> Result<Value, Failure> {
    route = without_status(route);
    let name = text(&route["metadata"]["name"]).to_owned();
    let version = &parts.version.name;
    let mut changed = 0;
    for rule in route["spec"]["rules"].as_array_mut().into_iter().flatten() {
        let Some(backends) = rule["backendRefs"].as_array_mut().filter(|backends| !backends.is_empty()) else {
            continue;
        };
        replace(backends, target, &parts.rest);
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
        match backends.iter_mut().find(|backend| backend["name"] == *version) {
            Some(backend) => backend["weight"] = json!(own),
            None => backends.push(json!({"name": version, "port": parts.version.port, "weight": own})),
        }
        reduce(backends);
        changed += 1;
    }
    if changed == 0 {
        return Err(Failure::usage(format!("route {name} has no backends to share with")).next("byrnie get httproute"));
    }
    Ok(route)
}

/// Puts those that share the rest in the place of the service itself, by how many serve each.
fn replace(backends: &mut Vec<Value>, target: &ServiceRef, rest: &[Part]) {
    let is_base = |backend: &Value| {
        backend["name"] == *target.name && backend["namespace"].as_str().is_none_or(|at| *at == *target.namespace)
    };
    let Some(at) = backends.iter().position(is_base).filter(|_| rest.iter().all(|part| part.name != *target.name))
    else {
        return;
    };
    let total: u64 = rest.iter().map(|part| part.instances).sum::<u64>().max(1);
    let base = backends.remove(at);
    for backend in backends.iter_mut() {
        backend["weight"] = json!(weight(backend) * total);
    }
    for part in rest.iter().rev() {
        let own = weight(&base) * part.instances;
        if let Some(there) = backends.iter_mut().find(|backend| backend["name"] == *part.name) {
            there["weight"] = json!(weight(there) + own);
            continue;
        }
        let mut backend = base.clone();
        (backend["name"], backend["port"], backend["weight"]) = (json!(part.name), json!(part.port), json!(own));
        backends.insert(at.min(backends.len()), backend);
    }
}

/// Weights in lowest terms.
fn reduce(backends: &mut [Value]) {
    fn gcd(a: u64, b: u64) -> u64 {
        if b == 0 { a } else { gcd(b, a % b) }
    }
    let unit = backends.iter().filter_map(|backend| backend["weight"].as_u64()).fold(0, gcd).max(1);
    for backend in backends {
        if let Some(weight) = backend["weight"].as_u64() {
            backend["weight"] = json!(weight / unit);
        }
    }
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
mod tests {
    use super::*;
    use byrnie_model::yaml::{Defaults, parse};

    fn workload(name: &str, version: Option<&str>) -> Value {
        let mut labels = json!({"app": "pay"});
        if let Some(version) = version {
            labels[VERSION] = json!(version);
        }
        json!({"metadata": {"name": name, "labels": labels}})
    }

    fn service(name: &str, selector: &Value) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"selector": selector, "ports": [{"port": 80, "targetPort": 8080}]},
        })
    }

    /// `pay` in `shop`, served by these.
    fn scene(workloads: Vec<Value>) -> Scene {
        Scene {
            target: ServiceRef::new("shop", "pay"),
            services: vec![service("pay", &json!({"app": "pay"}))],
            workloads,
            policies: Vec::new(),
            routes: Vec::new(),
        }
    }

    /// What a route gives to whom, in one line.
    fn shares(documents: &[Value]) -> String {
        let backends = backends(documents.last().unwrap());
        backends.map(|b| format!("{} {}", text(&b["name"]), weight(b))).collect::<Vec<_>>().join(", ")
    }

    /// As after what was written was applied.
    fn apply(scene: &mut Scene, documents: &[Value]) {
        for document in documents {
            let list = match text(&document["kind"]) {
                "Service" => &mut scene.services,
                "HTTPRoute" => &mut scene.routes,
                _ => &mut scene.policies,
            };
            list.retain(|known| known["metadata"]["name"] != document["metadata"]["name"]);
            list.push(document.clone());
        }
    }

    #[test]
    fn versions_by_label_get_the_shares_that_were_said() {
        let mut scene = scene(vec![workload("a", Some("v1")), workload("b", Some("v1")), workload("c", Some("v2"))]);
        for (percent, expected) in [
            (10, "pay-v1 9, pay-v2 1"),
            (0, "pay-v1 1, pay-v2 0"),
            (100, "pay-v1 0, pay-v2 1"),
            (50, "pay-v1 1, pay-v2 1"),
        ] {
            let documents = scene.documents("v2", percent).unwrap();
            assert_eq!(shares(&documents), expected, "{percent}");
            apply(&mut scene, &documents);
        }
        // A third one, which isn't there yet.
        assert_eq!(scene.documents("v3", 10).unwrap_err().code, "BYR-C037");
        let documents = scene.documents("v3", 0).unwrap();
        assert_eq!(shares(&documents), "pay-v1 1, pay-v2 1, pay-v3 0");
        apply(&mut scene, &documents);
        scene.workloads.push(workload("d", Some("v3")));
        assert_eq!(shares(&scene.documents("v3", 20).unwrap()), "pay-v1 2, pay-v2 2, pay-v3 1");
        for document in &documents {
            let parsed = parse("t.yaml", &crate::output::yaml::emit(document), &Defaults::default());
            assert!(
                parsed.diagnostics.is_empty() && parsed.documents.len() == 1,
                "{document}: {:?}",
                parsed.diagnostics
            );
        }
    }

    #[test]
    fn others_share_the_rest_by_how_many_they_are() {
        let all = [("a", "v1"), ("b", "v1"), ("c", "v2"), ("d", "v3")];
        let scene = scene(all.map(|(name, version)| workload(name, Some(version))).into());
        assert_eq!(shares(&scene.documents("v3", 40).unwrap()), "pay-v1 2, pay-v2 1, pay-v3 2");
    }

    #[test]
    fn the_service_itself_is_no_backend_beside_a_version_of_it() {
        let mut scene = scene(vec![workload("a", Some("v1")), workload("b", Some("v2"))]);
        scene.services.push(service("pay-v2", &json!({"app": "pay", "version": "v2"})));
        assert_eq!(shares(&scene.documents("v2", 30).unwrap()), "pay-v1 7, pay-v2 3");
        // As an earlier canary, or somebody's hand, wrote it.
        scene.routes = vec![json!({
            "metadata": {"name": "r", "namespace": "shop"},
            "spec": {"parentRefs": [{"name": "pay"}], "rules": [{"backendRefs": [
                {"name": "pay", "port": 80, "weight": 90}, {"name": "pay-v2", "port": 80, "weight": 10},
            ]}]},
        })];
        assert_eq!(shares(&scene.documents("v2", 30).unwrap()), "pay-v1 7, pay-v2 3");
        // One that has instances of its own is the rest as it is.
        scene.routes.clear();
        scene.services = vec![service("pay", &json!({"version": "v1"})), service("pay-v2", &json!({"version": "v2"}))];
        assert_eq!(shares(&scene.documents("v2", 30).unwrap()), "pay 7, pay-v2 3");
    }

    #[test]
    fn who_cannot_be_told_apart_is_named() {
        let refused = |workloads| scene(workloads).documents("v2", 10).unwrap_err();
        let failure = refused(vec![workload("a", None), workload("b", Some("v2"))]);
        assert_eq!(failure.code, "BYR-C078", "{failure}");
        assert!(failure.detail.starts_with("a serves pay.shop"), "{failure}");
        let failure = refused(vec![workload("b", Some("v2"))]);
        assert!(failure.detail.contains("nobody to take the rest"), "{failure}");
        let mut both = scene(vec![workload("a", Some("v1")), workload("b", Some("v2"))]);
        both.services.push(service("pay-v1", &json!({"app": "pay"})));
        assert_eq!(both.documents("v2", 10).unwrap_err().code, "BYR-C078");
        // Nobody gets two shares where one of them has none.
        assert_eq!(shares(&both.documents("v2", 100).unwrap()), "pay-v1 0, pay-v2 1");
    }

    #[test]
    fn policies_of_the_service_hold_for_its_versions() {
        let mut scene = scene(vec![workload("a", Some("v1")), workload("b", Some("v2"))]);
        let policy = |name: &str, target: &str| {
            json!({"kind": "AccessPolicy", "metadata": {"name": name, "namespace": "shop"}, "status": {},
                   "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": target}]}})
        };
        scene.policies = vec![policy("own", "pay"), policy("other", "cart")];
        let documents = scene.documents("v2", 10).unwrap();
        let widened: Vec<&Value> = documents.iter().filter(|document| document["kind"] == "AccessPolicy").collect();
        assert_eq!(widened.len(), 1, "{documents:?}");
        let names: Vec<&str> = each(&widened[0]["spec"]["targetRefs"]).map(|target| text(&target["name"])).collect();
        assert_eq!(names, ["pay", "pay-v1", "pay-v2"]);
        apply(&mut scene, &documents);
        assert_eq!(scene.documents("v2", 20).unwrap().len(), 1, "the route alone");
    }

    #[test]
    fn weights_that_somebody_chose_stay_in_proportion() {
        let target = ServiceRef::new("shop", "pay");
        let parts = |version: &str| Parts {
            version: Part { name: version.into(), port: 80, instances: 1 },
            rest: Vec::new(),
            fresh: Vec::new(),
        };
        let route = |weights: &[(&str, u64)]| {
            let backends: Vec<Value> =
                weights.iter().map(|(name, weight)| json!({"name": name, "port": 80, "weight": weight})).collect();
            json!({"metadata": {"name": "r"}, "spec": {"rules": [{"backendRefs": backends}]}})
        };
        let three = route(&[("a", 3), ("b", 1)]);
        assert_eq!(shares(&[shifted(three, &target, &parts("c"), 20).unwrap()]), "a 3, b 1, c 1");
        assert!(shifted(route(&[("c", 1)]), &target, &parts("c"), 20).is_err());
    }
}
