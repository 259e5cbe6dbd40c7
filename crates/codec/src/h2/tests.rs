// SPDX-License-Identifier: Apache-2.0
//! Two sessions that talk to each other, and bytes that no session sends. What a proxy makes of single frames by
//! section of the RFC is tested through whole proxies (`proxy/tests/wire`).

use super::hpack::{Decoder, Encoder};
use super::writer::Writer;
use super::{message, *};
use crate::head::{Framing, Head};
use crate::hop::CURB_BYTES;
use crate::reject::{Reject, RejectReason};
use crate::sniff::PREFACE;
use crate::{Fields, Known};
use byrnie_base::Rng;

/// What came of bytes, without what depends on how they were cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    heads: Vec<(u32, String, bool)>,
    bodies: std::collections::BTreeMap<u32, Vec<u8>>,
    ends: Vec<(u32, String)>,
    rooms: usize,
    wrong: Option<Wrong>,
}

fn words(head: &Head) -> String {
    let lines: Vec<_> = head.headers().map(|(name, value)| format!("{name}: {}", value.escape_ascii())).collect();
    format!(
        "{} {} {} {} {:?} {}",
        head.status(),
        head.method(),
        head.authority(),
        head.path_and_query(),
        head.framing(),
        lines.join(", ")
    )
}

impl Seen {
    /// Feeds bytes to a session, in pieces.
    fn take(&mut self, session: &mut Session, bytes: &[u8], mut piece: impl FnMut() -> usize) {
        let mut left = bytes;
        while !left.is_empty() && self.wrong.is_none() {
            let (mut part, after) = left.split_at(piece().clamp(1, left.len()));
            left = after;
            loop {
                match session.next(&mut part) {
                    Ok(Some(event)) => self.note(session, event),
                    Ok(None) => break,
                    Err(wrong) => {
                        self.wrong = Some(wrong);
                        break;
                    }
                }
            }
        }
    }

    fn note(&mut self, session: &mut Session, event: Event<'_>) {
        match event {
            Event::Opened { id, head, ended } => {
                session.bind(id, id);
                let text = head.as_ref().map_or_else(|reject| reject.reason.label().to_owned(), |head| words(head));
                self.heads.push((id, text, ended));
            }
            Event::Malformed { reason } => self.ends.push((0, reason.label().to_owned())),
            Event::Answered { key, head, interim, ended } => {
                self.heads.push((key, format!("{} {interim}", words(&head)), ended));
                session.reuse(head);
            }
            Event::Body { key, bytes, ended } => {
                self.bodies.entry(key).or_default().extend_from_slice(bytes);
                session.consume(key, bytes.len());
                if ended {
                    self.ends.push((key, String::new()));
                }
            }
            Event::Trailers { key, fields } => {
                self.ends.push((key, format!("{:?}", fields.iter().collect::<Vec<_>>())))
            }
            Event::Reset { key, why } => self.ends.push((key, format!("{why:?}"))),
            Event::Room { .. } => self.rooms += 1,
            Event::Settled | Event::Goodbye => {}
        }
    }
}

/// Moves what waits from one session to the other; false if nothing did.
fn pass(from: &mut Session, to: &mut Session, seen: &mut Seen, piece: impl FnMut() -> usize) -> bool {
    let bytes = from.waiting().to_vec();
    from.advance(bytes.len());
    seen.take(to, &bytes, piece);
    assert_eq!(seen.wrong, None);
    !bytes.is_empty()
}

fn request(method: &str, path: &str, framing: Framing, lines: &[(&str, &str)]) -> Head {
    let mut head = Head::new();
    head.start_request(method, "https", "shop", path).unwrap();
    lines.iter().for_each(|(name, value)| head.append(name, value.as_bytes()).unwrap());
    head.set_framing(framing);
    head
}

fn answer(status: u16, framing: Framing, lines: &[(&str, &str)]) -> Head {
    let mut head = Head::new();
    head.start_response(status);
    lines.iter().for_each(|(name, value)| head.append(name, value.as_bytes()).unwrap());
    head.set_framing(framing);
    head
}

