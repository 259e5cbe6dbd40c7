// SPDX-License-Identifier: Apache-2.0
//! The proxy's own port, on a thread of its own: what it counts, what it runs by, what it decided. A
//! scrape costs the cores nothing. `/metrics` and health are open on loopback; the rest asks for the
//! operator's token. It never changes traffic but by `POST /drain`.

mod metrics;

pub(crate) use metrics::render as metrics;

use crate::agent::State;
use byrnie_base::Text;
use byrnie_codec::exposition;
use byrnie_net::BoxFuture;
use byrnie_net::listen::Listener;
use byrnie_net::runtime::{self, Core, Shutdown};
use byrnie_net::serve::{Method, Request, Response, StatusCode, header, serve};
use serde_json::{Value, json};
use std::sync::Arc;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// Records in one answer of `/records`.
const RECORDS_MAX: usize = 1000;

/// Starts the admin listener.
pub(crate) fn start(listener: Listener, state: Arc<State>, token: Option<Text>, stop: Shutdown) -> Option<Core> {
    let main = move || {
        let answer = Arc::new(move |request: Request| -> BoxFuture<'static, Response> {
            let response = answer(&state, token.as_deref(), &request);
            Box::pin(async move { response })
        });
        serve(listener, answer, stop)
    };
    runtime::spawn_core("byrnie-admin", None, main).ok()
}

fn answer(state: &State, token: Option<&str>, request: &Request) -> Response {
    match (&request.method, request.path.as_str()) {
        (&Method::GET | &Method::HEAD, "/metrics") => {
            let (kind, text) = exposition::shown(request.header("accept"), metrics::render(state));
            Response::new(StatusCode::OK, kind, text)
        }
        (&Method::GET | &Method::HEAD, "/livez") => Response::new(StatusCode::OK, TEXT, "alive\n"),
        (&Method::GET | &Method::HEAD, "/readyz") => ready(state),
        (_, "/config" | "/records" | "/drain") if !allowed(token, request) => unauthorized(),
        (&Method::GET, "/config") => as_json(&config(state)),
        (&Method::GET, "/records") => records(state, request.query.as_deref()),
        (&Method::POST, "/drain") => {
            state.ask_to_drain();
            Response::new(StatusCode::ACCEPTED, TEXT, "draining\n")
        }
        (_, "/metrics" | "/livez" | "/readyz" | "/config" | "/records" | "/drain") => {
            Response::new(StatusCode::METHOD_NOT_ALLOWED, TEXT, "method not allowed\n")
        }
        _ => Response::new(StatusCode::NOT_FOUND, TEXT, "one of /metrics /livez /readyz /config /records /drain\n"),
    }
}

fn ready(state: &State) -> Response {
    if state.drain.watches().all.is_draining() {
        return Response::new(StatusCode::SERVICE_UNAVAILABLE, TEXT, "draining\n");
    }
    match state.ports() {
        Some(_) => Response::new(StatusCode::OK, TEXT, "ready\n"),
        None => Response::new(StatusCode::SERVICE_UNAVAILABLE, TEXT, "no configuration yet\n"),
    }
}

/// Whether the request carries the operator's token. Every byte is compared, so that time tells nothing.
fn allowed(token: Option<&str>, request: &Request) -> bool {
    let (Some(token), Some(given)) = (token, request.token()) else { return false };
    let differing = token.bytes().zip(given.bytes()).fold(0, |sum, (a, b)| sum | (a ^ b));
    !token.is_empty() && token.len() == given.len() && differing == 0
}

fn unauthorized() -> Response {
    let body = "this needs the operator's token: Authorization: Bearer TOKEN\n";
    Response::new(StatusCode::UNAUTHORIZED, TEXT, body).with(header::WWW_AUTHENTICATE, "Bearer")
}

fn as_json(value: &Value) -> Response {
    Response::new(StatusCode::OK, JSON, format!("{value}\n"))
}

fn records(state: &State, query: Option<&str>) -> Response {
    let limit = query.and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("limit=")));
    let limit = limit.and_then(|limit| limit.parse().ok()).unwrap_or(RECORDS_MAX).min(RECORDS_MAX);
    match serde_json::to_value(state.newest(limit)) {
        Ok(records) => as_json(&records),
        Err(error) => Response::new(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
    }
}

/// What is in force, for people.
fn config(state: &State) -> Value {
    let Some(in_force) = state.in_force() else { return json!({ "node": state.node.as_str(), "revision": null }) };
    let snapshot = &in_force.snapshot;
    let mut services: Vec<Value> = snapshot
        .services()
        .map(|service| {
            let ports: Vec<Value> = snapshot
                .ports(service)
                .map(|(port, protocol)| json!({"port": port, "protocol": protocol.name()}))
                .collect();
            let endpoints: Vec<Value> = snapshot
                .endpoints(service)
                .iter()
                .map(|member| {
                    json!({
                        "workload": member.name().as_str(),
                        "address": member.address().to_string(),
                        "identity": member.identity().to_string(),
                        "inFlight": member.in_flight(),
                    })
                })
                .collect();
            json!({"service": service.to_string(), "ports": ports, "endpoints": endpoints})
        })
        .collect();
    services.sort_by_key(|service| service["service"].to_string());
    let served: Vec<Value> = snapshot
        .served()
        .map(|(service, port, program)| {
            json!({"service": service.to_string(), "port": port, "program": program.beside().map_or_else(|| program.to_string(), |at| at.to_string())})
        })
        .collect();
    let ports = state.ports();
    json!({
        "node": state.node.as_str(),
        "identity": state.identity.to_string(),
        "revision": snapshot.revision().0,
        "connected": state.is_connected(),
        "certificateNotAfter": in_force.keys.not_after,
        "inbound": ports.and_then(|ports| ports.inbound).map(|address| address.to_string()),
        "edge": ports.and_then(|ports| ports.edge).map(|address| address.to_string()),
        "forward": ports.and_then(|ports| ports.forward).map(|address| address.to_string()),
        "outbound": ports.map(|ports| ports.outbound.iter().map(|outbound| json!({
            "service": outbound.service.to_string(), "port": outbound.port, "address": outbound.address.to_string(),
        })).collect::<Vec<_>>()),
        "serves": served,
        "services": services,
    })
}
