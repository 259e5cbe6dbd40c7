// SPDX-License-Identifier: Apache-2.0
//! The side of a proxy that clients see: each case is bytes of a client, and what must come of them.

mod cases;
mod hpack_cases;
mod messages;
mod streams;

use crate::frame::{
    ACK, CONTINUATION, DATA, END_STREAM, Frame, GOAWAY, HEADERS, Link, Out, PING, RST_STREAM, SETTINGS,
};
use crate::world::{Peer, Program, Proxy, World, header};
use byrnie_model::Protocol;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const PROTOCOL: u32 = 1;
pub(crate) const FLOW: u32 = 3;
pub(crate) const CLOSED: u32 = 5;
pub(crate) const SIZE: u32 = 6;
pub(crate) const REFUSED: u32 = 7;
pub(crate) const COMPRESSION: u32 = 9;
pub(crate) const CALM: u32 = 11;

/// What must come of a case.
#[derive(Clone, Debug)]
pub(crate) enum Expect {
    /// GOAWAY with one of these codes, then the end of the connection.
    Close(&'static [u32]),
    /// RST_STREAM with one of these codes, and a connection that goes on.
    Reset(u32, &'static [u32]),
    /// A whole answer with this status, and a connection that goes on.
    Answer(u32, &'static str),
    /// A request that isn't acted on: answered with 4xx, or PROTOCOL_ERROR for its stream or its connection.
    Refused(u32),
    /// Nothing but a connection that goes on.
    Alive,
}

/// Bytes of a client after its preface, and what must come of them. A request for `/bad` must never
/// reach the program as a whole.
pub(crate) struct Case {
    pub(crate) section: &'static str,
    pub(crate) name: String,
    pub(crate) sends: Out,
    pub(crate) expect: Expect,
}

pub(crate) fn case(section: &'static str, name: impl Into<String>, expect: Expect, sends: Out) -> Case {
    Case { section, name: name.into(), sends, expect }
}

pub(crate) fn out() -> Out {
    Out::default()
}

/// What came of the bytes.
#[derive(Debug, Default)]
struct Seen {
    answers: BTreeMap<u32, String>,
    ended: Vec<u32>,
    resets: BTreeMap<u32, u32>,
    goaway: Option<u32>,
    pong: bool,
    closed: bool,
    /// Nothing more came in time.
    silent: bool,
}

const LAST_PING: [u8; 8] = *b"the last";

impl Seen {
    fn take(&mut self, link: &mut Link, frame: Option<Frame>) {
        let Some(frame) = frame else {
            (self.silent, self.closed) = (link.silent, !link.silent);
            return;
        };
        match frame.kind {
            HEADERS | CONTINUATION => {
                if let Some(lines) = link.lines(&frame)
                    && let Some((_, status)) = lines.iter().find(|(name, _)| name == ":status")
                {
                    self.answers.insert(frame.id, status.clone());
                }
                if frame.has(END_STREAM) && frame.kind == HEADERS {
                    self.ended.push(frame.id);
                }
            }
            DATA if frame.has(END_STREAM) => self.ended.push(frame.id),
            RST_STREAM => {
                self.resets.insert(frame.id, frame.number(0));
            }
            GOAWAY => self.goaway = Some(frame.number(4)),
            PING if frame.has(ACK) => self.pong |= frame.payload == LAST_PING,
            SETTINGS if !frame.has(ACK) => link.send(out().frame(SETTINGS, ACK, 0, [])),
            _ => {}
        }
    }

    fn settles(&self, expect: &Expect) -> bool {
        if self.closed || self.silent {
            return true;
        }
        match expect {
            Expect::Close(_) => false,
            Expect::Reset(id, _) => self.resets.contains_key(id) && self.pong,
            Expect::Answer(id, _) => (self.ended.contains(id) || self.resets.contains_key(id)) && self.pong,
            Expect::Refused(id) => (self.resets.contains_key(id) || self.ended.contains(id)) && self.pong,
            Expect::Alive => self.pong,
        }
    }

    fn meets(&self, expect: &Expect) -> bool {
        let alive = self.pong && self.goaway.is_none() && !self.closed;
        match expect {
            Expect::Close(codes) => self.closed && self.goaway.is_some_and(|code| codes.contains(&code)),
            Expect::Reset(id, codes) => alive && self.resets.get(id).is_some_and(|code| codes.contains(code)),
            Expect::Answer(id, status) => {
                alive && self.ended.contains(id) && self.answers.get(id).is_some_and(|found| found == status)
            }
            Expect::Refused(id) => {
                let answered = self.answers.get(id).is_some_and(|status| status.starts_with('4'));
                let refused = alive && (answered || self.resets.get(id) == Some(&PROTOCOL));
                // A stream's error may be taken for its connection's (RFC 9113 5.4).
                refused || self.closed && self.goaway == Some(PROTOCOL) && !self.answers.contains_key(id)
            }
            Expect::Alive => alive && self.resets.is_empty(),
        }
    }
}

/// Plays one case; an error says what came instead.
fn play(caller: &Proxy, case: &Case) -> Result<(), String> {
    let mut link = Link::client(caller.outbound("echo"), out());
    link.send(case.sends.clone());
    if !matches!(case.expect, Expect::Close(_)) {
        link.send(out().ping(&LAST_PING));
    }
    let mut seen = Seen::default();
    while !seen.settles(&case.expect) {
        let frame = link.read();
        seen.take(&mut link, frame);
    }
    if seen.meets(&case.expect) {
        return Ok(());
    }
    Err(format!("{} {}: wants {:?}, got {seen:?}", case.section, case.name, case.expect))
}

/// Targets of the requests that reached the program as a whole.
pub(crate) type Targets = Arc<Mutex<Vec<String>>>;

/// A program that answers 200 to every whole request and notes their targets.
pub(crate) fn noting() -> (Program, Targets) {
    let targets = Targets::default();
    let noted = Arc::clone(&targets);
    let program = Program::start(move |mut peer: Peer| {
        while let Some(head) = peer.read_head() {
            let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
            if body_of(&mut peer, &head).is_none() {
                return;
            }
            noted.lock().unwrap().push(target.clone());
            peer.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
    });
    (program, targets)
}

/// The body after `head`, if it comes as a whole.
pub(crate) fn body_of(peer: &mut Peer, head: &str) -> Option<Vec<u8>> {
    if header(head, "transfer-encoding").is_none() {
        let length = header(head, "content-length").map_or(0, |length| length.parse().unwrap());
        return peer.try_exact(length);
    }
    let mut body = Vec::new();
    loop {
        let line = String::from_utf8(peer.read_until(b"\r\n")?).unwrap();
        let size = usize::from_str_radix(line.trim(), 16).unwrap();
        if size == 0 {
            while peer.read_until(b"\r\n")? != b"\r\n" {}
            return Some(body);
        }
        body.extend(peer.try_exact(size)?);
        peer.try_exact(2)?;
    }
}

/// Plays a table against a pair of sidecars around a program of HTTP/1.
fn check(cases: Vec<Case>) -> usize {
    let (world, (program, targets)) = (World::new(), noting());
    let server = world.serving("echo", program.port, Protocol::Http1);
    let caller = world.calling(&[("echo", Protocol::Http1, &[&server])]);
    let failed: Vec<String> = cases.iter().filter_map(|case| play(&caller, case).err()).collect();
    assert!(failed.is_empty(), "{} of {} cases failed:\n{}", failed.len(), cases.len(), failed.join("\n"));
    let targets = targets.lock().unwrap();
    let bad: Vec<_> = targets.iter().filter(|target| target.starts_with("/bad")).collect();
    assert!(bad.is_empty(), "malformed requests reached the program: {bad:?}");
    assert_eq!(byrnie_net::runtime::panics(), 0);
    cases.len()
}

#[test]
fn frames_and_connections_keep_rfc_9113_4_and_6() {
    println!("{} cases", check(cases::all()));
}

#[test]
fn streams_keep_rfc_9113_5() {
    println!("{} cases", check(streams::all()));
}

#[test]
fn messages_keep_rfc_9113_8() {
    println!("{} cases", check(messages::all()));
}

#[test]
fn header_blocks_keep_rfc_7541() {
    println!("{} cases", check(hpack_cases::all()));
}

#[test]
fn no_case_has_vanished() {
    let count = cases::all().len() + streams::all().len() + messages::all().len() + hpack_cases::all().len();
    assert_eq!(count, 510, "a case has vanished, or the number here is to be raised");
}
