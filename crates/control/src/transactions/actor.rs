// SPDX-License-Identifier: Apache-2.0
//! One transaction that runs: a task that hands its machine one event after the other and performs the
//! effects in their order. What depends on an entry waits until it is durable; what others see of the
//! transaction is what is durable.

use super::dispatch;
use super::problem::Problem;
use super::run::Coordinator;
use super::shards::Office;
use byrnie_base::Text;
use byrnie_net::runtime;
use byrnie_saga::machine::State as Standing;
use byrnie_saga::{Ask, Effect, Entry, Event, Machine, Order, Outcome, Phase, Reply, Target, Term};
use byrnie_store::{Append, Value};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Messages that may wait for one transaction.
const MAILBOX_MAX: usize = 512;

/// Messages go boxed: a mailbox makes room for many at once.
pub(super) type Mailbox = mpsc::Sender<Box<Message>>;

/// The way to a transaction that runs.
#[derive(Clone)]
pub(super) struct Handle {
    /// In which it runs.
    pub(super) term: Term,
    pub(super) mailbox: Mailbox,
    pub(super) sight: watch::Receiver<Arc<Sight>>,
}

/// What others see of a transaction: what is durable, and what is tried at the moment.
#[derive(Clone, Debug)]
pub(super) struct Sight {
    pub(super) state: Standing,
    /// Calls of each branch's present op, and whether one is under way.
    pub(super) calls: Vec<(u32, bool)>,
    /// What is waited for.
    pub(super) waits: Vec<Wait>,
    /// When the first of these is tried again.
    pub(super) due: Option<byrnie_base::Timestamp>,
}

/// A place whose calls wait for their next try.
#[derive(Clone, Debug)]
pub(super) struct Wait {
    /// Of [`Target::place`].
    pub(super) place: Text,
    /// An address, not a service.
    pub(super) raw: bool,
    /// How often it is called is limited.
    pub(super) limited: bool,
}

impl Sight {
    pub(super) fn of(machine: &Machine, _entries: u32) -> Self {
        let state = machine.state().clone();
        let calls = (0..state.progress.len()).map(|at| (machine.attempts(at), machine.is_calling(at))).collect();
        let wait = |(target, limited): (&Target, bool)| Wait { place: target.place().into(), raw: target.raw, limited };
        Self { calls, waits: machine.waits_for().map(wait).collect(), due: machine.next_try(), state }
    }

    /// Whether nothing more happens by itself: it has ended, is open, held or stuck.
    pub(super) fn is_settled(&self) -> bool {
        matches!(self.state.phase, Phase::Ended(_) | Phase::Open | Phase::Held) || self.state.is_stuck()
    }
}

/// Something for a transaction.
pub(super) enum Message {
    /// Somebody asks.
    Ask { ask: Ask, by: Text, reply: oneshot::Sender<Result<(), Problem>> },
    /// Something happened.
    Event(Event),
}

struct Actor {
    coordinator: Arc<Coordinator>,
    office: Office,
    id: Text,
    machine: Machine,
    /// Entries written, or on their way.
    entries: u32,
    own: mpsc::WeakSender<Box<Message>>,
    sight: watch::Sender<Arc<Sight>>,
    wake: Option<byrnie_base::Timestamp>,
}

/// Starts the task of a transaction that has `entries` entries in the journal. It ends with its office.
pub(super) fn spawn(coordinator: Arc<Coordinator>, office: Office, id: Text, machine: Machine, entries: u32) -> Handle {
    let (mailbox, messages) = mpsc::channel(MAILBOX_MAX);
    let (sight, seen) = watch::channel(Arc::new(Sight::of(&machine, entries)));
    let own = mailbox.downgrade();
    let handle = Handle { term: office.term, mailbox, sight: seen };
    let actor = Actor { coordinator, office, id, machine, entries, own, sight, wake: None };
    let kept = handle.clone();
    runtime::spawn("transaction", actor.run(messages, kept));
    handle
}

impl Actor {
    async fn run(mut self, mut messages: mpsc::Receiver<Box<Message>>, handle: Handle) {
        let mut shutdown = self.coordinator.shutdown.clone();
        let mut over = self.office.over.clone();
        let lived = tokio::select! {
            lived = runtime::catch("transaction", self.live(&mut messages)) => lived,
            () = shutdown.wait() => return,
            // Somebody else drives it now, or will.
            () = over.wait() => Ok(Ok(())),
        };
        self.coordinator.gone(&self.id, &handle);
        let stands = match lived {
            Ok(Ok(())) => false,
            Ok(Err(error)) => {
                let stands = !self.coordinator.shaken(self.office.term, &error);
                if stands {
                    tracing::debug!(id = %self.id, %error, "a transaction stands still, as its journal can't be written; it is read again");
                }
                stands
            }
            // It was told where it was caught.
            Err(runtime::Panicked) => true,
        };
        if stands {
            runtime::spawn("transaction reload", Arc::clone(&self.coordinator).reload(self.id.clone()));
        }
    }

