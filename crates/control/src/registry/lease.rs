// SPDX-License-Identifier: Apache-2.0
//! Registrations: a Workload under a lease that its own proxy keeps alive. When the lease ends, by
//! itself or at once, the store drops the workload and every proxy hears of it. Driven by `api`.

use crate::ingest::{self, RESOURCES, document, store_key};
use crate::{State, history};
use byrnie_base::Text;
use byrnie_model::service::{Service, ServicePort, TargetPort};
use byrnie_model::{
    Health, Identity, Key, Kind, Labels, Protocol, Resource, Revision, ServiceRef, Spec, Workload, yaml,
};
use byrnie_net::runtime;
use byrnie_store::{Entry, Expect, Lease, Txn};
use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Time between two heartbeats of a proxy.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// Without a heartbeat for so long, a workload is taken out: an instance that dies is out of every
/// proxy within 3 s.
pub const TTL: Duration = Duration::from_millis(2500);
/// After its stream has broken, a workload has so long to come back before it's taken out.
pub const RETURN: Duration = Duration::from_millis(500);
/// After its own start, the control plane keeps stored registrations alive for so long, so that its
/// restart empties nothing: proxies reconnect meanwhile.
pub const GRACE: Duration = Duration::from_secs(5);
/// The port of a service that registration makes.
pub const SERVICE_PORT: u16 = 80;
/// How long an answer waits for the catalog to know what was written.
const CATALOG_WAIT: Duration = Duration::from_secs(5);
/// How often a write is tried when others write the same at the same moment.
pub(super) const TRIES_MAX: usize = 5;
/// Locks that keep two registrations for one service from passing the same check at once, and one from being ended by the one before.
const LOCKS: usize = 64;

/// Who holds which registration.
pub struct Registry {
    holders: Mutex<BTreeMap<Key, u64>>,
    locks: [tokio::sync::Mutex<()>; LOCKS],
    hasher: RandomState,
    next: AtomicU64,
    closed: AtomicBool,
}

/// One registration, held by one stream.
#[derive(Clone, Debug)]
pub struct Seat {
    resource: Resource,
    service: Text,
    lease: Lease,
    number: u64,
    /// Where it was stored.
    pub revision: Revision,
    /// Whether this made the service.
    pub service_created: bool,
}

/// Why a workload can't be registered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It's no Workload, or not a valid one.
    #[error("the workload can not be read: {0}")]
    Malformed(Text),
    /// The certificate is another's.
    #[error("{code}: the certificate of {peer} does not entitle to register {workload}", code = byrnie_model::code::NOT_YOURS.id)]
    NotYours {
        /// Who asks.
        peer: Identity,
        /// What for.
        workload: Key,
    },
    /// The name of the workload is in use.
    #[error("{code}: {workload} is already taken: {how}", code = byrnie_model::code::NAME_TAKEN.id)]
    Taken {
        /// Which.
        workload: Key,
        /// By what.
        how: Text,
    },
    /// The name of the service is in use by others.
    #[error("{code}: the service name {service} is already taken: {how}; use another name, or run it the same way", code = byrnie_model::code::NAME_TAKEN.id)]
    ServiceTaken {
        /// Which.
        service: ServiceRef,
        /// By what, and what differs.
        how: Text,
    },
    /// A service needs a port.
    #[error("the workload has no port that service {0} could lead to; give --port")]
    NoPort(ServiceRef),
    /// The store doesn't answer.
    #[error("{code}: {0}", code = byrnie_model::code::STORE_UNREACHABLE.id)]
    Store(#[from] byrnie_store::Error),
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            holders: Mutex::default(),
            locks: std::array::from_fn(|_| tokio::sync::Mutex::new(())),
            hasher: RandomState::new(),
            next: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        }
    }
}

impl Registry {
    /// A registry of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a workload for its proxy, whose certificate says `peer`, and makes the service of that
    /// name if it's absent (empty: none). Answers once the catalog knows.
    ///
    /// # Errors
    /// If the name is another's, or the service differs, or the store refuses.
    pub async fn join(&self, state: &State, peer: &Identity, resource: Resource, service: &str) -> Result<Seat, Error> {
        let seat = self.register(state, peer, resource, service).await?;
        wait_for(state, seat.revision).await;
        Ok(seat)
    }

    /// Like [`Self::join`], but answers once it's stored.
    ///
    /// # Errors
    /// As [`Self::join`].
    pub async fn register(
        &self,
        state: &State,
        peer: &Identity,
        resource: Resource,
        service: &str,
    ) -> Result<Seat, Error> {
        valid(state, &resource)?;
        let workload = workload_of(&resource)?;
        if workload.identity != *peer || resource.key.namespace != *peer.namespace() {
            return Err(Error::NotYours { peer: peer.clone(), workload: resource.key });
        }
        let _alone = self.alone(&resource.key, service).await;
        let mut tries = 0;
        loop {
            tries += 1;
            match self.write(state, peer, &resource, service).await {
                Err(Error::Store(byrnie_store::Error::Conflict { .. })) if tries < TRIES_MAX => {}
                Err(Error::Store(byrnie_store::Error::UnknownLease(_))) if tries < TRIES_MAX => {}
                written => return written,
            }
        }
    }

