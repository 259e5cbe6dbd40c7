// SPDX-License-Identifier: Apache-2.0
//! What would happen to a request, and why. Runs [`Exchange::begin`] itself on a copy of the head with
//! dice of its own, and then tells what it finds in the exchange: there is no second logic here. Called
//! by the console for `byrnie explain` and by tests; it may take its time.

use crate::balance::{self, tiers};
use crate::cluster::Cluster;
use crate::exchange::Exchange;
use crate::keyed::Protection;
use crate::route::{Chosen, Entry, Miss};
use crate::shard::Shard;
use crate::snapshot::Snapshot;
use crate::tunnel::{Opaque, Tunnel};
use crate::{Arrival, Direction, Effect, Outcome, Program, Proof, Reason, Side, Target, compress, fault, resolve};
use byrnie_base::{Now, Text};
use byrnie_codec::Head;
use byrnie_model::policy::idempotency::KeyMode;
use byrnie_model::route::mirrors;
use byrnie_model::{Key, ServiceRef};
use std::sync::Arc;

/// What would happen at one proxy.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// `allowed` (inbound), `sent` (outbound, edge), `denied`, or `answered` (by the mesh itself).
    pub decision: Text,
    /// The code of the BYR- registry; empty if the request passes.
    pub code: Text,
    /// The metric label; empty if the request passes.
    pub reason: Text,
    /// The status of the mesh's own answer; 0 if the request passes.
    pub status: u16,
    /// What was decided, in order.
    pub steps: Vec<Step>,
    /// The rule that came nearest, and what it lacked; empty if none did.
    pub nearest: Text,
    /// What to do about it; empty if the request passes.
    pub next: Text,
    /// Where the request goes on to, if it leaves for another proxy.
    pub onward: Option<Onward>,
}

/// One decision.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// What was decided: `service`, `route`, `filters`, `fault`, `endpoint`, `access`, `transaction`, `idempotency`, `compression`,
    /// `program`, `answer`.
    pub hop: &'static str,
    /// The rule that decided, such as `shop/payments[0]`; empty if none.
    pub rule: Text,
    /// Where the rule is written, as the name of its resource (`HTTPRoute/shop/payments`); empty if nowhere.
    pub at: Text,
    /// The decision in words.
    pub detail: Text,
}

/// The proxy that comes next.
#[derive(Clone, Debug, PartialEq)]
pub struct Onward {
    /// The service asked of it.
    pub service: ServiceRef,
    /// The port of the service.
    pub port: u16,
    /// The workload.
    pub endpoint: Text,
    /// The workload's namespace, which isn't the service's where it leads out of the mesh.
    pub namespace: Text,
    /// The site behind whose gateway it is, if that's not this mesh.
    pub site: Option<Text>,
    /// The path as it would arrive there.
    pub path: Text,
}

/// Seed of the dice: two explanations of one request agree.
const SEED: u64 = 0;

/// What would happen to a request with this head at a proxy that has learnt nothing of its endpoints yet:
/// what cores know of latency and ejections is theirs alone. Counts of tries under way are the real ones.
pub fn explain(snapshot: &Arc<Snapshot>, arrival: &Arrival<'_>, head: &Head, now: Now) -> Explanation {
    let mut shard = Shard::new(SEED);
    let mut edited = head.clone();
    let (exchange, effect) = Exchange::begin(snapshot, &mut shard, arrival, &mut edited, now);
    let mut steps = Vec::new();
    explain_service(snapshot, arrival, head, &mut steps);
    if arrival.direction.side() != Side::Inbound {
        explain_route(snapshot, arrival, head, &exchange, &mut steps);
    }
    if let Some(cluster) = exchange.course.cluster() {
        explain_endpoint(cluster, &effect, &shard, now, &mut steps);
    }
    let passed = !matches!(&effect, Effect::Reply(answer) if answer.reason == Reason::AccessDenied);
    if arrival.direction.side() == Side::Inbound && exchange.service.is_some() {
        let rule = exchange.access.as_ref().and_then(|ruling| ruling.rule.clone());
        let shadow = exchange.access.as_ref().and_then(|ruling| ruling.shadow.clone());
        explain_access(arrival, snapshot, (rule, shadow), passed, &mut steps);
    }
    if let Effect::Enlist(asked) = &effect {
        let detail = format!("takes part in {}: the coordinator is asked before the program", asked.transaction);
        steps.push(step("transaction", "", "", detail));
    }
    if let Effect::Pick(asked) = &effect {
        let detail = format!("the picker {} says which member of the pool gets it", asked.authority);
        steps.push(step("picker", "", "", detail));
    }
    explain_protection(&exchange, arrival, &edited, passed, &mut steps);
    explain_compression(&exchange, head, passed, &mut steps);
    let onward = onward(&effect, edited.path());
    let verdict = exchange.finish(&mut shard, Outcome::default(), now);
    conclude(effect, steps, verdict.decided.nearest, arrival, onward)
}

