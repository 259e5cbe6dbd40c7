// SPDX-License-Identifier: Apache-2.0
//! Preambles, heads and trailers of the mesh hop: what is accepted is passed on as something accepted and equal.

use byrnie_codec::h1::Asked;
use byrnie_codec::hop::{
    emit_preamble, emit_request, emit_response, emit_trailers, parse_preamble, parse_request, parse_response,
    parse_trailers,
};
use byrnie_codec::{Fields, Head, Limits};

/// The most header lines that passing on adds to those a head keeps: host, length, connection.
const LINES_ADDED: usize = 3;

/// One input; its first byte tells whether a frame is its direction's last, and an answer interim.
pub(crate) fn run(bytes: &[u8]) {
    let Some((flags, payload)) = bytes.split_first() else { return };
    let (end, limits) = (flags & 1 == 1, Limits::default());
    let (mut head, mut next, mut out) = (Head::new(), Head::new(), Vec::new());
    if let Ok((asks, target, rest)) = parse_preamble(payload, "") {
        assert_eq!(parse_preamble(payload, target), Ok((asks, target, rest)));
        emit_preamble(asks, target, &mut out);
        assert_eq!(&out[..], &payload[..payload.len() - rest.len()]);
        out.clear();
    }
    let fits = |head: &Head, used: usize| {
        used * 3 < limits.request_line_bytes_max && head.headers().count() + LINES_ADDED < limits.headers_max
    };
    if let Ok(used) = parse_request(payload, end, &limits, &mut head) {
        assert!(used <= payload.len());
        emit_request(&head, &mut out);
        // One of HTTP/1.0 may lack a host.
        if fits(&head, used) && !head.authority().is_empty() {
            assert_eq!(parse_request(&out, end && used == payload.len(), &limits, &mut next), Ok(out.len()));
            assert_eq!(next.framing(), head.framing());
            assert_eq!((next.method(), next.authority()), (head.method(), head.authority()));
            assert_eq!(next.path_and_query(), head.path_and_query());
        }
        out.clear();
    }
    for asked in [Asked::Other, Asked::Head, Asked::Connect, Asked::Upgrade] {
        if let Ok(used) = parse_response(payload, end, asked, &limits, &mut head) {
            assert!(used <= payload.len());
            emit_response(&head, &mut out);
            if fits(&head, used) {
                assert_eq!(parse_response(&out, end, asked, &limits, &mut next), Ok(out.len()));
                assert_eq!((next.status(), next.framing()), (head.status(), head.framing()));
            }
            out.clear();
        }
    }
    let (mut trailers, mut again) = (Fields::new(), Fields::new());
    if parse_trailers(payload, &limits, &mut trailers).is_ok() {
        emit_trailers(&trailers, &mut out);
        parse_trailers(&out, &limits, &mut again).expect("what was passed on is read");
        assert!(again.iter().eq(trailers.iter()));
    }
}
