// SPDX-License-Identifier: Apache-2.0
//! Errors of the API, as RFC 9457 problem documents with byrnie's members: `code`, `detail`, `where`,
//! `next`, and `diagnostics` where documents were refused.

use super::wire::respond;
use byrnie_model::code::{self, Code};
use byrnie_model::{Diagnostic, Key};
use byrnie_net::serve::{Response, header};
use serde_json::{Value, json};

/// Why a request isn't answered as hoped.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The entry of the registry; `None` for plain misuse of HTTP.
    pub code: Option<&'static Code>,
    /// What happened.
    pub detail: String,
    /// Where: a resource, or a place in the document sent.
    pub place: String,
    /// What to do.
    pub next: String,
    /// What is wrong with the documents sent.
    pub diagnostics: Vec<Diagnostic>,
}

impl Problem {
    /// A problem of the registry.
    pub fn new(status: u16, code: &'static Code, detail: impl Into<String>) -> Self {
        Self {
            status,
            code: Some(code),
            detail: detail.into(),
            place: String::new(),
            next: code.next.to_owned(),
            diagnostics: Vec::new(),
        }
    }

    /// A request that makes no sense.
    pub fn bad_request(detail: impl Into<String>, next: impl Into<String>) -> Self {
        Self { next: next.into(), ..Self::bare(400, detail) }
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
        Self { next: "see /openapi.json".to_owned(), ..Self::bare(404, detail) }
    }

    /// No such resource.
    pub fn absent(key: &Key) -> Self {
        let mut problem = Self::new(404, &code::NOT_FOUND, format!("there is no {key}"));
        problem.place = key.to_string();
        problem
    }

    /// The path is right and the method isn't.
    pub fn method(method: &str) -> Self {
        Self { next: "see /openapi.json".to_owned(), ..Self::bare(405, format!("{method} is not for this path")) }
    }

    /// Documents were refused; the first of them speaks for all.
    pub fn refused(diagnostics: Vec<Diagnostic>) -> Self {
        let Some(first) = diagnostics.iter().find(|d| d.is_error()).or(diagnostics.first()) else {
            return Self::bare(422, "refused");
        };
        Self {
            status: 422,
            code: Some(first.code),
            detail: first.message.clone(),
            place: first.place(),
            next: first.fix.clone(),
            diagnostics,
        }
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
            "title": self.code.map_or("request refused", |code| code.title),
            "status": self.status,
            "code": self.code.map_or("", |code| code.id),
            "detail": self.detail,
            "where": self.place,
            "next": self.next,
        });
        if !self.diagnostics.is_empty() {
            document["diagnostics"] = Value::Array(self.diagnostics.iter().map(Diagnostic::to_json).collect());
        }
        let response = respond(self.status, "application/problem+json", document.to_string());
        if self.status == 401 { response.with(header::WWW_AUTHENTICATE, "Bearer realm=\"byrnie\"") } else { response }
    }

    fn bare(status: u16, detail: impl Into<String>) -> Self {
        Self {
            status,
            code: None,
            detail: detail.into(),
            place: String::new(),
            next: String::new(),
            diagnostics: Vec::new(),
        }
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
