// SPDX-License-Identifier: Apache-2.0
//! One call of a participant: whether its creator may make it still, what goes out, and what the answer
//! means. Calls go through the mesh; how many go to one service at once is limited here.

use super::run::Coordinator;
use super::trace::TRACEPARENT;
use super::{Outbound, Request};
use super::{authorize, late, location, nest, unary};
use crate::explain::Authorization;
use byrnie_base::Text;
use byrnie_net::serve::client::Reply as Answer;
use byrnie_net::serve::{HeaderName, HeaderValue, StatusCode, header};
use byrnie_saga::machine::State as Standing;
use byrnie_saga::transaction::BODY_BYTES_MAX;
use byrnie_saga::{Branch, Call, Op, Order, Outcome, Reply, Seen, Target, Term, judge};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Calls to one service at once.
const LANE_MAX: usize = 64;
/// Header fields that a call carries besides its own.
const OWN_HEADERS: usize = 10;
/// Services with a lane of their own.
const LANES_MAX: usize = 10_000;
/// The pause before a call that couldn't be made is tried again, if nothing better is known.
const LATER: Duration = Duration::from_secs(1);

/// How many calls go to each service.
#[derive(Default)]
pub(super) struct Lanes(Mutex<HashMap<Text, Arc<Semaphore>>>);

impl Lanes {
    async fn enter(&self, authority: &Text) -> Option<OwnedSemaphorePermit> {
        let lane = {
            let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if lanes.len() >= LANES_MAX {
                lanes.retain(|_, lane| lane.available_permits() < LANE_MAX);
            }
            Arc::clone(lanes.entry(authority.clone()).or_insert_with(|| Arc::new(Semaphore::new(LANE_MAX))))
        };
        // A lane is never closed.
        lane.acquire_owned().await.ok()
    }
}

/// Makes a call, and says what came of it.
pub(super) async fn perform(
    coordinator: &Arc<Coordinator>,
    term: Term,
    id: &Text,
    state: &Standing,
    order: Order,
) -> Reply {
    let Order { branch, op, attempt, .. } = order;
    let begun = coordinator.state.now().mono;
    let outcome = match call_of(state, &order) {
        Some((Some(branch @ Branch { child: Some(child), .. }), _)) => {
            Box::pin(nest::perform(coordinator, term, (id, state), &order, branch, child)).await
        }
        Some((name, call)) => attempt_call(coordinator, term, id, state, &order, name, call).await,
        // The machine asks for calls only that the transaction has.
        None => Outcome::Misdirected { reason: "there is nothing to call".into() },
    };
    coordinator.counts.called(&outcome);
    coordinator.trace_call(id, state, &order, begun, &outcome);
    Reply { branch, op, attempt, outcome, roll: coordinator.roll() }
}

fn call_of<'s>(state: &'s Standing, order: &Order) -> Option<(Option<&'s Branch>, &'s Call)> {
    match order.branch {
        None => Some((None, state.spec.check.as_ref()?)),
        Some(at) => {
            let branch = state.spec.branches.get(usize::from(at))?;
            Some((Some(branch), branch.call(order.op)?))
        }
    }
}

async fn attempt_call(
    coordinator: &Arc<Coordinator>,
    term: Term,
    id: &Text,
    state: &Standing,
    order: &Order,
    branch: Option<&Branch>,
    call: &Call,
) -> Outcome {
    let rendered = late::made(state, call);
    let call = match &rendered {
        Ok(call) => &**call,
        // What it would be called with doesn't exist: the participant can't be asked, so nothing is done there.
        Err(error) => return Outcome::Rejected { reason: error.to_string().into() },
    };
    let later = |reason: String| Outcome::Unknown { reason: reason.into(), after: Some(LATER), over: true };
    if !branch.is_some_and(|branch| branch.consent) {
        match coordinator.doorkeeper.authorize(&coordinator.state, &state.spec.creator, &call.target) {
            Authorization::Allowed => {}
            Authorization::Nobody => return later(format!("nobody serves {}", call.target.authority)),
            Authorization::Denied(why) => {
                coordinator.audit.note(coordinator.now(), None, "call", id, 403);
                let reason = format!("403 {} may not make this call ({why})", state.spec.creator);
                return Outcome::Misdirected { reason: reason.into() };
            }
        }
    }
    let Some(outbound) = connected(coordinator).await else { return later("the coordinator stops".to_owned()) };
    let Some(_place) = coordinator.lanes.enter(&call.target.authority).await else {
        return later("the coordinator stops".to_owned());
    };
    if !coordinator.terms.holds(term, coordinator.state.now().mono) {
        return later("another coordinator may have taken over by now".to_owned());
    }
    let left = order.until.as_millis().saturating_sub(coordinator.now().as_millis());
    if left == 0 {
        return later("its time was over before it could be made".to_owned());
    }
    let limit = Duration::from_millis(left);
    let mut request = match request(id, state, order, branch, call, left) {
        Ok(request) => request,
        Err(why) => return later(why.to_string()),
    };
    if !request.headers.iter().any(|(name, _)| name == TRACEPARENT) {
        let trace = coordinator.traceparent(id, state, order);
        let trace = trace.and_then(|trace| HeaderValue::from_str(&trace).ok());
        request.headers.extend(trace.map(|trace| (HeaderName::from_static(TRACEPARENT), trace)));
    }
    let grpc = request.grpc;
    let answer = outbound.call(request, limit).await;
    if call.target.raw {
        let place = &call.target.authority;
        match &answer {
            // It may have asked for a pause, which counts then.
            Ok(answer) if !is_away(answer) => coordinator.silent.answered(place),
            Ok(answer) if answer.headers.contains_key(header::RETRY_AFTER) => {}
            Ok(_) => coordinator.silent.missed(place, true),
            Err(_) => {
                let listens = coordinator.silent.knows(place) || outbound.reaches(place).await;
                coordinator.silent.missed(place, listens);
            }
        }
    }
    judge(state.spec.mode, order.op, &state.spec.rules, &seen(answer, grpc, &call.target, order.poll.as_deref()))
}

