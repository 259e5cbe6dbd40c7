// SPDX-License-Identifier: Apache-2.0
//! Access policies: rules that fit nobody, everybody, or that nothing enforces.

use crate::catalog::Catalog;
use crate::index::workload::target;
use byrnie_model::diagnostic::nearest;
use byrnie_model::policy::AccessPolicy;
use byrnie_model::policy::access::{Action, Mode, Rule, Source};
use byrnie_model::{Diagnostic, Identity, Key, Kind, ServiceRef, Spec, Workload, code};

pub(crate) fn check(catalog: &Catalog, key: &Key, policy: &AccessPolicy) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (i, at) in policy.targets.iter().enumerate().filter(|(_, at)| catalog.service(at).is_none()) {
        // byrnie's own services are known without a resource.
        if *at.namespace != *Identity::SYSTEM_NAMESPACE {
            found.push(catalog.absent_service(&code::TARGET_ABSENT, format!("spec.targetRefs[{i}].name"), at));
        }
    }
    if policy.rules.is_empty() {
        let (verb, then) = match policy.action {
            Action::Allow => ("allows", "What no other policy allows gets the mesh's default, which is to refuse."),
            Action::Deny => ("denies", "Calls pass as if this policy were not there."),
        };
        let message = format!("this policy has no rules, so that it {verb} nobody");
        found.push(Diagnostic::warning(&code::NO_RULES, "spec.rules", message).so_that(then));
    }
    let targets = catalog.named(key, &policy.targets);
    for (i, rule) in policy.rules.iter().enumerate() {
        let at = format!("spec.rules[{i}]");
        if policy.action == Action::Allow && rule.sources.is_empty() {
            let message = "this rule names no sources: every workload of the mesh may make this call";
            found.push(Diagnostic::warning(&code::EVERYONE, &at, message));
        }
        sources_exist(catalog, rule, &at, &mut found);
        found.extend(enforced(catalog, &targets, rule, &at));
        ports_exist(catalog, &targets, rule, &at, &mut found);
        if policy.action == Action::Allow
            && let Some(deny) = hidden_by(catalog, &targets, rule)
        {
            let message = format!("{deny} denies all that this rule allows");
            found.push(Diagnostic::warning(&code::DENY_HIDES_ALLOW, &at, message));
        }
    }
    found
}

fn sources_exist(catalog: &Catalog, rule: &Rule, at: &str, found: &mut Vec<Diagnostic>) {
    for (i, source) in rule.sources.iter().enumerate() {
        let at = format!("{at}.sources[{i}]");
        match source {
            Source::ServiceAccount { namespace, name } => {
                let known = catalog.workloads.of_account(namespace, name).next().is_some();
                if known || **namespace == *Identity::SYSTEM_NAMESPACE {
                    continue;
                }
                let others = catalog.workloads.of_namespace(namespace).filter_map(|place| catalog.workload(place));
                let meant = nearest(name, others.map(|w| w.identity.service_account().as_str()));
                let meant = meant.map(|meant| format!("; did you mean \"{meant}\"?")).unwrap_or_default();
                let message = format!("no workload in namespace \"{namespace}\" runs under \"{name}\"{meant}");
                let at = format!("{at}.serviceAccount.name");
                found.push(Diagnostic::warning(&code::SOURCE_ABSENT, at, message));
            }
            Source::Namespace(namespace) => {
                let known = catalog.workloads.of_namespace(namespace).next().is_some();
                if !known && **namespace != *Identity::SYSTEM_NAMESPACE {
                    let message = format!("no workload runs in namespace \"{namespace}\"");
                    found.push(Diagnostic::warning(&code::SOURCE_ABSENT, format!("{at}.namespace"), message));
                }
            }
            Source::Identity(identity) => {
                let foreign = |spec: &Spec| matches!(spec, Spec::Mesh(m) if m.trust_domain != *identity.trust_domain());
                let known = super::site::has_domain(catalog, identity.trust_domain());
                if !known && catalog.iter(Kind::Mesh).any(|resource| foreign(&resource.spec)) {
                    let message = format!(
                        "\"{}\" is neither the trust domain of this mesh nor that of a Site",
                        identity.trust_domain()
                    );
                    found.push(Diagnostic::error(&code::FOREIGN_DOMAIN, format!("{at}.spiffe"), message));
                }
            }
        }
    }
}

