// SPDX-License-Identifier: Apache-2.0
//! `Service` on the wire.

use super::check::{self, PORTS_MAX, invalid, labels, labels_out, message, missing};
use super::{Error, Problem};
use crate::proto::byrnie::v1 as pb;
use crate::proto::{Bytes, Message};
use byrnie_model::pool::{self, InferencePool, Picker};
use byrnie_model::service::{Service, ServicePort, TargetPort};
use byrnie_model::{Labels, Protocol, Spec};
use std::collections::BTreeSet;
use std::sync::Arc;

pub(super) fn encode(service: &Service, labels: &Labels) -> Bytes {
    let message = pb::Service {
        labels: labels_out(labels),
        ports: service.ports.iter().map(port_out).collect(),
        selector: labels_out(&service.selector),
        outside: service.outside.as_ref().map(ToString::to_string),
        publish_not_ready: service.publish_not_ready,
        bare: service.is_bare(),
        pool: service.pool.as_deref().map(pool_out),
    };
    message.encode_to_vec().into()
}

pub(super) fn decode(bytes: &[u8]) -> Result<(Spec, Labels), Error> {
    let service: pb::Service = message("service", bytes)?;
    let ports = check::list("ports", PORTS_MAX, service.ports, |port| self::port(&port))?;
    if ports.is_empty() && !service.bare {
        return Err(missing("ports"));
    }
    if service.bare && (!ports.is_empty() || !service.selector.is_empty() || service.outside.is_some()) {
        return Err(invalid("bare"));
    }
    let mut numbers = BTreeSet::new();
    let mut names = BTreeSet::new();
    for port in &ports {
        if !numbers.insert(port.port) || (!port.name.is_empty() && !names.insert(port.name.clone())) {
            return Err(Error { field: "ports", problem: Problem::Repeated });
        }
    }
    let selector = labels("selector", service.selector)?;
    let outside = service.outside.map(|host| {
        let name = host.strip_prefix("*.").unwrap_or(&host);
        check::name("externalName", name).map(|_| host.as_str().into())
    });
    let outside = outside.transpose()?;
    let pool = service.pool.map(|said| pool(said, &ports, &selector)).transpose()?.map(Arc::new);
    if pool.as_ref().is_some_and(|_| outside.is_some()) {
        return Err(invalid("pool"));
    }
    let spec = Service { ports, selector, outside, publish_not_ready: service.publish_not_ready, pool };
    Ok((Spec::Service(spec), labels("labels", service.labels)?))
}

/// The pool that a service with these ports and this selector stands for.
fn pool(said: pb::Pool, ports: &[ServicePort], selector: &Labels) -> Result<InferencePool, Error> {
    let (Some(first), 1..=pool::PORTS_MAX, false) = (ports.first(), ports.len(), selector.is_empty()) else {
        return Err(invalid("pool"));
    };
    let picker = said.picker.map(|said| {
        let service = check::name("pool.picker.service", &said.service)?;
        Ok(Picker { service, port: check::port("pool.picker.port", said.port)?, fail_open: said.fail_open })
    });
    Ok(InferencePool {
        selector: selector.clone(),
        ports: ports.iter().map(|port| port.port).collect(),
        protocol: first.protocol,
        picker: picker.transpose()?,
    })
}

fn pool_out(pool: &InferencePool) -> pb::Pool {
    let picker = |picker: &Picker| pb::Picker {
        service: picker.service.to_string(),
        port: picker.port.into(),
        fail_open: picker.fail_open,
    };
    pb::Pool { picker: pool.picker.as_ref().map(picker) }
}

fn port(port: &pb::ServicePort) -> Result<ServicePort, Error> {
    let target = match &port.target {
        Some(pb::service_port::Target::TargetNumber(number)) => {
            TargetPort::Number(check::port("ports[].targetPort", *number)?)
        }
        Some(pb::service_port::Target::TargetName(name)) => TargetPort::Name(check::name("ports[].targetPort", name)?),
        None => return Err(invalid("ports[].targetPort")),
    };
    Ok(ServicePort {
        name: check::optional_name("ports[].name", &port.name)?,
        port: check::port("ports[].port", port.port)?,
        target,
        protocol: check::protocol(port.protocol, port.undeclared)?,
        // A proxy acts on what is spoken, whatever it is called.
        prefixed: false,
    })
}

fn port_out(port: &ServicePort) -> pb::ServicePort {
    let target = match &port.target {
        TargetPort::Number(number) => pb::service_port::Target::TargetNumber((*number).into()),
        TargetPort::Name(name) => pb::service_port::Target::TargetName(name.to_string()),
    };
    pb::ServicePort {
        name: port.name.to_string(),
        port: port.port.into(),
        target: Some(target),
        protocol: check::protocol_out(port.protocol),
        undeclared: port.protocol == Protocol::Undeclared,
    }
}
