// SPDX-License-Identifier: Apache-2.0
//! Transactions as JSON: one in full, one as a row of a list, and one entry of a history.

use super::actor::Sight;
use super::problem::Problem;
use byrnie_base::{Text, Timestamp};
use byrnie_saga::journal::What;
use byrnie_saga::machine::State as Standing;
use byrnie_saga::{Child, End, Entry, Mode, Op, Phase, Slot, Spec};
use byrnie_store::{Heading, Value as Bytes};
use serde::Serialize;
use serde_json::{Value, json};

const MODES: [Mode; 4] = [Mode::Saga, Mode::Message, Mode::Tcc, Mode::Scope];
/// The state of one that can't be read, as its key is missing.
const SEALED: &str = "SEALED";
/// What is shown of one that runs on past its deadline.
const OVERDUE: &str =
    "past its deadline; a step that can't be taken back may have been done, so it is called until it is answered";

/// A transaction in full, as it is at `now`.
pub(super) fn full(id: &str, sight: &Sight, now: Timestamp) -> Value {
    let state = &sight.state;
    let branches: Vec<Value> = (0..state.progress.len()).map(|at| branch(sight, at)).collect();
    json!({
        "id": id,
        "mode": state.spec.mode.name(),
        "state": state.name(),
        "reason": or_overdue(reason(state), state.name(), state.spec.deadline, now),
        "creator": state.spec.creator,
        "created": state.spec.created,
        "deadline": state.spec.deadline,
        "definition": state.spec.definition,
        "parent": state.spec.parent.as_ref().map(|parent| json!({"id": parent.id, "branch": parent.branch})),
        "branches": branches,
    })
}

/// A reason or, if there is none, that it runs past its deadline at `now`, which nobody wrote down: a saga that could be taken back
/// would have been.
fn or_overdue<'r>(reason: &'r str, state: &str, deadline: Option<Timestamp>, now: Timestamp) -> &'r str {
    let overdue = state == Mode::Saga.state(Phase::Acting) && deadline.is_some_and(|deadline| deadline <= now);
    if reason.is_empty() && overdue { OVERDUE } else { reason }
}

/// Why it took its direction, or else why an operator has to look.
fn reason(state: &Standing) -> &Text {
    let stuck = state.progress.iter().find(|branch| branch.stuck().is_some()).filter(|_| state.is_stuck());
    stuck.map_or(&state.reason, |branch| if state.reason.is_empty() { &branch.reason } else { &state.reason })
}

fn branch(sight: &Sight, at: usize) -> Value {
    let (spec, progress) = (&sight.state.spec, &sight.state.progress[at]);
    let asked = &spec.branches[at];
    let (attempts, calling) = sight.calls.get(at).copied().unwrap_or_default();
    let mut calls = serde_json::Map::new();
    for op in [Op::Action, Op::Confirm, Op::Undo] {
        let Some(call) = asked.call(op) else { continue };
        let target = &call.target;
        let path = call.late.as_ref().and_then(|late| late.path.as_ref()).unwrap_or(&target.path);
        let shown = match asked.child.as_deref() {
            Some(Child::Defined { definition, .. }) => format!("saga {definition}"),
            Some(Child::Given { spec, .. }) => format!("saga of {} branches", spec.branches.len()),
            None => format!("{} {}{path}", target.method, target.authority),
        };
        calls.insert(spec.mode.op(op).to_owned(), json!({"target": shown, "state": word(progress.slot(op))}));
    }
    let after: Vec<&Text> =
        asked.after.iter().filter_map(|at| spec.branches.get(usize::from(*at)).map(|branch| &branch.name)).collect();
    json!({
        "name": asked.name,
        "after": after,
        "pivot": asked.pivot,
        "calls": calls,
        "attempts": attempts,
        "calling": calling,
        "reason": progress.reason,
    })
}

const fn word(slot: Slot) -> &'static str {
    match slot {
        Slot::Absent => "not needed",
        Slot::Pending => "pending",
        Slot::Done => "done",
        Slot::Rejected => "rejected",
        Slot::Stuck => "stuck",
    }
}

/// The states of transactions that have ended. Messages are `ABORTED` before that as well.
fn ended() -> impl Iterator<Item = &'static str> {
    let ends = [End::Done, End::Undone, End::Resolved];
    MODES.into_iter().flat_map(move |mode| ends.map(|end| mode.state(Phase::Ended(end))))
}

