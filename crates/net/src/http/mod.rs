// SPDX-License-Identifier: Apache-2.0
//! HTTP on a connection. All versions meet at the codec's one `Head` and at a [`Wire`], which hands
//! out a body piece by piece to whoever pulls, and takes one with backpressure. The proxy drives it
//! by polling; nothing here knows a route, a policy or a retry.

pub mod alarm;
pub mod h1;
pub mod h2;
#[cfg(feature = "http3")]
pub mod h3;
mod pump;
pub(crate) mod scratch;
mod websocket;

pub use alarm::Alarm;
pub use pump::{Fault, Gathered, Pump, REPLAY_BYTES_MAX};
pub use websocket::OVERLOOKED;

use crate::hop;
use crate::io::{Stream, TcpStream};
use crate::relay::Pipe;
use crate::socket::has_acknowledged;
use byrnie_codec::h1::Asked;
use byrnie_codec::hop::{CURB_BYTES, code};
use byrnie_codec::sniff::{HELLO_BYTES_MAX, ServerName, Sniff};
use byrnie_codec::{Fields, Head, Reject};
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

/// Bytes that are read at once at most.
pub const READ_BYTES_MAX: usize = 256 * 1024;

/// The same where memory is short.
pub const READ_BYTES_MIN: usize = 16 * 1024;

/// Bytes that are read at once while a head is awaited: what of a body comes with it must be kept if the other side takes
/// none. As much as goes between two proxies with the head.
const HEAD_READ_BYTES_MAX: usize = byrnie_codec::hop::JOIN_BYTES_MAX;
/// The same where there are very many exchanges ...
const HEAD_READ_BYTES_MIN: usize = 1024;
/// ... of which all together are to keep so much by that.
const HEAD_READ_BYTES_ALL: usize = 4 * 1024 * 1024;

/// Sets how many bytes are read at once from now on by each of the exchanges of this core, of which so many are `underway`, and
/// may wait for the other side by that: from [`READ_BYTES_MIN`] to [`READ_BYTES_MAX`], and less with a head.
pub fn set_read_max(bytes: usize, underway: usize) {
    let head = (HEAD_READ_BYTES_ALL / underway.max(1)).clamp(HEAD_READ_BYTES_MIN, HEAD_READ_BYTES_MAX);
    scratch::set_read_max(bytes.clamp(READ_BYTES_MIN, READ_BYTES_MAX), head);
}

/// Bytes that may wait for a socket before the other side is no longer read. One read may bring many more, so it's low: what
/// nobody takes is to stay where it came from. Where there are very many exchanges it's as little as is read with a head.
const UNSENT_BYTES_MAX: usize = 16 * 1024;

/// How long it's waited for the rest of a handshake's first message.
const PIECE_PAUSE: Duration = Duration::from_millis(5);

/// A piece of a body.
#[derive(Debug)]
pub enum Chunk<'a> {
    /// In the worker's read scratch: copy what can't be sent at once.
    Slice(&'a [u8]),
}

impl Chunk<'_> {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Slice(slice) => slice,
        }
    }
}

/// Who takes the pieces of a body.
pub type Sink<'a> = dyn FnMut(&mut Context<'_>, Chunk<'_>) -> Result<(), Error> + 'a;

/// How far a body has been read.
#[derive(Debug)]
pub enum Progress {
    /// There may be more.
    More,
    /// That was all; with trailers, if there were any.
    End(Option<Box<Fields>>),
}

/// What a response head turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// A 1xx; another head follows.
    Interim,
    /// The final one (a 101 too).
    Final,
}

