// SPDX-License-Identifier: Apache-2.0
//! `Route` on the wire. Regular expressions are checked by whoever compiles them, not here.

use super::Error;
use super::check::{self, LIST_MAX, invalid, labels, labels_out, list, message, missing};
use crate::proto::byrnie::v1 as pb;
use crate::proto::{Bytes, Message};
use byrnie_base::Text;
use byrnie_model::route::{
    Backend, HeaderEdits, Match, NamedMatch, Parent, PathEdit, PathMatch, Redirect, Retry, Rewrite, Route, RouteFilter,
    Rule, ValueMatch,
};
use byrnie_model::{Labels, Spec};
use std::sync::Arc;

/// Most tries after the first: the model's own limit.
const ATTEMPTS_MAX: u32 = 10;

pub(super) fn encode(route: &Route, labels: &Labels) -> Bytes {
    let parent = |parent: &Parent| pb::Parent {
        service: Some(check::service_ref_out(&parent.service)),
        port: parent.port.map(u32::from),
    };
    let message = pb::Route {
        labels: labels_out(labels),
        parents: route.parents.iter().map(parent).collect(),
        hostnames: route.hostnames.iter().map(Text::to_string).collect(),
        rules: route.rules.iter().map(rule_out).collect(),
    };
    message.encode_to_vec().into()
}

pub(super) fn decode(bytes: &[u8]) -> Result<(Spec, Labels), Error> {
    let route: pb::Route = message("route", bytes)?;
    let parent = |parent: pb::Parent| {
        Ok(Parent {
            service: check::service_ref("parentRefs[]", parent.service)?,
            port: parent.port.map(|port| check::port("parentRefs[].port", port)).transpose()?,
        })
    };
    let parents = list("parentRefs", LIST_MAX, route.parents, parent)?;
    if parents.is_empty() {
        return Err(missing("parentRefs"));
    }
    let spec = Route {
        parents,
        hostnames: list("hostnames", LIST_MAX, route.hostnames, |host| hostname(&host))?,
        rules: list("rules", LIST_MAX, route.rules, rule)?,
    };
    Ok((Spec::Route(Arc::new(spec)), labels("labels", route.labels)?))
}

fn hostname(host: &str) -> Result<Text, Error> {
    let rest = host.strip_prefix("*.").unwrap_or(host);
    if rest.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(invalid("hostnames[]"));
    }
    check::name("hostnames[]", rest)?;
    Ok(host.into())
}

fn rule(rule: pb::RouteRule) -> Result<Rule, Error> {
    let matches = list("rules[].matches", LIST_MAX, rule.matches, match_)?;
    if matches.is_empty() {
        return Err(missing("rules[].matches"));
    }
    Ok(Rule {
        name: check::optional_name("rules[].name", &rule.name)?,
        matches,
        filters: list("rules[].filters", LIST_MAX, rule.filters, filter)?,
        backends: list("rules[].backendRefs", LIST_MAX, rule.backends, backend)?,
        timeout: check::optional_duration("rules[].timeouts.request", rule.timeout)?,
        backend_timeout: check::optional_duration("rules[].timeouts.backendRequest", rule.backend_timeout)?,
        retry: rule.retry.map(retry).transpose()?,
    })
}

fn rule_out(rule: &Rule) -> pb::RouteRule {
    pb::RouteRule {
        name: rule.name.to_string(),
        matches: rule.matches.iter().map(match_out).collect(),
        filters: rule.filters.iter().map(filter_out).collect(),
        backends: rule.backends.iter().map(backend_out).collect(),
        timeout: rule.timeout.map(check::duration_out),
        backend_timeout: rule.backend_timeout.map(check::duration_out),
        retry: rule.retry.as_ref().map(|retry| pb::Retry {
            codes: retry.codes.iter().map(|code| u32::from(*code)).collect(),
            attempts: retry.attempts.into(),
            backoff: retry.backoff.map(check::duration_out),
        }),
    }
}

