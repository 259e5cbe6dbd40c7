// SPDX-License-Identifier: Apache-2.0
//! The HTTP API of transactions, `/txn/v1/...`: on the console for the operator, and as the mesh service
//! `transactions.byrnie` for workloads, whose proven identity counts. Whatever changes something, or is refused, is
//! written to the audit.

use super::actor::Sight;
use super::problem::Problem;
use super::run::Coordinator;
use super::{Caller, audit, definition, dispatch, dtm, nest, spec, trace, view};
use byrnie_base::Text;
use byrnie_model::{code, json};
use byrnie_net::serve::{HeaderName, Request, Response, StatusCode, header};
use byrnie_saga::judge::REASON_BYTES_MAX;
use byrnie_saga::shards::SHARDS;
use byrnie_saga::transaction::BODY_BYTES_MAX;
use byrnie_saga::{Ask, Mode, Outcome, Phase};
use byrnie_store::Heading;
use serde::Deserialize;
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for an outcome (`Prefer: wait=`), in seconds.
const WAIT_MAX: u64 = 60;
/// Most rows of a list, and most headings that are looked at for it.
const LIST_MAX: (usize, usize) = (200, 20_000);
/// Says of a list why it isn't all there is.
const LIST_CUT: &str = "txn-list-cut";
/// Headings read at once.
const PAGE: usize = 500;

/// Answers a request for `/txn/v1/...`, `/api/dtmsvr/...` or `/dtmgimp.Dtm/...`. `caller` is nobody if the request proves nothing.
pub async fn answer(coordinator: &Arc<Coordinator>, caller: Option<Caller>, request: &Request) -> Response {
    let path: Vec<&str> = request.path.split('/').filter(|segment| !segment.is_empty()).collect();
    if path.starts_with(&["api", "dtmsvr"]) {
        return dtm::http::answer(coordinator, caller.as_ref(), request).await;
    }
    if path.starts_with(&[dtm::grpc::SERVICE]) {
        return dtm::grpc::answer(coordinator, caller.as_ref(), request).await;
    }
    let Some(rest) = path.strip_prefix(&["txn", "v1"]) else {
        return Problem::new(404, &code::TXN_ABSENT, "transactions are under /txn/v1/").response();
    };
    let asked = Asked::read(request.method.as_str(), rest);
    let mut line = asked.as_ref().ok().filter(|asked| asked.changes()).map(|asked| Unheard {
        coordinator,
        caller: caller.as_ref(),
        verb: asked.verb(),
        id: asked.id().into(),
        status: audit::UNHEARD,
    });
    let answered = match (&asked, &caller) {
        (Err(problem), _) => Err(problem.clone()),
        (Ok(_), None) => Err(Problem::new(403, &code::TXN_DENIED, "no identity is proven: call through the mesh")),
        (Ok(_), Some(caller)) if is_edge(caller) => {
            Err(Problem::new(403, &code::TXN_DENIED, "the edge speaks for strangers; they start no transactions"))
        }
        (Ok(asked), Some(caller)) => perform(coordinator, caller, asked, request).await,
    };
    let response = answered.unwrap_or_else(|problem| problem.response());
    let status = response.status.as_u16();
    if let Some(line) = &mut line {
        line.status = status;
        let begun = response.headers.get(header::LOCATION).and_then(|place| place.to_str().ok()?.rsplit('/').next());
        line.id = begun.unwrap_or(&line.id).into();
    } else if let (Ok(asked), 403) = (&asked, status) {
        coordinator.audit.note(coordinator.now(), caller.as_ref(), asked.verb(), asked.id(), status);
    }
    response
}

/// A line of the audit, noted also if whoever asks goes away before the answer.
struct Unheard<'a> {
    coordinator: &'a Coordinator,
    caller: Option<&'a Caller>,
    verb: &'a str,
    id: Text,
    status: u16,
}

impl Drop for Unheard<'_> {
    fn drop(&mut self) {
        let Self { coordinator, caller, verb, id, status } = self;
        coordinator.audit.note(coordinator.now(), *caller, verb, id, *status);
    }
}

