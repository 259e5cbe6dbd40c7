// SPDX-License-Identifier: Apache-2.0
//! `Gateway` on the wire. Its class and who may attach have been judged before; they travel along so
//! that a gateway is the same on both sides.

use super::Error;
use super::check::{self, LIST_MAX, labels, labels_out, list, message, missing};
use super::route::hostname;
use crate::proto::byrnie::v1 as pb;
use crate::proto::{Bytes, Message};
use byrnie_base::Text;
use byrnie_model::gateway::{From, Gateway, Listener};
use byrnie_model::{Labels, Revision, Spec};
use std::sync::Arc;

pub(super) fn encode(gateway: &Gateway, created: Revision, labels: &Labels) -> Bytes {
    let listener = |listener: &Listener| pb::Listener {
        name: listener.name.to_string(),
        hostname: listener.hostname.as_ref().map(Text::to_string),
        port: listener.port.into(),
        from: Some(match &listener.from {
            From::Same => pb::listener::From::Same(true),
            From::All => pb::listener::From::All(true),
            From::Selected(labels) => pb::listener::From::Selected(pb::Selector { labels: labels_out(labels) }),
        }),
        kinds: listener.kinds.iter().map(Text::to_string).collect(),
    };
    let message = pb::Gateway {
        labels: labels_out(labels),
        class: gateway.class.to_string(),
        listeners: gateway.listeners.iter().map(listener).collect(),
        created: created.0,
    };
    message.encode_to_vec().into()
}

/// What bytes say, and when the gateway began to exist.
pub(super) fn decode(bytes: &[u8]) -> Result<(Spec, Labels, Revision), Error> {
    let gateway: pb::Gateway = message("gateway", bytes)?;
    let listener = |from: pb::Listener| {
        Ok(Listener {
            name: check::name("listeners[].name", &from.name)?,
            hostname: from.hostname.map(|host| hostname(&host)).transpose()?,
            port: check::port("listeners[].port", from.port)?,
            from: match from.from.ok_or_else(|| missing("listeners[].allowedRoutes"))? {
                pb::listener::From::Same(_) => From::Same,
                pb::listener::From::All(_) => From::All,
                pb::listener::From::Selected(selector) => {
                    From::Selected(check::labels("listeners[].allowedRoutes", selector.labels)?)
                }
            },
            kinds: list("listeners[].allowedRoutes.kinds", LIST_MAX, from.kinds, |kind| {
                check::name("listeners[].allowedRoutes.kinds", &kind)
            })?,
        })
    };
    let spec = Gateway {
        class: check::name("gatewayClassName", &gateway.class)?,
        listeners: list("listeners", LIST_MAX, gateway.listeners, listener)?,
    };
    Ok((Spec::Gateway(Arc::new(spec)), labels("labels", gateway.labels)?, Revision(gateway.created)))
}
