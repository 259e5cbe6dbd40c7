// SPDX-License-Identifier: Apache-2.0
//! dtm's API (<https://github.com/dtm-labs/dtm>) for sagas, messages and TCC, so that its clients run unchanged: over
//! HTTP (`/api/dtmsvr/...`) and gRPC (`dtmgimp.Dtm`). A thin face over the native transactions: results are read by
//! status, never by words in a body, a repeated `submit` is the same transaction, and a saga can be aborted.

pub(super) mod grpc;
pub(super) mod http;
mod operate;
mod target;
#[cfg(test)]
mod tests;

use super::actor::Sight;
use super::problem::Problem;
use super::run::Coordinator;
use super::spec::{check_id, digest, headers};
use super::{Caller, api};
use byrnie_base::Text;
use byrnie_model::code;
use byrnie_saga::transaction::BRANCHES_MAX;
use byrnie_saga::{Ask, Branch, Call, End, Mode, Phase, Retry, Rules, Spec, plan};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use target::{Of, call};

/// How long TCC stays open, and when the creator of a prepared message is asked, unless the client says.
const TIMEOUT_SECONDS: u64 = 35;
/// Longest wait for a result that the client asked to wait for. dtm itself ends a round of calls after as long, and Python's
/// client gives up after 8 s.
const WAIT: Duration = Duration::from_secs(5);

/// A transaction as dtm's clients ask for it. Members that say how dtm itself works are not looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Asked {
    gid: Option<String>,
    trans_type: Option<String>,
    steps: Option<Vec<Step>>,
    payloads: Option<Vec<String>>,
    custom_data: Option<String>,
    query_prepared: Option<String>,
    wait_result: Option<bool>,
    timeout_to_fail: Option<u64>,
    concurrent: Option<bool>,
    branch_headers: Option<Value>,
    #[serde(flatten)]
    pace: Pace,
    #[serde(skip)]
    came: Came,
}

/// How it was asked for.
#[derive(Debug, Default)]
struct Came {
    /// By gRPC: payloads are bytes in base64, and targets that are no URL are methods.
    grpc: bool,
    /// The trace that its creator is in.
    trace: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Pace {
    request_timeout: Option<u64>,
    retry_interval: Option<u64>,
    retry_limit: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Step {
    action: Option<String>,
    compensate: Option<String>,
}

/// A participant of TCC that joins.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Joins {
    gid: String,
    branch_id: String,
    data: Option<String>,
    confirm: Option<String>,
    cancel: Option<String>,
    /// As [`Came::grpc`].
    #[serde(skip)]
    grpc: bool,
}

/// What `custom_data` may say of a saga.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Custom {
    concurrent: bool,
    orders: BTreeMap<String, Vec<u16>>,
    delay: u64,
}

/// What is said to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Success,
    /// It runs still, after the longest wait.
    Ongoing,
}

type Answered = Result<Said, Problem>;

/// Whoever may ask at all: nobody without an identity, and none that speaks for others.
fn admitted(caller: Option<&Caller>) -> Result<&Caller, Problem> {
    match caller {
        None => Err(Problem::new(403, &code::TXN_DENIED, "no identity is proven: call through the mesh")),
        Some(caller) if api::is_edge(caller) => {
            Err(Problem::new(403, &code::TXN_DENIED, "the edge speaks for strangers; they start no transactions"))
        }
        Some(caller) => Ok(caller),
    }
}

fn id(asked: &Asked) -> Result<Text, Problem> {
    check_id(asked.gid.as_deref().unwrap_or_default())
}

async fn prepare(coordinator: &Arc<Coordinator>, caller: &Caller, asked: &Asked) -> Answered {
    let id = id(asked)?;
    let spec = spec(asked, &id, true, caller, coordinator)?;
    if let Some(sight) = coordinator.find(&id).await?
        && sight.state.phase != Phase::Open
    {
        return Err(Problem::new(409, &code::TXN_STATE, format!("{id} is {}", sight.state.name())));
    }
    coordinator.begin(Some(id), spec, asked.came.trace.clone()).await?;
    Ok(Said::Success)
}

