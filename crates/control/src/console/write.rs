// SPDX-License-Identifier: Apache-2.0
//! What changes the mesh: apply, delete, undo, tokens. Bodies are read and judged here; what is written,
//! and the history of it, is `apply`'s and `history`'s.

use super::wire::{found, json_response, list, parameter};
use super::{Console, Outcome, Problem, look};
use crate::apply::{self, Action, Applied};
use crate::{ca, history};
use byrnie_model::yaml::{self, Defaults};
use byrnie_model::{Diagnostic, Identity, Key, Resource, Revision, code};
use byrnie_net::runtime;
use byrnie_net::serve::Request;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

/// Longest time that a writer waits until what it wrote can be read here.
const READ_BACK_MAX: Duration = Duration::from_secs(2);

/// `POST /api/v1/apply?dryRun=&namespace=&since=`: every document of the body, or none; with `since`, a revision, only if nobody has
/// written any of these resources after that.
pub(super) async fn apply(console: &Console, request: &Request) -> Outcome {
    let since = revision(request, "since")?;
    let (resources, mut diagnostics) = read_body(console, request)?;
    // What doesn't fit the rest is told, not refused: the rest may come with the next file.
    diagnostics.extend(super::ask::judge(console, &resources));
    if parameter(request, "dryRun").is_some_and(|dry| !matches!(dry.as_str(), "false" | "0")) {
        if since.is_some() {
            let actions: Vec<Action> = resources.iter().cloned().map(Action::Put).collect();
            apply::preview(&console.state, &actions, since).await?;
        }
        let results = list(&resources, |resource| result(&resource.key, preview(console, resource)));
        let revision = console.state.revision();
        return Ok(found(&answer(revision, true, results, &diagnostics)));
    }
    let actions: Vec<Action> = resources.into_iter().map(Action::Put).collect();
    let (who, why) = (who(request), why(request));
    let applied = apply::apply_since(&console.state, &actions, since, (&who, &why)).await?;
    read_back(console, &applied).await;
    Ok(found(&answer(applied.revision, false, outcomes(&applied), &diagnostics)))
}

/// `DELETE /api/v1/resources/...?since=`. What is wrong without it, and wasn't with it, is told.
pub(super) async fn delete(console: &Console, request: &Request, kind: &str, namespace: &str, name: &str) -> Outcome {
    let key = look::key(kind, namespace, name)?;
    let actions = [Action::Delete(key)];
    let diagnostics = super::ask::news(console, &actions);
    let applied =
        apply::apply_since(&console.state, &actions, revision(request, "since")?, (&who(request), "delete")).await?;
    read_back(console, &applied).await;
    Ok(found(&answer(applied.revision, false, outcomes(&applied), &diagnostics)))
}

/// `POST /api/v1/undo?revision=`: what the newest change (or the one named) did is taken back, unless
/// the same resources were changed again since. What is wrong after it, and wasn't before, is told.
pub(super) async fn undo(console: &Console, request: &Request) -> Outcome {
    let (undone, actions) = history::way_back(&console.state, revision(request, "revision")?).await?;
    let diagnostics = super::ask::news(console, &actions);
    let applied = apply::apply(&console.state, &actions, &who(request), &format!("undo {undone}")).await?;
    read_back(console, &applied).await;
    let mut answer = answer(applied.revision, false, outcomes(&applied), &diagnostics);
    answer["undone"] = json!(undone);
    Ok(found(&answer))
}

/// The body of `POST /api/v1/tokens`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct TokenAsked {
    /// `NAMESPACE/SERVICE_ACCOUNT`.
    workload: String,
    /// How long it holds.
    #[serde(default = "ttl_seconds")]
    ttl_seconds: u64,
    /// How often it may be used.
    #[serde(default = "uses")]
    uses: u32,
}

const fn ttl_seconds() -> u64 {
    15 * 60
}

const fn uses() -> u32 {
    1
}

