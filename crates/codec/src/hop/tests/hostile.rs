// SPDX-License-Identifier: Apache-2.0
//! What a peer must not do, and what comes of it.

use super::{bytes_of, frame};
use crate::hop::*;
use byrnie_base::Instant;
use std::time::Duration;

/// Reads what there is, on both sides, as a driver would; ends at the first wrong.
pub(super) fn survive(input: &[u8]) {
    for side in [Side::Opener, Side::Server] {
        let _ = run(side, 2, input);
    }
}

/// What a side that has opened `open` streams says of `input`.
fn run(side: Side, open: u32, input: &[u8]) -> Result<Vec<Action>, Wrong> {
    let mut session = Session::new(side);
    let (mut reader, mut actions) = (Reader::default(), Vec::new());
    for key in 0..open {
        session.open(key);
    }
    let mut rest = input;
    while let Some(piece) = reader.next(&mut rest)? {
        let id = piece.frame.stream;
        if piece.first {
            let action = session.receive(&piece.frame, Instant::from_nanos(1))?;
            if action == (Action::Open { key: None }) {
                session.bind(id, id.slot());
            }
            actions.push(action);
        }
        if piece.last && piece.frame.end {
            session.received_end(id);
        }
        assert!(session.open_streams() <= STREAMS_MAX);
    }
    Ok(actions)
}

fn wrong(side: Side, input: &[u8]) -> Option<Wrong> {
    run(side, 1, input).err()
}

fn opens(slots: impl Iterator<Item = u32>) -> Vec<u8> {
    slots.flat_map(|slot| bytes_of(frame(slot, Kind::Open, false), b"x")).collect()
}

#[test]
fn bytes_that_begin_no_frame_are_refused() {
    let header =
        |stream: u32, flags: u32, value: u32| [stream.to_le_bytes(), (flags << 24 | value).to_le_bytes()].concat();
    for (input, expected) in [
        (header(1, 9, 0), Wrong::Kind),
        (header(1, 0x40, 0), Wrong::Kind),
        (header(1, 0x7f, 0), Wrong::Kind),
        (header(1, 0, FRAME_BYTES_MAX as u32 + 1), Wrong::Length),
        (header(1, 1, 0xff_ffff), Wrong::Length),
        (header(0, 0, 1), Wrong::Place),
        (header(0, 1, 1), Wrong::Place),
        (header(0, 4, 0), Wrong::Place),
        (header(1 << 20, 0, 0), Wrong::Place),
        (header(1 << 20, 5, 1), Wrong::Place),
        (header(1, 6, 0), Wrong::Place),
        (header(1, 8, 0), Wrong::Place),
        (header(1, 3, 0), Wrong::End),
        (header(1, 0x84, 0), Wrong::End),
        (header(0, 0x85, 0), Wrong::End),
        (header(1, 0x82, 0), Wrong::End),
        (header(0, 0x86, 0), Wrong::End),
    ] {
        assert_eq!(wrong(Side::Server, &input), Some(expected), "{input:?}");
        assert_eq!(wrong(Side::Opener, &input), Some(expected), "{input:?}");
    }
}

#[test]
fn a_stream_is_opened_once_and_by_its_opener() {
    let open = bytes_of(frame(1, Kind::Open, false), b"x");
    assert_eq!(wrong(Side::Server, &[&open[..], &open].concat()), Some(Wrong::Occupied));
    let reset = Frame { value: code::CANCEL, ..frame(1, Kind::Reset, false) }.to_bytes();
    assert_eq!(wrong(Side::Server, &[&open[..], &reset, &open].concat()), Some(Wrong::Opened));
    let next = bytes_of(Frame { stream: StreamId::new(1, 2), ..frame(1, Kind::Open, false) }, b"x");
    assert_eq!(wrong(Side::Server, &[&open[..], &reset, &next].concat()), None);
    assert_eq!(wrong(Side::Server, &bytes_of(frame(1, Kind::Data, false), b"x")), Some(Wrong::Slot));
    assert_eq!(wrong(Side::Server, &bytes_of(frame(1, Kind::Interim, false), b"x")), Some(Wrong::Opened));
    assert_eq!(wrong(Side::Server, &opens(1..=STREAMS_MAX)), None);
    assert_eq!(wrong(Side::Server, &opens(STREAMS_MAX + 1..=STREAMS_MAX + 1)), Some(Wrong::Slot));
    // A server opens none: to the opener it's a slot that was never used.
    assert_eq!(wrong(Side::Opener, &opens(2..=2)), Some(Wrong::Slot));
    let goodbye = Frame::new(StreamId::CONNECTION, Kind::Goaway, 0).to_bytes();
    assert_eq!(wrong(Side::Server, &[&goodbye[..], &open].concat()), Some(Wrong::AfterGoodbye));
    assert_eq!(wrong(Side::Server, &[goodbye, goodbye].concat()), Some(Wrong::Goodbye));
}

