// SPDX-License-Identifier: Apache-2.0
//! `byrnie outbox`: hands what programs have inserted into a table of their database to the coordinator, as messages.

use crate::failure::{Exit, Failure};
use crate::globals::Globals;
use anyhow::{Context, Result};
use byrnie_net::runtime;
use byrnie_net::serve::client::Client;
use byrnie_sdk::outbox::{Error, Relay, TABLE, Table};

const EXAMPLES: &str = "Examples:
  byrnie outbox --schema | psql shop
  byrnie outbox --schema --table mail.outbox
  byrnie run --name shop-outbox --uses transactions.byrnie -- byrnie outbox --database postgresql://shop@db/shop";

/// Send what programs insert into a table of PostgreSQL, each row until it has arrived
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The database; its password may stand in ~/.pgpass
    #[arg(long, value_name = "URL", env = "DATABASE_URL", hide_env_values = true, required_unless_present = "schema")]
    database: Option<String>,
    /// The table, with its schema if it isn't on the search path
    #[arg(long, default_value = TABLE)]
    table: String,
    /// The coordinator, as `byrnie run --uses transactions.byrnie` names it to its program
    #[arg(long, value_name = "URL", env = "BYRNIE_TRANSACTIONS_URL", required_unless_present = "schema")]
    coordinator: Option<String>,
    /// Print the statements that make the table, and end
    #[arg(long)]
    schema: bool,
}

pub(crate) fn run(args: &Args, globals: &Globals) -> Result<Exit> {
    let table: Table = args.table.parse().map_err(|error: Error| Failure::usage(error.to_string()))?;
    if args.schema {
        print!("{}", table.schema());
        return Ok(Exit::Fine);
    }
    crate::log::start(globals);
    let (database, coordinator) = (args.database.as_deref(), args.coordinator.as_deref());
    let client = Client::new(coordinator.unwrap_or_default(), None);
    let client = client.map_err(|error| Failure::usage(format!("--coordinator: {error}")))?;
    runtime::block_on(relay(database.unwrap_or_default(), table, client)).context("cannot start the runtime")?
}

async fn relay(database: &str, table: Table, client: Client) -> Result<Exit> {
    let relay = Relay::new(database, table.clone(), client).await.map_err(|error| {
        let next = match error {
            Error::Table(..) => "`byrnie outbox --schema` prints the statements that make it.",
            _ => "--database is postgresql://USER@HOST/NAME.",
        };
        Failure::usage(error.to_string()).at("--database").next(next)
    })?;
    println!("relaying {table}");
    let ended = async { runtime::terminated().await };
    tokio::select! {
        signal = ended => signal.map(|_| Exit::Fine).context("cannot wait for signals"),
        never = relay.serve() => never,
    }
}
