// SPDX-License-Identifier: Apache-2.0
//! Idempotency keys: what is read is within its limits, and the same however it's quoted.

use byrnie_codec::idempotency::{KEY_BYTES_MAX, parse};

/// One input.
pub(crate) fn run(bytes: &[u8]) {
    let Ok(key) = parse(bytes) else { return };
    assert!((1..=KEY_BYTES_MAX).contains(&key.len()));
    let quoted = format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\""));
    assert_eq!(parse(quoted.as_bytes()), Ok(key));
}
