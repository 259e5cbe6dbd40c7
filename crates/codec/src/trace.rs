// SPDX-License-Identifier: Apache-2.0
//! Where a request stands in a trace, as its header `traceparent` says (W3C Trace Context 3.2). Read and written by
//! the engine, and by the coordinator of transactions; who samples is decided there.

pub mod b3;

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

    /// In lower-case hexadecimal.
    pub fn text(self) -> [u8; 32] {
        let mut text = [0; 32];
        hex(&self.0, &mut text);
        text
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
        let (mut edges, mut trace, mut span) = ([0; 4], [0; 16], [0; 8]);
        let read = unhex(&[start[0], start[1], b'0', b'0', b'0', b'0', start[53], start[54]], &mut edges)
            && unhex(&start[3..35], &mut trace)
            && unhex(&start[36..52], &mut span);
        if !(dashes && ends && read) || trace == [0; 16] || span == [0; 8] {
            return None;
        }
        Some(Self { trace: TraceId(trace), span: SpanId(span), sampled: edges[3] & SAMPLED != 0 })
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
        f.write_str(std::str::from_utf8(&self.text()).unwrap_or_default())
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

const ONES: u64 = u64::MAX / 255;
const HALVES: u64 = ONES * 15;

/// The digits of eight values below 16, a byte each.
const fn digits(values: u64) -> u64 {
    // A byte that is 10 or more carries into its upper half.
    let letters = (values.wrapping_add(ONES * 6) >> 4) & ONES;
    values.wrapping_add(ONES * b'0' as u64).wrapping_add(letters.wrapping_mul((b'a' - b'0' - 10) as u64))
}

/// Reads lower-case digits, eight at a time and without a branch for each: they come at random, and no processor foresees
/// them. Whether all are.
fn unhex<const N: usize>(text: &[u8], bytes: &mut [u8; N]) -> bool {
    let mut fine = text.len() == 2 * N;
    for (four, eight) in bytes.as_chunks_mut().0.iter_mut().zip(text.as_chunks().0) {
        let word = u64::from_be_bytes(*eight);
        // Of these only letters have the bit 0x40. What isn't written so was no digit.
        let letters = (word >> 6) & ONES;
        let mut values = (word & HALVES).wrapping_add(letters.wrapping_mul(9)) & HALVES;
        fine &= digits(values) == word;
        values = (values | values >> 4) & 0x00ff_00ff_00ff_00ff;
        values = (values | values >> 8) & 0x0000_ffff_0000_ffff;
        *four = ((values | values >> 16) as u32).to_be_bytes();
    }
    fine
}

fn hex<const N: usize>(bytes: &[u8; N], text: &mut [u8]) {
    for (four, eight) in bytes.as_chunks().0.iter().zip(text.as_chunks_mut().0) {
        let mut values = u64::from(u32::from_be_bytes(*four));
        values = (values | values << 16) & 0x0000_ffff_0000_ffff;
        values = (values | values << 8) & 0x00ff_00ff_00ff_00ff;
        *eight = digits((values | values << 4) & HALVES).to_be_bytes();
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
        for wrong in (0..=u8::MAX).filter(|b| !matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            for at in [0, 3, 10, 34, 36, 51, 53, 54] {
                let mut text = text.as_bytes().to_vec();
                text[at] = wrong;
                assert_eq!(Context::parse(&text), None, "{}", text.escape_ascii());
            }
        }
        let later = Context::parse(b"cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff-what");
        assert_eq!(later, Some(context));
        assert_eq!((TraceId::of(0, 0).low(), SpanId::of(0).0[7]), (1, 1));
    }
}
