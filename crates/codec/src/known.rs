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
    ByrnieNewcomer "x-byrnie-newcomer",
    ByrnieSession "x-byrnie-session",
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

/// Buckets of the name table, each for one name at most.
const BUCKETS: usize = 256;

/// Mixes what tells names apart cheaply: the length and three letters, whatever their case. The factors are found by
/// trying: no two names may share a bucket.
const fn bucket(name: &[u8]) -> usize {
    let n = name.len();
    if n == 0 {
        return 0;
    }
    let middle = (name[n / 2] | 0x20) as usize;
    let late = (name[n.wrapping_mul(3) / 4] | 0x20) as usize;
    let last = (name[n - 1] | 0x20) as usize;
    let mixed = n.wrapping_mul(MIX[0]).wrapping_add(middle.wrapping_mul(MIX[1]));
    mixed.wrapping_add(last.wrapping_mul(MIX[2])).wrapping_add(late.wrapping_mul(MIX[3])) % BUCKETS
}

const MIX: [usize; 4] = [159, 37, 245, 161];

const TABLE: [u8; BUCKETS] = {
    let mut table = [0; BUCKETS];
    let mut id = 1;
    while id < NAMES.len() {
        let b = bucket(NAMES[id].as_bytes());
        assert!(table[b] == 0, "two names share a bucket: the factors of the hash have to change");
        assert!(NAMES[id].len() <= 32, "names are compared by their first and last 16 bytes");
        table[b] = id as u8;
        id += 1;
    }
    table
};

/// Compares the first and the last bytes of two names of one length, which may overlap, as words. Names of the table are
/// lower-case letters, digits and dashes: of these only letters have the bit 0x40, and only where it is set may the bit
/// 0x20, the case, differ.
macro_rules! same_ends {
    ($known:ident, $name:ident, $word:ty, $size:literal) => {
        if let (Some(first), Some(last)) = ($known.first_chunk::<$size>(), $known.last_chunk::<$size>())
            && let (Some(name_first), Some(name_last)) = ($name.first_chunk::<$size>(), $name.last_chunk::<$size>())
        {
            let differ = |known: &[u8; $size], name: &[u8; $size]| {
                let lower = <$word>::from_ne_bytes(*known);
                let case = (lower & <$word>::from_ne_bytes([0x40; $size])) >> 1;
                (lower ^ <$word>::from_ne_bytes(*name)) & !case
            };
            return differ(first, name_first) | differ(last, name_last) == 0;
        }
    };
}

/// Compares a name of the table with one in any case.
fn is_same(known: &[u8], name: &[u8]) -> bool {
    if known.len() != name.len() {
        return false;
    }
    same_ends!(known, name, u128, 16);
    same_ends!(known, name, u64, 8);
    same_ends!(known, name, u32, 4);
    known.eq_ignore_ascii_case(name)
}

impl Known {
    /// The id of `name`, in whatever case.
    pub fn of(name: &[u8]) -> Self {
        let id = usize::from(TABLE[bucket(name)]);
        if is_same(NAMES[id].as_bytes(), name) { IDS[id] } else { Self::Other }
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

    /// The bits of several.
    pub(crate) const fn bits(names: &[Self]) -> u128 {
        let (mut bits, mut at) = (0, 0);
        while at < names.len() {
            bits |= names[at].bit();
            at += 1;
        }
        bits
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
