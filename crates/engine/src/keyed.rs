// SPDX-License-Identifier: Apache-2.0
//! Requests under an idempotency key. At the callee's proxy: what the ledger is asked before a request is
//! forwarded, what its word leads to, and what is told when the request has ended. At the caller's: which
//! requests carry a key, so that they may be repeated. Everything here is decided; the proxy asks and tells.

use crate::answer::{FAILURE_LOST, FAILURE_UNSENT};
use crate::course::Step;
use crate::exchange::Exchange;
use crate::shard::Shard;
use crate::{Answer, Arrival, Effect, Failure, Plan, Reason};
use byrnie_base::{Instant, Now, Rng, Text};
use byrnie_codec::{Head, Known, idempotency};
use byrnie_model::policy::idempotency::{Idempotency, KeyMode, OnAmbiguous, OnServerError};
use std::sync::Arc;
use std::time::Duration;

/// Longest body of a request under a key, in bytes: all of it is read before it's forwarded, as what it
/// says tells whether a repetition is one.
pub const KEYED_BODY_BYTES_MAX: usize = 1024 * 1024;
/// The lease outlasts the request by so much, so that an ending on its last moment still arrives.
const LEASE_MARGIN: Duration = Duration::from_secs(2);
/// A caller that comes too early is told to come again after at most this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);

/// How requests to a service are protected, compiled.
#[derive(Debug, PartialEq)]
pub(crate) struct Protection {
    pub(crate) policy: Idempotency,
    /// The service whose keys they are, as `NAME.NAMESPACE`: shared by a service and its parts, so that a
    /// repetition which a route sends to another part is known for what it is.
    pub(crate) scope: Text,
    /// The policy that says so, as `NAMESPACE/NAME`.
    pub(crate) rule: Text,
}

/// What the ledger is asked before a request is forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The service whose keys they are, as `NAME.NAMESPACE`.
    pub service: Text,
    /// The caller's identity.
    pub caller: Text,
    /// The key.
    pub key: Text,
    /// This execution: unique under its key.
    pub id: u64,
    /// How long it may be under way.
    pub lease: Duration,
    /// How long the key is remembered.
    pub ttl: Duration,
    /// Run it again if its end is unknown.
    pub again: bool,
    /// Of its answer only the status is kept.
    pub status_only: bool,
}

/// What the ledger said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Forward it; `again`: an earlier execution ended nobody knows how.
    Granted {
        /// See above.
        again: bool,
    },
    /// It was done already; the proxy holds the answer.
    Done,
    /// It is under way; this much of its lease is left.
    InFlight(Duration),
    /// The key was used for another request.
    Mismatch,
    /// It was begun once, and nobody knows how it ended.
    Ambiguous,
    /// It could not be asked.
    Unreachable,
    /// It was not asked: the body exceeds [`KEYED_BODY_BYTES_MAX`].
    BodyTooLarge,
}

/// What the ledger is told of an ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It has an answer, to be kept.
    Done,
    /// The program provably never saw it.
    Unsent,
    /// The program may have acted.
    Ambiguous,
}

/// What came of telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It is durable.
    Recorded,
    /// Another execution holds the key by now.
    Fenced,
    /// It could not be told.
    Unreachable,
}

/// What the program is asked of an earlier request whose end nobody knows.
#[derive(Clone, Debug)]
pub struct Recall {
    /// The way to it.
    pub plan: Plan,
    /// The path of the GET.
    pub path: Text,
}

/// What it said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recalled {
    /// It was done; the proxy holds the answer, and this came of telling the ledger.
    Answered(Heard),
    /// It knows nothing of it: it may be run.
    Absent,
    /// It's at it; when to ask again, if it says.
    UnderWay(Option<Duration>),
    /// It said none of these.
    Unknown(Text),
}

/// An exchange whose key the ledger is asked about.
#[derive(Debug)]
pub(crate) struct Keyed {
    pub(crate) protection: Arc<Protection>,
    /// The head carries transaction context: the ambiguity of 409 must be avoided.
    transaction: bool,
    granted: bool,
    /// How it will be run, should the program know nothing of it.
    plan: Option<Plan>,
    /// What became of it, for the record.
    pub(crate) note: &'static str,
}

/// The value of `Idempotency-Status`.
const IN_FLIGHT: &str = "in-flight";
const AMBIGUOUS: &str = "ambiguous";
/// The note on a request that is run though an earlier one may have been.
const AGAIN: &str = "again";
/// The value on an answer that was given before.
pub const REPLAYED: &str = "replayed";
/// RFC 8470 5.2: for calls of a transaction, where 409 would mean that the program refused.
const TOO_EARLY: u16 = 425;

