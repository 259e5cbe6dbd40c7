// SPDX-License-Identifier: Apache-2.0
//! One request and its response: the L7 state machine. A proxy begins it with the request's head,
//! performs each [`Effect`], reports what came of it, and finishes it for the [`Verdict`]. All four
//! mounts, `explain` and the simulator run this code. No IO, no clock, no lock.

use crate::answer::{Answer, FAILURE_HEADER, FAILURE_LOST, FAILURE_UNSENT};
use crate::aside::{Aside, Copy, Records};
use crate::attempts::Ending;
use crate::authorize::{self, Ruling};
use crate::balance::hash;
use crate::cluster::Cluster;
use crate::course::{Course, Goal, Step, give_up};
use crate::enlist::Enlistment;
use crate::keyed::{self, Claim, Keyed};
use crate::pick::Pick;
use crate::queue::Place;
use crate::route::Chosen;
use crate::session::{self, Found, Visit};
use crate::shard::Shard;
use crate::snapshot::{Port, Snapshot, Subtree};
use crate::trace::Trace;
use crate::verdict::{Decided, Labels, Verdict, method_label};
use crate::{Arrival, DecisionId, Effect, Failure, Outcome, Plan, Reason, Side, Tls};
use crate::{cors, deadline, enter, fault, filter, overload, quota, retry};
use byrnie_base::{Instant, Now, Text, assert_size};
use byrnie_codec::grpc::{self, Status};
use byrnie_codec::headers::{Sender, strip_untrusted_response};
use byrnie_codec::{Fields, Head, Known, Version};
use byrnie_model::policy::fault::Fault;
use call::Kind;
use std::sync::Arc;
use std::time::Duration;
pub(crate) use words::absent_backend;
use words::{nearest, unknown_service};

/// One request and its response. Dropping it without [`Exchange::finish`] gives back all that it holds.
#[derive(Debug)]
pub struct Exchange {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) facts: Facts,
    pub(crate) course: Course,
    pub(crate) chosen: Option<Chosen>,
    pub(crate) access: Option<Ruling>,
    /// Until it ends.
    source: Option<Text>,
    pub(crate) service: Option<Arc<Subtree>>,
    pub(crate) nearest: Option<Text>,
    reason: Option<Reason>,
    pub(crate) aside: Option<Box<Aside>>,
    /// Only where a policy protects the request and it carries a key.
    pub(crate) keyed: Option<Box<Keyed>>,
}

assert_size!(Exchange, 472);

/// What doesn't change from begin to end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    id: DecisionId,
    pub(crate) side: Side,
    method: &'static str,
    kind: Kind,
    tls: Tls,
    begun: Instant,
}

/// Pause before it's asked again how an own earlier try, still under way, has ended.
const OWN_TRY_PAUSE: Duration = Duration::from_millis(500);
/// For a method that isn't carried at all (RFC 9110 15.6.2).
const NOT_IMPLEMENTED: u16 = 501;

impl Exchange {
    /// Decides on a request. `head` is edited to what is to be sent.
    pub fn begin(
        snapshot: &Arc<Snapshot>,
        shard: &mut Shard,
        arrival: &Arrival<'_>,
        head: &mut Head,
        now: Now,
    ) -> (Self, Effect) {
        let mut exchange = Self::open(snapshot, shard, arrival, head, now);
        let effect = exchange.decide(snapshot, shard, arrival, head, now);
        (exchange, effect)
    }

    /// The second half of [`Exchange::begin`]: decides, right after [`Exchange::open`], under the same snapshot, and once.
    pub fn decide(
        &mut self,
        snapshot: &Arc<Snapshot>,
        shard: &mut Shard,
        arrival: &Arrival<'_>,
        head: &mut Head,
        now: Now,
    ) -> Effect {
        if self.facts.side != Side::Inbound && head.header(Known::ByrnieDecision).is_some() {
            self.aside().records.asked = true;
        }
        if enter::request(shard, arrival, snapshot.node.identity.trust_domain(), head) {
            self.aside().posed = true;
        }
        if let Some(trace) = snapshot.mesh.traces.and_then(|of| Trace::enter(of, shard, arrival, head, now.mono)) {
            self.aside().trace = Some(trace);
        }
        let decided = match arrival.direction.side() {
            Side::Inbound => self.decide_inbound(snapshot, shard, arrival, head, now.mono),
            Side::Outbound | Side::Edge => self.decide_outbound(snapshot, shard, arrival, head, now),
        };
        self.effect_of(decided, head, now)
    }

