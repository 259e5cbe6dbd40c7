// SPDX-License-Identifier: Apache-2.0
//! `Endpoint` on the wire. Its labels are those of the workload behind it.

use super::Error;
use super::check::{self, PORTS_MAX, invalid, labels, labels_out, message, missing};
use crate::proto::byrnie::v1 as pb;
use crate::proto::{Bytes, Message};
use byrnie_model::service::{Endpoint, PortPair};
use byrnie_model::site::{WAYS, Way};
use byrnie_model::{Key, Labels, Spec};

pub(super) fn encode(endpoint: &Endpoint, _labels: &Labels) -> Bytes {
    let pair = |pair: &PortPair| pb::PortPair { service: pair.service.into(), target: pair.target.into() };
    let message = pb::Endpoint {
        labels: labels_out(&endpoint.labels),
        service: Some(check::service_ref_out(&endpoint.service)),
        workload: endpoint.workload.to_string(),
        identity: endpoint.identity.to_string(),
        address: Some(check::address_out(endpoint.address)),
        ports: endpoint.ports.iter().map(pair).collect(),
        locality: check::locality_out(&endpoint.locality),
        weight: endpoint.weight,
        health: check::health_out(endpoint.health),
        way: endpoint.way.as_ref().map(|way| pb::Way { site: way.site.to_string(), number: way.number.into() }),
    };
    message.encode_to_vec().into()
}

pub(super) fn decode(key: &Key, bytes: &[u8]) -> Result<(Spec, Labels), Error> {
    let endpoint: pb::Endpoint = message("endpoint", bytes)?;
    let pair = |pair: pb::PortPair| {
        Ok(PortPair {
            service: check::port("ports[].service", pair.service)?,
            target: check::port("ports[].target", pair.target)?,
        })
    };
    let service = check::service_ref("service", endpoint.service)?;
    let workload = check::name("workload", &endpoint.workload)?;
    // An endpoint under another's name would survive that one's removal.
    if key.namespace != service.namespace || key.name.split_once('/') != Some((&*service.name, &*workload)) {
        return Err(invalid("name"));
    }
    let spec = Endpoint {
        service,
        workload,
        way: endpoint.way.map(way).transpose()?,
        identity: check::identity("identity", &endpoint.identity)?,
        address: check::address("address", &endpoint.address.ok_or_else(|| missing("address"))?)?,
        ports: check::list("ports", PORTS_MAX, endpoint.ports, pair)?,
        labels: labels("labels", endpoint.labels)?,
        locality: check::locality(endpoint.locality)?,
        weight: check::weight("weight", endpoint.weight)?,
        health: check::health(endpoint.health)?,
    };
    Ok((Spec::Endpoint(Box::new(spec)), Labels::new()))
}

fn way(way: pb::Way) -> Result<Way, Error> {
    let number = u8::try_from(way.number).ok().filter(|number| *number < WAYS).ok_or_else(|| invalid("way.number"))?;
    Ok(Way { site: check::name("way.site", &way.site)?, number })
}
