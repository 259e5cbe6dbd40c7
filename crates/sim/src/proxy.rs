// SPDX-License-Identifier: Apache-2.0
//! The process of one proxy: the real xDS client and compiler, and the shell around them that `mesh`
//! drives. It dies and comes back; what it keeps is its last good configuration, if its disk survives.

use crate::checker::access::Request;
use crate::net::Conn;
use crate::shop::{self, Place, State};
use byrnie_base::{Instant, Now};
use byrnie_codec::Head;
use byrnie_engine::{
    Arrival, Compiler, Direction, Effect, Exchange, Gate, Node, Outcome, Reason, Role, Shard, Snapshot, Tls,
};
use byrnie_model::service::Locality;
use byrnie_model::{Delta, Revision, ServiceRef};
use byrnie_xds::Bytes;
use byrnie_xds::client::Client;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// One proxy, dead or alive.
pub struct Proxy {
    /// What it is.
    pub place: Place,
    /// Its process, if it runs.
    pub running: Option<Running>,
    /// When its process died, if it doesn't run.
    pub died: Option<Instant>,
    /// How often it was started: events for an earlier process don't count.
    pub life: u64,
    kept: Option<Published>,
}

/// A running process.
pub struct Running {
    /// What is in force; `None` until the first complete configuration.
    pub published: Option<Published>,
    /// Its connection for configuration, and since when.
    pub ads: Option<(Conn, Instant)>,
    /// Its connection for registration, and since when.
    pub registry: Option<(Conn, Instant)>,
    client: Client,
    compiler: Compiler,
    /// What was heard, though not all of it may be in force yet.
    heard: State,
}

/// A configuration in force.
#[derive(Clone, Debug)]
pub struct Published {
    /// All of it.
    pub resources: Arc<State>,
    /// Of which revision it is.
    pub revision: Revision,
    /// The same, compiled.
    pub snapshot: Arc<Snapshot>,
}

/// What the engine wants done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Send it.
    Send,
    /// Answer it, for this reason.
    Reply(Reason),
}

/// What came of a response.
pub enum Heard {
    /// Send this; a new configuration is in force.
    Published(Bytes),
    /// Send this; more must come first.
    Partly(Bytes),
    /// Send this; it was refused.
    Refused(Bytes),
    /// Close the connection.
    Close,
}

impl Proxy {
    /// A proxy that was never started.
    pub fn new(place: Place) -> Self {
        Self { place, running: None, died: None, life: 0, kept: None }
    }

    /// Starts the process from what it kept.
    pub fn start(&mut self) {
        self.life += 1;
        self.died = None;
        let mut client = Client::new(self.place.node.clone(), "sim");
        let heard = self.kept.as_ref().map_or_else(State::new, |kept| (*kept.resources).clone());
        client.resume(heard.values());
        let mut compiler = Compiler::new(node(&self.place));
        let published = self.kept.as_ref().map(|kept| {
            compiler.apply(&everything(&heard), kept.revision);
            Published { snapshot: compiler.snapshot(), ..kept.clone() }
        });
        self.running = Some(Running { published, ads: None, registry: None, client, compiler, heard });
    }

    /// Stops the process where it stands.
    pub fn stop(&mut self, now: Instant) {
        if let Some(running) = self.running.take() {
            self.kept = running.published;
            self.died = Some(now);
        }
    }

    /// Loses what it kept.
    pub fn forget(&mut self) {
        self.kept = None;
    }
}

impl Running {
    /// The first messages on a new connection.
    pub fn greet(&mut self) -> Vec<Bytes> {
        self.client.connect()
    }