    pub(crate) fn effect_of(&mut self, decided: Result<Decision, Box<Answer>>, head: &mut Head, now: Now) -> Effect {
        match decided {
            Ok(Decision::Send(plan)) => {
                plan.stamp(head, now);
                Effect::Send(plan)
            }
            Ok(Decision::Lease(asked)) => Effect::Lease(asked),
            Ok(Decision::Enlist(enlistment)) => Effect::Enlist(enlistment),
            Ok(Decision::Claim(claim)) => Effect::Claim(claim),
            Ok(Decision::Queue(place)) => Effect::Queue(place),
            Ok(Decision::Pick(pick)) => Effect::Pick(pick),
            Err(answer) => self.reply(answer),
        }
    }

    /// The first half of [`Exchange::begin`], for whoever keeps it in one place: half a KiB is copied each time that one is
    /// handed on.
    pub fn open(snapshot: &Arc<Snapshot>, shard: &mut Shard, arrival: &Arrival<'_>, head: &Head, now: Now) -> Self {
        let side = arrival.direction.side();
        let grpc = grpc::is_grpc(head);
        let facts = Facts {
            id: DecisionId::draw(&mut shard.rng),
            side,
            method: method_label(head.method()),
            kind: Kind::of(grpc),
            tls: arrival.tls,
            begun: now.mono,
        };
        // What speaks HTTP/2 to the edge is a browser, which says nothing of the program; gRPC is nothing else anywhere.
        let h2 = grpc || head.version() == Version::Http2 && side != Side::Edge;
        Self {
            snapshot: Arc::clone(snapshot),
            facts,
            course: Course { h2, ..Course::new() },
            chosen: None,
            access: None,
            source: Some(source_label(snapshot, shard, arrival)),
            service: None,
            nearest: None,
            reason: None,
            aside: None,
            keyed: None,
        }
    }

    /// Whether there are copies that were not taken yet.
    pub fn has_copies(&self) -> bool {
        self.aside.as_ref().is_some_and(|aside| !aside.copies.is_empty())
    }

    /// Copies of the request that its route wants sent elsewhere: each is to be sent once its body is known,
    /// if that's at hand then, and never to hold up the exchange. The second time there are none.
    pub fn take_copies(&mut self) -> Vec<Copy> {
        self.aside.as_mut().map(|aside| std::mem::take(&mut aside.copies)).unwrap_or_default()
    }

    /// How long the body of the answer is to be held back after its head: a fault on purpose.
    pub fn body_delay(&self) -> Duration {
        self.aside.as_ref().map_or(Duration::ZERO, |aside| aside.slow_body)
    }

    /// The id of this exchange's record, for `x-byrnie-decision`.
    pub fn id(&self) -> &DecisionId {
        &self.facts.id
    }

    /// The request's body can't be sent again: more of it has passed than the proxy keeps. Say so before
    /// the event that might lead to another try, a response included.
    pub fn body_gone(&mut self) {
        self.course.policy.body_held = false;
    }

