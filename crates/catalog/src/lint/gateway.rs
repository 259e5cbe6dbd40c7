// SPDX-License-Identifier: Apache-2.0
//! Gateways: whether they are served, what their listeners show, and what they have callers prove.

use crate::catalog::Catalog;
use byrnie_base::Text;
use byrnie_model::gateway::{Carries, Gateway, Listener, Validation};
use byrnie_model::{Diagnostic, Key, code};

/// A gateway of a class that nobody here serves does nothing; one that may not show a certificate lets nobody in.
pub(crate) fn check(catalog: &Catalog, key: &Key, gateway: &Gateway) -> Vec<Diagnostic> {
    let Some(refused) = catalog.standing(key, gateway).err() else {
        let refs = gateway.listeners.iter().enumerate().flat_map(|(at, listener)| {
            let refs = listener.carries.certificates().iter().enumerate();
            refs.map(move |(i, to)| (format!("spec.listeners[{at}].tls.certificateRefs[{i}].name"), to))
        });
        let refused = |(path, to)| Some((path, catalog.certificate(key, to).err()?.message));
        let warning = |(path, message): (String, String)| Diagnostic::warning(&code::CERTIFICATE_ABSENT, path, message);
        let clashes = gateway.listeners.iter().enumerate().filter_map(|(at, listener)| {
            let at = format!("spec.listeners[{at}].port");
            let message = catalog.clash(key, listener).or_else(|| catalog.namesake(key, listener))?;
            Some(Diagnostic::warning(&code::PORT_CLASH, at, message))
        });
        let callers = callers(catalog, key, gateway);
        return refs.filter_map(refused).map(warning).chain(clashes).chain(callers).collect();
    };
    vec![match gateway.parent {
        Some(_) => Diagnostic::warning(&code::SET_UNSERVED, "spec.parentRef.name", refused.message),
        None if refused.reason == "InvalidParameters" => {
            let at = "spec.infrastructure.parametersRef";
            Diagnostic::warning(&code::PARAMETERS_UNSERVED, at, refused.message)
        }
        None => Diagnostic::warning(&code::CLASS_UNSERVED, "spec.gatewayClassName", refused.message),
    }]
}

/// Authorities that aren't there, callers that are let in whatever they prove, and those who are asked for nothing where it
/// might be thought that they were.
fn callers(catalog: &Catalog, key: &Key, gateway: &Gateway) -> Vec<Diagnostic> {
    const AT: &str = "spec.tls.frontend";
    let frontend = &gateway.frontend;
    let of_ports = frontend.ports.iter().filter_map(|(port, said)| Some((Some(*port), said.as_ref()?)));
    let mut found = Vec::new();
    for (port, Validation { authorities, optional }) in frontend.default.iter().map(|said| (None, said)).chain(of_ports)
    {
        let (at, place) = match port {
            None => (format!("{AT}.default"), String::new()),
            Some(port) => (format!("{AT}.perPort"), format!("port {port}: ")),
        };
        for why in authorities.iter().filter_map(|to| catalog.authority(key, to).err()) {
            let message = format!("{place}{}", why.message);
            found.push(Diagnostic::warning(&code::AUTHORITY_ABSENT, at.clone(), message));
        }
        if *optional {
            let message = format!("{place}callers without a certificate that holds are let in");
            found.push(Diagnostic::warning(&code::CALLERS_UNPROVEN, at.clone(), message));
        }
        let is_here =
            |listener: &Listener| matches!(listener.carries, Carries::Https(_)) && Some(listener.port) == port;
        let led = |(of, _): &(&Key, &Gateway)| catalog.lead(of).is_some_and(|(lead, _)| lead == *key);
        if port.is_some() && !catalog.gateways().filter(led).any(|(_, of)| of.listeners.iter().any(is_here)) {
            let message = format!("{place}no HTTPS listener of this gateway is there");
            found.push(Diagnostic::warning(&code::CALLERS_UNASKED, at, message));
        }
    }
    let listeners =
        gateway.listeners.iter().enumerate().map(|(i, listener)| (format!("spec.listeners[{i}]"), listener));
    // What a gateway says holds for the sets of listeners that add to it.
    let lead = catalog.lead(key);
    let said = lead.as_ref().map_or(frontend, |(_, lead)| &lead.frontend);
    let unasked = listeners.filter(|(_, listener)| {
        let https = Carries::Https(Vec::new());
        let meant = Listener { carries: https, ..(*listener).clone() };
        matches!(listener.carries, Carries::Tls(_)) && said.of(&meant).is_some()
    });
    found.extend(unasked.map(|(at, listener)| {
        let name: &Text = &listener.name;
        let message = format!("listener \"{name}\" ends TLS and asks no caller for a certificate: {AT} is for HTTPS");
        Diagnostic::warning(&code::CALLERS_UNASKED, format!("{at}.protocol"), message)
    }));
    found
}