pub(super) fn is_edge(caller: &Caller) -> bool {
    matches!(caller, Caller::Workload(identity) if identity.is_edge())
}

/// What a request is for.
enum Asked<'r> {
    Begin(Mode),
    List,
    Audit,
    Show(&'r str),
    Events(&'r str),
    Verb(&'r str, &'r str),
    Enlist(&'r str),
    Complete(&'r str, &'r str),
}

/// Verbs after `/{id}:`.
const VERBS: [&str; 8] = ["submit", "confirm", "close", "cancel", "abort", "retry", "skip", "resolve"];
/// Those that declare done what no participant has confirmed: for the operator alone, even where the creator
/// asks, since nothing but a person's word stands behind them.
const FORCING: [&str; 2] = ["skip", "resolve"];

impl<'r> Asked<'r> {
    fn read(method: &str, path: &[&'r str]) -> Result<Self, Problem> {
        Ok(match (method, path) {
            ("POST", ["sagas"]) => Self::Begin(Mode::Saga),
            ("POST", ["messages"]) => Self::Begin(Mode::Message),
            ("POST", ["tcc"]) => Self::Begin(Mode::Tcc),
            ("POST", ["scopes"]) => Self::Begin(Mode::Scope),
            ("GET", []) => Self::List,
            ("GET", [id]) if *id == "audit" => Self::Audit,
            ("GET", [id]) => Self::Show(id),
            ("GET", [id, "events"]) => Self::Events(id),
            ("POST", [id, "branches"]) => Self::Enlist(id),
            ("POST", [id, "branches", branch]) => match branch.rsplit_once(':') {
                Some((branch, "complete")) => Self::Complete(id, branch),
                _ => return Err(Problem::new(404, &code::TXN_ABSENT, "a branch has :complete")),
            },
            ("POST", [word]) => match word.rsplit_once(':') {
                Some((id, verb)) if VERBS.contains(&verb) => Self::Verb(id, verb),
                _ => return Err(Problem::new(404, &code::TXN_ABSENT, format!("there is nothing at /txn/v1/{word}"))),
            },
            (method, _) => {
                return Err(Problem::new(405, &code::TXN_MALFORMED, format!("{method} is not for this path")));
            }
        })
    }

    fn verb(&self) -> &'r str {
        match self {
            Self::Begin(_) => "start",
            Self::List => "list",
            Self::Audit => "audit",
            Self::Show(_) | Self::Events(_) => "show",
            Self::Verb(_, verb) => verb,
            Self::Enlist(_) => "enlist",
            Self::Complete(..) => "complete",
        }
    }

    fn id(&self) -> &'r str {
        match self {
            Self::Begin(_) | Self::List | Self::Audit => "",
            Self::Show(id) | Self::Events(id) | Self::Verb(id, _) | Self::Enlist(id) | Self::Complete(id, _) => id,
        }
    }

    fn changes(&self) -> bool {
        !matches!(self, Self::List | Self::Audit | Self::Show(_) | Self::Events(_))
    }
}

async fn perform(
    coordinator: &Arc<Coordinator>,
    caller: &Caller,
    asked: &Asked<'_>,
    request: &Request,
) -> Result<Response, Problem> {
    match asked {
        Asked::Begin(mode) => begin(coordinator, caller, *mode, request).await,
        Asked::List => list(coordinator, caller, request).await,
        Asked::Audit => match caller {
            Caller::Operator => Ok(reply(200, &json!(coordinator.audit.newest(limit(request, audit::LINES_MAX)?)))),
            Caller::Workload(_) => Err(Problem::new(403, &code::TXN_DENIED, "the audit is for operators")),
        },
        Asked::Show(id) => {
            let (id, sight) = own(coordinator, caller, id).await?;
            Ok(reply(200, &with_children(coordinator, &id, &sight).await))
        }
        Asked::Events(id) => {
            let (id, sight) = own(coordinator, caller, id).await?;
            let entries = coordinator.history(&id).await?;
            let events: Vec<Value> = entries.iter().map(|entry| view::event(&sight.state.spec, entry)).collect();
            Ok(reply(200, &json!(events)))
        }
        Asked::Verb(id, verb) => command(coordinator, caller, id, verb, request).await,
        Asked::Enlist(id) => enlist(coordinator, caller, id, request).await,
        Asked::Complete(id, branch) => complete(coordinator, caller, id, branch, request).await,
    }
}

/// How many are asked for (`limit=`), of at most so many.
fn limit(request: &Request, most: usize) -> Result<usize, Problem> {
    let Some(limit) = parameter(request, "limit").filter(|limit| !limit.is_empty()) else { return Ok(LIST_MAX.0) };
    let bad = |_| Problem::malformed(format!("limit={limit} is not a number")).at("limit");
    limit.parse().map(|limit: usize| limit.min(most)).map_err(bad)
}

/// A transaction in full, and how the sagas within it stand.
async fn with_children(coordinator: &Arc<Coordinator>, id: &Text, sight: &Sight) -> Value {
    let mut shown = view::full(id, sight, coordinator.now());
    for (at, branch) in sight.state.spec.branches.iter().enumerate().filter(|(_, branch)| branch.child.is_some()) {
        let child = nest::id(id, branch);
        // One that isn't there hasn't begun; what can't be read now is left out.
        if let Ok(Some(found)) = coordinator.find(&child).await {
            let (state, reason) = (found.state.name(), &found.state.reason);
            shown["branches"][at]["child"] = json!({"id": child, "state": state, "reason": reason});
        }
    }
    shown
}

/// Whether nobody is above a saga within another any more: that one has ended without its word, by an operator's.
async fn is_orphan(coordinator: &Arc<Coordinator>, sight: &Sight) -> Result<bool, Problem> {
    Ok(sight.state.phase == Phase::Held && nest::is_alone(coordinator, &sight.state).await?)
}

/// Refuses what says one thing twice: whoever reads it next may take the other.
fn only_once(body: &[u8]) -> Result<(), Problem> {
    json::repeated(body).map_or(Ok(()), |why| Err(Problem::malformed(format!("the body: {why}"))))
}

async fn begin(
    coordinator: &Arc<Coordinator>,
    caller: &Caller,
    mode: Mode,
    request: &Request,
) -> Result<Response, Problem> {
    only_once(&request.body)?;
    let prepare = mode == Mode::Message && parameter(request, "prepare").is_some_and(|value| value != "false");
    let started = (mode == Mode::Saga).then(|| definition::read(coordinator, caller, request)).transpose()?.flatten();
    let (id, spec) = match started {
        Some(started) => started,
        None => spec::read(mode, prepare, &request.body, caller, coordinator.now())?,
    };
    let (id, new) = coordinator.begin(id, spec, trace::given(request)).await?;
    let sight = coordinator.settled(&id, patience(request)).await?;
    let place = format!("/txn/v1/{id}");
    Ok(reply(if new { 201 } else { 200 }, &view::full(&id, &sight, coordinator.now())).with(header::LOCATION, &place))
}

/// `Prefer: wait=SECONDS` (RFC 7240), or `?wait=SECONDS` where headers are hard to set; none of either is no wait.
fn patience(request: &Request) -> Duration {
    let preferred = request.header("prefer").and_then(|prefer| {
        prefer.split([',', ';']).find_map(|part| part.trim().strip_prefix("wait=").map(str::to_owned))
    });
    let wait = preferred.or_else(|| parameter(request, "wait")).and_then(|wait| wait.parse::<u64>().ok());
    Duration::from_secs(wait.unwrap_or_default().min(WAIT_MAX))
}

/// A transaction that this caller may see and steer: its creator's own, or any for an operator.
async fn own(coordinator: &Arc<Coordinator>, caller: &Caller, id: &str) -> Result<(Text, Arc<Sight>), Problem> {
    let id = Text::from(id);
    let sight = coordinator.find(&id).await?.ok_or_else(|| Problem::absent(&id))?;
    if *caller == Caller::Operator || sight.state.spec.creator == caller.name() {
        return Ok((id, sight));
    }
    Err(Problem::new(403, &code::TXN_DENIED, format!("transaction {id} is not {caller}'s")))
}

async fn command(
    coordinator: &Arc<Coordinator>,
    caller: &Caller,
    id: &str,
    verb: &str,
    request: &Request,
) -> Result<Response, Problem> {
    let (id, sight) = own(coordinator, caller, id).await?;
    if FORCING.contains(&verb) && *caller != Caller::Operator {
        let detail =
            format!("{verb} is for an operator, as no participant stands behind it; {caller} may cancel or retry");
        return Err(Problem::new(403, &code::TXN_DENIED, detail));
    }
    let body: Words = if request.body.is_empty() {
        Words::default()
    } else {
        serde_json::from_slice(&request.body).map_err(|error| Problem::malformed(error.to_string()))?
    };
    check_reason(body.reason.as_deref().unwrap_or_default())?;
    let reason = || body.reason.clone().unwrap_or_else(|| format!("{verb} by {caller}")).into();
    let fits = match verb {
        "submit" => sight.state.spec.mode == Mode::Message,
        "confirm" => sight.state.spec.mode == Mode::Tcc,
        "close" => sight.state.spec.mode == Mode::Scope,
        "abort" => matches!(sight.state.spec.mode, Mode::Message | Mode::Tcc),
        _ => true,
    };
    if !fits {
        return Err(Problem::malformed(format!("a {} has no {verb}", sight.state.spec.mode.name())));
    }
    let ask = match verb {
        "submit" | "confirm" | "close" => Ask::Go,
        "cancel" if is_orphan(coordinator, &sight).await? => Ask::Parent { keep: false },
        "resolve" if is_orphan(coordinator, &sight).await? => Ask::Parent { keep: true },
        "cancel" | "abort" => Ask::Back { reason: reason() },
        "retry" => Ask::Retry,
        "skip" => Ask::Skip { branch: body.branch.clone().unwrap_or_default().into() },
        _ => Ask::Resolve { reason: reason() },
    };
    coordinator.ask(&id, ask, caller).await?;
    let sight = coordinator.settled(&id, patience(request)).await?;
    Ok(reply(200, &view::full(&id, &sight, coordinator.now())))
}

fn check_reason(reason: &str) -> Result<(), Problem> {
    if reason.len() <= REASON_BYTES_MAX {
        return Ok(());
    }
    Err(Problem::malformed(format!("it has {} bytes; {REASON_BYTES_MAX} is the most", reason.len())).at("reason"))
}

/// What may go with a verb.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Words {
    reason: Option<String>,
    branch: Option<String>,
}

