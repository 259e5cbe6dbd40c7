// SPDX-License-Identifier: Apache-2.0
//! A byrnie proxy as it ships (limits, metrics, decision records, access checks), but for where its
//! configuration comes from: it's given here, so that one hop can be measured without the rest of a mesh.
//! As `caller` it takes requests in clear and sends them over mutual TLS to the app, by routes, edits and
//! balance; as `callee` it takes them over mutual TLS, checks access, and sends them to the app in clear.

use crate::LIFE_MAX;
use crate::pki::{self, DOMAIN};
use crate::tally::say;
use crate::words::Words;
use anyhow::{Context, Result, bail};
use byrnie_engine::{Compiler, Node, Role};
use byrnie_model::policy::access::{AccessPolicy, Action, HttpMatch, Mode, PathPattern, Rule, Source as Caller};
use byrnie_model::resource::{DefaultAccess, Mesh};
use byrnie_model::route::{
    Backend, Destination, HeaderEdits, Match, NamedMatch, Parent, PathMatch, RouteFilter, ValueMatch,
};
use byrnie_model::service::{Locality, PortPair, ServicePort, TargetPort};
use byrnie_model::workload::WorkloadPort;
use byrnie_model::{
    Delta, Endpoint, Health, Key, Kind, Labels, Protocol, Resource, Revision, Route, Service, ServiceRef, Spec,
    Workload,
};
use byrnie_net::runtime;
use byrnie_proxy::{AccessLog, Config, Hop, Mount, Sidecar, Source, Users};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::sync::watch;

/// Routes before the one that fits.
const ROUTES_BEFORE: usize = 12;

/// `proxy role=... pki=DIR state=DIR next=ADDR,... `.
pub(crate) fn run(words: &Words) -> Result<()> {
    let role = words.text("role").unwrap_or_default();
    let (name, resources) = match role {
        "caller" => ("web", caller(words)?),
        "callee" => ("app", callee(words)?),
        _ => bail!("role={role}"),
    };
    let (loopback, identity) = (SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), pki::identity(name)?);
    let node = Node {
        name: name.into(),
        namespace: "default".into(),
        identity: identity.clone(),
        locality: Locality::default(),
        role: Role::Sidecar,
    };
    let mut compiler = Compiler::new(node);
    let changed = resources.into_iter().map(Arc::new).collect();
    let refused = compiler.apply(&Delta { changed, removed: Vec::new() }, Revision(1));
    if !refused.is_empty() {
        bail!("configuration refused: {refused:?}");
    }
    let (_news, snapshots) = watch::channel(compiler.snapshot());
    let uses = if role == "caller" { vec![app()] } else { Vec::new() };
    let port = if role == "callee" { words.address("next")?.port() } else { 1 };
    let workload = Workload { uses, ..workload(name, port, protocol(words)?)? };
    let sidecar = Sidecar {
        workload,
        labels: Labels::new(),
        service: name.into(),
        inbound: if words.text("listen").is_some() { words.address("listen")? } else { loopback },
        forward: None,
        forward_for: Users::Any,
        listening: None,
    };
    let credentials = Box::new(pki::credentials(&words.path("pki")?, name)?);
    let mut running = byrnie_proxy::start(Config {
        namespace: "default".into(),
        name: name.into(),
        identity,
        mount: Mount::Sidecar(Box::new(sidecar)),
        source: Source::Given { snapshots, credentials },
        state_dir: words.path("state")?,
        admin: loopback,
        admin_token: None,
        strict_ports: true,
        workers: words.number("workers", 1)?,
        access_log: AccessLog::Off,
        hop: hop(words)?,
    })?;
    runtime::block_on(async move {
        let ports = running.ready().await?;
        let entry = if role == "caller" { ports.outbound.first().map(|one| one.address) } else { ports.inbound };
        say(&format!("ready {}", entry.context("no entry")?))?;
        // Returned from main, not killed: what a build with counters has counted is written as a process exits.
        let _ = runtime::timeout(LIFE_MAX, runtime::terminated()).await;
        Ok(())
    })?
}

fn caller(words: &Words) -> Result<Vec<Resource>> {
    let mut resources = vec![mesh(), service(1, protocol(words)?)];
    for (at, address) in words.addresses("next")?.into_iter().enumerate() {
        resources.push(endpoint(at, address)?);
    }
    if words.flag("edits") {
        resources.push(route());
    }
    Ok(resources)
}

fn callee(words: &Words) -> Result<Vec<Resource>> {
    let (port, protocol) = (words.address("next")?.port(), protocol(words)?);
    let mut own = resource(Kind::Workload, "app", Spec::Workload(Box::new(workload("app", port, protocol)?)));
    own.labels = labels();
    Ok(vec![mesh(), service(port, protocol), own, access()])
}