impl Protection {
    /// Whether a request of this method changes something.
    pub(crate) fn covers(method: &str) -> bool {
        !matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "CONNECT")
    }

    fn demands_key(&self, method: &str) -> bool {
        self.policy.mode == KeyMode::Required && matches!(method, "POST" | "PATCH")
    }
}

/// Whether a request from the own program is protected by a key at its callee, and may so be repeated.
/// Makes the key where the policy asks for it.
pub(crate) fn prepare(protection: Option<&Protection>, rng: &mut Rng, head: &mut Head) -> bool {
    let Some(protection) = protection else { return false };
    if protection.policy.mode == KeyMode::Off || !Protection::covers(head.method()) {
        return false;
    }
    if head.header(Known::IdempotencyKey).is_none() && protection.policy.mint_keys {
        let key = idempotency::minted([rng.next_u64(), rng.next_u64()]);
        // A head without room for it goes on without a key.
        head.append(Known::IdempotencyKey.name(), key.as_bytes()).ok();
    }
    // Nobody tells a repetition from the first where no ledger does.
    protection.policy.is_ledgered() && matches!(key_of(head), Ok(Some(_)))
}

/// The key of a request, if it has one; or what is wrong with it.
pub(crate) fn key_of(head: &Head) -> Result<Option<String>, &'static str> {
    let mut values = head.values(Known::IdempotencyKey.name());
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => idempotency::parse(value).map(Some).map_err(idempotency::KeyError::detail),
        (Some(_), Some(_)) => Err("there is more than one key"),
    }
}

impl Exchange {
    /// What to ask the ledger before this request may be forwarded; `None` if nothing.
    pub(crate) fn claim(
        &mut self,
        shard: &mut Shard,
        protection: Option<&Arc<Protection>>,
        arrival: &Arrival<'_>,
        head: &Head,
        now: Instant,
    ) -> Result<Option<Box<Claim>>, Box<Answer>> {
        let Some(protection) = protection else { return Ok(None) };
        let policy = &protection.policy;
        if policy.mode == KeyMode::Off || !Protection::covers(head.method()) || head.upgrade().is_some() {
            return Ok(None);
        }
        let key = match key_of(head) {
            Ok(Some(key)) => key,
            Ok(None) if !protection.demands_key(head.method()) => return Ok(None),
            Ok(None) => {
                let detail = format!("{} asks for an Idempotency-Key", protection.scope);
                return Err(self.refuse(Reason::KeyMissing, detail));
            }
            Err(wrong) => return Err(self.refuse(Reason::KeyMissing, format!("Idempotency-Key: {wrong}"))),
        };
        if !policy.is_ledgered() {
            return Ok(None);
        }
        let end = now + policy.lease;
        let deadline = self.course.deadline.map_or(end, |deadline| deadline.min(end));
        self.course.deadline = Some(deadline);
        // The ledger is told of one try that may have been sent.
        self.course.policy.repeatable = false;
        let transaction = head.header(Known::TxnId).is_some();
        self.keyed = Some(Box::new(Keyed {
            protection: Arc::clone(protection),
            transaction,
            granted: false,
            plan: None,
            note: "asked",
        }));
        Ok(Some(Box::new(Claim {
            service: protection.scope.clone(),
            caller: arrival.source.map_or_else(|| "unknown".into(), |identity| identity.to_string().into()),
            key: key.into(),
            id: shard.rng.next_u64(),
            lease: deadline.since(now) + LEASE_MARGIN,
            ttl: policy.key_ttl,
            again: policy.on_ambiguous != OnAmbiguous::Hold,
            status_only: policy.status_only,
        })))
    }

    /// Takes in what the ledger said to [`Effect::Claim`]. `head` is the request's.
    pub fn on_word(&mut self, shard: &mut Shard, head: &mut Head, word: Word, now: Now) -> Effect {
        let Some(keyed) = &mut self.keyed else { return self.lost_track() };
        let scope = keyed.protection.scope.clone();
        let (note, reason, detail) = match word {
            Word::Granted { again } => return self.on_granted(shard, head, again, now),
            Word::Done => {
                keyed.note = REPLAYED;
                return Effect::Replay;
            }
            Word::InFlight(left) => {
                keyed.note = IN_FLIGHT;
                let answer = self.in_flight(left);
                return self.reply(answer);
            }
            Word::Mismatch => {
                let detail = format!("the key was used with {scope} for another request");
                ("mismatch", Reason::KeyMismatch, detail)
            }
            Word::Ambiguous => {
                let detail = format!(
                    "an earlier request to {scope} under this key began and nobody knows how it ended; it is not run again"
                );
                (AMBIGUOUS, Reason::KeyAmbiguous, detail)
            }
            Word::Unreachable => {
                let detail = format!("the ledger of {scope}'s idempotency keys is not reached; nothing was forwarded");
                ("unreachable", Reason::LedgerUnreachable, detail)
            }
            Word::BodyTooLarge => {
                let detail = format!("a request under a key has a body of at most {KEYED_BODY_BYTES_MAX} bytes");
                ("refused", Reason::BodyTooLarge, detail)
            }
        };
        keyed.note = note;
        let mut answer = self.refuse(reason, detail);
        match reason {
            Reason::KeyAmbiguous => answer.idempotency = Some(AMBIGUOUS),
            Reason::LedgerUnreachable => answer.failure = Some(FAILURE_UNSENT),
            _ => {}
        }
        self.reply(answer)
    }

