// SPDX-License-Identifier: Apache-2.0
//! What an exchange and a tunnel have in common: the tries at a cluster's endpoints, one after the
//! other, within the retry rules, the budget and the deadline. No head is ever seen here.

use crate::answer::{Answer, FAILURE_LOST, FAILURE_UNSENT};
use crate::attempts::{Attempt, Attempts, Ending};
use crate::balance::Past;
use crate::cluster::{Busy, Cluster, Member};
use crate::outlier::{self, Sign, zone};
use crate::pick::Aim;
use crate::plan::{Again, Hop};
use crate::program::{Outside, Program};
use crate::retry::{self, HOLD_MAX, PAUSE_MAX, PAUSE_OTHER_ENDPOINT, PAUSE_SAME_ENDPOINT};
use crate::shard::Shard;
use crate::slot::Slot;
use crate::{Failure, Plan, Reason, Side, Target, balance, hedge};
use byrnie_base::Instant;
use byrnie_model::Protocol;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

/// Most time to connect to the own program. One that doesn't listen refuses at once; one whose backlog is full
/// (5 in Python's `socketserver`, 128 in many others) loses the SYN, which is sent again after 1 and after 3 s
/// (RFC 6298 2): a burst of connections must outlast both.
const LOCAL_CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// So little time, or less, is not worth a try: the next hop is to have less.
const TRY_MIN: Duration = Duration::from_millis(1);

/// The tries of one exchange or tunnel.
#[derive(Debug)]
pub(crate) struct Course {
    pub(crate) goal: Goal,
    pub(crate) attempts: Attempts,
    pub(crate) policy: retry::Policy,
    /// When all must have ended.
    pub(crate) deadline: Option<Instant>,
    pub(crate) limits: TryLimits,
    /// Counted against the service's most requests at once, until the end.
    pub(crate) pending: Option<Busy>,
    /// The service whose gate was passed, inbound.
    pub(crate) gate: Option<Slot>,
    /// What the request hashes to, where the cluster's rule asks.
    pub(crate) key: Option<NonZeroU64>,
    /// Another site asks: only endpoints of this mesh answer.
    pub(crate) at_home: bool,
    /// Whether HTTP/2 is spoken where nothing is declared.
    pub(crate) h2: bool,
    /// Whether no request may be hidden in what passes.
    pub(crate) takes_no_request: bool,
    /// Who is asked first, whatever the balance says: the endpoint of the caller's session.
    pub(crate) first: Option<Arc<Member>>,
}

/// What the tries aim at.
#[derive(Debug)]
pub(crate) enum Goal {
    /// Nothing yet: the request was answered before it had one.
    None,
    Cluster(Arc<Cluster>),
    /// Members of a pool, in the order in which its picker named them.
    Picked(Box<Aim>),
    Program {
        program: Program,
        protocol: Protocol,
    },
}

/// What holds for each single try.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TryLimits {
    /// Most time for a try, as its route says.
    pub(crate) timeout: Option<Duration>,
    /// Least pause before a further try, as its route says.
    pub(crate) backoff: Option<Duration>,
    /// How long the first try is held back on purpose.
    pub(crate) delay: Duration,
    /// How long the last endpoint asked to be left alone (`Retry-After`).
    hold: Duration,
    /// Whether the try under way may go on beyond its time if nothing else can be tried.
    soft: bool,
}

impl Course {
    pub(crate) fn new() -> Self {
        Self {
            goal: Goal::None,
            attempts: Attempts::default(),
            policy: retry::Policy::NEVER,
            deadline: None,
            limits: TryLimits::default(),
            pending: None,
            key: None,
            gate: None,
            at_home: false,
            h2: false,
            takes_no_request: false,
            first: None,
        }
    }

    pub(crate) fn cluster(&self) -> Option<&Arc<Cluster>> {
        match &self.goal {
            Goal::Cluster(cluster) => Some(cluster),
            Goal::Picked(aim) => Some(&aim.cluster),
            Goal::None | Goal::Program { .. } => None,
        }
    }

