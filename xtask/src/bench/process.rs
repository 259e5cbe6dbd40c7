// SPDX-License-Identifier: Apache-2.0
//! Processes of a bench: pinned by `taskset`, ended when dropped. And the stage: scratch directory,
//! processors, own binary.

use super::{LIFE_MAX, now};
use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How long something may take to listen or to answer well.
const PATIENCE: Duration = Duration::from_secs(20);
const PROBE: Duration = Duration::from_millis(50);
/// How long a process may take to end when asked.
const END_PATIENCE: Duration = Duration::from_secs(3);

/// Which side of the machine.
#[derive(Clone, Copy, Debug)]
pub(super) enum Side {
    Proxy,
    Load,
}

/// Which build of byrnie and of the bench's own programs takes part.
#[derive(Clone, Debug)]
pub(crate) enum Build {
    /// What `BYRNIE` and `BYRNIE_BENCH` name, or else a release build, made now.
    Release,
    /// What `cargo xtask dist` has left in its folder.
    Dist,
    /// In this folder, whatever it is.
    Plain(PathBuf),
    /// In the first folder; each process writes into the second, as it exits, how often it went which way.
    Counting(PathBuf, PathBuf),
}

impl Build {
    /// A program of it, which `variable` may name.
    fn program(&self, root: &Path, variable: &str, name: &str) -> Result<PathBuf> {
        match self {
            Self::Release => binary(root, variable, name),
            Self::Plain(dir) | Self::Counting(dir, _) => Ok(dir.join(name)),
            Self::Dist => {
                if std::env::var_os(variable).is_some() {
                    bail!("{variable} names one program and --dist another: leave one of them out");
                }
                let path = target(root).join("dist").join(name);
                if path.is_file() {
                    return Ok(path);
                }
                bail!("{} isn't there: `cargo xtask dist` makes it", path.display())
            }
        }
    }
}

/// Where a bench happens.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) root: PathBuf,
    build: Build,
    /// Scratch files and logs of this run.
    pub(super) dir: PathBuf,
    /// The program of the client, the app and the relay.
    pub(super) tool: PathBuf,
    /// Certificates, for peers and for byrnie.
    pub(super) pki: PathBuf,
    proxy_cpu: String,
    load_cpu: String,
}

impl Stage {
    /// With what is built for measuring.
    pub(super) fn new(root: &Path) -> Result<Self> {
        Self::with(root, Build::Release)
    }

    /// With this build.
    pub(super) fn with(root: &Path, build: Build) -> Result<Self> {
        let tool = build.program(root, "BYRNIE_BENCH", "byrnie-bench")?;
        let dir = target(root).join("bench-run");
        std::fs::create_dir_all(&dir)?;
        let cpu = |name: &str, other: &str| std::env::var(name).unwrap_or_else(|_| other.to_owned());
        let (proxy_cpu, load_cpu) = (cpu("BENCH_PROXY_CPU", "0"), cpu("BENCH_LOAD_CPU", "1"));
        if !is_on_path("taskset") {
            bail!("taskset is needed (Debian: util-linux)");
        }
        let pki = dir.join("pki");
        let stage = Self { root: root.to_owned(), build, dir, tool, pki, proxy_cpu, load_cpu };
        if !stage.client(&["pki", &format!("dir={}", stage.pki.display())]).status()?.success() {
            bail!("no certificates could be made");
        }
        Ok(stage)
    }

    /// The program that is measured.
    pub(super) fn byrnie(&self) -> Result<PathBuf> {
        self.build.program(&self.root, "BYRNIE", "byrnie")
    }

    /// A version of byrnie's, with the build that it is of, as tables show it.
    pub(super) fn version(&self, version: &str) -> String {
        match self.build {
            Build::Dist => format!("{version} dist"),
            Build::Release | Build::Plain(_) | Build::Counting(..) => version.to_owned(),
        }
    }

    /// Fails if one of these processes, which have ended, has left no counts where it had to.
    pub(super) fn have_counted(&self, pids: &[u32]) -> Result<()> {
        let Build::Counting(_, counts) = &self.build else { return Ok(()) };
        match pids.iter().find(|pid| !counts.join(format!("{pid}.profraw")).is_file()) {
            Some(pid) => bail!("process {pid} was killed before it had written its counts"),
            None => Ok(()),
        }
    }

    /// Starts a program on the processor of `side`; what it says goes to NAME.log.
    pub(super) fn start(&self, side: Side, name: &str, program: impl AsRef<OsStr>, args: &[&str]) -> Result<Process> {
        let log = File::create(self.dir.join(format!("{name}.log")))?;
        let mut command = self.command(side, program, args);
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        Ok(Process(child.with_context(|| format!("cannot start {name}"))?))
    }

    /// A program pinned to the processor of `side`, not started.
    pub(super) fn command(&self, side: Side, program: impl AsRef<OsStr>, args: &[&str]) -> Command {
        let cpu = match side {
            Side::Proxy => &self.proxy_cpu,
            Side::Load => &self.load_cpu,
        };
        let mut command = Command::new("taskset");
        command.args(["-c", cpu]).arg(&program).args(args);
        if let Build::Counting(_, counts) = &self.build {
            // The client and the app are made of the same code, but aren't what has to be fast.
            let is_load = matches!(side, Side::Load) && program.as_ref() == self.tool.as_os_str();
            command.env("LLVM_PROFILE_FILE", if is_load { "/dev/null".into() } else { counts.join("%p.profraw") });
        }
        command
    }

