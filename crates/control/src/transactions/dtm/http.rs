// SPDX-License-Identifier: Apache-2.0
//! dtm's HTTP API, `/api/dtmsvr/...`: JSON in, and `dtm_result` out.

use super::super::problem::Problem;
use super::super::run::Coordinator;
use super::super::spec::check_id;
use super::super::{Caller, api, trace};
use super::{Asked, Came, Joins, Said, operate, own};
use byrnie_base::Text;
use byrnie_model::code;
use byrnie_net::serve::{Request, Response, StatusCode};
use byrnie_saga::{End, Op, Phase, Slot};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;

/// Answers a request for `/api/dtmsvr/...`.
pub(in super::super) async fn answer(
    coordinator: &Arc<Coordinator>,
    caller: Option<&Caller>,
    request: &Request,
) -> Response {
    let verb = request.path.rsplit('/').next().unwrap_or_default().to_owned();
    let mut id = Text::default();
    let answered = match super::admitted(caller) {
        Ok(caller) => perform(coordinator, caller, &verb, request, &mut id).await,
        Err(problem) => Err(problem),
    };
    let (status, body) = match answered {
        Ok(value) => value,
        // A refusal of what was asked, as dtm says it; anything else is for a person to read.
        Err(problem) if matches!(problem.status, 409 | 422) => {
            (409, json!({"dtm_result": "FAILURE", "message": problem.detail}))
        }
        Err(problem) => (if problem.status == 400 { 500 } else { problem.status }, json!({"message": problem.detail})),
    };
    if request.method == "POST" || verb == "resetCronTime" || status == 403 {
        coordinator.audit.note(coordinator.now(), caller, &verb, &id, status);
    }
    Response::new(StatusCode::from_u16(status).unwrap_or(StatusCode::OK), "application/json", body.to_string())
}

pub(super) type Answered = Result<(u16, Value), Problem>;

/// Does what is asked, and tells of which transaction.
async fn perform(
    coordinator: &Arc<Coordinator>,
    caller: &Caller,
    verb: &str,
    request: &Request,
    id: &mut Text,
) -> Answered {
    let asked = |id: &mut Text| {
        let asked = asked(request)?;
        *id = asked.gid.as_deref().unwrap_or_default().into();
        Ok::<_, Problem>(asked)
    };
    match (request.method.as_str(), verb) {
        ("GET", "newGid") => Ok((200, json!({"dtm_result": "SUCCESS", "gid": coordinator.new_id()}))),
        ("GET", "version") => Ok((200, json!({"version": env!("CARGO_PKG_VERSION")}))),
        ("GET", "query") => query(coordinator, caller, request).await,
        ("GET", "all") => operate::all(coordinator, caller, request).await,
        ("GET", "resetCronTime") => operate::hurry_all(coordinator, caller, request).await,
        ("POST", "resetNextCronTime") => operate::hurry(coordinator, caller, &asked(id)?).await,
        ("POST", "forceStop") => operate::force_stop(coordinator, caller, &asked(id)?).await,
        ("POST", "prepare") => super::prepare(coordinator, caller, &asked(id)?).await.map(told),
        ("POST", "submit") => super::submit(coordinator, caller, &asked(id)?).await.map(told),
        ("POST", "abort") => super::abort(coordinator, caller, &asked(id)?).await.map(told),
        ("POST", "registerBranch" | "registerTccBranch") => {
            let joins: Joins = read(request)?;
            *id = joins.gid.as_str().into();
            super::register(coordinator, caller, &joins).await.map(told)
        }
        _ => Err(Problem::new(404, &code::TXN_ABSENT, format!("{verb} is not served; the native API is /txn/v1/"))),
    }
}

fn read<T: DeserializeOwned>(request: &Request) -> Result<T, Problem> {
    serde_json::from_slice(&request.body).map_err(|error| Problem::malformed(error.to_string()))
}

fn asked(request: &Request) -> Result<Asked, Problem> {
    let came = Came { grpc: false, trace: trace::given(request) };
    Ok(Asked { came, ..read(request)? })
}

pub(super) fn told(said: Said) -> (u16, Value) {
    match said {
        Said::Success => (200, json!({"dtm_result": "SUCCESS"})),
        Said::Ongoing => (425, json!({"dtm_result": "ONGOING"})),
    }
}

async fn query(coordinator: &Arc<Coordinator>, caller: &Caller, request: &Request) -> Answered {
    let id = check_id(&api::parameter(request, "gid").unwrap_or_default())?;
    let Some(sight) = coordinator.find(&id).await? else {
        return Ok((200, json!({"transaction": null, "branches": []})));
    };
    own(caller, &sight, &id)?;
    let state = &sight.state;
    let mut branches = Vec::new();
    for (branch, progress) in state.spec.branches.iter().zip(&state.progress) {
        for op in [Op::Undo, Op::Action, Op::Confirm] {
            let Some(call) = branch.call(op) else { continue };
            let status = match progress.slot(op) {
                Slot::Done => "succeed",
                Slot::Rejected | Slot::Stuck => "failed",
                Slot::Absent | Slot::Pending => "prepared",
            };
            let scheme = if call.is_grpc() { "" } else { "http://" };
            branches.push(json!({"gid": id, "branch_id": branch.name, "op": state.spec.mode.op(op), "status": status,
                "url": format!("{scheme}{}{}", call.target.authority, call.target.path)}));
        }
    }
    let ended = coordinator.journal.headings(vec![id.clone()]).await?.into_iter().find_map(|heading| heading.ended);
    Ok((200, json!({"transaction": operate::transaction(&id, state, ended), "branches": branches})))
}

pub(super) const fn status(phase: Phase) -> &'static str {
    match phase {
        Phase::Open => "prepared",
        Phase::Acting | Phase::Held | Phase::Confirming => "submitted",
        Phase::Undoing => "aborting",
        Phase::Ended(End::Done) => "succeed",
        Phase::Ended(End::Undone | End::Resolved) => "failed",
    }
}
