// SPDX-License-Identifier: Apache-2.0
//! A connection from an HTTP/2 client: hands out its streams. It must be polled for any of them to move.

use super::flow::Flow;
use super::guard::Sender;
use super::link::Link;
use crate::http::Error;
use crate::io::Stream;
use byrnie_codec::{Head, Limits, Reject, RejectReason};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

/// A connection from an HTTP/2 client.
#[derive(Debug)]
pub struct Server {
    link: Rc<Link>,
    /// Header lines of a request.
    lines_max: usize,
}

/// A stream that a client opened.
#[derive(Debug)]
pub struct Accepted {
    /// The stream. Dropped, it is reset.
    pub flow: Flow,
    /// Its request, or why it's none (answer with the status given).
    pub head: Result<Box<Head>, Reject>,
}

/// A stream that nobody has taken yet.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) key: u32,
    pub(super) id: u32,
    pub(super) head: Result<Box<Head>, Reject>,
}

impl Server {
    /// Exchanges prefaces with `sender`. `prefix` has been read of the connection already.
    ///
    /// # Errors
    /// If the client speaks no HTTP/2, or is gone.
    pub async fn handshake(stream: Stream, prefix: Vec<u8>, sender: Sender) -> Result<Self, Error> {
        // Who only came to leave has left once all others had their turn, and what it asked for isn't even read.
        tokio::task::yield_now().await;
        if stream.socket().is_closing() {
            return Err(Error::Closed);
        }
        // Beside what a client may send a proxy sends its own lines, and those that routes add.
        let lines_max = if sender == Sender::Proxy { Limits::HEADERS_CEILING } else { Limits::default().headers_max };
        let server = Self { link: Rc::new(Link::new(stream, prefix, sender)), lines_max };
        poll_fn(|cx| {
            if server.link.drive(cx).is_ready() {
                return Poll::Ready(Err(Error::Closed));
            }
            match server.link.0.borrow().session.offers_connect() {
                Some(_) => Poll::Ready(Ok(())),
                None => Poll::Pending,
            }
        })
        .await?;
        Ok(server)
    }

    /// The next stream; `None` once the connection has ended. Moves all streams of the connection.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<Accepted>> {
        // What waits of one who has left goes with him.
        if self.link.0.borrow().is_about_to_end() && self.link.drive(cx).is_ready() {
            return Poll::Ready(None);
        }
        loop {
            let arrival = self.link.0.borrow_mut().next_arrival();
            if let Some(Arrival { key, id, head }) = arrival {
                let mut flow = Flow::accepted(Rc::clone(&self.link), key, id);
                let head = head.and_then(|mut head| {
                    head.check_lines(self.lines_max)?;
                    flow.serve(&mut head).map(|()| head)
                });
                return Poll::Ready(Some(Accepted { flow, head }));
            }
            if self.link.drive(cx).is_ready() {
                return Poll::Ready(None);
            }
            if self.link.0.borrow().arrivals.is_empty() {
                return Poll::Pending;
            }
        }
    }

    /// Why requests that came since this was last asked were none, and had their streams reset.
    pub fn take_malformed(&mut self) -> Vec<RejectReason> {
        std::mem::take(&mut self.link.0.borrow_mut().malformed)
    }

    /// Tells the client to open no more streams (GOAWAY); those that run may end.
    pub fn say_goodbye(&mut self) {
        self.link.0.borrow_mut().say_goodbye();
    }

    /// The same at once, of one without streams: what the client has asked meanwhile isn't served, which it's told (RFC 9113 6.8).
    pub fn leave(&mut self) {
        self.link.0.borrow_mut().leave();
    }

    /// Gives the memory of a request's head back.
    pub fn reuse(&mut self, head: Box<Head>) {
        self.link.0.borrow_mut().session.reuse(head);
    }

    /// Whether streams are open.
    pub fn has_streams(&self) -> bool {
        self.link.0.borrow().session.open_streams() > 0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(mut state) = self.link.0.try_borrow_mut() {
            state.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    /// A connection whose client has said all this, and whether it's still there.
    fn connection(said: &[u8], stays: bool) -> (Stream, Option<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.write_all(said).unwrap();
        let (served, _) = listener.accept().unwrap();
        served.set_nonblocking(true).unwrap();
        (crate::io::TcpStream::from_std(served).unwrap().into(), Some(client).filter(|_| stays))
    }

    #[test]
    fn whoever_has_left_before_he_was_heard_asks_for_nothing() {
        const STREAMS: u32 = 40;
        let mut said = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
        for id in (0..STREAMS).map(|n| 1 + 2 * n) {
            // A whole GET of `http://a/`.
            said.extend_from_slice(&[0, 0, 6, 1, 5]);
            said.extend_from_slice(&id.to_be_bytes());
            said.extend_from_slice(&[0x82, 0x86, 0x84, 0x01, 0x01, b'a']);
        }
        runtime::block_on(async {
            for (stays, heard) in [(true, STREAMS), (false, 0)] {
                let (stream, client) = connection(&said, stays);
                let mut served = 0;
                if let Ok(mut server) = Server::handshake(stream, Vec::new(), Sender::Client).await {
                    while served < STREAMS && poll_fn(|cx| server.poll_accept(cx)).await.is_some() {
                        served += 1;
                    }
                }
                assert_eq!(served, heard);
                drop(client);
            }
        })
        .unwrap();
    }
}
