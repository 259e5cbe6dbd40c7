// SPDX-License-Identifier: Apache-2.0
//! What one node may see: least privilege. `reach` lists what might be visible, `shown` decides for one
//! key; both join and every difference go through `shown`.

use crate::catalog::Catalog;
use crate::change::Work;
use crate::index::route::is_for;
use crate::node::{NodeSpec, Place, Role};
use byrnie_model::outside::{BackendTls, Trust};
use byrnie_model::policy::access::Action;
use byrnie_model::policy::{AccessPolicy, TrafficPolicy};
use byrnie_model::route::{ParentKind, Standing};
use byrnie_model::{Identity, Key, Kind, Labels, Resource, Revision, Service, ServiceRef, Site, Spec, Workload};
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// The resources that one node may see.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// Ordered so that nothing names what doesn't come before it.
    pub resources: Vec<Arc<Resource>>,
}

impl View {
    /// The resource of this name.
    pub fn find(&self, key: &Key) -> Option<&Arc<Resource>> {
        self.resources.iter().find(|resource| resource.key == *key)
    }
}

impl Catalog {
    /// Every key that a node might see.
    pub(crate) fn reach(&self, spec: &NodeSpec, work: &mut Work) -> BTreeSet<Key> {
        let mut keys: BTreeSet<Key> = self.iter(Kind::Mesh).map(|r| r.key.clone()).collect();
        match spec.role {
            Role::Gateway => {
                for kind in GATEWAY_KINDS.into_iter().chain(Kind::GATEWAYS).chain(Kind::ROUTES) {
                    keys.extend(self.iter(kind).map(|r| r.key.clone()));
                }
            }
            Role::Sidecar => {
                let place = place(spec);
                keys.insert(workload_key(&place));
                for service in self.services.serves(&place) {
                    keys.extend([service_key(service), export_key(service)]);
                    keys.extend(self.policies.access(service).chain(self.policies.traffic(service)).cloned());
                }
                keys.extend(self.site_keys());
                if self.leads_out(&place) {
                    for service in self.services.serves(&place) {
                        keys.extend(self.services.slices(service).cloned());
                    }
                    for policy in self.iter(Kind::BackendTlsPolicy) {
                        keys.insert(policy.key.clone());
                        if let Spec::BackendTls(spec) = &policy.spec {
                            keys.extend(bundles(&policy.key, spec).chain(certificate(&policy.key, spec)));
                        }
                    }
                }
                if spec.forwards {
                    keys.extend(self.services.in_namespace(&spec.namespace).map(service_key));
                }
                for service in self.roots(&place) {
                    keys.extend(self.bundle(&service));
                    keys.extend(self.behind(&service));
                }
            }
        }
        work.visited += keys.len() as u64;
        keys
    }

    /// The resource, if this node may see it.
    pub(crate) fn shown(&self, node: &NodeSpec, key: &Key, work: &mut Work) -> Option<Arc<Resource>> {
        work.visited += 1;
        let resource = self.resources.get(key)?;
        let visible = match (&resource.spec, node.role) {
            (Spec::Mesh(_), _) => true,
            (Spec::Service(_) | Spec::Endpoint(_) | Spec::Route(_) | Spec::Traffic(_), Role::Gateway) => true,
            (Spec::Gateway(gateway), Role::Gateway) => self.is_served(key, gateway),
            (Spec::Secret(_), Role::Gateway) => self.is_shown(key),
            (Spec::Bundle(_), Role::Gateway) => self.is_believed(key),
            (Spec::Site(_) | Spec::Export, Role::Gateway) => true,
            (Spec::Site(site), Role::Sidecar) => self.meets(node, site),
            (Spec::Export, Role::Sidecar) => {
                self.services.is_member(&ServiceRef::new(key.namespace.clone(), key.name.clone()), &place(node))
            }
            (Spec::Slice(slice), Role::Sidecar) => {
                let at = slice.service_in(&key.namespace);
                self.leads_out(&place(node)) && self.service(&at).is_some_and(|service| service.takes_slices())
            }
            (Spec::BackendTls(_), Role::Sidecar) => self.leads_out(&place(node)),
            (Spec::Bundle(_) | Spec::Secret(_), Role::Sidecar) => {
                self.leads_out(&place(node)) && self.is_named_outward(key)
            }
            (Spec::Workload(_) | Spec::Access(_) | Spec::Slice(_) | Spec::BackendTls(_), Role::Gateway)
            | (Spec::Gateway(_), Role::Sidecar) => false,
            (
                Spec::Namespace
                | Spec::GatewayClass(_)
                | Spec::Grant(_)
                | Spec::Saga(_)
                | Spec::Direct(_)
                | Spec::Pool(_),
                _,
            ) => false,
            (Spec::Workload(_), Role::Sidecar) => key.namespace == node.namespace && key.name == node.workload,
            (Spec::Service(_), Role::Sidecar) => {
                let service = ServiceRef::new(key.namespace.clone(), key.name.clone());
                let told = self.services.is_member(&service, &place(node)) || self.sees(node, &service);
                let names = node.forwards && key.namespace == node.namespace;
                if !told && names && self.workload(&place(node)).is_some() {
                    return Some(bare(resource));
                }
                told
            }
            (Spec::Endpoint(endpoint), Role::Sidecar) => self.sees(node, &endpoint.service),
            (Spec::Traffic(policy), Role::Sidecar) => {
                policy.targets.iter().any(|target| self.service(target).is_some() && self.sees(node, target))
                    || self.serves_by(node, policy)
            }
            (Spec::Route(route), Role::Sidecar) => {
                let own = |parent: &&ServiceRef| is_for(&key.namespace, parent, &node.namespace);
                route.services().filter(own).any(|parent| self.may_call(node, parent))
            }
            (Spec::Access(policy), Role::Sidecar) => self.protects(key, policy, &place(node)),
        };
        if visible { self.settled(node, resource) } else { None }
    }