/// A client and a server that have heard each other's SETTINGS.
fn pair() -> (Session, Session) {
    let (mut client, mut server) = (Session::new(Side::Client), Session::new(Side::Server));
    let mut seen = Seen::default();
    while pass(&mut client, &mut server, &mut seen, || 7) | pass(&mut server, &mut client, &mut seen, || 7) {}
    assert_eq!((client.offers_connect(), server.offers_connect()), (Some(true), Some(false)));
    (client, server)
}

/// Writes all of a body that the windows let through, and its end once all of it was.
fn write(session: &mut Session, id: u32, left: &mut Vec<u8>) -> bool {
    loop {
        let taken = session.write(id, left).unwrap();
        left.drain(..taken);
        if taken == 0 || left.is_empty() {
            return left.is_empty();
        }
    }
}

/// Many exchanges at once, of bodies far above the windows of a stream that nobody reads, however the bytes are cut.
#[test]
fn exchanges_pass_whole_whatever_the_cuts() {
    for seed in 0..30 {
        let mut rng = Rng::new(seed);
        let (mut client, mut server) = pair();
        let (mut asked, mut answered) = (Seen::default(), Seen::default());
        let most = 1 + rng.below(3000);
        let sizes: Vec<usize> = (0..10).map(|_| (rng.below(300) * rng.below(300)) as usize).collect();
        let mut up: Vec<(u32, Vec<u8>)> = Vec::new();
        for (n, size) in sizes.iter().enumerate() {
            let path = format!("/{n}");
            let long = "l".repeat(rng.below(40_000) as usize);
            let head = request("POST", &path, Framing::Stream, &[("x-long", &long), ("te", "trailers")]);
            up.push((client.ask(n as u32, &head, None, false).unwrap(), vec![n as u8; *size]));
        }
        let (mut down, mut trailers) = (Vec::new(), Fields::new());
        trailers.append("grpc-status", b"0").unwrap();
        let mut open = up.len();
        while open > 0 {
            up.retain_mut(|(id, left)| {
                let whole = write(&mut client, *id, left);
                if whole {
                    client.end(*id, None);
                }
                !whole
            });
            pass(&mut client, &mut server, &mut asked, || 1 + rng.below(most) as usize);
            for (id, _) in asked.ends.drain(..) {
                let body = asked.bodies.remove(&id).unwrap_or_default();
                let head = answer(200, Framing::Stream, &[("content-type", "application/grpc")]);
                assert!(server.answer_with(id, &answer(103, Framing::None, &[("link", "</x>")]), 103, None, false));
                assert!(server.answer_with(id, &head, 200, None, false));
                down.push((id, body));
            }
            down.retain_mut(|(id, left)| {
                let whole = write(&mut server, *id, left);
                if whole {
                    server.end(*id, Some(&trailers));
                    open -= 1;
                }
                !whole
            });
            pass(&mut server, &mut client, &mut answered, || 1 + rng.below(most) as usize);
        }
        while pass(&mut server, &mut client, &mut answered, || usize::MAX) {}
        assert_eq!((client.open_streams(), server.open_streams()), (0, 0));
        assert_eq!((asked.heads.len(), answered.heads.len()), (10, 20));
        for (n, size) in sizes.iter().enumerate() {
            let body = answered.bodies.get(&(n as u32)).map_or(&[][..], |body| body);
            assert_eq!(body, vec![n as u8; *size], "seed {seed}");
        }
        assert!(answered.ends.iter().all(|(_, end)| end.contains("grpc-status")));
    }
}

