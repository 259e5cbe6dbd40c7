// SPDX-License-Identifier: Apache-2.0
//! `byrnie up`: a whole mesh on this machine. Control plane, store, CA, edge, DNS and dashboard run in
//! this process; the demo's programs and their sidecars are processes of their own.

use crate::demo;
use crate::documents::Files;
use crate::failure::{self, Exit, Failure};
use crate::globals::{Globals, TRANSACTIONS};
use crate::handover::{self, Done, FORMAT, Inherited, News, Will};
use crate::mesh::{self, Mesh};
use crate::supervise::{self, Process, Signal, Signals};
use anyhow::{Context, Result};
use byrnie_base::{Instant, Rng, Text};
use byrnie_net::{machine, runtime};
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long children may take to end before they're killed.
const END_PATIENCE: Duration = Duration::from_secs(8);

/// Where the demo's programs listen.
const DEMO_PORTS: std::ops::Range<u16> = 20_000..32_000;
/// Ports that are tried at most.
const PORT_TRIES_MAX: usize = 1_000;

/// Arguments of `up`.
#[derive(clap::Args, Debug)]
#[command(
    about = "Start a whole mesh on this machine",
    after_help = "Examples:
  byrnie up --demo
  byrnie up -f mesh/ -f more.yaml
  byrnie --data-dir /var/tmp/mesh up --strict-ports
  byrnie up --transactions postgresql://byrnie@db/byrnie"
)]
pub(crate) struct Args {
    /// Also start the demo shop, each program with a sidecar of its own
    #[arg(long)]
    demo: bool,
    #[command(flatten)]
    files: Files,
    /// Where the console listens, on loopback; the other ports are on the same address
    #[arg(long, value_name = "IP[:PORT]", default_value = "127.0.0.1:7777")]
    listen: String,
    /// The trust domain of a new mesh, of which each that is to know the others has one of its own (mesh.local)
    #[arg(long, value_name = "DOMAIN", value_parser = trust_domain)]
    trust_domain: Option<String>,
    /// Refuse a busy port instead of taking the next free one
    #[arg(long)]
    strict_ports: bool,
    /// Threads of the edge that move traffic (as many as there are processors)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=mesh::WORKERS_MAX))]
    workers: Option<u16>,
    /// Where transactions are kept: `redb`, a file of the data directory, or a PostgreSQL that several coordinators share; its
    /// password may stand in ~/.pgpass, or here by way of the variable
    #[arg(long, value_name = "redb|URL", env = TRANSACTIONS, hide_env_values = true, default_value = REDB)]
    transactions: String,
    /// Keys under which answers to keyed requests and transactions rest: 64 digits of base 16 on each line, of which the first seals. The same
    /// for all who share the PostgreSQL; without it, those in the database aren't sealed (a file has a key of its own)
    #[arg(long, value_name = "FILE")]
    ledger_keys: Option<PathBuf>,
    /// An earlier program in this process has left its mesh, in this form; 0 asks whether these arguments are understood.
    #[arg(long, hide = true, value_name = "FORMAT")]
    resume: Option<u32>,
}

/// The file.
const REDB: &str = "redb";

/// Runs the command.
pub(crate) fn run(args: &Args, globals: &Globals) -> Result<Exit> {
    crate::log::start(globals);
    let console = console_address(&args.listen)?;
    check_secret(&args.transactions)?;
    if args.resume == Some(handover::TRIAL) {
        return Ok(Exit::Fine);
    }
    runtime::block_on(serve(args, globals, console)).context("cannot start the runtime")?
}