async fn submit(coordinator: &Arc<Coordinator>, caller: &Caller, asked: &Asked) -> Answered {
    let id = id(asked)?;
    // A saga is never prepared; whether it was submitted before is seen when it is begun.
    let known = match asked.trans_type.as_deref() {
        Some("saga") => None,
        _ => coordinator.find(&id).await?,
    };
    if let Some(sight) = known.filter(|sight| sight.state.spec.open) {
        own(caller, &sight, &id)?;
        coordinator.ask(&id, Ask::Go, caller).await?;
    } else {
        // The same again, before, while and after it runs, is the same transaction.
        let spec = spec(asked, &id, false, caller, coordinator)?;
        coordinator.begin(Some(id.clone()), spec, asked.came.trace.clone()).await?;
    }
    if asked.wait_result != Some(true) {
        return Ok(Said::Success);
    }
    let sight = coordinator.settled(&id, WAIT).await?;
    match sight.state.phase {
        Phase::Ended(End::Done) => Ok(Said::Success),
        Phase::Ended(_) => Err(Problem::new(409, &code::TXN_STATE, sight.state.reason.to_string())),
        _ => Ok(Said::Ongoing),
    }
}

async fn abort(coordinator: &Arc<Coordinator>, caller: &Caller, asked: &Asked) -> Answered {
    let id = id(asked)?;
    let sight = coordinator.find(&id).await?.ok_or_else(|| Problem::absent(&id))?;
    own(caller, &sight, &id)?;
    coordinator.ask(&id, Ask::Back { reason: format!("aborted by {caller}").into() }, caller).await?;
    Ok(Said::Success)
}

async fn register(coordinator: &Arc<Coordinator>, caller: &Caller, joins: &Joins) -> Answered {
    let id = check_id(&joins.gid)?;
    let sight = coordinator.find(&id).await?.ok_or_else(|| Problem::absent(&id))?;
    let make = |url: &Option<String>, op: &str| {
        let of = Of { gid: &id, kind: "tcc", branch: &joins.branch_id, op, grpc: joins.grpc };
        call(url.as_deref().unwrap_or_default(), joins.data.as_deref().unwrap_or_default(), &of, caller)
    };
    let mut branch = Branch {
        name: joins.branch_id.as_str().into(),
        confirm: make(&joins.confirm, "confirm")?,
        undo: make(&joins.cancel, "cancel")?,
        ..Branch::default()
    };
    coordinator.doorkeeper.authorize_branch(&coordinator.state, caller, &sight.state.spec.creator, &mut branch)?;
    coordinator.ask(&id, Ask::Enlist(Box::new(branch)), caller).await?;
    Ok(Said::Success)
}

fn own(caller: &Caller, sight: &Sight, id: &str) -> Result<(), Problem> {
    if *caller == Caller::Operator || sight.state.spec.creator == caller.name() {
        return Ok(());
    }
    Err(Problem::new(403, &code::TXN_DENIED, format!("transaction {id} is not {caller}'s")))
}

