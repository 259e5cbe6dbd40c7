// SPDX-License-Identifier: Apache-2.0
//! One opaque connection from a caller, or flow of datagrams: asks the engine where it may go, opens the way, and relays.
//! Called for services that speak TCP or UDP. It never looks at what passes.

use crate::connection::TUNNEL_IDLE_MAX;
use crate::door::{Caller, Entry};
use crate::outside;
use crate::record::Seen;
use crate::strain::Underway;
use crate::upstream::{self, Hopped, Room};
use crate::worker::Core;
use byrnie_base::Text;
use byrnie_codec::hop::{Asks, code};
use byrnie_engine::{Answer, DecisionId, Effect, Failure, Opaque, Outcome, Plan, Program, Reason, Target, Tunnel};
use byrnie_model::Protocol;
use byrnie_net::datagram;
use byrnie_net::http::Error;
use byrnie_net::io::{self, Stream};
use byrnie_net::relay::{self, End, Passes, Pipe, Relayed};
use byrnie_net::{runtime, tls};
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

/// Serves an opaque connection to its end; `bytes` have been read of it already.
pub(crate) async fn serve(core: &Rc<Core>, caller: &Caller, mut down: Pipe, mut bytes: Vec<u8>) {
    let named = match &caller.entry {
        Entry::Service(service, port) if core.snapshot().asks_for_hosts(service, *port) => {
            // It takes a place as its tunnel will, and closes as others do on which nothing is asked.
            let _underway = core.enter();
            let sni = tokio::select! {
                biased;
                sni = Box::pin(outside::asked(&mut down, &mut bytes)) => sni.map(Text::from),
                () = core.closing(false) => return,
            };
            Some(Caller { sni, ..caller.clone() })
        }
        _ => None,
    };
    let caller = named.as_ref().unwrap_or(caller);
    let way = Way::open(core, caller, Some((&mut down, &mut bytes))).await;
    way.pass(core, caller, down, bytes, Vec::new()).await;
}

/// What became of asking where an opaque connection may go. Dropped, it gives back all that it holds, and nothing is recorded.
pub(crate) struct Way<'a> {
    tunnel: Tunnel,
    /// What it leads to, if it leads anywhere, and how long it may rest.
    opened: Option<(Pipe, Duration)>,
    /// Why it leads nowhere.
    refusal: Option<Box<Answer>>,
    /// Whether another endpoint might do better.
    elsewhere: bool,
    /// Whether the caller's proxy has been told that the connection stands.
    agreed: bool,
    _underway: Underway<'a>,
}

impl<'a> Way<'a> {
    /// Asks, and opens the way. `down` is the caller's side with what has been read of it: who is served by one of many hosts
    /// is known by that alone.
    pub(crate) async fn open(core: &'a Rc<Core>, caller: &Caller, mut down: Option<(&mut Pipe, &mut Vec<u8>)>) -> Self {
        let snapshot = core.snapshot();
        let arrival = caller.arrival();
        let underway = core.enter();
        core.begins();
        let (tunnel, mut effect) = core.with_shard(|shard, now| {
            shard.set_underway(core.gauge.underway(), caller.is_proxy() || caller.reads.get());
            Tunnel::begin_with(&snapshot, shard, (&arrival, caller.opaque), now)
        });
        let mut way =
            Self { tunnel, opened: None, refusal: None, elsewhere: false, agreed: false, _underway: underway };
        loop {
            let (opened, rests) = match effect {
                Effect::Send(ref plan) => {
                    let rests = plan.idle_timeout.unwrap_or_else(|| rest_of(caller));
                    match down.as_mut().filter(|_| is_for_many(plan)) {
                        // The caller's first bytes say which host it means, and come only once it's told that the
                        // connection stands.
                        Some((down, bytes)) => {
                            way.agreed = agree(down);
                            (open_named(core, plan, down, bytes).await, rests)
                        }
                        None => {
                            let opened = open(core, plan, caller).await;
                            way.elsewhere |= opened.is_err();
                            (opened, rests)
                        }
                    }
                }
                // To a tunnel the rest says: close.
                Effect::Reply(answer) => {
                    way.elsewhere |= answer.reason == Reason::NotServed;
                    way.refusal = Some(answer);
                    return way;
                }
                Effect::Forward | Effect::Wait => return way,
                // A tunnel has no key and no transaction, waits in no line and leads to no pool.
                Effect::Lease(_) | Effect::Enlist(_) | Effect::Queue(_) | Effect::Claim(_) | Effect::Replay => {
                    return way;
                }
                Effect::Pick(_) | Effect::Recall(_) | Effect::Keep | Effect::Settle(..) => return way,
            };
            match opened {
                Ok(upstream) => {
                    way.opened = Some((upstream, rests));
                    return way;
                }
                Err(failure) => effect = core.with_shard(|shard, now| way.tunnel.on_failure(shard, failure, now)),
            }
        }
    }

