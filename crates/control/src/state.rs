// SPDX-License-Identifier: Apache-2.0
//! `State`: what every role of the control plane shares. The hub behind it is a pure struct; its lock
//! is held for the time of one event and never while waiting.

use crate::ads::{Hub, Proxy};
use byrnie_base::{Clock, Now, Text};
use byrnie_catalog::Catalog;
use byrnie_model::{Key, Revision};
use byrnie_store::Store;
use byrnie_xds::server::Nack;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Most stored entries that are reported as unreadable.
const BAD_ENTRIES_MAX: usize = 1_000;

/// What the roles share.
pub struct State {
    /// Where everything is kept.
    pub store: Arc<dyn Store>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The domain of every identity.
    pub trust_domain: Text,
    hub: Mutex<Hub>,
    bad: Mutex<BTreeMap<Text, Text>>,
    revision: watch::Sender<Revision>,
}

/// What proxies made of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The proxy.
    pub proxy: Text,
    /// What it refused and why.
    pub nack: Nack,
}

impl State {
    /// A state that knows nothing yet.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, trust_domain: Text) -> Self {
        Self {
            hub: Mutex::new(Hub::new(trust_domain.clone())),
            store,
            clock,
            trust_domain,
            bad: Mutex::default(),
            revision: watch::Sender::new(Revision(0)),
        }
    }

    /// The time now.
    pub fn now(&self) -> Now {
        self.clock.now()
    }

    /// Asks the catalog. Nothing else happens meanwhile: be brief, never wait inside.
    pub fn catalog<T>(&self, ask: impl FnOnce(&Catalog) -> T) -> T {
        ask(self.hub().catalog())
    }

    /// The newest revision that the catalog has taken in.
    pub fn revision(&self) -> Revision {
        *self.revision.borrow()
    }

    /// Learns of each newer revision, after the catalog has taken it in.
    pub fn revisions(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }

    /// Every proxy that has a stream, in order of name.
    pub fn proxies(&self) -> Vec<Proxy> {
        self.hub().proxies()
    }

    /// Which proxies refused a resource, and why.
    pub fn refusals(&self, key: &Key) -> Vec<Refusal> {
        self.hub().refusals(key)
    }

    /// Stored entries that couldn't be read: the store's key, and why.
    pub fn bad_entries(&self) -> Vec<(Text, Text)> {
        let bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        bad.iter().map(|(key, why)| (key.clone(), why.clone())).collect()
    }

    pub(crate) fn hub(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn advance(&self, revision: Revision) {
        self.revision.send_if_modified(|newest| {
            let newer = revision > *newest;
            *newest = revision.max(*newest);
            newer
        });
    }

    /// Remembers that a stored entry can't be read, or that it can again.
    pub(crate) fn judge(&self, store_key: &Text, problem: Option<Text>) {
        let mut bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        match problem {
            None => {
                bad.remove(store_key);
            }
            Some(problem) if bad.len() < BAD_ENTRIES_MAX || bad.contains_key(store_key) => {
                bad.insert(store_key.clone(), problem);
            }
            Some(_) => {}
        }
    }
}
