// SPDX-License-Identifier: Apache-2.0
//! `/byrnie.v1.Ledger/Batch`: what proxies ask about idempotency keys. A proxy speaks for the services of its
//! own workload alone. `neighbours` lets those of control planes that keep the same ledger ask here, too; `sealed` is what answers rest under. All asks of a call are put to the store at once, so that they share one durable
//! step with each other and with those of other proxies. Called by `port` with the peer's proven identity.

pub(crate) mod neighbours;
mod sealed;

pub use sealed::Sealed;

use crate::State;
use byrnie_base::{Instant, Text};
use byrnie_model::{Identity, ServiceRef};
use byrnie_net::grpc::Status;
use byrnie_net::runtime;
use byrnie_saga::ledger::State as Standing;
use byrnie_saga::ledger::{Begin, Begun, Claim, Ending, Entry, Fingerprint, Finished, LEASE_MAX, Name, TTL_MAX};
use byrnie_store::Ledger;
use byrnie_store::ledger::Neighbour;
use byrnie_xds::proto::byrnie::v1 as wire;
use byrnie_xds::proto::byrnie::v1::{ledger_answer as answer, ledger_ask as ask, ledger_finish as finish};
use std::collections::HashMap;
use std::future::poll_fn;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

/// Asks in one call.
const ASKS_MAX: usize = 256;
/// Pairs of an identity and a service that are remembered as having begun something.
const BEGAN_MAX: usize = 100_000;
/// How often what is over is forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// The role that keeps idempotency keys.
pub struct Keeper {
    ledger: Arc<dyn Ledger>,
    /// Who was let begin something for which service, and until when that may be ended: an instance that
    /// has left the registry still tells how its last requests ended.
    began: Mutex<HashMap<(Identity, ServiceRef), Instant>>,
    /// Who else keeps the ledger, and by which number proxies know that.
    neighbours: Mutex<(u64, Vec<wire::LedgerNeighbour>)>,
}

/// Whose proxy asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// One of this control plane: it is an instance that the registry knows.
    Own,
    /// One of another that keeps the same ledger: an instance of the service has its identity here, too.
    Neighbours,
}

impl Keeper {
    /// A keeper of `ledger`.
    pub fn new(ledger: Arc<dyn Ledger>) -> Self {
        Self { ledger, began: Mutex::default(), neighbours: Mutex::default() }
    }

    /// Who else keeps the ledger.
    fn know(&self, others: Vec<Neighbour>) {
        let mut hasher = DefaultHasher::new();
        others.hash(&mut hasher);
        // 0 is for ledgers that nobody shares.
        let known = hasher.finish().max(1);
        let named = |other: Neighbour| wire::LedgerNeighbour {
            address: other.address.to_string(),
            roots: other.roots.to_string(),
        };
        let named = others.into_iter().map(named).collect();
        *self.neighbours.lock().unwrap_or_else(PoisonError::into_inner) = (known, named);
    }

    /// Answers each ask, in order.
    ///
    /// # Errors
    /// If the peer may not speak for one of the services, or an ask can't be read: then none is answered.
    pub async fn answer(
        &self,
        state: &State,
        peer: (&Identity, Whose),
        request: wire::LedgerRequest,
    ) -> Result<wire::LedgerResponse, Status> {
        if request.asks.len() > ASKS_MAX {
            return Err(Status::invalid_argument(format!("a call holds at most {ASKS_MAX} asks")));
        }
        let mut pending: Vec<Pin<Box<dyn Future<Output = answer::What> + Send + '_>>> = Vec::new();
        for ask in request.asks {
            let (name, claim, what) = self.admit(state, peer, &request.node, ask)?;
            pending.push(match what {
                ask::What::Begin(begin) => {
                    let begin = begin_of(claim, &begin)?;
                    Box::pin(async move { outcome(self.ledger.begin(name, begin).await, begun) })
                }
                ask::What::Finish(finish) => {
                    let request = match &*finish.fingerprint {
                        // As proxies say of before.
                        [] => None,
                        bytes => Some(fingerprint_of(bytes)?),
                    };
                    let ending = ending_of(finish)?;
                    Box::pin(async move {
                        let ended = match request {
                            Some(request) => self.ledger.finish_request(name, request, claim, ending),
                            None => self.ledger.finish(name, claim, ending),
                        };
                        outcome(ended.await, finished)
                    })
                }
                ask::What::Read(_) => {
                    let now = state.now().wall;
                    Box::pin(async move { outcome(self.ledger.read(name).await, |entry| read(entry, now)) })
                }
            });
        }
        let answers = all(pending).await;
        let answers = answers.into_iter().map(|what| wire::LedgerAnswer { what: Some(what) }).collect();
        let mut response = wire::LedgerResponse { answers, ..Default::default() };
        if peer.1 == Whose::Own {
            let neighbours = self.neighbours.lock().unwrap_or_else(PoisonError::into_inner);
            response.known = neighbours.0;
            if request.known != neighbours.0 {
                response.neighbours.clone_from(&neighbours.1);
            }
        }
        Ok(response)
    }

