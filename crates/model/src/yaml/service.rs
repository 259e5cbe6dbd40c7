// SPDX-License-Identifier: Apache-2.0
//! The document of a core/v1 Service, read with the Kubernetes type.

use super::meta;
use super::names;
use super::reader::Reader;
use crate::service::{ServicePort, TargetPort};
use crate::{Protocol, Service, code};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

/// Most ports of one service.
const PORTS_MAX: usize = 128;

/// Fields of a ServiceSpec that say something the mesh would have to do, each with what it's for and,
/// if the API server itself writes a value that asks for nothing, that value.
const UNENFORCED: [(&str, &str, Option<&str>); 18] = [
    ("allocateLoadBalancerNodePorts", "load balancers", None),
    ("clusterIP", "cluster addresses", None),
    ("clusterIPs", "cluster addresses", None),
    ("externalIPs", "external addresses", None),
    ("externalName", "services outside the mesh", None),
    ("externalTrafficPolicy", "external traffic policies", None),
    ("healthCheckNodePort", "node ports", None),
    ("internalTrafficPolicy", "internal traffic policies", Some("Cluster")),
    ("ipFamilies", "address families of services", None),
    ("ipFamilyPolicy", "address families of services", None),
    ("loadBalancerClass", "load balancers", None),
    ("loadBalancerIP", "load balancers", None),
    ("loadBalancerSourceRanges", "load balancers", None),
    ("publishNotReadyAddresses", "publishing addresses that are not ready", None),
    ("sessionAffinity", "session affinity", Some("None")),
    ("sessionAffinityConfig", "session affinity", None),
    ("trafficDistribution", "traffic distribution (TrafficPolicy.failover does it)", None),
    ("type", "service types other than ClusterIP", Some("ClusterIP")),
];

pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Service> {
    let spec: core::ServiceSpec = reader.spec()?;
    for (field, what, harmless) in UNENFORCED {
        let path = format!("spec.{field}");
        let said = reader.root.field("spec").and_then(|spec| spec.field(field));
        if said.is_some_and(|node| harmless.is_none() || node.text() != harmless) {
            reader.unenforced(path, what);
        }
    }
    let said = spec.ports.unwrap_or_default();
    if said.is_empty() {
        reader.fault(&code::MISSING_FIELD, "spec.ports", "a service needs at least one port");
    }
    reader.at_most(said.len(), PORTS_MAX, "spec.ports");
    let mut ports: Vec<ServicePort> = Vec::new();
    for (i, port) in said.iter().enumerate() {
        let at = format!("spec.ports[{i}]");
        let port = service_port(reader, port, &at, said.len() > 1);
        if ports.iter().any(|other| other.port == port.port) {
            reader.fault(&code::CONTRADICTION, format!("{at}.port"), format!("port {} stands twice", port.port));
        }
        if !port.name.is_empty() && ports.iter().any(|other| other.name == port.name) {
            reader.fault(
                &code::CONTRADICTION,
                format!("{at}.name"),
                format!("the port name \"{}\" stands twice", port.name),
            );
        }
        ports.push(port);
    }
    let selector = meta::labels(reader, &spec.selector.unwrap_or_default(), "spec.selector");
    Some(Service { ports, selector })
}

fn service_port(reader: &mut Reader<'_>, said: &core::ServicePort, at: &str, several: bool) -> ServicePort {
    let number = if reader.root.has(&format!("{at}.port")) {
        reader.port(said.port.into(), &format!("{at}.port"))
    } else {
        reader.fault(&code::MISSING_FIELD, at, "the field \"port\" is missing");
        1
    };
    if let Some(protocol) = said.protocol.as_deref().filter(|protocol| *protocol != "TCP") {
        reader.unenforced(format!("{at}.protocol"), &format!("the transport {protocol}; only TCP"));
    }
    if said.node_port.is_some() {
        reader.unenforced(format!("{at}.nodePort"), "node ports");
    }
    let name = match said.name.as_deref() {
        Some(name) => reader.label(name, &format!("{at}.name")),
        None => {
            if several {
                reader.fault(&code::MISSING_FIELD, at, "each port needs a name where a service has several");
            }
            "".into()
        }
    };
    let target = match &said.target_port {
        None => TargetPort::Number(number),
        Some(IntOrString::Int(target)) => {
            TargetPort::Number(reader.port((*target).into(), &format!("{at}.targetPort")))
        }
        Some(IntOrString::String(target)) => {
            let message = format!("\"{target}\" is not a port name: at most 15 of a-z, 0-9 and '-', with a letter");
            reader.require(names::is_port_name(target), &format!("{at}.targetPort"), message);
            TargetPort::Name(target.as_str().into())
        }
    };
    let protocol = said.app_protocol.as_deref().map_or(Protocol::Http1, |word| app_protocol(reader, word, at));
    ServicePort { name, port: number, target, protocol }
}

fn app_protocol(reader: &mut Reader<'_>, word: &str, at: &str) -> Protocol {
    match word {
        "http" | "kubernetes.io/ws" => Protocol::Http1,
        "http2" | "kubernetes.io/h2c" => Protocol::Http2,
        "grpc" => Protocol::Grpc,
        "tcp" => Protocol::Tcp,
        _ if word.eq_ignore_ascii_case("https") || word.eq_ignore_ascii_case("tls") => {
            let what = format!("{word} of a program's own (write tcp, and it is passed through)");
            reader.unenforced(format!("{at}.appProtocol"), &what);
            Protocol::Tcp
        }
        _ => {
            let message =
                format!("byrnie does not speak \"{word}\": write http, http2 (or kubernetes.io/h2c), grpc or tcp");
            reader.fault(&code::BAD_VALUE, format!("{at}.appProtocol"), message);
            Protocol::Tcp
        }
    }
}

/// The spec as a document says it.
pub(crate) fn to_value(service: &Service) -> Value {
    let port = |port: &ServicePort| {
        let mut value = json!({});
        if !port.name.is_empty() {
            value["name"] = json!(port.name);
        }
        value["port"] = json!(port.port);
        value["targetPort"] = match &port.target {
            TargetPort::Number(number) => json!(number),
            TargetPort::Name(name) => json!(name),
        };
        value["appProtocol"] = json!(port.protocol.name());
        value
    };
    let mut value = json!({"ports": service.ports.iter().map(port).collect::<Vec<_>>()});
    if !service.selector.is_empty() {
        value["selector"] = json!(service.selector);
    }
    value
}
