// SPDX-License-Identifier: Apache-2.0
//! How requests with an idempotency key are protected. Part of a TrafficPolicy; the callee's proxy keeps
//! the ledger's side of it, the caller's proxy may repeat such requests.

use super::enlist::Enlist;
use byrnie_base::Text;
use std::time::Duration;

/// How requests that change something (any method but GET, HEAD and OPTIONS) are protected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// Whether a key is honoured, or asked for.
    pub mode: KeyMode,
    /// What is promised: shown wherever the policy is, and decides what an ambiguous end leads to unless
    /// that is said.
    pub guarantee: Guarantee,
    /// How long a key is remembered, from the beginning of its request on.
    pub key_ttl: Duration,
    /// Most time for one keyed request. When it has passed without an answer, the end is ambiguous.
    pub lease: Duration,
    /// What to do with a request whose earlier execution ended nobody knows how.
    pub on_ambiguous: OnAmbiguous,
    /// What the program's own answer of 500 and above says.
    pub on_server_error: OnServerError,
    /// Callers' proxies make a key for a request that has none.
    pub mint_keys: bool,
    /// Of an answer only its status is kept, and replayed: what else is in it isn't written down anywhere.
    pub status_only: bool,
    /// Calls by which the program takes part in its caller's transaction.
    pub enlist: Vec<Enlist>,
}

/// Whether a key is honoured, or asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyMode {
    /// Neither: a key is the program's own affair.
    #[default]
    Off,
    /// Honoured where there is one.
    Optional,
    /// POST and PATCH without one are refused.
    Required,
}

/// How often a request may take effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guarantee {
    /// At least once: nothing is promised, and no ledger is asked. Keys may be asked for and made all the same, for programs that
    /// honour them themselves.
    #[default]
    G0,
    /// Once, but for a window of ambiguity that is always reported: the program acted, and its proxy died
    /// before it could say so.
    G1,
    /// Once: the program keeps a barrier in its own database, so that a repetition has no second effect.
    G2,
}

/// What to do with a request whose earlier execution ended nobody knows how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OnAmbiguous {
    /// Answer 409, marked `Idempotency-Status: ambiguous`: somebody must look.
    Hold,
    /// Run it again, marked `Idempotency-Status: ambiguous` for the program.
    Reexecute,
    /// Ask the program by a GET of this path under the same key: it answers what it answered then (2xx), that it knows nothing
    /// of it (404; then it is run), or that it is at it (425). Until it says one of these nothing is run.
    Probe(Text),
}

/// What an answer of 500 and above, made by the program itself, says of the effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnServerError {
    /// Nothing: it may have acted.
    #[default]
    Ambiguous,
    /// That this is the outcome: it's kept and replayed.
    Keep,
    /// That there was none: the key is free again.
    Release,
}

impl Idempotency {
    /// How long a key is remembered unless the policy says otherwise.
    pub const KEY_TTL: Duration = Duration::from_secs(24 * 3600);
    /// Longest time that a key is remembered.
    pub const KEY_TTL_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
    /// Most time for one keyed request unless the policy says otherwise.
    pub const LEASE: Duration = Duration::from_secs(60);
    /// Longest time that a policy may give one keyed request.
    pub const LEASE_MAX: Duration = Duration::from_secs(3600);

    /// Whether the ledger keeps the keys. At [`Guarantee::G0`] they are asked for at most, and the program's own affair.
    pub const fn is_ledgered(&self) -> bool {
        !matches!(self.mode, KeyMode::Off) && !matches!(self.guarantee, Guarantee::G0)
    }
}

impl Guarantee {
    /// As it's written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::G0 => "G0",
            Self::G1 => "G1",
            Self::G2 => "G2",
        }
    }

    /// What it means, in a few words.
    pub const fn promise(self) -> &'static str {
        match self {
            Self::G0 => "at least once",
            Self::G1 => "once, but for ambiguous ends, which are reported",
            Self::G2 => "once, by the program's own barrier",
        }
    }
}

impl KeyMode {
    /// As it's written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "Off",
            Self::Optional => "Optional",
            Self::Required => "Required",
        }
    }
}
