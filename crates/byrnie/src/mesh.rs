// SPDX-License-Identifier: Apache-2.0
//! The mesh inside `byrnie up`: store, control plane, edge, egress and DNS in one process, with the two files by
//! which clients find it (`ports.json`, `token`) and the certificates that vouch for it.

use crate::documents::Document;
use crate::failure::{self, Failure};
use crate::globals::Globals;
use crate::handover::{self, Belongings, Charge, Done, Post, Will};
use crate::join::ROOTS_FILE;
use crate::outbound::ThroughProxy;
use anyhow::{Context, Result};
use byrnie_base::{Clock as _, Instant, Text};
use byrnie_control::apply::{self, Action};
use byrnie_control::keys::Keys;
use byrnie_control::{State, ca, control, history, ingest, transactions};
use byrnie_model::service::Locality;
use byrnie_model::workload::WorkloadPort;
use byrnie_model::yaml::{self, Defaults};
use byrnie_model::{Health, Identity, Key, Kind, Protocol, ServiceRef, Spec, Workload, code};
use byrnie_net::dns::{self, Known, Names};
use byrnie_net::listen::Listener;
use byrnie_net::listen::Ports;
use byrnie_net::runtime::{self, Trigger};
use byrnie_proxy::{AccessLog, Control, Gateway, Handed, Hop, Mount, Sidecar, Source, Tokens, Users};
use byrnie_store::{Embedded, Journal, Ledger, OpenError, Store, ledger, log};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Default ports, as the user's documents name them.
const CONTROL_PORT: u16 = 7778;
/// File in the data directory that remembers the control port from one start to the next.
const CONTROL_PORT_FILE: &str = "control.port";
/// File in the data directory that says that its idempotency keys have gone to a database.
const KEYS_MOVED_FILE: &str = "ledger.moved";
const ADMIN_PORT: u16 = 7779;
const EDGE_PORT: u16 = 7780;
const DNS_PORT: u16 = 7753;
/// How long the edge waits for the control plane in its own process.
const EDGE_PATIENCE: Duration = Duration::from_secs(10);
/// How long the edge waits for running exchanges at the end.
const EDGE_DRAIN: Duration = Duration::from_secs(3);
/// How long the demo's traffic is waited for.
const TRAFFIC_PATIENCE: Duration = Duration::from_secs(60);
/// How often it's looked for.
const TRAFFIC_POLL: Duration = Duration::from_millis(50);
/// Threads that a proxy may be given.
pub(crate) const WORKERS_MAX: i64 = 256;
/// Proxies of the mesh's own: the edge, the coordinator's and the egress.
pub(crate) const PROXIES: usize = 3;
/// Life of the edge's join tokens.
const TOKEN_LIFE: Duration = Duration::from_secs(300);

/// What every mesh begins with: its defaults, the policy that lets its loopback edge in, and the one for the
/// coordinator of transactions, which itself lets each creator do only what the creator might.
const BUILT_IN: &str = "\
apiVersion: mesh.byrnie.dev/v1alpha1
kind: AccessPolicy
metadata: {name: edge, namespace: byrnie}
spec:
  action: ALLOW
  rules: [{sources: [{type: ServiceAccount, serviceAccount: {name: edge, namespace: byrnie}}]}]
---
apiVersion: mesh.byrnie.dev/v1alpha1
kind: AccessPolicy
metadata: {name: transactions, namespace: byrnie}
spec:
  action: ALLOW
  rules: [{sources: [{type: ServiceAccount, serviceAccount: {name: transactions, namespace: byrnie}}]}]
";

/// The coordinator of transactions as a service: HTTP, and gRPC where clients of dtm look for it.
const COORDINATOR: &str = "\
apiVersion: v1
kind: Service
metadata: {name: transactions, namespace: byrnie, labels: {app: transactions}}
spec:
  selector: {app: transactions}
  ports:
  - {name: http, port: 80, targetPort: http, appProtocol: http}
  - {name: grpc, port: 36790, targetPort: grpc, appProtocol: grpc}
";
const COORDINATOR_GRPC_PORT: u16 = 36_790;

