// SPDX-License-Identifier: Apache-2.0
//! A connection of HTTP/2, both sides: where the input is cut (by its first byte) must not matter, and no peer makes
//! the state of a connection panic.
#![no_main]

use byrnie_codec::h2::{Event, Session, Side};
use byrnie_codec::{Framing, Head};
use libfuzzer_sys::fuzz_target;

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

fuzz_target!(|bytes: &[u8]| {
    let Some((step, input)) = bytes.split_first() else { return };
    let greeted = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..], input].concat();
    for (side, input) in [(Side::Client, input), (Side::Server, &greeted[..])] {
        assert_eq!(read(input, input.len().max(1), side), read(input, usize::from(*step).max(1), side));
    }
});