fn spec(asked: &Asked, id: &str, open: bool, caller: &Caller, coordinator: &Coordinator) -> Result<Spec, Problem> {
    let kind = asked.trans_type.as_deref().unwrap_or_default();
    let mode = match (kind, open) {
        ("saga", false) => Mode::Saga,
        ("msg", _) => Mode::Message,
        ("tcc", true) => Mode::Tcc,
        ("saga", true) => return Err(Problem::malformed("a saga is submitted, not prepared")),
        ("tcc", false) => return Err(Problem::new(409, &code::TXN_ABSENT, format!("{id} was never prepared"))),
        _ => return Err(Problem::malformed(format!("trans_type {kind:?} is not served: saga, msg, tcc"))),
    };
    let custom: Custom = match asked.custom_data.as_deref().filter(|text| !text.is_empty()) {
        Some(text) => serde_json::from_str(text).unwrap_or_default(),
        None => Custom::default(),
    };
    if custom.delay > 0 {
        return Err(Problem::malformed("a message with a delay is not served"));
    }
    let now = coordinator.now();
    let seconds = asked.timeout_to_fail.filter(|seconds| *seconds > 0).or(open.then_some(TIMEOUT_SECONDS));
    let of = Of { gid: id, kind, branch: "00", op: "msg", grpc: asked.came.grpc };
    let check = match asked.query_prepared.as_deref().filter(|_| open && mode == Mode::Message) {
        Some(url) => call(url, "", &of, caller)?,
        None => None,
    };
    if open && mode == Mode::Message && check.is_none() {
        return Err(Problem::malformed("a prepared message needs query_prepared"));
    }
    let steps: Vec<_> = asked.steps.iter().flatten().map(|step| (&step.action, &step.compensate)).collect();
    let content = (kind, &asked.payloads, &asked.query_prepared, &asked.custom_data, steps);
    // Payloads in base64 aren't texts that look like them.
    let content = if asked.came.grpc { serde_json::to_vec(&("grpc", content)) } else { serde_json::to_vec(&content) };
    let spec = Spec {
        mode,
        creator: caller.name(),
        created: now,
        deadline: seconds.filter(|_| open || mode == Mode::Saga).map(|seconds| now + Duration::from_secs(seconds)),
        open,
        check,
        branches: branches(asked, mode, id, &custom, caller)?,
        rules: Rules { rejected: vec![409], patient: true, undo_rejected: true, dtm: true },
        definition: Text::default(),
        input: None,
        fingerprint: digest(mode, open, &content.unwrap_or_default()),
        parent: None,
    };
    plan::check(&spec).map_err(|error| Problem::malformed(error.to_string()))?;
    Ok(spec)
}

fn branches(asked: &Asked, mode: Mode, id: &str, custom: &Custom, caller: &Caller) -> Result<Vec<Branch>, Problem> {
    let kind = asked.trans_type.as_deref().unwrap_or_default();
    let count = asked.steps.as_ref().map_or(0, Vec::len);
    if count > BRANCHES_MAX {
        return Err(Problem::malformed(plan::Error::TooMany(count).to_string()));
    }
    let concurrent = custom.concurrent || asked.concurrent == Some(true);
    let given: BTreeMap<String, String> =
        asked.branch_headers.clone().and_then(|value| serde_json::from_value(value).ok()).unwrap_or_default();
    let fields = headers(&given)?;
    let mut branches = Vec::new();
    for (at, step) in asked.steps.iter().flatten().enumerate() {
        let name = format!("{:02}", at + 1);
        let payload = asked.payloads.as_ref().and_then(|payloads| payloads.get(at)).map_or("", String::as_str);
        let make = |url: &Option<String>, op: &str| -> Result<Option<Call>, Problem> {
            let of = Of { gid: id, kind, branch: &name, op, grpc: asked.came.grpc };
            let made = call(url.as_deref().unwrap_or_default(), payload, &of, caller)?;
            Ok(made.map(|mut call| {
                call.headers.extend(fields.iter().cloned());
                call
            }))
        };
        let (action, undo) = (make(&step.action, "action")?, make(&step.compensate, "compensate")?);
        let before = match (concurrent, at.checked_sub(1).and_then(|before| u16::try_from(before).ok())) {
            (true, _) => custom.orders.get(&at.to_string()).cloned().unwrap_or_default(),
            (false, before) => before.into_iter().collect(),
        };
        let (action, confirm) = if mode == Mode::Message { (None, action) } else { (action, None) };
        // An empty URL is a success by definition, so there may be nothing at all to call.
        let free = action.is_none() && confirm.is_none() && undo.is_none();
        let action = if free { None } else { action };
        branches.push(Branch {
            name: name.into(),
            after: before,
            action,
            confirm,
            undo,
            free,
            retry: retry(asked),
            ..Branch::default()
        });
    }
    Ok(branches)
}

fn retry(asked: &Asked) -> Retry {
    let usual = Retry::default();
    let millis = |seconds: Option<u64>, usual: u64| {
        seconds.filter(|seconds| *seconds > 0).map_or(usual, |seconds| seconds.saturating_mul(1000))
    };
    Retry {
        attempts: asked.pace.retry_limit.unwrap_or(0),
        for_ms: usual.for_ms,
        first_ms: millis(asked.pace.retry_interval, usual.first_ms),
        cap_ms: usual.cap_ms,
        timeout_ms: millis(asked.pace.request_timeout, usual.timeout_ms).min(600_000),
    }
}
