// SPDX-License-Identifier: Apache-2.0
//! One child process.

use super::{Signal, means};
use crate::globals::Globals;
use anyhow::{Context, Result, bail};
use byrnie_net::runtime;
use rustix::process::{Pid, WaitOptions};
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::sync::watch;

/// A running child. Dropping it leaves the child running; the kernel ends it with this process.
pub(crate) struct Process {
    pid: u32,
    kept: bool,
    exit: watch::Receiver<Option<Exit>>,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// With this status.
    Status(i32),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// The status that a shell would show.
    pub(crate) const fn status(self) -> i32 {
        match self {
            Self::Status(status) => status,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// Status of a program that isn't there, as a shell shows it.
pub(super) const STATUS_NOT_FOUND: i32 = 127;
/// Status of a program that can't be started.
pub(super) const STATUS_NOT_STARTED: i32 = 126;

/// The terminal that this process may have.
pub(crate) struct Terminal;

impl Terminal {
    /// Whether Ctrl-C reaches children too, as they share this process' terminal and group: then they are
    /// not to be told a second time, which many programs take for impatience.
    pub(crate) fn interrupts_all() -> bool {
        let foreground = rustix::termios::tcgetpgrp(std::io::stdin());
        foreground.is_ok_and(|group| group == rustix::process::getpgrp())
    }
}

impl Process {
    /// Starts a program, and a keeper above it, with the extra environment `vars`. It shares this process'
    /// terminal. Call it from the main thread.
    ///
    /// # Errors
    /// If this binary can't be started again, or threads have run out. A program that doesn't exist
    /// shows as exit status 127 with a message on standard error.
    pub(crate) fn spawn_program(program: &OsString, args: &[OsString], vars: &[(String, String)]) -> Result<Self> {
        // byrnie's own programs start nothing: for them the tie to the parent does, and saves a process each.
        let own = std::env::current_exe().is_ok_and(|path| path.as_os_str() == program);
        let kept = !(own && args.first().is_some_and(|role| role == "demo-service"));
        let mut command = own_command(program, args, if kept { &["--keep"] } else { &[] });
        command.envs(vars.iter().map(|(name, value)| (name, value)));
        Self::watch(command, kept)
    }

    /// Starts this binary in another role, which writes to `log`. It has no input and a process group of its
    /// own, so that Ctrl-C reaches only this process. Call it from the main thread.
    ///
    /// # Errors
    /// If this binary can't be started again, or threads have run out.
    pub(crate) fn spawn_role(binary: &OsString, args: &[OsString], log: std::fs::File) -> Result<Self> {
        let mut command = own_command(binary, args, &[]);
        let copy = log.try_clone().context("cannot share the log file")?;
        command.stdout(log).stderr(copy).stdin(Stdio::null()).process_group(0);
        Self::watch(command, false)
    }

    /// Starts `binary`, of this version or another, as a proxy that is told by `tether` what to be. It's in a process group
    /// of its own, so that Ctrl-C reaches only this process. Call it from the main thread.
    ///
    /// # Errors
    /// If it can't be started.
    pub(crate) fn spawn_heir(binary: &OsStr, globals: &Globals, format: u32, tether: OwnedFd) -> Result<Self> {
        let mut command = Command::new(binary);
        command.arg0("byrnie").arg("--data-dir").arg(&globals.data_dir);
        if let Some(server) = &globals.server {
            command.arg("--server").arg(server);
        }
        if let Some(token) = &globals.token {
            // Not an argument, which everybody may read.
            command.env("BYRNIE_TOKEN", token);
        }
        command.args(["successor", "--format", &format.to_string(), "--parent", &std::process::id().to_string()]);
        command.env_remove(crate::globals::TRANSACTIONS).stdin(tether).process_group(0);
        Self::watch(command, false)
    }

    /// Starts `binary` to see whether it ends well. It says what it has to say to this process' log.
    ///
    /// # Errors
    /// If it can't be started.
    pub(crate) fn spawn_trial(binary: &Path, args: &[String]) -> Result<Self> {
        let mut command = Command::new(binary);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        Self::watch(command, false)
    }

    fn watch(mut command: Command, kept: bool) -> Result<Self> {
        let child = command.spawn().context("cannot start a process")?;
        Self::adopt(child.id(), kept)
    }

    /// A child that this process has already, started when it was another program. Whether a keeper stands above it.
    ///
    /// # Errors
    /// If threads have run out.
    pub(crate) fn adopt(pid: u32, kept: bool) -> Result<Self> {
        let (tell, exit) = watch::channel(None);
        std::thread::Builder::new()
            .name("byrnie-wait".to_owned())
            .stack_size(64 * 1024)
            .spawn(move || {
                let exit = wait(pid);
                // Nobody listens any more if this process is ending too.
                let _ = tell.send(Some(exit));
            })
            .context("cannot start a thread")?;
        Ok(Self { pid, kept, exit })
    }

    /// How it ended, as soon as it has.
    pub(crate) async fn exited(&self) -> Exit {
        let mut exit = self.exit.clone();
        let ended = exit.wait_for(Option::is_some).await.map(|exit| *exit);
        ended.ok().flatten().unwrap_or(Exit::Status(1))
    }

    /// How it ended, if it does within `limit`.
    pub(crate) async fn ended_within(&self, limit: Duration) -> Option<Exit> {
        runtime::timeout(limit, self.exited()).await.ok()
    }

    /// Its id.
    pub(crate) const fn pid(&self) -> u32 {
        self.pid
    }

    /// How it ended, if it has.
    pub(crate) fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Sends a signal, unless it has ended.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.exit().is_some() {
            return;
        }
        let signal = if self.kept && signal == Signal::Kill { Signal::KillAll } else { signal };
        let pid = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended this very moment: then there's nothing left to tell it.
            let _ = rustix::process::kill_process(pid, signal.number());
        }
    }
}

/// Ties this process to `parent` and becomes `program`: what the hidden command `child` does.
///
/// # Errors
/// If the parent is gone already, or the program can't be started.
pub(crate) fn become_program(parent: u32, program: &OsString, args: &[OsString]) -> Result<std::convert::Infallible> {
    tie_to(parent)?;
    let mut command = Command::new(program);
    means::give_back(command.args(args));
    let error = command.exec();
    eprintln!("byrnie: cannot start {}: {error}", program.to_string_lossy());
    std::process::exit(if error.kind() == std::io::ErrorKind::NotFound {
        STATUS_NOT_FOUND
    } else {
        STATUS_NOT_STARTED
    });
}

/// Waits for the end of a child. Blocks.
fn wait(pid: u32) -> Exit {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    loop {
        match rustix::process::waitpid(pid, WaitOptions::empty()) {
            Err(rustix::io::Errno::INTR) | Ok(None) => {}
            Err(_) => return Exit::Status(1),
            Ok(Some((_, status))) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => return Exit::Status(code),
                (None, Some(signal)) => return Exit::Signal(signal),
                // It was stopped, or goes on.
                (None, None) => {}
            },
        }
    }
}

