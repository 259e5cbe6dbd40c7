// SPDX-License-Identifier: Apache-2.0
//! A core: one thread that owns its shard, its view of the configuration, its pool and its ledger.
//! Snapshots and keys arrive from the agent and are swapped between two events; exchanges under way
//! end on what they began with. Nothing here is shared with another core but counters.

use crate::agent::Inquiries;
use crate::config::{Hop, Users};
use crate::connection;
use crate::door::Door;
use crate::gates::Gates;
use crate::keys::Keys;
use crate::laggards::Laggards;
use crate::outside::Outsides;
use crate::record::{CoreCounts, Ledger, Outlets, Seen};
use crate::spread::{Moved, Place, Spread};
use byrnie_base::Now;
use byrnie_base::drain::Watch;
use byrnie_codec::Limits;
use byrnie_engine::{Shard, Snapshot, Verdict};
use byrnie_net::io::TcpStream;
use byrnie_net::listen::{self, Listener};
use byrnie_net::pool::Pool;
use byrnie_net::runtime::{self, Shutdown};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How often a core tidies up: hands over log lines, closes what was idle for too long.
const TICK: Duration = Duration::from_millis(500);

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

/// A listener, and what it stands for.
#[derive(Debug)]
pub(crate) struct Entrance {
    pub(crate) door: Door,
    pub(crate) listener: Listener,
    /// When it closes.
    pub(crate) until: Shutdown,
}

/// What a core is given when it starts.
#[derive(Debug)]
pub(crate) struct Seat {
    /// For its dice.
    pub(crate) seed: u64,
    pub(crate) inquiries: Inquiries,
    pub(crate) hop: Hop,
    /// Whether the whole mesh is on this machine.
    pub(crate) own_machine: bool,
    pub(crate) in_force: watch::Receiver<InForce>,
    /// Where it stands among the cores.
    pub(crate) place: Place,
    /// Listeners, as they come.
    pub(crate) entrances: mpsc::UnboundedReceiver<Entrance>,
    pub(crate) drain: Watch,
    pub(crate) stop: Shutdown,
    pub(crate) outlets: Outlets,
    pub(crate) counts: Arc<CoreCounts>,
}

/// One core's memory.
#[derive(Debug)]
pub(crate) struct Core {
    in_force: RefCell<InForce>,
    shard: RefCell<Shard>,
    /// Of the shard; another each time that it's made anew.
    seed: Cell<u64>,
    pub(crate) pool: RefCell<Pool>,
    ledger: RefCell<Ledger>,
    /// Where it asks about idempotency keys.
    pub(crate) inquiries: Inquiries,
    pub(crate) limits: Limits,
    /// What is spoken to other proxies.
    pub(crate) hop: Hop,
    drain: Watch,
    spread: Spread,
    /// What is known of hosts outside.
    pub(crate) outside: Outsides,
    pub(crate) crowd: Crowd,
}

/// Who is under way and may be too many.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    /// Exchanges that wait for their clients.
    pub(crate) laggards: Rc<Laggards>,
    /// Copies of requests.
    pub(crate) mirrored: Cell<usize>,
}

