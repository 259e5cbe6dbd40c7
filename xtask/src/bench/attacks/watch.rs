// SPDX-License-Identifier: Apache-2.0
//! Proxies seen from outside while something happens to them: memory, processor time, sockets.

use super::super::process::Process;
use super::super::{cpu, now};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often they're looked at.
const GLANCE: Duration = Duration::from_millis(200);
/// Programs that run within a proxy's tree and aren't it.
const OTHERS: [&str; 2] = ["sleep", "sh"];
/// So much (percent) of the most connections are all of them, or none.
const ALL: usize = 98;
const NONE: usize = 2;
/// Attackers that begin are still at it for so long.
const SETTLED: Duration = Duration::from_secs(1);

/// A look at one moment.
#[derive(Clone, Copy, Debug)]
struct Glance {
    at: Instant,
    memory: u64,
    nanos: u64,
    /// Of the first proxy, where attackers enter.
    sockets: usize,
}

/// What there was to be seen.
pub(super) struct Course {
    /// Bytes of memory above what there was at first, at the most.
    pub(super) grown: u64,
    /// Processors that were busy with the attackers while they were held.
    pub(super) cpu: f64,
    /// From the moment when most were connected, when the first and the last were closed.
    pub(super) left: Option<(Duration, Duration)>,
}

/// Looks until it's told to end.
pub(super) struct Watch {
    stop: Arc<AtomicBool>,
    looking: JoinHandle<Vec<Glance>>,
}

impl Watch {
    pub(super) fn begin(proxies: &[Process]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (ended, first) = (Arc::clone(&stop), proxies.iter().map(Process::pid).collect::<Vec<_>>());
        let looking = std::thread::spawn(move || {
            let entrance = cpu::others(&first[..1], &OTHERS);
            let all = cpu::others(&first, &OTHERS);
            let mut glances = Vec::new();
            while !ended.load(Ordering::SeqCst) {
                let (memory, sockets) = (cpu::resident(&all), cpu::sockets(&entrance));
                glances.push(Glance { at: now(), memory, nanos: cpu::nanos(&all), sockets });
                std::thread::sleep(GLANCE);
            }
            glances
        });
        Self { stop, looking }
    }

    /// What there was until `end`, when the attackers went by themselves, where the good client alone keeps `alone`
    /// processors busy.
    pub(super) fn end(self, end: Instant, alone: f64) -> Course {
        self.stop.store(true, Ordering::SeqCst);
        let mut glances = self.looking.join().unwrap_or_default();
        glances.retain(|glance| glance.at < end);
        course(&glances, alone)
    }
}

/// Nanoseconds that proxies have run.
pub(super) fn cpu_of(proxies: &[Process]) -> u64 {
    cpu::nanos(&proxies.iter().map(Process::pid).collect::<Vec<_>>())
}

fn course(glances: &[Glance], alone: f64) -> Course {
    let Some(first) = glances.first() else { return Course { grown: 0, cpu: 0.0, left: None } };
    let most = glances.iter().map(|glance| glance.memory).max().unwrap_or(0);
    let base = first.sockets;
    let extra = |glance: &Glance| glance.sockets.saturating_sub(base);
    let peak = glances.iter().map(extra).max().unwrap_or(0);
    let reached = |share: usize| move |glance: &&Glance| extra(glance) * 100 >= peak * share;
    let full = glances.iter().find(reached(ALL)).unwrap_or(first);
    let after = |found: Option<&Glance>| found.map(|glance| glance.at - full.at);
    let begun = glances.iter().filter(|glance| glance.at >= full.at);
    let fewer = after(begun.clone().find(|glance| extra(glance) * 100 < peak * ALL));
    let none = after(begun.clone().find(|glance| extra(glance) * 100 <= peak * NONE));
    let until = none.map_or_else(|| glances.last().map_or(first.at, |last| last.at), |none| full.at + none);
    let mut held = begun.filter(|glance| glance.at >= full.at + SETTLED && glance.at <= until);
    let cpu = match (held.clone().next(), held.next_back()) {
        (Some(from), Some(to)) if to.at > from.at => {
            (to.nanos - from.nanos) as f64 / (to.at - from.at).as_nanos() as f64 - alone
        }
        _ => 0.0,
    };
    Course { grown: most.saturating_sub(first.memory), cpu: cpu.max(0.0), left: fewer.zip(none) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attackers_leave_when_their_sockets_are_gone() {
        let start = now();
        let at = |seconds, memory, sockets| Glance {
            at: start + Duration::from_secs(seconds),
            memory,
            nanos: seconds * 100_000_000,
            sockets,
        };
        let glances = [at(0, 10, 20), at(1, 15, 120), at(2, 30, 120), at(3, 20, 120), at(4, 20, 60), at(5, 20, 20)];
        let seen = course(&glances, 0.02);
        assert_eq!((seen.grown, seen.left), (20, Some((Duration::from_secs(3), Duration::from_secs(4)))));
        assert!((seen.cpu - 0.08).abs() < 1e-6, "{}", seen.cpu);
        assert_eq!(course(&glances[..4], 0.0).left, None);
    }
}
