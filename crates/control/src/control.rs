// SPDX-License-Identifier: Apache-2.0
//! The screen of the control plane: starts the roles over one [`State`], in the order in which they
//! need each other. `byrnie up` calls it.

#[cfg(test)]
mod tests;

use crate::access::Operator;
use crate::ca::{Authority, issue};
use crate::clock;
use crate::console::{self, Aside, Assets, Console};
use crate::ledger::Keeper;
use crate::ledger::neighbours::Neighbours;
use crate::port::{Collect, Port};
use crate::registry::{Registry, lease};
use crate::transactions::{self, Caller, Coordinator};
use crate::{State, conditions, export, ingest};
use byrnie_base::{Clock, Text, Timestamp};
use byrnie_model::Identity;
use byrnie_net::listen::{self, Listener, Ports, Share};
use byrnie_net::runtime::{self, Shutdown, Task, Trigger};
use byrnie_net::tls::ca::Name;
use byrnie_net::tls::{self, Credentials, ServerTls};
use byrnie_net::{grpc, serve};
use byrnie_store::{Journal, Ledger, Store};
use byrnie_xds::proto::byrnie::v1::ReportResponse;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What the control plane is started with.
pub struct Config {
    /// Where everything is kept.
    pub store: Arc<dyn Store>,
    /// Where the histories of transactions are kept.
    pub journal: Arc<dyn Journal>,
    /// Where idempotency keys are kept.
    pub ledger: Arc<dyn Ledger>,
    /// Where its keys are kept (files of mode 0600).
    pub data_dir: PathBuf,
    /// The domain of every identity. It can't change once a mesh has an authority.
    pub trust_domain: Text,
    /// Where the console listens.
    pub console: SocketAddr,
    /// Where proxies connect.
    pub control: SocketAddr,
    /// Refuse to start when a port is busy, instead of taking the next.
    pub strict_ports: bool,
    /// Names by which proxies reach it, beside `localhost`, `127.0.0.1` and `::1`.
    pub names: Vec<String>,
    /// How long a workload's certificate holds.
    pub leaf_lifetime: Duration,
    /// What lets operators in at the console; at least 16 bytes.
    pub operator_token: String,
    /// The dashboard.
    pub assets: Assets,
}

/// The listening sockets of a control plane. They outlive it where somebody else holds them too.
#[derive(Debug)]
pub struct Sockets {
    /// Where proxies connect.
    pub control: Listener,
    /// Where the console listens.
    pub console: Listener,
    /// Where the coordinator answers its own proxy: by HTTP, and by gRPC.
    pub transactions: [Listener; 2],
}

impl Sockets {
    /// New ones.
    fn bind(control: SocketAddr, console: SocketAddr, strict: bool) -> Result<Self, listen::Error> {
        let ports = if strict { Ports::Strict } else { Ports::Next };
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Ok(Self {
            control: listen::bind_or_next(control, Share::Alone, ports)?,
            console: listen::bind_or_next(console, Share::Alone, ports)?,
            transactions: [listen::bind(any, Share::Alone)?, listen::bind(any, Share::Alone)?],
        })
    }

    /// The same again.
    #[must_use]
    pub fn share(&self) -> Self {
        Self {
            control: self.control.share(),
            console: self.console.share(),
            transactions: self.transactions.each_ref().map(Listener::share),
        }
    }
}

/// The service account of the control plane, in the system's namespace.
pub const ACCOUNT: &str = "control";

/// How long a workload's certificate holds unless configured.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// How often the control plane looks whether its own certificate is due: a clock that jumps is noticed
/// within this time.
const RENEWAL_CHECK: Duration = Duration::from_secs(5);

/// Successes of a hundred whose records proxies send; failures are all sent.
const SAMPLE_PERCENT: u32 = 5;

/// How often the observer drops what is too old.
const FORGET_PERIOD: Duration = Duration::from_secs(60);

/// A control plane that runs. Dropping it stops it.
pub struct Running {
    /// What its roles share.
    pub state: Arc<State>,
    /// Signs certificates.
    pub authority: Arc<Authority>,
    /// Where proxies connect.
    pub control: SocketAddr,
    /// Where the console listens.
    pub console: SocketAddr,
    /// Coordinates transactions, once it is connected.
    pub transactions: Arc<Coordinator>,
    /// Where the coordinator answers its own proxy: by HTTP, and by gRPC.
    pub transactions_doors: [SocketAddr; 2],
    /// Where it listens; whoever shares them keeps them open.
    pub sockets: Sockets,
    registry: Arc<Registry>,
    trigger: Trigger,
    tasks: Vec<Task>,
}