/// The state of this name, in whatever case it is written.
pub(super) fn state_of(word: &str) -> Result<&'static str, Problem> {
    let phases = [Phase::Acting, Phase::Open, Phase::Held, Phase::Confirming, Phase::Undoing];
    let going = MODES.into_iter().flat_map(|mode| phases.map(|phase| mode.state(phase)));
    let mut all: Vec<&str> = going.chain(ended()).chain(["STUCK", SEALED]).collect();
    all.sort_unstable();
    all.dedup();
    let found = all.iter().find(|state| state.eq_ignore_ascii_case(word)).copied();
    found.ok_or_else(|| Problem::malformed(format!("there is no state {word:?}: {}", all.join(", "))).at("state"))
}

/// Whether a transaction in this state may have ended.
pub(super) fn may_be_ended(state: &str) -> bool {
    state == SEALED || ended().any(|ended| ended == state)
}

/// What lists show of a transaction, as the journal keeps it.
pub(super) fn summary(state: &Standing) -> Bytes {
    let mut services: Vec<&str> = state
        .spec
        .branches
        .iter()
        .filter(|branch| branch.child.is_none())
        .flat_map(|branch| [Op::Action, Op::Confirm, Op::Undo].into_iter().filter_map(|op| branch.call(op)))
        .map(|call| &*call.target.authority)
        .collect();
    services.sort_unstable();
    services.dedup();
    let summary = Summary {
        mode: state.spec.mode.name(),
        state: state.name(),
        reason: reason(state),
        creator: &state.spec.creator,
        created: state.spec.created,
        deadline: state.spec.deadline,
        services,
        parent: state.spec.parent.as_ref().map(|parent| &parent.id),
    };
    // Plain data with text keys: there is nothing that JSON can't say.
    Bytes::from(serde_json::to_vec(&summary).unwrap_or_default())
}

#[derive(Serialize)]
struct Summary<'s> {
    mode: &'s str,
    state: &'s str,
    reason: &'s Text,
    creator: &'s Text,
    created: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<Timestamp>,
    services: Vec<&'s str>,
    parent: Option<&'s Text>,
}

/// A row of a list, as it is at `now`.
pub(super) fn row(heading: &Heading, now: Timestamp) -> Value {
    let mut row: Value = serde_json::from_slice(&heading.summary).unwrap_or_else(|_| json!({}));
    let deadline = row["deadline"].as_u64().map(Timestamp::from_millis);
    let own = row["reason"].as_str().unwrap_or_default();
    if or_overdue(own, row["state"].as_str().unwrap_or_default(), deadline, now) == OVERDUE {
        row["reason"] = json!(OVERDUE);
    }
    row["id"] = json!(heading.id);
    row["ended"] = json!(heading.ended);
    row
}

/// An entry of a history, in words.
pub(super) fn event(spec: &Spec, entry: &Entry) -> Value {
    let name = |at: u16| spec.branches.get(usize::from(at)).map_or_else(Text::default, |branch| branch.name.clone());
    let op = |op: Op| spec.mode.op(op);
    let mut event = match &entry.what {
        What::Begun { spec, .. } => json!({"what": "begun", "by": spec.creator}),
        What::Enlisted { branch, by } => json!({"what": "enlisted", "branch": branch.name, "by": by}),
        What::Tried { branch, op: of, attempt, reason } => json!({
            "what": "tried", "branch": branch.map(name), "op": op(*of), "attempt": attempt, "detail": reason}),
        What::Ongoing { branch, op: of, location } => json!({
            "what": "ongoing", "branch": name(*branch), "op": op(*of), "detail": location}),
        What::Settled { branch, op: of, slot, attempt, answer, by } => json!({
            "what": word(*slot), "branch": name(*branch), "op": op(*of), "attempt": attempt, "detail": answer,
            "by": by}),
        What::Turned { to, reason, by, .. } => json!({
            "what": spec.mode.state(*to).to_ascii_lowercase(), "detail": reason, "by": by}),
        What::Retried { branch, op: of, by } => json!({
            "what": "retried", "branch": name(*branch), "op": op(*of), "by": by}),
        What::Ended { end, by, reason } => json!({
            "what": spec.mode.state(byrnie_saga::Phase::Ended(*end)).to_ascii_lowercase(), "by": by, "detail": reason}),
    };
    event["at"] = json!(entry.at);
    event
}
