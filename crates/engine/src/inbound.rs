// SPDX-License-Identifier: Apache-2.0
//! What is decided at the callee's proxy before a request goes to its program: whether it's served and allowed, whether there is
//! room for it, and who has to be asked first.

use crate::authorize::{self, Access};
use crate::balance::hash;
use crate::cluster::Busy;
use crate::concurrency::{self, Criticality};
use crate::course::Goal;
use crate::exchange::{Decision, Exchange, Refusal, retries_allowed};
use crate::retry::Policy;
use crate::shard::Shard;
use crate::snapshot::{Port, Snapshot, Subtree};
use crate::{Answer, Arrival, Program, Reason, answer::FAILURE_UNSENT, deadline, overload, resolve, session};
use byrnie_base::Instant;
use byrnie_codec::{Head, Known};
use byrnie_model::Protocol;
use std::sync::Arc;

impl Exchange {
    pub(crate) fn decide_inbound(
        &mut self,
        snapshot: &Arc<Snapshot>,
        shard: &mut Shard,
        arrival: &Arrival<'_>,
        head: &mut Head,
        now: Instant,
    ) -> Result<Decision, Box<Answer>> {
        self.forwardable(head)?;
        self.course.deadline = deadline::read(head, now).map(|end| end + deadline::LATER);
        let found = shard.recent.resolve(snapshot, &arrival.direction, || (head.host(), head.port())).ok();
        let served = found.as_ref().and_then(|(tree, at)| {
            let port = &tree.ports[*at];
            // What takes datagrams takes no requests, nor does what may listen there besides.
            let takes = port.protocol != Protocol::Udp;
            takes.then_some(((&**tree, port), port.program.as_ref()?, tree.access.as_ref()?))
        });
        let Some((at, program, access)) = served else {
            let mut answer = self.refuse(Reason::NotServed, "this workload does not serve that service port");
            answer.failure = Some(FAILURE_UNSENT);
            return Err(answer);
        };
        let decided = self.decide_served(snapshot, shard, (at, program, access), arrival, head, now);
        if decided.is_ok() && found.as_ref().is_some_and(|(tree, _)| tree.compress.is_some()) {
            self.note_coding(head);
        }
        self.service = found.map(|(tree, _)| tree);
        decided
    }

    /// What is asked of a service port that is served here.
    fn decide_served(
        &mut self,
        snapshot: &Snapshot,
        shard: &mut Shard,
        ((tree, port), program, access): ((&Subtree, &Port), &Program, &Access),
        arrival: &Arrival<'_>,
        head: &Head,
        now: Instant,
    ) -> Result<Decision, Box<Answer>> {
        let call =
            authorize::Call { source: arrival.source, port: program.port(), http: Some((head.method(), head.path())) };
        let ruling = access.rule_on(&call, snapshot.default_allows());
        if !ruling.allowed {
            let refusal = Refusal::of(access, &call, &ruling, tree);
            self.nearest = refusal.nearest;
            self.access = Some(ruling);
            return Err(self.refuse(Reason::AccessDenied, refusal.detail));
        }
        self.access = Some(ruling);
        if let Some(why) = program.broken() {
            return Err(self.refuse(Reason::BackendAbsent, format!("{} is not reached: {why}", tree.label)));
        }
        let program = program.named(|| head.host()).map_err(|why| {
            self.refuse(Reason::UnknownService, format!("{} is asked for a host by its own name: {why}", tree.label))
        })?;
        if let Some(why) = program.sick() {
            let mut answer = self.refuse(Reason::NoEndpoint, format!("{} is not reached: {why}", tree.label));
            answer.failure = Some(FAILURE_UNSENT);
            return Err(answer);
        }
        overload::admit(self, shard, arrival, head, now)?;
        match self.count(tree, shard, arrival, head, now)? {
            Some(asked) => Ok(Decision::Lease(asked)),
            None => self.enter_inbound(snapshot, shard, (tree, port, program), arrival, head, now),
        }
    }

    /// What is left once the request is within all quotas.
    fn enter_inbound(
        &mut self,
        snapshot: &Snapshot,
        shard: &mut Shard,
        (tree, port, program): (&Subtree, &Port, Program),
        arrival: &Arrival<'_>,
        head: &Head,
        now: Instant,
    ) -> Result<Decision, Box<Answer>> {
        self.admit_inbound(snapshot, shard, (tree, port), arrival, head, now)?;
        match snapshot.cluster(port.cluster).filter(|cluster| cluster.beyond.is_some()) {
            Some(cluster) => {
                if let Some(on) = cluster.call.hash.as_ref().map(|hash| &hash.on) {
                    self.course.key = hash::key(on, head, arrival, &snapshot.node.name);
                }
                if cluster.outside.is_some() {
                    self.course.h2 = self.is_grpc();
                }
                if let Some(had) = head.header(Known::ByrnieSession) {
                    self.course.first = session::wanted(cluster, had);
                    self.aside().sticks = true;
                }
                let policy = Policy::far(head.method(), &cluster.call, retries_allowed(head));
                self.course.aim_far(Arc::clone(cluster), policy, shard, now);
            }
            None => {
                // What a caller speaks says nothing of a host outside.
                let outside = matches!(program, Program::Outside(_));
                let protocol = if outside { port.protocol.for_request(self.is_grpc()) } else { port.protocol };
                self.course.goal = Goal::Program { program, protocol };
                self.course.policy = Policy::PROGRAM;
            }
        }
        if let Some(enlistment) = self.enlistment(shard, (tree, port), arrival, head)? {
            return Ok(Decision::Enlist(enlistment));
        }
        self.pass_inbound(tree.protection.as_ref(), shard, arrival, head, now)
    }

