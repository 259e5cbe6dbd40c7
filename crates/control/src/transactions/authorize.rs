// SPDX-License-Identifier: Apache-2.0
//! Whether a transaction may call what it calls: as its creator might by itself. The coordinator's own
//! identity opens every door, so this is what keeps it from being used to open one for somebody else.

use super::problem::Problem;
use super::{Caller, OPERATOR};
use crate::State;
use crate::explain::{self, Authorization, Question};
use byrnie_base::Text;
use byrnie_model::{Identity, Key, Kind, Revision, ServiceRef, Spec as Said, code};
use byrnie_saga::{Branch, Call, Child, Op, Spec, Target};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Answers that are remembered, until the configuration changes.
const REMEMBERED_MAX: usize = 10_000;

/// Judges calls, and remembers what it said at the newest revision.
#[derive(Default)]
pub(super) struct Doorkeeper(Mutex<Known>);

#[derive(Default)]
struct Known {
    revision: Revision,
    /// By creator and call.
    answers: HashMap<(Text, Target), Authorization>,
}

impl Doorkeeper {
    /// Whether `creator` may make this call itself.
    pub(super) fn authorize(&self, state: &State, creator: &Text, target: &Target) -> Authorization {
        if **creator == *OPERATOR {
            return Authorization::Allowed;
        }
        if target.raw {
            return Authorization::Denied("a raw URL is for the operator alone".into());
        }
        let revision = state.revision();
        let key = (creator.clone(), target.clone());
        {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if known.revision != revision || known.answers.len() >= REMEMBERED_MAX {
                *known = Known { revision, answers: HashMap::new() };
            }
            if let Some(answer) = known.answers.get(&key) {
                return answer.clone();
            }
        }
        let answer = ask(state, creator, target);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // What was judged before a change is of no use after it.
        if known.revision == revision {
            known.answers.insert(key, answer.clone());
        }
        answer
    }

    /// Whether a new transaction may make all of its calls.
    pub(super) fn authorize_all(&self, state: &State, spec: &Spec) -> Result<(), Problem> {
        let check = spec.check.iter().map(|check| ("the check", check));
        // The calls of a saga within are its own; those of a defined one are judged when it begins.
        for branch in &spec.branches {
            if let Some(Child::Given { spec, .. }) = branch.child.as_deref() {
                self.authorize_all(state, spec)?;
            }
        }
        let of_branches = spec.branches.iter().filter(|branch| branch.child.is_none()).flat_map(|branch| {
            [Op::Action, Op::Confirm, Op::Undo].into_iter().filter_map(|op| Some((&*branch.name, branch.call(op)?)))
        });
        for (name, call) in check.chain(of_branches) {
            self.authorize_one(state, &spec.creator, name, call)?;
        }
        Ok(())
    }

    fn authorize_one(&self, state: &State, creator: &Text, name: &str, call: &Call) -> Result<(), Problem> {
        let target = &call.target;
        if !target.raw && !exists(state, target) {
            let detail = format!("{name}: there is no service {}", target.authority);
            return Err(Problem::new(422, &code::TXN_NO_SERVICE, detail).at(name));
        }
        if target.raw && !is_loopback(&target.authority) {
            let detail = format!("{name}: {} is not a service, and not on this machine", target.authority);
            return Err(Problem::new(403, &code::TXN_DENIED, detail).at(name));
        }
        match self.authorize(state, creator, target) {
            Authorization::Allowed | Authorization::Nobody => Ok(()),
            Authorization::Denied(why) => {
                let (method, authority, path) = (&target.method, &target.authority, &target.path);
                let detail = format!("{name}: {creator} may not call {method} {authority}{path} ({why})");
                Err(Problem::new(403, &code::TXN_DENIED, detail).at(name))
            }
        }
    }

    /// Whether a participant may join: the creator with calls that are its own to make, or a workload with
    /// calls to itself, which it needs nobody's leave for.
    pub(super) fn authorize_branch(
        &self,
        state: &State,
        caller: &Caller,
        creator: &Text,
        branch: &mut Branch,
    ) -> Result<(), Problem> {
        let calls: Vec<Call> =
            [Op::Action, Op::Confirm, Op::Undo].into_iter().filter_map(|op| branch.call(op).cloned()).collect();
        if caller.name() == *creator {
            return calls.iter().try_for_each(|call| self.authorize_one(state, creator, &branch.name, call));
        }
        match caller {
            Caller::Operator => {}
            Caller::Workload(identity) if calls.iter().all(|call| serves(state, identity, &call.target)) => {}
            Caller::Workload(identity) => {
                let detail = format!("{identity} may have only itself called in a transaction of {creator}");
                return Err(Problem::new(403, &code::TXN_DENIED, detail).at(&*branch.name));
            }
        }
        branch.consent = true;
        Ok(())
    }
}

/// Whether `identity` is one of those that serve what is called.
pub(super) fn serves(state: &State, identity: &Identity, target: &Target) -> bool {
    let Some(service) = service(target) else { return false };
    state.catalog(|catalog| {
        catalog.endpoints(&service).any(|resource| match &resource.spec {
            Said::Endpoint(endpoint) => endpoint.identity == *identity,
            _ => false,
        })
    })
}

/// `SERVICE.NAMESPACE` of a target in the mesh.
pub(super) fn service(target: &Target) -> Option<ServiceRef> {
    if target.raw {
        return None;
    }
    let host = target.authority.split(':').next()?;
    let (name, namespace) = host.split_once('.')?;
    Some(ServiceRef::new(namespace, name))
}

fn exists(state: &State, target: &Target) -> bool {
    let Some(service) = service(target) else { return false };
    let key = Key::new(Kind::Service, service.namespace, service.name);
    state.catalog(|catalog| catalog.resource(&key).is_some())
}

fn is_loopback(authority: &str) -> bool {
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    host == "localhost" || host.trim_matches(['[', ']']).parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

fn ask(state: &State, creator: &Text, target: &Target) -> Authorization {
    let Ok(identity) = Identity::parse(creator) else { return Authorization::Denied("no identity".into()) };
    // To be called itself, such as for a message's check, it needs nobody's leave.
    if serves(state, &identity, target) {
        return Authorization::Allowed;
    }
    let question = Question {
        method: target.method.to_string(),
        scheme: "http".to_owned(),
        authority: target.authority.to_string(),
        path: target.path.to_string(),
        headers: Vec::new(),
        from: creator.to_string(),
        namespace: identity.namespace().to_string(),
    };
    let (revision, now) = (state.revision(), state.now());
    state.catalog(|catalog| explain::authorize(catalog, &identity, &question, revision, now))
}
