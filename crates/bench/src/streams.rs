// SPDX-License-Identifier: Apache-2.0
//! The HTTP/2 client: connections in clear, each with so many streams at once; plain requests, or gRPC
//! calls whose trailers must say that they went well.

use crate::tally::{Tally, now};
use anyhow::{Context, Result, bail};
use byrnie_codec::{Framing, Head};
use byrnie_net::http::Progress;
use byrnie_net::http::h2::{self as http2, Client};
use byrnie_net::io;
use byrnie_net::runtime;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

const CONNECT_MAX: Duration = Duration::from_secs(5);
const FAILED_PAUSE: Duration = Duration::from_millis(100);

/// Starts one connection with `streams` requests at once.
pub(crate) fn start(to: SocketAddr, streams: usize, size: usize, grpc: bool, tally: Rc<Tally>) {
    runtime::spawn_local("connection", async move {
        loop {
            match io::connect(to, CONNECT_MAX).await {
                Ok(tcp) => {
                    let client = http2::connect(tcp.into());
                    let tasks: Vec<_> = (0..streams)
                        .map(|_| {
                            let (client, tally) = (client.clone(), Rc::clone(&tally));
                            runtime::spawn_local("stream", keep_asking(client, size, grpc, tally))
                        })
                        .collect();
                    for task in tasks {
                        task.ended().await;
                    }
                }
                Err(error) => tally.failed(&error.into()),
            }
            runtime::sleep(FAILED_PAUSE).await;
        }
    });
}

async fn keep_asking(client: Client, size: usize, grpc: bool, tally: Rc<Tally>) {
    let message = message(size);
    while !client.is_ended() {
        let start = now();
        match ask(&client, size, grpc.then_some(&message)).await {
            Ok(()) => tally.answered(start),
            Err(error) => tally.failed(&error),
        }
    }
}

/// A gRPC message of `size` bytes with its prefix: not compressed, length.
fn message(size: usize) -> Vec<u8> {
    let mut message = vec![0];
    message.extend_from_slice(&u32::try_from(size).unwrap_or(0).to_be_bytes());
    message.resize(5 + size, b'x');
    message
}

async fn ask(client: &Client, size: usize, message: Option<&Vec<u8>>) -> Result<()> {
    let mut client = client.clone();
    poll_fn(|cx| client.poll_ready(cx)).await?;
    let (mut flow, mut head) = (client.open(), Head::new());
    let reject = |reject: byrnie_codec::Reject| anyhow::anyhow!("{reject}");
    match message {
        Some(message) => {
            head.start_request("POST", "http", "app", "/bench.Echo/Say").map_err(reject)?;
            head.append("content-type", b"application/grpc").map_err(reject)?;
            head.append("te", b"trailers").map_err(reject)?;
            head.set_framing(Framing::Stream);
            flow.send_request(&head)?;
            flow.push(message)?;
            flow.end(None)?;
        }
        None => {
            head.start_request("GET", "http", "app", &format!("/b/{size}")).map_err(reject)?;
            head.append("user-agent", b"load/1").map_err(reject)?;
            flow.send_request(&head)?;
            flow.end(None)?;
        }
    }
    poll_fn(|cx| flow.poll_flush(cx)).await?;
    poll_fn(|cx| flow.poll_response(cx, &mut head)).await?;
    if head.status() != 200 {
        bail!("status {}", head.status());
    }
    let mut bytes = 0;
    let mut sink = |_: &mut std::task::Context<'_>, chunk: byrnie_net::http::Chunk<'_>| {
        bytes += chunk.as_slice().len();
        Ok(())
    };
    let trailers = loop {
        if let Progress::End(trailers) = poll_fn(|cx| flow.poll_body(cx, &mut sink)).await? {
            break trailers;
        }
    };
    let expected = message.map_or(size, Vec::len);
    if bytes != expected {
        bail!("{bytes} bytes where {expected} were expected");
    }
    if message.is_some() {
        let trailers = trailers.context("a gRPC answer without trailers")?;
        if trailers.get("grpc-status") != Some(b"0") {
            bail!("a gRPC call that failed");
        }
    }
    Ok(())
}
