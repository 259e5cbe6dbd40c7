// SPDX-License-Identifier: Apache-2.0
//! Clients that hold a connection and do next to nothing: a head, a body or a handshake that never ends, answers that
//! aren't read.

use super::{Tally, frames};
use anyhow::{Result, bail};
use byrnie_net::runtime;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What there is.
pub(super) const KINDS: [&str; 5] = ["heads", "bodies", "reads", "windows", "handshakes"];

/// How often something is sent or read: more often than servers measure silence.
const DRIP_EVERY: Duration = Duration::from_secs(5);
/// What a slow reader takes then: a kilobyte a second.
const SIP_BYTES: usize = 5_000;
/// An answer too large to be kept by anybody.
const LARGE: &str = "/x/16777216";

/// Holds until it's cut.
pub(super) async fn hold(mut tcp: TcpStream, kind: &str, tally: &Tally) -> Result<()> {
    let opening = match kind {
        "heads" => b"GET /x/1 HTTP/1.1\r\nhost: app\r\nx-slow: ".to_vec(),
        "bodies" => b"POST /x/1 HTTP/1.1\r\nhost: app\r\ncontent-length: 1000000\r\n\r\n".to_vec(),
        "reads" => format!("GET {LARGE} HTTP/1.1\r\nhost: app\r\n\r\n").into_bytes(),
        "windows" => frames::ask_without_window(LARGE),
        // The first bytes of a ClientHello of 512.
        _ => vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3],
    };
    tcp.write_all(&opening).await?;
    tally.sent.set(tally.sent.get() + 1);
    if kind == "windows" {
        // HTTP/2 wants its settings acknowledged.
        read_some(&mut tcp, SIP_BYTES).await?;
        tcp.write_all(&frames::acknowledgement()).await?;
    }
    loop {
        match kind {
            "heads" | "bodies" => {
                runtime::sleep(DRIP_EVERY).await;
                tcp.write_all(b"x").await?;
            }
            "reads" => {
                runtime::sleep(DRIP_EVERY).await;
                read_some(&mut tcp, SIP_BYTES).await?;
            }
            _ => read_some(&mut tcp, SIP_BYTES).await?,
        }
    }
}

async fn read_some(tcp: &mut TcpStream, most: usize) -> Result<()> {
    let mut forgotten = vec![0; most];
    if tcp.read(&mut forgotten).await? == 0 { bail!("cut") } else { Ok(()) }
}
