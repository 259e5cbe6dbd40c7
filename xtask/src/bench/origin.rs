// SPDX-License-Identifier: Apache-2.0
//! The app at the end of every path (`GET /b/N` answers N bytes), and the floor that any proxy could
//! reach: a relay that copies bytes without looking at them.

use super::LIFE_MAX;
use anyhow::{Context, Result, bail};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Bytes of request heads that wait on one connection.
const HEADS_BYTES_MAX: usize = 64 * 1024;
/// Largest body that is served.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// `bench-origin ADDRESS`.
pub(super) fn run_origin(args: &[&str]) -> Result<()> {
    let [address] = args else { bail!("usage: bench-origin ADDRESS") };
    let address: SocketAddr = address.parse()?;
    on_one_thread(async move {
        let listener = TcpListener::bind(address).await?;
        loop {
            let (socket, _) = listener.accept().await?;
            tokio::spawn(serve(socket));
        }
    })
}

/// `bench-relay ADDRESS NEXT`.
pub(super) fn run_relay(args: &[&str]) -> Result<()> {
    let [address, next] = args else { bail!("usage: bench-relay ADDRESS NEXT") };
    let (address, next): (SocketAddr, SocketAddr) = (address.parse()?, next.parse()?);
    on_one_thread(async move {
        let listener = TcpListener::bind(address).await?;
        loop {
            let (client, _) = listener.accept().await?;
            tokio::spawn(relay(client, next));
        }
    })
}

fn on_one_thread(serve: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Time running out is the ordinary end of one whose bench was killed.
    runtime.block_on(async { tokio::time::timeout(LIFE_MAX, serve).await }).unwrap_or(Ok(()))
}

async fn relay(mut client: TcpStream, next: SocketAddr) -> Result<()> {
    let mut server = TcpStream::connect(next).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, 64 * 1024, 64 * 1024).await?;
    Ok(())
}

async fn serve(mut socket: TcpStream) -> Result<()> {
    socket.set_nodelay(true)?;
    let mut waiting = Vec::with_capacity(HEADS_BYTES_MAX);
    let mut answer = Answer::default();
    loop {
        let Some(end) = end_of_head(&waiting) else {
            if waiting.len() >= HEADS_BYTES_MAX || socket.read_buf(&mut waiting).await? == 0 {
                return Ok(());
            }
            continue;
        };
        answer.make(size_asked(&waiting[..end])?);
        waiting.drain(..end);
        socket.write_all(&answer.bytes).await?;
    }
}

/// An answer, kept for the next request of the same size.
#[derive(Default)]
struct Answer {
    size: Option<usize>,
    bytes: Vec<u8>,
}

impl Answer {
    fn make(&mut self, size: usize) {
        if self.size != Some(size) {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {size}\r\n\r\n");
            self.bytes = head.into_bytes();
            self.bytes.resize(self.bytes.len() + size, b'x');
            self.size = Some(size);
        }
    }
}

/// Where the first head in `bytes` ends.
pub(super) fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

fn size_asked(head: &[u8]) -> Result<usize> {
    let text = std::str::from_utf8(head)?;
    let path = text.split(' ').nth(1).context("no path")?;
    let size: usize = path.strip_prefix("/b/").context("not /b/N")?.parse()?;
    if size <= BODY_BYTES_MAX { Ok(size) } else { bail!("too large") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_is_in_the_path() {
        assert_eq!(size_asked(b"GET /b/100 HTTP/1.1\r\n\r\n").unwrap(), 100);
        assert!(size_asked(b"GET /other HTTP/1.1\r\n\r\n").is_err());
        assert!(size_asked(b"GET /b/99999999999 HTTP/1.1\r\n\r\n").is_err());
        assert_eq!(end_of_head(b"GET / HTTP/1.1\r\n\r\nGET"), Some(18));
        assert_eq!(end_of_head(b"GET / HTTP/1.1\r\n"), None);
    }
}
