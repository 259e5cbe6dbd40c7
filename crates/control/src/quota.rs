// SPDX-License-Identifier: Apache-2.0
//! `/byrnie.v1.Quotas/Lease`: counts requests under quotas that the instances of a service share, and leases them. A proxy asks for
//! the services of its own workload alone, and for nothing that no policy says. Nothing of it is kept: who starts again has counted
//! nothing. Called by `port` with the peer's proven identity.

use crate::State;
use byrnie_base::share::Paces;
use byrnie_model::policy::traffic::{By, Quota};
use byrnie_model::{Identity, ServiceRef};
use byrnie_net::grpc::Status;
use byrnie_xds::proto::byrnie::v1 as pb;
use byrnie_xds::proto::byrnie::v1::quota_answer::What;
use byrnie_xds::wire;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Asks in one call.
const ASKS_MAX: usize = 256;
/// Quotas that are counted at the same time.
const QUOTAS_MAX: usize = 1024;
/// Callers, or values of a header, that one quota tells apart at the same time: 256 KiB.
const KEYS_MAX: usize = 16 * 1024;

/// The role that counts.
#[derive(Debug, Default)]
pub struct Limiter {
    counted: Mutex<HashMap<(ServiceRef, Quota), Arc<Paces>>>,
}

impl Limiter {
    /// Answers each ask, in order.
    ///
    /// # Errors
    /// If the peer may not speak for one of the services, or an ask can't be read: then none is answered.
    pub fn answer(
        &self,
        state: &State,
        peer: &Identity,
        request: pb::QuotaRequest,
    ) -> Result<pb::QuotaResponse, Status> {
        if request.asks.len() > ASKS_MAX {
            return Err(Status::invalid_argument(format!("a call holds at most {ASKS_MAX} asks")));
        }
        let now = state.now().mono;
        let mut answers = Vec::with_capacity(request.asks.len());
        for ask in request.asks {
            let (key, requests) = (ask.key, ask.requests);
            let (service, quota) = wire::quota_ask(ask).map_err(|error| Status::invalid_argument(error.to_string()))?;
            let what = match self.of(state, peer, &request.node, service, quota)? {
                None => What::Unknown(pb::QuotaUnknown {}),
                Some((paces, quota)) => {
                    let rate = (quota.rate.per / quota.rate.requests.max(1), quota.rate.requests);
                    match paces.admit_some(key, now, rate, requests) {
                        Ok((requests, left)) => {
                            let rests_in_millis = millis(left.rests_in);
                            What::Lease(pb::QuotaLease { requests, left: left.left, rests_in_millis })
                        }
                        Err(wait) => What::WaitMillis(millis(wait)),
                    }
                }
            };
            answers.push(pb::QuotaAnswer { what: Some(what) });
        }
        Ok(pb::QuotaResponse { answers })
    }

    /// What was used of a quota; none if no policy says so, or if too many do.
    fn of(
        &self,
        state: &State,
        peer: &Identity,
        node: &str,
        service: ServiceRef,
        quota: Quota,
    ) -> Result<Option<(Arc<Paces>, Quota)>, Status> {
        let (speaks, says) = state.catalog(|catalog| {
            let speaks = node
                .split_once('/')
                .is_some_and(|(namespace, name)| catalog.is_instance(&service, namespace, name, peer));
            (speaks, catalog.has_shared(&service, &quota))
        });
        if !speaks {
            return Err(Status::permission_denied(format!("{peer} is not an instance of {service} called {node}")));
        }
        if !says {
            return Ok(None);
        }
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (service, quota);
        if let Some(paces) = counted.get(&place) {
            return Ok(Some((Arc::clone(paces), place.1)));
        }
        // What no policy says any more is forgotten when there is something new.
        state.catalog(|catalog| counted.retain(|(service, quota), _| catalog.has_shared(service, quota)));
        if counted.len() >= QUOTAS_MAX {
            return Ok(None);
        }
        let paces = Arc::new(Paces::new(if place.1.by == By::All { 1 } else { KEYS_MAX }));
        counted.insert(place.clone(), Arc::clone(&paces));
        Ok(Some((paces, place.1)))
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
