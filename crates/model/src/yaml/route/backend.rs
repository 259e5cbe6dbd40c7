// SPDX-License-Identifier: Apache-2.0
//! References of routes: to what they're attached, and to where requests go. Whether what is named
//! exists, and may be named from here, is judged by the catalog.

use super::filter;
use crate::route::{Backend, Destination, Parent, ParentKind, Standing};
use crate::yaml::names;
use crate::yaml::reader::Reader;
use crate::{Kind, ServiceRef, code, pool};
use gateway_api::experimental::httproutes as gw;
use serde_json::{Value, json};

/// Limits of the CRD.
const PARENTS_MAX: usize = 32;
const BACKENDS_MAX: usize = 16;
const WEIGHT_MAX: i32 = 1_000_000;

pub(super) fn parents(reader: &mut Reader<'_>, said: &[gw::HttpRouteParentRefs]) -> Vec<Parent> {
    reader.at_most(said.len(), PARENTS_MAX, "spec.parentRefs");
    let mut parents: Vec<Parent> = Vec::new();
    for (i, parent) in said.iter().enumerate() {
        let at = format!("spec.parentRefs[{i}]");
        let Some(parent) = parent_of(reader, parent, &at) else { continue };
        if parents.contains(&parent) {
            reader.fault(&code::CONTRADICTION, at, "the same parent stands twice");
        } else if parents.iter().any(|other| overlap(other, &parent)) {
            let message = match parent.kind {
                ParentKind::Service => {
                    "the service is a parent as a whole already: either give each a port, or only one without"
                }
                _ => {
                    "the gateway is a parent as a whole already: either give each a sectionName or port, or only one without"
                }
            };
            reader.fault(&code::CONTRADICTION, at, message);
        }
        parents.push(parent);
    }
    parents
}

/// Whether one of two references to the same thing covers the other.
fn overlap(a: &Parent, b: &Parent) -> bool {
    let whole = |parent: &Parent| parent.port.is_none() && parent.section.is_none();
    a.kind == b.kind && a.name == b.name && (whole(a) || whole(b))
}

fn parent_of(reader: &mut Reader<'_>, said: &gw::HttpRouteParentRefs, at: &str) -> Option<Parent> {
    let group = said.group.as_deref().unwrap_or("gateway.networking.k8s.io");
    let word = said.kind.as_deref().unwrap_or("Gateway");
    let kind = match (group, word) {
        ("", "Service") => ParentKind::Service,
        ("gateway.networking.k8s.io", "Gateway") => ParentKind::Gateway,
        ("gateway.networking.k8s.io", "ListenerSet") => ParentKind::ListenerSet,
        _ => {
            let what =
                format!("routes on a {word} (group \"{group}\"); only Service (group \"\"), Gateway and ListenerSet");
            reader.unenforced(at, &what);
            return None;
        }
    };
    let namespace = match said.namespace.as_deref() {
        Some(namespace) => reader.label(namespace, &format!("{at}.namespace")),
        None => reader.namespace(),
    };
    let name = reader.label(&said.name, &format!("{at}.name"));
    let port = said.port.map(|port| reader.port(port.into(), &format!("{at}.port")));
    let section = said.section_name.as_deref().map(|section| {
        reader.require(
            names::is_subdomain(section),
            &format!("{at}.sectionName"),
            format!("\"{section}\" is not a DNS name"),
        );
        section.into()
    });
    if kind == ParentKind::Service && section.is_some() {
        reader.unenforced(format!("{at}.sectionName"), "sectionName of a Service; write port");
    }
    Some(Parent { kind, name: ServiceRef::new(namespace, name), section, port })
}

pub(super) fn parent_value(parent: &Parent, own: &str) -> Value {
    let mut value = match parent.kind {
        ParentKind::Service => json!({"group": "", "kind": "Service"}),
        ParentKind::Gateway => json!({"kind": "Gateway"}),
        ParentKind::ListenerSet => json!({"kind": "ListenerSet"}),
    };
    value["name"] = json!(parent.name.name);
    if *parent.name.namespace != *own {
        value["namespace"] = json!(parent.name.namespace);
    }
    if let Some(section) = &parent.section {
        value["sectionName"] = json!(section);
    }
    if let Some(port) = parent.port {
        value["port"] = json!(port);
    }
    value
}

/// A reference as each of the CRD's types has it.
pub(super) struct Reference<'a> {
    pub(super) group: Option<&'a str>,
    pub(super) kind: Option<&'a str>,
    pub(super) namespace: Option<&'a str>,
    pub(super) name: &'a str,
    pub(super) port: Option<i32>,
}

