// SPDX-License-Identifier: Apache-2.0
//! The document of an AccessPolicy (field names of GEP-3779 where it has them).

use super::names;
use super::reader::{Reader, TargetRef};
use crate::policy::AccessPolicy;
use crate::policy::access::{Action, HttpMatch, Mode, PathPattern, Rule, Source};
use crate::{Identity, code};
use byrnie_base::Text;
use serde::{Deserialize, Serialize};

/// Who may (or may not) call the targets.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct AccessSpec {
    /// Whether verdicts are enforced or only recorded.
    #[serde(default)]
    mode: ModeWord,
    /// The services that it protects; none means every service of its namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    target_refs: Vec<TargetRef>,
    /// What a fitting rule means. A DENY that fits wins over every ALLOW.
    action: ActionWord,
    /// Any of these must fit. An absent list in a rule means any; no rules: nothing fits.
    #[serde(default)]
    rules: Vec<RuleSpec>,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
enum ModeWord {
    #[default]
    Enforce,
    Shadow,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
enum ActionWord {
    Allow,
    Deny,
}

/// Conditions that must all hold.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RuleSpec {
    /// Any of these is the caller.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    sources: Vec<SourceSpec>,
    /// What is known of the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    network_attributes: Option<NetworkSpec>,
    /// Any of these fits the request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    http: Vec<HttpSpec>,
}

/// What is known of the connection.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct NetworkSpec {
    /// Any of these is the workload's own port.
    #[serde(default)]
    ports: Vec<i64>,
}

/// A set of callers.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SourceSpec {
    /// Which of the other fields says who.
    #[serde(rename = "type")]
    kind: SourceType,
    /// For `ServiceAccount`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service_account: Option<AccountSpec>,
    /// For `Namespace`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    /// For `SPIFFE`: `spiffe://DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spiffe: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
enum SourceType {
    ServiceAccount,
    Namespace,
    #[serde(rename = "SPIFFE")]
    Spiffe,
}

/// A service account.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct AccountSpec {
    /// Its name.
    name: String,
    /// Its namespace; the policy's own unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
}

/// Conditions on a request.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct HttpSpec {
    /// Any of these is the method.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    methods: Vec<String>,
    /// Any of these fits: `/x` exactly, `/x/*` everything below, `/x/{id}/y` a template.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    paths: Vec<String>,
}

/// Most rules of a policy, and most entries of each list in a rule.
const RULES_MAX: usize = 64;
const LIST_MAX: usize = 64;
/// Longest path in a rule, in bytes, as in HTTPRoute.
const PATH_BYTES_MAX: usize = 1024;

pub(crate) fn read(reader: &mut Reader<'_>) -> Option<AccessPolicy> {
    let spec: AccessSpec = reader.spec()?;
    let targets = reader.targets(&spec.target_refs, "spec.targetRefs");
    reader.at_most(spec.rules.len(), RULES_MAX, "spec.rules");
    let rules =
        spec.rules.iter().enumerate().map(|(i, rule)| read_rule(reader, rule, &format!("spec.rules[{i}]"))).collect();
    let mode = match spec.mode {
        ModeWord::Enforce => Mode::Enforce,
        ModeWord::Shadow => Mode::Shadow,
    };
    let action = match spec.action {
        ActionWord::Allow => Action::Allow,
        ActionWord::Deny => Action::Deny,
    };
    Some(AccessPolicy { mode, targets, action, rules })
}

fn read_rule(reader: &mut Reader<'_>, rule: &RuleSpec, at: &str) -> Rule {
    for (list, count) in [("sources", rule.sources.len()), ("http", rule.http.len())] {
        reader.at_most(count, LIST_MAX, &format!("{at}.{list}"));
        empty_list(reader, &format!("{at}.{list}"), count);
    }
    let sources = rule.sources.iter().enumerate();
    let sources =
        sources.filter_map(|(i, source)| read_source(reader, source, &format!("{at}.sources[{i}]"))).collect();
    let mut ports = Vec::new();
    if let Some(network) = &rule.network_attributes {
        let path = format!("{at}.networkAttributes.ports");
        reader.at_most(network.ports.len(), LIST_MAX, &path);
        empty_list(reader, &path, network.ports.len());
        ports.extend(network.ports.iter().enumerate().map(|(i, port)| reader.port(*port, &format!("{path}[{i}]"))));
    }
    let http = rule.http.iter().enumerate();
    let http = http.map(|(i, http)| read_http(reader, http, &format!("{at}.http[{i}]"))).collect();
    Rule { sources, ports, http }
}

