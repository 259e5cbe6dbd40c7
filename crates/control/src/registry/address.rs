// SPDX-License-Identifier: Apache-2.0
//! Registrations of addresses that have no proxy of the mesh before them, as the console takes them: each is an
//! EndpointSlice of one address, under a lease that whoever registered it keeps alive. Nobody there proves an identity, so
//! the address is reached by the egress, like those of slices that were applied. Registering grants nothing.

use super::lease::{self, MadeService};
use crate::ingest::{self, document, store_key};
use crate::{State, history};
use byrnie_base::Text;
use byrnie_model::service::{Locality, Service, ServicePort, TargetPort};
use byrnie_model::slice::{ADDRESSES_MAX, Address, REGION_LABEL, SERVICE_LABEL, Slice, SlicePort};
use byrnie_model::{Health, Key, Kind, Labels, Protocol, Resource, Revision, ServiceRef, Spec, yaml};
use byrnie_store::{Entry, Expect, Lease, Txn};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// An address is taken out after so long without a heartbeat, unless its registration says otherwise.
pub const TTL: Duration = Duration::from_secs(30);
/// The shortest and the longest such time: a shorter one would be over before a busy program has its turn.
pub const TTL_RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));
/// How many heartbeats fit into that time: two may be lost.
pub const HEARTBEATS: u32 = 3;
/// The label by which Kubernetes says who keeps a slice (its EndpointSlice documentation, "Management"), and who this is.
pub const KEEPER: (&str, &str) = ("endpointslice.kubernetes.io/managed-by", "register.mesh.byrnie.dev");
/// The label that says after how many seconds without a heartbeat a slice vanishes.
const TTL_LABEL: &str = "mesh.byrnie.dev/ttl-seconds";

/// What is to be registered: one program at one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The service that it serves; it's made if it's absent.
    pub service: ServiceRef,
    /// For which of the service's ports, by name or number; empty where there is one alone.
    pub service_port: Text,
    /// Where the program listens.
    pub at: SocketAddr,
    /// What is spoken there, where that is said.
    pub protocol: Option<Protocol>,
    /// Where it is.
    pub locality: Locality,
    /// Without a heartbeat for so long it's taken out; within [`TTL_RANGE`].
    pub ttl: Duration,
}

/// A registration as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// What it's called from now on.
    pub id: Text,
    /// The resource that it's kept as.
    pub key: Key,
    /// The service that it serves.
    pub service: ServiceRef,
    /// Where.
    pub at: SocketAddr,
    /// Whether it may be sent requests.
    pub health: Health,
    /// Without a heartbeat for so long it's taken out.
    pub ttl: Duration,
    /// Where it's stored.
    pub revision: Revision,
    /// Whether it wasn't registered before.
    pub is_new: bool,
    /// Whether this made the service.
    pub service_created: bool,
}

/// Why something isn't registered, or isn't any more.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It makes no valid slice, or no valid service.
    #[error("{0}")]
    Malformed(Text),
    /// The service, or its port, is served in another way, or the name is.
    #[error("{what} is already taken: {how}")]
    Taken {
        /// Which.
        what: Text,
        /// By what.
        how: Text,
    },
    /// The service has as many addresses as are used.
    #[error("service {0} has {max} addresses, and no more of them are used", max = ADDRESSES_MAX)]
    Full(ServiceRef),
    /// Nothing is registered by this id, or it wasn't kept alive.
    #[error("nothing is registered as {0}: it was never, or wasn't kept alive, or was taken out")]
    Gone(Text),
    /// The store doesn't answer, or refuses.
    #[error(transparent)]
    Store(#[from] byrnie_store::Error),
}

/// Registers an address, or keeps it if it's registered already: once more from the beginning of its time. `who` is noted if
/// this makes the service. Answers once the catalog knows.
///
/// # Errors
/// If it can't be, is another's, or the store refuses.
pub async fn register(state: &State, wanted: &Wanted, who: &str) -> Result<Registered, Error> {
    let key = Key::new(Kind::EndpointSlice, wanted.service.namespace.clone(), name(&wanted.service.name, wanted.at));
    let mut tries = 0;
    let registered = loop {
        tries += 1;
        match write(state, &key, wanted, who).await {
            Err(Error::Store(byrnie_store::Error::Conflict { .. } | byrnie_store::Error::UnknownLease(_)))
                if tries < lease::TRIES_MAX => {}
            written => break written?,
        }
    };
    lease::wait_for(state, registered.revision).await;
    Ok(registered)
}

