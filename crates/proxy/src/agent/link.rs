// SPDX-License-Identifier: Apache-2.0
//! The connection to the control plane, and the order in which a proxy comes to life by it:
//! credentials, registry, configuration. Whoever needs the control plane asks [`Link::channel`]; a
//! lost connection is opened anew by whoever asks first.

use super::cache::{Cache, whoever_was_well};
use super::certs::{self, Renewal};
use super::circle::Circle;
use super::enlist;
use super::ledger;
use super::publish::Publisher;
use super::registry::Joining;
use super::{Asked, Own, State, ads, places, probe, quota, registry, report};
use crate::config::{Address, Config, Control, Mount};
use crate::error::Error;
use crate::running::Goodbye;
use crate::worker::InForce;
use byrnie_base::Rng;
use byrnie_base::mailbox::Receiver;
use byrnie_engine::Compiler;
use byrnie_model::code::CONTROL_LOST;
use byrnie_model::{Identity, Record};
use byrnie_net::grpc::{Channel, ConnectError};
use byrnie_net::runtime::{self, Shutdown, Task};
use byrnie_net::tls::{self, Credentials, Roots};
use byrnie_xds::kept::{Kept, Origin};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// First pause after a failed try.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause between tries: the control plane's return must be noticed within a second.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long the control plane may take to answer before what was kept is put in force: a proxy that starts
/// again serves within a second.
const KEPT_PATIENCE: Duration = Duration::from_millis(400);

/// The connection to the control plane, shared by all tasks of the agent.
pub(super) struct Link {
    address: Address,
    expected: Identity,
    credentials: RefCell<Arc<Credentials>>,
    held: tokio::sync::Mutex<Option<Channel>>,
}

impl Link {
    fn new(control: &Control, credentials: Arc<Credentials>) -> Self {
        Self {
            address: control.address.clone(),
            expected: control.identity.clone(),
            credentials: RefCell::new(credentials),
            held: tokio::sync::Mutex::new(None),
        }
    }

    /// The connection, opened if it isn't.
    pub(super) async fn channel(&self) -> Result<Channel, ConnectError> {
        let mut held = self.held.lock().await;
        if let Some(channel) = held.as_ref().filter(|channel| !channel.is_closed()) {
            return Ok(channel.clone());
        }
        let credentials = Arc::clone(&self.credentials.borrow());
        let address = self.address.now();
        let tls = tls::client(&credentials).map_err(|error| ConnectError::Tls { address, error })?;
        let channel = Channel::connect(address, &tls, &self.expected, None).await?;
        *held = Some(channel.clone());
        Ok(channel)
    }

    /// A connection of its own that shows no certificate: for asking for one.
    pub(super) async fn channel_without_certificate(&self) -> Result<Channel, ConnectError> {
        let nobody = tls::client_without_certificate(self.credentials().roots());
        Channel::connect(self.address.now(), &nobody, &self.expected, None).await
    }

    /// Further connections are opened with these.
    pub(super) async fn renew(&self, credentials: Arc<Credentials>) {
        *self.credentials.borrow_mut() = credentials;
        // Streams that run keep the old connection until it ends.
        *self.held.lock().await = None;
    }

    /// Who every control plane of the mesh is.
    pub(super) const fn expected(&self) -> &Identity {
        &self.expected
    }

    /// The credentials in use.
    pub(super) fn credentials(&self) -> Arc<Credentials> {
        Arc::clone(&self.credentials.borrow())
    }
}

/// Growing pauses between tries, each shortened at random by up to a half, so that many proxies don't
/// come at once.
pub(super) struct Backoff {
    next: Duration,
    most: Duration,
    rng: Rng,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self::up_to(PAUSE_MAX)
    }

    /// The same, with another longest pause.
    pub(super) fn up_to(most: Duration) -> Self {
        Self { next: PAUSE_MIN, most, rng: Rng::new(super::seed()) }
    }

    /// Waits before the next try.
    pub(super) async fn pause(&mut self) {
        let half = self.next / 2;
        let jitter = Duration::from_nanos(self.rng.below(u64::try_from(half.as_nanos()).unwrap_or(0)));
        self.next = (self.next * 2).min(self.most);
        runtime::sleep(half + jitter).await;
    }

    /// The last try succeeded.
    pub(super) fn reset(&mut self) {
        self.next = PAUSE_MIN;
    }
}

