// SPDX-License-Identifier: Apache-2.0
//! The documents of Gateway, ListenerSet, GatewayClass and ReferenceGrant, read with Gateway API's own types.

use super::meta;
use super::names;
use super::reader::Reader;
use crate::gateway::{
    BALANCERS, CONTROLLER, Carries, CertificateRef, DESCRIPTION_CHARS_MAX, Expression, From, Frontend, Gateway,
    GatewayClass, Grant, Listener, Parameters, Referent, Referrer, SITES, Selector, Wanted,
};
use crate::range::Range;
use crate::{ServiceRef, code};
use byrnie_base::Text;
use gateway_api::experimental::gateways as gw;
use gateway_api::experimental::{gatewayclasses, listenersets, referencegrants};
use serde_json::{Value, json};

mod frontend;

/// Limits of the CRDs.
const LISTENERS_MAX: usize = 64;
/// Most expressions of a selector, and most values of one.
const EXPRESSIONS_MAX: usize = 64;
const VALUES_MAX: usize = 256;
const KINDS_MAX: usize = 8;
const REFERENCES_MAX: usize = 16;
const CERTIFICATES_MAX: usize = 64;
/// Most ranges of balancers in front of a gateway.
const BALANCERS_MAX: usize = 64;
const GROUP: &str = "gateway.networking.k8s.io";

pub(crate) fn class(reader: &mut Reader<'_>) -> Option<GatewayClass> {
    let spec: gatewayclasses::GatewayClassSpec = reader.spec()?;
    let name = &spec.controller_name;
    let fits = name.split_once('/').is_some_and(|(domain, path)| names::is_subdomain(domain) && !path.is_empty());
    reader.require(fits, "spec.controllerName", format!("\"{name}\" is not DOMAIN/PATH"));
    // Another controller's parameters are its own affair, and not kept.
    if spec.parameters_ref.is_some() && name == CONTROLLER {
        reader.unenforced("spec.parametersRef", "parameters of a class");
    }
    let description = spec.description.as_deref().filter(|text| !text.is_empty());
    let fits = description.is_none_or(|text| text.chars().count() <= DESCRIPTION_CHARS_MAX);
    let message = format!("a description has at most {DESCRIPTION_CHARS_MAX} characters");
    reader.require(fits, "spec.description", message);
    Some(GatewayClass { controller: name.as_str().into(), description: description.map(Text::from) })
}

pub(crate) fn class_value(class: &GatewayClass) -> Value {
    let mut value = json!({"controllerName": class.controller});
    if let Some(description) = &class.description {
        value["description"] = json!(description);
    }
    value
}

pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Gateway> {
    let spec: gw::GatewaySpec = reader.spec()?;
    let fields = [
        (spec.addresses.is_some_and(|addresses| !addresses.is_empty()), "addresses", "addresses of a gateway"),
        (spec.default_scope.is_some(), "defaultScope", "default gateways"),
    ];
    for (_, field, what) in fields.into_iter().filter(|(said, ..)| *said) {
        reader.unenforced(format!("spec.{field}"), what);
    }
    let said = spec.infrastructure.as_ref();
    let parameters = said.and_then(|said| said.parameters_ref.as_ref()).map(|said| parameters(reader, said));
    let balancers = spec.infrastructure.map(|said| infrastructure(reader, said)).unwrap_or_default();
    let class = spec.gateway_class_name.as_str();
    reader.require(names::is_subdomain(class), "spec.gatewayClassName", format!("\"{class}\" is not a DNS name"));
    let frontend = spec.tls.map(|said| frontend::read(reader, said)).unwrap_or_default();
    let listeners = listeners(reader, &spec.listeners);
    for (i, _) in listeners.iter().enumerate().filter(|(_, one)| !balancers.is_empty() && one.carries == Carries::Udp) {
        let message = "balancers in front say whom a connection is from, and of datagrams they can't";
        reader.fault(&code::CONTRADICTION, format!("spec.listeners[{i}].protocol"), message);
    }
    let said = spec.allowed_listeners.and_then(|allowed| allowed.namespaces);
    let sets = said.and_then(|said| sets(reader, &said));
    Some(Gateway { class: class.into(), parent: None, sets, balancers, parameters, frontend, listeners })
}

