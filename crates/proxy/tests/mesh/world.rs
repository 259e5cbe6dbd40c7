// SPDX-License-Identifier: Apache-2.0
//! What the tests stand on: an authority, sidecars around small programs, and a client that speaks raw bytes.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use byrnie_base::Text;
use byrnie_engine::{Compiler, Node, Role, Snapshot};
use byrnie_model::policy::access::{AccessPolicy, Action, HttpMatch, Mode, PathPattern, Rule, Source as Caller};
use byrnie_model::resource::{DefaultAccess, Mesh};
use byrnie_model::service::{Locality, PortPair, ServicePort, TargetPort};
use byrnie_model::workload::WorkloadPort;
use byrnie_model::{
    Delta, Endpoint, Health, Identity, Key, Kind, Labels, Protocol, Resource, Revision, Service, ServiceRef, Spec,
    Workload,
};
use byrnie_net::runtime;
use byrnie_net::tls::ca::Authority;
use byrnie_net::tls::{self, Credentials};
use byrnie_proxy::{AccessLog, Config, Gateway, Hop, Mount, Ports, Running, Sidecar, Source, Users, start};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;
use tokio::net::TcpSocket;
use tokio::sync::watch;

pub(crate) const DOMAIN: &str = "test.local";
pub(crate) const ADMIN_TOKEN: &str = "operator";
/// Longer than anything here takes, on a busy machine, too: a test that waits so long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

pub(crate) fn identity(account: &str) -> Identity {
    Identity::new(DOMAIN, "default", account).unwrap()
}

pub(crate) fn service(name: &str) -> ServiceRef {
    ServiceRef::new("default", name)
}

/// One mesh.
pub(crate) struct World {
    authority: Authority,
    state: tempfile::TempDir,
    /// What its proxies speak to each other.
    pub(crate) hop: Hop,
    /// How many cores each of its proxies has.
    pub(crate) workers: usize,
    /// Whether they write access logs.
    pub(crate) logs: bool,
    /// How long the certificates last that are signed from now on.
    pub(crate) lifetime: Duration,
}

/// A running proxy, its configuration in hand.
pub(crate) struct Proxy {
    pub(crate) running: Option<Running>,
    pub(crate) ports: Ports,
    compiler: Compiler,
    news: watch::Sender<Arc<Snapshot>>,
    revision: u64,
}

/// Lets this process open as many files as the system lets it, before any proxy asks how many: what one test opens, the proxies of
/// the others count as well.
fn raise_files() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let own = std::process::id().to_string();
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let files = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
        let hard = files.and_then(|line| line.split_whitespace().nth(1)).unwrap_or_default();
        // Refused nowhere, as the hard limit stays; where there is no such tool, what there is counts.
        let _ = std::process::Command::new("prlimit").args(["--pid", &own, &format!("--nofile={hard}:")]).status();
    });
}

impl World {
    pub(crate) fn new() -> Self {
        raise_files();
        let authority = Authority::create(DOMAIN, runtime::now().wall).unwrap();
        Self {
            authority,
            state: tempfile::tempdir().unwrap(),
            hop: Hop::Framed,
            workers: 1,
            logs: true,
            lifetime: HOUR,
        }
    }

    pub(crate) fn credentials(&self, account: &str) -> Credentials {
        self.credentials_of(&identity(account))
    }

    pub(crate) fn credentials_of(&self, identity: &Identity) -> Credentials {
        let key = tls::Key::generate().unwrap();
        let csr = tls::csr(&key, identity).unwrap();
        let chain = self.sign(&csr, identity);
        Credentials::new(&chain, key, self.authority.roots().unwrap(), runtime::now().wall).unwrap()
    }

    pub(crate) fn sign(&self, csr: &[u8], identity: &Identity) -> String {
        self.authority.sign(csr, identity, self.lifetime, &[], runtime::now().wall).unwrap()
    }

    pub(crate) fn roots_pem(&self) -> String {
        self.authority.roots_pem()
    }

