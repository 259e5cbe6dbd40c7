// SPDX-License-Identifier: Apache-2.0
//! One door per dependency, pure brains, and `unsafe` in its two rooms.

use super::{Complaint, Source};

/// A dependency's path prefix and the only places that may name it.
const DOORS: &[(&str, &[&str])] = &[
    ("rustls", &["crates/net/src/tls"]),
    ("tokio_rustls", &["crates/net/src/tls", "crates/net/src/io"]),
    ("rustls_native_certs", &["crates/net/src/tls/outward"]),
    ("zlib_rs", &["crates/codec/src/gzip"]),
    ("quinn", &["crates/net/src/quic", "crates/net/src/http/h3"]),
    ("webpki", &["crates/net/src/tls"]),
    ("rcgen", &["crates/net/src/tls"]),
    ("x509_parser", &["crates/net/src/tls"]),
    ("tonic", &["crates/net/src/grpc"]),
    ("hyper", &["crates/net/src/serve", "crates/net/src/grpc"]),
    ("hyper_util", &["crates/net/src/serve", "crates/net/src/grpc"]),
    ("hickory_proto", &["crates/net/src/dns"]),
    ("prost", &["crates/xds/src/", "xtask/src/gen.rs"]),
    ("sha2", &["crates/saga/src/ledger/fingerprint"]),
    (
        "data_encoding",
        &["crates/net/src/http/websocket", "crates/control/src/access", "crates/control/src/transactions/unary"],
    ),
    (
        "sqlx",
        &[
            "crates/sdk/src/",
            "crates/store/src/postgres",
            "crates/store/src/log/postgres",
            "crates/store/src/ledger/postgres",
        ],
    ),
    ("redb", &["crates/store/src/persist"]),
    // The data plane is built without it.
    ("byrnie_model::yaml", &["crates/byrnie/", "crates/control/", "crates/sim/"]),
    ("gateway_api", &["crates/model/src/"]),
    ("k8s_openapi", &["crates/model/src/"]),
    ("kube", &["crates/model/src/"]),
    ("serde_saphyr", &["crates/model/src/"]),
    ("cel", &["crates/model/src/expr"]),
    ("clap", &["crates/byrnie/src/"]),
    ("anyhow", &["crates/byrnie/", "crates/bench/", "xtask/"]),
    ("rustix", &["crates/net/src/", "crates/byrnie/src/supervise", "crates/byrnie/tests/"]),
];

/// Crates whose code decides and does nothing.
const PURE: &[&str] = &["model", "codec", "engine", "xds", "catalog", "saga"];

/// What decides must not touch.
const IMPURE: &[&str] = &[
    "tokio::",
    "std::fs",
    "std::thread",
    "std::process",
    "std::net::Tcp",
    "std::net::Udp",
    "Instant::now",
    "SystemTime",
    "rand::",
    "unsafe ",
];

/// Rooms that may hold `unsafe`.
const UNSAFE: &[&str] = &["crates/net/", "crates/base/"];

/// Complains about dependencies named outside their door, and about brains with hands.
pub(super) fn check(sources: &[Source], complaints: &mut Vec<Complaint>) {
    for source in sources.iter().filter(|s| !s.is_test() && !s.is_generated() && !s.path.contains("/tidy/")) {
        for (number, line) in code_lines(&source.text) {
            let place = format!("{}:{number}", source.path);
            check_doors(source, line, &place, complaints);
            let pure = PURE.contains(&source.crate_name());
            if let Some(word) = IMPURE.iter().find(|word| pure && line.contains(**word)) {
                complaints.push(Complaint::new(&place, format!("a brain must not touch `{}`", word.trim())));
            }
            if is_unsafe(line) && !UNSAFE.iter().any(|room| source.path.starts_with(room)) {
                complaints.push(Complaint::new(&place, "`unsafe` lives only in net and base"));
            }
        }
    }
}

fn check_doors(source: &Source, line: &str, place: &str, complaints: &mut Vec<Complaint>) {
    for (name, places) in DOORS {
        if names_crate(line, name) && !places.iter().any(|p| source.path.starts_with(p)) {
            complaints.push(Complaint::new(place, format!("`{name}` is only for {}", places.join(", "))));
        }
    }
}

/// Lines outside comments and test modules, with their numbers. A test module is the last thing in a
/// file, so everything after `#[cfg(test)]` is left out.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .take_while(|(_, line)| !line.starts_with("#[cfg(test)]"))
        .map(|(index, line)| (index + 1, line.split("//").next().unwrap_or_default()))
        .filter(|(_, line)| !line.trim().is_empty())
}

/// Whether `name::` stands in the line as the first part of a path.
fn names_crate(line: &str, name: &str) -> bool {
    let path = format!("{name}::");
    line.match_indices(&path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}

fn is_unsafe(line: &str) -> bool {
    ["unsafe {", "unsafe fn", "unsafe impl"].iter().any(|word| line.contains(word))
}
