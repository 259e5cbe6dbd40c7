// SPDX-License-Identifier: Apache-2.0
//! Why: what would happen to a request, by running the engine on the views of the caller's proxy and of
//! the callee's, and what happened to a past one, from its record. The same code decides as in the data
//! plane; nothing here decides by itself.

mod past;
mod sites;
#[cfg(test)]
mod tests;

pub use past::past;

use byrnie_base::{Now, Text};
use byrnie_catalog::{Catalog, NodeSpec, View};
use byrnie_codec::Head;
use byrnie_engine::{self as engine, Arrival, Compiler, Direction, Explanation, Gate, Node, Opaque, Snapshot, Tls};
use byrnie_model::diagnostic::nearest;
use byrnie_model::gateway::Port;
use byrnie_model::{Delta, Identity, Key, Kind, Resource, Revision, ServiceRef, Spec, Workload};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// The answer to "why".
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// `allow` (a route may answer by itself, too), `deny` (by a policy), or `fail` (answered by the mesh for another reason,
    /// or 5xx).
    pub decision: Text,
    /// The code of the BYR- registry; empty if all is well.
    pub code: Text,
    /// Why, in a sentence or a metric label; empty if all is well.
    pub reason: Text,
    /// The status that the mesh itself answers; 0 if it lets the request through.
    pub status: u16,
    /// What was decided, in order.
    pub steps: Vec<Step>,
    /// The rule that came nearest, and what it lacked; empty if none did.
    pub nearest: Text,
    /// What to do; empty if all is well.
    pub next: Text,
}

/// One decision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// What was decided: `identity`, `service`, `route`, `endpoint`, `access`, `program`, `answer`...
    pub hop: Text,
    /// The rule that decided; empty if none.
    pub rule: Text,
    /// Where the rule is written; empty if nowhere.
    pub place: Text,
    /// The decision in words.
    pub detail: Text,
    /// The proxy that decided, `NAMESPACE/WORKLOAD`.
    pub proxy: Text,
}

/// A request that might be made.
#[derive(Clone, Debug)]
pub struct Question {
    /// Upper case.
    pub method: String,
    /// `http` or `https`; `tcp` for an opaque connection, `udp` for a flow of datagrams.
    pub scheme: String,
    /// Host and perhaps port.
    pub authority: String,
    /// Path and query.
    pub path: String,
    /// Headers that routes may look at; of an opaque connection `sni`, the host that its TLS asks for.
    pub headers: Vec<(String, String)>,
    /// The caller: a workload, a service account, an identity, or `edge`.
    pub from: String,
    /// Namespace of bare names.
    pub namespace: String,
}

/// Why a question can't be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Puzzle {
    /// There's no such caller; perhaps this one is meant.
    NoCaller(Option<Text>),
    /// The request isn't one.
    BadRequest(String),
}

/// Who asks, and the proxy through which they do.
struct Caller {
    spec: NodeSpec,
    node: Node,
    view: View,
}

/// The host that the TLS of an opaque connection asks for.
fn sni(question: &Question) -> Option<&str> {
    question.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("sni")).map(|(_, host)| host.as_str())
}

