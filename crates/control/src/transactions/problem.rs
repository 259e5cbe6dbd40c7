// SPDX-License-Identifier: Apache-2.0
//! Why the coordinator doesn't do what was asked, as an RFC 9457 problem document with byrnie's members.

use byrnie_model::code::{self, Code};
use byrnie_net::serve::{Response, StatusCode, header};
use byrnie_saga::Refusal;
use serde_json::json;

/// Why something isn't done.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub(super) status: u16,
    pub(super) code: &'static Code,
    pub(super) detail: String,
    pub(super) place: String,
}

impl Problem {
    pub(super) fn new(status: u16, code: &'static Code, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), place: String::new() }
    }

    /// With a place.
    pub(super) fn at(mut self, place: impl Into<String>) -> Self {
        self.place = place.into();
        self
    }

    /// The body isn't what was expected there.
    pub(super) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(400, &code::TXN_MALFORMED, detail)
    }

    /// There is no such transaction.
    pub(super) fn absent(id: &str) -> Self {
        Self::new(404, &code::TXN_ABSENT, format!("there is no transaction {id}"))
    }

    pub(super) fn response(&self) -> Response {
        let document = json!({
            "type": "about:blank",
            "title": self.code.title,
            "status": self.status,
            "code": self.code.id,
            "detail": self.detail,
            "where": self.place,
            "next": self.code.next,
        });
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let response = Response::new(status, "application/problem+json", document.to_string());
        if self.status == 503 { response.with(header::RETRY_AFTER, "1") } else { response }
    }
}

impl From<byrnie_store::Error> for Problem {
    fn from(error: byrnie_store::Error) -> Self {
        let (status, code) = match error {
            byrnie_store::Error::Limit { .. } | byrnie_store::Error::Malformed(_) => (413, &code::TXN_JOURNAL),
            byrnie_store::Error::Sealed(_) => (503, &code::TXN_SEALED),
            _ => (503, &code::TXN_JOURNAL),
        };
        Self::new(status, code, error.to_string())
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match &refusal {
            Refusal::State { .. } => Self::new(409, &code::TXN_STATE, refusal.to_string()),
            Refusal::NoBranch(_) => Self::new(404, &code::TXN_ABSENT, refusal.to_string()),
            Refusal::Plan(_) => Self::malformed(refusal.to_string()),
            Refusal::Differs(_) => Self::new(422, &code::TXN_DIFFERS, refusal.to_string()),
        }
    }
}