/// What a gateway's infrastructure is asked for: the balancers in front of it, and nothing else.
fn infrastructure(reader: &mut Reader<'_>, said: gw::GatewayInfrastructure) -> Vec<Range> {
    let at = "spec.infrastructure";
    if said.labels.is_some_and(|labels| !labels.is_empty()) {
        reader.unenforced(format!("{at}.labels"), "labels of a gateway's infrastructure");
    }
    let mut balancers = Vec::new();
    for (name, text) in said.annotations.into_iter().flatten() {
        let at = format!("{at}.annotations[\"{name}\"]");
        if name != BALANCERS {
            reader.unenforced(at, &format!("this annotation of a gateway's infrastructure; only {BALANCERS}"));
            continue;
        }
        let words: Vec<&str> = text.split(',').map(str::trim).collect();
        reader.at_most(words.len(), BALANCERS_MAX, &at);
        for word in words {
            match Range::parse(word) {
                Some(range) if !balancers.contains(&range) => balancers.push(range),
                Some(_) => {}
                None => {
                    let message = format!("\"{word}\" is neither an address nor a range such as 10.0.0.0/8");
                    reader.fault(&code::BAD_VALUE, at.clone(), message);
                }
            }
        }
    }
    balancers
}

/// Kept as it stands: it leads nowhere, and the gateway's status says so.
fn parameters(reader: &mut Reader<'_>, said: &gw::GatewayInfrastructureParametersRef) -> Parameters {
    let at = "spec.infrastructure.parametersRef";
    let (group, kind) = (said.group.as_str(), said.kind.as_str());
    let fits = names::is_kind(kind) && (group.is_empty() || names::is_subdomain(group));
    let message = format!("\"{kind}\" of group \"{group}\" is not the name of a kind");
    reader.require(fits, &format!("{at}.kind"), message);
    let fits = names::is_subdomain(&said.name);
    reader.require(fits, &format!("{at}.name"), format!("\"{}\" is not a DNS name", said.name));
    Parameters { group: group.into(), kind: kind.into(), name: said.name.as_str().into() }
}

/// Whose ListenerSets may add to a gateway.
fn sets(reader: &mut Reader<'_>, said: &gw::GatewayAllowedListenersNamespaces) -> Option<From> {
    let word = serde_json::to_value(said).unwrap_or_default();
    // But for "None", the same as for routes.
    if word["from"].as_str().is_none_or(|from| from == "None") {
        return None;
    }
    let said = serde_json::from_value(word).ok();
    Some(from(reader, said.as_ref(), "spec.allowedListeners.namespaces"))
}

/// A ListenerSet: listeners that somebody else adds to a gateway.
pub(crate) fn set(reader: &mut Reader<'_>) -> Option<Gateway> {
    let spec: listenersets::ListenerSetSpec = reader.spec()?;
    let said = &spec.parent_ref;
    let (group, kind) = (said.group.as_deref().unwrap_or(GROUP), said.kind.as_deref().unwrap_or("Gateway"));
    if (group, kind) != (GROUP, "Gateway") {
        reader
            .unenforced("spec.parentRef.kind", &format!("a ListenerSet of a {kind} (group \"{group}\"); only Gateway"));
    }
    let namespace = match said.namespace.as_deref() {
        Some(namespace) => reader.label(namespace, "spec.parentRef.namespace"),
        None => reader.namespace(),
    };
    let fits = names::is_subdomain(&said.name);
    reader.require(fits, "spec.parentRef.name", format!("\"{}\" is not a DNS name", said.name));
    let parent = ServiceRef::new(namespace, said.name.as_str());
    // Each generated type writes what its twin reads.
    let listeners: Vec<gw::GatewayListeners> =
        serde_json::to_value(&spec.listeners).and_then(serde_json::from_value).unwrap_or_default();
    let listeners = self::listeners(reader, &listeners);
    Some(Gateway { parent: Some(parent), listeners, ..Gateway::default() })
}

