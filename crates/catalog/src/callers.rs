// SPDX-License-Identifier: Apache-2.0
//! What gateways have callers from outside prove, and by whose word they're believed: the references of
//! `spec.tls.frontend`, as far as they lead anywhere. What is said of it is in `status` and `lint`.

use crate::attach::{Refused, refused};
use crate::catalog::Catalog;
use byrnie_model::gateway::{CertificateRef, Frontend, Gateway, Listener, Validation};
use byrnie_model::{Key, Kind, Spec};
use std::collections::BTreeSet;

/// What a listener asks of its callers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Demand {
    /// The ConfigMaps with authorities that can be had. Without any, nobody is let in.
    pub(crate) authorities: BTreeSet<Key>,
    /// Whether callers that prove nothing are let in as well.
    pub(crate) optional: bool,
}

impl Catalog {
    /// The gateway that decides for a gateway's listeners: itself, or the one to which a set adds.
    pub(crate) fn lead(&self, key: &Key) -> Option<(Key, &Gateway)> {
        let Some(Spec::Gateway(gateway)) = self.spec(key) else { return None };
        let Some(parent) = &gateway.parent else { return Some((key.clone(), gateway)) };
        let at = Key::new(Kind::Gateway, parent.namespace.clone(), parent.name.clone());
        match self.spec(&at) {
            Some(Spec::Gateway(owner)) => Some((at, owner)),
            _ => None,
        }
    }

    /// The ConfigMap by which a gateway may believe its callers, if there is one.
    pub(crate) fn authority(&self, gateway: &Key, to: &CertificateRef) -> Result<Key, Refused> {
        let key = Key::new(Kind::ConfigMap, to.namespace.clone(), to.name.clone());
        if let Some(kind) = &to.unserved {
            let message = format!("a {} holds no authorities that count; name a ConfigMap", kind.trim_end_matches('.'));
            return refused("InvalidCACertificateKind", message);
        }
        if !self.may_name(gateway, &key) {
            let message = format!("no ReferenceGrant in namespace \"{}\" allows it", to.namespace);
            return refused("RefNotPermitted", message);
        }
        if self.resource(&key).is_none() {
            let message = format!("no ConfigMap \"{}\" in namespace \"{}\"", to.name, to.namespace);
            return refused("InvalidCACertificateRef", message);
        }
        Ok(key)
    }

    /// What a listener of a gateway asks of its callers; `None` if that is nothing.
    pub(crate) fn demand(&self, gateway: &Key, listener: &Listener) -> Option<Demand> {
        let (at, owner) = self.lead(gateway)?;
        let Validation { authorities, optional } = owner.frontend.of(listener)?;
        let found = authorities.iter().filter_map(|to| self.authority(&at, to).ok());
        Some(Demand { authorities: found.collect(), optional: *optional })
    }

    /// Why references to authorities for a listener's callers lead nowhere, the first of them.
    pub(crate) fn doubted(&self, gateway: &Key, listener: &Listener) -> Option<Refused> {
        let (at, owner) = self.lead(gateway)?;
        owner.frontend.of(listener)?.authorities.iter().find_map(|to| self.authority(&at, to).err())
    }

    /// What a proxy is told that a gateway's callers have to prove: by authorities that may be named and are there.
    pub(crate) fn frontend(&self, gateway: &Key) -> Frontend {
        let Some((at, owner)) = self.lead(gateway) else { return Frontend::default() };
        let mut frontend = owner.frontend.clone();
        for validation in frontend.all_mut() {
            validation.authorities.retain(|to| self.authority(&at, to).is_ok());
        }
        frontend
    }

    /// Whether some gateway that is served believes callers by these authorities.
    pub(crate) fn is_believed(&self, bundle: &Key) -> bool {
        self.gateways().any(|(key, gateway)| {
            let mut refs = gateway.frontend.all().flat_map(|validation| &validation.authorities);
            self.is_served(key, gateway) && refs.any(|to| self.authority(key, to).as_ref() == Ok(bundle))
        })
    }
}
