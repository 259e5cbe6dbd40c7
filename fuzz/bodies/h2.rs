// SPDX-License-Identifier: Apache-2.0
//! A connection of HTTP/2, both sides: where the input is cut (by its first byte) must not matter, and no peer makes
//! the state of a connection panic.

use byrnie_codec::h2::{Event, Session, Side};
use byrnie_codec::{Fields, Framing, Head};

/// What came, with bodies joined; the second part is the error that ended it.
fn read(input: &[u8], step: usize, side: Side) -> (Vec<String>, Option<u32>) {
    let mut session = Session::new(side);
    let mut head = Head::new();
    head.start_request("GET", "http", "a", "/").expect("a request");
    head.set_framing(Framing::None);
    for key in 0..4 {
        let _ = session.ask(key, &head, None, true);
    }
    let (mut seen, mut bodies) = (Vec::new(), std::collections::BTreeMap::<u32, Vec<u8>>::new());
    for mut part in input.chunks(step) {
        loop {
            match session.next(&mut part) {
                Ok(None) => break,
                Ok(Some(Event::Opened { id, head, ended })) => {
                    session.bind(id, id);
                    seen.push(format!("{id} {head:?} {ended}"));
                }
                Ok(Some(Event::Body { key, bytes, ended })) => {
                    bodies.entry(key).or_default().extend_from_slice(bytes);
                    if ended {
                        seen.push(format!("{key} {:?}", bodies.get(&key)));
                    }
                }
                Ok(Some(event)) => seen.push(format!("{event:?}")),
                Err(wrong) => return (seen, Some(wrong.0)),
            }
        }
        assert!(part.is_empty());
    }
    (seen, None)
}

/// The same with somebody who answers: every request gets a head, a body and trailers as its window lets it, what came is
/// passed on, and now and then a stream is reset.
fn serve(input: &[u8], side: Side) {
    let mut session = Session::new(side);
    let (mut head, mut trailers) = (Head::new(), Fields::new());
    head.start_response(200);
    head.set_framing(Framing::Stream);
    trailers.append("x-sum", b"1").expect("a line");
    let mut rest = input;
    while let Ok(Some(event)) = session.next(&mut rest) {
        match event {
            Event::Opened { id, head: came, .. } => {
                session.bind(id, id);
                if let Ok(came) = came {
                    session.reuse(came);
                }
                session.answer_with(id, &head, 103, None, false);
                session.answer_with(id, &head, 200, Some("x-none"), false);
                while session.write(id, &[7; 3000]).is_ok_and(|taken| taken > 0) && session.waiting().len() < 20_000 {}
                match id % 8 {
                    1 => session.end(id, None),
                    3 => session.end(id, Some(&trailers)),
                    5 => session.reset(id, 8),
                    _ => {}
                }
            }
            Event::Body { key, bytes, .. } => {
                let bytes = bytes.len();
                session.consume(key, bytes);
                let _ = session.write(key, &[7; 100]);
            }
            Event::Goodbye => {
                session.close_door();
                assert!(session.take_refused().len() <= session.streams_max());
            }
            Event::Answered { head, .. } => session.reuse(head),
            _ => {}
        }
        session.advance(session.waiting().len() / 2);
    }
    let _ = (session.say_goodbye(), session.is_over());
}

/// One input.
pub(crate) fn run(bytes: &[u8]) {
    let Some((step, input)) = bytes.split_first() else { return };
    let greeted = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..], input].concat();
    for (side, input) in [(Side::Client, input), (Side::Server, &greeted[..])] {
        assert_eq!(read(input, input.len().max(1), side), read(input, usize::from(*step).max(1), side));
        serve(input, side);
    }
}