/// Listeners that an earlier program leaves to this one.
const DOORS: [&str; 5] = ["control", "console", "transactions by HTTP", "transactions by gRPC", "DNS"];

/// How to start.
pub(crate) struct Options {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Where the console listens.
    pub console: SocketAddr,
    /// Refuse a busy port instead of taking the next.
    pub strict_ports: bool,
    /// A new mesh is called `demo.local` instead of `mesh.local`, unless it's given a name.
    pub demo: bool,
    /// The trust domain of a new mesh, and what that of an old one has to be.
    pub trust_domain: Option<Text>,
    /// Threads of the edge that move traffic.
    pub workers: usize,
    /// The database of transactions, instead of a file in the data directory.
    pub transactions: Option<String>,
    /// Keys under which answers to keyed requests and of transactions rest, of all control planes that keep them.
    pub ledger_keys: Option<PathBuf>,
}

/// A mesh that runs.
pub(crate) struct Mesh {
    control: control::Running,
    /// Where the edge's admin listener and its own port are.
    edge: (SocketAddr, SocketAddr),
    /// The edge, the coordinator's and the egress.
    proxies: Vec<Post>,
    dns: dns::Server,
    dns_trigger: Trigger,
    data_dir: PathBuf,
    token: String,
    /// Where the console and the control port were to be.
    asked: [u16; 2],
}

/// Starts everything; comes back when the edge answers. After an earlier program in this process, all but the proxies: they
/// are in its `will`, and go on.
///
/// # Errors
/// With a code and what to do, whatever is wrong.
pub(crate) async fn start(options: &Options, globals: &Globals, will: Option<&Will>) -> Result<Mesh> {
    let dir = &options.data_dir;
    if dir.exists() && !dir.is_dir() {
        return Err(failure::of_file(dir, &std::io::ErrorKind::NotADirectory.into()).into());
    }
    std::fs::create_dir_all(dir).map_err(|error| failure::of_file(dir, &error))?;
    let path = dir.join("store.redb");
    let store = Embedded::open(&path, Arc::new(*runtime::clock()))
        .map_err(|error| of_open(&error).at(path.display().to_string()))?;
    let store: Arc<dyn Store> = Arc::new(store);
    let trust_domain = trust_domain(store.as_ref(), options).await?;
    let token = operator_token(&dir.join("token"))?;
    let asked_control = control_port(options);
    let keys = open_keys(options)?;
    let journal = Arc::new(transactions::Sealed::new(open_journal(options, &trust_domain).await?, Arc::clone(&keys)));
    let ledger = Arc::new(byrnie_control::ledger::Sealed::new(open_ledger(options, &trust_domain)?, keys));
    let config = control::Config {
        store,
        journal,
        ledger,
        data_dir: dir.clone(),
        trust_domain,
        console: options.console,
        control: SocketAddr::new(options.console.ip(), asked_control),
        strict_ports: options.strict_ports,
        names: Vec::new(),
        leaf_lifetime: control::LEAF_LIFETIME,
        operator_token: token.clone(),
        assets: crate::assets::assets(),
    };
    let sockets = will.map(sockets).transpose()?;
    let control = control::resume(config, sockets).await.map_err(|error| of_control(&error))?;
    let roots = dir.join(ROOTS_FILE);
    std::fs::write(&roots, control.authority.roots_pem()).map_err(|error| failure::of_file(&roots, &error))?;
    let domain = format!(
        "apiVersion: mesh.byrnie.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: mesh}}\nspec: {{trustDomain: {}}}\n---\n",
        control.state.trust_domain
    );
    // In one revision, once: who deletes a policy later doesn't find it back after the next start.
    let mesh = Key::new(Kind::Mesh, "", "mesh");
    if control.state.catalog(|catalog| catalog.resource(&mesh).is_none()) {
        put_absent(&control.state, &(domain + BUILT_IN)).await?;
    }
    let (edge, proxies) = match will {
        None => start_proxies(options, globals, &control).await?,
        Some(will) => (proxies_of(will, &control)?, Vec::new()),
    };
    control.state.edge_listens(edge.0);
    crate::join::forget_the_dead(dir);
    let server = bind_dns(options, will)?;
    let dns = server.share().context("cannot share a socket")?;
    let dns_trigger = start_dns(server, Arc::clone(&control.state));
    let data_dir = dir.clone();
    let asked = [options.console.port(), asked_control];
    Ok(Mesh { control, edge, proxies, dns, dns_trigger, data_dir, token, asked })
}

