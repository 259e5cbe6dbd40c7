// SPDX-License-Identifier: Apache-2.0
//! The views again, from all resources and without an index: what the catalog must equal.

use crate::{NodeSpec, Role};
use byrnie_model::outside::Trust;
use byrnie_model::policy::access::{Action, Mode, Source};
use byrnie_model::policy::{AccessPolicy, TrafficPolicy};
use byrnie_model::service::{PortPair, TargetPort};
use byrnie_model::{
    Endpoint, Health, Identity, Key, Kind, Labels, Resource, Service, ServiceRef, Site, Spec, Workload,
};
use std::collections::BTreeMap;
use std::sync::Arc;

fn leads_out(workload: &Resource) -> bool {
    matches!(&workload.spec, Spec::Workload(w) if w.identity.to_string() == "spiffe://mesh.local/ns/byrnie/sa/egress")
}

/// The stored resources.
pub(super) struct World<'a>(pub(super) &'a BTreeMap<Key, Arc<Resource>>);

impl<'a> World<'a> {
    fn all(&self) -> impl Iterator<Item = &'a Resource> {
        self.0.values().map(|resource| &**resource)
    }

    fn services(&self) -> Vec<(ServiceRef, &'a Service)> {
        let service = |r: &'a Resource| match &r.spec {
            Spec::Service(service) => Some((ServiceRef::new(r.key.namespace.clone(), r.key.name.clone()), service)),
            _ => None,
        };
        self.all().filter_map(service).collect()
    }

    fn workloads(&self) -> Vec<(&'a Resource, &'a Workload)> {
        self.all().filter_map(|r| if let Spec::Workload(w) = &r.spec { Some((r, &**w)) } else { None }).collect()
    }

    fn serves(&self, at: &ServiceRef, service: &Service, workload: &Resource) -> bool {
        if service.outside.is_some() || self.is_sliced(at, service) {
            return leads_out(workload);
        }
        workload.key.namespace == at.namespace
            && !service.selector.is_empty()
            && service.selector.iter().all(|(k, v)| workload.labels.get(k) == Some(v))
    }

    fn is_sliced(&self, at: &ServiceRef, service: &Service) -> bool {
        let names = |r: &Resource| matches!(&r.spec, Spec::Slice(slice) if slice.service_in(&r.key.namespace) == *at);
        service.selector.is_empty() && service.outside.is_none() && self.all().any(names)
    }

    fn applies(&self, key: &Key, policy: &AccessPolicy, service: &ServiceRef) -> bool {
        policy.targets.contains(service) || (policy.targets.is_empty() && key.namespace == service.namespace)
    }

    fn allowed(&self, identity: &Identity, service: &ServiceRef) -> bool {
        self.all().any(|r| {
            let Spec::Access(policy) = &r.spec else { return false };
            policy.action == Action::Allow
                && policy.mode == Mode::Enforce
                && self.applies(&r.key, policy, service)
                && policy.rules.iter().any(|rule| {
                    rule.sources.is_empty()
                        || rule.sources.iter().any(|source| match source {
                            Source::ServiceAccount { namespace, name } => {
                                namespace == identity.namespace() && name == identity.service_account()
                            }
                            Source::Namespace(namespace) => namespace == identity.namespace(),
                            Source::Identity(other) => other == identity,
                        })
                })
        })
    }

    /// Everything that the node may see, by key.
    pub(super) fn view(&self, node: &NodeSpec) -> BTreeMap<Key, Spec> {
        let mut view = BTreeMap::new();
        let mut show = |r: &Resource| {
            view.insert(r.key.clone(), r.spec.clone());
        };
        self.all().filter(|r| r.key.kind == Kind::Mesh).for_each(&mut show);
        if node.role == Role::Gateway {
            let open = [Kind::Service, Kind::HttpRoute, Kind::TrafficPolicy, Kind::Site, Kind::ServiceExport];
            let attached = |r: &&Resource| !matches!(&r.spec, Spec::Route(route) if route.parents.is_empty());
            self.all().filter(|r| open.contains(&r.key.kind)).filter(attached).for_each(&mut show);
            let all: Vec<ServiceRef> = self.services().into_iter().map(|(at, _)| at).collect();
            self.endpoints(&all, &mut view);
            return view;
        }
        let own = self
            .workloads()
            .into_iter()
            .find(|(r, _)| r.key.namespace == node.namespace && r.key.name == node.workload);
        let Some((own, workload)) = own else { return view };
        show(own);
        if leads_out(own) {
            let policies = || self.all().filter(|r| r.key.kind == Kind::BackendTlsPolicy);
            policies().for_each(&mut show);
            let named = |by: &Resource| {
                policies().any(|r| match &r.spec {
                    Spec::BackendTls(policy) if by.key.kind == Kind::Secret => {
                        policy.certificate.as_ref() == Some(&by.key.name)
                    }
                    Spec::BackendTls(policy) => policy.trust == Trust::Bundles(vec![by.key.name.clone()]),
                    _ => false,
                })
            };
            let kinds = [Kind::ConfigMap, Kind::Secret];
            self.all().filter(|r| kinds.contains(&r.key.kind) && named(r)).for_each(&mut show);
        }
        let exists = |at: &ServiceRef| self.services().iter().any(|(other, _)| other == at);
        for (at, service) in self.services() {
            if self.serves(&at, service, own) {
                self.0
                    .get(&Key::new(Kind::ServiceExport, at.namespace.clone(), at.name.clone()))
                    .into_iter()
                    .for_each(|r| show(r));
                show(&self.0[&Key::new(Kind::Service, at.namespace.clone(), at.name.clone())]);
                let policies =
                    self.all().filter(|r| matches!(&r.spec, Spec::Access(p) if self.applies(&r.key, p, &at)));
                policies.for_each(&mut show);
                if self.is_sliced(&at, service) {
                    let names =
                        |r: &&Resource| matches!(&r.spec, Spec::Slice(s) if s.service_in(&r.key.namespace) == at);
                    self.all().filter(names).for_each(&mut show);
                }
                let here = self.is_sliced(&at, service);
                let keyed = |p: &TrafficPolicy| (here || p.is_for_callee()) && p.targets.contains(&at);
                self.all().filter(|r| matches!(&r.spec, Spec::Traffic(p) if keyed(p))).for_each(&mut show);
            }
        }
        let services: Vec<ServiceRef> = self.services().into_iter().map(|(at, _)| at).collect();
        let roots: Vec<ServiceRef> = services
            .into_iter()
            .filter(|at| workload.uses.contains(at) || self.allowed(&workload.identity, at))
            .collect();
        let mut seen = roots.clone();
        for r in self.all() {
            let Spec::Route(route) = &r.spec else { continue };
            if route.services().any(|parent| roots.contains(parent)) {
                show(r);
                let backends = route.rules.iter().flat_map(|rule| &rule.backends).map(|b| b.to.service.clone());
                seen.extend(backends.filter(|at| exists(at)));
            }
        }
        for r in self.all() {
            let visible = match &r.spec {
                Spec::Service(_) => seen.contains(&ServiceRef::new(r.key.namespace.clone(), r.key.name.clone())),
                Spec::Traffic(policy) => policy.targets.iter().any(|target| seen.contains(target)),
                _ => false,
            };
            if visible {
                show(r);
            }
        }
        let exported = |at: &ServiceRef| {
            self.0.contains_key(&Key::new(Kind::ServiceExport, at.namespace.clone(), at.name.clone()))
        };
        let called = self.services().into_iter().any(|(at, service)| self.serves(&at, service, own) && exported(&at));
        for (r, site) in self.sites() {
            if called || site.services.iter().any(|import| exists(&import.service) && seen.contains(&import.service)) {
                show(r);
            }
        }
        self.endpoints(&seen, &mut view);
        let names = self.all().filter(|r| matches!(r.spec, Spec::Service(_)) && r.key.namespace == node.namespace);
        for r in names.filter(|_| node.forwards) {
            view.entry(r.key.clone()).or_insert_with(|| Spec::Service(Service::default()));
        }
        view
    }

    fn sites(&self) -> impl Iterator<Item = (&'a Resource, &'a Site)> {
        self.all().filter_map(|r| if let Spec::Site(site) = &r.spec { Some((r, &**site)) } else { None })
    }

    fn endpoints(&self, seen: &[ServiceRef], view: &mut BTreeMap<Key, Spec>) {
        for (at, service) in self.services().into_iter().filter(|(at, _)| seen.contains(at)) {
            for (r, site) in self.sites() {
                for import in site.services.iter().filter(|import| import.service == at) {
                    for (name, address, way) in site.ways(&r.key.name) {
                        let key = Key::new(Kind::Endpoint, at.namespace.clone(), format!("{}/{name}", at.name));
                        let pair = |port: &byrnie_model::service::ServicePort| PortPair {
                            service: port.port,
                            target: port.port,
                        };
                        let endpoint = Endpoint {
                            service: at.clone(),
                            workload: name,
                            way: Some(way),
                            identity: import.identity.clone(),
                            address,
                            ports: service.ports.iter().map(pair).collect(),
                            labels: Labels::new(),
                            locality: byrnie_model::service::Locality::default(),
                            weight: 1,
                            health: Health::Healthy,
                        };
                        view.insert(key, Spec::Endpoint(Box::new(endpoint)));
                    }
                }
            }
            for (r, workload) in self.workloads().into_iter().filter(|(r, _)| self.serves(&at, service, r)) {
                let Some(address) = workload.inbound else { continue };
                let pair = |port: &byrnie_model::service::ServicePort| {
                    let target = match &port.target {
                        _ if self.is_sliced(&at, service) => port.port,
                        TargetPort::Number(number) => *number,
                        TargetPort::Name(name) => workload.ports.iter().find(|p| p.name == *name)?.port,
                    };
                    Some(PortPair { service: port.port, target })
                };
                let ports: Vec<PortPair> = service.ports.iter().filter_map(pair).collect();
                let endpoint = Endpoint {
                    service: at.clone(),
                    workload: r.key.name.clone(),
                    way: None,
                    identity: workload.identity.clone(),
                    address,
                    ports,
                    labels: r.labels.clone(),
                    locality: workload.locality.clone(),
                    weight: workload.weight,
                    health: workload.health,
                };
                if !endpoint.ports.is_empty() {
                    let key = Key::new(Kind::Endpoint, at.namespace.clone(), format!("{}/{}", at.name, r.key.name));
                    view.insert(key, Spec::Endpoint(Box::new(endpoint)));
                }
            }
        }
    }
}
