// SPDX-License-Identifier: Apache-2.0
//! Signals that ask this process to end.

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

/// A request to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// What service supervisors send.
    Terminate,
    /// The terminal has gone.
    Hangup,
    /// Now, without asking.
    Kill,
}

impl Signal {
    /// The kernel's number.
    pub(crate) const fn number(self) -> rustix::process::Signal {
        match self {
            Self::Interrupt => rustix::process::Signal::INT,
            Self::Terminate => rustix::process::Signal::TERM,
            Self::Hangup => rustix::process::Signal::HUP,
            Self::Kill => rustix::process::Signal::KILL,
        }
    }
}

/// The signals that this process receives.
pub(crate) struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    /// Begins to listen; from now on these signals don't end the process by themselves.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn listen() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).context("cannot listen for signals")?,
            terminate: signal(SignalKind::terminate()).context("cannot listen for signals")?,
            hangup: signal(SignalKind::hangup()).context("cannot listen for signals")?,
        })
    }

    /// The next signal.
    pub(crate) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.terminate.recv() => Signal::Terminate,
            _ = self.hangup.recv() => Signal::Hangup,
        }
    }
}
