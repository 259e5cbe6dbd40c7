// SPDX-License-Identifier: Apache-2.0
//! One service joined with everything that bears on it: ports x routes x access policies x traffic
//! policies x endpoints x own workload. Policies are joined here, never per request.

use super::Compiler;
use crate::authorize::{Access, CompiledPolicy};
use crate::balance::hash::{self, hash};
use crate::balance::tiers::NEARNESSES;
use crate::cluster::{Bounds, Call, Cluster, Ejection, Member, Name, Patience, Pending, Selection, Share, Tier};
use crate::compress::Compress;
use crate::keyed::Protection;
use crate::probe::{Checked, Judged, Probe};
use crate::program::Program;
use crate::quota::Counted;
use crate::reporting::Reporting;
use crate::route::{Side, Table};
use crate::slot::Slot;
use crate::snapshot::{Asked, Port, Snapshot, Subtree};
use crate::watch::Watch;
use crate::{Node, Security};
use byrnie_base::Text;
use byrnie_model::policy::traffic::{AREAS_MAX, Balance, Choice, Limits, Nearness, Rate, RetryBudget};
use byrnie_model::policy::{HealthCheck, TrafficPolicy};
use byrnie_model::service::{Area, Locality, ServicePort, TargetPort};
use byrnie_model::{Health, Labels, Protocol, Service, ServiceRef, Workload};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Most time to open a connection, unless a TrafficPolicy says otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The retry budget of the contract: 20 % of the requests of the last 10 s, and 10 each second.
const RETRY_BUDGET: RetryBudget = RetryBudget {
    hedge: None,
    percent: 20,
    interval: Duration::from_secs(10),
    least: Rate { requests: 10, per: Duration::from_secs(1) },
};

impl Compiler {
    /// Puts the compiled service, or its absence, into `snapshot`.
    pub(super) fn compile_service(&mut self, name: &ServiceRef, snapshot: &mut Snapshot) {
        self.settle_far(name);
        let service = self.held.services.get(name);
        if service.is_some() || snapshot.subtree(&name.namespace, &name.name).is_some() {
            self.work.services += 1;
        }
        // Ports that are no more; a slot that has another owner by now is left alone.
        let old = snapshot.subtree(&name.namespace, &name.name).map(Arc::clone);
        for port in old.iter().flat_map(|tree| &tree.ports) {
            if snapshot.cluster(port.cluster).is_some() {
                snapshot.clusters[port.cluster.index as usize] = None;
            }
        }
        if let Some(front) = old.as_ref().and_then(|tree| tree.front).filter(|slot| snapshot.cluster(*slot).is_some()) {
            snapshot.clusters[front.index as usize] = None;
        }
        let counted = service.and_then(|service| self.quotas_of(name, service));
        let subtree = service.map(|service| {
            let quotas = counted.as_ref().map(|(_, quotas)| Arc::clone(quotas)).unwrap_or_default();
            Subtree { quotas, ..self.join(name, service, snapshot) }
        });
        self.quotas.extend(counted);
        let namespace = Arc::make_mut(snapshot.services.entry(name.namespace.clone()).or_default());
        match subtree {
            Some(subtree) => namespace.insert(name.name.clone(), Arc::new(subtree)),
            None => namespace.remove(&name.name),
        };
        if namespace.is_empty() {
            snapshot.services.remove(&name.namespace);
        }
    }