/// What would happen to an opaque connection, or to a flow of datagrams.
pub fn explain_tunnel(snapshot: &Arc<Snapshot>, (arrival, opaque): (&Arrival<'_>, Opaque), now: Now) -> Explanation {
    let mut shard = Shard::new(SEED);
    let (tunnel, effect) = Tunnel::begin_with(snapshot, &mut shard, (arrival, opaque), now);
    let mut steps = Vec::new();
    match arrival.direction {
        Direction::Edge(gate) => {
            if let Some(chosen) = snapshot.edge.choose_opaque(gate, gate.sni().unwrap_or_default()) {
                let at = resource(chosen.kind().name(), chosen.label());
                let all = match opaque {
                    Opaque::Bytes => "for every connection that asks for this host",
                    Opaque::Datagrams => "for every flow at this port",
                };
                steps.push(step("route", chosen.label(), &at, all));
            }
        }
        _ => explain_service(snapshot, arrival, &Head::new(), &mut steps),
    }
    if let Direction::Service { service, port, sni: Some(host) } = arrival.direction
        && let Some((_, port)) = snapshot.port(service, port).filter(|_| snapshot.asks_for_hosts(service, port))
        && let Some(chosen) = port.table.of_host(host)
    {
        let at = resource(chosen.kind().name(), chosen.label());
        steps.push(step("route", chosen.label(), &at, "for every connection that asks for this host"));
    }
    if let Some(cluster) = tunnel.cluster() {
        explain_endpoint(cluster, &effect, &shard, now, &mut steps);
    }
    let passed = !matches!(&effect, Effect::Reply(answer) if answer.reason == Reason::AccessDenied);
    let onward = onward(&effect, "");
    let verdict = tunnel.finish(&mut shard, Outcome::default(), now);
    // An empty rule: it was refused before any was looked at.
    if arrival.direction.side() == Side::Inbound && !verdict.decided.rule.is_empty() {
        let rule = Some(verdict.decided.rule.clone()).filter(|rule| *rule != *"default");
        explain_access(arrival, snapshot, (rule, verdict.decided.shadow), passed, &mut steps);
    }
    conclude(effect, steps, verdict.decided.nearest, arrival, onward)
}

fn onward(effect: &Effect, path: &str) -> Option<Onward> {
    let Effect::Send(plan) = effect else { return None };
    let Target::Mesh(hop) = &plan.target else { return None };
    Some(Onward {
        service: hop.cluster.service().clone(),
        port: hop.cluster.port(),
        endpoint: hop.endpoint().clone(),
        namespace: hop.identity().namespace().clone(),
        site: hop.member.site().cloned(),
        path: path.into(),
    })
}

fn conclude(
    effect: Effect,
    mut steps: Vec<Step>,
    nearest: Option<Text>,
    arrival: &Arrival<'_>,
    onward: Option<Onward>,
) -> Explanation {
    let nearest = nearest.unwrap_or_default();
    let answer = match effect {
        Effect::Reply(answer) => answer,
        Effect::Send(plan) => {
            let inbound = arrival.direction.side() == Side::Inbound;
            if let Target::Program { program, protocol } = &plan.target {
                let detail = format!("to {program}, which speaks {}", protocol.name());
                steps.push(step("program", "", "", detail));
            }
            let decision = if inbound { "allowed" } else { "sent" }.into();
            let (code, reason, next) = (Text::default(), Text::default(), Text::default());
            return Explanation { decision, code, reason, status: 0, steps, nearest, next, onward };
        }
        // What a picker will say isn't foretold. A claim, a lease or an enlistment is the first half of a request that passes; what is said to it is not foretold, nor for
        // how long one waits for room.
        Effect::Claim(_) | Effect::Enlist(_) | Effect::Queue(_) | Effect::Lease(_) | Effect::Pick(_) => {
            let none = Text::default;
            let decision = "allowed".into();
            return Explanation {
                decision,
                code: none(),
                reason: none(),
                status: 0,
                steps,
                nearest,
                next: none(),
                onward: None,
            };
        }
        Effect::Settle(_, answer) => answer,
        Effect::Forward | Effect::Wait | Effect::Replay | Effect::Recall(_) | Effect::Keep => {
            let none = Text::default;
            let decision = "sent".into();
            return Explanation {
                decision,
                code: none(),
                reason: none(),
                status: 0,
                steps,
                nearest,
                next: none(),
                onward,
            };
        }
    };
    let code = answer.reason.code();
    let decision = if answer.reason == Reason::AccessDenied { "denied" } else { "answered" };
    steps.push(step("answer", "", "", format!("{} {}", answer.status, answer.detail)));
    Explanation {
        decision: decision.into(),
        code: code.map_or("", |code| code.id).into(),
        reason: answer.reason.label().into(),
        status: answer.status,
        steps,
        nearest,
        next: code.map_or("", |code| code.next).into(),
        onward: None,
    }
}

fn step(hop: &'static str, rule: &str, at: &str, detail: impl Into<Text>) -> Step {
    Step { hop, rule: rule.into(), at: at.into(), detail: detail.into() }
}

/// `KIND/NAMESPACE/NAME` of a rule's label `NAMESPACE/NAME[INDEX]`.
fn resource(kind: &str, label: &str) -> String {
    format!("{kind}/{}", label.split_once('[').map_or(label, |(name, _)| name))
}

fn explain_service(snapshot: &Snapshot, arrival: &Arrival<'_>, head: &Head, steps: &mut Vec<Step>) {
    let detail = match resolve::resolve(snapshot, &arrival.direction, || (head.host(), head.port())) {
        Ok((tree, port)) => format!("{} port {} ({})", tree.label, port.number, port.protocol.name()),
        Err(_)
            if arrival.direction.side() == Side::Edge
                && snapshot.edge.misses(arrival.direction.gate(), head).next().is_some() =>
        {
            explain_gateway(snapshot, arrival, head, steps);
            return;
        }
        Err(Reason::AccessDenied) => format!("{}, of which this caller's proxy knows that it is there", head.host()),
        Err(_) => {
            let mut known: Vec<String> = snapshot.services().map(ToString::to_string).collect();
            known.sort();
            format!("none of this name; known here: {}", known.join(", "))
        }
    };
    steps.push(step("service", "", "", detail));
}

fn explain_route(snapshot: &Snapshot, arrival: &Arrival<'_>, head: &Head, exchange: &Exchange, steps: &mut Vec<Step>) {
    let found = resolve::resolve(snapshot, &arrival.direction, || (head.host(), head.port()));
    let Ok((_, port)) = found else {
        if arrival.direction.side() == Side::Edge {
            explain_entries(
                snapshot.edge.misses(arrival.direction.gate(), head).map(|(_, entry, miss)| (entry, miss)),
                exchange,
                steps,
            );
        }
        return;
    };
    if port.table.is_empty() {
        steps.push(step("route", "default", "", "the service has no routes: straight to its endpoints"));
        return;
    }
    explain_entries(port.table.misses(head), exchange, steps);
}

/// The listeners that the host leads to.
fn explain_gateway(snapshot: &Snapshot, arrival: &Arrival<'_>, head: &Head, steps: &mut Vec<Step>) {
    let mut told: Option<&Text> = None;
    for (label, ..) in snapshot.edge.misses(arrival.direction.gate(), head) {
        if told != Some(label) {
            told = Some(label);
            let gateway = label.rsplit_once('/').map_or(&**label, |(gateway, _)| gateway);
            let listener = label.split_once('/').map_or(&**label, |(_, listener)| listener);
            let detail = format!("{} belongs to listener {listener}", head.host());
            steps.push(step("gateway", label, gateway, detail));
        }
    }
    let at = arrival.direction.gate().at();
    let Some(proof) = at.and_then(|at| snapshot.gates().get(&at)?.proof()) else { return };
    let named = proof.authorities.keys().map(Key::to_string).collect::<Vec<_>>().join(", ");
    let detail = match proof {
        Proof { authorities, .. } if authorities.is_empty() => {
            "nobody could vouch for a caller: none is let in".to_owned()
        }
        Proof { optional: true, .. } => {
            format!("callers are asked for a certificate of {named}, and let in without one")
        }
        Proof { optional: false, .. } => format!("only callers with a certificate of {named} are let in"),
    };
    steps.push(step("callers", "", "", detail));
}

fn explain_entries<'a>(
    entries: impl Iterator<Item = (&'a Entry, Option<Miss<'a>>)>,
    exchange: &Exchange,
    steps: &mut Vec<Step>,
) {
    for (entry, miss) in entries {
        let label = entry.label();
        let at = resource(entry.kind().name(), label);
        match miss {
            Some(miss) => steps.push(step("route", label, &at, format!("does not fit: {miss}"))),
            None => {
                let detail = exchange.chosen.as_ref().map_or_else(|| "fits".to_owned(), fitted);
                steps.push(step("route", label, &at, detail));
                return;
            }
        }
    }
}

