// SPDX-License-Identifier: Apache-2.0
//! Jobs on their way to a writer thread, which takes whatever waits and makes it durable in one step:
//! under load a group grows while the disk is busy with the one before, and a lone job waits for nobody. A writer whose
//! steps cost more than their jobs also waits a moment for company ([`Queue::gather`]).

use crate::store::{Error, WAITING_MAX};
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// Jobs `J`, each waiting for a `D`.
pub(crate) struct Queue<J, D> {
    line: Mutex<Line<J, D>>,
    changed: Condvar,
    limits: Limits<J>,
}

/// How much one group may hold. The first job always finds room.
pub(crate) struct Limits<J> {
    /// Jobs.
    pub(crate) jobs: usize,
    /// Bytes.
    pub(crate) bytes: usize,
    /// The bytes of one job.
    pub(crate) weigh: fn(&J) -> usize,
}

/// A group at least this large shows a load under which the next one is waited for.
const BUSY_JOBS: usize = 8;
/// A group this large isn't waited for any longer: what is the step's own is then less than what is its jobs'. Whoever comes
/// later finds the processor free while the disk is busy.
const GATHERED_JOBS: usize = 48;
/// Nobody waits for company longer than this.
const GATHER_MAX: Duration = Duration::from_millis(2);
/// Company that hasn't come within this doesn't come.
const GATHER_PAUSE: Duration = Duration::from_micros(100);

struct Line<J, D> {
    waiting: VecDeque<Waiting<J, D>>,
    closed: bool,
    /// How many jobs end the writer's wait.
    wakes: usize,
}

/// A job, and where its answer goes.
pub(crate) struct Waiting<J, D> {
    pub(crate) job: J,
    pub(crate) reply: oneshot::Sender<Result<D, Error>>,
}

impl<J, D> Queue<J, D> {
    pub(crate) fn new(limits: Limits<J>) -> Self {
        let line = Line { waiting: VecDeque::new(), closed: false, wakes: 1 };
        Self { line: Mutex::new(line), changed: Condvar::new(), limits }
    }

    /// Has the writer do `job`, and waits until it's durable.
    pub(crate) async fn run(&self, job: J) -> Result<D, Error> {
        self.send(job)?.await.unwrap_or(Err(Error::Closed))
    }

    /// Has the writer do `job`, whether or not anybody waits for the answer.
    pub(crate) fn send(&self, job: J) -> Result<oneshot::Receiver<Result<D, Error>>, Error> {
        let (reply, answer) = oneshot::channel();
        self.push(Waiting { job, reply })?;
        Ok(answer)
    }

    fn push(&self, waiting: Waiting<J, D>) -> Result<(), Error> {
        let mut line = self.lock();
        if line.closed {
            return Err(Error::Closed);
        }
        if line.waiting.len() >= WAITING_MAX {
            return Err(Error::Busy);
        }
        line.waiting.push_back(waiting);
        let wakes = line.waiting.len() == line.wakes;
        drop(line);
        if wakes {
            self.changed.notify_one();
        }
        Ok(())
    }

    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// The next group: empty once `patience` is over; `None` when closed and nothing is left.
    pub(crate) fn take(&self, patience: Option<Duration>) -> Option<Vec<Waiting<J, D>>> {
        let mut line = self.lock();
        if line.waiting.is_empty() && !line.closed {
            line = match patience {
                Some(patience) => self.changed.wait_timeout(line, patience).unwrap_or_else(PoisonError::into_inner).0,
                None => self.changed.wait(line).unwrap_or_else(PoisonError::into_inner),
            };
        }
        if line.waiting.is_empty() && line.closed {
            return None;
        }
        let mut group = Vec::new();
        let mut bytes = 0;
        while let Some(next) = line.waiting.front() {
            bytes += (self.limits.weigh)(&next.job);
            if !group.is_empty() && (group.len() >= self.limits.jobs || bytes > self.limits.bytes) {
                break;
            }
            group.extend(line.waiting.pop_front());
        }
        Some(group)
    }

    /// Waits until as many jobs wait as one step is worth, if the last one had many; until no more come, or for so long
    /// that it shows. Jobs of a machine that is busy come one by one, as their makers get the processor: without this a
    /// writer that shares it takes it for each few of them.
    pub(crate) fn gather(&self, last: usize) {
        if last < BUSY_JOBS {
            return;
        }
        let mut line = self.lock();
        line.wakes = GATHERED_JOBS;
        let mut left = GATHER_MAX;
        while !line.closed && line.waiting.len() < GATHERED_JOBS && !left.is_zero() {
            let before = line.waiting.len();
            line = self.changed.wait_timeout(line, GATHER_PAUSE).unwrap_or_else(PoisonError::into_inner).0;
            left = left.saturating_sub(GATHER_PAUSE);
            if line.waiting.len() == before {
                break;
            }
        }
        line.wakes = 1;
    }

    fn lock(&self) -> MutexGuard<'_, Line<J, D>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
