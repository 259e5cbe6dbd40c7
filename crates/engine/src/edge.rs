// SPDX-License-Identifier: Apache-2.0
//! Which rule of the routes on gateways fits a request from outside. Compiled from `Gateway` and the
//! routes attached to it, read by `exchange` and `explain`. A request belongs to the listeners with the
//! most special host that fits it, and to no other; within one, to the routes with the most special host,
//! and among these the precedence of a [`Table`] decides.

use crate::Gate;
use crate::route::{Chosen, CompiledRoute, Entry, Miss, Table};
use byrnie_base::Text;
use byrnie_codec::Head;
use byrnie_model::gateway::{Carries, Gateway, Port, Validation, host_fits, host_rank, intersection};
use byrnie_model::outside::Bundle;
use byrnie_model::range::Range;
use byrnie_model::route::{Parent, ParentKind};
use byrnie_model::{Key, Kind, Revision, Secret};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::sync::Arc;

/// Every listener of every gateway.
#[derive(Debug, Default)]
pub(crate) struct Edge {
    /// In the order asked among those with equal hosts: by age of the gateway, its name, and as written.
    listeners: Box<[Listener]>,
    /// What the proxy is to serve.
    pub(crate) ports: Arc<BTreeMap<Port, Served>>,
    /// Who alone may connect to a port of TCP, and says first of all for whom.
    pub(crate) balancers: BTreeMap<u16, Vec<Range>>,
}

/// What is served at one port that gateways name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Served {
    /// HTTP in the clear.
    Http,
    /// HTTP under TLS, by host; and what callers of all of them have to prove, if they have to.
    Https(Vec<Site>, Option<Proof>),
    /// Connections whose bytes nobody looks at.
    Tcp,
    /// Datagrams.
    Udp,
    /// Connections under TLS, by host; for some hosts it ends elsewhere.
    Tls(Vec<Site>),
    /// What other sites ask of exported services, under the mesh's own TLS, which ends elsewhere.
    Sites,
}

impl Served {
    fn new(carries: &Carries, proof: Option<Proof>) -> Self {
        match carries {
            Carries::Http => Self::Http,
            Carries::Https(_) => Self::Https(Vec::new(), proof),
            Carries::Tcp => Self::Tcp,
            Carries::Udp => Self::Udp,
            Carries::Tls(_) | Carries::Passthrough => Self::Tls(Vec::new()),
            Carries::Sites => Self::Sites,
        }
    }

    /// What is shown to whom, of what is under TLS.
    pub fn sites(&self) -> Option<&[Site]> {
        match self {
            Self::Https(sites, _) | Self::Tls(sites) => Some(sites),
            Self::Http | Self::Tcp | Self::Udp | Self::Sites => None,
        }
    }

    /// What callers have to prove, if they have to.
    pub const fn proof(&self) -> Option<&Proof> {
        match self {
            Self::Https(_, proof) => proof.as_ref(),
            Self::Http | Self::Tcp | Self::Udp | Self::Tls(_) | Self::Sites => None,
        }
    }

    fn sites_mut(&mut self) -> Option<&mut Vec<Site>> {
        match self {
            Self::Https(sites, _) | Self::Tls(sites) => Some(sites),
            Self::Http | Self::Tcp | Self::Udp | Self::Sites => None,
        }
    }
}

/// What callers have to prove by a certificate of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Those of whom one has to vouch for a caller. Without any, nobody is let in.
    pub authorities: BTreeMap<Key, Arc<Bundle>>,
    /// Whether callers that prove nothing are let in as well.
    pub optional: bool,
}

/// What is shown to those who ask for a host in their handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The host, perhaps with a leading `*.`; `None` means any.
    pub hostname: Option<Text>,
    /// The certificates to choose from. Without any, nobody is let in.
    pub certificates: Vec<(Key, Arc<Secret>)>,
    /// TLS ends elsewhere: nothing is shown, and only the host is looked at.
    pub passes: bool,
}

impl Site {
    /// Whether the TLS of a caller that asks for `host`, or for none, ends elsewhere.
    pub fn passes(sites: &[Self], host: Option<&str>) -> bool {
        let host = host.unwrap_or_default();
        let fitting = sites.iter().filter(|site| host_fits(site.hostname.as_deref(), host));
        fitting.max_by_key(|site| host_rank(site.hostname.as_deref())).is_some_and(|site| site.passes)
    }
}

/// The gateways in the order of [`order`].
pub(crate) type Gateways<'a> = Vec<(&'a Key, &'a Gateway)>;

