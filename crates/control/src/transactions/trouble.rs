// SPDX-License-Identifier: Apache-2.0
//! What an operator should know of transactions: that the journal can't be written, which is logged once when it
//! begins and once when it is over, however many transactions stand still meanwhile; and which wait for a decision.

use super::run::Coordinator;
use crate::console::Warning;
use byrnie_base::Text;
use byrnie_model::{Severity, code};
use byrnie_store::Error;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What the journal answered to writes.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    /// Writes that it refused since the start of the process.
    refused: AtomicU64,
    /// Whether it refused the last: `why` isn't locked for a write that succeeds after another that did.
    lasts: AtomicBool,
    /// Why, and how many had been refused before.
    why: Mutex<Option<(Text, u64)>>,
}

impl Trouble {
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    fn why(&self) -> MutexGuard<'_, Option<(Text, u64)>> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, error: Option<&Error>) {
        match error {
            None if self.lasts.load(Ordering::Relaxed) => {
                self.lasts.store(false, Ordering::Relaxed);
                if let Some((_, before)) = self.why().take() {
                    let refused = self.refused().saturating_sub(before);
                    tracing::warn!(refused, "the journal of transactions can be written again");
                }
            }
            Some(error @ (Error::Refused(_) | Error::Uncertain(_) | Error::Unreachable(_) | Error::Doubtful(_))) => {
                let before = self.refused.fetch_add(1, Ordering::Relaxed);
                let mut why = self.why();
                if why.is_none() {
                    tracing::error!(%error, "the journal of transactions can't be written: nothing begins, and what runs stands still until it can");
                    *why = Some((error.to_string().into(), before));
                    self.lasts.store(true, Ordering::Relaxed);
                }
            }
            // Written, or refused for what it was.
            None | Some(_) => {}
        }
    }
}

impl Coordinator {
    /// What came of a write to the journal, remembered.
    pub(super) fn noted(&self, written: Result<(), Error>) -> Result<(), Error> {
        self.counts.trouble.note(written.as_ref().err());
        written
    }

    /// What `status` warns of.
    pub fn warnings(&self) -> Vec<Warning> {
        let why = self.counts.trouble.why().as_ref().map(|(why, _)| why.clone());
        let refused = why.map(|why| (Severity::Error, &code::TXN_JOURNAL, why));
        let stuck = self.live().values().filter(|handle| handle.sight.borrow().state.is_stuck()).count();
        let message = format!("{stuck} transactions wait for a decision").into();
        let stuck = (stuck > 0).then_some((Severity::Warning, &code::TXN_STUCK, message));
        refused.into_iter().chain(stuck).collect()
    }
}
