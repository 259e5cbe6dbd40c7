// SPDX-License-Identifier: Apache-2.0
//! The documents of routes, read with Gateway API's own types; here are the API server's defaults and the
//! rules of the CRD (<https://gateway-api.sigs.k8s.io/reference/spec/#httproute>), and the refusal of what
//! byrnie doesn't enforce.

mod backend;
pub(crate) mod direct;
mod filter;
pub(crate) mod grpc;
mod matching;
pub(crate) mod opaque;
mod timing;

pub(crate) use matching::check_path_bytes;

use super::names;
use super::reader::Reader;
use crate::route::{Match, ParentKind, PathMatch, Rule};
use crate::{Kind, Route, code};
use byrnie_base::Text;
use gateway_api::experimental::httproutes as gw;
use serde_json::{Value, json};

/// Limits of the CRD.
const RULES_MAX: usize = 16;
const MATCHES_TOTAL_MAX: usize = 128;
const HOSTNAMES_MAX: usize = 16;

pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Route> {
    let spec: gw::HttpRouteSpec = reader.spec()?;
    // The API server's default: one rule that matches every path.
    let said = spec.rules.unwrap_or_else(|| vec![gw::HttpRouteRules::default()]);
    let mut rules = Rules::new(said.len());
    for (i, said) in said.iter().enumerate() {
        let rule = rule(reader, said, &format!("spec.rules[{i}]"));
        rules.push(rule);
    }
    let parents = spec.parent_refs.unwrap_or_default();
    whole(reader, &parents, spec.hostnames.as_deref(), spec.use_default_gateways.is_some(), rules)
}

/// The rules read so far, and how many were said.
struct Rules {
    said: usize,
    read: Vec<Rule>,
}

impl Rules {
    fn new(said: usize) -> Self {
        Self { said, read: Vec::with_capacity(said.min(RULES_MAX)) }
    }

    fn push(&mut self, rule: Rule) {
        self.read.push(rule);
    }
}

/// What all routes have beside their rules, and the checks across rules.
fn whole(
    reader: &mut Reader<'_>,
    parents: &[gw::HttpRouteParentRefs],
    said: Option<&[String]>,
    default_gateways: bool,
    rules: Rules,
) -> Option<Route> {
    if default_gateways {
        reader.unenforced("spec.useDefaultGateways", "default gateways");
    }
    let parents = backend::parents(reader, parents);
    let hostnames = hostnames(reader, said.unwrap_or_default());
    let requests = !reader.key.as_ref().is_some_and(|key| key.kind.is_opaque());
    if requests && !hostnames.is_empty() && parents.iter().all(|parent| parent.kind == ParentKind::Service) {
        let message = "hostnames have no meaning for a route on a Service: they are ignored, as upstream says";
        reader.warnings.push(super::Fault::new(&code::NOT_ENFORCED, "spec.hostnames", message));
    }
    let Rules { said, read: rules } = rules;
    reader.require(said > 0, "spec.rules", "at least one rule");
    reader.at_most(said, RULES_MAX, "spec.rules");
    let matches: usize = rules.iter().map(|rule| rule.matches.len()).sum();
    reader.at_most(matches, MATCHES_TOTAL_MAX, "spec.rules");
    for (i, rule) in rules.iter().enumerate() {
        if !rule.name.is_empty() && rules[..i].iter().any(|other| other.name == rule.name) {
            let message = format!("the rule name \"{}\" stands twice", rule.name);
            reader.fault(&code::CONTRADICTION, format!("spec.rules[{i}].name"), message);
        }
    }
    Some(Route { parents, hostnames, rules })
}

fn hostnames(reader: &mut Reader<'_>, said: &[String]) -> Vec<Text> {
    reader.at_most(said.len(), HOSTNAMES_MAX, "spec.hostnames");
    for (i, name) in said.iter().enumerate() {
        let at = format!("spec.hostnames[{i}]");
        reader.require(
            names::is_hostname(name),
            &at,
            format!("\"{name}\" is not a host name in lower case, perhaps with a leading \"*.\""),
        );
    }
    said.iter().map(|name| name.as_str().into()).collect()
}

/// What the rules of HTTPRoute and GRPCRoute have in common.
struct Parts<'a> {
    name: Option<&'a str>,
    filters: &'a [gw::HttpRouteRulesFilters],
    backends: &'a [gw::HttpRouteRulesBackendRefs],
    session: Option<&'a gw::HttpRouteRulesSessionPersistence>,
}

