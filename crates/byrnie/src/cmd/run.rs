// SPDX-License-Identifier: Apache-2.0
//! `byrnie run`: an ordinary program becomes a workload. This process is the program's sidecar and its
//! parent: the sidecar outlives the program until its last connection has drained.

use crate::failure::{Exit, Failure};
use crate::globals::Globals;
use crate::handover::{self, Charge, Post};
use crate::join::{self, Console, Place};
use crate::mesh;
use crate::supervise::{self, Process, Signal, Signals};
use anyhow::{Context, Result};
use byrnie_base::Text;
use byrnie_model::policy::HealthCheck;
use byrnie_model::policy::health::Check;
use byrnie_model::service::{Health, Locality};
use byrnie_model::workload::WorkloadPort;
use byrnie_model::{Identity, Key, Kind, Labels, Protocol, Resource, Revision, ServiceRef, Spec, Workload, yaml};
use byrnie_net::{machine, runtime};
use byrnie_proxy::{AccessLog, Config, Control, Mount, Outbound, Ports, Sidecar, Source, Users};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;

/// How long the program may take to listen on its port before a warning says that it doesn't.
const LISTEN_PATIENCE: Duration = Duration::from_secs(10);
/// How often its port is tried meanwhile: nobody calls it before it's known to listen.
const LISTEN_PROBE: Duration = Duration::from_millis(10);
/// How often later, and how long a try may take.
const LISTEN_PROBE_MAX: Duration = Duration::from_millis(250);
/// How long the sidecar waits for running exchanges when the program has ended.
const DRAIN: Duration = Duration::from_secs(10);
/// How long what callers have under way at the program may take to end before it's told to end itself.
const LEAVE: Duration = Duration::from_secs(5);
/// How long the program may take to end after a signal before it's killed.
const END_PATIENCE: Duration = Duration::from_secs(10);
/// Pause before the first restart; it doubles from restart to restart.
const RESTART_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause before a restart.
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(30);
/// A program that ran for so long is taken to be well: its next restart is quick again.
const WELL_AFTER: Duration = Duration::from_secs(60);

/// Arguments of `run`.
#[derive(clap::Args, Debug)]
#[command(
    about = "Run a program as a workload of the mesh, with a sidecar of its own",
    after_help = "Examples:
  byrnie run --name hello --port 3000 -- python3 -m http.server 3000
  byrnie run --name web --port 8080 --uses cart,payments --restart on-failure -- node server.js
  byrnie run --name nightly --uses payments -- ./report.sh
  byrnie run --name db --port 5432 --protocol tcp --labels tier=data -- postgres -D ./data
  byrnie run --name dns --port 5353/udp -- dnsmasq -k -p 5353"
)]
pub(crate) struct Args {
    /// Name of the service that the program is an instance of
    #[arg(long)]
    name: String,
    /// Service account (the name unless given): who the program is
    #[arg(long, value_name = "SA")]
    service_account: Option<String>,
    /// Port on which the program listens, if it's called; repeat as PORT/PROTOCOL for further ones
    #[arg(long = "port", value_name = "PORT[/PROTOCOL]")]
    ports: Vec<String>,
    /// What the program speaks on its first port; unless given, told from what comes
    #[arg(long, value_parser = ["http", "http2", "grpc", "tcp", "udp"])]
    protocol: Option<String>,
    /// Labels of this instance, beside app=NAME
    #[arg(long, value_delimiter = ',', value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Ask the program by GET of this path whether it is well; while it says no, callers go to other instances
    #[arg(long, value_name = "PATH")]
    health: Option<String>,
    /// Where it runs
    #[arg(long, value_name = "REGION/ZONE", default_value = "")]
    locality: String,
    /// Services that the program calls; each gets a BYRNIE_<SVC>_URL and a BYRNIE_<SVC>_<NS>_URL: http://IP:PORT, or
    /// tcp://IP:PORT and udp://IP:PORT for one that speaks TCP or UDP
    #[arg(long, value_delimiter = ',', value_name = "SVC[.NS]")]
    uses: Vec<String>,
    #[command(flatten)]
    sidecar: SidecarArgs,
    /// Whether to start the program again when it fails
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    restart: Restart,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// What the sidecar does beside.
#[derive(clap::Args, Debug)]
struct SidecarArgs {
    /// Also give the program HTTP_PROXY, so that http://SVC/ works
    #[arg(long)]
    http_proxy: bool,
    /// Threads of the sidecar that move traffic
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=mesh::WORKERS_MAX))]
    workers: u16,
    /// Write the access log, one JSON object a line, to this file (`-`: standard output)
    #[arg(long, value_name = "FILE")]
    access_log: Option<PathBuf>,
}