fn listeners(reader: &mut Reader<'_>, said: &[gw::GatewayListeners]) -> Vec<Listener> {
    reader.require(!said.is_empty(), "spec.listeners", "at least one listener");
    reader.at_most(said.len(), LISTENERS_MAX, "spec.listeners");
    let mut listeners: Vec<Listener> = Vec::new();
    for (i, said) in said.iter().enumerate() {
        let at = format!("spec.listeners[{i}]");
        let listener = listener(reader, said, &at);
        if listeners.iter().any(|other| other.name == listener.name) {
            let message = format!("the listener name \"{}\" stands twice", listener.name);
            reader.fault(&code::CONTRADICTION, format!("{at}.name"), message);
        } else if listeners.iter().any(|o| (o.at(), &o.hostname) == (listener.at(), &listener.hostname)) {
            reader.fault(&code::CONTRADICTION, at, "another listener has the same port and host");
        } else if listeners.iter().any(|o| o.at() == listener.at() && !o.carries.goes_with(&listener.carries)) {
            let message =
                format!("{} can't be told from what another listener of this port carries", listener.carries.name());
            reader.fault(&code::CONTRADICTION, format!("{at}.protocol"), message);
        }
        listeners.push(listener);
    }
    listeners
}

fn listener(reader: &mut Reader<'_>, said: &gw::GatewayListeners, at: &str) -> Listener {
    let fits = names::is_subdomain(&said.name);
    reader.require(fits, &format!("{at}.name"), format!("\"{}\" is not a DNS name", said.name));
    let carries = carries(reader, said, at);
    let hostname = said.hostname.as_deref().filter(|name| !name.is_empty());
    if let Some(name) = hostname {
        let message = format!("\"{name}\" is not a host name in lower case, perhaps with a leading \"*.\"");
        reader.require(names::is_hostname(name), &format!("{at}.hostname"), message);
    }
    let allowed = said.allowed_routes.as_ref();
    let from = from(reader, allowed.and_then(|a| a.namespaces.as_ref()), &format!("{at}.allowedRoutes.namespaces"));
    let kinds = allowed.and_then(|allowed| allowed.kinds.as_deref()).unwrap_or_default();
    reader.at_most(kinds.len(), KINDS_MAX, &format!("{at}.allowedRoutes.kinds"));
    let kinds = kinds.iter().enumerate().map(|(i, said)| {
        let group = said.group.as_deref().unwrap_or(GROUP);
        let fits = names::is_kind(&said.kind) && (group.is_empty() || names::is_subdomain(group));
        let path = format!("{at}.allowedRoutes.kinds[{i}].kind");
        reader.require(fits, &path, format!("\"{}\" of group \"{group}\" is not the name of a kind", said.kind));
        Text::from(format!("{}.{group}", said.kind))
    });
    let kinds = kinds.collect();
    let port = reader.port(said.port.into(), &format!("{at}.port"));
    Listener { name: said.name.as_str().into(), hostname: hostname.map(Text::from), port, carries, from, kinds }
}

