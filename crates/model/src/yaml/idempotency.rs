// SPDX-License-Identifier: Apache-2.0
//! `spec.idempotency` of a TrafficPolicy.

use super::enlist::{self, EnlistSpec};
use super::names;
use super::reader::Reader;
use crate::code;
use crate::policy::idempotency::{Guarantee, Idempotency, KeyMode, OnAmbiguous, OnServerError};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How requests with an `Idempotency-Key` are protected: those of any method but GET, HEAD and OPTIONS.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct IdempotencySpec {
    /// `Off`; `Optional`: a key is honoured; `Required`: POST and PATCH without one are refused.
    mode: ModeWord,
    /// `G1`: once, but for ambiguous ends, which are reported; `G2`: once, by a barrier in the program's
    /// own database; `G0`: at least once, as no ledger is asked: keys are demanded or made, and the program's own affair. `G1`
    /// unless given, with `Off` `G0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    guarantee: Option<GuaranteeWord>,
    /// How long a key is remembered, such as `24h`.
    #[serde(rename = "keyTTL", default, skip_serializing_if = "Option::is_none")]
    key_ttl: Option<String>,
    /// Most time for one keyed request, such as `60s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease: Option<String>,
    /// What to do with a request whose earlier execution ended nobody knows how: `Hold` answers 409,
    /// `Reexecute` runs it again, `Probe` asks the program at `probe`. `Hold` unless given, with `G2` `Reexecute`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    on_ambiguous: Option<AmbiguousWord>,
    /// With `Probe`: the path that is asked by a GET with the same `Idempotency-Key`. 2xx is the answer of then, 404 says that
    /// nothing was done (and it is run), 425 that it's under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    probe: Option<String>,
    /// What the program's own answer of 500 and above says: `Ambiguous`, `Keep` (it is the outcome) or
    /// `Release` (it did nothing). `Ambiguous` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    on_server_error: Option<ErrorWord>,
    /// Callers' proxies make a key for a request that has none.
    #[serde(default, skip_serializing_if = "is_false")]
    mint_keys: bool,
    /// Of answers only the status is kept and replayed, so that nothing else of them is ever written down.
    #[serde(default, skip_serializing_if = "is_false")]
    status_only: bool,
    /// Calls by which the program takes part in its caller's transaction, whether or not keys are looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    enlist: Vec<EnlistSpec>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
enum ModeWord {
    Off,
    Optional,
    Required,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
enum GuaranteeWord {
    G0,
    G1,
    G2,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
enum AmbiguousWord {
    Hold,
    Reexecute,
    Probe,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
enum ErrorWord {
    Ambiguous,
    Keep,
    Release,
}

const AT: &str = "spec.idempotency";

impl IdempotencySpec {
    pub(super) fn read(&self, reader: &mut Reader<'_>) -> Idempotency {
        let off = self.mode == ModeWord::Off;
        let implied = if off { GuaranteeWord::G0 } else { GuaranteeWord::G1 };
        let guarantee = self.guarantee.unwrap_or(implied);
        if off && guarantee != GuaranteeWord::G0 {
            reader.fault(&code::CONTRADICTION, format!("{AT}.guarantee"), "nothing is promised while mode is Off");
        }
        if !off && guarantee == GuaranteeWord::G0 {
            self.nothing_kept(reader);
        }
        for (flag, name) in [(self.mint_keys, "mintKeys"), (self.status_only, "statusOnly")] {
            if off && flag {
                reader.fault(&code::CONTRADICTION, format!("{AT}.{name}"), "no key is looked at while mode is Off");
            }
        }
        let on_ambiguous = self.on_ambiguous(reader, guarantee);
        let lease = span(reader, self.lease.as_deref(), "lease", (Idempotency::LEASE, Idempotency::LEASE_MAX));
        let key_ttl = span(reader, self.key_ttl.as_deref(), "keyTTL", (Idempotency::KEY_TTL, Idempotency::KEY_TTL_MAX));
        let longer = "must be at least twice the lease, so that an ambiguous end can be seen";
        reader.require(key_ttl >= lease * 2, &format!("{AT}.keyTTL"), longer);
        Idempotency {
            mode: self.mode.into(),
            guarantee: guarantee.into(),
            key_ttl,
            lease,
            on_ambiguous,
            on_server_error: self.on_server_error.map_or(OnServerError::Ambiguous, OnServerError::from),
            mint_keys: self.mint_keys,
            status_only: self.status_only,
            enlist: enlist::read(reader, &self.enlist),
        }
    }

    /// Refuses what says how keys are kept, where none is.
    fn nothing_kept(&self, reader: &mut Reader<'_>) {
        for (said, name) in [
            (self.key_ttl.is_some(), "keyTTL"),
            (self.lease.is_some(), "lease"),
            (self.on_ambiguous.is_some(), "onAmbiguous"),
            (self.on_server_error.is_some(), "onServerError"),
            (self.status_only, "statusOnly"),
        ] {
            if said {
                reader.fault(
                    &code::CONTRADICTION,
                    format!("{AT}.{name}"),
                    "no key is kept at G0: leave it out, or say G1",
                );
            }
        }
    }

    fn on_ambiguous(&self, reader: &mut Reader<'_>, guarantee: GuaranteeWord) -> OnAmbiguous {
        let probes = self.on_ambiguous == Some(AmbiguousWord::Probe);
        match &self.probe {
            None if probes => {
                reader.fault(
                    &code::MISSING_FIELD,
                    format!("{AT}.onAmbiguous"),
                    "Probe needs `probe`, the path to ask at",
                );
            }
            Some(_) if !probes => {
                reader.fault(
                    &code::CONTRADICTION,
                    format!("{AT}.probe"),
                    "nothing is asked unless onAmbiguous is Probe",
                );
            }
            Some(path) => {
                let clean = path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
                reader.require(clean, &format!("{AT}.probe"), "is a path, such as `/keys`");
            }
            None => {}
        }
        match (self.on_ambiguous, guarantee) {
            (Some(AmbiguousWord::Probe), _) => OnAmbiguous::Probe(self.probe.as_deref().unwrap_or("/").into()),
            (Some(AmbiguousWord::Reexecute), _) | (None, GuaranteeWord::G2) => OnAmbiguous::Reexecute,
            _ => OnAmbiguous::Hold,
        }
    }
}

fn span(reader: &mut Reader<'_>, text: Option<&str>, field: &str, (usual, max): (Duration, Duration)) -> Duration {
    let Some(text) = text else { return usual };
    let path = format!("{AT}.{field}");
    let before = reader.faults.len();
    let span = reader.some_time(text, &path);
    if reader.faults.len() > before {
        return usual;
    }
    reader.require(span <= max, &path, format!("must be at most {}", names::duration_text(max)));
    span.min(max)
}

impl From<ModeWord> for KeyMode {
    fn from(word: ModeWord) -> Self {
        match word {
            ModeWord::Off => Self::Off,
            ModeWord::Optional => Self::Optional,
            ModeWord::Required => Self::Required,
        }
    }
}

impl From<GuaranteeWord> for Guarantee {
    fn from(word: GuaranteeWord) -> Self {
        match word {
            GuaranteeWord::G0 => Self::G0,
            GuaranteeWord::G1 => Self::G1,
            GuaranteeWord::G2 => Self::G2,
        }
    }
}

impl From<ErrorWord> for OnServerError {
    fn from(word: ErrorWord) -> Self {
        match word {
            ErrorWord::Ambiguous => Self::Ambiguous,
            ErrorWord::Keep => Self::Keep,
            ErrorWord::Release => Self::Release,
        }
    }
}

impl From<&Idempotency> for IdempotencySpec {
    fn from(policy: &Idempotency) -> Self {
        // Where keys are asked for and none is kept, nothing says how.
        let kept = policy.mode == KeyMode::Off || policy.is_ledgered();
        Self {
            mode: match policy.mode {
                KeyMode::Off => ModeWord::Off,
                KeyMode::Optional => ModeWord::Optional,
                KeyMode::Required => ModeWord::Required,
            },
            guarantee: Some(match policy.guarantee {
                Guarantee::G0 => GuaranteeWord::G0,
                Guarantee::G1 => GuaranteeWord::G1,
                Guarantee::G2 => GuaranteeWord::G2,
            }),
            key_ttl: kept.then(|| names::duration_text(policy.key_ttl)),
            lease: kept.then(|| names::duration_text(policy.lease)),
            on_ambiguous: kept.then_some(match policy.on_ambiguous {
                OnAmbiguous::Hold => AmbiguousWord::Hold,
                OnAmbiguous::Reexecute => AmbiguousWord::Reexecute,
                OnAmbiguous::Probe(_) => AmbiguousWord::Probe,
            }),
            probe: match &policy.on_ambiguous {
                OnAmbiguous::Probe(path) => Some(path.to_string()),
                _ => None,
            },
            on_server_error: kept.then_some(match policy.on_server_error {
                OnServerError::Ambiguous => ErrorWord::Ambiguous,
                OnServerError::Keep => ErrorWord::Keep,
                OnServerError::Release => ErrorWord::Release,
            }),
            mint_keys: policy.mint_keys,
            status_only: policy.status_only,
            enlist: policy.enlist.iter().map(EnlistSpec::from).collect(),
        }
    }
}
