// SPDX-License-Identifier: Apache-2.0
//! The document of an EndpointSlice, read with the Kubernetes types.

use super::de::{self, Fault};
use super::names;
use super::reader::Reader;
use crate::service::{Health, Locality};
use crate::slice::{Address, ENDPOINTS_MAX, REGION_LABEL, SERVICE_LABEL, Slice, SlicePort};
use crate::{Labels, code};
use byrnie_base::Text;
use k8s_openapi::api::discovery::v1 as discovery;
use serde_json::{Value, json};
use std::net::IpAddr;

/// What stands beside `metadata`; there is no `spec`.
pub(crate) const FIELDS: [&str; 7] = ["apiVersion", "kind", "metadata", "addressType", "endpoints", "ports", "status"];
/// Limits of the API server.
const PORTS_MAX: usize = 100;
const ZONES_MAX: usize = 8;

/// What an address may look like.
#[derive(Clone, Copy, PartialEq)]
enum Family {
    V4,
    V6,
}

pub(crate) fn read(reader: &mut Reader<'_>, labels: &Labels) -> Option<Slice> {
    let at = format!("metadata.labels[\"{SERVICE_LABEL}\"]");
    let Some(service) = labels.get(SERVICE_LABEL) else {
        let message =
            format!("the label \"{SERVICE_LABEL}\" is missing: nothing says which service the addresses serve");
        reader.fault(&code::MISSING_FIELD, "metadata", message);
        return None;
    };
    let service = reader.label(service, &at);
    let family = match reader.root.field("addressType").map(|node| node.text()) {
        Some(Some("IPv4")) => Family::V4,
        Some(Some("IPv6")) => Family::V6,
        // Kubernetes defines nothing of it, and deprecates it.
        Some(Some("FQDN")) => {
            reader.unenforced("addressType", "addresses that are names (a Service of type ExternalName has one)");
            return None;
        }
        Some(_) => {
            reader.fault(&code::BAD_VALUE, "addressType", "addressType is IPv4 or IPv6");
            return None;
        }
        None => {
            reader.fault(&code::MISSING_FIELD, "", "the field \"addressType\" is missing");
            return None;
        }
    };
    let said: Vec<discovery::EndpointPort> = list(reader, "ports")?;
    let ports = ports(reader, &said);
    let said: Vec<discovery::Endpoint> = list(reader, "endpoints")?;
    reader.at_most(said.len(), ENDPOINTS_MAX, "endpoints");
    let region = labels.get(REGION_LABEL).cloned().unwrap_or_default();
    let endpoints = said.iter().enumerate().filter_map(|(i, said)| {
        let at = format!("endpoints[{i}]");
        let ip = address(reader, said, family, &format!("{at}.addresses"))?;
        let zone = said.zone.as_deref().map(|zone| self::zone(reader, zone, &format!("{at}.zone"))).unwrap_or_default();
        let zones = hints(reader, said.hints.as_ref(), &at);
        if said.hostname.is_some() {
            let what = "byrnie answers no names of single endpoints: it is dropped";
            reader.warnings.push(Fault::new(&code::NOT_ENFORCED, format!("{at}.hostname"), what));
        }
        let locality = Locality { region: region.clone(), zone };
        Some(Address { ip, health: health(said.conditions.as_ref()), locality, zones })
    });
    let endpoints = endpoints.collect();
    Some(Slice { service, ports, endpoints })
}

/// A field that is a list, or isn't there.
fn list<T: serde::de::DeserializeOwned>(reader: &mut Reader<'_>, field: &str) -> Option<Vec<T>> {
    match reader.root.field(field) {
        None => Some(Vec::new()),
        Some(node) => de::read::<Option<Vec<T>>>(node, field, reader.root.locate(field), &mut reader.faults)
            .map(Option::unwrap_or_default),
    }
}

