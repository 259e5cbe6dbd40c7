// SPDX-License-Identifier: Apache-2.0
//! What of a call is known only when it's made: expressions over the input and what was answered so far.
//! All of that is durable, so that a repeated call says the same.

use byrnie_base::Text;
use byrnie_model::expr::{self, Error};
use byrnie_saga::machine::State as Standing;
use byrnie_saga::transaction::BODY_BYTES_MAX;
use byrnie_saga::{Branch, Call, Late, Order, Target};
use bytes::Bytes;
use serde_json::{Map, Value};
use std::borrow::Cow;

/// A call as it is made now.
pub(super) fn made<'c>(state: &Standing, call: &'c Call) -> Result<Cow<'c, Call>, Error> {
    let Some(late) = &call.late else { return Ok(Cow::Borrowed(call)) };
    let values = values(state, late);
    let mut made = call.clone();
    if let Some(path) = &late.path {
        made.target = Target { path: expr::path(path, &values)?.into(), ..made.target };
    }
    if let Some(body) = &late.body {
        let body = expr::evaluate(body, &values)?.to_string();
        made.body = Some(within(body)?.into());
    }
    Ok(Cow::Owned(made))
}

/// What an expression comes to by now.
pub(super) fn worked_out(state: &Standing, expression: &Text) -> Result<Value, Error> {
    expr::evaluate(expression, &values(state, &Late { path: None, body: Some(expression.clone()) }))
}

/// What all branches have answered, by their names: the answer of a saga as a whole.
pub(super) fn answers(state: &Standing) -> Text {
    let answered = state.spec.branches.iter().zip(&state.progress);
    let answered =
        answered.filter_map(|(branch, progress)| Some((branch.name.to_string(), read(progress.answer.as_ref()?))));
    let all = Value::Object(answered.collect()).to_string();
    if all.len() > BODY_BYTES_MAX { format!("(answers of {} bytes, not kept)", all.len()).into() } else { all.into() }
}

/// A body that is not too large to be sent.
pub(super) fn within(body: String) -> Result<String, Error> {
    if body.len() > BODY_BYTES_MAX {
        return Err(Error::new(format!("the body has {} bytes; {BODY_BYTES_MAX} is the most", body.len())));
    }
    Ok(body)
}

/// The input, and by their names what branches have answered, as far as these expressions may refer to it:
/// answers can be large, and most are of no interest here.
fn values(state: &Standing, late: &Late) -> Map<String, Value> {
    let named = |name: &str| [&late.path, &late.body].into_iter().flatten().any(|text| text.contains(name));
    let answered = state.spec.branches.iter().zip(&state.progress).filter(|(branch, _)| named(&branch.name));
    let answered =
        answered.filter_map(|(branch, progress)| Some((branch.name.to_string(), read(progress.answer.as_ref()?))));
    let input = state.spec.input.as_ref().map_or(Value::Null, read);
    answered.chain([(byrnie_model::saga::INPUT.to_owned(), input)]).collect()
}

/// What the action was sent, and what it answered: what a compensation needs to know.
pub(super) fn both(state: &Standing, order: &Order, branch: Option<&Branch>) -> Bytes {
    let action = branch.and_then(|branch| branch.action.as_ref());
    // It was sent, so that it could be made.
    let asked = action.and_then(|action| made(state, action).ok()).and_then(|action| action.body.clone());
    let at = usize::from(order.branch.unwrap_or(u16::MAX));
    let answered = state.progress.get(at).and_then(|progress| progress.answer.as_ref());
    serde_json::json!({"request": asked.as_ref().map(read), "response": answered.map(read)}).to_string().into()
}

/// JSON as JSON, anything else as a string; nothing as null.
fn read(text: &Text) -> Value {
    if text.is_empty() {
        return Value::Null;
    }
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_string()))
}
