// SPDX-License-Identifier: Apache-2.0
//! dtm's HTTP API (`/api/dtmsvr/...`, <https://github.com/dtm-labs/dtm>) for sagas, messages and TCC, so that its
//! clients run unchanged. A thin face over the native transactions: results are read by status, never by words
//! in a body, a repeated `submit` is the same transaction, and a saga can be aborted.

use super::actor::Sight;
use super::problem::Problem;
use super::run::Coordinator;
use super::spec::{check_id, fingerprint, headers};
use super::{Caller, api};
use byrnie_base::Text;
use byrnie_model::code;
use byrnie_net::serve::{Request, Response, StatusCode};
use byrnie_saga::transaction::BODY_BYTES_MAX;
use byrnie_saga::{Ask, Branch, Call, End, Mode, Op, Phase, Retry, Rules, Slot, Spec, Target, plan};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long TCC stays open, and when the creator of a prepared message is asked, unless the client says.
const TIMEOUT_SECONDS: u64 = 35;
/// Longest wait for a result that the client asked to wait for.
const WAIT: Duration = Duration::from_secs(60);

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
}

/// What `custom_data` may say of a saga.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Custom {
    concurrent: bool,
    orders: BTreeMap<String, Vec<u16>>,
    delay: u64,
}

/// Answers a request for `/api/dtmsvr/...`.
pub(super) async fn answer(coordinator: &Arc<Coordinator>, caller: Option<&Caller>, request: &Request) -> Response {
    let verb = request.path.rsplit('/').next().unwrap_or_default().to_owned();
    let answered = match caller {
        None => Err(Problem::new(403, &code::TXN_DENIED, "no identity is proven: call through the mesh")),
        Some(caller) if api::is_edge(caller) => {
            Err(Problem::new(403, &code::TXN_DENIED, "the edge speaks for strangers; they start no transactions"))
        }
        Some(caller) => perform(coordinator, caller, &verb, request).await,
    };
    let (status, body) = match answered {
        Ok(value) => value,
        // A refusal of what was asked, as dtm says it; anything else is for a person to read.
        Err(problem) if matches!(problem.status, 409 | 422) => {
            (409, json!({"dtm_result": "FAILURE", "message": problem.detail}))
        }
        Err(problem) => (if problem.status == 400 { 500 } else { problem.status }, json!({"message": problem.detail})),
    };
    if request.method == "POST" || status == 403 {
        coordinator.audit.note(coordinator.now(), caller, &verb, "", status);
    }
    Response::new(StatusCode::from_u16(status).unwrap_or(StatusCode::OK), "application/json", body.to_string())
}

type Answered = Result<(u16, Value), Problem>;

async fn perform(coordinator: &Arc<Coordinator>, caller: &Caller, verb: &str, request: &Request) -> Answered {
    match (request.method.as_str(), verb) {
        ("GET", "newGid") => Ok((200, json!({"dtm_result": "SUCCESS", "gid": coordinator.new_id()}))),
        ("GET", "version") => Ok((200, json!({"version": env!("CARGO_PKG_VERSION")}))),
        ("GET", "query") => query(coordinator, caller, request).await,
        ("POST", "prepare") => prepare(coordinator, caller, request).await,
        ("POST", "submit") => submit(coordinator, caller, request).await,
        ("POST", "abort") => abort(coordinator, caller, request).await,
        ("POST", "registerBranch" | "registerTccBranch") => register(coordinator, caller, request).await,
        _ => Err(Problem::new(404, &code::TXN_ABSENT, format!("{verb} is not served; the native API is /txn/v1/"))),
    }
}

fn read(request: &Request) -> Result<(Asked, Text), Problem> {
    let asked: Asked = serde_json::from_slice(&request.body).map_err(|error| Problem::malformed(error.to_string()))?;
    let id = check_id(asked.gid.as_deref().unwrap_or_default())?;
    Ok((asked, id))
}

fn success() -> (u16, Value) {
    (200, json!({"dtm_result": "SUCCESS"}))
}

async fn prepare(coordinator: &Arc<Coordinator>, caller: &Caller, request: &Request) -> Answered {
    let (asked, id) = read(request)?;
    let spec = spec(&asked, &id, true, caller, coordinator)?;
    if let Some(sight) = coordinator.find(&id).await?
        && sight.state.phase != Phase::Open
    {
        return Err(Problem::new(409, &code::TXN_STATE, format!("{id} is {}", sight.state.name())));
    }
    coordinator.begin(Some(id), spec).await?;
    Ok(success())
}

