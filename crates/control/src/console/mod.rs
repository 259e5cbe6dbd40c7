// SPDX-License-Identifier: Apache-2.0
//! The one HTTP API, for command line and dashboard alike, and the dashboard's own files. `control`
//! serves [`answer`] on the console port. It asks the state and the observer and changes the mesh only
//! through the store; every answer but the open ones needs the operator's token.

mod ask;
mod certificate;
mod look;
mod openapi;
mod problem;
mod register;
mod stream;
#[cfg(test)]
mod tests;
mod traffic;
mod wire;
mod write;

pub use problem::Problem;

pub(crate) use look::metrics;

use crate::State;
use crate::access::Operator;
use byrnie_base::Text;
use byrnie_codec::exposition;
use byrnie_model::Severity;
use byrnie_model::code::Code;
use byrnie_net::serve::unary::{self, Refusal, Status};
use byrnie_net::serve::{HeaderName, HeaderValue, Request, Response, header};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use wire::{found, json_response, respond};

/// A file of the dashboard.
#[derive(Clone, Debug)]
pub struct Asset {
    /// Its media type.
    pub mime: &'static str,
    /// What it holds.
    pub bytes: Bytes,
}

/// The dashboard's files by path, without leading `/`. The binary embeds them.
pub type Assets = Arc<dyn Fn(&str) -> Option<Asset> + Send + Sync>;

