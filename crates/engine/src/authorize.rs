// SPDX-License-Identifier: Apache-2.0
//! Who may call what, decided by the called workload's own proxy. A DENY that fits beats every ALLOW;
//! without either, the mesh's default counts. Shadow policies are evaluated and recorded, never
//! enforced. No regular expression ever looks at an identity; whatever can't be read doesn't fit.

use byrnie_base::Text;
use byrnie_base::hash::BuildQuick;
use byrnie_model::policy::access::{AccessPolicy, Action, HttpMatch, Mode, PathPattern, Rule, Source};
use byrnie_model::{Identity, Key};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// A call, as a policy sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) source: Option<&'a Identity>,
    /// The workload's own port.
    pub(crate) port: u16,
    /// Method and canonical path; `None` for opaque TCP: a rule that looks at requests allows none of it, and denies all, as
    /// nobody can tell what passes (Istio's policies do the same).
    pub(crate) http: Option<(&'a str, &'a str)>,
}

/// One policy, compiled once when it changes.
#[derive(Debug)]
pub(crate) struct CompiledPolicy {
    pub(crate) spec: Arc<AccessPolicy>,
    key: Key,
}

impl CompiledPolicy {
    pub(crate) fn new(key: &Key, spec: &Arc<AccessPolicy>) -> Self {
        Self { spec: Arc::clone(spec), key: key.clone() }
    }

    pub(crate) fn key(&self) -> &Key {
        &self.key
    }
}

/// The policies of one service, joined.
#[derive(Debug, Default)]
pub(crate) struct Access {
    /// DENY before ALLOW before Shadow; within these by policy name and index.
    rules: Box<[Item]>,
    /// Rules for any source.
    anyone: Bits,
    namespaces: HashMap<Text, OfNamespace, BuildQuick>,
    identities: HashMap<Identity, Bits, BuildQuick>,
    trust_domain: Text,
    /// Trust domains of the other sites that may call at all, where that is to count.
    sites: Option<BTreeSet<Text>>,
}

#[derive(Debug)]
struct Item {
    /// `NAMESPACE/NAME[INDEX]`.
    label: Text,
    policy: Arc<CompiledPolicy>,
    index: usize,
    class: Class,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Deny,
    Allow,
    ShadowDeny,
    ShadowAllow,
}

#[derive(Debug, Default)]
struct OfNamespace {
    every: Bits,
    accounts: HashMap<Text, Bits, BuildQuick>,
}

/// Which rules: one bit each.
#[derive(Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn set(&mut self, index: usize) {
        if self.0.len() <= index / 64 {
            self.0.resize(index / 64 + 1, 0);
        }
        self.0[index / 64] |= 1 << (index % 64);
    }

    fn word(&self, at: usize) -> u64 {
        self.0.get(at).copied().unwrap_or(0)
    }
}

/// What the policies say of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ruling {
    pub(crate) allowed: bool,
    /// The rule that decided; `None`: the mesh's default.
    pub(crate) rule: Option<Text>,
    /// What a Shadow policy would have changed: its rule.
    pub(crate) shadow: Option<Text>,
}

impl Access {
    /// The join of `policies`, which all target one service.
    pub(crate) fn new(policies: &[Arc<CompiledPolicy>], trust_domain: &Text) -> Self {
        let mut rules = Vec::new();
        for policy in policies {
            let class = match (policy.spec.mode, policy.spec.action) {
                (Mode::Enforce, Action::Deny) => Class::Deny,
                (Mode::Enforce, Action::Allow) => Class::Allow,
                (Mode::Shadow, Action::Deny) => Class::ShadowDeny,
                (Mode::Shadow, Action::Allow) => Class::ShadowAllow,
            };
            for index in 0..policy.spec.rules.len() {
                let label = format!("{}/{}[{index}]", policy.key.namespace, policy.key.name).into();
                rules.push(Item { label, policy: Arc::clone(policy), index, class });
            }
        }
        rules.sort_by(|a, b| (a.class, &a.policy.key, a.index).cmp(&(b.class, &b.policy.key, b.index)));
        let mut access = Self { trust_domain: trust_domain.clone(), ..Self::default() };
        for (at, item) in rules.iter().enumerate() {
            access.index(at, item.rule());
        }
        access.rules = rules.into();
        access
    }

    /// The same, where nobody is of another trust domain than these and the mesh's own.
    pub(crate) fn among(self, sites: BTreeSet<Text>) -> Self {
        Self { sites: Some(sites), ..self }
    }

    fn index(&mut self, at: usize, rule: &Rule) {
        if rule.sources.is_empty() {
            self.anyone.set(at);
        }
        for source in &rule.sources {
            match source {
                Source::ServiceAccount { namespace, name } => {
                    let entry = self.namespaces.entry(namespace.clone()).or_default();
                    entry.accounts.entry(name.clone()).or_default().set(at);
                }
                Source::Namespace(namespace) => self.namespaces.entry(namespace.clone()).or_default().every.set(at),
                Source::Identity(identity) => self.identities.entry(identity.clone()).or_default().set(at),
            }
        }
    }

