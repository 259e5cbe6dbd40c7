// SPDX-License-Identifier: Apache-2.0
//! The journal in PostgreSQL, for several coordinators. One thread writes over one connection and makes all that waits
//! durable in one statement; another listens for news. Leases go by the database's clock. A write counts only in its
//! shard's newest epoch: it holds the shard's row while it's made, and a take-over waits for that.

mod link;
mod sql;
#[cfg(test)]
mod tests;

use self::link::Link;
use super::commits::Counted;
use super::run::{Done, Job, Run};
use super::{Commits, GROUP_BYTES_MAX, GROUP_MAX};
pub(crate) use crate::log::postgres::link::prepare;
use crate::postgres::{OpenError, PAUSE, STEP_MAX, options, runtime};
use crate::queue::{Limits, Queue};
use crate::store::{Error, Pending};
use byrnie_saga::shards::LEASE;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;

/// The format that this program writes: see `schema.sql`.
const VERSION: i32 = 1;
/// By what coordinators tell each other that there is something to look at.
const CHANNEL: &str = "byrnie_transactions";

/// A journal in a database. Dropping it finishes what was begun, then closes the connection.
pub struct Postgres {
    queue: Arc<Queue<Job, Done>>,
    counted: Arc<Counted>,
    news: watch::Sender<()>,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

impl Postgres {
    /// Connects to the database at `url` and makes its tables, if they aren't there. They are for the mesh of this trust
    /// domain alone. Waits for the database's answer.
    ///
    /// # Errors
    /// [`OpenError`], in words for the person who started the program.
    pub fn open(url: &str, trust_domain: &str) -> Result<Self, OpenError> {
        let options = options(url)?;
        let limits = Limits { jobs: GROUP_MAX, bytes: GROUP_BYTES_MAX, weigh: Job::bytes };
        let queue = Arc::new(Queue::new(limits));
        let (opened, answer) = mpsc::channel();
        let (jobs, link) = (Arc::clone(&queue), Link::new(options.clone(), trust_domain));
        let counted = Arc::new(Counted::default());
        let counts = Arc::clone(&counted);
        let write = move || write_all(link, &jobs, &counts, &opened);
        let writer = std::thread::Builder::new().name("journal".into()).spawn(write)?;
        answer.recv().map_err(|_| OpenError::Unreachable("the writer has ended".to_owned()))??;
        let (news, stop) = (watch::Sender::new(()), watch::Sender::new(false));
        let (told, stopped) = (news.clone(), stop.subscribe());
        let listen = move || {
            if let Ok(runtime) = runtime() {
                runtime.block_on(listen_until(stopped, options, &told));
            }
        };
        let listener = std::thread::Builder::new().name("journal news".into()).spawn(listen)?;
        Ok(Self { queue, counted, news, stop, threads: vec![writer, listener] })
    }
}

impl Run for Postgres {
    fn run<T: Send + 'static>(&self, job: Job, read: fn(Done) -> Option<T>) -> Pending<'static, T> {
        let sent = job.check().and_then(|()| self.queue.send(job));
        Box::pin(async move { read(sent?.await.unwrap_or(Err(Error::Closed))?).ok_or(Error::Closed) })
    }

    fn counted(&self) -> Commits {
        self.counted.seen()
    }

    fn span(&self) -> Option<Duration> {
        Some(LEASE)
    }

    fn bell(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.queue.close();
        self.stop.send_replace(true);
        for thread in self.threads.drain(..) {
            // A thread that panicked has answered nobody since; there is nothing left to save here.
            let _ = thread.join();
        }
    }
}

/// The writer thread.
fn write_all(
    mut link: Link,
    queue: &Queue<Job, Done>,
    counted: &Counted,
    opened: &mpsc::Sender<Result<(), OpenError>>,
) {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return drop(opened.send(Err(error.into()))),
    };
    let answer = runtime.block_on(link.open());
    let failed = answer.is_err();
    if opened.send(answer).is_err() || failed {
        return;
    }
    while let Some(group) = queue.take(None) {
        let (jobs, replies): (Vec<Job>, Vec<_>) = group.into_iter().map(|next| (next.job, next.reply)).unzip();
        let results = runtime.block_on(link.run(&jobs));
        counted.note(&jobs, results.iter().map(Result::is_ok));
        for (reply, result) in replies.into_iter().zip(results) {
            // Whoever no longer waits doesn't need the answer.
            let _ = reply.send(result);
        }
    }
    runtime.block_on(link.close());
}

/// The listening thread.
async fn listen_until(mut stopped: watch::Receiver<bool>, options: PgConnectOptions, news: &watch::Sender<()>) {
    let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(STEP_MAX).connect_lazy_with(options);
    let listen = async {
        loop {
            if let Ok(mut listener) = PgListener::connect_with(&pool).await
                && listener.listen(CHANNEL).await.is_ok()
            {
                // What was said before is to be seen, too.
                news.send_replace(());
                while listener.recv().await.is_ok() {
                    news.send_replace(());
                }
            }
            // Until then it's looked at now and then.
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::select! {
        () = listen => {}
        // An error is an end, too.
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
}
