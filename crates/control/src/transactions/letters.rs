// SPDX-License-Identifier: Apache-2.0
//! What is asked here of a transaction that another coordinator drives: handed to that one by a letter in the journal, and
//! answered the same way. Who asks has been judged where it was asked.

use super::problem::Problem;
use super::run::{Coordinator, Heard};
use byrnie_base::Text;
use byrnie_model::code::{self, Code};
use byrnie_net::runtime;
use byrnie_saga::Ask;
use byrnie_store::{Letter, Value};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long an answer is waited for: longer than a take-over lasts.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it's looked for where no news come.
const LOOK: Duration = Duration::from_millis(250);
/// Letters that are worked on at once.
const OPEN_MAX: usize = 1_000;

/// Numbers of the letters that are worked on.
#[derive(Default)]
pub(super) struct Desk(Mutex<HashSet<u64>>);

#[derive(Serialize, Deserialize)]
struct Question {
    id: Text,
    ask: Ask,
    by: Text,
}

/// An answer; without a problem it is yes.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    problem: Option<Told>,
}

#[derive(Serialize, Deserialize)]
struct Told {
    status: u16,
    code: String,
    detail: String,
    place: String,
}

/// Asks whoever drives the shard.
pub(super) async fn ask(coordinator: &Coordinator, shard: u16, id: &Text, ask: Ask, by: Text) -> Result<(), Problem> {
    let mut news = coordinator.journal.news();
    let number = coordinator.journal.post(shard, write(&Question { id: id.clone(), ask, by })).await?;
    let answered = async {
        loop {
            let answer = match coordinator.journal.answer(number).await {
                Err(byrnie_store::Error::Sealed(_)) => return Err(unheard(id, "is sealed by a key that isn't there")),
                answer => answer?,
            };
            if let Some(answer) = answer {
                let said: Said = serde_json::from_slice(&answer).map_err(|_| unheard(id, "isn't understood"))?;
                return said.problem.map_or(Ok(()), |told| Err(told.problem()));
            }
            tokio::select! {
                _ = news.changed() => {}
                () = runtime::sleep(LOOK) => {}
            }
        }
    };
    runtime::timeout(PATIENCE, answered).await.unwrap_or_else(|runtime::Elapsed| Err(unheard(id, "doesn't come")))
}

/// Nobody knows whether what was asked was done.
fn unheard(id: &Text, why: &str) -> Problem {
    let detail = format!("the answer of the coordinator that drives {id} {why}; ask for its state before asking again");
    Problem::new(503, &code::TXN_JOURNAL, detail)
}

/// Answers what others ask of the shards that are held here.
pub(super) async fn answer_all(coordinator: &Arc<Coordinator>) {
    let shards = coordinator.terms.shards();
    if coordinator.journal.lease().is_none() || shards.is_empty() {
        return;
    }
    // If there is none now, there is one later.
    let Ok(letters) = coordinator.journal.letters(shards).await else { return };
    for letter in letters {
        let open = {
            let mut desk = coordinator.terms.desk.0.lock().unwrap_or_else(PoisonError::into_inner);
            desk.len() < OPEN_MAX && desk.insert(letter.number)
        };
        if open {
            let coordinator = Arc::clone(coordinator);
            runtime::spawn("transaction letter", async move {
                let mut shutdown = coordinator.shutdown.clone();
                tokio::select! {
                    () = answer(&coordinator, &letter) => {}
                    () = shutdown.wait() => {}
                }
                coordinator.terms.desk.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&letter.number);
            });
        }
    }
}

async fn answer(coordinator: &Arc<Coordinator>, letter: &Letter) {
    let said = match serde_json::from_slice(&letter.body) {
        Ok(Question { id, ask, by }) => match coordinator.ask_here(&id, ask, by).await {
            // It has gone to another, who finds the letter, too.
            Ok(None | Some(Heard::Elsewhere(_))) => return,
            Ok(Some(Heard::Answered)) => Said::default(),
            Err(problem) => Said { problem: Some(Told::of(&problem)) },
        },
        Err(error) => Said { problem: Some(Told::of(&Problem::malformed(error.to_string()))) },
    };
    if let Err(error) = coordinator.journal.reply(letter.number, write(&said)).await {
        tracing::warn!(%error, "an answer to another coordinator can't be written");
    }
}

impl Told {
    fn of(problem: &Problem) -> Self {
        let Problem { status, code, detail, place } = problem.clone();
        Self { status, code: code.id.to_owned(), detail, place }
    }

    fn problem(self) -> Problem {
        let code = Code::find(&self.code).unwrap_or(&code::TXN_JOURNAL);
        Problem { status: self.status, code, detail: self.detail, place: self.place }
    }
}

fn write(value: &impl Serialize) -> Value {
    // Plain data with text keys: there is nothing that JSON can't say.
    serde_json::to_vec(value).unwrap_or_default().into()
}
