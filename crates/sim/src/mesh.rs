// SPDX-License-Identifier: Apache-2.0
//! The simulated mesh: a control plane, five sidecars, an edge and an operator, driven event by event
//! on a [`World`]. It moves bytes and keeps time for the real parts; it decides nothing that they decide.

use crate::checker::history::History;
use crate::checker::{Promise, Violation, access, view};
use crate::control::{self, After, Control, Reply};
use crate::fault::{Fault, Faults, Kept};
use crate::net::{Arrival, Conn, Delivery, End, Message, Net, Purpose, Who};
use crate::proxy::{Decision, Heard, Proxy, Published};
use crate::shop::{self, State};
use crate::world::{World, digest};
use byrnie_base::{Clock, Instant};
use byrnie_control::registry::lease::{GRACE, HEARTBEAT, RETURN};
use byrnie_engine::Reason;
use byrnie_model::{Key, Kind, Revision};
use byrnie_store::disk::Fate;
use byrnie_store::{Error, Txn, Watch};
use byrnie_xds::wire;
use std::sync::Arc;
use std::time::Duration;

/// How often the store looks for leases that are over.
const SWEEP: Duration = Duration::from_millis(20);
/// How often registrations are checked.
const CHECK: Duration = Duration::from_millis(100);
/// What is promised for a dead workload.
const DEAD_MAX: Duration = Duration::from_secs(3);
/// After this long on a good connection a workload is registered, and a proxy up to date.
const SETTLED: Duration = Duration::from_secs(1);
/// Violations that a report keeps; the first is the one that counts.
const VIOLATIONS_MAX: usize = 20;

/// What happens.
pub enum Event {
    /// On the network.
    Net(Delivery),
    /// A proxy dials.
    Dial(Who, u64, Purpose),
    /// A workload says that it's there.
    Heartbeat(Who, Conn),
    /// The control plane reads what was stored.
    Ingest,
    /// The control plane ends leases.
    Sweep,
    /// A workload whose connection broke had its time to come back.
    Gone(Conn),
    /// The control plane that was started then keeps what it found registered.
    Grace(Instant),
    /// Something goes wrong.
    Fault,
    /// A partition ends.
    Heal(Who),
    /// The control plane starts.
    StartControl,
    /// A proxy starts.
    StartProxy(Who),
    /// The disk has room again.
    Room,
    /// The operator changes something.
    Operate,
    /// Registrations are checked.
    Check,
}

impl From<Delivery> for Event {
    fn from(delivery: Delivery) -> Self {
        Self::Net(delivery)
    }
}

/// Counts of what happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Transactions that were acknowledged.
    pub commits: u64,
    /// Transactions that were refused as somebody had written first.
    pub conflicts: u64,
    /// Faults.
    pub faults: u64,
    /// Starts of the control plane.
    pub control_starts: u64,
    /// Configurations put in force.
    pub published: u64,
    /// Requests that were decided and judged.
    pub requests: u64,
}

/// Everything.
pub struct Mesh {
    pub(crate) world: World<Event>,
    pub(crate) counts: Counts,
    pub(crate) violations: Vec<Violation>,
    pub(crate) net: Net,
    control: Control,
    proxies: Vec<Proxy>,
    history: History,
    shown: Option<Watch>,
    faults: Faults,
    faults_end: Instant,
    operations_end: Instant,
}

impl Mesh {
    pub(crate) fn new(seed: u64, faults: Faults, faulty: Duration) -> Result<Self, byrnie_model::identity::Error> {
        let mut world = World::new(seed);
        let control = Control::new(world.clock.clone());
        let proxies: Vec<Proxy> = shop::places()?.into_iter().map(Proxy::new).collect();
        let faults_end = Instant::default() + faulty;
        world.after(Duration::ZERO, Event::StartControl);
        for who in 0..proxies.len() {
            let span = world.between(Duration::ZERO, Duration::from_millis(500));
            world.after(span, Event::StartProxy(who));
        }
        world.after(SWEEP, Event::Sweep);
        world.after(CHECK, Event::Check);
        world.after(Duration::from_secs(2), Event::Fault);
        world.after(Duration::from_millis(1), Event::Operate);
        Ok(Self {
            world,
            counts: Counts::default(),
            violations: Vec::new(),
            net: Net::default(),
            control,
            proxies,
            history: History::default(),
            shown: None,
            faults,
            faults_end,
            operations_end: faults_end + Duration::from_secs(2),
        })
    }

