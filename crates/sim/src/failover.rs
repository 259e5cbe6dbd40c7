// SPDX-License-Identifier: Apache-2.0
//! Failover in a mesh of any size: the real compiler, exchanges and balancing of one proxy in each of three
//! zones, which all call every service; simulated are endpoints, connections, the registry's delay and time.
//! The only policy is that who is near comes first. `cargo xtask sim failover` prints the table of
//! `docs/explanation/resilience.md`.

use crate::shop;
use byrnie_base::{Instant, Now, Rng, Text, Timestamp};
use byrnie_codec::Head;
use byrnie_engine::{
    Arrival, Compiler, Direction, Effect, Exchange, Failure, Node, Outcome, Plan, Role, Shard, Target, Tls,
};
use byrnie_model::policy::TrafficPolicy;
use byrnie_model::policy::traffic::{Failover, Nearness};
use byrnie_model::resource::{DefaultAccess, Mesh};
use byrnie_model::service::{Locality, PortPair, ServicePort, TargetPort};
use byrnie_model::{
    Delta, Endpoint, Health, Identity, Key, Kind, Labels, Protocol, Resource, Revision, Service, ServiceRef, Spec,
};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Zones of the one region, with one calling proxy each.
const ZONES: [&str; 3] = ["a", "b", "c"];
/// When endpoints begin to fail: by then latencies are known.
const BREAKS: Duration = Duration::from_secs(3);
/// For how long they do.
const BROKEN: Duration = Duration::from_secs(5);
/// How long the mesh is watched after that.
const AFTER: Duration = Duration::from_secs(2);
/// An answer takes so long in the mean.
const ANSWER_MEAN: Duration = Duration::from_millis(5);
/// There and back within a zone, and to another.
const TRIPS: [Duration; 2] = [Duration::from_micros(200), Duration::from_millis(1)];
/// The registry learns that a process is gone by its broken stream, and tells the proxies.
const GONE_KNOWN: Duration = Duration::from_millis(600);
/// It learns that one is silent by its lease.
const SILENT_KNOWN: Duration = Duration::from_secs(3);
/// It learns that one is back.
const BACK_KNOWN: Duration = Duration::from_millis(300);
/// Of so many requests one is a POST, which no proxy may send twice.
const POST_EVERY: u64 = 10;

/// How large the mesh is, and what is sent.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Services.
    pub services: u32,
    /// Endpoints of each, over the zones by turns.
    pub endpoints: u32,
    /// Requests per second of all proxies together, to services at random.
    pub rate: u64,
}

/// How endpoints fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Their processes die: connections are reset, new ones refused.
    Killed,
    /// Their processes stand still, or their network is gone: nothing answers, not even to a handshake.
    Silent,
}

/// Which endpoints fail, all at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Every third of each service, in all zones.
    Third,
    /// All of the first zone.
    Zone,
}

/// What came of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Requests, of which a tenth are POSTs.
    pub requests: u64,
    /// Tries in all.
    pub tries: u64,
    /// GETs that failed.
    pub failed: u64,
    /// POSTs that failed: they may have been processed.
    pub posts_failed: u64,
    /// POSTs that reached a program more than once.
    pub posts_doubled: u64,
    /// How long after the loss the last of the first tries went to who was lost, but for one in fifty: somebody has to look.
    pub moved: Duration,
    /// 99th percentile of how long GETs took while endpoints were broken.
    pub p99: Duration,
}

impl Report {
    /// The cells of a row: failed, POSTs failed, more tries, moved, p99.
    pub fn cells(&self) -> String {
        let moved = self.moved.as_millis();
        let p99 = self.p99.as_millis();
        let (failed, of, posts) = (self.failed, self.requests, self.posts_failed);
        format!("{failed} of {of} | {posts} | {:.1} % | {moved} ms | {p99} ms", self.more_percent())
    }

    fn more_percent(&self) -> f64 {
        self.tries.saturating_sub(self.requests) as f64 * 100.0 / self.requests.max(1) as f64
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = self.more_percent();
        write!(
            f,
            "{} requests, {} failed, {} POSTs failed and {} doubled, {more:.1} % more tries, moved after {} ms, p99 {} ms",
            self.requests,
            self.failed,
            self.posts_failed,
            self.posts_doubled,
            self.moved.as_millis(),
            self.p99.as_millis(),
        )
    }
}

