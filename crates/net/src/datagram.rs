// SPDX-License-Identifier: Apache-2.0
//! Flows of UDP. At a listening socket a [`Door`] tells flows apart by their sources; to a program each has a socket of its own.
//! Either end is a [`Datagrams`], which a relay reads and writes as a stream of capsules, as it travels between proxies. What
//! can't be kept or sent is dropped and counted, as UDP allows. It never looks at what passes.

use crate::http::Alarm;
use crate::listen::{Listener, RECEIVE_BYTES};
use crate::runtime::{self, Owned};
use byrnie_base::Instant;
use byrnie_codec::capsule::{DATAGRAM_BYTES_MAX, Reader};
use socket2::{Domain, Type};
use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UdpSocket;

mod door;
mod inbox;
#[cfg(test)]
mod tests;

pub use door::{Door, FLOWS_MAX};
pub use inbox::{QUEUED_ALL_BYTES_MAX, QUEUED_BYTES_MAX};

use inbox::{End, Inbox, One};

/// How long a flow may rest, unless something else is said. Longer than resolvers wait, shorter than NATs forget (RFC 4787 4.3
/// has two minutes; Linux keeps what was answered once for 30 s, and longer what goes on).
pub const IDLE: Duration = Duration::from_secs(60);
/// The same of a flow that was asked one thing and answered it: resolvers ask each question from a port of its own, and each of
/// these flows holds a port of the callee's machine, which has some 28,000 (RFC 6056 3.2). Never longer than what is said of all.
pub const ANSWERED_IDLE: Duration = Duration::from_secs(10);
/// How long a program's answers are still taken once its caller's end has said that no more comes.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long nothing of a source is taken whose flow was refused: else each of its datagrams would be asked about anew.
const SHUT_FOR: Duration = Duration::from_secs(1);
/// Datagrams of one socket that are read before others have their turn.
const TURN_MAX: usize = 64;
/// How long is waited after the system has failed to read.
const PAUSE: Duration = Duration::from_millis(5);
/// Room for one datagram, and to see that one is too long.
const BUFFER_BYTES: usize = 64 * 1024;

/// Why a datagram was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Dropped {
    /// [`QUEUED_BYTES_MAX`] of its flow, or [`QUEUED_ALL_BYTES_MAX`], waited already.
    Queue,
    /// There were [`FLOWS_MAX`], and none rested for long enough to make room.
    Flows,
    /// Its flow was refused a moment ago.
    Refused,
    /// It was longer than [`DATAGRAM_BYTES_MAX`].
    Size,
    /// The socket that it was to leave by didn't take it.
    Socket,
}

impl Dropped {
    /// All of them, in the order of [`dropped`].
    pub const ALL: [Self; 5] = [Self::Queue, Self::Flows, Self::Refused, Self::Size, Self::Socket];

    /// As metrics say it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Flows => "flows",
            Self::Refused => "refused",
            Self::Size => "size",
            Self::Socket => "socket",
        }
    }
}

thread_local! {
    static DROPPED: [Cell<u64>; Dropped::ALL.len()] = const { [const { Cell::new(0) }; Dropped::ALL.len()] };
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// Bytes that wait in the flows to programs.
    static QUEUED: Rc<Cell<usize>> = Rc::default();
}

/// Datagrams that this thread has dropped so far, by why.
pub fn dropped() -> [u64; Dropped::ALL.len()] {
    DROPPED.with(|counts| counts.each_ref().map(Cell::get))
}

fn count(why: Dropped) {
    DROPPED.with(|counts| counts[why as usize].set(counts[why as usize].get() + 1));
}

/// Runs `read` with room for a datagram.
fn with_buffer<T>(read: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(BUFFER_BYTES, 0);
        read(buffer)
    })
}

/// One end of a flow. Read, it gives capsules of what came by its socket; what is written is taken apart and leaves by it.
#[derive(Debug)]
pub struct Datagrams {
    inbox: Rc<RefCell<Inbox>>,
    out: Out,
    reader: Reader,
    /// One that the socket hadn't room for yet.
    waits: Option<Vec<u8>>,
    alarm: Alarm,
    due: Due,
}

