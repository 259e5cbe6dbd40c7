// SPDX-License-Identifier: Apache-2.0
//! The header names that some part of the mesh asks for, as one byte, so that asking costs one comparison.

macro_rules! known {
    ($($name:ident $text:literal,)+) => {
        /// A header name the mesh knows; every other one is [`Known::Other`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[expect(missing_docs, reason = "each variant is the name it is called by")]
        pub enum Known { Other, $($name,)+ }

        const NAMES: &[&str] = &["", $($text,)+];
        const IDS: &[Known] = &[Known::Other, $(Known::$name,)+];
    };
}

known! {
    Host "host",
    ContentLength "content-length",
    TransferEncoding "transfer-encoding",
    Connection "connection",
    KeepAlive "keep-alive",
    ProxyConnection "proxy-connection",
    ProxyAuthenticate "proxy-authenticate",
    ProxyAuthorization "proxy-authorization",
    ProxyAuthenticationInfo "proxy-authentication-info",
    Te "te",
    Trailer "trailer",
    Upgrade "upgrade",
    Http2Settings "http2-settings",
    Expect "expect",
    ContentType "content-type",
    ContentEncoding "content-encoding",
    ContentRange "content-range",
    Range "range",
    Date "date",
    Server "server",
    Via "via",
    UserAgent "user-agent",
    Accept "accept",
    AcceptEncoding "accept-encoding",
    AcceptLanguage "accept-language",
    Authorization "authorization",
    Cookie "cookie",
    SetCookie "set-cookie",
    WwwAuthenticate "www-authenticate",
    Location "location",
    CacheControl "cache-control",
    Age "age",
    Expires "expires",
    Vary "vary",
    RetryAfter "retry-after",
    MaxForwards "max-forwards",
    Origin "origin",
    Referer "referer",
    Forwarded "forwarded",
    XForwardedFor "x-forwarded-for",
    XForwardedProto "x-forwarded-proto",
    XForwardedHost "x-forwarded-host",
    XForwardedPort "x-forwarded-port",
    XRealIp "x-real-ip",
    XRequestId "x-request-id",
    ForwardedClientIdentity "forwarded-client-identity",
    XForwardedClientCert "x-forwarded-client-cert",
    Traceparent "traceparent",
    Tracestate "tracestate",
    GrpcTimeout "grpc-timeout",
    GrpcStatus "grpc-status",
    GrpcMessage "grpc-message",
    GrpcStatusDetails "grpc-status-details-bin",
    GrpcEncoding "grpc-encoding",
    ByrnieDecision "x-byrnie-decision",
    ByrnieDeadlineMs "x-byrnie-deadline-ms",
    ByrnieRetryBudget "x-byrnie-retry-budget",
    ByrnieCriticality "x-byrnie-criticality",
    IdempotencyKey "idempotency-key",
    IdempotencyStatus "idempotency-status",
    TxnId "txn-id",
    TxnBranch "txn-branch",
    TxnOp "txn-op",
    TxnAttempt "txn-attempt",
    SecWebsocketKey "sec-websocket-key",
    SecWebsocketVersion "sec-websocket-version",
}

const _: () = assert!(NAMES.len() <= 128, "an id must have a bit of a u128");

/// Buckets of the name table, and how many names may share one.
const BUCKETS: usize = 256;
const SHARED_MAX: usize = 4;

/// Mixes what tells names apart cheaply: the length and three letters, whatever their case.
const fn bucket(name: &[u8]) -> usize {
    let n = name.len();
    if n == 0 {
        return 0;
    }
    let first = (name[0] | 0x20) as usize;
    let middle = (name[n / 2] | 0x20) as usize;
    let last = (name[n - 1] | 0x20) as usize;
    let mixed = n.wrapping_mul(29).wrapping_add(first.wrapping_mul(5));
    mixed.wrapping_add(middle.wrapping_mul(17)).wrapping_add(last.wrapping_mul(71)) % BUCKETS
}

