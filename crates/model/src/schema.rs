// SPDX-License-Identifier: Apache-2.0
//! JSON Schema of each kind, generated from the types that read it, so that editors complete and check
//! what byrnie accepts.

use crate::Kind;
use crate::secret::TLS_TYPE;
use crate::yaml::{AccessSpec, FilterSpec, MeshSpec, PoolSpec, SagaSpec, SiteSpec, TrafficSpec, WorkloadSpec};
use k8s_openapi::api::discovery::v1 as discovery;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Value, json};

/// The schema (draft 2020-12) of a whole document of this kind; `None` for a kind that can't be applied.
/// For Service and HTTPRoute it's the upstream one: fields that byrnie doesn't enforce are in it and are
/// refused all the same.
pub fn of(kind: Kind) -> Option<Value> {
    let mut generator = SchemaGenerator::default();
    let spec = match kind {
        Kind::Namespace | Kind::EndpointSlice | Kind::Secret | Kind::ConfigMap | Kind::ServiceExport => None,
        Kind::Mesh => Some(spec::<MeshSpec>(&mut generator)),
        Kind::Workload => Some(spec::<WorkloadSpec>(&mut generator)),
        Kind::AccessPolicy => Some(spec::<AccessSpec>(&mut generator)),
        Kind::TrafficPolicy => Some(spec::<TrafficSpec>(&mut generator)),
        Kind::Saga => Some(spec::<SagaSpec>(&mut generator)),
        Kind::Site => Some(spec::<SiteSpec>(&mut generator)),
        Kind::HttpRouteFilter => Some(spec::<FilterSpec>(&mut generator)),
        Kind::InferencePool => Some(spec::<PoolSpec>(&mut generator)),
        Kind::Service => Some(spec::<k8s_openapi::api::core::v1::ServiceSpec>(&mut generator)),
        Kind::HttpRoute => Some(spec::<gateway_api::experimental::httproutes::HttpRouteSpec>(&mut generator)),
        Kind::GrpcRoute => Some(spec::<gateway_api::experimental::grpcroutes::GrpcRouteSpec>(&mut generator)),
        Kind::TlsRoute => Some(spec::<gateway_api::experimental::tlsroutes::TlsRouteSpec>(&mut generator)),
        Kind::TcpRoute => Some(spec::<gateway_api::experimental::tcproutes::TcpRouteSpec>(&mut generator)),
        Kind::UdpRoute => Some(spec::<gateway_api::experimental::udproutes::UdpRouteSpec>(&mut generator)),
        Kind::Gateway => Some(spec::<gateway_api::experimental::gateways::GatewaySpec>(&mut generator)),
        Kind::ListenerSet => Some(spec::<gateway_api::experimental::listenersets::ListenerSetSpec>(&mut generator)),
        Kind::GatewayClass => Some(spec::<gateway_api::experimental::gatewayclasses::GatewayClassSpec>(&mut generator)),
        Kind::ReferenceGrant => {
            Some(spec::<gateway_api::experimental::referencegrants::ReferenceGrantSpec>(&mut generator))
        }
        Kind::BackendTlsPolicy => Some(spec::<gateway_api::backendtlspolicies::BackendTlsPolicySpec>(&mut generator)),
        Kind::Endpoint => return None,
    };
    let mut metadata = json!({
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"type": "string", "maxLength": if kind.has_dots() { 253 } else { 63 }},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    });
    if kind.namespaced() {
        metadata["properties"]["namespace"] = json!({"type": "string", "maxLength": 63});
    }
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": kind.name(),
        "type": "object",
        "required": ["apiVersion", "kind", "metadata"],
        "additionalProperties": false,
        "properties": {
            "apiVersion": {"const": kind.api_version()},
            "kind": {"const": kind.name()},
            "metadata": metadata,
            "status": {"type": "object"},
        },
    });
    beside_metadata(kind, &mut generator, &mut schema);
    if let Some(spec) = spec {
        schema["properties"]["spec"] = spec;
        schema["required"] = json!(["apiVersion", "kind", "metadata", "spec"]);
    }
    let definitions = generator.take_definitions(true);
    if !definitions.is_empty() {
        schema["$defs"] = definitions.into();
    }
    Some(schema)
}

/// What kinds without a `spec` have instead.
fn beside_metadata(kind: Kind, generator: &mut SchemaGenerator, schema: &mut Value) {
    let text = json!({"type": "object", "additionalProperties": {"type": "string"}});
    match kind {
        Kind::ConfigMap => {
            schema["properties"]["data"] = text;
            schema["required"] = json!(["apiVersion", "kind", "metadata", "data"]);
        }
        Kind::Secret => {
            schema["properties"]["type"] = json!({"const": TLS_TYPE});
            schema["properties"]["data"] = text.clone();
            schema["properties"]["stringData"] = text;
            schema["required"] = json!(["apiVersion", "kind", "metadata", "type"]);
        }
        Kind::EndpointSlice => {
            schema["properties"]["addressType"] = json!({"enum": ["IPv4", "IPv6"]});
            schema["properties"]["endpoints"] = generator.subschema_for::<Vec<discovery::Endpoint>>().into();
            schema["properties"]["ports"] = generator.subschema_for::<Vec<discovery::EndpointPort>>().into();
            schema["required"] = json!(["apiVersion", "kind", "metadata", "addressType"]);
        }
        _ => {}
    }
}

fn spec<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    generator.subschema_for::<T>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_applicable_kind_has_a_schema_without_loose_ends() {
        for kind in Kind::APPLICABLE {
            let schema = of(kind).unwrap();
            let text = schema.to_string();
            for reference in text.split("\"#/$defs/").skip(1) {
                let name = reference.split('"').next().unwrap();
                assert!(schema["$defs"].get(name).is_some(), "{}: {name} is not defined", kind.name());
            }
            assert_eq!(schema["properties"]["kind"]["const"], kind.name());
        }
        assert!(of(Kind::Endpoint).is_none());
    }

    #[test]
    fn own_kinds_refuse_unknown_fields_in_their_schema_too() {
        let own = [Kind::Mesh, Kind::Workload, Kind::AccessPolicy, Kind::TrafficPolicy, Kind::Saga, Kind::Site];
        for kind in own.into_iter().chain([Kind::HttpRouteFilter, Kind::InferencePool]) {
            let schema = of(kind).unwrap();
            let name = schema["properties"]["spec"]["$ref"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
            assert_eq!(schema["$defs"][name]["additionalProperties"], false, "{}", kind.name());
        }
    }
}
