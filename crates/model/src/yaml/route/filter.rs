// SPDX-License-Identifier: Apache-2.0
//! The filters of an HTTPRoute: one of a kind, each with the field of its type and no other, and none
//! that byrnie doesn't do.

use super::backend::{self, Reference};
use super::matching::check_path;
use crate::Kind;
use crate::code;
use crate::route::{Cors, Direct, HeaderEdits, Mirror, PathEdit, Redirect, Rewrite, RouteFilter, is_header_editable};
use crate::yaml::reader::Reader;
use crate::yaml::{kinds, names};
use byrnie_base::Text;
use gateway_api::experimental::httproutes as gw;
use serde_json::{Value, json};

/// Most filters of a rule, and most entries of each list in a header filter: limits of the CRD.
const FILTERS_MAX: usize = 16;
const EDITS_MAX: usize = 16;
const PATH_BYTES_MAX: usize = 1024;

/// Filters of a rule. `prefixes`: the rule has exactly one match, on a prefix.
pub(crate) fn read(
    reader: &mut Reader<'_>,
    said: &[gw::HttpRouteRulesFilters],
    at: &str,
    prefixes: bool,
) -> Vec<RouteFilter> {
    reader.at_most(said.len(), FILTERS_MAX, &format!("{at}.filters"));
    let mut filters: Vec<RouteFilter> = Vec::new();
    for (i, said) in said.iter().enumerate() {
        let at = format!("{at}.filters[{i}]");
        let Some(filter) = one(reader, said, &at, prefixes) else { continue };
        let rank = |filter: &RouteFilter| std::mem::discriminant(filter);
        let several = matches!(filter, RouteFilter::Mirror(_));
        if !several && filters.iter().any(|other| rank(other) == rank(&filter)) {
            reader.fault(&code::CONTRADICTION, format!("{at}.type"), "a rule has at most one filter of this type");
        }
        let clash =
            |a: &RouteFilter, b: &RouteFilter| matches!((a, b), (RouteFilter::Redirect(_), RouteFilter::Rewrite(_)));
        if filters.iter().any(|other| clash(other, &filter) || clash(&filter, other)) {
            reader.fault(&code::CONTRADICTION, format!("{at}.type"), "a rule cannot both redirect and rewrite");
        }
        filters.push(filter);
    }
    let answers = filters.iter().any(|filter| matches!(filter, RouteFilter::Direct(_)));
    let fits = |filter: &RouteFilter| {
        matches!(filter, RouteFilter::Direct(_) | RouteFilter::ResponseHeaders(_) | RouteFilter::Cors(_))
    };
    if answers && !filters.iter().all(fits) {
        let message = "a rule that answers by itself sends nothing on: only ResponseHeaderModifier and CORS go with it";
        reader.fault(&code::CONTRADICTION, format!("{at}.filters"), message);
    }
    filters
}

/// Filters of one backend, whose types differ in Gateway API by name only.
pub(crate) fn read_of_backend(
    reader: &mut Reader<'_>,
    said: &[gw::HttpRouteRulesBackendRefsFilters],
    at: &str,
    prefixes: bool,
) -> Vec<RouteFilter> {
    let same: Option<Vec<gw::HttpRouteRulesFilters>> =
        said.iter().map(|filter| serde_json::from_value(serde_json::to_value(filter).ok()?).ok()).collect();
    let Some(same) = same else {
        reader.fault(&code::BAD_VALUE, format!("{at}.filters"), "filters of a backend could not be read");
        return Vec::new();
    };
    let filters = read(reader, &same, at, prefixes);
    if filters.iter().any(|filter| matches!(filter, RouteFilter::Direct(_))) {
        let message = "an answer of the route's own belongs to a rule, and not to a backend";
        reader.fault(&code::CONTRADICTION, format!("{at}.filters"), message);
    }
    filters
}