    /// Takes in the head of a final response (not 1xx, but 101) and edits it for the caller. If another
    /// try follows, the response is of no use any more: its connection is to be closed or its body drained.
    pub fn on_response(&mut self, shard: &mut Shard, head: &mut Head, at: Now) -> Effect {
        let now = at.mono;
        self.note_grpc(|| head.header(Known::GrpcStatus));
        if self.facts.side == Side::Inbound {
            if self.course.cluster().is_some() {
                self.heed(head, now);
            }
            self.release(shard, true, now);
            // The own program can't speak for the mesh.
            strip_untrusted_response(head, Sender::Program);
            if head.status() >= 500 && self.was_spent(now) {
                head.set_known(Known::ByrnieRetryBudget, b"0").ok();
            }
            if let Some(aside) = &self.aside {
                if let Some(left) = &aside.quota.left {
                    quota::tell(left, head);
                }
                let member = self.course.attempts.last().and_then(|attempt| attempt.member.as_ref());
                if let Some(member) = member.filter(|_| aside.sticks) {
                    session::confess(member, head);
                }
            }
            self.course.end(shard, Ending::Status(head.status()), now);
            if self.holds_key() {
                return Effect::Keep;
            }
            self.tell_load(head, now);
            self.code(shard, head);
            return Effect::Forward;
        }
        if let Some(failure) = peer_failure(head) {
            match self.course.fail(shard, failure, now) {
                Step::Send(plan) => return Effect::Send(plan),
                Step::Give(_) | Step::Wait => {}
            }
            head.remove(FAILURE_HEADER);
        } else {
            self.course.end(shard, Ending::Status(head.status()), now);
            self.heed(head, now);
            let spent = head.header(Known::ByrnieRetryBudget) == Some(b"0");
            if !spent && let Some(plan) = self.retry_on_status(shard, head, now) {
                return Effect::Send(plan);
            }
            if spent {
                self.spend(now);
                head.remove_known(Known::ByrnieRetryBudget);
            }
            if self.course.attempts.is_retried() {
                shard.counts.retries_won += 1;
            }
        }
        self.hide_load(head);
        if let Some(visit) = self.aside.as_mut().and_then(|aside| aside.visit.as_mut()) {
            visit.hear(head);
        }
        if let Some(id) = head.header(Known::ByrnieDecision).and_then(|id| std::str::from_utf8(id).ok()) {
            self.aside().records.peer = Some(id.into());
        }
        if let Some(chosen) = &self.chosen {
            chosen.changes().edit_response(head);
            if let Some(changes) = chosen.backend_changes() {
                changes.edit_response(head);
            }
            self.mark(head, at);
        }
        if self.aside.as_ref().is_some_and(|aside| aside.records.asked) {
            self.tell_decision(head);
        }
        Effect::Forward
    }

    /// The trailers of the response that was forwarded: there gRPC says how the call went.
    pub fn on_trailers(&mut self, trailers: &Fields, now: Now) {
        if let Some(status) = trailers.known(Known::GrpcStatus) {
            self.note_grpc(|| Some(status));
        }
        if self.course.cluster().is_none() {
            return;
        }
        if let Some(status) = trailers.known(Known::GrpcStatus) {
            self.heed_grpc(status, None, now.mono);
        }
        self.hear_load(|name| trailers.get(name), now.mono);
    }

    /// What an answer says about its endpoint, beside its status.
    fn heed(&mut self, head: &Head, now: Instant) {
        // Who has used up its own quota learns nothing of the endpoint.
        let others = |_: &&[u8]| head.get(quota::LEFT_FIELD).is_none();
        let hold = head.header(Known::RetryAfter).filter(others).and_then(retry_after);
        if let (429 | 503, Some(hold)) = (head.status(), hold) {
            self.course.refused(hold, now);
        }
        if let Some(status) = head.header(Known::GrpcStatus) {
            self.heed_grpc(status, hold, now);
        }
        self.hear_load(|name| head.get(name), now);
    }

    fn heed_grpc(&mut self, status: &[u8], hold: Option<Duration>, now: Instant) {
        if matches!(Status::parse(status), Status::ResourceExhausted | Status::Unavailable) {
            self.course.refused(hold.unwrap_or_default(), now);
        }
    }

    /// The try under way failed before a response head had come.
    pub fn on_failure(&mut self, shard: &mut Shard, failure: Failure, now: Now) -> Effect {
        let step = self.course.fail(shard, failure, now.mono);
        if matches!(step, Step::Give(_)) && self.course.attempts.count() > 1 && self.course.cluster().is_some() {
            self.spend(now.mono);
        }
        keyed::conclude(self, step, failure)
    }

    /// Ends the exchange.
    pub fn finish(mut self, shard: &mut Shard, outcome: Outcome, now: Now) -> Verdict {
        self.end(shard, outcome, now)
    }

