// SPDX-License-Identifier: Apache-2.0
//! What a journal is told to do, as plain jobs, and what comes of them. Every backend does jobs; that makes it a
//! [`Journal`].

use super::{Append, Commits, Heading, Journal, LETTER_BYTES_MAX, Letter, Peers, Story};
use crate::store::{Error, Pending, Value};
use byrnie_base::{Text, Timestamp};
use byrnie_saga::shards::{Beat, Board};
use std::time::Duration;
use tokio::sync::watch;

/// Something for the writer to do.
#[derive(Debug)]
pub enum Job {
    Append(Append),
    Read(Text),
    Unfinished(Vec<u16>),
    List(Option<Text>, usize),
    Headings(Vec<Text>),
    Forget(Timestamp, usize),
    Beat(Beat),
    Post(u16, Value),
    Letters(Vec<u16>),
    Reply(u64, Value),
    Answer(u64),
}

/// What became of it.
#[derive(Debug)]
pub enum Done {
    Appended,
    Story(Story),
    Ids(Vec<Text>),
    Headings(Vec<Heading>),
    Forgotten(usize),
    Board(Board),
    Posted(u64),
    Letters(Vec<Letter>),
    Replied,
    Answer(Option<Value>),
}

impl Job {
    /// How much it adds to a group.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Append(append) => append.bytes(),
            Self::Post(_, body) | Self::Reply(_, body) => body.len(),
            _ => 0,
        }
    }

    /// Whether it appends or looks, and so is done without the tables.
    pub(crate) fn is_logged(&self) -> bool {
        matches!(self, Self::Append(_) | Self::Read(_) | Self::Unfinished(_) | Self::List(..) | Self::Headings(_))
    }

    /// Whether it can be done at all.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self {
            Self::Append(append) => append.check(),
            Self::Post(_, body) | Self::Reply(_, body) if body.len() > LETTER_BYTES_MAX => {
                Err(Error::Limit { what: "a letter, in bytes,", size: body.len(), max: LETTER_BYTES_MAX })
            }
            _ => Ok(()),
        }
    }

    /// Whether others have something to look at once it's done.
    pub(crate) fn is_news(&self) -> bool {
        match self {
            Self::Post(..) | Self::Reply(..) => true,
            Self::Beat(beat) => !beat.give.is_empty(),
            _ => false,
        }
    }
}

/// A backend.
pub trait Run: Send + Sync {
    /// Does a job, which is on its way when this returns, and reads what came of it.
    fn run<T: Send + 'static>(&self, job: Job, read: fn(Done) -> Option<T>) -> Pending<'static, T>;
    /// [`Journal::commits`].
    fn counted(&self) -> Commits;
    /// [`Peers::lease`].
    fn span(&self) -> Option<Duration>;
    /// [`Peers::news`].
    fn bell(&self) -> watch::Receiver<()>;
}

/// The answer, as what was asked for.
macro_rules! of {
    ($variant:ident) => {
        |done| if let Done::$variant(found) = done { Some(found) } else { None }
    };
}

impl<R: Run> Journal for R {
    fn append(&self, append: Append) -> Pending<'static, ()> {
        self.run(Job::Append(append), |done| matches!(done, Done::Appended).then_some(()))
    }

    fn read(&self, id: &str) -> Pending<'static, Story> {
        self.run(Job::Read(id.into()), of!(Story))
    }

    fn unfinished(&self, shards: Vec<u16>) -> Pending<'static, Vec<Text>> {
        self.run(Job::Unfinished(shards), of!(Ids))
    }

    fn list(&self, below: Option<&str>, limit: usize) -> Pending<'static, Vec<Heading>> {
        self.run(Job::List(below.map(Text::from), limit), of!(Headings))
    }

    fn headings(&self, ids: Vec<Text>) -> Pending<'static, Vec<Heading>> {
        self.run(Job::Headings(ids), of!(Headings))
    }

    fn forget(&self, before: Timestamp, limit: usize) -> Pending<'static, usize> {
        self.run(Job::Forget(before, limit), of!(Forgotten))
    }

    fn commits(&self) -> Commits {
        self.counted()
    }
}

impl<R: Run> Peers for R {
    fn lease(&self) -> Option<Duration> {
        self.span()
    }

    fn beat(&self, beat: Beat) -> Pending<'static, Board> {
        self.run(Job::Beat(beat), of!(Board))
    }

    fn post(&self, shard: u16, body: Value) -> Pending<'static, u64> {
        self.run(Job::Post(shard, body), of!(Posted))
    }

    fn letters(&self, shards: Vec<u16>) -> Pending<'static, Vec<Letter>> {
        self.run(Job::Letters(shards), of!(Letters))
    }

    fn reply(&self, number: u64, body: Value) -> Pending<'static, ()> {
        self.run(Job::Reply(number, body), |done| matches!(done, Done::Replied).then_some(()))
    }

    fn answer(&self, number: u64) -> Pending<'static, Option<Value>> {
        self.run(Job::Answer(number), of!(Answer))
    }

    fn news(&self) -> watch::Receiver<()> {
        self.bell()
    }
}
