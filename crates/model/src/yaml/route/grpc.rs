// SPDX-License-Identifier: Apache-2.0
//! The document of a GRPCRoute (<https://gateway-api.sigs.k8s.io/reference/spec/#grpcroute>): a route whose
//! matches name a service and a method. The rest is read as for an HTTPRoute, whose types are the same but
//! for their names.

use super::matching::{self, NAMED_MAX};
use super::{Rules, same};
use crate::Route;
use crate::code;
use crate::route::{Match, NamedMatch, PathMatch, Rule, ValueMatch};
use crate::yaml::names;
use crate::yaml::reader::Reader;
use byrnie_base::Text;
use gateway_api::experimental::grpcroutes as gw;

/// Longest service or method: a limit of the CRD.
const NAME_BYTES_MAX: usize = 1024;

pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Route> {
    let spec: gw::GrpcRouteSpec = reader.spec()?;
    let parents = same(&spec.parent_refs.unwrap_or_default());
    let rules = spec.rules.unwrap_or_else(|| vec![gw::GrpcRouteRules::default()]);
    let mut read = Rules::new(rules.len());
    for (i, said) in rules.iter().enumerate() {
        let at = format!("spec.rules[{i}]");
        let rule = rule(reader, said, &at);
        read.push(rule);
    }
    super::whole(reader, &parents, spec.hostnames.as_deref(), spec.use_default_gateways.is_some(), read)
}

fn rule(reader: &mut Reader<'_>, said: &gw::GrpcRouteRules, at: &str) -> Rule {
    let matches = matches(reader, said.matches.as_deref().unwrap_or_default(), at);
    let filters = same(said.filters.as_deref().unwrap_or_default());
    let backends = same(said.backend_refs.as_deref().unwrap_or_default());
    let session =
        said.session_persistence.as_ref().and_then(|said| same(std::slice::from_ref(said)).into_iter().next());
    let parts =
        super::Parts { name: said.name.as_deref(), filters: &filters, backends: &backends, session: session.as_ref() };
    super::assemble(reader, matches, &parts, at)
}

fn matches(reader: &mut Reader<'_>, said: &[gw::GrpcRouteRulesMatches], at: &str) -> Vec<Match> {
    matching::at_most(reader, said.len(), at);
    if said.is_empty() {
        return vec![Match::default()];
    }
    let each = said.iter().enumerate();
    each.map(|(i, said)| one(reader, said, &format!("{at}.matches[{i}]"))).collect()
}

fn one(reader: &mut Reader<'_>, said: &gw::GrpcRouteRulesMatches, at: &str) -> Match {
    let mut headers: Vec<NamedMatch> = Vec::new();
    let list = said.headers.as_deref().unwrap_or_default();
    reader.at_most(list.len(), NAMED_MAX, &format!("{at}.headers"));
    for (i, header) in list.iter().enumerate() {
        let at = format!("{at}.headers[{i}]");
        let regex = header.r#type == Some(gw::GrpcRouteRulesMatchesHeadersType::RegularExpression);
        let read = matching::header(reader, &headers, (&header.name, &header.value), regex, &at);
        headers.push(read);
    }
    let path =
        said.method.as_ref().map_or_else(PathMatch::default, |method| path(reader, method, &format!("{at}.method")));
    Match { path, headers, ..Match::default() }
}

fn path(reader: &mut Reader<'_>, said: &gw::GrpcRouteRulesMatchesMethod, at: &str) -> PathMatch {
    let regex = said.r#type == Some(gw::GrpcRouteRulesMatchesMethodType::RegularExpression);
    let mut word = |text: Option<&str>, field: &str| {
        let text = text.filter(|text| !text.is_empty())?;
        let at = format!("{at}.{field}");
        reader.require(text.len() <= NAME_BYTES_MAX, &at, format!("a {field} has at most {NAME_BYTES_MAX} bytes"));
        if regex {
            matching::check_regex(reader, text, &at);
            return Some(ValueMatch::Regex(text.into()));
        }
        let fits = if field == "service" { names::is_grpc_service(text) } else { names::is_grpc_method(text) };
        reader.require(fits, &at, format!("\"{text}\" is not the name of a gRPC {field}"));
        Some(ValueMatch::Exact(Text::from(text)))
    };
    let (service, method) = (word(said.service.as_deref(), "service"), word(said.method.as_deref(), "method"));
    if service.is_none() && method.is_none() {
        reader.fault(&code::MISSING_FIELD, at, "a match of a method needs `service`, `method` or both");
    }
    PathMatch::Grpc { service, method }
}
