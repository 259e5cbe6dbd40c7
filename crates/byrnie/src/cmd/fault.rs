// SPDX-License-Identifier: Apache-2.0
//! `byrnie fault SVC`: writes an ordinary TrafficPolicy with a fault that ends by itself, to the store or to a
//! file. `byrnie canary SVC VERSION PERCENT`: writes an ordinary HTTPRoute that gives a version its part.

use crate::console::{self, Console};
use crate::documents;
use crate::failure::{Exit, Failure};
use crate::globals::Globals;
use crate::output::{self, yaml};
use byrnie_base::{Clock as _, clock::SystemClock};
use byrnie_model::{Kind, ServiceRef};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

/// Make callers of a service suffer for a while
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  byrnie fault payments --delay 300ms --for 5m
  byrnie fault payments.shop --abort 503 --percent 10 --for 1m --path /charge
  byrnie fault payments --slow-body 5s --for 1m
  byrnie fault payments --off")]
pub(crate) struct Fault {
    /// The service: NAME or NAME.NAMESPACE
    #[arg(value_name = "SVC")]
    service: String,
    /// Requests wait so long first, such as 300ms
    #[arg(long, value_name = "D")]
    delay: Option<String>,
    /// Requests are answered with this status
    #[arg(long, value_name = "CODE")]
    abort: Option<u16>,
    /// Connections are cut
    #[arg(long, conflicts_with = "abort")]
    reset: bool,
    /// The body of an answer comes so long after its head, such as 5s
    #[arg(long, value_name = "D", conflicts_with_all = ["abort", "reset"])]
    slow_body: Option<String>,
    /// Of a hundred requests that fit
    #[arg(long, value_name = "P", default_value_t = 100)]
    percent: u8,
    /// Only requests of this method
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// Only requests at or below this path
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// Only requests with this header
    #[arg(long, value_name = "NAME=VALUE")]
    header: Option<String>,
    /// How long it lasts, such as 5m; then it ends by itself
    #[arg(long = "for", value_name = "D", required_unless_present = "off")]
    span: Option<String>,
    /// End it now
    #[arg(long, conflicts_with_all = ["delay", "abort", "reset", "slow_body", "span"])]
    off: bool,
    /// Write the policy to a file instead
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

/// Give a version of a service its part of the requests
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  byrnie canary payments v2 10
  byrnie canary payments.shop v2 50
  byrnie canary payments v2 0 --to canary.yaml")]
pub(crate) struct Canary {
    /// The service: NAME or NAME.NAMESPACE
    #[arg(value_name = "SVC")]
    service: String,
    /// The version: the service SVC-VERSION of the same namespace
    #[arg(value_name = "VERSION")]
    version: String,
    /// Of a hundred requests
    #[arg(value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    percent: u8,
    /// Write the route to a file instead
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

/// Longest fault.
const SPAN_MAX: Duration = Duration::from_secs(24 * 3600);

pub(crate) fn run_fault(args: &Fault, globals: &Globals) -> anyhow::Result<Exit> {
    let target = ServiceRef::from_word(&args.service, globals.namespace());
    let name = format!("fault-{}", target.name);
    if args.off {
        let path = super::get::path(Kind::TrafficPolicy, &target.namespace, &name);
        let answer = Console::find(globals)?.delete(&(path + &console::query(&[("user", &console::user())])))?;
        super::apply::warn(documents::place(&answer["diagnostics"], &[]));
        output::print(globals, &answer, |_| super::apply::draw(&answer, globals.quiet))?;
        return Ok(Exit::Fine);
    }
    let span = args.span.as_deref().and_then(span_of).filter(|span| !span.is_zero() && *span <= SPAN_MAX);
    let span = span.ok_or_else(|| Failure::usage("--for is a time of at most 24h").next("--for 5m"))?;
    let until = SystemClock::new().now().wall.as_millis() + u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let document = fault(args, &target, &name, until)?;
    let path = super::get::path(Kind::TrafficPolicy, &target.namespace, &name);
    let before = if args.to.is_some() { None } else { Console::find(globals)?.get(&path).ok() };
    let exit = write(&document, "fault", args.to.as_ref(), globals)?;
    if let Some(lasting) = before.as_ref().and_then(|before| lasting(before, SystemClock::new().now().wall.as_millis()))
    {
        eprintln!("warning: this takes the place of a fault of {target} that would have lasted until {lasting}");
        eprintln!("   = next: a service has one fault at a time; `byrnie undo` brings the earlier one back");
    }
    Ok(exit)
}

/// Until when the fault of a policy strikes; nothing if it's over.
fn lasting(policy: &Value, now_ms: u64) -> Option<&str> {
    let until = policy["spec"]["fault"]["until"].as_str()?;
    let ends = until.parse::<jiff::Timestamp>().ok()?.as_millisecond();
    u64::try_from(ends).is_ok_and(|ends| ends > now_ms).then_some(until)
}

/// `300ms`, `90s`, `5m`, `1h`.
pub(super) fn span_of(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(millis).map(Duration::from_millis)
}

fn fault(args: &Fault, target: &ServiceRef, name: &str, until_ms: u64) -> Result<Value, Failure> {
    if args.delay.is_none() && args.abort.is_none() && !args.reset && args.slow_body.is_none() {
        return Err(Failure::usage("what shall happen? --delay D, --abort CODE, --reset or --slow-body D"));
    }
    let until = jiff::Timestamp::from_second(i64::try_from(until_ms.div_ceil(1000)).unwrap_or(i64::MAX))
        .map_err(|error| Failure::usage(format!("--for: {error}")))?;
    let mut fault = json!({"percent": format!("{}%", args.percent), "until": until.to_string()});
    if let Some(delay) = &args.delay {
        fault["delay"] = json!(delay);
    }
    if let Some(abort) = args.abort {
        fault["abort"] = json!(abort);
    }
    if args.reset {
        fault["reset"] = json!(true);
    }
    if let Some(slow) = &args.slow_body {
        fault["slowBody"] = json!(slow);
    }
    let mut matches = json!({});
    if let Some(method) = &args.method {
        matches["method"] = json!(method.to_ascii_uppercase());
    }
    if let Some(path) = &args.path {
        matches["path"] = json!(path);
    }
    if let Some(header) = &args.header {
        let pair = header.split_once('=').ok_or_else(|| Failure::usage("--header is NAME=VALUE"))?;
        matches["header"] = json!({"name": pair.0, "value": pair.1});
    }
    if matches != json!({}) {
        fault["match"] = matches;
    }
    Ok(json!({
        "apiVersion": Kind::TrafficPolicy.api_version(),
        "kind": Kind::TrafficPolicy.name(),
        "metadata": {"name": name, "namespace": target.namespace},
        "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": target.name}], "fault": fault},
    }))
}

