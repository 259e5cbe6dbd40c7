// SPDX-License-Identifier: Apache-2.0
//! One opaque connection, or flow of datagrams: the L4 state machine. Access by identity and port, an endpoint for the
//! connection, another one if it can't be opened. Once bytes flow, nothing is tried again.

use crate::answer::Answer;
use crate::attempts::Ending;
use crate::authorize::{self, Ruling};
use crate::cluster::{Busy, Cluster};
use crate::concurrency::Criticality;
use crate::course::{Course, Goal, Step, give_up};
use crate::exchange::{Refusal, absent_backend, source_label};
use crate::retry::Policy;
use crate::route::Chosen;
use crate::shard::Shard;
use crate::snapshot::{Port, Snapshot, Subtree};
use crate::verdict::{Decided, Labels, Verdict};
use crate::{Arrival, DecisionId, Direction, Effect, Failure, Outcome, Plan, Reason, Side, Tls, overload, resolve};
use byrnie_base::{Instant, Now, Text};
use byrnie_model::Protocol;
use std::sync::Arc;

/// What passes where nobody looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Opaque {
    /// The bytes of a connection.
    #[default]
    Bytes,
    /// The datagrams of a flow.
    Datagrams,
}

impl Opaque {
    /// Whether it's what a port takes that speaks `protocol`.
    fn fits(self, protocol: Protocol) -> bool {
        (self == Self::Datagrams) == (protocol == Protocol::Udp)
    }

    /// As it's told.
    const fn name(self) -> &'static str {
        match self {
            Self::Bytes => "connections",
            Self::Datagrams => "datagrams",
        }
    }
}

/// One opaque connection, or flow of datagrams. Dropping it without [`Tunnel::finish`] gives back all that it holds.
#[derive(Debug)]
pub struct Tunnel {
    snapshot: Arc<Snapshot>,
    id: DecisionId,
    side: Side,
    tls: Tls,
    begun: Instant,
    course: Course,
    source: Text,
    service: Option<Arc<Subtree>>,
    /// The rule that it follows.
    route: Option<Text>,
    access: Option<Ruling>,
    nearest: Option<Text>,
    reason: Option<Reason>,
}

impl Tunnel {
    /// Decides on a connection. [`Effect::Reply`] means: close it.
    pub fn begin(snapshot: &Arc<Snapshot>, shard: &mut Shard, arrival: &Arrival<'_>, now: Now) -> (Self, Effect) {
        Self::begin_with(snapshot, shard, (arrival, Opaque::Bytes), now)
    }

    /// The same of whatever passes.
    pub fn begin_with(
        snapshot: &Arc<Snapshot>,
        shard: &mut Shard,
        (arrival, opaque): (&Arrival<'_>, Opaque),
        now: Now,
    ) -> (Self, Effect) {
        let mut tunnel = Self {
            snapshot: Arc::clone(snapshot),
            id: DecisionId::draw(&mut shard.rng),
            side: arrival.direction.side(),
            tls: arrival.tls,
            begun: now.mono,
            course: Course::new(),
            source: source_label(snapshot, shard, arrival),
            service: None,
            route: None,
            access: None,
            nearest: None,
            reason: None,
        };
        let decided = match tunnel.side {
            Side::Inbound => tunnel.decide_inbound(shard, (arrival, opaque), now.mono),
            Side::Outbound | Side::Edge => tunnel.decide_outbound(shard, (arrival, opaque), now.mono),
        };
        let effect = match decided {
            Ok(plan) => Effect::Send(plan),
            Err(answer) => tunnel.reply(answer),
        };
        (tunnel, effect)
    }

    /// The endpoints among which it was chosen.
    pub(crate) fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.course.cluster()
    }

    /// The id of this tunnel's record.
    pub fn id(&self) -> &DecisionId {
        &self.id
    }

    /// Whether it leads to a program that may speak HTTP: a request would pass there with whatever its caller wrote in it, by who it
    /// is and what it is for, which only the proxy may say.
    pub fn takes_no_request(&self) -> bool {
        self.course.takes_no_request
    }