/// Brings the proxy to life: by the control plane or, if that is away, by what was kept.
pub(super) async fn begin(
    config: &Config,
    control: &Control,
    (own, kept): (Own, Option<Kept>),
    state: Arc<State>,
    (records, goodbye, asked): (Receiver<Record>, mpsc::UnboundedReceiver<Goodbye>, Asked),
    stop: Shutdown,
) -> Result<(watch::Receiver<InForce>, Option<Task>), Error> {
    let roots = Roots::from_pem(&control.roots_pem, config.identity.trust_domain())
        .map_err(|error| Error::Credentials { cause: error.to_string() })?;
    let began = runtime::now().mono;
    let patience = if kept.is_some() { KEPT_PATIENCE.min(control.patience) } else { control.patience };
    let left = || patience.saturating_sub(runtime::now().mono.since(began));
    let unreachable = |cause: &str| Error::Unreachable { address: control.address.now(), cause: cause.to_owned() };
    let credentials = Arc::new(certs::first(config, control, &roots).await?);
    let (publisher, mut first) = Publisher::new(Arc::clone(&credentials))?;
    let link = Rc::new(Link::new(control, credentials));
    let publisher = Rc::new(publisher);
    let own_machine = own.inbound.is_some_and(|address| address.ip().is_loopback());
    let listening = match &config.mount {
        Mount::Sidecar(sidecar) => sidecar.listening.clone(),
        Mount::Gateway(_) => None,
    };
    let (tell_health, health) = watch::channel(probe::at_first(listening.as_ref()));
    let registered = match registry::join(config, own, &link, (health, goodbye, state.handing()), stop) {
        None => None,
        Some(Joining { task, joined }) => {
            match runtime::timeout(left(), joined).await {
                Ok(Ok(outcome)) => outcome?,
                Ok(Err(_)) => return Err(Error::Stopped),
                Err(_) if kept.is_none() => return Err(unreachable("it did not answer to the registration")),
                Err(_) => {}
            }
            Some(task)
        }
    };
    let origin = Origin { node: super::node_name(config).into(), inbound: own.inbound };
    let cache = control.keep_view.then(|| Cache::open(&config.state_dir, origin, kept.as_ref())).flatten();
    let node = crate::mount::node(config);
    let compiling = Rc::new(ads::Compiling::new(node.clone(), kept.as_ref(), Rc::clone(&publisher)));
    let forwards = matches!(&config.mount, Mount::Sidecar(sidecar) if sidecar.forward.is_some());
    let start = ads::Start { forwards, kept: kept.clone(), cache };
    runtime::spawn_local("ads", ads::run(start, Rc::clone(&link), Rc::clone(&compiling), Arc::clone(&state)));
    let renewal =
        Renewal { path: certs::path(config), tokens: control.tokens.clone(), identity: config.identity.clone() };
    runtime::spawn_local("certs", certs::renew(renewal, Rc::clone(&link), Rc::clone(&publisher)));
    let in_force = match (runtime::timeout(left(), &mut first).await, kept) {
        (Ok(in_force), _) => in_force.map_err(|_| Error::Stopped)?,
        (Err(_), None) => return Err(unreachable("it sent no configuration")),
        (Err(_), Some(kept)) => {
            let revision = kept.revision;
            tracing::warn!(code = CONTROL_LOST.id, %revision, "control plane is not reached; the configuration kept from the last time is in force");
            let mut compiler = Compiler::new(node);
            ads::compile(&mut compiler, &whoever_was_well(kept));
            publisher.kept(compiler.snapshot());
            first.await.map_err(|_| Error::Stopped)?
        }
    };
    runtime::spawn_local("places", places::run(in_force.clone(), compiling, own_machine));
    runtime::spawn_local("ledger", ledger::run(asked.ledger, Circle::new(Rc::clone(&link), Arc::clone(&state))));
    runtime::spawn_local("enlistments", enlist::run(asked.coordinator, Arc::from(&*state.node), Rc::clone(&link)));
    runtime::spawn_local("quotas", quota::run(asked.quotas, Arc::from(&*state.node), Rc::clone(&link)));
    runtime::spawn_local("report", report::run(records, link, state));
    if registered.is_some() {
        runtime::spawn_local("health", probe::run(in_force.clone(), (tell_health, listening), own_machine));
    }
    Ok((in_force, registered))
}
