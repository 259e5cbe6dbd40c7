// SPDX-License-Identifier: Apache-2.0
//! What became of a resource of Gateway API, in the words of its specification
//! (<https://gateway-api.sigs.k8s.io/reference/spec/>). Control asks for it, and adds since when each condition is as
//! it is. A route is never `PartiallyInvalid`: a document with a rule that can't be followed is refused as a whole.

use crate::attach::{GROUP, Refused, admits_kind, gateway_key, is_kind};
use crate::catalog::Catalog;
use crate::lint::outside;
use crate::lint::traffic::{Overruled, overruled};
use crate::view::{bundles, certificate, filter_key, service_key};
use byrnie_base::Text;
use byrnie_model::gateway::{CONTROLLER, Carries, Gateway, Listener, Port};
use byrnie_model::outside::{BackendTls, Target, is_pattern};
use byrnie_model::policy::TrafficPolicy;
use byrnie_model::route::{Parent, ParentKind};
use byrnie_model::{Key, Kind, Resource, Revision, Route, ServiceRef, Spec};
use serde_json::{Value, json};

/// Most ancestors of a policy that are listed, as upstream.
const ANCESTORS_MAX: usize = 16;

/// What is said of a listener, and what follows from it for its gateway.
struct Heard {
    value: Value,
    accepted: bool,
    programmed: bool,
    resolved: bool,
}

impl Heard {
    /// Whether it can be had: one without a certificate lets nobody in.
    const fn is_valid(&self) -> bool {
        self.accepted && (self.programmed || self.resolved)
    }
}

/// A verdict with its reason, as upstream calls it.
type Verdict = Result<&'static str, Refused>;

impl Catalog {
    /// The status of a resource in the words of Gateway API; `None` if its kind has none there. `closed`
    /// tells why the proxies don't serve a port.
    pub fn upstream_status(&self, resource: &Resource, closed: &dyn Fn(Port) -> Option<Text>) -> Option<Value> {
        let key = &resource.key;
        let mut status = match &resource.spec {
            Spec::GatewayClass(class) if *class.controller == *CONTROLLER => {
                json!({"conditions": [condition("Accepted", Ok("Accepted"))]})
            }
            Spec::GatewayClass(class) => {
                let message = format!("its controller is {}", class.controller);
                json!({"conditions": [pending("Accepted", &message)]})
            }
            Spec::Gateway(gateway) => self.gateway_status(key, gateway, closed),
            Spec::Route(route) => {
                let parents = route.parents.iter().filter(|parent| !self.is_foreign(parent));
                let parents = parents.map(|parent| self.parent_status(key, route, parent));
                json!({"parents": parents.collect::<Vec<_>>()})
            }
            Spec::BackendTls(policy) => json!({"ancestors": self.ancestors(resource, policy)}),
            // byrnie's own, with the status of a policy all the same (GEP-713).
            Spec::Traffic(policy) => json!({"ancestors": self.traffic_ancestors(key, policy)}),
            Spec::Pool(pool) => json!({"parents": self.pool_parents(key, pool)}),
            _ => return None,
        };
        observe(&mut status, resource.revision);
        Some(status)
    }

    /// Whether a parent is a gateway of which somebody else speaks.
    fn is_foreign(&self, parent: &Parent) -> bool {
        let key = gateway_key(parent);
        let of_other = |gateway: &Gateway| self.standing(&key, gateway).is_err_and(|why| why.reason == "Pending");
        parent.kind == ParentKind::Gateway
            && matches!(self.spec(&key), Some(Spec::Gateway(gateway)) if of_other(gateway))
    }

