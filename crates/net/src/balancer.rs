// SPDX-License-Identifier: Apache-2.0
//! Who a connection comes from, as a balancer in front tells it first of all (PROXY protocol). Asked for only where
//! the configuration says that the peer speaks it. Not a byte beyond the header is read.

use crate::io::TcpStream;
use crate::runtime;
use byrnie_codec::proxy_protocol::{Source, parse};
use byrnie_codec::{Parsed, Reject};
use std::fmt;
use std::io;
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// How long the header may take: the protocol asks for at least 3 s, so that one lost packet does no harm.
pub const HEADER_MAX: Duration = Duration::from_secs(5);
/// The least that a header of either version has, in bytes.
const LEAST: usize = 15;
/// The fixed part of version 2, whose last two bytes say how much follows.
const FIXED: usize = 16;

/// Why nobody knows who a connection comes from.
#[derive(Debug)]
pub enum Error {
    /// No whole header came within [`HEADER_MAX`].
    Late,
    /// The connection ended first.
    Gone(io::Error),
    /// What came is no header.
    Malformed(Reject),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late => f.write_str("no PROXY header came in time"),
            Self::Gone(error) => write!(f, "the connection ended before a PROXY header: {error}"),
            Self::Malformed(reject) => write!(f, "no PROXY header: {}", reject.reason.detail()),
        }
    }
}

impl std::error::Error for Error {}

/// Reads the header of a connection, and nothing after it.
///
/// # Errors
/// If none comes in time, or something else does.
pub async fn source(tcp: &mut TcpStream) -> Result<Source, Error> {
    runtime::timeout(HEADER_MAX, read(tcp)).await.unwrap_or(Err(Error::Late))
}

async fn read(tcp: &mut TcpStream) -> Result<Source, Error> {
    let mut bytes: Vec<u8> = Vec::with_capacity(128);
    loop {
        match parse(&bytes).map_err(Error::Malformed)? {
            (Parsed::Complete(_), source) => return Ok(source),
            (Parsed::Partial, _) => {}
        }
        let wanted = match (bytes.first(), bytes.len()) {
            (_, ..LEAST) => LEAST,
            // A line: its end can't be foreseen.
            (Some(b'P'), read) => read + 1,
            (_, ..FIXED) => FIXED,
            _ => FIXED + usize::from(u16::from_be_bytes([bytes[14], bytes[15]])),
        };
        let read = bytes.len();
        bytes.resize(wanted.max(read + 1), 0);
        let more = tcp.read(&mut bytes[read..]).await.map_err(Error::Gone)?;
        if more == 0 {
            return Err(Error::Gone(io::ErrorKind::UnexpectedEof.into()));
        }
        bytes.truncate(read + more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use byrnie_codec::proxy_protocol::{emit_v1, emit_v2};
    use std::net::SocketAddr;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    /// What is made of a connection that sends these bytes one piece after the other, and what is left of them.
    fn told(pieces: &[&[u8]]) -> (Result<Source, Error>, Vec<u8>) {
        runtime::block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (mut tcp, _) = listener.accept().await.unwrap();
            let sending = async {
                for piece in pieces {
                    client.write_all(piece).await.unwrap();
                    client.flush().await.unwrap();
                    tokio::task::yield_now().await;
                }
                client.shutdown().await.unwrap();
            };
            let (source, ()) = tokio::join!(source(&mut tcp), sending);
            let mut rest = Vec::new();
            if source.is_ok() {
                tcp.read_to_end(&mut rest).await.unwrap();
            }
            (source, rest)
        })
        .unwrap()
    }

    #[test]
    fn a_header_of_either_version_is_read_and_nothing_after_it() {
        for (client, destination) in [("192.0.2.1:1234", "192.0.2.2:80"), ("[2001:db8::1]:1", "[2001:db8::2]:65535")] {
            let [client, destination]: [SocketAddr; 2] = [client, destination].map(|text| text.parse().unwrap());
            let wanted = Source::Proxied { client, destination };
            for emit in [emit_v1, emit_v2] {
                let mut bytes = Vec::new();
                emit(&wanted, &mut bytes);
                let end = bytes.len();
                bytes.extend_from_slice(b"GET / HTTP/1.1\r\n");
                for cut in [1, 7, 15, 16, end - 1, end, end + 3] {
                    let (source, rest) = told(&[&bytes[..cut], &bytes[cut..]]);
                    assert_eq!(
                        (source.unwrap(), rest.as_slice()),
                        (wanted, &b"GET / HTTP/1.1\r\n"[..]),
                        "cut at {cut}"
                    );
                }
            }
        }
        assert_eq!(told(&[b"PROXY UNKNOWN\r\nx"]).0.unwrap(), Source::Local);
    }

    #[test]
    fn anything_else_is_refused_at_once() {
        for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\x02\x00\x01\x00\x01", b"PROXY TCP4 a b 1 2\r\n"] {
            assert!(matches!(told(&[bytes]).0, Err(Error::Malformed(_))), "{bytes:?}");
        }
        assert!(matches!(told(&[b"PROXY TCP4"]).0, Err(Error::Gone(_))));
        assert!(matches!(told(&[]).0, Err(Error::Gone(_))));
    }
}
