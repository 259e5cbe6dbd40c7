// SPDX-License-Identifier: Apache-2.0
//! What the headers of B3 say of a trace (<https://github.com/openzipkin/b3-propagation>): `b3`, or several `x-b3-...`. Read
//! where no `traceparent` came; what goes on is W3C's.

use super::{SpanId, TraceId, unhex};

/// What they say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct B3 {
    /// The trace and the span that the request comes from; `None` if only a decision is passed on.
    pub from: Option<(TraceId, SpanId)>,
    /// Whether it's to be recorded; `None` leaves that to whoever reads it.
    pub sampled: Option<bool>,
}

impl B3 {
    /// Of the headers that `get` finds; `None` if there are none, or none that make sense. The one header comes before the several.
    pub fn read<'h>(get: impl Fn(&str) -> Option<&'h [u8]>) -> Option<Self> {
        if let Some(value) = get("b3") {
            return Self::parse(value);
        }
        let ids = get("x-b3-traceid").and_then(trace).zip(get("x-b3-spanid").and_then(span));
        let sampled = match (get("x-b3-flags"), get("x-b3-sampled")) {
            (Some(b"1"), _) => Some(true),
            (_, Some(b"true")) => Some(true),
            (_, Some(b"false")) => Some(false),
            (_, said) => said.and_then(decision),
        };
        (ids.is_some() || sampled.is_some()).then_some(Self { from: ids, sampled })
    }

    /// Reads `TRACE-SPAN[-DECISION[-PARENT]]`, or a decision alone.
    fn parse(value: &[u8]) -> Option<Self> {
        let mut parts = value.split(|byte| *byte == b'-');
        let first = parts.next()?;
        let Some(second) = parts.next() else {
            return Some(Self { from: None, sampled: Some(decision(first)?) });
        };
        let said = parts.next();
        let sampled = said.and_then(decision);
        (said.is_some() == sampled.is_some()).then_some(Self { from: Some((trace(first)?, span(second)?)), sampled })
    }
}

/// `d` is for those who look for a fault: it's recorded.
fn decision(value: &[u8]) -> Option<bool> {
    match value {
        b"1" | b"d" => Some(true),
        b"0" => Some(false),
        _ => None,
    }
}

/// 128 bits, or the lower 64 of them.
fn trace(text: &[u8]) -> Option<TraceId> {
    let (mut whole, mut low) = ([0; 16], [0; 8]);
    if unhex(text, &mut low) {
        whole[8..].copy_from_slice(&low);
    } else if !unhex(text, &mut whole) {
        return None;
    }
    (whole != [0; 16]).then_some(TraceId(whole))
}

fn span(text: &[u8]) -> Option<SpanId> {
    let mut id = [0; 8];
    (unhex(text, &mut id) && id != [0; 8]).then_some(SpanId(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "80f198ee56343ba864fe8b2a57d3eff7";
    const SPAN: &str = "e457b5a2e4d86bd1";

    fn one(value: &str) -> Option<B3> {
        B3::read(|name| (name == "b3").then_some(value.as_bytes()))
    }

    fn several(headers: &[(&str, &'static str)]) -> Option<B3> {
        B3::read(|name| headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_bytes()))
    }

    #[test]
    fn one_header_says_what_several_do() {
        let from = Some((trace(TRACE.as_bytes()).unwrap(), span(SPAN.as_bytes()).unwrap()));
        for (end, flags, sampled) in [
            ("", ("x-other", ""), None),
            ("-0", ("x-b3-sampled", "0"), Some(false)),
            ("-1", ("x-b3-sampled", "1"), Some(true)),
            ("-d", ("x-b3-flags", "1"), Some(true)),
            ("-1-05e3ac9a4f6e3b90", ("x-b3-sampled", "true"), Some(true)),
        ] {
            let expected = Some(B3 { from, sampled });
            assert_eq!(one(&format!("{TRACE}-{SPAN}{end}")), expected, "{end}");
            assert_eq!(several(&[("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), flags]), expected, "{flags:?}");
        }
        assert_eq!(one("0"), Some(B3 { from: None, sampled: Some(false) }));
        assert_eq!(several(&[("x-b3-sampled", "0")]), one("0"));
        let short = one(&format!("{}-{SPAN}", &TRACE[16..])).unwrap().from.unwrap().0;
        assert_eq!(short.to_string(), format!("0000000000000000{}", &TRACE[16..]));
    }

    #[test]
    fn what_is_malformed_says_nothing() {
        assert_eq!(several(&[]), None);
        assert_eq!(several(&[("x-b3-traceid", TRACE)]), None);
        for wrong in ["", "x", "-", "0-0", "80f198ee56343ba8-e457b5a2e4d86bd1-2", "80F198EE56343BA8-e457b5a2e4d86bd1"] {
            assert_eq!(one(wrong), None, "{wrong}");
        }
        assert_eq!(one(&format!("{}-{SPAN}", "0".repeat(32))), None);
        assert_eq!(one(&format!("{TRACE}-{}", "0".repeat(16))), None);
    }
}
