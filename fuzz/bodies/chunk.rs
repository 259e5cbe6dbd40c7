// SPDX-License-Identifier: Apache-2.0
//! Chunked bodies: where the input is cut (by its first byte) must not matter.

use byrnie_codec::h1::Body;
use byrnie_codec::{Framing, Limits, Reject};

fn read(input: &[u8], step: usize) -> Result<(Vec<u8>, usize), Reject> {
    let mut body = Body::new(Framing::Chunked, &Limits::default());
    let (mut payload, mut at, mut end) = (Vec::new(), 0, 0);
    while at < input.len() && !body.is_done() {
        end = input.len().min(end.max(at) + step);
        while at < end && !body.is_done() {
            let piece = body.decode(&input[at..end])?;
            assert!(piece.consumed > 0 && piece.payload.end <= piece.consumed);
            payload.extend_from_slice(&input[at..end][piece.payload]);
            at += piece.consumed;
        }
    }
    body.end()?;
    Ok((payload, at))
}

/// One input.
pub(crate) fn run(bytes: &[u8]) {
    let Some((step, input)) = bytes.split_first() else { return };
    assert_eq!(read(input, usize::from(*step).max(1)), read(input, input.len().max(1)));
}