    /// A heartbeat came.
    ///
    /// # Errors
    /// If the workload had to be registered anew and couldn't.
    pub async fn beat(&self, state: &State, seat: &mut Seat) -> Result<(), Error> {
        if !self.is_current(seat) {
            return Ok(());
        }
        match state.store.keep_alive(seat.lease).await {
            // It came too late, for whatever reason. It's alive, so it's back.
            Err(byrnie_store::Error::UnknownLease(_)) => {
                let peer = workload_of(&seat.resource)?.identity.clone();
                tracing::info!(workload = %seat.resource.key, "workload is back after its lease had ended");
                *seat = self.register(state, &peer, seat.resource.clone(), &seat.service).await?;
                Ok(())
            }
            other => Ok(other?),
        }
    }

    /// The workload is leaving: no new requests, running ones may end.
    ///
    /// # Errors
    /// If the store refuses.
    pub async fn drain(&self, state: &State, seat: &mut Seat) -> Result<(), Error> {
        self.health(state, seat, Health::Draining).await
    }

    /// How the workload is. What leaves stays on its way out.
    ///
    /// # Errors
    /// If the store refuses.
    pub async fn health(&self, state: &State, seat: &mut Seat, health: Health) -> Result<(), Error> {
        let Spec::Workload(workload) = &mut seat.resource.spec else { return Ok(()) };
        if workload.health == health || workload.health == Health::Draining {
            return Ok(());
        }
        workload.health = health;
        if self.is_current(seat) {
            let value = yaml::to_json(&seat.resource).to_string().into_bytes();
            let txn = Txn::new().put_leased(store_key(&seat.resource.key), value, seat.lease);
            seat.revision = state.store.commit(txn).await?;
        }
        Ok(())
    }

    /// The workload is gone.
    ///
    /// # Errors
    /// If the store refuses; the lease then ends by itself.
    pub async fn leave(&self, state: &State, seat: &Seat) -> Result<(), Error> {
        // Not while the workload is being registered again: that goes on under the same lease, and this would end it.
        let _alone = self.alone(&seat.resource.key, &seat.service).await;
        if !self.is_current(seat) {
            return Ok(());
        }
        self.holders().remove(&seat.resource.key);
        match state.store.revoke(seat.lease).await {
            Err(byrnie_store::Error::UnknownLease(_)) => Ok(()),
            other => Ok(other?),
        }
    }

    /// The control plane is stopping: streams that end from now on say nothing about their workloads.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// The stream broke without a word: unless the workload comes back in time, it's gone.
    pub async fn lost(&self, state: &State, seat: &Seat) {
        runtime::sleep(RETURN).await;
        if let Err(error) = self.gone(state, seat).await {
            tracing::warn!(workload = %seat.resource.key, %error, "a workload could not be taken out; its lease will end by itself");
        }
    }

    /// A workload whose stream broke had [`RETURN`] to come back: if it hasn't, it's taken out.
    ///
    /// # Errors
    /// If the store refuses; the lease then ends by itself.
    pub async fn gone(&self, state: &State, seat: &Seat) -> Result<(), Error> {
        if self.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        if self.is_current(seat) {
            tracing::info!(workload = %seat.resource.key, code = byrnie_model::code::LEASE_LOST.id, "workload's stream ended without leave; it is taken out");
        }
        self.leave(state, seat).await
    }

