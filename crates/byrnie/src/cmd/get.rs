// SPDX-License-Identifier: Apache-2.0
//! `byrnie get KIND [NAME]`: resources as they are in force.

use crate::console::{self, Console, encode};
use crate::failure::{Exit, Failure};
use crate::globals::Globals;
use crate::output::{self, Table, cell};
use byrnie_model::Kind;
use byrnie_model::diagnostic::nearest;
use serde_json::Value;

/// Show resources
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  byrnie get services
  byrnie get httproute payments -o yaml
  byrnie get svc/payments -n shop")]
pub(crate) struct Args {
    /// service, endpointslice, workload, httproute, grpcroute, tcproute, tlsroute, udproute, gateway, listenerset, gatewayclass, referencegrant, httproutefilter, backendtlspolicy, inferencepool, secret, configmap, accesspolicy, trafficpolicy, saga, site, serviceexport, mesh or namespace; or KIND/NAME
    kind: String,
    /// One resource
    name: Option<String>,
}

pub(crate) fn run(args: &Args, globals: &Globals) -> anyhow::Result<Exit> {
    let (kind, name) = target(&args.kind, args.name.as_deref())?;
    let console = Console::find(globals)?;
    let answer = match &name {
        Some(name) => console.get(&path(kind, globals.namespace(), name))?,
        None => {
            let namespace = globals.namespace.as_deref().unwrap_or_default();
            console.get(&format!(
                "/api/v1/resources{}",
                console::query(&[("kind", kind.name()), ("namespace", namespace)])
            ))?
        }
    };
    output::print(globals, &answer, |wide| draw(kind, &answer, wide))?;
    Ok(Exit::Fine)
}

/// Kind and name from `KIND NAME`, `KIND/NAME` or `KIND`.
pub(super) fn target(kind: &str, name: Option<&str>) -> Result<(Kind, Option<String>), Failure> {
    let (word, within) = kind.split_once('/').map_or((kind, None), |(kind, name)| (kind, Some(name)));
    let Some(found) = Kind::from_word(word) else {
        let names = Kind::APPLICABLE.map(Kind::name);
        let meant = nearest(word, names).map_or_else(|| names.join(", "), |meant| format!("did you mean {meant}?"));
        return Err(Failure::usage(format!("there is no kind {word:?}")).next(meant));
    };
    Ok((found, within.or(name).map(str::to_owned)))
}

/// Path of one resource.
pub(super) fn path(kind: Kind, namespace: &str, name: &str) -> String {
    match kind.namespaced() {
        true => format!("/api/v1/resources/{}/{}/{}", kind.name(), encode(namespace), encode(name)),
        false => format!("/api/v1/resources/{}/{}", kind.name(), encode(name)),
    }
}

fn draw(kind: Kind, answer: &Value, wide: bool) -> String {
    let items = match answer {
        Value::Array(items) => items.as_slice(),
        one => std::slice::from_ref(one),
    };
    if items.is_empty() {
        return format!("no {} here\n", kind.name());
    }
    let says = match kind {
        Kind::Service => ["PORTS", "SELECTOR"],
        Kind::Workload => ["SERVICE ACCOUNT", "HEALTH"],
        Kind::HttpRoute | Kind::GrpcRoute | Kind::TlsRoute | Kind::TcpRoute | Kind::UdpRoute => ["PARENTS", "RULES"],
        Kind::Gateway => ["CLASS", "LISTENERS"],
        Kind::ListenerSet => ["GATEWAY", "LISTENERS"],
        Kind::EndpointSlice => ["SERVICE", "ADDRESSES"],
        Kind::InferencePool => ["MEMBERS", "PICKER"],
        Kind::Secret => ["HOSTS", "UNTIL"],
        Kind::ConfigMap => ["ENTRIES", ""],
        Kind::BackendTlsPolicy => ["TARGETS", "HOST"],
        Kind::HttpRouteFilter => ["STATUS", "CONTENT TYPE"],
        Kind::GatewayClass => ["CONTROLLER", ""],
        Kind::ReferenceGrant => ["FROM", "TO"],
        Kind::AccessPolicy => ["ACTION", "TARGETS"],
        Kind::TrafficPolicy => ["TARGETS", "SETTINGS"],
        Kind::Saga => ["STEPS", "DEADLINE"],
        Kind::Mesh => ["TRUST DOMAIN", "DEFAULT ACCESS"],
        Kind::Site => ["TRUST DOMAIN", "GATEWAYS"],
        Kind::Namespace | Kind::ServiceExport | Kind::Endpoint => ["LABELS", ""],
    };
    let mut table = Table::new(&["NAMESPACE", "NAME", says[0], says[1], "REVISION", "ACCEPTED"]).narrow(5);
    for item in items {
        let [first, second] = summary(kind, item);
        let status = &item["status"];
        let (namespace, name) = (cell(&item["metadata"], "namespace"), cell(&item["metadata"], "name"));
        table.rows.push(vec![namespace, name, first, second, cell(status, "revision"), cell(status, "accepted")]);
    }
    table.render(wide)
}

