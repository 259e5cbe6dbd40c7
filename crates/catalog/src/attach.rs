// SPDX-License-Identifier: Apache-2.0
//! Which listeners of which gateways a route is attached to, which references into other namespaces are
//! granted. What is said of it is in `status`.

use crate::catalog::Catalog;
use crate::pool::pool_key;
use crate::view::service_key;
use byrnie_base::Text;
use byrnie_model::gateway::{
    CLASS, CONTROLLER, Carries, CertificateRef, From, Gateway, Listener, Parameters, intersection,
};
use byrnie_model::pool;
use byrnie_model::range::Range;
use byrnie_model::route::{Destination, Parent, ParentKind, Standing};
use byrnie_model::service::{Service, ServicePort};
use byrnie_model::{Key, Kind, Protocol, Revision, Route, Spec};

pub(crate) const GROUP: &str = "gateway.networking.k8s.io";
/// The label that every namespace has.
const NAMESPACE_LABEL: &str = "kubernetes.io/metadata.name";

/// Why a route isn't attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// The reason, as upstream calls it.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

pub(crate) fn refused<T>(reason: &'static str, message: String) -> Result<T, Refused> {
    Err(Refused { reason, message })
}

impl Catalog {
    /// For each port of a service that a route of this kind may stand on by `parent`: the route of a more special kind beside
    /// which it has no say there. Of several kinds at one port only the most special counts (GEP-1426).
    pub(crate) fn outranked(&self, key: &Key, parent: &Parent) -> Vec<Option<&Key>> {
        let Some((name, service)) = parent.as_service().and_then(|name| Some((name, self.service(name)?))) else {
            return Vec::new();
        };
        let higher = match key.kind {
            Kind::TcpRoute => Kind::TlsRoute,
            Kind::HttpRoute => Kind::GrpcRoute,
            _ => return Vec::new(),
        };
        let fits = |port: &&ServicePort| {
            parent.port.is_none_or(|number| number == port.port) && key.kind.stands_on(port.protocol)
        };
        let stands = |other: &Key, port: u16| {
            let Some(Spec::Route(route)) = self.spec(other) else { return false };
            let here = |of: &Parent| of.as_service() == Some(name) && of.port.is_none_or(|number| number == port);
            other.kind == higher && other.namespace == key.namespace && route.parents.iter().any(here)
        };
        let ports = service.ports.iter().filter(fits);
        ports.map(|port| self.routes.of_parent(name).find(|other| stands(other, port.port))).collect()
    }

    /// The listeners that a route is attached to by a parent that is a gateway.
    pub(crate) fn attached(&self, key: &Key, route: &Route, parent: &Parent) -> Result<Vec<Text>, Refused> {
        let at = &parent.name;
        let kind = match parent.kind {
            ParentKind::ListenerSet => "ListenerSet",
            _ => "Gateway",
        };
        let Some(Spec::Gateway(gateway)) = self.spec(&gateway_key(parent)) else {
            let message = format!("no {kind} \"{}\" in namespace \"{}\"", at.name, at.namespace);
            return refused("NoMatchingParent", message);
        };
        if let Err(of_parent) = self.standing(&gateway_key(parent), gateway) {
            return refused("NoMatchingParent", format!("{kind} \"{}\": {}", at.name, of_parent.message));
        }
        let named = |listener: &&Listener| {
            parent.section.as_ref().is_none_or(|name| *name == listener.name)
                && parent.port.is_none_or(|port| port == listener.port)
        };
        let listeners: Vec<&Listener> = gateway.listeners.iter().filter(named).collect();
        if listeners.is_empty() {
            return refused(
                "NoMatchingParent",
                format!("{kind} \"{}\" has no listener of this name and port", at.name),
            );
        }
        let lets_in = |listener: &&Listener| {
            admits_kind(listener, key.kind) && self.admits(&listener.from, &at.namespace, &key.namespace)
        };
        let listeners: Vec<&Listener> = listeners.into_iter().filter(lets_in).collect();
        if listeners.is_empty() {
            let message = format!(
                "no listener of {kind} \"{}\" lets in a {} of namespace \"{}\"",
                at.name,
                key.kind.name(),
                key.namespace
            );
            return refused("NotAllowedByListeners", message);
        }
        let mut taken = None;
        let listeners: Vec<&Listener> = listeners
            .into_iter()
            .filter(|listener| {
                let first = self.namesake(&gateway_key(parent), listener);
                let is_free = first.is_none();
                taken = taken.take().or(first);
                is_free
            })
            .collect();
        if let Some(message) = taken.filter(|_| listeners.is_empty()) {
            return refused("NoMatchingParent", message);
        }
        let shares = |listener: &&Listener| {
            let host = listener.hostname.as_deref();
            route.hostnames.is_empty() || route.hostnames.iter().any(|name| intersection(host, Some(name)).is_some())
        };
        let names: Vec<Text> = listeners.into_iter().filter(shares).map(|listener| listener.name.clone()).collect();
        if names.is_empty() {
            let message = format!("no listener of {kind} \"{}\" has a host in common with the route", at.name);
            return refused("NoMatchingListenerHostname", message);
        }
        Ok(names)
    }