/// What a client says, with everything that frames may have: padding, priorities, pieces of blocks, unknown frames.
fn talk() -> Vec<u8> {
    let (mut client, _) = pair();
    client.ask(0, &request("GET", "/a?b", Framing::None, &[("accept", "*/*"), ("Cookie", "a=b")]), None, true).unwrap();
    let id = client.ask(1, &request("POST", "/", Framing::Length(9), &[]), None, false).unwrap();
    client.write(id, b"four").unwrap();
    client.writer.frame(0x42, 0xff, 3, b"whatever");
    client.writer.frame(kind::DATA, flag::PADDED, id, b"\x04fives1234".as_slice());
    client.writer.frame(kind::DATA, flag::PADDED | flag::END_STREAM, id, b"\x03123");
    client.writer.frame(kind::PING, 0, 0, b"12345678");
    let mut block = Vec::new();
    message::write_request(&mut client.encoder, &request("PUT", "/p", Framing::None, &[]), None, &mut block);
    let (first, rest) = block.split_at(5);
    client.writer.frame(
        kind::HEADERS,
        flag::PRIORITY | flag::PADDED,
        5,
        &[&[2, 0, 0, 0, 3, 9], first, &[0, 0]].concat(),
    );
    client.writer.frame(kind::CONTINUATION, 0, 5, &[]);
    client.writer.frame(kind::CONTINUATION, flag::END_HEADERS, 5, rest);
    client.writer.frame(kind::DATA, 0, 5, b"body");
    client.writer.frame(kind::WINDOW_UPDATE, 0, 5, &[0, 0, 0, 7]);
    client.writer.frame(kind::RST_STREAM, 0, 5, &[0, 0, 0, 8]);
    let mut bytes = Session::new(Side::Client).waiting().to_vec();
    bytes.extend_from_slice(client.waiting());
    bytes
}

#[test]
fn where_bytes_are_cut_does_not_matter() {
    let bytes = talk();
    let mut whole = Seen::default();
    whole.take(&mut Session::new(Side::Server), &bytes, || usize::MAX);
    assert_eq!((whole.heads.len(), whole.wrong), (3, None), "{whole:?}");
    assert_eq!(whole.bodies[&3], b"fourfives");
    assert_eq!(whole.ends.len(), 2, "{whole:?}");
    for cut in 1..bytes.len() {
        let mut seen = Seen::default();
        let mut sizes = [cut].into_iter();
        seen.take(&mut Session::new(Side::Server), &bytes, || sizes.next().unwrap_or(usize::MAX));
        assert_eq!(seen, whole, "cut at {cut}");
    }
    let mut seen = Seen::default();
    seen.take(&mut Session::new(Side::Server), &bytes, || 1);
    assert_eq!(seen, whole);
}

/// What is seen of spoilt bytes, whole and in pieces: the same, but for what had come of bodies that broke off.
fn spoil(session: impl Fn() -> Session, bytes: &[u8], rng: &mut Rng) {
    let (mut whole, mut cut) = (Seen::default(), Seen::default());
    whole.take(&mut session(), bytes, || usize::MAX);
    let most = 1 + rng.below(100);
    cut.take(&mut session(), bytes, || 1 + rng.below(most) as usize);
    let broken: Vec<u32> = whole.ends.iter().filter(|(_, end)| !end.is_empty()).map(|(key, _)| *key).collect();
    for seen in [&mut whole, &mut cut] {
        let wrong = seen.wrong.is_some();
        seen.bodies.retain(|key, body| !wrong && !body.is_empty() && !broken.contains(key));
    }
    assert_eq!(whole, cut, "{}", bytes.escape_ascii());
}

/// Every byte of a good conversation spoilt, one after the other, and then many at once.
#[test]
fn no_bytes_make_it_panic_or_depend_on_their_cuts() {
    let (bytes, mut rng) = (talk(), Rng::new(3));
    let server = || Session::new(Side::Server);
    let client = || {
        let (mut client, _) = pair();
        for n in 0..3 {
            client.ask(n, &request("GET", "/", Framing::None, &[]), None, true).unwrap();
        }
        client
    };
    for at in 0..bytes.len() {
        for flip in [1, 4, 0x80, 0xff] {
            let mut spoilt = bytes.clone();
            spoilt[at] ^= flip;
            spoil(server, &spoilt, &mut rng);
            spoil(client, spoilt.get(PREFACE.len()..).unwrap(), &mut rng);
        }
    }
    for _ in 0..3000 {
        let mut spoilt = bytes.clone();
        for _ in 0..1 + rng.below(20) {
            let at = rng.below(spoilt.len() as u64) as usize;
            spoilt[at] = rng.below(256) as u8;
        }
        spoil(server, &spoilt, &mut rng);
        spoil(client, &spoilt[PREFACE.len()..], &mut rng);
    }
}

