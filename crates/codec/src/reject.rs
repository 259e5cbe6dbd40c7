// SPDX-License-Identifier: Apache-2.0
//! Why bytes were refused. Every parser of this crate answers with a [`Reject`]; the proxy counts it
//! by [`RejectReason::label`] and answers with [`Reject::status`]. Each reason names the rule it keeps.

/// A refused message: the reason, and the status that tells the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    /// The rule that was broken.
    pub reason: RejectReason,
    /// What to answer a client with (400, 413, 414, 417, 431, 501, 505); 502 if a server sent the bytes.
    pub status: u16,
}

impl Reject {
    /// A refusal of what a server sent: the client is not to blame and learns 502.
    pub(crate) const fn upstream(self) -> Self {
        Self { reason: self.reason, status: 502 }
    }
}

impl From<RejectReason> for Reject {
    fn from(reason: RejectReason) -> Self {
        Self { reason, status: reason.status() }
    }
}

impl std::fmt::Display for Reject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.reason.detail())
    }
}

impl std::error::Error for Reject {}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident $label:literal $status:literal $detail:literal;)+) => {
        /// The rules that a message can break.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum RejectReason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl RejectReason {
            /// All reasons, for tables of documentation and metrics.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The reason as a metric label: lower case with underscores, stable.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }

            /// The status a client is answered with.
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)+ }
            }

            /// One sentence for people: what is wrong with the message.
            pub const fn detail(self) -> &'static str {
                match self { $(Self::$name => $detail,)+ }
            }
        }
    };
}

