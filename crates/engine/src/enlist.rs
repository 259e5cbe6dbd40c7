// SPDX-License-Identifier: Apache-2.0
//! Calls that take part in their caller's transaction, at the callee's proxy (the model is that of MicroProfile LRA: enlisted
//! first, called then). The coordinator writes the part down before the call is forwarded; what it doesn't take is never
//! forwarded. The calls that end a part are the coordinator's alone.

use crate::enter::is_coordinator;
use crate::exchange::{Decision, Exchange};
use crate::keyed::{Protection, key_of};
use crate::shard::Shard;
use crate::snapshot::{Port, Subtree};
use crate::{Answer, Arrival, Effect, Reason};
use byrnie_base::{Instant, Now, Text};
use byrnie_codec::{Head, Known};
use byrnie_model::policy::enlist::Act;
use std::sync::Arc;

/// What the coordinator is asked before a call is forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enlistment {
    /// The service that takes part, as `NAME.NAMESPACE`: the whole, so that any of its parts may take back what one did.
    pub service: Text,
    /// Its port; none if it was called by the name of a part, whose ports may be others.
    pub port: Option<u16>,
    /// The caller's identity.
    pub caller: Text,
    /// The transaction.
    pub transaction: Text,
    /// The call's idempotency key; empty for none. Calls under one key are one part.
    pub key: Text,
    /// This call: to ask again for it is harmless.
    pub id: u64,
    /// What takes it back.
    pub compensate: Act,
    /// What makes it final.
    pub complete: Option<Act>,
}

/// What the coordinator said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Joined {
    /// The part is written down under this name.
    As(Text),
    /// It takes nobody, or not this caller (by an HTTP status of 403).
    Refused {
        /// The HTTP status that says why.
        status: u16,
        /// Why.
        detail: Text,
    },
    /// It could not be asked.
    Unreachable,
}

/// Longest id of a transaction, in bytes.
const ID_BYTES_MAX: usize = 128;

/// Whether a program may only be called so by the coordinator.
fn reserved(protection: &Protection, head: &Head) -> bool {
    protection.policy.enlist.iter().any(|one| one.reserves(head.method(), head.path()))
}

/// The transaction that a call belongs to, if it says so; an error if that can't be read.
fn transaction_of(head: &Head) -> Result<Option<Text>, ()> {
    let mut values = head.values(Known::TxnId.name());
    let (first, second) = (values.next(), values.next());
    let Some(value) = first else { return Ok(None) };
    let clean = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    let fits = second.is_none() && (1..=ID_BYTES_MAX).contains(&value.len()) && value.iter().all(clean);
    let text = std::str::from_utf8(value).ok().filter(|_| fits);
    text.map(|text| Some(text.into())).ok_or(())
}

impl Exchange {
    /// What to ask the coordinator before this call may be forwarded; `None` if nothing.
    pub(crate) fn enlistment(
        &self,
        shard: &mut Shard,
        (tree, port): (&Subtree, &Port),
        arrival: &Arrival<'_>,
        head: &Head,
    ) -> Result<Option<Box<Enlistment>>, Box<Answer>> {
        let Some(protection) = tree.protection.as_ref().filter(|protection| !protection.policy.enlist.is_empty())
        else {
            return Ok(None);
        };
        // What the coordinator calls is part of a transaction already.
        if arrival.source.is_some_and(|source| is_coordinator(source, self.snapshot.node.identity.trust_domain())) {
            return Ok(None);
        }
        let (method, path) = (head.method(), head.path());
        if reserved(protection, head) {
            let detail = format!("{method} {path} ends a part of a transaction: the coordinator alone calls it");
            return Err(self.refuse(Reason::CoordinatorOnly, detail));
        }
        let Some(one) = protection.policy.enlist.iter().find(|one| one.call.covers(method, path)) else {
            return Ok(None);
        };
        // Its Txn-Id went with them: forwarded, it would be in no transaction, and its caller believe that it is.
        if self.aside.as_ref().is_some_and(|aside| aside.posed) {
            let detail =
                format!("{method} {path} takes part in a transaction; its Txn-Op is one of the coordinator's alone");
            return Err(self.refuse(Reason::CoordinatorOnly, detail));
        }
        let transaction = transaction_of(head)
            .map_err(|()| self.refuse(Reason::BadRequest, "Txn-Id is not the id of one transaction"))?;
        let Some(transaction) = transaction else { return Ok(None) };
        Ok(Some(Box::new(Enlistment {
            service: protection.scope.clone(),
            port: Some(port.number).filter(|_| protection.scope == tree.label),
            caller: arrival.source.map_or_else(|| "unknown".into(), |identity| identity.to_string().into()),
            transaction,
            // One that can't be read is refused where keys are looked at.
            key: key_of(head).ok().flatten().unwrap_or_default().into(),
            id: shard.rng.next_u64(),
            compensate: one.compensate.clone(),
            complete: one.complete.clone(),
        })))
    }

    /// What is left once the call takes part in what it is to take part in.
    pub(crate) fn pass_inbound(
        &mut self,
        protection: Option<&Arc<Protection>>,
        shard: &mut Shard,
        arrival: &Arrival<'_>,
        head: &Head,
        now: Instant,
    ) -> Result<Decision, Box<Answer>> {
        if let Some(claim) = self.claim(shard, protection, arrival, head, now)? {
            return Ok(Decision::Claim(claim));
        }
        self.dispatch(shard, now).map(Decision::Send)
    }

    /// Takes in what the coordinator said to [`Effect::Enlist`]. `head` is the request's.
    pub fn on_joined(
        &mut self,
        shard: &mut Shard,
        arrival: &Arrival<'_>,
        head: &mut Head,
        joined: Joined,
        now: Now,
    ) -> Effect {
        let answer = match joined {
            Joined::As(branch) => {
                // The program's own barrier knows the call by these.
                head.set(Known::TxnBranch.name(), branch.as_bytes()).ok();
                head.set(Known::TxnOp.name(), b"action").ok();
                let tree = self.service.clone();
                let protection = tree.as_ref().and_then(|tree| tree.protection.as_ref());
                let decided = self.pass_inbound(protection, shard, arrival, head, now.mono);
                return self.effect_of(decided, head, now);
            }
            Joined::Refused { status: 403, detail } => self.refuse(Reason::TransactionDenied, detail),
            Joined::Refused { detail, .. } => self.refuse(Reason::TransactionClosed, detail),
            Joined::Unreachable => {
                let detail = "the coordinator of transactions is not reached; nothing was forwarded";
                let mut answer = self.refuse(Reason::CoordinatorUnreachable, detail);
                answer.failure = Some(crate::answer::FAILURE_UNSENT);
                answer
            }
        };
        self.reply(answer)
    }
}

#[cfg(test)]
mod tests;