/// The control plane's sockets, as the earlier program had them.
fn sockets(will: &Will) -> Result<control::Sockets> {
    let find = |door: &str| {
        let found = will.listeners().find(|(name, _)| *name == door);
        found.map(|(_, listener)| listener.share()).with_context(|| format!("the earlier program left no {door}"))
    };
    let transactions = [find(DOORS[2])?, find(DOORS[3])?];
    Ok(control::Sockets { control: find(DOORS[0])?, console: find(DOORS[1])?, transactions })
}

/// Connects the control plane to proxies that go on; where the edge is.
fn proxies_of(will: &Will, control: &control::Running) -> Result<(SocketAddr, SocketAddr)> {
    let at = |name: &str, door: &str| {
        let found = will.listener_of(name, |is| is.starts_with(door)).map(Listener::local_addr);
        found.with_context(|| format!("the earlier program left no {door} of {name}"))
    };
    control.transactions.connect(Arc::new(ThroughProxy::new(at(transactions::ACCOUNT, "forward")?)));
    Ok((at("edge", "admin")?, at("edge", "edge")?))
}

type Started = ((SocketAddr, SocketAddr), Vec<Post>);

/// Starts the edge, the coordinator's proxy and the egress.
async fn start_proxies(options: &Options, globals: &Globals, control: &control::Running) -> Result<Started> {
    let (edge, ports) = start_edge(options, globals, control).await?;
    let own = ports.edge.context("the edge does not listen")?;
    let coordinator = start_coordinator(options, globals, control).await?;
    let egress = Own { account: Identity::EGRESS_ACCOUNT, service: "", serves: Vec::new(), calls: false };
    let (egress, _) = start_own(options, globals, control, egress).await?;
    Ok(((ports.admin, own), vec![edge, coordinator, egress]))
}

impl Mesh {
    /// Applies the documents of files, all or nothing.
    ///
    /// # Errors
    /// If one is invalid (all that is wrong is then shown), or the store refuses.
    pub(crate) async fn apply(&self, files: &[Document], namespace: &str) -> Result<()> {
        let defaults = Defaults { namespace: namespace.into(), ..defaults(&self.control.state) };
        let mut actions = Vec::new();
        let mut refused = false;
        for file in files {
            let parsed = yaml::parse(&file.file, &file.text, &defaults);
            refused |= parsed.has_errors();
            for diagnostic in &parsed.diagnostics {
                eprint!("{}", diagnostic.render());
            }
            actions.extend(parsed.documents.into_iter().map(|d| Action::Put(d.resource)));
        }
        if refused {
            return Err(Failure::new(code::BAD_VALUE.id, "the files hold mistakes; nothing was applied").into());
        }
        apply::apply(&self.control.state, &actions, "up", "up -f").await.map_err(|error| of_apply(&error))?;
        Ok(())
    }

    /// Applies the documents of `text` whose resources don't exist yet, so that changes of the user stay.
    pub(crate) async fn apply_if_absent(&self, text: &str) -> Result<()> {
        put_absent(&self.control.state, text).await
    }

    /// Writes `ports.json`, by which clients on this machine find the mesh.
    ///
    /// # Errors
    /// If the data directory can't be written.
    pub(crate) fn publish(&self) -> Result<()> {
        let control = self.control.control.port().to_string();
        write_whole(&self.data_dir.join(CONTROL_PORT_FILE), control.as_bytes(), 0o644)?;
        write_whole(&self.data_dir.join("ports.json"), self.ports().to_string().as_bytes(), 0o644)
    }