/// Where requests go. What is no Service is kept and answered as if it were absent, as upstream asks.
pub(super) fn destination(reader: &mut Reader<'_>, said: &Reference<'_>, at: &str) -> Destination {
    let (group, kind) = (said.group.unwrap_or(""), said.kind.unwrap_or("Service"));
    let namespace = match said.namespace {
        Some(namespace) => reader.label(namespace, &format!("{at}.namespace")),
        None => reader.namespace(),
    };
    let served = group.is_empty() && kind == "Service";
    let port = match said.port {
        Some(port) => reader.port(port.into(), &format!("{at}.port")),
        None => {
            if served {
                reader.fault(&code::MISSING_FIELD, at, "a Service as backend needs a port");
            }
            1
        }
    };
    if !served {
        let fits = (group.is_empty() || names::is_subdomain(group)) && names::is_kind(kind);
        reader.require(
            fits,
            &format!("{at}.kind"),
            format!("\"{kind}\" of group \"{group}\" is not the name of a kind"),
        );
        reader.require(
            names::is_subdomain(said.name),
            &format!("{at}.name"),
            format!("\"{}\" is not a DNS name", said.name),
        );
        let word = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let service = ServiceRef::new(namespace, said.name);
        return Destination { service, port, standing: Standing::Unserved(word.into()) };
    }
    let name = reader.label(said.name, &format!("{at}.name"));
    let standing = if namespace == reader.namespace() { Standing::Granted } else { Standing::Foreign };
    Destination { service: ServiceRef::new(namespace, name), port, standing }
}

pub(super) fn destination_value(to: &Destination, own: &str) -> Value {
    let mut value = json!({});
    if let Standing::Unserved(word) = &to.standing {
        let (kind, group) = word.split_once('.').unwrap_or((word, ""));
        value = json!({"group": group, "kind": kind});
    }
    value["name"] = json!(to.service.name);
    if *to.service.namespace != *own {
        value["namespace"] = json!(to.service.namespace);
    }
    if to.is_pool() {
        (value["group"], value["kind"]) = (json!(pool::GROUP), json!(Kind::InferencePool.name()));
    } else {
        value["port"] = json!(to.port);
    }
    value
}

pub(super) fn backends(
    reader: &mut Reader<'_>,
    said: &[gw::HttpRouteRulesBackendRefs],
    at: &str,
    prefixes: bool,
) -> Vec<Backend> {
    reader.at_most(said.len(), BACKENDS_MAX, &format!("{at}.backendRefs"));
    let each = said.iter().enumerate();
    each.map(|(i, said)| backend(reader, said, &format!("{at}.backendRefs[{i}]"), prefixes)).collect()
}

/// A pool of inference servers as where requests go. The port of such a reference means nothing, as upstream.
fn pool(reader: &mut Reader<'_>, said: &Reference<'_>, at: &str) -> Option<Destination> {
    let named = said.group == Some(pool::GROUP) && said.kind == Some(Kind::InferencePool.name());
    let takes = matches!(reader.key.as_ref().map(|key| key.kind), Some(Kind::HttpRoute | Kind::GrpcRoute));
    if !named || !takes {
        return None;
    }
    let namespace = match said.namespace {
        Some(namespace) => reader.label(namespace, &format!("{at}.namespace")),
        None => reader.namespace(),
    };
    let name = reader.label(said.name, &format!("{at}.name"));
    let standing = if namespace == reader.namespace() { Standing::Granted } else { Standing::Foreign };
    Some(Destination { service: ServiceRef::new(namespace, name), port: 0, standing })
}

fn backend(reader: &mut Reader<'_>, said: &gw::HttpRouteRulesBackendRefs, at: &str, prefixes: bool) -> Backend {
    let reference = Reference {
        group: said.group.as_deref(),
        kind: said.kind.as_deref(),
        namespace: said.namespace.as_deref(),
        name: &said.name,
        port: said.port,
    };
    let to = pool(reader, &reference, at).unwrap_or_else(|| destination(reader, &reference, at));
    let weight = said.weight.unwrap_or(1);
    let message = format!("{weight} is not a weight; weights go from 0 to {WEIGHT_MAX}");
    reader.require((0..=WEIGHT_MAX).contains(&weight), &format!("{at}.weight"), message);
    let filters = filter::read_of_backend(reader, said.filters.as_deref().unwrap_or_default(), at, prefixes);
    Backend { to, weight: weight.try_into().unwrap_or(0), filters }
}

pub(super) fn backend_value(backend: &Backend, own: &str) -> Value {
    let mut value = destination_value(&backend.to, own);
    value["weight"] = json!(backend.weight);
    if !backend.filters.is_empty() {
        value["filters"] = backend.filters.iter().map(|filter| filter::to_value(filter, own)).collect();
    }
    value
}
