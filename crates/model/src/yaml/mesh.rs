// SPDX-License-Identifier: Apache-2.0
//! The document of a Mesh.

use super::reader::Reader;
use crate::resource::{DefaultAccess, Mesh};
use crate::{code, identity};
use serde::{Deserialize, Serialize};

/// Defaults of the whole mesh.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct MeshSpec {
    /// The trust domain of every identity. It cannot change once the mesh has started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trust_domain: Option<String>,
    /// What happens to a call that no AccessPolicy names.
    #[serde(default)]
    default_access: Verdict,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
enum Verdict {
    /// Refuse it.
    #[default]
    Deny,
    /// Let it through.
    Allow,
}

impl From<&Mesh> for MeshSpec {
    fn from(mesh: &Mesh) -> Self {
        let default_access = match mesh.default_access {
            DefaultAccess::Deny => Verdict::Deny,
            DefaultAccess::Allow => Verdict::Allow,
        };
        Self { trust_domain: Some(mesh.trust_domain.to_string()), default_access }
    }
}

pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Mesh> {
    let spec: MeshSpec = reader.spec()?;
    let trust_domain = spec.trust_domain.map_or_else(|| reader.defaults.trust_domain.clone(), Into::into);
    if let Err(error) = identity::check_domain(&trust_domain) {
        reader.fault(&code::BAD_VALUE, "spec.trustDomain", error.to_string());
    }
    let default_access = match spec.default_access {
        Verdict::Deny => DefaultAccess::Deny,
        Verdict::Allow => DefaultAccess::Allow,
    };
    Some(Mesh { trust_domain, default_access })
}
