// SPDX-License-Identifier: Apache-2.0
//! The coordinator: which transactions run here, and the way to each. A transaction that is asked for and
//! doesn't run is read from the journal; one that hasn't ended is set going by that.

use super::actor::{self, Handle, Message, Sight};
use super::audit::Audit;
use super::authorize::Doorkeeper;
use super::dispatch::Lanes;
use super::metrics::Counts;
use super::problem::Problem;
use super::{Caller, Outbound};
use crate::State;
use byrnie_base::{Rng, Text, Timestamp};
use byrnie_model::code;
use byrnie_net::runtime::{self, Shutdown};
use byrnie_saga::machine::State as Standing;
use byrnie_saga::{Ask, Entry, Machine, Phase, Spec};
use byrnie_store::{Append, Journal, Value};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// Most transactions that run at once; more are refused until some have ended.
const LIVE_MAX: usize = 100_000;
/// Pause before a transaction whose entry couldn't be written is read again.
const RELOAD_PAUSE: Duration = Duration::from_secs(1);
/// How often a transaction that ends at the same moment is looked for anew.
const LOOKS_MAX: usize = 3;

/// Coordinates transactions.
pub struct Coordinator {
    /// What all roles share.
    pub(super) state: Arc<State>,
    pub(super) journal: Arc<dyn Journal>,
    pub(super) outbound: watch::Sender<Option<Arc<dyn Outbound>>>,
    pub(super) doorkeeper: Doorkeeper,
    pub(super) lanes: Lanes,
    pub(super) audit: Audit,
    pub(super) counts: Counts,
    pub(super) shutdown: Shutdown,
    live: Mutex<HashMap<Text, Handle>>,
    dice: Mutex<Rng>,
}

impl Coordinator {
    /// A coordinator over `journal` that calls nobody yet. `seed` is for ids and pauses.
    pub fn new(state: Arc<State>, journal: Arc<dyn Journal>, seed: u64, shutdown: Shutdown) -> Arc<Self> {
        Arc::new(Self {
            state,
            journal,
            outbound: watch::Sender::new(None),
            doorkeeper: Doorkeeper::default(),
            lanes: Lanes::default(),
            audit: Audit::default(),
            counts: Counts::default(),
            shutdown,
            live: Mutex::default(),
            dice: Mutex::new(Rng::new(seed)),
        })
    }

    /// Goes on with what was begun before a crash, by way of `outbound`, and begins to call.
    pub fn connect(self: &Arc<Self>, outbound: Arc<dyn Outbound>) {
        self.outbound.send_replace(Some(outbound));
        runtime::spawn("transactions", super::recover::run(Arc::clone(self)));
    }

    pub(super) fn roll(&self) -> u64 {
        self.dice.lock().unwrap_or_else(PoisonError::into_inner).next_u64()
    }

    pub(super) fn live(&self) -> MutexGuard<'_, HashMap<Text, Handle>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new id, greater than those before it by the time (RFC 9562, version 7).
    pub(super) fn new_id(&self) -> Text {
        let millis = self.state.now().wall.as_millis() & 0xffff_ffff_ffff;
        let (one, two) = (self.roll(), self.roll());
        let (a, b) = (one & 0xfff, two >> 2);
        format!(
            "{:08x}-{:04x}-7{a:03x}-{:04x}-{:012x}",
            millis >> 16,
            millis & 0xffff,
            0x8000 | (b >> 48),
            b & 0xffff_ffff_ffff
        )
        .into()
    }

    /// Accepts a transaction, durably. The same id with the same content is the same transaction; whether it's
    /// new is told.
    pub(super) async fn begin(self: &Arc<Self>, id: Option<Text>, mut spec: Spec) -> Result<(Text, bool), Problem> {
        if let Some(id) = &id
            && let Some(sight) = self.find(id).await?
        {
            return same(id, &sight.state, &spec).map(|()| (id.clone(), false));
        }
        super::nest::judge(self, &mut spec)?;
        self.doorkeeper.admits_all(&self.state, &spec)?;
        if self.live().len() >= LIVE_MAX {
            let detail = format!("{LIVE_MAX} transactions run already");
            return Err(Problem::new(503, &code::TXN_JOURNAL, detail));
        }
        let id = id.unwrap_or_else(|| self.new_id());
        let now = self.state.now().wall;
        let mode = spec.mode;
        let (machine, entry) = Machine::begin(spec.clone(), now);
        let append = Append {
            id: id.clone(),
            after: 0,
            entries: vec![Value::from(entry.encode())],
            summary: super::view::summary(machine.state()),
            ended: None,
        };
        match self.journal.append(append).await {
            Ok(()) => {}
            // Somebody began it at the same moment.
            Err(byrnie_store::Error::Conflict { .. }) => {
                let sight = self.find(&id).await?.ok_or_else(|| Problem::absent(&id))?;
                return same(&id, &sight.state, &spec).map(|()| (id, false));
            }
            Err(error) => return Err(error.into()),
        }
        self.counts.started(mode);
        self.start(&id, machine, 1);
        Ok((id, true))
    }

    /// Sets a transaction going, unless it goes already.
    fn start(self: &Arc<Self>, id: &Text, machine: Machine, entries: u32) -> Handle {
        let mut live = self.live();
        if let Some(handle) = live.get(id) {
            return handle.clone();
        }
        let handle = actor::spawn(Arc::clone(self), id.clone(), machine, entries);
        live.insert(id.clone(), handle.clone());
        handle
    }

