// SPDX-License-Identifier: Apache-2.0
//! The document of an HTTPRoute, read with Gateway API's own types; here are the API server's defaults
//! and the rules of the CRD (<https://gateway-api.sigs.k8s.io/reference/spec/#httproute>), and the refusal
//! of what byrnie doesn't enforce.

use super::filter;
use super::names;
use super::reader::Reader;
use crate::route::{Backend, Match, NamedMatch, Parent, PathMatch, Retry, Rule, ValueMatch};
use crate::{Route, ServiceRef, code};
use gateway_api::experimental::httproutes as gw;
use serde_json::{Value, json};

/// Limits of the CRD.
const PARENTS_MAX: usize = 32;
const RULES_MAX: usize = 16;
const MATCHES_MAX: usize = 64;
const MATCHES_TOTAL_MAX: usize = 128;
const BACKENDS_MAX: usize = 16;
const NAMED_MAX: usize = 16;
const PATH_BYTES_MAX: usize = 1024;
const VALUE_BYTES_MAX: usize = 4096;
const WEIGHT_MAX: i32 = 1_000_000;
/// Most retries of one request, far beyond what helps.
const ATTEMPTS_MAX: i64 = 10;
/// Largest compiled regular expression.
const REGEX_BYTES_MAX: usize = 256 << 10;

pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Route> {
    let spec: gw::HttpRouteSpec = reader.spec()?;
    if spec.hostnames.as_ref().is_some_and(|hostnames| !hostnames.is_empty()) {
        reader.unenforced("spec.hostnames", "hostnames: with a Service as parent they have no meaning");
    }
    if spec.use_default_gateways.is_some() {
        reader.unenforced("spec.useDefaultGateways", "default gateways");
    }
    let parents = parents(reader, spec.parent_refs.as_deref().unwrap_or_default());
    // The API server's default: one rule that matches every path.
    let said = spec.rules.unwrap_or_else(|| vec![gw::HttpRouteRules::default()]);
    reader.require(!said.is_empty(), "spec.rules", "at least one rule");
    reader.at_most(said.len(), RULES_MAX, "spec.rules");
    let rules: Vec<Rule> = said.iter().enumerate().map(|(i, r)| rule(reader, r, &format!("spec.rules[{i}]"))).collect();
    let matches: usize = rules.iter().map(|rule| rule.matches.len()).sum();
    reader.at_most(matches, MATCHES_TOTAL_MAX, "spec.rules");
    for (i, rule) in rules.iter().enumerate() {
        if !rule.name.is_empty() && rules[..i].iter().any(|other| other.name == rule.name) {
            let message = format!("the rule name \"{}\" stands twice", rule.name);
            reader.fault(&code::CONTRADICTION, format!("spec.rules[{i}].name"), message);
        }
    }
    Some(Route { parents, hostnames: Vec::new(), rules })
}

fn parents(reader: &mut Reader<'_>, said: &[gw::HttpRouteParentRefs]) -> Vec<Parent> {
    if said.is_empty() {
        let message = "a route needs at least one parent, such as {group: \"\", kind: Service, name: NAME}";
        reader.fault(&code::MISSING_FIELD, "spec.parentRefs", message);
    }
    reader.at_most(said.len(), PARENTS_MAX, "spec.parentRefs");
    let mut parents: Vec<Parent> = Vec::new();
    for (i, parent) in said.iter().enumerate() {
        let at = format!("spec.parentRefs[{i}]");
        let group = parent.group.as_deref().unwrap_or("gateway.networking.k8s.io");
        let kind = parent.kind.as_deref().unwrap_or("Gateway");
        if !group.is_empty() || kind != "Service" {
            let what = format!("routes on a {kind} (group \"{group}\"); only {{group: \"\", kind: Service}}");
            reader.unenforced(at, &what);
            continue;
        }
        if let Some(namespace) = parent.namespace.as_deref().filter(|ns| *ns != &*reader.namespace()) {
            reader.unenforced(
                format!("{at}.namespace"),
                &format!("routes on services of another namespace (\"{namespace}\")"),
            );
        }
        if parent.section_name.is_some() {
            reader.unenforced(format!("{at}.sectionName"), "sectionName of a Service; write port");
        }
        let name = reader.label(&parent.name, &format!("{at}.name"));
        let port = parent.port.map(|port| reader.port(port.into(), &format!("{at}.port")));
        let parent = Parent { service: ServiceRef::new(reader.namespace(), name), port };
        if parents.contains(&parent) {
            reader.fault(&code::CONTRADICTION, at, "the same parent stands twice");
        } else if parents.iter().any(|o| o.service == parent.service && (o.port.is_none() || parent.port.is_none())) {
            let message = "the service is a parent as a whole already: either give each a port, or only one without";
            reader.fault(&code::CONTRADICTION, at, message);
        }
        parents.push(parent);
    }
    parents
}

