// SPDX-License-Identifier: Apache-2.0
//! The head of a request or a response, whatever HTTP version it came by: the one form that routing,
//! access, logs and forwarding share. Parsers fill it, the engine reads and edits it, emitters write
//! it. What frames and routes a message (target, authority, body framing, persistence, upgrade) is
//! typed state and never a line that could contradict it. Reused heads don't allocate.

use crate::fields::Fields;
use crate::known::Known;
use crate::reject::{Reject, RejectReason};
use crate::uri;

/// The HTTP version a head came by or goes out with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
    /// HTTP/3.
    Http3,
}

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// So many bytes; never above 2^63 - 1.
    Length(u64),
    /// HTTP/1.1 chunks.
    Chunked,
    /// An HTTP/1 response that ends with its connection.
    UntilClose,
    /// An HTTP/2 stream: it ends by END_STREAM. Written to HTTP/1 it becomes chunks.
    Stream,
}

/// Longest method name in bytes.
const METHOD_BYTES_MAX: usize = 32;

/// The head of a message.
#[derive(Clone, Debug)]
pub struct Head {
    pub(crate) fields: Fields,
    version: Version,
    /// 0 for a request.
    status: u16,
    framing: Framing,
    flags: Flags,
    method: String,
    target: Target,
    /// Content-Length of a message that has no body (an answer to HEAD, a 304).
    declared: Option<u64>,
    pub(crate) progress: Progress,
}

/// Memory that a head may keep from one message to the next, in bytes: one as large as hardly any may pass by, and connections
/// that rest keep none that large.
pub(crate) const HEAD_KEPT_BYTES_MAX: usize = 2 * 1024;

// There is one for each message under way.
byrnie_base::assert_size!(Head, 256);

#[derive(Clone, Copy, Debug, Default)]
struct Flags {
    keep_alive: bool,
    expects_continue: bool,
    upgrade: bool,
    https: bool,
}

/// Where a request goes, in canonical form.
#[derive(Clone, Debug, Default)]
struct Target {
    authority: String,
    path_and_query: String,
    path_len: usize,
}

/// What earlier calls with a shorter buffer have seen, so that a head that trickles in byte by byte
/// costs time in proportion to its length.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    /// Length of the buffer when it was last tokenised.
    pub(crate) tokenised: usize,
    /// Length of the buffer when the end of the head was last looked for.
    pub(crate) searched: usize,
}

impl Default for Head {
    fn default() -> Self {
        Self::new()
    }
}

impl Head {
    /// An empty head: a response without status that says nothing.
    pub fn new() -> Self {
        Self {
            fields: Fields::new(),
            version: Version::Http11,
            status: 0,
            framing: Framing::None,
            flags: Flags { keep_alive: true, ..Flags::default() },
            method: String::new(),
            target: Target::default(),
            declared: None,
            progress: Progress::default(),
        }
    }

    /// Forgets everything and keeps the memory.
    pub fn clear(&mut self) {
        self.fields.clear();
        self.begin_anew();
    }

    /// The same but for the header lines, in whose place others come.
    pub(crate) fn begin_anew(&mut self) {
        self.version = Version::Http11;
        self.status = 0;
        self.framing = Framing::None;
        self.flags = Flags { keep_alive: true, ..Flags::default() };
        self.method.clear();
        self.target.authority.clear();
        self.target.path_and_query.clear();
        self.target.path_len = 0;
        self.declared = None;
        self.progress = Progress::default();
    }

    /// Says that bytes of another message come next, of which none has been seen. What the head holds stays until they
    /// are parsed.
    pub fn begin(&mut self) {
        self.progress = Progress::default();
    }

    /// Bytes of memory that it keeps for the next message.
    pub fn kept_bytes(&self) -> usize {
        let Target { authority, path_and_query, .. } = &self.target;
        self.fields.capacity() + self.method.capacity() + authority.capacity() + path_and_query.capacity()
    }

    /// Lets go of that memory if it is more than most messages need.
    pub fn slim(&mut self) {
        if self.kept_bytes() > HEAD_KEPT_BYTES_MAX {
            *self = Self::default();
        }
    }