    /// Whether the listeners of a gateway, or of a set that adds to one, are served.
    pub(crate) fn is_served(&self, key: &Key, gateway: &Gateway) -> bool {
        self.standing(key, gateway).is_ok()
    }

    /// Why they are not.
    pub(crate) fn standing(&self, key: &Key, gateway: &Gateway) -> Result<(), Refused> {
        let Some(parent) = &gateway.parent else {
            let ours = match self.spec(&Key::new(Kind::GatewayClass, "", gateway.class.clone())) {
                Some(Spec::GatewayClass(class)) => *class.controller == *CONTROLLER,
                _ => *gateway.class == *CLASS,
            };
            if !ours {
                let message = format!("class \"{}\" is none that byrnie serves; its own is \"{CLASS}\"", gateway.class);
                return refused("Pending", message);
            }
            // Whoever asks for more than is done would be served by something else than was meant.
            return match &gateway.parameters {
                None => Ok(()),
                Some(Parameters { kind, name, .. }) => refused(
                    "InvalidParameters",
                    format!("byrnie takes no parameters, such as those of {kind} \"{name}\""),
                ),
            };
        };
        let at = Key::new(Kind::Gateway, parent.namespace.clone(), parent.name.clone());
        let Some(Spec::Gateway(owner)) = self.spec(&at) else {
            let message = format!("no Gateway \"{}\" in namespace \"{}\"", parent.name, parent.namespace);
            return refused("ParentNotAccepted", message);
        };
        if let Err(of_parent) = self.standing(&at, owner) {
            return refused("ParentNotAccepted", of_parent.message);
        }
        let allowed = owner.sets.as_ref().is_some_and(|from| self.admits(from, &parent.namespace, &key.namespace));
        if allowed {
            return Ok(());
        }
        let message = format!("Gateway \"{}\" takes no ListenerSet of namespace \"{}\"", parent.name, key.namespace);
        refused("NotAllowed", message)
    }

    /// Everything that has listeners.
    pub(crate) fn gateways(&self) -> impl Iterator<Item = (&Key, &Gateway)> {
        Kind::GATEWAYS.into_iter().flat_map(|kind| self.iter(kind)).filter_map(|resource| match &resource.spec {
            Spec::Gateway(gateway) => Some((&resource.key, &**gateway)),
            _ => None,
        })
    }

    fn admits(&self, from: &From, own: &str, namespace: &Text) -> bool {
        match from {
            From::Same => **namespace == *own,
            From::All => true,
            From::Selected(wanted) => {
                let labels = self.resource(&Key::new(Kind::Namespace, "", namespace.clone())).map(|r| &r.labels);
                wanted.fits(|key| match key == NAMESPACE_LABEL {
                    true => Some(namespace),
                    false => labels.and_then(|labels| labels.get(key)),
                })
            }
        }
    }

    /// Whether a route may refer to this service: its own namespace's, or one that a ReferenceGrant names.
    pub(crate) fn granted(&self, key: &Key, to: &Destination) -> bool {
        let named = service_key(&to.service);
        self.may_name(key, &if to.is_pool() { pool_key(&named) } else { named })
    }

    /// Whether a resource of Gateway API may refer to another.
    pub(crate) fn may_name(&self, key: &Key, to: &Key) -> bool {
        if to.namespace == key.namespace {
            return true;
        }
        let group = if to.kind == Kind::InferencePool { pool::GROUP } else { "" };
        let grants = self.iter(Kind::ReferenceGrant).filter(|grant| grant.key.namespace == to.namespace);
        grants.into_iter().any(|resource| {
            let Spec::Grant(grant) = &resource.spec else { return false };
            let from = grant
                .from
                .iter()
                .any(|from| *from.group == *GROUP && *from.kind == *key.kind.name() && from.namespace == key.namespace);
            let named = |name: &Option<Text>| name.as_ref().is_none_or(|name| *name == to.name);
            from && grant.to.iter().any(|of| *of.group == *group && *of.kind == *to.kind.name() && named(&of.name))
        })
    }

