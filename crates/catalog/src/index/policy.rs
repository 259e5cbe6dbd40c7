// SPDX-License-Identifier: Apache-2.0
//! AccessPolicy.targets (or its namespace)  =>  access(Service);  enforced ALLOW x sources  =>  grants(caller),
//! and of these the callers that listen  =>  listening(Service);  TrafficPolicy.targets  =>  traffic(Service).

use super::Multi;
use byrnie_base::Text;
use byrnie_model::policy::access::{Action, Mode, Source};
use byrnie_model::policy::{AccessPolicy, TrafficPolicy};
use byrnie_model::{Identity, Key, ServiceRef};
use std::collections::{BTreeMap, BTreeSet};

/// A set of callers that a policy lets see its targets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Caller {
    Anyone,
    Namespace(Text),
    Account(Text, Text),
}

/// What a policy is for. Namespaces come first in the order: [`PolicyIndex::listen`] counts on it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    /// Every service of a namespace; of the system's, every service there is.
    Namespace(Text),
    Service(ServiceRef),
}

/// Which policies concern which services, and whom they let in.
#[derive(Debug, Default)]
pub(crate) struct PolicyIndex {
    by_target: Multi<ServiceRef, Key>,
    /// Policies without targets, which are for every service of their namespace.
    by_namespace: Multi<Text, Key>,
    by_caller: Multi<Caller, Key>,
    grants: BTreeMap<(Caller, Scope), BTreeSet<Key>>,
    /// Callers that a listening node is one of.
    live: BTreeSet<Caller>,
    /// Those of `grants` that are live, so that a change never asks the many who may call and don't listen.
    listening: Multi<Scope, Caller>,
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
                for scope in scopes(key, policy) {
                    self.withdraw(caller.clone(), scope, key);
                }
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
                for scope in scopes(key, policy) {
                    if self.live.contains(&caller) {
                        self.listening.insert(scope.clone(), caller.clone());
                    }
                    self.grants.entry((caller.clone(), scope)).or_default().insert(key.clone());
                }
                self.by_caller.insert(caller, key.clone());
            }
        }
    }

    fn withdraw(&mut self, caller: Caller, scope: Scope, key: &Key) {
        let at = (caller, scope);
        let Some(keys) = self.grants.get_mut(&at) else { return };
        keys.remove(key);
        if keys.is_empty() {
            self.grants.remove(&at);
            self.listening.remove(&at.1, &at.0);
        }
    }

    /// Notes whether any node listens that is one of these callers.
    pub(crate) fn listen(&mut self, caller: &Caller, listens: bool) {
        let changed = if listens { self.live.insert(caller.clone()) } else { self.live.remove(caller) };
        if !changed {
            return;
        }
        let least = (caller.clone(), Scope::Namespace(Text::default()));
        for (_, scope) in self.grants.range(least..).map(|(at, _)| at).take_while(|at| at.0 == *caller) {
            if listens {
                self.listening.insert(scope.clone(), caller.clone());
            } else {
                self.listening.remove(scope, caller);
            }
        }
    }

    /// Whether a policy lets this identity see a service.
    pub(crate) fn granted(&self, service: &ServiceRef, identity: &Identity) -> bool {
        let scopes = scopes_of(service);
        let mut pairs = sets_of(identity).into_iter().flat_map(|set| scopes.iter().map(move |s| (set.clone(), s)));
        pairs.any(|(set, scope)| self.grants.contains_key(&(set, scope.clone())))
    }

    /// Of those whom a policy lets see a service, the callers that listen.
    pub(crate) fn listening(&self, service: &ServiceRef) -> BTreeSet<&Caller> {
        scopes_of(service).iter().flat_map(|scope| self.listening.of(scope)).collect()
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

/// What a policy is for.
fn scopes(key: &Key, policy: &AccessPolicy) -> Vec<Scope> {
    if policy.targets.is_empty() {
        return vec![Scope::Namespace(key.namespace.clone())];
    }
    policy.targets.iter().cloned().map(Scope::Service).collect()
}

/// What a policy may be for, to concern this service.
fn scopes_of(service: &ServiceRef) -> [Scope; 3] {
    [
        Scope::Service(service.clone()),
        Scope::Namespace(service.namespace.clone()),
        Scope::Namespace(Identity::SYSTEM_NAMESPACE.into()),
    ]
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