#[test]
fn an_end_joins_the_last_frame_of_its_stream() {
    let (mut client, mut server) = pair();
    let id = client.ask(0, &request("POST", "/", Framing::Stream, &[]), None, false).unwrap();
    client.write(id, b"one ").unwrap();
    client.write(id, b"piece").unwrap();
    client.end(id, None);
    let frames = |session: &Session| {
        let (mut rest, mut frames) = (session.waiting(), Vec::new());
        while let Some((header, after)) = rest.split_first_chunk() {
            let frame = Frame::parse(*header);
            rest = &after[frame.length..];
            frames.push((frame.kind, frame.flags));
        }
        frames
    };
    let expected = [(kind::HEADERS, flag::END_HEADERS), (kind::DATA, flag::END_STREAM)];
    assert_eq!(frames(&client), expected);
    let mut seen = Seen::default();
    pass(&mut client, &mut server, &mut seen, || usize::MAX);
    server.answer_with(id, &answer(200, Framing::Stream, &[]), 200, None, false);
    server.end(id, None);
    assert_eq!(frames(&server), [(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM)]);
}

#[test]
fn no_body_exceeds_the_windows_that_its_receiver_opens() {
    let (mut client, mut server) = pair();
    let mut seen = Seen::default();
    let ids: Vec<u32> =
        (0..20).map(|n| client.ask(n, &request("POST", "/", Framing::Stream, &[]), None, false).unwrap()).collect();
    let piece = vec![0; 2 * STREAM_WINDOW_BYTES as usize];
    let mut sent = 0;
    for id in &ids {
        let mut taken = 0;
        while let more @ 1.. = client.write(*id, &piece[taken..]).unwrap() {
            taken += more;
        }
        assert!(taken <= STREAM_WINDOW_BYTES as usize);
        sent += taken;
    }
    assert_eq!(sent, CONNECTION_WINDOW_BYTES as usize);
    // Nobody consumes: what was allowed is taken, and not a byte more.
    let bytes = client.waiting().to_vec();
    let mut part = &bytes[..];
    while let Some(event) = server.next(&mut part).unwrap() {
        if let Event::Opened { id, .. } = event {
            server.bind(id, id);
        }
    }
    seen.take(&mut server, &Frame { length: 1, kind: kind::DATA, flags: 0, stream: ids[19] }.to_bytes(), || 9);
    seen.take(&mut server, &[0], || 1);
    assert_eq!(seen.wrong, Some(Wrong(code::FLOW_CONTROL_ERROR)));
}

#[test]
fn a_goodbye_lets_end_what_was_heard_of_and_gives_back_the_rest() {
    let (mut client, mut server) = pair();
    let mut seen = [Seen::default(), Seen::default()];
    let get = request("GET", "/", Framing::None, &[]);
    let first = client.ask(0, &get, None, true).unwrap();
    pass(&mut client, &mut server, &mut seen[0], || usize::MAX);
    assert!(server.say_goodbye() && !server.say_goodbye());
    // On its way meanwhile.
    let second = client.ask(1, &get, None, true).unwrap();
    pass(&mut client, &mut server, &mut seen[0], || usize::MAX);
    assert_eq!(seen[0].heads.len(), 2);
    pass(&mut server, &mut client, &mut seen[1], || usize::MAX);
    assert!(client.is_leaving() && client.ask(2, &get, None, true).is_none());
    assert!(client.take_refused().is_empty() && !server.is_over());
    pass(&mut client, &mut server, &mut seen[0], || usize::MAX);
    for id in [first, second] {
        assert!(server.answer_with(id, &answer(204, Framing::None, &[]), 204, None, true));
    }
    assert!(server.is_over());
    pass(&mut server, &mut client, &mut seen[1], || usize::MAX);
    assert!(client.is_over() && seen[1].heads.len() == 2);
    // One that hears no more says so at once.
    let (mut client, mut server) = pair();
    client.ask(7, &get, None, true).unwrap();
    server.close_door();
    pass(&mut server, &mut client, &mut seen[1], || usize::MAX);
    assert_eq!(client.take_refused(), [7]);
}