/// What a rule that fits does, in words.
fn fitted(chosen: &Chosen) -> String {
    let mut words = match chosen.backend() {
        Some(backend) => format!("fits; backend {} weight {}", backend.to.service, backend.weight),
        None if chosen.rule().answer().is_some() => "fits; answers by itself".to_string(),
        None => "fits; no backend".to_string(),
    };
    let of_backend = chosen.backend().map_or(&[][..], |backend| &backend.filters);
    for mirror in mirrors(&chosen.rule().filters).chain(mirrors(of_backend)) {
        words.push_str(&format!("; {} of {} copied to {}", mirror.share, mirror.of, mirror.to.service));
    }
    if let Some(session) = &chosen.rule().session {
        words.push_str(&format!("; a session by \"{}\" keeps its endpoint", session.name));
    }
    words
}

fn explain_endpoint(cluster: &Cluster, effect: &Effect, shard: &Shard, now: Now, steps: &mut Vec<Step>) {
    let taken = match effect {
        Effect::Send(plan) => match &plan.target {
            Target::Mesh(hop) => Some(hop.endpoint().clone()),
            Target::Program { program: Program::Outside(to), .. } => Some(to.authority().into()),
            Target::Program { .. } => None,
        },
        _ => None,
    };
    // It strikes at the caller.
    let fault = cluster.call.fault.as_ref().filter(|_| cluster.beyond.is_none());
    if let Some(fault) = fault.filter(|fault| fault::is_active(fault, now.wall)) {
        steps.push(step("fault", "", "", format!("a fault strikes {}% of the requests that fit it", fault.percent)));
    }
    let loads = tiers::loads(cluster, shard, now.mono);
    for (index, member) in cluster.members.iter().enumerate() {
        let chosen = taken.as_ref() == Some(member.name());
        // The try explained here is none.
        let (busy, weight) = balance::score(member);
        let busy = busy.saturating_sub(u64::from(chosen));
        let tier = cluster.tiers.iter().position(|tier| index < tier.end as usize).unwrap_or(0);
        let share = loads.get(tier).copied().unwrap_or(0) * 100 / tiers::WHOLE;
        let far = match (share, cluster.tiers.get(tier).and_then(|tier| tier.area.as_ref())) {
            (_, Some(area)) => format!(", in {area}, which gets {share}%"),
            (0, None) => ", farther away".to_owned(),
            (1..100, None) => format!(", in a tier that gets {share}%"),
            (_, None) => String::new(),
        };
        let site = member.site().map(|site| format!(" of site {site}")).unwrap_or_default();
        let quick = member.load.latency(now.mono).map_or(String::new(), |nanos| {
            format!(", answers in {:.1} ms", std::time::Duration::from_nanos(nanos).as_secs_f64() * 1000.0)
        });
        let verb = if chosen { "chosen" } else { "candidate" };
        let (name, address) = (member.name(), member.address());
        let detail = format!("{verb}: {name} at {address}{site}, {busy} under way, weight {weight}{quick}{far}");
        steps.push(step("endpoint", "", "", detail));
    }
    if cluster.away > 0 {
        steps.push(step("endpoint", "", "", format!("{} draining or unhealthy", cluster.away)));
    }
}