    /// Decides on a call. Whoever is of another site has only what names it: what is for any source is for any of this mesh, and
    /// so is what the mesh allows by default. Only denials are for everybody. One whose site is no more has nothing.
    pub(crate) fn rule_on(&self, call: &Call<'_>, default_allows: bool) -> Ruling {
        let foreign = call.source.filter(|identity| *identity.trust_domain() != self.trust_domain);
        let mut ruling = Ruling { allowed: default_allows && foreign.is_none(), rule: None, shadow: None };
        let gone = |identity: &Identity| self.sites.as_ref().is_some_and(|s| !s.contains(identity.trust_domain()));
        if foreign.is_some_and(gone) {
            return ruling;
        }
        let mut shadow = None;
        // Ascending order is the order of classes: the first enforced rule that fits decides.
        self.each_of_source(call.source, |item| {
            let enforced = matches!(item.class, Class::Deny | Class::Allow);
            if (enforced && ruling.rule.is_some()) || shadow.is_some() {
                return;
            }
            let allows = matches!(item.class, Class::Allow | Class::ShadowAllow);
            if !fits(item.rule(), call, !allows) {
                return;
            }
            if allows && foreign.is_some() && item.rule().sources.is_empty() {
                return;
            }
            match item.class {
                Class::Deny | Class::Allow => {
                    ruling.allowed = item.class == Class::Allow;
                    ruling.rule = Some(item.label.clone());
                }
                Class::ShadowDeny | Class::ShadowAllow => shadow = Some(item),
            }
        });
        // A shadow DENY would refuse what passes; a shadow ALLOW would admit only what no DENY refuses.
        let denied = !ruling.allowed && ruling.rule.is_some();
        ruling.shadow = shadow
            .filter(|item| match item.class {
                Class::ShadowDeny => ruling.allowed,
                _ => !ruling.allowed && !denied,
            })
            .map(|item| item.label.clone());
        ruling
    }

    fn each_of_source<'a>(&'a self, source: Option<&Identity>, mut visit: impl FnMut(&'a Item)) {
        // Accounts and namespaces are those of the mesh's own domain.
        let own = source.filter(|identity| *identity.trust_domain() == self.trust_domain);
        let namespace = own.and_then(|identity| self.namespaces.get(identity.namespace().as_str()));
        let account =
            own.zip(namespace).and_then(|(identity, of)| of.accounts.get(identity.service_account().as_str()));
        let exact = source.and_then(|identity| self.identities.get(identity));
        for at in 0..self.rules.len().div_ceil(64) {
            let mut word = self.anyone.word(at);
            word |= namespace.map_or(0, |of| of.every.word(at));
            word |= account.map_or(0, |bits| bits.word(at)) | exact.map_or(0, |bits| bits.word(at));
            while word != 0 {
                let bit = word.trailing_zeros() as usize;
                word &= word - 1;
                visit(&self.rules[at * 64 + bit]);
            }
        }
    }

    /// The ALLOW rule that comes nearest to a refused call, and what it lacks. For messages: it may take
    /// its time.
    pub(crate) fn nearest(&self, call: &Call<'_>) -> Option<String> {
        let allow = self.rules.iter().filter(|item| item.class == Class::Allow);
        // The mesh's own rules come last: what lets byrnie's edge in helps nobody else.
        let rank = |item: &Item, conditions: &Conditions| {
            (*item.policy.key.namespace != *Identity::SYSTEM_NAMESPACE, conditions.fitting())
        };
        let scored = allow.map(|item| (item, self.conditions(item.rule(), call)));
        let (item, conditions) =
            scored.reduce(|best, next| if rank(next.0, &next.1) > rank(best.0, &best.1) { next } else { best })?;
        Some(conditions.describe(item, call, &self.trust_domain))
    }

    fn conditions(&self, rule: &Rule, call: &Call<'_>) -> Conditions {
        let own = call.source.is_none_or(|identity| *identity.trust_domain() == self.trust_domain);
        let source = rule.sources.is_empty() && own
            || call
                .source
                .is_some_and(|identity| rule.sources.iter().any(|s| is_source(s, identity, &self.trust_domain)));
        let port = rule.ports.is_empty() || rule.ports.contains(&call.port);
        let Some((method, path)) = call.http else {
            let http = rule.http.is_empty();
            return Conditions { source, port, method: http, path: http };
        };
        // The alternative with more fitting conditions speaks for the rule.
        let sides = rule.http.iter().map(|http| (method_fits(http, method), path_fits(http, path)));
        let best = sides.max_by_key(|(m, p)| u8::from(*m) + u8::from(*p)).unwrap_or((true, true));
        Conditions { source, port, method: best.0, path: best.1 }
    }
}

impl Item {
    fn rule(&self) -> &Rule {
        &self.policy.spec.rules[self.index]
    }
}

/// Which parts of a rule fit a call.
struct Conditions {
    source: bool,
    port: bool,
    method: bool,
    path: bool,
}

