// SPDX-License-Identifier: Apache-2.0
//! The whole data plane: ports, then who we are and what is configured, then cores. A thread called
//! `agent` owns this order and lives as long as the proxy; traffic never passes through it.

use crate::Users;
use crate::agent::{self, Supply};
use crate::config::{AccessLog, Config};
use crate::door::{Door, UNKNOWN_PORT};
use crate::error::Error;
use crate::mount::{self, Wanted};
use crate::record::{Book, CoreCounts, Outlets};
use crate::running::{Drains, Goodbye, Handed, Open, Outbound, Ports, Running, Watches};
use crate::spread::places;
use crate::worker::{self, InForce, Seat};
use crate::{admin, gates, log};
use byrnie_base::mailbox;
use byrnie_engine::Snapshot;
use byrnie_model::{Protocol, gateway};
use byrnie_net::listen::{self, Listener, Share};
use byrnie_net::machine::Meter;
use byrnie_net::otlp::{FLUSH_MAX, SPANS_WAITING_MAX};
use byrnie_net::runtime::{self, Core, Shutdown};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Decision records that may wait for the agent.
const RECORDS_WAITING_MAX: usize = 1024;
/// Batches of log lines that may wait for their writer.
const LOG_BATCHES_MAX: usize = 256;
/// How long a thread may take to end once it was told.
const THREAD_END_MAX: Duration = Duration::from_millis(500);
/// How often it is looked whether it has.
const GLANCE: Duration = Duration::from_millis(5);
/// Percent of successes of which a record is kept until the control plane says otherwise.
const SAMPLE_PERCENT: u8 = 1;

/// What the agent's thread is given.
struct Stage {
    config: Config,
    view: Option<agent::Kept>,
    bound: Vec<(Wanted, Vec<Listener>)>,
    /// Whether another proxy has served these listeners before.
    succeeds: bool,
    admin: (Listener, Shutdown),
    open: Open,
    drain: Arc<Drains>,
    handing: watch::Receiver<bool>,
    stop: Shutdown,
    goodbye: mpsc::UnboundedReceiver<Goodbye>,
    opened: oneshot::Sender<Result<Ports, Error>>,
}

/// Starts a proxy: takes its ports, then works on threads of its own.
///
/// # Errors
/// If a port is busy or the state directory can't be used.
pub fn start(config: Config) -> Result<Running, Error> {
    let view = state_of(&config)?;
    let cores = config.workers.max(1);
    let before = view.as_ref().and_then(|view| view.origin.inbound);
    let bind = |wanted: Wanted| Ok((wanted.clone(), mount::bind_again(&wanted, before, cores, config.strict_ports)?));
    let bound = mount::fixed(&config.mount).into_iter().map(bind).collect::<Result<Vec<_>, Error>>()?;
    let admin = bind_admin(&config)?;
    begin(config, view, (bound, admin), false)
}

/// Starts a proxy in place of one of the same workload that is about to [`Running::retire`]: it takes no ports, but goes on
/// with the listeners of that one. Both may accept from them for a while.
///
/// # Errors
/// If one of the listeners is unknown here, or the state directory can't be used.
pub fn succeed(config: Config, listeners: Vec<Handed>) -> Result<Running, Error> {
    let view = state_of(&config)?;
    let mut bound = mount::handed(listeners)?;
    let admin = bound.iter().position(|(wanted, _)| wanted.door == Door::Admin).map(|at| bound.remove(at));
    let admin = match admin.and_then(|(_, mut sockets)| sockets.pop()) {
        Some(admin) => admin,
        None => bind_admin(&config)?,
    };
    begin(config, view, (bound, admin), true)
}

/// The state directory, and the view that it may hold.
fn state_of(config: &Config) -> Result<Option<agent::Kept>, Error> {
    std::fs::create_dir_all(&config.state_dir)
        .map_err(|cause| Error::State { path: config.state_dir.clone(), cause })?;
    Ok(agent::kept(config))
}

fn bind_admin(config: &Config) -> Result<Listener, Error> {
    let ports = if config.strict_ports { listen::Ports::Strict } else { listen::Ports::Next };
    listen::bind_or_next(config.admin, Share::Alone, ports).map_err(|error| Error::Port {
        what: "admin",
        address: error.address,
        cause: error.error,
    })
}