async fn enlist(
    coordinator: &Arc<Coordinator>,
    caller: &Caller,
    id: &str,
    request: &Request,
) -> Result<Response, Problem> {
    let id = Text::from(id);
    let sight = coordinator.find(&id).await?.ok_or_else(|| Problem::absent(&id))?;
    let spec = &sight.state.spec;
    only_once(&request.body)?;
    let mut branch = spec::read_branch(spec.mode, &request.body, caller, coordinator.now())?;
    coordinator.doorkeeper.authorize_branch(&coordinator.state, caller, &spec.creator, &mut branch)?;
    let name = branch.name.clone();
    coordinator.ask(&id, Ask::Enlist(Box::new(branch)), caller).await?;
    Ok(reply(201, &json!({"id": id, "branch": name})))
}

/// The outcome of a branch, as its participant tells it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Told {
    outcome: Word,
    #[serde(default)]
    response: Option<Value>,
    #[serde(default)]
    reason: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Done,
    Rejected,
}

async fn complete(
    coordinator: &Arc<Coordinator>,
    caller: &Caller,
    id: &str,
    branch: &str,
    request: &Request,
) -> Result<Response, Problem> {
    let id = Text::from(id);
    let sight = coordinator.find(&id).await?.ok_or_else(|| Problem::absent(&id))?;
    let creator = *caller == Caller::Operator || sight.state.spec.creator == caller.name();
    if !creator && !dispatch::is_participant(coordinator, caller, &sight.state, branch) {
        return Err(Problem::new(403, &code::TXN_DENIED, format!("{caller} neither began {id} nor serves {branch}")));
    }
    // Nothing more to say than that it's complete.
    let body: &[u8] = if request.body.is_empty() { b"{\"outcome\": \"done\"}" } else { &request.body };
    let told: Told = serde_json::from_slice(body)
        .map_err(|error| Problem::malformed(format!("{error}; {{\"outcome\": \"done\"}} is one")))?;
    let answer = told.response.map(|value| value.to_string()).unwrap_or_default();
    if answer.len() > BODY_BYTES_MAX {
        let detail = format!("it has {} bytes; {BODY_BYTES_MAX} is the most: tell where the rest is", answer.len());
        return Err(Problem::malformed(detail).at("response"));
    }
    let reason = told.reason.unwrap_or_default();
    check_reason(&reason)?;
    let outcome = match told.outcome {
        Word::Done => Outcome::Done { answer: answer.into() },
        Word::Rejected => Outcome::Rejected { reason: reason.into() },
    };
    coordinator.ask(&id, Ask::Complete { branch: branch.into(), outcome }, caller).await?;
    let sight = coordinator.find(&id).await?.ok_or_else(|| Problem::absent(&id))?;
    Ok(reply(200, &json!({"id": id, "state": sight.state.name()})))
}