    /// Makes this the head of a request without headers and body. `scheme` is `http` or `https`;
    /// `authority` may be empty only where HTTP/1.0 allows it; `path_and_query` may be empty (`/`).
    ///
    /// # Errors
    /// If a part isn't well formed.
    pub fn start_request(
        &mut self,
        method: &str,
        scheme: &str,
        authority: &str,
        path_and_query: &str,
    ) -> Result<(), Reject> {
        self.clear();
        self.write_method(method)?;
        self.write_scheme(scheme)?;
        self.write_authority(authority)?;
        self.set_path_and_query(path_and_query)
    }

    /// Makes this the head of a response without headers and with an empty body.
    pub fn start_response(&mut self, status: u16) {
        self.clear();
        self.status = status;
        self.framing = if status_has_no_body(status) { Framing::None } else { Framing::Length(0) };
    }

    /// True if this is a request.
    pub fn is_request(&self) -> bool {
        self.status == 0
    }

    /// The version the message came by; of a response to be written, the version of whom it is written to.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Sets the version.
    pub fn set_version(&mut self, version: Version) {
        self.version = version;
    }

    /// The method, in the case it was sent in (methods are case sensitive).
    pub fn method(&self) -> &str {
        &self.method
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.flags.https { "https" } else { "http" }
    }

    /// Sets the scheme: what an HTTP/1 listener knows from having TLS.
    pub fn set_https(&mut self, https: bool) {
        self.flags.https = https;
    }

    /// `host` or `host:port` in canonical form: lower case, no trailing dot, no empty port. Empty only
    /// for a response or an HTTP/1.0 request without Host.
    pub fn authority(&self) -> &str {
        &self.target.authority
    }

    /// The authority without its port; an IPv6 address stands in brackets.
    pub fn host(&self) -> &str {
        uri::split_port(&self.target.authority).0
    }

    /// The port of the authority, if it has one.
    pub fn port(&self) -> Option<u16> {
        uri::split_port(&self.target.authority).1
    }

    /// Replaces the authority by the canonical form of `authority`.
    ///
    /// # Errors
    /// If it isn't a host with an optional port.
    pub fn set_authority(&mut self, authority: &str) -> Result<(), Reject> {
        self.target.authority.clear();
        Ok(uri::authority(authority.as_bytes(), &mut self.target.authority)?)
    }

    /// The canonical path (see [`crate::uri`]): starts with `/`, or is `*` for an OPTIONS of the server
    /// itself. `/` for CONNECT and for a response.
    pub fn path(&self) -> &str {
        if self.target.path_and_query.is_empty() {
            return "/";
        }
        &self.target.path_and_query[..self.target.path_len]
    }

    /// What follows the `?`: as it was sent, but that `"<>` are encoded.
    pub fn query(&self) -> Option<&str> {
        self.target.path_and_query.get(self.target.path_len + 1..)
    }

    /// Path and query as they are forwarded.
    pub fn path_and_query(&self) -> &str {
        if self.target.path_and_query.is_empty() { "/" } else { &self.target.path_and_query }
    }

    /// Replaces path and query by the canonical form of `path_and_query` (empty: `/`).
    ///
    /// # Errors
    /// If it isn't one.
    pub fn set_path_and_query(&mut self, path_and_query: &str) -> Result<(), Reject> {
        self.write_target(path_and_query.as_bytes()).map_err(Reject::from)
    }

    /// The status of a response; 0 for a request.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Sets the status of a response.
    pub fn set_status(&mut self, status: u16) {
        self.status = status;
    }

    /// The first value of a known header. Host is the authority; what frames a message
    /// (Content-Length, Transfer-Encoding, Connection) isn't a header here: ask [`Head::framing`].
    pub fn header(&self, name: Known) -> Option<&[u8]> {
        match name {
            Known::Host => Some(self.target.authority.as_bytes()).filter(|host| !host.is_empty()),
            _ => self.fields.known(name),
        }
    }

    /// The first value of a header, by its lower-case name; as [`Head::header`].
    pub fn get(&self, lower_name: &str) -> Option<&[u8]> {
        match Known::of(lower_name.as_bytes()) {
            Known::Other => self.fields.get(lower_name),
            known => self.header(known),
        }
    }

