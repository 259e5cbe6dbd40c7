// SPDX-License-Identifier: Apache-2.0
//! What a side allows and wants (RFC 9113 6.5).

use super::{
    FRAME_BYTES_MAX, HEADER_LIST_BYTES_MAX, INITIAL_FRAME_BYTES, INITIAL_WINDOW_BYTES, SENT_FRAME_BYTES_MAX,
    STREAMS_ASSUMED, Side, WINDOW_BYTES_MAX, Wrong, code,
};

const HEADER_TABLE_SIZE: u16 = 1;
const ENABLE_PUSH: u16 = 2;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;
const MAX_HEADER_LIST_SIZE: u16 = 6;
/// RFC 8441 3.
const ENABLE_CONNECT_PROTOCOL: u16 = 8;

/// What the peer's SETTINGS say so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    /// The first of them have come.
    pub(super) heard: bool,
    pub(super) table: usize,
    pub(super) streams: u32,
    pub(super) window: u32,
    pub(super) frame: usize,
    /// It takes extended CONNECTs.
    pub(super) connects: bool,
}

impl Settings {
    pub(super) const fn new() -> Self {
        Self {
            heard: false,
            table: super::hpack::TABLE_BYTES,
            streams: STREAMS_ASSUMED,
            window: INITIAL_WINDOW_BYTES,
            frame: INITIAL_FRAME_BYTES,
            connects: false,
        }
    }

    /// Takes a payload of SETTINGS that `side` received.
    pub(super) fn take(&mut self, payload: &[u8], side: Side) -> Result<(), Wrong> {
        let (entries, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(Wrong(code::FRAME_SIZE_ERROR));
        }
        if !std::mem::replace(&mut self.heard, true) {
            // Whoever names no limit has none (RFC 9113 6.5.2).
            self.streams = u32::MAX;
        }
        for [a, b, value @ ..] in entries {
            let value = u32::from_be_bytes(*value);
            match u16::from_be_bytes([*a, *b]) {
                HEADER_TABLE_SIZE => self.table = value as usize,
                ENABLE_PUSH if value > 1 || value == 1 && side == Side::Client => {
                    return Err(Wrong(code::PROTOCOL_ERROR));
                }
                MAX_CONCURRENT_STREAMS => self.streams = value,
                INITIAL_WINDOW_SIZE if i64::from(value) > WINDOW_BYTES_MAX => {
                    return Err(Wrong(code::FLOW_CONTROL_ERROR));
                }
                INITIAL_WINDOW_SIZE => self.window = value,
                MAX_FRAME_SIZE if !(1 << 14..1 << 24).contains(&value) => return Err(Wrong(code::PROTOCOL_ERROR)),
                MAX_FRAME_SIZE => self.frame = (value as usize).min(SENT_FRAME_BYTES_MAX),
                ENABLE_CONNECT_PROTOCOL if value > 1 => return Err(Wrong(code::PROTOCOL_ERROR)),
                ENABLE_CONNECT_PROTOCOL => self.connects = value == 1,
                _ => {}
            }
        }
        Ok(())
    }
}

/// The payload of our own, which never change; a client may have `streams` open, and `window` is what each begins with.
pub(super) fn own(side: Side, streams: u32, window: u32) -> Vec<u8> {
    let of_side = match side {
        Side::Server => [(MAX_CONCURRENT_STREAMS, streams), (ENABLE_CONNECT_PROTOCOL, 1)],
        Side::Client => [(ENABLE_PUSH, 0), (MAX_CONCURRENT_STREAMS, 0)],
    };
    let of_both = [
        (INITIAL_WINDOW_SIZE, window),
        (MAX_FRAME_SIZE, FRAME_BYTES_MAX as u32),
        (MAX_HEADER_LIST_SIZE, HEADER_LIST_BYTES_MAX),
    ];
    let all = of_side.into_iter().chain(of_both);
    all.flat_map(|(name, value)| name.to_be_bytes().into_iter().chain(value.to_be_bytes())).collect()
}
