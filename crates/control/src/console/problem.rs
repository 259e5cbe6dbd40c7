// SPDX-License-Identifier: Apache-2.0
//! Errors of the API, as RFC 9457 problem documents with byrnie's members: `code`, `detail`, `where`,
//! `next`, and `diagnostics` where documents were refused.

use super::wire::respond;
use byrnie_model::code::{self, Code};
use byrnie_model::{Diagnostic, Key};
use byrnie_net::serve::{HeaderValue, Response, header};
use serde_json::{Value, json};

/// Why a request isn't answered as hoped.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The entry of the registry.
    pub code: &'static Code,
    /// What happened.
    pub detail: String,
    /// Where: a resource, or a place in the document sent.
    pub place: String,
    /// What to do.
    pub next: String,
    /// What is wrong with the documents sent.
    pub diagnostics: Vec<Diagnostic>,
    /// The methods that the path has, if it's this that was wrong.
    pub allow: Option<Box<HeaderValue>>,
}

impl Problem {
    /// A problem of the registry.
    pub fn new(status: u16, code: &'static Code, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            place: String::new(),
            next: code.next.to_owned(),
            diagnostics: Vec::new(),
            allow: None,
        }
    }

    /// A request that makes no sense.
    pub fn bad_request(detail: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(400, &code::BAD_QUESTION, detail).next(next)
    }

    /// A request that isn't let in whatever token it shows.
    pub fn forbidden(detail: impl Into<String>, next: impl Into<String>) -> Self {
        Self { next: next.into(), ..Self::new(403, &code::FOREIGN, detail) }
    }

    /// A request without the operator's token.
    pub fn unauthorized() -> Self {
        Self::new(401, &code::NO_TOKEN, "the operator's token is missing or wrong")
    }

    /// Nothing is there.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(404, &code::NO_PATH, detail)
    }

    /// No such resource.
    pub fn absent(key: &Key) -> Self {
        let mut problem = Self::new(404, &code::NOT_FOUND, format!("there is no {key}"));
        problem.place = key.to_string();
        problem
    }

    /// The path is right and the method isn't.
    pub fn method(method: &str, allow: &str) -> Self {
        let detail = format!("{method} is not for this path; it has {allow}");
        let allow = HeaderValue::from_str(allow).ok().map(Box::new);
        Self { allow, ..Self::new(405, &code::NO_METHOD, detail) }
    }

    /// Documents were refused; the first of them speaks for all.
    pub fn refused(diagnostics: Vec<Diagnostic>) -> Self {
        let Some(first) = diagnostics.iter().find(|d| d.is_error()).or(diagnostics.first()) else {
            return Self::new(422, &code::BAD_QUESTION, "refused");
        };
        let refused = Self::new(422, first.code, first.message.clone()).at(first.place()).next(first.fix.clone());
        Self { diagnostics, ..refused }
    }

    /// With a place.
    pub fn at(mut self, place: impl Into<String>) -> Self {
        self.place = place.into();
        self
    }

    /// With other words on what to do.
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = next.into();
        self
    }

    /// The problem document.
    pub fn response(&self) -> Response {
        let mut document = json!({
            "type": "about:blank",
            "title": self.code.title,
            "status": self.status,
            "code": self.code.id,
            "detail": self.detail,
            "where": self.place,
            "next": self.next,
        });
        if !self.diagnostics.is_empty() {
            document["diagnostics"] = Value::Array(self.diagnostics.iter().map(Diagnostic::to_json).collect());
        }
        let mut response = respond(self.status, "application/problem+json", document.to_string());
        if let Some(allow) = &self.allow {
            response.headers.insert(header::ALLOW, (**allow).clone());
        }
        if self.status == 401 { response.with(header::WWW_AUTHENTICATE, "Bearer realm=\"byrnie\"") } else { response }
    }
}

impl From<byrnie_store::Error> for Problem {
    fn from(error: byrnie_store::Error) -> Self {
        match &error {
            byrnie_store::Error::Conflict { key, .. } => {
                Self::new(409, &code::STALE, "somebody else changed it at the same moment").at(key.to_string())
            }
            byrnie_store::Error::Limit { .. } => Self::new(413, &code::TOO_LARGE, error.to_string()),
            byrnie_store::Error::Refused(_) => Self::new(507, &code::DISK_FULL, error.to_string()),
            _ => Self::new(503, &code::STORE_UNREACHABLE, error.to_string()),
        }
    }
}
