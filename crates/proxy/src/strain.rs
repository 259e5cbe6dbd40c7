// SPDX-License-Identifier: Apache-2.0
//! Measures what the process uses, tells the engine, and saves what can be saved while there is little left. Of one
//! core, and called by it alone: while it works, ten times a second, and whenever so much has begun that memory may
//! have run short meanwhile. What is refused, `engine/overload` decides.

use crate::worker::Core;
use byrnie_base::Instant;
use byrnie_engine::{Reading, Short, Strain};
use byrnie_net::machine::{self, Meter};
use byrnie_net::{http, runtime};
use std::cell::Cell;
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
}

/// An exchange or tunnel under way.
#[derive(Debug)]
pub(crate) struct Underway<'a>(&'a Gauge);

impl Drop for Underway<'_> {
    fn drop(&mut self) {
        self.0.underway.set(self.0.underway.get() - 1);
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
        }
    }

    /// One more.
    pub(crate) fn enter(&self) -> Underway<'_> {
        self.underway.set(self.underway.get() + 1);
        Underway(self)
    }

    /// How many exchanges and tunnels there are.
    pub(crate) fn underway(&self) -> usize {
        self.underway.get()
    }

    /// Whether anything began since this was last asked.
    pub(crate) fn was_busy(&self) -> bool {
        self.busy.replace(false)
    }
}

impl Core {
    /// Whether nothing is to be kept that isn't needed.
    pub(crate) fn saves(&self) -> bool {
        self.gauge.strain.get().saves()
    }

    /// Whether no connection is to be accepted.
    pub(crate) fn closes(&self) -> bool {
        self.gauge.strain.get().closes()
    }

    /// An exchange, a tunnel or a connection begins.
    pub(crate) fn begins(&self) {
        let gauge = &self.gauge;
        gauge.busy.set(true);
        match gauge.credit.get() {
            0 | 1 => self.measure(),
            credit => gauge.credit.set(credit - 1),
        }
    }

    /// Measures now, and saves or stops saving.
    pub(crate) fn measure(&self) {
        let gauge = &self.gauge;
        let usage = gauge.meter.read();
        let reading = Reading { memory: usage.memory, files: usage.files };
        let before = gauge.strain.get();
        let strain = self.with_shard(|shard, _| {
            shard.strain().measured(&reading);
            *shard.strain()
        });
        gauge.credit.set(strain.credit(&reading));
        http::set_unsent_max(strain.buffer_bytes(&reading, gauge.underway()));
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