    fn admit(
        &self,
        state: &State,
        peer: (&Identity, Whose),
        node: &str,
        ask: wire::LedgerAsk,
    ) -> Result<(Name, Claim, ask::What), Status> {
        let malformed = |what: &str| Status::invalid_argument(format!("an ask of the ledger without {what}"));
        let service = ask.service.ok_or_else(|| malformed("service"))?;
        let service = ServiceRef::new(service.namespace, service.name);
        let what = ask.what.ok_or_else(|| malformed("a question"))?;
        let now = state.now().mono;
        if !self.may_speak(state, peer, node, &service, &what, now) {
            let peer = peer.0;
            return Err(Status::permission_denied(format!("{peer} is not an instance of {service} called {node}")));
        }
        let name = Name { service: Text::from(service.to_string()), caller: ask.caller.into(), key: ask.key.into() };
        if !name.is_valid() {
            return Err(malformed("a caller and a key of allowed length"));
        }
        Ok((name, Claim(ask.claim), what))
    }

    fn may_speak(
        &self,
        state: &State,
        (peer, whose): (&Identity, Whose),
        node: &str,
        service: &ServiceRef,
        what: &ask::What,
        now: Instant,
    ) -> bool {
        let instance = state.catalog(|catalog| match (whose, node.split_once('/')) {
            (Whose::Neighbours, _) => catalog.serves(service, peer),
            (Whose::Own, Some((namespace, name))) => catalog.is_instance(service, namespace, name, peer),
            (Whose::Own, None) => false,
        });
        let mut began = self.began.lock().unwrap_or_else(PoisonError::into_inner);
        let pair = (peer.clone(), service.clone());
        if instance {
            if matches!(what, ask::What::Begin(_)) && (began.len() < BEGAN_MAX || began.contains_key(&pair)) {
                began.insert(pair, now + LEASE_MAX);
            }
            return true;
        }
        matches!(what, ask::What::Finish(_)) && began.get(&pair).is_some_and(|until| *until > now)
    }

    /// Forgets what is over, for as long as the control plane runs.
    pub(crate) async fn sweep(&self, state: &State) {
        let mut refused = false;
        loop {
            runtime::sleep(SWEEP_EVERY).await;
            let now = state.now().mono;
            self.began.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, until| *until > now);
            loop {
                match self.ledger.sweep().await {
                    Ok(0) => refused = false,
                    Ok(_) => continue,
                    Err(error) if !refused => {
                        refused = true;
                        tracing::error!(%error, "idempotency keys that are over can't be forgotten; will try again");
                    }
                    Err(_) => {}
                }
                break;
            }
        }
    }
}

/// Waits for all of them at once.
async fn all<T>(mut pending: Vec<Pin<Box<dyn Future<Output = T> + Send + '_>>>) -> Vec<T> {
    let mut found: Vec<Option<T>> = pending.iter().map(|_| None).collect();
    poll_fn(|cx| {
        for (future, found) in pending.iter_mut().zip(&mut found) {
            if found.is_none()
                && let Poll::Ready(answer) = future.as_mut().poll(cx)
            {
                *found = Some(answer);
            }
        }
        if found.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    found.into_iter().flatten().collect()
}

fn begin_of(claim: Claim, from: &wire::LedgerBegin) -> Result<Begin, Status> {
    Ok(Begin {
        fingerprint: fingerprint_of(&from.fingerprint)?,
        claim,
        lease: Duration::from_millis(from.lease_millis).min(LEASE_MAX),
        ttl: Duration::from_millis(from.ttl_millis).min(TTL_MAX),
        again: from.again,
    })
}

fn fingerprint_of(bytes: &[u8]) -> Result<Fingerprint, Status> {
    bytes.try_into().map(Fingerprint).map_err(|_| Status::invalid_argument("a fingerprint has 32 bytes"))
}

fn ending_of(from: wire::LedgerFinish) -> Result<Ending, Status> {
    Ok(match from.ending.ok_or_else(|| Status::invalid_argument("an ending that says nothing"))? {
        finish::Ending::Done(kept) => Ending::Done(kept.as_ref().into()),
        finish::Ending::Unsent(_) => Ending::Unsent,
        finish::Ending::Ambiguous(_) => Ending::Ambiguous,
    })
}

fn outcome<T>(found: Result<T, byrnie_store::Error>, say: impl FnOnce(T) -> answer::What) -> answer::What {
    match found {
        Ok(found) => say(found),
        Err(error) => answer::What::Error(error.to_string()),
    }
}

fn begun(begun: Begun) -> answer::What {
    match begun {
        Begun::Granted { again } => answer::What::Granted(wire::LedgerGranted { again }),
        Begun::Done(kept) => answer::What::Done(kept.to_vec().into()),
        Begun::InFlight(left) => answer::What::InFlightMillis(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
        Begun::Mismatch => answer::What::Mismatch(wire::LedgerMismatch {}),
        Begun::Ambiguous => answer::What::Ambiguous(wire::LedgerAmbiguous {}),
    }
}

fn finished(finished: Finished) -> answer::What {
    match finished {
        Finished::Recorded => answer::What::Recorded(wire::LedgerRecorded {}),
        Finished::Fenced => answer::What::Fenced(wire::LedgerFenced {}),
    }
}

fn read(entry: Option<Entry>, now: byrnie_base::Timestamp) -> answer::What {
    match entry.map(|entry| entry.standing(now)) {
        None => answer::What::Absent(wire::LedgerAbsent {}),
        Some(Standing::Done(kept)) => answer::What::Done(kept.to_vec().into()),
        Some(Standing::Ambiguous) => answer::What::Ambiguous(wire::LedgerAmbiguous {}),
        Some(Standing::InFlight { lapses, .. }) => {
            answer::What::InFlightMillis(lapses.as_millis().saturating_sub(now.as_millis()))
        }
    }
}
