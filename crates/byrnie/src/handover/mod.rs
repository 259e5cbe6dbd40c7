// SPDX-License-Identifier: Apache-2.0
//! A proxy is replaced by a new process, of this version or another, while its ports and the program beside it stay.
//! [`Post`] keeps one proxy in its place, for `run` and `up`, whichever process it runs in: at first their own, from the
//! first upgrade on a child, the [`heir`], which is what [`successor`] runs. `up` itself then becomes the new version in place, by
//! a [`will`]. All listeners are handed to it, so that
//! nothing is ever refused; `byrnie upgrade` asks for it by [`attend`]'s door.

mod charge;
mod door;
mod heir;
mod post;
mod successor;
mod will;

pub(crate) use charge::Charge;
pub(crate) use door::{DOOR, Done, Request, attend, refused, tell_of_control};
pub(crate) use post::{News, Post};
pub(crate) use successor::run;
pub(crate) use will::{Belongings, Inherited, TRIAL, Will, try_out};

use crate::failure::Failure;
use byrnie_net::listen::Listener;
use byrnie_net::local::{FILES_MAX, Tether};
use byrnie_proxy::Handed;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;
use tokio::sync::mpsc;

/// The form of what is said here between processes, of which one may be older than the other. Whoever is asked in a
/// form that it doesn't speak says so and does nothing.
pub(crate) const FORMAT: u32 = 1;

/// Listening sockets that one proxy may leave to the next.
const SOCKETS_MAX: usize = 64 * 1024;
/// What was said and waits to be looked at.
const WAITING_MAX: usize = 8;
/// Stands for a message that only carries files.
const FILES: &[u8] = b"files";

/// What a process says to its heir.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "camelCase")]
enum Ask {
    /// Be this proxy, at these listeners.
    Begin { charge: Box<Charge>, doors: Vec<Left> },
    /// Say which listeners are open.
    Give,
    /// Another heir comes, or doesn't after all.
    HandOver { comes: bool },
    /// Another heir serves: end, within so many milliseconds.
    Retire { millis: u64 },
    /// The program is about to end: see its callers off.
    Leave { millis: u64 },
    /// The program has ended: end.
    Drain { millis: u64 },
}

/// What an heir says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "tell", rename_all = "camelCase")]
enum Tell {
    /// It serves.
    Serves { version: String },
    /// It can't.
    Refuses { code: String, detail: String, next: String },
    /// These are open; their sockets come along.
    Given { doors: Vec<Left> },
    /// What callers had under way has ended.
    Left,
    /// It has ended; whether all of its work had.
    Ended { whole: bool },
}

/// A listener that travels: what it stands for, and how many sockets it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Left {
    door: String,
    sockets: usize,
}

impl Tell {
    fn refuses(failure: &Failure) -> Self {
        let Failure { code, detail, next, .. } = failure.clone();
        Self::Refuses { code, detail, next }
    }
}

/// Says something, with listeners and other files. `say` names the listeners.
fn send(
    tether: &Tether,
    listeners: &[Handed],
    files: &[BorrowedFd<'_>],
    say: impl FnOnce(Vec<Left>) -> io::Result<Vec<u8>>,
) -> io::Result<()> {
    let mut all: Vec<_> = listeners.iter().flat_map(|handed| &handed.sockets).map(AsFd::as_fd).collect();
    all.extend(files);
    for some in all.chunks(FILES_MAX) {
        tether.send(FILES, some)?;
    }
    let left = |handed: &Handed| Left { door: handed.door.clone(), sockets: handed.sockets.len() };
    tether.send(&say(listeners.iter().map(left).collect())?, &[])
}

fn form(say: &impl Serialize) -> io::Result<Vec<u8>> {
    serde_json::to_vec(say).map_err(io::Error::other)
}

/// What is said by a tether.
trait Said: DeserializeOwned + Send + 'static {
    /// Listeners that come along.
    fn doors(&self) -> &[Left];
}

impl Said for Ask {
    fn doors(&self) -> &[Left] {
        if let Self::Begin { doors, .. } = self { doors } else { &[] }
    }
}

impl Said for Tell {
    fn doors(&self) -> &[Left] {
        if let Self::Given { doors } = self { doors } else { &[] }
    }
}

/// Hands on what is said, by a thread that ends with whoever says it.
fn listen<T: Said>(tether: Tether) -> io::Result<mpsc::Receiver<(T, Vec<Handed>)>> {
    let (tell, told) = mpsc::channel(WAITING_MAX);
    let mut inbox = Inbox { tether, files: VecDeque::new() };
    let hear = move || {
        loop {
            let said = match inbox.next() {
                Ok(Some(said)) => said,
                Ok(None) => return,
                Err(error) => return tracing::error!(%error, "another process of byrnie says what makes no sense"),
            };
            if tell.blocking_send(said).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("byrnie-tether".to_owned()).stack_size(512 * 1024).spawn(hear)?;
    Ok(told)
}

/// What comes in by a tether.
struct Inbox {
    tether: Tether,
    files: VecDeque<OwnedFd>,
}

impl Inbox {
    /// Waits for what is said next, and for its listeners; `None` at the end. Blocks.
    fn next<T: Said>(&mut self) -> io::Result<Option<(T, Vec<Handed>)>> {
        loop {
            let Some((message, files)) = self.tether.receive()? else { return Ok(None) };
            self.files.extend(files);
            if self.files.len() > SOCKETS_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "too many sockets"));
            }
            if message != FILES {
                let said: T = serde_json::from_slice(&message)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
                let listeners = said.doors().iter().map(|left| self.take(left)).collect::<io::Result<_>>()?;
                return Ok(Some((said, listeners)));
            }
        }
    }

    fn take(&mut self, left: &Left) -> io::Result<Handed> {
        let missing = || io::Error::new(io::ErrorKind::InvalidData, format!("{} comes without its sockets", left.door));
        let mut sockets = Vec::new();
        for _ in 0..left.sockets {
            sockets.push(Listener::from_fd(self.files.pop_front().ok_or_else(missing)?)?);
        }
        Ok(Handed { door: left.door.clone(), sockets })
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
