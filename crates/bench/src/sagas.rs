// SPDX-License-Identifier: Apache-2.0
//! Sagas of two branches by dtm's API, which byrnie's coordinator and dtm itself both serve: a load of them, or
//! some that stand still in the middle and go on later. The participants are here as well, so that what the
//! coordinator says is held against what took effect.

mod api;
mod message;
mod participants;

use crate::load::{Due, pace};
use crate::tally::{Seen, Tally, WARM_UP, now, say};
use crate::words::Words;
use anyhow::{Context, Result};
use api::{Api, Line};
use byrnie_net::runtime;
use participants::{Book, Faults, Gate};
use serde::Serialize;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, oneshot};

/// Pause of a client whose saga failed.
const FAILED_PAUSE: Duration = Duration::from_millis(100);
/// How often the book is looked at.
const LOOK: Duration = Duration::from_millis(2);
/// How long the coordinator may take to say of the last saga that it's done, after its last effect.
const SAID_MAX: Duration = Duration::from_secs(30);
/// Clients that ask how sagas have ended.
const ASKING: usize = 8;

/// What the clients of one run share.
struct Run {
    api: Api,
    book: Rc<Book>,
    tally: Tally,
    /// Sagas that the coordinator has accepted or, if it was to wait, has said are done.
    acknowledged: RefCell<Vec<String>>,
    /// First part of all ids, and the number of the next.
    prefix: String,
    next: Cell<u64>,
    over: Cell<bool>,
}

impl Run {
    fn start(words: &Words) -> Result<Rc<Self>> {
        let book = Rc::new(Book::default());
        let places = words.text("listen").map(|_| words.addresses("listen")).transpose()?;
        let places = participants::open(&book, places.as_deref().unwrap_or(&participants::ANYWHERE))?;
        let hosts = match words.text("hosts") {
            Some(hosts) => hosts.split(',').map(str::to_owned).collect(),
            None => places.iter().map(ToString::to_string).collect(),
        };
        let api = Api { to: words.address("to")?, token: words.text("token").unwrap_or("none").to_owned(), hosts };
        Ok(Rc::new(Self {
            api,
            book,
            tally: Tally::default(),
            acknowledged: RefCell::default(),
            prefix: words.text("run").unwrap_or("0").to_owned(),
            next: Cell::new(0),
            over: Cell::new(false),
        }))
    }

    /// An id greater than those before it, all of one length: kind to every store that keeps keys in order.
    fn id(&self) -> String {
        let number = self.next.replace(self.next.get() + 1);
        format!("bench-{}-{number:010}", self.prefix)
    }

    fn faults(&self) -> Faults {
        self.book.faults(&self.acknowledged.borrow())
    }
}

/// `sagas to=ADDR ...`: a load, or with `park=N` so many that stand still.
pub(crate) fn run(words: &Words) -> Result<()> {
    let clients: usize = words.number("clients", 64)?;
    let parked: usize = words.number("park", 0)?;
    runtime::block_on(async {
        let run = Run::start(words)?;
        if parked > 0 {
            let limit = Duration::from_secs(words.number("limit", 60)?);
            let down = words.text("down").map(str::parse).transpose().context("down=")?.map(Duration::from_secs);
            run.book.gate.set(match down {
                Some(_) => Gate::Down,
                None if words.flag("open") => Gate::Open,
                None => Gate::Held,
            });
            return park(&run, clients, parked, down, limit).await;
        }
        let (span, rate) = (Duration::from_secs(words.number("secs", 3)?), words.number("rate", 0)?);
        load(&run, clients, span, (rate > 0).then(|| Rc::new(Mutex::new(pace(rate, WARM_UP + span))))).await
    })?
}

/// What a load showed.
#[derive(Serialize)]
struct Loaded {
    #[serde(flatten)]
    seen: Seen,
    /// Calls of branches within the span.
    calls: u64,
    lost: u64,
    doubled: u64,
    undone: u64,
}

/// Says `begin` and `end` around the measured span, then one line of JSON.
async fn load(run: &Rc<Run>, clients: usize, span: Duration, due: Due) -> Result<()> {
    let tasks: Vec<_> = (0..clients)
        .map(|_| {
            let (run, due) = (Rc::clone(run), due.clone());
            runtime::spawn_local("client", async move { keep_submitting(&run, due).await })
        })
        .collect();
    runtime::sleep(WARM_UP).await;
    run.tally.measure();
    let (start, answered, calls) = (now(), run.tally.count(), run.book.calls());
    say("begin")?;
    runtime::sleep(span).await;
    let (seconds, answered, calls) =
        (start.elapsed().as_secs_f64(), run.tally.count() - answered, run.book.calls() - calls);
    say("end")?;
    run.over.set(true);
    for task in tasks {
        task.ended().await;
    }
    let Faults { lost, doubled, undone } = run.faults();
    say(&serde_json::to_string(&Loaded { seen: run.tally.seen(answered, seconds), calls, lost, doubled, undone })?)
}

