// SPDX-License-Identifier: Apache-2.0
//! What each of the shop's programs answers over HTTP/1.1, with the planted faults: payments v2 fails
//! one charge in two, and a few answers of payments are slow.

use super::{calls, grpc, tcp};
use anyhow::{Context, Result};
use byrnie_base::Rng;
use byrnie_net::listen::{Share, bind};
use byrnie_net::serve::{Answer, Method, Request, Response, StatusCode};
use byrnie_net::{grpc as wire, runtime, serve as http};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// gRPC port of inventory and shipping, as the shop's resources have it.
const GRPC_PORT: u16 = 81;
/// TCP port of inventory, as the shop's resources have it.
const TCP_PORT: u16 = 82;
/// What a charge takes.
const CHARGE: Duration = Duration::from_millis(4);
/// What one charge in twenty takes: the planted slowness.
const CHARGE_SLOW: Duration = Duration::from_millis(60);

/// One program's state.
struct Shop {
    role: String,
    version: String,
    count: AtomicU64,
}

/// Runs a program of the shop until a signal. `ports` are its HTTP port and, where it has one, those of
/// gRPC and TCP.
pub(crate) async fn serve(role: &str, version: &str, ports: &[u16]) -> Result<()> {
    let listen = |port: u16| bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), Share::Alone).context("demo service");
    let (trigger, shutdown) = runtime::shutdown();
    let [http_port, more @ ..] = ports else { anyhow::bail!("no port given") };
    let shop = Arc::new(Shop { role: role.to_owned(), version: version.to_owned(), count: AtomicU64::new(0) });
    let answer: Answer = Arc::new(move |request| {
        let shop = Arc::clone(&shop);
        Box::pin(async move { shop.answer(request).await })
    });
    runtime::spawn("demo http", http::serve(listen(*http_port)?, answer, shutdown.clone()));
    if let Some(port) = more.first() {
        let path = if role == "inventory" { "/shop.v1.Inventory/Reserve" } else { "/shop.v1.Shipping/Quote" };
        let service = Arc::new(grpc::Echo { path });
        runtime::spawn("demo grpc", wire::serve_plain(listen(*port)?, service, shutdown));
    }
    if let Some(port) = more.get(1) {
        runtime::spawn_local("demo tcp", tcp::serve(listen(*port)?));
    }
    runtime::terminated().await?;
    trigger.fire();
    Ok(())
}

impl Shop {
    async fn answer(&self, request: Request) -> Response {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let answered = match (self.role.as_str(), request.path.as_str()) {
            ("web", "/") => self.page().await,
            ("web", "/order") => self.pass(Method::POST, "checkout", "/orders").await,
            ("catalog", _) => self.stock().await,
            ("checkout", "/orders") => self.order().await,
            ("payments", "/charge") => return self.charge(number).await,
            ("echo", path) => return self.echo(path).await,
            _ => Ok(()),
        };
        match answered {
            Ok(()) => self.say(StatusCode::OK, "ok"),
            Err(error) => self.say(StatusCode::BAD_GATEWAY, &format!("{error:#}")),
        }
    }

    fn say(&self, status: StatusCode, what: &str) -> Response {
        Response::new(status, "text/plain; charset=utf-8", format!("{} version {}: {what}\n", self.role, self.version))
    }

    async fn page(&self) -> Result<()> {
        self.pass(Method::GET, "catalog", "/items").await?;
        self.pass(Method::GET, "cart", "/cart").await
    }

    async fn stock(&self) -> Result<()> {
        let url = calls::url("inventory", Some(TCP_PORT))?;
        tcp::stock(&url, "ring").await.map(|_| ())
    }

    async fn order(&self) -> Result<()> {
        grpc::call(&calls::url("inventory", Some(GRPC_PORT))?, "/shop.v1.Inventory/Reserve", "ring").await?;
        self.pass(Method::POST, "payments", "/charge").await?;
        grpc::call(&calls::url("shipping", Some(GRPC_PORT))?, "/shop.v1.Shipping/Quote", "ring").await
    }

    /// Calls another service, and fails as it fails.
    async fn pass(&self, method: Method, service: &str, path: &str) -> Result<()> {
        let (status, body) = calls::http(method, service, path).await?;
        anyhow::ensure!(status < 400, "{service} answered {status}: {}", body.trim_end());
        Ok(())
    }

    async fn charge(&self, number: u64) -> Response {
        let slow = Rng::new(number).percent(5);
        runtime::sleep(if slow { CHARGE_SLOW } else { CHARGE }).await;
        if self.version == "v2" && number % 2 == 1 {
            return self.say(StatusCode::SERVICE_UNAVAILABLE, "card network unreachable");
        }
        self.say(StatusCode::OK, "charged")
    }

    /// `/call/SERVICE/PATH` calls a service and tells what it said; anything else is told back.
    async fn echo(&self, path: &str) -> Response {
        let Some(call) = path.strip_prefix("/call/") else { return self.say(StatusCode::OK, path) };
        let (service, path) = call.split_once('/').unwrap_or((call, ""));
        match calls::http(Method::GET, service, &format!("/{path}")).await {
            Ok((status, body)) => self.say(StatusCode::OK, &format!("{status} {body}")),
            Err(error) => self.say(StatusCode::OK, &format!("{error:#}")),
        }
    }
}