#[test]
fn late_frames_of_a_stream_that_was_reset_are_read_for_the_tables_and_nothing_else() {
    let (mut client, mut server) = pair();
    let mut seen = [Seen::default(), Seen::default()];
    let get = request("GET", "/", Framing::None, &[]);
    let id = client.ask(0, &get, None, true).unwrap();
    let other = client.ask(1, &get, None, true).unwrap();
    pass(&mut client, &mut server, &mut seen[0], || usize::MAX);
    client.reset(id, code::CANCEL);
    for id in [id, other, id] {
        server.answer_with(id, &answer(200, Framing::Stream, &[("x-kept", "the same")]), 200, None, false);
        server.write(id, b"late").unwrap();
    }
    server.end(other, None);
    pass(&mut server, &mut client, &mut seen[1], || 5);
    assert_eq!((seen[1].heads.len(), seen[1].heads[0].0), (1, 1));
    assert!(seen[1].heads[0].1.contains("x-kept: the same"), "{:?}", seen[1].heads);
}

/// As when a server that names no limit stands still, the deadlines of all its calls pass, and it goes on by answering them.
#[test]
fn late_answers_on_any_number_of_given_up_streams_leave_the_connection_whole() {
    const CALLS: u32 = 3 * RESETS_REMEMBERED as u32 * STREAMS_MAX;
    const PIECE: usize = 4096;
    let (mut client, mut seen) = (Session::new(Side::Client), Seen::default());
    let mut late = Writer::default();
    late.frame(kind::SETTINGS, 0, 0, &[]);
    seen.take(&mut client, late.waiting(), || usize::MAX);
    late.advance(late.waiting().len());
    let get = request("GET", "/", Framing::None, &[]);
    let ids: Vec<u32> = (0..=CALLS).map(|key| client.ask(key, &get, None, true).unwrap()).collect();
    let (kept, given_up) = ids.split_last().unwrap();
    given_up.iter().for_each(|id| client.reset(*id, code::CANCEL));
    client.advance(client.waiting().len());
    let (mut encoder, head) = (Encoder::default(), answer(200, Framing::Stream, &[("x-kept", "the same")]));
    for id in &ids {
        late.block(*id, false, FRAME_BYTES_MAX, |out| message::write_response(&mut encoder, &head, 200, None, out));
        late.body(*id, &[0; PIECE], FRAME_BYTES_MAX);
        late.end(*id);
    }
    seen.take(&mut client, late.waiting(), || 10_000);
    assert_eq!((seen.wrong, seen.heads.len(), seen.bodies.len()), (None, 1, 1), "one call was waited for");
    assert!(seen.heads[0].0 == CALLS && seen.heads[0].1.contains("x-kept: the same"), "{:?}", seen.heads);
    assert_eq!(seen.bodies[&CALLS].len(), PIECE);
    // The window of the connection was opened again for what nobody read.
    let left = client.windows.1.left();
    assert!(left > i64::from(CONNECTION_WINDOW_BYTES / 2), "{left}");
    let mut unasked = Writer::default();
    unasked.body(*kept + 2, b"x", FRAME_BYTES_MAX);
    seen.take(&mut client, unasked.waiting(), || usize::MAX);
    assert_eq!(seen.wrong, Some(Wrong(code::PROTOCOL_ERROR)), "nothing was asked there");
}

