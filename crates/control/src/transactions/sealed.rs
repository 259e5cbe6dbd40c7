// SPDX-License-Identifier: Apache-2.0
//! A journal whose entries rest sealed: they have the bodies of calls, and what participants answered. Each is sealed for its place in its transaction,
//! so that none is taken for another; summaries and letters as well. Ids, shards and moments stand there as they are. It's sealed by
//! keys alone that an operator has given: a saga that stands still for want of a key is worse than an answer that can't be replayed, so a key that a
//! control plane made for itself, and that nobody may have kept, isn't enough.

use crate::keys::Keys;
use byrnie_base::{Text, Timestamp};
use byrnie_net::tls::Unreadable;
use byrnie_saga::shards::{Beat, Board};
use byrnie_store::log::{Commits, Heading, Letter, Peers, Story};
use byrnie_store::{Append, Error, Journal, Pending, Value};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A journal, and the keys of its entries.
pub struct Sealed {
    journal: Arc<dyn Journal>,
    keys: Arc<Keys>,
}

/// What questions are sealed for; answers are for the number of theirs.
const QUESTION: &[u8] = b"txn question";

fn answer_to(number: u64) -> Vec<u8> {
    format!("txn answer\0{number}").into_bytes()
}

impl Sealed {
    /// Seals what `journal` is given.
    pub fn new(journal: Arc<dyn Journal>, keys: Arc<Keys>) -> Self {
        Self { journal, keys }
    }

    fn keep(&self, purpose: &[u8], kept: Value) -> Result<Value, Error> {
        if self.keys.is_given() { self.keys.seal(purpose, kept) } else { Ok(kept) }
    }

    /// Headings with their summaries unsealed.
    fn open(&self, listing: Pending<'static, Vec<Heading>>) -> Pending<'static, Vec<Heading>> {
        let keys = Arc::clone(&self.keys);
        Box::pin(async move {
            let mut headings = listing.await?;
            for heading in &mut headings {
                let summary = keys.unseal(|_| summary_of(&heading.id), heading.summary.clone());
                // What can't be read is there all the same.
                heading.summary = summary.unwrap_or_else(|why| {
                    Value::from(json!({"state": "SEALED", "reason": why.to_string()}).to_string().into_bytes())
                });
            }
            Ok(headings)
        })
    }

    fn seal(&self, append: Append) -> Result<Append, Error> {
        if !self.keys.is_given() {
            return Ok(append);
        }
        if self.keys.is_short() {
            return Err(Error::Refused("there is no key that seals it".into()));
        }
        let (id, first) = (&append.id, append.after);
        let entries = (first..).zip(append.entries).map(|(at, entry)| self.keys.seal(&entry_of(id, at), entry));
        let (entries, summary) = (entries.collect::<Result<_, _>>()?, self.keys.seal(&summary_of(id), append.summary)?);
        Ok(Append { entries, summary, ..append })
    }
}

/// No id of a service is `txn`, so that no answer of a keyed request is taken for an entry.
fn entry_of(id: &str, at: u32) -> Vec<u8> {
    format!("txn\0{id}\0{at}").into_bytes()
}

fn summary_of(id: &str) -> Vec<u8> {
    format!("txn\0{id}\0summary").into_bytes()
}

fn sealed(why: &Unreadable) -> Error {
    Error::Sealed(Text::from(why.to_string()))
}

impl Journal for Sealed {
    fn append(&self, append: Append) -> Pending<'static, ()> {
        match self.seal(append) {
            Ok(append) => self.journal.append(append),
            Err(error) => Box::pin(async move { Err(error) }),
        }
    }

    fn read(&self, id: &str) -> Pending<'static, Story> {
        let (reading, keys, id) = (self.journal.read(id), Arc::clone(&self.keys), Text::from(id));
        Box::pin(async move {
            let story = reading.await?;
            let entries = (0..).zip(story.entries);
            let entries = entries.map(|(at, entry)| keys.unseal(|_| entry_of(&id, at), entry));
            Ok(Story { entries: entries.collect::<Result<_, _>>().map_err(|why| sealed(&why))?, ..story })
        })
    }

    fn unfinished(&self, shards: Vec<u16>) -> Pending<'static, Vec<Text>> {
        self.journal.unfinished(shards)
    }

    fn list(&self, below: Option<&str>, limit: usize) -> Pending<'static, Vec<Heading>> {
        self.open(self.journal.list(below, limit))
    }

    fn headings(&self, ids: Vec<Text>) -> Pending<'static, Vec<Heading>> {
        self.open(self.journal.headings(ids))
    }

    fn forget(&self, before: Timestamp, limit: usize) -> Pending<'static, usize> {
        self.journal.forget(before, limit)
    }

    fn commits(&self) -> Commits {
        self.journal.commits()
    }
}

impl Peers for Sealed {
    fn lease(&self) -> Option<Duration> {
        self.journal.lease()
    }

