// SPDX-License-Identifier: Apache-2.0
//! `Watch`: a cursor over the store's history. It holds no queue of its own, so a slow watcher costs
//! nothing and never holds up a writer: when history has moved past it, it is told to read anew.

use crate::state::{Read, Shared};
use crate::store::Event;
use byrnie_base::Text;
use byrnie_model::Revision;
use std::sync::Arc;
use tokio::sync::watch::Receiver;

/// Changes under a prefix, in order, each revision once and whole.
pub struct Watch {
    shared: Arc<Shared>,
    newest: Receiver<Newest>,
    prefix: Text,
    seen: Revision,
}

impl Watch {
    pub(crate) fn new(shared: Arc<Shared>, prefix: Text, from: Revision) -> Self {
        let newest = shared.newest.subscribe();
        Self { shared, newest, prefix, seen: from }
    }

    /// Everything before and at this revision has been handed out. A later watch may resume from here.
    pub const fn revision(&self) -> Revision {
        self.seen
    }

    /// The next revision that touches the prefix; waits until there is one.
    pub async fn next(&mut self) -> Result<Changes, Ended> {
        loop {
            self.newest.borrow_and_update();
            if let Some(changes) = self.try_next()? {
                return Ok(changes);
            }
            if self.newest.changed().await.is_err() {
                return Err(Ended::Closed);
            }
        }
    }

    /// The next revision that touches the prefix, if there is one yet.
    pub fn try_next(&mut self) -> Result<Option<Changes>, Ended> {
        let state = self.shared.read();
        match state.after(self.seen, &self.prefix) {
            Read::Compacted(oldest) => Err(Ended::Compacted { oldest }),
            Read::Changes(changes) => {
                self.seen = changes.revision;
                Ok(Some(changes))
            }
            Read::UpToDate(revision) => {
                self.seen = revision;
                if self.newest.borrow().closed { Err(Ended::Closed) } else { Ok(None) }
            }
        }
    }
}

/// What one revision changed under the prefix of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// The revision.
    pub revision: Revision,
    /// All its events under the prefix, in the order of the transaction.
    pub events: Vec<Event>,
}

/// Why a watch has no next change and never will.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// The watcher is further behind than history reaches. List, then watch from that revision.
    #[error("history before revision {oldest} is compacted: list again, then watch from there")]
    Compacted {
        /// A watch from this revision or a later one still works.
        oldest: Revision,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// What watchers are woken by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Newest {
    pub(crate) revision: Revision,
    pub(crate) closed: bool,
}
