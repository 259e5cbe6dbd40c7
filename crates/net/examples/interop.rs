// SPDX-License-Identifier: Apache-2.0
//! gRPC's interop cases with tonic: `interop serve PORT`, or `interop call HOST:PORT DIRECT`, where DIRECT is the server itself, that
//! spans are compared with. It says the same as `xtask/peers/interop.py`, so that either may be at either end. The negative cases have a
//! server of their own, `interop unruly PORT`, called by `interop negative DIRECT HOST:PORT` and by `xtask/peers/negative.py`. Without
//! words it calls itself.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a case fails by panicking")]

#[path = "interop/client.rs"]
mod client;
#[path = "interop/negative.rs"]
mod negative;
#[path = "interop/server.rs"]
mod server;
#[path = "interop/unruly.rs"]
mod unruly;

use bytes::{Buf, BufMut, Bytes};
use std::net::Ipv4Addr;
use tokio::net::TcpListener;
use tonic::Status;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// What is compressed with, where it's built so.
#[cfg(feature = "gzip")]
const GZIP: Option<CompressionEncoding> = Some(CompressionEncoding::Gzip);
#[cfg(not(feature = "gzip"))]
const GZIP: Option<CompressionEncoding> = None;

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

async fn listen(port: &str) -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port.parse().unwrap())).await.unwrap()
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    runtime.block_on(async {
        match words[..] {
            ["serve", port] => server::serve(listen(port).await).await,
            ["call", address, direct] => client::call(address, direct).await,
            ["unruly", port] => unruly::serve(listen(port).await).await,
            ["negative", direct, mesh] => negative::call(direct, mesh).await,
            [] => {
                let listener = listen("0").await;
                let address = listener.local_addr().unwrap().to_string();
                tokio::select! {
                    () = server::serve(listener) => {}
                    () = client::call(&address, &address) => {}
                }
            }
            _ => panic!("interop serve PORT | call HOST:PORT DIRECT | unruly PORT | negative DIRECT HOST:PORT"),
        }
    });
}
