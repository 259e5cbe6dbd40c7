// SPDX-License-Identifier: Apache-2.0
//! Heads of requests and responses: what is accepted is forwarded as something accepted and equal.

use byrnie_codec::h1::{Asked, emit_request, emit_response, fit_downstream, parse_request, parse_response};
use byrnie_codec::headers::{Sender, strip_hop_by_hop, strip_untrusted};
use byrnie_codec::{Head, Limits, Parsed, Version};

/// The most header lines that forwarding adds to those a head keeps: host, framing, connection.
const FORWARDING_LINES: usize = 3;

/// One input.
pub(crate) fn run(bytes: &[u8]) {
    let limits = Limits::default();
    let mut head = Head::new();
    if let Ok(Parsed::Complete(used)) = parse_request(bytes, &limits, &mut head) {
        assert!(used <= bytes.len());
        strip_untrusted(&mut head, Sender::Outside);
        strip_hop_by_hop(&mut head);
        let (mut out, mut next) = (Vec::new(), Head::new());
        emit_request(&head, &mut out);
        // An HTTP/1.0 request may lack a host, and forwarding may take a head above the limits:
        // it is encoded, and gains a line for its framing.
        let fits =
            used * 3 < limits.request_line_bytes_max && head.headers().count() + FORWARDING_LINES < limits.headers_max;
        if !head.authority().is_empty() && fits {
            assert_eq!(parse_request(&out, &limits, &mut next), Ok(Parsed::Complete(out.len())));
            assert_eq!(next.framing(), head.framing());
            assert_eq!(next.authority(), head.authority());
            assert_eq!(next.path_and_query(), head.path_and_query());
        }
    }
    for asked in [Asked::Other, Asked::Head, Asked::Connect, Asked::Upgrade] {
        if let Ok(Parsed::Complete(used)) = parse_response(bytes, &limits, asked, &mut head) {
            assert!(used <= bytes.len());
            strip_hop_by_hop(&mut head);
            fit_downstream(&mut head, Version::Http11, true);
            let (mut out, mut next) = (Vec::new(), Head::new());
            emit_response(&head, &mut out);
            if used * 2 < limits.head_bytes_max && head.headers().count() + FORWARDING_LINES < limits.headers_max {
                assert_eq!(parse_response(&out, &limits, asked, &mut next), Ok(Parsed::Complete(out.len())));
                assert_eq!(next.status(), head.status());
            }
        }
    }
}
