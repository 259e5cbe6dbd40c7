// SPDX-License-Identifier: Apache-2.0
//! The process between `run` and its program. It adopts whatever the program starts and leaves behind, in
//! whatever process group or session, and ends all of it when the program ends or when `run` dies,
//! however that dies. It does nothing else, so that nothing ends it.

use super::process::{STATUS_NOT_STARTED, own_command, tie};
use super::{Signal, Signals, Terminal};
use anyhow::{Context, Result, bail};
use byrnie_net::runtime;
use rustix::process::{Pid, WaitOptions, WaitStatus};
use std::ffi::OsString;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// How long what the program left behind may take to end by itself after it was asked to.
const END_PATIENCE: Duration = Duration::from_secs(2);
/// How long to look again and again for what is left: a process in the kernel's hands may take a while.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// How often it's looked.
const GLANCE: Duration = Duration::from_millis(10);

/// Runs `program` below this process for `parent`; answers with its status as a shell would show it.
///
/// # Errors
/// If the parent is gone already, or the kernel refuses.
pub(crate) fn keep(parent: u32, program: &OsString, args: &[OsString]) -> Result<u8> {
    // Hangup rather than kill: this process has to outlive its parent for the time that the rest takes.
    tie(Signal::Hangup)?;
    adopt()?;
    if is_orphan(parent) {
        bail!("the process that started this one has ended");
    }
    runtime::block_on(watch(parent, program, args)).context("cannot start the runtime")?
}

async fn watch(parent: u32, program: &OsString, args: &[OsString]) -> Result<u8> {
    let mut signals = Signals::listen()?;
    let mut deaths = signal(SignalKind::child()).context("cannot listen for signals")?;
    let started = own_command(program, args, &[]).spawn().context("cannot start a process")?;
    let pid = i32::try_from(started.id()).ok().and_then(Pid::from_raw).context("a process without an id")?;
    let status = loop {
        if let Some(status) = reap(pid) {
            break status;
        }
        tokio::select! {
            _ = deaths.recv() => {}
            signal = signals.next() => {
                if signal == Signal::KillAll || is_orphan(parent) {
                    end_all(rustix::process::Signal::KILL, KILL_PATIENCE).await;
                    return Ok(128 + 9);
                }
                if signal != Signal::Interrupt || !Terminal::interrupts_all() {
                    // It may have ended this very moment: then there's nothing left to tell it.
                    let _ = rustix::process::kill_process(pid, signal.number());
                }
            }
        }
    };
    if !end_all(rustix::process::Signal::TERM, END_PATIENCE).await {
        end_all(rustix::process::Signal::KILL, KILL_PATIENCE).await;
    }
    Ok(u8::try_from(status).unwrap_or(1))
}

/// Takes the dead from the kernel's list. The status of `main` if it's among them.
fn reap(main: Pid) -> Option<i32> {
    let mut found = None;
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if pid == main {
            found = Some(shell_status(status));
        }
    }
    found
}

fn shell_status(status: WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => STATUS_NOT_STARTED,
    }
}

/// Sends a signal to everything below this process until nothing is left, for `patience` at most. Whether
/// nothing is left. What one of them starts meanwhile, or leaves behind when it ends, is found the next time.
async fn end_all(with: rustix::process::Signal, patience: Duration) -> bool {
    let began = runtime::now().mono;
    let mut told = std::collections::BTreeSet::new();
    loop {
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
        let left = descendants(std::process::id());
        if left.is_empty() {
            return true;
        }
        for pid in left {
            // To be asked once is enough; to be killed, one may have to be seen stopped or new.
            if told.insert(pid) || with == rustix::process::Signal::KILL {
                let _ = Pid::from_raw(pid).map(|pid| rustix::process::kill_process(pid, with));
            }
        }
        if runtime::now().mono.since(began) >= patience {
            return false;
        }
        runtime::sleep(GLANCE).await;
    }
}

/// Every process below `pid` that hasn't ended.
fn descendants(pid: u32) -> Vec<i32> {
    let mut found = Vec::new();
    let mut ask = vec![pid];
    while let Some(parent) = ask.pop() {
        let Ok(threads) = std::fs::read_dir(format!("/proc/{parent}/task")) else { continue };
        for thread in threads.flatten() {
            let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            for id in children.split_whitespace().filter_map(|id| id.parse::<u32>().ok()) {
                ask.push(id);
                found.extend(i32::try_from(id).ok());
            }
        }
    }
    found
}

/// Whether the process that started this one has ended.
fn is_orphan(parent: u32) -> bool {
    let now = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    now != i32::try_from(parent).ok()
}

/// Lets this process be the parent of whatever loses its own below it.
#[cfg(target_os = "linux")]
fn adopt() -> Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).context("cannot adopt orphans")
}

#[cfg(not(target_os = "linux"))]
fn adopt() -> Result<()> {
    Ok(())
}
