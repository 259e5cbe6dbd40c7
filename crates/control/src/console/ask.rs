// SPDX-License-Identifier: Apache-2.0
//! Questions: explain (what would happen, what happened), lint (what is wrong with documents, or with
//! what is in force).

use super::traffic::{self, Callers};
use super::wire::{found, list};
use super::{Console, Outcome, Problem, certificate, write};
use crate::apply::Action;
use crate::explain::{self, Answer, Puzzle, Question};
use crate::observe::Wanted;
use byrnie_catalog::Catalog;
use byrnie_model::{Change, Diagnostic, Key, Kind, Resource, code};
use byrnie_net::serve::Request;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Most headers in a question.
const HEADERS_MAX: usize = 100;

/// The body of `POST /api/v1/explain`: a request that might be made (`request`, `from`), or a past one
/// (`record`, which is an id or `last`).
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Asked {
    /// `METHOD URL`.
    request: String,
    /// The caller.
    from: String,
    /// Namespace of bare names.
    namespace: String,
    /// Headers that routes may look at.
    headers: std::collections::BTreeMap<String, String>,
    /// A record's id, or `last`.
    record: String,
    /// With `last`: only records of this status.
    status: Option<u16>,
    /// With `last`: only records of this service.
    service: String,
}

/// `POST /api/v1/explain`.
pub(super) async fn explain(console: &Console, request: &Request) -> Outcome {
    let asked: Asked = serde_json::from_slice(&request.body).map_err(|error| {
        Problem::bad_request(
            format!("the body is not a question: {error}"),
            "{\"request\": \"GET http://payments/\", \"from\": \"web\"}",
        )
    })?;
    if !asked.record.is_empty() {
        return explain_record(console, &asked).await;
    }
    let question = question(asked)?;
    let (trust_domain, revision, now) = (&console.state.trust_domain, console.state.revision(), console.state.now());
    let answer = console.state.catalog(|catalog| explain::ask(catalog, trust_domain, &question, revision, now));
    match answer {
        Ok(answer) => Ok(found(&answer_row(&answer))),
        Err(Puzzle::BadRequest(why)) => {
            Err(Problem::bad_request(why, "byrnie explain \"GET http://payments/\" --from web"))
        }
        Err(Puzzle::NoCaller(meant)) => {
            let problem =
                Problem::new(404, &code::NOT_FOUND, format!("there is no workload or account {}", question.from));
            let next = meant.map(|meant| format!("did you mean {meant}? "));
            Err(problem.next(format!("{}`byrnie get workload` lists all", next.unwrap_or_default())))
        }
    }
}

async fn explain_record(console: &Console, asked: &Asked) -> Outcome {
    let records = match asked.record.as_str() {
        "last" => {
            let wanted = Wanted {
                status: asked.status,
                service: Some(asked.service.as_str().into()).filter(|_| !asked.service.is_empty()),
                failed: asked.status.is_none(),
                limit: 1,
            };
            // Any proxy may have a newer one.
            traffic::reported(console, |_| false).await;
            console.state.observe(|observer| observer.records(&wanted))
        }
        id => traffic::named(console, id).await,
    };
    let Some(record) = records.first() else {
        let detail = format!("there is no record {} that fits", asked.record);
        return Err(Problem::new(404, &code::NOT_FOUND, detail)
            .next("records of failures and of sampled successes are kept for a while: `byrnie explain last`"));
    };
    let callers = Callers::of(console);
    let mut row = answer_row(&explain::past(record, &callers.name(record)));
    row["record"] = callers.row(record);
    Ok(found(&row))
}