async fn submit(coordinator: &Arc<Coordinator>, caller: &Caller, request: &Request) -> Answered {
    let (asked, id) = read(request)?;
    let known = coordinator.find(&id).await?;
    if let Some(sight) = known.filter(|sight| sight.state.spec.open) {
        own(caller, &sight, &id)?;
        coordinator.ask(&id, Ask::Go, caller).await?;
    } else {
        // The same again, before, while and after it runs, is the same transaction.
        coordinator.begin(Some(id.clone()), spec(&asked, &id, false, caller, coordinator)?).await?;
    }
    if asked.wait_result != Some(true) {
        return Ok(success());
    }
    coordinator.settle(&id, WAIT).await?;
    let sight = coordinator.find(&id).await?.ok_or_else(|| Problem::absent(&id))?;
    match sight.state.phase {
        Phase::Ended(End::Done) => Ok(success()),
        Phase::Ended(_) => Err(Problem::new(409, &code::TXN_STATE, sight.state.reason.to_string())),
        _ => Ok((425, json!({"dtm_result": "ONGOING"}))),
    }
}

async fn abort(coordinator: &Arc<Coordinator>, caller: &Caller, request: &Request) -> Answered {
    let (_, id) = read(request)?;
    let sight = coordinator.find(&id).await?.ok_or_else(|| Problem::absent(&id))?;
    own(caller, &sight, &id)?;
    coordinator.ask(&id, Ask::Back { reason: format!("aborted by {caller}").into() }, caller).await?;
    Ok(success())
}

async fn register(coordinator: &Arc<Coordinator>, caller: &Caller, request: &Request) -> Answered {
    let joins: Joins = serde_json::from_slice(&request.body).map_err(|error| Problem::malformed(error.to_string()))?;
    let id = check_id(&joins.gid)?;
    let sight = coordinator.find(&id).await?.ok_or_else(|| Problem::absent(&id))?;
    let make = |url: &Option<String>, op: &str| {
        let of = Of { gid: &id, kind: "tcc", branch: &joins.branch_id, op };
        call(url.as_deref().unwrap_or_default(), joins.data.as_deref().unwrap_or_default(), &of, caller)
    };
    let mut branch = Branch {
        name: joins.branch_id.as_str().into(),
        confirm: make(&joins.confirm, "confirm")?,
        undo: make(&joins.cancel, "cancel")?,
        ..Branch::default()
    };
    coordinator.doorkeeper.admits_branch(&coordinator.state, caller, &sight.state.spec.creator, &mut branch)?;
    coordinator.ask(&id, Ask::Enlist(Box::new(branch)), caller).await?;
    Ok(success())
}

async fn query(coordinator: &Arc<Coordinator>, caller: &Caller, request: &Request) -> Answered {
    let id = check_id(&api::parameter(request, "gid").unwrap_or_default())?;
    let Some(sight) = coordinator.find(&id).await? else {
        return Ok((200, json!({"transaction": null, "branches": []})));
    };
    own(caller, &sight, &id)?;
    let state = &sight.state;
    let kind = if state.spec.mode == Mode::Message { "msg" } else { state.spec.mode.name() };
    let mut branches = Vec::new();
    for (branch, progress) in state.spec.branches.iter().zip(&state.progress) {
        for op in [Op::Undo, Op::Action, Op::Confirm] {
            let Some(call) = branch.call(op) else { continue };
            let status = match progress.slot(op) {
                Slot::Done => "succeed",
                Slot::Rejected | Slot::Stuck => "failed",
                Slot::Absent | Slot::Pending => "prepared",
            };
            branches.push(json!({"gid": id, "branch_id": branch.name, "op": state.spec.mode.op(op), "status": status,
                "url": format!("http://{}{}", call.target.authority, call.target.path)}));
        }
    }
    let transaction = json!({"gid": id, "trans_type": kind, "status": status(state.phase),
        "create_time": state.spec.created, "rollback_reason": state.reason});
    Ok((200, json!({"transaction": transaction, "branches": branches})))
}