fn rule(reader: &mut Reader<'_>, said: &gw::HttpRouteRules, at: &str) -> Rule {
    if said.session_persistence.is_some() {
        reader.unenforced(format!("{at}.sessionPersistence"), "session persistence");
    }
    let name = said.name.as_deref().unwrap_or_default();
    reader.require(
        name.is_empty() || names::is_subdomain(name),
        &format!("{at}.name"),
        format!("\"{name}\" is not a DNS name"),
    );
    let matches = matches(reader, said.matches.as_deref().unwrap_or_default(), at);
    let prefixes = matches.len() == 1 && matches!(matches[0].path, PathMatch::Prefix(_));
    let filters = filter::read(reader, said.filters.as_deref().unwrap_or_default(), at, prefixes);
    let backends = backends(reader, said.backend_refs.as_deref().unwrap_or_default(), at, prefixes);
    let redirects = filters.iter().any(|filter| matches!(filter, crate::route::RouteFilter::Redirect(_)));
    if redirects && !backends.is_empty() {
        let message = "a rule that redirects sends nothing to backends: remove either";
        reader.fault(&code::CONTRADICTION, format!("{at}.backendRefs"), message);
    }
    let (timeout, backend_timeout) = timeouts(reader, said.timeouts.as_ref(), at);
    let retry = said.retry.as_ref().map(|retry| read_retry(reader, retry, &format!("{at}.retry")));
    Rule { name: name.into(), matches, filters, backends, timeout, backend_timeout, retry }
}

fn matches(reader: &mut Reader<'_>, said: &[gw::HttpRouteRulesMatches], at: &str) -> Vec<Match> {
    reader.at_most(said.len(), MATCHES_MAX, &format!("{at}.matches"));
    if said.is_empty() {
        return vec![Match::default()];
    }
    let each = said.iter().enumerate();
    each.map(|(i, said)| read_match(reader, said, &format!("{at}.matches[{i}]"))).collect()
}

fn read_match(reader: &mut Reader<'_>, said: &gw::HttpRouteRulesMatches, at: &str) -> Match {
    let path =
        said.path.as_ref().map_or_else(PathMatch::default, |path| read_path(reader, path, &format!("{at}.path")));
    let mut headers: Vec<NamedMatch> = Vec::new();
    let list = said.headers.as_deref().unwrap_or_default();
    reader.at_most(list.len(), NAMED_MAX, &format!("{at}.headers"));
    for (i, header) in list.iter().enumerate() {
        let at = format!("{at}.headers[{i}]");
        let name = header.name.to_ascii_lowercase();
        reader.require(
            names::is_header_name(&name),
            &format!("{at}.name"),
            format!("\"{}\" is not a header name", header.name),
        );
        let regex = header.r#type == Some(gw::HttpRouteRulesMatchesHeadersType::RegularExpression);
        let value = value(reader, &header.value, regex, &format!("{at}.value"));
        unique(reader, &headers, &name, &at);
        headers.push(NamedMatch { name: name.into(), value });
    }
    let mut query: Vec<NamedMatch> = Vec::new();
    let list = said.query_params.as_deref().unwrap_or_default();
    reader.at_most(list.len(), NAMED_MAX, &format!("{at}.queryParams"));
    for (i, param) in list.iter().enumerate() {
        let at = format!("{at}.queryParams[{i}]");
        reader.require(
            names::is_header_name(&param.name),
            &format!("{at}.name"),
            format!("\"{}\" is not a parameter name", param.name),
        );
        let regex = param.r#type == Some(gw::HttpRouteRulesMatchesQueryParamsType::RegularExpression);
        let value = value(reader, &param.value, regex, &format!("{at}.value"));
        unique(reader, &query, &param.name, &at);
        query.push(NamedMatch { name: param.name.as_str().into(), value });
    }
    let method = said.method.as_ref().map(|method| method_word(method).into());
    if said.method == Some(gw::HttpRouteRulesMatchesMethod::Connect) {
        reader.unenforced(format!("{at}.method"), "the method CONNECT");
    }
    Match { path, headers, query, method }
}