/// Becomes `binary`, which finds `will` as its standard input. All of this program ends, but not its children.
///
/// # Errors
/// If that isn't possible; comes back with nothing else.
pub(crate) fn become_binary(binary: &OsStr, args: &[String], will: OwnedFd) -> std::io::Error {
    Command::new(binary).arg0("byrnie").args(args).stdin(will).exec()
}

/// Takes `fd` for this process' standard input.
///
/// # Errors
/// If the kernel refuses.
pub(crate) fn take_stdin(fd: OwnedFd) -> Result<()> {
    rustix::stdio::dup2_stdin(fd).context("cannot take standard input back")
}

/// Ties this process to `parent`, with which it ends, however that ends.
///
/// # Errors
/// If the parent is gone already.
pub(crate) fn tie_to(parent: u32) -> Result<()> {
    tie(Signal::Kill)?;
    let now = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    if now != i32::try_from(parent).ok() {
        bail!("the process that started this one has ended");
    }
    Ok(())
}

/// The binary that this process runs, which is there as long as the process is: another may have taken its name, as
/// happens before an upgrade.
#[cfg(target_os = "linux")]
pub(crate) fn own_binary() -> OsString {
    "/proc/self/exe".into()
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn own_binary() -> OsString {
    std::env::current_exe().unwrap_or_default().into()
}

/// This binary again, to become (or keep) a program below this process.
pub(super) fn own_command(program: &OsString, args: &[OsString], how: &[&str]) -> Command {
    let mut command = Command::new(own_binary());
    command.arg0("byrnie").arg("child").args(how).arg("--parent").arg(std::process::id().to_string()).arg("--");
    command.arg(program).args(args).env_remove(crate::globals::TRANSACTIONS);
    means::pass_on(&mut command);
    command
}

/// Asks the kernel to send this process a signal when its parent dies.
#[cfg(target_os = "linux")]
pub(super) fn tie(signal: Signal) -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(signal.number())).context("cannot tie a child to its parent")
}

#[cfg(not(target_os = "linux"))]
pub(super) fn tie(_: Signal) -> Result<()> {
    Ok(())
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(status) => write!(f, "status {status}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}
