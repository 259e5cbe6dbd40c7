// SPDX-License-Identifier: Apache-2.0
//! Who may call what.

use crate::{Identity, ServiceRef};
use byrnie_base::Text;

/// Who may (or may not) call the targets.
///
/// A DENY that fits wins over every ALLOW. A call that no policy fits gets the mesh's default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessPolicy {
    /// Whether verdicts are enforced or only recorded.
    pub mode: Mode,
    /// What it protects; empty means every service of its namespace, or of the whole mesh if the policy
    /// lives in [`Identity::SYSTEM_NAMESPACE`].
    pub targets: Vec<ServiceRef>,
    /// What a fitting rule means.
    pub action: Action,
    /// Any of these must fit. No rules: nothing fits.
    pub rules: Vec<Rule>,
}

impl AccessPolicy {
    /// Whether the policy, living in `namespace`, protects a service.
    pub fn protects(&self, namespace: &str, service: &ServiceRef) -> bool {
        if self.targets.is_empty() {
            return namespace == Identity::SYSTEM_NAMESPACE || *namespace == *service.namespace;
        }
        self.targets.contains(service)
    }
}

/// Whether verdicts count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// They do.
    #[default]
    Enforce,
    /// They're written down only.
    Shadow,
}

/// What a fitting rule means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The call may pass.
    Allow,
    /// The call is refused.
    Deny,
}

/// Conditions that must all hold; an empty list holds always.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Any of these is the caller.
    pub sources: Vec<Source>,
    /// Any of these is the workload's own port.
    pub ports: Vec<u16>,
    /// Any of these fits the request. A list that isn't empty never fits opaque TCP.
    pub http: Vec<HttpMatch>,
}

/// A set of callers, always proven by certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// This service account.
    ServiceAccount {
        /// Its namespace.
        namespace: Text,
        /// Its name.
        name: Text,
    },
    /// Every service account of a namespace.
    Namespace(Text),
    /// Exactly this identity.
    Identity(Identity),
}

/// Conditions on a request; an empty list holds always.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpMatch {
    /// Any of these is the method; upper case.
    pub methods: Vec<Text>,
    /// Any of these fits the canonical path.
    pub paths: Vec<PathPattern>,
}

/// A set of paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathPattern {
    /// `/x`: this path.
    Exact(Text),
    /// `/x/*`: everything below `/x/` (and not `/x` itself). Held without the `*`.
    Below(Text),
    /// `/x/{id}/y`: segments, where `None` stands for any one segment that isn't empty.
    Template(Vec<Option<Text>>),
}
