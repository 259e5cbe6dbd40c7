// SPDX-License-Identifier: Apache-2.0
//! Clients that come again and again, ask for much at once, and are gone before they are answered; and those who ask for the same and
//! wait for it, to compare.

use super::{CONNECT_MAX, Plan, Tally, frames};
use anyhow::Result;
use byrnie_net::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What there is: by HTTP/1, by HTTP/2, and those who wait.
pub(super) const KINDS: [&str; 3] = ["leaves", "leaves-h2", "visits"];

/// Comes and goes until its time is up; each time with as many requests as it was told. An error if it can't come again.
pub(super) async fn come_and_go(plan: &Plan, tally: &Tally) -> Result<()> {
    let asked = match plan.kind.as_str() {
        "leaves-h2" => frames::ask_for_many(plan.each),
        _ => b"GET /x/100 HTTP/1.1\r\nhost: app\r\n\r\n".repeat(usize::try_from(plan.each).unwrap_or_default()),
    };
    let mut heard = Vec::new();
    loop {
        let mut tcp = io::connect(plan.to, CONNECT_MAX).await?;
        // Who is refused amid it has left, too.
        if tcp.write_all(&asked).await.is_ok() {
            tally.sent.set(tally.sent.get() + plan.each);
        }
        let mut answered = 0;
        while plan.kind == "visits" && answered < plan.each {
            if tcp.read_buf(&mut heard).await? == 0 {
                break;
            }
            let found = super::take_answers(&mut heard);
            answered += found;
            tally.answered.set(tally.answered.get() + found);
        }
        heard.clear();
    }
}