/// What would happen to a request now.
///
/// # Errors
/// If the caller isn't known or the request isn't well formed.
pub fn ask(
    catalog: &Catalog,
    trust_domain: &Text,
    question: &Question,
    revision: Revision,
    now: Now,
) -> Result<Answer, Puzzle> {
    if let Some((site, identity)) = sites::caller(catalog, trust_domain, question) {
        return sites::ask(catalog, (&site, &identity), question, revision, now);
    }
    let caller = caller(catalog, trust_domain, question)?;
    let head = head(question)?;
    let snapshot = compile(&caller.node, &caller.view, revision);
    let source = caller.node.identity.clone();
    let gateway = caller.node.role == engine::Role::Gateway;
    let asked = service_asked(&head, &caller.node.namespace);
    let direction = match (gateway, question.scheme.as_str(), &asked) {
        (true, ..) => Direction::Edge(gate(&snapshot, question, &head)),
        (false, "tcp" | "udp", Some((service, port))) => {
            Direction::Service { service, port: *port, sni: sni(question) }
        }
        _ => Direction::Forward,
    };
    let tls = if gateway && question.scheme == "https" { Tls::Simple } else { Tls::None };
    let arrival = Arrival { direction, source: None, remote: nobody(), tls };
    let first = run(&snapshot, &arrival, &head, question, now);
    let mut answer = Answer::default();
    answer.step("identity", "", &caller.spec, format!("{source} calls, proven by its proxy's certificate"));
    answer.take(&first, &caller.spec);
    let onward = first.onward.as_ref().map(|on| {
        let callee = NodeSpec::sidecar(on.namespace.clone(), on.endpoint.clone());
        (on.service.clone(), on.port, callee, on.path.to_string())
    });
    if let Some(site) = first.onward.as_ref().and_then(|on| on.site.as_ref()) {
        let detail = format!("decided at site {site}, by the policies there, for {source}: its gateway only passes on");
        answer.step("access", "", &caller.spec, detail);
    }
    let target = onward.or_else(|| unseen(catalog, asked.as_ref(), &first, question));
    if let Some((service, port, spec, path)) = target
        && let Some(node) = sidecar(catalog, &spec)
    {
        let snapshot = compile(&node, &catalog.view(&spec), revision);
        let direction = Direction::Inbound { service: &service, port };
        let arrival = Arrival { direction, source: Some(&source), remote: nobody(), tls: Tls::Mutual };
        let head = head_at(question, &path)?;
        let second = run(&snapshot, &arrival, &head, question, now);
        // A refusal at the callee explains more than a caller's proxy that knows nothing of the service.
        if first.onward.is_none() && second.decision == "denied" {
            let told = answer.steps.pop();
            let status = first.status;
            let detail =
                format!("not told to the caller's proxy, which answers {status}: no policy lets the caller in");
            answer.step("visibility", "", &caller.spec, detail);
            answer.take(&second, &spec);
            // It isn't the callee that answers.
            answer.steps.pop();
            answer.steps.extend(told);
            answer.status = status;
        } else if first.onward.is_some() {
            answer.take(&second, &spec);
        }
    }
    // A host outside is asked by its own name, which isn't its service's.
    let led = first.onward.as_ref().map(|on| (on.service.clone(), on.port));
    let key = |at: &ServiceRef| Key::new(Kind::Service, at.namespace.clone(), at.name.clone());
    let known = asked.filter(|(service, _)| catalog.resource(&key(service)).is_some());
    answer.conclude(question, &source, known.or(led).as_ref());
    Ok(answer)
}

/// Whether a caller may make a call of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorization {
    /// It would.
    Allowed,
    /// It would not; why.
    Denied(Text),
    /// Nobody serves it at the moment, so nobody can tell.
    Nobody,
}

/// Whether the service asked would let `source` in, judged where it is enforced: at the proxy of one of its
/// workloads. The caller itself need not run.
pub fn authorize(
    catalog: &Catalog,
    source: &Identity,
    question: &Question,
    revision: Revision,
    now: Now,
) -> Authorization {
    let Ok(head) = head(question) else { return Authorization::Denied("not a request".into()) };
    let Some((service, port)) = service_asked(&head, &question.namespace) else { return Authorization::Nobody };
    let Some((spec, node)) =
        callee(catalog, &service).and_then(|spec| sidecar(catalog, &spec).map(|node| (spec, node)))
    else {
        return Authorization::Nobody;
    };
    let snapshot = compile(&node, &catalog.view(&spec), revision);
    let direction = Direction::Inbound { service: &service, port };
    let arrival = Arrival { direction, source: Some(source), remote: nobody(), tls: Tls::Mutual };
    let explanation = run(&snapshot, &arrival, &head, question, now);
    match &*explanation.decision {
        "denied" => {
            let nearest = &explanation.nearest;
            Authorization::Denied(if nearest.is_empty() { "no policy names it".into() } else { nearest.clone() })
        }
        "allowed" => Authorization::Allowed,
        _ => Authorization::Nobody,
    }
}

impl Answer {
    fn step(&mut self, hop: &str, place: &str, at: &NodeSpec, detail: String) {
        let proxy = format!("{}/{}", at.namespace, at.workload).into();
        self.steps.push(Step {
            hop: hop.into(),
            rule: Text::default(),
            place: place.into(),
            detail: detail.into(),
            proxy,
        });
    }

    fn take(&mut self, explanation: &Explanation, at: &NodeSpec) {
        let proxy: Text = format!("{}/{}", at.namespace, at.workload).into();
        self.steps.extend(explanation.steps.iter().map(|step| Step {
            hop: step.hop.into(),
            rule: step.rule.clone(),
            place: step.at.clone(),
            detail: step.detail.clone(),
            proxy: proxy.clone(),
        }));
        self.decision = match &*explanation.decision {
            "allowed" | "sent" => "allow",
            "denied" => "deny",
            // A redirect, or an answer of the route's own.
            "answered" if explanation.code.is_empty() => "allow",
            _ => "fail",
        }
        .into();
        self.code = explanation.code.clone();
        self.reason = explanation.reason.clone();
        self.status = explanation.status;
        self.nearest = explanation.nearest.clone();
        self.next = explanation.next.clone();
    }