    /// What became of a key is known to this mesh's ledger alone, and whom another site asks for asks no third.
    fn stays(&self) -> bool {
        self.at_home || self.policy.keyed
    }

    /// Those that may be asked.
    fn members(&self) -> &[Arc<Member>] {
        match self.cluster() {
            None => &[],
            Some(_) if let Goal::Picked(aim) = &self.goal => &aim.members,
            Some(cluster) if self.stays() => cluster.at_home(),
            Some(cluster) => &cluster.members,
        }
    }

    /// Aims at addresses outside, of which this proxy chooses.
    pub(crate) fn aim_far(&mut self, cluster: Arc<Cluster>, policy: retry::Policy, shard: &mut Shard, now: Instant) {
        if let Some(memory) = shard.clusters.entry(cluster.slot) {
            memory.budget.request(&cluster.call, now);
        }
        self.policy = policy;
        self.goal = Goal::Cluster(cluster);
    }

    /// The next try, or why there is none.
    pub(crate) fn dispatch(&mut self, shard: &mut Shard, now: Instant) -> Result<Plan, Reason> {
        if self.deadline.is_some_and(|deadline| deadline.since(now) <= TRY_MIN) {
            return Err(Reason::Timeout);
        }
        match &self.goal {
            Goal::None => Err(Reason::Internal),
            Goal::Program { program, protocol } => {
                let target = Target::Program { program: program.clone(), protocol: protocol.for_request(self.h2) };
                let delay = self.pause(false, shard);
                self.attempts.begin(None, now);
                Ok(self.plan(target, LOCAL_CONNECT_TIMEOUT, None, delay))
            }
            Goal::Cluster(cluster) => {
                let cluster = Arc::clone(cluster);
                self.dispatch_to(cluster, shard, now)
            }
            Goal::Picked(aim) => {
                let verdict =
                    |member: &Arc<Member>| [!self.attempts.tried(member), !outlier::out_of_service(shard, member, now)];
                let (cluster, member) =
                    aim.next(self.attempts.count(), verdict).and_then(|at| aim.at(at)).ok_or(Reason::NoEndpoint)?;
                let (cluster, member) = (Arc::clone(cluster), Arc::clone(member));
                if let Goal::Picked(aim) = &mut self.goal {
                    aim.cluster = Arc::clone(&cluster);
                }
                self.dispatch_at(cluster, member, shard, now)
            }
        }
    }

    fn dispatch_to(&mut self, cluster: Arc<Cluster>, shard: &mut Shard, now: Instant) -> Result<Plan, Reason> {
        let stays = self.stays();
        let fits =
            |member: &Arc<Member>| !(stays && member.site().is_some() || outlier::out_of_service(shard, member, now));
        let had = self.first.take().filter(fits);
        let attempts = &self.attempts;
        let member = match had {
            Some(member) => member,
            None => {
                let (zones, silent_since) = (attempts.lost_zones(), attempts.silent_since());
                let past = Past { tried: &|member| attempts.tried(member), zones, silent_since, stays };
                let picked = match self.at_home {
                    true => balance::pick_at_home(&cluster, shard, past, now),
                    false => balance::pick(&cluster, shard, self.key, past, now),
                };
                Arc::clone(picked.ok_or(Reason::NoEndpoint)?)
            }
        };
        self.dispatch_at(cluster, member, shard, now)
    }

