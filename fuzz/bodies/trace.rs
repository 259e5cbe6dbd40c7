// SPDX-License-Identifier: Apache-2.0
//! Where a request stands in a trace, by either kind of header: what is read is written as something that is read alike.

use byrnie_codec::headers::is_traceparent;
use byrnie_codec::trace::Context;
use byrnie_codec::trace::b3::B3;

/// The headers of B3, of which an input has a line each, in this order.
const NAMES: [&str; 5] = ["b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "x-b3-flags"];

/// What was read is written as `traceparent` and read again.
fn survives(context: Context) {
    let written = context.write();
    assert!(is_traceparent(&written));
    assert_eq!(Context::parse(&written).map(|again| again.write()), Some(written));
}

/// One input.
pub(crate) fn run(bytes: &[u8]) {
    if let Some(context) = Context::parse(bytes) {
        survives(context);
    }
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    let line = |name: &str| {
        let at = NAMES.iter().position(|known| *known == name)?;
        lines.get(at).copied().filter(|line| !line.is_empty())
    };
    if let Some(B3 { from: Some((trace, span)), sampled }) = B3::read(line) {
        survives(Context { trace, span, sampled: sampled.unwrap_or(false) });
    }
}
