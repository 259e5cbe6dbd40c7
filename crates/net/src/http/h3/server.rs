// SPDX-License-Identifier: Apache-2.0
//! A connection from an HTTP/3 client: hands out its requests.

use super::flow::Flow;
use super::{RESETS_MAX, RESETS_PER_SECOND, UNI_READ_BYTES_MAX, UNKNOWN_STREAMS_MAX};
use crate::http::Error;
use crate::quic::{Connection, number};
use crate::runtime;
use byrnie_base::Instant;
use byrnie_codec::h3::{self, Opened, STREAM_ID_MAX, Uni, code};
use futures_util::stream::{FuturesUnordered, StreamExt};
use quinn::{ReadError, RecvStream, SendStream};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::Notify;

/// A connection from an HTTP/3 client. Dropped, it is closed.
#[derive(Debug)]
pub struct Server {
    link: Rc<Link>,
    /// Where it was when it came.
    remote: SocketAddr,
    /// The stream that lasts as long as the connection.
    control: RefCell<SendStream>,
    /// The number of the next request.
    next: Cell<u64>,
    /// From which number on requests aren't served.
    last: Cell<Option<u64>>,
    _streams: runtime::Owned,
}

/// What the streams of a connection share.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) quic: Connection,
    /// Requests under way.
    open: Cell<usize>,
    /// One of them has ended.
    ended: Notify,
    resets_left: Cell<u32>,
    refilled: Cell<Instant>,
}

impl Link {
    /// One request less is under way. `left`: it's the client who gave it up; `answered`: the answer was sent to its end.
    pub(super) fn leave(&self, left: bool, answered: bool) {
        self.open.set(self.open.get().saturating_sub(1));
        self.ended.notify_waiters();
        let mut resets = self.resets_left.get();
        if answered {
            resets = (resets + 1).min(RESETS_MAX);
        } else if left {
            let now = runtime::coarse().mono;
            let seconds = now.since(self.refilled.get()).as_secs();
            if seconds > 0 {
                self.refilled.set(now);
                let more = u32::try_from(seconds).unwrap_or(u32::MAX).saturating_mul(RESETS_PER_SECOND);
                resets = resets.saturating_add(more).min(RESETS_MAX);
            }
            if resets == 0 {
                self.quic.close(code::EXCESSIVE_LOAD);
            }
            resets = resets.saturating_sub(1);
        }
        self.resets_left.set(resets);
    }
}

impl Server {
    /// Begins: says our settings, and reads those of the client as they come.
    ///
    /// # Errors
    /// If the client is gone, or lets us say nothing.
    pub async fn begin(quic: Connection) -> Result<Self, Error> {
        let mut control = quic.0.open_uni().await.map_err(|_| Error::Closed)?;
        let mut opening = Vec::new();
        h3::write_opening(&mut opening);
        control.write_all(&opening).await.map_err(|_| Error::Closed)?;
        let remote = quic.remote();
        let link = Rc::new(Link {
            quic,
            open: Cell::new(0),
            ended: Notify::new(),
            resets_left: Cell::new(RESETS_MAX),
            refilled: Cell::new(runtime::coarse().mono),
        });
        let streams = runtime::spawn_local("h3 control", attend(link.quic.clone())).abort_on_drop();
        let (control, next, last) = (RefCell::new(control), Cell::new(0), Cell::new(None));
        Ok(Self { link, remote, control, next, last, _streams: streams })
    }

    /// The next request, whose head may still be to come; `None` once the connection has ended. May be cancelled.
    pub async fn accept(&self) -> Option<Box<Flow>> {
        loop {
            let (mut send, mut recv) = self.link.quic.0.accept_bi().await.ok()?;
            let id = u64::from(send.id());
            if self.last.get().is_some_and(|last| id >= last) {
                // Nothing is done with it, so it may be sent again; a stream that is gone already needs no word.
                let _ = send.reset(number(code::REQUEST_REJECTED));
                let _ = recv.stop(number(code::REQUEST_REJECTED));
                continue;
            }
            self.next.set(id + 4);
            self.link.open.set(self.link.open.get() + 1);
            return Some(Box::new(Flow::new(Rc::clone(&self.link), send, recv)));
        }
    }

    /// Tells the client to ask nothing more here (GOAWAY); what is under way goes on. At first, all that is on its way is
    /// still served; `last` ends that.
    pub fn say_goodbye(&self, last: bool) {
        let id = if last { self.next.get() } else { STREAM_ID_MAX };
        let mut bytes = Vec::new();
        h3::write_goaway(id, &mut bytes);
        let cx = &mut Context::from_waker(Waker::noop());
        match Pin::new(&mut *self.control.borrow_mut()).poll_write(cx, &bytes) {
            Poll::Ready(Ok(written)) if written == bytes.len() => {}
            // A client that doesn't let us say it.
            _ => self.link.quic.close(code::NO_ERROR),
        }
        self.last.set(last.then_some(id));
    }

    /// Whether the client comes from another host than when it proved where it is. Who sends from a host of somebody else
    /// could pass for it.
    pub fn has_moved(&self) -> bool {
        self.link.quic.remote().ip() != self.remote.ip()
    }

    /// Waits until nothing has been under way for `span`, if nothing begins meanwhile.
    pub async fn rested(&self, span: Duration) {
        loop {
            let ended = self.link.ended.notified();
            if self.link.open.get() == 0 {
                return runtime::sleep(span).await;
            }
            ended.await;
        }
    }

    /// How long the client may need to hear a word and answer it.
    pub fn round_trip(&self) -> Duration {
        self.link.quic.0.rtt()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.link.quic.close(code::NO_ERROR);
    }
}

/// Reads what isn't a request, as long as the connection lasts.
async fn attend(quic: Connection) {
    let (opened, mut unknown, mut streams) = (RefCell::new(Opened::default()), 0, FuturesUnordered::new());
    let code = loop {
        tokio::select! {
            stream = quic.0.accept_uni() => match stream {
                Ok(stream) => streams.push(read(stream, &opened)),
                Err(_) => return,
            },
            Some(read) = streams.next() => match read {
                Ok(()) => unknown += 1,
                Err(code) => break code,
            },
        }
        if unknown > UNKNOWN_STREAMS_MAX {
            break code::EXCESSIVE_LOAD;
        }
    };
    quic.close(code);
}

/// Reads one of them to its end.
async fn read(mut stream: RecvStream, opened: &RefCell<Opened>) -> Result<(), u64> {
    let mut uni = Uni::default();
    loop {
        match stream.read_chunk(UNI_READ_BYTES_MAX, true).await {
            Ok(Some(chunk)) => {
                if !uni.take(&chunk.bytes, &mut opened.borrow_mut())? {
                    // It may be gone already.
                    let _ = stream.stop(number(code::STREAM_CREATION_ERROR));
                    return Ok(());
                }
            }
            Ok(None) | Err(ReadError::Reset(_)) => return uni.end(),
            Err(_) => return Ok(()),
        }
    }
}