/// Why a message can't go on.
#[derive(Debug)]
pub enum Error {
    /// The socket failed.
    Io(io::Error),
    /// What came is no message.
    Reject(Reject),
    /// The other side closed before the message was complete.
    Closed,
    /// The HTTP/2 stream was reset, with this code.
    Reset(u32),
    /// What came on the HTTP/2 stream broke a rule of it, with this code: a body of another length than its head said, say.
    Broken(u32),
    /// The other side provably did nothing with the request (`REFUSED_STREAM`, GOAWAY).
    Refused,
    /// A body of another length than its head said.
    Length,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => write!(f, "connection failed: {error}"),
            Self::Reject(reject) => write!(f, "malformed message: {reject}"),
            Self::Closed => f.write_str("connection closed within a message"),
            Self::Reset(code) => write!(f, "stream reset with code {code}"),
            Self::Broken(code) => write!(f, "malformed message, code {code}"),
            Self::Refused => f.write_str("stream refused"),
            Self::Length => f.write_str("body of another length than announced"),
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    /// Whether a write failed as the other side had reset the connection, as a server does that answers and closes while it's still
    /// sent to. What was received before that can be read (RFC 9112 9.5), be it that the reactor hasn't noted it yet, and soon ends in
    /// a message, the end or an error.
    pub fn is_reset(&self) -> bool {
        let reset = |kind| matches!(kind, io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe);
        matches!(self, Self::Io(error) if reset(error.kind()))
    }

