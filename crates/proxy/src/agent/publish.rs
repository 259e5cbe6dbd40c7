// SPDX-License-Identifier: Apache-2.0
//! Hands snapshots and keys to the cores, together, the newest only.

use crate::keys::Keys;
use crate::worker::InForce;
use byrnie_engine::Snapshot;
use std::cell::RefCell;
use std::sync::Arc;
use tokio::sync::{oneshot, watch};

/// Hands snapshots and keys to the cores.
pub(super) struct Publisher {
    keys: RefCell<Arc<Keys>>,
    news: RefCell<Option<watch::Sender<InForce>>>,
    first: RefCell<Option<oneshot::Sender<watch::Receiver<InForce>>>>,
}

impl Publisher {
    /// A publisher with keys but no configuration yet. The receiver learns of the first one.
    pub(super) fn new(keys: Arc<Keys>) -> (Self, oneshot::Receiver<watch::Receiver<InForce>>) {
        let (first, arrives) = oneshot::channel();
        let publisher = Self { keys: RefCell::new(keys), news: RefCell::new(None), first: RefCell::new(Some(first)) };
        (publisher, arrives)
    }

    /// A new configuration is in force.
    pub(super) fn snapshot(&self, snapshot: Arc<Snapshot>) {
        if let Some(news) = &*self.news.borrow() {
            news.send_modify(|in_force| in_force.replace(snapshot));
            return;
        }
        let (news, in_force) = watch::channel(InForce::new(snapshot, Arc::clone(&self.keys.borrow())));
        *self.news.borrow_mut() = Some(news);
        if let Some(first) = self.first.borrow_mut().take() {
            // Nobody waits any more if the start was given up.
            let _ = first.send(in_force);
        }
    }

    /// What was kept is in force, unless something newer is.
    pub(super) fn kept(&self, snapshot: Arc<Snapshot>) {
        if self.news.borrow().is_none() {
            self.snapshot(snapshot);
        }
    }

    /// Renewed keys are in force.
    pub(super) fn keys(&self, keys: Keys) {
        let keys = Arc::new(keys);
        *self.keys.borrow_mut() = Arc::clone(&keys);
        if let Some(news) = &*self.news.borrow() {
            news.send_modify(|in_force| in_force.keys = keys);
        }
    }

    /// Which credentials are in force.
    pub(super) fn generation(&self) -> u64 {
        self.keys.borrow().generation
    }
}