    /// [`Exchange::enter_inbound`] after a while: the service is looked for again.
    pub(crate) fn return_inbound(
        &mut self,
        shard: &mut Shard,
        arrival: &Arrival<'_>,
        head: &Head,
        now: Instant,
    ) -> Result<Decision, Box<Answer>> {
        let snapshot = Arc::clone(&self.snapshot);
        let found = resolve::resolve(&snapshot, &arrival.direction, || (head.host(), head.port())).ok();
        let program = found.and_then(|(_, port)| port.program.as_ref()?.named(|| head.host()).ok());
        match (found, program) {
            (Some((tree, port)), Some(program)) => {
                self.enter_inbound(&snapshot, shard, (tree, port, program), arrival, head, now)
            }
            // The snapshot is the one in which it was found.
            _ => Err(self.refuse(Reason::Internal, "it was served a moment ago")),
        }
    }

    /// What the own program can take.
    fn admit_inbound(
        &mut self,
        snapshot: &Snapshot,
        shard: &mut Shard,
        (tree, port): (&Subtree, &Port),
        arrival: &Arrival<'_>,
        head: &Head,
        now: Instant,
    ) -> Result<(), Box<Answer>> {
        let Some(cluster) = snapshot.cluster(port.cluster) else { return Ok(()) };
        let class = Criticality::of(head.header(Known::ByrnieCriticality));
        let newcomer = head.header(Known::ByrnieNewcomer).is_some();
        let admitted = Busy::admit(&cluster.call.share, (class, newcomer), || shard.is_greedy(arrival.source, now));
        if admitted.is_none() {
            let limit = cluster.call.share.gate.limit().unwrap_or(0);
            let detail = format!("{} has as many requests as it can take now ({limit})", tree.label);
            let mut answer = self.refuse(Reason::Overload, detail);
            answer.retry_after = Some(concurrency::RETRY_AFTER);
            return Err(answer);
        }
        self.course.pending = admitted;
        self.course.gate = Some(port.cluster);
        Ok(())
    }

    /// The own program has answered, or failed to: it has room for another request.
    pub(crate) fn release(&mut self, shard: &mut Shard, answered: bool, now: Instant) {
        let Some(Busy::Admitted(share, _)) = &self.course.pending else { return };
        let begun = self.course.attempts.last().map(|attempt| attempt.begun());
        if let (true, Some(begun), Some(slot)) = (answered, begun, self.course.gate)
            && let Some(memory) = shard.clusters.entry(slot)
        {
            memory.samples.note(&share.gate, now.since(begun), now);
        }
        self.course.pending = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Effect;
    use crate::fixtures::{World, answer, head, identity, mesh, ms, own_workload, response, service};
    use byrnie_model::Protocol;
    use byrnie_model::resource::DefaultAccess;
    use std::collections::VecDeque;

    /// Clients that haven't taken an answer yet make a program slow: they are refused then, and nobody else.
    #[test]
    fn a_crowd_of_newcomers_keeps_nobody_from_the_program_who_is_known() {
        let mut world = World::payments(1);
        world.put(vec![mesh(DefaultAccess::Allow), service("web", Protocol::Http1), own_workload()]);
        let (mut waiting, mut refused) = (VecDeque::new(), [0; 2]);
        for at in 0..10_000 {
            while let Some((_, mut exchange)) = waiting.pop_front_if(|(end, _): &mut (u64, Exchange)| *end <= at) {
                exchange.on_response(&mut world.shard, &mut response(200, &[]), ms(at));
            }
            // One in fifty is known. All is well for a second.
            let newcomer = at >= 1000 && at % 50 > 0;
            let lines: &[_] = if newcomer { &[("x-byrnie-newcomer", "1")] } else { &[] };
            if at < 1000 && at % 50 > 0 {
                continue;
            }
            let (exchange, effect) =
                world.begin_inbound(Some(&identity("bob")), &mut head("GET", "web/", lines), ms(at));
            if matches!(effect, Effect::Send(_)) {
                waiting.push_back((at + if at < 1000 { 5 } else { 900 }, exchange));
            } else {
                assert_eq!(answer(effect).reason, Reason::Overload);
                refused[usize::from(newcomer)] += 1;
            }
        }
        assert!(refused[0] == 0 && refused[1] > 2000, "{refused:?} of 200 and 8,820");
    }
}
