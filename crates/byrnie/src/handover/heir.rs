// SPDX-License-Identifier: Apache-2.0
//! A proxy in a process of its own, as its parent sees it.

use super::{Ask, Charge, FORMAT, Tell, form, listen, millis, send};
use crate::failure::Failure;
use crate::globals::Globals;
use crate::supervise::{Exit, Process, Signal};
use byrnie_model::code;
use byrnie_net::local::Tether;
use byrnie_net::runtime;
use byrnie_proxy::Handed;
use std::ffi::OsStr;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long a new process may take until it serves.
const SERVES_MAX: Duration = Duration::from_secs(30);
/// How long a process may take for what needs no waiting, and beyond a deadline that it was given.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// A proxy in a process of its own. Dropping it ends it at once.
pub(super) struct Heir {
    process: Process,
    tether: Tether,
    tells: mpsc::Receiver<(Tell, Vec<Handed>)>,
    /// Of its binary.
    pub(super) version: String,
    /// It goes on without this value.
    stays: bool,
}

impl Heir {
    /// Starts `binary` as this proxy, at these listeners; comes back when it serves.
    ///
    /// # Errors
    /// Why it doesn't; it has been ended then.
    pub(super) async fn raise(
        binary: &OsStr,
        globals: &Globals,
        charge: &Charge,
        listeners: &[Handed],
    ) -> Result<Self, Failure> {
        let shown = binary.to_string_lossy();
        let failed = |what: String| Failure::new(code::HAND_OVER.id, what).at(&*shown).next(code::HAND_OVER.next);
        let (tether, other) = Tether::pair().map_err(|error| failed(error.to_string()))?;
        let process = Process::spawn_heir(binary, globals, FORMAT, other)
            .map_err(|error| failed(format!("it cannot be started: {error:#}")))?;
        let tells = tether.try_clone().and_then(listen).map_err(|error| failed(error.to_string()))?;
        let mut heir = Self { process, tether, tells, version: String::new(), stays: false };
        let charge = Box::new(charge.clone());
        if let Err(error) = send(&heir.tether, listeners, &[], |doors| form(&Ask::Begin { charge, doors })) {
            tracing::debug!(%error, "a new process was not told what to be");
        }
        let told = tokio::select! {
            biased;
            told = heir.tells.recv() => told,
            () = runtime::sleep(SERVES_MAX) => {
                return Err(failed(format!("it did not serve within {} s", SERVES_MAX.as_secs())));
            }
        };
        match told {
            Some((Tell::Serves { version }, _)) => {
                heir.version = version;
                Ok(heir)
            }
            Some((Tell::Refuses { code, detail, next }, _)) => Err(Failure::new(&code, detail).at(&*shown).next(next)),
            Some(_) => Err(failed("it answers something else than was asked".to_owned())),
            None => Err(failed(match heir.process.ended_within(ANSWER_MAX).await {
                Some(Exit::Status(2)) => {
                    "it does not know how to take over: it is older, or no byrnie (status 2)".to_owned()
                }
                Some(exit) => format!("it ended before it served ({exit}); what it said is in the log of this proxy"),
                None => "it does not answer".to_owned(),
            })),
        }
    }

    /// One that this process has already, from when it was another program.
    ///
    /// # Errors
    /// If threads have run out.
    pub(super) fn adopt(pid: u32, tether: Tether, version: String) -> anyhow::Result<Self> {
        let tells = tether.try_clone().and_then(listen)?;
        Ok(Self { process: Process::adopt(pid, false)?, tether, tells, version, stays: false })
    }

    /// Lets it be: what is needed to [`Self::adopt`] it.
    ///
    /// # Errors
    /// If the process is out of descriptors.
    pub(super) fn part(mut self) -> std::io::Result<Tether> {
        self.stays = true;
        self.tether.try_clone()
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits until it has ended.
    pub(super) async fn ended(&self) -> Exit {
        self.process.exited().await
    }

    fn say(&self, ask: &Ask) {
        // One that is gone is noticed by its end.
        let _ = form(ask).and_then(|ask| self.tether.send(&ask, &[]));
    }

    /// The next answer that `is` the one waited for.
    async fn answer<T>(&mut self, patience: Duration, is: impl Fn(Tell, Vec<Handed>) -> Option<T>) -> Option<T> {
        let answer = async {
            while let Some((tell, listeners)) = self.tells.recv().await {
                if let Some(found) = is(tell, listeners) {
                    return Some(found);
                }
            }
            None
        };
        runtime::timeout(patience, answer).await.ok().flatten()
    }

    /// Its open listeners; `None` if it doesn't answer.
    pub(super) async fn listeners(&mut self) -> Option<Vec<Handed>> {
        self.say(&Ask::Give);
        self.answer(ANSWER_MAX, |tell, listeners| matches!(tell, Tell::Given { .. }).then_some(listeners)).await
    }

    /// As [`byrnie_proxy::Running::hand_over`].
    pub(super) fn hand_over(&self, comes: bool) {
        self.say(&Ask::HandOver { comes });
    }

    /// As [`byrnie_proxy::Running::leave`].
    pub(super) async fn leave(&mut self, deadline: Duration) {
        self.say(&Ask::Leave { millis: millis(deadline) });
        self.answer(deadline + ANSWER_MAX, |tell, _| matches!(tell, Tell::Left).then_some(())).await;
    }

    /// As [`byrnie_proxy::Running::retire`].
    pub(super) async fn retire(self, deadline: Duration) -> bool {
        self.end(&Ask::Retire { millis: millis(deadline) }, deadline).await
    }

    /// As [`byrnie_proxy::Running::drain`].
    pub(super) async fn drain(self, deadline: Duration) -> bool {
        self.end(&Ask::Drain { millis: millis(deadline) }, deadline).await
    }

    async fn end(mut self, how: &Ask, deadline: Duration) -> bool {
        self.say(how);
        let whole = |tell, _| if let Tell::Ended { whole } = tell { Some(whole) } else { None };
        let whole = self.answer(deadline + ANSWER_MAX, whole).await.unwrap_or(false);
        self.process.ended_within(ANSWER_MAX).await;
        whole
    }
}

impl Drop for Heir {
    fn drop(&mut self) {
        if !self.stays {
            // Unless it has ended already.
            self.process.signal(Signal::Kill);
        }
    }
}