const TABLE: [[u8; SHARED_MAX]; BUCKETS] = {
    let mut table = [[0u8; SHARED_MAX]; BUCKETS];
    let mut id = 1;
    while id < NAMES.len() {
        let b = bucket(NAMES[id].as_bytes());
        let mut slot = 0;
        // Running past the bucket is an error of compilation, not of the running program.
        while table[b][slot] != 0 {
            slot += 1;
        }
        table[b][slot] = id as u8;
        id += 1;
    }
    table
};

/// Compares a name of the table with one in any case, eight bytes at a time. Names of the table are
/// lower-case letters, digits and dashes: of these only letters have the bit 0x40, and only where it is
/// set may the bit 0x20, the case, differ.
fn is_same(known: &[u8], name: &[u8]) -> bool {
    if known.len() != name.len() {
        return false;
    }
    let (Some(last), Some(other_last)) = (known.last_chunk::<8>(), name.last_chunk::<8>()) else {
        let (Some(last), Some(other_last)) = (known.last_chunk::<4>(), name.last_chunk::<4>()) else {
            return known.eq_ignore_ascii_case(name);
        };
        let first = known.first_chunk::<4>().zip(name.first_chunk::<4>());
        return first.is_some_and(|(a, b)| is_same_half(*a, *b)) && is_same_half(*last, *other_last);
    };
    // The last words may overlap with the one before.
    let words = known.as_chunks::<8>().0.iter().zip(name.as_chunks::<8>().0);
    words.into_iter().all(|(a, b)| is_same_word(*a, *b)) && is_same_word(*last, *other_last)
}

fn is_same_word(known: [u8; 8], name: [u8; 8]) -> bool {
    let lower = u64::from_ne_bytes(known);
    (lower ^ u64::from_ne_bytes(name)) & !((lower & 0x4040_4040_4040_4040) >> 1) == 0
}

fn is_same_half(known: [u8; 4], name: [u8; 4]) -> bool {
    let lower = u32::from_ne_bytes(known);
    (lower ^ u32::from_ne_bytes(name)) & !((lower & 0x4040_4040) >> 1) == 0
}

impl Known {
    /// The id of `name`, in whatever case.
    pub fn of(name: &[u8]) -> Self {
        for id in TABLE[bucket(name)] {
            if id == 0 {
                break;
            }
            if is_same(NAMES[id as usize].as_bytes(), name) {
                return IDS[id as usize];
            }
        }
        Self::Other
    }

    /// The name in lower case; empty for [`Known::Other`].
    pub const fn name(self) -> &'static str {
        NAMES[self as usize]
    }

    /// How many there are, [`Known::Other`] among them.
    pub(crate) const COUNT: usize = NAMES.len();

    /// The name of the one whose number this is.
    pub(crate) const fn name_at(number: usize) -> &'static str {
        NAMES[number]
    }

    /// A bit of its own for each id.
    pub(crate) const fn bit(self) -> u128 {
        1 << self as u8
    }

    /// True for what a [`crate::Head`] keeps as typed state instead of as a line (Host, framing,
    /// Connection), so that it can only be read and written in one way.
    pub(crate) const fn is_typed(self) -> bool {
        matches!(
            self,
            Self::Host
                | Self::ContentLength
                | Self::TransferEncoding
                | Self::Connection
                | Self::KeepAlive
                | Self::ProxyConnection
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_finds_itself_in_any_case() {
        for (name, id) in NAMES.iter().zip(IDS).skip(1) {
            assert_eq!(Known::of(name.as_bytes()), *id);
            assert_eq!(Known::of(name.to_uppercase().as_bytes()), *id);
            assert_eq!(id.name(), *name);
            // One bit off anywhere is another name, but for the case of a letter.
            for bit in 0..name.len() * 8 {
                let mut other = name.as_bytes().to_vec();
                other[bit / 8] ^= 1 << (bit % 8);
                let same = other.eq_ignore_ascii_case(name.as_bytes());
                assert_eq!(Known::of(&other) == *id, same, "{}", other.escape_ascii());
            }
        }
        for other in ["", "x", "hos", "hosts", "content-lengt\u{8}", "x-byrnie-other"] {
            assert_eq!(Known::of(other.as_bytes()), Known::Other);
        }
    }
}
