// SPDX-License-Identifier: Apache-2.0
//! How many appends a journal has made durable in each of its steps. One step costs one wait for the disk, or the database,
//! whatever is in it; so this says what group commit saves, and when a journal is at its limit.

use super::GROUP_MAX;
use super::run::Job;
use std::sync::atomic::{AtomicU64, Ordering};

/// Steps are told apart up to these sizes; the last is [`GROUP_MAX`], which none exceeds.
pub const SIZES: [usize; 10] = [1, 2, 4, 8, 16, 32, 64, 128, 256, GROUP_MAX];

/// Steps since the journal was opened that made anything durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Commits {
    /// How many had at most as many appends as [`SIZES`] says, and more than the size before.
    pub steps: [u64; SIZES.len()],
    /// Appends in all of them.
    pub appends: u64,
}

/// The same, while it's counted.
#[derive(Debug, Default)]
pub(super) struct Counted {
    steps: [AtomicU64; SIZES.len()],
    appends: AtomicU64,
}

impl Counted {
    /// A step with these jobs is done, and this came of each. What only reads, or failed, isn't counted.
    pub(super) fn note(&self, jobs: &[Job], came: impl Iterator<Item = bool>) {
        let appends = jobs.iter().zip(came).filter(|(job, well)| *well && matches!(job, Job::Append(_))).count();
        let Some(step) = SIZES.iter().position(|size| appends <= *size).and_then(|at| self.steps.get(at)) else {
            return;
        };
        if appends > 0 {
            step.fetch_add(1, Ordering::Relaxed);
            self.appends.fetch_add(appends as u64, Ordering::Relaxed);
        }
    }

    pub(super) fn seen(&self) -> Commits {
        let steps = self.steps.each_ref().map(|steps| steps.load(Ordering::Relaxed));
        Commits { steps, appends: self.appends.load(Ordering::Relaxed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Append;
    use byrnie_saga::Term;

    fn append() -> Job {
        let summary = crate::Value::from(&b""[..]);
        Job::Append(Append { term: Term::default(), id: "t".into(), after: 0, entries: vec![], summary, ended: None })
    }

    #[test]
    fn steps_are_counted_by_their_appends() {
        let counted = Counted::default();
        for appends in [0, 1, 1, 2, 3, 4, 5, GROUP_MAX] {
            let mut jobs: Vec<Job> = (0..appends).map(|_| append()).collect();
            jobs.push(Job::Read("t".into()));
            counted.note(&jobs, jobs.iter().map(|_| true));
            // A disk that is full makes nothing durable.
            counted.note(&jobs, jobs.iter().map(|_| false));
        }
        let Commits { steps, appends } = counted.seen();
        assert_eq!((&steps[..4], steps[SIZES.len() - 1], appends), (&[2, 1, 2, 1][..], 1, 16 + GROUP_MAX as u64));
        assert!(SIZES.is_sorted());
    }
}
