// SPDX-License-Identifier: Apache-2.0
//! From the JSON of a request to a [`Spec`]: names resolved, defaults filled in, everything judged. What isn't
//! understood is refused with the place where it stands.

use super::problem::Problem;
use super::{Caller, late};
use byrnie_base::{Text, Timestamp};
use byrnie_model::{ServiceRef, saga};
use byrnie_net::tls::secret::sha256;
use byrnie_saga::transaction::{BODY_BYTES_MAX, ID_BYTES_MAX};
use byrnie_saga::{Branch, Call, Child, Mode, Retry, Rules, Spec, Target, nested, plan};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// Longest time that a transaction may be given, in milliseconds: a year.
const DEADLINE_MS_MAX: u64 = 365 * 24 * 3600 * 1000;
/// Longest time for one call, in milliseconds.
const TIMEOUT_MS_MAX: u64 = 600_000;
/// The least that the longest pause between two calls may be, in milliseconds: who doesn't answer isn't hammered on.
pub(super) const PAUSE_MS_MIN: u64 = 100;
/// When the creator of a prepared message is asked, unless it says.
const CHECK_AFTER_MS: u64 = 10_000;
/// How long TCC and scopes stay open, unless they say.
const OPEN_MS: u64 = 60_000;
/// Ids that would mean something else in a path.
const RESERVED: [&str; 3] = [".", "..", "audit"];
/// Header fields of a call that a creator may add.
const HEADERS_MAX: usize = 32;

/// The body of a request for a transaction.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Asked {
    pub(super) id: Option<String>,
    pub(super) deadline_ms: Option<u64>,
    pub(super) branches: Vec<AskedBranch>,
    pub(super) rejected: Option<Vec<u16>>,
    pub(super) check: Option<String>,
    pub(super) check_after_ms: Option<u64>,
}

/// One of its branches; also the body of a request to join.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct AskedBranch {
    pub(super) name: String,
    pub(super) body: Option<Value>,
    pub(super) compensate_body: Option<Value>,
    pub(super) after: Vec<String>,
    pub(super) pivot: bool,
    pub(super) retry: AskedRetry,
    pub(super) headers: BTreeMap<String, String>,
    /// Instead of an action: a saga of its own, by its definition or as one is asked for.
    pub(super) saga: Option<Value>,
    /// `action`, `compensate` and so on, as the mode has them; any other member is a mistake.
    #[serde(flatten)]
    pub(super) calls: BTreeMap<String, String>,
}

impl AskedBranch {
    fn call(&self, word: &str) -> Option<&String> {
        self.calls.get(word)
    }
}

