// SPDX-License-Identifier: Apache-2.0
//! AccessPolicy.targets (or its namespace)  =>  access(Service);  enforced ALLOW x sources  =>  grants(caller);
//! TrafficPolicy.targets  =>  traffic(Service).

use super::Multi;
use byrnie_base::Text;
use byrnie_model::policy::access::{Action, Mode, Source};
use byrnie_model::policy::{AccessPolicy, TrafficPolicy};
use byrnie_model::{Identity, Key, ServiceRef};
use std::collections::BTreeSet;

/// A set of callers that a policy lets see its targets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Caller {
    Anyone,
    Namespace(Text),
    Account(Text, Text),
}

/// Which policies concern which services, and whom they let in.
#[derive(Debug, Default)]
pub(crate) struct PolicyIndex {
    by_target: Multi<ServiceRef, Key>,
    /// Policies without targets, which are for every service of their namespace.
    by_namespace: Multi<Text, Key>,
    by_caller: Multi<Caller, Key>,
    traffic: Multi<ServiceRef, Key>,
}

impl PolicyIndex {
    pub(crate) fn replace_access(&mut self, key: &Key, old: Option<&AccessPolicy>, new: Option<&AccessPolicy>) {
        if let Some(policy) = old {
            for target in &policy.targets {
                self.by_target.remove(target, key);
            }
            self.by_namespace.remove(&key.namespace, key);
            for caller in callers(policy) {
                self.by_caller.remove(&caller, key);
            }
        }
        if let Some(policy) = new {
            for target in &policy.targets {
                self.by_target.insert(target.clone(), key.clone());
            }
            if policy.targets.is_empty() {
                self.by_namespace.insert(key.namespace.clone(), key.clone());
            }
            for caller in callers(policy) {
                self.by_caller.insert(caller, key.clone());
            }
        }
    }

    pub(crate) fn replace_traffic(&mut self, key: &Key, old: Option<&TrafficPolicy>, new: Option<&TrafficPolicy>) {
        for target in old.into_iter().flat_map(|policy| &policy.targets) {
            self.traffic.remove(target, key);
        }
        for target in new.into_iter().flat_map(|policy| &policy.targets) {
            self.traffic.insert(target.clone(), key.clone());
        }
    }

    /// Access policies that protect this service.
    pub(crate) fn access(&self, service: &ServiceRef) -> impl Iterator<Item = &Key> {
        let system = Text::from(Identity::SYSTEM_NAMESPACE);
        let elsewhere = (service.namespace != system).then(|| self.by_namespace.of(&system));
        self.by_target
            .of(service)
            .chain(self.by_namespace.of(&service.namespace))
            .chain(elsewhere.into_iter().flatten())
    }

    /// Enforced ALLOW policies that name this caller.
    pub(crate) fn grants(&self, identity: &Identity) -> Vec<&Key> {
        let mut keys = Vec::new();
        for caller in sets_of(identity) {
            keys.extend(self.by_caller.of(&caller));
        }
        keys
    }

    pub(crate) fn traffic(&self, service: &ServiceRef) -> impl Iterator<Item = &Key> {
        self.traffic.of(service)
    }
}

/// The sets that hold this identity.
pub(crate) fn sets_of(identity: &Identity) -> [Caller; 3] {
    [
        Caller::Anyone,
        Caller::Namespace(identity.namespace().clone()),
        Caller::Account(identity.namespace().clone(), identity.service_account().clone()),
    ]
}

/// Whom a policy lets see its targets: nobody unless it allows and is enforced. The trust domain of a
/// source isn't compared here: to see a service grants nothing, and the callee compares it.
pub(crate) fn callers(policy: &AccessPolicy) -> BTreeSet<Caller> {
    if policy.action != Action::Allow || policy.mode != Mode::Enforce {
        return BTreeSet::new();
    }
    let mut callers = BTreeSet::new();
    for rule in &policy.rules {
        if rule.sources.is_empty() {
            callers.insert(Caller::Anyone);
        }
        callers.extend(rule.sources.iter().map(|source| match source {
            Source::ServiceAccount { namespace, name } => Caller::Account(namespace.clone(), name.clone()),
            Source::Namespace(namespace) => Caller::Namespace(namespace.clone()),
            Source::Identity(id) => Caller::Account(id.namespace().clone(), id.service_account().clone()),
        }));
    }
    callers
}