#[test]
fn heads_keep_what_they_say_on_their_way() {
    let (mut client, mut server) = pair();
    let mut seen = Seen::default();
    let heads = [
        request("GET", "/", Framing::None, &[]),
        request("OPTIONS", "*", Framing::None, &[("X-Upper", "Value")]),
        request("PATCH", "/a/b?c=d", Framing::Length(0), &[("te", "trailers"), ("x-e", "")]),
        request("GET", "/large", Framing::None, &[("x-a", &"a".repeat(30_000)), ("x-b", &"b".repeat(20_000))]),
    ];
    for (n, head) in heads.iter().enumerate() {
        client.ask(n as u32, head, None, true).unwrap();
    }
    client.ask(9, &request("GET", "/chat", Framing::None, &[("x-drop", "1")]), Some(("websocket", "x-drop")), false);
    pass(&mut client, &mut server, &mut seen, || usize::MAX);
    for (head, (_, text, ended)) in heads.iter().zip(&seen.heads) {
        assert_eq!((text, *ended), (&words(head).replace("X-Upper", "x-upper"), true));
    }
    assert_eq!(seen.heads[4].1, "0 GET shop /chat Stream upgrade: websocket");
    let too_large = request("GET", "/", Framing::None, &[("x-a", &"a".repeat(70_000))]);
    client.ask(10, &too_large, None, true).unwrap();
    pass(&mut client, &mut server, &mut seen, || 1000);
    assert_eq!(seen.heads[5].1, "head_too_large");
    assert!(Known::of(b"te") == Known::Te && server.open_streams() == 6);
}

/// Moves what waits from one session to the other; how much came of bodies, which nobody passes on.
fn deliver(from: &mut Session, to: &mut Session) -> usize {
    let bytes = from.waiting().to_vec();
    from.advance(bytes.len());
    let (mut part, mut came) = (&bytes[..], 0);
    while let Some(event) = to.next(&mut part).unwrap() {
        match event {
            Event::Opened { id, .. } => to.bind(id, id),
            Event::Body { bytes, .. } => came += bytes.len(),
            _ => {}
        }
    }
    came
}

/// Until it has taken some of its answer, hardly anything of it is under way, be it from another proxy or from a program; then it's like
/// others, which are never held back.
#[test]
fn an_answer_to_a_newcomer_is_curbed_until_it_takes_some() {
    for (narrow, newcomer) in [(false, true), (true, true), (true, false)] {
        let mut client = if narrow { Session::narrow() } else { Session::new(Side::Client) };
        let mut server = Session::new(Side::Server);
        let id = client.ask(1, &request("GET", "/", Framing::None, &[]), None, true).unwrap();
        deliver(&mut client, &mut server);
        if newcomer {
            client.curb(id);
            if !narrow {
                server.curb(id);
            }
        }
        server.answer_with(id, &answer(200, Framing::Stream, &[]), 200, None, false);
        // What comes until nothing moves any more.
        let come = |client: &mut Session, server: &mut Session| {
            let mut come = 0;
            loop {
                while server.write(id, &[0; 1000]).unwrap() > 0 {}
                let more = deliver(server, client);
                deliver(client, server);
                come += more;
                if more == 0 {
                    return come;
                }
            }
        };
        let mut unread = come(&mut client, &mut server);
        if newcomer {
            assert!((1000..=CURB_BYTES as usize).contains(&unread), "{unread} bytes, {narrow}");
        } else {
            assert_eq!(unread, STREAM_WINDOW_BYTES as usize);
        }
        let mut passed = 0;
        for _ in 0..10 {
            client.consume(id, unread);
            passed += unread;
            deliver(&mut client, &mut server);
            unread = come(&mut client, &mut server);
            let curb = CURB_BYTES as usize * if narrow && newcomer { 2 } else { 1 };
            assert_eq!(passed >= curb, unread > STREAM_WINDOW_BYTES as usize / 2, "{unread} after {passed}");
            assert!(passed >= curb || unread <= CURB_BYTES as usize, "{unread} after {passed}");
        }
    }
}

#[test]
fn what_a_newcomer_sends_says_nothing_of_what_it_takes() {
    let (mut client, mut server) = (Session::new(Side::Client), Session::new(Side::Server));
    let id = client.ask(1, &request("POST", "/", Framing::Stream, &[]), None, false).unwrap();
    deliver(&mut client, &mut server);
    deliver(&mut server, &mut client);
    client.curb(id);
    server.curb(id);
    for _ in 0..8 {
        while client.write(id, &[0; 16_384]).unwrap() > 0 {}
        let came = deliver(&mut client, &mut server);
        assert!(came > STREAM_WINDOW_BYTES as usize / 2, "a request is held back: {came}");
        server.consume(id, came);
        deliver(&mut server, &mut client);
    }
    server.answer_with(id, &answer(200, Framing::Stream, &[]), 200, None, false);
    while server.write(id, &[0; 1000]).unwrap() > 0 {}
    assert!(deliver(&mut server, &mut client) <= CURB_BYTES as usize);
}

