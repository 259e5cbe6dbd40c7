// SPDX-License-Identifier: Apache-2.0
//! `Route` on the wire. Regular expressions are checked by whoever compiles them, not here.

use super::Error;
use super::check::{self, LIST_MAX, invalid, labels, labels_out, list, message, missing};
use super::filter::{filter, filter_out};
use crate::proto::byrnie::v1 as pb;
use crate::proto::{Bytes, Message};
use byrnie_base::Text;
use byrnie_model::route::{
    Backend, Carrier, Destination, Match, NamedMatch, Parent, ParentKind, PathMatch, Retry, Route, Rule, Session,
    Standing, ValueMatch,
};
use byrnie_model::{Labels, Revision, Spec};
use std::sync::Arc;

/// Most tries after the first: the model's own limit.
const ATTEMPTS_MAX: u32 = 10;

pub(super) fn encode(route: &Route, created: Revision, labels: &Labels) -> Bytes {
    let parent = |parent: &Parent| pb::Parent {
        kind: parent_kind_out(parent.kind),
        name: Some(check::service_ref_out(&parent.name)),
        section: parent.section.as_ref().map(Text::to_string),
        port: parent.port.map(u32::from),
    };
    let message = pb::Route {
        labels: labels_out(labels),
        parents: route.parents.iter().map(parent).collect(),
        hostnames: route.hostnames.iter().map(Text::to_string).collect(),
        rules: route.rules.iter().map(rule_out).collect(),
        created: created.0,
    };
    message.encode_to_vec().into()
}