    fn ports(&self) -> serde_json::Value {
        serde_json::json!({
            "console": self.control.console.port(),
            "control": self.control.control.port(),
            "admin": self.edge.0.port(),
            "edge": self.edge.1.port(),
            "dns": self.dns.local_addr().port(),
        })
    }

    /// Says on standard error that the mesh is ready.
    pub(crate) fn announce(&self, globals: &Globals, started: Instant) {
        let ports = self.ports();
        let took = runtime::now().mono.since(started);
        if !globals.quiet {
            let (version, domain) = (env!("CARGO_PKG_VERSION"), &self.control.state.trust_domain);
            eprintln!("  byrnie {version} · trust domain {domain} · data {}", self.data_dir.display());
            say_moved_ports(&ports, self.asked);
            eprintln!("  dashboard  http://localhost:{}/#token={}", ports["console"], self.token);
            eprintln!("  edge       http://SERVICE.mesh.localhost:{}/", ports["edge"]);
            eprintln!("  next       byrnie run --name hello --port 3000 -- python3 -m http.server 3000");
        }
        eprintln!("ready after {:.1} s", took.as_secs_f64());
    }

    /// Says when the first encrypted request was seen, and when every edge of the demo carries some. Comes
    /// back after [`TRAFFIC_PATIENCE`] at most.
    pub(crate) async fn announce_traffic(&self, started: Instant) {
        let mut first = None;
        while runtime::now().mono.since(started) < TRAFFIC_PATIENCE {
            let now = runtime::now().mono;
            let edges = self.control.state.observe(|observer| observer.edges(TRAFFIC_PATIENCE, now));
            let mutual = edges.iter().filter(|edge| &*edge.tls == "mutual").count();
            if mutual > 0 && first.is_none() {
                first = Some(now.since(started));
            }
            if let Some(first) = first.filter(|_| mutual >= crate::demo::EDGES && mutual == edges.len()) {
                eprintln!(
                    "  ✓ traffic   {mutual} of {} edges encrypted (TLS 1.3, identities verified); first request after {:.1} s",
                    edges.len(),
                    first.as_secs_f64()
                );
                eprintln!("              payments v2 answers 503 to 1 in 2: byrnie explain last --status 503");
                return;
            }
            runtime::sleep(TRAFFIC_POLL).await;
        }
    }

    /// Lets `byrnie upgrade` replace the proxies, and then hears of it.
    pub(crate) fn attend(&self, then: mpsc::Sender<Done>) {
        handover::attend(&self.data_dir, self.proxies.clone(), Some(then));
    }

    /// The proxies of an earlier program in this process are this one's.
    pub(crate) fn take_over(&mut self, proxies: Vec<Post>) {
        self.proxies = proxies;
    }

    /// Leaves all to another program in this process: the control plane stops, its sockets and the proxies go on.
    ///
    /// # Errors
    /// If that isn't possible; the mesh has stopped then.
    pub(crate) async fn leave(self, children: Vec<(String, u32)>, done: Done) -> Result<Will> {
        let since = runtime::now().wall.as_millis();
        let control::Sockets { control, console, transactions: [http, grpc] } = self.control.sockets.share();
        let (dns, dns_tcp) = self.dns.into_parts();
        let sockets = [control, console, http, grpc, dns_tcp];
        let handed = |(door, socket): (&str, Listener)| Handed { door: door.to_owned(), sockets: vec![socket] };
        let listeners = DOORS.into_iter().zip(sockets).map(handed).collect();
        let will = Will::make(&self.proxies, Belongings { listeners, dns, children, talk: done.talk, since }).await?;
        self.dns_trigger.fire();
        self.control.stop().await;
        Ok(will)
    }

    /// Stops: the edge drains, streams end, the store closes.
    pub(crate) async fn stop(self) {
        // A client that looks for a mesh here finds none, rather than one that doesn't answer.
        drop(std::fs::remove_file(self.data_dir.join("ports.json")));
        // At once, each on its own.
        let ended: Vec<_> = self.proxies.into_iter().map(|proxy| proxy.into_drain(EDGE_DRAIN)).collect();
        for one in ended {
            one.ended().await;
        }
        self.dns_trigger.fire();
        self.control.stop().await;
    }
}