fn one(reader: &mut Reader<'_>, said: &gw::HttpRouteRulesFilters, at: &str, prefixes: bool) -> Option<RouteFilter> {
    use gw::HttpRouteRulesFiltersType as T;
    let fields = [
        ("requestHeaderModifier", T::RequestHeaderModifier, said.request_header_modifier.is_some()),
        ("responseHeaderModifier", T::ResponseHeaderModifier, said.response_header_modifier.is_some()),
        ("requestRedirect", T::RequestRedirect, said.request_redirect.is_some()),
        ("urlRewrite", T::UrlRewrite, said.url_rewrite.is_some()),
        ("requestMirror", T::RequestMirror, said.request_mirror.is_some()),
        ("extensionRef", T::ExtensionRef, said.extension_ref.is_some()),
        ("cors", T::Cors, said.cors.is_some()),
        ("externalAuth", T::ExternalAuth, said.external_auth.is_some()),
    ];
    for (field, kind, present) in fields {
        if kind == said.r#type && !present {
            reader.fault(&code::MISSING_FIELD, at, format!("this type of filter needs the field \"{field}\""));
        } else if kind != said.r#type && present {
            reader.fault(&code::CONTRADICTION, format!("{at}.{field}"), "this field belongs to another type of filter");
        }
    }
    let what = match said.r#type {
        T::RequestHeaderModifier => {
            let edits = said.request_header_modifier.as_ref()?;
            let (set, add) = (edits.set.as_deref().unwrap_or_default(), edits.add.as_deref().unwrap_or_default());
            let set = set.iter().map(|e| (&*e.name, &*e.value)).collect::<Vec<_>>();
            let add = add.iter().map(|e| (&*e.name, &*e.value)).collect::<Vec<_>>();
            let remove = edits.remove.as_deref().unwrap_or_default();
            return Some(RouteFilter::RequestHeaders(edit(
                reader,
                &set,
                &add,
                remove,
                &format!("{at}.requestHeaderModifier"),
            )));
        }
        T::ResponseHeaderModifier => {
            let edits = said.response_header_modifier.as_ref()?;
            let (set, add) = (edits.set.as_deref().unwrap_or_default(), edits.add.as_deref().unwrap_or_default());
            let set = set.iter().map(|e| (&*e.name, &*e.value)).collect::<Vec<_>>();
            let add = add.iter().map(|e| (&*e.name, &*e.value)).collect::<Vec<_>>();
            let remove = edits.remove.as_deref().unwrap_or_default();
            return Some(RouteFilter::ResponseHeaders(edit(
                reader,
                &set,
                &add,
                remove,
                &format!("{at}.responseHeaderModifier"),
            )));
        }
        T::RequestRedirect => {
            let at = format!("{at}.requestRedirect");
            return Some(RouteFilter::Redirect(redirect(reader, said.request_redirect.as_ref()?, &at, prefixes)));
        }
        T::UrlRewrite => {
            return Some(RouteFilter::Rewrite(rewrite(
                reader,
                said.url_rewrite.as_ref()?,
                &format!("{at}.urlRewrite"),
                prefixes,
            )));
        }
        T::RequestMirror => {
            let at = format!("{at}.requestMirror");
            return Some(RouteFilter::Mirror(mirror(reader, said.request_mirror.as_ref()?, &at)));
        }
        T::Cors => return Some(RouteFilter::Cors(cors(reader, said.cors.as_ref()?, &format!("{at}.cors")))),
        T::ExtensionRef => return extension(reader, said.extension_ref.as_ref()?, at),
        T::ExternalAuth => "external authorization",
    };
    reader.unenforced(format!("{at}.type"), what);
    None
}

/// The one kind of filter that is byrnie's own.
fn extension(reader: &mut Reader<'_>, said: &gw::HttpRouteRulesFiltersExtensionRef, at: &str) -> Option<RouteFilter> {
    let (group, kind) = (kinds::group_of(Kind::HttpRouteFilter), Kind::HttpRouteFilter.name());
    if (&*said.group, &*said.kind) != (group, kind) {
        reader.unenforced(format!("{at}.type"), &format!("extension filters but {kind} of group {group}"));
        return None;
    }
    if reader.key.as_ref().is_some_and(|key| key.kind == Kind::GrpcRoute) {
        let message = "an answer of the route's own is none to a call of gRPC: give it in an HTTPRoute";
        reader.fault(&code::NOT_ENFORCED, format!("{at}.type"), message);
        return None;
    }
    let fits = names::is_subdomain(&said.name);
    reader.require(fits, &format!("{at}.extensionRef.name"), format!("\"{}\" is not a DNS name", said.name));
    Some(RouteFilter::Direct(Direct { filter: said.name.as_str().into(), response: None }))
}

