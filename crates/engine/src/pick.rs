// SPDX-License-Identifier: Apache-2.0
//! Requests for a pool of inference servers: before an endpoint is balanced for, the pool's picker is asked which members get
//! it, in which order. Here is what it's asked, what counts of its word, and what is done without it. The proxy asks and tells,
//! by the endpoint picker protocol
//! (<https://github.com/kubernetes-sigs/gateway-api-inference-extension/tree/main/docs/proposals/004-endpoint-picker-protocol>).

use crate::attempts::Ending;
use crate::cluster::{Cluster, Member};
use crate::course::{Course, Goal, Step};
use crate::exchange::{Decision, Exchange};
use crate::retry::Policy;
use crate::shard::Shard;
use crate::slot::Slot;
use crate::snapshot::Snapshot;
use crate::{Answer, Effect, Failure, Plan, Reason};
use byrnie_base::{Instant, Now, Text};
use byrnie_codec::Head;
use byrnie_model::route::{DIRECT_BODY_BYTES_MAX, DirectResponse, is_header_editable};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Longest body of a request for a pool with a picker, in bytes: all of it is read before it's forwarded, as what it says
/// (the model, the prompt) is what is picked by.
pub const PICK_BODY_BYTES_MAX: usize = 1024 * 1024;
/// How long a picker may take, from when the whole request is here. Envoy's own default for a word of `ext_proc` is 200 ms;
/// a picker may look at several servers, and queue for a moment.
const PICK_MAX: Duration = Duration::from_secs(1);
/// Most members that a picker is told of with a request. Of a larger pool it's told none, and picks from what it knows.
const TOLD_MAX: usize = 256;
/// Most endpoints of a pick that count.
const PICKED_MAX: usize = 16;
/// What names the endpoints picked, in the request and in a picker's word.
pub const PICKED: &str = "x-gateway-destination-endpoint";
/// Tries to ask a picker.
const ASKS_MAX: u8 = 3;

/// A pool, compiled.
#[derive(Debug)]
pub(crate) struct CompiledPool {
    /// Who picks.
    pub(crate) picker: Option<Picker>,
    /// The clusters of its ports.
    pub(crate) ports: Box<[Slot]>,
}

/// Who picks for a pool.
#[derive(Debug)]
pub(crate) struct Picker {
    /// `NAME.NAMESPACE:PORT`.
    pub(crate) label: Text,
    pub(crate) cluster: Slot,
    pub(crate) fail_open: bool,
}

/// What a picker is asked. Dropping it without [`Pick::finish`] gives back all that it holds.
#[derive(Debug)]
pub struct Pick {
    /// The way to it.
    pub plan: Plan,
    /// The host that is asked for there.
    pub authority: Text,
    /// Whom it may pick, as `IP:PORT`; `None`: whom it knows.
    pub members: Option<Vec<Text>>,
    /// How long it may take, from when it's asked.
    pub time: Duration,
    /// When the request must have ended.
    pub end: Option<Instant>,
    course: Course,
}

/// What came of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Picked {
    /// It has said whom; what it changes of the request's head, and the endpoints as it names them beside.
    Said {
        /// In its order.
        edits: Vec<Edit>,
        /// `IP:PORT[,IP:PORT]`; empty if it names them in the head alone.
        endpoints: Text,
    },
    /// It answers the request itself.
    Answered {
        /// From 200 to 599.
        status: u16,
        /// Header lines.
        fields: Vec<(Text, Text)>,
        /// The body.
        body: Text,
    },
    /// It could not be asked, or didn't say in time.
    Failed(Text),
    /// It was not asked: the body exceeds [`PICK_BODY_BYTES_MAX`].
    BodyTooLarge,
}

/// What a picker changes of a head. Names are as it says them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// In place of all values.
    Set(Text, Vec<u8>),
    /// Beside them.
    Append(Text, Vec<u8>),
    /// Only if there is none.
    Add(Text, Vec<u8>),
    /// Only if there is one.
    Replace(Text, Vec<u8>),
    /// None is left.
    Remove(Text),
}

impl Edit {
    /// Whether it says who gets the request.
    pub fn names_endpoints(&self) -> bool {
        match self {
            Self::Set(name, _) | Self::Append(name, _) | Self::Add(name, _) | Self::Replace(name, _) => {
                name.eq_ignore_ascii_case(PICKED)
            }
            Self::Remove(_) => false,
        }
    }
}

