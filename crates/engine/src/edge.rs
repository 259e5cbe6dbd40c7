// SPDX-License-Identifier: Apache-2.0
//! Which rule of the routes on gateways fits a request from outside. Compiled from `Gateway` and the
//! routes attached to it, read by `exchange` and `explain`. A request belongs to the listeners with the
//! most special host that fits it, and to no other; within one, to the routes with the most special host,
//! and among these the precedence of a [`Table`] decides.

use crate::route::{Chosen, CompiledRoute, Entry, Miss, Table};
use byrnie_base::Text;
use byrnie_codec::Head;
use byrnie_model::gateway::{Gateway, host_fits, host_rank, intersection};
use byrnie_model::route::{Parent, ParentKind};
use byrnie_model::{Key, Revision};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Every listener of every gateway.
#[derive(Debug, Default)]
pub(crate) struct Edge {
    /// In the order asked among those with equal hosts: by age of the gateway, its name, and as written.
    listeners: Box<[Listener]>,
}

#[derive(Debug)]
struct Listener {
    /// `NAMESPACE/GATEWAY/LISTENER`.
    label: Text,
    hostname: Option<Text>,
    /// The routes by host, the most special host first.
    hosts: Box<[(Option<Text>, Table)]>,
}

impl Edge {
    /// The listeners of `gateways`, in the order given, with those `routes` that name them.
    pub(crate) fn new<'a>(
        gateways: impl IntoIterator<Item = (&'a Key, &'a Gateway)>,
        routes: &BTreeMap<Key, Arc<CompiledRoute>>,
    ) -> Self {
        let mut listeners = Vec::new();
        for (key, gateway) in gateways {
            for listener in &gateway.listeners {
                let names = |parent: &Parent| {
                    parent.kind == ParentKind::Gateway
                        && (&parent.name.namespace, &parent.name.name) == (&key.namespace, &key.name)
                        && parent.section.as_ref() == Some(&listener.name)
                };
                let attached: Vec<_> = routes.values().filter(|route| route.spec.parents.iter().any(names)).collect();
                listeners.push(Listener {
                    label: format!("{}/{}/{}", key.namespace, key.name, listener.name).into(),
                    hostname: listener.hostname.clone(),
                    hosts: hosts(listener.hostname.as_deref(), &attached),
                });
            }
        }
        Self { listeners: listeners.into() }
    }

    /// The rule for `head`.
    pub(crate) fn choose(&self, head: &Head) -> Option<Chosen> {
        self.tables(head.host()).find_map(|(_, table)| table.choose(head))
    }

    /// Every match that is asked, in order, with its listener and what `head` lacks for it.
    pub(crate) fn misses<'a>(
        &'a self,
        head: &'a Head,
    ) -> impl Iterator<Item = (&'a Text, &'a Entry, Option<Miss<'a>>)> {
        self.tables(head.host())
            .flat_map(|(label, table)| table.misses(head).map(move |(entry, miss)| (label, entry, miss)))
    }

    fn tables<'a>(&'a self, host: &'a str) -> impl Iterator<Item = (&'a Text, &'a Table)> {
        let fitting = || self.listeners.iter().filter(|listener| host_fits(listener.hostname.as_deref(), host));
        let best = fitting().map(|listener| host_rank(listener.hostname.as_deref())).max();
        let listeners = fitting().filter(move |listener| Some(host_rank(listener.hostname.as_deref())) == best);
        listeners.flat_map(move |listener| {
            let hosts = listener.hosts.iter().filter(move |(name, _)| host_fits(name.as_deref(), host));
            hosts.map(|(_, table)| (&listener.label, table))
        })
    }
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

/// The order among gateways: by age, then by name.
pub(crate) fn order<'a>(a: (Revision, &'a Key), b: (Revision, &'a Key)) -> std::cmp::Ordering {
    (a.0, &a.1.namespace, &a.1.name).cmp(&(b.0, &b.1.namespace, &b.1.name))
}

#[cfg(test)]
mod tests;