fn summary(kind: Kind, item: &Value) -> [String; 2] {
    let spec = &item["spec"];
    let names = |list: &Value, name: &str| joined(list, |item| cell(item, name));
    match kind {
        Kind::Service => {
            let outside = spec["externalName"].as_str().map(|host| format!("outside: {host}"));
            [names(&spec["ports"], "port"), outside.unwrap_or_else(|| pairs(&spec["selector"]))]
        }
        Kind::EndpointSlice => {
            let service = item["metadata"]["labels"]["kubernetes.io/service-name"].as_str().unwrap_or_default();
            let ports = names(&item["ports"], "port");
            let address = |endpoint: &Value| {
                let ready = endpoint["conditions"]["ready"] != false;
                let ip = endpoint["addresses"][0].as_str().unwrap_or_default();
                if ready { ip.to_owned() } else { format!("({ip})") }
            };
            [service.to_owned(), format!("{} : {ports}", joined(&item["endpoints"], address))]
        }
        Kind::InferencePool => {
            let ports = names(&spec["targetPorts"], "number");
            let picker = spec["endpointPickerRef"]["name"].as_str().unwrap_or("-");
            [format!("{} : {ports}", pairs(&spec["selector"]["matchLabels"])), picker.to_owned()]
        }
        Kind::ConfigMap => {
            let entries = item["data"].as_object().map(|data| data.keys().cloned().collect::<Vec<_>>());
            [entries.unwrap_or_default().join(","), String::new()]
        }
        Kind::BackendTlsPolicy => [names(&spec["targetRefs"], "name"), cell(&spec["validation"], "hostname")],
        Kind::Workload => {
            [cell(spec, "serviceAccount"), item["status"]["health"].as_str().unwrap_or("Healthy").to_owned()]
        }
        Kind::HttpRoute | Kind::GrpcRoute | Kind::TlsRoute | Kind::TcpRoute | Kind::UdpRoute => {
            [names(&spec["parentRefs"], "name"), spec["rules"].as_array().map_or(0, Vec::len).to_string()]
        }
        Kind::ListenerSet => [cell(&spec["parentRef"], "name"), names(&spec["listeners"], "name")],
        Kind::Gateway => [cell(spec, "gatewayClassName"), names(&spec["listeners"], "name")],
        Kind::Secret => {
            let status = &item["status"];
            let until = status["notAfter"].as_u64().map_or_else(|| "-".to_owned(), super::history::when);
            [joined(&status["names"], |name| name.as_str().unwrap_or_default().to_owned()), until]
        }
        Kind::HttpRouteFilter => {
            [cell(&spec["directResponse"], "statusCode"), cell(&spec["directResponse"], "contentType")]
        }
        Kind::GatewayClass => [cell(spec, "controllerName"), String::new()],
        Kind::ReferenceGrant => [names(&spec["from"], "namespace"), names(&spec["to"], "kind")],
        Kind::AccessPolicy => {
            let mode = if spec["mode"] == "Shadow" { " (shadow)" } else { "" };
            [cell(spec, "action") + mode, names(&spec["targetRefs"], "name")]
        }
        Kind::TrafficPolicy => {
            let settings =
                spec.as_object().map(|spec| spec.keys().filter(|k| *k != "targetRefs").cloned().collect::<Vec<_>>());
            [names(&spec["targetRefs"], "name"), settings.unwrap_or_default().join(",")]
        }
        Kind::Saga => [names(&spec["steps"], "name"), cell(spec, "deadline")],
        Kind::Mesh => [cell(spec, "trustDomain"), cell(spec, "defaultAccess")],
        Kind::Site => {
            let gateways = joined(&spec["gateways"], |gateway| gateway.as_str().unwrap_or_default().to_owned());
            [cell(spec, "trustDomain"), gateways]
        }
        Kind::Namespace | Kind::ServiceExport | Kind::Endpoint => [String::new(), String::new()],
    }
}

fn joined(list: &Value, item: impl Fn(&Value) -> String) -> String {
    let all: Vec<String> = list.as_array().into_iter().flatten().map(item).collect();
    if all.is_empty() { "-".to_owned() } else { all.join(",") }
}

fn pairs(map: &Value) -> String {
    let pairs: Vec<String> =
        map.as_object().into_iter().flatten().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    if pairs.is_empty() { "-".to_owned() } else { pairs.join(",") }
}
