// SPDX-License-Identifier: Apache-2.0
//! `spec.tls` of a Gateway: what callers have to prove. What it would show to backends is refused.

use super::{gw, reference, reference_value};
use crate::code;
use crate::gateway::{CertificateRef, Frontend, Validation};
use crate::yaml::reader::Reader;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Limits of the CRD.
const PORTS_MAX: usize = 64;
const AUTHORITIES_MAX: usize = 16;
const AT: &str = "spec.tls.frontend";

pub(super) fn read(reader: &mut Reader<'_>, said: gw::GatewayTls) -> Frontend {
    if said.backend.is_some() {
        reader.unenforced("spec.tls.backend", "a certificate that a gateway shows to backends");
    }
    let Some(said) = said.frontend else { return Frontend::default() };
    let default = said.default.validation.map(|said| validation(reader, &said, &format!("{AT}.default.validation")));
    let mut ports = BTreeMap::new();
    let of_ports = said.per_port.unwrap_or_default();
    reader.at_most(of_ports.len(), PORTS_MAX, &format!("{AT}.perPort"));
    for (i, said) in of_ports.into_iter().enumerate() {
        let at = format!("{AT}.perPort[{i}]");
        let port = reader.port(said.port.into(), &format!("{at}.port"));
        let validation = said.tls.validation.map(|said| {
            let at = format!("{at}.tls.validation");
            // Each generated type writes what its twin reads.
            match serde_json::to_value(said).and_then(serde_json::from_value) {
                Ok(said) => validation(reader, &said, &at),
                Err(error) => {
                    reader.fault(&code::BAD_VALUE, at, error.to_string());
                    Validation { authorities: Vec::new(), optional: false }
                }
            }
        });
        if ports.insert(port, validation).is_some() {
            reader.fault(&code::CONTRADICTION, format!("{at}.port"), format!("port {port} stands twice"));
        }
    }
    Frontend { default, ports }
}

fn validation(reader: &mut Reader<'_>, said: &gw::GatewayTlsFrontendDefaultValidation, at: &str) -> Validation {
    let path = format!("{at}.caCertificateRefs");
    let refs = &said.ca_certificate_refs;
    reader.require(!refs.is_empty(), &path, "at least one reference: whose word counts for who a caller is?");
    reader.at_most(refs.len(), AUTHORITIES_MAX, &path);
    let one = |(i, said): (usize, &gw::GatewayTlsFrontendDefaultValidationCaCertificateRefs)| {
        let place = (said.namespace.as_deref(), said.name.as_str());
        reference(reader, "ConfigMap", (&said.group, &said.kind), place, &format!("{path}[{i}]"))
    };
    let authorities = refs.iter().enumerate().map(one).collect();
    let optional = matches!(said.mode, Some(gw::GatewayTlsFrontendDefaultValidationMode::AllowInsecureFallback));
    Validation { authorities, optional }
}

pub(super) fn to_value(frontend: &Frontend) -> Value {
    let authority = |to: &CertificateRef| reference_value("ConfigMap", to);
    let tls = |validation: Option<&Validation>| match validation {
        None => json!({}),
        Some(Validation { authorities, optional }) => {
            let mode = if *optional { "AllowInsecureFallback" } else { "AllowValidOnly" };
            let refs: Vec<Value> = authorities.iter().map(authority).collect();
            json!({"validation": {"caCertificateRefs": refs, "mode": mode}})
        }
    };
    let mut value = json!({"default": tls(frontend.default.as_ref())});
    if !frontend.ports.is_empty() {
        let port = |(port, said): (&u16, &Option<Validation>)| json!({"port": port, "tls": tls(said.as_ref())});
        value["perPort"] = frontend.ports.iter().map(port).collect();
    }
    value
}
