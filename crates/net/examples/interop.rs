// SPDX-License-Identifier: Apache-2.0
//! gRPC's interop cases with tonic: `interop serve PORT`, or `interop call HOST:PORT`. It says the same as
//! `xtask/peers/interop.py`, so that either may be at either end; but for compression, which only that one has. Without words it
//! calls itself.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a case fails by panicking")]

#[path = "interop/client.rs"]
mod client;
#[path = "interop/server.rs"]
mod server;

use bytes::{Buf, BufMut, Bytes};
use std::net::{Ipv4Addr, SocketAddr};
use tokio::net::TcpListener;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Messages are bytes: a request is JSON, a line end and a payload.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// Seconds of the clock that all processes of this machine share.
fn monotonic() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    runtime.block_on(async {
        match words[..] {
            ["serve", port] => server::serve(TcpListener::bind(local(port.parse().unwrap())).await.unwrap()).await,
            ["call", address] => client::call(address).await,
            [] => {
                let listener = TcpListener::bind(local(0)).await.unwrap();
                let address = listener.local_addr().unwrap().to_string();
                tokio::select! {
                    () = server::serve(listener) => {}
                    () = client::call(&address) => {}
                }
            }
            _ => panic!("interop serve PORT, or interop call HOST:PORT"),
        }
    });
}
