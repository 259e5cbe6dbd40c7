// SPDX-License-Identifier: Apache-2.0
//! The gRPC side of inventory and shipping: `/shop.v1.Inventory/Reserve` and `/shop.v1.Shipping/Quote`,
//! whose message is `{ string item = 1; }` both ways.

use super::calls::{TIMEOUT, at};
use anyhow::{Context, Result};
use byrnie_codec::grpc::health;
use byrnie_net::grpc::{Call, Channel, Incoming, Service, Shape, Status};
use byrnie_net::{BoxFuture, runtime};
use bytes::Bytes;
use tokio::sync::mpsc;

/// Answers each call with its own message, and that it serves whoever asks after its health.
pub(super) struct Echo {
    /// The one method that it has.
    pub path: &'static str,
}

impl Service for Echo {
    fn shape(&self, path: &str) -> Option<Shape> {
        (path == self.path || path == health::PATH).then_some(Shape::Unary)
    }

    fn unary(&self, call: Call, message: Bytes) -> BoxFuture<'static, Result<Bytes, Status>> {
        let answer = if call.path == health::PATH { Bytes::from_static(&health::SERVING) } else { message };
        Box::pin(std::future::ready(Ok(answer)))
    }

    fn stream(&self, call: Call, _: Incoming, _: mpsc::Sender<Bytes>) -> BoxFuture<'static, Result<(), Status>> {
        Box::pin(std::future::ready(Err(Status::unimplemented(call.path))))
    }
}

/// Calls a method once with an item.
pub(super) async fn call(url: &str, path: &str, item: &str) -> Result<()> {
    let address = at(url)?;
    let call = async {
        let channel = Channel::connect_plain(address).await?;
        channel.unary(path, message(item)).await.with_context(|| format!("grpc {path}"))
    };
    runtime::timeout(TIMEOUT, call).await.with_context(|| format!("grpc {path} took too long"))??;
    Ok(())
}

/// Field 1, a string of at most 127 bytes, in protobuf's wire form.
fn message(item: &str) -> Bytes {
    let item = &item.as_bytes()[..item.len().min(127)];
    let mut bytes = vec![0x0a, u8::try_from(item.len()).unwrap_or(127)];
    bytes.extend_from_slice(item);
    Bytes::from(bytes)
}