fn begin(
    config: Config,
    view: Option<agent::Kept>,
    (bound, admin): (Vec<(Wanted, Vec<Listener>)>, Listener),
    succeeds: bool,
) -> Result<Running, Error> {
    let open = Open::default();
    open.add(Door::Admin, std::slice::from_ref(&admin));
    let (handing, handed) = watch::channel(false);
    let (close_admin, admin_open) = runtime::shutdown();
    let drain = Arc::<Drains>::default();
    let (trigger, stop) = runtime::shutdown();
    let (goodbye, goodbyes) = mpsc::unbounded_channel();
    let (opened, opening) = oneshot::channel();
    let stage = Stage {
        config,
        view,
        bound,
        succeeds,
        admin: (admin, admin_open),
        open: open.clone(),
        drain: Arc::clone(&drain),
        handing: handed,
        stop,
        goodbye: goodbyes,
        opened,
    };
    let agent = runtime::spawn_core("byrnie-agent", None, move || run(stage)).map_err(|_| Error::Stopped)?;
    Ok(Running {
        opened: opening,
        ports: None,
        drain,
        left: AtomicBool::new(false),
        goodbye,
        stop: trigger,
        agent,
        open,
        handing,
        admin: close_admin,
    })
}

/// The agent's thread: everything in its order.
async fn run(stage: Stage) {
    let Stage { config, view, bound, succeeds, admin, open: listeners, drain, handing, mut stop, goodbye, opened } =
        stage;
    let (records, kept) = mailbox::mailbox(RECORDS_WAITING_MAX);
    let (spans, gathered) = mailbox::mailbox(SPANS_WAITING_MAX);
    let (lines, written) = mailbox::mailbox(LOG_BATCHES_MAX);
    let log = (!matches!(config.access_log, AccessLog::Off)).then_some(lines);
    let outlets = Outlets {
        book: Arc::new(Book::default()),
        records,
        spans,
        log,
        sample: Arc::new(AtomicU8::new(SAMPLE_PERCENT)),
        proxy: config.name.clone(),
    };
    let writer = log::start(&config.access_log, written);
    let counts: Arc<[Arc<CoreCounts>]> = (0..config.workers.max(1)).map(|_| Arc::default()).collect();
    let admin_address = admin.0.local_addr();
    let state = Arc::new(agent::State::new(&config, &outlets, &counts, (Arc::clone(&drain), handing)));
    let (state_of_admin, token) = (Arc::clone(&state), config.admin_token.clone());
    let mut serve_admin = Some(move || admin::start(admin.0, state_of_admin, token, admin.1));
    // Until the configuration is there, that of the earlier proxy answers.
    let _admin = serve_admin.take_if(|_| !succeeds).map(|serve| serve());
    let inbound = bound.iter().find(|(wanted, _)| wanted.door == Door::Inbound).map(|(_, l)| l[0].local_addr());
    let own = agent::Own { inbound, admin: admin_address };
    let supplied = tokio::select! {
        supplied = agent::begin(&config, (own, view), Arc::clone(&state), (kept, goodbye), stop.clone()) => supplied,
        () = stop.wait() => return,
    };
    let mut registered = None;
    let result = supplied.and_then(|mut supply| {
        registered = supply.registered.take();
        let cores = Cores { supply: &supply, outlets: &outlets, counts: &counts, state: &state, listeners, succeeds };
        open(&config, bound, cores, (drain.watches(), stop.clone()))
    });
    let (ports, cores) = match result {
        Ok((ports, cores)) => (Ports { admin: admin_address, ..ports }, cores),
        Err(error) => {
            // Whoever started it says so, once; if nobody waits any more, the log is all that is left.
            if let Err(Err(error)) = opened.send(Err(error)) {
                tracing::error!(code = error.code(), %error, next = error.next(), "proxy cannot start");
            }
            return;
        }
    };
    state.serve(&ports);
    let export = agent::export(&config, gathered, &state, admin::metrics);
    let _admin = serve_admin.map(|serve| serve());
    tracing::info!(name = %config.name, identity = %config.identity, inbound = ?ports.inbound, edge = ?ports.edge, "proxy serves");
    let _ = opened.send(Ok(ports));
    stop.wait().await;
    if let Some(registered) = registered {
        registered.ended().await;
    }
    // The last lines are written before anybody is told that the proxy has stopped.
    ended(&cores).await;
    drop(outlets);
    ended(writer.as_slice()).await;
    // With the cores, those who make spans are gone.
    if let Some(export) = export {
        let _ = runtime::timeout(FLUSH_MAX, export.ended()).await;
    }
}

/// Waits until threads that were told to stop have ended, for a moment at most.
async fn ended(threads: &[Core]) {
    let all = async {
        while !threads.iter().all(Core::is_finished) {
            runtime::sleep(GLANCE).await;
        }
    };
    // One that hangs ends with the process.
    let _ = runtime::timeout(THREAD_END_MAX, all).await;
}

