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
    /// Of a part, in nanoseconds.
    length: u128,
}

impl<T: Default> Window<T> {
    /// The part under way; what is older than `length` is forgotten, and all that was counted in parts of another length.
    pub(crate) fn turn_to(&mut self, length: Duration, now: Instant) -> &mut T {
        let length = (length / PARTS as u32).as_nanos().max(1);
        let part = u64::try_from(u128::from(now.as_nanos()) / length).unwrap_or(u64::MAX);
        if length != self.length {
            *self = Self { parts: Default::default(), part, length };
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_that_grows_begins_anew_and_goes_on_forgetting() {
        let at = |secs: u64| Instant::from_nanos(secs * 1_000_000_000);
        let sum = |window: &Window<u32>| window.iter().sum::<u32>();
        let mut window = Window::default();
        *window.turn_to(Duration::from_secs(1), at(86_400)) += 7;
        assert_eq!(sum(&window), 7);
        *window.turn_to(Duration::from_secs(60), at(86_400)) += 1;
        assert_eq!(sum(&window), 1);
        window.turn_to(Duration::from_secs(60), at(86_430));
        assert_eq!(sum(&window), 1);
        window.turn_to(Duration::from_secs(60), at(86_470));
        assert_eq!(sum(&window), 0);
    }
}
