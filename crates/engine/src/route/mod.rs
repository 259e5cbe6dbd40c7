// SPDX-License-Identifier: Apache-2.0
//! Which rule of a service's routes fits a request, with the precedence of Gateway API. Compiled from
//! routes by [`compile`], joined to a port as a [`Table`], read by `exchange` and `explain`. Looks
//! at nothing but the canonical head.

mod compile;
mod matching;
#[cfg(test)]
mod tests;

pub(crate) use compile::{CompiledRoute, Side};
pub(crate) use matching::{CompiledMatch, Miss};

use crate::filter::Changes;
use crate::slot::Slot;
use byrnie_base::{Rng, Text};
use byrnie_codec::Head;
use byrnie_model::Kind;
use byrnie_model::route::{Backend, Rule, Standing};
use matching::Lead;
use std::sync::Arc;

/// A rule, compiled.
#[derive(Debug)]
pub(crate) struct CompiledRule {
    /// `NAMESPACE/NAME[INDEX]`.
    pub(crate) label: Text,
    pub(crate) matches: Box<[CompiledMatch]>,
    /// The clusters of the rule's backends, in the same order.
    pub(crate) clusters: Box<[Slot]>,
    pub(crate) weight_total: u64,
    /// Where copies of requests go.
    pub(crate) copies: Box<[Copied]>,
    pub(crate) changes: Changes,
    /// What its backends change besides, in the same order.
    pub(crate) of_backends: Box<[Changes]>,
}

/// Where copies of a share of a rule's requests go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copied {
    pub(crate) cluster: Slot,
    /// Only of requests that go to this backend.
    pub(crate) backend: Option<u16>,
    /// So many of `of`.
    pub(crate) share: u32,
    pub(crate) of: u32,
}

/// One match of one rule.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    route: Arc<CompiledRoute>,
    rule: u16,
    matched: u16,
    lead: Lead,
}

impl Entry {
    pub(crate) fn matched(&self) -> &CompiledMatch {
        &self.route.rules[usize::from(self.rule)].matches[usize::from(self.matched)]
    }

    pub(crate) fn label(&self) -> &Text {
        &self.route.rules[usize::from(self.rule)].label
    }

    pub(crate) fn kind(&self) -> Kind {
        self.route.kind
    }
}

/// All matches of the routes of one port, the first to be asked first.
#[derive(Debug, Default)]
pub(crate) struct Table {
    entries: Box<[Entry]>,
}

impl Table {
    /// The table of `routes`. Of several kinds only the most special counts.
    pub(crate) fn new<'a>(routes: impl IntoIterator<Item = &'a Arc<CompiledRoute>>) -> Self {
        let mut entries = Vec::new();
        let routes: Vec<_> = routes.into_iter().collect();
        let most = routes.iter().map(|route| route.speciality()).max();
        for route in routes.into_iter().filter(|route| Some(route.speciality()) == most) {
            for (r, rule) in route.rules.iter().enumerate() {
                for (m, compiled) in rule.matches.iter().enumerate() {
                    let (Ok(rule), Ok(matched)) = (u16::try_from(r), u16::try_from(m)) else { continue };
                    entries.push(Entry { route: Arc::clone(route), rule, matched, lead: compiled.lead() });
                }
            }
        }
        entries.sort_by(|a, b| {
            let order = b.matched().rank().cmp(&a.matched().rank());
            order.then_with(|| a.route.order().cmp(&b.route.order())).then(a.rule.cmp(&b.rule))
        });
        Self { entries: entries.into() }
    }

    /// Whether the port has no route, so that requests go straight to the service.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The rule for `head`.
    pub(crate) fn choose(&self, head: &Head) -> Option<Chosen> {
        let begins = Lead::word(head.path());
        let mut may = self.entries.iter().filter(|entry| entry.lead.fits(begins));
        let entry = may.find(|entry| entry.matched().miss(head).is_none())?;
        Some(Chosen { route: Arc::clone(&entry.route), rule: entry.rule, matched: entry.matched, backend: None })
    }

    /// The rule for a connection, of which there is nothing to match.
    pub(crate) fn first(&self) -> Option<Chosen> {
        let entry = self.entries.first()?;
        Some(Chosen { route: Arc::clone(&entry.route), rule: entry.rule, matched: entry.matched, backend: None })
    }

    /// Whether connections are told apart by the host that their TLS asks for.
    pub(crate) fn asks_for_hosts(&self) -> bool {
        self.entries.first().is_some_and(|entry| entry.kind() == Kind::TlsRoute)
    }

    /// The rule for a connection to `host`: of the route with the most special name that fits, the oldest of several.
    pub(crate) fn of_host(&self, host: &str) -> Option<Chosen> {
        let fits = |entry: &&Entry| entry.route.host_rank(host).is_some();
        let entry = self.entries.iter().rev().filter(fits).max_by_key(|entry| entry.route.host_rank(host))?;
        Some(Chosen { route: Arc::clone(&entry.route), rule: entry.rule, matched: entry.matched, backend: None })
    }

    /// Every match in the order asked, with what `head` lacks for it (`None`: it fits).
    pub(crate) fn misses<'a>(&'a self, head: &'a Head) -> impl Iterator<Item = (&'a Entry, Option<Miss<'a>>)> {
        self.entries.iter().map(|entry| (entry, entry.matched().miss(head)))
    }
}