fn match_(from: pb::RouteMatch) -> Result<Match, Error> {
    const FIELD: &str = "rules[].matches[].path";
    let path = match from.path.ok_or_else(|| missing(FIELD))? {
        pb::route_match::Path::Exact(text) => PathMatch::Exact(path(FIELD, &text)?),
        pb::route_match::Path::Prefix(text) => PathMatch::Prefix(path(FIELD, &text)?),
        pb::route_match::Path::Regex(text) => PathMatch::Regex(check::text(FIELD, &text)?),
    };
    let method = from.method.map(|method| upper("rules[].matches[].method", &method)).transpose()?;
    let header = |from: pb::NamedMatch| {
        let found = named("rules[].matches[].headers[]", from)?;
        check::token("rules[].matches[].headers[].name", &found.name)?;
        if found.name.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(invalid("rules[].matches[].headers[].name"));
        }
        Ok(found)
    };
    Ok(Match {
        path,
        headers: list("rules[].matches[].headers", LIST_MAX, from.headers, header)?,
        query: list("rules[].matches[].queryParams", LIST_MAX, from.query, |from| {
            named("rules[].matches[].queryParams[]", from)
        })?,
        method,
    })
}

fn match_out(from: &Match) -> pb::RouteMatch {
    pb::RouteMatch {
        path: Some(match &from.path {
            PathMatch::Exact(text) => pb::route_match::Path::Exact(text.to_string()),
            PathMatch::Prefix(text) => pb::route_match::Path::Prefix(text.to_string()),
            PathMatch::Regex(text) => pb::route_match::Path::Regex(text.to_string()),
        }),
        headers: from.headers.iter().map(named_out).collect(),
        query: from.query.iter().map(named_out).collect(),
        method: from.method.as_ref().map(Text::to_string),
    }
}

fn path(field: &'static str, text: &str) -> Result<Text, Error> {
    if !text.starts_with('/') {
        return Err(invalid(field));
    }
    check::text(field, text)
}

fn upper(field: &'static str, text: &str) -> Result<Text, Error> {
    if text.bytes().any(|b| b.is_ascii_lowercase()) {
        return Err(invalid(field));
    }
    check::token(field, text)
}

fn named(field: &'static str, from: pb::NamedMatch) -> Result<NamedMatch, Error> {
    if from.name.is_empty() {
        return Err(invalid(field));
    }
    let value = match from.value.ok_or_else(|| missing(field))? {
        pb::named_match::Value::Exact(text) => ValueMatch::Exact(check::text(field, &text)?),
        pb::named_match::Value::Regex(text) => ValueMatch::Regex(check::text(field, &text)?),
    };
    Ok(NamedMatch { name: check::text(field, &from.name)?, value })
}

fn named_out(from: &NamedMatch) -> pb::NamedMatch {
    let value = match &from.value {
        ValueMatch::Exact(text) => pb::named_match::Value::Exact(text.to_string()),
        ValueMatch::Regex(text) => pb::named_match::Value::Regex(text.to_string()),
    };
    pb::NamedMatch { name: from.name.to_string(), value: Some(value) }
}

fn filter(from: pb::RouteFilter) -> Result<RouteFilter, Error> {
    use pb::route_filter::Filter;
    Ok(match from.filter.ok_or_else(|| missing("rules[].filters[]"))? {
        Filter::RequestHeaders(from) => RouteFilter::RequestHeaders(edits(from)?),
        Filter::ResponseHeaders(from) => RouteFilter::ResponseHeaders(edits(from)?),
        Filter::Redirect(from) => RouteFilter::Redirect(redirect(from)?),
        Filter::Rewrite(from) => RouteFilter::Rewrite(Rewrite {
            hostname: from.hostname.map(|host| hostname(&host)).transpose()?,
            path: from.path.map(path_edit).transpose()?,
        }),
    })
}

fn filter_out(from: &RouteFilter) -> pb::RouteFilter {
    use pb::route_filter::Filter;
    let filter = match from {
        RouteFilter::RequestHeaders(edits) => Filter::RequestHeaders(edits_out(edits)),
        RouteFilter::ResponseHeaders(edits) => Filter::ResponseHeaders(edits_out(edits)),
        RouteFilter::Redirect(from) => Filter::Redirect(pb::Redirect {
            scheme: from.scheme.as_ref().map(Text::to_string),
            hostname: from.hostname.as_ref().map(Text::to_string),
            path: from.path.as_ref().map(path_edit_out),
            port: from.port.map(u32::from),
            status: from.status.into(),
        }),
        RouteFilter::Rewrite(from) => Filter::Rewrite(pb::Rewrite {
            hostname: from.hostname.as_ref().map(Text::to_string),
            path: from.path.as_ref().map(path_edit_out),
        }),
    };
    pb::RouteFilter { filter: Some(filter) }
}