/// What bytes say, and when the route began to exist.
pub(super) fn decode(bytes: &[u8]) -> Result<(Spec, Labels, Revision), Error> {
    let route: pb::Route = message("route", bytes)?;
    let parent = |parent: pb::Parent| {
        Ok(Parent {
            kind: parent_kind(parent.kind)?,
            name: check::service_ref("parentRefs[]", parent.name)?,
            section: parent.section.map(|name| check::name("parentRefs[].sectionName", &name)).transpose()?,
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
    Ok((Spec::Route(Arc::new(spec)), labels("labels", route.labels)?, Revision(route.created)))
}

fn parent_kind(number: i32) -> Result<ParentKind, Error> {
    match pb::ParentKind::try_from(number) {
        Ok(pb::ParentKind::Service) => Ok(ParentKind::Service),
        Ok(pb::ParentKind::Gateway) => Ok(ParentKind::Gateway),
        Ok(pb::ParentKind::ListenerSet) => Ok(ParentKind::ListenerSet),
        Ok(pb::ParentKind::Unspecified) | Err(_) => Err(invalid("parentRefs[].kind")),
    }
}

const fn parent_kind_out(kind: ParentKind) -> i32 {
    (match kind {
        ParentKind::Service => pb::ParentKind::Service,
        ParentKind::Gateway => pb::ParentKind::Gateway,
        ParentKind::ListenerSet => pb::ParentKind::ListenerSet,
    }) as i32
}

pub(super) fn hostname(host: &str) -> Result<Text, Error> {
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
        session: rule.session.map(session).transpose()?,
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
        session: rule.session.as_ref().map(session_out),
    }
}

fn session(from: pb::Session) -> Result<Session, Error> {
    const FIELD: &str = "rules[].sessionPersistence";
    let carrier = match pb::Carrier::try_from(from.carrier) {
        Ok(pb::Carrier::Cookie) => Carrier::Cookie,
        Ok(pb::Carrier::PermanentCookie) => Carrier::PermanentCookie,
        Ok(pb::Carrier::Header) => Carrier::Header,
        Ok(pb::Carrier::Unspecified) | Err(_) => return Err(invalid(FIELD)),
    };
    Ok(Session {
        name: check::token(FIELD, &from.name)?,
        carrier,
        absolute: check::optional_duration(FIELD, from.absolute)?,
        idle: check::optional_duration(FIELD, from.idle)?,
    })
}

fn session_out(from: &Session) -> pb::Session {
    let carrier = match from.carrier {
        Carrier::Cookie => pb::Carrier::Cookie,
        Carrier::PermanentCookie => pb::Carrier::PermanentCookie,
        Carrier::Header => pb::Carrier::Header,
    };
    pb::Session {
        name: from.name.to_string(),
        carrier: carrier.into(),
        absolute: from.absolute.map(check::duration_out),
        idle: from.idle.map(check::duration_out),
    }
}

pub(super) fn destination(field: &'static str, from: Option<pb::Destination>) -> Result<Destination, Error> {
    let from = from.ok_or_else(|| missing(field))?;
    let standing = match (from.granted, from.unserved.as_str()) {
        (true, "") => Standing::Granted,
        (false, "") => Standing::Foreign,
        (false, word) => Standing::Unserved(check::name(field, word)?),
        (true, _) => return Err(invalid(field)),
    };
    let port = match from.pool {
        true if from.port == 0 => 0,
        true => return Err(invalid(field)),
        false => check::port(field, from.port)?,
    };
    Ok(Destination { service: check::service_ref(field, from.service)?, port, standing })
}

pub(super) fn destination_out(from: &Destination) -> pb::Destination {
    pb::Destination {
        service: Some(check::service_ref_out(&from.service)),
        port: from.port.into(),
        granted: from.standing == Standing::Granted,
        pool: from.is_pool(),
        unserved: if let Standing::Unserved(word) = &from.standing { word.to_string() } else { String::new() },
    }
}

fn match_(from: pb::RouteMatch) -> Result<Match, Error> {
    const FIELD: &str = "rules[].matches[].path";
    let path = match from.path.ok_or_else(|| missing(FIELD))? {
        pb::route_match::Path::Exact(text) => PathMatch::Exact(path(FIELD, &text)?),
        pb::route_match::Path::Prefix(text) => PathMatch::Prefix(path(FIELD, &text)?),
        pb::route_match::Path::Regex(text) => PathMatch::Regex(check::text(FIELD, &text)?),
        pb::route_match::Path::Grpc(from) => {
            let value = |from: Option<pb::ValueMatch>| {
                from.map(|from| match from.value.ok_or_else(|| missing(FIELD))? {
                    pb::value_match::Value::Exact(text) => Ok(ValueMatch::Exact(check::text(FIELD, &text)?)),
                    pb::value_match::Value::Regex(text) => Ok(ValueMatch::Regex(check::text(FIELD, &text)?)),
                })
                .transpose()
            };
            PathMatch::Grpc { service: value(from.service)?, method: value(from.method)? }
        }
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
            PathMatch::Grpc { service, method } => pb::route_match::Path::Grpc(pb::GrpcMatch {
                service: service.as_ref().map(value_out),
                method: method.as_ref().map(value_out),
            }),
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

fn value_out(from: &ValueMatch) -> pb::ValueMatch {
    pb::ValueMatch {
        value: Some(match from {
            ValueMatch::Exact(text) => pb::value_match::Value::Exact(text.to_string()),
            ValueMatch::Regex(text) => pb::value_match::Value::Regex(text.to_string()),
        }),
    }
}

fn named_out(from: &NamedMatch) -> pb::NamedMatch {
    let value = match &from.value {
        ValueMatch::Exact(text) => pb::named_match::Value::Exact(text.to_string()),
        ValueMatch::Regex(text) => pb::named_match::Value::Regex(text.to_string()),
    };
    pb::NamedMatch { name: from.name.to_string(), value: Some(value) }
}

fn backend(from: pb::Backend) -> Result<Backend, Error> {
    Ok(Backend {
        to: destination("rules[].backendRefs[]", from.to)?,
        weight: from.weight,
        filters: list("rules[].backendRefs[].filters", LIST_MAX, from.filters, filter)?,
    })
}

fn backend_out(from: &Backend) -> pb::Backend {
    pb::Backend {
        to: Some(destination_out(&from.to)),
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