    fn on_granted(&mut self, shard: &mut Shard, head: &mut Head, again: bool, now: Now) -> Effect {
        let plan = match self.dispatch(shard, now.mono) {
            Ok(plan) => plan,
            // As unknown as it was, if it was.
            Err(answer) => return self.settle(if again { Told::Ambiguous } else { Told::Unsent }, answer),
        };
        let grpc = self.is_grpc();
        let Some(keyed) = &mut self.keyed else { return self.lost_track() };
        (keyed.granted, keyed.note) = (true, if again { AGAIN } else { "granted" });
        match &keyed.protection.policy.on_ambiguous {
            OnAmbiguous::Probe(_) if again && grpc => {
                // A GET says nothing to it, and what it answers says nothing of the key.
                self.on_recalled(head, Recalled::Unknown("a program that speaks gRPC can't be asked".into()), now)
            }
            OnAmbiguous::Probe(path) if again => {
                let recall = Recall { plan: plan.clone(), path: path.clone() };
                keyed.plan = Some(plan);
                Effect::Recall(Box::new(recall))
            }
            _ => {
                if again {
                    // Never silently: the program learns that it may have acted on this already.
                    head.set(Known::IdempotencyStatus.name(), AMBIGUOUS.as_bytes()).ok();
                }
                plan.stamp(head, now);
                Effect::Send(plan)
            }
        }
    }

    /// Takes in what the program said to [`Effect::Recall`]. `head` is the request's.
    pub fn on_recalled(&mut self, head: &mut Head, recalled: Recalled, now: Now) -> Effect {
        let grpc = self.is_grpc();
        let Some(keyed) = &mut self.keyed else { return self.lost_track() };
        match recalled {
            Recalled::Answered(Heard::Recorded) => {
                keyed.note = REPLAYED;
                Effect::Replay
            }
            Recalled::Answered(heard) => self.unheard(heard),
            Recalled::Absent => match keyed.plan.take() {
                Some(plan) => {
                    keyed.note = "granted";
                    plan.stamp(head, now);
                    Effect::Send(plan)
                }
                None => self.lost_track(),
            },
            Recalled::UnderWay(after) => {
                keyed.note = IN_FLIGHT;
                let answer = self.in_flight(after.unwrap_or_default());
                self.note_reason(answer.reason);
                Effect::Settle(Told::Ambiguous, answer)
            }
            Recalled::Unknown(why) => {
                let detail = format!(
                    "an earlier request under this key began and nobody knows how it ended; the program was asked: {why}"
                );
                let mut answer = self.refuse(Reason::KeyAmbiguous, detail);
                // It is asked again by then, and may know.
                answer.retry_after = (!grpc).then_some(RETRY_AFTER_MAX);
                self.settle(Told::Ambiguous, answer)
            }
        }
    }

    fn in_flight(&self, left: Duration) -> Box<Answer> {
        let detail = "the same request is under way; come again for its answer";
        let mut answer = self.refuse(Reason::KeyInFlight, detail);
        if self.keyed.as_ref().is_some_and(|keyed| keyed.transaction) {
            answer.status = TOO_EARLY;
        }
        answer.idempotency = Some(IN_FLIGHT);
        answer.retry_after = Some(left.min(RETRY_AFTER_MAX).max(Duration::from_secs(1)));
        answer
    }