fn ports(reader: &mut Reader<'_>, said: &[discovery::EndpointPort]) -> Vec<SlicePort> {
    reader.at_most(said.len(), PORTS_MAX, "ports");
    let mut ports: Vec<SlicePort> = Vec::new();
    for (i, said) in said.iter().enumerate() {
        let at = format!("ports[{i}]");
        let name = match said.name.as_deref().unwrap_or_default() {
            "" => Text::default(),
            name => reader.label(name, &format!("{at}.name")),
        };
        if ports.iter().any(|other| other.name == name) {
            let message = format!("the port name \"{name}\" stands twice");
            reader.fault(&code::CONTRADICTION, format!("{at}.name"), message);
        }
        if let Some(protocol) = said.protocol.as_deref().filter(|protocol| *protocol != "TCP") {
            reader.unenforced(format!("{at}.protocol"), &format!("the transport {protocol}; only TCP"));
        }
        match said.port {
            Some(number) => {
                let port = reader.port(number.into(), &format!("{at}.port"));
                ports.push(SlicePort { name, port });
            }
            None => reader.fault(&code::MISSING_FIELD, &at, "the field \"port\" is missing"),
        }
    }
    ports
}

fn address(reader: &mut Reader<'_>, said: &discovery::Endpoint, family: Family, at: &str) -> Option<IpAddr> {
    let [text] = said.addresses.as_slice() else {
        // Nothing is defined upstream of any but the first.
        let message = format!("{} addresses: write each as an endpoint of its own", said.addresses.len());
        reader.fault(&code::BAD_VALUE, at, message);
        return None;
    };
    let at = format!("{at}[0]");
    let ip = text.parse::<IpAddr>().ok().filter(|ip| ip.is_ipv4() == (family == Family::V4));
    let Some(ip) = ip else {
        let family = if family == Family::V4 { "IPv4" } else { "IPv6" };
        reader.fault(&code::BAD_VALUE, at, format!("\"{text}\" is not an {family} address"));
        return None;
    };
    let of_link = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.to_ipv4_mapped().is_some(),
    };
    let fits = !ip.is_unspecified() && !ip.is_multicast() && !of_link;
    reader.require(fits, &at, format!("{ip} is not the address of one machine that can be reached from others"));
    Some(ip)
}

/// As upstream: what isn't said is ready, serves, and doesn't terminate.
fn health(said: Option<&discovery::EndpointConditions>) -> Health {
    let Some(said) = said else { return Health::Healthy };
    match (said.ready.unwrap_or(true), said.serving.unwrap_or(true), said.terminating.unwrap_or(false)) {
        (true, ..) => Health::Healthy,
        (false, true, true) => Health::Draining,
        (false, ..) => Health::Unhealthy,
    }
}

fn zone(reader: &mut Reader<'_>, name: &str, at: &str) -> Text {
    reader.require(names::is_label_value(name), at, format!("\"{name}\" is not the name of a zone"));
    name.into()
}

fn hints(reader: &mut Reader<'_>, said: Option<&discovery::EndpointHints>, at: &str) -> Vec<Text> {
    let Some(said) = said else { return Vec::new() };
    if said.for_nodes.as_ref().is_some_and(|nodes| !nodes.is_empty()) {
        let what = "byrnie knows no nodes of Kubernetes: hints for them are dropped";
        reader.warnings.push(Fault::new(&code::NOT_ENFORCED, format!("{at}.hints.forNodes"), what));
    }
    let zones = said.for_zones.as_deref().unwrap_or_default();
    let at = format!("{at}.hints.forZones");
    reader.at_most(zones.len(), ZONES_MAX, &at);
    zones.iter().enumerate().map(|(i, said)| zone(reader, &said.name, &format!("{at}[{i}].name"))).collect()
}

/// All of it, as the store keeps it.
pub(crate) fn write(slice: &Slice, document: &mut Value) {
    let port = |port: &SlicePort| json!({"name": port.name, "port": port.port});
    let endpoint = |address: &Address| {
        let mut value = json!({"addresses": [address.ip.to_string()]});
        match address.health {
            Health::Healthy => {}
            Health::Draining => value["conditions"] = json!({"ready": false, "serving": true, "terminating": true}),
            Health::Unhealthy => value["conditions"] = json!({"ready": false}),
        }
        if !address.locality.zone.is_empty() {
            value["zone"] = json!(address.locality.zone);
        }
        if !address.zones.is_empty() {
            let zone = |zone: &Text| json!({"name": zone});
            value["hints"] = json!({"forZones": address.zones.iter().map(zone).collect::<Vec<_>>()});
        }
        value
    };
    // A slice is of one family; one without addresses might be of either.
    let v6 = slice.endpoints.first().is_some_and(|address| address.ip.is_ipv6());
    document["addressType"] = json!(if v6 { "IPv6" } else { "IPv4" });
    document["ports"] = slice.ports.iter().map(port).collect();
    document["endpoints"] = slice.endpoints.iter().map(endpoint).collect();
}