    /// All values of a header in order, by its lower-case name; a value is one line's, not split at commas.
    pub fn values<'a>(&'a self, lower_name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let host = if lower_name == "host" { self.header(Known::Host) } else { None };
        host.into_iter().chain(self.fields.values(lower_name))
    }

    /// The header lines as (name as received, value), in order, without Host and what frames the message.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields.iter()
    }

    /// Drops all lines of a header.
    pub fn remove(&mut self, lower_name: &str) {
        self.fields.remove(lower_name);
    }

    /// Drops all lines of a known header.
    pub fn remove_known(&mut self, name: Known) {
        self.fields.remove_known(name);
    }

    /// Appends a header line. `content-length` sets the framing (and must not contradict it), `host`
    /// sets an empty authority (and must not contradict another).
    ///
    /// # Errors
    /// If name or value aren't well formed, the head grows too large, or the header belongs to one
    /// connection only (Connection, Transfer-Encoding, Upgrade, TE other than `trailers`; RFC 9113 8.2.2).
    pub fn append(&mut self, name: &str, value: &[u8]) -> Result<(), Reject> {
        self.append_as(Known::of(name.as_bytes()), name, value)
    }

    fn append_as(&mut self, known: Known, name: &str, value: &[u8]) -> Result<(), Reject> {
        match known {
            Known::Host => self.append_host(value),
            Known::ContentLength => self.append_length(value),
            Known::Te if !value.eq_ignore_ascii_case(b"trailers") => Err(RejectReason::ConnectionSpecific.into()),
            Known::TransferEncoding
            | Known::Connection
            | Known::KeepAlive
            | Known::ProxyConnection
            | Known::Upgrade
            | Known::Http2Settings => Err(RejectReason::ConnectionSpecific.into()),
            _ => Ok(self.fields.append_as(known, name, value)?),
        }
    }

    /// Appends a line of a header that the mesh knows, without looking the name up.
    ///
    /// # Errors
    /// As [`Head::append`]; always for [`Known::Other`], which is no name.
    pub fn append_known(&mut self, name: Known, value: &[u8]) -> Result<(), Reject> {
        self.append_as(name, name.name(), value)
    }

    /// Replaces all lines of a header that the mesh knows by one, without looking the name up.
    ///
    /// # Errors
    /// As [`Head::append_known`].
    pub fn set_known(&mut self, name: Known, value: &[u8]) -> Result<(), Reject> {
        self.fields.remove_known(name);
        self.append_known(name, value)
    }

    /// Replaces all lines of a header by one.
    ///
    /// # Errors
    /// As [`Head::append`].
    pub fn set(&mut self, name: &str, value: &[u8]) -> Result<(), Reject> {
        let known = Known::of(name.as_bytes());
        self.fields.remove_as(known, name);
        self.append_as(known, name, value)
    }

    /// Refuses a head of HTTP/2 or HTTP/3 with more than `most` header lines; those of one cookie, which come in crumbs there
    /// (RFC 9113 8.2.3), are one.
    ///
    /// # Errors
    /// If it has more.
    pub fn check_lines(&self, most: usize) -> Result<(), Reject> {
        if self.fields.exceeds(most) { Err(RejectReason::TooManyHeaders.into()) } else { Ok(()) }
    }

    /// How the end of the body is found.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Sets how the end of the body is found.
    pub fn set_framing(&mut self, framing: Framing) {
        self.framing = framing;
    }

    /// The Content-Length of a message that has no body of its own: an answer to HEAD, or a 304.
    pub fn declared_length(&self) -> Option<u64> {
        self.declared
    }

    /// Sets what [`Head::declared_length`] tells.
    pub fn set_declared_length(&mut self, length: Option<u64>) {
        self.declared = length;
    }

    /// True if the connection can carry another message after this one.
    pub fn keep_alive(&self) -> bool {
        self.flags.keep_alive && self.framing != Framing::UntilClose
    }

    /// Says whether the connection is to carry another message after this one.
    pub fn set_keep_alive(&mut self, keep_alive: bool) {
        self.flags.keep_alive = keep_alive;
    }

    /// True if the client waits for 100 (Continue) before it sends the body.
    pub fn expects_continue(&self) -> bool {
        self.flags.expects_continue
    }

    /// The protocol asked for (in a request) or switched to (in a 101), if any. `h2c` is never one:
    /// an upgrade to it hides requests from whoever doesn't follow it.
    pub fn upgrade(&self) -> Option<&[u8]> {
        if self.flags.upgrade { self.fields.known(Known::Upgrade) } else { None }
    }

    /// Whether this answer refuses for want of an upgrade, and says to what (RFC 9110 15.5.22): that line is meant for the client.
    pub(crate) fn wants_upgrade(&self) -> bool {
        self.status() == 426 && self.fields.known(Known::Upgrade).is_some()
    }

    /// Whether this answer switches to nothing that `request` didn't ask for (RFC 9110 7.8).
    pub fn switches_as_asked(&self, request: &Self) -> bool {
        let asked = |to: &[u8]| request.upgrade().is_some_and(|asked| asked.eq_ignore_ascii_case(to));
        self.status() != 101 || self.upgrade().is_some_and(asked)
    }

    /// Asks for a protocol, as an HTTP/2 extended CONNECT does (RFC 8441), or, with `None`, for none.
    ///
    /// # Errors
    /// If the protocol isn't well formed.
    pub fn set_upgrade(&mut self, protocol: Option<&str>) -> Result<(), Reject> {
        self.fields.remove_known(Known::Upgrade);
        self.flags.upgrade = protocol.is_some();
        match protocol {
            Some(protocol) => Ok(self.fields.append(Known::Upgrade.name(), protocol.as_bytes())?),
            None => Ok(()),
        }
    }

    pub(crate) fn allow_upgrade(&mut self) {
        self.flags.upgrade = true;
    }

    pub(crate) fn set_expects_continue(&mut self) {
        self.flags.expects_continue = true;
    }

    pub(crate) fn write_method(&mut self, method: &str) -> Result<(), RejectReason> {
        if method.is_empty() || !method.bytes().all(crate::fields::is_token_byte) {
            return Err(RejectReason::Method);
        }
        self.write_token(method)
    }

    /// As [`Head::write_method`], of what is a token.
    pub(crate) fn write_token(&mut self, method: &str) -> Result<(), RejectReason> {
        if method.len() > METHOD_BYTES_MAX {
            return Err(RejectReason::Method);
        }
        self.method.clear();
        self.method.push_str(method);
        Ok(())
    }

    pub(crate) fn write_scheme(&mut self, scheme: &str) -> Result<(), RejectReason> {
        self.flags.https = match scheme {
            s if s.eq_ignore_ascii_case("http") => false,
            s if s.eq_ignore_ascii_case("https") => true,
            _ => return Err(RejectReason::Scheme),
        };
        Ok(())
    }

    fn write_authority(&mut self, authority: &str) -> Result<(), RejectReason> {
        self.target.authority.clear();
        if authority.is_empty() {
            return Ok(());
        }
        uri::authority(authority.as_bytes(), &mut self.target.authority)
    }

    pub(crate) fn authority_mut(&mut self) -> &mut String {
        &mut self.target.authority
    }

    pub(crate) fn write_target(&mut self, path_and_query: &[u8]) -> Result<(), RejectReason> {
        let target = &mut self.target;
        target.path_and_query.clear();
        target.path_len = match path_and_query {
            b"*" if self.method == "OPTIONS" => {
                target.path_and_query.push('*');
                1
            }
            _ => uri::path_and_query(path_and_query, &mut target.path_and_query)?,
        };
        Ok(())
    }

    fn append_host(&mut self, value: &[u8]) -> Result<(), Reject> {
        let mut host = String::new();
        uri::authority(value, &mut host)?;
        if self.target.authority.is_empty() {
            self.target.authority = host;
        } else if self.target.authority != host {
            return Err(RejectReason::HostMismatch.into());
        }
        Ok(())
    }

    fn append_length(&mut self, value: &[u8]) -> Result<(), Reject> {
        let length = crate::h1::content_length(value)?;
        match self.framing {
            Framing::Length(other) if other != length && other != 0 => Err(RejectReason::ContentLengthRepeated.into()),
            Framing::None | Framing::Length(_) | Framing::Stream => {
                self.framing = Framing::Length(length);
                Ok(())
            }
            Framing::Chunked | Framing::UntilClose => Err(RejectReason::LengthAndEncoding.into()),
        }
    }
}

/// True for a status whose answer never has a body (RFC 9110 6.4.1).
pub(crate) const fn status_has_no_body(status: u16) -> bool {
    matches!(status, 100..=199 | 204 | 304)
}
