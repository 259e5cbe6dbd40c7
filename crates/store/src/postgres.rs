// SPDX-License-Identifier: Apache-2.0
//! What the journal and the ledger in PostgreSQL have in common: a connection that is opened, looked at, lost and opened again.
//! What it says of a failure is what is known: nothing was written, or nobody can tell.

#[cfg(test)]
pub(crate) mod tests;

use crate::persist;
use crate::store::Error;
use byrnie_base::Text;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};
use std::io;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, timeout};

/// Pause before the database is tried again.
pub(crate) const PAUSE: Duration = Duration::from_secs(1);
/// Longest time for one step.
pub(crate) const STEP_MAX: Duration = Duration::from_secs(10);
/// Tries of a step that loses against another one.
pub(crate) const TRIES_MAX: usize = 3;
/// What every connection begins with. A process that stands still in the middle of a step doesn't hold up others for long.
const SESSION: &str = "set session characteristics as transaction isolation level read committed;
    set statement_timeout = '10s'; set lock_timeout = '5s'; set idle_in_transaction_session_timeout = '2s'";

/// Why a database can't hold the journal, or the ledger. The message is for the person who started the program.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not an address. It isn't repeated, as it may hold a password.
    #[error("it is no address of a database: postgresql://USER@HOST/NAME is one")]
    Url,
    /// It doesn't answer, or refuses.
    #[error("it can't be used: {0}")]
    Unreachable(String),
    /// It acknowledges what a crash takes back.
    #[error("its synchronous_commit is off, so it acknowledges what a crash takes back")]
    Relaxed,
    /// It only follows another.
    #[error("it is a standby, or read-only: nothing can be written there")]
    ReadOnly,
    /// A newer program wrote it.
    #[error("its tables have format {found}, this program knows up to {known}: use the newer program")]
    Newer {
        /// The format found.
        found: i32,
        /// The newest that is known.
        known: i32,
    },
    /// It belongs to another mesh.
    #[error("it holds the transactions of mesh {found}, and this one is {own}: use another database")]
    OtherMesh {
        /// Whose they are.
        found: String,
        /// Who asks.
        own: String,
    },
    /// What a file holds can't be moved there.
    #[error("the keys of {file} can't be moved there: {error}")]
    File {
        /// Which.
        file: String,
        /// Why.
        error: persist::OpenError,
    },
    /// This process has no more threads.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// How to connect. Where nothing is said of TLS, a database on another machine has to prove that it is the one named.
pub(crate) fn options(url: &str) -> Result<PgConnectOptions, OpenError> {
    let options: PgConnectOptions = url.parse().map_err(|_| OpenError::Url)?;
    let host = options.get_host();
    let near = options.get_socket().is_some()
        || host.starts_with('/')
        || host == "localhost"
        || host.trim_matches(['[', ']']).parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    let said = ["sslmode=", "ssl-mode="].iter().any(|word| url.contains(word));
    let options = if near || said { options } else { options.ssl_mode(PgSslMode::VerifyFull) };
    Ok(options.application_name("byrnie"))
}

pub(crate) fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// A connection, while there is one.
pub(crate) struct Session {
    options: PgConnectOptions,
    /// What is kept there, in words.
    what: &'static str,
    connection: Option<PgConnection>,
    /// When the last try to connect failed, and why.
    failed: Option<(Instant, Text)>,
}

/// What a failed statement means.
pub(crate) enum Failure {
    /// It was made room for another one, and can be tried again.
    Lost,
    Of(Error),
}

impl Session {
    pub(crate) fn new(options: PgConnectOptions, what: &'static str) -> Self {
        Self { options, what, connection: None, failed: None }
    }

    /// Connects, looks whether the database will do, and has its tables prepared.
    pub(crate) async fn open(
        &mut self,
        prepare: impl AsyncFnOnce(&mut PgConnection) -> Result<(), OpenError>,
    ) -> Result<(), OpenError> {
        self.connection = None;
        let opened = timeout(STEP_MAX, async {
            let mut connection = self.connect().await?;
            prepare(&mut connection).await?;
            Ok(connection)
        });
        let opened = opened.await;
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
                "the database of {} runs with fsync off: a loss of power may take back what it has acknowledged",
                self.what
            );
        }
        Ok(connection)
    }

    /// The connection; opened if it isn't, unless the last try to open one failed a moment ago.
    pub(crate) async fn ready(
        &mut self,
        prepare: impl AsyncFnOnce(&mut PgConnection) -> Result<(), OpenError>,
    ) -> Result<&mut PgConnection, Error> {
        if self.connection.is_none() {
            if let Some((at, why)) = &self.failed
                && at.elapsed() < PAUSE
            {
                return Err(Error::Unreachable(why.clone()));
            }
            if let Err(error) = self.open(prepare).await {
                let why = Text::from(error.to_string());
                if self.failed.is_none() {
                    tracing::error!(%error, "the database of {} is lost; it is tried again", self.what);
                }
                self.failed = Some((Instant::now(), why.clone()));
                return Err(Error::Unreachable(why));
            }
            if self.failed.take().is_some() {
                tracing::info!("the database of {} answers again", self.what);
            }
        }
        self.connection.as_mut().ok_or(Error::Closed)
    }

    /// Gives up a connection that doesn't answer.
    pub(crate) fn drop_connection(&mut self) {
        self.connection = None;
    }

    pub(crate) async fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            // The database notices by itself if that fails.
            let _ = connection.close().await;
        }
    }

    /// What a failed statement means. The server's own no is certain; whatever else may have come after the commit.
    pub(crate) fn failure(&mut self, error: &sqlx::Error, writes: bool) -> Failure {
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

pub(crate) fn unusable(error: sqlx::Error) -> OpenError {
    OpenError::Unreachable(error.to_string())
}