fn carries(reader: &mut Reader<'_>, said: &gw::GatewayListeners, at: &str) -> Carries {
    let passes =
        said.tls.as_ref().is_some_and(|tls| matches!(tls.mode, Some(gw::GatewayListenersTlsMode::Passthrough)));
    let of_tls = format!("{at}.tls");
    let carries = match said.protocol.as_str() {
        "HTTP" => Carries::Http,
        "TCP" => Carries::Tcp,
        "UDP" => Carries::Udp,
        SITES => Carries::Sites,
        "HTTPS" => {
            if passes {
                let message = "the TLS of a listener of protocol HTTPS ends there";
                reader.fault(&code::CONTRADICTION, format!("{of_tls}.mode"), message);
            }
            return Carries::Https(certificates(reader, said.tls.as_ref(), &of_tls));
        }
        "TLS" if passes => {
            if said.tls.as_ref().is_some_and(|tls| tls.certificate_refs.as_ref().is_some_and(|refs| !refs.is_empty())) {
                let message = "a listener that passes TLS on shows no certificate";
                reader.fault(&code::CONTRADICTION, format!("{of_tls}.certificateRefs"), message);
            }
            return Carries::Passthrough;
        }
        "TLS" => return Carries::Tls(certificates(reader, said.tls.as_ref(), &of_tls)),
        other => {
            let message = format!("\"{other}\" is no protocol of a listener; write HTTP, HTTPS, TLS, TCP or UDP");
            reader.fault(&code::BAD_VALUE, format!("{at}.protocol"), message);
            return Carries::Http;
        }
    };
    let name = carries.name();
    if said.tls.is_some() {
        reader.fault(&code::CONTRADICTION, of_tls, format!("a listener of protocol {name} has no tls"));
    }
    if carries.is_hostless() && said.hostname.as_ref().is_some_and(|name| !name.is_empty()) {
        let message = format!("a listener of protocol {name} is for no host");
        reader.fault(&code::CONTRADICTION, format!("{at}.hostname"), message);
    }
    carries
}

fn certificates(reader: &mut Reader<'_>, said: Option<&gw::GatewayListenersTls>, at: &str) -> Vec<CertificateRef> {
    for name in said.and_then(|tls| tls.options.as_ref()).into_iter().flat_map(|options| options.keys()) {
        reader.unenforced(format!("{at}.options[\"{name}\"]"), "options of TLS");
    }
    let refs = said.and_then(|tls| tls.certificate_refs.as_deref()).unwrap_or_default();
    let path = format!("{at}.certificateRefs");
    if refs.is_empty() {
        let message = "a listener that ends TLS needs at least one certificate in \"tls.certificateRefs\"";
        reader.fault(&code::MISSING_FIELD, at.trim_end_matches(".tls"), message);
    }
    reader.at_most(refs.len(), CERTIFICATES_MAX, &path);
    let one = |(i, said): (usize, &gw::GatewayListenersTlsCertificateRefs)| {
        let kind = (said.group.as_deref().unwrap_or(""), said.kind.as_deref().unwrap_or("Secret"));
        let place = (said.namespace.as_deref(), said.name.as_str());
        reference(reader, "Secret", kind, place, &format!("{path}[{i}]"))
    };
    refs.iter().enumerate().map(one).collect()
}

/// A reference to what is to be a `wanted` of the core group; one to anything else is kept as it stands, and leads nowhere.
fn reference(
    reader: &mut Reader<'_>,
    wanted: &str,
    (group, kind): (&str, &str),
    (namespace, name): (Option<&str>, &str),
    at: &str,
) -> CertificateRef {
    let fits = names::is_kind(kind) && (group.is_empty() || names::is_subdomain(group));
    let message = format!("\"{kind}\" of group \"{group}\" is not the name of a kind");
    reader.require(fits, &format!("{at}.kind"), message);
    reader.require(names::is_subdomain(name), &format!("{at}.name"), format!("\"{name}\" is not a DNS name"));
    let namespace = match namespace.filter(|name| !name.is_empty()) {
        Some(name) => reader.label(name, &format!("{at}.namespace")),
        None => reader.namespace(),
    };
    let unserved = ((group, kind) != ("", wanted)).then(|| Text::from(format!("{kind}.{group}")));
    CertificateRef { namespace, name: name.into(), unserved }
}

/// How a document says such a reference.
fn reference_value(wanted: &str, to: &CertificateRef) -> Value {
    let (kind, group) =
        to.unserved.as_ref().map_or((wanted, ""), |word| word.split_once('.').unwrap_or((word.as_str(), "")));
    json!({"group": group, "kind": kind, "namespace": to.namespace, "name": to.name})
}

