// SPDX-License-Identifier: Apache-2.0
//! The fault of a `TrafficPolicy` on the wire.

use super::Error;
use super::check::{self, invalid};
use crate::proto::byrnie::v1 as pb;
use byrnie_base::Timestamp;
use byrnie_model::policy::fault::Fault;

pub(super) fn decode(from: pb::Fault) -> Result<Fault, Error> {
    let abort = from.abort.map(|status| u16::try_from(status).map_err(|_| invalid("fault.abort"))).transpose()?;
    if abort.is_some_and(|status| !(200..=599).contains(&status)) {
        return Err(invalid("fault.abort"));
    }
    let header = match (from.header_name, from.header_value) {
        (Some(name), Some(value)) => Some((check::token("fault.match", &name)?, check::text("fault.match", &value)?)),
        (None, None) => None,
        _ => return Err(invalid("fault.match")),
    };
    Ok(Fault {
        percent: check::percent("fault.percent", from.percent)?,
        delay: check::optional_duration("fault.delay", from.delay)?,
        abort,
        reset: from.reset,
        slow_body: check::optional_duration("fault.slowBody", from.slow_body)?,
        method: from.method.map(|method| check::token("fault.match", &method)).transpose()?,
        path_prefix: from.path_prefix.map(|path| check::text("fault.match", &path)).transpose()?,
        header,
        until: Timestamp::from_millis(from.until_ms),
    })
}

pub(super) fn encode(from: &Fault) -> pb::Fault {
    let (header_name, header_value) = from.header.as_ref().map(|(n, v)| (n.to_string(), v.to_string())).unzip();
    pb::Fault {
        percent: from.percent.into(),
        delay: from.delay.map(check::duration_out),
        abort: from.abort.map(u32::from),
        reset: from.reset,
        method: from.method.as_ref().map(ToString::to_string),
        path_prefix: from.path_prefix.as_ref().map(ToString::to_string),
        header_name,
        header_value,
        until_ms: from.until.as_millis(),
        slow_body: from.slow_body.map(check::duration_out),
    }
}