    /// The same, taking nobody's place until it's passed.
    pub(crate) fn resting(mut self) -> Self {
        self.tunnel.rest();
        self
    }

    /// What it leads to, and how long that may rest.
    pub(crate) fn upstream(&mut self) -> Option<(&mut Pipe, Duration)> {
        self.opened.as_mut().map(|(upstream, rests)| (upstream, *rests))
    }

    /// Why it leads nowhere, and under which record that is found, if it was refused.
    pub(crate) fn refusal(&self) -> Option<(&Answer, &DecisionId)> {
        self.refusal.as_deref().map(|answer| (answer, self.tunnel.id()))
    }

    /// Relays between the caller's side and what the way leads to, until that ends, and records it. `bytes` have been read of the
    /// one already, `from_upstream` of the other.
    pub(crate) async fn pass(
        self,
        core: &Rc<Core>,
        caller: &Caller,
        mut down: Pipe,
        bytes: Vec<u8>,
        from_upstream: Vec<u8>,
    ) {
        let Self { mut tunnel, opened, refusal: _, elsewhere, agreed, _underway } = self;
        let mut outcome = Outcome::default();
        let mut moved = (0, 0);
        match &mut down {
            Pipe::Hop(flow) => match &opened {
                // A stream that is gone shows in the relay.
                Some(_) if !agreed => drop(flow.agree()),
                Some(_) => {}
                None => flow.reset(if elsewhere { code::REFUSED } else { code::CANCEL }),
            },
            Pipe::Datagrams(flow) => match &opened {
                // So it ends in order on both sides.
                Some((_, rests)) => flow.rests_for(*rests),
                None => flow.refuse(),
            },
            Pipe::Stream(_) | Pipe::H2(_) => {}
        }
        if let Some((mut upstream, rests)) = opened {
            let idle = if matches!(down, Pipe::Datagrams(_)) { rests.saturating_add(STUCK) } else { rests };
            core.with_shard(|shard, now| tunnel.on_connect(shard, now));
            let passes = if tunnel.takes_no_request() { Passes::NoRequest } else { Passes::All };
            let relayed = relay::relay((&mut down, bytes), (&mut upstream, from_upstream), passes, idle).await;
            if matches!(relayed.end, End::Request) {
                tunnel.refuse_request();
                tracing::debug!(service = ?caller.entry, "a request came as opaque bytes, and doesn't pass");
            }
            outcome.failure = failure(&relayed);
            moved = (relayed.sent, relayed.received);
        }
        drop(down);
        record(core, caller, tunnel, outcome, moved);
    }

    /// Records a way that leads nowhere, of which the caller has been told.
    pub(crate) fn end(self, core: &Core, caller: &Caller) {
        record(core, caller, self.tunnel, Outcome::default(), (0, 0));
    }
}

fn record(core: &Core, caller: &Caller, tunnel: Tunnel, outcome: Outcome, moved: (u64, u64)) {
    let verdict = core.with_shard(|shard, now| tunnel.finish(shard, outcome, now));
    let seen = Seen {
        protocol: match caller.opaque {
            Opaque::Bytes => "tcp",
            Opaque::Datagrams => "udp",
        },
        method: "",
        host: "",
        path: "",
        client: caller.remote,
        source: caller.source.as_ref(),
        bytes: moved,
        ended: runtime::coarse().wall,
    };
    core.record(&verdict, &seen);
}

/// A flow that hasn't ended by itself so long after it should have is stuck: its way takes nothing.
const STUCK: Duration = Duration::from_secs(30);

