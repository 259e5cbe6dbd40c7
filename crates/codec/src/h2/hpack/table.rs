// SPDX-License-Identifier: Apache-2.0
//! The two tables of header lines that both ends of a connection share (RFC 7541 2.3): one that never changes, and
//! one of the lines that came last. Lines lie in one piece of memory, with what is known of them.

use super::{Named, is_clean};
use crate::known::Known;
use std::collections::VecDeque;

/// What an entry costs beside its text, in bytes (RFC 7541 4.1).
pub(super) const ENTRY_BYTES: usize = 32;

/// RFC 7541 appendix A.
#[rustfmt::skip]
pub(super) const STATIC: [(Named, &str, &str); 61] = {
    use Known::*;
    use Named::{Authority, Field, Method, Path, Scheme, Status};
    const OTHER: Named = Field(Known::Other);
    [
        (Authority, ":authority", ""), (Method, ":method", "GET"), (Method, ":method", "POST"), (Path, ":path", "/"),
        (Path, ":path", "/index.html"), (Scheme, ":scheme", "http"), (Scheme, ":scheme", "https"),
        (Status, ":status", "200"), (Status, ":status", "204"), (Status, ":status", "206"), (Status, ":status", "304"),
        (Status, ":status", "400"), (Status, ":status", "404"), (Status, ":status", "500"),
        (OTHER, "accept-charset", ""), (Field(AcceptEncoding), "accept-encoding", "gzip, deflate"),
        (Field(AcceptLanguage), "accept-language", ""), (OTHER, "accept-ranges", ""), (Field(Accept), "accept", ""),
        (OTHER, "access-control-allow-origin", ""), (Field(Age), "age", ""), (OTHER, "allow", ""),
        (Field(Authorization), "authorization", ""), (Field(CacheControl), "cache-control", ""),
        (OTHER, "content-disposition", ""), (Field(ContentEncoding), "content-encoding", ""),
        (OTHER, "content-language", ""), (Field(ContentLength), "content-length", ""), (OTHER, "content-location", ""),
        (Field(ContentRange), "content-range", ""), (Field(ContentType), "content-type", ""),
        (Field(Cookie), "cookie", ""), (Field(Date), "date", ""), (OTHER, "etag", ""), (Field(Expect), "expect", ""),
        (Field(Expires), "expires", ""), (OTHER, "from", ""), (Field(Host), "host", ""), (OTHER, "if-match", ""),
        (OTHER, "if-modified-since", ""), (OTHER, "if-none-match", ""), (OTHER, "if-range", ""),
        (OTHER, "if-unmodified-since", ""), (OTHER, "last-modified", ""), (OTHER, "link", ""),
        (Field(Location), "location", ""), (Field(MaxForwards), "max-forwards", ""),
        (Field(ProxyAuthenticate), "proxy-authenticate", ""), (Field(ProxyAuthorization), "proxy-authorization", ""),
        (Field(Range), "range", ""), (Field(Referer), "referer", ""), (OTHER, "refresh", ""),
        (Field(RetryAfter), "retry-after", ""), (Field(Server), "server", ""), (Field(SetCookie), "set-cookie", ""),
        (OTHER, "strict-transport-security", ""), (Field(TransferEncoding), "transfer-encoding", ""),
        (Field(UserAgent), "user-agent", ""), (Field(Vary), "vary", ""), (Field(Via), "via", ""),
        (Field(WwwAuthenticate), "www-authenticate", ""),
    ]
};

/// The index of a known name in the static table; 0 if it isn't there.
pub(super) const fn static_index(known: Known) -> usize {
    INDEX[known as usize] as usize
}

const INDEX: [u8; 128] = {
    let mut index = [0; 128];
    let mut at = 0;
    while at < STATIC.len() {
        if let Named::Field(known) = STATIC[at].0
            && !matches!(known, Known::Other)
        {
            index[known as usize] = at as u8 + 1;
        }
        at += 1;
    }
    index
};

/// One line of the dynamic table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    at: usize,
    name_len: usize,
    value_len: usize,
    pub(super) named: Named,
    /// Its value may stand in a header.
    pub(super) clean: bool,
}