/// What `status` says of another role: how grave, its code, what it is.
pub type Warning = (Severity, &'static Code, Text);

/// What another role answers under the console's port.
pub struct Aside {
    /// Answers requests of whoever has shown the operator's token.
    pub answer: byrnie_net::serve::Answer,
    /// Its numbers, as Prometheus text.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// What of it `status` warns of.
    pub warnings: Arc<dyn Fn() -> Vec<Warning> + Send + Sync>,
}

/// What the console answers from.
pub struct Console {
    /// What all roles share.
    pub state: Arc<State>,
    /// Who may ask.
    pub operator: Operator,
    /// The dashboard.
    pub assets: Assets,
    /// What another role answers under the same port, for the operator alone.
    aside: Option<Arc<Aside>>,
    /// Event streams open at the moment.
    pub(crate) streams: Arc<AtomicUsize>,
}

impl Console {
    /// A console over `state`.
    pub fn new(state: Arc<State>, operator: Operator, assets: Assets) -> Self {
        Self { state, operator, assets, aside: None, streams: Arc::default() }
    }

    /// With another role's answers under `/txn/`, `/api/dtmsvr/` and `/dtmgimp.Dtm/`, and its numbers in `/metrics`.
    #[must_use]
    pub fn beside(self, aside: Arc<Aside>) -> Self {
        Self { aside: Some(aside), ..self }
    }
}

/// What an answer comes to before it's written down.
type Outcome = Result<Response, Problem>;

/// What the console's server calls for each request.
pub fn serve(console: Console) -> byrnie_net::serve::Answer {
    let console = Arc::new(console);
    Arc::new(move |request| {
        let console = Arc::clone(&console);
        Box::pin(async move { answer(&console, request).await })
    })
}

/// Answers one request.
pub async fn answer(console: &Console, request: Request) -> Response {
    let segments = wire::segments(&request);
    let path: Vec<&str> = segments.iter().map(String::as_str).collect();
    let outcome = if !console.operator.is_addressed(&request) {
        Err(Problem::forbidden("the Host header names another machine", "use localhost or a configured name"))
    } else {
        match path.as_slice() {
            ["api", "v1", rest @ ..] => guarded(console, &request, rest).await,
            ["txn", ..] | ["api", "dtmsvr", ..] => match (entitled(console, &request), &console.aside) {
                (Err(problem), _) => Err(problem),
                (Ok(()), Some(aside)) => Ok((aside.answer)(request).await),
                (Ok(()), None) => Err(Problem::not_found("this control plane coordinates no transactions")),
            },
            ["dtmgimp.Dtm", ..] => method(console, request).await,
            _ => open(console, &request, &path),
        }
    };
    secured(outcome.unwrap_or_else(|problem| problem.response()))
}

/// A call of gRPC, which is told in its own words why it isn't answered.
async fn method(console: &Console, request: Request) -> Outcome {
    let refused = |status, text: &str| Ok(unary::answer(Err(Refusal::new(status, text))));
    match (entitled(console, &request), &console.aside) {
        (Err(problem), _) if !unary::is_grpc(&request) => Err(problem),
        (Err(_), _) => {
            refused(Status::Unauthenticated, "metadata `authorization` needs `Bearer TOKEN`, the operator's")
        }
        (Ok(()), Some(aside)) => Ok((aside.answer)(request).await),
        (Ok(()), None) => refused(Status::Unimplemented, "this control plane coordinates no transactions"),
    }
}

/// What anybody on this machine may read: health, metrics, the description of the API, and the
/// dashboard's files, which hold nothing of the mesh.
fn open(console: &Console, request: &Request, path: &[&str]) -> Outcome {
    if !matches!(request.method.as_str(), "GET" | "HEAD") {
        return Err(Problem::method(request.method.as_str(), "GET, HEAD"));
    }
    match path {
        ["healthz"] => Ok(respond(200, "text/plain", "ok\n")),
        ["readyz"] => Ok(look::ready(console)),
        ["metrics"] => {
            let text = look::metrics(&console.state, console.aside.as_deref());
            let (kind, text) = exposition::shown(request.header("accept"), text);
            Ok(respond(200, kind, text))
        }
        ["openapi.json"] => Ok(json_response(200, &openapi::document())),
        path => asset(console, &path.join("/")),
    }
}

/// Whether a request shows the operator's token, and comes from no foreign page.
fn entitled(console: &Console, request: &Request) -> Result<(), Problem> {
    if !console.operator.is_own_page(request) {
        return Err(Problem::forbidden("the request comes from another site's page", "open the console's own page"));
    }
    if console.operator.knows(request) { Ok(()) } else { Err(Problem::unauthorized()) }
}

async fn guarded(console: &Console, request: &Request, path: &[&str]) -> Outcome {
    entitled(console, request)?;
    match (request.method.as_str(), path) {
        ("POST", ["apply"]) => write::apply(console, request).await,
        ("POST", ["undo"]) => write::undo(console, request).await,
        ("GET", ["resources"]) => look::resources(console, request),
        ("GET", ["resources", kind, name]) => look::resource(console, kind, "", name),
        ("GET", ["resources", kind, namespace, name]) => look::resource(console, kind, namespace, name),
        ("DELETE", ["resources", kind, name]) => write::delete(console, request, kind, "", name).await,
        ("DELETE", ["resources", kind, namespace, name]) => {
            write::delete(console, request, kind, namespace, name).await
        }
        ("GET", ["watch"]) => stream::watch(console),
        ("GET", ["status"]) => Ok(found(&look::status(console))),
        ("GET", ["workloads"]) => Ok(found(&look::workloads(console))),
        ("GET", ["services"]) => Ok(found(&look::services(console))),
        ("GET", ["routes"]) => Ok(found(&look::routes(console))),
        ("GET", ["proxies"]) => Ok(found(&look::proxies(console))),
        ("GET", ["certificates"]) => look::certificates(console).await,
        ("GET", ["revisions"]) => look::revisions(console).await,
        ("GET", ["tokens"]) => write::tokens(console).await,
        ("POST", ["tokens"]) => write::token(console, request).await,
        ("POST", ["register"]) => register::register(console, request).await,
        ("PUT", ["register", id, "heartbeat"]) => register::heartbeat(console, request, id).await,
        ("DELETE", ["register", id]) => register::leave(console, id).await,
        ("GET", ["edges"]) => traffic::edges(console, request),
        ("GET", ["stats"]) => traffic::stats(console, request),
        ("GET", ["records"]) => traffic::records(console, request),
        ("GET", ["records", id]) => traffic::record(console, id).await,
        ("POST", ["explain"]) => ask::explain(console, request).await,
        ("POST", ["lint"]) => ask::lint(console, request),
        (method, path) => Err(match openapi::methods(path) {
            methods if methods.is_empty() => {
                Problem::not_found(format!("there is nothing at /api/v1/{}", path.join("/")))
            }
            methods => Problem::method(method, &methods),
        }),
    }
}

/// A file of the dashboard. Its pages live in one document, which finds its place by the URL.
fn asset(console: &Console, path: &str) -> Outcome {
    let page = path.is_empty() || !path.rsplit('/').next().unwrap_or_default().contains('.');
    let name = if page { "index.html" } else { path };
    let asset = (console.assets)(name).ok_or_else(|| Problem::not_found(format!("there is no page /{path}")))?;
    let cache = if name.starts_with("assets/") { "public, max-age=31536000, immutable" } else { "no-cache" };
    Ok(respond(200, asset.mime, asset.bytes).with(header::CACHE_CONTROL, cache))
}

/// What no page may do with an answer: run foreign scripts, frame it, guess its type, or leak its URL.
fn secured(mut response: Response) -> Response {
    let headers = [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
             font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in headers {
        response.headers.append(name, HeaderValue::from_static(value));
    }
    response.headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