fn from(reader: &mut Reader<'_>, said: Option<&gw::GatewayListenersAllowedRoutesNamespaces>, at: &str) -> From {
    use gw::GatewayListenersAllowedRoutesNamespacesFrom as Word;
    let selector = said.and_then(|said| said.selector.as_ref());
    match said.and_then(|said| said.from.as_ref()) {
        None | Some(Word::Same) => From::Same,
        Some(Word::All) => From::All,
        Some(Word::Selector) => {
            let Some(selector) = selector else {
                reader.fault(&code::MISSING_FIELD, at, "from: Selector needs the field \"selector\"");
                return From::Same;
            };
            let labels = selector.match_labels.clone().unwrap_or_default();
            let labels = meta::labels(reader, &labels, &format!("{at}.selector.matchLabels"));
            let said = selector.match_expressions.as_deref().unwrap_or_default();
            let at = format!("{at}.selector.matchExpressions");
            reader.at_most(said.len(), EXPRESSIONS_MAX, &at);
            let expressions = said.iter().enumerate().map(|(i, said)| expression(reader, said, &format!("{at}[{i}]")));
            From::Selected(Selector { labels, expressions: expressions.collect() })
        }
    }
}

fn expression(
    reader: &mut Reader<'_>,
    said: &gw::GatewayListenersAllowedRoutesNamespacesSelectorMatchExpressions,
    at: &str,
) -> Expression {
    if !names::is_label_key(&said.key) {
        reader.fault(
            &code::BAD_NAME,
            format!("{at}.key"),
            format!("\"{}\" is not a label key: [PREFIX/]NAME", said.key),
        );
    }
    let values = said.values.as_deref().unwrap_or_default();
    let path = format!("{at}.values");
    reader.at_most(values.len(), VALUES_MAX, &path);
    for (i, value) in values.iter().enumerate() {
        let message = format!("\"{value}\" is not a label value: at most 63 of letters, digits, '-', '_' and '.'");
        reader.require(names::is_label_value(value), &format!("{path}[{i}]"), message);
    }
    let some = values.iter().map(|value| Text::from(value.as_str())).collect();
    let operator = said.operator.as_str();
    let value = match operator {
        "In" => Wanted::In(some),
        "NotIn" => Wanted::NotIn(some),
        "Exists" => Wanted::Exists,
        "DoesNotExist" => Wanted::DoesNotExist,
        _ => {
            let message = format!("\"{operator}\" is none of In, NotIn, Exists and DoesNotExist");
            reader.fault(&code::BAD_VALUE, format!("{at}.operator"), message);
            Wanted::Exists
        }
    };
    let takes = matches!(value, Wanted::In(_) | Wanted::NotIn(_));
    if takes && values.is_empty() {
        reader.fault(&code::MISSING_FIELD, at, format!("{operator} needs the field \"values\""));
    } else if !takes && !values.is_empty() {
        reader.fault(&code::CONTRADICTION, path, format!("{operator} takes no values"));
    }
    Expression { key: said.key.as_str().into(), value }
}

fn selector_value(selector: &Selector) -> Value {
    let mut value = json!({"matchLabels": selector.labels});
    if !selector.expressions.is_empty() {
        let expression = |Expression { key, value }: &Expression| match value {
            Wanted::In(values) => json!({"key": key, "operator": "In", "values": values}),
            Wanted::NotIn(values) => json!({"key": key, "operator": "NotIn", "values": values}),
            Wanted::Exists => json!({"key": key, "operator": "Exists"}),
            Wanted::DoesNotExist => json!({"key": key, "operator": "DoesNotExist"}),
        };
        value["matchExpressions"] = selector.expressions.iter().map(expression).collect();
    }
    value
}

pub(crate) fn to_value(gateway: &Gateway, own: &str) -> Value {
    let listeners: Vec<Value> = gateway.listeners.iter().map(listener_value).collect();
    if let Some(parent) = &gateway.parent {
        let mut reference = json!({"kind": "Gateway", "name": parent.name});
        if *parent.namespace != *own {
            reference["namespace"] = json!(parent.namespace);
        }
        return json!({"parentRef": reference, "listeners": listeners});
    }
    let mut value = json!({"gatewayClassName": gateway.class, "listeners": listeners});
    if let Some(from) = &gateway.sets {
        value["allowedListeners"] = json!({"namespaces": from_value(from)});
    }
    if !gateway.balancers.is_empty() {
        let ranges: Vec<String> = gateway.balancers.iter().map(Range::to_string).collect();
        value["infrastructure"] = json!({"annotations": {BALANCERS: ranges.join(", ")}});
    }
    if let Some(Parameters { group, kind, name }) = &gateway.parameters {
        value["infrastructure"]["parametersRef"] = json!({"group": group, "kind": kind, "name": name});
    }
    if gateway.frontend != Frontend::default() {
        value["tls"] = json!({"frontend": frontend::to_value(&gateway.frontend)});
    }
    value
}