/// A rule that looks at requests needs a port where requests can be told apart.
fn enforced(catalog: &Catalog, targets: &[ServiceRef], rule: &Rule, at: &str) -> Option<Diagnostic> {
    if rule.http.is_empty() {
        return None;
    }
    let opaque = targets.iter().find_map(|at| {
        let service = catalog.service(at)?;
        let members: Vec<&Workload> = members(catalog, at);
        let meant = |port: &&byrnie_model::service::ServicePort| {
            rule.ports.is_empty()
                || members.iter().any(|w| target(&port.target, w).is_some_and(|n| rule.ports.contains(&n)))
        };
        let mut ports = service.ports.iter().filter(meant).peekable();
        let first = ports.peek()?.port;
        ports.all(|port| !port.protocol.is_http()).then_some((at, first))
    });
    let (service, port) = opaque?;
    let message = format!("this rule looks at requests, but port {port} of \"{}\" serves none", service.name);
    Some(Diagnostic::warning(&code::NOTHING_ENFORCES, format!("{at}.http"), message))
}

fn ports_exist(catalog: &Catalog, targets: &[ServiceRef], rule: &Rule, at: &str, found: &mut Vec<Diagnostic>) {
    let members: Vec<&Workload> = targets.iter().flat_map(|at| members(catalog, at)).collect();
    if members.is_empty() || members.iter().any(|workload| workload.ports.is_empty()) {
        return;
    }
    for (i, port) in rule.ports.iter().enumerate() {
        if members.iter().any(|workload| workload.ports.iter().any(|p| p.port == *port)) {
            continue;
        }
        let service = targets
            .iter()
            .find(|at| catalog.service(at).is_some_and(|service| service.ports.iter().any(|p| p.port == *port)));
        let hint = service.map(|_| "; it is the port of the service, not of the workload").unwrap_or_default();
        let message = format!("no workload behind the targets has the port {port}{hint}");
        found.push(Diagnostic::warning(
            &code::ACCESS_PORT_ABSENT,
            format!("{at}.networkAttributes.ports[{i}]"),
            message,
        ));
    }
}

/// An enforced DENY without conditions on ports or requests that, at every target, covers all sources of
/// the rule.
fn hidden_by<'a>(catalog: &'a Catalog, targets: &[ServiceRef], rule: &Rule) -> Option<&'a Key> {
    let mut deny = None;
    for target in targets {
        let hides = |key: &&Key| {
            let Some(Spec::Access(policy)) = catalog.spec(key) else { return false };
            policy.action == Action::Deny
                && policy.mode == Mode::Enforce
                && policy.rules.iter().any(|d| d.ports.is_empty() && d.http.is_empty() && covers(d, rule))
        };
        deny = Some(catalog.policies.access(target).find(hides)?);
    }
    deny
}

fn covers(deny: &Rule, allow: &Rule) -> bool {
    let within = |source: &Source| {
        let namespace = match source {
            Source::ServiceAccount { namespace, .. } | Source::Namespace(namespace) => namespace,
            Source::Identity(identity) => identity.namespace(),
        };
        deny.sources.contains(source) || deny.sources.contains(&Source::Namespace(namespace.clone()))
    };
    deny.sources.is_empty() || (!allow.sources.is_empty() && allow.sources.iter().all(within))
}

fn members<'a>(catalog: &'a Catalog, at: &ServiceRef) -> Vec<&'a Workload> {
    catalog.services.members(at).filter_map(|place| catalog.workload(place)).collect()
}