impl Conditions {
    fn fitting(&self) -> u32 {
        // Rules for the caller itself come first, as it knows those.
        3 * u32::from(self.source) + u32::from(self.port) + u32::from(self.method) + u32::from(self.path)
    }

    fn describe(&self, item: &Item, call: &Call<'_>, domain: &Text) -> String {
        let rule = item.rule();
        let mut lacks = Vec::new();
        if !self.source {
            let foreign = call.source.filter(|identity| *identity.trust_domain() != *domain);
            let you = match (call.source, foreign) {
                (_, Some(identity)) => identity.to_string(),
                (source, None) => source.map_or("unknown", |identity| identity.service_account()).to_string(),
            };
            let whom = if rule.sources.is_empty() { "callers of this mesh".to_string() } else { names(rule) };
            lacks.push(format!("allows {whom}; you are {you}"));
        }
        if !self.port {
            lacks.push(format!("is for port {}; this is port {}", list(&rule.ports), call.port));
        }
        match call.http {
            None if !self.method => lacks.push("looks at HTTP requests; this is opaque TCP".into()),
            Some((method, _)) if !self.method => {
                let methods: Vec<&str> = rule.http.iter().flat_map(|h| h.methods.iter().map(Text::as_str)).collect();
                lacks.push(format!("allows {}; this is {method}", list(&methods)));
            }
            _ => {}
        }
        if !self.path && call.http.is_some() {
            let paths: Vec<String> = rule.http.iter().flat_map(|h| h.paths.iter().map(pattern)).collect();
            lacks.push(format!("allows {}; this is another path", list(&paths)));
        }
        // Only what the rule asks for can fit.
        let asks = |of: fn(&HttpMatch) -> bool| rule.http.iter().any(of);
        let parts = [
            (self.source && !rule.sources.is_empty(), "caller"),
            (self.port && !rule.ports.is_empty(), "port"),
            (self.method && asks(|http| !http.methods.is_empty()), "method"),
            (self.path && asks(|http| !http.paths.is_empty()), "path"),
        ];
        let fit: Vec<&str> = parts.iter().filter(|(fits, _)| *fits).map(|(_, name)| *name).collect();
        let policy = &item.policy.key.name;
        let fits = if fit.is_empty() { String::new() } else { format!("; {} fit", list(&fit)) };
        format!("closest rule {policy}[{}] {}{fits}", item.index, lacks.join(", and "))
    }
}

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn names(rule: &Rule) -> String {
    let names = rule.sources.iter().map(|source| match source {
        Source::ServiceAccount { name, .. } => name.to_string(),
        Source::Namespace(namespace) => format!("namespace {namespace}"),
        Source::Identity(identity) => identity.to_string(),
    });
    names.collect::<Vec<_>>().join(", ")
}

fn pattern(pattern: &PathPattern) -> String {
    match pattern {
        PathPattern::Exact(path) => path.to_string(),
        PathPattern::Below(path) => format!("{path}*"),
        PathPattern::Template(segments) => {
            segments.iter().map(|s| format!("/{}", s.as_deref().unwrap_or("{}"))).collect()
        }
    }
}

fn is_source(source: &Source, identity: &Identity, trust_domain: &Text) -> bool {
    let own = identity.trust_domain() == trust_domain;
    match source {
        Source::ServiceAccount { namespace, name } => {
            own && identity.namespace() == namespace && identity.service_account() == name
        }
        Source::Namespace(namespace) => own && identity.namespace() == namespace,
        Source::Identity(exact) => identity == exact,
    }
}

/// Whether a rule whose sources fit also fits otherwise; `unseen` is what to say if it looks at requests and there are none.
fn fits(rule: &Rule, call: &Call<'_>, unseen: bool) -> bool {
    if !rule.ports.is_empty() && !rule.ports.contains(&call.port) {
        return false;
    }
    match call.http {
        _ if rule.http.is_empty() => true,
        None => unseen,
        Some((method, path)) => rule.http.iter().any(|http| method_fits(http, method) && path_fits(http, path)),
    }
}

fn method_fits(http: &HttpMatch, method: &str) -> bool {
    http.methods.is_empty() || http.methods.iter().any(|m| m.as_str() == method)
}

fn path_fits(http: &HttpMatch, path: &str) -> bool {
    http.paths.is_empty() || http.paths.iter().any(|pattern| pattern_fits(pattern, path))
}

fn pattern_fits(pattern: &PathPattern, path: &str) -> bool {
    match pattern {
        PathPattern::Exact(exact) => exact.as_str() == path,
        PathPattern::Below(below) => path.starts_with(below.as_str()),
        PathPattern::Template(segments) => {
            let Some(rest) = path.strip_prefix('/') else { return false };
            let mut parts = rest.split('/');
            let each = segments.iter().all(|segment| match (segment, parts.next()) {
                (Some(exact), Some(part)) => exact.as_str() == part,
                (None, Some(part)) => !part.is_empty(),
                (_, None) => false,
            });
            each && parts.next().is_none()
        }
    }
}

#[cfg(test)]
mod tests;
