// SPDX-License-Identifier: Apache-2.0
//! The documents of Site, and of ServiceExport (KEP-1645), of which byrnie needs the name alone.

use super::names;
use super::node::Raw;
use super::reader::Reader;
use crate::site::{AUTHORITIES_BYTES_MAX, GATEWAYS_MAX, IMPORTS_MAX, Import, Site};
use crate::{Identity, ServiceRef, Spec, code, identity};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Another mesh: who vouches for its identities, and which services are to be had there too.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct SiteSpec {
    /// The trust domain of its identities, which is not this mesh's.
    trust_domain: String,
    /// Certificates (PEM) of the authorities that vouch for its identities, and for no others.
    authorities: String,
    /// Where it lets callers in, as IP:PORT. None: nothing there is called from here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    gateways: Vec<String>,
    /// Services of this mesh that it serves too, under the same name and ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    services: Vec<ImportSpec>,
}

/// A service that the site serves too.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ImportSpec {
    /// Its namespace; `default` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    /// Its name.
    name: String,
    /// The service account, in the same namespace of the site, of whoever serves it there; the service's own name if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service_account: Option<String>,
}

impl From<&Site> for SiteSpec {
    fn from(site: &Site) -> Self {
        let import = |import: &Import| ImportSpec {
            namespace: Some(import.service.namespace.to_string()),
            name: import.service.name.to_string(),
            service_account: Some(import.identity.service_account().to_string()),
        };
        Self {
            trust_domain: site.trust_domain.to_string(),
            authorities: site.authorities.to_string(),
            gateways: site.gateways.iter().map(SocketAddr::to_string).collect(),
            services: site.services.iter().map(import).collect(),
        }
    }
}

pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Site> {
    let spec: SiteSpec = reader.spec()?;
    if let Err(error) = identity::check_domain(&spec.trust_domain) {
        reader.fault(&code::BAD_VALUE, "spec.trustDomain", error.to_string());
        return None;
    }
    let (at, pem) = ("spec.authorities", &spec.authorities);
    reader.require(!pem.contains("PRIVATE KEY"), at, "there is a private key in it: keep it where it is");
    let fits = pem.contains("-----BEGIN CERTIFICATE-----") && pem.contains("-----END CERTIFICATE-----");
    reader.require(fits && pem.is_ascii(), at, "not PEM text with certificates");
    let message = format!("{} bytes; at most {AUTHORITIES_BYTES_MAX} are allowed", pem.len());
    reader.require(pem.len() <= AUTHORITIES_BYTES_MAX, at, message);
    reader.at_most(spec.gateways.len(), GATEWAYS_MAX, "spec.gateways");
    let gateways = gateways(reader, &spec.gateways);
    reader.at_most(spec.services.len(), IMPORTS_MAX, "spec.services");
    let mut services: Vec<Import> = Vec::new();
    for (i, said) in spec.services.iter().enumerate() {
        let at = format!("spec.services[{i}]");
        let import = import(reader, said, &spec.trust_domain, &at)?;
        if services.iter().any(|other| other.service == import.service) {
            let message = format!("\"{}\" is there twice", import.service);
            reader.fault(&code::CONTRADICTION, format!("{at}.name"), message);
        }
        services.push(import);
    }
    if gateways.is_empty() && !services.is_empty() {
        let message = "services of a site are reached by its gateways: the field \"gateways\" is missing";
        reader.fault(&code::MISSING_FIELD, "spec", message);
    }
    Some(Site { trust_domain: spec.trust_domain.into(), authorities: spec.authorities.into(), gateways, services })
}

fn gateways(reader: &mut Reader<'_>, said: &[String]) -> Vec<SocketAddr> {
    let mut gateways: Vec<SocketAddr> = Vec::new();
    for (i, text) in said.iter().enumerate() {
        let at = format!("spec.gateways[{i}]");
        let address = text.parse::<SocketAddr>().ok();
        let reached = |address: &SocketAddr| {
            address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast()
        };
        let Some(address) = address.filter(reached) else {
            reader.fault(&code::BAD_VALUE, at, format!("\"{text}\" is not IP:PORT of one machine"));
            continue;
        };
        if gateways.contains(&address) {
            reader.fault(&code::CONTRADICTION, at, format!("\"{text}\" is there twice"));
            continue;
        }
        gateways.push(address);
    }
    gateways
}

fn import(reader: &mut Reader<'_>, said: &ImportSpec, domain: &str, at: &str) -> Option<Import> {
    let namespace = said.namespace.as_deref().unwrap_or("default");
    let namespace = reader.label(namespace, &format!("{at}.namespace"));
    let name = reader.label(&said.name, &format!("{at}.name"));
    let account = said.service_account.as_deref().unwrap_or(&said.name);
    let path = format!("{at}.serviceAccount");
    reader.require(names::is_subdomain(account), &path, format!("\"{account}\" is not a DNS name"));
    let identity = Identity::new(domain, &namespace, account);
    let identity = identity.map_err(|error| reader.fault(&code::BAD_VALUE, path, error.to_string())).ok()?;
    Some(Import { service: ServiceRef::new(namespace, name), identity })
}

/// A ServiceExport says by its name what it's about.
pub(crate) fn export(reader: &mut Reader<'_>) -> Option<Spec> {
    match reader.root.field("spec").map(|node| &node.value) {
        None | Some(Raw::Null) => {}
        Some(Raw::Map(fields)) if fields.is_empty() => {}
        Some(_) => reader.unenforced("spec", "labels and annotations of exports"),
    }
    Some(Spec::Export)
}