    fn join(&self, name: &ServiceRef, service: &Service, snapshot: &mut Snapshot) -> Subtree {
        let own = self.held.own.as_ref().filter(|(_, labels)| self.serves(name, service, labels));
        let far = self.leads_far(name, service);
        let call = Arc::new(self.call(name));
        let members = self.members_of(name, &call.choice.rule, snapshot);
        let watched = own.and_then(|_| self.watched(name, service, snapshot)).map(Box::new);
        let watch = || {
            let health = Arc::clone(&watched.as_ref()?.health);
            Some(Watch { health, panic_percent: call.choice.rule.panic_percent.unwrap_or(0) })
        };
        let front = call.pool.as_ref().and_then(|_| self.slots.find(name, 0));
        if let Some((slot, port)) = front.zip(service.ports.first()) {
            self.put_cluster(name, (port, None, None), slot, (&members, &call), snapshot);
        }
        let mut ports = Vec::with_capacity(service.ports.len());
        for port in &service.ports {
            let Some(slot) = self.slots.find(name, port.port) else { continue };
            let beyond = far.then(|| self.held.outward.security(name, "", port));
            let kind = (port, service.outside_authority(port), beyond);
            self.put_cluster(name, kind, slot, (&members, &call), snapshot);
            ports.push(Port {
                number: port.port,
                protocol: port.protocol,
                cluster: slot,
                table: self.table(name, port, &snapshot.node.namespace),
                program: own.and_then(|(workload, _)| match &service.outside {
                    Some(host) => self.outside(name, host, port, watch()),
                    None if far => Some(self.beyond(name, port)),
                    None => program(port, workload).map(Program::Beside),
                }),
            });
        }
        // Whoever may call is told of the endpoints; of the own service then at least of this workload.
        let untold = self.held.endpoints.get(name).is_none_or(BTreeMap::is_empty) && !far;
        let closed = service.is_bare() || own.is_some() && service.outside.is_none() && untold;
        let access = own.map(|(workload, _)| self.access(name, service, workload, &snapshot.node.identity));
        let protection = self.protection(name, service, own.map(|(workload, _)| workload)).map(Arc::new);
        let asked = own.map(|_| Asked {
            probe: self.probe(name, &ports).map(Box::new),
            // Where nobody weighs by it, nobody is told.
            reporting: (call.balance == Balance::WeightedRoundRobin)
                .then(|| self.reporting(name, &ports, &call.share))
                .flatten()
                .map(Box::new),
        });
        let checked = if far && service.takes_slices() { self.checked(name, service) } else { Vec::new() };
        Subtree {
            service: name.clone(),
            label: name.to_string().into(),
            ports: ports.into(),
            closed,
            access,
            protection,
            compress: own.and_then(|(workload, _)| self.compress(name, service, workload)).map(Box::new),
            quotas: Arc::default(),
            asked: asked.unwrap_or_default(),
            checked: checked.into(),
            watched,
            front,
        }
    }

    /// How programs behind a service are checked, by the first policy for it that says so.
    pub(super) fn health_check(&self, name: &ServiceRef) -> Option<HealthCheck> {
        let mut policies = self.held.by_target.get(name)?.iter().filter_map(|key| self.held.traffic.get(key));
        policies.find_map(|policy| policy.health_check().cloned())
    }

    /// Which answers of the own program are compressed. A policy for the whole holds for its parts, unless they have their own.
    fn compress(&self, name: &ServiceRef, service: &Service, own: &Workload) -> Option<Compress> {
        let is_whole = |other: &ServiceRef, whole: &Service| {
            other == name || (other.namespace == name.namespace && is_part(service, whole, own))
        };
        let wholes = self.held.services.iter().filter(|(other, whole)| is_whole(other, whole));
        let said = wholes.filter_map(|(other, whole)| {
            let mut keys = self.held.by_target.get(other)?.iter();
            let (key, policy) = keys.find_map(|key| Some((key, self.held.traffic.get(key)?.compression.as_ref()?)))?;
            Some((other != name, whole.selector.len(), other, key, policy))
        });
        let (.., key, policy) = said.min_by_key(|(far, labels, other, ..)| (*far, *labels, *other))?;
        Some(Compress { policy: policy.clone(), rule: format!("{}/{}", key.namespace, key.name).into() })
    }

    /// How the own program is checked.
    fn probe(&self, name: &ServiceRef, ports: &[Port]) -> Option<Probe> {
        let check = self.health_check(name)?;
        // Nobody answers a check by UDP.
        let mut checked = ports.iter().filter(|port| port.protocol != Protocol::Udp);
        let port = checked.find(|port| check.port.is_none_or(|number| number == port.number))?;
        let address = port.program.as_ref()?.beside()?;
        Some(Probe { address, protocol: port.protocol, security: Security::Plain, authority: None, check })
    }

