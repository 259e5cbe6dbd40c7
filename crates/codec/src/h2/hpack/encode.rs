// SPDX-License-Identifier: Apache-2.0
//! Lines to header blocks. A line that came like this the last time too is added to the dynamic table, and is
//! one byte from then on; what changes each time never displaces it. Strings aren't coded: that would cost more
//! than it saves between processes that stand close to each other.

use super::table::{ENTRY_BYTES, STATIC, Table, static_index};
use super::{Named, TABLE_BYTES, write_integer};
use crate::known::Known;

/// Largest line that is added to the table, as a share of it.
const SHARE: usize = 4;
/// Places for names that the mesh doesn't know.
const OTHERS: usize = 64;
const PATH: usize = 128;
const STATUS: usize = 129;
const PLACES: usize = 130 + OTHERS;

/// Writes the header blocks of one direction of a connection.
#[derive(Debug)]
pub(in crate::h2) struct Encoder {
    table: Table,
    /// The table's size was changed, and is to be said in the next block: the least and the last (RFC 7541 4.2).
    resized: Option<(usize, usize)>,
    /// What each name came with last.
    seen: Vec<Seen>,
    /// A name in lower case.
    name: Vec<u8>,
}

/// What a name came with last.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    hash: u32,
    /// The number of the entry; 0 if there is none.
    entry: u32,
}

/// Whose value something is.
#[derive(Clone, Copy, Debug)]
pub(in crate::h2) enum Place {
    Authority,
    Path,
    Status,
}

impl Default for Encoder {
    fn default() -> Self {
        let seen = vec![Seen::default(); PLACES];
        Self { table: Table::new(TABLE_BYTES), resized: None, seen, name: Vec::new() }
    }
}

impl Encoder {
    /// The peer allows a table of so many bytes.
    pub(in crate::h2) fn allow(&mut self, bytes: usize) {
        let size = bytes.min(TABLE_BYTES);
        if size == self.table.size_max() && self.resized.is_none() {
            return;
        }
        self.table.resize(size);
        let least = self.resized.map_or(size, |(least, _)| least.min(size));
        self.resized = Some((least, size));
    }

    /// Begins a block.
    pub(in crate::h2) fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some((least, last)) = self.resized.take() {
            if least < last {
                write_integer(least, 5, 0x20, out);
            }
            write_integer(last, 5, 0x20, out);
        }
    }

    /// An entry of the static table.
    pub(in crate::h2) fn indexed(index: u8, out: &mut Vec<u8>) {
        out.push(0x80 | index);
    }

    /// A line whose name is an entry's of the static table, and whose value is hardly ever the same.
    pub(in crate::h2) fn once(index: u8, value: &[u8], out: &mut Vec<u8>) {
        write_integer(usize::from(index), 4, 0, out);
        string(value, out);
    }

    /// A line with a name that no table has.
    pub(in crate::h2) fn plain(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        out.push(0);
        string(name, out);
        string(value, out);
    }

    /// A pseudo-header.
    pub(in crate::h2) fn pseudo(&mut self, place: Place, value: &[u8], out: &mut Vec<u8>) {
        let (at, index) = match place {
            Place::Authority => (Known::Other as usize, 1),
            Place::Path => (PATH, 4),
            Place::Status => (STATUS, 8),
        };
        let (named, name, _) = STATIC[index - 1];
        self.line((at, named, index), name.as_bytes(), value, out);
    }

    /// A header line; its name in any case.
    pub(in crate::h2) fn field(&mut self, known: Known, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        match known {
            Known::Other if name.iter().any(u8::is_ascii_uppercase) => {
                let mut lower = std::mem::take(&mut self.name);
                lower.clear();
                lower.extend(name.iter().map(u8::to_ascii_lowercase));
                self.other(&lower, value, out);
                self.name = lower;
            }
            Known::Other => self.other(name, value, out),
            // What must not be guessed by the size of what was made of it (RFC 7541 7.1.3).
            Known::Authorization | Known::ProxyAuthorization | Known::Cookie | Known::SetCookie => {
                write_integer(static_index(known), 4, 0x10, out);
                string(value, out);
            }
            _ => {
                let place = (known as usize, Named::Field(known), static_index(known));
                self.line(place, known.name().as_bytes(), value, out);
            }
        }
    }

    fn other(&mut self, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        let sum = hash(name, 0);
        let at = PLACES - OTHERS + sum as usize % OTHERS;
        self.line((at, Named::Field(Known::Other), 0), name, value, out);
    }

    /// A line whose last value is noted at `at`; its name has `index` in the static table, or 0.
    fn line(&mut self, (at, named, index): (usize, Named, usize), name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        let Some(seen) = self.seen.get_mut(at) else { return };
        if seen.entry != 0
            && let Some(found) = self.table.index_of(seen.entry)
            && let Some(entry) = self.table.get(found)
            && self.table.value(entry) == value
            && (at < PLACES - OTHERS || self.table.name(entry) == name)
        {
            return write_integer(found + STATIC.len() + 1, 7, 0x80, out);
        }
        // Names that share a place are told apart, as their values are compared again when it counts.
        let hash = hash(value, name.len() as u32);
        let again = std::mem::replace(seen, Seen { hash, entry: 0 }).hash == hash;
        let add = again && name.len() + value.len() + ENTRY_BYTES <= self.table.size_max() / SHARE;
        let (prefix, pattern) = if add { (6, 0x40) } else { (4, 0) };
        write_integer(index, prefix, pattern, out);
        if index == 0 {
            string(name, out);
        }
        string(value, out);
        if add {
            self.table.add(named, name, value);
            seen.entry = self.table.added();
        }
    }
}

fn string(text: &[u8], out: &mut Vec<u8>) {
    write_integer(text.len(), 7, 0, out);
    out.extend_from_slice(text);
}

/// A quick hash, to tell whether something is worth a place; nothing breaks if two are alike.
fn hash(bytes: &[u8], seed: u32) -> u32 {
    const FACTOR: u64 = 0x517c_c1b7_2722_0a95;
    let mix = |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(FACTOR);
    let (words, rest) = bytes.as_chunks::<8>();
    let sum = words.iter().fold(u64::from(seed) ^ bytes.len() as u64, |sum, word| mix(sum, u64::from_le_bytes(*word)));
    let last = rest.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
    (mix(sum, last) >> 32) as u32
}