    /// [`Exchange::finish`] where it stands; it's of no use afterwards.
    pub fn end(&mut self, shard: &mut Shard, outcome: Outcome, now: Now) -> Verdict {
        if let Some(failure) = outcome.failure {
            self.course.break_off(shard, failure, now.mono);
            self.reason = self.reason.or(Some(Reason::of(failure)));
        }
        let (status, grpc) = self.status_told(outcome.status);
        self.learn_success(shard, status, now.mono);
        self.course.pending = None;
        let words = &self.snapshot.words;
        let route = match (&self.chosen, &self.course.goal) {
            (Some(chosen), _) => chosen.label().clone(),
            (None, Goal::Cluster(_) | Goal::Picked(_)) if self.facts.side != Side::Inbound => words.default.clone(),
            (None, _) => words.none.clone(),
        };
        let (rule, shadow) = match self.access.take() {
            Some(ruling) => (ruling.rule.unwrap_or_else(|| words.default.clone()), ruling.shadow),
            None => (words.none.clone(), None),
        };
        let destination = self.service.as_ref().map_or(&words.unknown, |service| &service.label).clone();
        let source = self.source.take().unwrap_or_else(|| words.unknown.clone());
        let keyed = self.keyed.take().map(|keyed| (keyed.protection.policy.guarantee, keyed.note));
        let (trace, Records { asked, peer }) =
            self.aside.take().map(|aside| (aside.trace, aside.records)).unwrap_or_default();
        let Facts { id, side, method, tls, begun, .. } = self.facts;
        // Outbound, what counts is the connection that the mesh makes.
        let hopped = side != Side::Inbound && self.course.attempts.count() > 0;
        let tls = if hopped { Tls::Mutual } else { tls };
        Verdict {
            id,
            labels: Labels { side, source, destination, method, tls },
            decided: Decided {
                route,
                rule,
                shadow,
                nearest: self.nearest.take(),
                keyed,
                peer,
                revision: self.snapshot.revision,
            },
            status,
            grpc,
            reason: self.reason,
            attempts: std::mem::take(&mut self.course.attempts),
            duration: now.mono.since(begun),
            asked,
            trace,
        }
    }

    pub(crate) fn reply(&mut self, mut answer: Box<Answer>) -> Effect {
        self.note_reason(answer.reason);
        answer.side = Some(self.facts.side);
        Effect::Reply(answer)
    }

    /// Whether only the head of the answer was asked for.
    pub(crate) fn is_head(&self) -> bool {
        self.facts.method == "HEAD"
    }

    pub(crate) const fn reason(&self) -> Option<Reason> {
        self.reason
    }

    pub(crate) fn note_reason(&mut self, reason: Reason) {
        self.reason = Some(reason);
    }

    pub(crate) fn give_up(&self, reason: Reason, failure: Option<Failure>) -> Box<Answer> {
        Box::new(give_up(reason, failure, self.facts.side, self.is_grpc(), &self.course))
    }

    /// The answer that there is can't be handed on: what the caller is told instead. Nothing of it may have been said.
    pub fn on_unsayable(&mut self, failure: Failure) -> Box<Answer> {
        let answer = self.refuse(Reason::of(failure), failure.to_string());
        self.note_reason(answer.reason);
        answer
    }

    pub(crate) fn refuse(&self, reason: Reason, detail: impl Into<Text>) -> Box<Answer> {
        Box::new(Answer::new(reason, self.is_grpc(), detail))
    }

    fn decide_outbound(
        &mut self,
        snapshot: &Arc<Snapshot>,
        shard: &mut Shard,
        arrival: &Arrival<'_>,
        head: &mut Head,
        at: Now,
    ) -> Result<Decision, Box<Answer>> {
        let found = shard.recent.resolve(snapshot, &arrival.direction, || (head.host(), head.port()));
        let (tree, at_port) = match found {
            Ok(found) => found,
            Err(_) if arrival.direction.side() == Side::Edge => {
                return self.decide_edge(snapshot, shard, arrival, head, at);
            }
            Err(Reason::AccessDenied) => {
                let named = snapshot.named(head.host(), head.port().unwrap_or(80));
                self.service = named.and_then(|at| snapshot.subtree(&at.namespace, &at.name)).cloned();
                let label = self.service.as_ref().map_or(&snapshot.words.unknown, |tree| &tree.label).clone();
                return Err(self.deny(snapshot, &label));
            }
            Err(reason) => return Err(self.refuse(reason, unknown_service(arrival, head))),
        };
        if tree.closed && arrival.direction.side() == Side::Outbound && !snapshot.default_allows() {
            let denied = self.deny(snapshot, &tree.label);
            self.service = Some(tree);
            return Err(denied);
        }
        let decided = self.decide_service(snapshot, shard, (&tree, &tree.ports[at_port]), arrival, head, at);
        self.service = Some(tree);
        decided
    }