    /// What to look at if a policy refused it: nothing that allows it outweighs that.
    fn denial(&self) -> Option<Text> {
        let ruled = self.steps.iter().find(|step| step.hop == "access" && !step.rule.is_empty())?;
        let (namespace, name) = ruled.place.strip_prefix("AccessPolicy/")?.split_once('/')?;
        let next = format!(
            "`byrnie get accesspolicy {name} -n {namespace}` shows what denies it; no `byrnie allow` outweighs that"
        );
        Some(next.into()).filter(|_| self.decision == "deny")
    }

    /// A refusal by policy has a next command of its own.
    fn conclude(&mut self, question: &Question, source: &Identity, asked: Option<&(ServiceRef, u16)>) {
        if let Some(next) = self.denial() {
            self.next = next;
        } else if let (true, Some((service, _))) = (self.decision == "deny", asked) {
            let path = question.path.split('?').next().unwrap_or_default();
            let what =
                if opaque(question).is_some() { String::new() } else { format!(" \"{} {path}\"", question.method) };
            let from = word(source.namespace(), source.service_account(), &question.namespace);
            let to = word(&service.namespace, &service.name, &question.namespace);
            self.next = format!("byrnie allow {from} {to}{what}").into();
        }
    }
}

/// A name as one would type it.
fn word(namespace: &str, name: &str, own: &str) -> String {
    if namespace == own { name.to_owned() } else { format!("{name}.{namespace}") }
}

/// What passes, if it's nothing that anybody looks at.
fn opaque(question: &Question) -> Option<Opaque> {
    match question.scheme.as_str() {
        "tcp" => Some(Opaque::Bytes),
        "udp" => Some(Opaque::Datagrams),
        _ => None,
    }
}

fn run(snapshot: &Arc<Snapshot>, arrival: &Arrival<'_>, head: &Head, question: &Question, now: Now) -> Explanation {
    match opaque(question) {
        Some(opaque) => engine::explain_tunnel(snapshot, (arrival, opaque), now),
        None => engine::explain(snapshot, arrival, head, now),
    }
}

fn compile(node: &Node, view: &View, revision: Revision) -> Arc<Snapshot> {
    let mut compiler = Compiler::new(node.clone());
    let delta = Delta { changed: view.resources.clone(), removed: Vec::new() };
    // What is refused here was refused by the proxy as well, and is shown as that resource's status.
    let _ = compiler.apply(&delta, revision);
    compiler.snapshot()
}

/// When the caller's proxy finds no way there: a workload behind the service, to see whether it would
/// let the caller in.
fn unseen(
    catalog: &Catalog,
    asked: Option<&(ServiceRef, u16)>,
    first: &Explanation,
    question: &Question,
) -> Option<(ServiceRef, u16, NodeSpec, String)> {
    let (service, port) = asked?;
    if !matches!(first.status, 0 | 403 | 404) {
        return None;
    }
    Some((service.clone(), *port, callee(catalog, service)?, question.path.clone()))
}

/// The proxy of one of a service's endpoints.
fn callee(catalog: &Catalog, service: &ServiceRef) -> Option<NodeSpec> {
    catalog.endpoints(service).find_map(|resource| match &resource.spec {
        Spec::Endpoint(endpoint) => {
            Some(NodeSpec::sidecar(endpoint.identity.namespace().clone(), endpoint.workload.clone()))
        }
        _ => None,
    })
}

/// The service that the authority names, as the forward listener reads it: `NAME`, `NAME.NAMESPACE` or
/// `NAME.NAMESPACE.mesh`, with port 80 unless given.
fn service_asked(head: &Head, namespace: &str) -> Option<(ServiceRef, u16)> {
    let authority = head.authority();
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (authority, 80),
    };
    let host = host.strip_suffix(".localhost").unwrap_or(host);
    let host = host.strip_suffix(".mesh").unwrap_or(host);
    let mut parts = host.split('.');
    let (name, space) = (parts.next()?, parts.next().unwrap_or(namespace));
    (parts.next().is_none() && !name.is_empty()).then(|| (ServiceRef::new(space, name), port))
}