reasons! {
    /// The request line isn't `method SP target SP HTTP/1.x CRLF` (RFC 9112 3).
    RequestLine "request_line" 400 "the request line is malformed";
    /// The method isn't a token, or longer than 32 bytes (RFC 9110 9.1).
    Method "method" 501 "the method is not a token of at most 32 bytes";
    /// More than one empty line before a request, or any before a response (RFC 9112 2.2).
    LeadingLine "leading_line" 400 "empty lines stand before the message";
    /// The version isn't HTTP/1.0 or HTTP/1.1 (RFC 9112 2.3).
    Version "version" 505 "the version is neither HTTP/1.0 nor HTTP/1.1";
    /// The request line is longer than the limit (RFC 9112 3).
    RequestLineTooLong "request_line_too_long" 414 "the request line is too long";
    /// A line ends in a bare LF, or a CR isn't followed by LF (RFC 9112 2.2).
    LineEnd "line_end" 400 "a line does not end in CRLF";
    /// A header name is empty, not a token, preceded by white space (obs-fold), or followed by white space before the colon (RFC 9112 5.1, 5.2).
    HeaderName "header_name" 400 "a header name is not a token directly followed by a colon";
    /// A header value holds NUL, CR, LF or another control character (RFC 9110 5.5).
    HeaderValue "header_value" 400 "a header value holds a control character";
    /// The head is larger than the limit (RFC 6585 5).
    HeadTooLarge "head_too_large" 431 "the head is too large";
    /// There are more header lines than the limit (RFC 6585 5).
    TooManyHeaders "too_many_headers" 431 "there are too many header lines";
    /// A header name is longer than the limit (RFC 6585 5).
    HeaderNameTooLong "header_name_too_long" 431 "a header name is too long";
    /// An HTTP/1.1 request has no Host (RFC 9112 3.2).
    HostMissing "host_missing" 400 "an HTTP/1.1 request needs a Host header";
    /// There is more than one Host line (RFC 9112 3.2).
    HostRepeated "host_repeated" 400 "there is more than one Host header";
    /// A host isn't a name, an IPv4 address or an IPv6 address in brackets, with an optional port from 1 to 65535; or it is empty, or holds userinfo, percent-encoding or non-ASCII bytes (RFC 9110 4.2, 7.2).
    Host "host" 400 "the host is not a name or address with an optional port";
    /// The authority of an absolute target differs from Host: two servers on the way could each believe another one (RFC 9112 3.2.2 lets the target win; we refuse).
    HostMismatch "host_mismatch" 400 "the Host header differs from the authority of the target";
    /// The target has the wrong form for its method: authority-form is for CONNECT only, `*` for OPTIONS only (RFC 9112 3.2).
    TargetForm "target_form" 400 "the target has the wrong form for the method";
    /// The scheme of an absolute target is neither http nor https (RFC 9110 4.2).
    Scheme "scheme" 400 "the scheme is neither http nor https";
    /// The target has userinfo (`user@host`), which disguises the host (RFC 9110 4.2.4).
    Userinfo "userinfo" 400 "the target holds userinfo";
    /// The target has a fragment, which some servers cut and some don't (RFC 9112 3.2, RFC 3986 3.5).
    Fragment "fragment" 400 "the target holds a fragment";
    /// The path doesn't start with `/`, or target bytes are outside visible ASCII (RFC 3986 3.3).
    Path "path" 400 "the target holds bytes that are not allowed in a path or query";
    /// A percent sign isn't followed by two hexadecimal digits (RFC 3986 2.1).
    PercentEncoding "percent_encoding" 400 "a percent sign is not followed by two hexadecimal digits";
    /// The path holds an encoded slash, a backslash (plain or encoded), an encoded NUL or a dot segment with parameters (`..;x`), which servers read in different ways.
    AmbiguousPath "ambiguous_path" 400 "the path can be read in more than one way";
    /// Content-Length is empty, a list, signed, not decimal, or above 2^63 - 1 (RFC 9110 8.6).
    ContentLength "content_length" 400 "the content length is not one decimal number";
    /// There is more than one Content-Length line, even with equal values (RFC 9112 6.3).
    ContentLengthRepeated "content_length_repeated" 400 "there is more than one content length";
    /// Both Content-Length and Transfer-Encoding are present (RFC 9112 6.1).
    LengthAndEncoding "length_and_encoding" 400 "both a content length and a transfer encoding are given";
    /// Transfer-Encoding isn't exactly one `chunked` (RFC 9112 6.1, 7).
    TransferEncoding "transfer_encoding" 501 "the transfer encoding is not a single chunked";
    /// Transfer-Encoding in an HTTP/1.0 message (RFC 9112 6.1).
    EncodingInHttp10 "encoding_in_http10" 400 "an HTTP/1.0 message has a transfer encoding";
    /// A CONNECT or TRACE request, or a 1xx or 204 answer, announces a body (RFC 9110 9.3.6, 9.3.8, 15.3.5).
    BodyNotAllowed "body_not_allowed" 400 "a message that has no body announces one";
    /// Expect is something other than `100-continue` (RFC 9110 10.1.1).
    Expect "expect" 417 "the expectation is not known";
    /// The status line isn't `HTTP/1.x SP 3DIGIT [SP reason] CRLF` with a status from 100 to 599 (RFC 9112 4).
    StatusLine "status_line" 502 "the status line is malformed";
    /// An extended CONNECT for something that isn't spoken here (RFC 9220 3).
    Protocol "protocol" 501 "an extended CONNECT asks for another protocol than websocket";
    /// 101 was answered to a request that asked for no upgrade, or for another one (RFC 9110 15.2.2).
    UnexpectedUpgrade "unexpected_upgrade" 502 "a switch of protocols was answered that nobody asked for";
    /// A chunk size is missing, not hexadecimal, longer than 16 digits or above 2^63 - 1 (RFC 9112 7.1).
    ChunkSize "chunk_size" 400 "a chunk size is not a hexadecimal number below 2^63";
    /// A chunk extension holds a control character, or white space stands before no extension (RFC 9112 7.1.1).
    ChunkExtension "chunk_extension" 400 "a chunk extension is malformed";
    /// Chunk extensions are longer than the limit (RFC 9112 7.1.1).
    ChunkExtensionTooLong "chunk_extension_too_long" 413 "the chunk extensions are too long";
    /// The bytes of a chunk aren't followed by CRLF (RFC 9112 7.1).
    ChunkEnd "chunk_end" 400 "a chunk is not followed by CRLF";
    /// The trailer section is larger than the limit or has too many lines (RFC 9112 7.1.2).
    TrailersTooLarge "trailers_too_large" 431 "the trailer section is too large";
    /// A trailer names a field that frames, routes, authenticates or controls the message (RFC 9110 6.5.1).
    TrailerForbidden "trailer_forbidden" 400 "a trailer names a field that is not allowed there";
    /// The connection ended within a message (RFC 9112 8).
    Truncated "truncated" 400 "the connection ended within a message";
    /// A header of one connection (Connection, Transfer-Encoding, Upgrade...) where only end-to-end headers may be (RFC 9113 8.2.2).
    ConnectionSpecific "connection_specific" 400 "a header that belongs to one connection only is not allowed here";
    /// A PROXY protocol header is malformed or longer than the limit (proxy-protocol.txt 2).
    ProxyHeader "proxy_header" 400 "the PROXY protocol header is malformed";
    /// A gRPC message is larger than the limit, or its frame is malformed (PROTOCOL-HTTP2).
    GrpcFrame "grpc_frame" 400 "a gRPC message is too large or its frame is malformed";
}