/// Runs one loss.
pub fn run(seed: u64, size: Size, loss: Loss, way: Way) -> Report {
    let mut sim = Sim::new(seed, size, loss, way);
    sim.run();
    sim.conclude()
}

/// What happens.
enum Event {
    Arrives,
    /// The try is over, well or not.
    Ends(usize, u8, Option<Failure>),
    /// The time for the try is over.
    Late(usize, u8),
    Breaks,
    Heals,
    /// The registry takes out or puts back whoever was lost.
    Told(bool),
}

/// A request under way.
struct Request {
    caller: usize,
    exchange: Exchange,
    begun: Instant,
    post: bool,
    /// Number of the try under way, and at whom.
    at: (u8, usize),
    /// Programs that have it.
    reached: u32,
}

struct Caller {
    compiler: Compiler,
    shard: Shard,
    zone: usize,
    connected: HashSet<usize>,
}

struct Sim {
    size: Size,
    way: Way,
    now: Instant,
    rng: Rng,
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    events: BTreeMap<u64, Event>,
    scheduled: u64,
    callers: Vec<Caller>,
    requests: Vec<Option<Request>>,
    lost: (Loss, bool),
    tally: Tally,
}

#[derive(Default)]
struct Tally {
    report: Report,
    spans: Vec<Duration>,
    /// First tries per tenth of a second since the loss: all of those who had the lost nearby, and of them to the lost.
    firsts: BTreeMap<u64, (u64, u64)>,
}

impl Sim {
    fn new(seed: u64, size: Size, loss: Loss, way: Way) -> Self {
        let mut rng = Rng::new(seed);
        let callers = (0..ZONES.len()).map(|zone| Caller::new(zone, size, &mut rng)).collect();
        let mut sim = Self {
            size,
            way,
            now: Instant::default() + Duration::from_secs(100),
            rng,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            scheduled: 0,
            callers,
            requests: Vec::new(),
            lost: (loss, false),
            tally: Tally::default(),
        };
        let known = if way == Way::Killed { GONE_KNOWN } else { SILENT_KNOWN };
        sim.after(Duration::ZERO, Event::Arrives);
        sim.after(BREAKS, Event::Breaks);
        sim.after(BREAKS + known, Event::Told(false));
        sim.after(BREAKS + BROKEN, Event::Heals);
        sim.after(BREAKS + BROKEN + BACK_KNOWN, Event::Told(true));
        sim
    }

    fn after(&mut self, span: Duration, event: Event) {
        self.scheduled += 1;
        self.queue.push(Reverse((self.now + span, self.scheduled)));
        self.events.insert(self.scheduled, event);
    }

    fn run(&mut self) {
        while let Some(Reverse((at, number))) = self.queue.pop() {
            self.now = at;
            match self.events.remove(&number) {
                Some(Event::Arrives) => self.arrives(),
                Some(Event::Ends(id, attempt, None)) => self.answered(id, attempt),
                Some(Event::Ends(id, attempt, Some(failure))) => self.failed(id, attempt, failure),
                Some(Event::Late(id, attempt)) => self.failed(id, attempt, Failure::TryTimeout),
                Some(Event::Breaks) => self.breaks(),
                Some(Event::Heals) => self.heals(),
                Some(Event::Told(back)) => self.told(back),
                None => {}
            }
        }
    }

    fn at(&self) -> Now {
        Now { mono: self.now, wall: Timestamp::from_millis(self.now.as_nanos() / 1_000_000) }
    }

    fn is_lost(&self, endpoint: usize) -> bool {
        let (loss, broken) = self.lost;
        broken && is_hit(loss, endpoint, self.size)
    }

    fn exponential(&mut self, mean: Duration) -> Duration {
        let unit = (self.rng.below(1 << 53) + 1) as f64 / (1u64 << 53) as f64;
        mean.mul_f64(-unit.ln())
    }

