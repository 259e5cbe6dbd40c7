// SPDX-License-Identifier: Apache-2.0
//! A journal that tells of each step, and stands still at one of them until its process is killed.

use crate::coordinator::Strike;
use crate::reach;
use byrnie_base::{Text, Timestamp};
use byrnie_saga::Entry;
use byrnie_saga::shards::{Beat, Board};
use byrnie_store::log::{Commits, Peers};
use byrnie_store::{Append, Heading, Journal, Letter, Pending, Story, Value};
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;
use tokio::sync::watch;

/// The journal of the product, struck at one step.
pub(crate) struct Striking<J> {
    inner: J,
    strike: Option<Strike>,
    fails: Option<usize>,
    steps: AtomicUsize,
}

impl<J> Striking<J> {
    pub(crate) const fn new(inner: J, strike: Option<Strike>) -> Self {
        Self { inner, strike, fails: None, steps: AtomicUsize::new(0) }
    }

    /// One that fails whoever makes this step, before it is written.
    pub(crate) const fn failing(inner: J, at: usize) -> Self {
        Self { inner, strike: None, fails: Some(at), steps: AtomicUsize::new(0) }
    }
}

/// Says a line to the test that started this process.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// Asks to be killed, and does nothing more.
fn stand_still() -> ! {
    say("strike");
    loop {
        std::thread::park();
    }
}

impl<J: Journal> Journal for Striking<J> {
    fn append(&self, append: Append) -> Pending<'static, ()> {
        let at = self.steps.fetch_add(1, Ordering::SeqCst);
        let entries: Vec<String> =
            append.entries.iter().map(|entry| reach::kind(&Entry::decode(entry).unwrap())).collect();
        say(&format!("step {}", entries.join(", ")));
        assert_ne!(self.fails, Some(at), "a step that fails whoever makes it");
        let struck = self.strike.filter(|strike| strike.at == at);
        if struck.is_some_and(|strike| !strike.after) {
            stand_still();
        }
        let written = self.inner.append(append);
        if struck.is_some() {
            // The writer is a thread of its own.
            wait(written).unwrap();
            stand_still();
        }
        written
    }

    fn read(&self, id: &str) -> Pending<'static, Story> {
        self.inner.read(id)
    }

    fn unfinished(&self, shards: Vec<u16>) -> Pending<'static, Vec<Text>> {
        self.inner.unfinished(shards)
    }

    fn list(&self, below: Option<&str>, limit: usize) -> Pending<'static, Vec<Heading>> {
        self.inner.list(below, limit)
    }

    fn headings(&self, ids: Vec<Text>) -> Pending<'static, Vec<Heading>> {
        self.inner.headings(ids)
    }

    fn forget(&self, before: Timestamp, limit: usize) -> Pending<'static, usize> {
        self.inner.forget(before, limit)
    }

    fn commits(&self) -> Commits {
        self.inner.commits()
    }
}

impl<J: Journal> Peers for Striking<J> {
    fn lease(&self) -> Option<Duration> {
        self.inner.lease()
    }

    fn beat(&self, beat: Beat) -> Pending<'static, Board> {
        self.inner.beat(beat)
    }

    fn post(&self, shard: u16, body: Value) -> Pending<'static, u64> {
        self.inner.post(shard, body)
    }

    fn letters(&self, shards: Vec<u16>) -> Pending<'static, Vec<Letter>> {
        self.inner.letters(shards)
    }

    fn reply(&self, number: u64, body: Value) -> Pending<'static, ()> {
        self.inner.reply(number, body)
    }

    fn answer(&self, number: u64) -> Pending<'static, Option<Value>> {
        self.inner.answer(number)
    }

    fn news(&self) -> watch::Receiver<()> {
        self.inner.news()
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn wait<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}