fn unique(reader: &mut Reader<'_>, earlier: &[NamedMatch], name: &str, at: &str) {
    if earlier.iter().any(|other| other.name == *name) {
        reader.fault(&code::CONTRADICTION, format!("{at}.name"), format!("\"{name}\" stands twice in one match"));
    }
}

fn value(reader: &mut Reader<'_>, text: &str, regex: bool, at: &str) -> ValueMatch {
    reader.require((1..=VALUE_BYTES_MAX).contains(&text.len()), at, "a value has from 1 to 4096 bytes");
    if regex {
        check_regex(reader, text, at);
        ValueMatch::Regex(text.into())
    } else {
        ValueMatch::Exact(text.into())
    }
}

fn check_regex(reader: &mut Reader<'_>, text: &str, at: &str) {
    if let Err(error) = regex::RegexBuilder::new(text).size_limit(REGEX_BYTES_MAX).build() {
        let error = error.to_string();
        let reason = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
        reader.fault(&code::BAD_VALUE, at, format!("not a regular expression (RE2): {reason}"));
    }
}

fn read_path(reader: &mut Reader<'_>, said: &gw::HttpRouteRulesMatchesPath, at: &str) -> PathMatch {
    let text = said.value.as_deref().unwrap_or("/");
    let at = format!("{at}.value");
    reader.require(text.len() <= PATH_BYTES_MAX, &at, "a path has at most 1024 bytes");
    match said.r#type {
        Some(gw::HttpRouteRulesMatchesPathType::RegularExpression) => {
            check_regex(reader, text, &at);
            PathMatch::Regex(text.into())
        }
        Some(gw::HttpRouteRulesMatchesPathType::Exact) => {
            check_path(reader, text, &at);
            PathMatch::Exact(text.into())
        }
        None | Some(gw::HttpRouteRulesMatchesPathType::PathPrefix) => {
            check_path(reader, text, &at);
            let trimmed = text.strip_suffix('/').unwrap_or(text);
            PathMatch::Prefix(if trimmed.is_empty() { "/" } else { trimmed }.into())
        }
    }
}

/// The CRD's rules for a path that isn't a regular expression.
pub(crate) fn check_path(reader: &mut Reader<'_>, path: &str, at: &str) -> bool {
    let before = reader.faults.len();
    reader.require(path.starts_with('/'), at, format!("the path \"{path}\" must begin with /"));
    for never in ["//", "/./", "/../", "%2f", "%2F", "#"] {
        reader.require(!path.contains(never), at, format!("the path \"{path}\" must not contain {never}"));
    }
    for never in ["/..", "/."] {
        reader.require(!path.ends_with(never), at, format!("the path \"{path}\" must not end with {never}"));
    }
    if reader.faults.len() == before
        && let Err(message) = check_path_bytes(path)
    {
        reader.fault(&code::BAD_VALUE, at, format!("\"{path}\": {message}"));
    }
    reader.faults.len() == before
}

