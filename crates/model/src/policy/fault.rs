// SPDX-License-Identifier: Apache-2.0
//! Faults on purpose.

use byrnie_base::{Text, Timestamp};
use std::time::Duration;

/// What callers of a service suffer, until when. At least one of `delay`, `abort`, `reset` and `slow_body`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Of a hundred requests that fit.
    pub percent: u8,
    /// They wait so long before anything else happens.
    pub delay: Option<Duration>,
    /// They are answered with this status (200 to 599).
    pub abort: Option<u16>,
    /// Their connection, or stream, is cut.
    pub reset: bool,
    /// The body of their answer comes so long after its head. Not together with `abort` or `reset`.
    pub slow_body: Option<Duration>,
    /// Only requests of this method.
    pub method: Option<Text>,
    /// Only requests at or below this path.
    pub path_prefix: Option<Text>,
    /// Only requests with this header (lower-case name) and value.
    pub header: Option<(Text, Text)>,
    /// When it's over. There is no fault without an end.
    pub until: Timestamp,
}