fn say_moved_ports(ports: &serde_json::Value, [console, control]: [u16; 2]) {
    let asked =
        [("console", console), ("control", control), ("admin", ADMIN_PORT), ("edge", EDGE_PORT), ("dns", DNS_PORT)];
    for (name, port) in asked {
        // Who asks for port 0 takes any.
        if port != 0 && ports[name] != port {
            eprintln!("  ! port {port} for {name} is busy; it listens on {} instead", ports[name]);
        }
    }
}

/// Where the control port was the last time: proxies that went on meanwhile look for it there.
fn control_port(options: &Options) -> u16 {
    if options.strict_ports {
        return CONTROL_PORT;
    }
    let last = std::fs::read_to_string(options.data_dir.join(CONTROL_PORT_FILE)).ok();
    last.and_then(|text| text.trim().parse().ok()).unwrap_or(CONTROL_PORT)
}

fn defaults(state: &State) -> Defaults {
    Defaults { trust_domain: state.trust_domain.clone(), ..Defaults::default() }
}

async fn put_absent(state: &State, text: &str) -> Result<()> {
    put(state, text, |key| state.catalog(|catalog| catalog.resource(key).is_none())).await
}

/// Applies the built-in documents of `text` that are `wanted`.
async fn put(state: &State, text: &str, wanted: impl Fn(&Key) -> bool) -> Result<()> {
    let parsed = yaml::parse("built-in", text, &defaults(state));
    anyhow::ensure!(!parsed.has_errors(), "a built-in resource is invalid: {:?}", parsed.diagnostics);
    let actions: Vec<Action> =
        parsed.documents.into_iter().filter(|d| wanted(&d.resource.key)).map(|d| Action::Put(d.resource)).collect();
    apply::apply(state, &actions, "up", history::WHY_FIRST_START).await.map_err(|error| of_apply(&error))?;
    Ok(())
}

/// Makes the coordinator's service, or gives it its port for gRPC, which it lacks in a mesh that an older version made.
async fn put_coordinator(state: &State) -> Result<()> {
    let key = Key::new(Kind::Service, Identity::SYSTEM_NAMESPACE, transactions::ACCOUNT);
    let whole = state.catalog(|catalog| match catalog.resource(&key).map(|resource| &resource.spec) {
        Some(Spec::Service(service)) => service.ports.iter().any(|port| port.port == COORDINATOR_GRPC_PORT),
        _ => false,
    });
    if whole { Ok(()) } else { put(state, COORDINATOR, |_| true).await }
}

/// The domain that the stored mesh has; a new one's name otherwise.
async fn trust_domain(store: &dyn Store, options: &Options) -> Result<Text> {
    let key = ingest::store_key(&Key::new(Kind::Mesh, "", "mesh"));
    let entry = store.get(&key).await.map_err(|error| Failure::new(code::STORE_UNREACHABLE.id, error.to_string()))?;
    let stored = entry.and_then(|entry| serde_json::from_slice::<serde_json::Value>(&entry.value).ok());
    let stored = stored.and_then(|value| value["spec"]["trustDomain"].as_str().map(Text::from));
    match (stored, &options.trust_domain) {
        (Some(stored), Some(asked)) if stored != *asked => {
            let detail = format!("--trust-domain: this mesh is {stored} and can not become {asked}");
            Err(Failure::new(code::TRUST_DOMAIN_FIXED.id, detail).next(code::TRUST_DOMAIN_FIXED.next).into())
        }
        (Some(stored), _) => Ok(stored),
        (None, Some(asked)) => Ok(asked.clone()),
        (None, None) => Ok(Text::from(if options.demo { "demo.local" } else { "mesh.local" })),
    }
}

