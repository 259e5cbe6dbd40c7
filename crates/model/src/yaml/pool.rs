// SPDX-License-Identifier: Apache-2.0
//! The document of an InferencePool
//! (<https://gateway-api-inference-extension.sigs.k8s.io/reference/spec/>), in types of our own: there is no crate of
//! upstream's.

use super::meta;
use super::reader::Reader;
use crate::pool::{InferencePool, PORTS_MAX, Picker};
use crate::{Labels, Protocol, code};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Workloads that serve models, and who picks one of them for each request.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct PoolSpec {
    /// Which workloads of the same namespace are members.
    selector: SelectorSpec,
    /// Where members listen; from 1 to 8, each once.
    target_ports: Vec<PortSpec>,
    /// What is spoken there.
    #[serde(default)]
    app_protocol: Spoken,
    /// Who picks. Absent: members are balanced over like those of a service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    endpoint_picker_ref: Option<PickerSpec>,
}

/// Labels that a member has.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SelectorSpec {
    /// All of them.
    match_labels: BTreeMap<String, String>,
}

/// A port.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct PortSpec {
    /// From 1 to 65535.
    number: i64,
}

/// What is spoken at the ports of a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
enum Spoken {
    /// HTTP/1.1.
    #[default]
    #[serde(rename = "http")]
    Http,
    /// HTTP/2 without TLS.
    #[serde(rename = "kubernetes.io/h2c")]
    H2c,
}

/// The service of an endpoint picker.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PickerSpec {
    /// The API group; empty for core.
    #[serde(default)]
    group: String,
    /// `Service`.
    #[serde(default = "service_kind")]
    kind: String,
    /// The name of the service.
    name: String,
    /// Its port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<PortSpec>,
    /// What becomes of requests when the picker can't be asked.
    #[serde(default)]
    failure_mode: FailureMode,
}

/// What becomes of requests when the picker can't be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
enum FailureMode {
    /// They're balanced over the members.
    FailOpen,
    /// They're answered 503.
    #[default]
    FailClose,
}

fn service_kind() -> String {
    "Service".to_owned()
}

impl From<&InferencePool> for PoolSpec {
    fn from(pool: &InferencePool) -> Self {
        let picker = |picker: &Picker| PickerSpec {
            group: String::new(),
            kind: service_kind(),
            name: picker.service.to_string(),
            port: Some(PortSpec { number: picker.port.into() }),
            failure_mode: if picker.fail_open { FailureMode::FailOpen } else { FailureMode::FailClose },
        };
        let labels = pool.selector.iter().map(|(key, value)| (key.to_string(), value.to_string()));
        Self {
            selector: SelectorSpec { match_labels: labels.collect() },
            target_ports: pool.ports.iter().map(|number| PortSpec { number: (*number).into() }).collect(),
            app_protocol: if pool.protocol == Protocol::Http2 { Spoken::H2c } else { Spoken::Http },
            endpoint_picker_ref: pool.picker.as_ref().map(picker),
        }
    }
}

pub(crate) fn read(reader: &mut Reader<'_>) -> Option<InferencePool> {
    let spec: PoolSpec = reader.spec()?;
    let at = "spec.selector.matchLabels";
    let selector: Labels = meta::labels(reader, &spec.selector.match_labels, at);
    if selector.is_empty() {
        reader.fault(&code::MISSING_FIELD, at, "a pool needs at least one label: without any it has no member");
    }
    let at = "spec.targetPorts";
    if spec.target_ports.is_empty() {
        reader.fault(&code::MISSING_FIELD, at, "a pool needs at least one port");
    }
    reader.at_most(spec.target_ports.len(), PORTS_MAX, at);
    let mut ports = Vec::new();
    for (i, said) in spec.target_ports.iter().enumerate() {
        let at = format!("spec.targetPorts[{i}].number");
        let number = reader.port(said.number, &at);
        if ports.contains(&number) {
            reader.fault(&code::CONTRADICTION, at, format!("port {number} stands twice"));
        }
        ports.push(number);
    }
    let protocol = if spec.app_protocol == Spoken::H2c { Protocol::Http2 } else { Protocol::Http1 };
    let picker = spec.endpoint_picker_ref.and_then(|said| picker(reader, &said));
    Some(InferencePool { selector, ports, protocol, picker })
}

fn picker(reader: &mut Reader<'_>, said: &PickerSpec) -> Option<Picker> {
    let at = "spec.endpointPickerRef";
    if !said.group.is_empty() || said.kind != "Service" {
        let what = format!("pickers of kind {} (group \"{}\"); only core Service", said.kind, said.group);
        reader.unenforced(format!("{at}.kind"), &what);
        return None;
    }
    let service = reader.label(&said.name, &format!("{at}.name"));
    let Some(port) = &said.port else {
        reader.fault(&code::MISSING_FIELD, at, "a Service as picker needs a port");
        return None;
    };
    let port = reader.port(port.number, &format!("{at}.port.number"));
    Some(Picker { service, port, fail_open: said.failure_mode == FailureMode::FailOpen })
}
