// SPDX-License-Identifier: Apache-2.0
//! `Mesh` on the wire.

use super::Error;
use super::check::{invalid, labels, labels_out, message};
use crate::proto::byrnie::v1 as pb;
use crate::proto::{Bytes, Message};
use byrnie_model::resource::{DefaultAccess, Mesh};
use byrnie_model::{Labels, Spec, identity};

pub(super) fn encode(mesh: &Mesh, labels: &Labels) -> Bytes {
    let default_access = match mesh.default_access {
        DefaultAccess::Deny => pb::DefaultAccess::Deny,
        DefaultAccess::Allow => pb::DefaultAccess::Allow,
    };
    let message = pb::Mesh {
        labels: labels_out(labels),
        trust_domain: mesh.trust_domain.to_string(),
        default_access: default_access.into(),
    };
    message.encode_to_vec().into()
}

pub(super) fn decode(bytes: &[u8]) -> Result<(Spec, Labels), Error> {
    let mesh: pb::Mesh = message("mesh", bytes)?;
    identity::check_domain(&mesh.trust_domain).map_err(|_| invalid("trustDomain"))?;
    // An access that this version doesn't know must never be read as "allow".
    let default_access = match pb::DefaultAccess::try_from(mesh.default_access) {
        Ok(pb::DefaultAccess::Deny) => DefaultAccess::Deny,
        Ok(pb::DefaultAccess::Allow) => DefaultAccess::Allow,
        Ok(pb::DefaultAccess::Unspecified) | Err(_) => return Err(invalid("defaultAccess")),
    };
    let labels = labels("labels", mesh.labels)?;
    Ok((Spec::Mesh(Mesh { trust_domain: mesh.trust_domain.into(), default_access }), labels))
}