fn trust_domain(text: &str) -> Result<String, String> {
    byrnie_model::identity::check_domain(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

fn console_address(text: &str) -> Result<SocketAddr, Failure> {
    let address = text.parse().or_else(|_| text.parse().map(|ip: IpAddr| SocketAddr::new(ip, 7777)));
    let address = address.map_err(|_| Failure::usage(format!("--listen: `{text}` is not IP or IP:PORT")))?;
    if !address.ip().is_loopback() {
        return Err(Failure::usage(format!(
            "--listen: {} is not a loopback address; this version serves one machine only",
            address.ip()
        )));
    }
    Ok(address)
}

/// A command line is everybody's to see, so that no password may stand there.
fn check_secret(url: &str) -> Result<(), Failure> {
    let authority = url.split_once("://").and_then(|(_, rest)| rest.split('/').next());
    let user = authority.and_then(|authority| authority.rsplit_once('@')).map(|(user, _)| user);
    let secret = user.is_some_and(|user| user.contains(':')) || url.contains("password=");
    if secret && std::env::args().any(|argument| argument.contains(url)) {
        let detail = "--transactions: a password on the command line is everybody's to see";
        return Err(Failure::usage(detail).next(format!("put it into ~/.pgpass, or the URL into {TRANSACTIONS}")));
    }
    Ok(())
}

async fn serve(args: &Args, globals: &Globals, console: SocketAddr) -> Result<Exit> {
    let mut signals = Signals::listen()?;
    let start = runtime::now().mono;
    let options = mesh::Options {
        data_dir: globals.data_dir.clone(),
        console,
        strict_ports: args.strict_ports,
        demo: args.demo,
        trust_domain: args.trust_domain.as_deref().map(Text::from),
        workers: args.workers.map_or_else(mesh::processors, usize::from),
        transactions: Some(args.transactions.clone()).filter(|url| url != REDB),
        ledger_keys: args.ledger_keys.clone(),
    };
    let (mesh, children, resumed) = match args.resume {
        Some(format) => resume(format, &options, globals).await?,
        None => {
            let mesh = mesh::start(&options, globals, None).await?;
            if !args.files.is_empty() {
                mesh.apply(&args.files.read(globals.namespace())?, globals.namespace()).await?;
            }
            // The demo's programs find this mesh by `ports.json`, and not whichever has the usual ports.
            mesh.publish()?;
            let children = if args.demo { start_demo(globals, &mesh).await? } else { Vec::new() };
            mesh.announce(globals, start);
            (mesh, children, false)
        }
    };
    let (then, mut upgraded) = mpsc::channel(1);
    mesh.attend(then);
    runtime::spawn("settle", machine::settle());
    let mut talks = args.demo && !globals.quiet && !resumed;
    loop {
        let mut done = tokio::select! {
            _ = signals.ended() => break,
            () = watch(talks, &mesh, &children, start) => continue,
            Some(done) = upgraded.recv() => done,
        };
        talks = false;
        match handover::try_out(&done.binary).await {
            Ok(()) => return Err(become_another(mesh, children, done).await),
            Err(why) => handover::tell_of_control(&mut done.talk, &News::Refused(why)).await,
        }
    }
    if !globals.quiet {
        eprintln!(
            "  stopping; `byrnie up{}` resumes from {}",
            if args.demo { " --demo" } else { "" },
            globals.data_dir.display()
        );
    }
    stop(&children, &mut signals).await;
    mesh.stop().await;
    Ok(Exit::Fine)
}

/// Goes on in place of an earlier program in this process or, if that isn't possible, becomes that one again.
async fn resume(format: u32, options: &mesh::Options, globals: &Globals) -> Result<(Mesh, Vec<Child>, bool)> {
    anyhow::ensure!(format == FORMAT, "this version goes on in form {FORMAT}, and not in {format}");
    let will = Will::read()?;
    let mut mesh = match mesh::start(options, globals, Some(&will)).await {
        Ok(mesh) => mesh,
        Err(error) if will.was_declined() => return Err(error),
        Err(error) => {
            let why = error.downcast::<Failure>().unwrap_or_else(|error| Failure::new("", format!("{error:#}")));
            eprintln!("{why}");
            return Err(will.decline(&why).into());
        }
    };
    let Inherited { posts, children, mut talk, since, refused } = will.accept(globals)?;
    mesh.take_over(posts);
    mesh.publish()?;
    let adopt = |(name, pid)| Ok(Child { name, process: Process::adopt(pid, false)? });
    let children = children.into_iter().map(adopt).collect::<Result<_>>()?;
    let news = match refused {
        Some(why) => News::Refused(handover::refused(&why)),
        None => News::Serves {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            took: Duration::from_millis(runtime::now().wall.as_millis().saturating_sub(since)),
        },
    };
    handover::tell_of_control(&mut talk, &news).await;
    eprintln!("  ✓ byrnie {} goes on in this process", env!("CARGO_PKG_VERSION"));
    Ok((mesh, children, true))
}

/// All proxies run the new binary; now this process does. It comes back only with an error, and without a mesh.
async fn become_another(mesh: Mesh, children: Vec<Child>, done: Done) -> anyhow::Error {
    let children = children.iter().map(|child| (child.name.clone(), child.process.pid())).collect();
    let binary = done.binary.clone();
    let mut will = match mesh.leave(children, done).await {
        Ok(will) => will,
        Err(error) => return error,
    };
    let error = will.execute(binary.as_os_str());
    // This program is still there, and begins again.
    will.refuse(format!("{} cannot be started: {error}", binary.display()));
    will.execute(&supervise::own_binary()).into()
}

/// Says what happens until somebody stops it.
async fn watch(talks: bool, mesh: &mesh::Mesh, children: &[Child], start: Instant) {
    let traffic = async {
        if talks {
            mesh.announce_traffic(start).await;
        }
    };
    let ends = async {
        let name = first_end(children).await;
        eprintln!("  ! {name} has ended; the rest of the mesh goes on. Ctrl-C stops it.");
    };
    tokio::join!(traffic, ends);
    std::future::pending().await
}

/// The name of the first child that ends.
async fn first_end(children: &[Child]) -> String {
    let mut waiting: Vec<_> = children.iter().map(|child| (child, Box::pin(child.process.exited()))).collect();
    std::future::poll_fn(|cx| {
        for (child, exited) in &mut waiting {
            if exited.as_mut().poll(cx).is_ready() {
                return std::task::Poll::Ready(child.name.clone());
            }
        }
        std::task::Poll::Pending
    })
    .await
}

/// A program of the demo below its own `byrnie run`.
struct Child {
    name: String,
    process: Process,
}

/// Applies the shop's resources and starts its programs.
async fn start_demo(globals: &Globals, mesh: &mesh::Mesh) -> Result<Vec<Child>> {
    mesh.apply_if_absent(demo::RESOURCES).await?;
    let logs = globals.data_dir.join("logs");
    std::fs::create_dir_all(&logs).map_err(|error| failure::of_file(&logs, &error))?;
    let own = std::env::current_exe().context("cannot find this binary's own path")?.into_os_string();
    let mut children = Vec::new();
    // All at once: none of them is taken before its program runs, so a later search would find it again.
    let mut free = free_ports(demo::PROGRAMS.iter().map(|program| 1 + program.speaks.len()).sum())?;
    for program in demo::PROGRAMS {
        let ports = free.split_off(free.len() - 1 - program.speaks.len());
        let name = format!("{}-{}", program.name, program.version);
        let path = logs.join(format!("{name}.log"));
        let log = std::fs::File::create(&path).map_err(|error| failure::of_file(&path, &error))?;
        let args = demo_arguments(globals, program, &ports, &own);
        children.push(Child { process: Process::spawn_role(&own, &args, log)?, name });
    }
    Ok(children)
}

fn demo_arguments(globals: &Globals, program: &demo::Program, ports: &[u16], own: &OsString) -> Vec<OsString> {
    let mut args: Vec<OsString> = vec!["--data-dir".into(), globals.data_dir.clone().into(), "--quiet".into()];
    let mut push = |words: &[&str]| args.extend(words.iter().map(OsString::from));
    push(&["run", "--name", program.name, "--labels", &format!("version={}", program.version)]);
    push(&["--restart", "on-failure"]);
    for (at, port) in ports.iter().enumerate() {
        let protocol = at.checked_sub(1).and_then(|at| program.speaks.get(at)).copied().unwrap_or("http");
        push(&["--port", &format!("{port}/{protocol}")]);
    }
    if !program.uses.is_empty() {
        push(&["--uses", &program.uses.join(",")]);
    }
    push(&["--"]);
    args.push(own.clone());
    let mut push = |words: &[&str]| args.extend(words.iter().map(OsString::from));
    push(&["demo-service", program.role, "--version", program.version]);
    for port in ports {
        push(&["--port", &port.to_string()]);
    }
    args
}

/// Ports that are free now, all different. They're taken from below the range that the kernel gives to
/// outgoing connections (32768 and up on Linux), so that none of these takes one before the program does.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let mut dice = Rng::new(runtime::now().wall.as_millis() ^ u64::from(std::process::id()));
    let mut ports = Vec::new();
    for _ in 0..PORT_TRIES_MAX {
        let port = DEMO_PORTS.start + u16::try_from(dice.below(u64::from(DEMO_PORTS.end - DEMO_PORTS.start)))?;
        if !ports.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            ports.push(port);
        }
        if ports.len() == count {
            return Ok(ports);
        }
    }
    anyhow::bail!("no free port between {} and {}", DEMO_PORTS.start, DEMO_PORTS.end)
}

/// Ends every child: by asking, then by force.
async fn stop(children: &[Child], signals: &mut Signals) {
    for child in children {
        child.process.signal(Signal::Terminate);
    }
    let all = async {
        for child in children {
            child.process.exited().await;
        }
    };
    tokio::select! {
        () = all => return,
        () = runtime::sleep(END_PATIENCE) => {}
        _ = signals.ended() => {}
    }
    for child in children {
        child.process.signal(Signal::Kill);
    }
}
