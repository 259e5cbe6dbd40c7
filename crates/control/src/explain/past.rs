// SPDX-License-Identifier: Apache-2.0
//! What happened to a past request, told from its record.

use super::{Answer, Step};
use byrnie_base::Text;
use byrnie_model::Record;
use byrnie_model::code::Code;

/// The story of a record; `caller` is who asked, as far as is known.
pub fn past(record: &Record, caller: &str) -> Answer {
    let decision = &record.decision;
    let refused = decision.reason == "access_denied";
    let failed = record.status >= 500 || is_peers(record) || !decision.reason.is_empty();
    let code = Code::find(&decision.code);
    let mut answer = Answer {
        decision: if refused {
            "deny"
        } else if failed {
            "fail"
        } else {
            "allow"
        }
        .into(),
        code: decision.code.clone(),
        reason: decision.reason.clone(),
        status: record.status,
        steps: Vec::new(),
        nearest: decision.nearest.clone(),
        next: code.map_or("", |code| code.next).into(),
    };
    let mut step = |hop: &str, rule: &Text, place: String, detail: String| {
        let proxy = record.proxy.clone();
        answer.steps.push(Step {
            hop: hop.into(),
            rule: rule.clone(),
            place: place.into(),
            detail: detail.into(),
            proxy,
        });
    };
    let none = Text::default();
    let proven = match &*record.source {
        "" if record.direction == "outbound" => format!("{caller}, by its own proxy {}", record.proxy),
        "" => format!("{caller}: no certificate"),
        identity => format!("{identity}, proven by certificate"),
    };
    step("identity", &none, String::new(), proven);
    if !decision.rule.is_empty() {
        let verb = if refused { "refused" } else { "let through" };
        let place = place("AccessPolicy", &decision.rule, "Mesh/mesh");
        step("access", &decision.rule, place, format!("{verb} by {}", rule(&decision.rule)));
    }
    if !decision.route.is_empty() {
        let place = place("HTTPRoute", &decision.route, "");
        step("route", &decision.route, place, format!("to {} by {}", record.destination, rule(&decision.route)));
    }
    for (index, attempt) in record.attempts.iter().enumerate() {
        let (number, total) = (index + 1, record.attempts.len());
        let took = millis(attempt.duration_us);
        let detail = format!(
            "{number} of {total}: {} at {}: {} after {took}",
            attempt.endpoint, attempt.address, attempt.outcome
        );
        step("attempt", &none, String::new(), detail);
    }
    step("answer", &none, String::new(), format!("{} after {}", ending(record), millis(record.duration_us)));
    if let Some(next) = answer.denial().or_else(|| onward(record, caller, failed && answer.next.is_empty())) {
        answer.next = next;
    }
    answer
}

/// Whether the other proxy answered, of its own.
fn is_peers(record: &Record) -> bool {
    record.decision.reason.is_empty() && !record.decision.peer.is_empty()
}

/// Who ended it, and how.
fn ending(record: &Record) -> String {
    if is_peers(record) {
        let endpoint = record.attempts.last().map_or(&record.destination, |attempt| &attempt.endpoint);
        return format!("the proxy of {endpoint} answered, not its program: {}", record.status);
    }
    match (record.status, &*record.decision.reason) {
        // Opaque bytes have no answer, and some callers don't wait for theirs.
        (0, "") => "the connection ended".to_owned(),
        (0, reason) => format!("byrnie closed the connection ({reason})"),
        (status, "") if status >= 500 => format!("the program itself answered, byrnie passed it on: {status}"),
        (status, "") => format!("the program answered {status}"),
        (status, _) => format!("byrnie answered {status}"),
    }
}

/// What to do, where the code says nothing that is true here; `mute`: it says nothing at all.
fn onward(record: &Record, caller: &str, mute: bool) -> Option<Text> {
    if is_peers(record) {
        return Some(format!("byrnie explain {}: what that proxy has to say of it", record.decision.peer).into());
    }
    let to = &record.destination;
    let scheme = &record.request.protocol;
    let opaque = matches!(&**scheme, "tcp" | "udp");
    if opaque && record.direction != "inbound" && record.decision.reason == "upstream_reset" {
        // Whose doing it was isn't told on the wire.
        let ask = format!("byrnie explain \"{scheme}://{to}\" --from {caller}");
        return Some(format!("`{ask}` tells whether a policy lets it in; else look at the log of {to}").into());
    }
    let service = to.split('.').next().unwrap_or_default();
    mute.then(|| format!("look at the log of {service}; `byrnie stat route` shows how often").into())
}

fn rule(label: &str) -> String {
    if label == "default" { "the default: no rule fits".to_owned() } else { label.to_owned() }
}

/// `KIND/NAMESPACE/NAME` of a label `NAMESPACE/NAME[INDEX]`.
fn place(kind: &str, label: &str, default: &str) -> String {
    match label {
        "default" => default.to_owned(),
        label => format!("{kind}/{}", label.split('[').next().unwrap_or(label)),
    }
}

fn millis(micros: u64) -> String {
    format!("{}.{} ms", micros / 1000, micros / 100 % 10)
}
