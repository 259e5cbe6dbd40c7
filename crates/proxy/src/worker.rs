// SPDX-License-Identifier: Apache-2.0
//! A core: one thread that owns its shard, its view of the configuration, its pool and its ledger.
//! Snapshots and keys arrive from the agent and are swapped between two events; exchanges under way
//! end on what they began with. Nothing here is shared with another core but counters.

use crate::agent::Lines;
use crate::config::{Hop, Users};
use crate::connection;
use crate::datagrams;
use crate::door::Door;
use crate::gates::Gates;
use crate::keys::Keys;
use crate::laggards::Laggards;
use crate::outside::Outsides;
use crate::record::{CoreCounts, Ledger, Outlets, Seen};
use crate::running::{Closing, Watches};
use crate::spread::{Moved, Place, Spread};
use crate::strain::Gauge;
use byrnie_base::Now;
use byrnie_base::drain::Watch;
use byrnie_codec::Head;
use byrnie_engine::{Arrival, Effect, Exchange, Shard, Snapshot, Verdict};
use byrnie_net::datagram;
use byrnie_net::io::TcpStream;
use byrnie_net::listen::{self, Kind, Listener};
use byrnie_net::machine::Meter;
use byrnie_net::pool::Pool;
use byrnie_net::runtime::{self, Shutdown};
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How often a core tidies up: hands over log lines, closes what was idle for too long.
const TICK: Duration = Duration::from_millis(500);
/// How often it wakes up while it works, to learn how late it is and what is left of memory and files.
const GLANCE: Duration = Duration::from_millis(100);
/// How long a client may remember that HTTP/3 is served (RFC 7838 3.1): one that finds it gone comes back by itself.
#[cfg(feature = "http3")]
const OFFER_AGE: Duration = Duration::from_secs(3600);
/// How long connections under earlier credentials still serve after these were renewed: until there are others, no request
/// waits for them.
const RETIRE_AFTER: Duration = Duration::from_secs(2);
/// Connections that are let in before all others that are ready have their turn: who comes and goes as fast as it can needn't wait
/// for anything, so that the queue of those who want in never ends.
const ACCEPTED_AT_ONCE: u32 = 16;
/// How long it rests while it may not accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// What is in force: handed to every core together.
#[derive(Clone, Debug)]
pub(crate) struct InForce {
    /// The configuration.
    pub(crate) snapshot: Arc<Snapshot>,
    /// The proxy's own credentials.
    pub(crate) keys: Arc<Keys>,
    /// What is served at the ports that gateways name.
    pub(crate) gates: Arc<Gates>,
}

impl InForce {
    pub(crate) fn new(snapshot: Arc<Snapshot>, keys: Arc<Keys>) -> Self {
        let gates = Gates::of(&snapshot, &Arc::default());
        Self { snapshot, keys, gates }
    }

    /// A copy whose snapshot has reference counts that one core alone touches.
    fn of_its_own(&self) -> Self {
        Self {
            snapshot: Arc::new((*self.snapshot).clone()),
            keys: Arc::clone(&self.keys),
            gates: Arc::clone(&self.gates),
        }
    }

    /// Another configuration is in force.
    pub(crate) fn replace(&mut self, snapshot: Arc<Snapshot>) {
        self.gates = Gates::of(&snapshot, &self.gates);
        self.snapshot = snapshot;
    }
}

/// What a core is given to serve.
pub(crate) enum Entrance {
    /// A listener, what it stands for, and when it closes.
    Listener(Door, Listener, Shutdown),
    /// A port of HTTP/3.
    #[cfg(feature = "http3")]
    Quic(crate::quic::Port),
    /// At these ports HTTP/3 is served by now, by whichever core.
    #[cfg(feature = "http3")]
    Offers(std::collections::BTreeSet<u16>),
}

/// What a core is given when it starts.
#[derive(Debug)]
pub(crate) struct Seat {
    /// For its dice.
    pub(crate) seed: u64,
    pub(crate) lines: Lines,
    pub(crate) hop: Hop,
    /// Whether the whole mesh is on this machine.
    pub(crate) own_machine: bool,
    pub(crate) in_force: watch::Receiver<InForce>,
    /// Where it stands among the cores.
    pub(crate) place: Place,
    /// Listeners, as they come.
    pub(crate) entrances: mpsc::UnboundedReceiver<Entrance>,
    pub(crate) drain: Watches,
    pub(crate) stop: Shutdown,
    pub(crate) outlets: Outlets,
    pub(crate) counts: Arc<CoreCounts>,
    /// Of the process.
    pub(crate) meter: Meter,
}

