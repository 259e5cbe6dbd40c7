// SPDX-License-Identifier: Apache-2.0
//! A pool of inference servers (`InferencePool` of the Gateway API Inference Extension): workloads that serve models, and the
//! picker that says for each request which of them gets it.

use crate::service::{ServicePort, TargetPort};
use crate::{Labels, Protocol, Service};
use byrnie_base::Text;
use std::sync::Arc;

/// Most ports of one pool, as upstream.
pub const PORTS_MAX: usize = 8;

/// The group of the kind, as references to pools name it.
pub const GROUP: &str = "inference.networking.k8s.io";

/// Workloads that serve models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InferencePool {
    /// A workload of the same namespace with all these labels is a member. Never empty.
    pub selector: Labels,
    /// Where members listen: from 1 to [`PORTS_MAX`], each once. Each of these ports that a workload declares is an endpoint
    /// of its own to the picker.
    pub ports: Vec<u16>,
    /// What is spoken there.
    pub protocol: Protocol,
    /// Who says which member gets a request; without one they're balanced over like those of a service.
    pub picker: Option<Picker>,
}

/// Who picks endpoints: a service of the pool's namespace that speaks Envoy's `ext_proc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picker {
    /// The name of the service.
    pub service: Text,
    /// Its port.
    pub port: u16,
    /// Whether requests are balanced over the members when it can't be asked. If not, they're answered 503.
    pub fail_open: bool,
}

impl InferencePool {
    /// What callers ask for: a service of the pool's own name, with a port for each of the pool's.
    pub fn as_service(self: &Arc<Self>) -> Service {
        let port = |number: &u16| ServicePort {
            name: Text::default(),
            port: *number,
            target: TargetPort::Number(*number),
            protocol: self.protocol,
            prefixed: false,
        };
        Service {
            ports: self.ports.iter().map(port).collect(),
            selector: self.selector.clone(),
            outside: None,
            publish_not_ready: false,
            pool: Some(Arc::clone(self)),
        }
    }
}
