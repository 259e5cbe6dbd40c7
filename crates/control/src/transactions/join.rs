// SPDX-License-Identifier: Apache-2.0
//! `/byrnie.v1.Transactions/Enlist`: a proxy has its program take part in the transaction of a caller, before it forwards the
//! call. It speaks for the services of its own workload alone, and only the transaction's creator or who takes part in it already
//! may bring another service into it.

use super::authorize::serves;
use super::problem::Problem;
use super::run::Coordinator;
use super::{Caller, OPERATOR};
use byrnie_base::Text;
use byrnie_model::saga::METHODS;
use byrnie_model::{Identity, ServiceRef, code};
use byrnie_net::grpc::Status;
use byrnie_net::tls::secret::sha256;
use byrnie_saga::machine::State as Standing;
use byrnie_saga::plan::NAME_BYTES_MAX;
use byrnie_saga::{Ask, Branch, Call, Mode, Op, Retry, Target};
use byrnie_xds::proto::byrnie::v1 as wire;
use byrnie_xds::proto::byrnie::v1::enlist_response::What;
use std::sync::Arc;

/// Bytes of the hash at the end of a part's name, as hexadecimal digits.
const HASH_DIGITS: usize = 16;

/// Answers a proxy.
///
/// # Errors
/// If the peer may not speak for the service, the question can't be read, or the journal can't take the part now.
pub(crate) async fn answer(
    coordinator: &Arc<Coordinator>,
    peer: &Identity,
    request: wire::EnlistRequest,
) -> Result<wire::EnlistResponse, Status> {
    let service = request.service.clone().ok_or_else(|| Status::invalid_argument("an enlistment without service"))?;
    let service = ServiceRef::new(service.namespace, service.name);
    let instance = request.node.split_once('/').is_some_and(|(namespace, name)| {
        coordinator.state.catalog(|catalog| catalog.is_instance(&service, namespace, name, peer))
    });
    if !instance {
        let detail = format!("{peer} is not an instance of {service} called {}", request.node);
        return Err(Status::permission_denied(detail));
    }
    let id = Text::from(request.transaction.as_str());
    let branch = branch(&service, &request)?;
    let name = branch.name.clone();
    let joined = join(coordinator, peer, &id, &request.caller, branch).await;
    let status = joined.as_ref().map_or_else(|problem| problem.status, |()| 201);
    coordinator.audit.note(coordinator.now(), Some(&Caller::Workload(peer.clone())), "enlist", &id, status);
    let what = match joined {
        Ok(()) => What::Branch(name.to_string()),
        // Not the transaction's fault: it is tried again.
        Err(problem) if problem.status >= 500 => return Err(Status::unavailable(problem.detail)),
        Err(problem) => What::Refusal(wire::EnlistRefusal { status: problem.status.into(), detail: problem.detail }),
    };
    Ok(wire::EnlistResponse { what: Some(what) })
}

async fn join(
    coordinator: &Arc<Coordinator>,
    peer: &Identity,
    id: &Text,
    caller: &str,
    branch: Branch,
) -> Result<(), Problem> {
    let sight = coordinator.find(id).await?.ok_or_else(|| Problem::absent(id))?;
    if !may_bring(coordinator, caller, &sight.state) {
        let detail = format!("{caller} neither began transaction {id} nor takes part in it");
        return Err(Problem::new(403, &code::TXN_DENIED, detail));
    }
    if sight.state.spec.mode == Mode::Tcc && branch.confirm.is_none() {
        let detail = format!("transaction {id} is TCC, and the service declares no `complete` for this call");
        return Err(Problem::new(409, &code::TXN_STATE, detail));
    }
    coordinator.ask(id, Ask::Enlist(Box::new(branch)), &Caller::Workload(peer.clone())).await
}

/// Whether a caller may bring others into a transaction: its creator, and who takes part already.
fn may_bring(coordinator: &Coordinator, caller: &str, state: &Standing) -> bool {
    if *state.spec.creator == *caller && caller != OPERATOR {
        return true;
    }
    let Ok(identity) = Identity::parse(caller) else { return false };
    let calls = state
        .spec
        .branches
        .iter()
        .flat_map(|branch| [Op::Action, Op::Confirm, Op::Undo].into_iter().filter_map(|op| branch.call(op)));
    calls.into_iter().any(|call| serves(&coordinator.state, &identity, &call.target))
}

/// The part that a call is. Calls under one key are one part, so that a repetition takes part once.
fn branch(service: &ServiceRef, request: &wire::EnlistRequest) -> Result<Branch, Status> {
    let own =
        if request.key.is_empty() { request.call.to_string() } else { format!("{} {}", request.caller, request.key) };
    let hash = sha256(format!("{service} {own}").as_bytes());
    let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).take(HASH_DIGITS / 2).collect();
    let short: String = service.name.chars().take(NAME_BYTES_MAX - HASH_DIGITS - 1).collect();
    let port = if request.port == 0 { String::new() } else { format!(":{}", request.port) };
    let authority = format!("{}.{}{port}", service.name, service.namespace);
    let call = |act: &wire::Act| {
        let fits = METHODS.contains(&&*act.method) && act.path.starts_with('/');
        let target = Target {
            method: act.method.as_str().into(),
            authority: authority.as_str().into(),
            path: act.path.as_str().into(),
            raw: false,
        };
        let call = Call { target, body: None, kind: "application/json".into(), headers: Vec::new(), late: None };
        if fits { Ok(call) } else { Err(Status::invalid_argument("an act is a method and a path")) }
    };
    let compensate = request.compensate.as_ref().ok_or_else(|| Status::invalid_argument("nothing takes it back"))?;
    Ok(Branch {
        name: format!("{short}-{digits}").into(),
        confirm: request.complete.as_ref().map(call).transpose()?,
        undo: Some(call(compensate)?),
        // It asks for calls of itself.
        consent: true,
        retry: Retry::default(),
        ..Branch::default()
    })
}