/// `POST /api/v1/tokens`: a join token, shown this once.
pub(super) async fn token(console: &Console, request: &Request) -> Outcome {
    let asked: TokenAsked = serde_json::from_slice(&request.body).map_err(|error| {
        Problem::bad_request(
            format!("the body is not a request for a token: {error}"),
            "{\"workload\": \"NS/ACCOUNT\"}",
        )
    })?;
    let (namespace, account) = asked.workload.split_once('/').unwrap_or(("default", &asked.workload));
    let identity = Identity::new(&console.state.trust_domain, namespace, account)
        .map_err(|error| Problem::bad_request(error.to_string(), "workload is NAMESPACE/SERVICE_ACCOUNT"))?;
    let life = Duration::from_secs(asked.ttl_seconds);
    let (token, grant) = ca::token::create(&console.state, identity, life, asked.uses, &who(request)).await?;
    let answer = json!({
        "token": token.expose(),
        "id": grant.id,
        "identity": grant.identity,
        "expiresAt": grant.expires,
        "uses": grant.uses_left,
    });
    Ok(json_response(201, &answer))
}

/// `GET /api/v1/tokens`: join tokens that still hold, without their secrets.
pub(super) async fn tokens(console: &Console) -> Outcome {
    let grants = ca::token::list(&console.state).await?;
    Ok(found(&list(grants, |grant| serde_json::to_value(grant).unwrap_or_default())))
}

/// Waits until the catalog has what was written, so that whoever has the answer and asks next is told of it.
async fn read_back(console: &Console, applied: &Applied) {
    if applied.outcomes.iter().all(|(_, outcome)| *outcome == apply::Outcome::Unchanged) {
        return;
    }
    let mut revisions = console.state.revisions();
    let known = revisions.wait_for(|known| *known >= applied.revision);
    if !matches!(runtime::timeout(READ_BACK_MAX, known).await, Ok(Ok(_))) {
        tracing::warn!(revision = %applied.revision, "written, and not read back in time: answers are older for a while");
    }
}

/// The documents in a request's body.
fn read_body(console: &Console, request: &Request) -> Result<(Vec<Resource>, Vec<Diagnostic>), Problem> {
    let mut parsed = parse_body(console, request)?;
    let now = console.state.now().wall;
    let judged = parsed.documents.iter().filter_map(|document| super::certificate::judge(&document.resource, now));
    let mut unfit: Vec<Diagnostic> = judged.filter(Diagnostic::is_error).collect();
    parsed.place(std::str::from_utf8(&request.body).unwrap_or_default(), &mut unfit);
    parsed.diagnostics.extend(unfit);
    if parsed.has_errors() {
        return Err(Problem::refused(parsed.diagnostics));
    }
    if parsed.documents.is_empty() {
        return Err(Problem::bad_request("the body holds no document", "send YAML or JSON documents"));
    }
    Ok((parsed.documents.into_iter().map(|document| document.resource).collect(), parsed.diagnostics))
}

/// The same, with what is wrong left in place.
pub(super) fn parse_body(console: &Console, request: &Request) -> Result<yaml::Parsed, Problem> {
    let text = std::str::from_utf8(&request.body)
        .map_err(|_| Problem::bad_request("the body is not UTF-8", "send YAML or JSON in UTF-8"))?;
    let defaults = Defaults {
        namespace: parameter(request, "namespace").unwrap_or_else(|| "default".to_owned()).into(),
        trust_domain: console.state.trust_domain.clone(),
    };
    Ok(yaml::parse(&parameter(request, "file").unwrap_or_default(), text, &defaults))
}

fn answer(revision: Revision, dry: bool, results: Value, diagnostics: &[Diagnostic]) -> Value {
    json!({
        "revision": revision,
        "dryRun": dry,
        "results": results,
        "diagnostics": list(diagnostics, Diagnostic::to_json),
    })
}