    /// Starts one of the bench's own programs.
    pub(super) fn tool(&self, side: Side, name: &str, args: &[&str]) -> Result<Process> {
        self.start(side, name, &self.tool, args)
    }

    /// The client, not started.
    pub(super) fn client(&self, args: &[&str]) -> Command {
        self.command(Side::Load, &self.tool, args)
    }

    /// Writes a scratch file.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
        Ok(path)
    }
}

/// Where builds go.
pub(crate) fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir))
}

/// The binary that `variable` names, or that of `package`, built now.
fn binary(root: &Path, variable: &str, package: &str) -> Result<PathBuf> {
    if let Some(named) = std::env::var_os(variable) {
        return Ok(named.into());
    }
    let args = ["build", "--release", "--locked", "-p", package];
    let status = Command::new(env!("CARGO")).args(args).current_dir(root).status()?;
    if !status.success() {
        bail!("cargo {} failed", args.join(" "));
    }
    Ok(target(root).join("release").join(package))
}

/// A process that ends with its owner.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn of(child: Child) -> Self {
        Self(child)
    }

    pub(super) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Ends it without a word, as a crash would.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }

    /// Sends it a signal, such as `-STOP`.
    pub(super) fn signal(&self, signal: &str) -> Result<()> {
        let status = Command::new("kill").args([signal, &self.pid().to_string()]).status()?;
        if status.success() { Ok(()) } else { bail!("kill {signal} {}: {status}", self.pid()) }
    }

    /// Reads its standard error, which is piped here, until so many lines have said `word`. What follows stays in the pipe.
    pub(super) fn wait_for(&mut self, word: &str, times: usize) -> Result<()> {
        let mut lines = BufReader::new(self.0.stderr.as_mut().context("no pipe")?).lines();
        let mut left = times;
        while left > 0 {
            let line = lines.next().with_context(|| format!("it ended before it said{word}"))??;
            left -= usize::from(line.contains(word));
        }
        Ok(())
    }

    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Asked first, so that it can end its own children; errors mean that it's gone already.
        let _ = Command::new("kill").args(["-TERM", &self.pid().to_string()]).stderr(Stdio::null()).status();
        let start = now();
        while !self.has_ended() {
            if start.elapsed() > END_PATIENCE {
                let _ = self.0.kill();
                let _ = self.0.wait();
                return;
            }
            std::thread::sleep(PROBE);
        }
    }
}

/// Where ports are looked for: below those that the system gives away by itself, to whoever calls or listens next, and above
/// those of the tests.
const PORTS: Range<u32> = 20_000..32_000;

/// A loopback port that is free now, and different at each call.
pub(crate) fn free_port() -> Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in PORTS {
        let at = std::process::id().wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % (PORTS.end - PORTS.start);
        let port = u16::try_from(PORTS.start + at)?;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port of {PORTS:?} is free")
}

/// An address on loopback.
pub(super) fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Waits until `done` says so.
pub(crate) fn wait_for(what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    let start = now();
    while !done() {
        if start.elapsed() > PATIENCE {
            bail!("{what}: not after {} s", PATIENCE.as_secs());
        }
        std::thread::sleep(PROBE);
    }
    Ok(())
}

/// Waits until a request through `address` is answered with 200.
pub(super) fn wait_well(name: &str, address: SocketAddr) -> Result<()> {
    wait_for(&format!("{name} answers 200 at {address}"), || {
        first_line(address).is_some_and(|head| head.contains(" 200"))
    })
}

/// Waits until something listens at `address`.
pub(super) fn wait_open(name: &str, address: SocketAddr) -> Result<()> {
    wait_for(&format!("{name} listens at {address}"), || TcpStream::connect_timeout(&address, PROBE).is_ok())
}

/// The first line of the answer to a small request.
pub(super) fn first_line(address: SocketAddr) -> Option<String> {
    let mut socket = TcpStream::connect_timeout(&address, PROBE).ok()?;
    socket.set_read_timeout(Some(PATIENCE)).ok()?;
    socket.write_all(b"GET /b/1 HTTP/1.1\r\nhost: app\r\nconnection: close\r\n\r\n").ok()?;
    let mut head = [0; 256];
    let read = socket.read(&mut head).ok()?;
    String::from_utf8_lossy(&head[..read]).lines().next().map(str::to_owned)
}

/// Whether a program of this name can be started.
pub(crate) fn is_on_path(name: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|dir| dir.join(name).is_file())
}

/// A time limit for programs that have none of their own, as a word.
pub(super) fn life() -> String {
    LIFE_MAX.as_secs().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_that_isnt_there_is_named_with_what_makes_it() {
        let error = Build::Dist.program(Path::new("/nowhere"), "BYRNIE", "no-such-program").unwrap_err().to_string();
        assert!(error.contains("dist/no-such-program isn't there: `cargo xtask dist` makes it"), "{error}");
    }
}
