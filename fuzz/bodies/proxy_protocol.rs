// SPDX-License-Identifier: Apache-2.0
//! PROXY headers: what is read and written again is read alike.

use byrnie_codec::Parsed;
use byrnie_codec::proxy_protocol::{emit_v2, parse};

/// One input.
pub(crate) fn run(bytes: &[u8]) {
    if let Ok((Parsed::Complete(used), source)) = parse(bytes) {
        assert!(used <= bytes.len());
        let mut out = Vec::new();
        emit_v2(&source, &mut out);
        assert_eq!(parse(&out), Ok((Parsed::Complete(out.len()), source)));
    }
}