fn edit(
    reader: &mut Reader<'_>,
    set: &[(&str, &str)],
    add: &[(&str, &str)],
    remove: &[String],
    at: &str,
) -> HeaderEdits {
    let mut edits = HeaderEdits::default();
    for (list, said) in [("set", set), ("add", add)] {
        reader.at_most(said.len(), EDITS_MAX, &format!("{at}.{list}"));
        for (i, (name, value)) in said.iter().enumerate() {
            let at = format!("{at}.{list}[{i}]");
            header_name(reader, name, &format!("{at}.name"));
            let fits = names::is_header_value(value);
            reader.require(
                fits,
                &format!("{at}.value"),
                "a header value is visible ASCII with single lines and no blank ends",
            );
            if said[..i].iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
                reader.fault(&code::CONTRADICTION, format!("{at}.name"), format!("\"{name}\" stands twice"));
            }
            let edit = (Text::from(*name), Text::from(*value));
            if list == "set" { edits.set.push(edit) } else { edits.add.push(edit) }
        }
    }
    reader.at_most(remove.len(), EDITS_MAX, &format!("{at}.remove"));
    for (i, name) in remove.iter().enumerate() {
        header_name(reader, name, &format!("{at}.remove[{i}]"));
        let lower = Text::from(name.to_ascii_lowercase());
        if edits.remove.contains(&lower) {
            reader.fault(&code::CONTRADICTION, format!("{at}.remove[{i}]"), format!("\"{name}\" stands twice"));
        }
        edits.remove.push(lower);
    }
    edits
}

fn header_name(reader: &mut Reader<'_>, name: &str, at: &str) {
    if reader.require(names::is_header_name(name), at, format!("\"{name}\" is not a header name")) {
        reader.require(is_header_editable(name), at, format!("the header \"{name}\" cannot be edited by a route"));
    }
}

fn mirror(reader: &mut Reader<'_>, said: &gw::HttpRouteRulesFiltersRequestMirror, at: &str) -> Mirror {
    let of = &said.backend_ref;
    let reference = Reference {
        group: of.group.as_deref(),
        kind: of.kind.as_deref(),
        namespace: of.namespace.as_deref(),
        name: &of.name,
        port: of.port,
    };
    let to = backend::destination(reader, &reference, &format!("{at}.backendRef"));
    if said.percent.is_some() && said.fraction.is_some() {
        reader.fault(&code::CONTRADICTION, format!("{at}.fraction"), "either percent or fraction says how many");
    }
    let (share, whole, field) = match (said.percent, &said.fraction) {
        (Some(percent), _) => (percent, 100, "percent"),
        (None, Some(fraction)) => (fraction.numerator, fraction.denominator.unwrap_or(100), "fraction"),
        (None, None) => (1, 1, ""),
    };
    let fits = whole > 0 && (0..=whole).contains(&share);
    reader.require(fits, &format!("{at}.{field}"), format!("{share} of {whole} is no share of the requests"));
    Mirror { to, share: share.try_into().unwrap_or(0), of: whole.try_into().unwrap_or(1).max(1) }
}

/// Limits of the CRD on a CORS filter.
const ORIGINS_MAX: usize = 64;
const METHODS_MAX: usize = 9;
const CORS_HEADERS_MAX: usize = 64;
/// How long a browser remembers a preflight if nothing is said, in seconds.
const MAX_AGE: i32 = 5;

fn cors(reader: &mut Reader<'_>, said: &gw::HttpRouteRulesFiltersCors, at: &str) -> Cors {
    const METHODS: [&str; 10] = ["*", "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    let lists = [
        ("allowOrigins", &said.allow_origins, ORIGINS_MAX, true),
        ("allowMethods", &said.allow_methods, METHODS_MAX, true),
        ("allowHeaders", &said.allow_headers, CORS_HEADERS_MAX, true),
        ("exposeHeaders", &said.expose_headers, CORS_HEADERS_MAX, false),
    ];
    let [origins, methods, headers, expose] = lists.map(|(field, list, max, alone)| {
        let list = list.as_deref().unwrap_or_default();
        let path = format!("{at}.{field}");
        reader.at_most(list.len(), max, &path);
        if alone && list.len() > 1 && list.iter().any(|word| word == "*") {
            reader.fault(&code::CONTRADICTION, path.as_str(), "\"*\" stands for all and must stand alone");
        }
        for (i, word) in list.iter().enumerate() {
            let (fits, what) = match field {
                "allowOrigins" => (is_origin(word), "an origin such as https://*.example.com"),
                "allowMethods" => (METHODS.contains(&word.as_str()), "a method, in upper case"),
                _ => (word == "*" || names::is_header_name(word), "a header name"),
            };
            reader.require(fits, &format!("{path}[{i}]"), format!("\"{word}\" is not {what}"));
        }
        list.iter().map(|word| Text::from(word.as_str())).collect::<Vec<_>>()
    });
    let max_age = said.max_age.unwrap_or(MAX_AGE);
    reader.require(max_age >= 1, &format!("{at}.maxAge"), format!("{max_age} is less than 1 second"));
    let credentials = said.allow_credentials.unwrap_or(false);
    Cors { origins, credentials, methods, headers, expose, max_age: max_age.try_into().unwrap_or(5) }
}

