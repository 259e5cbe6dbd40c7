// SPDX-License-Identifier: Apache-2.0
//! Who asked what of the coordinator, and whether it was let in: one line each. What changed the course of a transaction, and
//! what was refused, is in the log and in the store of this control plane, so that it outlives the process. Who began one or joined it
//! stands in its own history, for as long as that is kept; of these lines the newest are in memory alone, as there may be thousands a second.

#[cfg(test)]
mod tests;

use super::Caller;
use crate::State;
use byrnie_base::{Text, Timestamp};
use byrnie_net::runtime;
use byrnie_store::{Error, Txn};
use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Lines kept of each kind: steps, refusals, and what transactions come by. Whoever is refused often takes the room of no step.
pub(super) const LINES_MAX: usize = 10_000;
/// Lines written together.
const BATCH_MAX: usize = 256;
/// Pause between two writes. What is noted faster than it is written is lost with its oldest lines.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest verb and id of a line, in bytes: those that are asked for may not be any.
const WORD_BYTES_MAX: usize = 128;
/// The status of what was asked by somebody who went away before the answer: whether it was done, the transaction tells.
pub(super) const UNHEARD: u16 = 499;
/// Where lines are kept: `/audit/KIND/NUMBER`, by the number of the first of a batch.
const STEMS: [&str; 2] = ["/audit/steps/", "/audit/refused/"];

/// What every transaction comes by, which would fill a log.
const COMMON: [&str; 9] =
    ["start", "enlist", "confirm", "close", "complete", "prepare", "submit", "registerBranch", "registerTccBranch"];

/// One question and its answer.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Line {
    /// When.
    pub at: Timestamp,
    /// Who: an identity, `operator`, or `anonymous`.
    pub caller: Text,
    /// What: `start`, `cancel`, `enlist` and so on.
    pub verb: Text,
    /// The transaction; empty if it has none yet.
    pub id: Text,
    /// The status of the answer.
    pub status: u16,
}

/// The newest lines.
#[derive(Debug, Default)]
pub(super) struct Audit {
    common: Mutex<VecDeque<Line>>,
    /// As [`STEMS`].
    kept: [Mutex<Kept>; 2],
    news: Notify,
}

/// Lines that outlive the process.
#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<Line>,
    /// The number of the next line.
    next: u64,
    /// That of the first line that isn't written.
    unwritten: u64,
    /// Keys of what is written, oldest first, and how many lines are under each.
    batches: VecDeque<(Text, usize)>,
}

impl Audit {
    pub(super) fn note(&self, at: Timestamp, caller: Option<&Caller>, verb: &str, id: &str, status: u16) {
        let caller = caller.map_or_else(|| Text::from("anonymous"), Caller::name);
        let (verb, id) = (short(verb), short(id));
        let (refused, common) = (matches!(status, 401 | 403), COMMON.contains(&&*verb));
        if refused {
            tracing::warn!(target: "audit", %caller, %verb, %id, status, "refused");
        } else if common {
            tracing::debug!(target: "audit", %caller, %verb, %id, status, "asked");
        } else {
            tracing::info!(target: "audit", %caller, %verb, %id, status, "asked");
        }
        let line = Line { at, caller, verb, id, status };
        if common && !refused {
            return push(&mut lock(&self.common), line);
        }
        let done = status < 400 || status == UNHEARD;
        let mut kept = lock(&self.kept[usize::from(!done)]);
        push(&mut kept.lines, line);
        kept.next += 1;
        drop(kept);
        self.news.notify_one();
    }

    /// Newest first.
    pub(super) fn newest(&self, count: usize) -> Vec<Line> {
        let last = |lines: &VecDeque<Line>| lines.iter().rev().take(count).cloned().collect::<Vec<_>>();
        let mut found = last(&lock(&self.common));
        found.extend(self.kept.iter().flat_map(|kept| last(&lock(kept).lines)));
        found.sort_by_key(|line| Reverse(line.at));
        found.truncate(count);
        found
    }