    /// The callee would refuse it: where no policy names a caller, its proxy isn't told how to get there.
    fn deny(&self, snapshot: &Snapshot, callee: &str) -> Box<Answer> {
        let own = &snapshot.words.own;
        let detail = format!("no policy lets {own} call {callee}; allow it by `byrnie allow {own} {callee}`");
        self.refuse(Reason::AccessDenied, detail)
    }

    /// What asks for a port of a service: its routes decide.
    fn decide_service(
        &mut self,
        snapshot: &Snapshot,
        shard: &mut Shard,
        (tree, port): (&Subtree, &Port),
        arrival: &Arrival<'_>,
        head: &mut Head,
        at: Now,
    ) -> Result<Decision, Box<Answer>> {
        let now = at.mono;
        self.forwardable(head)?;
        if head.authority().is_empty() {
            // HTTP/1.0 without Host: whoever comes next asks for one.
            head.set_authority(&tree.label).ok();
        }
        self.course.deadline = deadline::read(head, now);
        let logical = snapshot.cluster(port.cluster).ok_or_else(|| self.refuse(Reason::Internal, "no cluster"))?;
        overload::admit(self, shard, arrival, head, now)?;
        let keyed = keyed::prepare(tree.protection.as_deref(), &mut shard.rng, head);
        let cluster = self.route(snapshot, shard, (tree, port), head, at)?;
        self.park_or_launch(shard, arrival, head, (logical, cluster, keyed), at)
    }

    /// What comes from outside and names no service of the mesh: the routes on gateways decide.
    fn decide_edge(
        &mut self,
        snapshot: &Snapshot,
        shard: &mut Shard,
        arrival: &Arrival<'_>,
        head: &mut Head,
        at: Now,
    ) -> Result<Decision, Box<Answer>> {
        let gate = arrival.direction.gate();
        if snapshot.edge.is_misdirected(gate, head) {
            let detail = format!("{} is not served on a connection made for another host", head.host());
            return Err(self.refuse(Reason::Misdirected, detail));
        }
        let Some(chosen) = snapshot.edge.choose(gate, head) else {
            let nearest = nearest(|| snapshot.edge.misses(gate, head).map(|(_, entry, miss)| (entry, miss)));
            let known = nearest.is_some();
            self.nearest = nearest;
            let (reason, detail) = if known {
                (Reason::NoRoute, format!("no rule of a route on a gateway fits {}{}", head.authority(), head.path()))
            } else {
                (Reason::UnknownService, unknown_service(arrival, head))
            };
            return Err(self.refuse(reason, detail));
        };
        self.forwardable(head)?;
        self.course.deadline = deadline::read(head, at.mono);
        let cluster = self.follow(snapshot, shard, (chosen, gate.port()), head, at)?;
        let to = cluster.service();
        self.service = snapshot.subtree(&to.namespace, &to.name).cloned();
        if head.authority().is_empty() {
            head.set_authority(&cluster.name.label).ok();
        }
        overload::admit(self, shard, arrival, head, at.mono)?;
        let protection = self.service.as_ref().and_then(|tree| tree.protection.as_deref());
        let keyed = keyed::prepare(protection, &mut shard.rng, head);
        self.park_or_launch(shard, arrival, head, (&Arc::clone(&cluster), cluster, keyed), at)
    }

    /// The first try at a cluster, for a call of the service that was asked for.
    pub(crate) fn launch(
        &mut self,
        shard: &mut Shard,
        arrival: &Arrival<'_>,
        head: &mut Head,
        (asked, cluster, keyed): (&Cluster, Arc<Cluster>, bool),
        at: Now,
    ) -> Result<Decision, Box<Answer>> {
        let now = at.mono;
        let rule = self.chosen.as_ref().map(Chosen::rule);
        let retry = rule.and_then(|rule| rule.retry.as_ref());
        let allowed = retries_allowed(head);
        let policy = retry::Policy::of(head.method(), &cluster.call, retry, allowed);
        self.course.policy =
            retry::Policy { repeatable: policy.repeatable || asked.call.unsafe_retry || keyed, keyed, ..policy };
        self.course.limits.timeout = rule.and_then(|rule| rule.backend_timeout);
        self.course.limits.backoff = retry.and_then(|retry| retry.backoff);
        if let Some(memory) = shard.clusters.entry(cluster.slot) {
            memory.budget.request(&cluster.call, now);
        }
        if let Some(on) = cluster.call.hash.as_ref().map(|hash| &hash.on) {
            self.course.key = hash::key(on, head, arrival, &self.snapshot.node.name);
        }
        self.suffer(asked.call.fault.as_ref().or(cluster.call.fault.as_ref()), shard, head, at)?;
        self.course.goal = Goal::Cluster(cluster);
        self.pick_or_dispatch(shard, head, at)
    }