/// Whether all characters are those of a path (RFC 3986, section 3.3), with whole escapes.
pub(crate) fn check_path_bytes(path: &str) -> Result<(), &'static str> {
    let bytes = path.as_bytes();
    for (i, b) in bytes.iter().enumerate() {
        let escape = || bytes.get(i + 1..i + 3).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit));
        match b {
            b'%' if escape() => {}
            b'%' => return Err("'%' must be followed by two hexadecimal digits"),
            b if b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(b) => {}
            _ => return Err("a path has only the characters of RFC 3986; write others as %XX"),
        }
    }
    Ok(())
}

const fn method_word(method: &gw::HttpRouteRulesMatchesMethod) -> &'static str {
    use gw::HttpRouteRulesMatchesMethod as M;
    match method {
        M::Get => "GET",
        M::Head => "HEAD",
        M::Post => "POST",
        M::Put => "PUT",
        M::Delete => "DELETE",
        M::Connect => "CONNECT",
        M::Options => "OPTIONS",
        M::Trace => "TRACE",
        M::Patch => "PATCH",
    }
}

fn backends(reader: &mut Reader<'_>, said: &[gw::HttpRouteRulesBackendRefs], at: &str, prefixes: bool) -> Vec<Backend> {
    reader.at_most(said.len(), BACKENDS_MAX, &format!("{at}.backendRefs"));
    let each = said.iter().enumerate();
    each.filter_map(|(i, said)| backend(reader, said, &format!("{at}.backendRefs[{i}]"), prefixes)).collect()
}

fn backend(reader: &mut Reader<'_>, said: &gw::HttpRouteRulesBackendRefs, at: &str, prefixes: bool) -> Option<Backend> {
    let (group, kind) = (said.group.as_deref().unwrap_or(""), said.kind.as_deref().unwrap_or("Service"));
    if !group.is_empty() || kind != "Service" {
        reader.unenforced(
            format!("{at}.kind"),
            &format!("backends of kind {kind} (group \"{group}\"); only core Service"),
        );
        return None;
    }
    if let Some(namespace) = said.namespace.as_deref().filter(|ns| *ns != &*reader.namespace()) {
        let what = format!("backends in another namespace (\"{namespace}\"): that needs a ReferenceGrant, which it");
        reader.fault(
            &code::NOT_ENFORCED,
            format!("{at}.namespace"),
            format!("byrnie refuses {what} does not serve yet"),
        );
    }
    let name = reader.label(&said.name, &format!("{at}.name"));
    let port = match said.port {
        Some(port) => reader.port(port.into(), &format!("{at}.port")),
        None => {
            reader.fault(&code::MISSING_FIELD, at, "a Service as backend needs a port");
            1
        }
    };
    let weight = said.weight.unwrap_or(1);
    let message = format!("{weight} is not a weight; weights go from 0 to {WEIGHT_MAX}");
    reader.require((0..=WEIGHT_MAX).contains(&weight), &format!("{at}.weight"), message);
    let filters = filter::read_of_backend(reader, said.filters.as_deref().unwrap_or_default(), at, prefixes);
    let service = ServiceRef::new(reader.namespace(), name);
    Some(Backend { service, port, weight: weight.try_into().unwrap_or(0), filters })
}

type Timeouts = (Option<std::time::Duration>, Option<std::time::Duration>);

/// For the exchange and for one try; zero means no limit, as in the CRD.
fn timeouts(reader: &mut Reader<'_>, said: Option<&gw::HttpRouteRulesTimeouts>, at: &str) -> Timeouts {
    let Some(said) = said else { return (None, None) };
    let mut span = |text: &Option<String>, name: &str| {
        let text = text.as_deref()?;
        Some(reader.duration(text, &format!("{at}.timeouts.{name}"))).filter(|span| !span.is_zero())
    };
    let (whole, one) = (span(&said.request, "request"), span(&said.backend_request, "backendRequest"));
    if let (Some(whole), Some(one)) = (whole, one)
        && one > whole
    {
        let message = "backendRequest is longer than request, so that it could never run out";
        reader.fault(&code::CONTRADICTION, format!("{at}.timeouts.backendRequest"), message);
    }
    (whole, one)
}

