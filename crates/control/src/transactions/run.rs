// SPDX-License-Identifier: Apache-2.0
//! The coordinator: which transactions run here, and the way to each. A transaction that is asked for and
//! doesn't run is read from the journal; one that hasn't ended is set going by that, if its shard is held here.

use super::actor::{self, Handle, Message, Sight};
use super::audit::Audit;
use super::authorize::Doorkeeper;
use super::dispatch::Lanes;
use super::letters;
use super::metrics::Counts;
use super::problem::Problem;
use super::reach::Silent;
use super::shards::{Office, Place, Terms};
use super::{Caller, Outbound};
use crate::State;
use byrnie_base::{Rng, Text, Timestamp};
use byrnie_model::code;
use byrnie_net::runtime::{self, Shutdown};
use byrnie_saga::machine::State as Standing;
use byrnie_saga::{Ask, Entry, Machine, Phase, Spec, Term};
use byrnie_store::{Append, Journal, Value};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// Most transactions that run at once; more are refused until some have ended.
const LIVE_MAX: usize = 100_000;
/// Pause before a transaction whose entry couldn't be written is read again.
const RELOAD_PAUSE: Duration = Duration::from_secs(1);
/// How often a transaction that ends, or changes hands, at the same moment is looked for anew.
const LOOKS_MAX: usize = 3;
/// Pauses between two looks at a transaction that another coordinator drives: the first, and the longest.
const WATCH: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

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
    pub(super) silent: Silent,
    pub(super) shutdown: Shutdown,
    pub(super) terms: Terms,
    live: Mutex<HashMap<Text, Handle>>,
    dice: Mutex<Rng>,
}