    /// Keeps others of the same service from being registered, or taken out, until it's dropped.
    async fn alone(&self, workload: &Key, service: &str) -> tokio::sync::MutexGuard<'_, ()> {
        let service = ServiceRef::new(workload.namespace.clone(), service);
        let lock = usize::try_from(self.hasher.hash_one(&service)).unwrap_or(0) % LOCKS;
        self.locks[lock].lock().await
    }

    /// Whether nobody has registered the same workload since.
    fn is_current(&self, seat: &Seat) -> bool {
        self.holders().get(&seat.resource.key) == Some(&seat.number)
    }

    fn holders(&self) -> MutexGuard<'_, BTreeMap<Key, u64>> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write(&self, state: &State, peer: &Identity, resource: &Resource, service: &str) -> Result<Seat, Error> {
        let at = store_key(&resource.key);
        let value = yaml::to_json(resource).to_string();
        let before = state.store.get(&at).await?;
        let mut held = None;
        let mut txn = Txn::new();
        match &before {
            None => txn = txn.expect(at.clone(), Expect::Absent),
            Some(entry) => {
                held = Some(take_over(state, &resource.key, entry, peer)?);
                txn = txn.expect(at.clone(), Expect::At(entry.modified));
            }
        }
        // The same process has come back: its lease goes on, if it still can.
        let kept = match held {
            Some(lease) => state.store.keep_alive(lease).await.is_ok().then_some(lease),
            None => None,
        };
        let lease = match kept {
            Some(lease) => lease,
            None => state.store.grant(TTL).await?,
        };
        let same = kept.is_some() && before.as_ref().is_some_and(|entry| document(&entry.value) == value);
        let mut revision = before.map_or(Revision(0), |entry| entry.modified);
        if !same {
            txn = txn.put_leased(at, value.into_bytes(), lease);
        }
        let service_made = self.service(state, resource, service).await?;
        if let Some(made) = &service_made {
            txn = made.add(state, txn, &peer.to_string(), history::WHY_RUN).await?;
        }
        if !same || service_made.is_some() {
            revision = state.store.commit(txn).await?;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.holders().insert(resource.key.clone(), number);
        Ok(Seat {
            resource: resource.clone(),
            service: service.into(),
            lease,
            number,
            revision,
            service_created: service_made.is_some(),
        })
    }

    /// The service to make, if it's wanted and absent. One that exists must fit.
    async fn service(&self, state: &State, resource: &Resource, name: &str) -> Result<Option<MadeService>, Error> {
        if name.is_empty() {
            return Ok(None);
        }
        let workload = workload_of(resource)?;
        let service = ServiceRef::new(resource.key.namespace.clone(), name);
        let port = workload.ports.first().ok_or_else(|| Error::NoPort(service.clone()))?;
        let key = Key::new(Kind::Service, service.namespace.clone(), service.name.clone());
        let Some(entry) = state.store.get(&store_key(&key)).await? else {
            if is_pool(state, &service).await? {
                return Err(Error::ServiceTaken { service, how: POOL_HAS_NAME.into() });
            }
            let selector: Labels = [(Text::from("app"), service.name.clone())].into();
            // By name, where there is one: each instance listens on a port of its own.
            let target = match port.name.is_empty() {
                true => TargetPort::Number(port.port),
                false => TargetPort::Name(port.name.clone()),
            };
            let ports = vec![ServicePort {
                name: port.name.clone(),
                port: SERVICE_PORT,
                target,
                protocol: port.protocol,
                prefixed: false,
            }];
            let spec = Spec::Service(Service {
                ports,
                selector: selector.clone(),
                outside: None,
                publish_not_ready: false,
                pool: None,
            });
            let made =
                Resource { key, revision: Revision(0), created: Revision(0), labels: selector, origin: None, spec };
            valid(state, &made)?;
            return Ok(Some(MadeService(made)));
        };
        let existing = ingest::read(&entry, &state.trust_domain).map_err(Error::Malformed)?;
        fits(state, &existing, &service, workload)?;
        Ok(None)
    }
}

/// Why a service isn't made by a name.
pub(super) const POOL_HAS_NAME: &str = "an InferencePool has this name, and is called by it";

/// Whether a pool has the name: its service isn't stored, and one that is would take its callers.
pub(super) async fn is_pool(state: &State, service: &ServiceRef) -> Result<bool, byrnie_store::Error> {
    let key = Key::new(Kind::InferencePool, service.namespace.clone(), service.name.clone());
    Ok(state.store.get(&store_key(&key)).await?.is_some())
}

/// Refuses what could not be read from the store again: the wire form says nothing of how names and
/// labels must look.
pub(super) fn valid(state: &State, resource: &Resource) -> Result<(), Error> {
    let domain = state.trust_domain.clone();
    let defaults = yaml::Defaults { namespace: resource.key.namespace.clone(), trust_domain: domain };
    let read = yaml::from_json(&yaml::to_json(resource), &defaults);
    read.map(drop).map_err(|diagnostics| {
        let first = diagnostics.first().map(|diagnostic| format!("{}: {}", diagnostic.path, diagnostic.message));
        Error::Malformed(first.unwrap_or_default().into())
    })
}

/// A service that registration makes: an ordinary resource, which stays and is in the history.
pub(super) struct MadeService(pub(super) Resource);

impl MadeService {
    /// Adds it, and who made it by what (a word), to a transaction.
    pub(super) async fn add(&self, state: &State, txn: Txn, who: &str, why: &str) -> Result<Txn, byrnie_store::Error> {
        let at = store_key(&self.0.key);
        let after = yaml::to_json(&self.0).to_string();
        let txn = txn.expect(at.clone(), Expect::Absent).put(at, after.as_bytes());
        let changed = history::Changed { key: self.0.key.clone(), before: None, after: Some(after) };
        let record = history::Record {
            revision: Revision(0),
            who: who.into(),
            why: why.into(),
            at: state.now().wall,
            changes: vec![changed],
        };
        history::add(state, txn, record).await
    }
}

