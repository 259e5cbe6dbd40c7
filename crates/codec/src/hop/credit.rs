// SPDX-License-Identifier: Apache-2.0
//! Credit as the receiver keeps it, and budgets for what costs work and carries nothing.

use byrnie_base::Instant;
use std::time::Duration;

/// What one side lets the other send. Given back in steps, so that a small exchange never causes a frame of its own.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    step: u32,
    left: i64,
    /// Passed on and not yet given back.
    owed: u32,
}

impl Window {
    /// A window of `size` bytes, given back in steps of half of it.
    pub const fn new(size: u32) -> Self {
        Self::in_steps(size, size / 2)
    }

    /// A window of `size` bytes, given back in steps of `step`.
    pub const fn in_steps(size: u32, step: u32) -> Self {
        Self { step, left: size as i64, owed: 0 }
    }

    /// Gives back in steps of `step` from now on.
    pub const fn set_step(&mut self, step: u32) {
        self.step = step;
    }

    /// What may still come; negative if the last frame overdrew it.
    pub const fn left(&self) -> i64 {
        self.left
    }

    /// So much more may come from now on.
    pub fn widen(&mut self, bytes: u32) {
        self.left += i64::from(bytes);
    }

    /// So much has come.
    pub fn receive(&mut self, bytes: usize) {
        self.left -= bytes as i64;
    }

    /// So much has been passed on. Answers what to give back now; 0: nothing yet.
    pub fn consume(&mut self, bytes: usize) -> u32 {
        self.owed = self.owed.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        if self.owed < self.step {
            return 0;
        }
        self.give_back()
    }

    /// Gives back now whatever has been passed on.
    pub fn give_back(&mut self) -> u32 {
        self.left += i64::from(self.owed);
        std::mem::take(&mut self.owed)
    }
}

/// So many at once, one more after each pause, and one more for each that was earned.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    burst: u32,
    every: Duration,
    used: u32,
    since: Instant,
}

impl Budget {
    /// A full budget.
    pub const fn new(burst: u32, every: Duration) -> Self {
        Self { burst, every, used: 0, since: Instant::from_nanos(0) }
    }

    /// Uses one; false if there is none.
    pub fn take(&mut self, now: Instant) -> bool {
        let back = now.since(self.since).as_nanos() / self.every.as_nanos().max(1);
        match u32::try_from(back) {
            // What is left of the pause counts towards the next one.
            Ok(back) if back < self.used => {
                self.used -= back;
                self.since = self.since + self.every * back;
            }
            _ => (self.used, self.since) = (0, now),
        }
        if self.used >= self.burst {
            return false;
        }
        self.used += 1;
        true
    }

    /// Gives so many back; there are never more than in a full one.
    pub const fn earn(&mut self, count: u32) {
        self.used = self.used.saturating_sub(count);
    }
}