fn read_retry(reader: &mut Reader<'_>, said: &gw::HttpRouteRulesRetry, at: &str) -> Retry {
    let mut codes: Vec<u16> = Vec::new();
    for (i, status) in said.codes.iter().flatten().enumerate() {
        let path = format!("{at}.codes[{i}]");
        let fits = (400..=599).contains(status);
        reader.require(fits, &path, format!("{status} cannot be retried; codes go from 400 to 599"));
        let status = u16::try_from(*status).unwrap_or(0);
        if codes.contains(&status) {
            reader.fault(&code::CONTRADICTION, path, format!("{status} stands twice"));
        }
        codes.push(status);
    }
    let attempts = said.attempts.unwrap_or(1);
    let message = format!("{attempts} is not from 0 to {ATTEMPTS_MAX}");
    reader.require((0..=ATTEMPTS_MAX).contains(&attempts), &format!("{at}.attempts"), message);
    let backoff = said.backoff.as_deref().map(|text| reader.duration(text, &format!("{at}.backoff")));
    Retry { codes, attempts: u8::try_from(attempts).unwrap_or(0), backoff }
}

/// The spec as a document says it.
pub(crate) fn to_value(route: &Route) -> Value {
    let parents: Vec<Value> = route.parents.iter().map(parent_value).collect();
    let rules: Vec<Value> = route.rules.iter().map(rule_value).collect();
    let mut value = json!({"parentRefs": parents});
    if !route.hostnames.is_empty() {
        value["hostnames"] = json!(route.hostnames);
    }
    value["rules"] = json!(rules);
    value
}

fn parent_value(parent: &Parent) -> Value {
    let mut value = json!({"group": "", "kind": "Service", "name": parent.service.name});
    if let Some(port) = parent.port {
        value["port"] = json!(port);
    }
    value
}

fn rule_value(rule: &Rule) -> Value {
    let mut value = json!({});
    if !rule.name.is_empty() {
        value["name"] = json!(rule.name);
    }
    value["matches"] = rule.matches.iter().map(match_value).collect();
    if !rule.filters.is_empty() {
        value["filters"] = rule.filters.iter().map(filter::to_value).collect();
    }
    if !rule.backends.is_empty() {
        value["backendRefs"] = rule.backends.iter().map(backend_value).collect();
    }
    for (name, span) in [("request", rule.timeout), ("backendRequest", rule.backend_timeout)] {
        if let Some(span) = span {
            value["timeouts"][name] = json!(names::duration_text(span));
        }
    }
    if let Some(retry) = &rule.retry {
        value["retry"] = json!({"attempts": retry.attempts});
        if !retry.codes.is_empty() {
            value["retry"]["codes"] = json!(retry.codes);
        }
        if let Some(backoff) = retry.backoff {
            value["retry"]["backoff"] = json!(names::duration_text(backoff));
        }
    }
    value
}

fn match_value(m: &Match) -> Value {
    let (kind, path) = match &m.path {
        PathMatch::Exact(path) => ("Exact", path),
        PathMatch::Prefix(path) => ("PathPrefix", path),
        PathMatch::Regex(path) => ("RegularExpression", path),
    };
    let mut value = json!({"path": {"type": kind, "value": path}});
    for (name, list) in [("headers", &m.headers), ("queryParams", &m.query)] {
        if !list.is_empty() {
            value[name] = list.iter().map(named_value).collect();
        }
    }
    if let Some(method) = &m.method {
        value["method"] = json!(method);
    }
    value
}

fn named_value(named: &NamedMatch) -> Value {
    match &named.value {
        ValueMatch::Exact(text) => json!({"name": named.name, "value": text}),
        ValueMatch::Regex(text) => json!({"type": "RegularExpression", "name": named.name, "value": text}),
    }
}

fn backend_value(backend: &Backend) -> Value {
    let mut value = json!({"name": backend.service.name, "port": backend.port, "weight": backend.weight});
    if !backend.filters.is_empty() {
        value["filters"] = backend.filters.iter().map(filter::to_value).collect();
    }
    value
}
