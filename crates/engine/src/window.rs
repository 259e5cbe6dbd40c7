// SPDX-License-Identifier: Apache-2.0
//! Counts of the last while, forgotten in steps.

use byrnie_base::Instant;
use std::time::Duration;

/// A window is forgotten in so many steps.
const PARTS: usize = 10;

/// What was counted in each part of a window that moves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window<T> {
    parts: [T; PARTS],
    /// Number of the current part since the clock's start.
    part: u64,
}

impl<T: Default> Window<T> {
    /// The part under way; what is older than `length` is forgotten.
    pub(crate) fn turn_to(&mut self, length: Duration, now: Instant) -> &mut T {
        let length = (length / PARTS as u32).as_nanos().max(1);
        let part = u64::try_from(u128::from(now.as_nanos()) / length).unwrap_or(u64::MAX);
        for step in 0..part.saturating_sub(self.part).min(PARTS as u64) {
            self.parts[place(part - step)] = T::default();
        }
        self.part = self.part.max(part);
        &mut self.parts[place(self.part)]
    }

    /// All parts.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.parts.iter()
    }
}

fn place(part: u64) -> usize {
    usize::try_from(part % PARTS as u64).unwrap_or(0)
}