    /// The Secret that a gateway's listener may show, if there is one.
    pub(crate) fn certificate(&self, gateway: &Key, to: &CertificateRef) -> Result<Key, Refused> {
        let key = Key::new(Kind::Secret, to.namespace.clone(), to.name.clone());
        if let Some(kind) = &to.unserved {
            return refused("InvalidCertificateRef", format!("a {kind} holds no certificate; name a Secret"));
        }
        if !self.may_name(gateway, &key) {
            let message = format!("no ReferenceGrant in namespace \"{}\" allows it", to.namespace);
            return refused("RefNotPermitted", message);
        }
        if self.resource(&key).is_none() {
            let message = format!("no Secret \"{}\" in namespace \"{}\"", to.name, to.namespace);
            return refused("InvalidCertificateRef", message);
        }
        Ok(key)
    }

    /// Whether some gateway that is served shows this certificate.
    pub(crate) fn is_shown(&self, secret: &Key) -> bool {
        self.gateways().any(|(key, gateway)| {
            let mut refs = gateway.listeners.iter().flat_map(|listener| listener.carries.certificates());
            self.is_served(key, gateway) && refs.any(|to| self.certificate(key, to).as_ref() == Ok(secret))
        })
    }

    /// A gateway as its proxy gets it: without listeners whose place is taken, and certificates and authorities that it may
    /// not name; a set with what its gateway has callers prove.
    pub(crate) fn permitted(&self, key: &Key, gateway: &Gateway) -> Gateway {
        let mut permitted = gateway.clone();
        permitted.frontend = self.frontend(key);
        permitted.listeners.retain(|listener| self.namesake(key, listener).is_none());
        for listener in &mut permitted.listeners {
            if let Some(certificates) = listener.carries.certificates_mut() {
                certificates.retain(|to| self.certificate(key, to).is_ok());
            }
        }
        permitted
    }

    /// A route as a gateway gets it: its parents are the listeners that it's attached to, and references
    /// into other namespaces stand as far as they're granted. `None` if it's attached to nothing.
    pub(crate) fn at_gateway(&self, key: &Key, route: &Route) -> Option<Route> {
        let mut settled = route.clone();
        settled.parents = Vec::new();
        for parent in &route.parents {
            match parent.kind {
                ParentKind::Service => settled.parents.push(parent.clone()),
                ParentKind::Gateway | ParentKind::ListenerSet => {
                    let names = self.attached(key, route, parent).unwrap_or_default();
                    let listener = |section| Parent { section: Some(section), port: None, ..parent.clone() };
                    settled.parents.extend(names.into_iter().map(listener));
                }
            }
        }
        let exposed = route.parents.iter().any(|parent| parent.kind != ParentKind::Service);
        for to in settled.destinations_mut().filter(|to| to.standing == Standing::Foreign) {
            if !exposed || self.granted(key, to) {
                to.standing = Standing::Granted;
            }
        }
        (!settled.parents.is_empty()).then_some(settled)
    }

    /// The balancers in front of a gateway, or of the one to which a set adds.
    fn balancers(&self, key: &Key) -> &[Range] {
        self.lead(key).map_or(&[], |(_, owner)| &owner.balancers)
    }

    /// What is said if an older gateway speaks something else at a listener's port.
    pub(crate) fn clash(&self, gateway: &Key, listener: &Listener) -> Option<String> {
        let order = |key: &Key| self.age(key);
        let stands = |key: &Key, one: &Listener| one.carries != Carries::Udp || self.balancers(key).is_empty();
        if !stands(gateway, listener) {
            return Some("balancers in front say whom a connection is from, and of datagrams they can't".to_owned());
        }
        // Whoever was at the port first: others have had no part in it.
        let at = |of: &Gateway| of.listeners.iter().find(|l| l.at() == listener.at()).cloned();
        let here = self
            .gateways()
            .filter_map(|(key, of)| Some((key, at(of).filter(|l| stands(key, l) && self.is_served(key, of))?)));
        let (key, first) = here.min_by_key(|(key, _)| order(key)).filter(|(key, _)| *key != gateway)?;
        if order(key) > order(gateway) {
            return None;
        }
        let (speaks, port) = (first.carries.name(), listener.port);
        if self.balancers(key) != self.balancers(gateway) {
            return Some(format!("port {port} is {key}'s, which comes first and has other balancers in front"));
        }
        if !first.carries.goes_with(&listener.carries) {
            return Some(format!("port {port} is {key}'s, which comes first and speaks {speaks} there"));
        }
        // One connection may be for hosts of both.
        let differs = self.demand(key, &first) != self.demand(gateway, listener);
        differs.then(|| format!("port {port} is {key}'s, which comes first and has callers prove something else there"))
    }