    fn arrives(&mut self) {
        let begun = self.now.since(Instant::default() + Duration::from_secs(100));
        if begun < BREAKS + BROKEN + AFTER {
            let pause = self.exponential(Duration::from_secs(1).div_f64(self.size.rate as f64));
            self.after(pause, Event::Arrives);
        }
        let at = self.at();
        let which = index(self.rng.below(ZONES.len() as u64));
        let service = service_name(index(self.rng.below(u64::from(self.size.services))));
        let post = self.rng.below(POST_EVERY) == 0;
        let mut head = Head::new();
        let authority = format!("{}.{}", service.name, service.namespace);
        head.start_request(if post { "POST" } else { "GET" }, "http", &authority, "/").ok();
        let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, 40_000));
        let direction = Direction::Service { service: &service, port: shop::PORT, sni: None };
        let arrival = Arrival { direction, source: None, remote, tls: Tls::None };
        let caller = &mut self.callers[which];
        let (exchange, effect) =
            Exchange::begin(&caller.compiler.snapshot(), &mut caller.shard, &arrival, &mut head, at);
        let request = Request { caller: which, exchange, begun: self.now, post, at: (0, 0), reached: 0 };
        let id = self.requests.len();
        self.requests.push(Some(request));
        self.tally.report.requests += 1;
        self.perform(id, effect);
    }

    fn perform(&mut self, id: usize, effect: Effect) {
        match effect {
            Effect::Send(plan) => self.send(id, &plan),
            Effect::Wait => {}
            Effect::Forward => self.finish(id, 200),
            Effect::Reply(answer) => self.finish(id, answer.status),
            // No policy is set that could ask for anything else.
            _ => self.finish(id, 500),
        }
    }

    fn send(&mut self, id: usize, plan: &Plan) {
        let Target::Mesh(hop) = &plan.target else { return self.finish(id, 500) };
        let endpoint = endpoint_at(hop.address().ip());
        let broken = self.lost.1;
        let lost = self.is_lost(endpoint);
        let hit = is_hit(self.lost.0, endpoint, self.size);
        let span = self.exponential(ANSWER_MEAN);
        let Some(request) = self.requests[id].as_mut() else { return };
        let attempt = plan.again.attempt;
        request.at = (attempt, endpoint);
        let caller = &mut self.callers[request.caller];
        let trip = TRIPS[usize::from(zone_of(endpoint) != caller.zone)];
        let connected = caller.connected.contains(&endpoint);
        self.tally.report.tries += 1;
        if broken && attempt == 1 && (self.lost.0 == Loss::Third || caller.zone == 0) {
            let since = self.now.since(Instant::default() + Duration::from_secs(100) + BREAKS);
            let part = self.tally.firsts.entry(u64::try_from(since.as_millis() / 100).unwrap_or(0)).or_default();
            (part.0, part.1) = (part.0 + 1, part.1 + u64::from(hit));
        }
        // While a connection is opened, its own limit holds.
        if let Some(until) = plan.try_deadline.filter(|_| connected || !lost) {
            self.after(until.since(self.now), Event::Late(id, attempt));
        }
        let Some(request) = self.requests[id].as_mut() else { return };
        let (span, failure) = match (lost, self.way, connected) {
            (false, _, _) => {
                self.callers[request.caller].connected.insert(endpoint);
                request.reached += 1;
                (trip + span, None)
            }
            (true, Way::Killed, _) => (trip, Some(Failure::Connect)),
            // The first request of a connection waits for the handshake, which nobody answers.
            (true, Way::Silent, false) => (plan.connect_timeout, Some(Failure::ConnectTimeout)),
            (true, Way::Silent, true) => return,
        };
        self.after(plan.delay + span, Event::Ends(id, attempt, failure));
    }

    /// The answer comes, unless its endpoint was lost meanwhile.
    fn answered(&mut self, id: usize, attempt: u8) {
        let at = self.at();
        let Some(request) = self.requests[id].as_mut().filter(|request| request.at.0 == attempt) else { return };
        let (_, endpoint) = request.at;
        if is_hit(self.lost.0, endpoint, self.size) && self.lost.1 {
            if self.way == Way::Killed {
                self.failed(id, attempt, Failure::ResetBeforeHead { request_sent: true });
            }
            return;
        }
        let mut head = Head::new();
        head.start_response(200);
        let effect = request.exchange.on_response(&mut self.callers[request.caller].shard, &mut head, at);
        self.perform(id, effect);
    }

    fn failed(&mut self, id: usize, attempt: u8, failure: Failure) {
        let at = self.at();
        let Some(request) = self.requests[id].as_mut().filter(|request| request.at.0 == attempt) else { return };
        let effect = request.exchange.on_failure(&mut self.callers[request.caller].shard, failure, at);
        self.perform(id, effect);
    }

    fn finish(&mut self, id: usize, status: u16) {
        let at = self.at();
        let Some(request) = self.requests[id].take() else { return };
        let Tally { report, spans, .. } = &mut self.tally;
        match (request.post, status == 200) {
            (false, false) => report.failed += 1,
            (true, false) => report.posts_failed += 1,
            (false, true) if self.lost.1 => spans.push(self.now.since(request.begun)),
            (_, true) => {}
        }
        report.posts_doubled += u64::from(request.post && request.reached > 1);
        let outcome = Outcome { status, failure: None };
        request.exchange.finish(&mut self.callers[request.caller].shard, outcome, at);
    }

    fn breaks(&mut self) {
        self.lost.1 = true;
        if self.way != Way::Killed {
            return;
        }
        for caller in &mut self.callers {
            caller.connected.retain(|endpoint| !is_hit(self.lost.0, *endpoint, self.size));
        }
        let cut: Vec<(usize, u8)> = self
            .requests
            .iter()
            .enumerate()
            .filter_map(|(id, request)| request.as_ref().map(|request| (id, request.at)))
            .filter(|(_, (_, endpoint))| is_hit(self.lost.0, *endpoint, self.size))
            .map(|(id, (attempt, _))| (id, attempt))
            .collect();
        for (id, attempt) in cut {
            self.failed(id, attempt, Failure::ResetBeforeHead { request_sent: true });
        }
    }

    fn heals(&mut self) {
        self.lost.1 = false;
        // Whoever waits still, waits for an answer that was never written.
        for id in 0..self.requests.len() {
            let waits = self.requests[id].as_ref().is_some_and(|request| is_hit(self.lost.0, request.at.1, self.size));
            if waits {
                self.finish(id, 0);
            }
        }
    }

    fn told(&mut self, back: bool) {
        let (loss, size) = (self.lost.0, self.size);
        let hit =
            (0..size.endpoints as usize * size.services as usize).filter(|endpoint| is_hit(loss, *endpoint, size));
        let hit: Vec<Resource> = hit.map(|endpoint| endpoint_resource(endpoint, size)).collect();
        let delta = if back {
            Delta { changed: hit.into_iter().map(Arc::new).collect(), removed: Vec::new() }
        } else {
            Delta { changed: Vec::new(), removed: hit.into_iter().map(|resource| resource.key).collect() }
        };
        for caller in &mut self.callers {
            if back {
                caller.connected.retain(|endpoint| !is_hit(loss, *endpoint, size));
            }
            caller.compiler.apply(&delta, Revision(if back { 3 } else { 2 }));
        }
    }

    fn conclude(mut self) -> Report {
        let Tally { report, spans, firsts } = &mut self.tally;
        spans.sort_unstable();
        report.p99 = spans.get(spans.len() * 99 / 100).copied().unwrap_or_default();
        let last = firsts.iter().filter(|(_, (all, lost))| lost * 50 > *all).map(|(part, _)| part + 1).max();
        report.moved = Duration::from_millis(last.unwrap_or(0) * 100);
        report.clone()
    }
}