    /// A response came.
    pub fn on_response(&mut self, bytes: &[u8]) -> Heard {
        let Ok(mut update) = self.client.on_response(bytes) else { return Heard::Close };
        let refusals = self.compiler.apply(&update.delta, update.revision.unwrap_or(self.client.revision()));
        let mut refused = std::mem::take(&mut update.unreadable);
        if !refusals.is_empty() || !refused.is_empty() {
            let told = |refusal: &byrnie_engine::Refusal| byrnie_xds::client::Refused {
                name: byrnie_xds::name::of(&refusal.key).into(),
                reason: refusal.reason.to_string().into(),
            };
            refused.extend(refusals.iter().map(told));
            return Heard::Refused(self.client.refuse(&update, &refused));
        }
        self.apply(&update.delta);
        let ack = self.client.accept(&update);
        let Some(revision) = update.revision.filter(|_| self.client.is_complete()) else {
            return Heard::Partly(ack);
        };
        self.published =
            Some(Published { resources: Arc::new(self.heard.clone()), revision, snapshot: self.compiler.snapshot() });
        Heard::Published(ack)
    }

    fn apply(&mut self, delta: &Delta) {
        for resource in &delta.changed {
            self.heard.insert(resource.key.clone(), Arc::clone(resource));
        }
        for key in &delta.removed {
            self.heard.remove(key);
        }
    }
}

impl Published {
    /// What would be compiled of `resources` from nothing.
    pub fn from_nothing(place: &Place, resources: State, revision: Revision) -> Self {
        let mut compiler = Compiler::new(node(place));
        compiler.apply(&everything(&resources), revision);
        Self { resources: Arc::new(resources), revision, snapshot: compiler.snapshot() }
    }

    /// What the engine decides on a request that came to this proxy's workload.
    pub fn inbound(&self, request: &Request, now: Now) -> Decision {
        let direction = Direction::Inbound { service: &request.service, port: shop::PORT };
        self.decide(direction, request, Tls::Mutual, now)
    }

    /// What the engine decides on a request of this proxy's workload to a service.
    pub fn outbound(&self, service: &ServiceRef, now: Now) -> Decision {
        let request = Request { service: service.clone(), caller: None, method: "GET", path: "/a" };
        let edge = self.snapshot.node().role == Role::Gateway;
        let direction =
            if edge { Direction::Edge(Gate::Own) } else { Direction::Service { service, port: shop::PORT, sni: None } };
        self.decide(direction, &request, Tls::None, now)
    }

    fn decide(&self, direction: Direction<'_>, request: &Request, tls: Tls, now: Now) -> Decision {
        let mut head = Head::new();
        let suffix = if matches!(direction, Direction::Edge(_)) { ".mesh.localhost" } else { "" };
        let authority = format!("{}.{}{suffix}", request.service.name, request.service.namespace);
        if head.start_request(request.method, "http", &authority, request.path).is_err() {
            return Decision::Reply(Reason::BadRequest);
        }
        // A shard of its own: what a decision depends on is here alone.
        let mut shard = Shard::new(self.revision.0);
        let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, 40_000));
        let arrival = Arrival { direction, source: request.caller.as_ref(), remote, tls };
        let (exchange, effect) = Exchange::begin(&self.snapshot, &mut shard, &arrival, &mut head, now);
        exchange.finish(&mut shard, Outcome { status: 200, failure: None }, now);
        match effect {
            Effect::Send(_) | Effect::Forward | Effect::Wait => Decision::Send,
            // Nothing in this world is protected by a key or takes part in a transaction.
            Effect::Lease(_) | Effect::Enlist(_) | Effect::Queue(_) | Effect::Claim(_) | Effect::Replay => {
                Decision::Send
            }
            // Nor is there a pool.
            Effect::Pick(_) => Decision::Send,
            Effect::Recall(_) | Effect::Keep | Effect::Settle(..) => Decision::Send,
            Effect::Reply(answer) => Decision::Reply(answer.reason),
        }
    }
}

fn node(place: &Place) -> Node {
    Node {
        name: place.spec.workload.clone(),
        namespace: place.spec.namespace.clone(),
        identity: place.identity.clone(),
        locality: Locality::default(),
        role: if place.workload.is_some() { Role::Sidecar } else { Role::Gateway },
    }
}

fn everything(state: &State) -> Delta {
    Delta { changed: state.values().cloned().collect(), removed: Vec::new() }
}
