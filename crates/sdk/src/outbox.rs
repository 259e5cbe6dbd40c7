// SPDX-License-Identifier: Apache-2.0
//! The relay of an outbox: a program inserts what it wants to have called into a table, in the transaction of its own
//! business, and the relay hands each row to the coordinator as a message, which calls until it arrives. The row's id is the
//! message's, so a row that is handed over twice is one message.

use byrnie_net::runtime;
use byrnie_net::serve::client::{self, Client, Outgoing, Reply};
use byrnie_net::serve::{Method, StatusCode};
use futures_util::future::join_all;
use serde_json::{Value, json};
use sqlx::postgres::{PgListener, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool};
use std::time::Duration;

/// Rows that are handed over at once.
pub const BATCH: i64 = 64;
/// How often the table is looked at where no notice comes.
pub const POLL: Duration = Duration::from_secs(1);
/// Longest time to hand one row over.
pub const HANDOVER_MAX: Duration = Duration::from_secs(10);
/// Longest pause while the coordinator or the database is away.
pub const PAUSE_MAX: Duration = Duration::from_secs(10);
/// The table, unless another is named.
pub const TABLE: &str = "byrnie_outbox";
/// Most that is kept of why a row is given up, in characters: it may repeat the row.
const SAID_MAX: usize = 1_000;
/// Longest name of a table, in bytes: PostgreSQL cuts longer ones off.
const NAME_BYTES_MAX: usize = 63;

/// Why the relay can't begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The table's name isn't one that needs no quotes.
    #[error("{0:?} is no name of a table: lower-case letters, digits and '_', and before it a schema and '.', if any")]
    Name(String),
    /// The database can't be reached, or refuses.
    #[error("the database: {0}")]
    Database(#[from] sqlx::Error),
    /// The table isn't there, or is another.
    #[error("the table {0}: {1}")]
    Table(Table, sqlx::Error),
}

/// The name of an outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table(String);

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for Table {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let plain = |part: &str| {
            part.len() <= NAME_BYTES_MAX
                && part.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        };
        let parts: Vec<&str> = name.split('.').collect();
        if parts.len() > 2 || !parts.into_iter().all(plain) {
            return Err(Error::Name(name.to_owned()));
        }
        Ok(Self(name.to_owned()))
    }
}

impl Table {
    /// The statements that make it, for the program's own migrations.
    pub fn schema(&self) -> String {
        let (table, flat) = (&self.0, self.0.replace('.', "_"));
        format!(
            "create table {table} (
  id uuid primary key default gen_random_uuid(),    -- the message's id
  call text not null,                               -- such as 'POST mail/welcome'
  body jsonb,                                       -- what is sent
  due timestamptz not null default now(),
  attempts int not null default 0,
  refused text);                                    -- why the relay has given it up
create index {flat}_due on {table} (due) where refused is null;
create function {flat}_notify() returns trigger language plpgsql as
  $$ begin notify {CHANNEL}; return null; end $$;
create trigger {flat}_notify after insert on {table} for each statement execute function {flat}_notify();
"
        )
    }
}

/// What an insert is told by.
const CHANNEL: &str = "byrnie_outbox";

/// A relay that has found its table.
#[derive(Debug)]
pub struct Relay {
    table: Table,
    coordinator: Client,
    pool: PgPool,
}

/// What became of a row.
enum Handed {
    Taken,
    /// For good, and why.
    Refused(String),
    /// Later, and why.
    Later(String),
    /// Nobody could be asked.
    Away(client::Error),
}

impl Relay {
    /// Connects to the database at `url` and looks at the table.
    ///
    /// # Errors
    /// If the database can't be reached, or has no such table.
    pub async fn new(url: &str, table: Table, coordinator: Client) -> Result<Self, Error> {
        // By itself, as a pool hides why there is no connection.
        let mut first = PgConnection::connect(url).await?;
        let look = format!("select id, call, body, due, attempts, refused from {table} limit 0");
        if let Err(error) = sqlx::query(AssertSqlSafe(look)).execute(&mut first).await {
            return Err(Error::Table(table, error));
        }
        let pool = PgPoolOptions::new().max_connections(2).acquire_timeout(HANDOVER_MAX).connect_lazy(url)?;
        Ok(Self { table, coordinator, pool })
    }

    /// Hands rows over until the task is dropped; what is under way then is handed over again by the next.
    pub async fn serve(&self) -> ! {
        let mut listener = None;
        let mut pause = Duration::ZERO;
        loop {
            match self.batch().await {
                Ok(handed) => {
                    pause = Duration::ZERO;
                    if handed < BATCH {
                        self.rest(&mut listener).await;
                    }
                }
                Err(error) => {
                    pause = (2 * pause).clamp(POLL, PAUSE_MAX);
                    tracing::warn!(%error, "nothing can be handed over: trying again in {pause:?}");
                    runtime::sleep(pause).await;
                }
            }
        }
    }

