// SPDX-License-Identifier: Apache-2.0
//! Taking resources in and out, and finding the services that each touches. Called by `Compiler`.

use super::{Compiler, Members, check_endpoint, endpoint_key};
use crate::authorize::CompiledPolicy;
use crate::balance::load::Load;
use crate::cluster::Member;
use crate::route::CompiledRoute;
use crate::slot::Slot;
use byrnie_model::policy::{AccessPolicy, TrafficPolicy};
use byrnie_model::pool::Picker;
use byrnie_model::{Endpoint, Key, Labels, Revision, Route, Service, ServiceRef, Workload};
use std::collections::BTreeSet;
use std::sync::Arc;

type Dirty = BTreeSet<ServiceRef>;

impl Compiler {
    pub(super) fn put_workload(&mut self, key: &Key, workload: &Workload, labels: &Labels, dirty: &mut Dirty) {
        if !self.is_own(key) {
            return;
        }
        self.held.own = Some((workload.clone(), labels.clone()));
        self.touch_namespace(dirty);
    }

    pub(super) fn remove_workload(&mut self, key: &Key, dirty: &mut Dirty) {
        if self.is_own(key) && self.held.own.take().is_some() {
            self.touch_namespace(dirty);
        }
    }

    /// The own workload decides what is served in its namespace, and outside.
    fn touch_namespace(&self, dirty: &mut Dirty) {
        let namespace = &self.snapshot.node.namespace;
        let concerns =
            |at: &ServiceRef, s: &Service| at.namespace == *namespace || s.outside.is_some() || self.leads_far(at, s);
        let concerned = self.held.services.iter().filter(|(at, service)| concerns(at, service));
        dirty.extend(concerned.map(|(at, _)| at.clone()));
    }

    pub(super) fn put_service(&mut self, key: &Key, service: &Service, dirty: &mut Dirty) {
        let name = ServiceRef::new(key.namespace.clone(), key.name.clone());
        for (of, port) in named(&name, service) {
            self.slots.hold(&of, port);
        }
        if let Some(old) = self.held.services.insert(name.clone(), service.clone()) {
            for (of, port) in named(&name, &old) {
                self.let_go(&of, port);
            }
        }
        self.shares.entry(name.clone()).or_default();
        self.touch_parts(&name, dirty);
        dirty.insert(name);
    }

    /// Policies of a service protect its parts: what the service selects decides which these are.
    fn touch_parts(&self, whole: &ServiceRef, dirty: &mut Dirty) {
        let targeted = |policy: &CompiledPolicy| policy.spec.targets.contains(whole);
        let counted = |policy: &TrafficPolicy| policy.is_for_callee() && policy.targets.contains(whole);
        let concerns =
            self.held.policies.values().any(|p| targeted(p)) || self.held.traffic.values().any(|p| counted(p));
        if whole.namespace == self.snapshot.node.namespace && concerns {
            self.touch_served(dirty);
        }
    }

    /// The services of which the own workload is an instance: only these have access policies joined.
    pub(super) fn touch_served(&self, dirty: &mut Dirty) {
        let Some((_, labels)) = &self.held.own else { return };
        let served = self.held.services.iter().filter(|(name, service)| self.serves(name, service, labels));
        dirty.extend(served.map(|(name, _)| name.clone()));
    }

    pub(super) fn remove_service(&mut self, key: &Key, dirty: &mut Dirty) {
        let name = ServiceRef::new(key.namespace.clone(), key.name.clone());
        if let Some(old) = self.held.services.remove(&name) {
            for (of, port) in named(&name, &old) {
                self.let_go(&of, port);
            }
            self.shares.remove(&name);
            self.quotas.remove(&name);
            self.touch_parts(&name, dirty);
            dirty.insert(name);
        }
    }

    /// One holder of a cluster's slot less.
    fn let_go(&mut self, service: &ServiceRef, port: u16) {
        self.slots.let_go(service, port);
    }

    pub(super) fn put_endpoint(&mut self, endpoint: &Endpoint, dirty: &mut Dirty) -> Result<(), String> {
        check_endpoint(endpoint)?;
        let siblings = self.held.endpoints.entry(endpoint.service.clone()).or_default();
        let old = siblings.get(&endpoint.workload);
        if old.is_some_and(|old| old.endpoint == *endpoint) {
            return Ok(());
        }
        // What cores know of an endpoint holds as long as it stays at one address under one identity.
        let same =
            old.filter(|old| old.endpoint.address == endpoint.address && old.endpoint.identity == endpoint.identity);
        let member = match same {
            Some(old) => self.members.member(endpoint, old.slot, Arc::clone(&old.load)),
            None => {
                if let Some(old) = old {
                    self.members.slots.give_back(old.slot);
                }
                let slot = self.members.slots.take();
                self.members.member(endpoint, slot, Arc::default())
            }
        };
        siblings.insert(endpoint.workload.clone(), Arc::new(member));
        dirty.insert(endpoint.service.clone());
        Ok(())
    }

    pub(super) fn remove_endpoint(&mut self, key: &Key, dirty: &mut Dirty) {
        let Some((service, workload)) = endpoint_key(key) else { return };
        let Some(siblings) = self.held.endpoints.get_mut(&service) else { return };
        if let Some(old) = siblings.remove(workload) {
            self.members.slots.give_back(old.slot);
            if siblings.is_empty() {
                self.held.endpoints.remove(&service);
            }
            dirty.insert(service);
        }
    }