/// One core's memory.
#[derive(Debug)]
pub(crate) struct Core {
    in_force: RefCell<InForce>,
    shard: RefCell<Shard>,
    pub(crate) pool: RefCell<Pool>,
    ledger: RefCell<Ledger>,
    /// Where it asks the control plane.
    pub(crate) lines: Lines,
    /// What is spoken to other proxies.
    pub(crate) hop: Hop,
    drain: Watches,
    spread: Spread,
    /// Exchanges that wait for their clients.
    pub(crate) laggards: Rc<Laggards>,
    /// What is known of hosts outside.
    pub(crate) outside: Outsides,
    /// What is left of memory and files, and what is under way.
    pub(crate) gauge: Gauge,
    /// Where HTTP/3 is served, and what clients of other versions are told of it.
    #[cfg(feature = "http3")]
    offers: RefCell<std::collections::BTreeMap<u16, Rc<str>>>,
}

impl Core {
    fn new(seat: &Seat, in_force: InForce) -> Self {
        seat.counts.level.revision.set(in_force.snapshot.revision().0);
        let ledger = Ledger::new(seat.outlets.clone(), Arc::clone(&seat.counts), seat.seed ^ 1);
        Self {
            in_force: RefCell::new(in_force.of_its_own()),
            shard: RefCell::new(Shard::new(seat.seed)),
            pool: RefCell::default(),
            ledger: RefCell::new(ledger),
            lines: seat.lines.clone(),
            hop: seat.hop,
            drain: seat.drain.clone(),
            spread: seat.place.spread.clone(),
            laggards: Rc::default(),
            outside: Outsides::new(seat.own_machine),
            gauge: Gauge::new(seat.meter.clone()),
            #[cfg(feature = "http3")]
            offers: RefCell::default(),
        }
    }

    /// The configuration in force.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.in_force.borrow().snapshot)
    }

    /// The proxy's credentials.
    pub(crate) fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.in_force.borrow().keys)
    }

    /// What is served at the ports that gateways name.
    pub(crate) fn gates(&self) -> Arc<Gates> {
        Arc::clone(&self.in_force.borrow().gates)
    }

    /// Which credentials of the proxy these are.
    pub(crate) fn generation(&self) -> u64 {
        self.in_force.borrow().keys.generation
    }

    /// Runs `decide` on the shard. It must not wait.
    pub(crate) fn with_shard<T>(&self, decide: impl FnOnce(&mut Shard, Now) -> T) -> T {
        self.at(runtime::precise(), decide)
    }

    /// The same at a moment that was read before.
    pub(crate) fn at<T>(&self, now: Now, decide: impl FnOnce(&mut Shard, Now) -> T) -> T {
        decide(&mut self.shard.borrow_mut(), now)
    }

    /// Opens an exchange under the configuration in force.
    pub(crate) fn open_exchange(&self, arrival: &Arrival<'_>, known: bool, head: &Head, now: Now) -> Exchange {
        let shard = &mut self.shard.borrow_mut();
        shard.set_underway(self.gauge.underway(), known);
        Exchange::open(&self.in_force.borrow().snapshot, shard, arrival, head, now)
    }

    /// Decides on an exchange right after it was opened.
    pub(crate) fn decide(&self, exchange: &mut Exchange, arrival: &Arrival<'_>, head: &mut Head, now: Now) -> Effect {
        let shard = &mut self.shard.borrow_mut();
        exchange.decide(&self.in_force.borrow().snapshot, shard, arrival, head, now)
    }

    /// Writes down how an exchange went.
    pub(crate) fn record(&self, verdict: &Verdict, seen: &Seen<'_>) {
        self.ledger.borrow_mut().write(verdict, seen);
    }

    /// What this core counts beside exchanges.
    pub(crate) fn count(&self, count: impl FnOnce(&CoreCounts)) {
        count(self.ledger.borrow().counts());
    }

    /// When all work ends, and what holds it open.
    pub(crate) fn drain(&self) -> &Watch {
        &self.drain.all
    }

    /// When what comes in by a door ends.
    pub(crate) fn drain_of(&self, inbound: bool) -> &Watch {
        if inbound { &self.drain.inbound } else { &self.drain.all }
    }

    /// When a connection closes that came in by a door, and on which nothing is asked.
    pub(crate) fn closing(&self, inbound: bool) -> Closing {
        self.drain.closing(inbound)
    }

    /// A task has panicked: what it shared may be half changed, so it's made anew.
    pub(crate) fn panicked(&self) {
        self.shard.borrow_mut().renew(runtime::now().mono.as_nanos());
        self.pool.borrow_mut().clear();
    }

    fn take(self: &Rc<Self>, in_force: &InForce) {
        let renewed = in_force.keys.generation != self.generation();
        *self.in_force.borrow_mut() = in_force.of_its_own();
        self.count(|counts| counts.level.revision.set(in_force.snapshot.revision().0));
        self.shard.borrow_mut().forget_recent();
        self.look_ahead();
        if renewed {
            let core = Rc::clone(self);
            runtime::spawn_local("retire", async move {
                runtime::sleep(RETIRE_AFTER).await;
                core.pool.borrow_mut().retire(core.generation());
            });
        }
    }

    fn tidy(&self, counted: &mut byrnie_engine::Counts) {
        let now = self.shard.borrow().counts();
        self.pool.borrow_mut().sweep(runtime::now().mono);
        let (idle, _) = self.pool.borrow().sizes();
        let mut ledger = self.ledger.borrow_mut();
        ledger.flush();
        let counts = ledger.counts();
        counts.level.idle.set(idle as u64);
        counts.tries.sent.add(now.retries.saturating_sub(counted.retries));
        counts.tries.won.add(now.retries_won.saturating_sub(counted.retries_won));
        counts.tries.over_budget.add(now.retries_over_budget.saturating_sub(counted.retries_over_budget));
        counts.tries.hedges.add(now.hedges.saturating_sub(counted.hedges));
        counts.tries.hedges_won.add(now.hedges_won.saturating_sub(counted.hedges_won));
        for (counter, dropped) in counts.dropped.datagrams.iter().zip(datagram::dropped()) {
            // A core is a thread.
            counter.add(dropped.saturating_sub(counter.value()));
        }
        counts.alone.quotas.add(now.quotas_alone.saturating_sub(counted.quotas_alone));
        counts.alone.picks.add(now.unpicked.saturating_sub(counted.unpicked));
        counts.ejections.add(now.ejections.saturating_sub(counted.ejections));
        counts.elsewhere.add(now.elsewhere.saturating_sub(counted.elsewhere));
        for (counter, (now, counted)) in counts.strain.shed.iter().zip(now.shed.iter().zip(counted.shed)) {
            counter.add(now.saturating_sub(counted));
        }
        *counted = now;
    }
}