/// One client: a saga after the other, each waited for.
async fn keep_submitting(run: &Run, due: Due) {
    let mut line = Line::default();
    while !run.over.get() {
        let start = match &due {
            None => now(),
            Some(due) => match due.lock().await.recv().await {
                Some(moment) => moment,
                None => return,
            },
        };
        let gid = run.id();
        match run.api.submit(&mut line, &gid, true).await {
            Ok(()) => {
                run.acknowledged.borrow_mut().push(gid);
                run.tally.answered(start);
            }
            Err(error) => {
                run.tally.failed(&error);
                runtime::sleep(FAILED_PAUSE).await;
            }
        }
    }
}

/// What became of sagas that stood still.
#[derive(Serialize)]
struct Parked {
    /// Those that were accepted.
    sagas: usize,
    /// Those that didn't stand still.
    early: usize,
    /// Seconds from the moment in which participants were well again to the end of the first saga.
    first: f64,
    /// The same to the end of the last.
    seconds: f64,
    /// Sagas whose branches have all taken effect.
    finished: usize,
    /// Those of which the coordinator says so.
    said: usize,
    lost: u64,
    doubled: u64,
    undone: u64,
}

/// Has `count` sagas accepted whose calls come to nothing, by the gate or as nobody lets them through: for the span of
/// `down`, or until the word `go` on the standard input. Says `parked N`, then one line of JSON.
async fn park(run: &Rc<Run>, clients: usize, count: usize, down: Option<Duration>, limit: Duration) -> Result<()> {
    let begun = now();
    let tasks: Vec<_> = (0..clients)
        .map(|_| {
            let run = Rc::clone(run);
            runtime::spawn_local("client", async move { submit_all(&run, count as u64).await })
        })
        .collect();
    for task in tasks {
        task.ended().await;
    }
    let sagas = run.acknowledged.borrow().len();
    if sagas < count {
        // The reason of the first refusal goes to the log.
        run.tally.seen(0, 0.0);
    }
    say(&format!("parked {sagas}"))?;
    match down {
        Some(span) => runtime::sleep(span.saturating_sub(begun.elapsed())).await,
        None => go().await?,
    }
    run.book.gate.set(Gate::Open);
    let (start, early) = (now(), run.book.whole().0);
    while run.book.whole().0 < sagas && start.elapsed() < limit {
        runtime::sleep(LOOK).await;
    }
    let (finished, ends) = run.book.whole();
    let since = |end: Instant| end.saturating_duration_since(start).as_secs_f64();
    let (first, seconds) = ends.map_or((0.0, 0.0), |(first, last)| (since(first), since(last)));
    let said = ask_all(run).await;
    let Faults { lost, doubled, undone } = run.faults();
    // What went wrong is in the counts; the reason of the first goes to the log.
    run.tally.seen(0, 0.0);
    say(&serde_json::to_string(&Parked { sagas, early, first, seconds, finished, said, lost, doubled, undone })?)
}

async fn submit_all(run: &Run, count: u64) {
    let mut line = Line::default();
    while run.next.get() < count {
        let gid = run.id();
        match run.api.submit(&mut line, &gid, false).await {
            Ok(()) => run.acknowledged.borrow_mut().push(gid),
            Err(error) => run.tally.failed(&error),
        }
    }
}

/// Waits for a line on the standard input.
async fn go() -> Result<()> {
    let (said, heard) = oneshot::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        // An end of the input is as good as a word: whoever started this is gone.
        let _ = std::io::stdin().read_line(&mut line);
        let _ = said.send(());
    });
    heard.await.context("no word to go on")
}

/// Asks the coordinator of every saga until it has said that it's done; of how many it has.
async fn ask_all(run: &Rc<Run>) -> usize {
    let (asked, done, start) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)), now());
    let tasks: Vec<_> = (0..ASKING)
        .map(|_| {
            let (run, asked, done) = (Rc::clone(run), Rc::clone(&asked), Rc::clone(&done));
            runtime::spawn_local("asking", async move {
                let mut line = Line::default();
                loop {
                    let at = asked.replace(asked.get() + 1);
                    let Some(gid) = run.acknowledged.borrow().get(at).cloned() else { return };
                    if is_done(&run, &mut line, &gid, start).await {
                        done.set(done.get() + 1);
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.ended().await;
    }
    done.get()
}

async fn is_done(run: &Run, line: &mut Line, gid: &str, start: Instant) -> bool {
    while start.elapsed() < SAID_MAX {
        match run.api.is_done(line, gid).await {
            Ok(true) => return true,
            Ok(false) => {}
            Err(error) => run.tally.failed(&error),
        }
        runtime::sleep(LOOK).await;
    }
    false
}
