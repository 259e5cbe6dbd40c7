// SPDX-License-Identifier: Apache-2.0
//! `idempotency` of a TrafficPolicy on the wire. A word that isn't known is an error: skipping it would
//! promise less than was asked for.

use super::Error;
use super::check::{self, invalid, missing};
use crate::proto::byrnie::v1 as pb;
use byrnie_model::policy::enlist::{Act, ENLIST_MAX, Enlist};
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
    let (on_ambiguous, probe) = match &policy.on_ambiguous {
        OnAmbiguous::Hold => (pb::OnAmbiguous::Hold, String::new()),
        OnAmbiguous::Reexecute => (pb::OnAmbiguous::Reexecute, String::new()),
        OnAmbiguous::Probe(path) => (pb::OnAmbiguous::Probe, path.to_string()),
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
        status_only: policy.status_only,
        probe,
        enlist: policy.enlist.iter().map(enlist_out).collect(),
    }
}

/// A method and a path, as they travel.
fn act_out(act: &Act) -> pb::Act {
    pb::Act { method: act.method.to_string(), path: act.path.to_string() }
}

fn enlist_out(one: &Enlist) -> pb::Enlist {
    pb::Enlist {
        call: Some(act_out(&one.call)),
        compensate: Some(act_out(&one.compensate)),
        complete: one.complete.as_ref().map(act_out),
    }
}

fn act(from: pb::Act) -> Result<Act, Error> {
    if from.method.is_empty() || !from.path.starts_with('/') {
        return Err(invalid("idempotency.enlist"));
    }
    Ok(Act { method: from.method.into(), path: from.path.into() })
}

fn enlist(from: pb::Enlist) -> Result<Enlist, Error> {
    let wanted = |from: Option<pb::Act>| act(from.ok_or_else(|| missing("idempotency.enlist"))?);
    Ok(Enlist {
        call: wanted(from.call)?,
        compensate: wanted(from.compensate)?,
        complete: from.complete.map(act).transpose()?,
    })
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
        Ok(pb::OnAmbiguous::Probe) if from.probe.starts_with('/') => OnAmbiguous::Probe(from.probe.into()),
        Ok(pb::OnAmbiguous::Probe) => return Err(invalid("idempotency.probe")),
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
    if from.enlist.len() > ENLIST_MAX {
        return Err(invalid("idempotency.enlist"));
    }
    let enlist = from.enlist.into_iter().map(enlist).collect::<Result<_, _>>()?;
    let (mint_keys, status_only) = (from.mint_keys, from.status_only);
    Ok(Idempotency { mode, guarantee, key_ttl, lease, on_ambiguous, on_server_error, mint_keys, status_only, enlist })
}
