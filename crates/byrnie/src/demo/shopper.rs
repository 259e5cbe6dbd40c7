// SPDX-License-Identifier: Apache-2.0
//! The shop's customer: 20 requests a second, one in five an order.

use super::calls;
use anyhow::Result;
use byrnie_net::runtime;
use byrnie_net::serve::Method;
use std::time::Duration;

/// Time between two requests.
const PACE: Duration = Duration::from_millis(50);
/// One request in so many is an order.
const ORDER_EVERY: u64 = 5;

/// Shops until a signal.
pub(crate) async fn shop() -> Result<()> {
    calls::url("web", None)?;
    let visits = async {
        for number in 0_u64.. {
            let (method, path) = if number % ORDER_EVERY == 0 { (Method::POST, "/order") } else { (Method::GET, "/") };
            runtime::spawn("visit", async move {
                // The mesh counts what fails; a customer only comes back.
                if let Err(error) = calls::http(method, "web", path).await {
                    tracing::debug!(%error, "a visit failed");
                }
            });
            runtime::sleep(PACE).await;
        }
    };
    tokio::select! {
        () = visits => Ok(()),
        signal = runtime::terminated() => Ok(signal.map(|_| ())?),
    }
}