    /// What a policy makes callers suffer on purpose.
    fn suffer(&mut self, fault: Option<&Fault>, shard: &mut Shard, head: &Head, now: Now) -> Result<(), Box<Answer>> {
        let Some(blow) = fault::strike(fault, head, shard, now.wall) else { return Ok(()) };
        if blow.abort.is_none() && !blow.reset {
            self.course.limits.delay = blow.delay;
            if !blow.slow_body.is_zero() {
                self.aside().slow_body = blow.slow_body;
            }
            return Ok(());
        }
        let mut answer = self.refuse(Reason::FaultInjected, "a TrafficPolicy injects this fault on purpose");
        answer.status = blow.abort.unwrap_or(answer.status);
        (answer.delay, answer.cut) = (blow.delay, blow.reset);
        Err(answer)
    }

    /// Refuses what no proxy may pass on: a TRACE answer echoes what the mesh added, and after a CONNECT the
    /// two sides would not agree on whether HTTP follows. A CONNECT that opens a tunnel never becomes an
    /// exchange.
    pub(crate) fn forwardable(&self, head: &Head) -> Result<(), Box<Answer>> {
        if !matches!(head.method(), "CONNECT" | "TRACE") {
            return Ok(());
        }
        let mut answer = self.refuse(Reason::BadRequest, format!("{} is not passed on", head.method()));
        answer.status = NOT_IMPLEMENTED;
        Err(answer)
    }

    pub(crate) fn dispatch(&mut self, shard: &mut Shard, now: Instant) -> Result<Plan, Box<Answer>> {
        let planned = self.course.dispatch(shard, now);
        planned.map_err(|reason| self.give_up(reason, None))
    }

    /// The cluster that the routes of the port lead to, with their filters done.
    fn route(
        &mut self,
        snapshot: &Snapshot,
        shard: &mut Shard,
        (tree, port): (&Subtree, &Port),
        head: &mut Head,
        now: Now,
    ) -> Result<Arc<Cluster>, Box<Answer>> {
        if port.table.is_empty() {
            let own = snapshot.cluster(port.cluster).map(Arc::clone);
            let own = own.ok_or_else(|| self.refuse(Reason::Internal, "no cluster"))?;
            own.address(head);
            return Ok(own);
        }
        let Some(chosen) = port.table.choose(head) else {
            self.nearest = nearest(|| port.table.misses(head));
            let detail = format!("{} has routes, but none of their rules fits the request", tree.label);
            return Err(self.refuse(Reason::NoRoute, detail));
        };
        self.follow(snapshot, shard, (chosen, None), head, now)
    }

