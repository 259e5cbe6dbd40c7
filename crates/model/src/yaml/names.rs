// SPDX-License-Identifier: Apache-2.0
//! The forms of names, numbers and spans of time in documents, as the Kubernetes API server checks them.

use byrnie_base::Timestamp;
use std::time::Duration;

/// A DNS label (RFC 1123): lower-case letters, digits and '-', at most 63, no '-' at either end.
pub(crate) fn is_label(name: &str) -> bool {
    name.len() <= 63 && is_part(name)
}

/// What a label is, of any length.
fn is_part(name: &str) -> bool {
    let alnum = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = name.as_bytes();
    alnum(bytes.first()) && alnum(bytes.last()) && bytes.iter().all(|b| alnum(Some(b)) || *b == b'-')
}

/// The name of an object: parts as in labels, of any length, joined by dots, at most 253 bytes in all. (Kubernetes
/// calls this a DNS-1123 subdomain, and bounds no part either.)
pub(crate) fn is_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_part)
}

/// A host name (RFC 1123), perhaps with a leading `*.`; no address.
pub(crate) fn is_hostname(name: &str) -> bool {
    let rest = name.strip_prefix("*.").unwrap_or(name);
    rest.len() <= 253 && rest.split('.').all(is_label) && rest.parse::<std::net::IpAddr>().is_err()
}

/// The name of a kind: a letter, then letters, digits and '-', at most 63 bytes.
pub(crate) fn is_kind(name: &str) -> bool {
    let bytes = name.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes[0].is_ascii_alphabetic()
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
        && bytes[bytes.len() - 1] != b'-'
}

/// The full name of a gRPC service: identifiers joined by dots, as the CRD checks it.
pub(crate) fn is_grpc_service(name: &str) -> bool {
    let part = |part: &str| {
        let alnum = |b: u8| b.is_ascii_alphanumeric();
        let bytes = part.as_bytes();
        !bytes.is_empty()
            && alnum(bytes[0])
            && alnum(bytes[bytes.len() - 1])
            && bytes.iter().all(|&b| alnum(b) || b == b'_' || b == b'-')
    };
    name.split('.').all(part)
}

/// The name of a gRPC method: an identifier.
pub(crate) fn is_grpc_method(name: &str) -> bool {
    let bytes = name.as_bytes();
    !bytes.is_empty()
        && (bytes[0].is_ascii_alphabetic() || bytes[0] == b'_')
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_')
}

/// The name of a port of a container: a service name (RFC 6335), at most 15 bytes with a letter in it.
pub(crate) fn is_port_name(name: &str) -> bool {
    name.len() <= 15 && is_label(name) && !name.contains("--") && name.bytes().any(|b| b.is_ascii_lowercase())
}

/// The key of a label: `[PREFIX/]NAME`.
pub(crate) fn is_label_key(key: &str) -> bool {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    prefix.is_none_or(is_subdomain) && !name.is_empty() && is_label_value(name)
}

/// The value of a label: at most 63 of letters, digits, '-', '_' and '.', with a letter or digit at both
/// ends; or nothing.
pub(crate) fn is_label_value(value: &str) -> bool {
    let bytes = value.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return true };
    bytes.len() <= 63
        && first.is_ascii_alphanumeric()
        && last.is_ascii_alphanumeric()
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// The name of a header: a token (RFC 9110, section 5.6.2), at most 256 bytes.
pub(crate) fn is_header_name(name: &str) -> bool {
    (1..=256).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// The value of a header: visible ASCII, space and tab, at most 4096 bytes, nothing blank at the ends.
pub(crate) fn is_header_value(value: &str) -> bool {
    (1..=4096).contains(&value.len())
        && value.bytes().all(|b| b.is_ascii_graphic() || b == b' ' || b == b'\t')
        && value.trim_matches([' ', '\t']).len() == value.len()
}

/// A span of time by GEP-2257: one to four pairs of up to five digits and `h`, `m`, `s` or `ms`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    for _ in 0..4 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if !(1..=5).contains(&digits) {
            return None;
        }
        let (number, after) = rest.split_at(digits);
        let number: u64 = number.parse().ok()?;
        let units = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
        let (unit, millis) = units.into_iter().find(|(unit, _)| after.starts_with(unit))?;
        total += Duration::from_millis(number * millis);
        rest = &after[unit.len()..];
        if rest.is_empty() {
            return Some(total);
        }
    }
    None
}

/// The words for a span of time, such that [`duration`] reads the same. Parts of a millisecond are
/// dropped: no document can say them.
pub(crate) fn duration_text(span: Duration) -> String {
    let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let parts =
        [(millis / 3_600_000, "h"), (millis / 60_000 % 60, "m"), (millis / 1000 % 60, "s"), (millis % 1000, "ms")];
    let text: String = parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n}{unit}")).collect();
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// A share such as `70%`, from 0 to 100.
pub(crate) fn percent(text: &str) -> Option<u8> {
    let digits = text.strip_suffix('%')?;
    if digits.is_empty() || digits.len() > 3 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|share| *share <= 100)
}

