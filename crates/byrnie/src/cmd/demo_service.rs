// SPDX-License-Identifier: Apache-2.0
//! `byrnie demo-service` (hidden): one program of the demo shop.

use crate::demo;
use crate::failure::Exit;
use crate::globals::Globals;
use anyhow::{Context, Result};
use byrnie_net::{machine, runtime};

/// Arguments of `demo-service`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// What it is: web, cart, catalog, checkout, payments, inventory, shipping, shopper or echo
    role: String,
    /// Where it listens: HTTP first, then gRPC, then TCP
    #[arg(long = "port", required = true)]
    ports: Vec<u16>,
    /// Which version it says it is
    #[arg(long, default_value = "v1")]
    version: String,
}

/// Runs the command.
pub(crate) fn run(args: &Args, globals: &Globals) -> Result<Exit> {
    crate::log::start(globals);
    let program = async {
        runtime::spawn("settle", machine::settle());
        if args.role == "shopper" {
            tokio::try_join!(demo::shop(), demo::serve(&args.role, &args.version, &args.ports)).map(|_| ())
        } else {
            demo::serve(&args.role, &args.version, &args.ports).await
        }
    };
    runtime::block_on(program).context("cannot start the runtime")??;
    Ok(Exit::Fine)
}
