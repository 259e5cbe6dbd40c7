// SPDX-License-Identifier: Apache-2.0
//! What operators of dtm ask of it beside its clients (`dtmsvr/api_http.go`, 1.18): which transactions there are, that one ends where
//! it stands, and that those which wait go on at once. Whoever isn't an operator sees and hurries its own alone.

use super::super::problem::Problem;
use super::super::run::Coordinator;
use super::super::spec::check_id;
use super::super::{Caller, api, nest};
use super::http::{Answered, status, told};
use super::{Asked, Said, own};
use byrnie_base::{Text, Timestamp};
use byrnie_model::{code, yaml};
use byrnie_net::serve::Request;
use byrnie_saga::machine::State as Standing;
use byrnie_saga::{Ask, End, Mode, Phase};
use byrnie_store::Heading;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Transactions of an answer, and most that are changed by one question: unless `limit` says fewer or more, and in any case.
const LIMIT: (usize, usize) = (100, 1_000);
/// Headings that are looked at for one answer; the next one goes on from there.
const LOOKED_MAX: usize = 20_000;
/// Headings read at once.
const PAGE: usize = 500;
/// What waits for longer than this is hurried, unless `timeout` says otherwise: thrice [`super::TIMEOUT_SECONDS`], as dtm has it.
const LATE_SECONDS: u64 = 3 * super::TIMEOUT_SECONDS;

/// `GET all?gid=&position=&limit=&status=&transType=&createTimeStart=&createTimeEnd=`: the newest first. `position` is what the answer
/// before said as `next_position`, which is empty once there are no more; times are milliseconds since 1970.
pub(super) async fn all(coordinator: &Arc<Coordinator>, caller: &Caller, request: &Request) -> Answered {
    let word = |name: &str| api::parameter(request, name).filter(|value| !value.is_empty());
    let position = word("position");
    if let Some(gid) = word("gid") {
        let id = check_id(&gid)?;
        let Some(sight) = coordinator.find(&id).await? else {
            return Ok((200, json!({"transactions": null, "next_position": position.unwrap_or_default()})));
        };
        own(caller, &sight, &id)?;
        let ended = coordinator.journal.headings(vec![id.clone()]).await?.into_iter().find_map(|heading| heading.ended);
        let shown = transaction(&id, &sight.state, ended);
        return Ok((200, json!({"transactions": [shown], "next_position": position.unwrap_or_default()})));
    }
    let wanted = Wanted {
        status: word("status"),
        kind: word("transType"),
        from: number(request, "createTimeStart")?,
        to: number(request, "createTimeEnd")?,
        creator: (*caller != Caller::Operator).then(|| caller.name()),
    };
    let limit = limit(request)?;
    let (mut below, mut looked, mut rows) = (position.map(|id| check_id(&id)).transpose()?, 0, Vec::new());
    let next = 'pages: loop {
        let page = coordinator.journal.list(below.as_deref(), PAGE).await?;
        let whole = page.len() == PAGE;
        for heading in page {
            if rows.len() == limit || looked == LOOKED_MAX {
                break 'pages below.unwrap_or_default();
            }
            looked += 1;
            below = Some(heading.id.clone());
            rows.extend(wanted.row(coordinator, &heading).await?);
        }
        if !whole {
            break Text::default();
        }
    };
    Ok((200, json!({"transactions": rows, "next_position": next})))
}

/// `POST forceStop {gid}`: for an operator alone, as no participant stands behind it. The sagas within it end with it.
pub(super) async fn force_stop(coordinator: &Arc<Coordinator>, caller: &Caller, asked: &Asked) -> Answered {
    let id = super::id(asked)?;
    if *caller != Caller::Operator {
        let detail = format!("forceStop is for an operator, as no participant stands behind it; {caller} may abort");
        return Err(Problem::new(403, &code::TXN_DENIED, detail));
    }
    let sight = coordinator.find(&id).await?.ok_or_else(|| Problem::absent(&id))?;
    let reason = format!("stopped by {caller}").into();
    let is_alone = nest::is_alone(coordinator, &sight.state).await?;
    let ask = if is_alone { Ask::Forsake { reason } } else { Ask::Stop { reason } };
    match coordinator.ask(&id, ask, caller).await {
        Ok(()) => nest::forsake(coordinator, &id, caller).await.map(|_| told(Said::Success)),
        // It was stopped before, and this coordinator died before it came to the sagas within.
        Err(over) if sight.state.phase == Phase::Ended(End::Resolved) => {
            let within = nest::forsake(coordinator, &id, caller).await?;
            if within > 0 { Ok(told(Said::Success)) } else { Err(over) }
        }
        Err(problem) => Err(problem),
    }
}

/// `POST resetNextCronTime {gid}`: what of it waits, or is stuck, is called at once.
pub(super) async fn hurry(coordinator: &Arc<Coordinator>, caller: &Caller, asked: &Asked) -> Answered {
    let id = super::id(asked)?;
    let sight = coordinator.find(&id).await?.ok_or_else(|| Problem::absent(&id))?;
    own(caller, &sight, &id)?;
    coordinator.ask(&id, Ask::Hurry, caller).await?;
    Ok(told(Said::Success))
}

