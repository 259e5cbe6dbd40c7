// SPDX-License-Identifier: Apache-2.0
//! The last so many of something, numbered: records, log lines, samples. Old ones make room, and a
//! reader who asks for what came since a number learns what it missed.

use std::collections::VecDeque;

/// A ring of at most `capacity` items; each has a number that grows by one.
#[derive(Clone, Debug)]
pub struct Ring<T> {
    items: VecDeque<T>,
    capacity: usize,
    /// The number of the oldest item kept.
    first: u64,
}

impl<T> Ring<T> {
    /// An empty ring; a capacity of 0 counts as 1. Memory is taken as it fills.
    pub fn new(capacity: usize) -> Self {
        Self { items: VecDeque::new(), capacity: capacity.max(1), first: 0 }
    }

    /// Adds an item, in place of the oldest if the ring is full, which is handed back.
    pub fn push(&mut self, item: T) -> Option<T> {
        let oldest = if self.items.len() == self.capacity { self.items.pop_front() } else { None };
        self.first += u64::from(oldest.is_some());
        self.items.push_back(item);
        oldest
    }

    /// The items with their numbers, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, &T)> + ExactSizeIterator {
        let first = self.first;
        self.items.iter().enumerate().map(move |(i, item)| (first + i as u64, item))
    }

    /// The items from number `from` on that are still kept.
    pub fn since(&self, from: u64) -> impl Iterator<Item = (u64, &T)> {
        let skipped = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.items.iter().enumerate().skip(skipped).map(|(i, item)| (self.first + i as u64, item))
    }

    /// The number that the next item gets.
    pub fn next_number(&self) -> u64 {
        self.first + self.items.len() as u64
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// True if there is no item.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room() {
        let mut ring = Ring::new(2);
        assert_eq!(ring.push('a'), None);
        assert_eq!(ring.push('b'), None);
        assert_eq!(ring.push('c'), Some('a'));
        assert_eq!(ring.iter().collect::<Vec<_>>(), [(1, &'b'), (2, &'c')]);
        assert_eq!(ring.since(2).collect::<Vec<_>>(), [(2, &'c')]);
        assert_eq!(ring.since(0).count(), 2);
        assert_eq!(ring.since(u64::MAX).count(), 0);
        assert_eq!((ring.next_number(), ring.len(), ring.is_empty()), (3, 2, false));
    }
}