/// When a program is started again.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Restart {
    /// Never
    #[default]
    No,
    /// When it ends with a status other than 0, or by a signal
    OnFailure,
}

/// Runs the command.
pub(crate) fn run(args: Args, globals: &Globals) -> Result<Exit> {
    crate::log::start(globals);
    runtime::block_on(serve(args, globals)).context("cannot start the runtime")?
}

async fn serve(args: Args, globals: &Globals) -> Result<Exit> {
    let mut signals = Signals::listen()?;
    let console = Console::find_soon(globals).await?;
    let namespace = globals.namespace().to_owned();
    let account = args.service_account.clone().unwrap_or_else(|| args.name.clone());
    let place = console.place(globals, &args.name, (&namespace, &account)).await?;
    let identity = place.grant.identity.clone();
    let instance = place.instance.clone();
    let (listens, listening) = watch::channel(false);
    let config = config(&args, globals, (&place, listening))?;
    let uses = match &config.mount {
        Mount::Sidecar(sidecar) => sidecar.workload.uses.clone(),
        Mount::Gateway(_) => Vec::new(),
    };
    let charge = Charge::of(&config);
    let mut proxy = byrnie_proxy::start(config).map_err(crate::failure::of_proxy)?;
    let ports = tokio::select! {
        ports = proxy.ready() => ports.map_err(crate::failure::of_proxy)?,
        _ = signals.ended() => return Ok(Exit::Problem),
    };
    let proxy = Post::new(globals, &instance, charge, proxy);
    handover::attend(&place.state_dir, vec![proxy.clone()], None);
    announce(&args, globals, &identity, &ports);
    runtime::spawn("settle", machine::settle());
    for service in &uses {
        let outbound = ports.outbound.iter().find(|outbound| outbound.service == *service);
        warn_if_denied(&console, globals, (&args.name, &instance), (service, outbound)).await;
    }
    let exit = supervise_program(&args, (&proxy, &variables(&ports, &namespace).0, &listens), &mut signals).await?;
    tokio::select! {
        () = proxy.drain(DRAIN) => {}
        _ = signals.ended() => {}
    }
    place.leave().await;
    Ok(Exit::Program(u8::try_from(exit.status()).unwrap_or(1)))
}

/// A check of the program by GET, on its first port.
fn check_of(path: &str, ports: &[WorkloadPort]) -> Result<HealthCheck, Failure> {
    let check = Check::Http(path.into());
    check.judge().map_err(|wrong| Failure::usage(format!("--health {wrong}")))?;
    let first = ports.first().filter(|port| port.protocol.is_http());
    let first = first.ok_or_else(|| Failure::usage("--health asks by HTTP, which the program does not speak"))?;
    Ok(HealthCheck::new(check, Some(first.port)))
}

/// `listening`: whether the program does, if it has a port.
fn config(args: &Args, globals: &Globals, (place, listening): (&Place, watch::Receiver<bool>)) -> Result<Config> {
    let Place { grant, instance, state_dir, .. } = place;
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let mut labels = labels(&args.labels)?;
    labels.insert("app".into(), args.name.as_str().into());
    let (region, zone) = args.locality.split_once('/').unwrap_or((&args.locality, ""));
    let ports = ports(&args.ports, args.protocol.as_deref())?;
    let health = args.health.as_deref().map(|path| check_of(path, &ports)).transpose()?;
    let workload = Workload {
        identity: grant.identity.clone(),
        address: loopback,
        ports,
        inbound: None,
        admin: None,
        uses: args.uses.iter().map(|word| ServiceRef::from_word(word, globals.namespace())).collect(),
        locality: Locality { region: region.into(), zone: zone.into() },
        weight: 1,
        health: Health::Healthy,
        check: health,
    };
    check(globals, instance, &workload, &labels)?;
    let any = SocketAddr::new(loopback, 0);
    let forward = args.sidecar.http_proxy.then_some(any);
    // A program that only calls is no service.
    let service = if workload.ports.is_empty() { Text::default() } else { args.name.as_str().into() };
    let listening = (!workload.ports.is_empty()).then_some(listening);
    let sidecar = Sidecar { workload, labels, service, inbound: any, forward, forward_for: Users::Any, listening };
    Ok(Config {
        namespace: globals.namespace().into(),
        name: instance.as_str().into(),
        identity: grant.identity.clone(),
        mount: Mount::Sidecar(Box::new(sidecar)),
        source: Source::Control(Box::new(Control {
            address: join::address(globals, grant.control),
            roots_pem: grant.roots_pem.clone(),
            identity: Identity::new(grant.identity.trust_domain(), Identity::SYSTEM_NAMESPACE, "control")?,
            tokens: Some(join::tokens(globals, &grant.identity, grant.token.clone())),
            patience: Duration::from_secs(10),
            keep_view: true,
        })),
        state_dir: state_dir.clone(),
        admin: any,
        admin_token: globals.operator_token().ok().map(Text::from),
        strict_ports: false,
        workers: args.sidecar.workers.into(),
        access_log: match args.sidecar.access_log.as_deref() {
            None => AccessLog::Off,
            Some(path) if path.as_os_str() == "-" => AccessLog::Stdout,
            Some(path) => AccessLog::File(path.to_owned()),
        },
        hop: mesh::hop()?,
    })
}