/// What the service's policy promises, and whether this request is under it.
fn explain_protection(exchange: &Exchange, arrival: &Arrival<'_>, head: &Head, passed: bool, steps: &mut Vec<Step>) {
    let Some(protection) = exchange.service.as_ref().and_then(|service| service.protection.as_ref()) else { return };
    let (policy, method) = (&protection.policy, head.method());
    let promise = format!("{} ({})", policy.guarantee.name(), policy.guarantee.promise());
    let here = arrival.direction.side() == Side::Inbound;
    let detail = match (policy.mode, head.header(byrnie_codec::Known::IdempotencyKey)) {
        (KeyMode::Off, _) => "mode Off: keys are the program's own affair".to_owned(),
        _ if !Protection::covers(method) => format!("{promise}; {method} changes nothing and is not protected"),
        (KeyMode::Required, None) => format!("{promise}; mode Required: the request needs a key"),
        (_, None) => format!("{promise}; mode {}: this request has no key and is not protected", policy.mode.name()),
        _ if !policy.is_ledgered() => {
            format!("{promise}; the key is the program's own affair, so it isn't repeated for it")
        }
        (_, Some(_)) if here && passed => format!("{promise}; the ledger is asked before the program"),
        (_, Some(_)) => format!("{promise}; under a key, so it may be repeated"),
    };
    steps.push(step("idempotency", &protection.rule, &format!("TrafficPolicy/{}", protection.rule), detail));
}