    pub(crate) fn state_dir(&self, name: &str) -> std::path::PathBuf {
        self.state.path().join(name)
    }

    /// A sidecar of service `name`, whose program listens on `port`.
    pub(crate) fn serving(&self, name: &str, port: u16, protocol: Protocol) -> Proxy {
        let mut resources = vec![allow_all()];
        resources.extend([service_of(name, port, protocol), workload_of(name, port, protocol)]);
        self.sidecar(name, port, protocol, &[], resources)
    }

    /// A sidecar of a program that calls `uses`, each served by these proxies.
    pub(crate) fn calling(&self, uses: &[(&str, Protocol, &[&Proxy])]) -> Proxy {
        self.calling_as("caller", uses)
    }

    /// The same, under an identity of its own.
    pub(crate) fn calling_as(&self, account: &str, uses: &[(&str, Protocol, &[&Proxy])]) -> Proxy {
        let names: Vec<&str> = uses.iter().map(|(name, ..)| *name).collect();
        let mut resources = vec![allow_all()];
        for (name, protocol, servers) in uses {
            resources.push(service_of(name, 1, *protocol));
            resources.extend(servers.iter().enumerate().map(|(at, server)| endpoint_of(name, at, server.inbound())));
        }
        self.sidecar(account, 1, Protocol::Http1, &names, resources)
    }

    /// A sidecar of a program that calls `name`, served by somebody else at `address`.
    pub(crate) fn calling_at(&self, name: &str, protocol: Protocol, address: SocketAddr) -> Proxy {
        self.calling_at_as("caller", name, protocol, address)
    }

    /// The same, under an identity of its own.
    pub(crate) fn calling_at_as(&self, account: &str, name: &str, protocol: Protocol, address: SocketAddr) -> Proxy {
        let resources = vec![allow_all(), service_of(name, 1, protocol), endpoint_of(name, 0, address)];
        self.sidecar(account, 1, Protocol::Http1, &[name], resources)
    }

    fn sidecar(&self, name: &str, port: u16, protocol: Protocol, uses: &[&str], resources: Vec<Resource>) -> Proxy {
        let workload =
            Workload { uses: uses.iter().map(|name| service(name)).collect(), ..spec_of(name, port, protocol) };
        let mount = Mount::Sidecar(Box::new(Sidecar {
            workload,
            labels: Labels::new(),
            service: name.into(),
            inbound: loopback(),
            forward: Some(loopback()),
            forward_for: Users::Any,
            listening: None,
        }));
        self.start(name, mount, Role::Sidecar, resources)
    }

    pub(crate) fn edge(&self, resources: Vec<Resource>) -> Proxy {
        self.start("edge", Mount::Gateway(Gateway { edge: loopback() }), Role::Gateway, resources)
    }

    fn start(&self, name: &str, mount: Mount, role: Role, resources: Vec<Resource>) -> Proxy {
        let node = Node {
            name: name.into(),
            namespace: "default".into(),
            identity: identity(name),
            locality: Locality::default(),
            role,
        };
        let mut compiler = Compiler::new(node);
        let changed = resources.into_iter().map(Arc::new).collect();
        let refused = compiler.apply(&Delta { changed, removed: Vec::new() }, Revision(1));
        assert!(refused.is_empty(), "{refused:?}");
        let (news, snapshots) = watch::channel(compiler.snapshot());
        let config = Config {
            namespace: "default".into(),
            name: name.into(),
            identity: identity(name),
            mount,
            source: Source::Given { snapshots, credentials: Box::new(self.credentials(name)) },
            state_dir: self.state.path().join(name),
            admin: loopback(),
            admin_token: Some(ADMIN_TOKEN.into()),
            strict_ports: true,
            workers: self.workers,
            access_log: if self.logs {
                AccessLog::File(self.state_dir(&format!("{name}.log")))
            } else {
                AccessLog::Off
            },
            hop: self.hop,
        };
        let mut running = start(config).unwrap();
        let ports = runtime::block_on(async { runtime::timeout(PATIENCE, running.ready()).await }).unwrap();
        Proxy { running: Some(running), ports: ports.unwrap().unwrap(), compiler, news, revision: 1 }
    }

