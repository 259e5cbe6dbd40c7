// SPDX-License-Identifier: Apache-2.0
//! How the shop's programs call each other: by URLs from the environment, as any program would.

use anyhow::{Context, Result};
use byrnie_net::serve::Method;
use byrnie_net::serve::client::{Client, Outgoing};
use std::net::SocketAddr;
use std::time::Duration;

/// Longest wait for an answer.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

/// The URL of a service, as `byrnie run` gave it; `port` for a port other than the first.
pub(super) fn url(service: &str, port: Option<u16>) -> Result<String> {
    let word = service.to_ascii_uppercase().replace(['-', '.'], "_");
    let name = port.map_or_else(|| format!("BYRNIE_{word}_URL"), |port| format!("BYRNIE_{word}_{port}_URL"));
    std::env::var(&name).with_context(|| format!("{name} is not set: run this program with --uses {service}"))
}

/// The address in a URL of `byrnie run`: `http://` or, for a service that speaks TCP, `tcp://`.
pub(super) fn at(url: &str) -> Result<SocketAddr> {
    let address = url.split_once("://").map_or(url, |(_, address)| address).parse();
    address.with_context(|| format!("{url} has no address of the form IP:PORT"))
}

/// Sends one request over HTTP/1.1; returns status and body.
pub(super) async fn http(method: Method, service: &str, path: &str) -> Result<(u16, String)> {
    let client = Client::new(&url(service, None)?, None)?;
    let request = Outgoing { method, ..Outgoing::get(path) };
    let reply = client.send(request, TIMEOUT).await?;
    Ok((reply.status.as_u16(), String::from_utf8_lossy(&reply.body).into_owned()))
}
