// SPDX-License-Identifier: Apache-2.0
//! One child process.

use super::{Signal, means};
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
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
        let mut command = own_command(program, args, if kept { &["--keep"] } else { &[] })?;
        command.envs(vars.iter().map(|(name, value)| (name, value)));
        Self::watch(command, kept)
    }

    /// Starts this binary in another role, which writes to `log`. It has no input and a process group of its
    /// own, so that Ctrl-C reaches only this process. Call it from the main thread.
    ///
    /// # Errors
    /// If this binary can't be started again, or threads have run out.
    pub(crate) fn spawn_role(binary: &OsString, args: &[OsString], log: std::fs::File) -> Result<Self> {
        let mut command = own_command(binary, args, &[])?;
        let copy = log.try_clone().context("cannot share the log file")?;
        command.stdout(log).stderr(copy).stdin(Stdio::null()).process_group(0);
        Self::watch(command, false)
    }

    fn watch(mut command: Command, kept: bool) -> Result<Self> {
        let mut child = command.spawn().context("cannot start a process")?;
        let pid = child.id();
        let (tell, exit) = watch::channel(None);
        std::thread::Builder::new()
            .name("byrnie-wait".to_owned())
            .stack_size(64 * 1024)
            .spawn(move || {
                let exit = child.wait().map_or(Exit::Status(1), |status| match (status.code(), status.signal()) {
                    (Some(code), _) => Exit::Status(code),
                    (None, Some(signal)) => Exit::Signal(signal),
                    (None, None) => Exit::Status(1),
                });
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
    tie(Signal::Kill)?;
    let now = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    if now != i32::try_from(parent).ok() {
        bail!("the process that started this one has ended");
    }
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

/// This binary again, to become (or keep) a program below this process.
pub(super) fn own_command(program: &OsString, args: &[OsString], how: &[&str]) -> Result<Command> {
    let own = std::env::current_exe().context("cannot find this binary's own path")?;
    let mut command = Command::new(own);
    command.arg("child").args(how).arg("--parent").arg(std::process::id().to_string()).arg("--");
    command.arg(program).args(args).env_remove(crate::globals::TRANSACTIONS);
    means::pass_on(&mut command);
    Ok(command)
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
