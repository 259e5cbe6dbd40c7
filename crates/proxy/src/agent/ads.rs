// SPDX-License-Identifier: Apache-2.0
//! The configuration stream: delta ADS in, snapshots out. When the stream breaks, the last good stays in
//! force and the stream is opened anew, asking for differences only. What is in force is on the disk before
//! it's acknowledged.

use super::State;
use super::cache::Cache;
use super::link::{Backoff, Link};
use super::publish::Publisher;
use byrnie_base::Text;
use byrnie_engine::{Compiler, Node};
use byrnie_model::{Delta, Key};
use byrnie_net::grpc::{Incoming, Status};
use byrnie_net::runtime;
use byrnie_net::tls::Outlives;
use byrnie_xds::client::{Client, Refused};
use byrnie_xds::kept::Kept;
use byrnie_xds::{Bytes, DELTA_PATH, name};
use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long endpoints that came or went may be in force and not written down, and anything safe from the end
/// of the process but not from the loss of power.
const SAVE_PAUSE: Duration = Duration::from_secs(1);

/// The compiler, and whoever hands out what it makes: of what the control plane says, and of where hosts are.
pub(super) struct Compiling {
    compiler: RefCell<Compiler>,
    publisher: Rc<Publisher>,
    /// What is compiled may be in force: it's all of one revision.
    whole: Cell<bool>,
}

impl Compiling {
    pub(super) fn new(node: Node, kept: Option<&Kept>, publisher: Rc<Publisher>) -> Self {
        let mut compiler = Compiler::new(node);
        if let Some(kept) = kept {
            compile(&mut compiler, kept);
        }
        Self { compiler: RefCell::new(compiler), publisher, whole: Cell::new(kept.is_some()) }
    }

    /// Takes in where a host outside is, once a first configuration is in force.
    pub(super) fn locate(&self, host: &Text, addresses: Vec<IpAddr>) {
        let mut compiler = self.compiler.borrow_mut();
        if compiler.locate(host, addresses) && self.whole.get() {
            self.publisher.snapshot(compiler.snapshot());
        }
    }
}

/// One subscriber; it outlives its streams.
struct Subscription {
    client: Client,
    compiling: Rc<Compiling>,
    /// `None` if its folder can't be used.
    cache: Option<Cache>,
    /// Something in force must be on the disk before the next answer.
    urgent: bool,
}

/// What a subscription begins with.
pub(super) struct Start {
    /// Whether there is a forward listener.
    pub(super) forwards: bool,
    pub(super) kept: Option<Kept>,
    pub(super) cache: Option<Cache>,
}

/// Why a stream ended.
enum Ended {
    /// The server said so, or the connection broke.
    Status(Status),
    /// It closed in order.
    Closed,
    /// It sent what is no configuration.
    Nonsense(byrnie_xds::client::Error),
}

/// Keeps the configuration fresh for as long as the proxy runs.
pub(super) async fn run(start: Start, link: Rc<Link>, compiling: Rc<Compiling>, state: Arc<State>) {
    let mut client = Client::new(state.node.clone(), env!("CARGO_PKG_VERSION")).forwarding(start.forwards);
    if let Some(kept) = &start.kept {
        client.resume(&kept.resources);
    }
    let mut subscription = Subscription { client, compiling, cache: start.cache, urgent: false };
    runtime::keep("ads", async || subscribe(&mut subscription, &link, &state).await, || {}).await;
}