impl Core {
    fn new(seat: &Seat, in_force: InForce) -> Self {
        let ledger = Ledger::new(seat.outlets.clone(), Arc::clone(&seat.counts), seat.seed ^ 1);
        Self {
            in_force: RefCell::new(in_force.of_its_own()),
            shard: RefCell::new(Shard::new(seat.seed)),
            seed: Cell::new(seat.seed),
            pool: RefCell::default(),
            ledger: RefCell::new(ledger),
            inquiries: seat.inquiries.clone(),
            limits: Limits::default(),
            hop: seat.hop,
            drain: seat.drain.clone(),
            spread: seat.place.spread.clone(),
            outside: Outsides::new(seat.own_machine),
            crowd: Crowd::default(),
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
        decide(&mut self.shard.borrow_mut(), runtime::precise())
    }

    /// Writes down how an exchange went.
    pub(crate) fn record(&self, verdict: &Verdict, seen: &Seen<'_>) {
        self.ledger.borrow_mut().write(verdict, seen);
    }

    /// What this core counts beside exchanges.
    pub(crate) fn count(&self, count: impl FnOnce(&CoreCounts)) {
        count(self.ledger.borrow().counts());
    }

    /// Whether no new work is to be taken.
    pub(crate) fn is_draining(&self) -> bool {
        self.drain.is_draining()
    }

    /// When the drain begins, and what holds it open.
    pub(crate) fn drain(&self) -> &Watch {
        &self.drain
    }

    /// A connection's task has panicked: what it shared may be half changed, so it's made anew.
    pub(crate) fn panicked(&self) {
        self.seed.set(self.seed.get().wrapping_add(1));
        *self.shard.borrow_mut() = Shard::new(self.seed.get());
        self.pool.borrow_mut().clear();
    }

    fn take(&self, in_force: &InForce) {
        if in_force.keys.generation != self.generation() {
            self.pool.borrow_mut().retire(in_force.keys.generation);
        }
        *self.in_force.borrow_mut() = in_force.of_its_own();
    }

    fn tidy(&self, counted: &mut byrnie_engine::Counts) {
        let now = self.shard.borrow().counts();
        self.pool.borrow_mut().sweep(runtime::now().mono);
        let (idle, _) = self.pool.borrow().sizes();
        let mut ledger = self.ledger.borrow_mut();
        ledger.flush();
        let counts = ledger.counts();
        counts.idle.set(idle as u64);
        counts.retries.add(now.retries.saturating_sub(counted.retries));
        counts.retries_won.add(now.retries_won.saturating_sub(counted.retries_won));
        counts.retries_over_budget.add(now.retries_over_budget.saturating_sub(counted.retries_over_budget));
        counts.ejections.add(now.ejections.saturating_sub(counted.ejections));
        *counted = now;
    }
}

/// Runs a core until it's told to stop.
pub(crate) async fn run(mut seat: Seat) {
    let in_force = seat.in_force.borrow_and_update().clone();
    let core = Rc::new(Core::new(&seat, in_force));
    let mut counted = byrnie_engine::Counts::default();
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
                let core = Rc::clone(&core);
                runtime::spawn_local("accept", accept(core, entrance));
            }
            () = runtime::sleep(TICK) => core.tidy(&mut counted),
            () = seat.stop.wait() => break,
        }
    }
    core.tidy(&mut counted);
}

/// Accepts connections until the drain begins, or the listener is closed.
async fn accept(core: Rc<Core>, entrance: Entrance) {
    let Entrance { door, listener, mut until } = entrance;
    let door = Arc::new(door);
    let mut draining = core.drain.draining();
    loop {
        while core.spread.is_full() {
            runtime::sleep(Duration::from_millis(20)).await;
        }
        let (tcp, remote) = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut draining => return,
            () = until.wait() => return,
        };
        if *door == Door::Forward(Users::Own) && !listen::is_own_user(remote, listener.local_addr()) {
            tracing::warn!(%remote, "a connection to the forward listener is another user's: closed");
            continue;
        }
        match core.spread.other() {
            Some(other) => core.give(other, tcp, remote, &door),
            None => {
                core.spread.enter();
                core.serve(tcp, remote, Arc::clone(&door));
            }
        }
    }
}

impl Core {
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
        self.count(|counts| {
            counts.accepted.increment();
            counts.connections.rise();
        });
        let core = Rc::clone(self);
        runtime::spawn_local("connection", async move {
            let guard = core.drain.guard();
            let served = runtime::catch("connection", connection::serve(&core, &door, tcp, remote)).await;
            if served.is_err() {
                core.panicked();
            }
            core.spread.leave();
            core.count(|counts| counts.connections.fall());
            drop(guard);
        });
    }
}
