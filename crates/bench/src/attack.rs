// SPDX-License-Identifier: Apache-2.0
//! Clients that mean harm. Some hold connections and do next to nothing; some send what costs the other side more
//! than them; all go on until they're cut, their number is sent or time is up. None comes again but those who leave by
//! themselves. Says `held N` once every connection has begun, and at the end one line of JSON.

mod frames;
mod leave;
mod slow;

use crate::tally::{now, say};
use crate::words::Words;
use anyhow::{Result, bail};
use byrnie_net::io;
use byrnie_net::runtime;
use serde::Serialize;
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A connection that can't be opened within this isn't counted as open.
const CONNECT_MAX: Duration = Duration::from_secs(20);
/// Connections opened before the others have their turn.
const CONNECT_BATCH: usize = 64;
/// Bytes written at once by those who flood.
const BATCH_BYTES: usize = 16 * 1024;
/// Requests under way on one connection of `paths`.
const PIPELINED: u64 = 32;

/// What an attacker does.
pub(crate) struct Plan {
    to: SocketAddr,
    kind: String,
    /// Streams, frames or requests of each connection.
    each: u64,
    /// References to one entry of the table in each header block.
    references: usize,
    /// Bytes of that entry's value.
    value: usize,
}

/// What all of them count.
#[derive(Default)]
struct Tally {
    begun: Cell<usize>,
    refused: Cell<usize>,
    /// The other side ended it.
    cut: Cell<usize>,
    /// All was sent and taken.
    done: Cell<usize>,
    sent: Cell<u64>,
    answered: Cell<u64>,
}

#[derive(Serialize)]
struct Told {
    begun: usize,
    refused: usize,
    cut: usize,
    done: usize,
    /// Frames, streams or requests that were handed to the kernel.
    sent: u64,
    answered: u64,
    seconds: f64,
}

/// `attack to=ADDR kind=KIND ...`.
pub(crate) fn run(words: &Words) -> Result<()> {
    let plan = Rc::new(Plan {
        to: words.address("to")?,
        kind: words.text("kind").unwrap_or("heads").to_owned(),
        each: words.number("each", 1)?,
        references: words.number("references", 0)?,
        value: words.number("value", 40)?,
    });
    let (connections, secs): (usize, u64) = (words.number("connections", 10)?, words.number("secs", 10)?);
    let known = [&slow::KINDS[..], &leave::KINDS, &["paths"]].concat().contains(&plan.kind.as_str());
    if !known && frames::maker(&plan).is_none() {
        bail!("kind={}", plan.kind);
    }
    runtime::block_on(async move {
        let (tally, start, span) = (Rc::new(Tally::default()), now(), Duration::from_secs(secs));
        for number in 0..connections {
            let (plan, tally) = (Rc::clone(&plan), Rc::clone(&tally));
            runtime::spawn_local("attacker", attack(plan, tally, number as u64));
            if number % CONNECT_BATCH == CONNECT_BATCH - 1 {
                runtime::sleep(Duration::from_millis(2)).await;
            }
        }
        let until = |done: &dyn Fn(&Tally) -> usize| done(&tally) >= connections || start.elapsed() >= span;
        while !until(&|tally| tally.begun.get() + tally.refused.get()) {
            runtime::sleep(Duration::from_millis(20)).await;
        }
        say(&format!("held {}", tally.begun.get()))?;
        while !until(&|tally| tally.cut.get() + tally.done.get() + tally.refused.get()) {
            runtime::sleep(Duration::from_millis(50)).await;
        }
        let told = Told {
            begun: tally.begun.get(),
            refused: tally.refused.get(),
            cut: tally.cut.get(),
            done: tally.done.get(),
            sent: tally.sent.get(),
            answered: tally.answered.get(),
            seconds: start.elapsed().as_secs_f64(),
        };
        say(&serde_json::to_string(&told)?)
    })?
}

/// One attacker's life. Whatever goes wrong is the other side's doing.
async fn attack(plan: Rc<Plan>, tally: Rc<Tally>, number: u64) {
    let Ok(tcp) = io::connect(plan.to, CONNECT_MAX).await else {
        return tally.refused.set(tally.refused.get() + 1);
    };
    tally.begun.set(tally.begun.get() + 1);
    let ended = match plan.kind.as_str() {
        "paths" => ask_for_paths(tcp, &plan, &tally, number).await,
        kind if slow::KINDS.contains(&kind) => slow::hold(tcp, kind, &tally).await,
        kind if leave::KINDS.contains(&kind) => {
            drop(tcp);
            leave::come_and_go(&plan, &tally).await
        }
        _ => flood(tcp, &plan, &tally).await,
    };
    let count = if ended.is_ok() { &tally.done } else { &tally.cut };
    count.set(count.get() + 1);
}

/// Sends frames as fast as they're taken, and forgets what comes back.
async fn flood(tcp: TcpStream, plan: &Plan, tally: &Tally) -> Result<()> {
    let Some(mut make) = frames::maker(plan) else { bail!("no such flood") };
    let (mut from, mut to) = tcp.into_split();
    let heard = runtime::spawn_local("heard", async move {
        let mut forgotten = [0; BATCH_BYTES];
        while from.read(&mut forgotten).await.is_ok_and(|read| read > 0) {}
    });
    let mut out = frames::opening(plan);
    for number in 0..plan.each {
        make(&mut out, number);
        if out.len() >= BATCH_BYTES || number + 1 == plan.each {
            to.write_all(&out).await?;
            out.clear();
        }
        tally.sent.set(tally.sent.get() + 1);
    }
    // Its own end would be taken for the other side's.
    heard.ended().await;
    drop(to);
    bail!("cut")
}

/// Asks for what nobody ever asked for: another host and another path each time.
async fn ask_for_paths(mut tcp: TcpStream, plan: &Plan, tally: &Tally, number: u64) -> Result<()> {
    let (mut asked, mut answered, mut bytes) = (0, 0, Vec::new());
    while answered < plan.each {
        let mut out = String::new();
        while asked < plan.each && asked - answered < PIPELINED {
            let at = number * plan.each + asked;
            out.push_str(&format!("GET /x/1/{at}?q={at} HTTP/1.1\r\nhost: h{at}.example\r\nuser-agent: a{at}\r\n\r\n"));
            asked += 1;
            tally.sent.set(tally.sent.get() + 1);
        }
        tcp.write_all(out.as_bytes()).await?;
        if tcp.read_buf(&mut bytes).await? == 0 {
            bail!("cut");
        }
        let found = take_answers(&mut bytes);
        answered += found;
        tally.answered.set(tally.answered.get() + found);
    }
    Ok(())
}

/// How many answers begin in what was heard, of which only what may be the beginning of another is kept.
fn take_answers(bytes: &mut Vec<u8>) -> u64 {
    const START: &[u8] = b"HTTP/1.1 ";
    let found = bytes.windows(START.len()).filter(|window| *window == START).count() as u64;
    let kept = bytes.len().saturating_sub(START.len() - 1);
    bytes.drain(..kept);
    found
}