impl Entry {
    const fn size(&self) -> usize {
        self.name_len + self.value_len + ENTRY_BYTES
    }
}

/// The dynamic table.
#[derive(Debug)]
pub(super) struct Table {
    bytes: Vec<u8>,
    /// The newest first.
    entries: VecDeque<Entry>,
    size: usize,
    size_max: usize,
    /// Entries that were ever added.
    added: u32,
}

impl Table {
    pub(super) const fn new(size_max: usize) -> Self {
        Self { bytes: Vec::new(), entries: VecDeque::new(), size: 0, size_max, added: 0 }
    }

    pub(super) const fn size_max(&self) -> usize {
        self.size_max
    }

    /// Entries that were ever added.
    pub(super) const fn added(&self) -> u32 {
        self.added
    }

    /// Changes the limit, and drops what is beyond it.
    pub(super) fn resize(&mut self, size_max: usize) {
        self.size_max = size_max;
        self.evict(0);
    }

    /// The entry at `index`, counted from 0 for the newest.
    pub(super) fn get(&self, index: usize) -> Option<&Entry> {
        self.entries.get(index)
    }

    /// The index of the entry that was added as number `nth`, from 1; none if it was dropped.
    pub(super) fn index_of(&self, nth: u32) -> Option<usize> {
        let index = self.added.wrapping_sub(nth) as usize;
        (index < self.entries.len()).then_some(index)
    }

    pub(super) fn name(&self, entry: &Entry) -> &[u8] {
        &self.bytes[entry.at..entry.at + entry.name_len]
    }

    pub(super) fn value(&self, entry: &Entry) -> &[u8] {
        let at = entry.at + entry.name_len;
        &self.bytes[at..at + entry.value_len]
    }

    /// Adds a line. One larger than the table empties it (RFC 7541 4.4).
    pub(super) fn add(&mut self, named: Named, name: &[u8], value: &[u8]) {
        let entry =
            Entry { at: self.bytes.len(), name_len: name.len(), value_len: value.len(), named, clean: is_clean(value) };
        self.evict(entry.size());
        if entry.size() > self.size_max {
            return;
        }
        let at = self.compact(entry.at);
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(value);
        self.size += entry.size();
        self.entries.push_front(Entry { at, ..entry });
        self.added = self.added.wrapping_add(1);
    }

    fn evict(&mut self, room: usize) {
        while self.size + room > self.size_max {
            let Some(oldest) = self.entries.pop_back() else { return };
            self.size -= oldest.size();
        }
    }

    /// Forgets the text of dropped entries once it is longer than the table; answers where the end is now.
    fn compact(&mut self, end: usize) -> usize {
        let dead = self.entries.back().map_or(end, |oldest| oldest.at);
        if dead <= self.size_max {
            return end;
        }
        self.bytes.drain(..dead);
        self.entries.iter_mut().for_each(|entry| entry.at -= dead);
        self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_the_static_table_is_true() {
        for (at, (named, name, value)) in STATIC.iter().enumerate() {
            assert_eq!(*named, Named::of(name.as_bytes()), "{name}");
            assert!(is_clean(value.as_bytes()));
            if let Named::Field(known) = named
                && *known != Known::Other
            {
                assert_eq!(static_index(*known), at + 1);
            }
        }
    }

    #[test]
    fn a_table_stays_within_its_size_and_its_memory_within_twice_that() {
        let mut table = Table::new(200);
        for n in 0..1000_u32 {
            let value = "v".repeat(n as usize % 50);
            table.add(Named::Field(Known::Other), format!("x-{n}").as_bytes(), value.as_bytes());
            assert!(table.size <= 200 && table.bytes.len() <= 2 * 200 + 60, "{}", table.bytes.len());
            let newest = table.get(0).unwrap();
            assert_eq!((table.name(newest), table.value(newest)), (format!("x-{n}").as_bytes(), value.as_bytes()));
            assert_eq!((table.index_of(n + 1), table.index_of(n + 2)), (Some(0), None));
        }
        table.add(Named::Field(Known::Other), b"x", &[b'v'; 200]);
        assert!(table.get(0).is_none() && table.size == 0);
    }
}
