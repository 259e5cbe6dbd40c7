// SPDX-License-Identifier: Apache-2.0
//! What gRPC says in headers and before messages: what is read and written again is read alike, and what is left of a
//! time is never more than there was.

use byrnie_codec::grpc::{
    FRAME_HEADER_BYTES, FrameHeader, Status, decode_message, format_timeout, framed, only_message, parse_timeout,
};

/// Longest message that is taken.
const MESSAGE_BYTES_MAX: u32 = 1 << 20;

/// One input.
pub(crate) fn run(bytes: &[u8]) {
    let header = FrameHeader::parse(bytes, MESSAGE_BYTES_MAX);
    for cut in 0..bytes.len().min(FRAME_HEADER_BYTES) {
        // What is wrong may show later, never be taken back.
        let part = FrameHeader::parse(&bytes[..cut], MESSAGE_BYTES_MAX);
        assert!(part == Ok(None) || part.is_err() && header.is_err());
    }
    if let Ok(Some(read)) = header {
        assert!(read.length <= MESSAGE_BYTES_MAX);
        assert_eq!(&read.bytes()[..], &bytes[..FRAME_HEADER_BYTES]);
    }
    if let Ok(message) = only_message(bytes, MESSAGE_BYTES_MAX) {
        assert_eq!(framed(message), bytes);
    }
    assert_eq!(only_message(&framed(bytes), u32::MAX), Ok(bytes));
    if let Some(time) = parse_timeout(bytes) {
        let again = parse_timeout(format_timeout(time).as_bytes());
        assert!(again.is_some_and(|again| again <= time), "{time:?} is read back as {again:?}");
    }
    let status = Status::parse(bytes);
    assert_eq!(Status::parse(status.code().to_string().as_bytes()), status);
    assert!(decode_message(bytes).len() <= 3 * bytes.len());
}