/// What cores are made of.
struct Cores<'a> {
    supply: &'a Supply,
    outlets: &'a Outlets,
    counts: &'a [Arc<CoreCounts>],
    state: &'a Arc<agent::State>,
    /// Filled in with what is open.
    listeners: Open,
    succeeds: bool,
}

/// Starts the cores and gives them their listeners.
fn open(
    config: &Config,
    mut bound: Vec<(Wanted, Vec<Listener>)>,
    Cores { supply, outlets, counts, state, listeners, succeeds }: Cores<'_>,
    (drain, stop): (Watches, Shutdown),
) -> Result<(Ports, Vec<Core>), Error> {
    let in_force: watch::Receiver<InForce> = supply.in_force.clone();
    let snapshot = Arc::clone(&in_force.borrow().snapshot);
    if !succeeds {
        for wanted in mount::by_configuration(&config.mount, &snapshot) {
            let sockets = mount::bind(&wanted, counts.len(), false)?;
            let beside = mount::beside(&wanted, sockets[0].local_addr());
            bound.push((wanted, sockets));
            if let Some(beside) = beside {
                match mount::bind(&beside, counts.len(), true) {
                    Ok(sockets) => bound.push((beside, sockets)),
                    // Most services take none.
                    Err(error) => tracing::debug!(door = %beside.door, %error, "no datagrams are taken there"),
                }
            }
        }
    }
    let left = gates_of(&mut bound);
    let ports = ports(&bound, &snapshot);
    let mut cores = Vec::new();
    let mut doors = Vec::new();
    let meter = Meter::new();
    for (index, (counts, place)) in counts.iter().zip(places(counts.len())).enumerate() {
        let (door, entrances) = mpsc::unbounded_channel();
        doors.push(door);
        let seat = Seat {
            seed: supply.seed.wrapping_add(index as u64),
            lines: supply.lines.clone(),
            hop: config.hop,
            own_machine: ports.inbound.is_some_and(|address| address.ip().is_loopback()),
            in_force: in_force.clone(),
            place,
            entrances,
            drain: drain.clone(),
            stop: stop.clone(),
            outlets: outlets.clone(),
            counts: Arc::clone(counts),
            meter: meter.clone(),
        };
        let name = format!("byrnie-core-{index}");
        cores.push(runtime::spawn_core(&name, None, move || worker::run(seat)).map_err(|_| Error::Stopped)?);
    }
    for (wanted, sockets) in bound {
        listeners.add(wanted.door.clone(), &sockets);
        gates::give(&doors, &wanted.door, sockets, &stop);
    }
    if let Some(own) = ports.edge {
        let attend = gates::attend(own, doors, (listeners, left), in_force, Arc::clone(state), stop);
        runtime::spawn_local("gates", attend);
    }
    Ok((ports, cores))
}

/// Takes out the ports of gateways that an earlier proxy had open.
fn gates_of(bound: &mut Vec<(Wanted, Vec<Listener>)>) -> BTreeMap<gateway::Port, Vec<Listener>> {
    let gates = bound.extract_if(.., |(wanted, _)| matches!(wanted.door, Door::Gate(_)));
    let ports = gates.filter_map(|(wanted, sockets)| match wanted.door {
        Door::Gate(port) => Some((port, sockets)),
        _ => None,
    });
    ports.collect()
}

fn ports(bound: &[(Wanted, Vec<Listener>)], snapshot: &Snapshot) -> Ports {
    let at = |listeners: &[Listener]| listeners[0].local_addr();
    let find = |door: &Door| bound.iter().find(|(wanted, _)| wanted.door == *door).map(|(_, listeners)| at(listeners));
    let outbound = bound.iter().filter_map(|(wanted, listeners)| match &wanted.door {
        Door::Service(service, port) => {
            let protocol =
                snapshot.ports(service).find(|known| known.0 == *port).map_or(Protocol::Undeclared, |known| known.1);
            Some(Outbound { service: service.clone(), port: *port, protocol, address: at(listeners) })
        }
        Door::Datagrams(service, port) => {
            let (service, address) = (service.clone(), at(listeners));
            Some(Outbound { service, port: *port, protocol: Protocol::Udp, address })
        }
        Door::Main(service) => {
            let (service, address) = (service.clone(), at(listeners));
            Some(Outbound { service, port: UNKNOWN_PORT, protocol: Protocol::Undeclared, address })
        }
        Door::MainDatagrams(_) | Door::Forward(_) | Door::Inbound | Door::Admin | Door::Edge | Door::Gate(_) => None,
    });
    Ports {
        inbound: find(&Door::Inbound),
        admin: std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
        outbound: outbound.collect(),
        forward: find(&Door::Forward(Users::Any)).or_else(|| find(&Door::Forward(Users::Own))),
        edge: find(&Door::Edge),
    }
}