/// `*`, or `SCHEME://HOST[:PORT]` where the host may begin with `*` or be it.
fn is_origin(origin: &str) -> bool {
    if origin == "*" {
        return true;
    }
    let Some((scheme, rest)) = origin.split_once("://") else { return false };
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) => (host, port.parse::<u16>().is_ok_and(|port| port > 0)),
        None => (rest, true),
    };
    let host = host.strip_prefix('*').map_or(host, |rest| rest.strip_prefix('.').unwrap_or(rest));
    let named = (host.is_empty() && rest.starts_with('*')) || host.to_ascii_lowercase().split('.').all(names::is_label);
    let scheme_fits = scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
        && scheme.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
    scheme_fits && port && named
}

fn redirect(
    reader: &mut Reader<'_>,
    said: &gw::HttpRouteRulesFiltersRequestRedirect,
    at: &str,
    prefixes: bool,
) -> Redirect {
    let hostname = hostname(reader, said.hostname.as_deref(), at);
    let path = said.path.as_ref().and_then(|path| {
        let full = path.r#type == gw::HttpRouteRulesFiltersRequestRedirectPathType::ReplaceFullPath;
        let said = (path.replace_full_path.as_deref(), path.replace_prefix_match.as_deref());
        path_edit(reader, full, said, &format!("{at}.path"), prefixes)
    });
    let status = said.status_code.unwrap_or(302);
    let allowed = [301, 302, 303, 307, 308].contains(&status);
    reader.require(allowed, &format!("{at}.statusCode"), format!("{status} is none of 301, 302, 303, 307, 308"));
    Redirect {
        scheme: said.scheme.as_ref().map(|scheme| match scheme {
            gw::HttpRouteRulesFiltersRequestRedirectScheme::Http => "http".into(),
            gw::HttpRouteRulesFiltersRequestRedirectScheme::Https => "https".into(),
        }),
        hostname,
        path,
        port: said.port.map(|port| reader.port(port.into(), &format!("{at}.port"))),
        status: u16::try_from(status).unwrap_or(302),
    }
}

fn rewrite(reader: &mut Reader<'_>, said: &gw::HttpRouteRulesFiltersUrlRewrite, at: &str, prefixes: bool) -> Rewrite {
    let hostname = hostname(reader, said.hostname.as_deref(), at);
    let path = said.path.as_ref().and_then(|path| {
        let full = path.r#type == gw::HttpRouteRulesFiltersUrlRewritePathType::ReplaceFullPath;
        let said = (path.replace_full_path.as_deref(), path.replace_prefix_match.as_deref());
        path_edit(reader, full, said, &format!("{at}.path"), prefixes)
    });
    if hostname.is_none() && path.is_none() {
        reader.require(false, at, "a rewrite needs hostname or path");
    }
    Rewrite { hostname, path }
}

fn hostname(reader: &mut Reader<'_>, said: Option<&str>, at: &str) -> Option<Text> {
    let name = said?;
    let fits = names::is_hostname(name) && !name.starts_with('*');
    reader.require(fits, &format!("{at}.hostname"), format!("\"{name}\" is not a host name in lower case"));
    Some(name.into())
}