    pub(crate) fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.state.path().join(format!("{name}.log"))).unwrap_or_default()
    }
}

/// Waits until it holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = runtime::now().mono + PATIENCE;
    while !holds() {
        assert!(runtime::now().mono < deadline, "never saw {what}");
        std::thread::yield_now();
    }
}

impl Proxy {
    pub(crate) fn inbound(&self) -> SocketAddr {
        self.ports.inbound.unwrap()
    }

    pub(crate) fn outbound(&self, name: &str) -> SocketAddr {
        self.ports.outbound.iter().find(|outbound| outbound.service == service(name)).unwrap().address
    }

    pub(crate) fn metrics(&self) -> String {
        let (code, metrics) = Peer::connect(self.ports.admin).ask("GET /metrics HTTP/1.1\r\nhost: admin\r\n\r\n");
        assert_eq!(code, 200, "{metrics}");
        metrics
    }

    /// Waits for a decision record that says all of this: they are looked at once a second.
    pub(crate) fn wait_for_record(&self, words: &[&str]) {
        let mut admin = Peer::connect(self.ports.admin);
        let ask = format!("GET /records HTTP/1.1\r\nhost: admin\r\nauthorization: Bearer {ADMIN_TOKEN}\r\n\r\n");
        let deadline = runtime::now().mono + PATIENCE;
        loop {
            let records = admin.ask(&ask).1;
            if words.iter().all(|word| records.contains(word)) {
                return;
            }
            assert!(runtime::now().mono < deadline, "{records}");
            std::thread::yield_now();
        }
    }

    /// Changes the configuration, and waits until every core acts by it.
    pub(crate) fn apply(&mut self, changed: Vec<Resource>) {
        self.revision += 1;
        let delta = Delta { changed: changed.into_iter().map(Arc::new).collect(), removed: Vec::new() };
        let refused = self.compiler.apply(&delta, Revision(self.revision));
        assert!(refused.is_empty(), "{refused:?}");
        self.news.send_replace(self.compiler.snapshot());
        let told = format!("byrnie_config_revision {}\n", self.revision);
        until(&told, || self.metrics().contains(&told));
    }

    pub(crate) fn drain(&mut self, deadline: Duration) -> bool {
        let running = self.running.take().unwrap();
        runtime::block_on(running.drain(deadline)).unwrap()
    }
}

pub(crate) fn resource(kind: Kind, name: impl Into<Text>, spec: Spec) -> Resource {
    let namespace = if kind.namespaced() { "default" } else { "" };
    Resource {
        key: Key::new(kind, namespace, name),
        revision: Revision(1),
        created: Revision(1),
        labels: Labels::new(),
        origin: None,
        spec,
    }
}

pub(crate) fn mesh(default_access: DefaultAccess) -> Resource {
    resource(
        Kind::Mesh,
        "mesh",
        Spec::Mesh(Mesh { trust_domain: DOMAIN.into(), default_access, otlp: None, limits: Box::default() }),
    )
}

pub(crate) fn allow_all() -> Resource {
    mesh(DefaultAccess::Allow)
}

pub(crate) fn app(name: &str) -> Labels {
    [(Text::from("app"), Text::from(name))].into()
}

pub(crate) fn service_of(name: &str, target: u16, protocol: Protocol) -> Resource {
    let port =
        ServicePort { name: Text::default(), port: 80, target: TargetPort::Number(target), protocol, prefixed: false };
    resource(
        Kind::Service,
        name,
        Spec::Service(Service {
            ports: vec![port],
            selector: app(name),
            outside: None,
            publish_not_ready: false,
            pool: None,
        }),
    )
}

