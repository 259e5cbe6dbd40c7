// SPDX-License-Identifier: Apache-2.0
//! `byrnie successor` (hidden): a process that is nothing but one proxy, in place of an earlier one. Its parent says by
//! standard input what it is to be.

use super::{Ask, FORMAT, Tell, form, listen, send};
use crate::failure::{self, Exit, Failure};
use crate::globals::Globals;
use crate::supervise;
use anyhow::{Context, Result};
use byrnie_model::code;
use byrnie_net::local::Tether;
use byrnie_net::runtime;
use byrnie_proxy::{Handed, Running};
use std::time::Duration;

/// Runs the command.
pub(crate) fn run(format: u32, parent: u32, globals: &Globals) -> Result<Exit> {
    crate::log::start(globals);
    supervise::tie_to(parent)?;
    let tether = Tether::from_stdin().context("this command is for byrnie itself")?;
    if format != FORMAT {
        let what = format!("it hands over in form {format}, and this version takes over in form {FORMAT}");
        let next = "upgrade by a version in between, or start the instance again";
        tether.send(&form(&Tell::refuses(&Failure::new(code::HAND_OVER.id, what).next(next)))?, &[])?;
        return Ok(Exit::Problem);
    }
    runtime::block_on(serve(tether, globals)).context("cannot start the runtime")?
}

async fn serve(tether: Tether, globals: &Globals) -> Result<Exit> {
    let mut asks = listen(tether.try_clone()?)?;
    let say = |tell: &Tell| -> Result<()> { Ok(tether.send(&form(tell)?, &[])?) };
    let Some((Ask::Begin { charge, .. }, listeners)) = asks.recv().await else {
        anyhow::bail!("the process that started this one said nothing");
    };
    let proxy = match begin(*charge, listeners, globals).await {
        Ok(proxy) => proxy,
        Err(failure) => {
            say(&Tell::refuses(&failure))?;
            return Ok(Exit::Problem);
        }
    };
    say(&Tell::Serves { version: env!("CARGO_PKG_VERSION").to_owned() })?;
    let mut next = None;
    loop {
        let ask = match next.take() {
            Some(ask) => Some(ask),
            None => asks.recv().await.map(|(ask, _)| ask),
        };
        match ask {
            Some(Ask::Give) => send(&tether, &proxy.listeners(), &[], |doors| form(&Tell::Given { doors }))?,
            Some(Ask::HandOver { comes }) => proxy.hand_over(comes),
            Some(Ask::Leave { millis }) => {
                // Whatever is asked next is more urgent.
                tokio::select! {
                    _ = proxy.leave(Duration::from_millis(millis)) => say(&Tell::Left)?,
                    ask = asks.recv() => next = ask.map(|(ask, _)| ask),
                }
            }
            Some(Ask::Retire { millis }) => {
                let whole = proxy.retire(Duration::from_millis(millis)).await;
                say(&Tell::Ended { whole })?;
                return Ok(Exit::Fine);
            }
            Some(Ask::Drain { millis }) => {
                let whole = proxy.drain(Duration::from_millis(millis)).await;
                say(&Tell::Ended { whole })?;
                return Ok(Exit::Fine);
            }
            Some(Ask::Begin { .. }) | None => return Ok(Exit::Problem),
        }
    }
}

async fn begin(charge: super::Charge, listeners: Vec<Handed>, globals: &Globals) -> Result<Running, Failure> {
    let config = charge.config(globals)?;
    let mut proxy = byrnie_proxy::succeed(config, listeners).map_err(failure::of_proxy)?;
    proxy.ready().await.map_err(failure::of_proxy)?;
    Ok(proxy)
}