/// A time in UTC by RFC 3339, to the second or finer: `2030-01-31T12:00:00Z`.
pub(crate) fn timestamp(text: &str) -> Option<Timestamp> {
    let number = |at: std::ops::Range<usize>| -> Option<u64> {
        let digits = text.get(at)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let bytes = text.as_bytes();
    let shape = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if bytes.len() < 20 || shape.iter().any(|(at, byte)| bytes.get(*at) != Some(byte)) {
        return None;
    }
    let fraction = match text.get(19..)? {
        "Z" => 0,
        rest => {
            let digits = rest.strip_prefix('.')?.strip_suffix('Z')?;
            let fits = (1..=9).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
            fits.then(|| format!("{digits:0<3}")[..3].parse::<u64>().ok())??
        }
    };
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let length = match month {
        2 => 28 + u64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if year < 1970 || !(1..=length).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Some(Timestamp::from_millis(seconds * 1000 + fraction))
}

/// Days since 1970 (Hinnant, "chrono-Compatible Low-Level Date Algorithms").
const fn days(year: u64, month: u64, day: u64) -> u64 {
    let shifted = if month > 2 { year } else { year - 1 };
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let (era, of_era) = (shifted / 400, shifted % 400);
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - 719_468
}

/// The words for a time, such that [`timestamp`] reads the same.
pub(crate) fn timestamp_text(at: Timestamp) -> String {
    let (millis, seconds) = (at.as_millis() % 1000, at.as_millis() / 1000);
    let shifted = seconds / 86_400 + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let fraction = if millis > 0 { format!(".{millis:03}") } else { String::new() };
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// An absolute URI with `//`, as certificates hold them: at most 253 visible ASCII letters.
pub(crate) fn is_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let of_scheme = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
    let begins = scheme.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
    begins
        && scheme.bytes().all(of_scheme)
        && !rest.is_empty()
        && text.len() <= 253
        && text.bytes().all(|b| b.is_ascii_graphic())
}

/// The words for a time, to the second.
pub fn time_text(at: Timestamp) -> String {
    timestamp_text(Timestamp::from_millis(at.as_millis() / 1000 * 1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written() {
        for (text, millis) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T23:59:59Z", Some(951_868_799_000)),
            ("2026-11-25T04:45:00.5Z", Some(1_795_581_900_500)),
            ("9999-12-31T23:59:59.999Z", Some(253_402_300_799_999)),
            ("2026-02-29T00:00:00Z", None),
            ("2026-13-01T00:00:00Z", None),
            ("2026-01-01T24:00:00Z", None),
            ("2026-01-01 00:00:00Z", None),
            ("2026-01-01T00:00:00", None),
            ("2026-01-01T00:00:00+01:00", None),
            ("1969-12-31T23:59:59Z", None),
            ("", None),
        ] {
            assert_eq!(timestamp(text).map(Timestamp::as_millis), millis, "{text}");
        }
        for millis in (0..253_402_300_799_999).step_by(86_399_999_777) {
            let at = Timestamp::from_millis(millis);
            assert_eq!(timestamp(&timestamp_text(at)), Some(at), "{}", timestamp_text(at));
        }
    }

    #[test]
    fn spans_of_time_follow_gep_2257() {
        for (text, millis) in [
            ("0s", Some(0)),
            ("2s", Some(2000)),
            ("800ms", Some(800)),
            ("1h30m", Some(5_400_000)),
            ("1h2m3s4ms", Some(3_723_004)),
            ("99999h", Some(359_996_400_000)),
            ("", None),
            ("s", None),
            ("1", None),
            ("1.5s", None),
            ("-1s", None),
            ("1d", None),
            ("100000s", None),
            ("1h1m1s1ms1ms", None),
            ("1 s", None),
            ("1\u{e9}", None),
        ] {
            assert_eq!(duration(text), millis.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn names_have_their_forms() {
        const LONG: &str = "a-label-of-dns-has-at-most-63-bytes-but-a-part-of-the-name-of-an-object-has-no-such-bound";
        for (check, good, bad) in [
            (is_label as fn(&str) -> bool, &["a", "a-1", "0"][..], &["", "-a", "a-", "A", "a.b", "a_b", "\u{e9}"][..]),
            (is_subdomain, &["a.b-c.d", "a", LONG], &["", "a..b", ".a", "a.", "a.-b"]),
            (is_hostname, &["a.b-c.d", "a", "*.a"], &["", "a..b", "*", "a.*", "10.0.0.1", LONG]),
            (is_port_name, &["http", "h2c"], &["8080", "a--b", "averyveryverylong", ""]),
            (is_label_key, &["app", "app.kubernetes.io/name", "A_b"], &["", "/a", "a/", "a/b/c", "-a"]),
            (is_label_value, &["", "v1", "A.b_c"], &["-", "a b", "\u{e9}"]),
            (is_header_name, &["x-a", "A!#"], &["", "a b", "a:", "\u{e9}"]),
            (is_header_value, &["a b"], &["", " a", "a\n", "a\0"]),
        ] {
            for name in good {
                assert!(check(name), "{name}");
            }
            for name in bad {
                assert!(!check(name), "{name}");
            }
        }
    }
}
