// SPDX-License-Identifier: Apache-2.0
//! The time-outs, retries and sessions of a rule.

use crate::code;
use crate::route::{Carrier, Retry, Session, is_header_editable};
use crate::yaml::names;
use crate::yaml::reader::Reader;
use gateway_api::experimental::httproutes as gw;
use serde_json::{Value, json};
use std::time::Duration;

/// Most retries of one request, far beyond what helps.
const ATTEMPTS_MAX: i64 = 10;
/// Longest name of a session: a limit of the CRD.
const SESSION_NAME_BYTES_MAX: usize = 128;

pub(super) type Timeouts = (Option<Duration>, Option<Duration>);

/// For the exchange and for one try; zero means no limit, as in the CRD.
pub(super) fn timeouts(reader: &mut Reader<'_>, said: Option<&gw::HttpRouteRulesTimeouts>, at: &str) -> Timeouts {
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

pub(super) fn retry(reader: &mut Reader<'_>, said: &gw::HttpRouteRulesRetry, at: &str) -> Retry {
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

/// A session; `fallback` is the name of its cookie if it has none of its own.
pub(super) fn session(
    reader: &mut Reader<'_>,
    said: &gw::HttpRouteRulesSessionPersistence,
    at: &str,
    fallback: &str,
) -> Session {
    use gw::HttpRouteRulesSessionPersistenceCookieConfigLifetimeType as Lifetime;
    let name = said.session_name.as_deref().unwrap_or(fallback);
    let fits = names::is_header_name(name) && name.len() <= SESSION_NAME_BYTES_MAX;
    let message = format!("\"{name}\" is not the name of a cookie or header of at most {SESSION_NAME_BYTES_MAX} bytes");
    reader.require(fits, &format!("{at}.sessionName"), message);
    let mut span = |text: &Option<String>, field: &str| {
        text.as_deref().map(|text| reader.some_time(text, &format!("{at}.{field}")))
    };
    let absolute = span(&said.absolute_timeout, "absoluteTimeout");
    let idle = span(&said.idle_timeout, "idleTimeout");
    let lifetime = said.cookie_config.as_ref().and_then(|config| config.lifetime_type.as_ref());
    let carrier = match (&said.r#type, lifetime) {
        (Some(gw::HttpRouteRulesSessionPersistenceType::Header), None) => Carrier::Header,
        (Some(gw::HttpRouteRulesSessionPersistenceType::Header), Some(_)) => {
            let message = "a session by header has no cookie: remove cookieConfig, or write type: Cookie";
            reader.fault(&code::CONTRADICTION, format!("{at}.cookieConfig"), message);
            Carrier::Header
        }
        (_, Some(Lifetime::Permanent)) => Carrier::PermanentCookie,
        (_, Some(Lifetime::Session) | None) => Carrier::Cookie,
    };
    if carrier == Carrier::PermanentCookie && absolute.is_none() {
        let message = "a permanent cookie needs absoluteTimeout: how long it lives";
        reader.fault(&code::MISSING_FIELD, at, message);
    }
    if carrier == Carrier::Header && !is_header_editable(name) {
        let message = format!("the header \"{name}\" cannot carry a session");
        reader.fault(&code::BAD_VALUE, format!("{at}.sessionName"), message);
    }
    Session { name: name.into(), carrier, absolute, idle }
}

/// The session as a document says it.
pub(super) fn session_value(session: &Session) -> Value {
    let mut value = json!({"sessionName": session.name, "type": "Cookie"});
    match session.carrier {
        Carrier::Cookie => {}
        Carrier::PermanentCookie => value["cookieConfig"] = json!({"lifetimeType": "Permanent"}),
        Carrier::Header => value["type"] = json!("Header"),
    }
    for (name, span) in [("absoluteTimeout", session.absolute), ("idleTimeout", session.idle)] {
        if let Some(span) = span {
            value[name] = json!(names::duration_text(span));
        }
    }
    value
}

/// The time-outs as a document says them, added to a rule.
pub(super) fn timeouts_value(timeout: Option<Duration>, backend_timeout: Option<Duration>, rule: &mut Value) {
    for (name, span) in [("request", timeout), ("backendRequest", backend_timeout)] {
        if let Some(span) = span {
            rule["timeouts"][name] = json!(names::duration_text(span));
        }
    }
}

/// The retries as a document says them.
pub(super) fn retry_value(retry: &Retry) -> Value {
    let mut value = json!({"attempts": retry.attempts});
    if !retry.codes.is_empty() {
        value["codes"] = json!(retry.codes);
    }
    if let Some(backoff) = retry.backoff {
        value["backoff"] = json!(names::duration_text(backoff));
    }
    value
}