    pub(crate) fn run(&mut self, end: Instant) {
        while let Some(event) = self.world.next(end) {
            self.step(event);
            if !self.violations.is_empty() {
                // What follows a broken promise explains nothing.
                return;
            }
        }
        self.check_convergence();
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Net(delivery) => self.on_delivery(delivery),
            Event::Dial(who, life, purpose) => self.dial(who, life, purpose),
            Event::Heartbeat(who, conn) => self.heartbeat(who, conn),
            Event::Ingest => self.ingest(),
            Event::Sweep => self.sweep(),
            Event::Gone(conn) => self.gone(conn),
            Event::Grace(since) => self.grace(since),
            Event::Fault => self.fault(),
            Event::Heal(who) => {
                self.world.note(format_args!("heal {who}"));
                self.net.partition(&mut self.world, who, false);
            }
            Event::StartControl => self.start_control(),
            Event::StartProxy(who) => self.start_proxy(who),
            Event::Room => self.control.medium.limit(None),
            Event::Operate => self.operate(),
            Event::Check => self.check_registrations(),
        }
    }

    // --- the control plane

    fn start_control(&mut self) {
        if self.control.up.is_some() {
            return;
        }
        if let Err(error) = self.control.start() {
            self.violate(Promise::Durable, format!("the store can't be opened again: {error}"));
            return;
        }
        self.counts.control_starts += 1;
        let Some(up) = &self.control.up else { return };
        self.world.after(Duration::ZERO, Event::Grace(up.since));
        let (found, revision) = control::contents(&up.store);
        self.world.note(format_args!("control starts at revision {revision}"));
        self.shown = Some(byrnie_store::Store::watch(&*up.store, shop::PREFIX, revision));
        if let Err(detail) = self.history.restarted(found, revision) {
            self.violate(Promise::Durable, detail);
        }
    }

    fn stop_control(&mut self, why: &str, down: Duration) {
        if !self.control.stop() {
            return;
        }
        self.world.note(format_args!("control stops: {why}"));
        self.shown = None;
        for conn in self.net.alive() {
            self.net.cut(&mut self.world, conn, SETTLED);
        }
        self.world.after(down, Event::StartControl);
    }

    /// Follows the store, and lets the control plane do so a moment later.
    fn stored(&mut self) {
        let mut news = false;
        while let Some(watch) = &mut self.shown {
            match watch.try_next() {
                Ok(Some(changes)) => {
                    news = true;
                    self.world.note(format_args!("stored {} ({} changes)", changes.revision, changes.events.len()));
                    if let Err(detail) = self.history.follow(&changes) {
                        self.violate(Promise::Durable, detail);
                    }
                }
                Ok(None) => break,
                Err(ended) => {
                    self.violate(Promise::Durable, ended.to_string());
                    break;
                }
            }
        }
        if news {
            let span = self.world.between(Duration::ZERO, Duration::from_millis(3));
            self.world.after(span, Event::Ingest);
        }
    }

    fn ingest(&mut self) {
        let Some(up) = &mut self.control.up else { return };
        let replies = up.ingest();
        let complaints = up.complaints();
        match replies {
            Ok(replies) => self.perform(replies),
            Err(error) => self.violate(Promise::Converges, format!("the store can't be read: {error}")),
        }
        for complaint in complaints {
            self.violate(Promise::AliveKept, complaint);
        }
    }

    fn gone(&mut self, conn: Conn) {
        let Some(up) = &mut self.control.up else { return };
        match up.gone(conn) {
            Err(Error::Uncertain(_)) => {
                self.history.unanswered_expiry();
                self.stop_control("a sync failed", SETTLED);
            }
            // A disk that refuses for now: the lease ends by itself.
            Ok(()) | Err(_) => self.stored(),
        }
    }

    fn grace(&mut self, since: Instant) {
        let now = self.world.now();
        let Some(up) = self.control.up.as_ref().filter(|up| up.since == since && now.since(since) < GRACE) else {
            return;
        };
        // A store that doesn't answer is seen by the next write.
        let _ = up.keep_stored();
        self.world.after(HEARTBEAT, Event::Grace(since));
    }

    fn sweep(&mut self) {
        self.world.after(SWEEP, Event::Sweep);
        self.end_leases();
    }

    /// Ends leases by themselves, so that no other write shares their fate. Returns whether the control
    /// plane still runs.
    fn end_leases(&mut self) -> bool {
        let Some(up) = &self.control.up else { return false };
        if let Err(Error::Uncertain(_)) = up.sweep() {
            self.history.unanswered_expiry();
            self.stop_control("a sync failed", SETTLED);
            return false;
        }
        self.stored();
        true
    }

    fn perform(&mut self, replies: Vec<(Conn, Reply)>) {
        for (conn, reply) in replies {
            match reply {
                Reply::Send(message) => self.net.send(&mut self.world, conn, End::Proxy, message),
                Reply::Close => {
                    self.broken(conn);
                    self.net.close(&mut self.world, conn, End::Control);
                }
            }
        }
    }

    // --- the network

    fn on_delivery(&mut self, delivery: Delivery) {
        let Some((who, purpose)) = self.net.whose(delivery.conn) else { return };
        if !self.net.arrives(&delivery) {
            return;
        }
        self.note_delivery(&delivery, who, purpose);
        match delivery.end {
            End::Control => self.at_control(delivery.conn, who, purpose, &delivery.arrival),
            End::Proxy => self.at_proxy(delivery.conn, who, purpose, &delivery.arrival),
        }
    }

    fn note_delivery(&mut self, delivery: &Delivery, who: Who, purpose: Purpose) {
        let Delivery { conn, end, arrival } = delivery;
        let (what, bytes) = match arrival {
            Arrival::Opened => ("opened", 0),
            Arrival::Broken => ("broken", 0),
            Arrival::Message(Message::Ads(bytes) | Message::Join(bytes)) => ("message", digest(bytes)),
            Arrival::Message(Message::Heartbeat) => ("heartbeat", 0),
        };
        self.world.note(format_args!("{who} {purpose:?} {} at {end:?}: {what} {bytes:x}", conn.0));
    }

    fn at_control(&mut self, conn: Conn, who: Who, purpose: Purpose, arrival: &Arrival) {
        self.end_leases();
        let Some(up) = &mut self.control.up else {
            self.net.cut(&mut self.world, conn, SETTLED);
            return;
        };
        let place = &self.proxies[who].place;
        let answer = match arrival {
            Arrival::Opened if purpose == Purpose::Ads => Ok(up.on_open_ads(conn, place)),
            Arrival::Opened => Ok(Vec::new()),
            Arrival::Broken => {
                self.broken(conn);
                return self.stored();
            }
            Arrival::Message(message) => up.on_message(conn, place, message),
        };
        match answer {
            Ok(replies) => self.perform(replies),
            Err(Error::Uncertain(_)) => {
                // Only registrations are written here, and no more than one.
                self.unanswered_join(who, arrival);
                self.stop_control("a sync failed", SETTLED);
                return;
            }
            Err(_) => self.perform(vec![(conn, Reply::Close)]),
        }
        self.stored();
    }

    fn unanswered_join(&mut self, who: Who, arrival: &Arrival) {
        if let (Arrival::Message(_), Some(workload)) = (arrival, &self.proxies[who].place.workload) {
            self.history.unanswered(Txn::new().put(shop::store_key(&workload.key), shop::document(workload)));
        }
    }

    /// The control plane learns that a connection is gone.
    fn broken(&mut self, conn: Conn) {
        let Some(up) = &mut self.control.up else { return };
        if up.on_broken(conn) == After::Gone {
            self.world.after(RETURN, Event::Gone(conn));
        }
    }

    fn at_proxy(&mut self, conn: Conn, who: Who, purpose: Purpose, arrival: &Arrival) {
        let life = self.proxies[who].life;
        let Some(running) = &mut self.proxies[who].running else { return };
        let slot = match purpose {
            Purpose::Ads => &mut running.ads,
            Purpose::Registry => &mut running.registry,
        };
        if slot.is_none_or(|(current, _)| current != conn) {
            return;
        }
        match arrival {
            Arrival::Message(Message::Ads(bytes)) => self.on_response(conn, who, bytes),
            Arrival::Broken => {
                *slot = None;
                self.redial(who, life, purpose);
            }
            Arrival::Opened | Arrival::Message(_) => {}
        }
    }

    // --- proxies

    fn start_proxy(&mut self, who: Who) {
        if self.proxies[who].running.is_some() {
            return;
        }
        self.world.note(format_args!("proxy {who} starts"));
        self.proxies[who].start();
        let life = self.proxies[who].life;
        self.redial(who, life, Purpose::Registry);
        self.redial(who, life, Purpose::Ads);
        self.check_published(who);
    }

    fn redial(&mut self, who: Who, life: u64, purpose: Purpose) {
        let span = self.world.between(Duration::from_millis(50), Duration::from_millis(500));
        self.world.after(span, Event::Dial(who, life, purpose));
    }

    fn dial(&mut self, who: Who, life: u64, purpose: Purpose) {
        let Proxy { place, running: Some(running), life: now_life, .. } = &mut self.proxies[who] else { return };
        if *now_life != life || (purpose == Purpose::Registry && place.workload.is_none()) {
            return;
        }
        let Some(conn) = self.control.up.as_ref().and_then(|_| self.net.dial(&mut self.world, who, purpose)) else {
            self.redial(who, life, purpose);
            return;
        };
        let since = Some((conn, self.world.now()));
        let mut messages = Vec::new();
        match (purpose, &place.workload) {
            (Purpose::Registry, Some(workload)) => {
                running.registry = since;
                messages.push(Message::Join(wire::encode(workload)));
                self.world.after(HEARTBEAT, Event::Heartbeat(who, conn));
            }
            _ => {
                running.ads = since;
                messages.extend(running.greet().into_iter().map(Message::Ads));
            }
        }
        for message in messages {
            self.net.send(&mut self.world, conn, End::Control, message);
        }
    }

    fn heartbeat(&mut self, who: Who, conn: Conn) {
        let current = self.proxies[who].running.as_ref().and_then(|running| running.registry);
        if current.is_some_and(|(current, _)| current == conn) {
            self.net.send(&mut self.world, conn, End::Control, Message::Heartbeat);
            self.world.after(HEARTBEAT, Event::Heartbeat(who, conn));
        }
    }

    fn on_response(&mut self, conn: Conn, who: Who, bytes: &[u8]) {
        let Some(running) = &mut self.proxies[who].running else { return };
        let reply = match running.on_response(bytes) {
            Heard::Published(ack) => {
                self.counts.published += 1;
                self.check_published(who);
                ack
            }
            Heard::Partly(ack) => ack,
            Heard::Refused(nack) => {
                self.violate(Promise::Converges, format!("{who} refused what the control plane sent"));
                nack
            }
            Heard::Close => {
                self.violate(Promise::Converges, format!("{who} can't read what the control plane sent"));
                return;
            }
        };
        self.net.send(&mut self.world, conn, End::Control, Message::Ads(reply));
    }

    // --- faults and operators

    fn fault(&mut self) {
        if self.world.now() >= self.faults_end {
            return;
        }
        let span = self.world.between(Duration::from_millis(20), Duration::from_millis(2_500));
        self.world.after(span, Event::Fault);
        let Some(fault) = self.faults.throw(&mut self.world.rng, self.proxies.len()) else { return };
        self.counts.faults += 1;
        self.world.note(format_args!("fault {fault:?}"));
        match fault {
            Fault::Break => {
                let alive = self.net.alive();
                let index = self.world.rng.below(alive.len().max(1) as u64);
                if let Some(conn) = usize::try_from(index).ok().and_then(|index| alive.get(index)) {
                    self.net.cut(&mut self.world, *conn, SETTLED);
                }
            }
            Fault::Partition(who, span) => {
                self.net.partition(&mut self.world, who, true);
                self.world.after(span, Event::Heal(who));
            }
            Fault::ControlCrash(down) => {
                self.control.medium.crash();
                self.stop_control("crash", down);
            }
            Fault::PowerCut(down) => self.power_cut(down),
            Fault::FailedSync => self.control.medium.fail_syncs(1),
            Fault::FullDisk(span) => {
                let used = self.control.medium.used_bytes();
                self.control.medium.limit(Some(used));
                self.world.after(span, Event::Room);
            }
            Fault::ProxyCrash(who, down, kept) => self.stop_proxy(who, down, kept),
            Fault::ClockJump(millis) => self.world.clock.jump(millis),
        }
    }

    /// The next write meets the loss of power.
    fn power_cut(&mut self, down: Duration) {
        if !self.end_leases() {
            return;
        }
        let operations = self.world.rng.below(30);
        self.control.medium.cut_power_after(u32::try_from(operations).unwrap_or(0));
        let newest = Arc::clone(self.history.newest());
        let txn = shop::change(&mut self.world.rng, &newest);
        self.commit(txn);
        let mut dice = self.world.rng.split();
        self.control.medium.crash_with(|_| match dice.below(3) {
            0 => Fate::Lost,
            1 => Fate::Kept,
            _ => Fate::Torn(usize::try_from(dice.below(4096)).unwrap_or(0)),
        });
        self.stop_control("power cut", down);
    }

    fn stop_proxy(&mut self, who: Who, down: Duration, kept: Kept) {
        let now = self.world.now();
        self.proxies[who].stop(now);
        if kept == Kept::Nothing {
            self.proxies[who].forget();
        }
        for conn in self.net.of(who) {
            self.net.cut(&mut self.world, conn, SETTLED);
        }
        self.world.after(down, Event::StartProxy(who));
    }

    fn operate(&mut self) {
        if self.world.now() >= self.operations_end {
            return;
        }
        let span = self.world.between(Duration::from_millis(10), Duration::from_millis(600));
        self.world.after(span, Event::Operate);
        let revision = self.history.revision();
        let txn = if self.history.newest().is_empty() {
            shop::first()
        } else {
            // Sometimes somebody works from what was true a while ago.
            let behind = if self.world.rng.percent(10) { self.world.rng.below(4) } else { 0 };
            let believed = Arc::clone(self.history.at(Revision(revision.0.saturating_sub(behind))));
            shop::change(&mut self.world.rng, &believed)
        };
        self.commit(txn);
    }

    fn commit(&mut self, txn: Txn) {
        if !self.end_leases() {
            return;
        }
        let Some(up) = &self.control.up else { return };
        let answer = up.commit(txn.clone());
        match &answer {
            Ok(revision) => self.world.note(format_args!("committed {revision}")),
            Err(error) => self.world.note(format_args!("not committed: {error}")),
        }
        match answer {
            Ok(_) => self.counts.commits += 1,
            Err(Error::Conflict { .. }) => self.counts.conflicts += 1,
            Err(Error::Uncertain(_)) => {
                self.history.unanswered(txn);
                self.stop_control("a sync failed", SETTLED);
                return;
            }
            Err(_) => {}
        }
        self.stored();
    }

    // --- what must hold

    fn violate(&mut self, promise: Promise, detail: String) {
        let violation = Violation { at: self.world.now(), promise, detail };
        self.world.note(format_args!("VIOLATION {violation}"));
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(violation);
        }
    }

    fn check_published(&mut self, who: Who) {
        let proxy = &self.proxies[who];
        let Some(published) = proxy.running.as_ref().and_then(|running| running.published.clone()) else { return };
        let place = proxy.place.clone();
        self.world.note(format_args!(
            "{who} has revision {} ({} resources)",
            published.revision,
            published.resources.len()
        ));
        if let Some(detail) = view::dangling(&published.resources) {
            self.violate(Promise::MakeBeforeBreak, format!("{}: {detail}", place.node));
        }
        if let Some(detail) = view::missing(&published.resources, &place) {
            self.violate(Promise::LastGood, detail);
        }
        for service in &place.uses {
            let decision = published.outbound(service, self.world.clock.now());
            if let Decision::Reply(reason @ (Reason::BackendAbsent | Reason::UnknownService | Reason::NoRoute)) =
                decision
            {
                let detail = format!("{} answers a request to {service} with {reason:?}", place.node);
                self.violate(Promise::MakeBeforeBreak, detail);
            }
        }
        let Some(service) = &place.serves else { return };
        for request in access::requests(service) {
            self.counts.requests += 1;
            let allowed = published.inbound(&request, self.world.clock.now()) == Decision::Send;
            let by_some = || self.history.since(published.revision).iter().any(|state| access::allows(state, &request));
            if allowed && !by_some() {
                let detail = format!("{} at {} allows {request}", place.node, published.revision);
                self.violate(Promise::NeverOpen, detail);
            }
        }
    }

    fn check_registrations(&mut self) {
        self.world.after(CHECK, Event::Check);
        let Some(up) = &self.control.up else { return };
        let (now, up_since) = (self.world.now(), up.since);
        // For a while after its start the control plane keeps whatever it found registered.
        let settled = up_since + GRACE;
        let newest = Arc::clone(self.history.newest());
        let mut broken = Vec::new();
        for proxy in &self.proxies {
            let Some(workload) = &proxy.place.workload else { continue };
            let registered = newest.contains_key(&workload.key);
            if let Some(died) = proxy.died
                && now.since(died.max(settled)) > DEAD_MAX
            {
                if registered {
                    broken.push((Promise::DeadRemoved, format!("{} is stored", workload.key)));
                }
                broken.extend(self.endpoints_of(&workload.key, died.max(settled)).map(|d| (Promise::DeadRemoved, d)));
            }
            let registry = proxy.running.as_ref().and_then(|running| running.registry);
            if let Some((conn, since)) = registry
                && self.net.is_alive(conn)
                && now.since(since.max(up_since)) > SETTLED
                && !registered
            {
                broken.push((Promise::AliveKept, format!("{} is not stored", workload.key)));
            }
        }
        for (promise, detail) in broken {
            self.violate(promise, detail);
        }
    }

    /// A well-connected proxy that still has an endpoint of a workload that is long gone.
    fn endpoints_of(&self, workload: &Key, gone: Instant) -> Option<String> {
        let now = self.world.now();
        let connected = |proxy: &&Proxy| {
            let ads = proxy.running.as_ref().and_then(|running| running.ads);
            ads.is_some_and(|(conn, since)| self.net.is_alive(conn) && now.since(since.max(gone)) > SETTLED)
        };
        let suffix = format!("/{}", workload.name);
        let has =
            |state: &State| state.keys().find(|key| key.kind == Kind::Endpoint && key.name.ends_with(&suffix)).cloned();
        self.proxies.iter().filter(connected).find_map(|proxy| {
            let published = proxy.running.as_ref()?.published.as_ref()?;
            let key = has(&published.resources)?;
            Some(format!("{} still has {key}", proxy.place.node))
        })
    }

    fn check_convergence(&mut self) {
        let newest = Arc::clone(self.history.newest());
        let mut broken = Vec::new();
        for proxy in &self.proxies {
            let should = view::from_nothing(&newest, &proxy.place);
            let Some(published) = proxy.running.as_ref().and_then(|running| running.published.as_ref()) else {
                broken.push(format!("{} has nothing", proxy.place.node));
                continue;
            };
            let scratch = Published::from_nothing(&proxy.place, should, published.revision);
            let different = view::difference(&published.resources, &scratch.resources)
                .or_else(|| view::compiled_difference(&proxy.place, published, &scratch, self.world.clock.now()));
            broken.extend(different.map(|detail| format!("{} {detail}", proxy.place.node)));
        }
        for detail in broken {
            self.violate(Promise::Converges, detail);
        }
    }
}