    /// Until a notice of an insert comes, or a while has passed.
    async fn rest(&self, listener: &mut Option<PgListener>) {
        let wait = async {
            if listener.is_none() {
                let mut fresh = PgListener::connect_with(&self.pool).await?;
                fresh.listen(CHANNEL).await?;
                // What came before it listened is found by looking once more.
                *listener = Some(fresh);
                return Ok(());
            }
            match listener {
                Some(listener) => listener.recv().await.map(drop),
                None => Ok(()),
            }
        };
        if let Ok(Err(error)) = runtime::timeout(POLL, wait).await {
            let error: sqlx::Error = error;
            tracing::warn!(%error, "no notices of inserts: the table is looked at every {POLL:?}");
            *listener = None;
            runtime::sleep(POLL).await;
        }
    }

    /// Hands over rows that are due, and says how many it found. Rows are locked meanwhile, so that relays beside each other
    /// share the table.
    async fn batch(&self) -> Result<i64, Box<dyn std::error::Error + Send + Sync>> {
        let table = &self.table;
        let mut tx = self.pool.begin().await?;
        let select = format!(
            "select id::text, call, body::text from {table} where refused is null and due <= now()
             order by due limit {BATCH} for update skip locked"
        );
        let rows = sqlx::query_as::<_, (String, String, Option<String>)>(AssertSqlSafe(select));
        let rows = rows.fetch_all(&mut *tx).await?;
        let handed = join_all(rows.iter().map(|(id, call, body)| self.hand_over(id, call, body.as_deref()))).await;
        let mut away = None;
        for ((id, call, _), handed) in rows.iter().zip(handed) {
            let (change, why) = match handed {
                Handed::Taken => (format!("delete from {table} where id = $1::uuid and $2 = ''"), String::new()),
                Handed::Refused(why) => {
                    tracing::error!(id, call, why, "a row of the outbox is given up");
                    (format!("update {table} set refused = $2 where id = $1::uuid"), why)
                }
                Handed::Later(why) => {
                    tracing::warn!(id, call, why, "a row of the outbox isn't taken yet");
                    let later = format!(
                        "update {table} set attempts = attempts + 1, due = now() + least(60, 2 ^ least(attempts, 6)) \
                         * interval '1 second' where id = $1::uuid and $2 = ''"
                    );
                    (later, String::new())
                }
                Handed::Away(error) => {
                    away = Some(error);
                    continue;
                }
            };
            sqlx::query(AssertSqlSafe(change)).bind(id).bind(why).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        match away {
            Some(error) => Err(error.into()),
            None => Ok(i64::try_from(rows.len()).unwrap_or(BATCH)),
        }
    }

    async fn hand_over(&self, id: &str, call: &str, body: Option<&str>) -> Handed {
        let message = match message(id, call, body) {
            Ok(message) => message,
            Err(error) => return Handed::Refused(format!("the body can't be sent as it is: {error}")),
        };
        let request = Outgoing::with_body(Method::POST, "/txn/v1/messages", "application/json", message);
        match self.coordinator.send(request, HANDOVER_MAX).await {
            Ok(reply) => judge(&reply),
            Err(error) => Handed::Away(error),
        }
    }
}

/// The message that a row is. What PostgreSQL takes for JSON may be nested more deeply than anybody here reads.
fn message(id: &str, call: &str, body: Option<&str>) -> serde_json::Result<String> {
    let body: Value = body.map(serde_json::from_str).transpose()?.unwrap_or_default();
    let mut branch = json!({"name": "call", "action": call});
    if !body.is_null() {
        branch["body"] = body;
    }
    Ok(json!({"id": id, "branches": [branch]}).to_string())
}

fn judge(reply: &Reply) -> Handed {
    let problem: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let said = problem["detail"]
        .as_str()
        .map_or_else(|| reply.status.to_string(), |said| said.chars().take(SAID_MAX).collect());
    match reply.status {
        StatusCode::OK | StatusCode::CREATED => Handed::Taken,
        // It says nothing that the coordinator understands, or something else was sent under this id.
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => Handed::Refused(said),
        _ if problem["code"] == "BYR-T003" => Handed::Refused(said),
        // No service yet, no leave yet, a coordinator that is away.
        _ => Handed::Later(said),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_sent_as_it_was_committed_or_refused() {
        let sent = |body| message("7", "POST mail/welcome", body).map_err(|error| error.to_string());
        let body = r#"{"sum":12345678901234567.89,"id":12345678901234567890123,"far":1e+400,"price":1.10}"#;
        assert!(sent(Some(body)).unwrap().contains(body));
        for none in [None, Some("null")] {
            assert_eq!(sent(none).unwrap(), r#"{"id":"7","branches":[{"name":"call","action":"POST mail/welcome"}]}"#);
        }
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        assert!(sent(Some(&deep)).unwrap_err().contains("recursion"));
    }

    #[test]
    fn a_name_that_would_need_quotes_is_refused() {
        for good in ["byrnie_outbox", "shop.outbox", "_o1"] {
            assert!(good.parse::<Table>().is_ok(), "{good}");
        }
        for bad in ["", "Outbox", "a.b.c", "a b", "o; drop table x", "1o", "a.", &"x".repeat(64)] {
            assert!(bad.parse::<Table>().is_err(), "{bad}");
        }
    }
}
