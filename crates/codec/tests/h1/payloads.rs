// SPDX-License-Identifier: Apache-2.0
//! The corpus of requests that hide another one, made from the known ways to frame a message twice, and a
//! large family of lenient servers that must all read alike what is passed on.

use crate::crafted::latin1;

/// A server that is lenient in its own way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lenient {
    /// Takes a bare LF for the end of a line.
    lf: bool,
    /// Takes a bare CR for the end of a line.
    cr: bool,
    /// Trims white space and control characters around names.
    trims_names: bool,
    /// Joins folded lines; who doesn't takes them as lines of their own.
    folds: bool,
    /// Of two lengths the last counts, else the first.
    last_length: bool,
    /// Any encoding that contains `chunked` counts, else only the whole word.
    loose_encoding: bool,
    /// Reads `_` as `-`.
    pub(crate) underscores: bool,
}

/// The family: every way on and off.
pub(crate) fn family() -> impl Iterator<Item = Lenient> {
    (0u32..128).map(|bits| {
        let on = |bit: u32| bits >> bit & 1 == 1;
        Lenient {
            lf: on(0),
            cr: on(1),
            trims_names: on(2),
            folds: on(3),
            last_length: on(4),
            loose_encoding: on(5),
            underscores: on(6),
        }
    })
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    Nothing,
    Length(Vec<u8>),
    Chunked,
    Both,
}

impl Lenient {
    /// How this server frames the request that starts here.
    pub(crate) fn reads(self, message: &[u8]) -> Reading {
        let mut lines: Vec<Vec<u8>> = vec![Vec::new()];
        let mut i = 0;
        while i < message.len() {
            let crlf = message[i..].starts_with(b"\r\n");
            let ends = crlf || (self.lf && message[i] == b'\n') || (self.cr && message[i] == b'\r');
            i += if crlf { 2 } else { 1 };
            if !ends {
                lines.last_mut().unwrap().push(message[i - 1]);
                continue;
            }
            if lines.last().unwrap().is_empty() && lines.len() > 1 {
                break;
            }
            let folded = self.folds && matches!(message.get(i), Some(b' ' | b'\t'));
            if !folded {
                lines.push(Vec::new());
            }
        }
        let (mut length, mut chunked) = (None, false);
        for line in &lines[1..] {
            let Some(colon) = line.iter().position(|&b| b == b':') else { continue };
            let (mut name, value) = (line[..colon].to_ascii_lowercase(), trim(&line[colon + 1..]));
            if self.trims_names {
                name = trim(&name).to_vec();
            }
            if self.underscores {
                name.iter_mut().filter(|b| **b == b'_').for_each(|b| *b = b'-');
            }
            match name.as_slice() {
                b"content-length" if length.is_none() || self.last_length => length = Some(value.to_vec()),
                b"transfer-encoding" => {
                    let value = value.to_ascii_lowercase();
                    let loose = self.loose_encoding && value.windows(7).any(|w| w == b"chunked");
                    chunked |= loose || value == b"chunked";
                }
                _ => {}
            }
        }
        match (length, chunked) {
            (None, false) => Reading::Nothing,
            (Some(length), false) => Reading::Length(length),
            (None, true) => Reading::Chunked,
            (Some(_), true) => Reading::Both,
        }
    }
}

fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b'\0'..=b' ' | 0x7f.., rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b'\0'..=b' ' | 0x7f..] = bytes {
        bytes = rest;
    }
    bytes
}

/// Ways to write a header line so that some see it and some don't.
fn spellings(name: &str, value: &str) -> Vec<String> {
    let title = |s: &str| s.to_owned();
    let mut out = vec![format!("{name}: {value}")];
    for space in [" ", "\t", "\u{b}", "\u{c}", "\0", "\r", "\n", "\u{a0}", "\u{1}", "\u{7f}", "\u{85}"] {
        out.push(format!("{name}{space}: {value}"));
        out.push(format!("{name}:{space}{value}"));
        out.push(format!("{name}: {value}{space}"));
        out.push(format!("{space}{name}: {value}"));
        out.push(format!("X: y{space}{name}: {value}"));
        out.push(format!("X: y\r\n{space}{name}: {value}"));
    }
    out.push(format!("{name}:\r\n {value}"));
    out.push(format!("{name}:\n {value}"));
    out.push(format!("{name} {value}"));
    out.push(format!("{name}:{value}"));
    out.push(format!("{}: {value}", name.replace('-', "_")));
    out.push(format!("{}: {value}", name.replace('-', "\u{2010}")));
    out.push(format!("{}: {value}", name.to_uppercase()));
    out.push(format!("{}: {}", title(name).to_lowercase(), value.to_uppercase()));
    out.push(format!("\"{name}\": {value}"));
    out.push(format!("{name}: \"{value}\""));
    out.push(format!("{name}: {value}\r\n{name}: {value}"));
    out.push(format!("{name}: x\r\n{name}: {value}"));
    out.push(format!("{name}: {value}\r\n{name}: x"));
    out.push(format!("{name}: {value}, {value}"));
    out.push(format!("{name}: x, {value}"));
    out.push(format!("{name}: {value}, x"));
    out.push(format!("{name}: ,{value}"));
    out.push(format!("{name}:: {value}"));
    out.push(format!("{name}: : {value}"));
    out.push(format!("{name};: {value}"));
    out.push(format!("Connection: {name}\r\n{name}: {value}"));
    out.push(format!(": y\r\n{name}: {value}"));
    out
}

/// The payloads: one framing spelled oddly, alone and beside another, in both orders.
pub(crate) fn payloads() -> Vec<Vec<u8>> {
    const HIDDEN: &str = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut framings = Vec::new();
    let plain = ["Content-Length: 5", "Content-Length: 44", "Content-Length: 0", "Transfer-Encoding: chunked", "X: y"];
    for value in ["5", "+5", "-5", "0x5", "05", "5 5", "5;", "18446744073709551621", "", "4294967301", "5.0", "\u{665}"]
    {
        framings.extend(spellings("Content-Length", value).into_iter().take(if value == "5" { usize::MAX } else { 8 }));
    }
    for value in
        ["chunked", "xchunked", "chunked;x", "identity", "gzip", "chunkedx", "chunked\u{b}", "x\tchunked", "cow"]
    {
        framings.extend(spellings("Transfer-Encoding", value).into_iter().take(if value == "chunked" {
            usize::MAX
        } else {
            8
        }));
    }
    let mut out = Vec::new();
    for framing in &framings {
        for other in plain {
            for (first, second) in [(framing.as_str(), other), (other, framing.as_str())] {
                for version in ["1.1", "1.0"] {
                    out.push(
                        format!("POST / HTTP/{version}\r\nHost: a\r\n{first}\r\n{second}\r\n\r\n{HIDDEN}").into_bytes(),
                    );
                }
            }
        }
        out.push(format!("GET / HTTP/1.1\r\n{framing}\r\nHost: a\r\n\r\n{HIDDEN}").into_bytes());
    }
    // Bytes as they were meant: a character from U+0080 on is one byte of Latin-1.
    out.into_iter().map(|payload| latin1(std::str::from_utf8(&payload).unwrap())).collect()
}
