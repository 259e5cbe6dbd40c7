// SPDX-License-Identifier: Apache-2.0
//! dtm's gRPC service, `dtmgimp.Dtm`: the same transactions as over HTTP, with its statuses. `ABORTED` is a refusal of what
//! was asked and the end of a transaction that failed, `FAILED_PRECONDITION` that it still runs.

use super::super::problem::Problem;
use super::super::run::Coordinator;
use super::super::{Caller, trace, unary as payload};
use super::{Asked, Came, Joins, Pace, Said};
use byrnie_base::Text;
use byrnie_net::serve::unary::{self, Refusal, Status};
use byrnie_net::serve::{Request, Response, StatusCode};
use byrnie_saga::transaction::BODY_BYTES_MAX;
use byrnie_xds::proto::Message;
use byrnie_xds::proto::dtmgimp::{DtmBranchRequest, DtmGidReply, DtmRequest, DtmTransOptions};
use serde_json::Value;
use std::sync::Arc;

/// The first segment of its methods' paths.
pub(in super::super) const SERVICE: &str = "dtmgimp.Dtm";
/// Largest message, in bytes: gRPC's usual default.
pub(in super::super) const MESSAGE_BYTES_MAX: u32 = 4 * 1024 * 1024;

/// A method, by the word that the audit has for it; and by its name.
const METHODS: [(&str, &str); 5] = [
    ("newGid", "NewGid"),
    ("prepare", "Prepare"),
    ("submit", "Submit"),
    ("abort", "Abort"),
    ("registerBranch", "RegisterBranch"),
];

/// Answers a call of `/dtmgimp.Dtm/...`.
pub(in super::super) async fn answer(
    coordinator: &Arc<Coordinator>,
    caller: Option<&Caller>,
    request: &Request,
) -> Response {
    if request.method != "POST" || !unary::is_grpc(request) {
        let text = "dtmgimp.Dtm is called by gRPC; its HTTP API is under /api/dtmsvr/\n";
        return Response::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "text/plain; charset=utf-8", text);
    }
    let name = request.path.rsplit('/').next().unwrap_or_default();
    let Some((verb, _)) = METHODS.iter().find(|(_, method)| *method == name) else {
        let text = format!("{name} is not served: sagas, messages and TCC are, workflows and topics are not");
        return unary::answer(Err(Refusal::new(Status::Unimplemented, text)));
    };
    let mut id = Text::default();
    let outcome = match super::admitted(caller) {
        Ok(caller) => perform(coordinator, caller, verb, request, &mut id).await,
        Err(problem) => Err(refusal(&problem)),
    };
    let status = match &outcome {
        Ok(_) => 200,
        Err(refusal) => byrnie_saga::judge::status_of_grpc(refusal.status.code()),
    };
    if *verb != "newGid" || matches!(status, 401 | 403) {
        coordinator.audit.note(coordinator.now(), caller, verb, &id, status);
    }
    unary::answer(outcome)
}

async fn perform(
    coordinator: &Arc<Coordinator>,
    caller: &Caller,
    verb: &str,
    request: &Request,
    id: &mut Text,
) -> Result<Vec<u8>, Refusal> {
    let mut known = |asked: Asked| {
        *id = asked.gid.as_deref().unwrap_or_default().into();
        asked
    };
    let message = unary::message(request, MESSAGE_BYTES_MAX)?;
    let answered = match verb {
        "newGid" => return Ok(DtmGidReply { gid: coordinator.new_id().to_string() }.encode_to_vec()),
        "prepare" => super::prepare(coordinator, caller, &known(asked(request, message)?)).await,
        "submit" => super::submit(coordinator, caller, &known(asked(request, message)?)).await,
        "abort" => super::abort(coordinator, caller, &known(read(message)?)).await,
        _ => {
            let joins = read_branch(message)?;
            *id = joins.gid.as_str().into();
            super::register(coordinator, caller, &joins).await
        }
    };
    match answered {
        // An Empty has no bytes.
        Ok(Said::Success) => Ok(Vec::new()),
        Ok(Said::Ongoing) => Err(Refusal::new(Status::FailedPrecondition, "ONGOING")),
        Err(problem) => Err(refusal(&problem)),
    }
}

