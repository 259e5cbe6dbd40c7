// SPDX-License-Identifier: Apache-2.0
//! Who may call what, by the letter of the policies: no index, no compilation, every policy read for
//! every request. The judge of what proxies decide.

use crate::shop::{self, State};
use byrnie_model::policy::AccessPolicy;
use byrnie_model::policy::access::{Action, Mode, PathPattern, Rule, Source};
use byrnie_model::resource::DefaultAccess;
use byrnie_model::{Identity, Kind, ServiceRef, Spec};

/// A request as it comes to a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The service asked for.
    pub service: ServiceRef,
    /// Who the certificate proves.
    pub caller: Option<Identity>,
    /// The method.
    pub method: &'static str,
    /// The canonical path.
    pub path: &'static str,
}

impl std::fmt::Display for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let caller = self.caller.as_ref().map_or("nobody", |caller| caller.service_account().as_str());
        write!(f, "{caller} -> {} {} {}", self.service.name, self.method, self.path)
    }
}

/// Requests that tell policies apart, to one service.
pub fn requests(service: &ServiceRef) -> Vec<Request> {
    let callers = shop::SERVICES.iter().map(|app| Identity::new(shop::TRUST_DOMAIN, shop::NAMESPACE, app).ok());
    let stranger = Identity::new(shop::TRUST_DOMAIN, "elsewhere", "web").ok();
    let mut requests = Vec::new();
    for caller in callers.chain([stranger, None]) {
        for method in ["GET", "POST"] {
            for path in ["/a", "/b/c", "/b"] {
                requests.push(Request { service: service.clone(), caller: caller.clone(), method, path });
            }
        }
    }
    requests
}

/// Whether the request may pass in this state.
pub fn allows(state: &State, request: &Request) -> bool {
    let enforced = || {
        let of_kind = state.iter().filter(|(key, _)| key.kind == Kind::AccessPolicy);
        of_kind.filter_map(|(key, resource)| match &resource.spec {
            Spec::Access(policy)
                if policy.mode == Mode::Enforce && targets(key.namespace.as_str(), policy, request) =>
            {
                Some(policy)
            }
            _ => None,
        })
    };
    let fits =
        |action| enforced().any(|policy| policy.action == action && policy.rules.iter().any(|r| fits(r, request)));
    if fits(Action::Deny) {
        return false;
    }
    fits(Action::Allow) || default(state) == DefaultAccess::Allow
}

fn default(state: &State) -> DefaultAccess {
    let mesh =
        state.values().find_map(|resource| if let Spec::Mesh(mesh) = &resource.spec { Some(mesh) } else { None });
    mesh.map_or(DefaultAccess::Deny, |mesh| mesh.default_access)
}

fn targets(namespace: &str, policy: &AccessPolicy, request: &Request) -> bool {
    if policy.targets.is_empty() {
        *request.service.namespace == *namespace
    } else {
        policy.targets.contains(&request.service)
    }
}

fn fits(rule: &Rule, request: &Request) -> bool {
    let caller = rule.sources.is_empty() || rule.sources.iter().any(|source| is(source, request.caller.as_ref()));
    let port = rule.ports.is_empty() || rule.ports.contains(&shop::PROGRAM_PORT);
    let http = rule.http.is_empty()
        || rule.http.iter().any(|http| {
            let method = http.methods.is_empty() || http.methods.iter().any(|method| **method == *request.method);
            method && (http.paths.is_empty() || http.paths.iter().any(|path| covers(path, request.path)))
        });
    caller && port && http
}

fn is(source: &Source, caller: Option<&Identity>) -> bool {
    let Some(caller) = caller else { return false };
    match source {
        Source::ServiceAccount { namespace, name } => {
            caller.namespace() == namespace && caller.service_account() == name
        }
        Source::Namespace(namespace) => caller.namespace() == namespace,
        Source::Identity(identity) => caller == identity,
    }
}

fn covers(pattern: &PathPattern, path: &str) -> bool {
    match pattern {
        PathPattern::Exact(exact) => **exact == *path,
        PathPattern::Below(prefix) => path.len() > prefix.len() && path.starts_with(&**prefix),
        PathPattern::Template(segments) => {
            let parts: Vec<&str> = path.split('/').skip(1).collect();
            parts.len() == segments.len()
                && segments.iter().zip(parts).all(|(want, part)| match want {
                    Some(want) => **want == *part,
                    None => !part.is_empty(),
                })
        }
    }
}