    /// Where the own program is asked for reports of its load: at the port that the first policy that says so names, or at the first
    /// one that speaks HTTP/2.
    fn reporting(&self, name: &ServiceRef, ports: &[Port], share: &Share) -> Option<Reporting> {
        let mut policies = self.held.by_target.get(name)?.iter().filter_map(|key| self.held.traffic.get(key));
        let asked = policies.find_map(|policy| policy.load_report().copied())?;
        let named = |port: &&Port| asked.port.is_none_or(|number| number == port.number);
        let speaks = |port: &&Port| named(port) && port.protocol.is_h2();
        let port = ports.iter().find(speaks).or_else(|| ports.iter().find(named))?;
        let address = port.program.as_ref()?.beside()?;
        Some(Reporting { address, interval: asked.interval, heard: Arc::clone(&share.heard) })
    }

    /// How the addresses of slices are checked: each at one port, for all that is there.
    fn checked(&self, name: &ServiceRef, service: &Service) -> Vec<Checked> {
        let Some(check) = self.health_check(name) else { return Vec::new() };
        let Some(port) = service.ports.iter().find(|port| check.port.is_none_or(|number| number == port.port)) else {
            return Vec::new();
        };
        let security = self.held.outward.security(name, "", port);
        let mut at: BTreeMap<IpAddr, Vec<Arc<Member>>> = BTreeMap::new();
        for member in self.held.far.members(name).into_iter().flat_map(|of| of.values()) {
            at.entry(member.address().ip()).or_default().push(Arc::clone(member));
        }
        let checked = at.into_values().filter_map(|members| {
            let serves = |member: &&Arc<Member>| member.endpoint.ports.iter().any(|pair| pair.service == port.port);
            let address = members.iter().find(serves)?.address();
            let (protocol, security, check) = (port.protocol, security.clone(), check.clone());
            let probe = Probe { address, protocol, security, authority: None, check };
            Some(Checked { probe, judged: Judged::Members(members) })
        });
        checked.collect()
    }

    /// How the own program is checked, if the workload itself says so. No service can have its name.
    pub(super) fn own_check(&self) -> Option<Arc<(ServiceRef, Probe)>> {
        let (workload, _) = self.held.own.as_ref()?;
        let check = workload.check.clone()?;
        let number = check.port?;
        let declared = workload.ports.iter().find(|port| port.port == number);
        let protocol = declared.map(|port| port.protocol).unwrap_or_default();
        let node = &self.snapshot.node;
        let name = ServiceRef::new(node.namespace.clone(), format!("workload {}", node.name));
        Some(Arc::new((
            name,
            Probe { address: at(number), protocol, security: Security::Plain, authority: None, check },
        )))
    }

