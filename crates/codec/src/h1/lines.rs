// SPDX-License-Identifier: Apache-2.0
//! Header lines from bytes, in one pass: names, values and line ends are checked where they are found, eight bytes
//! at a time. Heads and trailer sections are read by it. Strict by RFC 9112 5: every line ends in CRLF, no blank
//! before a colon, no line is continued.

use crate::fields::{Fields, is_token_byte};
use crate::known::Known;
use crate::reject::RejectReason;
use crate::{Limits, Parsed};

/// Reads lines up to and including the empty one into `fields`, in normal form, in place of those that came before.
/// It's empty if the section isn't whole.
pub(super) fn take(section: &[u8], limits: &Limits, fields: &mut Fields) -> Result<Parsed, RejectReason> {
    let (mut lines, mut normal) = (0, true);
    fields.begin_section();
    let taken = tokenise(section, limits, fields, (&mut lines, &mut normal));
    match taken {
        Ok(Parsed::Complete(used)) => fields.take_section(&section[..used], lines, normal),
        Ok(Parsed::Partial) | Err(_) => fields.clear(),
    }
    taken
}

/// `lines` becomes their number, and `normal` false where a line isn't in normal form.
fn tokenise(
    section: &[u8],
    limits: &Limits,
    fields: &mut Fields,
    (lines, normal): (&mut usize, &mut bool),
) -> Result<Parsed, RejectReason> {
    let mut rest = section;
    loop {
        let start = section.len() - rest.len();
        match rest {
            [b'\r', b'\n', ..] => return Ok(Parsed::Complete(start + 2)),
            [b'\r', _, ..] | [b'\n', ..] => return Err(RejectReason::LineEnd),
            [] | [b'\r'] => return Ok(Parsed::Partial),
            _ => {}
        }
        if *lines == limits.headers_max.min(Limits::HEADERS_CEILING) {
            return Err(RejectReason::TooManyHeaders);
        }
        let number = *lines;
        *lines += 1;
        if let Some(length) = fields.received_again(number, start, rest) {
            rest = &rest[length..];
            continue;
        }
        let Some((name, after)) = split_at_colon(rest) else {
            return if rest.iter().all(|b| is_token_byte(*b)) {
                Ok(Parsed::Partial)
            } else {
                Err(RejectReason::HeaderName)
            };
        };
        let known = Known::of(name);
        // What has an id is one of a list of tokens.
        if known == Known::Other && (name.is_empty() || !name.iter().all(|b| is_token_byte(*b))) {
            return Err(RejectReason::HeaderName);
        }
        if name.len() > limits.name_bytes_max {
            return Err(RejectReason::HeaderNameTooLong);
        }
        let (value, end) = split_value(after);
        rest = match end {
            [b'\r', b'\n', next @ ..] => next,
            [] | [b'\r'] => return Ok(Parsed::Partial),
            [b'\n', ..] => return Err(RejectReason::LineEnd),
            _ => return Err(RejectReason::HeaderValue),
        };
        // In normal form one space precedes the value, and no blank is at its ends; nothing else of a value is as low.
        *normal &= match value {
            [b' ', first, .., last] => !is_blank(*first) && !is_blank(*last),
            [b' ', one] => !is_blank(*one),
            _ => value == b" ",
        };
        fields.received(number, start..section.len() - rest.len(), name.len(), known);
    }
}

const fn is_blank(b: u8) -> bool {
    b <= b' '
}

const ONES: u64 = u64::MAX / 255;
const TOPS: u64 = ONES << 7;
const COLONS: u64 = ONES * b':' as u64;
const DELS: u64 = ONES * 0x7f;

/// The top bit of each byte that is 0, and perhaps of bytes behind (above) the first such one.
const fn zeros(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & TOPS
}

/// The first byte that a mark of [`zeros`] stands for.
const fn first(marks: u64) -> usize {
    (marks.trailing_zeros() / 8) as usize
}

/// What is before the first colon, and what follows it.
fn split_at_colon(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut rest = bytes;
    let mut at = loop {
        let Some((word, after)) = rest.split_first_chunk() else { break bytes.len() - rest.len() };
        let marks = zeros(u64::from_le_bytes(*word) ^ COLONS);
        if marks != 0 {
            break bytes.len() - rest.len() + first(marks);
        }
        rest = after;
    };
    while *bytes.get(at)? != b':' {
        at += 1;
    }
    Some((&bytes[..at], &bytes[at + 1..]))
}

/// The bytes of a value at the start, blanks around it included, and what follows them.
#[inline]
pub(super) fn split_value(bytes: &[u8]) -> (&[u8], &[u8]) {
    split::<b' ', true>(bytes)
}

/// The visible bytes at the start, and what follows them.
#[inline]
pub(super) fn split_visible(bytes: &[u8]) -> (&[u8], &[u8]) {
    split::<b'!', false>(bytes)
}

