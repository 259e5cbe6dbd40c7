// SPDX-License-Identifier: Apache-2.0
//! The document of a Workload, and how a derived Endpoint is shown.

use super::names;
use super::probe::{self, ProbeSpec};
use super::reader::Reader;
use crate::service::{Health, Locality};
use crate::workload::WorkloadPort;
use crate::{Endpoint, Identity, Protocol, ServiceRef, Workload, code};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// One running instance of a program, with its proxy.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct WorkloadSpec {
    /// The IP address at which its proxy is reached by others.
    address: String,
    /// The service account that it runs under: half of its identity.
    service_account: String,
    /// Ports on which the program listens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ports: Vec<PortSpec>,
    /// `IP:PORT` of the inbound mTLS listener of its proxy; written by the proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inbound: Option<String>,
    /// `IP:PORT` of the admin listener of its proxy; written by the proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    admin: Option<String>,
    /// Services that it calls: `NAME` or `NAME.NAMESPACE`. Grants nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    uses: Vec<String>,
    /// Where it runs: `REGION` or `REGION/ZONE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    locality: Option<String>,
    /// Share of traffic beside its siblings, from 1 to 65535; 1 unless given.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    weight: u32,
    /// How to ask the program whether it is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    health: Option<ProbeSpec>,
}

/// A port on which the program listens.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct PortSpec {
    /// Its name, to which `targetPort` of a Service may refer.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name: String,
    /// Its number.
    port: i64,
    /// `http`, `http2`, `grpc`, `tcp` or `udp`; unless given, it is told from what comes by TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    protocol: Option<ProtocolWord>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
enum ProtocolWord {
    Http,
    Http2,
    Grpc,
    Tcp,
    Udp,
}

/// Only `health` means something here; the rest of a status is what a server said.
#[derive(Deserialize)]
struct Status {
    health: Option<HealthWord>,
}

#[derive(Clone, Copy, Deserialize)]
enum HealthWord {
    Healthy,
    Draining,
    Unhealthy,
}

/// Most ports of one workload.
const PORTS_MAX: usize = 128;
/// Most services that one workload may say it uses.
const USES_MAX: usize = 1024;
/// Largest weight of a workload.
const WEIGHT_MAX: u32 = 65535;

const fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
const fn is_one(weight: &u32) -> bool {
    *weight == 1
}

pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Workload> {
    let spec: WorkloadSpec = reader.spec()?;
    let check = spec.health.as_ref().and_then(|health| probe::read(reader, health));
    let namespace = reader.namespace();
    let identity = Identity::new(&reader.defaults.trust_domain, &namespace, &spec.service_account);
    reader.label(&spec.service_account, "spec.serviceAccount");
    let address = spec.address.parse::<IpAddr>().ok();
    let said = &spec.address;
    reader.require(address.is_some(), "spec.address", format!("\"{said}\" is not an IP address"));
    if let Some(address) = address {
        reader.require(
            !address.is_unspecified() && !address.is_multicast(),
            "spec.address",
            format!("{address} is not the address of one machine"),
        );
    }
    let inbound = spec.inbound.as_deref().and_then(|text| socket(reader, text, "spec.inbound"));
    let admin = spec.admin.as_deref().and_then(|text| socket(reader, text, "spec.admin"));
    reader.at_most(spec.ports.len(), PORTS_MAX, "spec.ports");
    let ports = ports(reader, &spec.ports);
    let uses = uses(reader, &spec.uses, &namespace);
    let locality = locality(reader, spec.locality.as_deref());
    let range = format!("{} is not a weight; weights go from 1 to {WEIGHT_MAX}", spec.weight);
    reader.require((1..=WEIGHT_MAX).contains(&spec.weight), "spec.weight", range);
    let health = health(reader);
    Some(Workload {
        identity: identity.ok()?,
        address: address?,
        ports,
        inbound,
        admin,
        uses,
        locality,
        weight: spec.weight,
        health,
        check,
    })
}

fn socket(reader: &mut Reader<'_>, text: &str, path: &str) -> Option<SocketAddr> {
    let address = text.parse::<SocketAddr>().ok().filter(|a| a.port() > 0 && !a.ip().is_unspecified());
    reader.require(address.is_some(), path, format!("\"{text}\" is not IP:PORT of one listener"));
    address
}

fn ports(reader: &mut Reader<'_>, said: &[PortSpec]) -> Vec<WorkloadPort> {
    let mut ports: Vec<WorkloadPort> = Vec::new();
    for (i, port) in said.iter().enumerate() {
        let number = reader.port(port.port, &format!("spec.ports[{i}].port"));
        let at = format!("spec.ports[{i}].name");
        let name = &port.name;
        reader.require(
            name.is_empty() || names::is_port_name(name),
            &at,
            format!("\"{name}\" is not a port name: at most 15 of a-z, 0-9 and '-', with a letter"),
        );
        if ports.iter().any(|other| other.port == number) {
            reader.fault(&code::CONTRADICTION, format!("spec.ports[{i}].port"), format!("port {number} stands twice"));
        }
        if !name.is_empty() && ports.iter().any(|other| other.name == **name) {
            reader.fault(&code::CONTRADICTION, at, format!("the port name \"{name}\" stands twice"));
        }
        let protocol = match port.protocol {
            None => Protocol::Undeclared,
            Some(ProtocolWord::Http) => Protocol::Http1,
            Some(ProtocolWord::Http2) => Protocol::Http2,
            Some(ProtocolWord::Grpc) => Protocol::Grpc,
            Some(ProtocolWord::Tcp) => Protocol::Tcp,
            Some(ProtocolWord::Udp) => Protocol::Udp,
        };
        ports.push(WorkloadPort { name: name.as_str().into(), port: number, protocol });
    }
    ports
}