    /// Reads a transaction; one that hasn't ended goes on by that.
    pub(super) async fn load(self: &Arc<Self>, id: &Text) -> Result<Option<Loaded>, Problem> {
        if let Some(handle) = self.live().get(id) {
            return Ok(Some(Loaded::Live(handle.clone())));
        }
        let entries = self.history(id).await?;
        if entries.is_empty() {
            return Ok(None);
        }
        let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        let unreadable = |error: byrnie_saga::journal::Error| Problem::new(500, &code::TXN_JOURNAL, error.to_string());
        let machine = Machine::replay(entries).map_err(unreadable)?;
        if let Phase::Ended(_) = machine.state().phase {
            return Ok(Some(Loaded::Ended(Box::new(machine))));
        }
        Ok(Some(Loaded::Live(self.start(id, machine, count))))
    }

    /// Every entry of a transaction.
    pub(super) async fn history(&self, id: &Text) -> Result<Vec<Entry>, Problem> {
        let unreadable = |error: byrnie_saga::journal::Error| Problem::new(500, &code::TXN_JOURNAL, error.to_string());
        let values = self.journal.read(id).await?;
        values.iter().map(|value| Entry::decode(value).map_err(unreadable)).collect()
    }

    /// How a transaction stands.
    pub(super) async fn find(self: &Arc<Self>, id: &Text) -> Result<Option<Arc<Sight>>, Problem> {
        Ok(match self.load(id).await? {
            None => None,
            Some(Loaded::Live(handle)) => Some(handle.sight.borrow().clone()),
            Some(Loaded::Ended(machine)) => Some(Arc::new(Sight::of(&machine, 0))),
        })
    }

    /// Asks something of a transaction, and answers once it is durable.
    pub(super) async fn ask(self: &Arc<Self>, id: &Text, ask: Ask, by: &Caller) -> Result<(), Problem> {
        self.ask_by(id, ask, &by.name()).await
    }

    /// The same, by whoever is written down as having asked.
    pub(super) async fn ask_by(self: &Arc<Self>, id: &Text, ask: Ask, by: &Text) -> Result<(), Problem> {
        for _ in 0..LOOKS_MAX {
            let handle = match self.load(id).await? {
                None => return Err(Problem::absent(id)),
                Some(Loaded::Ended(mut machine)) => {
                    let event = byrnie_saga::Event::Ask { ask, by: by.clone() };
                    return machine.on(self.state.now().wall, event).map(|_| ()).map_err(Problem::from);
                }
                Some(Loaded::Live(handle)) => handle,
            };
            let (reply, answer) = oneshot::channel();
            let message = Message::Ask { ask: ask.clone(), by: by.clone(), reply };
            if handle.mailbox.send(message).await.is_ok()
                && let Ok(answer) = answer.await
            {
                return answer;
            }
            // It ended at this moment: the journal knows how.
            self.gone(id, &handle);
        }
        Err(Problem::new(503, &code::TXN_JOURNAL, format!("transaction {id} does not answer")))
    }

    /// How a transaction stands once nothing more happens by itself: it has ended, is open, held or stuck; or after `patience`.
    pub(super) async fn settled(self: &Arc<Self>, id: &Text, patience: Duration) -> Result<Arc<Sight>, Problem> {
        let mut handle = match self.load(id).await? {
            None => return Err(Problem::absent(id)),
            Some(Loaded::Ended(machine)) => return Ok(Arc::new(Sight::of(&machine, 0))),
            Some(Loaded::Live(handle)) => handle,
        };
        let settled = |sight: &Arc<Sight>| {
            matches!(sight.state.phase, Phase::Ended(_) | Phase::Open | Phase::Held) || sight.state.is_stuck()
        };
        // An end of the sender is an end of the transaction; that time is over is no error.
        let _ = runtime::timeout(patience, handle.sight.wait_for(settled)).await;
        let sight = handle.sight.borrow().clone();
        Ok(sight)
    }

    /// Forgets a transaction that doesn't run any more.
    pub(super) fn gone(&self, id: &Text, handle: &Handle) {
        let mut live = self.live();
        if live.get(id).is_some_and(|known| known.mailbox.same_channel(&handle.mailbox)) {
            live.remove(id);
        }
    }

    /// Reads a transaction again whose entry couldn't be written, until that succeeds.
    pub(super) async fn reload(self: Arc<Self>, id: Text) {
        loop {
            runtime::sleep(RELOAD_PAUSE).await;
            if self.shutdown.is_over() || self.load(&id).await.is_ok() {
                return;
            }
        }
    }

    /// The moment, by the wall clock.
    pub(super) fn now(&self) -> Timestamp {
        self.state.now().wall
    }
}

/// A transaction as the journal or this process has it.
pub(super) enum Loaded {
    Live(Handle),
    Ended(Box<Machine>),
}

/// Whether a request for an id in use is for the same transaction.
fn same(id: &Text, known: &Standing, asked: &Spec) -> Result<(), Problem> {
    if known.spec.creator == asked.creator && known.spec.fingerprint == asked.fingerprint {
        return Ok(());
    }
    Err(Problem::new(422, &code::TXN_DIFFERS, format!("the id {id} belongs to another transaction")))
}