impl Running {
    /// Stops every role: streams get a few seconds to end.
    pub async fn stop(mut self) {
        // First, so that the end of a stream isn't taken for the end of its workload.
        self.registry.close();
        self.trigger.fire();
        self.transactions.leave().await;
        for task in std::mem::take(&mut self.tasks) {
            task.ended().await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.registry.close();
    }
}

/// Why a control plane doesn't start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store can't be read or written.
    #[error("the store does not answer: {0}")]
    Store(#[from] byrnie_store::Error),
    /// The authority's file can't be read or written, or its own certificate not be issued.
    #[error(transparent)]
    Authority(#[from] issue::Error),
    /// Its own certificate can't be used.
    #[error("the control plane's own certificate: {0}")]
    Tls(#[from] tls::Error),
    /// A port is busy.
    #[error(transparent)]
    Listen(#[from] listen::Error),
}

/// Starts every role on the calling reactor. Returns once all of them answer. The order matters: nobody
/// is served before all that is stored was read, as half a configuration is worse than none.
///
/// # Errors
/// If the store can't be read, a key can't be read or written, or a port is busy.
pub async fn start(config: Config) -> Result<Running, Error> {
    resume(config, None).await
}

/// The same at the sockets of one that has stopped, if there was one.
///
/// # Errors
/// As [`start`].
pub async fn resume(config: Config, sockets: Option<Sockets>) -> Result<Running, Error> {
    let clock = Arc::new(*runtime::clock());
    let now = clock.now().wall;
    let authority = Authority::open(&config.data_dir, &config.trust_domain, config.leaf_lifetime, now)?;
    let authority = Arc::new(authority);
    let state = Arc::new(State::new(config.store, clock, config.trust_domain));
    let registry = Arc::new(Registry::new());
    let (trigger, shutdown) = runtime::shutdown();
    let watch = ingest::list(&state).await?;
    let names = own_names(&config.names);
    let credentials = authority.own(&state, ACCOUNT, &names).await?;
    let server = tls::server_optional_client(&credentials, &[tls::ALPN_H2])?;
    let bind = || Sockets::bind(config.control, config.console, config.strict_ports);
    let sockets = sockets.map_or_else(bind, Ok)?;
    let Sockets { control, console, transactions: doors } = sockets.share();
    let operator = Operator::new(config.operator_token, config.names);
    let seed = tls::secret::random()?;
    let coordinator = Coordinator::new(Arc::clone(&state), config.journal, number(&seed), shutdown.clone());
    let aside = Arc::new(aside(&coordinator));
    let scrape = scrape(&state, &aside);
    let answer = console::serve(Console::new(Arc::clone(&state), operator, config.assets).beside(aside));
    let keeper = Arc::new(Keeper::new(config.ledger));
    let port = Port {
        state: Arc::clone(&state),
        authority: Arc::clone(&authority),
        registry: Arc::clone(&registry),
        collect: collect(&state),
        keeper: Arc::clone(&keeper),
        limiter: Arc::default(),
        coordinator: Arc::clone(&coordinator),
        shutdown: shutdown.clone(),
    };
    let neighbours = Neighbours {
        state: Arc::clone(&state),
        authority: Arc::clone(&authority),
        keeper: Arc::clone(&keeper),
        names: names.clone(),
    };
    let neighbours = neighbours.run(config.control.ip(), shutdown.clone());
    let renewal =
        Renewal { state: Arc::clone(&state), authority: Arc::clone(&authority), names, server: server.clone() };
    let mut tasks = vec![
        runtime::spawn("ingest", until(shutdown.clone(), ingest::follow(Arc::clone(&state), watch))),
        runtime::spawn("registry grace", until(shutdown.clone(), grace(Arc::clone(&state)))),
        runtime::spawn("own certificate", until(shutdown.clone(), renewal.run(credentials))),
        runtime::spawn("ledger", until(shutdown.clone(), sweep(keeper, Arc::clone(&state)))),
        runtime::spawn("neighbours", until(shutdown.clone(), neighbours)),
        runtime::spawn("conditions", until(shutdown.clone(), conditions::follow(Arc::clone(&state)))),
        runtime::spawn("clock", until(shutdown.clone(), clock::watch())),
        runtime::spawn("observer", until(shutdown.clone(), forget(Arc::clone(&state)))),
        runtime::spawn("console", serve::serve(console, answer, shutdown.clone())),
        runtime::spawn("control port", grpc::serve(control, server, Arc::new(port), shutdown.clone())),
    ];
    tasks.extend(doors.map(|door| {
        let served = serve::serve_own_user(door, by_workload(&coordinator), shutdown.clone());
        runtime::spawn("transactions door", served)
    }));
    tasks.push(runtime::spawn("otlp", export::run(Arc::clone(&state), scrape, shutdown)));
    Ok(Running {
        state,
        authority,
        control: sockets.control.local_addr(),
        console: sockets.console.local_addr(),
        transactions: coordinator,
        transactions_doors: sockets.transactions.each_ref().map(Listener::local_addr),
        sockets,
        registry,
        trigger,
        tasks,
    })
}

/// Answers what the operator asks of transactions; the console has seen the token.
fn by_operator(coordinator: &Arc<Coordinator>) -> serve::Answer {
    let coordinator = Arc::clone(coordinator);
    Arc::new(move |request| {
        let coordinator = Arc::clone(&coordinator);
        Box::pin(async move { transactions::answer(&coordinator, Some(Caller::Operator), &request).await })
    })
}

/// Answers what workloads ask of transactions, by the identity that the coordinator's own proxy has proven.
fn by_workload(coordinator: &Arc<Coordinator>) -> serve::Answer {
    let coordinator = Arc::clone(coordinator);
    Arc::new(move |request| {
        let coordinator = Arc::clone(&coordinator);
        Box::pin(async move {
            let proven = request.header("forwarded-client-identity").and_then(|uri| Identity::parse(uri).ok());
            transactions::answer(&coordinator, proven.map(Caller::Workload), &request).await
        })
    })
}

/// What the console answers of transactions.
fn aside(coordinator: &Arc<Coordinator>) -> Aside {
    let (counted, judged) = (Arc::clone(coordinator), Arc::clone(coordinator));
    Aside {
        answer: by_operator(coordinator),
        metrics: Arc::new(move || counted.metrics()),
        warnings: Arc::new(move || judged.warnings()),
    }
}

/// What `/metrics` shows.
fn scrape(state: &Arc<State>, aside: &Arc<Aside>) -> Arc<dyn Fn() -> String + Send + Sync> {
    let (state, aside) = (Arc::clone(state), Arc::clone(aside));
    Arc::new(move || console::metrics(&state, Some(&aside)))
}

fn number(bytes: &[u8; 32]) -> u64 {
    bytes.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Hands each report to the observer.
fn collect(state: &Arc<State>) -> Collect {
    let state = Arc::clone(state);
    Arc::new(move |node, report| {
        state.collect(node, report);
        ReportResponse { sample_percent: SAMPLE_PERCENT }
    })
}

/// Lets the observer drop what is too old to be asked for.
async fn forget(state: Arc<State>) {
    loop {
        runtime::sleep(FORGET_PERIOD).await;
        let now = state.now().mono;
        state.observe(|observer| observer.forget(now));
    }
}

/// Runs `task` until it ends or it's time to stop.
async fn until(mut shutdown: Shutdown, task: impl Future<Output = ()>) {
    tokio::select! {
        () = task => {}
        () = shutdown.wait() => {}
    }
}

async fn sweep(keeper: Arc<Keeper>, state: Arc<State>) {
    keeper.sweep(&state).await;
}

async fn grace(state: Arc<State>) {
    lease::grace(&state).await;
}

/// Names by which clients without SPIFFE may know the control plane.
fn own_names(configured: &[String]) -> Vec<Name> {
    let built_in = ["localhost", "127.0.0.1", "::1"].into_iter().map(str::to_owned);
    let name = |name: String| name.parse().map_or_else(|_| Name::Dns(name), Name::Ip);
    built_in.chain(configured.iter().cloned()).map(name).collect()
}

/// Whether a certificate of the control plane's own is to be renewed.
pub(crate) fn is_due(credentials: &Credentials, now: Timestamp) -> bool {
    let (from, to) = (credentials.not_before().as_millis(), credentials.not_after().as_millis());
    let half = from + to.saturating_sub(from) / 2;
    // Before its beginning as well: the clock was set back.
    !(from..half).contains(&now.as_millis())
}

/// Keeps the control plane's own certificate young.
struct Renewal {
    state: Arc<State>,
    authority: Arc<Authority>,
    names: Vec<Name>,
    server: ServerTls,
}

impl Renewal {
    async fn run(self, mut credentials: Credentials) {
        loop {
            runtime::sleep(RENEWAL_CHECK).await;
            if !is_due(&credentials, self.state.now().wall) {
                continue;
            }
            match self.renew().await {
                Ok(newer) => credentials = newer,
                Err(error) => {
                    tracing::error!(%error, "the control plane's certificate could not be renewed; it tries again")
                }
            }
        }
    }

    async fn renew(&self) -> Result<Credentials, Error> {
        let credentials = self.authority.own(&self.state, ACCOUNT, &self.names).await?;
        self.server.renew(&tls::server_optional_client(&credentials, &[tls::ALPN_H2])?);
        Ok(credentials)
    }
}
