// SPDX-License-Identifier: Apache-2.0
//! `idempotency` of a TrafficPolicy on the wire. A word that isn't known is an error: skipping it would
//! promise less than was asked for.

use super::Error;
use super::check::{self, invalid, missing};
use crate::proto::byrnie::v1 as pb;
use byrnie_model::policy::idempotency::{Guarantee, Idempotency, KeyMode, OnAmbiguous, OnServerError};

pub(super) fn encode(policy: &Idempotency) -> pb::Idempotency {
    let mode = match policy.mode {
        KeyMode::Off => pb::KeyMode::Off,
        KeyMode::Optional => pb::KeyMode::Optional,
        KeyMode::Required => pb::KeyMode::Required,
    };
    let guarantee = match policy.guarantee {
        Guarantee::G0 => pb::Guarantee::G0,
        Guarantee::G1 => pb::Guarantee::G1,
        Guarantee::G2 => pb::Guarantee::G2,
    };
    let on_ambiguous = match policy.on_ambiguous {
        OnAmbiguous::Hold => pb::OnAmbiguous::Hold,
        OnAmbiguous::Reexecute => pb::OnAmbiguous::Reexecute,
    };
    let on_server_error = match policy.on_server_error {
        OnServerError::Ambiguous => pb::OnServerError::Ambiguous,
        OnServerError::Keep => pb::OnServerError::Keep,
        OnServerError::Release => pb::OnServerError::Release,
    };
    pb::Idempotency {
        mode: mode.into(),
        guarantee: guarantee.into(),
        key_ttl: Some(check::duration_out(policy.key_ttl)),
        lease: Some(check::duration_out(policy.lease)),
        on_ambiguous: on_ambiguous.into(),
        on_server_error: on_server_error.into(),
        mint_keys: policy.mint_keys,
    }
}

pub(super) fn decode(from: pb::Idempotency) -> Result<Idempotency, Error> {
    let mode = match pb::KeyMode::try_from(from.mode) {
        Ok(pb::KeyMode::Off) => KeyMode::Off,
        Ok(pb::KeyMode::Optional) => KeyMode::Optional,
        Ok(pb::KeyMode::Required) => KeyMode::Required,
        Ok(pb::KeyMode::Unspecified) | Err(_) => return Err(invalid("idempotency.mode")),
    };
    let guarantee = match pb::Guarantee::try_from(from.guarantee) {
        Ok(pb::Guarantee::G0) => Guarantee::G0,
        Ok(pb::Guarantee::G1) => Guarantee::G1,
        Ok(pb::Guarantee::G2) => Guarantee::G2,
        Ok(pb::Guarantee::Unspecified) | Err(_) => return Err(invalid("idempotency.guarantee")),
    };
    let on_ambiguous = match pb::OnAmbiguous::try_from(from.on_ambiguous) {
        Ok(pb::OnAmbiguous::Hold) => OnAmbiguous::Hold,
        Ok(pb::OnAmbiguous::Reexecute) => OnAmbiguous::Reexecute,
        Ok(pb::OnAmbiguous::Unspecified) | Err(_) => return Err(invalid("idempotency.onAmbiguous")),
    };
    let on_server_error = match pb::OnServerError::try_from(from.on_server_error) {
        Ok(pb::OnServerError::Ambiguous) => OnServerError::Ambiguous,
        Ok(pb::OnServerError::Keep) => OnServerError::Keep,
        Ok(pb::OnServerError::Release) => OnServerError::Release,
        Ok(pb::OnServerError::Unspecified) | Err(_) => return Err(invalid("idempotency.onServerError")),
    };
    let span = |field, span: Option<pb::Duration>| check::duration(field, span.ok_or_else(|| missing(field))?);
    let lease = span("idempotency.lease", from.lease)?;
    if lease.is_zero() {
        return Err(invalid("idempotency.lease"));
    }
    let key_ttl = span("idempotency.keyTTL", from.key_ttl)?;
    Ok(Idempotency { mode, guarantee, key_ttl, lease, on_ambiguous, on_server_error, mint_keys: from.mint_keys })
}