/// Where transactions are kept: the file of the data directory, or the database, once none in the file is left unfinished.
async fn open_journal(options: &Options, trust_domain: &str) -> Result<Arc<dyn Journal>> {
    let path = options.data_dir.join("transactions.redb");
    let file = || log::Embedded::open(&path).map_err(|error| of_open(&error).at(path.display().to_string()));
    let Some(url) = &options.transactions else {
        let journal = file()?;
        runtime::spawn("journal answers", journal.courier());
        return Ok(Arc::new(journal));
    };
    if path.exists() {
        // A file has one shard.
        let left = file()?.unfinished(vec![0]).await.map_err(|error| of_database(error.to_string()))?;
        if !left.is_empty() {
            let detail = format!("{} transactions in {} have not ended", left.len(), path.display());
            return Err(of_database(detail).next("start without --transactions until they have").into());
        }
    }
    let journal = log::Postgres::open(url, trust_domain).map_err(|error| of_database(error.to_string()))?;
    Ok(Arc::new(journal))
}

/// Where idempotency keys are kept: beside the transactions. What a file remembers moves to the database with them, and isn't left there.
fn open_ledger(options: &Options, trust_domain: &Text) -> Result<Arc<dyn Ledger>> {
    let (path, moved) = (options.data_dir.join("ledger.redb"), options.data_dir.join(KEYS_MOVED_FILE));
    let clock = *runtime::clock();
    if let Some(url) = &options.transactions {
        let say =
            || write_whole(&moved, b"the idempotency keys of this mesh are in the database of --transactions\n", 0o644);
        // Before the file goes.
        if path.exists() {
            say()?;
        }
        let ledger = ledger::Postgres::open(url, trust_domain, (&path, clock.now().wall))
            .map_err(|error| of_database(error.to_string()))?;
        say()?;
        return Ok(Arc::new(ledger));
    }
    if moved.exists() && !path.exists() {
        let detail = "the idempotency keys of this mesh are there: without them, requests may be run a second time";
        let next = format!("start with --transactions as before, or remove {} to forget them", moved.display());
        return Err(of_database(detail.to_owned()).next(next).into());
    }
    let ledger = ledger::Embedded::open(&path, Arc::new(clock));
    Ok(Arc::new(ledger.map_err(|error| of_open(&error).at(path.display().to_string()))?))
}

/// Under which both rest.
fn open_keys(options: &Options) -> Result<Arc<Keys>> {
    let (shared, own) = (options.ledger_keys.clone(), options.data_dir.join("ledger.keys"));
    let at = shared.as_ref().unwrap_or(&own).display().to_string();
    let keys = Keys::open(shared, own, options.transactions.is_some()).map_err(|error| {
        let code = &code::TXN_KEYS;
        Failure::new(code.id, format!("the keys of kept answers: {error}")).at(at).next(code.next)
    })?;
    if !keys.seals() {
        tracing::warn!(
            "answers to keyed requests, and of transactions, rest in the database for all to read who read it: give --ledger-keys"
        );
    }
    Ok(keys)
}

fn of_database(detail: String) -> Failure {
    let code = &code::TXN_DATABASE;
    Failure::new(code.id, format!("the database for transactions: {detail}")).at("--transactions").next(code.next)
}

/// The operator's token: kept from the last start, or made now.
fn operator_token(path: &Path) -> Result<String> {
    match std::fs::read_to_string(path) {
        Ok(token) if token.trim().len() >= byrnie_control::access::TOKEN_BYTES_MIN => {
            return Ok(token.trim().to_owned());
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failure::of_file(path, &error).into()),
    }
    let token = byrnie_net::tls::secret::random()
        .context("no randomness")?
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>();
    write_whole(path, token.as_bytes(), 0o600)?;
    Ok(token)
}

/// Writes a file so that nobody ever sees half of it.
fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let new = path.with_extension("new");
    let write = || {
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    };
    write().map_err(|error| failure::of_file(path, &error).into())
}

