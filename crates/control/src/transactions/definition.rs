// SPDX-License-Identifier: Apache-2.0
//! Starting a saga from its definition, `{"definition": "NAMESPACE/NAME", "input": ..}`: what depends on the
//! input alone is worked out and judged now, what depends on answers when it's called (`late`).

use super::problem::Problem;
use super::run::Coordinator;
use super::spec::{self, Asked, AskedBranch, AskedRetry, PAUSE_MS_MIN};
use super::{Caller, late};
use byrnie_base::{Text, Timestamp};
use byrnie_codec::idempotency;
use byrnie_model::expr::{self, Piece};
use byrnie_model::saga::{self, Does, INPUT, REQUEST, Saga, Step, Undo};
use byrnie_model::{Key, Kind, Spec as Said, code};
use byrnie_net::serve::Request;
use byrnie_net::tls::secret::sha256;
use byrnie_saga::{Child, Late, Mode, Spec};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Longest value of a key, in bytes.
const KEY_BYTES_MAX: usize = 1024;

/// The body of a request that starts a defined saga.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Start {
    definition: String,
    #[serde(default)]
    input: Value,
    #[serde(default)]
    id: Option<String>,
}

/// The saga that a request starts from a definition; nothing if it names none.
pub(super) fn read(
    coordinator: &Coordinator,
    caller: &Caller,
    request: &Request,
) -> Result<Option<(Option<Text>, Spec)>, Problem> {
    let body: Map<String, Value> = serde_json::from_slice(&request.body).unwrap_or_default();
    if !body.contains_key("definition") {
        return Ok(None);
    }
    let start: Start = serde_json::from_value(Value::Object(body))
        .map_err(|error| Problem::malformed(format!("the body starts no saga: {error}")))?;
    let (namespace, name) = start.definition.split_once('/').unwrap_or((caller.namespace(), &start.definition));
    let definition = find(coordinator, namespace, name)?;
    let wanted = start.id.as_deref().map(spec::check_id).transpose()?;
    let keyed =
        definition.key.as_ref().map(|key| key_id(key, &start.input, request, caller, (namespace, name))).transpose()?;
    if wanted.is_some() && keyed.is_some() {
        return Err(Problem::malformed("the definition makes the id from its key; send none").at("id"));
    }
    let fingerprint = spec::fingerprint(Mode::Saga, false, &request.body);
    let spec = compose(&definition, (namespace, name), &start.input, fingerprint, caller, coordinator.now())?;
    Ok(Some((wanted.or(keyed), spec)))
}

/// What a definition comes to with this input.
pub(super) fn compose(
    definition: &Saga,
    (namespace, name): (&str, &str),
    input: &Value,
    fingerprint: Text,
    caller: &Caller,
    now: Timestamp,
) -> Result<Spec, Problem> {
    let asked = asked(definition, namespace, input)?;
    let mut spec = spec::compose(Mode::Saga, false, &asked, fingerprint, caller, now)?;
    spec.definition = format!("{namespace}/{name}").into();
    spec.input = Some(late::within(input.to_string()).map_err(|error| Problem::malformed(error.to_string()))?.into());
    for (branch, step) in spec.branches.iter_mut().zip(&definition.steps) {
        let (call, body) = match &step.does {
            Does::Call { call, body } => (call, body),
            Does::Saga { input, .. } => {
                if let Some(Child::Defined { late, .. }) = branch.child.as_deref_mut() {
                    *late = input.clone().filter(|input| is_late(input));
                }
                continue;
            }
        };
        let undo = match &step.undo {
            Some(Undo::Call { call, body }) => Some((call, body)),
            _ => None,
        };
        for (call, said) in [(&mut branch.action, Some((call, body))), (&mut branch.undo, undo)] {
            if let (Some(call), Some((target, body))) = (call, said) {
                call.late = what_is_late(target, body.as_ref())?;
            }
        }
        branch.answer_first = undo.is_some_and(|(call, body)| refers(call, body.as_ref(), &step.name));
    }
    Ok(spec)
}

pub(super) fn find(coordinator: &Coordinator, namespace: &str, name: &str) -> Result<Arc<Saga>, Problem> {
    let key = Key::new(Kind::Saga, namespace, name);
    let found = coordinator.state.catalog(|catalog| match &catalog.resource(&key)?.spec {
        Said::Saga(saga) => Some(Arc::clone(saga)),
        _ => None,
    });
    found.ok_or_else(|| {
        let detail = format!("there is no Saga {name} in namespace {namespace}; `byrnie get sagas` lists them");
        Problem::new(404, &code::TXN_ABSENT, detail).at("definition")
    })
}

/// The id of the run for a key: one definition, one creator and one key are one run.
fn key_id(
    key: &str,
    input: &Value,
    request: &Request,
    caller: &Caller,
    (namespace, name): (&str, &str),
) -> Result<Text, Problem> {
    let bad = |why: String| Problem::malformed(format!("the key of {namespace}/{name}: {why}")).at("spec.key");
    let texts = request.headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
    // A key in quotes and the same one bare are one.
    let spelled = |name: &str, value: &str| {
        let key =
            Some(value).filter(|_| name == "idempotency-key").and_then(|key| idempotency::parse(key.as_bytes()).ok());
        key.unwrap_or_else(|| value.to_owned())
    };
    let headers: Map<String, Value> =
        texts.map(|(name, value)| (name.to_owned(), json!(spelled(name, value)))).collect();
    let values = json!({INPUT: input, REQUEST: {"headers": headers}});
    let values = values.as_object().cloned().unwrap_or_default();
    let value = match expr::evaluate(key, &values).map_err(|error| bad(error.to_string()))? {
        Value::String(text) if !text.is_empty() => text,
        Value::Number(number) => number.to_string(),
        other => return Err(bad(format!("it is {other}; a key is a text or a number"))),
    };
    if value.len() > KEY_BYTES_MAX {
        return Err(bad(format!("it has {} bytes; {KEY_BYTES_MAX} is the most", value.len())));
    }
    let hash = sha256(json!([namespace, name, caller.name(), value]).to_string().as_bytes());
    let short: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{name}-{short}").into())
}