/// Whether somebody answers for a participant that isn't there, or it says so itself.
fn is_away(answer: &Answer) -> bool {
    use StatusCode as S;
    matches!(answer.status, S::BAD_GATEWAY | S::SERVICE_UNAVAILABLE | S::GATEWAY_TIMEOUT)
}

/// The way out, once there is one.
async fn connected(coordinator: &Coordinator) -> Option<Arc<dyn Outbound>> {
    let mut outbound = coordinator.outbound.subscribe();
    let found = outbound.wait_for(Option::is_some).await.ok()?;
    found.clone()
}

fn request(
    id: &Text,
    state: &Standing,
    order: &Order,
    branch: Option<&Branch>,
    call: &Call,
    left: u64,
) -> Result<Request, &'static str> {
    let name: &str = branch.map_or("00", |branch| &branch.name);
    let op = state.spec.mode.op(order.op);
    let mut headers = Vec::with_capacity(call.headers.len() + OWN_HEADERS);
    for (name, text) in &call.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| "a header has no valid name")?;
        headers.push((name, value(text)?));
    }
    headers.push((HeaderName::from_static("txn-id"), value(id)?));
    headers.push((HeaderName::from_static("txn-branch"), value(name)?));
    headers.push((HeaderName::from_static("txn-op"), HeaderValue::from_static(op)));
    headers.push((HeaderName::from_static("txn-attempt"), order.attempt.into()));
    headers.push((HeaderName::from_static("x-byrnie-deadline-ms"), left.into()));
    let Target { method, authority, path, raw } = call.target.clone();
    if let Some(poll) = &order.poll {
        let (path, body) = (poll.clone(), Bytes::new());
        return Ok(Request { method: "GET".into(), authority, path, raw, grpc: false, headers, body });
    }
    headers.push((HeaderName::from_static("idempotency-key"), value(&format!("\"{id}/{name}/{op}\""))?));
    if call.is_grpc() {
        let request = Request { method, authority, path, raw, grpc: true, headers, body: Bytes::new() };
        return Ok(unary::framed(request, call.body.as_ref(), Duration::from_millis(left)));
    }
    let body = match (&call.body, order.op) {
        (Some(body), _) => Bytes::copy_from_slice(body.as_bytes()),
        (None, Op::Undo) => late::both(state, order, branch),
        (None, _) => Bytes::new(),
    };
    if !body.is_empty() {
        headers.push((header::CONTENT_TYPE, value(&call.kind)?));
    }
    Ok(Request { method, authority, path, raw, grpc: false, headers, body })
}

fn value(text: &str) -> Result<HeaderValue, &'static str> {
    HeaderValue::from_str(text).map_err(|_| "a header has no valid value")
}

/// What matters of an answer.
fn seen(answer: Result<Answer, Text>, grpc: bool, target: &Target, poll: Option<&str>) -> Seen {
    let answer = match answer {
        Ok(answer) => answer,
        Err(why) => return Seen { body: why, ..Seen::default() },
    };
    let text = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok()).map(Text::from);
    let body = if answer.body.len() > BODY_BYTES_MAX {
        format!("(an answer of {} bytes, not kept)", answer.body.len())
    } else {
        String::from_utf8_lossy(&answer.body).into_owned()
    };
    // One that no text says is one that isn't understood, not none.
    let said = answer.headers.get("location").map(|value| String::from_utf8_lossy(value.as_bytes()));
    let location = said.map(|said| location::resolve(target, poll.unwrap_or(&target.path), &said));
    let (location, elsewhere) = match location {
        Some(Ok(path)) => (Some(path), None),
        Some(Err(said)) => (None, Some(said)),
        None => (None, None),
    };
    let seen = Seen {
        status: Some(answer.status.as_u16()),
        ledger: text("idempotency-status"),
        mesh: answer.headers.contains_key("x-byrnie-decision"),
        retry_after: text("retry-after").and_then(|after| after.trim().parse().ok()).map(Duration::from_secs),
        location,
        elsewhere,
        body: body.into(),
        poll: poll.is_some(),
    };
    if grpc { unary::seen(&answer, seen) } else { seen }
}

/// Whether a caller serves the branch whose outcome it tells.
pub(super) fn is_participant(coordinator: &Coordinator, caller: &super::Caller, state: &Standing, name: &str) -> bool {
    let super::Caller::Workload(identity) = caller else { return false };
    let Some(branch) = state.spec.branches.iter().find(|branch| *branch.name == *name) else { return false };
    [Op::Action, Op::Confirm, Op::Undo]
        .into_iter()
        .filter_map(|op| branch.call(op))
        .any(|call| authorize::serves(&coordinator.state, identity, &call.target))
}
