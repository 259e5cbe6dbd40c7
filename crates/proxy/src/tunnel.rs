// SPDX-License-Identifier: Apache-2.0
//! One opaque connection from a caller: asks the engine where it may go, opens the way, and relays.
//! Called for services that speak TCP. It never looks at what passes.

use crate::connection::TUNNEL_IDLE_MAX;
use crate::door::{Caller, Entry};
use crate::outside;
use crate::record::Seen;
use crate::upstream::{self, Hopped};
use crate::worker::Core;
use byrnie_codec::hop::code;
use byrnie_engine::{Effect, Failure, Outcome, Plan, Program, Reason, Target, Tunnel};
use byrnie_net::http::Error;
use byrnie_net::io::{self, Stream};
use byrnie_net::relay::{self, End, Pipe, Relayed};
use byrnie_net::{runtime, tls};
use std::future::poll_fn;
use std::rc::Rc;

/// Serves an opaque connection to its end; `bytes` have been read of it already.
pub(crate) async fn serve(core: &Rc<Core>, caller: &Caller, mut down: Pipe, mut bytes: Vec<u8>) {
    let snapshot = core.snapshot();
    let arrival = caller.arrival();
    let _underway = core.enter();
    core.begins();
    let (mut tunnel, mut effect) = core.with_shard(|shard, now| {
        shard.set_underway(core.gauge.underway(), caller.is_known());
        Tunnel::begin(&snapshot, shard, &arrival, now)
    });
    // Whether another endpoint might do better.
    let mut elsewhere = false;
    let mut agreed = false;
    let opened = loop {
        match effect {
            Effect::Send(plan) if is_for_many(&plan) => {
                // The caller's first bytes say which host it means, and come only once it's told that the connection stands.
                agreed = agree(&mut down);
                match open_named(core, &plan, &mut down, &mut bytes).await {
                    Ok(upstream) => break Some((upstream, plan.idle_timeout.unwrap_or(TUNNEL_IDLE_MAX))),
                    Err(failure) => effect = core.with_shard(|shard, now| tunnel.on_failure(shard, failure, now)),
                }
            }
            Effect::Send(plan) => match open(core, &plan, caller).await {
                Ok(upstream) => break Some((upstream, plan.idle_timeout.unwrap_or(TUNNEL_IDLE_MAX))),
                Err(failure) => {
                    elsewhere = true;
                    effect = core.with_shard(|shard, now| tunnel.on_failure(shard, failure, now));
                }
            },
            // To a tunnel the rest says: close.
            Effect::Reply(answer) => {
                elsewhere |= answer.reason == Reason::NotServed;
                break None;
            }
            Effect::Forward | Effect::Wait => break None,
            // A tunnel has no key and no transaction, and waits in no line.
            Effect::Lease(_) | Effect::Enlist(_) | Effect::Queue(_) | Effect::Claim(_) | Effect::Replay => break None,
            Effect::Recall(_) | Effect::Keep | Effect::Settle(..) => break None,
        }
    };
    let mut outcome = Outcome::default();
    let mut moved = (0, 0);
    if let Pipe::Hop(flow) = &mut down {
        match &opened {
            // A stream that is gone shows in the relay.
            Some(_) if !agreed => drop(flow.agree()),
            Some(_) => {}
            None => flow.reset(if elsewhere { code::REFUSED } else { code::CANCEL }),
        }
    }
    if let Some((mut upstream, idle)) = opened {
        core.with_shard(|shard, now| tunnel.on_connect(shard, now));
        let relayed = relay::relay(&mut down, bytes, &mut upstream, Vec::new(), idle).await;
        outcome.failure = failure(&relayed);
        moved = (relayed.sent, relayed.received);
    }
    drop(down);
    let verdict = core.with_shard(|shard, now| tunnel.finish(shard, outcome, now));
    let seen = Seen {
        protocol: "tcp",
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

/// Whether a connection is for one of many hosts outside, and it isn't known yet for which.
fn is_for_many(plan: &Plan) -> bool {
    matches!(&plan.target, Target::Program { program: Program::Outside(to), .. } if to.is_pattern())
}

/// Tells the caller's proxy that its connection stands; whether that was to be told.
fn agree(down: &mut Pipe) -> bool {
    match down {
        // A stream that is gone shows when it's read.
        Pipe::Hop(flow) => flow.agree().is_ok(),
        Pipe::Stream(_) | Pipe::H2(_) => false,
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
    if let Target::Program { program: Program::Outside(to), .. } = &plan.target {
        return outside::open_opaque(core, plan, to).await.map(Pipe::from);
    }
    // Its own TLS goes through to the callee's proxy.
    if let (Entry::Site(..), Target::Mesh(to)) = (&caller.entry, &plan.target) {
        let opened = io::connect(to.address(), plan.connect_timeout).await;
        return opened.map(|tcp| Stream::from(tcp).into()).map_err(upstream::failure_to_connect);
    }
    match upstream::open_hop(core, plan, tls::ALPN_TCP, false).await? {
        Hopped::Flow(mut flow) => {
            flow.ask_for_bytes().map_err(|_| Failure::Refused)?;
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
            let opened = upstream::connect(core, plan, None, (&[tls::ALPN_TCP], plan.connect_timeout)).await;
            opened.map(|(stream, _)| stream.into())
        }
    }
}

fn failure(relayed: &Relayed) -> Option<Failure> {
    match relayed.end {
        End::Closed => None,
        End::Idle => Some(Failure::Deadline),
        End::First(_) => Some(Failure::DownstreamGone),
        End::Second(_) => Some(Failure::ResetAfterHead),
    }
}
