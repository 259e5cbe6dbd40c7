// SPDX-License-Identifier: Apache-2.0
//! Numbers that peers send, at the edges of what machines can hold and anywhere between: each is read as what it is
//! or refused, never as another.

use byrnie_codec::h1::{self, Body};
use byrnie_codec::{Framing, Head, Limits, Parsed, grpc, headers};
use proptest::prelude::*;
use std::time::Duration;

/// The edges, of 32 and 64 bits, with and without a sign.
fn edges() -> Vec<u128> {
    let around = |edge: u128| [edge - 1, edge, edge + 1];
    let powers = [1 << 31, 1 << 32, 1 << 63, 1 << 64, 100_000_000_000_000_000_000];
    [0, 1].into_iter().chain(powers.into_iter().flat_map(around)).chain([99_999_999, 100_000_000, u128::MAX]).collect()
}

/// An edge, or anything of any size.
fn number() -> impl Strategy<Value = u128> {
    prop_oneof![prop::sample::select(edges()), (any::<u128>(), 0u32..128).prop_map(|(number, shift)| number >> shift)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_grpc_timeout_is_eight_digits_or_none(n in number(), unit in prop::sample::select(b"HMSmun".to_vec())) {
        let text = format!("{n}{}", unit as char);
        let nanos: u128 = match unit {
            b'H' => 3_600_000_000_000,
            b'M' => 60_000_000_000,
            b'S' => 1_000_000_000,
            b'm' => 1_000_000,
            b'u' => 1_000,
            _ => 1,
        };
        let read = grpc::parse_timeout(text.as_bytes());
        prop_assert_eq!(read.map(|span| span.as_nanos()), (n < 100_000_000).then(|| n * nanos), "{}", text);
    }

    #[test]
    fn a_timeout_is_written_no_longer_than_it_is(nanos in number()) {
        let span = Duration::new(
            u64::try_from(nanos / 1_000_000_000).unwrap_or(u64::MAX),
            u32::try_from(nanos % 1_000_000_000).unwrap(),
        );
        let again = grpc::parse_timeout(grpc::format_timeout(span).as_bytes()).unwrap();
        prop_assert!(again <= span, "{again:?} of {span:?}");
    }

    #[test]
    fn a_deadline_is_nine_digits_or_none(n in number()) {
        let read = headers::deadline_ms(n.to_string().as_bytes());
        prop_assert_eq!(read.map(u128::from), (n < 1_000_000_000).then_some(n));
    }

    #[test]
    fn a_content_length_fits_a_sign_or_is_refused(n in number()) {
        let mut head = Head::new();
        let text = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {n}\r\n\r\n");
        let parsed = h1::parse_request(text.as_bytes(), &Limits::default(), &mut head);
        if let Some(length) = i64::try_from(n).ok().and_then(|n| u64::try_from(n).ok()) {
            prop_assert_eq!(parsed, Ok(Parsed::Complete(text.len())));
            prop_assert_eq!(head.framing(), Framing::Length(length));
        } else {
            prop_assert!(parsed.is_err(), "{n}");
        }
    }

    #[test]
    fn a_chunk_is_as_long_as_it_says_or_refused(n in number(), capitals in any::<bool>(), zeros in 0usize..20) {
        let digits = if capitals { format!("{n:X}") } else { format!("{n:x}") };
        let text = format!("{}{digits}\r\nabc", "0".repeat(zeros));
        let mut body = Body::new(Framing::Chunked, &Limits::default());
        let (mut rest, mut payload) = (text.as_bytes(), Vec::new());
        let read = loop {
            if rest.is_empty() || body.is_done() {
                break Ok(());
            }
            match body.decode(rest) {
                Ok(piece) => {
                    payload.extend_from_slice(&rest[piece.payload]);
                    rest = &rest[piece.consumed..];
                }
                Err(reject) => break Err(reject),
            }
        };
        if u64::try_from(n).is_err() {
            // At the latest where the number ends: nothing of its data is taken for a body.
            prop_assert!(read.is_err() && payload.is_empty(), "{text}");
        } else if read.is_ok() {
            let expected = usize::try_from(n.min(3)).unwrap();
            prop_assert_eq!(&payload, &b"abc"[..expected], "{}", text);
        }
    }
}

#[test]
fn credit_never_wraps() {
    use byrnie_base::Instant;
    use byrnie_codec::hop::{Frame, Kind, Session, Side, StreamId, Wrong};
    for value in [0_u32, 1, (1 << 31) - 1, 1 << 31, (1 << 31) + 1, u32::MAX - 1, u32::MAX] {
        let mut session = Session::new(Side::Opener);
        let id = session.open(0).unwrap();
        for stream in [id, StreamId::CONNECTION] {
            for _ in 0..64 {
                match session.receive(&Frame::new(stream, Kind::Credit, value), Instant::from_nanos(0)) {
                    Ok(_) => assert!(session.may_send(id) > 0),
                    Err(wrong) => assert_eq!(wrong, Wrong::Credit),
                }
            }
        }
    }
}
