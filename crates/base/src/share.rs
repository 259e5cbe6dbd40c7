// SPDX-License-Identifier: Apache-2.0
//! The few numbers that cores do share: requests in flight at an endpoint, budgets, ceilings. Each
//! stands in a cache line of its own, and an exchange may touch at most two of them. Anything else
//! that cores tell each other goes by [`crate::mailbox`].

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Keeps neighbours apart: 128 bytes, as two lines are fetched together on common processors.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded<T>(T);

/// How many of something there are now, over all cores: in-flight requests of an endpoint.
#[derive(Debug, Default)]
pub struct InFlight(Padded<AtomicU64>);

impl InFlight {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more; tells how many there were before.
    pub fn enter(&self) -> u64 {
        self.0.0.fetch_add(1, Relaxed)
    }

    /// One less. Every `leave` must follow its own `enter`.
    pub fn leave(&self) {
        self.0.0.fetch_sub(1, Relaxed);
    }

    /// How many there are.
    pub fn value(&self) -> u64 {
        self.0.0.load(Relaxed)
    }
}

/// A quantity that must not exceed a maximum: bytes of memory, connections, concurrent requests.
#[derive(Debug)]
pub struct Ceiling {
    used: Padded<AtomicU64>,
    max: AtomicU64,
}

impl Ceiling {
    /// Nothing used of `max`.
    pub fn new(max: u64) -> Self {
        Self { used: Padded::default(), max: AtomicU64::new(max) }
    }

    /// Takes `n` if that doesn't exceed the maximum. Who took it gives it back.
    #[must_use]
    pub fn take(&self, n: u64) -> bool {
        let before = self.used.0.fetch_add(n, Relaxed);
        if before.saturating_add(n) <= self.max.load(Relaxed) {
            return true;
        }
        self.give_back(n);
        false
    }

    /// Gives back what was taken.
    pub fn give_back(&self, n: u64) {
        self.used.0.fetch_sub(n, Relaxed);
    }

    /// Sets the maximum; what is taken above it stays taken until given back.
    pub fn set_max(&self, max: u64) {
        self.max.store(max, Relaxed);
    }

    /// How much is taken. May show for a moment more than the maximum while an attempt is undone.
    pub fn used(&self) -> u64 {
        self.used.0.load(Relaxed)
    }
}

/// Tokens that some deeds earn and others cost: a retry budget. Never more than a maximum is saved.
#[derive(Debug)]
pub struct Tokens {
    saved: Padded<AtomicU64>,
    max: u64,
}

impl Tokens {
    /// `saved` tokens, of at most `max`.
    pub fn new(saved: u64, max: u64) -> Self {
        Self { saved: Padded(AtomicU64::new(saved.min(max))), max }
    }

    /// Saves `n` tokens; what exceeds the maximum is lost.
    pub fn earn(&self, n: u64) {
        let more = |saved: u64| (saved < self.max).then(|| saved.saturating_add(n).min(self.max));
        // An error says that nothing changed, as the budget was full.
        let _ = self.saved.0.fetch_update(Relaxed, Relaxed, more);
    }

    /// Spends `n` tokens if they are there.
    #[must_use]
    pub fn spend(&self, n: u64) -> bool {
        self.saved.0.fetch_update(Relaxed, Relaxed, |saved| saved.checked_sub(n)).is_ok()
    }

    /// Tokens saved.
    pub fn saved(&self) -> u64 {
        self.saved.0.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_ceiling_holds_under_contention() {
        let ceiling = Arc::new(Ceiling::new(10));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let ceiling = Arc::clone(&ceiling);
                std::thread::spawn(move || {
                    for _ in 0..10_000 {
                        if ceiling.take(3) {
                            ceiling.give_back(3);
                        }
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(ceiling.used(), 0);
        assert!(ceiling.take(10) && !ceiling.take(1));
        ceiling.set_max(11);
        assert!(ceiling.take(1));
    }

    #[test]
    fn tokens_are_earned_and_spent() {
        let tokens = Tokens::new(5, 8);
        assert!(tokens.spend(5) && !tokens.spend(1));
        tokens.earn(100);
        assert_eq!(tokens.saved(), 8);
        tokens.earn(1);
        assert!(!tokens.spend(9));
    }

    #[test]
    fn in_flight_rises_and_falls() {
        let load = InFlight::new();
        assert_eq!((load.enter(), load.enter()), (0, 1));
        load.leave();
        assert_eq!(load.value(), 1);
    }
}