fn from_value(from: &From) -> Value {
    match from {
        From::Same => json!({"from": "Same"}),
        From::All => json!({"from": "All"}),
        From::Selected(selector) => json!({"from": "Selector", "selector": selector_value(selector)}),
    }
}

fn listener_value(listener: &Listener) -> Value {
    let mut value = json!({"name": listener.name, "port": listener.port, "protocol": listener.carries.name()});
    if listener.carries == Carries::Passthrough {
        value["tls"] = json!({"mode": "Passthrough"});
    }
    if let Carries::Https(certificates) | Carries::Tls(certificates) = &listener.carries {
        let one = |to: &CertificateRef| match to.unserved {
            None => json!({"namespace": to.namespace, "name": to.name}),
            Some(_) => reference_value("Secret", to),
        };
        value["tls"] = json!({"certificateRefs": certificates.iter().map(one).collect::<Vec<_>>()});
    }
    if let Some(hostname) = &listener.hostname {
        value["hostname"] = json!(hostname);
    }
    value["allowedRoutes"]["namespaces"] = from_value(&listener.from);
    if !listener.kinds.is_empty() {
        let kind = |word: &Text| {
            let (kind, group) = word.split_once('.').unwrap_or((word, ""));
            json!({"group": group, "kind": kind})
        };
        value["allowedRoutes"]["kinds"] = listener.kinds.iter().map(kind).collect();
    }
    value
}

pub(crate) fn grant(reader: &mut Reader<'_>) -> Option<Grant> {
    let spec: referencegrants::ReferenceGrantSpec = reader.spec()?;
    for (field, count) in [("from", spec.from.len()), ("to", spec.to.len())] {
        let path = format!("spec.{field}");
        reader.require(count > 0, &path, "at least one entry");
        reader.at_most(count, REFERENCES_MAX, &path);
    }
    let mut named = |group: &str, kind: &str, at: &str| {
        let fits = names::is_kind(kind) && (group.is_empty() || names::is_subdomain(group));
        reader.require(
            fits,
            &format!("{at}.kind"),
            format!("\"{kind}\" of group \"{group}\" is not the name of a kind"),
        );
    };
    for (i, from) in spec.from.iter().enumerate() {
        named(&from.group, &from.kind, &format!("spec.from[{i}]"));
    }
    for (i, to) in spec.to.iter().enumerate() {
        named(&to.group, &to.kind, &format!("spec.to[{i}]"));
    }
    let from = spec.from.iter().enumerate().map(|(i, from)| Referrer {
        group: from.group.as_str().into(),
        kind: from.kind.as_str().into(),
        namespace: reader.label(&from.namespace, &format!("spec.from[{i}].namespace")),
    });
    let from = from.collect();
    let to = spec.to.iter().map(|to| Referent {
        group: to.group.as_str().into(),
        kind: to.kind.as_str().into(),
        name: to.name.as_deref().filter(|name| !name.is_empty()).map(Text::from),
    });
    Some(Grant { from, to: to.collect() })
}

pub(crate) fn grant_value(grant: &Grant) -> Value {
    let from = |from: &Referrer| json!({"group": from.group, "kind": from.kind, "namespace": from.namespace});
    let to = |to: &Referent| {
        let mut value = json!({"group": to.group, "kind": to.kind});
        if let Some(name) = &to.name {
            value["name"] = json!(name);
        }
        value
    };
    json!({
        "from": grant.from.iter().map(from).collect::<Vec<_>>(),
        "to": grant.to.iter().map(to).collect::<Vec<_>>(),
    })
}
