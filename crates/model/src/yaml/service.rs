// SPDX-License-Identifier: Apache-2.0
//! The document of a core/v1 Service, read with the Kubernetes type.

use super::meta;
use super::names;
use super::reader::Reader;
use crate::outside::is_pattern;
use crate::service::{ServicePort, TargetPort};
use crate::{Labels, Protocol, Service, code};
use byrnie_base::Text;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

/// The type of services outside the mesh.
const EXTERNAL: &str = "ExternalName";
/// Most ports of one service.
const PORTS_MAX: usize = 128;

/// Fields of a ServiceSpec that say something the mesh would have to do, each with what it's for and the values
/// that are enforced, or that the API server itself writes and that ask for nothing.
const UNENFORCED: [(&str, &str, &[&str]); 16] = [
    ("allocateLoadBalancerNodePorts", "load balancers", &[]),
    // A service has no address of its own here, so that one that wants none is as any other.
    ("clusterIP", "cluster addresses", &["None"]),
    ("clusterIPs", "cluster addresses", &[]),
    ("externalIPs", "external addresses", &[]),
    ("externalTrafficPolicy", "external traffic policies", &[]),
    ("healthCheckNodePort", "node ports", &[]),
    ("internalTrafficPolicy", "internal traffic policies", &["Cluster"]),
    ("ipFamilies", "address families of services", &[]),
    ("ipFamilyPolicy", "address families of services", &[]),
    ("loadBalancerClass", "load balancers", &[]),
    ("loadBalancerIP", "load balancers", &[]),
    ("loadBalancerSourceRanges", "load balancers", &[]),
    ("sessionAffinity", "session affinity", &["None"]),
    ("sessionAffinityConfig", "session affinity", &[]),
    ("trafficDistribution", "traffic distribution (TrafficPolicy.failover does it)", &[]),
    ("type", "service types other than ClusterIP and ExternalName", &["ClusterIP", EXTERNAL]),
];

pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Service> {
    let spec: core::ServiceSpec = reader.spec()?;
    for (field, what, harmless) in UNENFORCED {
        let path = format!("spec.{field}");
        let said = reader.root.field("spec").and_then(|spec| spec.field(field));
        if said.is_some_and(|node| node.text().is_none_or(|text| !harmless.contains(&text))) {
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
    let outside = outside(reader, (spec.type_.as_deref(), spec.external_name.as_deref()), &ports, &selector);
    let beside = outside.is_none() && !selector.is_empty();
    for (i, _) in ports.iter().enumerate().filter(|(_, port)| port.protocol == Protocol::Udp && !beside) {
        reader.unenforced(format!("spec.ports[{i}].protocol"), "UDP to what has no proxy of the mesh before it");
    }
    let publish_not_ready = spec.publish_not_ready_addresses == Some(true);
    if publish_not_ready && (!selector.is_empty() || outside.is_some()) {
        reader.unenforced("spec.publishNotReadyAddresses", "it for workloads and hosts; only for EndpointSlices");
    }
    Some(Service { ports, selector, outside, publish_not_ready, pool: None })
}

/// The host of a service outside the mesh.
fn outside(
    reader: &mut Reader<'_>,
    (kind, name): (Option<&str>, Option<&str>),
    ports: &[ServicePort],
    selector: &Labels,
) -> Option<Text> {
    let at = "spec.externalName";
    let name = match (kind == Some(EXTERNAL), name) {
        (false, None) => return None,
        (false, Some(_)) => {
            let message = format!("only a service of type {EXTERNAL} has an externalName");
            reader.fault(&code::CONTRADICTION, at, message);
            return None;
        }
        (true, None) => {
            reader.fault(&code::MISSING_FIELD, "spec", format!("a service of type {EXTERNAL} needs \"externalName\""));
            return None;
        }
        (true, Some(name)) => name,
    };
    // Kubernetes lets a final dot stand.
    let host = name.strip_suffix('.').unwrap_or(name);
    let message = format!("\"{name}\" is neither a host (labels of a-z, 0-9 and '-', joined by dots) nor *.DOMAIN");
    let pattern = is_pattern(host) && names::is_hostname(host);
    reader.require(pattern || names::is_subdomain(host), at, message);
    if !selector.is_empty() {
        let message = "a service outside the mesh selects no workloads";
        reader.fault(&code::CONTRADICTION, "spec.selector", message);
    }
    for (i, _) in ports.iter().enumerate().filter(|(_, port)| matches!(port.target, TargetPort::Name(_))) {
        let message = "no workload names the ports of a host outside the mesh: write the number";
        reader.fault(&code::BAD_VALUE, format!("spec.ports[{i}].targetPort"), message);
    }
    Some(host.into())
}

fn service_port(reader: &mut Reader<'_>, said: &core::ServicePort, at: &str, several: bool) -> ServicePort {
    let number = if reader.root.has(&format!("{at}.port")) {
        reader.port(said.port.into(), &format!("{at}.port"))
    } else {
        reader.fault(&code::MISSING_FIELD, at, "the field \"port\" is missing");
        1
    };
    let transport = said.protocol.as_deref().unwrap_or("TCP");
    if !matches!(transport, "TCP" | "UDP") {
        reader.unenforced(format!("{at}.protocol"), &format!("the transport {transport}; only TCP and UDP"));
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
    let word = said.app_protocol.as_deref();
    let protocol = match word {
        None if transport == "UDP" => Protocol::Udp,
        None => Protocol::Undeclared,
        Some(word) if transport == "UDP" => {
            reader.unenforced(format!("{at}.appProtocol"), &format!("{word} in datagrams"));
            Protocol::Udp
        }
        Some(word) => app_protocol(reader, word, at),
    };
    let prefixed = word.is_some_and(|word| protocol.prefixed_name() == Some(word));
    ServicePort { name, port: number, target, protocol, prefixed }
}

fn app_protocol(reader: &mut Reader<'_>, word: &str, at: &str) -> Protocol {
    match word {
        "http" | "kubernetes.io/ws" => Protocol::Http1,
        "http2" | "kubernetes.io/h2c" => Protocol::Http2,
        "grpc" => Protocol::Grpc,
        "tcp" => Protocol::Tcp,
        _ if ["https", "tls", "kubernetes.io/wss"].iter().any(|secure| word.eq_ignore_ascii_case(secure)) => {
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
        if port.protocol == Protocol::Udp {
            value["protocol"] = json!("UDP");
        } else if let Some(word) = port.app_protocol() {
            value["appProtocol"] = json!(word);
        }
        value
    };
    let mut value = json!({"ports": service.ports.iter().map(port).collect::<Vec<_>>()});
    if !service.selector.is_empty() {
        value["selector"] = json!(service.selector);
    }
    if service.publish_not_ready {
        value["publishNotReadyAddresses"] = json!(true);
    }
    if let Some(host) = &service.outside {
        value["type"] = json!(EXTERNAL);
        value["externalName"] = json!(host);
    }
    value
}