/// An empty list reads like "nobody" and would mean "anyone": it's refused.
fn empty_list(reader: &mut Reader<'_>, path: &str, count: usize) {
    if count == 0 && reader.root.has(path) {
        reader.fault(&code::CONTRADICTION, path, "an empty list is ambiguous: leave it out to mean any");
    }
}

fn read_source(reader: &mut Reader<'_>, source: &SourceSpec, at: &str) -> Option<Source> {
    let fields = [
        ("serviceAccount", SourceType::ServiceAccount, source.service_account.is_some()),
        ("namespace", SourceType::Namespace, source.namespace.is_some()),
        ("spiffe", SourceType::Spiffe, source.spiffe.is_some()),
    ];
    for (field, kind, present) in fields {
        match (kind == source.kind, present) {
            (true, false) => {
                reader.fault(&code::MISSING_FIELD, at, format!("this type of source needs the field \"{field}\""))
            }
            (false, true) => {
                reader.fault(
                    &code::CONTRADICTION,
                    format!("{at}.{field}"),
                    "this field belongs to another type of source",
                );
            }
            _ => {}
        }
    }
    match source.kind {
        SourceType::ServiceAccount => {
            let account = source.service_account.as_ref()?;
            let namespace = match &account.namespace {
                Some(namespace) => reader.label(namespace, &format!("{at}.serviceAccount.namespace")),
                None => reader.namespace(),
            };
            Some(Source::ServiceAccount {
                namespace,
                name: reader.label(&account.name, &format!("{at}.serviceAccount.name")),
            })
        }
        SourceType::Namespace => {
            Some(Source::Namespace(reader.label(source.namespace.as_deref()?, &format!("{at}.namespace"))))
        }
        SourceType::Spiffe => match Identity::parse(source.spiffe.as_deref()?) {
            Ok(identity) => Some(Source::Identity(identity)),
            Err(error) => {
                reader.fault(&code::BAD_VALUE, format!("{at}.spiffe"), error.to_string());
                None
            }
        },
    }
}

fn read_http(reader: &mut Reader<'_>, http: &HttpSpec, at: &str) -> HttpMatch {
    for (list, count) in [("methods", http.methods.len()), ("paths", http.paths.len())] {
        reader.at_most(count, LIST_MAX, &format!("{at}.{list}"));
        empty_list(reader, &format!("{at}.{list}"), count);
    }
    let mut methods: Vec<Text> = Vec::new();
    for (i, method) in http.methods.iter().enumerate() {
        let fits = names::is_header_name(method) && !method.bytes().any(|b| b.is_ascii_lowercase());
        reader.require(
            fits,
            &format!("{at}.methods[{i}]"),
            format!("\"{method}\" is not a method; methods are upper case"),
        );
        methods.push(method.as_str().into());
    }
    let paths = http.paths.iter().enumerate();
    let paths = paths.filter_map(|(i, path)| match pattern(path) {
        Ok(pattern) => Some(pattern),
        Err(message) => {
            reader.fault(&code::BAD_VALUE, format!("{at}.paths[{i}]"), format!("\"{path}\": {message}"));
            None
        }
    });
    HttpMatch { methods, paths: paths.collect() }
}