impl Caller {
    fn new(zone: usize, size: Size, rng: &mut Rng) -> Self {
        let node = Node {
            name: Text::from(format!("caller-{}", ZONES[zone])),
            namespace: shop::NAMESPACE.into(),
            identity: identity("caller"),
            locality: locality(zone),
            role: Role::Sidecar,
        };
        let mut compiler = Compiler::new(node);
        let mesh = Spec::Mesh(Mesh {
            trust_domain: shop::TRUST_DOMAIN.into(),
            default_access: DefaultAccess::Allow,
            otlp: None,
            limits: Box::default(),
        });
        let services = (0..size.services as usize).flat_map(|n| [service_resource(n), failover(n)]);
        let endpoints = (0..size.endpoints as usize * size.services as usize).map(|n| endpoint_resource(n, size));
        let all = [resource(Kind::Mesh, "", "mesh", mesh)].into_iter().chain(services).chain(endpoints);
        compiler.apply(&Delta { changed: all.map(Arc::new).collect(), removed: Vec::new() }, Revision(1));
        Self { compiler, shard: Shard::new(rng.next_u64()), zone, connected: HashSet::new() }
    }
}

fn is_hit(loss: Loss, endpoint: usize, size: Size) -> bool {
    match loss {
        // Within each service, and in every zone if there are enough.
        Loss::Third => {
            let of_service = endpoint % size.endpoints as usize;
            let row = if size.endpoints < 9 { of_service } else { of_service / ZONES.len() };
            row % ZONES.len() == 0
        }
        Loss::Zone => zone_of(endpoint) == 0,
    }
}