/// Where datagrams leave.
#[derive(Debug)]
enum Out {
    /// To the source of a flow, by the socket that it came to.
    Caller {
        socket: Rc<UdpSocket>,
        to: SocketAddr,
        /// Among the flows of that socket.
        _one: One,
        /// Nothing of the source is taken for a while.
        shuts: bool,
    },
    /// To a program, by a socket of the flow's own, from which a task reads.
    Program { socket: Rc<UdpSocket>, _pump: Owned },
}

/// When it ends by itself.
#[derive(Clone, Copy, Debug)]
enum Due {
    Never,
    /// Once nothing has passed for so long.
    Rested(Duration),
    At(Instant),
}

/// A flow to a program, from a socket of its own.
///
/// # Errors
/// If there is no socket to be had.
pub fn connect(to: SocketAddr) -> io::Result<Datagrams> {
    let socket = socket2::Socket::new(Domain::for_address(to), Type::DGRAM, Some(socket2::Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    // What the system gives of it is enough.
    let _ = socket.set_recv_buffer_size(RECEIVE_BYTES);
    connect_by(socket, to)
}

/// The same from this socket, which doesn't block.
fn connect_by(socket: socket2::Socket, to: SocketAddr) -> io::Result<Datagrams> {
    socket.connect(&to.into())?;
    let socket = std::net::UdpSocket::from(socket);
    // From now on only what the program sends comes in. What came between the choice of a port and this is somebody else's: the
    // program has been asked nothing yet.
    for _ in 0..TURN_MAX {
        if socket.recv(&mut [0]).is_err() {
            break;
        }
    }
    let socket = UdpSocket::from_std(socket)?;
    let all = QUEUED.with(Rc::clone);
    let (socket, inbox) = (Rc::new(socket), Rc::new(RefCell::new(Inbox::new(all, None))));
    let pump = runtime::spawn_local("datagrams", pump(Rc::clone(&socket), Rc::clone(&inbox))).abort_on_drop();
    Ok(Datagrams::new(inbox, Out::Program { socket, _pump: pump }))
}

/// Reads what a program sends, whether or not somebody takes it: what can't be kept is counted.
async fn pump(socket: Rc<UdpSocket>, inbox: Rc<RefCell<Inbox>>) {
    loop {
        let failed = match socket.ready(Interest::READABLE | Interest::ERROR).await {
            // That nobody is there is said by an error alone, without anything to be read.
            Ok(ready) if ready.is_error() => taken_error(&socket),
            Ok(_) => with_buffer(|buffer| {
                for _ in 0..TURN_MAX {
                    match socket.try_recv(buffer) {
                        Ok(length) => inbox.borrow_mut().put(&buffer[..length]),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(error) => return Some(error),
                    }
                }
                None
            }),
            Err(error) => Some(error),
        };
        match failed {
            Some(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                return inbox.borrow_mut().end(End::Failed(error.kind()));
            }
            // Of one datagram, or of the moment.
            Some(error) => {
                tracing::debug!(%error, "a program's datagram can't be read");
                runtime::sleep(PAUSE).await;
            }
            None => tokio::task::yield_now().await,
        }
    }
}

/// What has gone wrong with a socket since it was last asked.
fn taken_error(socket: &UdpSocket) -> Option<io::Error> {
    let error = socket.take_error().unwrap_or_else(Some);
    // Until the next one the reactor is to say nothing of it.
    let _ = socket.try_io(Interest::ERROR, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
    error
}

impl Datagrams {
    fn new(inbox: Rc<RefCell<Inbox>>, out: Out) -> Self {
        Self { inbox, out, reader: Reader::default(), waits: None, alarm: Alarm::new(), due: Due::Never }
    }

    /// It ends in order once nothing has passed for `span`.
    pub fn rests_for(&mut self, span: Duration) {
        self.due = Due::Rested(span);
    }

    /// It is refused: what comes from its source in the next moment is dropped.
    pub fn refuse(&mut self) {
        if let Out::Caller { shuts, .. } = &mut self.out {
            *shuts = true;
        }
    }

    /// Sends one datagram; `Pending` if the socket has no room, where that can be waited for.
    fn poll_pass(&mut self, cx: &mut Context<'_>, datagram: &[u8]) -> Poll<io::Result<()>> {
        let sent = match &self.out {
            // Many flows share it, and only one could be told that there is room.
            Out::Caller { socket, to, .. } => socket.try_send_to(datagram, *to),
            Out::Program { socket, .. } => ready!(socket.poll_send(cx, datagram)),
        };
        match sent {
            Ok(_) => self.inbox.borrow_mut().moved(),
            // Nobody is there.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Poll::Ready(Err(error)),
            Err(_) => count(Dropped::Socket),
        }
        Poll::Ready(Ok(()))
    }

    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(waits) = self.waits.take() else { return Poll::Ready(Ok(())) };
        let passed = self.poll_pass(cx, &waits);
        if passed.is_pending() {
            self.waits = Some(waits);
        }
        passed
    }

    /// Whether its time is over.
    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let due = match self.due {
                Due::Never => return Poll::Pending,
                Due::Rested(span) => self.inbox.borrow().rests_until(span),
                Due::At(due) => due,
            };
            if runtime::now().mono >= due {
                return Poll::Ready(());
            }
            self.alarm.set(Some(due));
            ready!(self.alarm.poll(cx));
        }
    }
}