/// Where a pick leads: its members, in the picker's order.
#[derive(Debug)]
pub(crate) struct Aim {
    /// That of the try under way.
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) members: Box<[Arc<Member>]>,
    clusters: Box<[Arc<Cluster>]>,
}

impl Aim {
    /// Who is tried next: the first that wasn't and isn't left out, else the first that wasn't, else the one after the last.
    pub(crate) fn next(&self, count: usize, fits: impl Fn(&Arc<Member>) -> [bool; 2]) -> Option<usize> {
        let verdicts: Vec<[bool; 2]> = self.members.iter().map(fits).collect();
        let fresh = verdicts.iter().position(|[fresh, well]| *fresh && *well);
        let untried = || verdicts.iter().position(|[fresh, _]| *fresh);
        fresh.or_else(untried).or_else(|| count.checked_rem(self.members.len()))
    }

    /// The cluster and the member of a place in it.
    pub(crate) fn at(&self, place: usize) -> Option<(&Arc<Cluster>, &Arc<Member>)> {
        Some((self.clusters.get(place)?, self.members.get(place)?))
    }
}

impl CompiledPool {
    /// Its members with the clusters of their ports. Those at other sites are reached by gateways, and have no address here.
    fn members<'a>(&'a self, snapshot: &'a Snapshot) -> impl Iterator<Item = (&'a Arc<Cluster>, &'a Arc<Member>)> {
        let clusters = self.ports.iter().filter_map(|slot| snapshot.cluster(*slot));
        clusters.flat_map(|cluster| cluster.at_home().iter().map(move |member| (cluster, member)))
    }
}

/// A member as pickers name it: the address of its workload, and the port at which its program listens.
fn address(cluster: &Cluster, member: &Member) -> Option<SocketAddr> {
    let pair = member.endpoint.ports.iter().find(|pair| pair.service == cluster.name.port)?;
    Some(SocketAddr::new(member.address().ip(), pair.target))
}

impl Pick {
    /// The way to another instance of the picker after one failed, if there may be another try.
    pub fn on_failure(&mut self, shard: &mut Shard, failure: Failure, now: Now) -> bool {
        match self.course.fail(shard, failure, now.mono) {
            Step::Send(plan) => {
                self.plan = plan;
                true
            }
            Step::Give(_) | Step::Wait => false,
        }
    }

    /// Says what came of it: that it answered, or what went wrong.
    pub fn finish(&mut self, shard: &mut Shard, outcome: Result<(), Failure>, now: Now) {
        let ending = outcome.map_or_else(Ending::Failed, |()| Ending::Status(200));
        self.course.end(shard, ending, now.mono);
    }
}

impl Exchange {
    /// What comes first: to ask a picker where the goal is a pool that has one, else the first try.
    pub(crate) fn pick_or_dispatch(
        &mut self,
        shard: &mut Shard,
        head: &mut Head,
        at: Now,
    ) -> Result<Decision, Box<Answer>> {
        let Some((label, pool)) = self.pool() else { return self.dispatch(shard, at.mono).map(Decision::Send) };
        // Nobody but a picker says where a request goes.
        head.remove(PICKED);
        let Some(picker) = &pool.picker else { return self.spread(&pool, shard, at.mono).map(Decision::Send) };
        match self.question(&pool, picker, shard, at.mono) {
            Ok(pick) => Ok(Decision::Pick(Box::new(pick))),
            Err(why) => {
                let why = format!("{} can't be asked: {why}", picker.label);
                self.without(&label, (&*pool, picker.fail_open), why, (shard, at.mono)).map(Decision::Send)
            }
        }
    }

    /// The pool that the request is for.
    fn pool(&self) -> Option<(Text, Arc<CompiledPool>)> {
        let cluster = self.course.cluster()?;
        Some((cluster.name.label.clone(), Arc::clone(cluster.call.pool.as_ref()?)))
    }

