// SPDX-License-Identifier: Apache-2.0
//! One child process.

use super::Signal;
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use tokio::sync::watch;

/// A running child. Dropping it leaves the child running; the kernel ends it with this process.
pub(crate) struct Process {
    pid: u32,
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

/// Where a child's output goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Terminal {
    /// It shares this process' terminal and process group.
    Shared,
    /// It has a process group of its own and no input, so that Ctrl-C reaches only this process.
    Own,
}

impl Process {
    /// Starts `program` with `args` and the extra environment `vars`. Call it from the main thread.
    ///
    /// # Errors
    /// If this binary can't be started again, or threads have run out. A program that doesn't exist
    /// shows as exit status 127 with a message on standard error.
    pub(crate) fn spawn(
        program: &OsString,
        args: &[OsString],
        vars: &[(String, String)],
        output: Option<std::fs::File>,
    ) -> Result<Self> {
        let terminal = if output.is_some() { Terminal::Own } else { Terminal::Shared };
        let own = std::env::current_exe().context("cannot find this binary's own path")?;
        let mut command = Command::new(own);
        command.arg("child").arg("--parent").arg(std::process::id().to_string()).arg("--");
        command.arg(program).args(args).envs(vars.iter().map(|(name, value)| (name, value)));
        if let Some(file) = output {
            let copy = file.try_clone().context("cannot share the log file")?;
            command.stdout(file).stderr(copy);
        }
        if terminal == Terminal::Own {
            command.stdin(Stdio::null()).process_group(0);
        }
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
        Ok(Self { pid, exit })
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
    tie_to_parent()?;
    let now = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    if now != i32::try_from(parent).ok() {
        bail!("the process that started this one has ended");
    }
    let error = Command::new(program).args(args).exec();
    eprintln!("byrnie: cannot start {}: {error}", program.to_string_lossy());
    std::process::exit(if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 });
}

#[cfg(target_os = "linux")]
fn tie_to_parent() -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .context("cannot tie a child to its parent")
}

#[cfg(not(target_os = "linux"))]
fn tie_to_parent() -> Result<()> {
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

/// Whether no process has this id.
pub(crate) fn has_ended(pid: i32) -> bool {
    let pid = rustix::process::Pid::from_raw(pid);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH))
}