    pub(super) fn serves(&self, name: &ServiceRef, service: &Service, labels: &Labels) -> bool {
        let node = &self.snapshot.node;
        if service.outside.is_some() || self.leads_far(name, service) {
            return self.is_exit();
        }
        name.namespace == node.namespace
            && !service.selector.is_empty()
            && service.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// The routes of a port for calls from this namespace: its own take the place of the service's.
    fn table(&self, name: &ServiceRef, port: &ServicePort, caller: &str) -> Table {
        let keys = self.held.by_parent.get(name).into_iter().flatten();
        let routes = keys.filter(|key| key.kind.stands_on(port.protocol)).filter_map(|key| self.held.routes.get(key));
        let standing: Vec<_> =
            routes.filter_map(|route| Some((route.stands_on(name, port.port, caller)?, route))).collect();
        let consumed = standing.iter().any(|(side, _)| *side == Side::Consumer);
        let side = if consumed { Side::Consumer } else { Side::Producer };
        Table::new(standing.into_iter().filter(|(of, _)| *of == side).map(|(_, route)| route))
    }

    /// A policy for `payments` also protects `payments-v1`, to which a route of `payments` leads: whoever
    /// may call the whole may be sent to any part of it, and whoever may not, can't get in by the part.
    fn access(
        &self,
        name: &ServiceRef,
        service: &Service,
        workload: &Workload,
        own: &byrnie_model::Identity,
    ) -> Access {
        let wholes: Vec<&ServiceRef> = self
            .held
            .services
            .iter()
            .filter(|(other, whole)| other.namespace == name.namespace && is_part(service, whole, workload))
            .map(|(other, _)| other)
            .collect();
        let protects = |policy: &CompiledPolicy| policy.is_for(name) || wholes.iter().any(|whole| policy.is_for(whole));
        let policies: Vec<_> = self.held.policies.values().filter(|policy| protects(policy)).cloned().collect();
        let domain = self.held.mesh.as_ref().map_or_else(|| own.trust_domain(), |mesh| &mesh.trust_domain);
        // What isn't exported is for nobody else, whichever way they come.
        let exported = self.held.edge.exports.contains(name);
        let sites = self.held.edge.sites.values().filter(|_| exported).map(|site| site.trust_domain.clone()).collect();
        Access::new(&policies, domain).among(sites)
    }

    /// How keyed requests are protected. Where the own program serves the service, a policy for the whole
    /// holds for its parts too, under one set of keys: a route may send a repetition to another part.
    fn protection(&self, name: &ServiceRef, service: &Service, own: Option<&Workload>) -> Option<Protection> {
        let is_whole = |other: &ServiceRef, whole: &Service| {
            other == name || own.is_some_and(|own| other.namespace == name.namespace && is_part(service, whole, own))
        };
        let wholes = self.held.services.iter().filter(|(other, whole)| is_whole(other, whole));
        let protected = wholes.filter_map(|(other, whole)| {
            let mut keys = self.held.by_target.get(other)?.iter();
            let (key, policy) = keys.find_map(|key| Some((key, self.held.traffic.get(key)?.idempotency.as_ref()?)))?;
            Some((other, whole, key, policy))
        });
        // The most general one: all parts agree on it.
        let (scope, _, key, policy) = protected.min_by_key(|(other, whole, ..)| (whole.selector.len(), *other))?;
        let rule = format!("{}/{}", key.namespace, key.name).into();
        Some(Protection { policy: policy.clone(), scope: scope.to_string().into(), rule })
    }

    /// How many requests the own program is asked for. As with keys, a policy for the whole holds for its parts too,
    /// and what they are asked for is counted together, under the name that comes first.
    fn quotas_of(&self, name: &ServiceRef, service: &Service) -> Option<(ServiceRef, Arc<[Counted]>)> {
        let (own, _) = self.held.own.as_ref().filter(|(_, labels)| self.serves(name, service, labels))?;
        let is_whole = |other: &ServiceRef, whole: &Service| {
            other == name || (other.namespace == name.namespace && is_part(service, whole, own))
        };
        let wholes = self.held.services.iter().filter(|(other, whole)| is_whole(other, whole));
        let limited = wholes.filter_map(|(other, whole)| {
            let mut policies = self.held.by_target.get(other)?.iter().filter_map(|key| self.held.traffic.get(key));
            let limits =
                policies.find_map(|policy| policy.limits.as_ref().filter(|limits| !limits.quotas.is_empty()))?;
            Some((other, whole, &limits.quotas))
        });
        let (scope, _, quotas) = limited.min_by_key(|(other, whole, _)| (whole.selector.len(), *other))?;
        let kept = self.quotas.get(scope).filter(|kept| kept.iter().map(|one| &one.quota).eq(quotas));
        let counted = kept.cloned().unwrap_or_else(|| quotas.iter().map(|quota| Counted::new(scope, quota)).collect());
        Some((scope.clone(), counted))
    }

    /// Traffic policies in the order of their names: the first one that says something about a matter
    /// decides it.
    fn call(&self, name: &ServiceRef) -> Call {
        let keys = self.held.by_target.get(name).into_iter().flatten();
        let choice = keys.clone().find_map(|key| {
            let rule = self.held.traffic.get(key)?.choice()?.clone();
            Some(Selection { rule, by: format!("{}/{}", key.namespace, key.name).into() })
        });
        let policies: Vec<&TrafficPolicy> =
            keys.filter_map(|key| self.held.traffic.get(key)).map(|policy| &**policy).collect();
        fn first<'a, T>(policies: &[&'a TrafficPolicy], of: impl Fn(&'a TrafficPolicy) -> Option<T>) -> Option<T> {
            policies.iter().find_map(|policy| of(policy))
        }
        let eject = first(&policies, |p| p.eject.clone());
        // What no policy says of a matter, the Mesh says for all.
        let of_all = self.held.mesh.iter().map(|mesh| &*mesh.limits);
        let limits: Vec<&Limits> = policies.iter().filter_map(|p| p.limits.as_ref()).chain(of_all).collect();
        Call {
            balance: first(&policies, |p| p.balance).unwrap_or_default(),
            hash: first(&policies, |p| p.balance.map(|_| p.hash.clone())).flatten(),
            choice: choice.unwrap_or_default(),
            below_percent: first(&policies, |p| p.failover.as_ref()).map_or(0, |failover| failover.below_percent),
            eject: Ejection { statuses: eject.is_some(), rule: eject.unwrap_or_default() },
            bounds: Bounds {
                pending: limits.iter().find_map(|limits| {
                    limits.pending_max.map(|max| Pending { max, queued_max: limits.queued_max.unwrap_or(0) })
                }),
                rate: limits.iter().find_map(|limits| limits.rate),
                admission: limits.iter().find_map(|limits| limits.admission.clone()),
            },
            budget: first(&policies, |p| p.retry_budget).unwrap_or(RETRY_BUDGET),
            fault: first(&policies, |p| p.fault.clone()),
            unsafe_retry: policies.iter().any(|policy| policy.unsafe_retry),
            patience: Patience {
                connect: first(&policies, |p| p.connect_timeout).unwrap_or(CONNECT_TIMEOUT),
                idle: limits.iter().find_map(|limits| limits.idle_max),
            },
            share: self.shares.get(name).map(Arc::clone).unwrap_or_else(|| Arc::new(Share::default())),
            pool: self.held.services.get(name).and_then(|service| self.pool(name, service)),
        }
    }

