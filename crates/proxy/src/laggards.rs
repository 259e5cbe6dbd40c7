// SPDX-License-Identifier: Apache-2.0
//! Exchanges that wait for their client: for the rest of a request, or for it to take what waits to be sent. Each holds a
//! stream to its upstream, of which there are only so many, and some memory. When there are no more, or little of it, whoever has
//! waited longest makes room: clients that do nothing can't keep out those that do. Called by `carry`, `strain` and `upstream`.

use byrnie_base::Instant;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

/// A client that has done nothing for so long may have to make room for another one's stream.
const LAG_MIN: Duration = Duration::from_millis(500);
/// The same for memory, of which any may be short for a moment.
const LAG_LONG: Duration = Duration::from_secs(2);
/// So many make room for memory at once, until it's seen what that was good for.
const EVICTED_AT_ONCE: usize = 64;

/// Those of one core.
#[derive(Debug, Default)]
pub(crate) struct Laggards {
    next: Cell<u64>,
    /// Oldest first.
    waiting: RefCell<BTreeMap<u64, (Instant, Waker)>>,
}

/// One of them, until it's dropped.
#[derive(Debug)]
pub(crate) struct Lag {
    all: Rc<Laggards>,
    key: u64,
}

impl Laggards {
    /// The exchange that is being polled waits from now on.
    pub(crate) fn enter(self: &Rc<Self>, cx: &Context<'_>, now: Instant) -> Lag {
        let key = self.next.replace(self.next.get() + 1);
        self.waiting.borrow_mut().insert(key, (now, cx.waker().clone()));
        Lag { all: Rc::clone(self), key }
    }

    /// Tells the one that has waited longest to end; false if none has waited for long.
    pub(crate) fn evict(&self, now: Instant) -> bool {
        self.evict_after(LAG_MIN, now)
    }

    /// The same, however short a time it has waited.
    pub(crate) fn evict_any(&self, now: Instant) -> bool {
        self.evict_after(Duration::ZERO, now)
    }

    /// Tells some to end that have waited longest, for want of memory.
    pub(crate) fn evict_some(&self, now: Instant) {
        (0..EVICTED_AT_ONCE).take_while(|_| self.evict_after(LAG_LONG, now)).count();
    }

    fn evict_after(&self, least: Duration, now: Instant) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        let Some(oldest) = waiting.first_entry().filter(|entry| now.since(entry.get().0) >= least) else {
            return false;
        };
        let (_, waker) = oldest.remove();
        waker.wake();
        true
    }
}

impl Lag {
    /// Whether it has been told to end.
    pub(crate) fn is_evicted(&self) -> bool {
        !self.all.waiting.borrow().contains_key(&self.key)
    }
}

impl Drop for Lag {
    fn drop(&mut self) {
        self.all.waiting.borrow_mut().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_has_waited_longest_makes_room_and_nobody_who_has_not_waited() {
        let (all, cx) = (Rc::new(Laggards::default()), Context::from_waker(Waker::noop()));
        let at = |millis: u64| Instant::from_nanos(millis * 1_000_000);
        let (first, second, gone) = (all.enter(&cx, at(10)), all.enter(&cx, at(20)), all.enter(&cx, at(5)));
        drop(gone);
        assert!(!all.evict(at(509)));
        assert!(all.evict(at(510)) && first.is_evicted() && !second.is_evicted());
        assert!(!all.evict(at(510)));
        drop(first);
        assert!(all.evict(at(520)) && second.is_evicted());
        drop(second);
        assert!(!all.evict(at(9000)));
        let many: Vec<_> = (0..100).map(|n| all.enter(&cx, at(10_000 + n))).collect();
        all.evict_some(at(11_999));
        assert!(!many.iter().any(Lag::is_evicted), "memory may be short for a moment");
        all.evict_some(at(12_000));
        assert_eq!(many.iter().map(Lag::is_evicted).filter(|evicted| *evicted).count(), 1);
        all.evict_some(at(20_000));
        assert!(many[..65].iter().all(Lag::is_evicted) && !many[65..].iter().any(Lag::is_evicted));
    }
}
