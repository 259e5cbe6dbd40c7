// SPDX-License-Identifier: Apache-2.0
//! The matches of an HTTPRoute: path, headers, query, method, with the rules of the CRD.

use crate::route::{Match, NamedMatch, PathMatch, ValueMatch};
use crate::yaml::names;
use crate::yaml::reader::Reader;
use crate::{Kind, code};
use gateway_api::experimental::httproutes as gw;
use serde_json::{Value, json};

/// Limits of the CRD.
const MATCHES_MAX: usize = 64;
pub(super) const NAMED_MAX: usize = 16;
const PATH_BYTES_MAX: usize = 1024;
const VALUE_BYTES_MAX: usize = 4096;
/// Largest compiled regular expression.
const REGEX_BYTES_MAX: usize = 256 << 10;

pub(super) fn read(reader: &mut Reader<'_>, said: &[gw::HttpRouteRulesMatches], at: &str) -> Vec<Match> {
    at_most(reader, said.len(), at);
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
        let regex = header.r#type == Some(gw::HttpRouteRulesMatchesHeadersType::RegularExpression);
        let read = self::header(reader, &headers, (&header.name, &header.value), regex, &at);
        headers.push(read);
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

/// A condition on a header; `earlier` are those of the same match.
pub(super) fn header(
    reader: &mut Reader<'_>,
    earlier: &[NamedMatch],
    (said, text): (&str, &str),
    regex: bool,
    at: &str,
) -> NamedMatch {
    let name = said.to_ascii_lowercase();
    let message = format!("\"{said}\" is not a header name");
    reader.require(names::is_header_name(&name), &format!("{at}.name"), message);
    let value = value(reader, text, regex, &format!("{at}.value"));
    unique(reader, earlier, &name, at);
    NamedMatch { name: name.into(), value }
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

pub(super) fn check_regex(reader: &mut Reader<'_>, text: &str, at: &str) {
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

/// The most matches of a rule.
pub(super) fn at_most(reader: &mut Reader<'_>, count: usize, at: &str) {
    reader.at_most(count, MATCHES_MAX, &format!("{at}.matches"));
}

pub(super) fn match_value(m: &Match, kind: Kind) -> Value {
    let mut value = match &m.path {
        PathMatch::Exact(path) => json!({"path": {"type": "Exact", "value": path}}),
        // What a match of GRPCRoute says of the path, if it names no method.
        PathMatch::Prefix(_) if kind == Kind::GrpcRoute => json!({}),
        PathMatch::Prefix(path) => json!({"path": {"type": "PathPrefix", "value": path}}),
        PathMatch::Regex(path) => json!({"path": {"type": "RegularExpression", "value": path}}),
        PathMatch::Grpc { service, method } => grpc_value(service.as_ref(), method.as_ref()),
    };
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

fn grpc_value(service: Option<&ValueMatch>, method: Option<&ValueMatch>) -> Value {
    let mut value = json!({});
    for (name, said) in [("service", service), ("method", method)] {
        match said {
            Some(ValueMatch::Exact(text)) => value[name] = json!(text),
            Some(ValueMatch::Regex(text)) => {
                value["type"] = json!("RegularExpression");
                value[name] = json!(text);
            }
            None => {}
        }
    }
    json!({"method": value})
}

fn named_value(named: &NamedMatch) -> Value {
    match &named.value {
        ValueMatch::Exact(text) => json!({"name": named.name, "value": text}),
        ValueMatch::Regex(text) => json!({"type": "RegularExpression", "name": named.name, "value": text}),
    }
}