/// Who a proxy of the system's own is, and where it gets its configuration and certificates.
fn system_proxy(control: &control::Running, account: &str) -> Result<(Identity, Source)> {
    let system = |account: &str| Identity::new(&control.state.trust_domain, Identity::SYSTEM_NAMESPACE, account);
    let identity = system(account)?;
    let (state, who) = (Arc::clone(&control.state), identity.clone());
    let tokens = Tokens::new(move || {
        let (state, who) = (Arc::clone(&state), who.clone());
        Box::pin(async move {
            let made = ca::token::create(&state, who, TOKEN_LIFE, 1, "up").await;
            made.map(|(token, _)| Text::from(token.expose())).map_err(|error| error.to_string())
        })
    });
    let source = Source::Control(Box::new(Control {
        address: control.control.into(),
        roots_pem: control.authority.roots_pem(),
        identity: system("control")?,
        tokens: Some(tokens),
        patience: EDGE_PATIENCE,
        // It lives and dies with the control plane.
        keep_view: false,
    }));
    Ok((identity, source))
}

async fn start_edge(
    options: &Options,
    globals: &Globals,
    control: &control::Running,
) -> Result<(Post, byrnie_proxy::Ports)> {
    let (identity, source) = system_proxy(control, "edge")?;
    let ip = options.console.ip();
    let config = byrnie_proxy::Config {
        namespace: Identity::SYSTEM_NAMESPACE.into(),
        name: "edge".into(),
        identity,
        mount: Mount::Gateway(Gateway { edge: SocketAddr::new(ip, EDGE_PORT) }),
        source,
        state_dir: options.data_dir.join("edge"),
        admin: SocketAddr::new(ip, ADMIN_PORT),
        admin_token: operator_token(&options.data_dir.join("token")).ok().map(Text::from),
        strict_ports: options.strict_ports,
        workers: options.workers,
        access_log: AccessLog::Off,
        hop: hop()?,
    };
    post(globals, "edge", config).await
}

/// Starts a proxy and keeps it in its place.
async fn post(globals: &Globals, name: &str, config: byrnie_proxy::Config) -> Result<(Post, byrnie_proxy::Ports)> {
    let charge = Charge::of(&config);
    let mut proxy = byrnie_proxy::start(config).map_err(failure::of_proxy)?;
    let ports = proxy.ready().await.map_err(failure::of_proxy)?;
    Ok((Post::new(globals, name, charge, proxy), ports))
}

/// Starts the coordinator's own proxy, by which it is called and calls, and lets it begin.
async fn start_coordinator(options: &Options, globals: &Globals, control: &control::Running) -> Result<Post> {
    let doors = [Protocol::Http1, Protocol::Grpc].into_iter().zip(control.transactions_doors);
    let port = |(protocol, door): (Protocol, SocketAddr)| WorkloadPort {
        name: protocol.name().into(),
        port: door.port(),
        protocol,
    };
    let serves = doors.map(port).collect();
    let service = transactions::ACCOUNT;
    put_coordinator(&control.state).await?;
    let own = Own { account: service, service, serves, calls: true };
    let (proxy, ports) = start_own(options, globals, control, own).await?;
    let forward = ports.forward.context("the coordinator's proxy has no way out")?;
    control.transactions.connect(Arc::new(ThroughProxy::new(forward)));
    Ok(proxy)
}

/// A workload of the mesh's own.
struct Own {
    account: &'static str,
    /// The service that it is made for, if any.
    service: &'static str,
    serves: Vec<WorkloadPort>,
    /// Whether it calls others itself.
    calls: bool,
}

/// Starts a proxy of the mesh's own, an ordinary sidecar.
async fn start_own(
    options: &Options,
    globals: &Globals,
    control: &control::Running,
    own: Own,
) -> Result<(Post, byrnie_proxy::Ports)> {
    let (identity, source) = system_proxy(control, own.account)?;
    let any = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
    let workload = Workload {
        identity: identity.clone(),
        address: any.ip(),
        ports: own.serves,
        inbound: None,
        admin: None,
        uses: Vec::new(),
        locality: Locality::default(),
        weight: 1,
        health: Health::Healthy,
        check: None,
    };
    let labels = [("app".into(), own.account.into())].into();
    let sidecar = Sidecar {
        workload,
        labels,
        service: own.service.into(),
        inbound: any,
        forward: own.calls.then_some(any),
        // Its identity opens every door; nobody else on the machine may borrow it.
        forward_for: Users::Own,
        listening: None,
    };
    let config = byrnie_proxy::Config {
        namespace: Identity::SYSTEM_NAMESPACE.into(),
        name: format!("{}-{:x}", own.account, std::process::id()).into(),
        identity,
        mount: Mount::Sidecar(Box::new(sidecar)),
        source,
        state_dir: options.data_dir.join(own.account),
        admin: any,
        admin_token: operator_token(&options.data_dir.join("token")).ok().map(Text::from),
        strict_ports: false,
        workers: 1,
        access_log: AccessLog::Off,
        hop: hop()?,
    };
    post(globals, own.account, config).await
}

