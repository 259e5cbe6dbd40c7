// SPDX-License-Identifier: Apache-2.0
//! Bytes in headers of gRPC whose names end in `-bin`: base64 by RFC 4648 4. Whoever writes leaves the padding out, and whoever
//! reads takes it with and without, as gRPC asks of both.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The text for some bytes.
pub(crate) fn encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().enumerate().fold(0, |bits, (at, byte)| bits | u32::from(*byte) << (16 - 8 * at));
        // Three bytes are four characters, two are three, one is two.
        out.extend((0..=chunk.len()).map(|at| char::from(ALPHABET[(bits >> (18 - 6 * at) & 63) as usize])));
    }
    out
}

/// The bytes of a text; `None` if it's none.
pub(crate) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let end = text.iter().rposition(|character| *character != b'=').map_or(0, |last| last + 1);
    let mut out = Vec::with_capacity(end / 4 * 3 + 2);
    for chunk in text[..end].chunks(4) {
        let mut bits = 0;
        for (at, character) in chunk.iter().enumerate() {
            bits |= value(*character)? << (18 - 6 * at);
        }
        // One character alone is no byte yet.
        if chunk.len() == 1 {
            return None;
        }
        out.extend((1..chunk.len()).map(|at| (bits >> (24 - 8 * at)) as u8));
    }
    Some(out)
}

fn value(character: u8) -> Option<u32> {
    Some(u32::from(match character {
        b'A'..=b'Z' => character - b'A',
        b'a'..=b'z' => character - b'a' + 26,
        b'0'..=b'9' => character - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_are_as_the_rfc_has_them() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg"),
            ("fo", "Zm8"),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg"),
            ("fooba", "Zm9vYmE"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode(bytes.as_bytes()), text);
            assert_eq!(decode(text.as_bytes()).as_deref(), Some(bytes.as_bytes()));
            let padded = format!("{text:=<width$}", width = text.len().div_ceil(4) * 4);
            assert_eq!(decode(padded.as_bytes()).as_deref(), Some(bytes.as_bytes()), "{padded}");
        }
        assert_eq!(encode(&[0xfb, 0xff, 0xbe]), "+/++");
        for text in ["Z", "Zm9vY", "Zm9v Yg", "Zg,Zg", "Z=g", "Zm-v"] {
            assert_eq!(decode(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(decode(encode(&bytes).as_bytes()), Some(bytes));
        }
    }
}
