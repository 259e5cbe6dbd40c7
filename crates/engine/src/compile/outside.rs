// SPDX-License-Identifier: Apache-2.0
//! Services outside the mesh, on a node by which calls leave it: where they are, and which policy for TLS holds.

use super::Compiler;
use crate::program::{Outside, Program, Security, Verify};
use crate::snapshot::Snapshot;
use crate::watch::{Watch, Watched};
use byrnie_base::Text;
use byrnie_model::outside::{AltName, BackendTls, Bundle, Trust, is_pattern};
use byrnie_model::service::{ServicePort, TargetPort};
use byrnie_model::{Key, Kind, Revision, Secret, Service, ServiceRef};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Policies for TLS towards hosts outside, and the authorities and certificates that they name.
#[derive(Debug, Default)]
pub(super) struct Outward {
    policies: BTreeMap<Key, (Revision, Arc<BackendTls>)>,
    bundles: BTreeMap<Key, Arc<Bundle>>,
    secrets: BTreeMap<Key, Arc<Secret>>,
}

impl Outward {
    /// Takes a policy in or out; answers whose TLS that may change.
    pub(super) fn put_policy(
        &mut self,
        key: &Key,
        policy: Option<(Revision, Arc<BackendTls>)>,
    ) -> BTreeSet<ServiceRef> {
        let old = match policy.clone() {
            Some(policy) => self.policies.insert(key.clone(), policy),
            None => self.policies.remove(key),
        };
        let targets = |policy: &BackendTls| policy.targets.iter().map(|t| t.service.clone()).collect::<Vec<_>>();
        old.into_iter().chain(policy).flat_map(|(_, policy)| targets(&policy)).collect()
    }

    /// Takes authorities in or out; answers whose TLS that may change.
    pub(super) fn put_bundle(&mut self, key: &Key, bundle: Option<Arc<Bundle>>) -> BTreeSet<ServiceRef> {
        match bundle {
            Some(bundle) => self.bundles.insert(key.clone(), bundle),
            None => self.bundles.remove(key),
        };
        let names = |policy: &BackendTls| match &policy.trust {
            Trust::System => false,
            Trust::Bundles(bundles) => bundles.contains(&key.name),
        };
        self.targeted(key, names)
    }

    /// Takes a certificate with its key in or out; answers whose TLS that may change.
    pub(super) fn put_secret(&mut self, key: &Key, secret: Option<Arc<Secret>>) -> BTreeSet<ServiceRef> {
        match secret {
            Some(secret) => self.secrets.insert(key.clone(), secret),
            None => self.secrets.remove(key),
        };
        self.targeted(key, |policy| policy.certificate.as_ref() == Some(&key.name))
    }

    /// The services for which policies are that name what `key` is.
    fn targeted(&self, key: &Key, names: impl Fn(&BackendTls) -> bool) -> BTreeSet<ServiceRef> {
        let policies = self.policies.iter().filter(|(of, (_, policy))| of.namespace == key.namespace && names(policy));
        policies.flat_map(|(_, (_, policy))| &policy.targets).map(|target| target.service.clone()).collect()
    }

    /// The policy for a port: one for it by name comes before one for the whole service, and of two such the one
    /// that is older, or first by name (Gateway API, `BackendTLSPolicy.spec.targetRefs`).
    fn policy(&self, service: &ServiceRef, port: &ServicePort) -> Option<(&Key, &BackendTls)> {
        let fits = |policy: &BackendTls| {
            let targets = policy.targets.iter().filter(|target| target.service == *service);
            targets
                .filter(|t| t.section.as_ref().is_none_or(|name| *name == port.name))
                .map(|t| t.section.is_none())
                .min()
        };
        let fitting = self.policies.iter().filter_map(|(key, (age, policy))| Some((fits(policy)?, age, key, policy)));
        fitting.min_by_key(|(whole, age, key, _)| (*whole, **age, *key)).map(|(.., key, policy)| (key, &**policy))
    }