const fn status(phase: Phase) -> &'static str {
    match phase {
        Phase::Open => "prepared",
        Phase::Acting | Phase::Confirming => "submitted",
        Phase::Undoing => "aborting",
        Phase::Ended(End::Done) => "succeed",
        Phase::Ended(End::Undone | End::Resolved) => "failed",
    }
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
    let of = Of { gid: id, kind, branch: "00", op: "msg" };
    let check = match asked.query_prepared.as_deref().filter(|_| open && mode == Mode::Message) {
        Some(url) => call(url, "", &of, caller)?,
        None => None,
    };
    if open && mode == Mode::Message && check.is_none() {
        return Err(Problem::malformed("a prepared message needs query_prepared"));
    }
    let content = json!([
        kind,
        asked.payloads,
        asked.query_prepared,
        asked.custom_data,
        asked.steps.iter().flatten().map(|step| (&step.action, &step.compensate)).collect::<Vec<_>>()
    ]);
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
        fingerprint: fingerprint(mode, open, content.to_string().as_bytes()),
    };
    plan::check(&spec).map_err(|error| Problem::malformed(error.to_string()))?;
    Ok(spec)
}

fn branches(asked: &Asked, mode: Mode, id: &str, custom: &Custom, caller: &Caller) -> Result<Vec<Branch>, Problem> {
    let kind = asked.trans_type.as_deref().unwrap_or_default();
    let concurrent = custom.concurrent || asked.concurrent == Some(true);
    let given: BTreeMap<String, String> =
        asked.branch_headers.clone().and_then(|value| serde_json::from_value(value).ok()).unwrap_or_default();
    let fields = headers(&given)?;
    let mut branches = Vec::new();
    for (at, step) in asked.steps.iter().flatten().enumerate() {
        let name = format!("{:02}", at + 1);
        let payload = asked.payloads.as_ref().and_then(|payloads| payloads.get(at)).map_or("", String::as_str);
        let make = |url: &Option<String>, op: &str| -> Result<Option<Call>, Problem> {
            let of = Of { gid: id, kind, branch: &name, op };
            let made = call(url.as_deref().unwrap_or_default(), payload, &of, caller)?;
            Ok(made.map(|call| Call { headers: fields.clone(), ..call }))
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

/// What a call is told about itself, in its query.
struct Of<'a> {
    gid: &'a str,
    kind: &'a str,
    branch: &'a str,
    op: &'a str,
}

/// A call by URL: POST with a payload, GET without; none for an empty URL. A host that is an address of this
/// machine is called directly, any other is a service of the mesh.
fn call(url: &str, payload: &str, of: &Of<'_>, caller: &Caller) -> Result<Option<Call>, Problem> {
    if url.is_empty() {
        return Ok(None);
    }
    let bad = || Problem::malformed(format!("{url:?} is not http://HOST/PATH"));
    let rest = url.strip_prefix("http://").ok_or_else(bad)?;
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    let clean = |text: &str| text.bytes().all(|b| b.is_ascii_graphic()) && !text.contains(['@', '#', '\\']);
    if authority.is_empty() || !clean(authority) || !clean(path) || payload.len() > BODY_BYTES_MAX {
        return Err(bad());
    }
    let (authority, raw) = place(authority, caller);
    let joint = if path.contains('?') { '&' } else { '?' };
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let Of { gid, kind, branch, op } = of;
    let path = format!("{path}{joint}gid={gid}&trans_type={kind}&branch_id={branch}&op={op}");
    let method = if payload.is_empty() { "GET" } else { "POST" };
    Ok(Some(Call {
        target: Target { method: method.into(), authority: authority.into(), path: path.into(), raw },
        // An undo without a body would be told the action's; a GET has none.
        body: Some(payload.into()),
        kind: "application/json".into(),
        headers: Vec::new(),
        late: None,
    }))
}

/// The authority as the mesh has it, and whether it is an address instead of a service.
fn place(authority: &str, caller: &Caller) -> (String, bool) {
    let (host, port) = authority
        .rsplit_once(':')
        .filter(|(_, port)| port.parse::<u16>().is_ok())
        .map_or((authority, None), |(h, p)| (h, Some(p)));
    if host == "localhost" || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok() {
        return (authority.to_owned(), true);
    }
    let name = [".mesh.localhost", ".mesh", ".svc.cluster.local", ".svc"]
        .iter()
        .find_map(|end| host.strip_suffix(end))
        .unwrap_or(host);
    let (name, namespace) = name.split_once('.').unwrap_or((name, caller.namespace()));
    (port.map_or_else(|| format!("{name}.{namespace}"), |port| format!("{name}.{namespace}:{port}")), false)
}
