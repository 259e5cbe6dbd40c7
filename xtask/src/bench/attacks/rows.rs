// SPDX-License-Identifier: Apache-2.0
//! The attacks.

/// Where attackers connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Http1,
    Http2,
    Tls,
}

/// One attack.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) entry: Entry,
    pub(super) connections: usize,
    /// How long it may take; 0: as long as slow clients are held.
    pub(super) seconds: u64,
    /// What the attackers are told beside.
    pub(super) words: &'static [&'static str],
    /// Whether it is what metrics are made of.
    pub(super) counts_series: bool,
}

impl Row {
    /// Whether it holds connections and does next to nothing.
    pub(super) const fn is_slow(&self) -> bool {
        self.seconds == 0
    }
}

const HELD: usize = 10_000;

/// Every attack, in the order run.
pub(super) const ROWS: [Row; 19] = [
    of("slow-heads", "heads that never end, a byte every 5 s", Entry::Http1, (HELD, 0), &["kind=heads"]),
    of("slow-bodies", "posts whose bodies never end, a byte every 5 s", Entry::Http1, (HELD, 0), &["kind=bodies"]),
    of("slow-reads", "16 MiB answers, read at 1 kB/s", Entry::Http1, (HELD, 0), &["kind=reads"]),
    of("slow-windows", "HTTP/2 answers of 16 MiB without any window", Entry::Http2, (HELD, 0), &["kind=windows"]),
    of("handshakes", "TLS handshakes that stop within the first message", Entry::Tls, (HELD, 0), &["kind=handshakes"]),
    of("resets", "rapid reset: 100,000 pairs each", Entry::Http2, (10, 15), &["kind=resets", "each=100000"]),
    of("provoked", "MadeYouReset: 100,000 streams each", Entry::Http2, (10, 15), &["kind=provoked", "each=100000"]),
    of("bomb-90", "100 streams, 90 references each, no window", Entry::Http2, (100, 15), &BOMB_90),
    of("bomb-4000", "the same with 4,000 references", Entry::Http2, (100, 15), &BOMB_4000),
    of("bomb-16000", "the same with 16,000 references", Entry::Http2, (100, 15), &BOMB_16000),
    of("bomb-large", "16,000 references to 3,900 bytes", Entry::Http2, (100, 15), &BOMB_LARGE),
    of(
        "continuation",
        "100,000 CONTINUATION frames each",
        Entry::Http2,
        (10, 15),
        &["kind=continuation", "each=100000"],
    ),
    of("pings", "100,000 PING frames each", Entry::Http2, (10, 15), &["kind=ping", "each=100000"]),
    of("settings", "100,000 SETTINGS frames each", Entry::Http2, (10, 15), &["kind=settings", "each=100000"]),
    of("empty-data", "100,000 empty DATA frames each", Entry::Http2, (10, 15), &["kind=data", "each=100000"]),
    of("streams", "100 streams of 16 MiB answers, no window", Entry::Http2, (100, 15), &STREAMS),
    of(
        "leavers",
        "40 requests at a time, and gone at once, for ever",
        Entry::Http1,
        (4, 15),
        &["kind=leaves", "each=40"],
    ),
    of("leavers-h2", "the same in streams of HTTP/2", Entry::Http2, (4, 15), &["kind=leaves-h2", "each=40"]),
    Row { counts_series: true, ..of("paths", "10^6 hosts, paths and agents", Entry::Http1, (8, 120), &PATHS) },
];

const BOMB_90: [&str; 3] = ["kind=bomb", "each=100", "references=90"];
const BOMB_4000: [&str; 3] = ["kind=bomb", "each=100", "references=4000"];
const BOMB_16000: [&str; 3] = ["kind=bomb", "each=100", "references=16000"];
const BOMB_LARGE: [&str; 4] = ["kind=bomb", "each=100", "references=16000", "value=3900"];
const STREAMS: [&str; 3] = ["kind=bomb", "each=100", "references=0"];
const PATHS: [&str; 2] = ["kind=paths", "each=125000"];

const fn of(
    name: &'static str,
    about: &'static str,
    entry: Entry,
    (connections, seconds): (usize, u64),
    words: &'static [&'static str],
) -> Row {
    Row { name, about, entry, connections, seconds, words, counts_series: false }
}