    fn gateway_status(&self, key: &Key, gateway: &Gateway, closed: &dyn Fn(Port) -> Option<Text>) -> Value {
        match self.standing(key, gateway) {
            Ok(()) => {}
            // Of another class: whoever serves that has not said anything yet.
            Err(Refused { reason: "Pending", message }) => {
                return json!({"conditions": [pending("Accepted", &message), pending("Programmed", &message)]});
            }
            Err(why) => {
                let reason = if gateway.parent.is_none() { "Invalid" } else { why.reason };
                let programmed = Err(Refused { reason, message: why.message.clone() });
                return json!({"conditions": [condition("Accepted", Err(why)), condition("Programmed", programmed)]});
            }
        }
        let heard: Vec<Heard> =
            gateway.listeners.iter().map(|l| self.listener_status(key, l, closed(l.at()))).collect();
        let count = |of: fn(&Heard) -> bool| heard.iter().filter(|heard| of(heard)).count();
        // A set is there for its listeners alone: those that can't be had are no part of what the gateway takes.
        let accepted = match &gateway.parent {
            None => count(|heard| heard.accepted),
            Some(_) => count(Heard::is_valid),
        };
        let programmed = count(|heard| heard.programmed);
        let lacking = |reason, of: usize| {
            let message = format!("{} of {} listeners", heard.len() - of, heard.len());
            Err(Refused { reason, message })
        };
        let of_gateway = gateway.parent.is_none();
        let mut conditions = vec![
            match accepted {
                _ if accepted == heard.len() => condition("Accepted", Ok("Accepted")),
                0 => condition("Accepted", lacking("ListenersNotValid", 0)),
                _ => condition("Accepted", Ok("ListenersNotValid")),
            },
            match programmed {
                0 if !heard.is_empty() => {
                    condition("Programmed", lacking(if of_gateway { "Invalid" } else { "ListenersNotValid" }, 0))
                }
                _ => condition("Programmed", Ok("Programmed")),
            },
        ];
        if of_gateway {
            let resolved = count(|heard| heard.resolved);
            let whole = resolved == heard.len();
            let verdict = if whole { Ok("ResolvedRefs") } else { lacking("ListenersNotResolved", resolved) };
            conditions.push(condition("ResolvedRefs", verdict));
        }
        if gateway.frontend.all().any(|validation| validation.optional) {
            let message = "callers without a certificate that holds are let in";
            conditions.push(with("InsecureFrontendValidationMode", "True", "ConfigurationChanged", message));
        }
        let listeners: Vec<Value> = heard.into_iter().map(|heard| heard.value).collect();
        let mut status = json!({"conditions": conditions, "listeners": listeners});
        if of_gateway {
            let adds = |(set, of): &(&Key, &Gateway)| {
                let of_this =
                    |parent: &byrnie_model::ServiceRef| parent.namespace == key.namespace && parent.name == key.name;
                of.parent.as_ref().is_some_and(of_this)
                    && self.is_served(set, of)
                    && of.listeners.iter().any(|l| self.listener_status(set, l, closed(l.at())).is_valid())
            };
            status["attachedListenerSets"] = json!(self.gateways().filter(adds).count());
        }
        status
    }