#[test]
fn a_server_may_not_have_heard_of_little_windows_when_it_begins() {
    let mut client = Session::narrow();
    let mut server = Session::new(Side::Server);
    let id = client.ask(1, &request("GET", "/", Framing::None, &[]), None, true).unwrap();
    client.curb(id);
    deliver(&mut client, &mut server);
    server.answer_with(id, &answer(200, Framing::Stream, &[]), 200, None, false);
    // As if the SETTINGS were still on their way.
    server.streams.get(id).unwrap().send = i64::from(INITIAL_WINDOW_BYTES);
    while server.write(id, &[0; 1000]).unwrap() > 0 {}
    assert_eq!(deliver(&mut server, &mut client), INITIAL_WINDOW_BYTES as usize);
    let mut seen = Seen::default();
    seen.take(&mut client, &Frame { length: 1, kind: kind::DATA, flags: 0, stream: id }.to_bytes(), || 9);
    seen.take(&mut client, &[0], || 1);
    assert_eq!(seen.wrong, None);
    assert!(seen.ends[0].1.contains("Broken(3)"), "{:?}", seen.ends);
}

#[test]
fn a_server_that_has_heard_of_little_windows_has_no_more() {
    let mut client = Session::narrow();
    let mut server = Session::new(Side::Server);
    deliver(&mut client, &mut server);
    deliver(&mut server, &mut client);
    let id = client.ask(1, &request("GET", "/", Framing::None, &[]), None, true).unwrap();
    client.curb(id);
    deliver(&mut client, &mut server);
    server.answer_with(id, &answer(200, Framing::Stream, &[]), 200, None, false);
    while server.write(id, &[0; 1000]).unwrap() > 0 {}
    assert_eq!(deliver(&mut server, &mut client), CURB_BYTES as usize);
    let mut seen = Seen::default();
    seen.take(&mut client, &Frame { length: 1, kind: kind::DATA, flags: 0, stream: id }.to_bytes(), || 9);
    seen.take(&mut client, &[0], || 1);
    assert!(seen.ends[0].1.contains("Broken(3)"), "{:?}", seen.ends);
}

fn block(lines: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    lines.iter().for_each(|(name, value)| Encoder::plain(name.as_bytes(), value.as_bytes(), &mut out));
    out
}

/// Lines that a request may not have behind its body, and an answer's caller isn't given.
const FORBIDDEN: [&str; 9] = [
    "forwarded-client-identity",
    "x-byrnie-decision",
    "x-byrnie-anything",
    "authorization",
    "content-length",
    "host",
    "if-match",
    "txn-id",
    "cookie",
];

#[test]
fn trailers_hold_nothing_that_comes_too_late_there() {
    let read = |lines: &[(&str, &str)], asked| {
        let mut fields = Fields::new();
        let read = message::read_trailers(&mut Decoder::default(), &block(lines), asked, &mut fields).ok().unwrap();
        read.map(|()| fields.iter().map(|(name, _)| name.to_owned()).collect::<Vec<_>>())
            .map_err(|flaw| flaw.reject().reason)
    };
    for name in FORBIDDEN {
        let lines = [("x-sum", "1"), (name, "1"), ("grpc-status", "0")];
        assert_eq!(read(&lines, true), Err(RejectReason::TrailerForbidden), "{name}");
        assert_eq!(read(&lines, false).unwrap(), ["x-sum", "grpc-status"], "{name}");
    }
    for asked in [true, false] {
        assert_eq!(read(&[("x-sum", "1"), ("grpc-status", "0")], asked).unwrap(), ["x-sum", "grpc-status"]);
        for name in [":path", ":method", ":scheme", ":authority", ":protocol", ":status", ":odd"] {
            assert_eq!(read(&[("x-sum", "1"), (name, "200")], asked), Err(RejectReason::HeaderName), "{name}");
            assert_eq!(read(&[(name, "200")], asked), Err(RejectReason::HeaderName), "{name}");
        }
        assert_eq!(read(&[("connection", "x")], asked), Err(RejectReason::ConnectionSpecific));
    }
}

