// SPDX-License-Identifier: Apache-2.0
//! The console as the client commands see it: a JSON question, a JSON answer, and its problems as
//! [`Failure`]s.

use crate::failure::{Exit, Failure};
use crate::globals::Globals;
use byrnie_model::code;
use byrnie_net::runtime;
use byrnie_net::serve::client::{Client, Error, Outgoing};
use byrnie_net::serve::{HeaderMap, Method};
use serde_json::Value;
use std::time::Duration;

/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A console and the token for it.
pub(crate) struct Console(Client);

impl Console {
    /// The console that the flags or the data directory name.
    pub(crate) fn find(globals: &Globals) -> Result<Self, Failure> {
        let token = globals.operator_token()?;
        let client = Client::new(&globals.console_url(), Some(&token));
        client.map(Self).map_err(|error| Failure::usage(error.to_string()).next("--server http://HOST:PORT"))
    }

    /// Reads.
    pub(crate) fn get(&self, path: &str) -> Result<Value, Failure> {
        self.ask(Outgoing::get(path))
    }

    /// Reads; with a header field of the answer, if it's there.
    pub(crate) fn read_with(&self, path: &str, header: &str) -> Result<(Value, Option<String>), Failure> {
        let (headers, value) = self.answer(Outgoing::get(path))?;
        Ok((value, headers.get(header).and_then(|value| value.to_str().ok()).map(str::to_owned)))
    }

    /// Removes.
    pub(crate) fn delete(&self, path: &str) -> Result<Value, Failure> {
        self.ask(Outgoing { method: Method::DELETE, ..Outgoing::get(path) })
    }

    /// Sends JSON.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.ask(Outgoing::with_body(Method::POST, path, "application/json", body.to_string()))
    }

    /// Sends documents.
    pub(crate) fn post_yaml(&self, path: &str, text: String) -> Result<Value, Failure> {
        self.ask(Outgoing::with_body(Method::POST, path, "application/yaml", text))
    }

    fn ask(&self, request: Outgoing) -> Result<Value, Failure> {
        self.answer(request).map(|(_, value)| value)
    }

    fn answer(&self, request: Outgoing) -> Result<(HeaderMap, Value), Failure> {
        let sent = runtime::block_on(self.0.send(request, TIMEOUT))
            .map_err(|e| Failure::new(code::INTERNAL.id, e.to_string()))?;
        let reply = sent.map_err(|error| self.unreachable(&error))?;
        if reply.status.is_success() {
            let bad = |error| Failure::new(code::INTERNAL.id, format!("the console's answer is not JSON: {error}"));
            return Ok((reply.headers, serde_json::from_slice(&reply.body).map_err(bad)?));
        }
        let mut failure: Failure = serde_json::from_slice(&reply.body).unwrap_or_default();
        if failure.detail.is_empty() {
            failure.detail = format!("the console answered {}", reply.status);
        }
        failure.exit = Exit::Problem;
        Err(failure)
    }

    fn unreachable(&self, error: &Error) -> Failure {
        let mut failure =
            Failure::new(code::UNREACHABLE.id, error.to_string()).at(format!("http://{}", self.0.server()));
        failure.exit = Exit::Unreachable;
        failure.next("start a mesh with `byrnie up`, or give --data-dir or --server")
    }
}

/// Who runs this command, for the history.
pub(crate) fn user() -> String {
    std::env::var("USER").unwrap_or_default()
}

/// Text as it may stand in a path segment or a query.
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// `?name=value&...` of those that aren't empty.
pub(crate) fn query(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = pairs
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name}={}", encode(value)))
        .collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}
