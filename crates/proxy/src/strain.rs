// SPDX-License-Identifier: Apache-2.0
//! Measures what the process uses, tells the engine, and saves what can be saved while there is little left. Of one
//! core, and called by it alone: while it works, ten times a second, and whenever so much has begun that memory may
//! have run short meanwhile. What is refused, `engine/overload` decides.

use crate::carry::Trip;
use crate::laggards::Laggards;
use crate::worker::Core;
use byrnie_base::Instant;
use byrnie_engine::{Place, Reading, Short, Strain};
use byrnie_net::machine::{self, Meter};
use byrnie_net::{http, runtime};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Pause between two times that the allocator is asked to give back what is free.
const TRIM_PAUSE: Duration = Duration::from_secs(2);

/// What a core knows of the process' state.
#[derive(Debug)]
pub(crate) struct Gauge {
    meter: Meter,
    strain: Cell<Strain>,
    /// Exchanges and connections that may begin before it's measured again.
    credit: Cell<u32>,
    /// Whether any began since the core last woke up by itself.
    busy: Cell<bool>,
    underway: Cell<usize>,
    trimmed: Cell<Instant>,
    /// Connections on which nothing is asked.
    pub(crate) resting: Rc<Laggards>,
    /// Copies of requests under way.
    pub(crate) mirrored: Cell<usize>,
    /// Requests that wait for their turn, by ticket; without a waker, it is theirs.
    parked: RefCell<HashMap<u64, Option<Waker>>>,
}

/// An exchange or tunnel under way.
#[derive(Debug)]
pub(crate) struct Underway<'a>(&'a Core);

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        let gauge = &self.0.gauge;
        gauge.underway.set(gauge.underway.get() - 1);
        self.0.call();
    }
}

/// A request that waits for its turn.
struct Parked<'a> {
    core: &'a Core,
    ticket: u64,
    /// Whether the engine is to be told that nobody waits any more.
    leaves: bool,
}

impl<'a> Parked<'a> {
    fn new(core: &'a Core, ticket: u64) -> Self {
        core.gauge.parked.borrow_mut().insert(ticket, Some(Waker::noop().clone()));
        Self { core, ticket, leaves: true }
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        match self.core.gauge.parked.borrow_mut().get_mut(&self.ticket) {
            Some(Some(waker)) => {
                waker.clone_from(cx.waker());
                Poll::Pending
            }
            Some(None) | None => Poll::Ready(()),
        }
    }
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.core.gauge.parked.borrow_mut().remove(&self.ticket);
        if self.leaves {
            self.core.with_shard(|shard, _| shard.leave(self.ticket));
            self.core.call();
        }
    }
}

impl Trip<'_> {
    /// Waits in the line of the service that was asked for; an error if the caller leaves meanwhile.
    pub(crate) async fn park(&mut self, place: Place) -> Result<(), ()> {
        let mut parked = Parked::new(self.core, place.ticket);
        self.alarm.set(Some(place.until));
        let turn = poll_fn(|cx| {
            if self.down.has_read_all() && self.down.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(()));
            }
            match parked.poll(cx) {
                Poll::Ready(()) => Poll::Ready(Ok(())),
                Poll::Pending => self.alarm.poll(cx).map(Ok),
            }
        })
        .await;
        self.alarm.set(None);
        // It's the engine that takes it out of the line, once it's told.
        parked.leaves = turn.is_err();
        turn
    }
}

impl Gauge {
    pub(crate) fn new(meter: Meter) -> Self {
        Self {
            meter,
            strain: Cell::default(),
            credit: Cell::new(1),
            busy: Cell::new(false),
            underway: Cell::new(0),
            trimmed: Cell::default(),
            resting: Rc::default(),
            mirrored: Cell::new(0),
            parked: RefCell::default(),
        }
    }

    /// How many exchanges and tunnels there are.
    pub(crate) fn underway(&self) -> usize {
        self.underway.get()
    }

    /// Whether anything began since this was last asked, or waits for its turn: other cores make room too.
    pub(crate) fn was_busy(&self) -> bool {
        self.busy.replace(false) || !self.parked.borrow().is_empty()
    }
}

impl Core {
    /// One more exchange or tunnel.
    pub(crate) fn enter(&self) -> Underway<'_> {
        self.gauge.underway.set(self.gauge.underway.get() + 1);
        Underway(self)
    }

    /// Wakes those whose turn it is now.
    fn call(&self) {
        if self.gauge.parked.borrow().is_empty() {
            return;
        }
        let called = self.with_shard(|shard, now| shard.call(now.mono));
        let mut parked = self.gauge.parked.borrow_mut();
        for ticket in called {
            if let Some(waker) = parked.get_mut(&ticket).and_then(Option::take) {
                waker.wake();
            }
        }
    }

    /// Whether nothing is to be kept that isn't needed.
    pub(crate) fn saves(&self) -> bool {
        self.gauge.strain.get().saves()
    }

    /// Whether a request of which so many bytes wait to be sent on may grow.
    pub(crate) fn gathers(&self, bytes: usize) -> bool {
        self.gauge.strain.get().gathers(bytes)
    }

    /// Whether no connection is to be accepted.
    pub(crate) fn closes(&self) -> bool {
        self.gauge.strain.get().closes()
    }

    /// An exchange, a tunnel or a connection begins.
    pub(crate) fn begins(&self) {
        self.grows(1);
    }

    /// So many begin, or what takes memory as they would.
    pub(crate) fn grows(&self, count: u32) {
        let gauge = &self.gauge;
        gauge.busy.set(true);
        match gauge.credit.get().saturating_sub(count) {
            0 => self.measure(),
            left => gauge.credit.set(left),
        }
    }

    /// Measures now, and saves or stops saving.
    pub(crate) fn measure(&self) {
        let gauge = &self.gauge;
        let usage = gauge.meter.read();
        let reading = Reading { memory: usage.memory, files: usage.files }.reserving(gauge.underway());
        let before = gauge.strain.get();
        let strain = self.with_shard(|shard, _| {
            shard.strain().measured(&reading);
            *shard.strain()
        });
        gauge.credit.set(strain.credit(&reading));
        let underway = gauge.underway();
        http::set_read_max(strain.buffer_bytes(&reading, underway), underway);
        self.follow(before, strain);
    }

    /// The core woke up by so much too late.
    pub(crate) fn woke(&self, late: Duration) {
        let strain = self.with_shard(|shard, now| {
            shard.strain().woke(late, now.mono);
            *shard.strain()
        });
        self.gauge.strain.set(strain);
        self.measure();
        self.call();
        if self.gauge.strain.get().evicts() {
            self.laggards.evict_some(runtime::coarse().mono);
        }
    }

    fn follow(&self, before: Strain, strain: Strain) {
        self.gauge.strain.set(strain);
        self.count(|counts| {
            for (short, percent) in Short::ALL.iter().zip(&counts.strain.percents) {
                percent.set(u64::from(strain.percent(*short)));
            }
        });
        if before.saves() != strain.saves() {
            let (memory, files) = (strain.percent(Short::Memory), strain.percent(Short::Files));
            if strain.saves() {
                tracing::warn!(memory_percent = memory, files_percent = files, "short of memory or files: saving");
            } else {
                tracing::info!(memory_percent = memory, files_percent = files, "enough memory and files again");
            }
        }
        if !strain.saves() {
            return;
        }
        self.pool.borrow_mut().close_idle();
        let now = runtime::coarse().mono;
        if now.since(self.gauge.trimmed.get()) >= TRIM_PAUSE {
            self.gauge.trimmed.set(now);
            machine::trim();
        }
    }
}
