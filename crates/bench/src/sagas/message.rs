// SPDX-License-Identifier: Apache-2.0
//! One HTTP/1.1 message after the other on a connection, as little of it as participants and their callers need.

use crate::app::end_of_head;
use anyhow::{Context, Result, bail};
use byrnie_net::io::Stream;
use tokio::io::AsyncReadExt;

/// Largest message.
const MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// What comes in on a connection.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    bytes: Vec<u8>,
    /// How many of them belong to the message that was read last.
    taken: usize,
}

/// A message that is whole.
pub(super) struct Message {
    /// The first line.
    pub(super) start: String,
    pub(super) body: Vec<u8>,
    /// Whether nothing comes after it.
    pub(super) last: bool,
}

impl Incoming {
    /// The next message; `None` if the other side ended the connection before it.
    pub(super) async fn next(&mut self, stream: &mut Stream) -> Result<Option<Message>> {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        loop {
            if let Some((message, length)) = parse(&self.bytes)? {
                self.taken = length;
                return Ok(Some(message));
            }
            if self.bytes.len() > MESSAGE_BYTES_MAX {
                bail!("a message of more than {MESSAGE_BYTES_MAX} bytes");
            }
            if stream.read_buf(&mut self.bytes).await? == 0 {
                if self.bytes.is_empty() {
                    return Ok(None);
                }
                bail!("closed within a message");
            }
        }
    }
}

/// The first message in `bytes` and its length, if it's whole.
fn parse(bytes: &[u8]) -> Result<Option<(Message, usize)>> {
    let Some(end) = end_of_head(bytes) else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..end])?;
    let field = |wanted: &str| {
        let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.filter(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim()).next()
    };
    let body = match (field("transfer-encoding"), field("content-length")) {
        (Some("chunked"), _) => chunks(&bytes[end..])?,
        (Some(other), _) => bail!("transfer-encoding: {other}"),
        (None, length) => {
            let length: usize = length.map_or(Ok(0), str::parse).context("content-length")?;
            bytes.get(end..end + length).map(|body| (body.to_vec(), length))
        }
    };
    let Some((body, length)) = body else { return Ok(None) };
    let start = head.lines().next().unwrap_or_default().to_owned();
    let last = field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    Ok(Some((Message { start, body, last }, end + length)))
}

/// A body in pieces and how many bytes it took, if it's whole.
fn chunks(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(line) = bytes[at..].windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[at..at + line])?.trim(), 16)?;
        let (start, end) = (at + line + 2, at + line + 2 + size);
        if bytes.len() < end + 2 {
            return Ok(None);
        }
        body.extend_from_slice(&bytes[start..end]);
        at = end + 2;
        if size == 0 {
            return Ok(Some((body, at)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_whole_or_not_there_yet() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP";
        let (message, length) = parse(whole).unwrap().unwrap();
        assert_eq!((message.body.as_slice(), message.last, length), (&b"{}"[..], false, whole.len() - 4));
        assert!(parse(&whole[..whole.len() - 5]).unwrap().is_none());
        let pieces = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{\"\r\n3\r\na\"}\r\n0\r\n\r\n";
        assert_eq!(parse(pieces).unwrap().unwrap().0.body, b"{\"a\"}");
        assert!(parse(&pieces[..pieces.len() - 3]).unwrap().is_none());
        assert!(parse(b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n").unwrap().unwrap().0.last);
    }
}