    /// The cluster that a rule leads to, with its filters done; `listener`: by a gateway's at this port.
    fn follow(
        &mut self,
        snapshot: &Snapshot,
        shard: &mut Shard,
        (mut chosen, listener): (Chosen, Option<u16>),
        head: &mut Head,
        now: Now,
    ) -> Result<Arc<Cluster>, Box<Answer>> {
        let visit = chosen.rule().session.as_ref().map(|session| Visit::of(session, head, now.wall));
        let had = visit.as_ref().and_then(|visit| visit.find(snapshot, chosen.clusters()));
        let slot = match had {
            Some(Found { at, member }) => {
                chosen.take_backend(at);
                self.course.first = member;
                chosen.clusters().find(|(other, _)| *other == at).map(|(_, slot)| slot)
            }
            None => chosen.draw_backend(&mut shard.rng),
        };
        if visit.is_some() {
            self.aside().visit = visit;
        }
        self.chosen = Some(chosen);
        let Some(chosen) = &self.chosen else { return Err(self.refuse(Reason::Internal, "no rule")) };
        let rule = chosen.rule();
        let of_backend = chosen.backend().map_or(&[][..], |backend| &backend.filters);
        if let Some(timeout) = rule.timeout {
            let end = now.mono + timeout;
            self.course.deadline = Some(self.course.deadline.map_or(end, |deadline| deadline.min(end)));
        }
        let prefix = chosen.matched().prefix();
        let cors = cors::find(&rule.filters, of_backend);
        if let Some(answer) = cors.and_then(|cors| cors::preflight(cors, head)) {
            return Err(Box::new(answer));
        }
        if let Some(redirect) = filter::redirect(&rule.filters).or_else(|| filter::redirect(of_backend)) {
            let location = filter::location(redirect, head, prefix, (self.facts.tls, listener));
            let mut answer = self.refuse(Reason::Redirect, format!("redirected to {location}"));
            (answer.status, answer.grpc) = (redirect.status, false);
            answer.fields.push((Known::Location.name(), location));
            return Err(answer);
        }
        let origin = cors.and_then(|cors| cors::granted(cors, head));
        if let Some(direct) = rule.answer() {
            let answer = self.answer_directly(direct);
            if origin.is_some() {
                self.aside().origin = origin;
            }
            return Err(answer);
        }
        let Some(cluster) = slot.and_then(|slot| snapshot.cluster(slot)) else {
            return Err(self.refuse(Reason::BackendAbsent, absent_backend(chosen)));
        };
        cluster.address(head);
        let edited = chosen.changes().edit_request(head, prefix, &mut shard.scratch);
        // Copies are what the rule makes of a request; what is done for one backend is for it alone.
        let mut copies = Vec::new();
        if chosen.has_copies() && edited.is_ok() {
            let clusters = chosen.draw_copies(&mut shard.rng).into_iter().filter_map(|slot| snapshot.cluster(slot));
            copies.extend(clusters.filter_map(|cluster| Copy::new(cluster, head, shard, now)));
        }
        let edited = edited.and_then(|()| match chosen.backend_changes() {
            Some(changes) => changes.edit_request(head, prefix, &mut shard.scratch),
            None => Ok(()),
        });
        if edited == Err(filter::Broken) {
            let detail = format!("the filters of {} do not yield a valid request", chosen.label());
            return Err(self.refuse(Reason::Internal, detail));
        }
        let cluster = Arc::clone(cluster);
        if let Some(visit) = self.aside.as_ref().and_then(|aside| aside.visit.as_ref()) {
            visit.ask(&cluster, head);
        }
        if origin.is_some() || !copies.is_empty() {
            let aside = self.aside();
            (aside.origin, aside.copies) = (origin, copies);
        }
        Ok(cluster)
    }

    pub(crate) fn aside(&mut self) -> &mut Aside {
        self.aside.get_or_insert_default()
    }

    /// Writes the id of this exchange's record, unless the callee's proxy made the answer, whose own record says why. One of
    /// another site keeps its records there.
    fn tell_decision(&self, head: &mut Head) {
        let member = self.course.attempts.last().and_then(|attempt| attempt.member.as_ref());
        let elsewhere = member.is_some_and(|member| member.site().is_some());
        if elsewhere || head.header(Known::ByrnieDecision).is_none() {
            head.set_known(Known::ByrnieDecision, self.facts.id.as_str().as_bytes()).ok();
        }
    }

    /// What the route wants told to the caller beside the answer.
    fn mark(&self, head: &mut Head, now: Now) {
        let (Some(chosen), Some(aside)) = (&self.chosen, &self.aside) else { return };
        self.permit(chosen, head);
        let member = self.course.attempts.last().and_then(|attempt| attempt.member.as_ref());
        if let (Some(visit), Some(session), Some(member)) = (&aside.visit, &chosen.rule().session, member) {
            visit.tell(session, member, self.facts.tls, now.wall, head);
        }
    }

    /// Takes note that a call was given up after retries. If the own program fails for it, its callers'
    /// proxies are told that a retry was tried already (`x-byrnie-retry-budget: 0` in the answer): only the hop
    /// next to the failure retries, whether or not the programs in between pass headers on. The two calls
    /// aren't known to belong together: all that fail at one time are taken to.
    pub(crate) fn spend(&self, now: Instant) {
        self.snapshot.spent.set(0, now.as_nanos());
    }