    fn beat(&self, beat: Beat) -> Pending<'static, Board> {
        self.journal.beat(beat)
    }

    fn post(&self, shard: u16, body: Value) -> Pending<'static, u64> {
        match self.keep(QUESTION, body) {
            Ok(body) => self.journal.post(shard, body),
            Err(error) => Box::pin(async move { Err(error) }),
        }
    }

    fn letters(&self, shards: Vec<u16>) -> Pending<'static, Vec<Letter>> {
        let (reading, keys) = (self.journal.letters(shards), Arc::clone(&self.keys));
        Box::pin(async move {
            let letters = reading.await?;
            let open = |Letter { number, body }| match keys.unseal(|_| QUESTION.to_vec(), body) {
                Ok(body) => Some(Letter { number, body }),
                Err(why) => {
                    tracing::error!(number, %why, "a question of another coordinator can't be read, and isn't answered");
                    None
                }
            };
            Ok(letters.into_iter().filter_map(open).collect())
        })
    }

    fn reply(&self, number: u64, body: Value) -> Pending<'static, ()> {
        match self.keep(&answer_to(number), body) {
            Ok(body) => self.journal.reply(number, body),
            Err(error) => Box::pin(async move { Err(error) }),
        }
    }

    fn answer(&self, number: u64) -> Pending<'static, Option<Value>> {
        let (reading, keys) = (self.journal.answer(number), Arc::clone(&self.keys));
        Box::pin(async move {
            let Some(body) = reading.await? else { return Ok(None) };
            keys.unseal(|_| answer_to(number), body).map(Some).map_err(|why| sealed(&why))
        })
    }

    fn news(&self) -> watch::Receiver<()> {
        self.journal.news()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use byrnie_net::runtime;
    use byrnie_saga::Term;
    use byrnie_store::disk::RamDisk;
    use byrnie_store::log::Memory;
    use std::path::Path;

    fn append(id: &str, after: u32, entries: &[&str]) -> Append {
        Append {
            term: Term::default(),
            id: id.into(),
            after,
            entries: entries.iter().map(|entry| Value::from(entry.as_bytes())).collect(),
            summary: Value::from(&br#"{"state":"RUNNING","reason":"card 4711"}"#[..]),
            ended: None,
        }
    }

    async fn texts(journal: &dyn Journal, id: &str) -> Result<Vec<String>, Error> {
        let story = journal.read(id).await?;
        Ok(story.entries.iter().map(|entry| String::from_utf8_lossy(entry).into_owned()).collect())
    }

    fn ring(folder: &Path, digits: &str) -> Arc<Keys> {
        let shared = folder.join(format!("keys-{digits}"));
        byrnie_net::tls::keys::write_private(&shared, &[&digits.repeat(32)]).unwrap();
        Keys::open(Some(shared), folder.join("ledger.keys"), true).unwrap()
    }

    #[test]
    fn what_participants_answered_rests_sealed_and_in_its_place() {
        let folder = tempfile::tempdir().unwrap();
        runtime::block_on(async {
            let bare: Arc<dyn Journal> = Arc::new(Memory::open(&RamDisk::new(), Arc::new(*runtime::clock())).unwrap());
            // Begun by a program of before, which kept it as it was.
            bare.append(append("t", 0, &["begun"])).await.unwrap();
            let journal = Sealed::new(Arc::clone(&bare), ring(folder.path(), "a1"));
            journal.append(append("t", 1, &["card 4711", "card 4712"])).await.unwrap();
            assert_eq!(texts(&journal, "t").await.unwrap(), ["begun", "card 4711", "card 4712"]);
            let rests = bare.read("t").await.unwrap().entries;
            assert!(rests.iter().all(|entry| !entry.windows(3).any(|three| three == b"471")), "{rests:?}");
            let listed = journal.list(None, 9).await.unwrap();
            assert_eq!(&*listed[0].summary, br#"{"state":"RUNNING","reason":"card 4711"}"#);
            assert_ne!(bare.list(None, 9).await.unwrap()[0].summary, listed[0].summary);
            // None is taken for another, of this transaction or of another one.
            for (id, entries) in [("u", vec![rests[1].clone()]), ("t", vec![rests[1].clone()])] {
                let after = if id == "t" { 3 } else { 0 };
                bare.append(Append { entries, ..append(id, after, &[]) }).await.unwrap();
                assert!(matches!(texts(&journal, id).await, Err(Error::Sealed(_))), "{id}");
            }
            // What one coordinator asks of another is for them alone.
            let number = journal.post(0, Value::from(&b"card 4711?"[..])).await.unwrap();
            assert!(!bare.letters(vec![0]).await.unwrap()[0].body.windows(4).any(|four| four == b"4711"));
            assert_eq!(&*journal.letters(vec![0]).await.unwrap()[0].body, b"card 4711?");
            journal.reply(number, Value::from(&b"card 4711!"[..])).await.unwrap();
            assert_eq!(journal.answer(number).await.unwrap().as_deref(), Some(&b"card 4711!"[..]));
        })
        .unwrap();
    }

    #[test]
    fn without_its_key_a_transaction_waits_and_is_there_once_the_key_is_back() {
        let folder = tempfile::tempdir().unwrap();
        runtime::block_on(async {
            let bare: Arc<dyn Journal> = Arc::new(Memory::open(&RamDisk::new(), Arc::new(*runtime::clock())).unwrap());
            let journal = Sealed::new(Arc::clone(&bare), ring(folder.path(), "a1"));
            journal.append(append("t", 0, &["begun"])).await.unwrap();
            let other = Sealed::new(Arc::clone(&bare), ring(folder.path(), "b2"));
            let missing = texts(&other, "t").await.unwrap_err();
            assert!(matches!(&missing, Error::Sealed(why) if why.contains("isn't there")), "{missing}");
            assert_eq!(other.unfinished(vec![0]).await.unwrap(), ["t"]);
            let listed = other.list(None, 9).await.unwrap();
            assert!(String::from_utf8_lossy(&listed[0].summary).contains("SEALED"));
            assert_eq!(texts(&journal, "t").await.unwrap(), ["begun"]);
            // Nothing is written that would have to rest as it is.
            *other.keys.ring.write().unwrap() = Arc::default();
            assert!(matches!(other.append(append("u", 0, &["begun"])).await, Err(Error::Refused(_))));
            assert_eq!(bare.read("u").await.unwrap().entries.len(), 0);
        })
        .unwrap();
    }
}