/// The rule that an exchange follows, and its backend.
#[derive(Clone, Debug)]
pub(crate) struct Chosen {
    route: Arc<CompiledRoute>,
    rule: u16,
    matched: u16,
    backend: Option<u16>,
}

impl Chosen {
    /// What the rule says.
    pub(crate) fn rule(&self) -> &Rule {
        &self.route.spec.rules[usize::from(self.rule)]
    }

    /// The kind of its route.
    pub(crate) fn kind(&self) -> Kind {
        self.route.kind
    }

    fn compiled(&self) -> &CompiledRule {
        &self.route.rules[usize::from(self.rule)]
    }

    /// `NAMESPACE/NAME[INDEX]`.
    pub(crate) fn label(&self) -> &Text {
        &self.compiled().label
    }

    /// What the rule changes.
    pub(crate) fn changes(&self) -> &Changes {
        &self.compiled().changes
    }

    /// What the backend drawn changes besides.
    pub(crate) fn backend_changes(&self) -> Option<&Changes> {
        self.compiled().of_backends.get(usize::from(self.backend?))
    }

    /// The match that fitted.
    pub(crate) fn matched(&self) -> &CompiledMatch {
        &self.compiled().matches[usize::from(self.matched)]
    }

    /// Draws a backend by weight; `None` if none has any weight.
    pub(crate) fn draw_backend(&mut self, rng: &mut Rng) -> Option<Slot> {
        let compiled = &self.route.rules[usize::from(self.rule)];
        let backends = &self.route.spec.rules[usize::from(self.rule)].backends;
        if compiled.weight_total == 0 {
            return None;
        }
        let mut ticket = if backends.len() == 1 { 0 } else { rng.below(compiled.weight_total) };
        for (index, backend) in backends.iter().enumerate() {
            let weight = u64::from(backend.weight);
            if ticket < weight {
                self.backend = u16::try_from(index).ok();
                let granted = backend.to.standing == Standing::Granted;
                return compiled.clusters.get(index).copied().filter(|_| granted);
            }
            ticket -= weight;
        }
        None
    }

    /// The clusters of all backends that may be sent requests, with their places.
    pub(crate) fn clusters(&self) -> impl Iterator<Item = (u16, Slot)> {
        let granted = |at: &usize| self.rule().backends[*at].to.standing == Standing::Granted;
        let slots = self.compiled().clusters.iter();
        slots
            .enumerate()
            .filter(move |(at, _)| granted(at))
            .filter_map(|(at, slot)| Some((u16::try_from(at).ok()?, *slot)))
    }

    /// Takes this backend instead of drawing one.
    pub(crate) fn take_backend(&mut self, at: u16) {
        self.backend = Some(at);
    }

    /// Where copies of this request go, drawn by share.
    pub(crate) fn draw_copies(&self, rng: &mut Rng) -> Vec<Slot> {
        let fits = |copied: &&Copied| copied.backend.is_none() || copied.backend == self.backend;
        let copies = self.compiled().copies.iter().filter(fits);
        copies
            .filter(|c| c.share >= c.of || rng.below(u64::from(c.of)) < u64::from(c.share))
            .map(|c| c.cluster)
            .collect()
    }

    /// Whether copies may be wanted at all.
    pub(crate) fn has_copies(&self) -> bool {
        !self.compiled().copies.is_empty()
    }

    /// The backend drawn.
    pub(crate) fn backend(&self) -> Option<&Backend> {
        self.rule().backends.get(usize::from(self.backend?))
    }
}
