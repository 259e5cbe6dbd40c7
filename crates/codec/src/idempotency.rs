// SPDX-License-Identifier: Apache-2.0
//! The `Idempotency-Key` header: a Structured Field String (RFC 8941 3.3.3, as the draft
//! `draft-ietf-httpapi-idempotency-key-header` asks for), or the same characters bare, as older clients
//! send them. Both spell one key.

/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 255;
/// How keys begin that a proxy made, so that people can tell them.
pub const MINTED_PREFIX: &str = "byrnie-";

/// Why a value isn't a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// Nothing is in it.
    Empty,
    /// Longer than [`KEY_BYTES_MAX`].
    TooLong,
    /// Neither a quoted string nor bare visible characters.
    Malformed,
}

impl KeyError {
    /// In words for the caller.
    pub const fn detail(self) -> &'static str {
        match self {
            Self::Empty => "the key is empty",
            Self::TooLong => "the key is longer than 255 bytes",
            Self::Malformed => "the key is not a quoted string of printable ASCII",
        }
    }
}

/// Reads the header's value.
pub fn parse(value: &[u8]) -> Result<String, KeyError> {
    let value = value.trim_ascii();
    let mut key = String::with_capacity(value.len());
    match value.split_first() {
        None => return Err(KeyError::Empty),
        Some((b'"', quoted)) => unquote(quoted, &mut key)?,
        // Separators would make two readers see two different values.
        Some(_) if value.iter().all(|b| b.is_ascii_graphic() && !b"\",;\\".contains(b)) => {
            key.extend(value.iter().map(|b| char::from(*b)));
        }
        Some(_) => return Err(KeyError::Malformed),
    }
    match key.len() {
        0 => Err(KeyError::Empty),
        1..=KEY_BYTES_MAX => Ok(key),
        _ => Err(KeyError::TooLong),
    }
}

/// The rest of a string after its opening quote, up to the closing one, which must be the end.
fn unquote(rest: &[u8], key: &mut String) -> Result<(), KeyError> {
    let mut bytes = rest.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' if bytes.len() == 0 => return Ok(()),
            b'\\' => match bytes.next() {
                Some(escaped @ (b'"' | b'\\')) => key.push(char::from(*escaped)),
                _ => return Err(KeyError::Malformed),
            },
            b'"' => return Err(KeyError::Malformed),
            b' '..=b'~' => key.push(char::from(*byte)),
            _ => return Err(KeyError::Malformed),
        }
    }
    Err(KeyError::Malformed)
}

/// The header's value for a key that a proxy makes of 128 drawn bits.
pub fn minted(bits: [u64; 2]) -> String {
    format!("\"{MINTED_PREFIX}{:016x}{:016x}\"", bits[0], bits[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_has_one_spelling_however_it_is_sent() {
        let cases: &[(&[u8], Result<&str, KeyError>)] = &[
            (b"\"8e03978e-40d5-43dd-bc93-6894a57f9324\"", Ok("8e03978e-40d5-43dd-bc93-6894a57f9324")),
            (b"8e03978e-40d5-43dd-bc93-6894a57f9324", Ok("8e03978e-40d5-43dd-bc93-6894a57f9324")),
            (b"  \"a b\"  ", Ok("a b")),
            (br#""a\"b\\c""#, Ok(r#"a"b\c"#)),
            (b"txn/2/action", Ok("txn/2/action")),
            (b"", Err(KeyError::Empty)),
            (b"\"\"", Err(KeyError::Empty)),
            (b"\"", Err(KeyError::Malformed)),
            (b"\"a", Err(KeyError::Malformed)),
            (b"\"a\"b", Err(KeyError::Malformed)),
            (b"\"a\";p=1", Err(KeyError::Malformed)),
            (b"\"a\", \"b\"", Err(KeyError::Malformed)),
            (br#""a\b""#, Err(KeyError::Malformed)),
            (br#""a\"#, Err(KeyError::Malformed)),
            (b"a b", Err(KeyError::Malformed)),
            (b"a,b", Err(KeyError::Malformed)),
            (b"a\"b", Err(KeyError::Malformed)),
            (b"\"caf\xc3\xa9\"", Err(KeyError::Malformed)),
            (b"\"tab\there\"", Err(KeyError::Malformed)),
            (&[b'k'; KEY_BYTES_MAX + 1], Err(KeyError::TooLong)),
        ];
        for (value, expected) in cases {
            let found = parse(value);
            assert_eq!(found.as_deref().map_err(|e| *e), *expected, "{}", value.escape_ascii());
        }
        assert_eq!(parse(&[b'k'; KEY_BYTES_MAX]).unwrap().len(), KEY_BYTES_MAX);
        assert_eq!(parse(minted([1, u64::MAX]).as_bytes()).unwrap(), "byrnie-0000000000000001ffffffffffffffff");
    }
}