    /// The resource with each reference judged: in the mesh those of a route may lead anywhere (GEP-1294), from
    /// gateways only where that's granted. Answers of its own stand in it as their filters say them.
    fn settled(&self, node: &NodeSpec, resource: &Arc<Resource>) -> Option<Arc<Resource>> {
        if let Spec::Gateway(gateway) = &resource.spec {
            let permitted = self.permitted(&resource.key, gateway);
            if permitted == **gateway {
                return Some(Arc::clone(resource));
            }
            if permitted.listeners.is_empty() {
                return None;
            }
            let judged = stamp(resource.revision, |hash| {
                for listener in &permitted.listeners {
                    listener.name.hash(hash);
                    let shown = listener.carries.certificates();
                    shown.iter().map(|to| (&to.namespace, &to.name)).for_each(|to| to.hash(hash));
                }
                permitted.frontend.hash(hash);
            });
            return Some(Arc::new(Resource {
                spec: Spec::Gateway(permitted.into()),
                revision: judged,
                ..(**resource).clone()
            }));
        }
        let Spec::Route(route) = &resource.spec else { return Some(Arc::clone(resource)) };
        if route.parents.is_empty() {
            return None;
        }
        let plain = route.parents.iter().all(|parent| parent.kind == ParentKind::Service)
            && route.destinations().all(|to| to.standing != Standing::Foreign)
            && route.answers().next().is_none();
        if plain {
            return Some(Arc::clone(resource));
        }
        let mut settled = if node.role == Role::Gateway {
            self.at_gateway(&resource.key, route)?
        } else {
            let mut settled = (**route).clone();
            settled.parents.retain(|parent| parent.kind == ParentKind::Service);
            for to in settled.destinations_mut().filter(|to| to.standing == Standing::Foreign) {
                to.standing = Standing::Granted;
            }
            settled
        };
        let mut judged = Vec::new();
        for direct in settled.answers_mut() {
            let filter = self.resources.get(&filter_key(&resource.key, &direct.filter));
            judged.push(filter.map_or(0, |filter| filter.revision.0));
            direct.response = match filter.map(|filter| &filter.spec) {
                Some(Spec::Direct(says)) => Some(Arc::clone(says)),
                _ => None,
            };
        }
        let revision = stamp(resource.revision, |hash| {
            judged.hash(hash);
            let parents = settled.parents.iter();
            parents.for_each(|of| (of.kind, &of.name.namespace, &of.name.name, &of.section, of.port).hash(hash));
            settled.destinations().for_each(|to| (to.standing == Standing::Foreign).hash(hash));
        });
        Some(Arc::new(Resource { spec: Spec::Route(settled.into()), revision, ..(**resource).clone() }))
    }

    /// Whether calls leave the mesh by this workload.
    fn leads_out(&self, place: &Place) -> bool {
        self.workload(place).is_some_and(|workload| workload.identity.is_egress())
    }