    /// The next try at this member of a cluster.
    fn dispatch_at(
        &mut self,
        cluster: Arc<Cluster>,
        member: Arc<Member>,
        shard: &mut Shard,
        now: Instant,
    ) -> Result<Plan, Reason> {
        let tried = self.attempts.tried(&member);
        shard.counts.elsewhere += u64::from(member.site().is_some());
        let delay = self.pause(tried, shard);
        let late = self.deadline.is_some_and(|deadline| deadline.since(now) < delay + TRY_MIN);
        if late || tried && self.limits.hold > HOLD_MAX {
            return Err(Reason::Timeout);
        }
        self.attempts.begin(Some(Arc::clone(&member)), now);
        let soft = self.soft_timeout(&cluster, shard);
        self.limits.soft = self.limits.timeout.is_none();
        let timeout = self.limits.timeout.or(soft);
        let protocol = cluster.protocol.for_request(self.h2);
        let hedge_at = hedge::delay(self, &cluster, shard);
        let connect = cluster.call.patience.connect;
        let target = match &cluster.beyond {
            None => Target::Mesh(Hop { member, cluster, protocol }),
            Some(security) => {
                let (address, security) = (member.address(), security.clone());
                let host = address.ip().to_string().into();
                let program = Program::Outside(Arc::new(Outside { host, port: address.port(), security, watch: None }));
                Target::Program { program, protocol }
            }
        };
        let try_deadline = timeout.map(|timeout| now + delay + timeout);
        let hedge_at = hedge_at.map(|span| now + delay + span);
        Ok(Plan { hedge_at, ..self.plan(target, connect, try_deadline, delay) })
    }

    fn plan(&self, target: Target, connect: Duration, try_deadline: Option<Instant>, delay: Duration) -> Plan {
        let attempt = u8::try_from(self.attempts.count()).unwrap_or(u8::MAX);
        let budget = match (&target, attempt) {
            (Target::Program { .. }, _) => None,
            (Target::Mesh(_), ..=1) => Some(self.policy.tries_max.saturating_sub(1)),
            (Target::Mesh(_), _) => Some(0),
        };
        // Over HTTP/1 a program gives back only what its connection never took: a body that was begun by then is gone.
        let returns = self.cluster().is_some() || target.protocol().is_h2();
        let keep_body = attempt < self.tries_max() && self.policy.body_held && returns;
        Plan {
            target,
            deadline: self.deadline,
            // A try that would outlast the whole is limited by the whole alone.
            try_deadline: try_deadline.filter(|at| self.deadline.is_none_or(|deadline| *at < deadline)),
            hedge_at: None,
            connect_timeout: connect,
            idle_timeout: self.cluster().and_then(|cluster| cluster.call.patience.idle),
            delay,
            again: Again { attempt, keep_body, budget },
        }
    }

    /// How long to wait before a try: not at all for the first, and for the second if it goes elsewhere;
    /// else anything up to a span that doubles each time ("full jitter": Brooker, "Exponential Backoff And
    /// Jitter", 2015), but never less than the route or the endpoint itself asks for.
    fn pause(&self, same_endpoint: bool, shard: &mut Shard) -> Duration {
        let tries = u32::try_from(self.attempts.count()).unwrap_or(u32::MAX);
        if tries == 0 {
            return self.limits.delay;
        }
        let least = self.limits.backoff.unwrap_or_default();
        let base = match (same_endpoint, tries) {
            (true, _) => PAUSE_SAME_ENDPOINT,
            (false, 1) => Duration::ZERO,
            (false, _) => PAUSE_OTHER_ENDPOINT,
        };
        let most = base.max(least).saturating_mul(1 << (tries - 1).min(5)).min(PAUSE_MAX.max(least));
        let jitter = Duration::from_nanos(shard.rng.below(u64::try_from(most.as_nanos()).unwrap_or(u64::MAX)));
        let asked = if same_endpoint { self.limits.hold } else { Duration::ZERO };
        least.max(asked).saturating_add(jitter)
    }

    /// Whether a picker said who is asked.
    pub(crate) const fn is_picked(&self) -> bool {
        matches!(self.goal, Goal::Picked(_))
    }

    /// Another endpoint is asked when one takes far longer than usual; only for requests that may be
    /// processed twice, and never on the last try.
    fn soft_timeout(&self, cluster: &Cluster, shard: &Shard) -> Option<Duration> {
        let more = self.attempts.count() < usize::from(self.tries_max());
        // How long a model takes is no sign, and whom else to ask is the picker's affair.
        if self.is_picked()
            || !(more && self.policy.repeatable && self.policy.body_held && cluster.members.len() > 1)
            || self.policy.keyed
        {
            return None;
        }
        Some(retry::patience(shard.clusters.peek(cluster.slot).and_then(|memory| memory.latency.p99())))
    }