/// Keeps a registration alive, and takes in how the program is if that's said.
///
/// # Errors
/// [`Error::Gone`] once its time is over; if the store refuses.
pub async fn beat(state: &State, id: &str, health: Option<Health>) -> Result<Registered, Error> {
    let mut tries = 0;
    loop {
        tries += 1;
        let held = held(state, id).await?;
        match state.store.keep_alive(held.lease).await {
            Err(byrnie_store::Error::UnknownLease(_)) => return Err(Error::Gone(id.into())),
            kept => kept?,
        }
        let told = health.filter(|told| *told != held.address().health);
        let Some(told) = told else { return Ok(held.stands()) };
        match held.tell(state, told).await {
            Err(Error::Store(byrnie_store::Error::Conflict { .. })) if tries < lease::TRIES_MAX => {}
            Err(Error::Store(byrnie_store::Error::UnknownLease(_))) => return Err(Error::Gone(id.into())),
            told => return told,
        }
    }
}

/// Takes a registration out. Answers once the catalog knows.
///
/// # Errors
/// [`Error::Gone`] if it isn't there; if the store refuses.
pub async fn leave(state: &State, id: &str) -> Result<Registered, Error> {
    let mut tries = 0;
    let (held, revision) = loop {
        tries += 1;
        let held = held(state, id).await?;
        let at = store_key(&held.resource.key);
        let txn = Txn::new().expect(at.clone(), Expect::At(held.resource.revision)).delete(at);
        match state.store.commit(txn).await {
            Err(byrnie_store::Error::Conflict { found: None, .. }) => return Err(Error::Gone(id.into())),
            // A heartbeat wrote how the program is.
            Err(byrnie_store::Error::Conflict { .. }) if tries < lease::TRIES_MAX => {}
            written => break (held, written?),
        }
    };
    // Nothing hangs on it any more; it would end by itself.
    let _ = state.store.revoke(held.lease).await;
    lease::wait_for(state, revision).await;
    Ok(Registered { revision, ..held.stands() })
}

/// The slice's name for a service and an address: the same program that registers again is the same registration.
fn name(service: &str, at: SocketAddr) -> Text {
    let ip = match at.ip() {
        IpAddr::V4(ip) => ip.octets().map(|part| part.to_string()).join("-"),
        // All digits: an abbreviated one could be taken for another's.
        IpAddr::V6(ip) => format!("{:032x}", ip.to_bits()),
    };
    format!("{service}-{ip}-{}", at.port()).into()
}

fn id(key: &Key) -> Text {
    format!("{}.{}", key.name, key.namespace).into()
}

/// The slice that an id names; neither service names nor namespaces have dots.
fn key(id: &str) -> Option<Key> {
    let (name, namespace) = id.split_once('.')?;
    Some(Key::new(Kind::EndpointSlice, namespace, name))
}

/// A registration that is there.
struct Held {
    resource: Resource,
    slice: Slice,
    lease: Lease,
}

async fn held(state: &State, id: &str) -> Result<Held, Error> {
    let gone = || Error::Gone(id.into());
    let key = key(id).ok_or_else(gone)?;
    let entry = state.store.get(&store_key(&key)).await?.ok_or_else(gone)?;
    Held::read(state, &entry)?.ok_or_else(gone)
}

impl Held {
    /// What an entry holds; `None` if no registration made it.
    fn read(state: &State, entry: &Entry) -> Result<Option<Self>, Error> {
        let resource = ingest::read(entry, &state.trust_domain).map_err(Error::Malformed)?;
        let Spec::Slice(slice) = &resource.spec else { return Ok(None) };
        let slice = (**slice).clone();
        let kept = resource.labels.get(KEEPER.0).is_some_and(|keeper| **keeper == *KEEPER.1);
        let whole = slice.endpoints.len() == 1 && slice.ports.len() == 1;
        Ok(entry.lease.filter(|_| kept && whole).map(|lease| Self { resource, slice, lease }))
    }

    fn address(&self) -> &Address {
        &self.slice.endpoints[0]
    }