/// Refuses flags that make no valid workload, in the words of configuration files.
fn check(globals: &Globals, instance: &str, workload: &Workload, labels: &Labels) -> Result<(), Failure> {
    let resource = Resource {
        key: Key::new(Kind::Workload, globals.namespace(), instance),
        revision: Revision(0),
        created: Revision(0),
        labels: labels.clone(),
        origin: None,
        spec: Spec::Workload(Box::new(workload.clone())),
    };
    let defaults = yaml::Defaults {
        namespace: globals.namespace().into(),
        trust_domain: workload.identity.trust_domain().clone(),
    };
    yaml::from_json(&yaml::to_json(&resource), &defaults).map(drop).map_err(|diagnostics| {
        let first = diagnostics.first().map(|first| format!("{}: {}", first.path, first.message));
        Failure::usage(format!("these flags make no valid workload: {}", first.unwrap_or_default()))
            .next("correct --name, --labels, --locality or --uses; see `byrnie run --help`")
    })
}

fn labels(words: &[String]) -> Result<Labels, Failure> {
    let mut labels = Labels::new();
    for word in words {
        let (key, value) =
            word.split_once('=').ok_or_else(|| Failure::usage(format!("--labels: `{word}` is not KEY=VALUE")))?;
        labels.insert(key.into(), value.into());
    }
    Ok(labels)
}

/// The program's ports. The first is named after the protocol of `--protocol`; a further one after its own. One that nobody
/// declared has the name of HTTP, which most are.
fn ports(words: &[String], protocol: Option<&str>) -> Result<Vec<WorkloadPort>, Failure> {
    let mut ports: Vec<WorkloadPort> = Vec::new();
    for word in words {
        let (number, protocol) = word.split_once('/').map_or((word.as_str(), protocol), |(n, p)| (n, Some(p)));
        let port = number.parse().ok().filter(|&n: &u16| n > 0);
        let port = port.ok_or_else(|| Failure::usage(format!("--port: `{word}` is not a port number")))?;
        let known = [Protocol::Http1, Protocol::Http2, Protocol::Grpc, Protocol::Tcp, Protocol::Udp];
        let protocol = match protocol {
            None => Protocol::Undeclared,
            Some(said) => known
                .into_iter()
                .find(|p| p.name() == said)
                .ok_or_else(|| Failure::usage(format!("--port: `{said}` is not http, http2, grpc, tcp or udp")))?,
        };
        let name = protocol.for_request(false).name();
        if ports.iter().any(|p| p.port == port || p.name == name) {
            return Err(Failure::usage(format!("--port: `{word}` repeats a number or a protocol")));
        }
        ports.push(WorkloadPort { name: name.into(), port, protocol });
    }
    Ok(ports)
}

/// The program's ports, which were found valid before.
fn ports_of(args: &Args) -> Vec<WorkloadPort> {
    ports(&args.ports, args.protocol.as_deref()).unwrap_or_default()
}