#[test]
fn a_direction_has_one_head_then_a_body_then_one_end() {
    let open = bytes_of(frame(1, Kind::Open, false), b"x");
    let data = bytes_of(frame(1, Kind::Data, false), b"x");
    let end = bytes_of(frame(1, Kind::Data, true), b"");
    let trailers = bytes_of(frame(1, Kind::Trailers, true), b"\r\n");
    let interim = bytes_of(frame(1, Kind::Interim, false), b"x");
    for (frames, expected) in [
        (vec![&data], Some(Wrong::BeforeHead)),
        (vec![&end], Some(Wrong::BeforeHead)),
        (vec![&trailers], Some(Wrong::BeforeHead)),
        (vec![&open, &open], Some(Wrong::SecondHead)),
        (vec![&open, &interim], Some(Wrong::SecondHead)),
        (vec![&interim, &interim, &open, &data, &trailers], None),
        (vec![&open, &end, &data], Some(Wrong::AfterEnd)),
        (vec![&open, &end, &end], Some(Wrong::AfterEnd)),
        (vec![&open, &trailers, &trailers], Some(Wrong::AfterEnd)),
        (vec![&interim; usize::from(INTERIMS_MAX)], None),
        (vec![&interim; usize::from(INTERIMS_MAX) + 1], Some(Wrong::Interims)),
    ] {
        let input: Vec<u8> = frames.into_iter().flatten().copied().collect();
        assert_eq!(wrong(Side::Opener, &input), expected, "{input:?}");
    }
}

#[test]
fn credit_is_kept_on_streams_and_in_all() {
    let full = [0; FRAME_BYTES_MAX];
    let data = |slot| bytes_of(frame(slot, Kind::Data, false), &full);
    let frames = STREAM_CREDIT_BYTES as usize / FRAME_BYTES_MAX;
    // Four and a bit: the last that is begun with credit may overdraw it, the next may not.
    let one: Vec<u8> = [opens(1..=1), data(1).repeat(frames)].concat();
    assert_eq!(wrong(Side::Server, &one), None);
    assert_eq!(wrong(Side::Server, &[&one[..], &data(1)].concat()), Some(Wrong::Overdrawn));
    let all = CONNECTION_CREDIT_BYTES / STREAM_CREDIT_BYTES;
    let many: Vec<u8> = (1..=all).flat_map(|slot| [opens(slot..=slot), data(slot).repeat(frames)].concat()).collect();
    // The heads took the last of it: neither a stream nor a piece is allowed any more.
    assert_eq!(wrong(Side::Server, &many), None);
    assert_eq!(wrong(Side::Server, &[many, opens(all + 1..=all + 1)].concat()), Some(Wrong::Overdrawn));
    let grant = |stream, value| Frame::new(stream, Kind::Credit, value).to_bytes();
    let too_much = grant(StreamId::CONNECTION, 0xff_ffff).repeat(64);
    assert_eq!(wrong(Side::Opener, &too_much), Some(Wrong::Credit));
    let too_much = grant(StreamId::new(1, 1), 0xff_ffff).repeat(65);
    assert_eq!(wrong(Side::Opener, &too_much), Some(Wrong::Credit));
}

