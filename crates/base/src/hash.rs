// SPDX-License-Identifier: Apache-2.0
//! A quick hash for keys that nobody outside can choose: names and addresses from configuration, of which
//! the mesh holds a bounded number. Keys that come from traffic belong in a map with the standard hash.

use std::hash::{BuildHasher, Hasher};

/// The multiply-and-rotate hash of Firefox and rustc (`FxHasher`), eight bytes at a time.
#[derive(Clone, Copy, Debug)]
pub struct Quick(u64);

/// Odd, and about 2^64 divided by pi.
const FACTOR: u64 = 0x517c_c1b7_2722_0a95;

impl Quick {
    fn mix(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(FACTOR);
    }
}

impl Default for Quick {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Quick {
    fn finish(&self) -> u64 {
        // The best bits are the high ones, and tables take the low ones too.
        self.0 ^ self.0 >> 29
    }

    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks();
        words.iter().for_each(|word| self.mix(u64::from_le_bytes(*word)));
        if !rest.is_empty() {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            self.mix(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, n: u8) {
        self.mix(n.into());
    }

    fn write_u16(&mut self, n: u16) {
        self.mix(n.into());
    }

    fn write_u32(&mut self, n: u32) {
        self.mix(n.into());
    }

    fn write_u64(&mut self, n: u64) {
        self.mix(n);
    }

    fn write_usize(&mut self, n: usize) {
        self.mix(n as u64);
    }
}

/// For maps with [`Quick`].
#[derive(Clone, Copy, Debug, Default)]
pub struct BuildQuick;

impl BuildHasher for BuildQuick {
    type Hasher = Quick;

    fn build_hasher(&self) -> Quick {
        Quick::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_that_differ_in_one_place_differ_in_hash() {
        let mut seen = HashSet::new();
        for n in 0..10_000 {
            assert!(seen.insert(BuildQuick.hash_one(format!("service-{n}.default"))));
        }
        assert_ne!(BuildQuick.hash_one("a"), BuildQuick.hash_one("b"));
        assert_ne!(BuildQuick.hash_one(("ab", "c")), BuildQuick.hash_one(("a", "bc")));
    }
}