    fn listener_status(&self, gateway: &Key, listener: &Listener, closed: Option<Text>) -> Heard {
        let attached = self.routes.at_gateways().filter(|key| {
            let Some(Spec::Route(route)) = self.spec(key) else { return false };
            let here = |parent: &&Parent| gateway_key(parent) == *gateway;
            route
                .parents
                .iter()
                .filter(here)
                .any(|parent| self.attached(key, route, parent).is_ok_and(|names| names.contains(&listener.name)))
        });
        let attached = attached.count();
        let kinds: Vec<&str> = Kind::ROUTES.into_iter().filter(|k| admits_kind(listener, *k)).map(Kind::name).collect();
        let resolved = self.listener_refs(gateway, listener);
        // Without a certificate nobody is let in; without its port what is in the clear still has the edge's own.
        let certificates = listener.carries.certificates();
        let shows = !listener.carries.ends_tls() || certificates.iter().any(|to| self.certificate(gateway, to).is_ok());
        let unprovable = self.unprovable(gateway, listener);
        let clear = listener.carries == Carries::Http;
        let clash = self.clash(gateway, listener).map(|message| Refused { reason: "ProtocolConflict", message });
        let namesake =
            || self.namesake(gateway, listener).map(|message| Refused { reason: "HostnameConflict", message });
        let clash = clash.or_else(namesake);
        let port = closed.map(|why| match clear {
            false => format!("port {}: {why}", listener.port),
            true => format!("port {}: {why}; served on the edge's own port", listener.port),
        });
        let accepted = match (&clash, unprovable, &port) {
            (Some(clash), ..) => Err(clash.clone()),
            (None, Some(message), _) => Err(Refused { reason: "NoValidCACertificate", message }),
            (None, None, Some(port)) if !clear => Err(Refused { reason: "PortUnavailable", message: port.clone() }),
            _ => Ok("Accepted"),
        };
        let programmed = match &accepted {
            Err(why) if clash.is_some() => Err(why.clone()),
            Err(why) => Err(Refused { reason: "Invalid", message: why.message.clone() }),
            Ok(_) if !kinds.is_empty() && shows => Ok("Programmed"),
            Ok(_) => Err(Refused { reason: "Invalid", message: port.clone().unwrap_or_default() }),
        };
        let conflicted = match clash {
            Some(Refused { reason, message }) => with("Conflicted", "True", reason, &message),
            None => with("Conflicted", "False", "NoConflicts", ""),
        };
        let (is_accepted, is_programmed, is_resolved) = (accepted.is_ok(), programmed.is_ok(), resolved.is_ok());
        let mut conditions = vec![
            condition("Accepted", accepted),
            condition("Programmed", programmed),
            condition("ResolvedRefs", resolved),
            conflicted,
        ];
        if let Some(port) = port {
            conditions[0]["message"] = json!(port);
        }
        let value = json!({
            "name": listener.name,
            "attachedRoutes": attached,
            "supportedKinds": kinds.iter().map(|kind| json!({"group": GROUP, "kind": kind})).collect::<Vec<_>>(),
            "conditions": conditions,
        });
        Heard { value, accepted: is_accepted, programmed: is_programmed, resolved: is_resolved }
    }

    /// Whether all that a listener refers to is there, and may be.
    fn listener_refs(&self, gateway: &Key, listener: &Listener) -> Verdict {
        let unknown: Vec<&str> = listener
            .kinds
            .iter()
            .map(|word| &**word)
            .filter(|word| !Kind::ROUTES.into_iter().any(|kind| is_kind(word, kind) && listener.carries.suits(kind)))
            .collect();
        if !unknown.is_empty() {
            let message = format!("no such kind can attach here: {}", unknown.join(", "));
            return Err(Refused { reason: "InvalidRouteKinds", message });
        }
        let shown = || listener.carries.certificates().iter().find_map(|to| self.certificate(gateway, to).err());
        match shown().or_else(|| self.doubted(gateway, listener)) {
            Some(why) => Err(why),
            None => Ok("ResolvedRefs"),
        }
    }

    /// What is said of a listener whose callers would have to prove what nobody could: it lets nobody in.
    fn unprovable(&self, gateway: &Key, listener: &Listener) -> Option<String> {
        self.demand(gateway, listener).filter(|demand| demand.authorities.is_empty())?;
        let why = self.doubted(gateway, listener).map(|why| why.message).unwrap_or_default();
        Some(format!("nobody could vouch for a caller, so that none is let in: {why}"))
    }

