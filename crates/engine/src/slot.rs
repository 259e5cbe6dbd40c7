// SPDX-License-Identifier: Apache-2.0
//! Numbers for things that come and go, so that a shard keeps what it knows of them in plain vectors.
//! The compiler gives and takes slots; shards compare generations to notice that a slot has a new owner.

/// A place in a shard's vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Slot {
    /// The place.
    pub(crate) index: u32,
    /// Which owner of the place this is; later owners have greater numbers.
    pub(crate) generation: u32,
}

/// Which places are taken.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    generations: Vec<u32>,
    free: Vec<u32>,
}

impl Slots {
    /// A free place, under a generation of its own.
    pub(crate) fn take(&mut self) -> Slot {
        if let Some(index) = self.free.pop() {
            let generation = &mut self.generations[index as usize];
            *generation = generation.wrapping_add(1);
            return Slot { index, generation: *generation };
        }
        let index = u32::try_from(self.generations.len()).unwrap_or(u32::MAX);
        self.generations.push(1);
        Slot { index, generation: 1 }
    }

    /// Gives a place back.
    pub(crate) fn give_back(&mut self, slot: Slot) {
        self.free.push(slot.index);
    }

    /// How many places there are, free ones included.
    pub(crate) fn len(&self) -> usize {
        self.generations.len()
    }
}

/// What a shard remembers by slot: entries appear on first use and start afresh for a new owner.
#[derive(Debug)]
pub(crate) struct Memory<T> {
    entries: Vec<(u32, T)>,
}

impl<T> Default for Memory<T> {
    fn default() -> Self {
        Self { entries: Vec::new() }
    }
}

impl<T: Default> Memory<T> {
    /// The entry of `slot`, or `None` if the place belongs to a later owner by now.
    pub(crate) fn entry(&mut self, slot: Slot) -> Option<&mut T> {
        let index = slot.index as usize;
        if index >= self.entries.len() {
            self.entries.resize_with(index + 1, || (0, T::default()));
        }
        let (generation, value) = &mut self.entries[index];
        if *generation > slot.generation {
            return None;
        }
        if *generation < slot.generation {
            *generation = slot.generation;
            *value = T::default();
        }
        Some(value)
    }

    /// The entry of `slot`, if there is one.
    pub(crate) fn peek(&self, slot: Slot) -> Option<&T> {
        self.entries.get(slot.index as usize).filter(|(generation, _)| *generation == slot.generation).map(|(_, v)| v)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_owner_starts_afresh_and_an_old_one_is_told_off() {
        let mut slots = Slots::default();
        let mut memory = Memory::<u32>::default();
        let old = slots.take();
        *memory.entry(old).unwrap() = 7;
        assert_eq!(memory.peek(old), Some(&7));
        slots.give_back(old);
        let new = slots.take();
        assert_eq!(new.index, old.index);
        assert_eq!(memory.entry(new), Some(&mut 0));
        assert_eq!(memory.entry(old), None);
        assert_eq!(memory.peek(old), None);
        assert_eq!(slots.len(), 1);
    }
}