/// How long it may rest, unless a policy says so. Whoever takes a flow's datagrams ends it; behind it, its stream has ended then.
fn rest_of(caller: &Caller) -> Duration {
    match caller.opaque {
        Opaque::Datagrams if !caller.is_proxy() => datagram::IDLE,
        _ => TUNNEL_IDLE_MAX,
    }
}

/// Whether a connection is for one of many hosts outside, and it isn't known yet for which.
fn is_for_many(plan: &Plan) -> bool {
    matches!(&plan.target, Target::Program { program: Program::Outside(to), .. } if to.is_pattern())
}

/// Tells the caller's proxy that its connection stands; whether that was to be told.
fn agree(down: &mut Pipe) -> bool {
    match down {
        // A stream that is gone shows when it's read.
        Pipe::Hop(flow) => flow.agree().is_ok(),
        Pipe::Stream(_) | Pipe::H2(_) | Pipe::Datagrams(_) => false,
    }
}

/// Opens a connection to the host outside that the caller's TLS asks for.
async fn open_named(core: &Rc<Core>, plan: &Plan, down: &mut Pipe, bytes: &mut Vec<u8>) -> Result<Pipe, Failure> {
    let Target::Program { program: Program::Outside(many), .. } = &plan.target else { return Err(Failure::Connect) };
    let Some(one) = outside::of_hello(many, down, bytes).await else {
        tracing::debug!(host = %many.host, "a connection names no host that it may reach");
        return Err(Failure::Connect);
    };
    outside::open_opaque(core, plan, &one).await.map(Pipe::from)
}

async fn open(core: &Rc<Core>, plan: &Plan, caller: &Caller) -> Result<Pipe, Failure> {
    if !plan.delay.is_zero() {
        runtime::sleep(plan.delay).await;
    }
    match &plan.target {
        Target::Program { program: Program::Beside(address), protocol: Protocol::Udp } => {
            return datagram::connect(*address).map(Pipe::from).map_err(upstream::failure_to_connect);
        }
        // No datagrams leave the mesh.
        Target::Program { program: Program::Outside(_), protocol: Protocol::Udp } => return Err(Failure::Connect),
        Target::Program { program: Program::Outside(to), .. } => {
            return outside::open_opaque(core, plan, to).await.map(Pipe::from);
        }
        Target::Program { .. } | Target::Mesh(_) => {}
    }
    // Its own TLS goes through to the callee's proxy.
    if let (Entry::Site(..), Target::Mesh(to)) = (&caller.entry, &plan.target) {
        let opened = io::connect(to.address(), plan.connect_timeout).await;
        return opened.map(|tcp| Stream::from(tcp).into()).map_err(upstream::failure_to_connect);
    }
    let (asks, alpn) = match caller.opaque {
        Opaque::Bytes => (Asks::Bytes, tls::ALPN_TCP),
        Opaque::Datagrams => (Asks::Datagrams, tls::ALPN_UDP),
    };
    match upstream::open_hop(core, plan, alpn, Room::Most).await? {
        Hopped::Flow(mut flow, _) => {
            flow.ask_for(asks).map_err(|_| Failure::Refused)?;
            let agreed = runtime::timeout(plan.connect_timeout, poll_fn(|cx| flow.poll_agreed(cx))).await;
            match agreed {
                Ok(Ok(())) => Ok(flow.into()),
                Ok(Err(Error::Refused)) => Err(Failure::Refused),
                Ok(Err(_)) => Err(Failure::ResetBeforeHead { request_sent: flow.has_sent() }),
                Err(_) => Err(Failure::ConnectTimeout),
            }
        }
        Hopped::Foreign(stream, _) => Ok(stream.into()),
        Hopped::No => {
            let opened = upstream::connect(core, plan, None, (&[alpn], plan.connect_timeout)).await;
            opened.map(|(stream, _)| stream.into())
        }
    }
}

fn failure(relayed: &Relayed) -> Option<Failure> {
    match relayed.end {
        End::Closed | End::Request => None,
        End::Idle => Some(Failure::Deadline),
        End::First(_) => Some(Failure::DownstreamGone),
        End::Second(_) => Some(Failure::ResetAfterHead),
    }
}