    /// The try under way failed: another one, if the rules and the budget allow it.
    pub(crate) fn fail(&mut self, shard: &mut Shard, failure: Failure, now: Instant) -> Step {
        if failure == Failure::TryTimeout && self.limits.soft && !self.allows_another(shard, failure, now) {
            return Step::Wait;
        }
        // To ask somebody else would be no quicker.
        if failure == Failure::CallerSlow && self.limits.soft && self.has_time(now) {
            return Step::Wait;
        }
        let again = self.allows_another(shard, failure, now)
            && (self.is_free(shard, failure, now) || self.withdraw(shard, now));
        if failure == Failure::TryTimeout && self.limits.soft && !again {
            return Step::Wait;
        }
        self.end(shard, Ending::Failed(failure), now);
        if !again {
            return Step::Give(Reason::of(failure));
        }
        shard.counts.retries += 1;
        match self.dispatch(shard, now) {
            Ok(plan) => Step::Send(plan),
            Err(reason) => Step::Give(reason),
        }
    }

    fn allows_another(&self, shard: &Shard, failure: Failure, now: Instant) -> bool {
        let policy = &self.policy;
        let may = match self.cluster() {
            Some(_) => failure.unsent() || failure.lost() && policy.repeatable,
            None => failure.unprocessed(),
        };
        // What was written in part can't be written again unless it is still held; a connection that
        // never came up has taken nothing.
        let held =
            policy.body_held || matches!(failure, Failure::Connect | Failure::ConnectTimeout | Failure::TlsIdentity);
        may && held && self.has_tries(shard, failure, now) && self.has_time(now)
    }

    /// Whether a try after this failure is for nothing in the budget: nobody has the request, so the next endpoint is no more than
    /// the first to get it (gRPC's transparent retries, proposal A6). Where none is left in service the budget bounds the looking,
    /// and where the absent stay in service, whether anybody else has answered. One that answers others was met by somebody: it has
    /// too much to do, and no connection comes for nothing. What a program gives back unprocessed is for nothing too, as often as it's
    /// tried there, and once where several addresses are the program.
    fn is_free(&self, shard: &Shard, failure: Failure, now: Instant) -> bool {
        let Some(cluster) = self.cluster() else { return true };
        if cluster.beyond.is_some() && failure.unprocessed() && self.attempts.count() == 1 {
            return true;
        }
        let leaves = cluster.call.eject.rule.counts_rows();
        let heard = |member: &Member| {
            let at = member.load.heard_at();
            at > Instant::default() && now.since(at) < retry::FREE_FOR
        };
        let good = |member: &Arc<Member>| {
            !self.attempts.tried(member) && !outlier::out_of_service(shard, member, now) && (leaves || heard(member))
        };
        failure.unmet()
            && self.attempts.count() < usize::from(self.policy.tries_max.min(retry::TRIES_MAX))
            && self.attempts.open().is_some_and(Attempt::is_unheard)
            && self.members().iter().any(good)
    }

    /// How many tries there are if the one under way meets nobody either.
    fn tries_max(&self) -> u8 {
        let others = self.members().len() > self.attempts.count();
        if others && self.attempts.all_silent() { self.policy.tries_unmet_max } else { self.policy.tries_max }
    }