    fn question(
        &self,
        pool: &CompiledPool,
        picker: &Picker,
        shard: &mut Shard,
        now: Instant,
    ) -> Result<Pick, &'static str> {
        let cluster = self.snapshot.cluster(picker.cluster).filter(|cluster| cluster.outside.is_none());
        let cluster = cluster.ok_or("it's no service in this proxy's view")?;
        if !cluster.protocol.for_request(true).is_h2() {
            return Err("its port doesn't speak HTTP/2");
        }
        let mut course = Course { h2: true, ..Course::new() };
        // To ask once more does no harm, and nothing of it is for anybody else.
        course.policy = Policy {
            tries_max: ASKS_MAX,
            tries_unmet_max: ASKS_MAX,
            tries_silent_max: ASKS_MAX,
            body_held: true,
            ..Policy::NEVER
        };
        if let Some(memory) = shard.clusters.entry(cluster.slot) {
            memory.budget.request(&cluster.call, now);
        }
        course.goal = Goal::Cluster(Arc::clone(cluster));
        let plan = course.dispatch(shard, now).map_err(|_| "it has no healthy endpoint")?;
        let told = || pool.members(&self.snapshot).filter_map(|(cluster, member)| address(cluster, member));
        let members =
            (told().take(TOLD_MAX + 1).count() <= TOLD_MAX).then(|| told().map(|at| at.to_string().into()).collect());
        Ok(Pick {
            plan,
            authority: cluster.name.label.clone(),
            members,
            time: PICK_MAX,
            end: self.course.deadline,
            course,
        })
    }

    /// Takes in what came of [`Effect::Pick`]. `head` is the request's.
    pub fn on_picked(&mut self, shard: &mut Shard, head: &mut Head, picked: Picked, now: Now) -> Effect {
        let Some((label, pool)) = self.pool() else {
            let answer = self.refuse(Reason::Internal, "no pool");
            return self.reply(answer);
        };
        let (who, fail_open) = pool.picker.as_ref().map_or(("", false), |picker| (&*picker.label, picker.fail_open));
        let time = (shard, now.mono);
        let decided = match picked {
            Picked::Said { edits, endpoints } => {
                edit(head, edits);
                let in_head = head.get(PICKED).and_then(|value| std::str::from_utf8(value).ok());
                let said = Text::from(in_head.unwrap_or(&endpoints));
                if said.is_empty() {
                    self.without(&label, (&*pool, fail_open), format!("{who} named no endpoint"), time)
                } else {
                    self.aim(&label, &pool, &said, time)
                }
            }
            Picked::Failed(why) => {
                self.without(&label, (&*pool, fail_open), format!("{who} said nothing: {why}"), time)
            }
            Picked::Answered { status, fields, body } => Err(self.picker_answers(who, status, &fields, body)),
            Picked::BodyTooLarge => {
                let detail =
                    format!("a request to a pool with a picker has a body of at most {PICK_BODY_BYTES_MAX} bytes");
                Err(self.refuse(Reason::BodyTooLarge, detail))
            }
        };
        self.effect_of(decided.map(Decision::Send), head, now)
    }

    /// Aims at the members that a picker named; others that it names are left out.
    fn aim(
        &mut self,
        label: &str,
        pool: &CompiledPool,
        said: &str,
        (shard, now): (&mut Shard, Instant),
    ) -> Result<Plan, Box<Answer>> {
        let snapshot = Arc::clone(&self.snapshot);
        let named = said.split(',').take(PICKED_MAX).filter_map(|word| word.trim().parse::<SocketAddr>().ok());
        let (clusters, members): (Vec<_>, Vec<_>) = named
            .filter_map(|at| pool.members(&snapshot).find(|(cluster, member)| address(cluster, member) == Some(at)))
            .map(|(cluster, member)| (Arc::clone(cluster), Arc::clone(member)))
            .unzip();
        let Some(cluster) = clusters.first().cloned() else {
            let said: String = said.chars().filter(|c| !c.is_control()).take(200).collect();
            let detail = format!("the picker of {label} named {said}, which is no healthy member of the pool");
            return Err(self.refuse(Reason::PickFailed, detail));
        };
        let aim = Aim { cluster, members: members.into(), clusters: clusters.into() };
        self.course.goal = Goal::Picked(Box::new(aim));
        self.count_request(shard, now);
        self.dispatch(shard, now)
    }

    /// What is done where nobody has picked.
    fn without(
        &mut self,
        label: &str,
        (pool, fail_open): (&CompiledPool, bool),
        why: String,
        (shard, now): (&mut Shard, Instant),
    ) -> Result<Plan, Box<Answer>> {
        if fail_open {
            shard.counts.unpicked += 1;
            return self.spread(pool, shard, now);
        }
        Err(self.refuse(Reason::PickFailed, format!("nobody picked an endpoint of {label}: {why}")))
    }

    /// Balances over the members: at one of the pool's ports, drawn by how many have it.
    fn spread(&mut self, pool: &CompiledPool, shard: &mut Shard, now: Instant) -> Result<Plan, Box<Answer>> {
        let snapshot = Arc::clone(&self.snapshot);
        let clusters = || pool.ports.iter().filter_map(|slot| snapshot.cluster(*slot));
        let total: usize = clusters().map(|cluster| cluster.members.len()).sum();
        let mut ticket = if total == 0 { 0 } else { shard.rng.below(total as u64) };
        let drawn = clusters().find(|cluster| {
            let count = cluster.members.len() as u64;
            let here = ticket < count;
            ticket = ticket.saturating_sub(count);
            here
        });
        // A session's endpoint may have another of the ports alone.
        let has = |member: &Arc<Member>| drawn.is_some_and(|of| of.members.iter().any(|one| Arc::ptr_eq(one, member)));
        self.course.first = self.course.first.take().filter(has);
        if let Some(cluster) = drawn {
            self.course.goal = Goal::Cluster(Arc::clone(cluster));
        }
        self.count_request(shard, now);
        self.dispatch(shard, now)
    }

    /// Counts the request where its retries are taken from.
    fn count_request(&self, shard: &mut Shard, now: Instant) {
        let Some(cluster) = self.course.cluster() else { return };
        if let Some(memory) = shard.clusters.entry(cluster.slot) {
            memory.budget.request(&cluster.call, now);
        }
    }

    fn picker_answers(&self, who: &str, status: u16, fields: &[(Text, Text)], body: Text) -> Box<Answer> {
        let field =
            |name: &str| fields.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        let mut answer =
            self.refuse(Reason::PickerAnswer, format!("{who}, which picks endpoints, answered {status} itself"));
        answer.retry_after = field("retry-after").and_then(|value| value.parse().ok()).map(Duration::from_secs);
        let has_body = DirectResponse::has_body(status) && body.len() <= DIRECT_BODY_BYTES_MAX;
        let body = if has_body { body } else { Text::default() };
        let content_type = Some(field("content-type").cloned().unwrap_or_else(|| "text/plain".into()));
        let content_type = content_type.filter(|_| !body.is_empty());
        (answer.status, answer.grpc) = (status, false);
        answer.direct = Some(Arc::new(DirectResponse { status, content_type, body }));
        answer
    }

    /// The member that the newest try went to, as pickers name it, where the request was for a pool.
    pub fn served_by(&self) -> Option<Text> {
        let (member, cluster) = (self.course.attempts.last()?.member.as_ref()?, self.course.cluster()?);
        cluster.call.pool.as_ref()?;
        Some(address(cluster, member)?.to_string().into())
    }
}

