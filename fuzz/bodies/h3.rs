// SPDX-License-Identifier: Apache-2.0
//! Streams of HTTP/3, of requests and of a connection: where the input is cut (by its first byte) must not matter, and
//! what is accepted can be forwarded over HTTP/1.

use byrnie_codec::h1::emit_request;
use byrnie_codec::h3::{Event, Opened, Request, Uni, Wrong};
use byrnie_codec::{Fields, Head};

/// What came of a request: its head as it would be forwarded, its body, its trailers; and how it ended.
type Seen = (Vec<u8>, Vec<u8>, Option<Fields>, Result<(), Wrong>);

fn read(input: &[u8], step: usize) -> Seen {
    let (mut request, mut head) = (Request::default(), Head::new());
    let (mut out, mut body, mut trailers) = (Vec::new(), Vec::new(), None);
    let mut take = |mut part: &[u8]| {
        while let Some(event) = request.next(&mut part)? {
            match event {
                Event::Head => {
                    request.head(false, &mut head)?;
                    emit_request(&head, &mut out);
                }
                Event::Body(bytes) => body.extend_from_slice(bytes),
                Event::Trailers(fields) => trailers = Some(fields),
            }
        }
        assert!(part.is_empty());
        Ok(())
    };
    let came = input.chunks(step).try_for_each(&mut take);
    let end = came.and_then(|()| request.end());
    // How much of a body came before its stream broke is the network's.
    if end.is_err() {
        body.clear();
    }
    (out, body, trailers, end)
}

fn control(input: &[u8], step: usize) -> Result<bool, u64> {
    let (mut uni, mut opened) = (Uni::default(), Opened::default());
    for part in input.chunks(step) {
        if !uni.take(part, &mut opened)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// One input.
pub(crate) fn run(bytes: &[u8]) {
    let Some((step, input)) = bytes.split_first() else { return };
    let (step, whole) = (usize::from(*step).max(1), input.len().max(1));
    assert_eq!(format!("{:?}", read(input, step)), format!("{:?}", read(input, whole)));
    assert_eq!(control(input, step), control(input, whole));
}
