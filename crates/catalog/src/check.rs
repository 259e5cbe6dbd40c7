// SPDX-License-Identifier: Apache-2.0
//! Whether resources fit each other. Each was valid by itself; here are the faults that show only
//! together. Pure: command line, console and webhook run the same rules.

use crate::catalog::Catalog;
use crate::lint;
use crate::view::service_key;
use byrnie_base::Text;
use byrnie_model::diagnostic::nearest;
use byrnie_model::policy::traffic::Choice;
use byrnie_model::service::ServicePort;
use byrnie_model::{Diagnostic, Identity, Key, Kind, Resource, Service, ServiceRef, Spec};

impl Catalog {
    /// Every finding about every resource, in order of resource and field. Line and column are those of
    /// the document's beginning, as far as they're known; who has the text can place them exactly by
    /// the field.
    pub fn check(&self) -> Vec<Diagnostic> {
        let kinds = [
            Kind::Service,
            Kind::EndpointSlice,
            Kind::InferencePool,
            Kind::Workload,
            Kind::Gateway,
            Kind::ListenerSet,
            Kind::AccessPolicy,
            Kind::TrafficPolicy,
            Kind::BackendTlsPolicy,
            Kind::Saga,
            Kind::Site,
            Kind::ServiceExport,
        ];
        kinds
            .into_iter()
            .chain(Kind::ROUTES)
            .flat_map(|kind| self.iter(kind))
            .flat_map(|resource| self.check_one(resource))
            .collect()
    }

    /// Findings about one resource, of this catalog or about to be put into it.
    pub fn check_one(&self, resource: &Resource) -> Vec<Diagnostic> {
        let mut found = match &resource.spec {
            // What stands for a pool is judged where the pool is.
            Spec::Service(service) if service.pool.is_some() => Vec::new(),
            Spec::Pool(pool) => lint::pool::check(self, &resource.key, pool),
            Spec::Service(service) => lint::service::check(self, &resource.key, service),
            Spec::Slice(slice) => lint::slice::check(self, &resource.key, slice),
            Spec::Workload(workload) => lint::workload::check(self, &resource.key, workload),
            Spec::Route(route) => lint::route::check(self, &resource.key, route),
            Spec::Access(policy) => lint::access::check(self, &resource.key, policy),
            Spec::Traffic(policy) => lint::traffic::check(self, &resource.key, policy),
            Spec::Gateway(gateway) => lint::gateway::check(self, &resource.key, gateway),
            Spec::BackendTls(policy) => lint::outside::check(self, resource, policy),
            Spec::Saga(saga) => lint::saga::check(self, &resource.key, saga),
            Spec::Site(site) => lint::site::check(self, site),
            Spec::Export => lint::site::export(self, &resource.key),
            Spec::Namespace
            | Spec::Mesh(_)
            | Spec::Endpoint(_)
            | Spec::GatewayClass(_)
            | Spec::Grant(_)
            | Spec::Secret(_)
            | Spec::Bundle(_)
            | Spec::Direct(_) => Vec::new(),
        };
        for diagnostic in &mut found {
            diagnostic.subject = Some(resource.key.clone());
            if let Some(origin) = &resource.origin {
                diagnostic.file = origin.file.clone();
                diagnostic.line = origin.line;
            }
        }
        found
    }

    /// `no Service "x" in namespace "y"`, and the one that was probably meant.
    pub(crate) fn absent(&self, at: &ServiceRef) -> (String, Option<Text>) {
        let near = self.services.in_namespace(&at.namespace).map(|service| service.name.as_str());
        let meant = nearest(&at.name, near).map(Text::from);
        let mut message = format!("no Service \"{}\" in namespace \"{}\"", at.name, at.namespace);
        if let Some(meant) = &meant {
            let healthy = self
                .endpoints(&ServiceRef::new(at.namespace.clone(), meant.clone()))
                .filter(|r| matches!(&r.spec, Spec::Endpoint(e) if e.health == byrnie_model::Health::Healthy))
                .count();
            message.push_str(&format!("; did you mean \"{meant}\" ({healthy} healthy)?"));
        } else if self.service(&ServiceRef::new(Identity::SYSTEM_NAMESPACE, at.name.clone())).is_some() {
            message.push_str(&format!("; did you mean \"{}.{}\"?", at.name, Identity::SYSTEM_NAMESPACE));
        }
        (message, meant)
    }

    /// What is said of a reference to a service that isn't there.
    pub(crate) fn absent_service(
        &self,
        code: &'static byrnie_model::code::Code,
        path: String,
        at: &ServiceRef,
    ) -> Diagnostic {
        let (message, meant) = self.absent(at);
        let diagnostic = Diagnostic::error(code, path, message);
        match meant {
            Some(meant) => diagnostic.fixed_by(format!("Write \"{meant}\", or create the service.")),
            None => diagnostic,
        }
    }

    /// Which endpoints of a service its callers use, as the policy says that decides it.
    pub fn choice(&self, at: &ServiceRef) -> Option<(&Key, &Choice)> {
        self.policies.traffic(at).find_map(|key| match self.spec(key) {
            Some(Spec::Traffic(policy)) => policy.choice().map(|choice| (key, choice)),
            _ => None,
        })
    }

    /// The services that a policy names or, if it names none, those of its namespace.
    pub(crate) fn named(&self, key: &Key, targets: &[ServiceRef]) -> Vec<ServiceRef> {
        if targets.is_empty() {
            return self.services.in_namespace(&key.namespace).cloned().collect();
        }
        targets.iter().filter(|at| self.resource(&service_key(at)).is_some()).cloned().collect()
    }
}

/// The port of this number.
pub(crate) fn port(service: &Service, number: u16) -> Option<&ServicePort> {
    service.ports.iter().find(|port| port.port == number)
}

/// `80, 443`, for a message.
pub(crate) fn port_list(service: &Service) -> String {
    service.ports.iter().map(|port| port.port.to_string()).collect::<Vec<_>>().join(", ")
}