pub(crate) fn spec_of(name: &str, port: u16, protocol: Protocol) -> Workload {
    Workload {
        identity: identity(name),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        ports: vec![WorkloadPort { name: Text::default(), port, protocol }],
        inbound: None,
        admin: None,
        uses: Vec::new(),
        locality: Locality::default(),
        weight: 1,
        health: Health::Healthy,
        check: None,
    }
}

pub(crate) fn workload_of(name: &str, port: u16, protocol: Protocol) -> Resource {
    let mut workload = resource(Kind::Workload, name, Spec::Workload(Box::new(spec_of(name, port, protocol))));
    workload.labels = app(name);
    workload
}

pub(crate) fn endpoint_of(name: &str, at: usize, address: SocketAddr) -> Resource {
    let workload = format!("{name}-{at}");
    let endpoint = Endpoint {
        service: service(name),
        workload: workload.as_str().into(),
        way: None,
        identity: identity(name),
        address,
        ports: vec![PortPair { service: 80, target: 1 }],
        labels: app(name),
        locality: Locality::default(),
        weight: 1,
        health: Health::Healthy,
    };
    resource(Kind::Endpoint, format!("{name}/{workload}"), Spec::Endpoint(Box::new(endpoint)))
}

/// A route of service `name` with these rules.
pub(crate) fn route_of(name: &str, rules: Vec<byrnie_model::route::Rule>) -> Resource {
    let parents = vec![byrnie_model::route::Parent::service(service(name), None)];
    let route = byrnie_model::Route { parents, hostnames: Vec::new(), rules };
    resource(Kind::HttpRoute, name, Spec::Route(Arc::new(route)))
}

/// Lets `caller` make GET requests below `/open/` and nothing else.
pub(crate) fn allow_open(target: &str, caller: &str) -> Resource {
    let rule = Rule {
        sources: vec![Caller::ServiceAccount { namespace: "default".into(), name: caller.into() }],
        ports: Vec::new(),
        http: vec![HttpMatch { methods: vec!["GET".into()], paths: vec![PathPattern::Below("/open/".into())] }],
    };
    let policy =
        AccessPolicy { mode: Mode::Enforce, targets: vec![service(target)], action: Action::Allow, rules: vec![rule] };
    resource(Kind::AccessPolicy, "open", Spec::Access(Arc::new(policy)))
}

/// Connections that may wait for a program to accept them, if the system allows so many. Beyond these one stands on the other side
/// alone, which a proxy gives up after a while: no test but of that is about it, and where many come at once a busy machine may be
/// slow to accept.
const QUEUED: i32 = 4096;

/// Has so many connections wait to be accepted, at most.
pub(crate) fn queue(listener: &TcpListener, most: i32) {
    unsafe extern "C" {
        safe fn listen(socket: i32, backlog: i32) -> i32;
    }
    assert_eq!(listen(listener.as_raw_fd(), most), 0);
}

/// A program: accepts on a port of its own and gives each connection to `serve`, on a thread.
pub(crate) struct Program {
    pub(crate) port: u16,
    pub(crate) accepted: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Program {
    pub(crate) fn start(serve: impl Fn(Peer) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(loopback()).unwrap();
        queue(&listener, QUEUED);
        let port = listener.local_addr().unwrap().port();
        let (accepted, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let program = Self { port, accepted: Arc::clone(&accepted), stop: Arc::clone(&stop) };
        let serve = Arc::new(serve);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                accepted.fetch_add(1, Ordering::SeqCst);
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || serve(Peer::new(stream.unwrap())));
            }
        });
        program
    }

    /// A program that answers each request with its method, target and body.
    pub(crate) fn echo() -> Self {
        Self::start(|mut peer| {
            while let Some(head) = peer.read_head() {
                let body = peer.read_body_of(&head);
                let line = head.lines().next().unwrap_or_default().to_owned();
                let text = format!("{line}\n{}", String::from_utf8_lossy(&body));
                let extra = if head.starts_with("HEAD ") { "" } else { text.as_str() };
                peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{extra}", text.len()));
            }
        })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

/// A port that is nobody else's, and at which nobody listens but who asks for just this one.
pub(crate) struct Reserved(TcpSocket);

impl Reserved {
    pub(crate) fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(loopback()).unwrap();
        Self(socket)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    pub(crate) fn listen(self) -> TcpListener {
        let listener = runtime::block_on(async { self.0.listen(128).unwrap().into_std().unwrap() }).unwrap();
        listener.set_nonblocking(false).unwrap();
        listener
    }
}

/// One end of a connection, speaking raw bytes.
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    pub(crate) buffer: Vec<u8>,
}