/// Runs a core until it's told to stop.
pub(crate) async fn run(mut seat: Seat) {
    let in_force = seat.in_force.borrow_and_update().clone();
    let core = Rc::new(Core::new(&seat, in_force));
    let mut counted = byrnie_engine::Counts::default();
    runtime::keep("core", async || attend(&core, &mut seat, &mut counted).await, || core.panicked()).await;
    core.tidy(&mut counted);
}

/// Takes what the core is given, and does what is due by the clock, until it's told to stop.
async fn attend(core: &Rc<Core>, seat: &mut Seat, counted: &mut byrnie_engine::Counts) {
    let mut tidied = runtime::now().mono;
    let mut due = tidied + TICK;
    loop {
        tokio::select! {
            changed = seat.in_force.changed() => {
                if changed.is_err() {
                    break;
                }
                core.take(&seat.in_force.borrow_and_update());
            }
            Some(moved) = seat.place.moved.receive() => core.receive(moved),
            Some(entrance) = seat.entrances.recv() => {
                core.open(entrance);
            }
            // However much else happens meanwhile.
            () = runtime::sleep(due.since(runtime::now().mono)) => {
                let now = runtime::now().mono;
                core.woke(now.since(due));
                due = now + if core.gauge.was_busy() { GLANCE } else { TICK };
                if now.since(tidied) >= TICK {
                    tidied = now;
                    core.tidy(counted);
                    core.look_ahead();
                }
            }
            () = seat.stop.wait() => break,
        }
    }
}

/// Accepts connections until the drain begins, or the listener is closed.
async fn accept(core: &Rc<Core>, door: &Arc<Door>, listener: &Listener, until: &mut Shutdown) {
    let mut draining = core.drain_of(**door == Door::Inbound).draining();
    let mut left = ACCEPTED_AT_ONCE;
    loop {
        if left == 0 {
            left = ACCEPTED_AT_ONCE;
            tokio::task::yield_now().await;
        }
        left -= 1;
        while core.is_full() && !core.makes_room().await {
            runtime::sleep(ACCEPT_PAUSE).await;
        }
        let (tcp, remote) = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut draining => return,
            () = until.wait() => return,
        };
        if **door == Door::Forward(Users::Own) && !listen::is_own_user(remote, listener.local_addr()) {
            tracing::warn!(%remote, "a connection to the forward listener is another user's: closed");
            continue;
        }
        match core.spread.other() {
            Some(other) => core.give(other, tcp, remote, door),
            None => {
                core.spread.enter();
                core.serve(tcp, remote, Arc::clone(door));
            }
        }
    }
}