#[test]
fn heads_without_credit_have_an_end_too() {
    let head = bytes_of(frame(1, Kind::Interim, false), &[0; FRAME_BYTES_MAX]);
    let input: Vec<u8> = (1..=20u32)
        .flat_map(|slot| {
            let one = bytes_of(frame(slot, Kind::Interim, false), &head[8..]);
            one.repeat(usize::from(INTERIMS_MAX))
        })
        .collect();
    assert_eq!(run(Side::Opener, 20, &input).err(), Some(Wrong::Overdrawn));
}

#[test]
fn resets_and_pings_have_a_rate() {
    let mut input = Vec::new();
    for generation in 1..=RESETS_LATE_BURST + 1 {
        let stream = StreamId::new(1, generation as u16);
        input.extend(bytes_of(Frame { stream, ..frame(1, Kind::Open, false) }, b"x"));
        input.extend(Frame::new(stream, Kind::Reset, code::CANCEL).to_bytes());
    }
    assert_eq!(wrong(Side::Server, &input), Some(Wrong::Resets));
    assert_eq!(wrong(Side::Server, &input[..input.len() - 17]), None);
    let pings = Frame::new(StreamId::CONNECTION, Kind::Ping, 1).to_bytes().repeat(PINGS_BURST as usize + 1);
    assert_eq!(wrong(Side::Server, &pings), Some(Wrong::Pings));
    assert_eq!(wrong(Side::Opener, &pings), Some(Wrong::Pings));
}

/// The connection of another proxy that carries many clients that leave isn't that of one who resets streams for nothing: those that
/// were answered to their end are given back.
#[test]
fn streams_that_are_answered_earn_resets() {
    let mut server = Session::new(Side::Server);
    let now = Instant::from_nanos(1);
    let mut id = StreamId::new(1, 1);
    for n in 0..4 * RESETS_LATE_BURST {
        let open = Frame { stream: id, kind: Kind::Open, end: n % 2 == 0, value: 1 };
        server.receive(&open, now).unwrap();
        server.discard(1);
        if open.end {
            server.received_end(id);
            server.end(id);
        } else {
            server.receive(&Frame::new(id, Kind::Reset, code::CANCEL), now).unwrap();
        }
        id = id.next();
    }
}

/// What an opener doesn't reset yet keeps its place; and however late what it sends comes, and with how much at once, it's within what
/// the server takes.
#[test]
fn an_opener_that_keeps_to_its_budget_is_never_called_wrong() {
    let (mut opener, mut server) = (Session::new(Side::Opener), Session::new(Side::Server));
    let mut now = Instant::from_nanos(1_000_000_000);
    let mut waiting = std::collections::VecDeque::new();
    let mut wire = Vec::new();
    let mut resets = 0;
    for tick in 1..=6000 {
        now = now + Duration::from_millis(10);
        while let Some(id) = opener.open(0) {
            opener.sent(id, 1);
            wire.push(Frame { stream: id, ..Frame::new(id, Kind::Open, 1) });
            opener.forsake(id);
            waiting.push_back(id);
        }
        assert_eq!(opener.open_streams(), STREAMS_MAX, "the places of those that wait are taken");
        while waiting.front().is_some() && opener.may_reset(now) {
            let id = waiting.pop_front().unwrap();
            opener.close(id);
            wire.push(Frame::new(id, Kind::Reset, code::CANCEL));
            resets += 1;
        }
        // The server looks twice.
        if tick % 3000 == 0 {
            for frame in wire.drain(..) {
                server.receive(&frame, now).unwrap();
                let back = server.discard(frame.payload_bytes());
                opener.receive(&Frame::new(StreamId::CONNECTION, Kind::Credit, back), now).unwrap();
            }
        }
    }
    assert!(resets > 100_000, "{resets}");
}

