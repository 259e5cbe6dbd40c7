// SPDX-License-Identifier: Apache-2.0
//! `byrnie allow A B ["METHOD PATH"]` and `byrnie deny`: write an ordinary AccessPolicy, to the store or
//! to a file. There is no hidden state: `get accesspolicy` shows what was written.

use crate::console::{self, Console};
use crate::documents;
use crate::failure::{Exit, Failure};
use crate::globals::Globals;
use crate::output::{self, yaml};
use byrnie_model::yaml::{Defaults, parse};
use byrnie_model::{Diagnostic, Identity, Kind, ServiceRef, code};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Let a workload call a service
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  byrnie allow hello payments
  byrnie allow refunds payments \"POST /charge\"
  byrnie allow web.shop payments \"GET /items/*\" --to access.yaml")]
pub(crate) struct Allow {
    #[command(flatten)]
    pair: Pair,
}

/// Forbid a workload to call a service; wins over every allow
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  byrnie deny hello payments
  byrnie deny web payments \"DELETE /admin/*\"
  byrnie deny web payments --to access.yaml")]
pub(crate) struct Deny {
    #[command(flatten)]
    pair: Pair,
}

#[derive(clap::Args, Debug)]
struct Pair {
    /// The caller's service account: NAME or NAME.NAMESPACE; `edge` is the mesh's own, unless the namespace has one
    #[arg(value_name = "A")]
    source: String,
    /// The service: NAME or NAME.NAMESPACE
    #[arg(value_name = "B")]
    destination: String,
    /// Only these requests: "METHOD PATH", where PATH may end in /* and * is any method
    #[arg(value_name = "METHOD PATH")]
    request: Option<String>,
    /// Write the policy to a file instead
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

pub(crate) fn run_allow(args: &Allow, globals: &Globals) -> anyhow::Result<Exit> {
    run(&args.pair, "allow", globals)
}

pub(crate) fn run_deny(args: &Deny, globals: &Globals) -> anyhow::Result<Exit> {
    run(&args.pair, "deny", globals)
}

fn run(pair: &Pair, verb: &str, globals: &Globals) -> anyhow::Result<Exit> {
    let console = Console::find(globals);
    let source = caller(&pair.source, globals.namespace(), console.as_ref().ok());
    let target = ServiceRef::from_word(&pair.destination, globals.namespace());
    let rule = rule(&source, &target, pair.request.as_deref())?;
    check(pair, &policy(verb, &source, &target, &[], vec![rule.clone()]))?;
    if let Some(path) = &pair.to {
        // The file is written without a mesh too; then only the service itself is named.
        let backends = console.and_then(|console| backends(&console, &target)).unwrap_or_default();
        let text = yaml::emit(&policy(verb, &source, &target, &backends, vec![rule]));
        std::fs::write(path, text)
            .map_err(|error| Failure::new("", error.to_string()).at(path.display().to_string()))?;
        if !globals.quiet {
            output::write(&format!("{} written; apply it with: byrnie apply {0}\n", path.display()))?;
        }
        return Ok(Exit::Fine);
    }
    let console = console?;
    let name = name(verb, &source, &target);
    let mut rules = match console.get(&super::get::path(Kind::AccessPolicy, &target.namespace, &name)) {
        Ok(present) => present["spec"]["rules"].as_array().cloned().unwrap_or_default(),
        Err(failure) if failure.code == byrnie_model::code::NOT_FOUND.id => Vec::new(),
        Err(failure) => return Err(failure.into()),
    };
    if pair.request.is_none() {
        // A rule for every request makes the narrower ones superfluous.
        rules.clear();
    }
    if !rules.contains(&rule) {
        rules.push(rule);
    }
    let document = policy(verb, &source, &target, &backends(&console, &target)?, rules);
    let path = format!("/api/v1/apply{}", console::query(&[("user", &console::user()), ("why", verb)]));
    let answer = console.post(&path, &document)?;
    super::apply::warn(documents::place(&answer["diagnostics"], &[]));
    output::print(globals, &answer, |_| super::apply::draw(&answer, globals.quiet))?;
    if console.get(&super::get::path(Kind::Service, &target.namespace, &target.name)).is_err() {
        eprintln!("warning: there is no service {target} yet; the policy counts once there is");
        eprintln!(
            "   = next: byrnie get services shows those there are; one of another namespace is written NAME.NAMESPACE"
        );
    }
    if verb == "allow" {
        warn_of_denial(&console, &source, &target);
    }
    Ok(Exit::Fine)
}

/// The account that a word means. Those of the mesh's own proxies go by their bare names, as `explain` has it, unless a
/// workload of the namespace runs under such a name.
fn caller(word: &str, namespace: &str, console: Option<&Console>) -> ServiceRef {
    let named = ServiceRef::from_word(word, namespace);
    let taken = |console: &Console| {
        let workloads = console.get("/api/v1/workloads").unwrap_or_default();
        let account = format!("/ns/{namespace}/sa/{word}");
        each(&workloads).any(|workload| workload["identity"].as_str().is_some_and(|id| id.ends_with(&account)))
    };
    if matches!(word, "edge" | Identity::EGRESS_ACCOUNT) && !console.is_some_and(taken) {
        return ServiceRef::new(Identity::SYSTEM_NAMESPACE, word);
    }
    named
}

/// Refuses what would make no valid policy, in words of the command line: the policy is nothing that the user wrote.
fn check(pair: &Pair, policy: &Value) -> Result<(), Failure> {
    let parsed = parse("", &yaml::emit(policy), &Defaults::default());
    let Some(found) = parsed.diagnostics.iter().find(|found| Diagnostic::is_error(found)) else { return Ok(()) };
    if found.code.id == code::BAD_NAME.id {
        let detail = format!("{:?} and {:?} are not both NAME or NAME.NAMESPACE", pair.source, pair.destination);
        return Err(
            Failure::usage(detail).next("write them as `byrnie get services` shows them, such as payments.shop")
        );
    }
    Err(Failure::new(found.code.id, found.message.clone()).at("the arguments").next(found.code.next))
}

/// Services of the same namespace to which routes send calls of `target`: access is decided where the
/// call arrives, under the name of the backend.
fn backends(console: &Console, target: &ServiceRef) -> Result<Vec<String>, Failure> {
    let routes = console.get("/api/v1/routes")?;
    let mut found = Vec::new();
    for route in routes.as_array().into_iter().flatten() {
        let own = route["metadata"]["namespace"].as_str().unwrap_or_default();
        let is = |reference: &Value, name: &str| {
            reference["name"] == *name && *reference["namespace"].as_str().unwrap_or(own) == *target.namespace
        };
        if !each(&route["spec"]["parentRefs"]).any(|parent| is(parent, &target.name)) {
            continue;
        }
        for backend in each(&route["spec"]["rules"]).flat_map(|rule| each(&rule["backendRefs"])) {
            let name = backend["name"].as_str().unwrap_or_default();
            if is(backend, name) && *name != *target.name && !found.iter().any(|known| known == name) {
                found.push(name.to_owned());
            }
        }
    }
    Ok(found)
}

fn each(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// A DENY written earlier would win.
fn warn_of_denial(console: &Console, source: &ServiceRef, target: &ServiceRef) {
    let denial = name("deny", source, target);
    if console.get(&super::get::path(Kind::AccessPolicy, &target.namespace, &denial)).is_ok() {
        eprintln!("warning: {denial} denies some or all of it, and a denial wins");
        eprintln!("   = next: byrnie delete accesspolicy {denial} -n {}", target.namespace);
    }
}

fn name(verb: &str, source: &ServiceRef, target: &ServiceRef) -> String {
    if source.namespace == target.namespace {
        format!("{verb}-{}-to-{}", source.name, target.name)
    } else {
        format!("{verb}-{}-{}-to-{}", source.namespace, source.name, target.name)
    }
}

fn policy(verb: &str, source: &ServiceRef, target: &ServiceRef, backends: &[String], rules: Vec<Value>) -> Value {
    let names = std::iter::once(&*target.name).chain(backends.iter().map(String::as_str));
    let targets: Vec<Value> = names.map(|name| json!({"group": "", "kind": "Service", "name": name})).collect();
    json!({
        "apiVersion": Kind::AccessPolicy.api_version(),
        "kind": Kind::AccessPolicy.name(),
        "metadata": {"name": name(verb, source, target), "namespace": target.namespace},
        "spec": {
            "targetRefs": targets,
            "action": verb.to_ascii_uppercase(),
            "rules": rules,
        },
    })
}

fn rule(source: &ServiceRef, target: &ServiceRef, request: Option<&str>) -> Result<Value, Failure> {
    let mut account = json!({"name": source.name});
    if source.namespace != target.namespace {
        account["namespace"] = json!(source.namespace);
    }
    let mut rule = json!({"sources": [{"type": "ServiceAccount", "serviceAccount": account}]});
    let Some(request) = request else { return Ok(rule) };
    let (method, path) = match request.trim().split_once(' ') {
        Some((method, path)) => (method.to_ascii_uppercase(), path.trim()),
        None if request.starts_with('/') => ("*".to_owned(), request),
        None => (request.to_ascii_uppercase(), ""),
    };
    if !path.is_empty() && !path.starts_with('/') {
        return Err(
            Failure::usage(format!("{request:?} is not METHOD PATH")).next("\"POST /charge\" or \"GET /items/*\"")
        );
    }
    let mut http = json!({});
    if method != "*" {
        http["methods"] = json!([method]);
    }
    if !path.is_empty() {
        http["paths"] = json!([path]);
    }
    rule["http"] = json!([http]);
    Ok(rule)
}

#[cfg(test)]
mod tests {
    use super::{name, policy, rule};
    use byrnie_model::ServiceRef;
    use byrnie_model::yaml::{Defaults, parse};

    #[test]
    fn what_is_written_is_valid() {
        let (a, b) = (ServiceRef::new("shop", "web"), ServiceRef::new("default", "payments"));
        for request in [None, Some("POST /charge"), Some("* /items/*"), Some("get"), Some("/x/{id}/y")] {
            let text = crate::output::yaml::emit(&policy(
                "allow",
                &a,
                &b,
                &["payments-v2".into()],
                vec![rule(&a, &b, request).unwrap()],
            ));
            let parsed = parse("t.yaml", &text, &Defaults::default());
            assert_eq!((parsed.documents.len(), parsed.has_errors()), (1, false), "{text} {:?}", parsed.diagnostics);
        }
        assert_eq!(name("allow", &a, &b), "allow-shop-web-to-payments");
        assert!(rule(&a, &b, Some("POST charge")).is_err());
    }
}
