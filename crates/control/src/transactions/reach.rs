// SPDX-License-Identifier: Apache-2.0
//! Participants that are named by address. No registry tells of them, so one that gave no answer is tried again and
//! again as long as somebody waits for it: by connecting where nobody listens, and else by one of the calls that wait.
//! That somebody listens again, or has answered any call, wakes all that wait.

use super::recover::{Waiting, waiting, wake};
use super::run::Coordinator;
use byrnie_base::Text;
use byrnie_net::runtime;
use byrnie_saga::Event;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Pause between two looks, and the most that chance adds to it.
const PAUSE: (Duration, u64) = (Duration::from_millis(500), 100);
/// Each so many looks, one call is made where somebody listens.
const PROBE_LOOKS: usize = 2;
/// Addresses that are tried; what waits for others waits for its next call.
const TRIED_MAX: usize = 256;

/// Addresses that gave no answer.
#[derive(Default)]
pub(super) struct Silent {
    places: Mutex<BTreeMap<Text, Place>>,
    /// How many there are: most of the time none, which each answer looks at.
    count: AtomicUsize,
    news: Notify,
}

/// What is known of one.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// Whether somebody listens.
    listens: bool,
    /// Whether a call has been answered since.
    answered: bool,
    /// Whether nobody was seen to wait for it.
    idle: bool,
}

impl Silent {
    /// A call by address got no answer that says anything. If it's the first, whether somebody `listens` there counts.
    pub(super) fn missed(&self, place: &Text, listens: bool) {
        self.change(|places| {
            if let Some(known) = places.get_mut(place) {
                (known.answered, known.idle) = (false, false);
            } else if places.len() < TRIED_MAX {
                places.insert(place.clone(), Place { listens, ..Place::default() });
            }
        });
        self.news.notify_one();
    }

    /// Whether it is one of them already.
    pub(super) fn knows(&self, place: &Text) -> bool {
        self.count.load(Ordering::Relaxed) > 0 && self.places().contains_key(place)
    }

    /// A call by address got an answer.
    pub(super) fn answered(&self, place: &Text) {
        if self.count.load(Ordering::Relaxed) > 0
            && let Some(known) = self.places().get_mut(place)
        {
            known.answered = true;
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut BTreeMap<Text, Place>) -> T) -> T {
        let mut places = self.places();
        let changed = change(&mut places);
        self.count.store(places.len(), Ordering::Relaxed);
        changed
    }

    fn places(&self) -> MutexGuard<'_, BTreeMap<Text, Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes those that wait for an address as soon as it answers, or somebody listens there.
pub(super) async fn follow(coordinator: &Coordinator) {
    let silent = &coordinator.silent;
    for look in 0_usize.. {
        if silent.places().is_empty() {
            silent.news.notified().await;
        }
        // Not in step with others that lost the same.
        runtime::sleep(PAUSE.0 + Duration::from_millis(coordinator.roll() % PAUSE.1)).await;
        let Some(outbound) = coordinator.outbound.borrow().clone() else { continue };
        let waiting = waiting(coordinator, true);
        // Whoever has just missed one may not have been told yet: it goes when nobody waits for the second time.
        let places: Vec<Text> = silent.change(|places| {
            places.retain(|name, place| {
                let before = std::mem::replace(&mut place.idle, !waiting.contains_key(name));
                !(before && place.idle)
            });
            places.keys().cloned().collect()
        });
        for place in places {
            let waiting = waiting.get(&place).map_or(&[][..], Vec::as_slice);
            let Some(known) = silent.places().get(&place).copied() else { continue };
            if known.answered {
                silent.change(|places| places.remove(&place));
                wake(&place, waiting);
            } else if known.listens {
                if look % PROBE_LOOKS == 0 {
                    probe(&place, waiting, look / PROBE_LOOKS);
                }
            } else if outbound.reaches(&place).await {
                silent.places().entry(place.clone()).and_modify(|known| known.listens = true);
                wake(&place, waiting);
            }
        }
    }
}

/// Has one of those that wait call, each in its turn. One whose calls are counted waits for its own time.
fn probe(place: &Text, waiting: &[Waiting], turn: usize) {
    let free: Vec<&Waiting> = waiting.iter().filter(|one| !one.limited).collect();
    if let Some(one) = free.get(turn % free.len().max(1)) {
        one.tell(Event::Probe(place.clone()));
    }
}
