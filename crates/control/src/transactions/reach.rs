// SPDX-License-Identifier: Apache-2.0
//! Participants that are named by address. No registry tells of them, so one where nobody listens is tried again and
//! again as long as somebody waits for it; that somebody listens wakes those who wait.

use super::Outbound;
use super::recover::{waiting, wake};
use super::run::Coordinator;
use byrnie_base::Text;
use byrnie_net::runtime;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(500);
/// Addresses that are tried; what waits for others waits for its next call.
const TRIED_MAX: usize = 256;

/// Addresses where nobody listens.
#[derive(Default)]
pub(super) struct Silent {
    /// Each with whether nobody was seen to wait for it.
    places: Mutex<BTreeMap<Text, bool>>,
    news: Notify,
}

impl Silent {
    /// A call by address got no answer. If nobody listens there, that is remembered; one who listens and says
    /// nothing is called again by the clock alone.
    pub(super) async fn missed(&self, outbound: &dyn Outbound, place: &Text) {
        if self.places().len() < TRIED_MAX && !outbound.reaches(place).await {
            self.places().insert(place.clone(), false);
            self.news.notify_one();
        }
    }

    fn places(&self) -> MutexGuard<'_, BTreeMap<Text, bool>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes those that wait for an address as soon as somebody listens there.
pub(super) async fn follow(coordinator: &Coordinator) {
    let silent = &coordinator.silent;
    loop {
        if silent.places().is_empty() {
            silent.news.notified().await;
        }
        runtime::sleep(PAUSE).await;
        let Some(outbound) = coordinator.outbound.borrow().clone() else { continue };
        let waiting = waiting(coordinator, true);
        // Whoever has just missed one may not have been told yet: it goes when nobody waits for the second time.
        silent.places().retain(|place, idle| {
            let before = std::mem::replace(idle, !waiting.contains_key(place));
            !(before && *idle)
        });
        let places: Vec<Text> = silent.places().keys().cloned().collect();
        for place in places {
            if outbound.reaches(&place).await {
                silent.places().remove(&place);
                wake(&place, waiting.get(&place).map_or(&[], Vec::as_slice));
            }
        }
    }
}