fn protocol(words: &Words) -> Result<Protocol> {
    Ok(match words.text("protocol").unwrap_or("http") {
        "http" => Protocol::Http1,
        "http2" => Protocol::Http2,
        "grpc" => Protocol::Grpc,
        other => bail!("protocol={other}"),
    })
}

/// What it speaks to other proxies, as `BYRNIE_HOP` has it.
fn hop(words: &Words) -> Result<Hop> {
    Ok(match words.text("hop").unwrap_or("framed") {
        "framed" => Hop::Framed,
        "http1" => Hop::Http1,
        other => bail!("hop={other}"),
    })
}

fn app() -> ServiceRef {
    ServiceRef::new("default", "app")
}

fn labels() -> Labels {
    [("app".into(), "app".into())].into()
}

fn resource(kind: Kind, name: &str, spec: Spec) -> Resource {
    let namespace = if kind == Kind::Mesh { "" } else { "default" };
    Resource {
        key: Key::new(kind, namespace, name),
        revision: Revision(1),
        created: Revision(1),
        labels: Labels::new(),
        origin: None,
        spec,
    }
}

fn mesh() -> Resource {
    let mesh =
        Mesh { trust_domain: DOMAIN.into(), default_access: DefaultAccess::Deny, otlp: None, limits: Box::default() };
    resource(Kind::Mesh, "mesh", Spec::Mesh(mesh))
}

fn service(target: u16, protocol: Protocol) -> Resource {
    let port = ServicePort { name: "".into(), port: 80, target: TargetPort::Number(target), protocol, prefixed: false };
    resource(
        Kind::Service,
        "app",
        Spec::Service(Service {
            ports: vec![port],
            selector: labels(),
            outside: None,
            publish_not_ready: false,
            pool: None,
        }),
    )
}

fn workload(name: &str, port: u16, protocol: Protocol) -> Result<Workload> {
    Ok(Workload {
        identity: pki::identity(name)?,
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        ports: vec![WorkloadPort { name: "".into(), port, protocol }],
        inbound: None,
        admin: None,
        uses: Vec::new(),
        locality: Locality::default(),
        weight: 1,
        health: Health::Healthy,
        check: None,
    })
}

fn endpoint(at: usize, address: SocketAddr) -> Result<Resource> {
    let endpoint = Endpoint {
        service: app(),
        workload: format!("app-{at}").into(),
        way: None,
        identity: pki::identity("app")?,
        address,
        ports: vec![PortPair { service: 80, target: 1 }],
        labels: labels(),
        locality: Locality::default(),
        weight: 1,
        health: Health::Healthy,
    };
    Ok(resource(Kind::Endpoint, &format!("app/app-{at}"), Spec::Endpoint(Box::new(endpoint))))
}

/// `web` alone may call, and only what it calls.
fn access() -> Resource {
    let rule = |sources, path: &str| Rule {
        sources,
        ports: Vec::new(),
        http: vec![HttpMatch {
            methods: vec!["GET".into(), "POST".into()],
            paths: vec![PathPattern::Below(path.into())],
        }],
    };
    let account = |name: &str| vec![Caller::ServiceAccount { namespace: "default".into(), name: name.into() }];
    let rules = vec![rule(account("other"), "/"), rule(account("web"), "/b/"), rule(account("web"), "/bench.Echo/")];
    let policy = AccessPolicy { mode: Mode::Enforce, targets: vec![app()], action: Action::Allow, rules };
    resource(Kind::AccessPolicy, "app", Spec::Access(Arc::new(policy)))
}

/// Thirteen rules, the last of which fits by path and header, with edits of both heads.
fn route() -> Resource {
    let edits = |name: &str, gone: &str| HeaderEdits {
        set: vec![(name.into(), "1".into())],
        add: vec![("x-added".into(), "by the route".into())],
        remove: vec![gone.into()],
    };
    let rule = |path: String, header: Option<&str>| byrnie_model::route::Rule {
        name: "".into(),
        matches: vec![Match {
            path: PathMatch::Prefix(path.as_str().into()),
            headers: header
                .map(|name| NamedMatch { name: name.into(), value: ValueMatch::Exact("no-cache".into()) })
                .into_iter()
                .collect(),
            ..Match::default()
        }],
        filters: vec![
            RouteFilter::RequestHeaders(edits("x-set", "referer")),
            RouteFilter::ResponseHeaders(edits("x-answered", "server")),
        ],
        backends: vec![Backend { to: Destination::new(app(), 80), weight: 1, filters: Vec::new() }],
        timeout: None,
        backend_timeout: None,
        retry: None,
        session: None,
    };
    let mut rules: Vec<_> = (0..ROUTES_BEFORE).map(|at| rule(format!("/other/{at}"), None)).collect();
    rules.push(rule("/b".to_owned(), Some("cache-control")));
    let route = Route { parents: vec![Parent::service(app(), None)], hostnames: Vec::new(), rules };
    resource(Kind::HttpRoute, "app", Spec::Route(Arc::new(route)))
}