    /// What is wrong with what came, in a few words, if it is no message, rather than cut off.
    pub const fn flaw(&self) -> Option<&'static str> {
        match self {
            Self::Reject(reject) => Some(reject.reason.detail()),
            Self::Broken(_) => Some("a rule of its protocol is broken"),
            _ => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Reject> for Error {
    fn from(reject: Reject) -> Self {
        Self::Reject(reject)
    }
}

/// Reads the first bytes of a connection until it can be told what they are.
///
/// # Errors
/// If the connection failed or closed before that.
pub async fn sniff(stream: &mut Stream) -> io::Result<(Sniff, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        match hear(stream, &mut bytes).await? {
            Sniff::NeedMore => {}
            found => return Ok((found, bytes)),
        }
    }
}

/// Tells what `bytes` of a connection are, if need be with what comes next, which it adds. Dropped before its end, it loses
/// nothing.
///
/// # Errors
/// If the connection failed or closed before more came.
pub async fn hear(stream: &mut Stream, bytes: &mut Vec<u8>) -> io::Result<Sniff> {
    let found = byrnie_codec::sniff::sniff(bytes);
    if found != Sniff::NeedMore {
        return Ok(found);
    }
    read_more(stream, bytes).await?;
    Ok(byrnie_codec::sniff::sniff(bytes))
}

/// Waits until it's clear for which host a client begins a TLS handshake, and takes nothing of it. No host if it names
/// none, or begins something else.
///
/// # Errors
/// If the connection failed or closed before that.
pub async fn server_name(tcp: &TcpStream) -> io::Result<Option<String>> {
    let mut bytes = vec![0; HELLO_BYTES_MAX];
    loop {
        let read = tcp.peek(&mut bytes).await?;
        match byrnie_codec::sniff::server_name(&bytes[..read]) {
            _ if read == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            ServerName::Name(host) => return Ok(Some(host)),
            ServerName::Absent | ServerName::Malformed => return Ok(None),
            // A handshake that comes in pieces is rare, and the system tells of no more while some is there.
            ServerName::NeedMore => tokio::time::sleep(PIECE_PAUSE).await,
        }
    }
}

/// What comes next; the end is an error.
async fn read_more(stream: &mut Stream, bytes: &mut Vec<u8>) -> io::Result<()> {
    let read = std::future::poll_fn(|cx| {
        scratch::poll_read(stream, cx, |_, new| {
            bytes.extend_from_slice(new);
            new.len()
        })
    });
    if read.await? == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

/// One side of an exchange: an HTTP/1 connection, or one stream of an HTTP/2 or HTTP/3 connection or of a mesh hop.
#[derive(Debug)]
pub enum Wire {
    /// A whole HTTP/1 connection; it carries one exchange after the other.
    H1(Box<h1::Conn>),
    /// One HTTP/2 stream.
    H2(h2::Flow),
    /// One stream of a mesh hop.
    Hop(hop::Flow),
    /// One HTTP/3 stream, of a client.
    #[cfg(feature = "http3")]
    H3(Box<h3::Flow>),
}

// Two of them stand in each exchange.
byrnie_base::assert_size!(Wire, 128);
byrnie_base::assert_size!(h1::Conn, 240);

impl Wire {
    /// Writes the head of a request. `end` says that nothing follows.
    ///
    /// # Errors
    /// If the head can't be said in this version, or the stream is gone.
    pub fn send_request(&mut self, head: &Head) -> Result<(), Error> {
        match self {
            Self::H1(conn) => conn.send_request(head),
            Self::H2(flow) => return flow.send_request(head),
            Self::Hop(flow) => return flow.send_request(head),
            #[cfg(feature = "http3")]
            Self::H3(_) => return Err(Error::Refused),
        }
        Ok(())
    }

    /// Writes the head of a response, which `fit_downstream` has made fit for an HTTP/1 client.
    ///
    /// # Errors
    /// As [`Wire::send_request`].
    pub fn send_response(&mut self, head: &Head) -> Result<(), Error> {
        match self {
            Self::H1(conn) => conn.send_response(head),
            Self::H2(flow) => return flow.send_response(head),
            Self::Hop(flow) => return flow.send_response(head),
            #[cfg(feature = "http3")]
            Self::H3(flow) => return flow.send_response(head),
        }
        Ok(())
    }

    /// Reads the head of a response into `head`. After [`Answered::Interim`] call again.
    pub fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        asked: Asked,
        head: &mut Head,
    ) -> Poll<Result<Answered, Error>> {
        match self {
            Self::H1(conn) => conn.poll_response(cx, asked, head),
            Self::H2(flow) => flow.poll_response(cx, head),
            Self::Hop(flow) => flow.poll_response(cx, asked, head),
            #[cfg(feature = "http3")]
            Self::H3(_) => Poll::Ready(Err(Error::Closed)),
        }
    }

    /// Reads a piece of the body and hands it to `sink`.
    pub fn poll_body(&mut self, cx: &mut Context<'_>, sink: &mut Sink<'_>) -> Poll<Result<Progress, Error>> {
        match self {
            Self::H1(conn) => conn.poll_body(cx, sink),
            Self::H2(flow) => flow.poll_body(cx, sink),
            Self::Hop(flow) => flow.poll_body(cx, sink),
            #[cfg(feature = "http3")]
            Self::H3(flow) => flow.poll_body(cx, sink),
        }
    }

    /// Takes a piece of a body. It may stay in memory until [`Wire::poll_flush`].
    ///
    /// # Errors
    /// If the socket failed, or the body is longer than its head said.
    pub fn push(&mut self, cx: &mut Context<'_>, chunk: Chunk<'_>) -> Result<(), Error> {
        match self {
            Self::H1(conn) => conn.push(cx, chunk.as_slice()),
            Self::H2(flow) => flow.push(chunk.as_slice()),
            Self::Hop(flow) => flow.push(chunk.as_slice()),
            #[cfg(feature = "http3")]
            Self::H3(flow) => flow.push(cx, chunk.as_slice()),
        }
    }

    /// Ends a body.
    ///
    /// # Errors
    /// If the body is shorter than its head said.
    pub fn end(&mut self, trailers: Option<&Fields>) -> Result<(), Error> {
        match self {
            Self::H1(conn) => conn.end(trailers),
            Self::H2(flow) => flow.end(trailers),
            Self::Hop(flow) => flow.end(trailers),
            #[cfg(feature = "http3")]
            Self::H3(flow) => flow.end(trailers),
        }
    }

    /// Sends what waits. Ready when nothing waits any more.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match self {
            Self::H1(conn) => conn.poll_flush(cx),
            Self::H2(flow) => flow.poll_flush(cx),
            Self::Hop(flow) => flow.poll_flush(cx),
            #[cfg(feature = "http3")]
            Self::H3(flow) => flow.poll_flush(cx),
        }
    }

    /// Bytes that may wait to be sent before more is written.
    pub fn unsent_max(&self) -> usize {
        match self {
            Self::H1(_) | Self::H2(_) => UNSENT_BYTES_MAX.min(scratch::head_read_max()),
            // They only have to be put into frames.
            Self::Hop(_) => 1,
            #[cfg(feature = "http3")]
            Self::H3(_) => UNSENT_BYTES_MAX,
        }
    }

    /// Ready once more of a body may be written, with how much that is as far as it's known. What waits must have been
    /// flushed.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        match self {
            // A socket tells only what it didn't take.
            Self::H1(_) | Self::H2(_) => Poll::Ready(usize::MAX),
            Self::Hop(flow) => flow.poll_room(cx),
            #[cfg(feature = "http3")]
            Self::H3(_) => Poll::Ready(usize::MAX),
        }
    }

    /// Reads no more than so many bytes of a body at once, where this side decides how many.
    pub fn read_at_most(&mut self, bytes: usize) {
        if let Self::H1(conn) = self {
            conn.read_at_most(bytes);
        }
    }

    /// The answer to what was asked is for a newcomer: no more than [`CURB_BYTES`] of it come before they are passed on. A hop knows
    /// that by the request's head.
    pub fn curb(&mut self) {
        match self {
            Self::H1(conn) => conn.read_at_most(CURB_BYTES as usize),
            Self::H2(flow) => flow.curb(),
            Self::Hop(_) => {}
            #[cfg(feature = "http3")]
            Self::H3(_) => {}
        }
    }

    /// Bytes that wait to be sent.
    pub fn unsent(&self) -> usize {
        match self {
            Self::H1(conn) => conn.unsent(),
            Self::H2(flow) => flow.unsent(),
            Self::Hop(flow) => flow.unsent(),
            #[cfg(feature = "http3")]
            Self::H3(flow) => flow.unsent(),
        }
    }

    /// Looks ahead at what has come of a body, and takes none of it: only of HTTP/1 can anything be wrong there that isn't known
    /// yet.
    ///
    /// # Errors
    /// If it's malformed.
    pub fn check_unread(&self) -> Result<(), Error> {
        match self {
            Self::H1(conn) => conn.check_unread(),
            _ => Ok(()),
        }
    }

    /// Bytes that have come and wait to be read, as far as it's known; framing counts too.
    pub fn unread(&self) -> usize {
        match self {
            Self::H1(conn) => conn.unread(),
            Self::H2(flow) => flow.unread(),
            Self::Hop(flow) => flow.unread(),
            #[cfg(feature = "http3")]
            Self::H3(flow) => flow.unread(),
        }
    }

    /// Lets a peer that writes in pieces go on: see [`Stream::acknowledge`].
    pub fn acknowledge(&self) {
        if let Self::H1(conn) = self {
            conn.acknowledge();
        }
    }

    /// Whether all of what was sent on a connection of HTTP/1 is known to have gone nowhere: the other side's system has acknowledged
    /// nothing. If so it's forgotten with the connection: the system would go on sending it, and a server that has room again would act
    /// on what nobody waits for. A call to the system, for when an answer is overdue, or given up.
    pub fn forsake_unacknowledged(&mut self) -> bool {
        match self {
            Self::H1(conn) if conn.has_sent() && has_acknowledged(conn.stream().tcp()) == Some(false) => {
                conn.forsake();
                true
            }
            _ => false,
        }
    }

    /// Whether an answer may still come although a write failed by `error`: see [`Error::is_reset`].
    pub fn may_have_answered(&self, error: &Error) -> bool {
        match self {
            Self::H1(_) => error.is_reset(),
            Self::H2(flow) => flow.may_have_answered(),
            _ => false,
        }
    }

    /// Whether any byte of what was written since the last head may have left.
    pub fn has_sent(&self) -> bool {
        match self {
            Self::H1(conn) => conn.has_sent(),
            Self::H2(_) => true,
            Self::Hop(flow) => flow.has_sent(),
            #[cfg(feature = "http3")]
            Self::H3(_) => true,
        }
    }

    /// Ready when the other side, which has said all that it has to say, went away.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::H1(conn) => conn.poll_gone(cx),
            Self::H2(flow) => flow.poll_gone(cx),
            Self::Hop(flow) => flow.poll_gone(cx),
            #[cfg(feature = "http3")]
            Self::H3(flow) => flow.poll_gone(cx),
        }
    }

    /// Whether the other side has closed or reset its connection or stream, as far as is known without a read.
    pub fn is_gone(&self) -> bool {
        match self {
            Self::H1(conn) => conn.is_gone(),
            Self::H2(flow) => flow.is_gone(),
            Self::Hop(flow) => flow.is_gone(),
            #[cfg(feature = "http3")]
            Self::H3(flow) => flow.is_gone(),
        }
    }

    /// Breaks the message off so that the other side can't take it for complete. An HTTP/1 connection
    /// is of no use afterwards.
    pub fn abort(&mut self, code: u32) {
        match self {
            Self::H1(conn) => conn.abort(),
            Self::H2(flow) => flow.reset(code),
            Self::Hop(flow) => flow.reset(match code {
                h2::CANCEL => code::CANCEL,
                h2::REFUSED_STREAM => code::REFUSED,
                h2::PROTOCOL_ERROR => code::MALFORMED,
                _ => code::BROKEN,
            }),
            #[cfg(feature = "http3")]
            Self::H3(flow) => flow.reset(h3::code_of(code)),
        }
    }

    /// Breaks an answer's body off by ending it with `trailers`, which say why; what of it hasn't been sent is forgotten. False where
    /// that can't be said, and nothing was: only streams of HTTP/2 have it.
    pub fn break_off(&mut self, trailers: &Fields) -> bool {
        match self {
            Self::H2(flow) => flow.break_off(trailers),
            _ => false,
        }
    }

    /// Whether the message to be read has been read to its end.
    pub fn has_read_all(&self) -> bool {
        match self {
            Self::H1(conn) => conn.has_read_all(),
            Self::H2(flow) => flow.has_read_all(),
            Self::Hop(flow) => flow.has_read_all(),
            #[cfg(feature = "http3")]
            Self::H3(flow) => flow.has_read_all(),
        }
    }

    /// Whether `response` may be written: to a client that asked for a protocol by HTTP/2, nothing may look like
    /// consent that isn't.
    pub fn may_be_answered_by(&self, response: &Head) -> bool {
        match self {
            Self::H1(_) | Self::Hop(_) => true,
            #[cfg(feature = "http3")]
            Self::H3(_) => response.status() != 101,
            Self::H2(flow) => flow.may_be_answered_by(response),
        }
    }

    /// Marks `response`, which [may be written](Wire::may_be_answered_by), where the other side would take it for consent
    /// that it isn't.
    ///
    /// # Errors
    /// If its head is full.
    pub fn mark_overlooked(&self, response: &mut Head) -> Result<(), Reject> {
        match self {
            Self::H2(flow) => flow.mark_overlooked(response),
            _ => Ok(()),
        }
    }

    /// What is left once both sides have left HTTP, and what has been read of it; `None` if they haven't.
    pub fn into_tunnel(self) -> Option<(Pipe, Vec<u8>)> {
        match self {
            Self::H1(conn) => {
                let (stream, bytes) = conn.into_tunnel();
                Some((stream.into(), bytes))
            }
            Self::H2(flow) => flow.into_tube().map(|tube| (tube.into(), Vec::new())),
            Self::Hop(flow) => Some((flow.into_bytes().into(), Vec::new())),
            #[cfg(feature = "http3")]
            Self::H3(_) => None,
        }
    }
}
