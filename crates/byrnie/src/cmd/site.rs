// SPDX-License-Identifier: Apache-2.0
//! `byrnie site`: this mesh as others are to know it, as a Site to be applied there. It holds no secret.

use crate::console::Console;
use crate::failure::{self, Exit, Failure};
use crate::globals::Globals;
use crate::join::ROOTS_FILE;
use crate::output::{self, yaml};
use byrnie_model::gateway::SITES;
use byrnie_model::{Kind, code};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// Print this mesh as a Site, for another mesh to apply
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  byrnie site east > east.yaml
  byrnie site east --gateway 192.0.2.7:7790 > east.yaml
  byrnie --data-dir east site east | byrnie --data-dir west apply -f -")]
pub(crate) struct Args {
    /// What the other mesh is to call this one
    name: String,
    /// Where the other mesh reaches a gateway of this one; the ports of its gateways on this machine if absent
    #[arg(long = "gateway", value_name = "IP:PORT")]
    gateways: Vec<SocketAddr>,
}

pub(crate) fn run(args: &Args, globals: &Globals) -> anyhow::Result<Exit> {
    let console = Console::find(globals)?;
    let roots = globals.data_dir.join(ROOTS_FILE);
    let authorities = std::fs::read_to_string(&roots).map_err(|error| failure::of_file(&roots, &error))?;
    let domain = console.get("/api/v1/status")?["trustDomain"].clone();
    let of_kind = |kind: Kind| console.get(&format!("/api/v1/resources?kind={}", kind.name()));
    let gateways: Vec<String> = match args.gateways.as_slice() {
        [] => ports(&[of_kind(Kind::Gateway)?, of_kind(Kind::ListenerSet)?]),
        given => given.iter().map(SocketAddr::to_string).collect(),
    };
    let (exports, running) = (of_kind(Kind::ServiceExport)?, console.get("/api/v1/services")?);
    let services = each(&exports).map(|export| import(export, &running)).collect::<Result<Vec<_>, _>>()?;
    let mut spec = json!({"trustDomain": domain, "authorities": authorities});
    if !gateways.is_empty() {
        spec["gateways"] = json!(gateways);
        spec["services"] = json!(services);
    }
    let document = json!({
        "apiVersion": Kind::Site.api_version(),
        "kind": Kind::Site.name(),
        "metadata": {"name": args.name},
        "spec": spec,
    });
    output::print(globals, &document, |_| yaml::emit(&document))?;
    if gateways.is_empty() && !services.is_empty() {
        eprintln!("warning: no Gateway has a listener of protocol {SITES}: what is exported is not in it");
    }
    Ok(Exit::Fine)
}

fn each(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// Where gateways let other sites in. They listen where the edge does: on this machine.
fn ports(gateways: &[Value]) -> Vec<String> {
    let listeners = gateways.iter().flat_map(each).flat_map(|gateway| each(&gateway["spec"]["listeners"]));
    let ports: BTreeSet<u64> =
        listeners.filter(|listener| listener["protocol"] == SITES).filter_map(|l| l["port"].as_u64()).collect();
    ports.iter().map(|port| format!("127.0.0.1:{port}")).collect()
}

/// What is exported, and who serves it.
fn import(export: &Value, running: &Value) -> Result<Value, Failure> {
    let (namespace, name) = (&export["metadata"]["namespace"], &export["metadata"]["name"]);
    let service = each(running).find(|service| service["namespace"] == *namespace && service["name"] == *name);
    let endpoints = service.into_iter().flat_map(|service| each(&service["endpoints"]));
    let accounts: BTreeSet<&str> = endpoints
        .filter_map(|endpoint| endpoint["identity"].as_str()?.rsplit_once("/sa/").map(|(_, account)| account))
        .collect();
    let account = match accounts.iter().collect::<Vec<_>>().as_slice() {
        // Nobody serves it yet: what `byrnie run` would give its first instance.
        [] => name.as_str().unwrap_or_default(),
        [one] => one,
        _ => {
            let detail = format!("{name} is served under several service accounts, and a site vouches for one");
            return Err(Failure::new(code::MIXED_IDENTITIES.id, detail).next("give its workloads one service account"));
        }
    };
    Ok(json!({"namespace": namespace, "name": name, "serviceAccount": account}))
}