    fn stands(&self) -> Registered {
        let seconds = self.resource.labels.get(TTL_LABEL).and_then(|text| text.parse().ok());
        Registered {
            id: id(&self.resource.key),
            key: self.resource.key.clone(),
            service: self.slice.service_in(&self.resource.key.namespace),
            at: SocketAddr::new(self.address().ip, self.slice.ports[0].port),
            health: self.address().health,
            ttl: seconds.map_or(TTL, Duration::from_secs),
            revision: self.resource.revision,
            is_new: false,
            service_created: false,
        }
    }

    /// Writes how the program is, under the same lease.
    async fn tell(mut self, state: &State, health: Health) -> Result<Registered, Error> {
        self.slice.endpoints[0].health = health;
        self.resource.spec = Spec::Slice(Arc::new(self.slice.clone()));
        let (at, value) = (store_key(&self.resource.key), yaml::to_json(&self.resource).to_string().into_bytes());
        let txn = Txn::new().expect(at.clone(), Expect::At(self.resource.revision)).put_leased(at, value, self.lease);
        self.resource.revision = state.store.commit(txn).await?;
        lease::wait_for(state, self.resource.revision).await;
        Ok(self.stands())
    }
}

/// One try to write a registration, with the service if that is absent.
async fn write(state: &State, key: &Key, wanted: &Wanted, who: &str) -> Result<Registered, Error> {
    let (port, made) = service(state, wanted).await?;
    let resource = resource(key, wanted, port);
    valid(state, &resource)?;
    let (at, value) = (store_key(key), yaml::to_json(&resource).to_string());
    let before = state.store.get(&at).await?;
    let known = match &before {
        None => None,
        Some(entry) => Some(same(state, entry, wanted)?),
    };
    if known.is_none() {
        room(state, wanted)?;
    }
    let told = |revision| Registered {
        id: id(key),
        key: key.clone(),
        service: wanted.service.clone(),
        at: wanted.at,
        health: Health::Healthy,
        ttl: wanted.ttl,
        revision,
        is_new: known.is_none(),
        service_created: made.is_some(),
    };
    if let (Some(entry), Some(lease)) = (&before, known)
        && document(&entry.value) == value
        && made.is_none()
        && state.store.keep_alive(lease).await.is_ok()
    {
        return Ok(told(entry.modified));
    }
    let lease = state.store.grant(wanted.ttl).await?;
    let expect = before.as_ref().map_or(Expect::Absent, |entry| Expect::At(entry.modified));
    let mut txn = Txn::new().expect(at.clone(), expect).put_leased(at, value.into_bytes(), lease);
    if let Some(made) = &made {
        txn = made.add(state, txn, who, history::WHY_REGISTER).await?;
    }
    let revision = match state.store.commit(txn).await {
        Ok(revision) => revision,
        Err(error) => {
            // Nothing hangs on it; it would end by itself.
            let _ = state.store.revoke(lease).await;
            return Err(error.into());
        }
    };
    if let Some(former) = known {
        // Nothing hangs on it any more; it would end by itself.
        let _ = state.store.revoke(former).await;
    }
    Ok(told(revision))
}

fn valid(state: &State, resource: &Resource) -> Result<(), Error> {
    lease::valid(state, resource).map_err(|error| match error {
        lease::Error::Malformed(why) => Error::Malformed(why),
        other => Error::Malformed(other.to_string().into()),
    })
}

/// The lease of a registration that is there already, if it's the same one.
fn same(state: &State, entry: &Entry, wanted: &Wanted) -> Result<Lease, Error> {
    let taken =
        |how: &str| Error::Taken { what: entry.key.trim_start_matches(ingest::RESOURCES).into(), how: how.into() };
    let held = Held::read(state, entry)?.ok_or_else(|| taken("it was applied as a resource of its own"))?;
    let stands = held.stands();
    let is_it = stands.service == wanted.service && stands.at == wanted.at;
    if is_it { Ok(held.lease) } else { Err(taken("another address is registered by that name")) }
}

/// Whether the service has room for one more address.
fn room(state: &State, wanted: &Wanted) -> Result<(), Error> {
    let full = state.catalog(|catalog| {
        let slices = catalog.slices(&wanted.service);
        let known: BTreeSet<IpAddr> =
            slices.flat_map(|(_, slice)| &slice.endpoints).map(|address| address.ip).collect();
        known.len() >= ADDRESSES_MAX && !known.contains(&wanted.at.ip())
    });
    if full { Err(Error::Full(wanted.service.clone())) } else { Ok(()) }
}

