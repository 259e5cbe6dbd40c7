// SPDX-License-Identifier: Apache-2.0
//! Hands snapshots and keys to the cores, together, the newest only. Keys are made of the own credentials and of whoever the
//! snapshot says vouches for other sites: a change of either makes new ones.

use crate::Error;
use crate::keys::{self, Keys};
use crate::worker::InForce;
use byrnie_engine::Snapshot;
use byrnie_net::tls::Credentials;
use std::cell::RefCell;
use std::sync::Arc;
use tokio::sync::{oneshot, watch};

/// Hands snapshots and keys to the cores.
pub(super) struct Publisher {
    held: RefCell<Held>,
    news: RefCell<Option<watch::Sender<InForce>>>,
    first: RefCell<Option<oneshot::Sender<watch::Receiver<InForce>>>>,
}

/// What the keys in force are made of.
struct Held {
    credentials: Arc<Credentials>,
    /// The snapshot whose sites are believed; `None` before the first.
    snapshot: Option<Arc<Snapshot>>,
    keys: Arc<Keys>,
}

impl Held {
    /// Makes the keys anew.
    fn renew(&mut self) -> Result<(), Error> {
        let own = self.credentials.trust_domain();
        let sites = self.snapshot.as_ref().map(|snapshot| keys::of_sites(snapshot, own)).unwrap_or_default();
        self.keys = Arc::new(Keys::new(&self.credentials, &sites, self.keys.generation + 1)?);
        Ok(())
    }

    /// Whether a snapshot believes other sites than the last one.
    fn differs(&self, snapshot: &Snapshot) -> bool {
        match &self.snapshot {
            Some(held) => !Arc::ptr_eq(held.sites(), snapshot.sites()) && held.sites() != snapshot.sites(),
            None => !snapshot.sites().is_empty(),
        }
    }
}

impl Publisher {
    /// A publisher with credentials but no configuration yet. The receiver learns of the first one.
    ///
    /// # Errors
    /// If the credentials can't be used.
    pub(super) fn new(
        credentials: Arc<Credentials>,
    ) -> Result<(Self, oneshot::Receiver<watch::Receiver<InForce>>), Error> {
        let (first, arrives) = oneshot::channel();
        let keys = Arc::new(Keys::new(&credentials, &[], 0)?);
        let held = RefCell::new(Held { credentials, snapshot: None, keys });
        Ok((Self { held, news: RefCell::new(None), first: RefCell::new(Some(first)) }, arrives))
    }

    /// A new configuration is in force.
    pub(super) fn snapshot(&self, snapshot: Arc<Snapshot>) {
        let mut held = self.held.borrow_mut();
        let differs = held.differs(&snapshot);
        held.snapshot = Some(Arc::clone(&snapshot));
        // The same credentials were usable before.
        if differs && let Err(error) = held.renew() {
            tracing::warn!(%error, "other sites than before aren't believed yet");
        }
        let keys = Arc::clone(&held.keys);
        drop(held);
        if let Some(news) = &*self.news.borrow() {
            news.send_modify(|in_force| {
                in_force.keys = keys;
                in_force.replace(snapshot);
            });
            return;
        }
        let (news, in_force) = watch::channel(InForce::new(snapshot, keys));
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

    /// Renewed credentials are in force.
    ///
    /// # Errors
    /// If they can't be used; then those before stay.
    pub(super) fn renew(&self, credentials: Arc<Credentials>) -> Result<(), Error> {
        let mut held = self.held.borrow_mut();
        let before = std::mem::replace(&mut held.credentials, credentials);
        if let Err(error) = held.renew() {
            held.credentials = before;
            return Err(error);
        }
        let keys = Arc::clone(&held.keys);
        drop(held);
        if let Some(news) = &*self.news.borrow() {
            news.send_modify(|in_force| in_force.keys = keys);
        }
        Ok(())
    }
}
