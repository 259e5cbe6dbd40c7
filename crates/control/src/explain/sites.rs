// SPDX-License-Identifier: Apache-2.0
//! What would happen to a request from another site: nothing is decided but at the callee, once the gateway has found that the
//! service is exported. Called by `explain` alone.

use super::{Answer, Puzzle, Question, callee, compile, head, nobody, run, service_asked, sidecar};
use byrnie_base::{Now, Text};
use byrnie_catalog::{Catalog, NodeSpec};
use byrnie_engine::{Arrival, Direction, Tls};
use byrnie_model::{Identity, Kind, Revision, Spec, code};

/// The site and identity that a caller's word means, if it's one of another site.
pub(super) fn caller(catalog: &Catalog, trust_domain: &Text, question: &Question) -> Option<(Text, Identity)> {
    let identity = Identity::parse(&question.from).ok().filter(|identity| identity.trust_domain() != trust_domain)?;
    let site = catalog
        .iter(Kind::Site)
        .find(|resource| matches!(&resource.spec, Spec::Site(site) if site.trust_domain == *identity.trust_domain()))?;
    Some((site.key.name.clone(), identity))
}

/// What would happen to its request.
///
/// # Errors
/// If the request isn't well formed.
pub(super) fn ask(
    catalog: &Catalog,
    (site, source): (&Text, &Identity),
    question: &Question,
    revision: Revision,
    now: Now,
) -> Result<Answer, Puzzle> {
    let head = head(question)?;
    let gateway = NodeSpec::gateway(Identity::SYSTEM_NAMESPACE, "edge");
    let mut answer = Answer::default();
    let Some((service, port)) = service_asked(&head, &question.namespace) else {
        return Err(Puzzle::BadRequest(format!("{} names no service", question.authority)));
    };
    answer.step("identity", "", &gateway, format!("{source} of site {site} calls; its gateway proves nothing"));
    let refused = |mut answer: Answer, detail: String| {
        answer.step("answer", "", &gateway, detail.clone());
        answer.decision = "fail".into();
        answer.reason = detail.into();
        answer.code = code::EXPORT_UNREACHED.id.into();
        answer.next = code::EXPORT_UNREACHED.next.into();
        Ok(answer)
    };
    if !catalog.is_exported(&service) {
        return refused(answer, format!("no ServiceExport is for {service}: the gateway closes the connection"));
    }
    let found = callee(catalog, &service).and_then(|spec| sidecar(catalog, &spec).map(|node| (spec, node)));
    let Some((spec, node)) = found else {
        return refused(answer, format!("{service} has no workload: the gateway closes the connection"));
    };
    answer.step(
        "gateway",
        &format!("ServiceExport/{}/{}", service.namespace, service.name),
        &gateway,
        "passed on".into(),
    );
    let snapshot = compile(&node, &catalog.view(&spec), revision);
    let direction = Direction::Inbound { service: &service, port };
    let arrival = Arrival { direction, source: Some(source), remote: nobody(), tls: Tls::Mutual };
    answer.take(&run(&snapshot, &arrival, &head, question, now), &spec);
    if let Some(next) = answer.denial() {
        answer.next = next;
    } else if answer.decision == "deny" {
        answer.next =
            format!("write an AccessPolicy for {service} with sources: [{{type: SPIFFE, spiffe: \"{source}\"}}]")
                .into();
    }
    Ok(answer)
}