fn resource(key: &Key, wanted: &Wanted, port: Text) -> Resource {
    let mut labels: Labels = [
        (SERVICE_LABEL.into(), wanted.service.name.clone()),
        (KEEPER.0.into(), KEEPER.1.into()),
        (TTL_LABEL.into(), wanted.ttl.as_secs().to_string().into()),
    ]
    .into();
    if !wanted.locality.region.is_empty() {
        labels.insert(REGION_LABEL.into(), wanted.locality.region.clone());
    }
    let (ip, locality) = (wanted.at.ip(), wanted.locality.clone());
    let slice = Slice {
        service: wanted.service.name.clone(),
        ports: vec![SlicePort { name: port, port: wanted.at.port() }],
        endpoints: vec![Address { ip, health: Health::Healthy, locality, zones: Vec::new() }],
    };
    let spec = Spec::Slice(Arc::new(slice));
    Resource { key: key.clone(), revision: Revision(0), created: Revision(0), labels, origin: None, spec }
}

/// The name of the service's port that the address is for; and the service, if it's to be made.
async fn service(state: &State, wanted: &Wanted) -> Result<(Text, Option<MadeService>), Error> {
    let at = &wanted.service;
    let key = Key::new(Kind::Service, at.namespace.clone(), at.name.clone());
    if let Some(entry) = state.store.get(&store_key(&key)).await? {
        let existing = ingest::read(&entry, &state.trust_domain).map_err(Error::Malformed)?;
        let Spec::Service(service) = &existing.spec else { return Ok((Text::default(), None)) };
        return Ok((fits(service, wanted)?, None));
    }
    if lease::is_pool(state, at).await? {
        let what = format!("service {at}").into();
        return Err(Error::Taken { what, how: lease::POOL_HAS_NAME.into() });
    }
    let number = match &*wanted.service_port {
        "" => lease::SERVICE_PORT,
        text => text.parse().map_err(|_| {
            let why =
                format!("service {at} does not exist yet, so that none of its ports is called {text}: say a number");
            Error::Malformed(why.into())
        })?,
    };
    let protocol = wanted.protocol.unwrap_or(Protocol::Undeclared);
    let port = ServicePort {
        name: Text::default(),
        port: number,
        target: TargetPort::Number(number),
        protocol,
        prefixed: false,
    };
    let spec = Spec::Service(Service { ports: vec![port], ..Service::default() });
    let (revision, labels) = (Revision(0), Labels::new());
    let made = Resource { key, revision, created: revision, labels, origin: None, spec };
    valid(state, &made)?;
    Ok((Text::default(), Some(MadeService(made))))
}

/// The name of the port that the address is for, of a service that is served by addresses.
fn fits(service: &Service, wanted: &Wanted) -> Result<Text, Error> {
    let what = || Text::from(format!("service {}", wanted.service));
    let taken = |how: String| Error::Taken { what: what(), how: how.into() };
    if !service.takes_slices() {
        let by = if service.outside.is_some() { "the host that it names" } else { "the workloads that it selects" };
        return Err(taken(format!("it is served by {by}, not by addresses")));
    }
    let ports: Vec<String> = service.ports.iter().map(|port| format!("{} ({})", port.port, port.name)).collect();
    let asked = &wanted.service_port;
    let of = |port: &&ServicePort| port.name == *asked || asked.parse() == Ok(port.port);
    let port = match (&*service.ports, asked.is_empty()) {
        ([only], true) => only,
        (_, true) => {
            let why = format!("{} has several ports: say by servicePort which of {}", what(), ports.join(", "));
            return Err(Error::Malformed(why.into()));
        }
        (all, false) => all.iter().find(of).ok_or_else(|| {
            Error::Malformed(format!("{} has no port {asked}; it has {}", what(), ports.join(", ")).into())
        })?,
    };
    let says = |protocol: Protocol| Some(protocol).filter(|says| *says != Protocol::Undeclared);
    match wanted.protocol.and_then(says).zip(says(port.protocol)) {
        Some((ours, theirs)) if ours != theirs => {
            Err(taken(format!("its port {} speaks {}, and this {}", port.port, theirs.name(), ours.name())))
        }
        _ => Ok(port.name.clone()),
    }
}