fn question(asked: Asked) -> Result<Question, Problem> {
    let usage = "\"METHOD URL\", such as \"GET http://payments/charge\"";
    let (method, url) = match asked.request.trim().split_once(' ') {
        Some((method, url)) => (method.to_ascii_uppercase(), url.trim()),
        None => ("GET".to_owned(), asked.request.trim()),
    };
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    if !matches!(scheme, "http" | "https" | "tcp" | "udp") || rest.is_empty() || asked.headers.len() > HEADERS_MAX {
        return Err(Problem::bad_request(format!("{:?} is not a request", asked.request), usage));
    }
    if asked.from.is_empty() {
        return Err(Problem::bad_request("the caller is missing", "--from WORKLOAD"));
    }
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let path = &rest[at..];
    Ok(Question {
        method,
        scheme: scheme.to_owned(),
        authority: rest[..at].to_ascii_lowercase(),
        path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
        headers: asked.headers.into_iter().collect(),
        from: asked.from,
        namespace: if asked.namespace.is_empty() { "default".to_owned() } else { asked.namespace },
    })
}

fn answer_row(answer: &Answer) -> Value {
    let step = |step: &explain::Step| json!({"hop": step.hop, "rule": step.rule, "where": step.place, "detail": step.detail, "proxy": step.proxy});
    json!({
        "decision": answer.decision,
        "code": answer.code,
        "reason": answer.reason,
        "status": answer.status,
        "steps": list(&answer.steps, step),
        "nearest": answer.nearest,
        "next": answer.next,
    })
}

/// `POST /api/v1/lint`: of the documents in the body, as if applied; without a body, of what is in force.
pub(super) fn lint(console: &Console, request: &Request) -> Outcome {
    let mut parsed = write::parse_body(console, request)?;
    let text = std::str::from_utf8(&request.body).unwrap_or_default();
    let resources: Vec<_> = parsed.documents.iter().map(|document| document.resource.clone()).collect();
    let mut judged = judge(console, &resources);
    parsed.place(text, &mut judged);
    let mut diagnostics = std::mem::take(&mut parsed.diagnostics);
    diagnostics.extend(judged);
    Ok(found(&list(&diagnostics, Diagnostic::to_json)))
}

/// What is wrong with resources beside those in force, as if they were applied; without any, what is
/// wrong with those in force.
pub(super) fn judge(console: &Console, resources: &[Resource]) -> Vec<Diagnostic> {
    let now = console.state.now().wall;
    if resources.is_empty() {
        return console.state.catalog(|catalog| {
            let ending = catalog.iter(Kind::Secret).filter_map(|resource| certificate::judge(resource, now));
            catalog.check().into_iter().chain(ending).collect()
        });
    }
    let trial = trial(console, resources);
    let one = |resource: &Resource| trial.check_one(resource).into_iter().chain(certificate::judge(resource, now));
    resources.iter().flat_map(one).collect()
}

/// What is wrong in a mesh after these changes, and isn't before them.
pub(super) fn news(console: &Console, actions: &[Action]) -> Vec<Diagnostic> {
    fn what(found: &Diagnostic) -> (&'static str, Option<Key>, String) {
        (found.code.id, found.subject.clone(), found.path.clone())
    }
    let mut trial = trial(console, &[]);
    for action in actions {
        trial.apply(&match action {
            Action::Put(resource) => Change::Put(Arc::new(resource.clone())),
            Action::Delete(key) => Change::Delete { key: key.clone(), revision: console.state.revision() },
        });
    }
    let mut found = trial.check();
    // Of what is in force, only that is looked at of which something is to be said.
    let subjects: BTreeSet<&Key> = found.iter().filter_map(|found| found.subject.as_ref()).collect();
    let before: BTreeSet<_> = console.state.catalog(|catalog| {
        let present = subjects.into_iter().filter_map(|key| catalog.resource(key));
        present.flat_map(|resource| catalog.check_one(resource)).map(|found| what(&found)).collect()
    });
    found.retain(|found| !before.contains(&what(found)));
    found
}

/// What is in force, with these resources, in a catalog of its own, so that the real one is neither changed nor held up.
fn trial(console: &Console, resources: &[Resource]) -> Catalog {
    let stored: Vec<_> = console
        .state
        .catalog(|catalog| Kind::APPLICABLE.into_iter().flat_map(|kind| catalog.iter(kind)).cloned().collect());
    let mut trial = Catalog::new();
    for resource in stored.into_iter().chain(resources.iter().cloned().map(Arc::new)) {
        trial.apply(&Change::Put(resource));
    }
    trial
}