fn rule(reader: &mut Reader<'_>, said: &gw::HttpRouteRules, at: &str) -> Rule {
    let matches = matching::read(reader, said.matches.as_deref().unwrap_or_default(), at);
    let parts = Parts {
        name: said.name.as_deref(),
        filters: said.filters.as_deref().unwrap_or_default(),
        backends: said.backend_refs.as_deref().unwrap_or_default(),
        session: said.session_persistence.as_ref(),
    };
    let rule = assemble(reader, matches, &parts, at);
    let (timeout, backend_timeout) = timing::timeouts(reader, said.timeouts.as_ref(), at);
    let retry = said.retry.as_ref().map(|retry| timing::retry(reader, retry, &format!("{at}.retry")));
    Rule { timeout, backend_timeout, retry, ..rule }
}

fn assemble(reader: &mut Reader<'_>, matches: Vec<Match>, parts: &Parts<'_>, at: &str) -> Rule {
    let name = parts.name.unwrap_or_default();
    reader.require(
        name.is_empty() || names::is_subdomain(name),
        &format!("{at}.name"),
        format!("\"{name}\" is not a DNS name"),
    );
    let prefixes = matches.len() == 1 && matches!(matches[0].path, PathMatch::Prefix(_));
    let filters = filter::read(reader, parts.filters, at, prefixes);
    let backends = backend::backends(reader, parts.backends, at, prefixes);
    let session = parts.session.map(|session| {
        let fallback = session_name(reader, at);
        timing::session(reader, session, &format!("{at}.sessionPersistence"), &fallback)
    });
    let rule = Rule {
        name: name.into(),
        matches,
        filters,
        backends,
        timeout: None,
        backend_timeout: None,
        retry: None,
        session,
    };
    if rule.needs_no_backend() && !rule.backends.is_empty() {
        let does = if rule.answer().is_some() { "answers by itself" } else { "redirects" };
        let message = format!("a rule that {does} sends nothing to backends: remove either");
        reader.fault(&code::CONTRADICTION, format!("{at}.backendRefs"), message);
    }
    rule
}

/// The name of a session that has none of its own: the same for the same rule.
fn session_name(reader: &Reader<'_>, at: &str) -> String {
    let key = reader.key.as_ref();
    let (namespace, name) = key.map_or(("", ""), |key| (&*key.namespace, &*key.name));
    let index: String = at.chars().filter(char::is_ascii_digit).collect();
    format!("byrnie-{namespace}-{name}-{index}")
}

/// A list of one of the CRD's types as the same list of another that differs by name only.
fn same<T: serde::Serialize, U: serde::de::DeserializeOwned>(said: &[T]) -> Vec<U> {
    // Each generated type writes what its twin reads.
    said.iter().filter_map(|item| serde_json::from_value(serde_json::to_value(item).ok()?).ok()).collect()
}

/// The spec as a document says it.
pub(crate) fn to_value(route: &Route, kind: Kind, own: &str) -> Value {
    let parents: Vec<Value> = route.parents.iter().map(|parent| backend::parent_value(parent, own)).collect();
    let rules: Vec<Value> = route.rules.iter().map(|rule| rule_value(rule, kind, own)).collect();
    let mut value = json!({"parentRefs": parents});
    if !route.hostnames.is_empty() {
        value["hostnames"] = json!(route.hostnames);
    }
    value["rules"] = json!(rules);
    value
}

fn rule_value(rule: &Rule, kind: Kind, own: &str) -> Value {
    let mut value = json!({});
    if !rule.name.is_empty() {
        value["name"] = json!(rule.name);
    }
    let any = rule.matches == [Match::default()];
    if kind == Kind::HttpRoute || (kind == Kind::GrpcRoute && !any) {
        value["matches"] = rule.matches.iter().map(|m| matching::match_value(m, kind)).collect();
    }
    if !rule.filters.is_empty() {
        value["filters"] = rule.filters.iter().map(|filter| filter::to_value(filter, own)).collect();
    }
    if !rule.backends.is_empty() {
        value["backendRefs"] = rule.backends.iter().map(|b| backend::backend_value(b, own)).collect();
    }
    timing::timeouts_value(rule.timeout, rule.backend_timeout, &mut value);
    if let Some(retry) = &rule.retry {
        value["retry"] = timing::retry_value(retry);
    }
    if let Some(session) = &rule.session {
        value["sessionPersistence"] = timing::session_value(session);
    }
    value
}
