// SPDX-License-Identifier: Apache-2.0
//! `Slice` on the wire: for the proxies by which calls leave the mesh.

use super::check::{self, LIST_MAX, PORTS_MAX, labels, labels_out, message};
use super::{Error, Problem};
use crate::proto::byrnie::v1 as pb;
use crate::proto::{Bytes, Message};
use byrnie_base::Text;
use byrnie_model::slice::{Address, ENDPOINTS_MAX, Slice, SlicePort};
use byrnie_model::{Labels, Spec};

pub(super) fn encode(slice: &Slice, labels: &Labels) -> Bytes {
    let port = |port: &SlicePort| pb::SlicePort { name: port.name.to_string(), port: port.port.into() };
    let address = |address: &Address| pb::SliceAddress {
        ip: check::ip_out(address.ip),
        health: check::health_out(address.health),
        locality: check::locality_out(&address.locality),
        zones: address.zones.iter().map(Text::to_string).collect(),
    };
    let message = pb::Slice {
        labels: labels_out(labels),
        service: slice.service.to_string(),
        ports: slice.ports.iter().map(port).collect(),
        endpoints: slice.endpoints.iter().map(address).collect(),
    };
    message.encode_to_vec().into()
}

pub(super) fn decode(bytes: &[u8]) -> Result<(Spec, Labels), Error> {
    let slice: pb::Slice = message("slice", bytes)?;
    let port = |port: pb::SlicePort| {
        Ok(SlicePort {
            name: check::optional_name("ports[].name", &port.name)?,
            port: check::port("ports[].port", port.port)?,
        })
    };
    let ports = check::list("ports", PORTS_MAX, slice.ports, port)?;
    let mut names: Vec<&Text> = ports.iter().map(|port| &port.name).collect();
    names.sort();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Error { field: "ports", problem: Problem::Repeated });
    }
    let zone = |zone: String| check::name("endpoints[].hints.forZones", &zone);
    let address = |address: pb::SliceAddress| {
        Ok(Address {
            ip: check::ip("endpoints[].addresses", &address.ip)?,
            health: check::health(address.health)?,
            locality: check::locality(address.locality)?,
            zones: check::list("endpoints[].hints.forZones", LIST_MAX, address.zones, zone)?,
        })
    };
    let spec = Slice {
        service: check::name("service", &slice.service)?,
        ports,
        endpoints: check::list("endpoints", ENDPOINTS_MAX, slice.endpoints, address)?,
    };
    Ok((Spec::Slice(spec.into()), labels("labels", slice.labels)?))
}
