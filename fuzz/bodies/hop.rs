// SPDX-License-Identifier: Apache-2.0
//! Frames of the mesh hop: where the input is cut (by its first byte) must not matter, and no peer makes
//! the state of a connection panic.

use byrnie_base::Instant;
use byrnie_codec::hop::{Action, Frame, Reader, Session, Side, Wrong, parse_preamble};

fn read(input: &[u8], step: usize, side: Side) -> Result<Vec<(Frame, Vec<u8>)>, Wrong> {
    let (mut reader, mut session) = (Reader::default(), Session::new(side));
    let mut frames: Vec<(Frame, Vec<u8>)> = Vec::new();
    for key in 0..4 {
        let _ = session.open(key);
    }
    for mut part in input.chunks(step) {
        while let Some(piece) = reader.next(&mut part)? {
            if piece.first {
                frames.push((piece.frame, Vec::new()));
                if session.receive(&piece.frame, Instant::from_nanos(1))? == (Action::Open { key: None }) {
                    session.bind(piece.frame.stream, 0);
                    let _ = parse_preamble(piece.payload, "");
                }
            }
            frames.last_mut().expect("a first piece came before").1.extend_from_slice(piece.payload);
            if piece.last && piece.frame.end {
                session.received_end(piece.frame.stream);
            }
        }
        assert!(part.is_empty());
    }
    Ok(frames)
}

/// One input.
pub(crate) fn run(bytes: &[u8]) {
    let Some((step, input)) = bytes.split_first() else { return };
    for side in [Side::Opener, Side::Server] {
        let whole = read(input, input.len().max(1), side);
        let cut = read(input, usize::from(*step).max(1), side);
        assert_eq!(whole, cut);
    }
}
