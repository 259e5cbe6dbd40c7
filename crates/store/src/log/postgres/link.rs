// SPDX-License-Identifier: Apache-2.0
//! The writer's connection, and what is written over it in one statement.

use super::super::run::{Done, Job};
use super::{VERSION, sql};
use crate::log::Append;
use crate::postgres::{Failure, OpenError, STEP_MAX, Session, TRIES_MAX, unusable};
use crate::store::{Error, Expect};
use byrnie_base::Text;
use byrnie_model::Revision;
use byrnie_saga::Term;
use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;
use std::collections::{HashMap, HashSet};
use tokio::time::timeout;

/// The connection, and whose tables it must find.
pub(super) struct Link {
    session: Session,
    trust_domain: Text,
}

/// The entries that one statement adds to one transaction, and whose they are.
struct Chain<'j> {
    first: &'j Append,
    last: &'j Append,
    members: Vec<usize>,
}

impl Link {
    pub(super) fn new(options: PgConnectOptions, trust_domain: &str) -> Self {
        Self { session: Session::new(options, "transactions"), trust_domain: trust_domain.into() }
    }

    /// Connects, looks whether the database will do, and makes the tables if they aren't there.
    pub(super) async fn open(&mut self) -> Result<(), OpenError> {
        self.session.open(async |connection| prepare(connection, &self.trust_domain).await).await
    }

    pub(super) async fn close(&mut self) {
        self.session.close().await;
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

    async fn ready(&mut self) -> Result<&mut PgConnection, Error> {
        self.session.ready(async |connection| prepare(connection, &self.trust_domain).await).await
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
        let connection = self.ready().await.map_err(Failure::Of)?;
        let (written, epochs) = match timeout(STEP_MAX, sql::append(connection, rows)).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return Err(self.session.failure(&error, true)),
            Err(_) => {
                self.session.drop_connection();
                return Err(Failure::Of(Error::Doubtful("it doesn't answer".into())));
            }
        };
        Ok(Accepted { written, epochs })
    }

    /// One job that isn't an append.
    async fn step(&mut self, job: &Job) -> Result<Done, Error> {
        for attempt in 1..=TRIES_MAX {
            let connection = self.ready().await?;
            let error = match timeout(STEP_MAX, sql::step(connection, job)).await {
                Ok(Ok(done)) => return done,
                Ok(Err(error)) => error,
                Err(_) => {
                    self.session.drop_connection();
                    return Err(Error::Unreachable("it doesn't answer".into()));
                }
            };
            match self.session.failure(&error, false) {
                Failure::Lost if attempt < TRIES_MAX => {}
                Failure::Lost => return Err(Error::Unreachable(error.to_string().into())),
                Failure::Of(error) => return Err(error),
            }
        }
        Err(Error::Closed)
    }
}

fn results_of(results: &mut [Option<Result<Done, Error>>], some: Vec<(usize, Result<Done, Error>)>) {
    for (at, result) in some {
        if let Some(slot) = results.get_mut(at) {
            *slot = Some(result);
        }
    }
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

/// Makes the tables if they aren't there, and looks at whose they are.
pub(crate) async fn prepare(connection: &mut PgConnection, trust_domain: &str) -> Result<(), OpenError> {
    let (found, owner) = sql::prepare(connection, VERSION, trust_domain).await.map_err(unusable)?;
    if found > VERSION {
        return Err(OpenError::Newer { found, known: VERSION });
    }
    if owner != trust_domain {
        return Err(OpenError::OtherMesh { found: owner, own: trust_domain.to_owned() });
    }
    Ok(())
}