/// Does what a picker wants of a head. What frames, routes or identifies a request isn't its affair, as in Envoy.
fn edit(head: &mut Head, edits: Vec<Edit>) {
    for edit in edits {
        let (Edit::Set(name, _)
        | Edit::Append(name, _)
        | Edit::Add(name, _)
        | Edit::Replace(name, _)
        | Edit::Remove(name)) = &edit;
        let name = name.to_ascii_lowercase();
        if !is_editable(&name) {
            continue;
        }
        // What the head won't take goes without.
        match edit {
            Edit::Set(_, value) => head.set(&name, &value).ok(),
            Edit::Append(_, value) => head.append(&name, &value).ok(),
            Edit::Add(_, value) if head.get(&name).is_none() => head.append(&name, &value).ok(),
            Edit::Replace(_, value) if head.get(&name).is_some() => head.set(&name, &value).ok(),
            Edit::Add(..) | Edit::Replace(..) => None,
            Edit::Remove(_) => {
                head.remove(&name);
                None
            }
        };
    }
}

fn is_editable(name: &str) -> bool {
    // What a route may edit, but for what a picker has no word in: whether the caller waits, who called, and what proxies and
    // coordinators say among themselves.
    is_header_editable(name)
        && !matches!(name, "expect" | "x-forwarded-client-cert")
        && ![":", "x-byrnie-", "txn-"].iter().any(|own| name.starts_with(own))
}

#[cfg(test)]
mod tests;