fn uses(reader: &mut Reader<'_>, said: &[String], namespace: &str) -> Vec<ServiceRef> {
    reader.at_most(said.len(), USES_MAX, "spec.uses");
    let mut uses = Vec::new();
    for (i, word) in said.iter().enumerate() {
        let at = format!("spec.uses[{i}]");
        let service = ServiceRef::from_word(word, namespace);
        if !names::is_label(&service.name) || !names::is_label(&service.namespace) {
            reader.fault(&code::BAD_NAME, at, format!("\"{word}\" is neither NAME nor NAME.NAMESPACE of a service"));
        } else if uses.contains(&service) {
            reader.fault(&code::CONTRADICTION, at, format!("\"{word}\" stands twice"));
        } else {
            uses.push(service);
        }
    }
    uses
}

fn locality(reader: &mut Reader<'_>, said: Option<&str>) -> Locality {
    let Some(text) = said else { return Locality::default() };
    let (region, zone) = text.split_once('/').unwrap_or((text, ""));
    let fits = !region.is_empty() && names::is_label_value(region) && names::is_label_value(zone);
    reader.require(fits, "spec.locality", format!("\"{text}\" is neither REGION nor REGION/ZONE"));
    Locality { region: region.into(), zone: zone.into() }
}

fn health(reader: &mut Reader<'_>) -> Health {
    let Some(node) = reader.root.field("status") else { return Health::Healthy };
    // Fields other than `health` are a server's, and no fault.
    let mut others = Vec::new();
    let status: Option<Option<Status>> = super::de::read(node, "status", reader.root.locate("status"), &mut others);
    reader.faults.extend(others.into_iter().filter(|fault| fault.code != &code::UNKNOWN_FIELD));
    match status.flatten().and_then(|status| status.health) {
        None | Some(HealthWord::Healthy) => Health::Healthy,
        Some(HealthWord::Draining) => Health::Draining,
        Some(HealthWord::Unhealthy) => Health::Unhealthy,
    }
}

/// The word for a health other than the usual.
pub(crate) const fn health_word(health: Health) -> Option<&'static str> {
    match health {
        Health::Healthy => None,
        Health::Draining => Some("Draining"),
        Health::Unhealthy => Some("Unhealthy"),
    }
}

impl WorkloadSpec {
    pub(crate) fn write(workload: &Workload, namespace: &str) -> Self {
        let port = |port: &WorkloadPort| PortSpec {
            name: port.name.to_string(),
            port: port.port.into(),
            protocol: match port.protocol {
                Protocol::Undeclared => None,
                Protocol::Http1 => Some(ProtocolWord::Http),
                Protocol::Http2 => Some(ProtocolWord::Http2),
                Protocol::Grpc => Some(ProtocolWord::Grpc),
                Protocol::Tcp => Some(ProtocolWord::Tcp),
                Protocol::Udp => Some(ProtocolWord::Udp),
            },
        };
        let word = |service: &ServiceRef| match &*service.namespace == namespace {
            true => service.name.to_string(),
            false => service.to_string(),
        };
        Self {
            address: workload.address.to_string(),
            service_account: workload.identity.service_account().to_string(),
            ports: workload.ports.iter().map(port).collect(),
            inbound: workload.inbound.map(|address| address.to_string()),
            admin: workload.admin.map(|address| address.to_string()),
            uses: workload.uses.iter().map(word).collect(),
            locality: locality_text(&workload.locality),
            weight: workload.weight,
            health: workload.check.as_ref().map(ProbeSpec::from),
        }
    }
}

fn locality_text(locality: &Locality) -> Option<String> {
    match (&*locality.region, &*locality.zone) {
        ("", _) => None,
        (region, "") => Some(region.to_owned()),
        (region, zone) => Some(format!("{region}/{zone}")),
    }
}

/// An Endpoint for people; never read back.
pub(crate) fn endpoint_value(endpoint: &Endpoint) -> serde_json::Value {
    let ports: Vec<_> =
        endpoint.ports.iter().map(|p| serde_json::json!({"service": p.service, "target": p.target})).collect();
    serde_json::json!({
        "service": endpoint.service.to_string(),
        "workload": endpoint.workload,
        "identity": endpoint.identity,
        "address": endpoint.address.to_string(),
        "ports": ports,
        "locality": locality_text(&endpoint.locality),
        "weight": endpoint.weight,
        "health": health_word(endpoint.health).unwrap_or("Healthy"),
    })
}