fn asked(request: &Request, message: &[u8]) -> Result<Asked, Refusal> {
    let mut asked = read(message)?;
    asked.came.trace = trace::given(request);
    Ok(asked)
}

/// A problem by dtm's convention where it has one, otherwise by gRPC's.
fn refusal(problem: &Problem) -> Refusal {
    let status = match problem.status {
        400 => Status::InvalidArgument,
        401 => Status::Unauthenticated,
        403 => Status::PermissionDenied,
        404 => Status::NotFound,
        409 | 422 => Status::Aborted,
        413 => Status::ResourceExhausted,
        503 => Status::Unavailable,
        _ => Status::Internal,
    };
    Refusal::new(status, problem.detail.clone())
}

fn malformed(what: impl Into<String>) -> Refusal {
    Refusal::new(Status::InvalidArgument, what)
}

/// A transaction, or the word on one, as the HTTP API would have it.
pub(super) fn read(message: &[u8]) -> Result<Asked, Refusal> {
    let said = DtmRequest::decode(message).map_err(|error| malformed(format!("no DtmRequest: {error}")))?;
    let options = said.trans_options.unwrap_or_default();
    // Go writes no steps as null.
    let steps = match said.steps.as_str() {
        "" => None,
        text => serde_json::from_str(text).map_err(|error| malformed(format!("Steps: {error}")))?,
    };
    let payloads = said.bin_payloads.iter().map(|bytes| kept(bytes)).collect::<Result<Vec<_>, _>>()?;
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    Ok(Asked {
        gid: Some(said.gid),
        trans_type: Some(said.trans_type),
        steps,
        payloads: Some(payloads),
        custom_data: some(said.customed_data),
        query_prepared: some(said.query_prepared),
        wait_result: Some(options.wait_result),
        timeout_to_fail: seconds("TimeoutToFail", options.timeout_to_fail)?,
        concurrent: None,
        branch_headers: Some(
            options.branch_headers.iter().map(|(k, v)| (k.clone(), Value::from(v.as_str()))).collect(),
        ),
        pace: pace(&options)?,
        came: Came { grpc: true, trace: None },
    })
}

fn pace(options: &DtmTransOptions) -> Result<Pace, Refusal> {
    let tries = seconds("RetryLimit", options.retry_limit)?.map(u32::try_from);
    Ok(Pace {
        request_timeout: seconds("RequestTimeout", options.request_timeout)?,
        retry_interval: seconds("RetryInterval", options.retry_interval)?,
        retry_limit: tries.transpose().map_err(|_| malformed("RetryLimit is larger than a number of tries can be"))?,
    })
}

/// A number that says nothing if it is 0.
fn seconds(name: &str, value: i64) -> Result<Option<u64>, Refusal> {
    let value = u64::try_from(value).map_err(|_| malformed(format!("{name} is {value}, but can't be below 0")))?;
    Ok((value > 0).then_some(value))
}

/// A participant that joins, as the HTTP API would have it.
pub(super) fn read_branch(message: &[u8]) -> Result<Joins, Refusal> {
    let said = DtmBranchRequest::decode(message).map_err(|error| malformed(format!("no DtmBranchRequest: {error}")))?;
    Ok(Joins {
        gid: said.gid,
        branch_id: said.branch_id,
        data: Some(kept(&said.busi_payload)?),
        confirm: said.data.get("confirm").cloned(),
        cancel: said.data.get("cancel").cloned(),
        grpc: true,
    })
}

fn kept(bytes: &[u8]) -> Result<String, Refusal> {
    if bytes.len() > BODY_BYTES_MAX {
        let text = format!("a payload has {} bytes; {BODY_BYTES_MAX} is the most", bytes.len());
        return Err(malformed(text));
    }
    Ok(payload::text(bytes).to_string())
}
