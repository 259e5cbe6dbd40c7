// SPDX-License-Identifier: Apache-2.0
//! The plain path of a request asks for no memory: one service, one route, one endpoint to choose, an
//! ordinary head in a buffer that was used before. A counting allocator watches.
#![expect(unsafe_code, reason = "an allocator can't be written without; nothing else here is unsafe")]
#![expect(clippy::unwrap_used, reason = "a test stops where it fails")]

use byrnie_base::{Instant, Now, Timestamp};
use byrnie_codec::Head;
use byrnie_engine::{Arrival, Compiler, Direction, Effect, Exchange, Node, Outcome, Role, Shard, Tls};
use byrnie_model::Workload;
use byrnie_model::policy::AccessPolicy;
use byrnie_model::policy::access::{Action, HttpMatch, Mode, PathPattern, Rule as AccessRule, Source};
use byrnie_model::resource::{Resource, Spec};
use byrnie_model::route::{Backend, Destination, Match, Parent, Route, Rule};
use byrnie_model::service::{Locality, PortPair, ServicePort, TargetPort};
use byrnie_model::{Delta, Endpoint, Health, Identity, Key, Kind, Labels, Protocol, Revision, Service, ServiceRef};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is handed to the system's allocator as it came; counting touches a thread-local
// cell without a destructor, which allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `System` with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: `pointer` came from `System` with this layout.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of the last of a hundred calls.
fn allocations(mut call: impl FnMut()) -> u64 {
    let mut last = 0;
    for _ in 0..100 {
        let before = COUNT.with(Cell::get);
        call();
        last = COUNT.with(Cell::get) - before;
    }
    last
}

fn resource(kind: Kind, name: &str, spec: Spec) -> Arc<Resource> {
    let labels = Labels::from([("app".into(), "web".into())]);
    Arc::new(Resource {
        key: Key::new(kind, "shop", name),
        revision: Revision(1),
        created: Revision(1),
        labels,
        origin: None,
        spec,
    })
}

fn service(name: &str) -> Arc<Resource> {
    let port = ServicePort {
        name: "".into(),
        port: 80,
        target: TargetPort::Number(8080),
        protocol: Protocol::Http1,
        prefixed: false,
    };
    let selector = Labels::from([("app".into(), name.into())]);
    resource(
        Kind::Service,
        name,
        Spec::Service(Service { ports: vec![port], selector, outside: None, publish_not_ready: false, pool: None }),
    )
}

fn identity(account: &str) -> Identity {
    Identity::new("demo.local", "shop", account).unwrap()
}

fn endpoint(n: u8) -> Arc<Resource> {
    let endpoint = Endpoint {
        service: ServiceRef::new("shop", "payments"),
        workload: format!("p{n}").into(),
        way: None,
        identity: identity("payments"),
        address: ([10, 0, 0, n], 7781).into(),
        ports: vec![PortPair { service: 80, target: 8080 }],
        labels: Labels::new(),
        locality: Locality::default(),
        weight: 1,
        health: Health::Healthy,
    };
    resource(Kind::Endpoint, &format!("payments/p{n}"), Spec::Endpoint(Box::new(endpoint)))
}

fn route() -> Arc<Resource> {
    let service = ServiceRef::new("shop", "payments");
    let backend = Backend { to: Destination::new(service.clone(), 80), weight: 1, filters: Vec::new() };
    let rule = |matched| Rule {
        name: "".into(),
        matches: vec![matched],
        filters: Vec::new(),
        backends: vec![backend.clone()],
        timeout: Some(std::time::Duration::from_secs(5)),
        backend_timeout: None,
        retry: None,
        session: None,
    };
    let rules = vec![rule(Match { method: Some("POST".into()), ..Match::default() }), rule(Match::default())];
    let route = Route { parents: vec![Parent::service(service, None)], hostnames: Vec::new(), rules };
    resource(Kind::HttpRoute, "payments", Spec::Route(Arc::new(route)))
}

fn access() -> Arc<Resource> {
    let source = Source::ServiceAccount { namespace: "shop".into(), name: "bob".into() };
    let http = HttpMatch { methods: vec!["GET".into()], paths: vec![PathPattern::Below("/".into())] };
    let rules = vec![AccessRule { sources: vec![source], ports: vec![8080], http: vec![http] }];
    let targets = vec![ServiceRef::new("shop", "web")];
    let policy = AccessPolicy { mode: Mode::Enforce, targets, action: Action::Allow, rules };
    resource(Kind::AccessPolicy, "web", Spec::Access(Arc::new(policy)))
}

fn workload() -> Arc<Resource> {
    let workload = Workload {
        identity: identity("web"),
        address: [10, 0, 0, 200].into(),
        ports: Vec::new(),
        inbound: None,
        admin: None,
        uses: Vec::new(),
        locality: Locality::default(),
        weight: 1,
        health: Health::Healthy,
        check: None,
    };
    resource(Kind::Workload, "web-1", Spec::Workload(Box::new(workload)))
}

fn request(head: &mut Head) {
    head.start_request("GET", "http", "payments", "/charge?id=1").unwrap();
    for (name, value) in [
        ("user-agent", "test/1.0"),
        ("accept", "*/*"),
        ("cookie", "a=b"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("x-custom", "value"),
    ] {
        head.append(name, value.as_bytes()).unwrap();
    }
}

#[test]
fn the_plain_path_asks_for_no_memory() {
    let node = Node {
        name: "web-1".into(),
        namespace: "shop".into(),
        identity: identity("web"),
        locality: Locality::default(),
        role: Role::Sidecar,
    };
    let mut compiler = Compiler::new(node);
    let changed =
        vec![service("payments"), service("web"), endpoint(1), endpoint(2), endpoint(3), route(), access(), workload()];
    let refusals = compiler.apply(&Delta { changed, removed: Vec::new() }, Revision(1));
    assert_eq!(refusals, []);
    let (snapshot, mut shard) = (compiler.snapshot(), Shard::new(1));
    let (caller, own) = (identity("bob"), ServiceRef::new("shop", "web"));
    let (mut head, mut answer) = (Head::new(), Head::new());
    let mut nanos = 1_000_000_000;
    for direction in [Direction::Forward, Direction::Inbound { service: &own, port: 80 }] {
        let remote = ([127, 0, 0, 1], 1).into();
        let arrival = Arrival { direction, source: Some(&caller), remote, tls: Tls::Mutual };
        let count = allocations(|| {
            nanos += 1_000_000;
            let now = Now { mono: Instant::from_nanos(nanos), wall: Timestamp::from_millis(0) };
            request(&mut head);
            let (mut exchange, effect) = Exchange::begin(&snapshot, &mut shard, &arrival, &mut head, now);
            assert!(matches!(effect, Effect::Send(_)));
            answer.start_response(200);
            assert!(matches!(exchange.on_response(&mut shard, &mut answer, now), Effect::Forward));
            let verdict = exchange.finish(&mut shard, Outcome { status: 200, failure: None }, now);
            assert_eq!(verdict.attempts.count(), 1);
        });
        assert_eq!(count, 0, "{direction:?}");
    }
}