/// Keeps stored registrations alive for [`GRACE`] after a start.
pub async fn grace(state: &State) {
    let began = state.now().mono;
    while state.now().mono.since(began) < GRACE {
        if let Err(error) = keep_stored(state).await {
            tracing::warn!(%error, "registrations can not be kept alive: the store does not answer");
        }
        runtime::sleep(HEARTBEAT).await;
    }
}

/// Keeps every stored registration alive for another span of its own, be it a workload's or an address's.
///
/// # Errors
/// If the store doesn't answer.
pub async fn keep_stored(state: &State) -> Result<(), byrnie_store::Error> {
    for kind in [Kind::Workload, Kind::EndpointSlice] {
        let (entries, _) = state.store.list(&format!("{RESOURCES}{}/", kind.name())).await?;
        for lease in entries.iter().filter_map(|entry| entry.lease) {
            // One that has ended meanwhile was somebody's wish.
            let _ = state.store.keep_alive(lease).await;
        }
    }
    Ok(())
}

fn workload_of(resource: &Resource) -> Result<&Workload, Error> {
    match &resource.spec {
        Spec::Workload(workload) => Ok(workload),
        _ => Err(Error::Malformed(format!("{} is no Workload", resource.key).into())),
    }
}

/// The lease of a workload that is registered already, if this may be the same one.
fn take_over(state: &State, key: &Key, entry: &Entry, peer: &Identity) -> Result<Lease, Error> {
    let taken = |how: String| Error::Taken { workload: key.clone(), how: how.into() };
    let lease = entry.lease.ok_or_else(|| taken("it was applied as a resource of its own".to_owned()))?;
    let held = ingest::read(entry, &state.trust_domain).map_err(Error::Malformed)?;
    let identity = &workload_of(&held)?.identity;
    if identity == peer { Ok(lease) } else { Err(taken(format!("it runs as {identity}"))) }
}

/// Whether a workload can stand behind a service that exists: the same service account as the others
/// behind it, and the protocol that callers will speak.
fn fits(state: &State, existing: &Resource, service: &ServiceRef, workload: &Workload) -> Result<(), Error> {
    let taken = |how: String| Err(Error::ServiceTaken { service: service.clone(), how: how.into() });
    let Spec::Service(spec) = &existing.spec else { return Ok(()) };
    if spec.takes_slices() {
        return taken(
            "it is served by addresses, and selects no workloads: give it a selector, or delete it".to_owned(),
        );
    }
    let other = state.catalog(|catalog| {
        let identities = catalog.endpoints(service).filter_map(|endpoint| match &endpoint.spec {
            Spec::Endpoint(endpoint) => Some(endpoint.identity.clone()),
            _ => None,
        });
        identities.into_iter().find(|identity| *identity != workload.identity)
    });
    if let Some(other) = other {
        return taken(format!("it runs as {other}, and this as {}", workload.identity));
    }
    let mut served = false;
    for port in &spec.ports {
        let target = workload.ports.iter().find(|own| match &port.target {
            TargetPort::Number(number) => own.port == *number,
            TargetPort::Name(name) => own.name == *name,
        });
        served |= target.is_some() || matches!(port.target, TargetPort::Number(_));
        // Whoever declares nothing goes with all that comes by TCP.
        let says = |protocol: Protocol| Some(protocol).filter(|says| *says != Protocol::Undeclared);
        let declared = |own: Protocol| says(own).zip(says(port.protocol)).is_some_and(|(ours, theirs)| ours != theirs);
        let differ = |own: Protocol| declared(own) || (own == Protocol::Udp) != (port.protocol == Protocol::Udp);
        if let Some(own) = target.filter(|own| differ(own.protocol)) {
            let (theirs, ours) = (port.protocol.name(), own.protocol.name());
            return taken(format!("its port {} speaks {theirs}, and this {ours}", port.port));
        }
    }
    if !served {
        let theirs: Vec<&str> = spec.ports.iter().map(|port| port.protocol.name()).collect();
        let ours: Vec<&str> = workload.ports.iter().map(|port| port.protocol.name()).collect();
        return taken(format!("it speaks {}, and this {}", theirs.join(", "), ours.join(", ")));
    }
    Ok(())
}

/// Waits until the catalog knows a revision, so that the proxy's next stream finds its workload.
pub(super) async fn wait_for(state: &State, revision: Revision) {
    let mut revisions = state.revisions();
    let known = revisions.wait_for(|newest| *newest >= revision);
    if runtime::timeout(CATALOG_WAIT, known).await.is_err() {
        tracing::warn!(%revision, "the catalog is behind the store");
    }
}