/// The request that a client would have written by hand, with a stand-in for what is late.
fn asked(definition: &Saga, namespace: &str, input: &Value) -> Result<Asked, Problem> {
    let values: Map<String, Value> = [(INPUT.to_owned(), input.clone())].into_iter().collect();
    let mut branches = Vec::new();
    for step in &definition.steps {
        let place = |problem: Problem| problem.at(format!("step {}", step.name));
        branches.push(branch(definition, step, namespace, &values).map_err(place)?);
    }
    let deadline_ms = definition.deadline.map(millis);
    Ok(Asked { deadline_ms, branches, rejected: definition.rejected.clone(), ..Asked::default() })
}

fn branch(
    definition: &Saga,
    step: &Step,
    namespace: &str,
    values: &Map<String, Value>,
) -> Result<AskedBranch, Problem> {
    let mut branch = AskedBranch {
        name: step.name.to_string(),
        pivot: step.pivot,
        after: step
            .after
            .iter()
            .filter_map(|at| Some(definition.steps.get(usize::from(*at))?.name.to_string()))
            .collect(),
        retry: AskedRetry {
            // Definitions that were kept before these were refused go on: none is no limit.
            attempts: step.retry.attempts.filter(|attempts| *attempts > 0),
            for_ms: step.retry.span.map(millis),
            first_ms: step.retry.backoff.map(|(first, _)| millis(first)),
            cap_ms: step.retry.backoff.map(|(_, longest)| millis(longest).max(PAUSE_MS_MIN)),
            timeout_ms: step.retry.timeout.map(millis),
        },
        ..AskedBranch::default()
    };
    match &step.does {
        Does::Call { call, body: sent } => {
            branch.body = body(sent.as_ref(), values)?;
            branch.calls.insert("action".to_owned(), target(call, namespace, values)?);
        }
        Does::Saga { saga, input } => {
            let (namespace, name) = saga::named(saga, namespace);
            let input = body(input.as_ref(), values)?;
            branch.saga = Some(json!({"definition": format!("{namespace}/{name}"), "input": input}));
        }
    }
    match &step.undo {
        None => {}
        Some(Undo::Nothing) => {
            branch.calls.insert("compensate".to_owned(), "none".to_owned());
        }
        Some(Undo::Call { call, body: sent }) => {
            branch.calls.insert("compensate".to_owned(), target(call, namespace, values)?);
            branch.compensate_body = body(sent.as_ref(), values)?;
        }
    }
    Ok(branch)
}

/// The body of a call, unless it's late or there is none.
fn body(expression: Option<&Text>, values: &Map<String, Value>) -> Result<Option<Value>, Problem> {
    let Some(expression) = expression.filter(|expression| !is_late(expression)) else { return Ok(None) };
    expr::evaluate(expression, values).map(Some).map_err(|error| Problem::malformed(error.to_string()))
}

/// A call with its service written out in full.
fn target(call: &str, namespace: &str, values: &Map<String, Value>) -> Result<String, Problem> {
    let malformed = |error: expr::Error| Problem::malformed(error.to_string());
    let Some((method, authority, path)) = saga::target(call) else { return Ok(call.to_owned()) };
    let service = saga::service(authority, namespace);
    let port = authority.split_once(':').map_or_else(String::new, |(_, port)| format!(":{port}"));
    let mut made = String::new();
    for piece in expr::pieces(path).map_err(malformed)? {
        match piece {
            Piece::Literal(text) => made.push_str(text),
            Piece::Expression(expression) if is_late(expression) => made.push('0'),
            Piece::Expression(expression) => {
                made.push_str(&expr::path(&format!("{{{expression}}}"), values).map_err(malformed)?);
            }
        }
    }
    Ok(format!("{method} {}.{}{port}{made}", service.name, service.namespace))
}

/// Whether an expression needs more than the input.
fn is_late(expression: &str) -> bool {
    expr::names(expression).is_ok_and(|names| names.iter().any(|name| name != INPUT))
}

fn what_is_late(call: &str, body: Option<&Text>) -> Result<Option<Box<Late>>, Problem> {
    let (_, _, path) = saga::target(call).unwrap_or_default();
    let pieces = expr::pieces(path).map_err(|error| Problem::malformed(error.to_string()))?;
    let late = pieces.iter().any(|piece| matches!(piece, Piece::Expression(expression) if is_late(expression)));
    let late = Late { path: late.then(|| path.into()), body: body.filter(|body| is_late(body)).cloned() };
    Ok((late != Late::default()).then(|| Box::new(late)))
}

/// Whether a call is written with what a step answered.
fn refers(call: &str, body: Option<&Text>, step: &str) -> bool {
    let names = |expression: &str| expr::names(expression).is_ok_and(|names| names.contains(step));
    let (_, _, path) = saga::target(call).unwrap_or_default();
    let pieces = expr::pieces(path).unwrap_or_default();
    pieces.iter().any(|piece| matches!(piece, Piece::Expression(expression) if names(expression)))
        || body.is_some_and(|body| names(body))
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