    /// Whether the try under way, which ends by `failure`, isn't the last.
    fn has_tries(&self, shard: &Shard, failure: Failure, now: Instant) -> bool {
        let (count, policy) = (self.attempts.count(), &self.policy);
        let sent = count - self.attempts.unmet() - usize::from(failure.unmet());
        let lookable = failure.unmet() && sent < usize::from(policy.tries_max);
        let begun = self.attempts.iter().next().map_or(now, Attempt::begun);
        // Where nobody at all answers any more, it's rather this proxy that is cut off.
        let alone = shard.zones.heard <= begun;
        let unheard = failure.unmet() || failure.silent() && self.attempts.open().is_some_and(Attempt::is_unheard);
        let silent = unheard
            && self.attempts.all_silent()
            && !alone
            && self.limits.timeout.is_none()
            && sent < usize::from(policy.tries_silent_max);
        let most = if alone { retry::UNMET_FOR } else { retry::SILENT_FOR };
        count < usize::from(policy.tries_max)
            || (lookable || silent)
                && count < usize::from(policy.tries_unmet_max)
                && now.since(begun) < most
                && self.members().iter().any(|member| !self.attempts.tried(member))
    }

    pub(crate) fn has_time(&self, now: Instant) -> bool {
        self.deadline.is_none_or(|deadline| deadline.since(now) >= TRY_MIN)
    }

    /// Takes one retry out of the cluster's budget.
    pub(crate) fn withdraw(&self, shard: &mut Shard, now: Instant) -> bool {
        let Some(cluster) = self.cluster() else { return false };
        let memory = shard.clusters.entry(cluster.slot);
        let granted = memory.is_some_and(|memory| memory.budget.withdraw(&cluster.call, now));
        if !granted {
            shard.counts.retries_over_budget += 1;
        }
        granted
    }

    /// Ends the try under way and learns from it.
    pub(crate) fn end(&mut self, shard: &mut Shard, ending: Ending, now: Instant) {
        if self.attempts.open().is_none() {
            return;
        }
        let span = self.attempts.end(ending, now);
        let member = self.attempts.last().and_then(|attempt| attempt.member.as_ref());
        let (Some(member), Some(cluster)) = (member, self.cluster()) else { return };
        zone::note(shard, member, ending, span, now);
        // One that was given up would have taken longer still; but the first of an exchange at an endpoint that answers nobody may be
        // that one's own affair, and what all the others take is not to be waited for three times as long by that.
        let unheard = || self.attempts.last().is_some_and(Attempt::is_unheard);
        let slow = ending == Ending::Failed(Failure::TryTimeout) && (self.attempts.given_up() > 1 || !unheard());
        let patience = shard.clusters.entry(cluster.slot).map(|memory| {
            if slow || matches!(ending, Ending::Status(_) | Ending::Beaten) {
                memory.note(span);
            }
            retry::patience(memory.latency.p99())
        });
        let sign = match ending {
            Ending::Closed => Sign::Good,
            Ending::Beaten => return learn(member, ending, span, now),
            Ending::Status(status) if status >= 500 && cluster.call.eject.statuses => {
                Sign::Error { gateway: matches!(status, 502..=504) }
            }
            Ending::Status(_) => Sign::Good,
            // A caller's own short deadline says nothing; one that a usual answer would have met does.
            Ending::Failed(Failure::Deadline | Failure::DeadlineUnmet)
                if patience.is_some_and(|patience| span >= patience) =>
            {
                Sign::Lost
            }
            // Nor does its leaving, unless nobody else was answered either in the time after which another would be asked.
            Ending::Failed(Failure::Forsaken) if unheard() && patience.is_some_and(|patience| span >= patience) => {
                Sign::Lost
            }
            Ending::Failed(failure) if failure.speaks_against_endpoint() && failure.unsent() => Sign::Absent,
            Ending::Failed(failure) if failure.speaks_against_endpoint() => Sign::Lost,
            Ending::Failed(_) => return,
        };
        learn(member, ending, span, now);
        outlier::note(shard, cluster, member, sign, span, now);
    }

    /// The answer of the last try asked to be left alone for a while.
    pub(crate) fn refused(&mut self, hold: Duration, now: Instant) {
        self.limits.hold = hold;
        if let Some(member) = self.attempts.last().and_then(|attempt| attempt.member.as_ref()) {
            member.load.refused(hold, now);
        }
    }