impl AsyncRead for Datagrams {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Poll::Ready(read) = this.inbox.borrow_mut().poll_take(cx, buf) {
            return Poll::Ready(read);
        }
        ready!(this.poll_due(cx));
        this.inbox.borrow_mut().end(End::Over);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Datagrams {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_waiting(cx))?;
        let (mut rest, mut reader) = (bytes, std::mem::take(&mut this.reader));
        let taken = loop {
            match reader.next(&mut rest) {
                Ok(Some(datagram)) => match this.poll_pass(cx, datagram) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => break Err(error),
                    Poll::Pending => {
                        this.waits = Some(datagram.to_vec());
                        break Ok(());
                    }
                },
                Ok(None) => break Ok(()),
                Err(wrong) => break Err(io::Error::new(io::ErrorKind::InvalidData, wrong)),
            }
        };
        this.reader = reader;
        Poll::Ready(taken.map(|()| bytes.len() - rest.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_waiting(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_waiting(cx))?;
        match &this.out {
            // What comes from there now begins another.
            Out::Caller { .. } => this.inbox.borrow_mut().end(End::Over),
            Out::Program { .. } => {
                this.due = Due::At(runtime::now().mono + FAREWELL);
                // Who reads is to know until when.
                this.inbox.borrow_mut().wake();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        if let Out::Caller { shuts, .. } = &self.out {
            let until = shuts.then(|| runtime::now().mono + SHUT_FOR);
            self.inbox.borrow_mut().leave(until);
        }
    }
}

/// Whether a datagram is short enough; counted if it isn't.
fn fits(datagram: &[u8]) -> bool {
    let fits = datagram.len() <= DATAGRAM_BYTES_MAX;
    if !fits {
        count(Dropped::Size);
    }
    fits
}

/// Whether datagrams to `port` of this machine find somebody, where the system tells (Linux, in `/proc`); elsewhere it's taken
/// for granted.
pub fn is_taken(port: u16) -> bool {
    crate::listen::takes_datagrams(port)
}

/// A door at a listener's socket, on this thread's reactor.
///
/// # Errors
/// If no datagrams come in by it, or the reactor doesn't take it.
pub fn open(listener: &Listener) -> io::Result<Door> {
    listener.datagrams().map(|socket| Door::new(Rc::new(socket)))
}