    pub(super) fn security(&self, service: &ServiceRef, host: &str, port: &ServicePort) -> Security {
        let Some((key, policy)) = self.policy(service, port) else { return Security::Plain };
        if is_pattern(host) {
            return Security::Broken(format!("{key} names one host, and the service stands for {host}").into());
        }
        let absent = |at: &Key| Security::Broken(format!("{key} names {at}, which is absent").into());
        let roots = match &policy.trust {
            Trust::System => None,
            Trust::Bundles(names) => {
                let mut roots = String::new();
                for name in names {
                    let at = Key::new(Kind::ConfigMap, key.namespace.clone(), name.clone());
                    let Some(bundle) = self.bundles.get(&at) else { return absent(&at) };
                    roots.push_str(&bundle.pem);
                    roots.push('\n');
                }
                Some(roots.into())
            }
        };
        let mut certificate = None;
        if let Some(name) = &policy.certificate {
            let at = Key::new(Kind::Secret, key.namespace.clone(), name.clone());
            let Some(secret) = self.secrets.get(&at) else { return absent(&at) };
            certificate = Some((at, Arc::clone(secret)));
        }
        let hostname = policy.hostname.clone();
        let names = if policy.names.is_empty() { vec![AltName::Host(hostname.clone())] } else { policy.names.clone() };
        Security::Tls(Arc::new(Verify { hostname, names, roots, certificate }))
    }
}

impl Compiler {
    /// Notes which hosts outside the services stand for, if that may have changed.
    pub(super) fn name_outside(&self, dirty: &BTreeSet<ServiceRef>, snapshot: &mut Snapshot) {
        let is = |at: &ServiceRef| self.held.services.get(at).is_some_and(|service| service.outside.is_some());
        let was = |at: &ServiceRef| snapshot.outside.values().any(|services| services.contains(at));
        if !dirty.iter().any(|at| is(at) || was(at)) {
            return;
        }
        let mut hosts: BTreeMap<Text, BTreeSet<ServiceRef>> = BTreeMap::new();
        for (at, service) in &self.held.services {
            if let Some(host) = &service.outside {
                hosts.entry(host.clone()).or_default().insert(at.clone());
            }
        }
        snapshot.outside = Arc::new(hosts);
    }

    /// A port of a service of which slices say where it is: for people and for access, as the port's cluster has the
    /// addresses.
    pub(super) fn beyond(&self, service: &ServiceRef, port: &ServicePort) -> Program {
        let number = match port.target {
            TargetPort::Number(number) => number,
            TargetPort::Name(_) => port.port,
        };
        let security = self.held.outward.security(service, "", port);
        Program::Outside(Arc::new(Outside { host: service.to_string().into(), port: number, security, watch: None }))
    }

    /// Where a port of a service at `host` is.
    pub(super) fn outside(
        &self,
        service: &ServiceRef,
        host: &Text,
        port: &ServicePort,
        watch: Option<Watch>,
    ) -> Option<Program> {
        let TargetPort::Number(number) = port.target else { return None };
        let security = self.held.outward.security(service, host, port);
        Some(Program::Outside(Arc::new(Outside { host: host.clone(), port: number, security, watch })))
    }

    /// How the host outside of a service is checked: each of its addresses at one port, for all that is there. What is known of them
    /// holds on as long as it's the same host.
    pub(super) fn watched(&self, name: &ServiceRef, service: &Service, snapshot: &Snapshot) -> Option<Watched> {
        let host = service.outside.as_ref().filter(|host| !is_pattern(host))?;
        let check = self.health_check(name)?;
        let port = service.ports.iter().find(|port| check.port.is_none_or(|number| number == port.port))?;
        let TargetPort::Number(number) = port.target else { return None };
        let known = snapshot.subtree(&name.namespace, &name.name).and_then(|tree| tree.watched.as_deref());
        let health = known.filter(|known| known.host == *host).map(|known| Arc::clone(&known.health));
        let members = self.held.far.members(name).into_iter().flat_map(|of| of.values().map(Arc::clone));
        Some(Watched {
            host: host.clone(),
            port: number,
            protocol: port.protocol,
            security: self.held.outward.security(name, host, port),
            authority: service.outside_authority(port),
            check,
            health: health.unwrap_or_default(),
            addresses: self.held.far.located(service).to_vec(),
            members: members.collect(),
        })
    }
}

#[cfg(test)]
mod tests;
