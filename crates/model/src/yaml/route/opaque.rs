// SPDX-License-Identifier: Apache-2.0
//! The documents of TLSRoute, TCPRoute and UDPRoute (<https://gateway-api.sigs.k8s.io/reference/spec/#tlsroute>): routes
//! for connections whose bytes nobody looks at, and for flows of datagrams. They know hosts at most, and send each to one of
//! their backends. The rest is read as for an HTTPRoute, whose types are the same but for their names.

use super::{Parts, Rules, same};
use crate::code;
use crate::route::Match;
use crate::yaml::kinds::TLS_ROUTE_EARLY;
use crate::yaml::node::Node;
use crate::yaml::reader::Reader;
use crate::{Kind, Route};
use gateway_api::experimental::{tcproutes, tlsroutes};

pub(crate) fn tls(reader: &mut Reader<'_>) -> Option<Route> {
    let (version, said) = (reader.root.field("apiVersion"), reader.root.field("spec"));
    let early = version.and_then(Node::text).is_some_and(|version| version == TLS_ROUTE_EARLY);
    if early && said.is_some_and(|spec| spec.field("hostnames").is_none()) {
        // Every host, which only that version has.
        return hostless(reader);
    }
    let spec: tlsroutes::TlsRouteSpec = reader.spec()?;
    let rules: Vec<_> = spec.rules.iter().map(|rule| (rule.name.as_deref(), same(&rule.backend_refs))).collect();
    let read = self::rules(reader, &rules);
    reader.require(!spec.hostnames.is_empty(), "spec.hostnames", "at least one host name");
    let parents = same(&spec.parent_refs.unwrap_or_default());
    super::whole(reader, &parents, Some(&spec.hostnames), spec.use_default_gateways.is_some(), read)
}

/// A TCPRoute or a UDPRoute: upstream's types of both are the same but for their names.
pub(crate) fn hostless(reader: &mut Reader<'_>) -> Option<Route> {
    let spec: tcproutes::TcpRouteSpec = reader.spec()?;
    let rules: Vec<_> = spec.rules.iter().map(|rule| (rule.name.as_deref(), same(&rule.backend_refs))).collect();
    let read = self::rules(reader, &rules);
    let parents = same(&spec.parent_refs.unwrap_or_default());
    super::whole(reader, &parents, None, spec.use_default_gateways.is_some(), read)
}

type Said<'a> = (Option<&'a str>, Vec<gateway_api::experimental::httproutes::HttpRouteRulesBackendRefs>);

fn rules(reader: &mut Reader<'_>, said: &[Said<'_>]) -> Rules {
    let mut read = Rules::new(said.len());
    for (i, (name, backends)) in said.iter().enumerate() {
        let at = format!("spec.rules[{i}]");
        if backends.is_empty() {
            reader.fault(
                &code::MISSING_FIELD,
                &at,
                "a rule that knows nothing but its backends needs at least one of \"backendRefs\"",
            );
        }
        let parts = Parts { name: *name, filters: &[], backends, session: None };
        let rule = super::assemble(reader, vec![Match::default()], &parts, &at);
        read.push(rule);
    }
    // Every connection, or flow, fits the first rule.
    if said.len() > 1 {
        let kind = reader.key.as_ref().map_or(Kind::TcpRoute, |key| key.kind).name();
        reader
            .unenforced("spec.rules", &format!("several rules of a {kind}, of which all but the first are never used"));
    }
    read
}