    /// Keeps what is noted, for as long as the coordinator runs.
    pub(super) async fn keep(&self, state: &State) {
        let mut told = false;
        while let Err(error) = self.read(state).await {
            tell(&mut told, &error);
            runtime::sleep(PAUSE).await;
        }
        loop {
            match self.write(state).await {
                Ok(0) => self.news.notified().await,
                written => {
                    match written {
                        Ok(_) => told = false,
                        Err(error) => tell(&mut told, &error),
                    }
                    runtime::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Takes in what was kept before.
    async fn read(&self, state: &State) -> Result<(), Error> {
        for (stem, kept) in STEMS.iter().zip(&self.kept) {
            let (entries, _) = state.store.list(stem).await?;
            let mut before = Kept::default();
            for entry in entries {
                let first = entry.key.strip_prefix(stem).and_then(|number| number.parse::<u64>().ok());
                let Some((first, lines)) = first.zip(serde_json::from_slice::<Vec<Line>>(&entry.value).ok()) else {
                    continue;
                };
                before.next = first + lines.len() as u64;
                before.batches.push_back((entry.key, lines.len()));
                lines.into_iter().for_each(|line| push(&mut before.lines, line));
            }
            let mut kept = lock(kept);
            before.unwritten = before.next;
            for line in std::mem::take(&mut kept.lines) {
                before.next += 1;
                push(&mut before.lines, line);
            }
            *kept = before;
        }
        Ok(())
    }

    /// Writes what was noted, a batch of each kind: how many lines.
    pub(super) async fn write(&self, state: &State) -> Result<usize, Error> {
        let mut count = 0;
        for (stem, kept) in STEMS.iter().zip(&self.kept) {
            let batch = lock(kept).batch();
            let Some((first, lines)) = batch else { continue };
            let key = Text::from(format!("{stem}{first:020}"));
            // Plain data with text keys: there is nothing that JSON can't say.
            let txn = Txn::new().put(key.clone(), serde_json::to_vec(&lines).unwrap_or_default());
            let old = lock(kept).old(lines.len());
            let txn = old.iter().fold(txn, |txn, key| txn.delete(key.clone()));
            state.store.commit(txn).await?;
            let mut kept = lock(kept);
            kept.unwritten = first + lines.len() as u64;
            kept.batches.drain(..old.len());
            kept.batches.push_back((key, lines.len()));
            count += lines.len();
        }
        Ok(count)
    }
}

impl Kept {
    /// What is to be written next, and the number of its first line.
    fn batch(&self) -> Option<(u64, Vec<Line>)> {
        let first = self.unwritten.max(self.next - self.lines.len() as u64);
        let skipped = self.lines.len() - usize::try_from(self.next - first).unwrap_or_default();
        let lines: Vec<Line> = self.lines.iter().skip(skipped).take(BATCH_MAX).cloned().collect();
        (!lines.is_empty()).then_some((first, lines))
    }

    /// The oldest batches, of which nobody needs a line once there are so many more.
    fn old(&self, more: usize) -> Vec<Text> {
        let mut left = self.batches.iter().map(|(_, count)| count).sum::<usize>() + more;
        let spare = |(_, count): &&(Text, usize)| {
            left -= count;
            left >= LINES_MAX
        };
        self.batches.iter().take_while(spare).map(|(key, _)| key.clone()).collect()
    }
}

fn tell(told: &mut bool, error: &Error) {
    if !std::mem::replace(told, true) {
        tracing::error!(%error, "the audit of transactions can't be kept; it is tried again");
    }
}

fn lock<T>(lines: &Mutex<T>) -> MutexGuard<'_, T> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

fn push(lines: &mut VecDeque<Line>, line: Line) {
    if lines.len() >= LINES_MAX {
        lines.pop_front();
    }
    lines.push_back(line);
}

fn short(word: &str) -> Text {
    word.get(..word.floor_char_boundary(WORD_BYTES_MAX)).unwrap_or_default().into()
}
