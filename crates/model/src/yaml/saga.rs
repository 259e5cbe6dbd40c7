// SPDX-License-Identifier: Apache-2.0
//! The document of a Saga.

use super::names;
use super::reader::Reader;
use crate::code;
use crate::expr::{self, Piece};
use crate::saga::{self, Does, INPUT, METHODS, Patience, REQUEST, STEPS_MAX, Saga, Step, Undo};
use byrnie_base::Text;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;

/// Longest name of a step, in bytes.
const NAME_BYTES_MAX: usize = 63;
/// Longest time that a saga may be given: a year.
const DEADLINE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// Longest time for one call.
const TIMEOUT_MAX: Duration = Duration::from_secs(600);

/// A transaction over services: steps that are all done, or taken back.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct SagaSpec {
    /// How long it may take before what was done is taken back, such as `30s`; any time unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deadline: Option<String>,
    /// An expression over `input` and `request.headers`: starts of the same key are one run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// Statuses, 400 to 499, by which a participant says no for business reasons; 409 and 422 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rejected: Option<Vec<u16>>,
    /// What is done, one step after the other unless `after` says otherwise.
    steps: Vec<StepSpec>,
}

#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StepSpec {
    /// Its name; letters, digits and `_` if expressions refer to its answer.
    name: String,
    /// `METHOD SERVICE/PATH`, such as `POST payments/charge`; the path may hold expressions in braces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    call: Option<String>,
    /// Instead of a call: another saga, `NAME` or `NAMESPACE/NAME`, which is run as a whole, and taken back as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    saga: Option<String>,
    /// An expression for that saga's input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    input: Option<String>,
    /// An expression for what is sent, such as `input.items`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    /// The call that takes it back, or `none` if there is nothing to take back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    undo: Option<String>,
    /// An expression for what the undo is sent: what was asked and answered, unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    undo_body: Option<String>,
    /// Steps above that come before it: the one above unless given; `[]` for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after: Option<Vec<String>>,
    /// Once it is done there is no way back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pivot: bool,
    /// How often and how long it is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry: Option<RetrySpec>,
}

#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RetrySpec {
    /// Calls without a definite answer, after which the way back is taken; no limit unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attempts: Option<u32>,
    /// How long it is called without a definite answer, such as `24h`; then the way back is taken or, past the pivot, an
    /// operator has to look.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    span: Option<String>,
    /// First and longest pause, such as `1s..5m`; `200ms..30s` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    backoff: Option<String>,
    /// The longest time for one call, `10s` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout: Option<String>,
}

pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Saga> {
    let spec: SagaSpec = reader.spec()?;
    let deadline = spec.deadline.as_deref().map(|text| span(reader, text, "spec.deadline", DEADLINE_MAX));
    let starts: BTreeSet<&str> = [INPUT, REQUEST].into();
    if let Some(key) = &spec.key {
        expression(reader, key, "spec.key", &starts);
    }
    if let Some(rejected) = &spec.rejected {
        let fit = rejected.iter().all(|status| (400..500).contains(status));
        reader.require(fit, "spec.rejected", "lists client errors, 400 to 499");
    }
    reader.require(!spec.steps.is_empty(), "spec.steps", "a saga has at least one step");
    reader.at_most(spec.steps.len(), STEPS_MAX, "spec.steps");
    let mut steps: Vec<Step> = Vec::new();
    // For each step, all that come before it, directly or not.
    let mut before: Vec<BTreeSet<usize>> = Vec::new();
    for (i, asked) in spec.steps.iter().take(STEPS_MAX).enumerate() {
        let at = format!("spec.steps[{i}]");
        step_name(reader, &asked.name, &steps, &format!("{at}.name"));
        let after = after(reader, asked, &steps, &format!("{at}.after"));
        let mut earlier: BTreeSet<usize> = after.iter().copied().collect();
        for direct in &after {
            earlier.extend(before[*direct].iter().copied());
        }
        let known: BTreeSet<&str> = earlier.iter().map(|step| &*steps[*step].name).chain([INPUT]).collect();
        let step = step(reader, asked, &after, &known, &at);
        before.push(earlier);
        steps.push(step);
    }
    if reader.faults.is_empty() {
        check_way_back(reader, &steps, &before);
    }
    Some(Saga { deadline, key: spec.key.map(Text::from), rejected: spec.rejected, steps })
}

fn step(reader: &mut Reader<'_>, asked: &StepSpec, after: &[usize], known: &BTreeSet<&str>, at: &str) -> Step {
    let does = does(reader, asked, known, at);
    // An undo knows what its own step answered.
    let with_own: BTreeSet<&str> = known.iter().copied().chain([asked.name.as_str()]).collect();
    let undo = asked.undo.as_deref().map(|undo| {
        if undo == "none" {
            return Undo::Nothing;
        }
        call(reader, undo, &format!("{at}.undo"), &with_own);
        Undo::Call { call: undo.into(), body: asked.undo_body.as_deref().map(Text::from) }
    });
    if let Some(body) = &asked.undo_body {
        expression(reader, body, &format!("{at}.undoBody"), &with_own);
        let called = matches!(undo, Some(Undo::Call { .. }));
        if !called {
            reader.fault(&code::CONTRADICTION, format!("{at}.undoBody"), "there is no undo to send it to");
        }
    }
    Step {
        name: asked.name.as_str().into(),
        does,
        undo,
        after: after.iter().filter_map(|at| u16::try_from(*at).ok()).collect(),
        pivot: asked.pivot,
        retry: asked.retry.as_ref().map(|retry| patience(reader, retry, at)).unwrap_or_default(),
    }
}