/// The path of a redirect or rewrite: the field of its type and no other.
fn path_edit(
    reader: &mut Reader<'_>,
    full: bool,
    said: (Option<&str>, Option<&str>),
    at: &str,
    prefixes: bool,
) -> Option<PathEdit> {
    let (field, text, other, stray) = if full {
        ("replaceFullPath", said.0, "replacePrefixMatch", said.1)
    } else {
        ("replacePrefixMatch", said.1, "replaceFullPath", said.0)
    };
    if stray.is_some() {
        reader.fault(&code::CONTRADICTION, format!("{at}.{other}"), "this field belongs to the other type");
    }
    let Some(text) = text else {
        reader.fault(&code::MISSING_FIELD, at, format!("this type needs the field \"{field}\""));
        return None;
    };
    let place = format!("{at}.{field}");
    reader.require(text.len() <= PATH_BYTES_MAX, &place, "a path has at most 1024 bytes");
    // An empty replacement of a prefix stands for "/".
    if !text.is_empty() || full {
        check_path(reader, text, &place);
    }
    if full {
        return Some(PathEdit::Full(text.into()));
    }
    if !prefixes {
        let message = "replacePrefixMatch needs a rule with exactly one match, of type PathPrefix";
        reader.fault(&code::CONTRADICTION, place, message);
    }
    Some(PathEdit::Prefix(text.into()))
}

/// The filter as a document says it.
pub(crate) fn to_value(filter: &RouteFilter, own: &str) -> Value {
    match filter {
        RouteFilter::RequestHeaders(edits) => {
            json!({"type": "RequestHeaderModifier", "requestHeaderModifier": edits_value(edits)})
        }
        RouteFilter::ResponseHeaders(edits) => {
            json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": edits_value(edits)})
        }
        RouteFilter::Redirect(redirect) => {
            let mut value = json!({"statusCode": redirect.status});
            for (name, text) in [("scheme", &redirect.scheme), ("hostname", &redirect.hostname)] {
                if let Some(text) = text {
                    value[name] = json!(text);
                }
            }
            if let Some(port) = redirect.port {
                value["port"] = json!(port);
            }
            if let Some(path) = &redirect.path {
                value["path"] = path_value(path);
            }
            json!({"type": "RequestRedirect", "requestRedirect": value})
        }
        RouteFilter::Rewrite(rewrite) => {
            let mut value = json!({});
            if let Some(hostname) = &rewrite.hostname {
                value["hostname"] = json!(hostname);
            }
            if let Some(path) = &rewrite.path {
                value["path"] = path_value(path);
            }
            json!({"type": "URLRewrite", "urlRewrite": value})
        }
        RouteFilter::Mirror(mirror) => {
            let mut value = json!({"backendRef": backend::destination_value(&mirror.to, own)});
            if (mirror.share, mirror.of) != (1, 1) {
                value["fraction"] = json!({"numerator": mirror.share, "denominator": mirror.of});
            }
            json!({"type": "RequestMirror", "requestMirror": value})
        }
        RouteFilter::Cors(cors) => json!({"type": "CORS", "cors": cors_value(cors)}),
        RouteFilter::Direct(direct) => {
            let (group, kind) = (kinds::group_of(Kind::HttpRouteFilter), Kind::HttpRouteFilter.name());
            json!({"type": "ExtensionRef", "extensionRef": {"group": group, "kind": kind, "name": direct.filter}})
        }
    }
}

fn cors_value(cors: &Cors) -> Value {
    let mut value = json!({"maxAge": cors.max_age});
    let lists = [
        ("allowOrigins", &cors.origins),
        ("allowMethods", &cors.methods),
        ("allowHeaders", &cors.headers),
        ("exposeHeaders", &cors.expose),
    ];
    for (name, list) in lists {
        if !list.is_empty() {
            value[name] = json!(list);
        }
    }
    if cors.credentials {
        value["allowCredentials"] = json!(true);
    }
    value
}

fn edits_value(edits: &HeaderEdits) -> Value {
    let mut value = json!({});
    for (name, list) in [("set", &edits.set), ("add", &edits.add)] {
        if !list.is_empty() {
            value[name] = list.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        }
    }
    if !edits.remove.is_empty() {
        value["remove"] = json!(edits.remove);
    }
    value
}

fn path_value(path: &PathEdit) -> Value {
    match path {
        PathEdit::Full(text) => json!({"type": "ReplaceFullPath", "replaceFullPath": text}),
        PathEdit::Prefix(text) => json!({"type": "ReplacePrefixMatch", "replacePrefixMatch": text}),
    }
}