    /// Whether a sidecar's program is called from other sites, or calls what this one serves.
    fn meets(&self, node: &NodeSpec, site: &Site) -> bool {
        self.services.serves(&place(node)).any(|service| self.is_exported(service))
            || site.services.iter().any(|at| self.service(&at.service).is_some() && self.sees(node, &at.service))
    }

    /// Every site: there are few.
    pub(crate) fn site_keys(&self) -> impl Iterator<Item = Key> + use<'_> {
        self.iter(Kind::Site).map(|resource| resource.key.clone())
    }

    /// What the ways to a service at other sites are called.
    pub(crate) fn way_keys(&self, service: &ServiceRef) -> Vec<Key> {
        let sites = self.sites.of(service).filter_map(|key| Some((&key.name, self.spec(key)?)));
        let ways = sites.flat_map(|(name, spec)| match spec {
            Spec::Site(site) => site.ways(name).map(|(way, ..)| way_key(service, &way)).collect(),
            _ => Vec::new(),
        });
        ways.collect()
    }

    /// Whether a policy for TLS towards hosts outside names these authorities, or this certificate.
    fn is_named_outward(&self, key: &Key) -> bool {
        let names = |resource: &Arc<Resource>| match &resource.spec {
            Spec::BackendTls(policy) => {
                bundles(&resource.key, policy).chain(certificate(&resource.key, policy)).any(|named| named == *key)
            }
            _ => false,
        };
        self.iter(Kind::BackendTlsPolicy).any(names)
    }

    /// Whether a sidecar's program may name this service: it says that it uses it, or a policy allows it.
    fn roots_here(&self, node: &NodeSpec, service: &ServiceRef) -> bool {
        let Some(workload) = self.workload(&place(node)) else { return false };
        workload.uses.contains(service) || self.policies.granted(service, &workload.identity)
    }

    /// Whether a policy says something that the own program's proxy sees to. The one by which calls leave the mesh for
    /// the addresses of slices balances over these as the policy says.
    fn serves_by(&self, node: &NodeSpec, policy: &TrafficPolicy) -> bool {
        let place = place(node);
        let sees_to = |at: &ServiceRef| policy.is_for_callee() || self.service(at).is_some_and(|s| s.takes_slices());
        policy.targets.iter().any(|target| self.services.is_member(target, &place) && sees_to(target))
    }

    /// Whether slices say where a service is.
    pub(crate) fn takes_slices(&self, at: &ServiceRef, service: &Service) -> bool {
        service.takes_slices() && self.services.slices(at).next().is_some()
    }

    /// Like [`Self::roots_here`], for a service that exists: only then do its routes count.
    fn may_call(&self, node: &NodeSpec, service: &ServiceRef) -> bool {
        self.service(service).is_some() && self.roots_here(node, service)
    }

    /// Whether a service is a destination for this sidecar: by its name, or behind a route.
    fn sees(&self, node: &NodeSpec, service: &ServiceRef) -> bool {
        let leads = |(parent, route): &(ServiceRef, Key)| {
            is_for(&route.namespace, parent, &node.namespace) && self.may_call(node, parent)
        };
        self.roots_here(node, service) || self.routes.referrers(service).any(leads)
    }

    fn protects(&self, key: &Key, policy: &AccessPolicy, place: &Place) -> bool {
        if policy.targets.is_empty() {
            return self.services.serves(place).any(|service| policy.protects(&key.namespace, service));
        }
        policy.targets.iter().any(|target| self.services.is_member(target, place))
    }

    /// Services that the program beside this node may name.
    fn roots(&self, place: &Place) -> BTreeSet<ServiceRef> {
        let Some(workload) = self.workload(place) else { return BTreeSet::new() };
        let mut roots: BTreeSet<ServiceRef> = workload.uses.iter().cloned().collect();
        for key in self.policies.grants(&workload.identity) {
            if let Some(Spec::Access(policy)) = self.spec(key) {
                roots.append(&mut self.targets(key, policy));
            }
        }
        roots
    }

    /// The services that a policy is for.
    pub(crate) fn targets(&self, key: &Key, policy: &AccessPolicy) -> BTreeSet<ServiceRef> {
        if policy.targets.is_empty() && *key.namespace == *Identity::SYSTEM_NAMESPACE {
            return self.services.all().cloned().collect();
        }
        if policy.targets.is_empty() {
            return self.services.in_namespace(&key.namespace).cloned().collect();
        }
        policy.targets.iter().cloned().collect()
    }

    pub(crate) fn service(&self, at: &ServiceRef) -> Option<&Service> {
        if let Some(Spec::Service(service)) = self.spec(&service_key(at)) { Some(service) } else { None }
    }

    pub(crate) fn workload(&self, at: &Place) -> Option<&Workload> {
        if let Some(Spec::Workload(workload)) = self.spec(&workload_key(at)) { Some(workload) } else { None }
    }
}