impl Peer {
    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::new(TcpStream::connect(address).unwrap())
    }

    pub(crate) fn send(&mut self, text: impl AsRef<[u8]>) {
        // A peer that is gone shows in what is read.
        let _ = self.stream.write_all(text.as_ref());
    }

    /// Reads until there is something new; false at the end.
    fn more(&mut self) -> bool {
        let mut chunk = [0; 64 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => false,
            Ok(read) => {
                self.buffer.extend_from_slice(&chunk[..read]);
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("read: {error}; so far {:?}", String::from_utf8_lossy(&self.buffer)),
        }
    }

    pub(crate) fn read_until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|window| window == end) {
                return Some(self.buffer.drain(..at + end.len()).collect());
            }
            if !self.more() {
                return None;
            }
        }
    }

    pub(crate) fn read_head(&mut self) -> Option<String> {
        self.read_until(b"\r\n\r\n").map(|head| String::from_utf8(head).unwrap())
    }

    pub(crate) fn read_exact(&mut self, count: usize) -> Vec<u8> {
        let whole = self.try_exact(count);
        whole.unwrap_or_else(|| panic!("{} of {count} bytes", self.buffer.len()))
    }

    pub(crate) fn try_exact(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < count && self.more() {}
        (self.buffer.len() >= count).then(|| self.buffer.drain(..count).collect())
    }

    pub(crate) fn read_to_end(&mut self) -> Vec<u8> {
        while self.more() {}
        std::mem::take(&mut self.buffer)
    }

    /// The body after `head`, by its framing.
    pub(crate) fn read_body_of(&mut self, head: &str) -> Vec<u8> {
        if let Some(length) = header(head, "content-length") {
            return self.read_exact(length.parse().unwrap());
        }
        if header(head, "transfer-encoding").is_some() {
            return self.read_chunks();
        }
        Vec::new()
    }

    pub(crate) fn read_chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line = String::from_utf8(self.read_until(b"\r\n").unwrap()).unwrap();
            let size = usize::from_str_radix(line.trim(), 16).unwrap();
            if size == 0 {
                loop {
                    let trailer = self.read_until(b"\r\n").unwrap();
                    if trailer == b"\r\n" {
                        return body;
                    }
                    body.extend_from_slice(b"|");
                    body.extend_from_slice(trailer.trim_ascii());
                }
            }
            body.extend(self.read_exact(size));
            assert_eq!(self.read_exact(2), b"\r\n");
        }
    }

    /// Reads a whole response: its head and body.
    pub(crate) fn response(&mut self) -> (String, Vec<u8>) {
        let head = self.read_head().expect("a response");
        let body = self.read_body_of(&head);
        (head, body)
    }

    pub(crate) fn ask(&mut self, request: &str) -> (u16, String) {
        self.send(request);
        let (head, body) = self.response();
        (status(&head), String::from_utf8(body).unwrap())
    }
}

pub(crate) fn status(head: &str) -> u16 {
    head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
}

/// The value of a header in a raw head.
pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: echo\r\n\r\n")
}

/// The handshake of a WebSocket, by RFC 6455 1.3.
pub(crate) const HANDSHAKE: &str = "GET /chat HTTP/1.1\r\nhost: chat\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// What its key is answered with, by the rule of RFC 6455 4.2.2.
pub(crate) fn accept_of(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    data_encoding::BASE64.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()).as_ref())
}
