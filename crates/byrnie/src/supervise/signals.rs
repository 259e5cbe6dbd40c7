// SPDX-License-Identifier: Apache-2.0
//! Signals: those that ask to end, and those that are the program's business.

use anyhow::{Context, Result};
use std::task::Poll;
use tokio::signal::unix::{SignalKind, signal};

/// A signal that is handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// What service supervisors send.
    Terminate,
    /// The terminal has gone; to many programs: read your configuration again.
    Hangup,
    /// Ctrl-\; to some programs: end gently.
    Quit,
    /// What the program makes of it.
    User1,
    /// What the program makes of it.
    User2,
    /// Now, without asking.
    Kill,
    /// To a keeper: end everything now. Nobody sends it to a program by hand.
    KillAll,
}

impl Signal {
    /// The kernel's number.
    pub(crate) const fn number(self) -> rustix::process::Signal {
        match self {
            Self::Interrupt => rustix::process::Signal::INT,
            Self::Terminate => rustix::process::Signal::TERM,
            Self::Hangup => rustix::process::Signal::HUP,
            Self::Quit => rustix::process::Signal::QUIT,
            Self::User1 => rustix::process::Signal::USR1,
            Self::User2 => rustix::process::Signal::USR2,
            Self::Kill => rustix::process::Signal::KILL,
            Self::KillAll => rustix::process::Signal::VTALARM,
        }
    }

    /// Whether whoever sent it wants an end.
    pub(crate) const fn asks_to_end(self) -> bool {
        matches!(self, Self::Interrupt | Self::Terminate | Self::Kill | Self::KillAll)
    }
}

/// The signals that this process receives.
pub(crate) struct Signals(Vec<(Signal, tokio::signal::unix::Signal)>);

/// Those that are listened for.
const HEARD: [Signal; 7] =
    [Signal::Interrupt, Signal::Terminate, Signal::Hangup, Signal::Quit, Signal::User1, Signal::User2, Signal::KillAll];

impl Signals {
    /// Begins to listen; from now on these signals don't end the process by themselves.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) fn listen() -> Result<Self> {
        let listen = |which: Signal| {
            let heard = signal(SignalKind::from_raw(which.number().as_raw())).context("cannot listen for signals")?;
            Ok((which, heard))
        };
        HEARD.into_iter().map(listen).collect::<Result<Vec<_>>>().map(Self)
    }

    /// The next signal.
    pub(crate) async fn next(&mut self) -> Signal {
        std::future::poll_fn(|cx| {
            let came = self.0.iter_mut().find_map(|(which, heard)| heard.poll_recv(cx).is_ready().then_some(*which));
            came.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// The next signal that asks to end.
    pub(crate) async fn ended(&mut self) -> Signal {
        loop {
            let signal = self.next().await;
            if signal.asks_to_end() || signal == Signal::Hangup {
                return signal;
            }
        }
    }
}