    /// The answer of the last try reported the load of its endpoint, if it comes to a capacity.
    pub(crate) fn reported(&self, capacity: Option<u64>, now: Instant) {
        let member = self.attempts.last().and_then(|attempt| attempt.member.as_ref());
        if let (Some(member), Some(capacity)) = (member, capacity) {
            member.load.reported(capacity, now);
        }
    }

    /// Something went wrong after the answer had begun.
    pub(crate) fn break_off(&mut self, shard: &mut Shard, failure: Failure, now: Instant) {
        if self.attempts.open().is_some() {
            self.end(shard, Ending::Failed(failure), now);
            return;
        }
        let member = self.attempts.last().and_then(|attempt| attempt.member.clone());
        if let (Some(member), Some(cluster), true) = (member, self.cluster(), failure == Failure::ResetAfterHead) {
            outlier::note(shard, cluster, &member, Sign::Lost, Duration::ZERO, now);
        }
    }
}

/// What balancing learns from a try that speaks for or against its endpoint.
fn learn(member: &Member, ending: Ending, span: Duration, now: Instant) {
    if matches!(ending, Ending::Status(_) | Ending::Closed) {
        member.load.heard(now);
    }
    match ending {
        Ending::Closed => {}
        Ending::Status(429 | 503) | Ending::Failed(_) => member.load.refused(Duration::ZERO, now),
        Ending::Status(500..) => member.load.erred(span, now),
        Ending::Status(_) | Ending::Beaten => member.load.answered(span, now),
    }
}

/// What follows a failed try.
#[derive(Debug)]
pub(crate) enum Step {
    Send(Plan),
    Give(Reason),
    Wait,
}

/// The answer for a course that gave up. An inbound proxy tells the proxy that called it whether the
/// program may have seen the request.
pub(crate) fn give_up(reason: Reason, failure: Option<Failure>, side: Side, grpc: bool, course: &Course) -> Answer {
    let who = match (&course.goal, course.attempts.last().and_then(|attempt| attempt.member.as_ref())) {
        (Goal::Program { program, .. }, _) => program.to_string(),
        (Goal::Cluster(cluster), Some(member)) => format!("{} of {}", member.name(), cluster.name.label),
        (Goal::Cluster(cluster), None) => cluster.name.label.to_string(),
        (Goal::Picked(aim), Some(member)) => format!("{} of {}", member.name(), aim.cluster.name.label),
        (Goal::Picked(aim), None) => aim.cluster.name.label.to_string(),
        (Goal::None, _) => "the service".to_string(),
    };
    let tries = course.attempts.count();
    let detail = match (reason, failure) {
        (Reason::NoEndpoint, _) => match course.cluster() {
            Some(cluster) if course.policy.keyed && cluster.at_home().len() < cluster.members.len() => {
                let name = &cluster.name.label;
                format!("{name} has no healthy endpoint here, and no other site knows what became of the key")
            }
            Some(cluster) if cluster.away > 0 => {
                format!("{} has no healthy endpoint ({} draining or unhealthy)", cluster.name.label, cluster.away)
            }
            Some(cluster) if !cluster.call.choice.rule.labels.is_empty() => {
                let (wanted, by) = (cluster.call.choice.rule.wanted(), &cluster.call.choice.by);
                format!("{who} has no endpoint with the labels {wanted}, which TrafficPolicy {by} wants")
            }
            _ => format!("{who} has no endpoint"),
        },
        (Reason::Timeout, None) => "the time for the request had run out before it was sent".to_string(),
        (_, Some(failure)) => format!("{who}: {failure} (try {tries} of {tries})"),
        (_, None) => format!("{who}: {}", reason.label()),
    };
    let mut answer = Answer::new(reason, grpc, detail);
    if side == Side::Inbound {
        answer.failure = match failure {
            Some(failure) if failure.unsent() => Some(FAILURE_UNSENT),
            Some(Failure::ResetBeforeHead { .. }) => Some(FAILURE_LOST),
            _ => None,
        };
    }
    answer
}