fn redirect(from: pb::Redirect) -> Result<Redirect, Error> {
    const FIELD: &str = "rules[].filters[].requestRedirect";
    if from.scheme.as_deref().is_some_and(|scheme| !matches!(scheme, "http" | "https")) {
        return Err(invalid(FIELD));
    }
    let status = u16::try_from(from.status).ok().filter(|status| matches!(status, 301 | 302 | 303 | 307 | 308));
    Ok(Redirect {
        scheme: from.scheme.map(Text::from),
        hostname: from.hostname.map(|host| hostname(&host)).transpose()?,
        path: from.path.map(path_edit).transpose()?,
        port: from.port.map(|port| check::port(FIELD, port)).transpose()?,
        status: status.ok_or_else(|| invalid(FIELD))?,
    })
}

fn path_edit(from: pb::PathEdit) -> Result<PathEdit, Error> {
    const FIELD: &str = "rules[].filters[].path";
    Ok(match from.edit.ok_or_else(|| missing(FIELD))? {
        pb::path_edit::Edit::Full(text) => PathEdit::Full(check::text(FIELD, &text)?),
        pb::path_edit::Edit::Prefix(text) => PathEdit::Prefix(check::text(FIELD, &text)?),
    })
}

fn path_edit_out(from: &PathEdit) -> pb::PathEdit {
    let edit = match from {
        PathEdit::Full(text) => pb::path_edit::Edit::Full(text.to_string()),
        PathEdit::Prefix(text) => pb::path_edit::Edit::Prefix(text.to_string()),
    };
    pb::PathEdit { edit: Some(edit) }
}

fn edits(from: pb::HeaderEdits) -> Result<HeaderEdits, Error> {
    const FIELD: &str = "rules[].filters[].headers";
    let pair = |header: pb::Header| Ok((check::token(FIELD, &header.name)?, check::text(FIELD, &header.value)?));
    let lower = |name: String| match check::token(FIELD, &name)? {
        name if name.bytes().any(|b| b.is_ascii_uppercase()) => Err(invalid(FIELD)),
        name => Ok(name),
    };
    Ok(HeaderEdits {
        set: list(FIELD, LIST_MAX, from.set, pair)?,
        add: list(FIELD, LIST_MAX, from.add, pair)?,
        remove: list(FIELD, LIST_MAX, from.remove, lower)?,
    })
}

fn edits_out(from: &HeaderEdits) -> pb::HeaderEdits {
    let pair = |(name, value): &(Text, Text)| pb::Header { name: name.to_string(), value: value.to_string() };
    pb::HeaderEdits {
        set: from.set.iter().map(pair).collect(),
        add: from.add.iter().map(pair).collect(),
        remove: from.remove.iter().map(Text::to_string).collect(),
    }
}

fn backend(from: pb::Backend) -> Result<Backend, Error> {
    Ok(Backend {
        service: check::service_ref("rules[].backendRefs[]", from.service)?,
        port: check::port("rules[].backendRefs[].port", from.port)?,
        weight: from.weight,
        filters: list("rules[].backendRefs[].filters", LIST_MAX, from.filters, filter)?,
    })
}

fn backend_out(from: &Backend) -> pb::Backend {
    pb::Backend {
        service: Some(check::service_ref_out(&from.service)),
        port: from.port.into(),
        weight: from.weight,
        filters: from.filters.iter().map(filter_out).collect(),
    }
}

fn retry(from: pb::Retry) -> Result<Retry, Error> {
    const FIELD: &str = "rules[].retry";
    let code = |code: u32| {
        u16::try_from(code).ok().filter(|code| (400..600).contains(code)).ok_or_else(|| invalid("rules[].retry.codes"))
    };
    if from.attempts > ATTEMPTS_MAX {
        return Err(invalid("rules[].retry.attempts"));
    }
    Ok(Retry {
        codes: list(FIELD, LIST_MAX, from.codes, code)?,
        attempts: u8::try_from(from.attempts).map_err(|_| invalid(FIELD))?,
        backoff: check::optional_duration("rules[].retry.backoff", from.backoff)?,
    })
}
