// SPDX-License-Identifier: Apache-2.0
//! What is measured: each bench is a few workloads, each workload a path through proxies and a load.

use std::time::Duration;

/// A way from the client to the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Path {
    /// client -> proxy -> app, HTTP/1.1 in clear.
    Hop,
    /// The same with thirteen routes, edits of both heads and four endpoints in every proxy.
    Edits,
    /// client -> proxy -> app, HTTP/2 in clear at both ends.
    Http2,
    /// client -> mTLS -> proxy -> app in clear.
    Tls,
    /// client -> A -> mTLS -> B -> app, HTTP/1.1 at both ends.
    Pair,
    /// The same as bytes of TCP, which nobody on the way looks at.
    Tcp,
}

impl Path {
    /// Peers that have such a path.
    pub(super) const fn peers(self) -> &'static [&'static str] {
        match self {
            Self::Hop => &["relay", "haproxy", "nginx", "envoy"],
            Self::Edits | Self::Tls => &["haproxy", "nginx", "envoy"],
            // nginx speaks no HTTP/2 to its upstreams.
            Self::Http2 => &["haproxy", "envoy"],
            Self::Pair => &["relay", "haproxy", "haproxy-h2", "nginx", "envoy", "envoy-h2"],
            // nginx' stream module is in a package of its own.
            Self::Tcp => &["relay", "haproxy", "envoy"],
        }
    }

    /// What byrnie does more than its peers on this path, said below the table.
    pub(super) const fn caveat(self) -> &'static str {
        match self {
            Self::Hop | Self::Edits => {
                "byrnie never sends in clear: its row carries mutual TLS to the app, the peers' rows carry none."
            }
            Self::Http2 => "byrnie carries mutual TLS to the app, the peers none.",
            Self::Tls => "every proxy asks the client for its certificate and checks it.",
            Self::Pair => {
                "byrnie's two proxies are those of `byrnie run`; relay's middle hop is in clear, and it reads nothing."
            }
            Self::Tcp => {
                "byrnie's connections share those between its proxies, each of the peers' has one of its own; relay's is in clear."
            }
        }
    }
}

/// What the client does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// As the load program calls it.
    pub(super) kind: &'static str,
    pub(super) connections: usize,
    /// Streams at once on each connection of HTTP/2.
    pub(super) streams: usize,
    /// Requests a second in all; 0: a closed loop.
    pub(super) rate: u64,
    /// Bytes of the answer's body.
    pub(super) size: usize,
    /// Eleven headers in place of three.
    pub(super) many: bool,
    /// Answers in two writes.
    pub(super) pieces: bool,
    /// How long is measured.
    pub(super) span: Duration,
}

impl Load {
    const PLAIN: Self =
        Self { kind: "plain", connections: 64, streams: 0, rate: 0, size: 100, many: false, pieces: false, span: SPAN };

    /// In words, for a table's head.
    pub(super) fn text(&self) -> String {
        let streams = if self.streams > 0 { format!(" x {} streams", self.streams) } else { String::new() };
        let pace = if self.rate == 0 { "closed loop".to_owned() } else { format!("{} requests/s", self.rate) };
        format!("{} connections{streams}, {pace}, {} B answers", self.connections, self.size)
    }
}

const SPAN: Duration = Duration::from_secs(3);

/// One workload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Workload {
    pub(super) bench: &'static str,
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) path: Path,
    pub(super) load: Load,
}

const P: Load = Load::PLAIN;
const LARGE: Load = Load { kind: "h2", connections: 4, streams: 4, size: 1024 * 1024, ..P };

/// Every workload, in the order run.
pub(super) const WORKLOADS: [Workload; 22] = [
    of("http", "http-64", "one hop", Path::Hop, P),
    of("http", "http-512", "one hop, many connections", Path::Hop, Load { connections: 512, ..P }),
    of("http", "http-4", "one hop, few connections", Path::Hop, Load { connections: 4, ..P }),
    of("http", "http-1", "one hop, one connection", Path::Hop, Load { connections: 1, ..P }),
    of(
        "http",
        "http-edits",
        "one hop, 11 headers, 13 routes, edits, 4 endpoints",
        Path::Edits,
        Load { size: 512, many: true, ..P },
    ),
    of("mtls", "mtls-64", "a pair", Path::Pair, P),
    of("mtls", "mtls-4", "a pair, few connections", Path::Pair, Load { connections: 4, ..P }),
    of("mtls", "mtls-paced", "a pair, at a rate that real workloads have", Path::Pair, Load { rate: 3000, ..P }),
    of("h2", "h2", "one hop, HTTP/2", Path::Http2, Load { kind: "h2", connections: 8, streams: 32, ..P }),
    of("grpc", "grpc", "one hop, unary calls", Path::Http2, Load { kind: "grpc", connections: 8, streams: 32, ..P }),
    of("tls", "tls-kept", "connections kept open", Path::Tls, Load { kind: "tls", ..P }),
    of("tls", "tls-new", "a handshake for each request", Path::Tls, Load { kind: "tls-new", connections: 16, ..P }),
    of("bodies", "body-10k", "a pair, 10 KiB answers", Path::Pair, Load { size: 10 * 1024, ..P }),
    of("bodies", "body-1m", "a pair, 1 MiB answers", Path::Pair, Load { size: 1024 * 1024, connections: 8, ..P }),
    of(
        "bodies",
        "pieces",
        "a pair; the app writes head and body apart, with Nagle's algorithm on",
        Path::Pair,
        Load { pieces: true, ..P },
    ),
    of("bodies", "h2-body-1m", "one hop, HTTP/2, 1 MiB answers", Path::Http2, LARGE),
    of(
        "bodies",
        "h2-body-10m",
        "one hop, HTTP/2, 10 MiB answers",
        Path::Http2,
        Load { size: 10 * 1024 * 1024, streams: 2, ..LARGE },
    ),
    of("tcp", "tcp-kept", "a pair, as bytes of TCP: small questions on connections kept open", Path::Tcp, P),
    of(
        "tcp",
        "tcp-new",
        "a pair, as bytes of TCP: a connection for each question",
        Path::Tcp,
        Load { kind: "new", connections: 16, ..P },
    ),
    of(
        "tcp",
        "tcp-1m",
        "a pair, as bytes of TCP: 1 MiB each",
        Path::Tcp,
        Load { size: 1024 * 1024, connections: 8, ..P },
    ),
    of("idle", "idle", "a pair at rest: memory, and the time to the first answer", Path::Pair, P),
    of("count", "count", "one hop: instructions and system calls of each request", Path::Hop, P),
];

const fn of(bench: &'static str, name: &'static str, about: &'static str, path: Path, load: Load) -> Workload {
    Workload { bench, name, about, path, load }
}
