// SPDX-License-Identifier: Apache-2.0
//! The compiled group of endpoints behind one service port: who may be sent requests, in which order
//! of nearness, and how. Made by `compile`, read by `balance`. Immutable, but for the shared counts.

use crate::balance::hash::Table;
use crate::balance::load::Load;
use crate::concurrency::{Criticality, Gate};
use crate::outlier::zone::ZoneNumber;
use crate::pick::CompiledPool;
use crate::program::Security;
use crate::reporting::Heard;
use crate::slot::Slot;
use byrnie_base::share::{InFlight, Pace};
use byrnie_base::{Instant, Text};
use byrnie_codec::Head;
use byrnie_model::policy::fault::Fault;
use byrnie_model::policy::traffic::{Admission, Balance, Choice, Eject, Hash, Rate, RetryBudget};
use byrnie_model::service::{Area, Locality};
use byrnie_model::{Endpoint, Health, Identity, Protocol, ServiceRef};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// One endpoint. The same value serves every port of its service.
#[derive(Debug)]
pub struct Member {
    pub(crate) slot: Slot,
    pub(crate) endpoint: Endpoint,
    /// The address as text, for records.
    pub(crate) address_text: Text,
    /// What names it to callers that come back.
    pub(crate) token: u64,
    /// Its zone's number.
    pub(crate) zone: ZoneNumber,
    pub(crate) load: Arc<Load>,
}

impl Member {
    /// The workload.
    pub fn name(&self) -> &Text {
        &self.endpoint.workload
    }

    /// Who must be found there.
    pub fn identity(&self) -> &Identity {
        &self.endpoint.identity
    }

    /// The inbound listener of its proxy.
    pub fn address(&self) -> SocketAddr {
        self.endpoint.address
    }

    /// Whether it may be sent requests, as far as discovery knows.
    pub fn health(&self) -> Health {
        self.endpoint.health
    }

    /// The site to which it is a way; `None` for an endpoint of this mesh.
    pub fn site(&self) -> Option<&Text> {
        self.endpoint.way.as_ref().map(|way| &way.site)
    }

    /// Where it runs.
    pub fn locality(&self) -> &Locality {
        &self.endpoint.locality
    }

    /// Whether this proxy leaves it out now: it fails the checks that the proxy itself makes of it, or a core has ejected it.
    pub fn is_left_out(&self, now: Instant) -> bool {
        self.load.is_sick() || self.load.is_left_out(now)
    }

    /// The same of the last `span`, as long as it hasn't answered since: for whoever looks between two times.
    pub fn was_left_out(&self, span: Duration, now: Instant) -> bool {
        let span = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        self.is_left_out(Instant::from_nanos(now.as_nanos().saturating_sub(span)))
    }

    /// Tries under way from this proxy, over all cores.
    pub fn in_flight(&self) -> u64 {
        self.load.in_flight()
    }
}

/// A try under way at an endpoint, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Underway(Arc<Load>);

impl Underway {
    pub(crate) fn at(member: &Member) -> Self {
        member.load.enter();
        Self(Arc::clone(&member.load))
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// An exchange under way, counted until it is dropped.
#[derive(Debug)]
pub(crate) enum Busy {
    /// Against the most that callers may have under way.
    Pending(Arc<InFlight>),
    /// Against what the own program can take; and whether it's of a client that hasn't taken an answer yet.
    Admitted(Arc<Share>, bool),
}

impl Busy {
    pub(crate) fn on(gauge: &Arc<InFlight>) -> Self {
        gauge.enter();
        Self::Pending(Arc::clone(gauge))
    }

    /// Through the gate of the own program, if there is room.
    pub(crate) fn admit(
        share: &Arc<Share>,
        (class, newcomer): (Criticality, bool),
        greedy: impl FnOnce() -> bool,
    ) -> Option<Self> {
        share.gate.enter(class, newcomer, greedy).then(|| Self::Admitted(Arc::clone(share), newcomer))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        match self {
            Self::Pending(gauge) => gauge.leave(),
            Self::Admitted(share, newcomer) => share.gate.leave(*newcomer),
        }
    }
}

/// The compiled group of endpoints behind one service port.
#[derive(Debug)]
pub struct Cluster {
    pub(crate) slot: Slot,
    pub(crate) name: Name,
    pub(crate) protocol: Protocol,
    /// The authority that is asked for if it's a host outside the mesh: there nobody knows the service by its own name.
    pub(crate) outside: Option<Text>,
    /// How connections to the endpoints are protected, if they are addresses outside the mesh, to which this node leads.
    pub(crate) beyond: Option<Security>,
    /// Healthy endpoints, nearest first.
    pub(crate) members: Box<[Arc<Member>]>,
    /// `cumulative[i]`: weights of `members[..=i]`; empty if all weights are equal.
    pub(crate) cumulative: Box<[u64]>,
    /// From near to far; never empty.
    pub(crate) tiers: Box<[Tier]>,
    /// The order of endpoints for a key.
    pub(crate) table: Table,
    /// `members[..home]` are of this mesh; those behind are ways to other sites.
    pub(crate) home: u32,
    /// Endpoints of the service that are draining or unhealthy.
    pub(crate) away: u32,
    pub(crate) call: Arc<Call>,
}

/// The names of a cluster, made once.
#[derive(Clone, Debug)]
pub(crate) struct Name {
    pub(crate) service: ServiceRef,
    pub(crate) port: u16,
    /// `NAME.NAMESPACE`.
    pub(crate) label: Text,
    /// `PORT.NAME.NAMESPACE.mesh`.
    pub(crate) sni: Text,
}

/// Endpoints of one nearness, or of one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tier {
    /// `members[..end]` are of this tier or nearer.
    pub(crate) end: u32,
    /// Endpoints of this tier, those that are away included.
    pub(crate) total: u32,
    /// The share of requests that it's meant to carry.
    pub(crate) share_percent: u8,
    /// The place by name that it is. These come first.
    pub(crate) area: Option<Area>,
}

/// Which endpoints are used.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    pub(crate) rule: Choice,
    /// The traffic policy that says so, `NAMESPACE/NAME`; empty without one.
    pub(crate) by: Text,
}