    fn was_spent(&self, now: Instant) -> bool {
        let at = self.snapshot.spent.value(0);
        at > 0 && now.since(Instant::from_nanos(at)) < retry::SPENT_FOR
    }

    /// Another try because of the response's status, where the route asks for it.
    fn retry_on_status(&mut self, shard: &mut Shard, head: &Head, now: Instant) -> Option<Plan> {
        if self.waits_for_itself(head) {
            let backoff = &mut self.course.limits.backoff;
            *backoff = (*backoff).max(Some(OWN_TRY_PAUSE));
            return self.try_again(shard, now);
        }
        let retry = self.chosen.as_ref()?.rule().retry.as_ref()?;
        // A call of gRPC that ends at once says how it went beside a status that is always 200.
        let status = head.header(Known::GrpcStatus).map_or(head.status(), |said| Status::parse(said).http());
        if !retry.codes.contains(&status) {
            return None;
        }
        let plan = self.try_again(shard, now);
        if plan.is_none() {
            self.spend(now);
        }
        plan
    }

    fn try_again(&mut self, shard: &mut Shard, now: Instant) -> Option<Plan> {
        let policy = &self.course.policy;
        let may = policy.repeatable
            && policy.body_held
            && self.course.attempts.count() < usize::from(policy.tries_max)
            && self.course.has_time(now);
        if !may || !self.course.withdraw(shard, now) {
            return None;
        }
        self.course.attempts.release();
        let plan = self.course.dispatch(shard, now).ok()?;
        shard.counts.retries += 1;
        Some(plan)
    }
}

/// What comes first.
pub(crate) enum Decision {
    Send(Plan),
    Lease(Box<quota::QuotaAsk>),
    Enlist(Box<Enlistment>),
    Claim(Box<Claim>),
    Queue(Place),
    Pick(Box<Pick>),
}

/// Why a call was refused, for the record and for the caller.
pub(crate) struct Refusal {
    pub(crate) nearest: Option<Text>,
    pub(crate) detail: Text,
}

impl Refusal {
    pub(crate) fn of(access: &authorize::Access, call: &authorize::Call<'_>, ruling: &Ruling, tree: &Subtree) -> Self {
        let nearest: Option<Text> = match &ruling.rule {
            Some(rule) => Some(format!("refused by rule {rule}").into()),
            None => access.nearest(call).map(Text::from),
        };
        // Names of policies are for callers of the same namespace; others get the record's id.
        let kin = call.source.is_some_and(|identity| *identity.namespace() == tree.service.namespace);
        let why = match &nearest {
            Some(nearest) if kin => format!("{} does not let you make this call: {nearest}", tree.label),
            _ => format!("{} does not let you make this call", tree.label),
        };
        Self { nearest, detail: why.into() }
    }
}

pub(crate) fn source_label(snapshot: &Snapshot, shard: &mut Shard, arrival: &Arrival<'_>) -> Text {
    match (arrival.direction.side(), arrival.source) {
        (Side::Outbound | Side::Edge, _) => snapshot.words.own.clone(),
        (Side::Inbound, Some(identity)) => shard.caller(identity, snapshot.node.identity.trust_domain()),
        (Side::Inbound, None) => snapshot.words.unknown.clone(),
    }
}

/// What the other proxy says of its own failure.
fn peer_failure(head: &Head) -> Option<Failure> {
    match head.get(FAILURE_HEADER)? {
        value if value == FAILURE_UNSENT.as_bytes() => Some(Failure::Refused),
        value if value == FAILURE_LOST.as_bytes() => Some(Failure::ResetBeforeHead { request_sent: true }),
        _ => None,
    }
}

/// The seconds of a `Retry-After` (RFC 9110 10.2.3). A date would need the other side's clock to be right.
fn retry_after(value: &[u8]) -> Option<Duration> {
    std::str::from_utf8(value).ok()?.parse().ok().map(Duration::from_secs)
}

/// The retries that the caller left for this hop and all behind it.
pub(crate) fn retries_allowed(head: &Head) -> Option<u8> {
    let value = head.header(Known::ByrnieRetryBudget)?;
    std::str::from_utf8(value).ok()?.parse::<u32>().ok().map(|n| u8::try_from(n).unwrap_or(u8::MAX))
}

mod call;
#[cfg(test)]
mod tests;
mod words;