/// `GET /txn/v1?state=&service=&creator=&since=&limit=`: the newest first. None that hasn't ended is left out, of another
/// coordinator's if a state is asked for. The journal is in the order of ids, which is that of time only for those made here; so of those
/// that have, headings are looked at up to a limit, and `Txn-List-Cut` says so where there are more.
async fn list(coordinator: &Arc<Coordinator>, caller: &Caller, request: &Request) -> Result<Response, Problem> {
    let word = |name: &str| parameter(request, name).filter(|value| !value.is_empty());
    known_only(request)?;
    let state = word("state").map(|state| view::state_of(&state)).transpose()?;
    let (service, since) = (word("service"), word("since").map(|since| moment(&since)).transpose()?);
    let creator = if *caller == Caller::Operator { word("creator") } else { Some(caller.to_string()) };
    let limit = limit(request, LIST_MAX.0)?;
    let fits = |row: &Value| {
        let served = |wanted: &String| {
            let of = |name: &str| *name == **wanted || name.split(['.', ':']).next() == Some(wanted);
            row["services"].as_array().is_some_and(|all| all.iter().filter_map(Value::as_str).any(of))
        };
        state.is_none_or(|state| row["state"] == state)
            && creator.as_ref().is_none_or(|creator| row["creator"] == **creator)
            && service.as_ref().is_none_or(served)
            && since.is_none_or(|since| row["created"].as_u64().is_some_and(|created| created >= since))
    };
    let now = coordinator.now();
    let settled = state.is_none_or(view::may_be_ended);
    let (known, mut cut) = unfinished(coordinator, creator.as_deref(), !settled).await?;
    let known: HashMap<Text, Value> =
        known.iter().map(|heading| (heading.id.clone(), view::row(heading, now))).collect();
    let mut rows: Vec<Value> = known.values().filter(|row| fits(row)).cloned().collect();
    let (mut below, mut looked) = (None::<Text>, 0);
    while settled && !cut {
        let page = coordinator.journal.list(below.as_deref(), PAGE).await?;
        let Some(last) = page.last() else { break };
        cut = looked >= LIST_MAX.1;
        below = Some(last.id.clone());
        looked += page.len();
        rows.extend(
            page.iter()
                .filter(|heading| !known.contains_key(&heading.id))
                .map(|heading| view::row(heading, now))
                .filter(fits),
        );
        newest(&mut rows, limit + 1);
    }
    let more = rows.len() > limit;
    newest(&mut rows, limit);
    let response = reply(200, &Value::Array(rows));
    let why = match (cut, more) {
        (true, _) => format!("only {} transactions were looked at, so there may be others", LIST_MAX.1),
        (_, true) => format!("the newest {limit}; there are others"),
        _ => return Ok(response),
    };
    Ok(response.with(HeaderName::from_static(LIST_CUT), &why))
}

