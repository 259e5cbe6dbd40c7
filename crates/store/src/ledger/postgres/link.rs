// SPDX-License-Identifier: Apache-2.0
//! The writer's connection, and which jobs share a statement.

use super::super::run::{Done, Job, key_of};
use super::sql::{self, Part, Plain};
use crate::ledger::{Neighbour, SWEEP_MAX};
use crate::log::postgres;
use crate::postgres::{Failure, OpenError, STEP_MAX, Session, TRIES_MAX};
use crate::store::Error;
use byrnie_base::{Text, Timestamp};
use byrnie_saga::ledger::{Begun, Ending, Entry, Finished, Name};
use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;
use std::collections::{HashMap, HashSet};
use tokio::time::timeout;

/// The connection, and whose tables it must find.
pub(super) struct Link {
    session: Session,
    trust_domain: Text,
    part: Part,
}

/// A job by its place in its group.
pub(super) type Placed<'j> = (usize, &'j Job);
/// What became of it.
pub(super) type Outcome = (usize, Result<Done, Error>);

impl Link {
    pub(super) fn new(options: PgConnectOptions, trust_domain: &str) -> Self {
        Self {
            session: Session::new(options, "idempotency keys"),
            trust_domain: trust_domain.into(),
            part: Part::own(),
        }
    }

    /// Connects, looks whether the database will do, and makes the tables if they aren't there.
    pub(super) async fn open(&mut self) -> Result<(), OpenError> {
        self.session.open(async |connection| prepare(connection, &self.trust_domain).await).await
    }

    pub(super) async fn close(&mut self) {
        self.session.close().await;
    }

    async fn ready(&mut self) -> Result<&mut PgConnection, Error> {
        self.session.ready(async |connection| prepare(connection, &self.trust_domain).await).await
    }

    /// Does `jobs`. Those about one key happen in order.
    pub(super) async fn run(&mut self, jobs: &[Job]) -> Vec<Result<Done, Error>> {
        let mut results: Vec<Option<Result<Done, Error>>> = jobs.iter().map(|_| None).collect();
        let (plain, mut careful) = sort(jobs);
        if !plain.is_empty() {
            match self.plain(&plain).await {
                Ok(written) => {
                    for (at, job) in plain {
                        match job.name().filter(|name| written.contains(&key_of(name))) {
                            Some(_) => results[at] = Some(Ok(expected(job))),
                            None => careful.push((at, job)),
                        }
                    }
                }
                Err(error) => plain.iter().for_each(|(at, _)| results[*at] = Some(Err(error.clone()))),
            }
        }
        if !careful.is_empty() {
            match self.look(&careful).await {
                Ok(found) => found.into_iter().for_each(|(at, result)| results[at] = Some(result)),
                Err(error) => careful.iter().for_each(|(at, _)| results[*at] = Some(Err(error.clone()))),
            }
            careful.retain(|(at, _)| results[*at].is_none());
        }
        if !careful.is_empty() {
            match self.careful(&careful).await {
                Ok(found) => found.into_iter().for_each(|(at, result)| results[at] = Some(result)),
                Err(error) => careful.iter().for_each(|(at, _)| results[*at] = Some(Err(error.clone()))),
            }
        }
        for (at, job) in jobs.iter().enumerate() {
            match job {
                Job::Sweep => results[at] = Some(self.sweep().await),
                Job::Meet(own) => results[at] = Some(self.meet(own).await),
                _ => {}
            }
        }
        results.into_iter().map(|result| result.unwrap_or(Err(Error::Closed))).collect()
    }

    /// Writes what begins and ends without meeting anything else: whose it was.
    async fn plain(&mut self, jobs: &[Placed<'_>]) -> Result<HashSet<Vec<u8>>, Error> {
        let plain = Plain::of(jobs);
        let part = self.part;
        self.step(async |connection| sql::write_plain(connection, part, &plain).await.map(Some)).await
    }

    /// Decides what changes nothing.
    async fn look(&mut self, jobs: &[Placed<'_>]) -> Result<Vec<Outcome>, Error> {
        self.step(async |connection| sql::look(connection, jobs).await.map(Some)).await
    }

    /// Decides the rest by the rules, under lock.
    async fn careful(&mut self, jobs: &[Placed<'_>]) -> Result<Vec<Outcome>, Error> {
        let part = self.part;
        self.step(async |connection| sql::decide(connection, part, jobs).await).await
    }

    async fn sweep(&mut self) -> Result<Done, Error> {
        let part = self.part;
        let swept = async |connection: &mut PgConnection| sql::sweep(connection, part, SWEEP_MAX).await.map(Some);
        self.step(swept).await.map(Done::Swept)
    }

    async fn meet(&mut self, own: &Neighbour) -> Result<Done, Error> {
        self.step(async |connection| sql::meet(connection, own).await.map(Some)).await.map(Done::Met)
    }

    /// Takes in what another ledger remembers, by whose clock it is `now`: how much of it was news.
    pub(super) async fn adopt(&mut self, entries: &[(Vec<u8>, Entry)], now: Timestamp) -> Result<usize, Error> {
        let part = self.part;
        self.step(async |connection| sql::adopt(connection, part, entries, now).await.map(Some)).await
    }

    /// Does something that is one transaction, again where it lost against another; `None` says so, too.
    async fn step<T>(
        &mut self,
        step: impl AsyncFn(&mut PgConnection) -> Result<Option<T>, sqlx::Error>,
    ) -> Result<T, Error> {
        for _ in 0..TRIES_MAX {
            let connection = self.ready().await?;
            let error = match timeout(STEP_MAX, step(connection)).await {
                Ok(Ok(Some(done))) => return Ok(done),
                Ok(Ok(None)) => continue,
                Ok(Err(error)) => error,
                Err(_) => {
                    self.session.drop_connection();
                    return Err(Error::Doubtful("it doesn't answer".into()));
                }
            };
            match self.session.failure(&error, true) {
                Failure::Lost => {}
                Failure::Of(error) => return Err(error),
            }
        }
        Err(Error::Unreachable("it is held up by somebody else".into()))
    }
}

/// Jobs that can be tried together without a look, as each is the only one about its key; and those that can't.
fn sort(jobs: &[Job]) -> (Vec<Placed<'_>>, Vec<Placed<'_>>) {
    let mut times: HashMap<&Name, usize> = HashMap::new();
    for name in jobs.iter().filter_map(Job::name) {
        *times.entry(name).or_default() += 1;
    }
    let is_plain = |job: &Job| match job {
        Job::Begin(name, _) | Job::Finish(name, _, Ending::Done(_) | Ending::Ambiguous) => times.get(name) == Some(&1),
        _ => false,
    };
    jobs.iter().enumerate().filter(|(_, job)| job.name().is_some()).partition(|(_, job)| is_plain(job))
}

/// What a plain job comes to, if nothing stood against it.
fn expected(job: &Job) -> Done {
    match job {
        Job::Begin(..) => Done::Begun(Begun::Granted { again: false }),
        _ => Done::Finished(Finished::Recorded),
    }
}

/// Makes the tables if they aren't there, and looks at whose they are.
async fn prepare(connection: &mut PgConnection, trust_domain: &str) -> Result<(), OpenError> {
    postgres::prepare(connection, trust_domain).await?;
    sql::prepare(connection).await
}