/// How a service is called: its traffic policies over the mesh's defaults.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) balance: Balance,
    pub(crate) hash: Option<Hash>,
    pub(crate) choice: Selection,
    /// A tier of which less than this share (percent) is usable hands the lacking part on.
    pub(crate) below_percent: u8,
    pub(crate) eject: Ejection,
    pub(crate) bounds: Bounds,
    pub(crate) budget: RetryBudget,
    pub(crate) unsafe_retry: bool,
    pub(crate) fault: Option<Fault>,
    pub(crate) patience: Patience,
    pub(crate) share: Arc<Share>,
    /// The pool of inference servers that the service stands for.
    pub(crate) pool: Option<Arc<CompiledPool>>,
}

/// What is let through.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bounds {
    pub(crate) pending: Option<Pending>,
    pub(crate) rate: Option<Rate>,
    pub(crate) admission: Option<Admission>,
}

/// How many may be under way at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    /// So many.
    pub(crate) max: u32,
    /// So many may wait for one of them to end.
    pub(crate) queued_max: u32,
}

/// How long is waited for an endpoint, whatever the request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// To open a connection.
    pub(crate) connect: Duration,
    /// While nothing moves.
    pub(crate) idle: Option<Duration>,
}

/// When an endpoint is left out.
#[derive(Clone, Debug)]
pub(crate) struct Ejection {
    pub(crate) rule: Eject,
    /// Whether statuses from 500 count. Only where a TrafficPolicy asks for ejection: an error that the
    /// program itself answers says nothing about the others, and a caller can provoke it.
    pub(crate) statuses: bool,
}

/// Numbers of one service that the cores share. They survive every recompilation.
#[derive(Debug, Default)]
pub(crate) struct Share {
    /// Exchanges under way.
    pub(crate) pending: Arc<InFlight>,
    /// The rate limit.
    pub(crate) rate: Pace,
    /// Retries let through whatever their share.
    pub(crate) retries: Pace,
    /// What the own program can take, if it serves this service.
    pub(crate) gate: Gate,
    /// What it reports of its load, if it's asked.
    pub(crate) heard: Arc<Heard>,
}

impl Cluster {
    /// Asks a host outside by its own name. What a route says of the host comes after, and holds.
    pub(crate) fn address(&self, head: &mut Head) {
        if let Some(authority) = &self.outside {
            head.set_authority(authority).ok();
        }
    }

    /// The service.
    pub fn service(&self) -> &ServiceRef {
        &self.name.service
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.name.port
    }

    /// What is spoken there.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The server name to ask for on the mesh.
    pub fn sni(&self) -> &Text {
        &self.name.sni
    }

    /// Endpoints that may be sent requests, nearest first.
    pub fn members(&self) -> &[Arc<Member>] {
        &self.members
    }

    /// Endpoints that may not, as they drain or are unhealthy.
    pub fn away(&self) -> u32 {
        self.away
    }

    /// Requests that the own program is given at once, if that has to be limited (inbound).
    pub fn concurrency_limit(&self) -> Option<u64> {
        self.call.share.gate.limit()
    }

    /// Requests that the own program has under way (inbound).
    pub fn concurrency(&self) -> u64 {
        self.call.share.gate.in_flight()
    }

    /// Endpoints of this mesh that may be sent requests; behind them are the ways to other sites.
    pub fn at_home(&self) -> &[Arc<Member>] {
        self.members.get(..self.home as usize).unwrap_or(&self.members)
    }

    /// How many tiers are places by name: the first ones.
    pub(crate) fn places(&self) -> usize {
        self.tiers.iter().take_while(|tier| tier.area.is_some()).count()
    }

    /// Where the members of all places by name begin and end; `None` if there are none.
    pub(crate) fn named(&self) -> Option<(usize, usize)> {
        let last = self.places().checked_sub(1)?;
        Some((0, self.range(last).1))
    }

    /// Where the members of a tier begin and end.
    pub(crate) fn range(&self, tier: usize) -> (usize, usize) {
        let end = |at: usize| self.tiers.get(at).map_or(self.members.len(), |tier| tier.end as usize);
        (tier.checked_sub(1).map_or(0, end), end(tier))
    }

    /// The rate limit's answer for one more request: how long to wait, if it's too many.
    pub(crate) fn over_rate(&self, now: Instant) -> Option<Duration> {
        let rate = self.call.bounds.rate?;
        self.call.share.rate.admit(now, rate.per / rate.requests.max(1), rate.requests).err()
    }
}