#[test]
fn frames_that_carry_nothing_have_a_rate() {
    let open = bytes_of(frame(1, Kind::Open, false), b"x");
    let dead = StreamId::new(1, 7);
    let idles = [
        frame(1, Kind::Data, false),
        Frame::new(dead, Kind::Data, 0),
        Frame { end: true, ..Frame::new(dead, Kind::Data, 0) },
        Frame::new(dead, Kind::Credit, 1),
        frame(1, Kind::Credit, false),
        Frame::new(StreamId::CONNECTION, Kind::Credit, 0),
        Frame::new(StreamId::CONNECTION, Kind::Credit, 1),
        Frame::new(StreamId::CONNECTION, Kind::Pong, 1),
    ];
    for idle in idles {
        for side in [Side::Opener, Side::Server] {
            let flood = |count| wrong(side, &[&open[..], &idle.to_bytes().repeat(count)].concat());
            assert_eq!(flood(IDLES_BURST as usize), None, "{idle:?} {side:?}");
            assert_eq!(flood(IDLES_BURST as usize + 1), Some(Wrong::Idles), "{idle:?} {side:?}");
        }
    }
    let reset = Frame::new(dead, Kind::Reset, code::CANCEL).to_bytes().repeat(IDLES_BURST as usize + 1);
    assert_eq!(wrong(Side::Opener, &reset), Some(Wrong::Idles));
}

/// Where little credit is left whoever passes on gives back at once: two frames for each that came.
#[test]
fn credit_for_what_was_sent_is_within_the_rate_however_late() {
    for side in [Side::Opener, Side::Server] {
        let mut session = Session::new(side);
        let now = Instant::from_nanos(1);
        let id = StreamId::new(1, 1);
        match side {
            Side::Opener => assert_eq!(session.open(0), Some(id)),
            Side::Server => {
                session.receive(&Frame::new(id, Kind::Open, 0), now).unwrap();
            }
        }
        let frames = 4 * IDLES_BURST;
        (0..frames).for_each(|_| session.sent(id, 1));
        for _ in 0..frames {
            session.receive(&Frame::new(id, Kind::Credit, 1), now).unwrap();
            session.receive(&Frame::new(StreamId::CONNECTION, Kind::Credit, 1), now).unwrap();
        }
    }
}

#[test]
fn a_stream_that_is_forsaken_keeps_its_place_until_it_has_ended() {
    let now = Instant::from_nanos(1);
    for ends in [true, false] {
        let mut session = Session::new(Side::Opener);
        let id = session.open(7).unwrap();
        session.sent(id, 1);
        session.end(id);
        session.forsake(id);
        assert!(!session.is_open(id) && session.is_forsaken(id));
        let nothing = [
            Frame { value: 9, ..frame(1, Kind::Interim, false) },
            Frame { value: 9, ..frame(1, Kind::Open, false) },
            Frame { value: 9, ..frame(1, Kind::Data, false) },
            Frame::new(id, Kind::Credit, 9),
        ];
        for frame in nothing {
            assert_eq!(session.receive(&frame, now), Ok(Action::Nothing), "{frame:?}");
        }
        assert_eq!(session.open_streams(), 1);
        if ends {
            assert_eq!(session.receive(&frame(1, Kind::Data, true), now), Ok(Action::Nothing));
            session.received_end(id);
        } else {
            assert_eq!(session.receive(&Frame::new(id, Kind::Reset, code::BROKEN), now), Ok(Action::Nothing));
        }
        assert!(!session.is_forsaken(id) && session.open_streams() == 0);
    }
}

#[test]
fn what_comes_for_a_dead_stream_is_nothing() {
    let mut session = Session::new(Side::Opener);
    let id = session.open(7).unwrap();
    session.close(id);
    assert_eq!(session.open(8), Some(id.next()));
    let late = Frame { stream: id, ..frame(1, Kind::Open, true) };
    let now = Instant::from_nanos(1);
    assert_eq!(session.receive(&late, now), Ok(Action::Nothing));
    session.received_end(id);
    assert_eq!(session.receive(&Frame::new(id, Kind::Reset, 0), now), Ok(Action::Nothing));
    assert_eq!(session.receive(&Frame::new(id, Kind::Credit, 1), now), Ok(Action::Nothing));
    assert_eq!(session.open_streams(), 1);
}
