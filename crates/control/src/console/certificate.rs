// SPDX-License-Identifier: Apache-2.0
//! What the certificate of a Secret, and those of a ConfigMap or a Mesh, are worth: asked before one is stored, for lint, and for
//! the warnings of `status`.

use byrnie_base::{Text, Timestamp};
use byrnie_model::outside::BUNDLE;
use byrnie_model::secret::{CHAIN, KEY};
use byrnie_model::{Diagnostic, Resource, Site, Spec, code};
use byrnie_net::tls::edge::Certificate;
use byrnie_net::tls::outward;
use byrnie_net::tls::{Error, Roots};
use std::time::Duration;

/// One that ends sooner is a warning, or one that has less than a quarter of its life left, whichever is later: those of
/// public authorities live 90 days or six, and are renewed after two thirds of it.
const WARNING: Duration = Duration::from_secs(7 * 24 * 3600);

/// What is wrong with the certificate of a Secret or those of a ConfigMap, if it's one and something is.
pub(super) fn judge(resource: &Resource, now: Timestamp) -> Option<Diagnostic> {
    let secret = match &resource.spec {
        Spec::Secret(secret) => secret,
        Spec::Bundle(bundle) => return roots(resource, &code::BUNDLE_ABSENT, at(BUNDLE), &bundle.pem),
        Spec::Site(site) => return of_site(resource, site, now),
        Spec::Mesh(mesh) => {
            let place = "spec.telemetry.otlp.ca".to_owned();
            return roots(resource, &code::BAD_VALUE, place, mesh.otlp.as_ref()?.ca.as_ref()?);
        }
        _ => return None,
    };
    let mut diagnostic = match Certificate::from_pem(&secret.chain, secret.key.expose()) {
        Ok(certificate) => {
            let end = certificate.not_after().as_millis();
            let (left, life) =
                (end.saturating_sub(now.as_millis()), end.saturating_sub(certificate.not_before().as_millis()));
            if Duration::from_millis(left) >= WARNING.min(Duration::from_millis(life / 4)) {
                return None;
            }
            let when = match left / 3_600_000 {
                _ if left == 0 => "has ended".to_owned(),
                0 => format!("ends in {} min", left / 60_000),
                hours => format!("ends in {hours} h"),
            };
            let message = format!("the certificate for {} {when}", names(&certificate));
            Diagnostic::warning(&code::CERTIFICATE_ENDS, at(CHAIN), message)
        }
        Err(error) => {
            let entry = if matches!(error, Error::Malformed("key PEM" | "key")) { KEY } else { CHAIN };
            Diagnostic::error(&code::CERTIFICATE_UNFIT, at(entry), error.to_string())
        }
    };
    diagnostic.subject = Some(resource.key.clone());
    Some(diagnostic)
}

/// What is wrong with the authorities of another site, or will be soon.
fn of_site(resource: &Resource, site: &Site, now: Timestamp) -> Option<Diagnostic> {
    let place = "spec.authorities".to_owned();
    let mut diagnostic = match Roots::from_pem(&site.authorities, &site.trust_domain) {
        Ok(roots) => {
            let left = roots.not_after().as_millis().saturating_sub(now.as_millis());
            if Duration::from_millis(left) >= WARNING {
                return None;
            }
            let message = match left / 3_600_000 {
                _ if left == 0 => format!("the authorities of {} have ended", site.trust_domain),
                hours => format!("the last authority of {} ends in {hours} h", site.trust_domain),
            };
            Diagnostic::warning(&code::SITE_ENDS, place, message)
        }
        Err(error) => Diagnostic::error(&code::SITE_UNFIT, place, error.to_string()),
    };
    diagnostic.subject = Some(resource.key.clone());
    Some(diagnostic)
}

/// The hosts that the certificate of a Secret is for, and its end.
pub(super) fn facts(resource: &Resource) -> Option<(Vec<Text>, Timestamp)> {
    let Spec::Secret(secret) = &resource.spec else { return None };
    let certificate = Certificate::from_pem(&secret.chain, secret.key.expose()).ok()?;
    Some((certificate.names().to_vec(), certificate.not_after()))
}

fn at(entry: &str) -> String {
    format!("data[\"{entry}\"]")
}

/// What is wrong with the authorities at `place` of a resource.
fn roots(resource: &Resource, code: &'static code::Code, place: String, pem: &str) -> Option<Diagnostic> {
    let error = outward::check_roots(pem).err()?;
    let mut diagnostic = Diagnostic::error(code, place, error.to_string());
    diagnostic.subject = Some(resource.key.clone());
    Some(diagnostic)
}

fn names(certificate: &Certificate) -> String {
    match certificate.names() {
        [] => "no host".to_owned(),
        names => names.join(", "),
    }
}
