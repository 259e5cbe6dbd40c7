// SPDX-License-Identifier: Apache-2.0
//! What an answer means. Three protocols say three things by 409, so what the mesh itself says of a key
//! (`Idempotency-Status`) and whether the mesh answered at all are looked at before the status.

use crate::transaction::{Mode, Op, Rules};
use byrnie_base::Text;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// An answer as it was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The HTTP status; `None` if none came: refused, reset, timed out.
    pub status: Option<u16>,
    /// `Idempotency-Status`, as a proxy wrote it.
    pub ledger: Option<Text>,
    /// The mesh answered, not the participant.
    pub mesh: bool,
    /// `Retry-After`.
    pub retry_after: Option<Duration>,
    /// `Location`, where that is a path at the same service.
    pub location: Option<Text>,
    /// `Location`, where it is anything else: nobody can be asked there.
    pub elsewhere: Option<Text>,
    /// It answers the question what became of an earlier call, not that call itself.
    pub poll: bool,
    /// The body, or why there is no answer.
    pub body: Text,
}

/// What an answer means for the branch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It's done.
    Done {
        /// What was answered.
        answer: Text,
    },
    /// The participant said no: nothing was done and nothing will be.
    Rejected {
        /// What was answered.
        reason: Text,
    },
    /// It's being worked on.
    Ongoing {
        /// When to ask again, if the participant says.
        after: Option<Duration>,
        /// Where to ask, if the participant says.
        location: Option<Text>,
    },
    /// It may or may not have been done.
    Unknown {
        /// What was seen.
        reason: Text,
        /// When to try again, if somebody says.
        after: Option<Duration>,
        /// The participant has answered, or wasn't called: it isn't at work by this call.
        #[serde(default)]
        over: bool,
    },
    /// It may or may not have been done, and to ask again won't tell: the ledger runs it no more.
    Ambiguous {
        /// What was seen.
        reason: Text,
    },
    /// It was taken, and is to be asked for where nobody can ask: the same call again would be answered the same.
    Elsewhere {
        /// What was seen.
        reason: Text,
    },
    /// The call can't be right: nobody refuses it for business reasons, and none will ever take it.
    Misdirected {
        /// What was seen.
        reason: Text,
    },
}

/// Longest reason that is kept, in bytes.
pub const REASON_BYTES_MAX: usize = 512;
/// What an operator reads of a call that is ambiguous.
const NOBODY_KNOWS: &str = "nobody knows whether it was done, and it is not done again";

/// Judges an answer to a call.
pub fn judge(mode: Mode, op: Op, rules: &Rules, seen: &Seen) -> Outcome {
    let over = seen.status.is_some() && !seen.mesh;
    let unknown = || Outcome::Unknown { reason: reason(seen), after: seen.retry_after, over };
    let Some(status) = seen.status else { return unknown() };
    // The mesh's own word on the key comes first: a call that still runs, or whose outcome nobody knows, is
    // neither done nor refused, whatever status carries that.
    match seen.ledger.as_deref() {
        Some("in-flight") => return Outcome::Ongoing { after: seen.retry_after, location: None },
        // The ledger's own no is for good. What broke off only now may be run again by its policy, and whoever says when
        // to come again may know more by then.
        Some("ambiguous") if seen.mesh && status == 409 && seen.retry_after.is_none() => {
            return Outcome::Ambiguous { reason: format!("{NOBODY_KNOWS}: {}", reason(seen)).into() };
        }
        Some("ambiguous") => return unknown(),
        _ => {}
    }
    let misdirected = || {
        if rules.patient && !seen.mesh { unknown() } else { Outcome::Misdirected { reason: reason(seen) } }
    };
    match status {
        // To do it again won't help the question where it can be asked for.
        202 if seen.elsewhere.is_some() && !seen.poll => {
            let place = seen.elsewhere.as_deref().unwrap_or_default();
            let text = format!("202, to be asked for at {place:?}: that is no place at the same service");
            let reason = short(&text);
            if rules.patient {
                Outcome::Unknown { reason, after: seen.retry_after, over }
            } else {
                Outcome::Elsewhere { reason }
            }
        }
        202 if seen.location.is_some() || seen.poll || op_may_take_time(mode, op) => {
            Outcome::Ongoing { after: seen.retry_after, location: seen.location.clone() }
        }
        200..=299 => Outcome::Done { answer: seen.body.clone() },
        // LRA: the participant has finished with it and forgotten it.
        410 if mode == Mode::Scope && !seen.mesh => Outcome::Done { answer: Text::default() },
        425 => Outcome::Ongoing { after: seen.retry_after, location: seen.location.clone() },
        408 | 429 | 500..=599 => unknown(),
        // The mesh refuses by policy or for want of a route, never for business reasons.
        _ if seen.mesh => misdirected(),
        _ if rules.rejected.contains(&status) => Outcome::Rejected { reason: reason(seen) },
        _ => misdirected(),
    }
}

/// The HTTP status that says what a gRPC status code says: by dtm's convention `ABORTED` is a no and
/// `FAILED_PRECONDITION` means that it's being worked on; whatever else there is leaves open what was done.
pub const fn status_of_grpc(code: u8) -> u16 {
    match code {
        0 => 200,
        3 => 400,
        // Not there, or no such method.
        5 | 12 => 404,
        7 => 403,
        8 => 429,
        9 => 425,
        10 => 409,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

/// LRA: 202 to a compensation or completion means that it is in progress, with or without a place to ask.
const fn op_may_take_time(mode: Mode, op: Op) -> bool {
    matches!((mode, op), (Mode::Scope, Op::Undo | Op::Confirm))
}

/// What was seen, in few words.
fn reason(seen: &Seen) -> Text {
    let short = short(seen.body.trim());
    match seen.status {
        None => short,
        Some(status) if short.is_empty() => status.to_string().into(),
        Some(status) => format!("{status} {short}").into(),
    }
}

/// As much of a text as is kept of a reason, on one line.
fn short(text: &str) -> Text {
    let fits = text.char_indices().take_while(|(at, c)| at + c.len_utf8() <= REASON_BYTES_MAX).count();
    text.chars().take(fits).map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().into()
}

#[cfg(test)]
mod tests;