fn does(reader: &mut Reader<'_>, asked: &StepSpec, known: &BTreeSet<&str>, at: &str) -> Does {
    let Some(saga) = &asked.saga else {
        if asked.call.is_none() {
            reader.fault(&code::MISSING_FIELD, at, "a step has a call, or a saga");
        }
        if asked.input.is_some() {
            reader.fault(&code::CONTRADICTION, format!("{at}.input"), "only a saga has an input; a call has a body");
        }
        let text = asked.call.as_deref().unwrap_or_default();
        if asked.call.is_some() {
            call(reader, text, &format!("{at}.call"), known);
        }
        if let Some(body) = &asked.body {
            expression(reader, body, &format!("{at}.body"), known);
        }
        return Does::Call { call: text.into(), body: asked.body.as_deref().map(Text::from) };
    };
    let (namespace, name) = saga::named(saga, "default");
    let fits = names::is_label(namespace) && names::is_label(name);
    reader.require(fits, &format!("{at}.saga"), "is the NAME of a saga, or NAMESPACE/NAME");
    if let Some(input) = &asked.input {
        expression(reader, input, &format!("{at}.input"), known);
    }
    for (field, given) in [
        ("call", asked.call.is_some()),
        ("body", asked.body.is_some()),
        ("undo", asked.undo.is_some()),
        ("undoBody", asked.undo_body.is_some()),
        ("retry", asked.retry.is_some()),
    ] {
        if given {
            let message = "a step that is a saga has none: its own steps say it, and it is taken back as a whole";
            reader.fault(&code::CONTRADICTION, format!("{at}.{field}"), message);
        }
    }
    Does::Saga { saga: saga.as_str().into(), input: asked.input.as_deref().map(Text::from) }
}

fn step_name(reader: &mut Reader<'_>, name: &str, earlier: &[Step], path: &str) {
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    reader.require(fits, path, "a name is 1 to 63 letters, digits, '-' and '_'");
    let own = matches!(name, INPUT | REQUEST);
    reader.require(!own, path, format!("\"{name}\" is the name of something else in expressions"));
    if earlier.iter().any(|step| *step.name == *name) {
        reader.fault(&code::CONTRADICTION, path, format!("two steps are called \"{name}\""));
    }
}

fn after(reader: &mut Reader<'_>, asked: &StepSpec, earlier: &[Step], path: &str) -> Vec<usize> {
    let Some(named) = &asked.after else { return earlier.len().checked_sub(1).into_iter().collect() };
    let mut found = Vec::new();
    for (i, name) in named.iter().enumerate() {
        match earlier.iter().position(|step| *step.name == **name) {
            Some(at) => found.push(at),
            None => {
                reader.fault(&code::BAD_VALUE, format!("{path}[{i}]"), format!("no step above is called \"{name}\""));
            }
        }
    }
    found
}

/// `METHOD SERVICE[.NAMESPACE][:PORT]/PATH`, with expressions in the path.
fn call(reader: &mut Reader<'_>, text: &str, path: &str, known: &BTreeSet<&str>) {
    let Some((_, authority, rest)) = saga::target(text).filter(|(method, ..)| METHODS.contains(method)) else {
        let message = format!("\"{text}\" is not METHOD SERVICE/PATH, such as POST payments/charge");
        reader.fault(&code::BAD_VALUE, path, message);
        return;
    };
    let port = authority.split_once(':').map(|(_, port)| port.parse::<u16>().unwrap_or_default());
    let service = saga::service(authority, "default");
    if port == Some(0) || !names::is_label(&service.name) || !names::is_label(&service.namespace) {
        let message = format!("\"{authority}\" is not SERVICE, SERVICE.NAMESPACE or SERVICE:PORT");
        reader.fault(&code::BAD_VALUE, path, message);
    }
    match expr::pieces(rest) {
        Err(error) => reader.fault(&code::EXPRESSION, path, error.to_string()),
        Ok(pieces) => {
            for piece in pieces {
                match piece {
                    Piece::Expression(text) => expression(reader, text, path, known),
                    Piece::Literal(text) => {
                        let clean = text.bytes().all(|b| b.is_ascii_graphic()) && !text.contains('#');
                        reader.require(clean && !text.contains(".."), path, "a path has no spaces, '#' or '..'");
                    }
                }
            }
        }
    }
}

