// SPDX-License-Identifier: Apache-2.0
//! The two services that a saga calls. They do nothing but keep a book: which branch of which saga took effect how
//! often, so that a lost or a doubled effect is seen.

use super::message::Incoming;
use crate::tally::now;
use anyhow::{Context, Result, bail};
use byrnie_net::io::Stream;
use byrnie_net::listen::{self, Share};
use byrnie_net::runtime;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Instant;
use tokio::io::AsyncWriteExt;

/// Branches of a saga, each at a service of its own.
pub(super) const BRANCHES: usize = 2;

/// How a call is received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Gate {
    /// It takes effect and is answered.
    #[default]
    Open,
    /// It's never answered, and has no effect.
    Held,
    /// Its connection is closed, and it has no effect.
    Down,
}

/// What took effect.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) gate: Cell<Gate>,
    sagas: RefCell<HashMap<String, Effects>>,
    /// Calls that took effect.
    calls: Cell<u64>,
    /// Sagas of which every branch took effect.
    whole: Cell<usize>,
    /// When the first and the last of these became whole.
    ends: Cell<Option<(Instant, Instant)>>,
}

#[derive(Debug, Default)]
struct Effects {
    actions: [u32; BRANCHES],
    undone: u32,
}

/// What was wrong with the effects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Faults {
    /// Branches of acknowledged sagas that never took effect.
    pub(super) lost: u64,
    /// Effects beyond the first of a branch.
    pub(super) doubled: u64,
    /// Compensations, of which there is never a reason.
    pub(super) undone: u64,
}

impl Book {
    pub(super) fn calls(&self) -> u64 {
        self.calls.get()
    }

    /// Sagas of which every branch took effect, and when the first and the last of them did.
    pub(super) fn whole(&self) -> (usize, Option<(Instant, Instant)>) {
        (self.whole.get(), self.ends.get())
    }

    /// Writes down the call that came with this start line.
    fn enter(&self, start: &str) -> Result<()> {
        let target = start.split(' ').nth(1).context("no target")?;
        let query = target.split_once('?').map_or("", |(_, query)| query);
        let value =
            |wanted: &str| query.split('&').filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == wanted);
        let (_, gid) = value("gid").context("no gid")?;
        let (_, branch) = value("branch_id").context("no branch_id")?;
        let branch = branch.parse::<usize>()?.checked_sub(1).filter(|at| *at < BRANCHES).context("no such branch")?;
        let mut sagas = self.sagas.borrow_mut();
        let effects = sagas.entry(gid.to_owned()).or_default();
        if value("op").is_some_and(|(_, op)| op == "action") {
            let before = effects.actions;
            effects.actions[branch] += 1;
            if before[branch] == 0 && effects.actions.iter().all(|times| *times > 0) {
                self.whole.set(self.whole.get() + 1);
                let end = now();
                self.ends.set(Some((self.ends.get().map_or(end, |(first, _)| first), end)));
            }
        } else {
            effects.undone += 1;
        }
        self.calls.set(self.calls.get() + 1);
        Ok(())
    }

    /// What was wrong, if these sagas were acknowledged as done.
    pub(super) fn faults(&self, acknowledged: &[String]) -> Faults {
        let sagas = self.sagas.borrow();
        let mut faults = Faults::default();
        for gid in acknowledged {
            let actions = sagas.get(gid).map_or([0; BRANCHES], |effects| effects.actions);
            faults.lost += actions.iter().filter(|times| **times == 0).count() as u64;
        }
        for effects in sagas.values() {
            faults.doubled += effects.actions.iter().map(|times| u64::from(times.saturating_sub(1))).sum::<u64>();
            faults.undone += u64::from(effects.undone);
        }
        faults
    }
}

/// Free ports of loopback.
pub(super) const ANYWHERE: [SocketAddr; BRANCHES] = [SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0); BRANCHES];

/// Opens the services, one for each branch; where they are.
pub(super) fn open(book: &Rc<Book>, at: &[SocketAddr]) -> Result<Vec<SocketAddr>> {
    if at.len() != BRANCHES {
        bail!("{} addresses for {BRANCHES} participants", at.len());
    }
    let mut places = Vec::new();
    for place in at {
        let listener = listen::bind(*place, Share::Alone).map_err(|error| error.error)?;
        places.push(listener.local_addr());
        let book = Rc::clone(book);
        runtime::spawn_local("participant", async move {
            loop {
                let (tcp, _) = listener.accept().await;
                let book = Rc::clone(&book);
                runtime::spawn_local("participant call", async move {
                    // Whoever calls sees that it was not answered.
                    let _ = serve(tcp.into(), &book).await;
                });
            }
        });
    }
    Ok(places)
}

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";

async fn serve(mut stream: Stream, book: &Book) -> Result<()> {
    let mut incoming = Incoming::default();
    while let Some(message) = incoming.next(&mut stream).await? {
        match book.gate.get() {
            Gate::Open => book.enter(&message.start)?,
            Gate::Down => return Ok(()),
            Gate::Held => {
                // Until the other side is gone.
                while incoming.next(&mut stream).await?.is_some() {}
                return Ok(());
            }
        }
        stream.write_all(ANSWER).await?;
        stream.flush().await?;
        if message.last {
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_or_doubled_or_taken_back_is_seen() {
        let book = Book::default();
        let call = |gid: &str, branch: usize, op: &str| {
            book.enter(&format!("POST /x?branch_id=0{branch}&gid={gid}&op={op}&trans_type=saga HTTP/1.1"))
        };
        call("a", 1, "action").unwrap();
        call("a", 2, "action").unwrap();
        call("b", 1, "action").unwrap();
        let both = ["a".to_owned(), "b".to_owned()];
        assert_eq!((book.whole().0, book.faults(&both)), (1, Faults { lost: 1, doubled: 0, undone: 0 }));
        call("a", 2, "action").unwrap();
        call("b", 1, "compensate").unwrap();
        assert_eq!((book.whole().0, book.faults(&both)), (1, Faults { lost: 1, doubled: 1, undone: 1 }));
        assert_eq!(book.faults(&["c".to_owned()]).lost, 2);
        assert!(call("a", 3, "action").is_err());
    }
}