/// Whether the answer may come compressed.
fn explain_compression(exchange: &Exchange, head: &Head, passed: bool, steps: &mut Vec<Step>) {
    let compress = exchange.service.as_ref().and_then(|service| service.compress.as_ref());
    let Some(compress) = compress.filter(|_| passed) else { return };
    let detail = match compress::takes_gzip(head) {
        true => "the answer comes as gzip, if it is of a kind and a size that the policy names",
        false => "the answer comes as it is: the request takes no gzip",
    };
    steps.push(step("compression", &compress.rule, &format!("TrafficPolicy/{}", compress.rule), detail));
}

fn explain_access(
    arrival: &Arrival<'_>,
    snapshot: &Snapshot,
    (rule, shadow): (Option<Text>, Option<Text>),
    passed: bool,
    steps: &mut Vec<Step>,
) {
    let caller = arrival.source.map_or_else(|| "a caller without certificate".to_string(), ToString::to_string);
    let verb = if passed { "may" } else { "may not" };
    match &rule {
        Some(rule) => steps.push(step("access", rule, &resource("AccessPolicy", rule), format!("{caller} {verb}"))),
        None => {
            let default = if snapshot.default_allows() { "Allow" } else { "Deny" };
            let detail = format!("no rule fits {caller}: the mesh's default is {default}");
            steps.push(step("access", "default", "Mesh/mesh", detail));
        }
    }
    if let Some(shadow) = shadow {
        let detail = "a Shadow policy would have decided otherwise";
        steps.push(step("access", &shadow, &resource("AccessPolicy", &shadow), detail));
    }
}

#[cfg(test)]
mod tests;