/// The pattern that a text stands for.
fn pattern(text: &str) -> Result<PathPattern, &'static str> {
    if text.len() > PATH_BYTES_MAX {
        return Err("a path has at most 1024 bytes");
    }
    let Some(inside) = text.strip_prefix('/') else { return Err("a path begins with /") };
    if let Some(below) = text.strip_suffix("/*") {
        check_segments(below.strip_prefix('/').unwrap_or_default(), below.is_empty())?;
        return if below.contains(['{', '*']) {
            Err("'/*' cannot follow a template")
        } else {
            Ok(PathPattern::Below(format!("{below}/").into()))
        };
    }
    if text.contains('*') {
        return Err("'*' may stand only at the end, after a '/'");
    }
    if !text.contains(['{', '}']) {
        // The canonical form of a path keeps a slash at its end.
        check_segments(inside.strip_suffix('/').unwrap_or(inside), inside.is_empty())?;
        return Ok(PathPattern::Exact(text.into()));
    }
    let segments = inside.split('/').map(|segment| {
        if let Some(name) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            let named = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
            return if named { Ok(None) } else { Err("a template segment is {NAME}") };
        }
        if segment.contains(['{', '}']) {
            return Err("a template stands for a whole segment");
        }
        check_segments(segment, false).map(|()| Some(segment.into()))
    });
    Ok(PathPattern::Template(segments.collect::<Result<_, _>>()?))
}

/// Segments that the canonical form of a request path can have; others would never fit.
fn check_segments(path: &str, may_be_empty: bool) -> Result<(), &'static str> {
    if path.is_empty() && may_be_empty {
        return Ok(());
    }
    for segment in path.split('/') {
        if segment.is_empty() {
            return Err("'//' never occurs in a canonical path");
        }
        if segment == "." || segment == ".." {
            return Err("'.' and '..' never occur in a canonical path");
        }
        super::route::check_path_bytes(segment)?;
    }
    Ok(())
}

impl AccessSpec {
    pub(crate) fn write(policy: &AccessPolicy, namespace: &str) -> Self {
        Self {
            mode: match policy.mode {
                Mode::Enforce => ModeWord::Enforce,
                Mode::Shadow => ModeWord::Shadow,
            },
            target_refs: policy.targets.iter().map(TargetRef::from).collect(),
            action: match policy.action {
                Action::Allow => ActionWord::Allow,
                Action::Deny => ActionWord::Deny,
            },
            rules: policy.rules.iter().map(|rule| RuleSpec::write(rule, namespace)).collect(),
        }
    }
}

impl RuleSpec {
    fn write(rule: &Rule, own: &str) -> Self {
        let ports: Vec<i64> = rule.ports.iter().map(|port| i64::from(*port)).collect();
        let http = rule.http.iter().map(|http| HttpSpec {
            methods: http.methods.iter().map(ToString::to_string).collect(),
            paths: http.paths.iter().map(path_text).collect(),
        });
        Self {
            sources: rule.sources.iter().map(|source| SourceSpec::write(source, own)).collect(),
            network_attributes: (!ports.is_empty()).then_some(NetworkSpec { ports }),
            http: http.collect(),
        }
    }
}

impl SourceSpec {
    fn write(source: &Source, own: &str) -> Self {
        let none = |kind| Self { kind, service_account: None, namespace: None, spiffe: None };
        match source {
            Source::ServiceAccount { namespace, name } => {
                let namespace = (&**namespace != own).then(|| namespace.to_string());
                let account = AccountSpec { name: name.to_string(), namespace };
                Self { service_account: Some(account), ..none(SourceType::ServiceAccount) }
            }
            Source::Namespace(namespace) => {
                Self { namespace: Some(namespace.to_string()), ..none(SourceType::Namespace) }
            }
            Source::Identity(identity) => Self { spiffe: Some(identity.to_string()), ..none(SourceType::Spiffe) },
        }
    }
}

/// The text of a pattern, as people write it. Names inside templates aren't kept.
pub(crate) fn path_text(pattern: &PathPattern) -> String {
    match pattern {
        PathPattern::Exact(path) => path.to_string(),
        PathPattern::Below(prefix) => format!("{prefix}*"),
        PathPattern::Template(segments) => {
            segments.iter().map(|segment| format!("/{}", segment.as_deref().unwrap_or("{any}"))).collect()
        }
    }
}