fn announce(args: &Args, globals: &Globals, identity: &Identity, ports: &Ports) {
    if globals.quiet {
        return;
    }
    let edge = crate::join::port(globals, "edge");
    let at = match (globals.namespace(), edge) {
        (_, None) => String::new(),
        _ if args.ports.is_empty() => String::new(),
        // No request gets there.
        _ if ports_of(args).first().is_some_and(|port| port.protocol == Protocol::Udp) => String::new(),
        ("default", Some(port)) => format!("   reachable at http://{}.mesh.localhost:{port}", args.name),
        (namespace, Some(port)) => format!("   reachable at http://{}.{namespace}.mesh.localhost:{port}", args.name),
    };
    eprintln!("  ✓ {} joined as {identity}{at}", args.name);
    let (variables, told) = variables(ports, globals.namespace());
    for (name, value) in variables {
        eprintln!("  ✓ {name}={value}");
    }
    for line in told {
        eprintln!("  ! {line}");
    }
}

/// What the program finds in its environment, and what is to be said of it. A service has a name with its namespace, and
/// one without; where two would have the same, the latter means a service of the program's own namespace.
fn variables(ports: &Ports, namespace: &str) -> (Vec<(String, String)>, Vec<String>) {
    let mut named: BTreeMap<String, Vec<(u8, &Outbound)>> = BTreeMap::new();
    for outbound in &ports.outbound {
        let ServiceRef { namespace: at, name } = &outbound.service;
        // The service's first port has the plain name; the others carry their number.
        let first = ports.outbound.iter().find(|o| o.service == outbound.service).map(|o| o.port);
        let number = if first == Some(outbound.port) { String::new() } else { format!("_{}", outbound.port) };
        let variable =
            |word: &str| format!("BYRNIE_{}{number}_URL", word.to_ascii_uppercase().replace(['-', '.'], "_"));
        let short = if **at == *namespace { 0 } else { 2 };
        named.entry(variable(name)).or_default().push((short, outbound));
        named.entry(variable(&format!("{name}.{at}"))).or_default().push((1, outbound));
    }
    let (mut variables, mut told) = (Vec::new(), Vec::new());
    for (name, mut meant) in named {
        meant.sort_by_key(|(rank, _)| *rank);
        let all = meant.iter().map(|(_, outbound)| outbound.service.to_string()).collect::<Vec<_>>().join(" or ");
        let Some((rank, outbound)) = meant.first() else { continue };
        if meant.get(1).is_some_and(|(other, _)| other == rank) {
            told.push(format!("{name} would be {all}, so it is not set; use the name with the namespace"));
            continue;
        }
        if meant.len() > 1 {
            told.push(format!("{name} could be {all}; it is {}", outbound.service));
        }
        // gRPC and HTTP/2 are HTTP as well: a client says by itself which of them it speaks.
        let scheme = match outbound.protocol {
            Protocol::Tcp | Protocol::Udp => outbound.protocol.name(),
            _ => "http",
        };
        variables.push((name, format!("{scheme}://{}", outbound.address)));
    }
    if let Some(forward) = ports.forward {
        for name in ["HTTP_PROXY", "http_proxy"] {
            variables.push((name.to_owned(), format!("http://{forward}")));
        }
        for name in ["NO_PROXY", "no_proxy"] {
            variables.push((name.to_owned(), "localhost,127.0.0.1,::1".to_owned()));
        }
    }
    (variables, told)
}

/// A name as commands take it without `--namespace`.
fn word(name: &str, namespace: &str) -> String {
    if namespace == "default" { name.to_owned() } else { format!("{name}.{namespace}") }
}

/// Says before the first 403 that a call will be refused.
async fn warn_if_denied(
    console: &Console,
    globals: &Globals,
    (name, instance): (&str, &str),
    (service, outbound): (&ServiceRef, Option<&Outbound>),
) {
    let url = match outbound.filter(|outbound| outbound.protocol == Protocol::Udp) {
        Some(Outbound { port, .. }) => format!("udp://{}.{}:{port}", service.name, service.namespace),
        None => format!("GET http://{}.{}/", service.name, service.namespace),
    };
    match console.decision(globals.namespace(), instance, &url).await {
        // A caller whom a rule names is let in for something, if not for this made-up request.
        Ok(answer) if answer.decision == "deny" && answer.is_stranger() => {
            let word = word(&service.name, &service.namespace);
            eprintln!("  ✗ {name} → {word} is not allowed (access is denied by default)");
            eprintln!("      allow it:  byrnie allow {} {word}", self::word(name, globals.namespace()));
        }
        Ok(answer) if answer.reason == byrnie_engine::Reason::UnknownService.label() => {
            eprintln!(
                "  ! there is no service {} yet; calls to it are answered {} until there is",
                service.name, answer.status
            );
        }
        Ok(_) => {}
        Err(error) => tracing::debug!(%error, %service, "cannot tell whether the call is allowed"),
    }
}