/// A service of which a proxy is told that it's there, so that a call is denied and not called lost; of what it is like,
/// nothing.
fn bare(service: &Resource) -> Arc<Resource> {
    let revision = stamp(service.created, |hash| "bare".hash(hash));
    let spec = Spec::Service(Service::default());
    Arc::new(Resource {
        key: service.key.clone(),
        revision,
        created: service.created,
        labels: Labels::new(),
        origin: None,
        spec,
    })
}

/// The revision of a resource as it was judged. It's what a proxy is told of only if it has another, and what is
/// judged changes with other resources than this one; so the judgement is part of it, told apart from real revisions
/// by its highest bit.
fn stamp(own: Revision, judgement: impl FnOnce(&mut DefaultHasher)) -> Revision {
    let mut hash = DefaultHasher::new();
    own.0.hash(&mut hash);
    judgement(&mut hash);
    Revision(hash.finish() | 1 << 63)
}

/// The authorities that a policy names.
pub(crate) fn bundles<'a>(key: &'a Key, policy: &'a BackendTls) -> impl Iterator<Item = Key> + 'a {
    let names = match &policy.trust {
        Trust::System => &[][..],
        Trust::Bundles(names) => names,
    };
    names.iter().map(|name| Key::new(Kind::ConfigMap, key.namespace.clone(), name.clone()))
}

/// The Secret that a policy names.
pub(crate) fn certificate(key: &Key, policy: &BackendTls) -> Option<Key> {
    policy.certificate.as_ref().map(|name| Key::new(Kind::Secret, key.namespace.clone(), name.clone()))
}

pub(crate) fn place(spec: &NodeSpec) -> Place {
    Place { namespace: spec.namespace.clone(), name: spec.workload.clone() }
}

pub(crate) fn service_key(at: &ServiceRef) -> Key {
    Key::new(Kind::Service, at.namespace.clone(), at.name.clone())
}

pub(crate) fn workload_key(at: &Place) -> Key {
    Key::new(Kind::Workload, at.namespace.clone(), at.name.clone())
}

/// Endpoints are named `SERVICE/WORKLOAD` in the service's namespace.
pub(crate) fn endpoint_key(service: &ServiceRef, place: &Place) -> Key {
    Key::new(Kind::Endpoint, service.namespace.clone(), format!("{}/{}", service.name, place.name))
}

pub(crate) fn way_key(service: &ServiceRef, way: &str) -> Key {
    Key::new(Kind::Endpoint, service.namespace.clone(), format!("{}/{way}", service.name))
}

pub(crate) fn export_key(service: &ServiceRef) -> Key {
    Key::new(Kind::ServiceExport, service.namespace.clone(), service.name.clone())
}

/// The HTTPRouteFilter that a route names.
pub(crate) fn filter_key(route: &Key, name: &str) -> Key {
    Key::new(Kind::HttpRouteFilter, route.namespace.clone(), name)
}

/// What a proxy at the edge sees all of, beside gateways and routes.
const GATEWAY_KINDS: [Kind; 7] = [
    Kind::Service,
    Kind::Endpoint,
    Kind::TrafficPolicy,
    Kind::Secret,
    Kind::ConfigMap,
    Kind::Site,
    Kind::ServiceExport,
];

/// Make before break: what is named comes before what names it. Refusals come before permissions, and
/// both before the service that they protect, so that no call slips in between.
pub(crate) fn rank(resource: &Resource) -> (u8, Key) {
    let rank = match &resource.spec {
        Spec::Namespace | Spec::Mesh(_) | Spec::GatewayClass(_) | Spec::Grant(_) => 0,
        Spec::Saga(_) | Spec::Direct(_) | Spec::Pool(_) => 0,
        Spec::Workload(_) | Spec::Site(_) | Spec::Export | Spec::Slice(_) => 1,
        Spec::Secret(_) | Spec::Bundle(_) | Spec::BackendTls(_) => 1,
        Spec::Access(policy) if policy.action == Action::Deny => 2,
        Spec::Access(_) => 3,
        Spec::Service(_) => 4,
        Spec::Endpoint(_) => 5,
        Spec::Traffic(_) => 6,
        Spec::Gateway(_) => 7,
        Spec::Route(_) => 8,
    };
    (rank, resource.key.clone())
}