/// Follows one stream after the other.
async fn subscribe(subscription: &mut Subscription, link: &Link, state: &State) {
    let mut backoff = Backoff::new();
    let mut lost = false;
    let mut handing = state.handing();
    loop {
        // A successor's stream has ended this one, and ends it again each time. Its end is the end of the process.
        if handing.wait_for(|handing| !handing).await.is_err() {
            return;
        }
        let opened = match link.channel().await {
            Ok(channel) => channel.open(DELTA_PATH).await.map_err(|status| status.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match opened {
            Ok((outgoing, incoming)) => {
                if std::mem::take(&mut lost) {
                    tracing::info!("control plane is back");
                }
                backoff.reset();
                let ended = subscription.follow(outgoing, incoming, state).await;
                state.set_connected(false);
                if !*handing.borrow() {
                    warn(&ended);
                }
            }
            Err(error) if !lost => {
                lost = true;
                let code = byrnie_model::code::CONTROL_LOST.id;
                tracing::warn!(code, error, "control plane is not reached; the last good configuration stays in force");
            }
            Err(_) => {}
        }
        backoff.pause().await;
    }
}

/// What was kept, compiled. What was accepted once is accepted again.
pub(super) fn compile(compiler: &mut Compiler, kept: &Kept) {
    let delta = Delta { changed: kept.resources.clone(), removed: Vec::new() };
    for refusal in compiler.apply(&delta, kept.revision) {
        tracing::warn!(code = byrnie_model::code::REFUSED_BY_PROXY.id, key = %refusal.key, reason = refusal.reason, "a kept resource is of no use");
    }
}

impl Subscription {
    /// Follows one stream to its end.
    async fn follow(&mut self, outgoing: mpsc::Sender<Bytes>, mut incoming: Incoming, state: &State) -> Ended {
        for request in self.client.connect() {
            if outgoing.send(request).await.is_err() {
                return Ended::Closed;
            }
        }
        state.set_connected(true);
        // Since when something is to be saved.
        let mut since = None;
        loop {
            let dirty = self.cache.as_ref().is_some_and(Cache::is_dirty);
            let now = runtime::now().mono;
            let pause = SAVE_PAUSE.saturating_sub(now.since(*since.get_or_insert(now)));
            since = since.filter(|_| dirty);
            let response = tokio::select! {
                response = incoming.next() => match response {
                    Ok(Some(response)) => response,
                    Ok(None) => return Ended::Closed,
                    Err(status) => return Ended::Status(status),
                },
                // Endpoints come and go by the second: they're written together, some time after.
                () = runtime::sleep(pause), if dirty => {
                    since = None;
                    self.save(Outlives::PowerLoss);
                    continue;
                }
            };
            let answer = match self.take(&response) {
                Ok(answer) => answer,
                Err(error) => return Ended::Nonsense(error),
            };
            if outgoing.send(answer).await.is_err() {
                return Ended::Closed;
            }
        }
    }

    /// Takes in one response; the answer to send.
    fn take(&mut self, response: &[u8]) -> Result<Bytes, byrnie_xds::client::Error> {
        let mut update = self.client.on_response(response)?;
        let code = byrnie_model::code::REFUSED_BY_PROXY.id;
        for Refused { name, reason } in &update.unreadable {
            tracing::warn!(code, %name, %reason, "resource can't be read; last good stays in force");
        }
        let revision = update.revision.unwrap_or_else(|| self.client.revision());
        let refusals = self.compiling.compiler.borrow_mut().apply(&update.delta, revision);
        if let Some(cache) = &mut self.cache {
            let refused: Vec<Key> = refusals.iter().map(|refusal| refusal.key.clone()).collect();
            self.urgent |= cache.apply(&update.delta, &refused);
        }
        let mut refused = std::mem::take(&mut update.unreadable);
        refused.extend(refusals.iter().map(|refusal| {
            let (key, reason) = (&refusal.key, &refusal.reason);
            tracing::warn!(code, %key, reason, "resource refused; last good stays in force");
            Refused { name: name::of(key).into(), reason: reason.as_str().into() }
        }));
        let answer =
            if refused.is_empty() { self.client.accept(&update) } else { self.client.refuse(&update, &refused) };
        // Before everything was heard once, a service may look as if it had no endpoints or policies. In the
        // middle of a batch, policies of one revision stand beside those of another, and both together may
        // let through what each of them refuses.
        let whole = update.revision.is_some() && self.client.is_complete();
        self.compiling.whole.set(whole);
        if whole {
            self.compiling.publisher.snapshot(self.compiling.compiler.borrow().snapshot());
            if let Some(cache) = &mut self.cache {
                cache.reached(revision);
            }
            if self.urgent {
                self.save(Outlives::Process);
            }
        }
        Ok(answer)
    }

    fn save(&mut self, outlives: Outlives) {
        self.urgent = false;
        if let Some(cache) = &mut self.cache {
            cache.save(outlives);
        }
    }
}

fn warn(ended: &Ended) {
    let code = byrnie_model::code::CONTROL_LOST.id;
    match ended {
        Ended::Status(status) => {
            tracing::warn!(code, status = ?status.code(), message = status.message(), "configuration stream ended; opening it anew");
        }
        Ended::Closed => tracing::info!("configuration stream was closed; opening it anew"),
        Ended::Nonsense(error) => tracing::warn!(code, %error, "configuration stream makes no sense; opening it anew"),
    }
}
