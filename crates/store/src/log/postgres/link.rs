// SPDX-License-Identifier: Apache-2.0
//! The writer's connection: opened, looked at, lost and opened again. What it says of a failure is what is known: nothing
//! was written, or nobody can tell.

use super::super::run::{Done, Job};
use super::{OpenError, PAUSE, STEP_MAX, VERSION, sql};
use crate::log::Append;
use crate::store::{Error, Expect};
use byrnie_base::Text;
use byrnie_model::Revision;
use byrnie_saga::Term;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use std::collections::{HashMap, HashSet};
use tokio::time::{Instant, timeout};

/// Tries of a step that loses against another one.
const TRIES_MAX: usize = 3;
/// What every connection begins with. A coordinator that stands still in the middle of a step doesn't hold up others for long.
const SESSION: &str = "set session characteristics as transaction isolation level read committed;
    set statement_timeout = '10s'; set lock_timeout = '5s'; set idle_in_transaction_session_timeout = '2s'";

/// A connection, while there is one.
pub(super) struct Link {
    options: PgConnectOptions,
    trust_domain: Text,
    connection: Option<PgConnection>,
    /// When the last try to connect failed, and why.
    failed: Option<(Instant, Text)>,
}

/// The entries that one statement adds to one transaction, and whose they are.
struct Chain<'j> {
    first: &'j Append,
    last: &'j Append,
    members: Vec<usize>,
}

impl Link {
    pub(super) fn new(options: PgConnectOptions, trust_domain: &str) -> Self {
        Self { options, trust_domain: trust_domain.into(), connection: None, failed: None }
    }

    /// Connects, looks whether the database will do, and makes the tables if they aren't there.
    pub(super) async fn open(&mut self) -> Result<(), OpenError> {
        self.connection = None;
        let opened = timeout(STEP_MAX, self.connect()).await;
        let connection = opened.unwrap_or_else(|_| Err(OpenError::Unreachable("it doesn't answer".to_owned())))?;
        self.connection = Some(connection);
        Ok(())
    }

    async fn connect(&self) -> Result<PgConnection, OpenError> {
        let mut connection = self.options.connect().await.map_err(unusable)?;
        sqlx::raw_sql(SESSION).execute(&mut connection).await.map_err(unusable)?;
        let setting = |name: &'static str| sqlx::query_scalar::<_, String>("select current_setting($1)").bind(name);
        if setting("synchronous_commit").fetch_one(&mut connection).await.map_err(unusable)? == "off" {
            return Err(OpenError::Relaxed);
        }
        if setting("transaction_read_only").fetch_one(&mut connection).await.map_err(unusable)? == "on" {
            return Err(OpenError::ReadOnly);
        }
        if setting("fsync").fetch_one(&mut connection).await.map_err(unusable)? == "off" {
            tracing::warn!(
                "the database of transactions runs with fsync off: a loss of power may take back what it has acknowledged"
            );
        }
        let (version, found) = sql::prepare(&mut connection, VERSION, &self.trust_domain).await.map_err(unusable)?;
        if version > VERSION {
            return Err(OpenError::Newer(version));
        }
        if *found != *self.trust_domain {
            return Err(OpenError::OtherMesh { found, own: self.trust_domain.to_string() });
        }
        Ok(connection)
    }