impl Coordinator {
    /// A coordinator over `journal` that calls nobody yet. `seed` is for ids and pauses.
    pub fn new(state: Arc<State>, journal: Arc<dyn Journal>, seed: u64, shutdown: Shutdown) -> Arc<Self> {
        let mut dice = Rng::new(seed);
        Arc::new(Self {
            terms: Terms::new(journal.lease(), dice.next_u64()),
            state,
            journal,
            outbound: watch::Sender::new(None),
            doorkeeper: Doorkeeper::default(),
            lanes: Lanes::default(),
            audit: Audit::default(),
            counts: Counts::default(),
            silent: Silent::default(),
            shutdown,
            live: Mutex::default(),
            dice: Mutex::new(dice),
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
    pub(super) async fn begin(
        self: &Arc<Self>,
        id: Option<Text>,
        spec: Spec,
        trace: Option<Text>,
    ) -> Result<(Text, bool), Problem> {
        self.begin_in(None, id, spec, trace).await
    }

    /// The same, in the given term or not at all.
    pub(super) async fn begin_in(
        self: &Arc<Self>,
        given: Option<Office>,
        id: Option<Text>,
        mut spec: Spec,
        trace: Option<Text>,
    ) -> Result<(Text, bool), Problem> {
        // That an id is in use is seen when it's written: most are not, and a look at the journal would wait for others' writes.
        if let Err(problem) = self.admit(&mut spec) {
            return match &id {
                Some(id) => self.again(id, &spec).await?.ok_or(problem),
                None => Err(problem),
            };
        }
        if let Some(known) = id.as_ref().filter(|id| self.live().contains_key(*id))
            && let Some(found) = self.again(known, &spec).await?
        {
            return Ok(found);
        }
        let id = id.unwrap_or_else(|| self.new_id());
        let trace = trace.or_else(|| self.new_trace(&id, &spec));
        for _ in 0..LOOKS_MAX {
            let office = match &given {
                Some(office) => office.clone(),
                None => self.office().await?,
            };
            let (machine, entry) = Machine::begin_in(spec.clone(), trace.clone(), self.now());
            let append = Append {
                term: office.term,
                id: id.clone(),
                after: 0,
                entries: vec![Value::from(entry.encode())],
                summary: super::view::summary(machine.state()),
                ended: None,
            };
            match self.write_first(append, office, machine).await {
                Ok(()) => return Ok((id, true)),
                // It was begun before.
                Err(byrnie_store::Error::Conflict { .. }) => {
                    return self.again(&id, &spec).await?.ok_or_else(|| Problem::absent(&id));
                }
                // Another shard will do.
                Err(byrnie_store::Error::Deposed { .. }) if given.is_none() => {}
                // Should it have been written, whoever holds the shard next finds it: to ask for it by another id would be to ask for two.
                Err(error @ (byrnie_store::Error::Uncertain(_) | byrnie_store::Error::Doubtful(_))) => {
                    let detail = format!("{error}; it may have been begun, as {id}: ask for it by that id again");
                    return Err(Problem { detail, ..error.into() });
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(Problem::new(503, &code::TXN_JOURNAL, "the shards of transactions change hands too often"))
    }

    /// Writes the first entry of a transaction and sets it going. Whoever asked may go away meanwhile: what is written would
    /// else be begun by the next coordinator, perhaps days later.
    async fn write_first(
        self: &Arc<Self>,
        append: Append,
        office: Office,
        machine: Machine,
    ) -> Result<(), byrnie_store::Error> {
        let (reply, answer) = oneshot::channel();
        let (coordinator, id) = (Arc::clone(self), append.id.clone());
        let written = self.journal.append(append);
        runtime::spawn("transaction begin", async move {
            let written = coordinator.noted(written.await);
            match &written {
                Ok(()) => {
                    coordinator.counts.started(machine.state().spec.mode);
                    coordinator.start(&id, office, machine, 1);
                }
                Err(error) => drop(coordinator.shaken(office.term, error)),
            }
            // Whoever no longer waits doesn't need the answer.
            let _ = reply.send(written);
        });
        answer.await.unwrap_or(Err(byrnie_store::Error::Closed))
    }

    /// Whether a transaction may be begun now.
    fn admit(&self, spec: &mut Spec) -> Result<(), Problem> {
        super::nest::judge(self, spec)?;
        self.doorkeeper.authorize_all(&self.state, spec)?;
        if self.live().len() >= LIVE_MAX {
            let detail = format!("{LIVE_MAX} transactions run already");
            return Err(Problem::new(503, &code::TXN_JOURNAL, detail));
        }
        Ok(())
    }

    /// The transaction that has this id, if there is one: the same as is asked for, or an error.
    async fn again(self: &Arc<Self>, id: &Text, spec: &Spec) -> Result<Option<(Text, bool)>, Problem> {
        let Some(sight) = self.find(id).await? else { return Ok(None) };
        same(id, &sight.state, spec).map(|()| Some((id.clone(), false)))
    }

    /// Sets a transaction going, unless it goes already.
    fn start(self: &Arc<Self>, id: &Text, office: Office, machine: Machine, entries: u32) -> Handle {
        let mut live = self.live();
        if let Some(handle) = live.get(id).filter(|handle| handle.term == office.term) {
            return handle.clone();
        }
        let handle = actor::spawn(Arc::clone(self), office, id.clone(), machine, entries);
        live.insert(id.clone(), handle.clone());
        handle
    }

    /// Reads a transaction; one that hasn't ended goes on by that, if it's to be driven here.
    pub(super) async fn load(self: &Arc<Self>, id: &Text) -> Result<Option<Loaded>, Problem> {
        for _ in 0..LOOKS_MAX {
            if let Some(handle) = self.live().get(id) {
                return Ok(Some(Loaded::Live(handle.clone())));
            }
            match self.read(id).await? {
                Some(Found::Nothing) => return Ok(None),
                Some(Found::Loaded(loaded)) => return Ok(Some(loaded)),
                // Nobody else can: it hasn't taken its shard yet.
                None if self.journal.lease().is_none() => drop(self.office().await?),
                None => {}
            }
        }
        Err(Problem::new(503, &code::TXN_JOURNAL, format!("transaction {id} changes hands")))
    }

    /// Reads a transaction from the journal, once; that is on its way when this returns. None if it may have changed hands
    /// meanwhile, or its shard isn't taken yet.
    pub(super) fn read(self: &Arc<Self>, id: &Text) -> impl Future<Output = Result<Option<Found>, Problem>> + use<> {
        let (coordinator, id, age, reading) = (Arc::clone(self), id.clone(), self.terms.age(), self.journal.read(id));
        async move {
            let story = reading.await?;
            if story.entries.is_empty() {
                return Ok(Some(Found::Nothing));
            }
            let count = u32::try_from(story.entries.len()).unwrap_or(u32::MAX);
            let machine = Machine::replay(decode(&story.entries)?).map_err(unreadable)?;
            if let Phase::Ended(_) = machine.state().phase {
                return Ok(Some(Found::Loaded(Loaded::Ended(Box::new(machine)))));
            }
            Ok(match coordinator.terms.place(story.shard, age, coordinator.state.now().mono) {
                Place::Here(office) => {
                    Some(Found::Loaded(Loaded::Live(coordinator.start(&id, office, machine, count))))
                }
                Place::Elsewhere if coordinator.journal.lease().is_none() => None,
                Place::Elsewhere => Some(Found::Loaded(Loaded::Elsewhere(Box::new(machine), story.shard))),
                // Whoever had it may have written since it was read.
                Place::New => None,
            })
        }
    }

    /// Every entry of a transaction.
    pub(super) async fn history(&self, id: &Text) -> Result<Vec<Entry>, Problem> {
        decode(&self.journal.read(id).await?.entries)
    }

    /// How a transaction stands.
    pub(super) async fn find(self: &Arc<Self>, id: &Text) -> Result<Option<Arc<Sight>>, Problem> {
        Ok(match self.load(id).await? {
            None => None,
            Some(Loaded::Live(handle)) => Some(handle.sight.borrow().clone()),
            Some(Loaded::Ended(machine) | Loaded::Elsewhere(machine, _)) => Some(Arc::new(Sight::of(&machine, 0))),
        })
    }

    /// Asks something of a transaction, and answers once it is durable.
    pub(super) async fn ask(self: &Arc<Self>, id: &Text, ask: Ask, by: &Caller) -> Result<(), Problem> {
        self.ask_by(id, ask, by.name()).await
    }

    /// The same, by whoever is written down as having asked.
    pub(super) async fn ask_by(self: &Arc<Self>, id: &Text, ask: Ask, by: Text) -> Result<(), Problem> {
        match self.ask_here(id, ask.clone(), by.clone()).await? {
            Some(Heard::Answered) => Ok(()),
            Some(Heard::Elsewhere(shard)) => letters::ask(self, shard, id, ask, by).await,
            None => Err(Problem::new(503, &code::TXN_JOURNAL, format!("transaction {id} does not answer"))),
        }
    }

    /// The same, if it is driven here, or has ended.
    pub(super) async fn ask_here(self: &Arc<Self>, id: &Text, ask: Ask, by: Text) -> Result<Option<Heard>, Problem> {
        for _ in 0..LOOKS_MAX {
            let handle = match self.load(id).await? {
                None => return Err(Problem::absent(id)),
                Some(Loaded::Ended(mut machine)) => {
                    let event = byrnie_saga::Event::Ask { ask, by };
                    let answer = machine.on(self.state.now().wall, event);
                    return answer.map(|_| Some(Heard::Answered)).map_err(Problem::from);
                }
                Some(Loaded::Elsewhere(_, shard)) => return Ok(Some(Heard::Elsewhere(shard))),
                Some(Loaded::Live(handle)) => handle,
            };
            let (reply, answer) = oneshot::channel();
            let message = Box::new(Message::Ask { ask: ask.clone(), by: by.clone(), reply });
            if handle.mailbox.send(message).await.is_ok()
                && let Ok(answer) = answer.await
            {
                return answer.map(|()| Some(Heard::Answered));
            }
            // It ended at this moment, or is driven by another now: the journal knows.
            self.gone(id, &handle);
        }
        Ok(None)
    }

    /// How a transaction stands once nothing more happens by itself: it has ended, is open, held or stuck; or after `patience`.
    pub(super) async fn settled(self: &Arc<Self>, id: &Text, patience: Duration) -> Result<Arc<Sight>, Problem> {
        let end = self.state.now().mono + patience;
        let (mut pause, longest) = WATCH;
        loop {
            let left = end.since(self.state.now().mono);
            match self.load(id).await? {
                None => return Err(Problem::absent(id)),
                Some(Loaded::Ended(machine)) => return Ok(Arc::new(Sight::of(&machine, 0))),
                Some(Loaded::Live(mut handle)) => {
                    let seen = runtime::timeout(left, handle.sight.wait_for(|sight| sight.is_settled()));
                    let ended = matches!(seen.await, Ok(Err(_)));
                    let sight = handle.sight.borrow().clone();
                    // That the sender is gone is the transaction's end, unless another drives it now.
                    if sight.is_settled() || !ended || left.is_zero() {
                        return Ok(sight);
                    }
                    self.gone(id, &handle);
                }
                Some(Loaded::Elsewhere(machine, _)) => {
                    let sight = Sight::of(&machine, 0);
                    if sight.is_settled() || left.is_zero() {
                        return Ok(Arc::new(sight));
                    }
                    runtime::sleep(pause.min(left)).await;
                    pause = (2 * pause).min(longest);
                }
            }
        }
    }

    /// Forgets a transaction that doesn't run any more.
    pub(super) fn gone(&self, id: &Text, handle: &Handle) {
        let mut live = self.live();
        if live.get(id).is_some_and(|known| known.mailbox.same_channel(&handle.mailbox)) {
            live.remove(id);
        }
    }

    /// Forgets what ran in terms that are over.
    pub(super) fn dismiss(&self, lost: &[Term]) {
        if !lost.is_empty() {
            self.live().retain(|_, handle| !lost.contains(&handle.term));
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

/// What the journal has by an id.
pub(super) enum Found {
    Nothing,
    Loaded(Loaded),
}

/// A transaction as the journal or this process has it.
pub(super) enum Loaded {
    Live(Handle),
    Ended(Box<Machine>),
    /// Whoever holds this shard drives it.
    Elsewhere(Box<Machine>, u16),
}

/// What became of a question.
pub(super) enum Heard {
    Answered,
    /// It is for whoever holds this shard.
    Elsewhere(u16),
}

fn decode(values: &[Value]) -> Result<Vec<Entry>, Problem> {
    values.iter().map(|value| Entry::decode(value).map_err(unreadable)).collect()
}

fn unreadable(error: byrnie_saga::journal::Error) -> Problem {
    Problem::new(500, &code::TXN_JOURNAL, error.to_string())
}

/// Whether a request for an id in use is for the same transaction.
fn same(id: &Text, known: &Standing, asked: &Spec) -> Result<(), Problem> {
    if known.spec.creator == asked.creator && known.spec.fingerprint == asked.fingerprint {
        return Ok(());
    }
    Err(Problem::new(422, &code::TXN_DIFFERS, format!("the id {id} belongs to another transaction")))
}
