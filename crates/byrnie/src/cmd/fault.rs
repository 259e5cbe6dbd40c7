// SPDX-License-Identifier: Apache-2.0
//! `byrnie fault SVC`: writes an ordinary TrafficPolicy with a fault that ends by itself, to the store or to a
//! file.

use crate::console::{self, Console};
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
    #[arg(long, value_name = "P", default_value_t = 100, value_parser = share)]
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

/// Longest fault.
const SPAN_MAX: Duration = Duration::from_secs(24 * 3600);

pub(crate) fn run_fault(args: &Fault, globals: &Globals) -> anyhow::Result<Exit> {
    let target = ServiceRef::from_word(&args.service, globals.namespace());
    let name = format!("fault-{}", target.name);
    if args.off {
        let path = super::get::path(Kind::TrafficPolicy, &target.namespace, &name);
        let answer = Console::find(globals)?.delete(&(path + &console::query(&[("user", &console::user())])))?;
        super::apply::warn(crate::documents::place(&answer["diagnostics"], &[]));
        output::print(globals, &answer, |_| super::apply::draw(&answer, globals.quiet))?;
        return Ok(Exit::Fine);
    }
    let span = args.span.as_deref().and_then(span_of).filter(|span| !span.is_zero() && *span <= SPAN_MAX);
    let span = span.ok_or_else(|| Failure::usage("--for is a time of at most 24h").next("--for 5m"))?;
    let until = SystemClock::new().now().wall.as_millis() + u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let document = fault(args, &target, &name, until)?;
    let path = super::get::path(Kind::TrafficPolicy, &target.namespace, &name);
    let before = if args.to.is_some() { None } else { Console::find(globals)?.get(&path).ok() };
    let exit = write(&document, &[("why", "fault")], args.to.as_ref(), globals)?;
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

/// Of a hundred: `10` or `10%`.
pub(super) fn share(text: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').unwrap_or(text);
    number.parse().ok().filter(|share| *share <= 100).ok_or_else(|| "a share is 0 to 100, such as 10 or 10%".to_owned())
}

/// Applies a document, or an array of them, all or none, and says so much beside; or writes them to a file.
pub(super) fn write(
    documents: &Value,
    beside: &[(&str, &str)],
    to: Option<&PathBuf>,
    globals: &Globals,
) -> anyhow::Result<Exit> {
    let text = yaml::emit(documents);
    if let Some(path) = to {
        std::fs::write(path, text)
            .map_err(|error| Failure::new("", error.to_string()).at(path.display().to_string()))?;
        if !globals.quiet {
            output::write(&format!("{} written; apply it with: byrnie apply {0}\n", path.display()))?;
        }
        return Ok(Exit::Fine);
    }
    let user = console::user();
    let path = format!("/api/v1/apply{}", console::query(&[&[("user", &*user)], beside].concat()));
    let answer = Console::find(globals)?.post_yaml(&path, text)?;
    super::apply::warn(crate::documents::place(&answer["diagnostics"], &[]));
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
        let parsed = parse("t.yaml", &yaml::emit(&fault), &Defaults::default());
        assert!(parsed.diagnostics.is_empty() && parsed.documents.len() == 1, "{fault}: {:?}", parsed.diagnostics);
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
    fn a_share_is_said_with_or_without_its_sign() {
        for (text, read) in [("10", Some(10)), ("10%", Some(10)), ("100%", Some(100)), ("101", None), ("%", None)] {
            assert_eq!(share(text).ok(), read, "{text}");
        }
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
