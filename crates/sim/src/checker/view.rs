// SPDX-License-Identifier: Apache-2.0
//! What a proxy has, held against what it should have.

use crate::checker::access;
use crate::proxy::Published;
use crate::shop::{Place, State};
use byrnie_base::Now;
use byrnie_catalog::Catalog;
use byrnie_model::{Change, Key, Kind, Resource, Spec};
use byrnie_xds::wire;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The first route that names a service that isn't there.
pub fn dangling(view: &State) -> Option<String> {
    for resource in view.values() {
        let Spec::Route(route) = &resource.spec else { continue };
        for backend in route.rules.iter().flat_map(|rule| &rule.backends) {
            let service = &backend.to.service;
            if !view.contains_key(&Key::new(Kind::Service, service.namespace.clone(), service.name.clone())) {
                return Some(format!("{} names {service}", resource.key));
            }
        }
    }
    None
}

/// The first service that a proxy needs and doesn't have.
pub fn missing(view: &State, place: &Place) -> Option<String> {
    let needed = place.uses.iter().chain(&place.serves);
    needed
        .map(|service| Key::new(Kind::Service, service.namespace.clone(), service.name.clone()))
        .find(|key| !view.contains_key(key))
        .map(|key| format!("{} has no {key}", place.node))
}

/// What would be compiled for a proxy from nothing.
pub fn from_nothing(state: &State, place: &Place) -> State {
    let mut catalog = Catalog::new();
    for resource in state.values() {
        catalog.apply(&Change::Put(Arc::clone(resource)));
    }
    let view = catalog.view(&place.spec);
    // As a proxy hears it: the wire carries an endpoint's labels once.
    let heard = |resource: &Arc<Resource>| {
        wire::decode(resource.key.clone(), resource.revision, &wire::encode(resource)).ok().map(Arc::new)
    };
    view.resources.iter().filter_map(heard).map(|resource| (resource.key.clone(), resource)).collect()
}

/// The first difference between two views that a proxy would notice.
pub fn difference(has: &State, should: &State) -> Option<String> {
    for (key, resource) in should {
        match has.get(key) {
            None => return Some(format!("lacks {key}")),
            Some(found) if found.spec != resource.spec || found.labels != resource.labels => {
                return Some(format!("has {key} of revision {}, not {}", found.revision, resource.revision));
            }
            Some(_) => {}
        }
    }
    has.keys().find(|key| !should.contains_key(*key)).map(|key| format!("still has {key}"))
}

/// The first difference between what was compiled step by step and what is compiled from nothing.
pub fn compiled_difference(place: &Place, has: &Published, should: &Published, now: Now) -> Option<String> {
    let (one, two) = (clusters(has), clusters(should));
    if one != two {
        return Some(format!("compiled clusters {one:?}, not {two:?}"));
    }
    let inbound = place.serves.iter().flat_map(access::requests);
    let differs = |request: &access::Request| has.inbound(request, now) != should.inbound(request, now);
    inbound.filter(differs).map(|request| format!("decides otherwise on {request}")).next()
}

/// Each cluster with its endpoints' names and addresses.
fn clusters(published: &Published) -> BTreeMap<String, Vec<String>> {
    let of = |cluster: &byrnie_engine::Cluster| {
        let members = cluster.members().iter().map(|member| format!("{} {}", member.name(), member.address()));
        let mut members: Vec<String> = members.collect();
        members.sort();
        (cluster.sni().to_string(), members)
    };
    published.snapshot.clusters().map(|cluster| of(cluster)).collect()
}