/// Runs the program to its end, again if asked for.
async fn supervise_program(
    args: &Args,
    (proxy, variables, listens): (&Post, &[(String, String)], &watch::Sender<bool>),
    signals: &mut Signals,
) -> Result<supervise::Exit> {
    let (program, rest) = args.command.split_first().context("no program given")?;
    let port = ports_of(args).first().map(|p| (p.port, p.protocol));
    let mut pause = RESTART_PAUSE;
    loop {
        let started = runtime::now().mono;
        listens.send_replace(port.is_none());
        let process = Process::spawn_program(program, rest, variables)?;
        let (exit, wanted) = live(&process, proxy, (&args.name, port, listens), signals).await;
        if args.restart == Restart::No || exit == supervise::Exit::Status(0) || wanted {
            return Ok(exit);
        }
        if runtime::now().mono.since(started) >= WELL_AFTER {
            pause = RESTART_PAUSE;
        }
        eprintln!("  ! {} ended ({}); starting it again in {:.1} s", args.name, exit, pause.as_secs_f32());
        tokio::select! {
            () = runtime::sleep(pause) => {}
            _ = signals.ended() => return Ok(exit),
        }
        pause = (pause * 2).min(RESTART_PAUSE_MAX);
    }
}

/// One life of the program: signals are handed on. How it ended, and whether somebody wanted that.
async fn live(
    process: &Process,
    proxy: &Post,
    (name, port, listens): (&str, Option<(u16, Protocol)>, &watch::Sender<bool>),
    signals: &mut Signals,
) -> (supervise::Exit, bool) {
    let mut told = None;
    let mut exited = std::pin::pin!(process.exited());
    let mut listening = std::pin::pin!(watch_listening(name, port.unwrap_or_default()));
    let mut known = port.is_none();
    loop {
        tokio::select! {
            exit = &mut exited => {
                let wanted = told.is_some_and(|at| runtime::now().mono.since(at) < END_PATIENCE);
                return (exit, wanted);
            }
            () = &mut listening, if !known => {
                known = true;
                listens.send_replace(true);
            }
            signal = signals.next() => {
                if signal.asks_to_end() {
                    // Where Ctrl-C has reached the program already, and where it serves nobody, nothing is to be waited for.
                    let told = signal == Signal::Interrupt && supervise::Terminal::interrupts_all();
                    if !told && port.is_some() {
                        tokio::select! {
                            () = proxy.leave(LEAVE) => {}
                            _ = process.exited() => {}
                            _ = signals.ended() => {}
                        }
                    }
                    return (end(process, signal, signals).await, true);
                }
                told = Some(runtime::now().mono);
                process.signal(signal);
            }
        }
    }
}

/// Hands a signal on and waits for the end, by force after [`END_PATIENCE`] or a second signal. The keeper
/// above the program then ends what it may have started.
async fn end(process: &Process, signal: Signal, signals: &mut Signals) -> supervise::Exit {
    if signal != Signal::Interrupt || !supervise::Terminal::interrupts_all() {
        process.signal(signal);
    }
    tokio::select! {
        exit = process.exited() => return exit,
        () = runtime::sleep(END_PATIENCE) => {}
        _ = signals.ended() => {}
    }
    process.signal(Signal::Kill);
    process.exited().await
}

/// Waits until something listens on the program's port, and warns once if that takes long.
async fn watch_listening(name: &str, (port, protocol): (u16, Protocol)) {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let start = runtime::now().mono;
    let mut warned = false;
    let listens = async || match protocol {
        Protocol::Udp => byrnie_net::datagram::is_taken(port),
        _ => byrnie_net::io::connect(address, LISTEN_PROBE_MAX).await.is_ok(),
    };
    while !listens().await {
        let late = runtime::now().mono.since(start) >= LISTEN_PATIENCE;
        if late && !std::mem::replace(&mut warned, true) {
            warn_of_silence(name, port);
        }
        runtime::sleep(if late { LISTEN_PROBE_MAX } else { LISTEN_PROBE }).await;
    }
}

fn warn_of_silence(name: &str, port: u16) {
    let byrnie_model::code::Code { id, effect, next, .. } = byrnie_model::code::NOT_LISTENING;
    let waited = LISTEN_PATIENCE.as_secs();
    eprintln!(
        "warning[{id}]: {name} does not listen on 127.0.0.1:{port} after {waited} s\n   = effect: {effect}\n   = next: {next}"
    );
}