/// The port of the edge that a URL leads to: one of gateways' listeners, or its own.
fn gate<'a>(snapshot: &Snapshot, question: &Question, head: &'a Head) -> Gate<'a> {
    match (head.port(), question.scheme.as_str()) {
        (port, "udp") => Gate::Datagrams(port.unwrap_or(80)),
        (port, "https" | "tcp") => {
            Gate::Port { number: port.unwrap_or(443), sni: Some(head.host()), certificate: None }
        }
        (Some(number), _) if snapshot.gates().contains_key(&Port::Tcp(number)) => {
            Gate::Port { number, sni: None, certificate: None }
        }
        _ => Gate::Own,
    }
}

fn head(question: &Question) -> Result<Head, Puzzle> {
    head_at(question, &question.path)
}

fn head_at(question: &Question, path: &str) -> Result<Head, Puzzle> {
    let mut head = Head::new();
    let scheme = if opaque(question).is_some() { "http" } else { &question.scheme };
    let bad = |_| Puzzle::BadRequest(format!("{} {} is not a request", question.method, question.authority));
    head.start_request(&question.method, scheme, &question.authority, path).map_err(bad)?;
    for (name, value) in &question.headers {
        let bad = |_| Puzzle::BadRequest(format!("{name} is not a header"));
        head.append(name, value.as_bytes()).map_err(bad)?;
    }
    Ok(head)
}

/// The caller that a word means: the edge, a workload, or any workload of a service account.
fn caller(catalog: &Catalog, trust_domain: &Text, question: &Question) -> Result<Caller, Puzzle> {
    let from = question.from.as_str();
    if matches!(from, "edge" | "edge.byrnie" | "byrnie/edge") {
        let identity = Identity::new(trust_domain, Identity::SYSTEM_NAMESPACE, "edge")
            .map_err(|error| Puzzle::BadRequest(error.to_string()))?;
        let spec = NodeSpec::gateway(Identity::SYSTEM_NAMESPACE, "edge");
        let node = Node {
            name: spec.workload.clone(),
            namespace: spec.namespace.clone(),
            identity,
            locality: byrnie_model::service::Locality::default(),
            role: engine::Role::Gateway,
        };
        return Ok(Caller { view: catalog.view(&spec), spec, node });
    }
    let (namespace, name) = match (from.split_once('/'), from.split_once('.')) {
        (Some((namespace, name)), _) if !from.starts_with("spiffe:") => (namespace, name),
        (None, Some((name, namespace))) => (namespace, name),
        _ => (question.namespace.as_str(), from),
    };
    let of_namespace = |resource: &&Arc<Resource>| *resource.key.namespace == *namespace;
    let workloads = || catalog.iter(Kind::Workload);
    let by_name = workloads().filter(of_namespace).find(|resource| *resource.key.name == *name);
    let fits = |resource: &&Arc<Resource>| {
        let Spec::Workload(workload) = &resource.spec else { return false };
        workload.identity.to_string() == from
            || (*resource.key.namespace == *namespace && *workload.identity.service_account().as_str() == *name)
    };
    let Some(resource) = by_name.or_else(|| workloads().find(fits)) else {
        let accounts: Vec<Text> = workloads().filter_map(|r| account(r)).collect();
        return Err(Puzzle::NoCaller(nearest(name, accounts.iter().map(|a| &**a)).map(Text::from)));
    };
    // Whoever names a service by a URL does so at a forward listener.
    let spec = NodeSpec::sidecar(resource.key.namespace.clone(), resource.key.name.clone()).forwarding(true);
    let node = sidecar(catalog, &spec).ok_or(Puzzle::NoCaller(None))?;
    Ok(Caller { view: catalog.view(&spec), spec, node })
}

fn account(resource: &Resource) -> Option<Text> {
    workload(resource).map(|workload| workload.identity.service_account().clone())
}

fn workload(resource: &Resource) -> Option<&Workload> {
    match &resource.spec {
        Spec::Workload(workload) => Some(workload),
        _ => None,
    }
}

fn sidecar(catalog: &Catalog, spec: &NodeSpec) -> Option<Node> {
    let key = Key::new(Kind::Workload, spec.namespace.clone(), spec.workload.clone());
    let workload = workload(catalog.resource(&key)?)?;
    Some(Node {
        name: spec.workload.clone(),
        namespace: spec.namespace.clone(),
        identity: workload.identity.clone(),
        locality: workload.locality.clone(),
        role: engine::Role::Sidecar,
    })
}

/// An address that stands for no one: the engine never trusts an address.
const fn nobody() -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0)
}