/// The balancers in front of a gateway, or of the one to which a set adds.
fn front<'a>(gateways: &Gateways<'a>, gateway: &'a Gateway) -> &'a [Range] {
    let Some(parent) = &gateway.parent else { return &gateway.balancers };
    let is = |key: &Key| key.kind == Kind::Gateway && key.namespace == parent.namespace && key.name == parent.name;
    gateways.iter().find(|(key, _)| is(key)).map_or(&[], |(_, owner)| &owner.balancers)
}

#[derive(Debug)]
struct Listener {
    /// `KIND/NAMESPACE/NAME/LISTENER`.
    label: Text,
    hostname: Option<Text>,
    at: Port,
    /// Whether it's reached at the edge's own port too.
    clear: bool,
    /// The routes by host, the most special host first.
    hosts: Box<[(Option<Text>, Table)]>,
}

impl Edge {
    /// The listeners of `gateways`, in the order given, with those `routes` that name them. One that speaks
    /// something else than an earlier one at its port has no part in it.
    pub(crate) fn new(
        gateways: &Gateways<'_>,
        routes: &BTreeMap<Key, Arc<CompiledRoute>>,
        secrets: &BTreeMap<Key, Arc<Secret>>,
        bundles: &BTreeMap<Key, Arc<Bundle>>,
    ) -> Self {
        let mut listeners = Vec::new();
        let mut ports: BTreeMap<Port, (Served, &Carries)> = BTreeMap::new();
        let mut fronts: BTreeMap<u16, &[Range]> = BTreeMap::new();
        for (key, gateway) in gateways {
            let kind = if key.kind == Kind::ListenerSet { ParentKind::ListenerSet } else { ParentKind::Gateway };
            let front = front(gateways, gateway);
            for listener in &gateway.listeners {
                let carries = &listener.carries;
                let stands = match listener.at() {
                    // Whoever connects to a port must know what to begin with.
                    Port::Tcp(number) => *fronts.entry(number).or_insert(front) == front,
                    // No balancer says whom a datagram is from.
                    Port::Udp(_) => front.is_empty(),
                };
                if !stands {
                    continue;
                }
                let proof = gateway.frontend.of(listener).map(|said| proof(said, bundles));
                let (served, _) = match ports.entry(listener.at()) {
                    Slot::Vacant(slot) => slot.insert((Served::new(carries, proof), carries)),
                    // One connection may be for hosts of all of them, so that all have to ask for the same.
                    Slot::Occupied(slot)
                        if slot.get().1.goes_with(carries) && slot.get().0.proof() == proof.as_ref() =>
                    {
                        slot.into_mut()
                    }
                    Slot::Occupied(_) => continue,
                };
                if let Some(sites) = served.sites_mut() {
                    sites.push(site(listener, secrets));
                }
                let names = |parent: &Parent| {
                    parent.kind == kind
                        && (&parent.name.namespace, &parent.name.name) == (&key.namespace, &key.name)
                        && parent.section.as_ref() == Some(&listener.name)
                };
                let attached: Vec<_> = routes.values().filter(|route| route.spec.parents.iter().any(names)).collect();
                listeners.push(Listener {
                    label: format!("{key}/{}", listener.name).into(),
                    hostname: listener.hostname.clone(),
                    at: listener.at(),
                    clear: *carries == Carries::Http && front.is_empty(),
                    hosts: hosts(listener.hostname.as_deref(), &attached),
                });
            }
        }
        let ports = ports.into_iter().map(|(port, (served, _))| (port, served)).collect();
        let balancers = fronts.into_iter().filter(|(_, front)| !front.is_empty());
        let balancers = balancers.map(|(port, front)| (port, front.to_vec())).collect();
        Self { listeners: listeners.into(), ports: Arc::new(ports), balancers }
    }

    /// The rule for `head`, which came by `gate`.
    pub(crate) fn choose(&self, gate: Gate<'_>, head: &Head) -> Option<Chosen> {
        self.tables(gate, head.host()).find_map(|(_, table)| table.choose(head))
    }

    /// The rule for a connection that asks for `host`, or for none, or for a flow.
    pub(crate) fn choose_opaque(&self, gate: Gate<'_>, host: &str) -> Option<Chosen> {
        self.tables(gate, host).find_map(|(_, table)| table.first())
    }

    /// Whether a request is for another listener than the one whose certificate was shown: its sender took one
    /// certificate for several hosts to mean one server (RFC 9110 15.5.20; Gateway API, GEP-3567).
    pub(crate) fn is_misdirected(&self, gate: Gate<'_>, head: &Head) -> bool {
        let Gate::Port { sni: Some(sni), .. } = gate else { return false };
        // Listeners of equal rank that fit one host have the same pattern: the patterns say which listener is meant.
        let meant = |host| {
            let fitting = self.fitting(gate, host);
            fitting.map(|listener| listener.hostname.as_deref()).max_by_key(|pattern| host_rank(*pattern))
        };
        meant(sni) != meant(head.host())
    }