/// What a list is asked by.
const LISTED_BY: [&str; 5] = ["state", "service", "creator", "since", "limit"];

/// A parameter that nobody knows would silently list what wasn't asked for.
fn known_only(request: &Request) -> Result<(), Problem> {
    let names = request.query.as_deref().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    let mut names = names.map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name));
    match names.find(|name| !LISTED_BY.contains(name)) {
        Some(name) => {
            Err(Problem::malformed(format!("a list has no {name}; it has {}", LISTED_BY.join(", "))).at(name))
        }
        None => Ok(()),
    }
}

/// A time in milliseconds since 1970, or as RFC 3339 has it.
fn moment(since: &str) -> Result<u64, Problem> {
    let read = since.parse().ok().or_else(|| {
        // A `+` is a blank in a query.
        let at = since.replace("%20", " ").replace("%2B", "+").replace("%2b", "+").replace(' ', "+");
        u64::try_from(at.parse::<jiff::Timestamp>().ok()?.as_millisecond()).ok()
    });
    let bad =
        || Problem::malformed(format!("since={since} is neither 2026-11-30T00:00:00Z nor milliseconds since 1970"));
    read.ok_or_else(|| bad().at("since"))
}

/// Keeps the newest rows. Those that can't be read, of which it isn't known when they were begun, come first.
fn newest(rows: &mut Vec<Value>, count: usize) {
    rows.sort_by_key(|row| Reverse(row["created"].as_u64().unwrap_or(u64::MAX)));
    rows.truncate(count);
}