pub(crate) fn run_canary(args: &Canary, globals: &Globals) -> anyhow::Result<Exit> {
    let target = ServiceRef::from_word(&args.service, globals.namespace());
    let version = format!("{}-{}", target.name, args.version);
    let console = Console::find(globals)?;
    let port = main_port(&console, &target.namespace, &version)?;
    // A route of another name that the service has already is somebody's work: it's named, not replaced.
    let routes = console.get("/api/v1/routes")?;
    let mut present = None;
    for route in routes.as_array().into_iter().flatten() {
        let own = route["metadata"]["namespace"].as_str().unwrap_or_default();
        let parents = route["spec"]["parentRefs"].as_array().into_iter().flatten();
        let is_parent = |parent: &Value| {
            parent["name"] == *target.name && *parent["namespace"].as_str().unwrap_or(own) == *target.namespace
        };
        if parents.into_iter().any(is_parent) {
            present = Some(route.clone());
        }
    }
    let document = match present {
        Some(route) => shifted(route, &version, port, args.percent)?,
        None => {
            let own = main_port(&console, &target.namespace, &target.name)?;
            canary(&target, own, (&version, port), args.percent)
        }
    };
    write(&document, "canary", args.to.as_ref(), globals)
}

/// The first port of a service.
fn main_port(console: &Console, namespace: &str, name: &str) -> Result<u64, Failure> {
    let found = console.get(&super::get::path(Kind::Service, namespace, name)).map_err(|failure| {
        if failure.code == byrnie_model::code::NOT_FOUND.id {
            failure.next("a version is a service of its own, such as payments-v2, that selects its instances")
        } else {
            failure
        }
    })?;
    Ok(found["spec"]["ports"][0]["port"].as_u64().unwrap_or(80))
}

fn canary(target: &ServiceRef, own: u64, (version, port): (&str, u64), percent: u8) -> Value {
    json!({
        "apiVersion": Kind::HttpRoute.api_version(),
        "kind": Kind::HttpRoute.name(),
        "metadata": {"name": target.name, "namespace": target.namespace},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": target.name}],
            "rules": [{"backendRefs": [
                {"name": target.name, "port": own, "weight": 100 - percent},
                {"name": version, "port": port, "weight": percent},
            ]}],
        },
    })
}