    /// Every match that is asked, in order, with its listener and what `head` lacks for it.
    pub(crate) fn misses<'a>(
        &'a self,
        gate: Gate<'a>,
        head: &'a Head,
    ) -> impl Iterator<Item = (&'a Text, &'a Entry, Option<Miss<'a>>)> {
        self.tables(gate, head.host())
            .flat_map(|(label, table)| table.misses(head).map(move |(entry, miss)| (label, entry, miss)))
    }

    /// The listeners that a host may be meant for.
    fn fitting<'a>(&'a self, gate: Gate<'a>, host: &'a str) -> impl Iterator<Item = &'a Listener> {
        let here = move |listener: &&Listener| gate.at().map_or(listener.clear, |at| listener.at == at);
        self.listeners.iter().filter(here).filter(|listener| host_fits(listener.hostname.as_deref(), host))
    }

    fn best(&self, gate: Gate<'_>, host: &str) -> Option<(bool, usize)> {
        self.fitting(gate, host).map(|listener| host_rank(listener.hostname.as_deref())).max()
    }

    fn tables<'a>(&'a self, gate: Gate<'a>, host: &'a str) -> impl Iterator<Item = (&'a Text, &'a Table)> {
        let best = self.best(gate, host);
        let listeners =
            self.fitting(gate, host).filter(move |listener| Some(host_rank(listener.hostname.as_deref())) == best);
        listeners.flat_map(move |listener| {
            let hosts = listener.hosts.iter().filter(move |(name, _)| host_fits(name.as_deref(), host));
            hosts.map(|(_, table)| (&listener.label, table))
        })
    }
}

/// What a listener shows.
fn site(listener: &byrnie_model::gateway::Listener, secrets: &BTreeMap<Key, Arc<Secret>>) -> Site {
    let found = listener.carries.certificates().iter().filter(|to| to.unserved.is_none()).filter_map(|to| {
        let key = Key::new(Kind::Secret, to.namespace.clone(), to.name.clone());
        secrets.get(&key).map(|secret| (key, Arc::clone(secret)))
    });
    let passes = listener.carries == Carries::Passthrough;
    Site { hostname: listener.hostname.clone(), certificates: found.collect(), passes }
}

/// What callers have to prove: by those of the authorities that are known here.
fn proof(said: &Validation, bundles: &BTreeMap<Key, Arc<Bundle>>) -> Proof {
    let found = said.authorities.iter().filter(|to| to.unserved.is_none()).filter_map(|to| {
        let key = Key::new(Kind::ConfigMap, to.namespace.clone(), to.name.clone());
        bundles.get(&key).map(|bundle| (key, Arc::clone(bundle)))
    });
    Proof { authorities: found.collect(), optional: said.optional }
}

/// The tables of a listener, one for each host that it has in common with a route.
fn hosts(listener: Option<&str>, routes: &[&Arc<CompiledRoute>]) -> Box<[(Option<Text>, Table)]> {
    let mut by_host: BTreeMap<Option<&str>, Vec<&Arc<CompiledRoute>>> = BTreeMap::new();
    for route in routes {
        let names: Vec<Option<&str>> = match route.spec.hostnames.as_slice() {
            [] => vec![None],
            names => names.iter().map(|name| Some(&**name)).collect(),
        };
        for common in names.into_iter().filter_map(|name| intersection(listener, name)) {
            let at = by_host.entry(common).or_default();
            if !at.iter().any(|other| Arc::ptr_eq(other, route)) {
                at.push(route);
            }
        }
    }
    let mut tables: Vec<_> = by_host.into_iter().map(|(host, of)| (host.map(Text::from), table(of))).collect();
    tables.sort_by_key(|(host, _)| std::cmp::Reverse(host_rank(host.as_deref())));
    tables.into()
}

/// Of several kinds of routes at one host, those of the oldest route's kind count.
fn table(routes: Vec<&Arc<CompiledRoute>>) -> Table {
    let eldest = routes.iter().min_by(|a, b| a.order().cmp(&b.order())).map(|route| route.kind);
    Table::new(routes.into_iter().filter(|route| Some(route.kind) == eldest))
}

/// The order among gateways: by age, then by name; what is added to them comes after all of them.
pub(crate) fn order<'a>(a: (Revision, &'a Key), b: (Revision, &'a Key)) -> std::cmp::Ordering {
    let place = |(created, key): (Revision, &'a Key)| (key.kind, created, &key.namespace, &key.name);
    place(a).cmp(&place(b))
}

#[cfg(test)]
mod tests;