    fn parent_status(&self, key: &Key, route: &Route, parent: &Parent) -> Value {
        let absent = |message| Err(Refused { reason: "NoMatchingParent", message });
        let accepted = match parent.kind {
            ParentKind::Service => match self.spec(&service_key(&parent.name)) {
                Some(Spec::Service(service))
                    if parent.port.is_none_or(|p| service.ports.iter().any(|o| o.port == p)) =>
                {
                    self.ranks(key, parent)
                }
                Some(_) => absent(format!("Service \"{}\" has no such port", parent.name.name)),
                None => absent(self.absent(&parent.name).0),
            },
            ParentKind::Gateway | ParentKind::ListenerSet => self.attached(key, route, parent).map(|_| "Accepted"),
        };
        let unanswered = || {
            let filters = route.answers().map(|direct| filter_key(key, &direct.filter));
            let absent = filters.filter(|filter| self.resource(filter).is_none());
            absent.map(|filter| Refused { reason: "FilterNotFound", message: format!("there is no {filter}") }).next()
        };
        let resolved = match route.destinations().find_map(|to| self.unresolved(key, parent, to)).or_else(unanswered) {
            None => Ok("ResolvedRefs"),
            Some(why) => Err(why),
        };
        let mut reference = match parent.kind {
            ParentKind::Service => reference(&service_key(&parent.name)),
            ParentKind::Gateway | ParentKind::ListenerSet => reference(&gateway_key(parent)),
        };
        if let Some(section) = &parent.section {
            reference["sectionName"] = json!(section);
        }
        if let Some(port) = parent.port {
            reference["port"] = json!(port);
        }
        json!({
            "parentRef": reference,
            "controllerName": CONTROLLER,
            "conditions": [condition("Accepted", accepted), condition("ResolvedRefs", resolved)],
        })
    }

    /// Whether a route has a say at a port of its service at least.
    fn ranks(&self, key: &Key, parent: &Parent) -> Verdict {
        let higher = self.outranked(key, parent);
        match higher.first() {
            Some(Some(other)) if higher.iter().all(Option::is_some) => {
                let message = format!("{other} stands at the same port, where this route has no say beside it");
                Err(Refused { reason: "Conflicted", message })
            }
            _ => Ok("Accepted"),
        }
    }

    /// What a policy for TLS comes to: for each service that it targets, and for the gateways from which a route leads
    /// there.
    fn ancestors(&self, resource: &Resource, policy: &BackendTls) -> Vec<Value> {
        let absent: Vec<Key> =
            bundles(&resource.key, policy).filter(|bundle| self.resource(bundle).is_none()).collect();
        let secret = certificate(&resource.key, policy).filter(|secret| self.resource(secret).is_none());
        let refuse = |reason, message| Err(Refused { reason, message });
        let resolved = match (absent.first(), &secret) {
            (None, None) => Ok("ResolvedRefs"),
            (Some(bundle), _) => refuse("InvalidCACertificateRef", format!("there is no {bundle}")),
            (None, Some(secret)) => refuse("InvalidClientCertificateRef", format!("there is no {secret}")),
        };
        let without = !absent.is_empty() && absent.len() == bundles(&resource.key, policy).count();
        let mut found: Vec<(Key, Verdict)> = Vec::new();
        for target in &policy.targets {
            let accepted = self.accepts(resource, target).and_then(|()| match (without, &secret) {
                (true, _) => refuse("NoValidCACertificate", "nobody could vouch for a host".to_owned()),
                (false, Some(secret)) => refuse("Invalid", format!("nothing leaves without {secret}")),
                (false, None) => Ok("Accepted"),
            });
            let gateways = self.gateways_to(target);
            for key in gateways.into_iter().chain([service_key(&target.service)]) {
                match found.iter_mut().find(|(known, _)| *known == key) {
                    Some((_, known)) if known.is_ok() => *known = accepted.clone(),
                    Some(_) => {}
                    None => found.push((key, accepted.clone())),
                }
            }
        }
        found.truncate(ANCESTORS_MAX);
        let ancestor = |(key, accepted): (Key, Verdict)| {
            json!({
                "ancestorRef": reference(&key),
                "controllerName": CONTROLLER,
                "conditions": [condition("Accepted", accepted), condition("ResolvedRefs", resolved.clone())],
            })
        };
        found.into_iter().map(ancestor).collect()
    }

