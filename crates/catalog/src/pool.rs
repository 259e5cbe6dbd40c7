// SPDX-License-Identifier: Apache-2.0
//! Pools of inference servers. Callers ask for one as they ask for a service: each has a Service of its own name that
//! says so, derived here and stored nowhere, unless somebody has applied a Service of that name. What lies behind it (members,
//! routes, policies, views) is then as for every other service.

use crate::attach::{GROUP, Refused, gateway_key};
use crate::catalog::Catalog;
use crate::change::Work;
use crate::view::service_key;
use byrnie_model::gateway::CONTROLLER;
use byrnie_model::pool::Picker;
use byrnie_model::route::{Parent, ParentKind};
use byrnie_model::{InferencePool, Key, Kind, Resource, Service, ServiceRef, Spec};
use serde_json::{Value, json};
use std::sync::Arc;

/// Most parents of a pool that are listed, as upstream.
const PARENTS_MAX: usize = 32;

impl Catalog {
    /// A pool came, went or changed: so did what callers ask for.
    pub(crate) fn stand_in(&mut self, pool: &Key, work: &mut Work) {
        let key = Key::new(Kind::Service, pool.namespace.clone(), pool.name.clone());
        let is_applied = matches!(self.spec(&key), Some(Spec::Service(service)) if service.pool.is_none());
        if !is_applied {
            let new = self.pooled(&key);
            self.replace(&key, new, work);
        }
    }

    /// The service that stands for the pool of this name, if there is one.
    pub(crate) fn pooled(&self, service: &Key) -> Option<Arc<Resource>> {
        let resource = self.resource(&pool_key(service))?;
        let Spec::Pool(pool) = &resource.spec else { return None };
        let spec = Spec::Service(pool.as_service());
        Some(Arc::new(Resource { key: service.clone(), origin: None, spec, ..(**resource).clone() }))
    }

    /// The pool of this name, if callers get it by that.
    pub(crate) fn pool(&self, at: &ServiceRef) -> Option<&Service> {
        self.service(at).filter(|service| service.pool.is_some())
    }

    /// Why the picker of a pool can't be asked.
    pub(crate) fn picker_unfit(&self, pool: &Key, picker: &Picker) -> Option<String> {
        let at = ServiceRef::new(pool.namespace.clone(), picker.service.clone());
        let Some(service) = self.service(&at) else { return Some(self.absent(&at).0) };
        if service.outside.is_some() {
            return Some(format!("Service \"{}\" is a host outside, which upstream forbids for pickers", at.name));
        }
        if service.pool.is_some() {
            return Some(format!("\"{}\" is a pool itself", at.name));
        }
        match service.ports.iter().find(|port| port.port == picker.port) {
            None => Some(format!("Service \"{}\" has no port {}", at.name, picker.port)),
            Some(port) if !port.protocol.for_request(true).is_h2() => {
                let spoken = port.protocol.name();
                Some(format!("port {} of Service \"{}\" speaks {spoken}; write appProtocol: http2", port.port, at.name))
            }
            Some(_) => None,
        }
    }

    /// What became of a pool at each parent of a route that leads to it, in the words of the Inference Extension.
    pub(crate) fn pool_parents(&self, key: &Key, pool: &InferencePool) -> Vec<Value> {
        let at = ServiceRef::new(key.namespace.clone(), key.name.clone());
        let unfit = pool.picker.as_ref().and_then(|picker| self.picker_unfit(key, picker));
        let mut found: Vec<(Parent, Result<(), Refused>)> = Vec::new();
        for route in Kind::ROUTES.into_iter().flat_map(|kind| self.iter(kind)) {
            let Spec::Route(spec) = &route.spec else { continue };
            if !spec.destinations().any(|to| to.is_pool() && to.service == at) {
                continue;
            }
            for parent in &spec.parents {
                let accepted = match parent.kind {
                    ParentKind::Service => Ok(()),
                    _ => self.attached(&route.key, spec, parent).map(|_| ()),
                };
                let alike = |(known, _): &&mut (Parent, _)| (known.kind, &known.name) == (parent.kind, &parent.name);
                match found.iter_mut().find(alike) {
                    // By one route that is let in the pool is reached.
                    Some((_, known)) => *known = known.clone().or(accepted),
                    None => found.push((parent.clone(), accepted)),
                }
            }
        }
        found.truncate(PARENTS_MAX);
        let parent = |(parent, accepted): (Parent, Result<(), Refused>)| {
            let accepted = match accepted {
                _ if self.pool(&at).is_none() => {
                    condition("Accepted", Some(("Shadowed", format!("a Service has the name \"{}\"", at.name))), "")
                }
                Err(why) => condition("Accepted", Some(("HTTPRouteNotAccepted", why.message)), ""),
                Ok(()) => condition("Accepted", None, "Accepted"),
            };
            let resolved = unfit.clone().map(|why| ("InvalidExtensionRef", why));
            json!({
                "parentRef": reference(&parent),
                "controllerName": CONTROLLER,
                "conditions": [accepted, condition("ResolvedRefs", resolved, "ResolvedRefs")],
            })
        };
        found.into_iter().map(parent).collect()
    }
}

/// The pool that a service of this name may stand for.
pub(crate) fn pool_key(service: &Key) -> Key {
    Key::new(Kind::InferencePool, service.namespace.clone(), service.name.clone())
}

fn reference(parent: &Parent) -> Value {
    let (group, key) = match parent.kind {
        ParentKind::Service => ("", service_key(&parent.name)),
        ParentKind::Gateway | ParentKind::ListenerSet => (GROUP, gateway_key(parent)),
    };
    json!({"group": group, "kind": key.kind.name(), "namespace": key.namespace, "name": key.name})
}

fn condition(kind: &str, refused: Option<(&str, String)>, holds: &str) -> Value {
    let (status, reason, message) = match refused {
        None => ("True", holds, String::new()),
        Some((reason, message)) => ("False", reason, message),
    };
    json!({"type": kind, "status": status, "reason": reason, "message": message})
}
