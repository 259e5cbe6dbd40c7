// SPDX-License-Identifier: Apache-2.0
//! One document being read: where faults are gathered, and the checks that every kind shares.

use super::Defaults;
use super::de::{self, Fault};
use super::names;
use super::node::Node;
use crate::code::Code;
use crate::policy::health::Check;
use crate::{Key, ServiceRef, code};
use byrnie_base::Text;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// One document being read.
pub(crate) struct Reader<'a> {
    pub(crate) root: &'a Node,
    pub(crate) defaults: &'a Defaults,
    /// Known once metadata is read.
    pub(crate) key: Option<Key>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) warnings: Vec<Fault>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(root: &'a Node, defaults: &'a Defaults) -> Self {
        Self { root, defaults, key: None, faults: Vec::new(), warnings: Vec::new() }
    }

    /// Notes what is wrong with the value at a path.
    pub(crate) fn fault(&mut self, code: &'static Code, path: impl Into<String>, message: impl Into<String>) {
        self.faults.push(Fault::new(code, path, message));
    }

    /// Refuses a field that is understood but not enforced.
    pub(crate) fn unenforced(&mut self, path: impl Into<String>, what: &str) {
        self.fault(&code::NOT_ENFORCED, path, format!("byrnie does not enforce {what} yet"));
    }

    /// Notes a fault unless the value holds.
    pub(crate) fn require(&mut self, holds: bool, path: &str, message: impl Into<String>) -> bool {
        if !holds {
            self.fault(&code::BAD_VALUE, path, message);
        }
        holds
    }

    /// Notes a fault if a list is longer than allowed.
    pub(crate) fn at_most(&mut self, count: usize, max: usize, path: &str) -> bool {
        self.require(count <= max, path, format!("{count} entries; at most {max} are allowed"))
    }

    /// The namespace of the document.
    pub(crate) fn namespace(&self) -> Text {
        self.key.as_ref().map_or_else(|| self.defaults.namespace.clone(), |key| key.namespace.clone())
    }

    /// Reads `spec` as a type; a document without it lacks it.
    pub(crate) fn spec<T: serde::de::DeserializeOwned>(&mut self) -> Option<T> {
        let Some(node) = self.root.field("spec") else {
            self.fault(&code::MISSING_FIELD, "", "the field \"spec\" is missing");
            return None;
        };
        de::read(node, "spec", self.root.locate("spec"), &mut self.faults)
    }

    /// A name that must be a DNS label.
    pub(crate) fn label(&mut self, name: &str, path: &str) -> Text {
        if !names::is_label(name) {
            let message =
                format!("\"{name}\" is not a DNS label: 1 to 63 of a-z, 0-9 and '-', with no '-' at either end");
            self.fault(&code::BAD_NAME, path, message);
        }
        name.into()
    }

    /// A port number.
    pub(crate) fn port(&mut self, number: i64, path: &str) -> u16 {
        match u16::try_from(number) {
            Ok(port) if port > 0 => port,
            _ => {
                self.fault(&code::BAD_VALUE, path, format!("{number} is not a port; ports go from 1 to 65535"));
                1
            }
        }
    }

    /// A span of time by GEP-2257.
    pub(crate) fn duration(&mut self, text: &str, path: &str) -> Duration {
        names::duration(text).unwrap_or_else(|| {
            let message = format!("\"{text}\" is not a duration such as 1h, 30s or 250ms (digits and h, m, s or ms)");
            self.fault(&code::BAD_VALUE, path, message);
            Duration::ZERO
        })
    }

    /// A span of time by GEP-2257, longer than nothing.
    pub(crate) fn some_time(&mut self, text: &str, path: &str) -> Duration {
        let before = self.faults.len();
        let span = self.duration(text, path);
        if self.faults.len() == before {
            self.require(!span.is_zero(), path, "must be longer than 0s");
        }
        span
    }

    /// A share such as `70%`.
    pub(crate) fn percent(&mut self, text: &str, path: &str) -> u8 {
        names::percent(text).unwrap_or_else(|| {
            self.fault(&code::BAD_VALUE, path, format!("\"{text}\" is not a share from 0% to 100%"));
            0
        })
    }

    /// What a program is asked, whose path or name stands at `path`.
    pub(crate) fn check(&mut self, check: Check, path: &str) -> Check {
        if let Err(message) = check.judge() {
            self.fault(&code::BAD_VALUE, path, message);
        }
        check
    }

    /// A service that a policy targets.
    pub(crate) fn target(&mut self, target: &TargetRef, at: &str) -> ServiceRef {
        if !target.group.is_empty() || target.kind != "Service" {
            let what = format!("policies on {} (group \"{}\"); only core Service", target.kind, target.group);
            self.unenforced(format!("{at}.kind"), &what);
        }
        ServiceRef::new(self.namespace(), self.label(&target.name, &format!("{at}.name")))
    }

    /// The services that a policy targets.
    pub(crate) fn targets(&mut self, refs: &[TargetRef], path: &str) -> Vec<ServiceRef> {
        self.at_most(refs.len(), TARGETS_MAX, path);
        let mut targets = Vec::new();
        for (i, target) in refs.iter().enumerate() {
            let at = format!("{path}[{i}]");
            let service = self.target(target, &at);
            if targets.contains(&service) {
                self.fault(
                    &code::CONTRADICTION,
                    format!("{at}.name"),
                    format!("\"{}\" is targeted twice", target.name),
                );
            }
            targets.push(service);
        }
        targets
    }
}

/// Most targets of one policy, as in Gateway API's policies.
pub(crate) const TARGETS_MAX: usize = 16;

/// A reference of a policy to what it's for, always in the policy's own namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TargetRef {
    /// The API group; empty for core.
    #[serde(default)]
    pub(crate) group: String,
    /// `Service`.
    #[serde(default = "service_kind")]
    pub(crate) kind: String,
    /// The name of the service.
    pub(crate) name: String,
}

fn service_kind() -> String {
    "Service".to_owned()
}

impl From<&ServiceRef> for TargetRef {
    fn from(service: &ServiceRef) -> Self {
        Self { group: String::new(), kind: service_kind(), name: service.name.to_string() }
    }
}