/// `GET resetCronTime?timeout=&limit=`: the same of all that are stuck, or wait longer than `timeout` seconds yet, as far as this
/// coordinator drives them.
pub(super) async fn hurry_all(coordinator: &Arc<Coordinator>, caller: &Caller, request: &Request) -> Answered {
    let timeout = Duration::from_secs(number(request, "timeout")?.unwrap_or(LATE_SECONDS));
    let limit = limit(request)?;
    let mut waiting = waiting(coordinator, caller, coordinator.now() + timeout);
    // The oldest first, by their ids.
    waiting.sort_unstable();
    let remaining = waiting.len() > limit;
    waiting.truncate(limit);
    let mut done = 0;
    for id in waiting {
        // One that has ended meanwhile waits no longer.
        done += usize::from(coordinator.ask(&id, Ask::Hurry, caller).await.is_ok());
    }
    Ok((200, json!({"has_remaining": remaining, "succeed_count": done})))
}

/// Those of this caller that are stuck, or aren't tried again before `late`.
fn waiting(coordinator: &Coordinator, caller: &Caller, late: Timestamp) -> Vec<Text> {
    let (creator, all) = (caller.name(), *caller == Caller::Operator);
    let live = coordinator.live();
    let waits = live.iter().filter(|(_, handle)| {
        let sight = handle.sight.borrow();
        let mine = all || sight.state.spec.creator == creator;
        mine && (sight.state.is_stuck() || sight.due.is_some_and(|due| due > late))
    });
    waits.map(|(id, _)| id.clone()).collect()
}

/// Which transactions are listed.
struct Wanted {
    status: Option<String>,
    kind: Option<String>,
    from: Option<u64>,
    to: Option<u64>,
    creator: Option<Text>,
}

impl Wanted {
    /// A transaction as it's listed, if it's wanted.
    async fn row(&self, coordinator: &Arc<Coordinator>, heading: &Heading) -> Result<Option<Value>, Problem> {
        // One that is sealed by a key which isn't there says nothing.
        let summary: Value = serde_json::from_slice(&heading.summary).unwrap_or_default();
        let created = summary["created"].as_u64().unwrap_or_default();
        let mode = summary["mode"].as_str().and_then(Mode::from_word);
        let fits = mode.is_some_and(|mode| self.kind.as_ref().is_none_or(|wanted| *wanted == kind(mode)))
            && self.from.is_none_or(|from| created >= from)
            && self.to.is_none_or(|to| created <= to)
            && self.creator.as_ref().is_none_or(|creator| summary["creator"] == **creator);
        let Some(mode) = mode.filter(|_| fits) else { return Ok(None) };
        let name = summary["state"].as_str().unwrap_or_default();
        let state = match named(mode, name, heading.ended.is_some()) {
            Some(phase) => status(phase),
            // Which way it is stuck on the summary doesn't say.
            None => match coordinator.find(&heading.id).await? {
                Some(sight) => status(sight.state.phase),
                None => return Ok(None),
            },
        };
        if self.status.as_ref().is_some_and(|wanted| wanted != state) {
            return Ok(None);
        }
        let reason = summary["reason"].as_str().unwrap_or_default();
        let head = Head { id: &heading.id, mode, status: state, reason, created: Timestamp::from_millis(created) };
        Ok(Some(head.shown(heading.ended)))
    }
}

/// The phase of this name, among those before the end or at it.
fn named(mode: Mode, name: &str, ended: bool) -> Option<Phase> {
    let before = [Phase::Open, Phase::Acting, Phase::Held, Phase::Confirming, Phase::Undoing];
    let after = [End::Done, End::Undone, End::Resolved].map(Phase::Ended);
    let phases = if ended { &after[..] } else { &before[..] };
    phases.iter().copied().find(|phase| mode.state(*phase) == name)
}

/// What a transaction is called there by its mode.
pub(super) const fn kind(mode: Mode) -> &'static str {
    match mode {
        Mode::Message => "msg",
        other => other.name(),
    }
}

/// A transaction as `query` and `all` show it.
pub(super) fn transaction(id: &str, state: &Standing, ended: Option<Timestamp>) -> Value {
    let (mode, created) = (state.spec.mode, state.spec.created);
    Head { id, mode, status: status(state.phase), reason: &state.reason, created }.shown(ended)
}

struct Head<'a> {
    id: &'a str,
    mode: Mode,
    status: &'static str,
    reason: &'a str,
    created: Timestamp,
}

impl Head<'_> {
    /// As dtm has it: what says nothing is left out.
    fn shown(&self, ended: Option<Timestamp>) -> Value {
        let Self { id, mode, status, reason, created } = self;
        let mut shown = json!({"gid": id, "trans_type": kind(*mode), "status": status,
            "create_time": yaml::time_text(*created), "update_time": ended.map(yaml::time_text)});
        if !reason.is_empty() {
            shown["rollback_reason"] = json!(reason);
        }
        if let Some(ended) = ended {
            let name = if *status == "succeed" { "finish_time" } else { "rollback_time" };
            shown[name] = json!(yaml::time_text(ended));
        }
        shown
    }
}

fn limit(request: &Request) -> Result<usize, Problem> {
    let limit = number(request, "limit")?.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(limit.unwrap_or(LIMIT.0).min(LIMIT.1))
}

fn number(request: &Request, name: &str) -> Result<Option<u64>, Problem> {
    let said = api::parameter(request, name).filter(|value| !value.is_empty());
    let number = said
        .map(|text| text.parse().map_err(|_| Problem::malformed(format!("{name}={text} is not a number")).at(name)));
    number.transpose()
}