    /// The endpoints of a service by tier, nearest first: those that `choice` lets in.
    fn members_of(&self, name: &ServiceRef, choice: &Choice, snapshot: &Snapshot) -> Vec<Nearby> {
        if let Some(first) = self.held.services.get(name).and_then(|of| self.held.far.located(of).first())
            && let Some(members) = self.held.far.members(name)
        {
            return by_kind(members.values(), first.is_ipv4());
        }
        let keys = self.held.by_target.get(name).into_iter().flatten();
        let failover = keys.filter_map(|key| self.held.traffic.get(key)?.failover.as_ref()).next();
        let (prefer, shares) = failover.map_or((&[][..], &[][..]), |policy| (&policy.prefer, &policy.shares));
        // Places by name come first, each with its share; the largest before all, for which connections are opened ahead.
        let own = &snapshot.node.locality;
        let named = failover.and_then(|policy| policy.distribution(own));
        let mut places: Vec<&(Area, u8)> = named.iter().flat_map(|named| &named.to).take(AREAS_MAX).collect();
        places.sort_by_key(|(_, share)| Reverse(*share));
        let of_places = places.iter().map(|(area, share)| Nearby::new(*share, Some(area)));
        // Whoever fits no preference comes after all of them.
        let prefer = &prefer[..prefer.len().min(NEARNESSES)];
        let share = |tier: usize| match shares.get(tier) {
            _ if !places.is_empty() => 0,
            Some(share) => *share,
            None => {
                if tier == 0 && shares.is_empty() {
                    100
                } else {
                    0
                }
            }
        };
        let by_nearness = (0..=prefer.len()).map(|tier| Nearby::new(share(tier), None));
        let mut tiers: Vec<Nearby> = of_places.chain(by_nearness).collect();
        // Other sites come after all that is here.
        let mut sites = Vec::new();
        let found = self.held.far.members(name).or_else(|| self.held.endpoints.get(name));
        for member in found.into_iter().flat_map(|of| of.values()) {
            if !choice.admits(&member.endpoint.labels) {
                continue;
            }
            if member.site().is_some() {
                sites.push(Arc::clone(member));
                continue;
            }
            let near = |nearness: &Nearness| is_near(*nearness, own, member.locality());
            let by_nearness = || places.len() + prefer.iter().position(near).unwrap_or(prefer.len());
            let place = named.and_then(|named| named.place(&whole(own, member.locality())));
            let tier = place.and_then(|place| places.iter().position(|(area, _)| area == place));
            tiers[tier.unwrap_or_else(by_nearness)].members.push(Arc::clone(member));
        }
        if let Some(most) = choice.most {
            tiers.iter_mut().for_each(|tier| subset(&mut tier.members, most, &snapshot.node));
        }
        if !sites.is_empty() {
            tiers.push(Nearby { members: sites, ..Nearby::new(0, None) });
        }
        tiers
    }