/// What applying a resource would come to.
fn preview(console: &Console, resource: &Resource) -> &'static str {
    console.state.catalog(|catalog| match catalog.resource(&resource.key) {
        None => "created",
        Some(now) if now.spec == resource.spec && now.labels == resource.labels => "unchanged",
        Some(_) => "changed",
    })
}

fn outcomes(applied: &Applied) -> Value {
    list(&applied.outcomes, |(key, outcome)| {
        let word = match outcome {
            apply::Outcome::Created => "created",
            apply::Outcome::Changed => "changed",
            apply::Outcome::Unchanged => "unchanged",
            apply::Outcome::Deleted => "deleted",
        };
        result(key, word)
    })
}

fn result(key: &Key, action: &str) -> Value {
    json!({"kind": key.kind.name(), "namespace": key.namespace, "name": key.name, "action": action})
}

/// Who asks, as far as they say: the token is the operators' own, so this is for the history only.
pub(super) fn who(request: &Request) -> String {
    /// Longest name kept.
    const NAME_CHARS_MAX: usize = 64;
    let name = parameter(request, "user").unwrap_or_default();
    let name: String = name.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect();
    if name.is_empty() { "operator".to_owned() } else { name }
}

/// The revision that a parameter names.
fn revision(request: &Request, name: &str) -> Result<Option<Revision>, Problem> {
    let Some(text) = parameter(request, name).filter(|text| !text.is_empty()) else { return Ok(None) };
    let bad = |_| Problem::bad_request(format!("{name}={text} is not a revision"), "`byrnie history`");
    text.parse().map(Revision).map(Some).map_err(bad)
}

/// What for, in a word: `apply` unless the client says better.
fn why(request: &Request) -> String {
    /// Longest word kept.
    const WORD_CHARS_MAX: usize = 32;
    let word = parameter(request, "why").unwrap_or_default();
    let word: String = word.chars().filter(char::is_ascii_lowercase).take(WORD_CHARS_MAX).collect();
    if word.is_empty() { "apply".to_owned() } else { word }
}

impl From<apply::Error> for Problem {
    fn from(error: apply::Error) -> Self {
        match error {
            apply::Error::Absent(key) => Self::absent(&key),
            apply::Error::Derived(key) => Self::new(422, &code::UNDERIVABLE, error_text(&key)).at(key.to_string()),
            apply::Error::Twice(ref key) => {
                Self::new(422, &code::DUPLICATE_RESOURCE, error.to_string()).at(key.to_string())
            }
            apply::Error::Stale { ref key, .. } => Self::new(409, &code::STALE, error.to_string()).at(key.to_string()),
            apply::Error::TrustDomain { .. } => Self::new(422, &code::TRUST_DOMAIN_FIXED, error.to_string()),
            apply::Error::Store(error) => error.into(),
        }
    }
}

fn error_text(key: &Key) -> String {
    format!("{key} cannot be written: the mesh derives it")
}

impl From<history::Error> for Problem {
    fn from(error: history::Error) -> Self {
        match error {
            history::Error::Unknown(_) => Self::new(404, &code::NOT_FOUND, "no such change is in the history")
                .next("`byrnie history` lists what can be undone"),
            history::Error::Superseded { ref key, .. } => Self::new(409, &code::STALE, error.to_string())
                .at(key.to_string())
                .next("undo the later change first: `byrnie history`"),
            history::Error::Invalid { ref key, .. } => {
                Self::new(422, &code::UNREADABLE, error.to_string()).at(key.to_string())
            }
            history::Error::Apply(error) => error.into(),
            history::Error::Store(error) => error.into(),
        }
    }
}

impl From<ca::token::Error> for Problem {
    fn from(error: ca::token::Error) -> Self {
        match error {
            ca::token::Error::Store(error) => error.into(),
            ca::token::Error::Limit(why) => Self::bad_request(why, "byrnie token create --help"),
            other => Self::new(500, &code::INTERNAL, other.to_string()),
        }
    }
}