const fn zone_of(endpoint: usize) -> usize {
    endpoint % ZONES.len()
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(0)
}

fn locality(zone: usize) -> Locality {
    Locality { region: "r".into(), zone: ZONES[zone].into() }
}

fn service_name(number: usize) -> ServiceRef {
    ServiceRef::new(shop::NAMESPACE, format!("s{number}"))
}

fn identity(name: &str) -> Identity {
    match Identity::new(shop::TRUST_DOMAIN, shop::NAMESPACE, name) {
        Ok(identity) => identity,
        Err(_) => unreachable!("names of this simulation are of the right form"),
    }
}

fn address(endpoint: usize) -> IpAddr {
    let number = u32::try_from(endpoint).unwrap_or(0) + 1;
    IpAddr::V4(Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + number))
}

fn endpoint_at(address: IpAddr) -> usize {
    let IpAddr::V4(address) = address else { return 0 };
    (address.to_bits() - Ipv4Addr::new(10, 0, 0, 0).to_bits()) as usize - 1
}

fn resource(kind: Kind, namespace: &str, name: &str, spec: Spec) -> Resource {
    let key = Key::new(kind, namespace, name);
    Resource { key, revision: Revision(1), created: Revision(1), labels: Labels::new(), origin: None, spec }
}

fn service_resource(number: usize) -> Resource {
    let name = service_name(number);
    let target = TargetPort::Number(shop::PROGRAM_PORT);
    let port =
        ServicePort { name: "http".into(), port: shop::PORT, target, protocol: Protocol::Http1, prefixed: false };
    let selector = Labels::from([("app".into(), name.name.clone())]);
    let spec =
        Spec::Service(Service { ports: vec![port], selector, outside: None, publish_not_ready: false, pool: None });
    resource(Kind::Service, shop::NAMESPACE, &name.name, spec)
}

/// Who is near comes first.
fn failover(number: usize) -> Resource {
    let failover = Failover {
        prefer: vec![Nearness::SameZone, Nearness::SameRegion, Nearness::Any],
        below_percent: 70,
        shares: Vec::new(),
        distribute: Vec::new(),
    };
    let name = service_name(number);
    let policy = TrafficPolicy { targets: vec![name.clone()], failover: Some(failover), ..TrafficPolicy::default() };
    resource(Kind::TrafficPolicy, shop::NAMESPACE, &name.name, Spec::Traffic(Arc::new(policy)))
}

fn endpoint_resource(number: usize, size: Size) -> Resource {
    let service = service_name(number / size.endpoints as usize);
    let workload = Text::from(format!("e{number}"));
    let name = format!("{}/{workload}", service.name);
    let endpoint = Endpoint {
        identity: identity("program"),
        service,
        workload,
        address: SocketAddr::new(address(number), 7770),
        ports: vec![PortPair { service: shop::PORT, target: shop::PROGRAM_PORT }],
        labels: Labels::new(),
        locality: locality(zone_of(number)),
        weight: 1,
        health: Health::Healthy,
        way: None,
    };
    resource(Kind::Endpoint, shop::NAMESPACE, &name, Spec::Endpoint(Box::new(endpoint)))
}

#[cfg(test)]
mod tests;
