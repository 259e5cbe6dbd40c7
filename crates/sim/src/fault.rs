// SPDX-License-Identifier: Apache-2.0
//! What goes wrong, and how often. Chosen from the seed alone, for a span of virtual time; after it the
//! mesh must find its way back.

use crate::net::Who;
use byrnie_base::Rng;
use std::time::Duration;

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// One connection breaks.
    Break,
    /// A proxy and the control plane can't reach each other for a while.
    Partition(Who, Duration),
    /// The control plane's process dies and is started again. What wasn't synced is lost.
    ControlCrash(Duration),
    /// The power is lost in the middle of a write; the medium keeps some of what wasn't synced.
    PowerCut(Duration),
    /// The control plane's disk fails one sync.
    FailedSync,
    /// The control plane's disk is full for a while.
    FullDisk(Duration),
    /// A proxy's process dies and is started again, with or without what it had kept on its disk.
    ProxyCrash(Who, Duration, Kept),
    /// The wall clock is set, in milliseconds.
    ClockJump(i64),
}

/// What a proxy finds on its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Its last good configuration.
    LastGood,
    /// Nothing.
    Nothing,
}

/// Which kinds of faults a run has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faults {
    /// Breaks and partitions.
    pub network: bool,
    /// Crashes of the control plane.
    pub control: bool,
    /// Crashes of proxies.
    pub proxies: bool,
    /// Lost power, failed syncs and full disks.
    pub disk: bool,
    /// Jumps of the wall clock.
    pub clock: bool,
}

impl Faults {
    /// All of them.
    pub const ALL: Self = Self { network: true, control: true, proxies: true, disk: true, clock: true };
    /// None.
    pub const NONE: Self = Self { network: false, control: false, proxies: false, disk: false, clock: false };

    /// The next fault; `None` when the dice fall on a kind that is switched off.
    pub fn throw(self, rng: &mut Rng, proxies: usize) -> Option<Fault> {
        let who = usize::try_from(rng.below(proxies as u64)).unwrap_or(0);
        let span = |rng: &mut Rng, millis: u64| Duration::from_millis(50 + rng.below(millis));
        let (enabled, fault) = match rng.below(100) {
            0..35 => (self.network, Fault::Break),
            35..55 => (self.network, Fault::Partition(who, span(rng, 12_000))),
            55..63 => (self.control, Fault::ControlCrash(span(rng, 8_000))),
            63..71 => (self.disk, Fault::PowerCut(span(rng, 3_000))),
            71..74 => (self.disk, Fault::FailedSync),
            74..77 => (self.disk, Fault::FullDisk(span(rng, 3_000))),
            77..85 => (self.proxies, Fault::ProxyCrash(who, span(rng, 6_000), Kept::LastGood)),
            85..93 => (self.proxies, Fault::ProxyCrash(who, span(rng, 6_000), Kept::Nothing)),
            // Up to a day, either way.
            _ => (self.clock, Fault::ClockJump(i64::try_from(rng.below(172_800_000)).unwrap_or(0) - 86_400_000)),
        };
        enabled.then_some(fault)
    }
}
