// SPDX-License-Identifier: Apache-2.0
//! `byrnie-bench`: the programs that `cargo xtask bench` starts. The client, the app, the bare relay that
//! no proxy can undercut, certificates for everybody, a bad network, and a proxy that is given its configuration.
//! Optimised like the product, so that the load isn't what limits a measurement.

mod app;
mod attack;
mod given;
mod link;
mod load;
mod pki;
mod relay;
mod sagas;
mod streams;
mod tally;
mod words;

use anyhow::{Result, bail};
use std::time::Duration;

/// Longest life of anything here: nothing outlives a bench that was killed by more than this.
const LIFE_MAX: Duration = Duration::from_secs(1800);

const USAGE: &str = "usage: byrnie-bench TOOL KEY=VALUE...

  pki    dir=DIR                                     makes an authority, and certificates for `app` and `web`
  app    listen=ADDR,... [pki=DIR]                   the program behind every path; with certificates: mutual TLS
  relay  listen=ADDR next=ADDR                       copies bytes
  proxy  role=caller|callee pki=DIR state=DIR next=ADDR,... [protocol=http|http2|grpc] [edits=1]
         [workers=N] [listen=ADDR] [hop=http1]       a byrnie proxy; says `ready ADDR`
  link   near=DEV far=DEV [delay=MICROSECONDS]       carries packets between two TUN devices that it makes, late, and
         [loss=PACKETS IN A MILLION] [seed=N]        without those that the dice choose; says `ready`, and what it did
  load   to=ADDR [kind=plain|new|tls|tls-new|h2|grpc] [pki=DIR] [connections=N] [streams=N] [rate=N] [size=N]
         [secs=N] [many=1] [pieces=1] [requests=N] [key=N]  the client
  sagas  to=ADDR [token=T] [run=ID] [clients=N]      sagas of two branches by dtm's API, and their participants:
         [secs=N] [rate=N] | park=N [down=SECS | open=1] [limit=SECS]  a load; or N that stand still, and go on later
         [listen=ADDR,ADDR] [hosts=HOST,HOST]        where participants are, and by which names they are called
  attack to=ADDR kind=KIND [connections=N] [secs=N]  clients that mean harm: heads, bodies, reads, windows, handshakes,
         [each=N] [references=N] [value=N]           resets, provoked, bomb, ping, settings, data, continuation, paths
  hold   to=ADDR connections=N secs=N                idle connections, one request each before
";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((tool, rest)) = args.split_first() else { bail!("{USAGE}") };
    let words = words::Words::parse(rest)?;
    match tool.as_str() {
        "pki" => pki::make(&words),
        "app" => on_one_thread(app::serve(words)),
        "relay" => on_one_thread(relay::serve(words)),
        "proxy" => given::run(&words),
        "link" => link::run(&words),
        "load" => load::run(&words),
        "attack" => attack::run(&words),
        "hold" => load::hold(&words),
        "sagas" => sagas::run(&words),
        _ => bail!("{USAGE}"),
    }
}

/// Runs until it ends, or for as long as anything here may live.
fn on_one_thread(serve: impl Future<Output = Result<()>>) -> Result<()> {
    let ended = byrnie_net::runtime::block_on(byrnie_net::runtime::timeout(LIFE_MAX, serve))?;
    // Time running out is the ordinary end of one whose bench was killed.
    ended.unwrap_or(Ok(()))
}