/// The calls that a branch of a mode has: what is done, what makes it final, what takes it back.
const fn words(mode: Mode) -> [&'static str; 3] {
    match mode {
        Mode::Saga => ["action", "", "compensate"],
        Mode::Message => ["", "action", ""],
        Mode::Tcc => ["try", "confirm", "cancel"],
        Mode::Scope => ["", "complete", "compensate"],
    }
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct AskedRetry {
    pub(super) attempts: Option<u32>,
    pub(super) for_ms: Option<u64>,
    pub(super) first_ms: Option<u64>,
    pub(super) cap_ms: Option<u64>,
    pub(super) timeout_ms: Option<u64>,
}

/// What a request asks for: the id it wants, if any, and the transaction.
pub(super) fn read(
    mode: Mode,
    prepare: bool,
    body: &[u8],
    caller: &Caller,
    now: Timestamp,
) -> Result<(Option<Text>, Spec), Problem> {
    let asked: Asked = serde_json::from_slice(body)
        .map_err(|error| Problem::malformed(format!("the body is no {}: {error}", mode.name())))?;
    let id = asked.id.as_deref().map(check_id).transpose()?;
    let spec = compose(mode, prepare, &asked, fingerprint(mode, prepare, body), caller, now)?;
    Ok((id, spec))
}

/// The transaction that is asked for.
pub(super) fn compose(
    mode: Mode,
    prepare: bool,
    asked: &Asked,
    fingerprint: Text,
    caller: &Caller,
    now: Timestamp,
) -> Result<Spec, Problem> {
    let named: Vec<String> = asked.branches.iter().map(|branch| branch.name.clone()).collect();
    let mut branches = Vec::new();
    for branch in &asked.branches {
        let after = branch.after.iter().map(|before| position(&named, before, &branch.name));
        let after = after.collect::<Result<_, _>>()?;
        branches.push(Branch { after, ..self::branch(mode, branch, caller, now)? });
    }
    let driven = mode == Mode::Tcc && !branches.is_empty() && branches.iter().all(|branch| branch.action.is_some());
    let open = match mode {
        Mode::Saga => false,
        Mode::Message => prepare,
        Mode::Tcc => !driven,
        Mode::Scope => true,
    };
    if mode == Mode::Tcc && open && branches.iter().any(|branch| branch.action.is_some()) {
        return Err(Problem::malformed("either every branch has a `try`, or the creator makes them all itself"));
    }
    let check = asked.check.as_deref().map(|word| call(word, "GET", None, caller)).transpose()?;
    if mode != Mode::Message && (check.is_some() || asked.check_after_ms.is_some()) {
        return Err(Problem::malformed("only a message has a `check`"));
    }
    if prepare && check.is_none() {
        return Err(Problem::malformed("a prepared message needs a `check`: whom to ask what became of its creator"));
    }
    let span = match mode {
        Mode::Message => prepare.then(|| asked.check_after_ms.unwrap_or(CHECK_AFTER_MS)),
        Mode::Tcc | Mode::Scope if open => Some(asked.deadline_ms.unwrap_or(OPEN_MS)),
        _ => asked.deadline_ms,
    };
    let rejected = asked.rejected.clone().unwrap_or(Rules::default().rejected);
    if rejected.iter().any(|status| !(400..500).contains(status)) {
        return Err(Problem::malformed("`rejected` lists client errors, 400 to 499"));
    }
    let spec = Spec {
        mode,
        creator: caller.name(),
        created: now,
        deadline: span.map(|span| deadline(now, span)).transpose()?,
        open,
        check: check.filter(|_| prepare),
        branches,
        rules: Rules { rejected, ..Rules::default() },
        definition: Text::default(),
        input: None,
        fingerprint,
        parent: None,
    };
    plan::check(&spec)
        .and_then(|()| plan::check_way_back(&spec))
        .map_err(|error| Problem::malformed(error.to_string()))?;
    Ok(spec)
}

/// A branch that joins.
pub(super) fn read_branch(mode: Mode, body: &[u8], caller: &Caller, now: Timestamp) -> Result<Branch, Problem> {
    let asked: AskedBranch =
        serde_json::from_slice(body).map_err(|error| Problem::malformed(format!("the body is no branch: {error}")))?;
    let branch = branch(mode, &asked, caller, now)?;
    plan::check_branch(&[], &branch).map_err(|error| Problem::malformed(error.to_string()))?;
    Ok(branch)
}

/// A client's id: printable, without `/` and `:`, which have a meaning in paths.
pub(super) fn check_id(id: &str) -> Result<Text, Problem> {
    let fits = (1..=ID_BYTES_MAX).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~'))
        && !RESERVED.contains(&id);
    if fits {
        return Ok(id.into());
    }
    let detail =
        format!("an id is 1 to {ID_BYTES_MAX} letters, digits, '-', '_', '.' and '~', and none of {RESERVED:?}");
    Err(Problem::malformed(detail).at("id"))
}

/// Tells two requests apart.
pub(super) fn fingerprint(mode: Mode, prepare: bool, body: &[u8]) -> Text {
    // Spaces and the order of members say nothing.
    match serde_json::from_slice::<Value>(body) {
        Ok(value) => digest(mode, prepare, byrnie_model::expr::sorted(value).to_string().as_bytes()),
        Err(_) => digest(mode, prepare, body),
    }
}

/// The same, of content in the one form that it's written in.
pub(super) fn digest(mode: Mode, prepare: bool, content: &[u8]) -> Text {
    let mut all = format!("{} {prepare} ", mode.name()).into_bytes();
    all.extend_from_slice(content);
    sha256(&all)
        .iter()
        .fold(String::with_capacity(64), |mut hex, byte| {
            // A string takes everything.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
        .into()
}

fn deadline(now: Timestamp, span: u64) -> Result<Timestamp, Problem> {
    if !(1..=DEADLINE_MS_MAX).contains(&span) {
        return Err(Problem::malformed("`deadline_ms` is 1 to a year's milliseconds"));
    }
    Ok(now + Duration::from_millis(span))
}

fn position(named: &[String], before: &str, name: &str) -> Result<u16, Problem> {
    let at = named.iter().position(|other| other == before);
    at.and_then(|at| u16::try_from(at).ok())
        .ok_or_else(|| Problem::malformed(format!("branch {name} comes after {before}, which does not exist")))
}

fn branch(mode: Mode, asked: &AskedBranch, caller: &Caller, now: Timestamp) -> Result<Branch, Problem> {
    let place = |problem: Problem| problem.at(format!("branch {}", asked.name));
    only_own_words(mode, asked).map_err(place)?;
    let body = asked.body.as_ref();
    let make = |word: Option<&String>, body: Option<&Value>| -> Result<Option<Call>, Problem> {
        let Some(word) = word else { return Ok(None) };
        let mut made = call(word, "POST", body, caller)?;
        made.headers = headers(&asked.headers)?;
        Ok(Some(made))
    };
    let [action, confirm, undo] = words(mode).map(|word| asked.call(word));
    let free = undo.is_some_and(|undo| undo == "none");
    let undo = undo.filter(|_| !free);
    // A compensation is told what was asked and answered; the others get what they were given.
    let undo_body = match mode {
        Mode::Saga => asked.compensate_body.as_ref(),
        _ => asked.compensate_body.as_ref().or(body),
    };
    let mut made = Branch {
        name: asked.name.as_str().into(),
        after: Vec::new(),
        action: make(action, body).map_err(place)?,
        confirm: make(confirm, body).map_err(place)?,
        undo: make(undo, undo_body).map_err(place)?,
        pivot: asked.pivot,
        free,
        answer_first: false,
        consent: false,
        retry: retry(&asked.retry).map_err(place)?,
        child: None,
    };
    if let Some(saga) = &asked.saga {
        // Whether it can be taken back is judged once it's known whole.
        nested::adopt(&mut made, child(saga, caller, now).map_err(place)?, true);
    }
    Ok(made)
}

/// A saga within a saga: `{"definition": "NAMESPACE/NAME", "input": ..}`, or what `POST sagas` takes.
fn child(asked: &Value, caller: &Caller, now: Timestamp) -> Result<Child, Problem> {
    let malformed = |error: serde_json::Error| Problem::malformed(format!("the saga within it: {error}"));
    if asked.get("definition").is_some() {
        let Named { definition, input } = Named::deserialize(asked).map_err(malformed)?;
        let (namespace, name) = saga::named(&definition, caller.namespace());
        let input = late::within(input.to_string()).map_err(|error| Problem::malformed(error.to_string()))?;
        let definition = format!("{namespace}/{name}").into();
        return Ok(Child::Defined { definition, input: Some(input.into()), late: None });
    }
    let within = Asked::deserialize(asked).map_err(malformed)?;
    if within.id.is_some() {
        return Err(Problem::malformed("a saga within another has its id from that one; send none"));
    }
    let spec = compose(Mode::Saga, false, &within, Text::default(), caller, now)?;
    Ok(Child::Given { spec: Box::new(Spec { deadline: None, ..spec }), span_ms: within.deadline_ms })
}

/// A saga by its definition, as a branch.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    definition: String,
    #[serde(default)]
    input: Value,
}

/// Refuses calls that this mode doesn't have, rather than never making them.
fn only_own_words(mode: Mode, asked: &AskedBranch) -> Result<(), Problem> {
    let own = words(mode);
    let beside = asked.body.is_some()
        || asked.compensate_body.is_some()
        || !asked.headers.is_empty()
        || !asked.calls.is_empty()
        || asked.retry != AskedRetry::default();
    if asked.saga.is_some() && beside {
        let detail = "a branch that is a saga has no calls, body, headers and retry: its own branches have them";
        return Err(Problem::malformed(detail));
    }
    let unknown = asked.calls.keys().find(|word| !own.contains(&word.as_str())).map(String::as_str);
    let given = [
        ("compensate_body", asked.compensate_body.is_some(), matches!(mode, Mode::Saga | Mode::Scope)),
        ("saga", asked.saga.is_some(), mode == Mode::Saga),
        ("pivot", asked.pivot, mode == Mode::Saga),
        ("after", !asked.after.is_empty(), matches!(mode, Mode::Saga | Mode::Message)),
        // They end the tries of an action that may still be refused, and these modes have none.
        ("retry.attempts", asked.retry.attempts.is_some(), matches!(mode, Mode::Saga | Mode::Tcc)),
        ("retry.for_ms", asked.retry.for_ms.is_some(), matches!(mode, Mode::Saga | Mode::Tcc)),
    ];
    let misplaced = given.iter().find(|(_, given, own)| *given && !own).map(|(word, ..)| *word);
    match unknown.or(misplaced) {
        Some(word) => Err(Problem::malformed(format!("a branch of a {} has no `{word}`", mode.name()))),
        None => Ok(()),
    }
}

fn retry(asked: &AskedRetry) -> Result<Retry, Problem> {
    let usual = Retry::default();
    let retry = Retry {
        attempts: asked.attempts.unwrap_or(usual.attempts),
        for_ms: asked.for_ms.unwrap_or(usual.for_ms),
        first_ms: asked.first_ms.unwrap_or(usual.first_ms),
        cap_ms: asked.cap_ms.unwrap_or(usual.cap_ms),
        timeout_ms: asked.timeout_ms.unwrap_or(usual.timeout_ms),
    };
    if asked.attempts == Some(0) || asked.for_ms == Some(0) {
        return Err(Problem::malformed(
            "`retry.attempts` and `retry.for_ms` are at least 1; without them there is no limit",
        ));
    }
    let within = |name: &str, value: u64, least: u64, most: u64| {
        if (least..=most).contains(&value) {
            return Ok(());
        }
        Err(Problem::malformed(format!("`retry.{name}` is {value}; it is {least} to {most}")))
    };
    within("timeout_ms", retry.timeout_ms, 1, TIMEOUT_MS_MAX)?;
    within("for_ms", retry.for_ms, 0, DEADLINE_MS_MAX)?;
    within("cap_ms", retry.cap_ms, PAUSE_MS_MIN, DEADLINE_MS_MAX)?;
    within("first_ms", retry.first_ms, 1, DEADLINE_MS_MAX)?;
    Ok(retry)
}

/// `[METHOD] SERVICE[.NAMESPACE][:PORT]/PATH`.
fn call(word: &str, usual: &str, body: Option<&Value>, caller: &Caller) -> Result<Call, Problem> {
    let bad = || Problem::malformed(format!("{word:?} is not METHOD SERVICE/PATH, such as \"POST payments/charge\""));
    let (method, place) = word.trim().split_once(' ').unwrap_or((usual, word.trim()));
    let place = place.trim();
    if place.contains("://") {
        return Err(Problem::malformed(format!("{place}: a branch calls a service of the mesh, not a URL")));
    }
    let at = place.find('/').unwrap_or(place.len());
    let (authority, path) = place.split_at(at);
    let port = match authority.split_once(':') {
        Some((_, port)) => Some(port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(bad)?),
        None => None,
    };
    let ServiceRef { namespace, name } = saga::service(authority, caller.namespace());
    let label = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    let clean = path.bytes().all(|b| b.is_ascii_graphic()) && !path.contains('#') && !path.contains("..");
    if !saga::METHODS.contains(&method) || !label(&name) || !label(&namespace) || !clean {
        return Err(bad());
    }
    let body = body.map(Value::to_string);
    if body.as_ref().is_some_and(|body| body.len() > BODY_BYTES_MAX) {
        return Err(Problem::malformed(format!("a body is at most {BODY_BYTES_MAX} bytes")));
    }
    let authority = port.map_or_else(|| format!("{name}.{namespace}"), |port| format!("{name}.{namespace}:{port}"));
    let path = if path.is_empty() { "/" } else { path };
    let target = Target { method: method.into(), authority: authority.into(), path: path.into(), raw: false };
    Ok(Call { target, body: body.map(Text::from), kind: "application/json".into(), headers: Vec::new(), late: None })
}

/// Header fields that a creator may add: none that the mesh or HTTP itself gives a meaning to.
pub(super) fn headers(asked: &BTreeMap<String, String>) -> Result<Vec<(Text, Text)>, Problem> {
    const OWN: [&str; 12] = [
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "upgrade",
        "te",
        "trailer",
        "keep-alive",
        "idempotency-key",
        "content-type",
        "forwarded",
        "authorization",
    ];
    if asked.len() > HEADERS_MAX {
        return Err(Problem::malformed(format!("a branch has at most {HEADERS_MAX} headers")));
    }
    let mut headers = Vec::new();
    for (name, value) in asked {
        let name = name.to_ascii_lowercase();
        let token = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let own = OWN.contains(&name.as_str())
            || ["txn-", "x-byrnie-", "x-forwarded-", "proxy-", "forwarded-", "grpc-", "dtm-"]
                .iter()
                .any(|start| name.starts_with(start));
        if !token || own || !value.bytes().all(|b| (b' '..=b'~').contains(&b)) {
            return Err(Problem::malformed(format!("{name}: a branch can't set this header, or not to this value")));
        }
        headers.push((name.into(), value.as_str().into()));
    }
    Ok(headers)
}

#[cfg(test)]
mod tests;