fn expression(reader: &mut Reader<'_>, text: &str, path: &str, known: &BTreeSet<&str>) {
    match expr::names(text) {
        Err(error) => reader.fault(&code::EXPRESSION, path, error.to_string()),
        Ok(names) => {
            for name in names.iter().filter(|name| !known.contains(name.as_str())) {
                let there: Vec<&str> = known.iter().copied().collect();
                let message = format!("\"{name}\" is not known here; what is known: {}", there.join(", "));
                reader.fault(&code::EXPRESSION, path, message);
            }
        }
    }
}

fn patience(reader: &mut Reader<'_>, asked: &RetrySpec, at: &str) -> Patience {
    let backoff = asked.backoff.as_deref().map(|text| {
        let path = format!("{at}.retry.backoff");
        let Some((first, longest)) = text.split_once("..") else {
            reader.fault(&code::BAD_VALUE, path, format!("\"{text}\" is not two durations, such as 1s..5m"));
            return (Duration::ZERO, Duration::ZERO);
        };
        let both = (reader.some_time(first, &path), span(reader, longest, &path, DEADLINE_MAX));
        reader.require(both.0 <= both.1, &path, "the longest pause is not shorter than the first");
        both
    });
    let timeout = asked.timeout.as_deref().map(|text| span(reader, text, &format!("{at}.retry.timeout"), TIMEOUT_MAX));
    let most = asked.span.as_deref().map(|text| span(reader, text, &format!("{at}.retry.for"), DEADLINE_MAX));
    Patience { attempts: asked.attempts, span: most, backoff, timeout }
}

fn span(reader: &mut Reader<'_>, text: &str, path: &str, max: Duration) -> Duration {
    let span = reader.some_time(text, path);
    reader.require(span <= max, path, format!("must be at most {}", names::duration_text(max)));
    span.min(max)
}

/// That there is one point of no return at most, in a place that is clear, and a way back from all before it.
fn check_way_back(reader: &mut Reader<'_>, steps: &[Step], before: &[BTreeSet<usize>]) {
    let pivots: Vec<usize> = (0..steps.len()).filter(|at| steps[*at].pivot).collect();
    if let [_, second, ..] = pivots[..] {
        let message = "a saga has one point of no return, and there is a pivot above";
        reader.fault(&code::CONTRADICTION, format!("spec.steps[{second}].pivot"), message);
        return;
    }
    let pivot = pivots.first().copied();
    for (at, step) in steps.iter().enumerate() {
        if let Some(pivot) =
            pivot.filter(|pivot| *pivot != at && !before[at].contains(pivot) && !before[*pivot].contains(&at))
        {
            let message =
                format!("may run beside the pivot {}; let one of them come after the other", steps[pivot].name);
            reader.fault(&code::CONTRADICTION, format!("spec.steps[{at}].name"), message);
        }
        let is_final = pivot.is_some_and(|pivot| pivot == at || before[at].contains(&pivot));
        // The last of all may lack it: nothing can fail once it is done.
        let last = (0..steps.len()).all(|other| other == at || before[at].contains(&other));
        // Whether a saga can be taken back is judged when it's started.
        let alone = matches!(step.does, Does::Call { .. }) && step.undo.is_none();
        if alone && !is_final && !last {
            let message = "has no undo, and others may fail after it: give it one, say \"none\" if it changes nothing, or make it the pivot";
            reader.fault(&code::CONTRADICTION, format!("spec.steps[{at}].name"), message);
        }
    }
}

impl From<&Saga> for SagaSpec {
    fn from(saga: &Saga) -> Self {
        let span = |span: Duration| names::duration_text(span);
        let steps = saga.steps.iter().map(|step| {
            let (undo, undo_body) = match &step.undo {
                None => (None, None),
                Some(Undo::Nothing) => (Some("none".to_owned()), None),
                Some(Undo::Call { call, body }) => (Some(call.to_string()), body.as_ref().map(Text::to_string)),
            };
            let Patience { attempts, span: most, backoff, timeout } = &step.retry;
            let retry = (step.retry != Patience::default()).then(|| RetrySpec {
                attempts: *attempts,
                span: most.map(span),
                backoff: backoff.map(|(first, longest)| format!("{}..{}", span(first), span(longest))),
                timeout: timeout.map(span),
            });
            let after = step.after.iter().filter_map(|at| saga.steps.get(usize::from(*at)));
            let text = |text: &Text| text.to_string();
            let (call, body, saga, input) = match &step.does {
                Does::Call { call, body } => (Some(text(call)), body.as_ref().map(text), None, None),
                Does::Saga { saga, input } => (None, None, Some(text(saga)), input.as_ref().map(text)),
            };
            StepSpec {
                name: step.name.to_string(),
                call,
                saga,
                input,
                body,
                undo,
                undo_body,
                after: Some(after.map(|step| step.name.to_string()).collect()),
                pivot: step.pivot,
                retry,
            }
        });
        Self {
            deadline: saga.deadline.map(span),
            key: saga.key.as_ref().map(Text::to_string),
            rejected: saga.rejected.clone(),
            steps: steps.collect(),
        }
    }
}