/// The route with `percent` for the version in every rule that has backends; the others share the rest as before.
fn shifted(mut route: Value, version: &str, port: u64, percent: u8) -> Result<Value, Failure> {
    if let Some(object) = route.as_object_mut() {
        object.remove("status");
    }
    let name = route["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let rules = route["spec"]["rules"].as_array_mut().into_iter().flatten();
    let mut changed = 0;
    for rule in rules {
        let Some(backends) = rule["backendRefs"].as_array_mut().filter(|backends| !backends.is_empty()) else {
            continue;
        };
        let weight = |backend: &Value| backend["weight"].as_u64().unwrap_or(1);
        let others: u64 = backends.iter().filter(|b| b["name"] != *version).map(weight).sum();
        if others == 0 && percent < 100 {
            let said = format!("route {name} sends nothing but to {version}: there is nobody to take the rest");
            return Err(Failure::usage(said).next("byrnie get httproute"));
        }
        // A hundred parts for each of the others' weights, so that their proportions stay exact.
        for backend in backends.iter_mut().filter(|b| b["name"] != *version) {
            backend["weight"] = json!(weight(backend) * u64::from(100 - percent));
        }
        let own = others * u64::from(percent);
        match backends.iter_mut().find(|backend| backend["name"] == *version) {
            Some(backend) => backend["weight"] = json!(own.max(u64::from(percent == 100))),
            None => backends.push(json!({"name": version, "port": port, "weight": own})),
        }
        reduce(backends);
        changed += 1;
    }
    if changed == 0 {
        return Err(Failure::usage(format!("route {name} has no backends to share with")).next("byrnie get httproute"));
    }
    Ok(route)
}

/// Weights in lowest terms.
fn reduce(backends: &mut [Value]) {
    fn gcd(a: u64, b: u64) -> u64 {
        if b == 0 { a } else { gcd(b, a % b) }
    }
    let unit = backends.iter().filter_map(|backend| backend["weight"].as_u64()).fold(0, gcd).max(1);
    for backend in backends {
        if let Some(weight) = backend["weight"].as_u64() {
            backend["weight"] = json!(weight / unit);
        }
    }
}

fn write(document: &Value, why: &str, to: Option<&PathBuf>, globals: &Globals) -> anyhow::Result<Exit> {
    if let Some(path) = to {
        std::fs::write(path, yaml::emit(document))
            .map_err(|error| Failure::new("", error.to_string()).at(path.display().to_string()))?;
        if !globals.quiet {
            output::write(&format!("{} written; apply it with: byrnie apply {0}\n", path.display()))?;
        }
        return Ok(Exit::Fine);
    }
    let path = format!("/api/v1/apply{}", console::query(&[("user", &console::user()), ("why", why)]));
    let answer = Console::find(globals)?.post(&path, document)?;
    super::apply::warn(documents::place(&answer["diagnostics"], &[]));
    output::print(globals, &answer, |_| super::apply::draw(&answer, globals.quiet))?;
    Ok(Exit::Fine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use byrnie_model::yaml::{Defaults, parse};

    #[test]
    fn what_is_written_can_be_applied() {
        let args = Fault {
            service: "payments".into(),
            delay: Some("300ms".into()),
            abort: Some(503),
            reset: false,
            slow_body: None,
            percent: 10,
            method: Some("post".into()),
            path: Some("/charge".into()),
            header: Some("x-test=1".into()),
            span: Some("5m".into()),
            off: false,
            to: None,
        };
        let target = ServiceRef::new("shop", "payments");
        let fault = fault(&args, &target, "fault-payments", 1_900_000_000_000).unwrap();
        let canary = canary(&target, 80, ("payments-v2", 80), 10);
        let shifted = shifted(canary.clone(), "payments-v2", 80, 30).unwrap();
        for document in [&fault, &canary, &shifted] {
            let parsed = parse("t.yaml", &yaml::emit(document), &Defaults::default());
            assert!(
                parsed.diagnostics.is_empty() && parsed.documents.len() == 1,
                "{document}: {:?}",
                parsed.diagnostics
            );
        }
    }

    #[test]
    fn a_version_gets_its_part_and_the_others_keep_theirs() {
        let weights = |route: &Value| -> Vec<u64> {
            let backends = route["spec"]["rules"][0]["backendRefs"].as_array().unwrap();
            backends.iter().map(|backend| backend["weight"].as_u64().unwrap()).collect()
        };
        let route = |weights: &[(&str, u64)]| {
            let backends: Vec<Value> =
                weights.iter().map(|(name, weight)| json!({"name": name, "port": 80, "weight": weight})).collect();
            json!({"metadata": {"name": "r"}, "spec": {"rules": [{"backendRefs": backends}]}})
        };
        let two = route(&[("v1", 90), ("v2", 10)]);
        assert_eq!(weights(&shifted(two.clone(), "v2", 80, 50).unwrap()), [1, 1]);
        assert_eq!(weights(&shifted(two.clone(), "v2", 80, 0).unwrap()), [1, 0]);
        assert_eq!(weights(&shifted(two, "v2", 80, 100).unwrap()), [0, 1]);
        let three = route(&[("a", 3), ("b", 1)]);
        assert_eq!(weights(&shifted(three, "c", 80, 20).unwrap()), [3, 1, 1]);
        assert!(shifted(route(&[("c", 1)]), "c", 80, 20).is_err());
    }

    #[test]
    fn a_fault_that_still_strikes_is_known_by_its_end() {
        let policy = json!({"spec": {"fault": {"until": "2030-01-01T00:00:00Z"}}});
        let end = 1_893_456_000_000;
        assert_eq!(lasting(&policy, end - 1), Some("2030-01-01T00:00:00Z"));
        assert_eq!(lasting(&policy, end), None);
        assert_eq!(lasting(&json!({"spec": {}}), 0), None);
    }

    #[test]
    fn spans_are_read() {
        for (text, millis) in
            [("300ms", Some(300)), ("5m", Some(300_000)), ("1h", Some(3_600_000)), ("5", None), ("m", None)]
        {
            assert_eq!(span_of(text), millis.map(Duration::from_millis), "{text}");
        }
    }
}