/// Processors that this process may use, as many as a proxy may have threads at most.
pub(crate) fn processors() -> usize {
    let most = usize::try_from(WORKERS_MAX).unwrap_or(1);
    std::thread::available_parallelism().map_or(1, usize::from).min(most)
}

/// What proxies of this process speak to each other: `BYRNIE_HOP` may say `http1`, so that what passes
/// between two of them can be read with common tools.
pub(crate) fn hop() -> Result<Hop, Failure> {
    match std::env::var("BYRNIE_HOP").as_deref() {
        Err(_) | Ok("" | "framed") => Ok(Hop::Framed),
        Ok("http1") => Ok(Hop::Http1),
        Ok(other) => Err(Failure::usage(format!("BYRNIE_HOP is `{other}`, but can be `framed` or `http1`"))),
    }
}

fn bind_dns(options: &Options, will: Option<&Will>) -> Result<dns::Server> {
    if let Some(will) = will {
        let tcp = will.listeners().find(|(name, _)| *name == DOORS[4]).map(|(_, listener)| listener.share());
        let tcp = tcp.context("the earlier program left no socket for DNS")?;
        return dns::Server::from_parts(will.dns()?, tcp).context("cannot go on with the sockets for DNS");
    }
    let ports = if options.strict_ports { Ports::Strict } else { Ports::Next };
    dns::bind(SocketAddr::new(options.console.ip(), DNS_PORT), ports)
        .map_err(|error| Failure::new(code::PORT_BUSY.id, error.to_string()).into())
}

fn start_dns(server: dns::Server, state: Arc<State>) -> Trigger {
    let (trigger, shutdown) = runtime::shutdown();
    runtime::spawn("dns", async move {
        if let Err(error) = dns::serve(server, Arc::new(Services(state)), shutdown).await {
            tracing::error!(%error, "DNS has stopped");
        }
    });
    trigger
}

/// `SERVICE.NAMESPACE.mesh`, for every service: on one machine all are reached on loopback.
struct Services(Arc<State>);

impl Names for Services {
    fn lookup(&self, name: &str) -> Known {
        let parts: Vec<&str> = name.split('.').collect();
        let [service, namespace, dns::ZONE] = parts.as_slice() else { return Known::Nothing };
        let service = ServiceRef::new(*namespace, *service);
        let key = Key::new(Kind::Service, service.namespace, service.name);
        if self.0.catalog(|catalog| catalog.resource(&key).is_some()) {
            Known::Addresses(vec![Ipv4Addr::LOCALHOST.into()])
        } else {
            Known::Nothing
        }
    }
}

fn of_control(error: &control::Error) -> Failure {
    match error {
        control::Error::Listen(error) => Failure::new(code::PORT_BUSY.id, format!("a port is busy: {error}"))
            .next("leave out --strict-ports, or stop what holds it"),
        other => {
            Failure::new(code::STORE_UNREACHABLE.id, other.to_string()).next("see the message above, and the disk")
        }
    }
}

fn of_apply(error: &apply::Error) -> Failure {
    Failure::new(code::STALE.id, error.to_string())
}

fn of_open(error: &OpenError) -> Failure {
    let code = match error {
        OpenError::Locked { .. } => &code::IN_USE,
        OpenError::Io(_) => &code::DATA_DIR,
        OpenError::Corrupt(_) => &code::STORE_CORRUPT,
        OpenError::Newer { .. } => &code::STORE_NEWER,
    };
    Failure::new(code.id, error.to_string()).next(code.next)
}