impl Core {
    /// Serves what it is given from now on.
    fn open(self: &Rc<Self>, entrance: Entrance) {
        let core = Rc::clone(self);
        match entrance {
            Entrance::Listener(door, listener, mut until) => {
                let door = Arc::new(door);
                runtime::spawn_local("accept", async move {
                    let panicked = || core.panicked();
                    match door.kind() {
                        Kind::Connections => {
                            let accept = async || accept(&core, &door, &listener, &mut until).await;
                            runtime::keep("accept", accept, panicked).await;
                        }
                        Kind::Datagrams => {
                            let accept = async || datagrams::accept(&core, &door, &listener, &mut until).await;
                            runtime::keep("datagrams", accept, panicked).await;
                        }
                    }
                });
            }
            #[cfg(feature = "http3")]
            Entrance::Quic(port) => {
                runtime::spawn_local("accept", crate::quic::accept(core, port));
            }
            #[cfg(feature = "http3")]
            Entrance::Offers(ports) => {
                let told = |port| (port, Rc::from(format!("h3=\":{port}\"; ma={}", OFFER_AGE.as_secs())));
                *self.offers.borrow_mut() = ports.into_iter().map(told).collect();
            }
        }
    }

    /// What a client that came to this port is told of HTTP/3 there.
    #[cfg(feature = "http3")]
    pub(crate) fn offer(&self, port: u16) -> Option<Rc<str>> {
        self.offers.borrow().get(&port).filter(|_| !self.drain().is_draining()).cloned()
    }

    /// Whether it lets nobody in for now.
    pub(crate) fn is_full(&self) -> bool {
        self.spread.is_full() || self.closes() && !self.spread.has_few()
    }

    /// Whether this core serves as many connections as it may.
    pub(crate) fn is_crowded(&self) -> bool {
        self.spread.is_full()
    }

    /// Lets the client go that has rested longest, if it's for want of room that nobody is let in; whether there is some now.
    pub(crate) async fn makes_room(&self) -> bool {
        if self.is_crowded() && self.gauge.resting.evict_any(runtime::coarse().mono) {
            // It's woken before this one, and nearly always gone then: one of HTTP/2 says goodbye first.
            tokio::task::yield_now().await;
        } else {
            self.count(|counts| counts.strain.accepts_paused.increment());
        }
        if self.closes() {
            self.measure();
        }
        !self.is_full()
    }

    /// One more connection is served that came by no accept.
    #[cfg(feature = "http3")]
    pub(crate) fn enters(&self) {
        self.spread.enter();
        self.rises();
    }

    /// One more flow of datagrams is served. It takes no socket of its own here, so that it keeps no connection out.
    pub(crate) fn flow_enters(&self) {
        self.rises();
    }

    /// A flow less is.
    pub(crate) fn flow_leaves(&self) {
        self.count(|counts| counts.connections.fall());
    }

    fn rises(&self) {
        self.begins();
        self.count(|counts| {
            counts.accepted.increment();
            counts.connections.rise();
        });
    }

    /// A connection less is served.
    pub(crate) fn leaves(&self) {
        self.spread.leave();
        self.count(|counts| counts.connections.fall());
    }

    /// Gives a connection to another core; serves it here if that isn't possible.
    fn give(self: &Rc<Self>, other: usize, tcp: TcpStream, remote: SocketAddr, door: &Arc<Door>) {
        // One that can't be taken from the reactor is broken.
        let Ok(tcp) = tcp.into_std() else { return };
        let moved = Moved { tcp, remote, door: Arc::clone(door) };
        if let Err(moved) = self.spread.give(other, moved) {
            self.spread.enter();
            self.receive(moved);
        }
    }

    /// Serves a connection that some core has accepted, and that counts as this one's.
    fn receive(self: &Rc<Self>, moved: Moved) {
        match TcpStream::from_std(moved.tcp) {
            Ok(tcp) => self.serve(tcp, moved.remote, moved.door),
            Err(error) => {
                tracing::warn!(remote = %moved.remote, %error, "a connection can't be served");
                self.spread.leave();
            }
        }
    }

    fn serve(self: &Rc<Self>, tcp: TcpStream, remote: SocketAddr, door: Arc<Door>) {
        self.rises();
        let (core, inbound) = (Rc::clone(self), *door == Door::Inbound);
        runtime::spawn_local("connection", async move {
            let guards = (core.drain().guard(), inbound.then(|| core.drain_of(inbound).guard()));
            let served = runtime::catch("connection", connection::serve(&core, &door, tcp, remote)).await;
            if served.is_err() {
                core.panicked();
            }
            core.leaves();
            drop(guards);
        });
    }
}
