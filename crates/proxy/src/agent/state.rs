// SPDX-License-Identifier: Apache-2.0
//! What the agent and the admin listener both know. Cores never touch it.

use crate::config::Config;
use crate::record::{Book, CoreCounts, Outlets};
use crate::running::{Drains, Ports};
use crate::worker::InForce;
use byrnie_base::Text;
use byrnie_base::ring::Ring;
use byrnie_model::gateway::Port;
use byrnie_model::{Identity, Record};
use byrnie_net::otlp;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::sync::watch;

/// Decision records kept for `/records`.
const RECORDS_MAX: usize = 1000;

/// What the agent and the admin listener both know.
#[derive(Debug)]
pub(crate) struct State {
    /// `NAMESPACE/NAME`.
    pub(crate) node: Text,
    pub(crate) identity: Identity,
    pub(crate) book: Arc<Book>,
    pub(crate) counts: Arc<[Arc<CoreCounts>]>,
    pub(crate) drain: Arc<Drains>,
    /// What became of spans.
    pub(crate) exported: Arc<otlp::Counts>,
    /// Whether a successor stands for the workload at the control plane.
    handing: watch::Receiver<bool>,
    sample: Arc<AtomicU8>,
    in_force: OnceLock<watch::Receiver<InForce>>,
    ports: OnceLock<Ports>,
    connected: AtomicBool,
    found: Found,
}

/// What was found out lately.
#[derive(Debug)]
struct Found {
    records: Mutex<Ring<Record>>,
    /// Ports that aren't open, and why.
    closed: Mutex<Vec<(Port, String)>>,
    /// Control planes beside the own one that can be asked about idempotency keys.
    keepers: AtomicUsize,
}

impl State {
    pub(crate) fn new(
        config: &Config,
        outlets: &Outlets,
        counts: &Arc<[Arc<CoreCounts>]>,
        (drain, handing): (Arc<Drains>, watch::Receiver<bool>),
    ) -> Self {
        Self {
            node: super::node_name(config).into(),
            identity: config.identity.clone(),
            book: Arc::clone(&outlets.book),
            counts: Arc::clone(counts),
            drain,
            exported: Arc::default(),
            handing,
            sample: Arc::clone(&outlets.sample),
            in_force: OnceLock::new(),
            ports: OnceLock::new(),
            connected: AtomicBool::new(false),
            found: Found {
                records: Mutex::new(Ring::new(RECORDS_MAX)),
                closed: Mutex::default(),
                keepers: AtomicUsize::new(0),
            },
        }
    }

    /// So many control planes beside the own one can be asked about idempotency keys.
    pub(crate) fn find_keepers(&self, count: usize) {
        self.found.keepers.store(count, Ordering::Relaxed);
    }

    /// How many can.
    pub(crate) fn keepers(&self) -> usize {
        self.found.keepers.load(Ordering::Relaxed)
    }

    /// The first configuration is there.
    pub(crate) fn watch(&self, in_force: watch::Receiver<InForce>) {
        let _ = self.in_force.set(in_force);
    }

    /// Every listener accepts.
    pub(crate) fn serve(&self, ports: &Ports) {
        let _ = self.ports.set(ports.clone());
    }

    /// Learns whether a successor stands for the workload at the control plane.
    pub(crate) fn handing(&self) -> watch::Receiver<bool> {
        self.handing.clone()
    }

    /// Takes no new work from now on; what runs may end.
    pub(crate) fn ask_to_drain(&self) {
        self.drain.start();
    }

    /// Where the proxy listens, once it does.
    pub(crate) fn ports(&self) -> Option<&Ports> {
        self.ports.get()
    }

    /// What is in force, as it changes; nothing before the first configuration.
    pub(crate) fn follow(&self) -> Option<watch::Receiver<InForce>> {
        self.in_force.get().cloned()
    }

    /// What is in force, if anything is.
    pub(crate) fn in_force(&self) -> Option<InForce> {
        self.in_force.get().map(|in_force| in_force.borrow().clone())
    }

    /// Whether the control plane is reached just now.
    pub(crate) fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Keeps records of so many percent of successes from now on.
    pub(crate) fn set_sample(&self, percent: u32) {
        self.sample.store(u8::try_from(percent.min(100)).unwrap_or(100), Ordering::Relaxed);
    }

    /// Which ports of gateways can't be served, and why.
    pub(crate) fn set_closed(&self, closed: &BTreeMap<Port, String>) {
        let closed = closed.iter().map(|(port, why)| (*port, why.clone())).collect();
        *self.found.closed.lock().unwrap_or_else(PoisonError::into_inner) = closed;
    }

    pub(crate) fn closed(&self) -> Vec<(Port, String)> {
        self.found.closed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps a record for `/records`.
    pub(crate) fn keep(&self, record: Record) {
        self.ring().push(record);
    }

    /// The newest `count` records, newest first.
    pub(crate) fn newest(&self, count: usize) -> Vec<Record> {
        self.ring().iter().rev().take(count).map(|(_, record)| record.clone()).collect()
    }

    fn ring(&self) -> MutexGuard<'_, Ring<Record>> {
        self.found.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