/// Bytes of at least `LEAST`, but DEL, and tabs if `TABS` says so; and what follows them.
#[inline]
fn split<const LEAST: u8, const TABS: bool>(bytes: &[u8]) -> (&[u8], &[u8]) {
    let mut rest = bytes;
    while let Some((word, after)) = rest.split_first_chunk() {
        let word = u64::from_le_bytes(*word);
        let below = word.wrapping_sub(ONES * LEAST as u64) & !word & TOPS;
        let marks = below | zeros(word ^ DELS);
        if marks == 0 {
            rest = after;
            continue;
        }
        rest = &rest[first(marks)..];
        match rest {
            [b'\t', after @ ..] if TABS => rest = after,
            _ => return bytes.split_at(bytes.len() - rest.len()),
        }
    }
    while let [b, after @ ..] = rest
        && (*b >= LEAST || TABS && *b == b'\t')
        && *b != 0x7f
    {
        rest = after;
    }
    bytes.split_at(bytes.len() - rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::is_value_byte;

    #[test]
    fn values_and_names_end_where_they_do_byte_by_byte() {
        for len in 0..20 {
            for at in 0..len {
                for byte in 0..=u8::MAX {
                    let mut bytes = vec![b'a'; len];
                    bytes[at] = byte;
                    bytes.extend_from_slice(&[b'\t', 0xff, b' ', b':', 0, b':']);
                    let end = bytes.iter().position(|b| !is_value_byte(*b)).unwrap_or(bytes.len());
                    assert_eq!(split_value(&bytes), bytes.split_at(end), "{}", bytes.escape_ascii());
                    let end = bytes.iter().position(|b| *b <= b' ' || *b == 0x7f).unwrap_or(bytes.len());
                    assert_eq!(split_visible(&bytes), bytes.split_at(end), "{}", bytes.escape_ascii());
                    let colon = bytes.iter().position(|b| *b == b':').unwrap();
                    let found = split_at_colon(&bytes).unwrap();
                    assert_eq!(found, (&bytes[..colon], &bytes[colon + 1..]), "{}", bytes.escape_ascii());
                }
            }
        }
        assert_eq!(split_at_colon(b"no-colon-in-here"), None);
    }

    #[test]
    fn lines_are_kept_in_normal_form_and_in_order() {
        let section = b"A: 1\r\nB:2\r\nC: \t3 4\t \r\nD:\r\nE: \r\nF: 5\r\n\r\nrest";
        let mut fields = Fields::new();
        assert_eq!(take(section, &Limits::default(), &mut fields), Ok(Parsed::Complete(section.len() - 4)));
        let mut out = Vec::new();
        fields.emit(&mut out, |_| false);
        assert_eq!(out, b"A: 1\r\nB: 2\r\nC: 3 4\r\nD: \r\nE: \r\nF: 5\r\n", "{}", out.escape_ascii());
        // What isn't whole leaves nothing behind that could be asked for.
        fields.clear();
        assert_eq!(take(&section[..9], &Limits::default(), &mut fields), Ok(Parsed::Partial));
        assert!(fields.is_empty());
        assert!(take(b"A: 1\r\nB\0: 2\r\n", &Limits::default(), &mut fields).is_err() && fields.is_empty());
    }

    #[test]
    fn what_came_before_makes_no_difference() {
        const LINES: [&str; 10] =
            ["A: 1", "a: 1", "A:1", "A: 1 ", "A: 12", "A: ", "Host: b", "Content-Length: 0", "B\0: 2", " c: 3"];
        let ones = LINES.map(|line| format!("{line}\r\n"));
        let twos = ones.iter().flat_map(|one| ones.iter().map(move |other| format!("{one}{other}")));
        let lines: Vec<String> = std::iter::once(String::new()).chain(ones.iter().cloned()).chain(twos).collect();
        let whole = lines.iter().map(|lines| format!("{lines}\r\n"));
        let sections: Vec<String> =
            whole.chain(lines.iter().map(|lines| lines[..lines.len().max(1) - 1].into())).collect();
        let seen = |fields: &Fields| {
            let kept: Vec<_> = fields.iter().map(|(name, value)| (name.to_owned(), value.to_vec())).collect();
            let typed = [Known::Host, Known::ContentLength]
                .map(|known| (fields.has(known), fields.typed(known).map(<[u8]>::to_vec).collect::<Vec<_>>()));
            let mut out = Vec::new();
            fields.emit(&mut out, |_| false);
            (kept, typed, fields.known(Known::Accept).is_some(), out)
        };
        for before in &sections {
            let mut used = Fields::new();
            // Edits are no part of what came.
            if take(before.as_bytes(), &Limits::default(), &mut used).is_ok() {
                used.remove("a");
                used.append("A", b"12").unwrap();
                used.append("accept", b"1").unwrap();
            }
            for after in &sections {
                let (mut fields, mut fresh) = (used.clone(), Fields::new());
                let taken = take(after.as_bytes(), &Limits::default(), &mut fields);
                assert_eq!(taken, take(after.as_bytes(), &Limits::default(), &mut fresh), "{before:?} {after:?}");
                assert_eq!(seen(&fields), seen(&fresh), "{before:?} {after:?}");
            }
        }
    }
}