    /// Comes back when the transaction has ended, or its entries can't be written.
    async fn live(&mut self, messages: &mut mpsc::Receiver<Box<Message>>) -> Result<(), byrnie_store::Error> {
        self.on(Event::Wake, None).await?;
        while !matches!(self.machine.state().phase, Phase::Ended(_)) {
            match self.next(messages).await {
                Message::Event(event) => self.on(event, None).await?,
                Message::Ask { ask, by, reply } => self.on(Event::Ask { ask, by }, Some(reply)).await?,
            }
        }
        Ok(())
    }

    async fn next(&self, messages: &mut mpsc::Receiver<Box<Message>>) -> Message {
        let wake = async {
            match self.wake {
                Some(at) => {
                    let span = at.as_millis().saturating_sub(self.coordinator.now().as_millis());
                    runtime::sleep(Duration::from_millis(span)).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(message) = messages.recv() => *message,
            () = wake => Message::Event(Event::Wake),
        }
    }

    async fn on(
        &mut self,
        event: Event,
        reply: Option<oneshot::Sender<Result<(), Problem>>>,
    ) -> Result<(), byrnie_store::Error> {
        let outcome = match self.machine.on(self.coordinator.now(), event) {
            Ok(effects) => self.perform(effects).await,
            Err(refusal) => {
                if let Some(reply) = reply {
                    // Whoever no longer waits doesn't need the answer.
                    let _ = reply.send(Err(refusal.into()));
                }
                return Ok(());
            }
        };
        if let Some(reply) = reply {
            let _ = reply.send(outcome.clone().map_err(Problem::from));
        }
        outcome
    }

    async fn perform(&mut self, effects: Vec<Effect>) -> Result<(), byrnie_store::Error> {
        self.wake = None;
        let mut calls = Vec::new();
        for effect in effects {
            match effect {
                Effect::Persist { entries, durable } => self.persist(&entries, durable).await?,
                Effect::Call(order) => calls.push(order),
                Effect::Wake(at) => self.wake = Some(at),
                Effect::End(end) => {
                    self.coordinator.counts.ended(self.machine.state().spec.mode, end);
                    self.coordinator.trace_end(&self.id, self.machine.state(), end);
                }
            }
        }
        let sight = Arc::new(Sight::of(&self.machine, self.entries));
        // Nobody waits for less than that nothing more happens by itself.
        self.sight.send_if_modified(|seen| {
            *seen = Arc::clone(&sight);
            seen.is_settled()
        });
        for order in calls {
            let (coordinator, id, sight) = (Arc::clone(&self.coordinator), self.id.clone(), Arc::clone(&sight));
            let own = self.own.clone();
            let Office { term, mut over } = self.office.clone();
            runtime::spawn("transaction call", async move {
                let mut shutdown = coordinator.shutdown.clone();
                let Order { branch, op, attempt, .. } = order;
                let calling = dispatch::perform(&coordinator, term, &id, &sight.state, order);
                let called = tokio::select! {
                    called = runtime::catch("transaction call", calling) => called,
                    () = shutdown.wait() => return,
                    () = over.wait() => return,
                };
                // It is waited for, whatever becomes of it here.
                let reply = called.unwrap_or_else(|runtime::Panicked| {
                    let reason = "the coordinator failed at this call, as its log tells".into();
                    Reply {
                        branch,
                        op,
                        attempt,
                        outcome: Outcome::Unknown { reason, after: None, over: false },
                        roll: coordinator.roll(),
                    }
                });
                if let Some(own) = own.upgrade() {
                    // A transaction that has ended doesn't wait for it.
                    let _ = own.send(Box::new(Message::Event(Event::Reply(reply)))).await;
                }
            });
        }
        Ok(())
    }

    async fn persist(&mut self, entries: &[Entry], durable: bool) -> Result<(), byrnie_store::Error> {
        let state = self.machine.state();
        let append = Append {
            term: self.office.term,
            id: self.id.clone(),
            after: self.entries,
            entries: entries.iter().map(|entry| Value::from(entry.encode())).collect(),
            summary: super::view::summary(state),
            ended: matches!(state.phase, Phase::Ended(_)).then(|| self.coordinator.now()),
        };
        self.entries = self.entries.saturating_add(u32::try_from(entries.len()).unwrap_or(u32::MAX));
        let written = self.coordinator.journal.append(append);
        if durable {
            self.coordinator.noted(written.await)?;
        }
        Ok(())
    }
}