    pub(super) async fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            // The database notices by itself if that fails.
            let _ = connection.close().await;
        }
    }

    /// Does `jobs`: first what is added to transactions, in as few statements as can be, then the rest in order.
    pub(super) async fn run(&mut self, jobs: &[Job]) -> Vec<Result<Done, Error>> {
        let mut results: Vec<Option<Result<Done, Error>>> = jobs.iter().map(|_| None).collect();
        let mut left: Vec<(usize, &Append)> = Vec::new();
        for (at, job) in jobs.iter().enumerate() {
            if let Job::Append(append) = job {
                left.push((at, append));
            }
        }
        while !left.is_empty() {
            let (chains, mut rest) = chains(&left);
            let written = self.append(&chains, jobs).await;
            // What the database refuses of one must not fail its neighbours.
            let alone = chains.len() > 1 && written.iter().any(|(_, result)| matches!(result, Err(Error::Refused(_))));
            let parts: Vec<&[Chain<'_>]> = if alone { chains.chunks(1).collect() } else { Vec::new() };
            results_of(&mut results, written);
            for part in parts {
                results_of(&mut results, self.append(part, jobs).await);
            }
            // What was refused is the first of its chain; the others may well follow on what was there before.
            let refused = |chain: &&Chain<'_>| matches!(results[chain.members[0]], Some(Err(Error::Conflict { .. })));
            let again: Vec<usize> =
                chains.iter().filter(refused).flat_map(|chain| chain.members.iter().skip(1).copied()).collect();
            rest.extend(left.iter().filter(|(at, _)| again.contains(at)).copied());
            rest.sort_unstable_by_key(|(at, _)| *at);
            left = rest;
        }
        for (at, job) in jobs.iter().enumerate() {
            if results[at].is_none() {
                results[at] = Some(self.step(job).await);
            }
        }
        results.into_iter().map(|result| result.unwrap_or(Err(Error::Closed))).collect()
    }

    /// A connection, unless the last try to get one failed a moment ago.
    async fn ready(&mut self) -> Result<(), Error> {
        if self.connection.is_some() {
            return Ok(());
        }
        if let Some((at, why)) = &self.failed
            && at.elapsed() < PAUSE
        {
            return Err(Error::Unreachable(why.clone()));
        }
        match self.open().await {
            Ok(()) => {
                if self.failed.take().is_some() {
                    tracing::info!("the database of transactions answers again");
                }
                Ok(())
            }
            Err(error) => {
                let why = Text::from(error.to_string());
                if self.failed.is_none() {
                    tracing::error!(%error, "the database of transactions is lost; it is tried again");
                }
                self.failed = Some((Instant::now(), why.clone()));
                Err(Error::Unreachable(why))
            }
        }
    }

    async fn append(&mut self, chains: &[Chain<'_>], jobs: &[Job]) -> Vec<(usize, Result<Done, Error>)> {
        let outcome = self.append_together(chains, jobs).await;
        let mut results = Vec::new();
        for chain in chains {
            let result = match &outcome {
                Ok(accepted) => accepted.judge(chain),
                Err(error) => Err(error.clone()),
            };
            results.extend(chain.members.iter().map(|at| (*at, result.clone().map(|()| Done::Appended))));
        }
        results
    }

    async fn append_together(&mut self, chains: &[Chain<'_>], jobs: &[Job]) -> Result<Accepted, Error> {
        let mut rows = sql::Rows::default();
        for chain in chains {
            let entries = chain.members.iter().filter_map(|at| match &jobs[*at] {
                Job::Append(append) => Some(&append.entries),
                _ => None,
            });
            rows.push(chain.first, chain.last, entries.flatten());
        }
        for _ in 1..TRIES_MAX {
            match self.write(&rows).await {
                Err(Failure::Lost) => {}
                Err(Failure::Of(error)) => return Err(error),
                Ok(accepted) => return Ok(accepted),
            }
        }
        self.write(&rows).await.map_err(|failure| match failure {
            Failure::Lost => Error::Unreachable("it is held up by somebody else".into()),
            Failure::Of(error) => error,
        })
    }

    async fn write(&mut self, rows: &sql::Rows) -> Result<Accepted, Failure> {
        self.ready().await.map_err(Failure::Of)?;
        let Some(connection) = &mut self.connection else { return Err(Failure::Of(Error::Closed)) };
        let (written, epochs) = match timeout(STEP_MAX, sql::append(connection, rows)).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return Err(self.failure(&error, true)),
            Err(_) => {
                self.connection = None;
                return Err(Failure::Of(Error::Doubtful("it doesn't answer".into())));
            }
        };
        Ok(Accepted { written, epochs })
    }

    /// One job that isn't an append.
    async fn step(&mut self, job: &Job) -> Result<Done, Error> {
        for attempt in 1..=TRIES_MAX {
            self.ready().await?;
            let Some(connection) = &mut self.connection else { return Err(Error::Closed) };
            let error = match timeout(STEP_MAX, sql::step(connection, job)).await {
                Ok(Ok(done)) => return done,
                Ok(Err(error)) => error,
                Err(_) => {
                    self.connection = None;
                    return Err(Error::Unreachable("it doesn't answer".into()));
                }
            };
            match self.failure(&error, false) {
                Failure::Lost if attempt < TRIES_MAX => {}
                Failure::Lost => return Err(Error::Unreachable(error.to_string().into())),
                Failure::Of(error) => return Err(error),
            }
        }
        Err(Error::Closed)
    }

    /// What a failed statement means. The server's own no is certain; whatever else may have come after the commit.
    fn failure(&mut self, error: &sqlx::Error, writes: bool) -> Failure {
        let code = error.as_database_error().and_then(|said| said.code().map(|code| code.into_owned()));
        let code = code.as_deref().unwrap_or_default();
        let why = Text::from(error.to_string());
        if matches!(code, "40001" | "40P01" | "55P03") {
            return Failure::Lost;
        }
        // A server that shuts down may say so of a transaction that it has committed.
        let certain = !code.is_empty() && !code.starts_with("57P") && !code.starts_with("08");
        if !certain || code.starts_with("25") {
            self.connection = None;
        }
        Failure::Of(match (certain, writes) {
            (true, _) => Error::Refused(why),
            (false, true) => Error::Doubtful(why),
            (false, false) => Error::Unreachable(why),
        })
    }
}

fn results_of(results: &mut [Option<Result<Done, Error>>], some: Vec<(usize, Result<Done, Error>)>) {
    for (at, result) in some {
        if let Some(slot) = results.get_mut(at) {
            *slot = Some(result);
        }
    }
}

enum Failure {
    /// It was made room for another one, and can be tried again.
    Lost,
    Of(Error),
}

/// What a statement has written, and the newest epochs of the shards.
struct Accepted {
    written: HashSet<Vec<u8>>,
    epochs: HashMap<u16, u64>,
}

impl Accepted {
    fn judge(&self, chain: &Chain<'_>) -> Result<(), Error> {
        let Append { id, term, after, .. } = chain.first;
        if self.epochs.get(&term.shard) != Some(&term.epoch) {
            return Err(Error::Deposed { shard: term.shard });
        }
        if self.written.contains(id.as_bytes()) {
            return Ok(());
        }
        let expect = Expect::At(Revision(u64::from(*after)));
        Err(Error::Conflict { key: id.clone(), expect, found: None })
    }
}

/// What can be added in one statement: of each transaction what follows on the first, in the same term. What doesn't
/// follow is left for the next.
fn chains<'j>(appends: &[(usize, &'j Append)]) -> (Vec<Chain<'j>>, Vec<(usize, &'j Append)>) {
    let mut chains: Vec<Chain<'j>> = Vec::new();
    let mut known: HashMap<&Text, usize> = HashMap::new();
    let mut broken: HashSet<&Text> = HashSet::new();
    let mut rest = Vec::new();
    for (at, append) in appends {
        let chain = known.get(&append.id).and_then(|place| chains.get_mut(*place));
        match chain {
            None => {
                known.insert(&append.id, chains.len());
                chains.push(Chain { first: append, last: append, members: vec![*at] });
            }
            Some(chain) if !broken.contains(&append.id) && follows(chain.last, append, chain.first.term) => {
                chain.last = append;
                chain.members.push(*at);
            }
            Some(_) => {
                broken.insert(&append.id);
                rest.push((*at, *append));
            }
        }
    }
    (chains, rest)
}

fn follows(before: &Append, append: &Append, term: Term) -> bool {
    let count = u32::try_from(before.entries.len()).unwrap_or(u32::MAX);
    append.term == term && before.after.saturating_add(count) == append.after
}

fn unusable(error: sqlx::Error) -> OpenError {
    OpenError::Unreachable(error.to_string())
}