    /// What is said of a set's listener if the gateway to which it adds, or an older set of that, has one for the same host at
    /// the same port. Within one resource that is refused.
    pub(crate) fn namesake(&self, set: &Key, listener: &Listener) -> Option<String> {
        let Some(Spec::Gateway(own)) = self.spec(set) else { return None };
        let owner = own.parent.as_ref()?;
        let is_owner =
            |key: &Key| key.kind == Kind::Gateway && (&key.namespace, &key.name) == (&owner.namespace, &owner.name);
        let alike = |other: &Listener| {
            (other.at(), &other.hostname) == (listener.at(), &listener.hostname)
                && other.carries.goes_with(&listener.carries)
        };
        let before = self.gateways().filter(|(key, of)| {
            let beside = is_owner(key) || of.parent.as_ref() == Some(owner);
            beside && self.age(key) < self.age(set) && self.is_served(key, of) && of.listeners.iter().any(alike)
        });
        let (first, _) = before.min_by_key(|(key, _)| self.age(key))?;
        let host =
            listener.hostname.as_deref().map_or_else(|| "any host".to_owned(), |host| format!("host \"{host}\""));
        Some(format!("{host} at port {} is {first}'s, which comes first", listener.port))
    }

    /// By this gateways come before each other, and all of them before sets: as Gateway API has it, by age and then by name.
    fn age(&self, key: &Key) -> (Kind, Option<Revision>, Text, Text) {
        let created = self.resource(key).map(|resource| resource.created);
        (key.kind, created, key.namespace.clone(), key.name.clone())
    }

    /// Why a reference can't be followed from this parent.
    pub(crate) fn unresolved(&self, key: &Key, parent: &Parent, to: &Destination) -> Option<Refused> {
        if let Standing::Unserved(kind) = &to.standing {
            return refused::<()>("InvalidKind", format!("requests cannot be sent to a {kind}")).err();
        }
        if parent.kind != ParentKind::Service && !self.granted(key, to) {
            let message = format!("no ReferenceGrant in namespace \"{}\" allows it", to.service.namespace);
            return refused::<()>("RefNotPermitted", message).err();
        }
        match self.service(&to.service) {
            _ if to.is_pool() => {
                let message =
                    || format!("no InferencePool \"{}\" in namespace \"{}\"", to.service.name, to.service.namespace);
                self.pool(&to.service).is_none().then(|| Refused { reason: "BackendNotFound", message: message() })
            }
            None => refused::<()>("BackendNotFound", self.absent(&to.service).0).err(),
            Some(service) if service.ports.iter().all(|port| port.port != to.port) => {
                refused::<()>("BackendNotFound", format!("Service \"{}\" has no port {}", to.service.name, to.port))
                    .err()
            }
            Some(service) => mismatch(key.kind, to, service),
        }
    }
}

/// What is said of a port that takes datagrams and gets connections, or the other way round.
fn mismatch(kind: Kind, to: &Destination, service: &Service) -> Option<Refused> {
    let port = service.ports.iter().find(|port| port.port == to.port)?;
    let datagrams = kind == Kind::UdpRoute;
    if datagrams == (port.protocol == Protocol::Udp) {
        return None;
    }
    let (takes, gets) =
        if datagrams { ("no datagrams", "a UDPRoute sends") } else { ("datagrams", "only a UDPRoute sends") };
    let message = format!("port {} of Service \"{}\" takes {takes}, which {gets}", to.port, to.service.name);
    Some(Refused { reason: "UnsupportedProtocol", message })
}

/// The key of the gateway that a parent names.
pub(crate) fn gateway_key(parent: &Parent) -> Key {
    let kind = if parent.kind == ParentKind::ListenerSet { Kind::ListenerSet } else { Kind::Gateway };
    Key::new(kind, parent.name.namespace.clone(), parent.name.name.clone())
}

pub(crate) fn admits_kind(listener: &Listener, kind: Kind) -> bool {
    let wanted = listener.kinds.is_empty() || listener.kinds.iter().any(|word| is_kind(word, kind));
    wanted && listener.carries.suits(kind)
}

pub(crate) fn is_kind(word: &str, kind: Kind) -> bool {
    word.split_once('.') == Some((kind.name(), GROUP))
}