    fn put_cluster(
        &self,
        name: &ServiceRef,
        (port, outside, beyond): (&ServicePort, Option<Text>, Option<Security>),
        slot: Slot,
        (tiers, call): (&[Nearby], &Arc<Call>),
        snapshot: &mut Snapshot,
    ) {
        let mut cluster = Cluster {
            slot,
            name: cluster_name(name, port.port),
            protocol: port.protocol,
            outside,
            beyond,
            members: Box::default(),
            cumulative: Box::default(),
            tiers: Box::default(),
            table: hash::Table::None,
            home: 0,
            away: 0,
            call: Arc::clone(call),
        };
        fill(&mut cluster, tiers, port.port);
        let at = slot.index as usize;
        if snapshot.clusters.len() <= at {
            snapshot.clusters.resize(at + 1, None);
        }
        snapshot.clusters[at] = Some(Arc::new(cluster));
    }
}

fn cluster_name(service: &ServiceRef, port: u16) -> Name {
    let sni = Text::from(format!("{port}.{}.{}.mesh", service.name, service.namespace));
    Name { service: service.clone(), port, label: service.to_string().into(), sni }
}

/// The endpoints of one tier.
struct Nearby {
    share_percent: u8,
    /// The place by name that it is.
    area: Option<Area>,
    members: Vec<Arc<Member>>,
}

impl Nearby {
    fn new(share_percent: u8, area: Option<&Area>) -> Self {
        Self { share_percent, area: area.cloned(), members: Vec::new() }
    }
}

/// The addresses of a host: those of the other kind, of which the system's resolver knows that this machine had better not begin with
/// them (RFC 6724), are for when those of the one kind fail.
fn by_kind<'a>(members: impl Iterator<Item = &'a Arc<Member>>, v4: bool) -> Vec<Nearby> {
    let (first, others) = members.cloned().partition(|member| member.address().is_ipv4() == v4);
    vec![Nearby { members: first, ..Nearby::new(100, None) }, Nearby { members: others, ..Nearby::new(0, None) }]
}

/// Leaves `most` of the healthy members, and those that aren't. Each proxy keeps the ones that rank first in
/// an order of its own: proxies choose independently, so that every endpoint has about as many callers, and
/// one that leaves or comes changes at most one place (rendezvous hashing; gRFC A68).
fn subset(members: &mut Vec<Arc<Member>>, most: u32, node: &Node) {
    let own = hash(node.name.as_bytes(), hash(node.namespace.as_bytes(), 0));
    let rank = |member: &Arc<Member>| hash(member.name().as_bytes(), own);
    let mut ranks: Vec<u64> = members.iter().filter(|m| m.health() == Health::Healthy).map(rank).collect();
    ranks.sort_unstable();
    let Some(limit) = ranks.get(most as usize).copied() else { return };
    members.retain(|member| member.health() != Health::Healthy || rank(member) < limit);
}

