// SPDX-License-Identifier: Apache-2.0
//! Where a request stands in a trace, as its header `traceparent` says (W3C Trace Context 3.2). Read and written by
//! the engine, and by the coordinator of transactions; who samples is decided there.

use std::fmt;

/// Bytes of a `traceparent` as it's written.
pub const TRACEPARENT_BYTES: usize = 55;
/// The flag of a caller that may have recorded the trace.
const SAMPLED: u8 = 1;

/// The id of a trace; never all zero in a [`Context`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(pub [u8; 16]);

/// The id of a span; never all zero in a [`Context`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(pub [u8; 8]);

/// Where a request stands in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Context {
    /// The trace.
    pub trace: TraceId,
    /// The span that it comes from.
    pub span: SpanId,
    /// Whether those before may have recorded it.
    pub sampled: bool,
}

impl TraceId {
    /// Of 128 bits, which nearly never are all zero; one that is counts as 1.
    pub fn of(high: u64, low: u64) -> Self {
        let low = if high | low == 0 { 1 } else { low };
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&high.to_be_bytes());
        bytes[8..].copy_from_slice(&low.to_be_bytes());
        Self(bytes)
    }

    /// The last 64 bits, by which a share of all traces is drawn.
    pub fn low(self) -> u64 {
        self.0[8..].iter().fold(0, |low, byte| low << 8 | u64::from(*byte))
    }
}

impl SpanId {
    /// Of 64 bits; 0 counts as 1.
    pub fn of(bits: u64) -> Self {
        Self(bits.max(1).to_be_bytes())
    }
}

impl Context {
    /// Reads `00-<32 lower hex, not all 0>-<16 lower hex, not all 0>-<2 hex>`, or a later version that begins so.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let start = value.get(..TRACEPARENT_BYTES)?;
        let dashes = start[2] == b'-' && start[35] == b'-' && start[52] == b'-';
        let ends = match &start[..2] {
            b"00" => value.len() == TRACEPARENT_BYTES,
            b"ff" => false,
            _ => value.len() == TRACEPARENT_BYTES || value[TRACEPARENT_BYTES] == b'-',
        };
        let (mut version, mut flags, mut trace, mut span) = ([0], [0], [0; 16], [0; 8]);
        let read = unhex(&start[..2], &mut version)
            && unhex(&start[3..35], &mut trace)
            && unhex(&start[36..52], &mut span)
            && unhex(&start[53..], &mut flags);
        if !(dashes && ends && read) || trace == [0; 16] || span == [0; 8] {
            return None;
        }
        Some(Self { trace: TraceId(trace), span: SpanId(span), sampled: flags[0] & SAMPLED != 0 })
    }

    /// The value of `traceparent`, in version 00.
    pub fn write(&self) -> [u8; TRACEPARENT_BYTES] {
        let mut value = *b"00-00000000000000000000000000000000-0000000000000000-00";
        hex(&self.trace.0, &mut value[3..35]);
        hex(&self.span.0, &mut value[36..52]);
        if self.sampled {
            value[TRACEPARENT_BYTES - 1] = b'1';
        }
        value
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.write()).unwrap_or_default())
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a lower-case digit stands for; more than 15: it's none.
const DIGIT: [u8; 256] = {
    let mut table = [u8::MAX; 256];
    let mut value = 0;
    while value < 16 {
        table[DIGITS[value] as usize] = value as u8;
        value += 1;
    }
    table
};

/// Without a branch for each digit: they come at random, and no processor foresees them.
fn unhex(text: &[u8], bytes: &mut [u8]) -> bool {
    let mut all = 0;
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let (high, low) = (DIGIT[usize::from(pair[0])], DIGIT[usize::from(pair[1])]);
        *byte = high << 4 | low & 15;
        all |= high | low;
    }
    all < 16
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

fn hex(bytes: &[u8], text: &mut [u8]) {
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        (pair[0], pair[1]) = (DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_written_the_same() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context = Context::parse(text.as_bytes()).unwrap();
        assert!(context.sampled && context.to_string() == text);
        assert_eq!(context.trace.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(context.trace.low(), 0x8448_eb21_1c80_319c);
        let unsampled = Context { sampled: false, ..context };
        assert_eq!(Context::parse(&unsampled.write()), Some(unsampled));
        // Flags and fields that this version doesn't know are not handed on.
        let later = Context::parse(b"cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff-what");
        assert_eq!(later, Some(context));
        assert_eq!((TraceId::of(0, 0).low(), SpanId::of(0).0[7]), (1, 1));
    }
}