    /// A request came all the same, and was kept back.
    pub fn refuse_request(&mut self) {
        self.reason = Some(Reason::AccessDenied);
        self.nearest = Some("a request of HTTP came as opaque bytes: it has to come as a request".into());
    }

    /// It is open in case that it's needed, and takes nobody's place until it is.
    pub fn rest(&mut self) {
        self.course.pending = None;
    }

    /// The connection stands: from now on bytes flow, and no other endpoint is tried.
    pub fn on_connect(&mut self, shard: &mut Shard, now: Now) {
        if self.course.pending.is_none()
            && let Some(cluster) = self.course.cluster().filter(|cluster| cluster.call.bounds.pending.is_some())
        {
            self.course.pending = Some(Busy::on(&cluster.call.share.pending));
        }
        self.course.end(shard, Ending::Closed, now.mono);
        self.course.policy = Policy::NEVER;
    }

    /// The connection could not be opened.
    pub fn on_failure(&mut self, shard: &mut Shard, failure: Failure, now: Now) -> Effect {
        match self.course.fail(shard, failure, now.mono) {
            Step::Send(plan) => Effect::Send(plan),
            Step::Wait => Effect::Wait,
            Step::Give(reason) => {
                // Bytes aren't processed: there was no connection for them.
                let reason = if reason == Reason::Unprocessed { Reason::ConnectFailure } else { reason };
                let answer = give_up(reason, Some(failure), self.side, false, &self.course);
                self.reply(Box::new(answer))
            }
        }
    }

    /// Ends the tunnel.
    pub fn finish(mut self, shard: &mut Shard, outcome: Outcome, now: Now) -> Verdict {
        if let Some(failure) = outcome.failure {
            self.course.break_off(shard, failure, now.mono);
            self.reason = self.reason.or(Some(Reason::of(failure)));
        }
        let words = &self.snapshot.words;
        let outbound = self.side != Side::Inbound && self.course.cluster().is_some();
        let route = self.route.unwrap_or_else(|| if outbound { &words.default } else { &words.none }.clone());
        let (rule, shadow) = match self.access {
            Some(ruling) => (ruling.rule.unwrap_or_else(|| words.default.clone()), ruling.shadow),
            None => (words.none.clone(), None),
        };
        let destination = self.service.as_ref().map_or(&words.unknown, |service| &service.label).clone();
        let tls = if outbound && self.course.attempts.count() > 0 { Tls::Mutual } else { self.tls };
        Verdict {
            id: self.id,
            labels: Labels { side: self.side, source: self.source, destination, method: "", tls },
            decided: Decided {
                route,
                rule,
                shadow,
                nearest: self.nearest,
                keyed: None,
                peer: None,
                revision: self.snapshot.revision,
            },
            status: outcome.status,
            grpc: None,
            reason: self.reason,
            attempts: self.course.attempts,
            duration: now.mono.since(self.begun),
            asked: false,
            trace: None,
        }
    }

    fn reply(&mut self, answer: Box<Answer>) -> Effect {
        self.reason = Some(answer.reason);
        Effect::Reply(answer)
    }