    pub(super) fn put_route(
        &mut self,
        (key, created): (&Key, Revision),
        route: &Arc<Route>,
        dirty: &mut Dirty,
    ) -> Result<(), String> {
        self.work.routes += 1;
        let slots = &mut self.slots;
        let mut held = Vec::new();
        let compiled = CompiledRoute::new(key, created, route, |to| {
            held.push(to.clone());
            slots.hold(&to.service, to.port)
        });
        let compiled = match compiled {
            Ok(compiled) => compiled,
            Err(reason) => {
                held.iter().for_each(|to| self.let_go(&to.service, to.port));
                return Err(reason);
            }
        };
        self.remove_route(key, dirty);
        self.held.edge.dirty |= on_gateway(route);
        for parent in route.services() {
            self.held.by_parent.entry(parent.clone()).or_default().insert(key.clone());
            dirty.insert(parent.clone());
        }
        self.held.routes.insert(key.clone(), Arc::new(compiled));
        Ok(())
    }

    pub(super) fn remove_route(&mut self, key: &Key, dirty: &mut Dirty) {
        let Some(old) = self.held.routes.remove(key) else { return };
        self.held.edge.dirty |= on_gateway(&old.spec);
        for parent in old.spec.services() {
            if let Some(keys) = self.held.by_parent.get_mut(parent) {
                keys.remove(key);
                if keys.is_empty() {
                    self.held.by_parent.remove(parent);
                }
            }
            dirty.insert(parent.clone());
        }
        for to in old.spec.destinations() {
            self.let_go(&to.service, to.port);
        }
    }

    pub(super) fn put_access(&mut self, key: &Key, policy: &Arc<AccessPolicy>, dirty: &mut Dirty) {
        self.work.policies += 1;
        self.remove_access(key, dirty);
        let compiled = Arc::new(CompiledPolicy::new(key, policy));
        self.touch_targets(&compiled, dirty);
        self.held.policies.insert(key.clone(), compiled);
    }

    pub(super) fn remove_access(&mut self, key: &Key, dirty: &mut Dirty) {
        if let Some(old) = self.held.policies.remove(key) {
            self.touch_targets(&old, dirty);
        }
    }

    fn touch_targets(&self, policy: &CompiledPolicy, dirty: &mut Dirty) {
        let targeted = self.held.services.keys().filter(|service| policy.is_for(service));
        dirty.extend(targeted.cloned());
        // It may target the whole of which another service that the own program serves is a part.
        if policy.spec.targets.iter().any(|target| target.namespace == self.snapshot.node.namespace) {
            self.touch_served(dirty);
        }
    }

    pub(super) fn put_traffic(&mut self, key: &Key, policy: &Arc<TrafficPolicy>, dirty: &mut Dirty) {
        self.remove_traffic(key, dirty);
        for target in &policy.targets {
            self.held.by_target.entry(target.clone()).or_default().insert(key.clone());
            dirty.insert(target.clone());
        }
        self.touch_callee(policy, dirty);
        self.held.traffic.insert(key.clone(), Arc::clone(policy));
    }

    /// What a service asks of its own proxy holds for its parts too.
    fn touch_callee(&self, policy: &TrafficPolicy, dirty: &mut Dirty) {
        let here = |target: &ServiceRef| target.namespace == self.snapshot.node.namespace;
        if policy.is_for_callee() && policy.targets.iter().any(here) {
            self.touch_served(dirty);
        }
    }

    pub(super) fn remove_traffic(&mut self, key: &Key, dirty: &mut Dirty) {
        let Some(old) = self.held.traffic.remove(key) else { return };
        self.touch_callee(&old, dirty);
        for target in &old.targets {
            if let Some(keys) = self.held.by_target.get_mut(target) {
                keys.remove(key);
                if keys.is_empty() {
                    self.held.by_target.remove(target);
                }
            }
            dirty.insert(target.clone());
        }
    }
}

/// Whether a route is for what comes in through gateways.
fn on_gateway(route: &Route) -> bool {
    route.parents.iter().any(|parent| parent.as_service().is_none())
}

impl Members {
    pub(super) fn member(&mut self, endpoint: &Endpoint, slot: Slot, load: Arc<Load>) -> Member {
        let token = crate::session::token(&endpoint.service, &endpoint.workload);
        let (zone, address_text) = (self.zones.number(&endpoint.locality), endpoint.address.to_string().into());
        Member { slot, endpoint: endpoint.clone(), address_text, token, zone, load }
    }
}

/// The service ports of which a service needs the clusters: its own; of a pool also 0, by which routes name it whatever its
/// ports, and its picker's.
fn named(name: &ServiceRef, service: &Service) -> Vec<(ServiceRef, u16)> {
    let mut named: Vec<_> = service.ports.iter().map(|port| (name.clone(), port.port)).collect();
    if let Some(pool) = &service.pool {
        named.push((name.clone(), 0));
        named.extend(pool.picker.as_ref().map(|picker| (picker_of(name, picker), picker.port)));
    }
    named
}

/// The service of a pool's picker.
pub(super) fn picker_of(pool: &ServiceRef, picker: &Picker) -> ServiceRef {
    ServiceRef::new(pool.namespace.clone(), picker.service.clone())
}