#[test]
fn an_answer_has_no_pseudo_header_of_a_request() {
    let read = |lines: &[(&str, &str)]| {
        let read = message::read_response(&mut Decoder::default(), &block(lines), true, &mut Head::new());
        read.ok().unwrap().map_err(|flaw| flaw.reject())
    };
    assert_eq!(read(&[(":status", "200"), ("x", "y")]), Ok(()));
    for name in [":path", ":method", ":scheme", ":authority", ":protocol"] {
        for lines in [[(":status", "200"), (name, "GET")], [(name, "GET"), (":status", "200")]] {
            let reject = Reject { status: 502, reason: RejectReason::HeaderName };
            assert_eq!(read(&lines), Err(reject), "{lines:?}");
        }
    }
}

#[test]
fn a_request_that_is_none_is_told_of_under_the_rule_that_it_breaks() {
    const GET: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")];
    let frame = |kind: u8, flags: u8, id: u8, payload: &[u8]| {
        [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, id][..], payload].concat()
    };
    let headers = |lines: &[(&str, &str)], flags: u8| frame(1, flags, 1, &block(&[&GET[..], lines].concat()));
    let cases = [
        (headers(&[("connection", "close")], 5), "connection_specific"),
        (headers(&[("x-a", "b\r\nc: d")], 5), "header_value"),
        (headers(&[(":path", "/")], 5), "request_line"),
        (frame(1, 5, 1, &block(&GET[..3])), "request_line"),
    ];
    let opening = [PREFACE, &frame(4, 0, 0, &[])].concat();
    for (bytes, reason) in cases {
        let (mut session, mut seen) = (Session::new(Side::Server), Seen::default());
        seen.take(&mut session, &[&opening[..], &bytes].concat(), || usize::MAX);
        assert_eq!(seen.ends, [(0, reason.to_owned())]);
        assert_eq!((seen.heads.len(), seen.wrong), (0, None), "{reason}");
    }
    // Behind its head it's told of where it's read.
    let posted = headers(&[("content-length", "3")], 4);
    let open = headers(&[], 4);
    let cases = [
        ([&posted[..], &frame(0, 1, 1, b"ab")].concat(), RejectReason::ContentLength),
        ([&posted[..], &frame(0, 0, 1, b"abcd")].concat(), RejectReason::ContentLength),
        ([&open[..], &frame(1, 5, 1, &block(&[("authorization", "x")]))].concat(), RejectReason::TrailerForbidden),
    ];
    for (bytes, reason) in cases {
        let (mut session, mut seen) = (Session::new(Side::Server), Seen::default());
        seen.take(&mut session, &[&opening[..], &bytes].concat(), || usize::MAX);
        assert_eq!(seen.ends.last(), Some(&(1, format!("{:?}", Why::Malformed(reason.into())))));
    }
}

#[test]
fn what_is_said_by_frames_isnt_said_by_lines_too() {
    let written = |head: &Head, but| {
        let mut names = Vec::new();
        message::each_field(head, but, |known, name, _| {
            names.push(if name.is_empty() {
                known.name().to_owned()
            } else {
                String::from_utf8(name.to_vec()).unwrap()
            });
        });
        names
    };
    let accepted = answer(101, Framing::None, &[("Sec-WebSocket-Accept", "x"), ("x-own", "1")]);
    assert_eq!(written(&accepted, Some("sec-websocket-accept")), ["x-own"]);
    let refused = answer(200, Framing::Length(0), &[("grpc-status", "7")]);
    assert_eq!(written(&refused, None), ["grpc-status"]);
    assert_eq!(written(&answer(200, Framing::Length(0), &[]), None), ["content-length"]);
}