    fn decide_inbound(
        &mut self,
        shard: &mut Shard,
        (arrival, opaque): (&Arrival<'_>, Opaque),
        now: Instant,
    ) -> Result<Plan, Box<Answer>> {
        let snapshot = Arc::clone(&self.snapshot);
        let found = resolve::resolve(&snapshot, &arrival.direction, || ("", None)).ok();
        let served = found.and_then(|(tree, port)| Some((tree, port, port.program.as_ref()?, tree.access.as_ref()?)));
        let Some((tree, port, program, access)) = served else {
            return Err(refuse(Reason::NotServed, "this workload does not serve that service port"));
        };
        self.service = Some(Arc::clone(tree));
        self.course.takes_no_request = port.protocol == Protocol::Undeclared;
        if let Some(detail) = unfit(tree, port, opaque) {
            self.nearest = Some(detail.as_str().into());
            return Err(refuse(Reason::AccessDenied, detail));
        }
        let call = authorize::Call { source: arrival.source, port: program.port(), http: None };
        let ruling = access.rule_on(&call, snapshot.default_allows());
        let allowed = ruling.allowed;
        if !allowed {
            let refusal = Refusal::of(access, &call, &ruling, tree);
            self.nearest = refusal.nearest;
            self.access = Some(ruling);
            return Err(refuse(Reason::AccessDenied, refusal.detail));
        }
        self.access = Some(ruling);
        if let Some(why) = program.broken() {
            return Err(refuse(Reason::BackendAbsent, format!("{} is not reached: {why}", tree.label)));
        }
        if let Some(why) = program.sick() {
            return Err(refuse(Reason::NoEndpoint, format!("{} is not reached: {why}", tree.label)));
        }
        self.spare(shard, arrival, now)?;
        match self.snapshot.cluster(port.cluster).filter(|cluster| cluster.beyond.is_some()) {
            Some(cluster) => self.course.aim_far(Arc::clone(cluster), Policy::FAR, shard, now),
            None => {
                let protocol = if opaque == Opaque::Datagrams { Protocol::Udp } else { Protocol::Tcp };
                self.course.goal = Goal::Program { program: program.clone(), protocol };
            }
        }
        self.dispatch(shard, now)
    }

    fn decide_outbound(
        &mut self,
        shard: &mut Shard,
        (arrival, opaque): (&Arrival<'_>, Opaque),
        now: Instant,
    ) -> Result<Plan, Box<Answer>> {
        self.spare(shard, arrival, now)?;
        let cluster = self.find(shard, (arrival, opaque))?;
        // Another site's proxy says by itself what it asks for: here nothing but its TLS is seen.
        if !opaque.fits(cluster.protocol) && !matches!(arrival.direction, Direction::Site { .. }) {
            let (name, speaks) = (cluster.service(), cluster.protocol.name());
            return Err(refuse(
                Reason::NotServed,
                format!("{name} speaks {speaks} there, and takes no {}", opaque.name()),
            ));
        }
        if let Direction::Site { .. } = arrival.direction {
            // Limits and budgets are the callers' own; here nothing but the endpoint is chosen.
            self.course.at_home = true;
            self.course.policy = Policy::FAR;
            self.course.goal = Goal::Cluster(cluster);
            return self.dispatch(shard, now);
        }
        if let Some(most) = cluster.call.bounds.pending.map(|pending| pending.max) {
            let busy = Busy::on(&cluster.call.share.pending);
            if cluster.call.share.pending.value() > u64::from(most) {
                return Err(refuse(Reason::Overload, "too many connections are open already"));
            }
            self.course.pending = Some(busy);
        }
        if cluster.over_rate(now).is_some() {
            return Err(refuse(Reason::RateLimited, "the rate limit of the service is reached"));
        }
        if let Some(memory) = shard.clusters.entry(cluster.slot) {
            memory.budget.request(&cluster.call, now);
        }
        self.course.policy = Policy::FAR;
        self.course.goal = Goal::Cluster(cluster);
        self.dispatch(shard, now)
    }

    /// Refuses a connection that the proxy is too short of something for.
    fn spare(&mut self, shard: &mut Shard, arrival: &Arrival<'_>, now: Instant) -> Result<(), Box<Answer>> {
        let Some(detail) = overload::refusal(shard, arrival, Criticality::Critical, now) else { return Ok(()) };
        self.nearest = Some(detail.clone());
        Err(refuse(Reason::Strain, detail))
    }

    /// Where a connection leads: by the routes of the service asked for, or of the listener that it came by.
    fn find(
        &mut self,
        shard: &mut Shard,
        (arrival, opaque): (&Arrival<'_>, Opaque),
    ) -> Result<Arc<Cluster>, Box<Answer>> {
        let snapshot = Arc::clone(&self.snapshot);
        if let Direction::Edge(gate) = arrival.direction {
            let chosen = snapshot.edge.choose_opaque(gate, gate.sni().unwrap_or_default());
            let detail = format!("no route of a listener is for these {}", opaque.name());
            return self.follow(shard, chosen.ok_or_else(|| refuse(Reason::NoRoute, detail))?);
        }
        let found = resolve::resolve(&snapshot, &arrival.direction, || ("", None));
        let (tree, port) = found.map_err(|reason| self.unknown(reason, &arrival.direction))?;
        self.service = Some(Arc::clone(tree));
        // Routes are for callers of this mesh: other sites have their own.
        let own = !matches!(arrival.direction, Direction::Site { .. });
        let routed = own && !port.protocol.is_http() && !port.table.is_empty();
        if routed && port.table.asks_for_hosts() {
            let Direction::Service { sni: Some(host), .. } = arrival.direction else {
                let detail = format!("routes of {} ask for a host, and the connection begins with none", tree.label);
                return Err(refuse(Reason::NoRoute, detail));
            };
            let none = || refuse(Reason::NoRoute, format!("no route of {} is for the host {host}", tree.label));
            return self.follow(shard, port.table.of_host(&host.to_ascii_lowercase()).ok_or_else(none)?);
        }
        match port.table.first().filter(|_| routed) {
            Some(chosen) => self.follow(shard, chosen),
            None => snapshot.cluster(port.cluster).cloned().ok_or_else(|| refuse(Reason::Internal, "no cluster")),
        }
    }

    /// Nothing is known of what is asked for. Who may not call a service is told of no more than its name.
    fn unknown(&mut self, reason: Reason, direction: &Direction<'_>) -> Box<Answer> {
        let named = match direction {
            Direction::Service { service, .. } => self.snapshot.subtree(&service.namespace, &service.name),
            _ => None,
        };
        let closed = named.filter(|tree| tree.closed && !self.snapshot.default_allows());
        let Some(tree) = closed.cloned() else { return refuse(reason, "no such service port is known here") };
        let (own, callee) = (&self.snapshot.words.own, &tree.label);
        let detail = format!("no policy lets {own} call {callee}; allow it by `byrnie allow {own} {callee}`");
        self.service = Some(tree);
        refuse(Reason::AccessDenied, detail)
    }

    /// One of a rule's backends.
    fn follow(&mut self, shard: &mut Shard, mut chosen: Chosen) -> Result<Arc<Cluster>, Box<Answer>> {
        self.route = Some(chosen.label().clone());
        let slot = chosen.draw_backend(&mut shard.rng);
        let cluster = slot.and_then(|slot| self.snapshot.cluster(slot)).cloned();
        let cluster = cluster.ok_or_else(|| refuse(Reason::BackendAbsent, absent_backend(&chosen)))?;
        let to = cluster.service();
        if self.service.is_none() {
            self.service = self.snapshot.subtree(&to.namespace, &to.name).cloned();
        }
        Ok(cluster)
    }

    fn dispatch(&mut self, shard: &mut Shard, now: Instant) -> Result<Plan, Box<Answer>> {
        let planned = self.course.dispatch(shard, now);
        planned.map_err(|reason| Box::new(give_up(reason, None, self.side, false, &self.course)))
    }
}

/// Why it may not pass to a port. Datagrams aren't connections; and what is decided on requests doesn't fit opaque bytes, so that a
/// caller that chose to send them would pass it by.
fn unfit(tree: &Subtree, port: &Port, opaque: Opaque) -> Option<String> {
    let (name, number) = (&tree.label, port.number);
    if !opaque.fits(port.protocol) {
        let speaks = port.protocol.name();
        return Some(format!("{name} speaks {speaks} on port {number}, and takes no {}", opaque.name()));
    }
    if opaque == Opaque::Datagrams {
        return None;
    }
    if !port.protocol.is_opaque() {
        return Some(format!("{name} speaks {} on port {number}, not opaque TCP", port.protocol.name()));
    }
    let counts = port.protocol.is_http() && (tree.protection.is_some() || !tree.quotas.is_empty());
    counts.then(|| format!("policies for {name} look at requests, and bytes on port {number} begin none"))
}

fn refuse(reason: Reason, detail: impl Into<Text>) -> Box<Answer> {
    Box::new(Answer::new(reason, false, detail))
}

#[cfg(test)]
mod tests;