    /// What the answer of the program says of the effect, to be told with it. `grpc_status` is that of the
    /// trailers or, in an answer without a body, of the head.
    pub fn told(&self, status: u16, grpc_status: Option<u32>) -> Told {
        let failed = match grpc_status {
            // CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
            Some(code) => matches!(code, 1 | 2 | 4 | 8 | 13 | 14 | 15),
            None => status >= 500,
        };
        let rule =
            self.keyed.as_ref().map_or(OnServerError::Ambiguous, |keyed| keyed.protection.policy.on_server_error);
        match (failed, rule) {
            (false, _) | (true, OnServerError::Keep) => Told::Done,
            (true, OnServerError::Ambiguous) => Told::Ambiguous,
            (true, OnServerError::Release) => Told::Unsent,
        }
    }

    /// Takes in what came of telling how the request ended, after [`Effect::Keep`]. `head` is the answer's.
    pub fn on_heard(&mut self, head: &mut Head, told: Told, heard: Heard) -> Effect {
        let Some(keyed) = &mut self.keyed else { return self.lost_track() };
        if heard != Heard::Recorded {
            return self.unheard(heard);
        }
        if told == Told::Ambiguous {
            keyed.note = AMBIGUOUS;
            head.set(Known::IdempotencyStatus.name(), AMBIGUOUS.as_bytes()).ok();
        }
        Effect::Forward
    }

    /// The program has answered, and that isn't kept.
    fn unheard(&mut self, heard: Heard) -> Effect {
        let Some(keyed) = &mut self.keyed else { return self.lost_track() };
        let detail = match heard {
            Heard::Fenced => "the program has answered, but too late: another execution of the request has begun",
            Heard::Recorded | Heard::Unreachable => "the program has answered, but the ledger could not be told",
        };
        keyed.note = AMBIGUOUS;
        let mut answer = self.refuse(Reason::KeyAmbiguous, detail);
        answer.idempotency = Some(AMBIGUOUS);
        match heard {
            Heard::Unreachable => answer.status = Reason::LedgerUnreachable.status(),
            // The other one's answer is kept for whoever comes again.
            Heard::Fenced | Heard::Recorded => answer.retry_after = Some(RETRY_AFTER_MAX),
        }
        self.reply(answer)
    }

    /// The answer of the program broke off while it was being gathered for [`Effect::Keep`].
    pub fn on_broken_answer(&mut self, shard: &mut Shard, failure: Failure, now: Now) -> Effect {
        self.course.break_off(shard, failure, now.mono);
        let answer = self.refuse(Reason::of(failure), "the program's answer broke off");
        self.settle(Told::Ambiguous, answer)
    }

    /// Whether the ledger holds this exchange's key for it.
    pub(crate) fn holds_key(&self) -> bool {
        self.keyed.as_ref().is_some_and(|keyed| keyed.granted)
    }

    /// The try of a keyed request has failed for good: the ledger is told before the caller is.
    pub(crate) fn settle_failure(&mut self, failure: Option<Failure>, answer: Box<Answer>) -> Effect {
        // What was unknown before stays so.
        let again = self.keyed.as_ref().is_some_and(|keyed| keyed.note == AGAIN);
        let unsent = failure.is_none_or(Failure::unsent) && !again;
        self.settle(if unsent { Told::Unsent } else { Told::Ambiguous }, answer)
    }

    fn settle(&mut self, told: Told, mut answer: Box<Answer>) -> Effect {
        if let Some(keyed) = &mut self.keyed
            && told == Told::Ambiguous
        {
            keyed.note = AMBIGUOUS;
            answer.idempotency = Some(AMBIGUOUS);
            // Another proxy would only be told the same, unless it may run it again.
            if keyed.protection.policy.on_ambiguous == OnAmbiguous::Hold && answer.failure == Some(FAILURE_LOST) {
                answer.failure = None;
            }
        }
        self.note_reason(answer.reason);
        Effect::Settle(told, answer)
    }

    /// The caller's proxy was told that its own earlier try is still under way.
    pub(crate) fn waits_for_itself(&self, head: &Head) -> bool {
        self.course.policy.keyed
            && self.course.attempts.count() > 1
            && head.header(Known::IdempotencyStatus) == Some(IN_FLIGHT.as_bytes())
    }

    fn lost_track(&mut self) -> Effect {
        let answer = self.refuse(Reason::Internal, "a key was spoken of that nobody asked about");
        self.reply(answer)
    }
}

/// The answer that a failed try leads to, where a key may be held.
pub(crate) fn conclude(exchange: &mut Exchange, step: Step, failure: Failure) -> Effect {
    match step {
        Step::Send(plan) => Effect::Send(plan),
        Step::Wait => Effect::Wait,
        Step::Give(reason) => {
            let answer = exchange.give_up(reason, Some(failure));
            if exchange.holds_key() { exchange.settle_failure(Some(failure), answer) } else { exchange.reply(answer) }
        }
    }
}

#[cfg(test)]
mod tests;