    /// What a traffic policy comes to, for each service that it targets.
    fn traffic_ancestors(&self, key: &Key, policy: &TrafficPolicy) -> Vec<Value> {
        let ancestor = |target: &ServiceRef| {
            let why = overruled(self, key, policy, target);
            let message = why.message().unwrap_or_default();
            let accepted = match (self.service(target), why) {
                (None, _) => {
                    condition("Accepted", Err(Refused { reason: "TargetNotFound", message: self.absent(target).0 }))
                }
                (Some(_), Overruled::Wholly(_)) => {
                    condition("Accepted", Err(Refused { reason: "Conflicted", message }))
                }
                (Some(_), _) => with("Accepted", "True", "Accepted", &message),
            };
            json!({
                "ancestorRef": reference(&service_key(target)),
                "controllerName": CONTROLLER,
                "conditions": [accepted],
            })
        };
        policy.targets.iter().take(ANCESTORS_MAX).map(ancestor).collect()
    }

    /// Whether a policy for TLS holds for a target.
    fn accepts(&self, policy: &Resource, target: &Target) -> Result<(), Refused> {
        let refuse = |reason, message| Err(Refused { reason, message });
        let Some(service) = self.service(&target.service) else {
            return refuse("TargetNotFound", self.absent(&target.service).0);
        };
        let name = &target.service.name;
        let section = target.section.as_ref();
        if let Some(section) = section.filter(|section| service.ports.iter().all(|port| port.name != **section)) {
            return refuse("TargetNotFound", format!("Service \"{name}\" has no port named \"{section}\""));
        }
        if service.outside.is_none() && !self.takes_slices(&target.service, service) {
            return refuse(
                "Invalid",
                format!("Service \"{name}\" is inside the mesh, where mutual TLS protects every call"),
            );
        }
        if let Some(pattern) = service.outside.as_ref().filter(|host| is_pattern(host)) {
            return refuse(
                "Invalid",
                format!("Service \"{name}\" stands for {pattern}, and a policy verifies one host"),
            );
        }
        match outside::before(self, policy, target) {
            Some(first) => refuse("Conflicted", format!("{first} is for the same target, and comes first")),
            None => Ok(()),
        }
    }

    /// The gateways with a route that leads to a target.
    fn gateways_to(&self, target: &Target) -> Vec<Key> {
        let mut found = Vec::new();
        for key in self.routes.at_gateways() {
            let Some(Spec::Route(route)) = self.spec(key) else { continue };
            if !route.destinations().any(|to| to.service == target.service) {
                continue;
            }
            let parents = route.parents.iter().filter(|parent| parent.kind != ParentKind::Service);
            for parent in parents.filter(|parent| self.attached(key, route, parent).is_ok()) {
                let gateway = gateway_key(parent);
                if !found.contains(&gateway) {
                    found.push(gateway);
                }
            }
        }
        found
    }
}

/// How a status names another resource.
fn reference(key: &Key) -> Value {
    let group = if key.kind == Kind::Service { "" } else { GROUP };
    json!({"group": group, "kind": key.kind.name(), "namespace": key.namespace, "name": key.name})
}

fn condition(kind: &str, verdict: Verdict) -> Value {
    match verdict {
        Ok(reason) => with(kind, "True", reason, ""),
        Err(Refused { reason, message }) => with(kind, "False", reason, &message),
    }
}

/// What is said before the one whose affair it is has said anything.
fn pending(kind: &str, message: &str) -> Value {
    with(kind, "Unknown", "Pending", message)
}

fn with(kind: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({"type": kind, "status": status, "reason": reason, "message": message})
}

/// Says of each condition which state of the resource it's about.
fn observe(status: &mut Value, revision: Revision) {
    match status {
        Value::Object(fields) => {
            if let Some(Value::Array(conditions)) = fields.get_mut("conditions") {
                conditions.iter_mut().for_each(|condition| condition["observedGeneration"] = json!(revision));
            }
            fields.values_mut().for_each(|value| observe(value, revision));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| observe(value, revision)),
        _ => {}
    }
}