/// Transactions that haven't ended: those that are driven here and, if `all` are asked for and there are other coordinators, theirs, as
/// the journal has them; and whether there are more of them than are looked at.
async fn unfinished(
    coordinator: &Coordinator,
    creator: Option<&str>,
    all: bool,
) -> Result<(Vec<Heading>, bool), Problem> {
    let sights: Vec<_> =
        coordinator.live().iter().map(|(id, handle)| (id.clone(), handle.sight.borrow().clone())).collect();
    let of = |sight: &Sight| creator.is_none_or(|creator| *sight.state.spec.creator == *creator);
    let driven = sights.into_iter().filter(|(_, sight)| of(sight) && !matches!(sight.state.phase, Phase::Ended(_)));
    let heading = |(id, sight): (Text, Arc<Sight>)| Heading { id, summary: view::summary(&sight.state), ended: None };
    let mut found: Vec<Heading> = driven.map(heading).collect();
    if !all {
        return Ok((found, false));
    }
    let known: HashSet<Text> = found.iter().map(|heading| heading.id.clone()).collect();
    let mut others = coordinator.journal.unfinished((0..SHARDS).collect()).await?;
    others.retain(|id| !known.contains(id));
    let cut = others.len() > LIST_MAX.1;
    others.truncate(LIST_MAX.1);
    if !others.is_empty() {
        let headings = coordinator.journal.headings(others).await?;
        found.extend(headings.into_iter().filter(|heading| heading.ended.is_none()));
    }
    Ok((found, cut))
}

fn reply(status: u16, value: &Value) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    Response::new(status, "application/json", value.to_string())
}

/// The first value of a query parameter. Ids and states need no decoding; of the rest `%2F` and `%3A` do.
pub(super) fn parameter(request: &Request, name: &str) -> Option<String> {
    request.query.as_deref()?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then(|| value.replace("%2F", "/").replace("%2f", "/").replace("%3A", ":").replace("%3a", ":"))
    })
}