/// Puts those endpoints into `cluster` that have the port.
fn fill(cluster: &mut Cluster, tiers: &[Nearby], port: u16) {
    let has_port = |member: &&Arc<Member>| member.endpoint.ports.iter().any(|pair| pair.service == port);
    let is = |member: &&Arc<Member>, health| member.health() == health;
    let having = || tiers.iter().flat_map(|tier| &tier.members).filter(has_port);
    let healthy = having().filter(|member| is(member, Health::Healthy)).count();
    let sick = having().filter(|member| is(member, Health::Unhealthy)).count();
    let panics = healthy * 100 < usize::from(cluster.call.choice.rule.panic_percent.unwrap_or(0)) * (healthy + sick);
    let (mut members, mut ends) = (Vec::new(), Vec::new());
    for tier in tiers {
        let mut total = 0;
        for member in tier.members.iter().filter(has_port) {
            total += 1;
            match member.health() {
                Health::Healthy => members.push(Arc::clone(member)),
                Health::Unhealthy if panics => members.push(Arc::clone(member)),
                Health::Draining | Health::Unhealthy => cluster.away += 1,
            }
        }
        let end = u32::try_from(members.len()).unwrap_or(u32::MAX);
        ends.push(Tier { end, total, share_percent: tier.share_percent, area: tier.area.clone() });
    }
    let uneven = members.windows(2).any(|pair| pair[0].endpoint.weight != pair[1].endpoint.weight);
    if uneven {
        let sums = members.iter().scan(0u64, |sum, member| {
            *sum += u64::from(member.endpoint.weight.max(1));
            Some(*sum)
        });
        cluster.cumulative = sums.collect();
    }
    cluster.table = hash::Table::new(cluster.call.balance, &members);
    cluster.home = u32::try_from(members.iter().filter(|member| member.site().is_none()).count()).unwrap_or(u32::MAX);
    cluster.members = members.into();
    cluster.tiers = ends.into();
}

/// Where an endpoint is, to a proxy that is at `own`: of an address in a slice often the zone alone is known.
fn whole(own: &Locality, at: &Locality) -> Locality {
    let region = if at.region.is_empty() && at.zone == own.zone { &own.region } else { &at.region };
    Locality { region: region.clone(), zone: at.zone.clone() }
}

fn is_near(nearness: Nearness, own: &Locality, other: &Locality) -> bool {
    let region = !own.region.is_empty() && own.region == other.region;
    // Of an address in a slice often the zone alone is known.
    let zone = !own.zone.is_empty() && own.zone == other.zone && other.region.is_empty();
    match nearness {
        Nearness::Any => true,
        Nearness::SameRegion => region || zone,
        Nearness::SameZone => region && own.zone == other.zone || zone,
    }
}

/// Whether every workload of `part` is one of `whole` by the selectors, and every port of the own program
/// behind `part` is behind `whole` too: then nothing is reached by the part that isn't by the whole.
fn is_part(part: &Service, whole: &Service, own: &Workload) -> bool {
    let programs = |of: &Service| of.ports.iter().filter_map(|port| program(port, own)).collect::<Vec<_>>();
    let reached = programs(whole);
    !whole.selector.is_empty()
        && whole.selector.iter().all(|(key, value)| part.selector.get(key) == Some(value))
        && programs(part).iter().all(|at| reached.contains(at))
}

/// Where the own program listens for a service port: on loopback, as nothing but its proxy should
/// reach it.
fn program(port: &ServicePort, workload: &Workload) -> Option<SocketAddr> {
    let number = match &port.target {
        TargetPort::Number(number) => *number,
        TargetPort::Name(name) => workload.ports.iter().find(|p| p.name == *name)?.port,
    };
    Some(at(number))
}

fn at(number: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, number))
}

impl CompiledPolicy {
    /// Whether the policy protects this service.
    pub(crate) fn is_for(&self, service: &ServiceRef) -> bool {
        self.spec.protects(&self.key().namespace, service)
    }
}
