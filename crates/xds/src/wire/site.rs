// SPDX-License-Identifier: Apache-2.0
//! `Site` on the wire, for proxies that let its callers in or call what it serves; and what is exported, for the gateway.

use super::check::{self, invalid, labels, labels_out, message, missing};
use super::{Error, Problem};
use crate::proto::byrnie::v1 as pb;
use crate::proto::{Bytes, Message};
use byrnie_model::site::{AUTHORITIES_BYTES_MAX, GATEWAYS_MAX, IMPORTS_MAX, Import, Site};
use byrnie_model::{Labels, Spec, identity};

pub(super) fn encode(site: &Site, labels: &Labels) -> Bytes {
    let import = |import: &Import| pb::Import {
        service: Some(check::service_ref_out(&import.service)),
        identity: import.identity.to_string(),
    };
    let message = pb::Site {
        labels: labels_out(labels),
        trust_domain: site.trust_domain.to_string(),
        authorities: site.authorities.to_string(),
        gateways: site.gateways.iter().map(|address| check::address_out(*address)).collect(),
        services: site.services.iter().map(import).collect(),
    };
    message.encode_to_vec().into()
}

pub(super) fn decode(bytes: &[u8]) -> Result<(Spec, Labels), Error> {
    let site: pb::Site = message("site", bytes)?;
    identity::check_domain(&site.trust_domain).map_err(|_| invalid("trustDomain"))?;
    let fits = !site.authorities.is_empty() && site.authorities.is_ascii();
    if !fits || site.authorities.len() > AUTHORITIES_BYTES_MAX {
        return Err(invalid("authorities"));
    }
    let import = |import: pb::Import| {
        let service = check::service_ref("services[]", Some(import.service.ok_or_else(|| missing("services[]"))?))?;
        let identity = check::identity("services[].identity", &import.identity)?;
        // A site speaks for its own identities alone.
        if **identity.trust_domain() != *site.trust_domain {
            return Err(invalid("services[].identity"));
        }
        Ok(Import { service, identity })
    };
    let services = check::list("services", IMPORTS_MAX, site.services, import)?;
    let mut named: Vec<_> = services.iter().map(|import| &import.service).collect();
    named.sort();
    if named.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Error { field: "services", problem: Problem::Repeated });
    }
    let gateways =
        check::list("gateways", GATEWAYS_MAX, site.gateways, |address| check::address("gateways", &address))?;
    let (trust_domain, authorities) = (site.trust_domain.into(), site.authorities.into());
    Ok((Spec::Site(Site { trust_domain, authorities, gateways, services }.into()), labels("labels", site.labels)?))
}

pub(super) fn encode_export(labels: &Labels) -> Bytes {
    pb::ServiceExport { labels: labels_out(labels) }.encode_to_vec().into()
}

pub(super) fn decode_export(bytes: &[u8]) -> Result<(Spec, Labels), Error> {
    let export: pb::ServiceExport = message("export", bytes)?;
    Ok((Spec::Export, labels("labels", export.labels)?))
}
