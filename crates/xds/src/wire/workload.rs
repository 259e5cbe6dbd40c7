// SPDX-License-Identifier: Apache-2.0
//! `Workload` on the wire.

use super::Error;
use super::check::{self, LIST_MAX, PORTS_MAX, labels, labels_out, message, missing};
use super::health;
use crate::proto::byrnie::v1 as pb;
use crate::proto::{Bytes, Message};
use byrnie_model::workload::{Workload, WorkloadPort};
use byrnie_model::{Labels, Protocol, Spec};

pub(super) fn encode(workload: &Workload, labels: &Labels) -> Bytes {
    let port = |port: &WorkloadPort| pb::WorkloadPort {
        name: port.name.to_string(),
        port: port.port.into(),
        protocol: check::protocol_out(port.protocol),
        undeclared: port.protocol == Protocol::Undeclared,
    };
    let message = pb::Workload {
        labels: labels_out(labels),
        identity: workload.identity.to_string(),
        address: check::ip_out(workload.address),
        ports: workload.ports.iter().map(port).collect(),
        inbound: workload.inbound.map(check::address_out),
        admin: workload.admin.map(check::address_out),
        uses: workload.uses.iter().map(check::service_ref_out).collect(),
        locality: check::locality_out(&workload.locality),
        weight: workload.weight,
        health: check::health_out(workload.health),
        check: workload.check.as_ref().map(health::encode),
    };
    message.encode_to_vec().into()
}

pub(super) fn decode(bytes: &[u8]) -> Result<(Spec, Labels), Error> {
    let workload: pb::Workload = message("workload", bytes)?;
    let port = |port: pb::WorkloadPort| {
        Ok(WorkloadPort {
            name: check::optional_name("ports[].name", &port.name)?,
            port: check::port("ports[].port", port.port)?,
            protocol: check::protocol(port.protocol, port.undeclared)?,
        })
    };
    let spec = Workload {
        identity: check::identity("identity", &workload.identity)?,
        address: check::ip("address", &workload.address)?,
        ports: check::list("ports", PORTS_MAX, workload.ports, port)?,
        inbound: workload.inbound.map(|at| check::address("inbound", &at)).transpose()?,
        admin: workload.admin.map(|at| check::address("admin", &at)).transpose()?,
        uses: check::list("uses", LIST_MAX, workload.uses, |service| check::service_ref("uses", Some(service)))?,
        locality: check::locality(workload.locality)?,
        weight: check::weight("weight", workload.weight)?,
        health: check::health(workload.health)?,
        check: workload.check.map(health::decode).transpose()?,
    };
    // A service's port is nothing that it could mean.
    if spec.check.as_ref().is_some_and(|check| check.port.is_none()) {
        return Err(missing("health.port"));
    }
    Ok((Spec::Workload(Box::new(spec)), labels("labels", workload.labels)?))
}
