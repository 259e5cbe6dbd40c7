// SPDX-License-Identifier: Apache-2.0
//! Performs what the engine planned: gets a connection to the target, from the pool or fresh, under the
//! identity that the plan names. Called for each try; every way to fail is one of the engine's
//! failures.

use crate::carry::Trip;
use crate::config::Hop;
use crate::outside;
use crate::worker::Core;
use byrnie_base::{Instant, Timestamp};
use byrnie_codec::hop::STREAMS_MAX;
use byrnie_codec::{Framing, Head, Limits, Reject, Version, headers};
use byrnie_engine::{self as engine, Failure, Plan, Program, Target};
use byrnie_net::hop::{self, Flow};
use byrnie_net::http::h2::{self as http2, Client};
use byrnie_net::http::{Answered, Error, OVERLOOKED, Wire, h1};
use byrnie_net::io::{self, Stream};
use byrnie_net::pool::{self, Asked, Connection, Crowd, Lease, Shared, Speaks};
use byrnie_net::tls::{Peer, outward};
use byrnie_net::{runtime, tls};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{OwnedMutexGuard, oneshot};

/// A connection or stream on which one request may be sent.
#[derive(Debug)]
pub(crate) struct Upstream {
    /// The wire.
    pub(crate) wire: Wire,
    /// What it takes to give an HTTP/1 connection back; the others need nothing.
    pub(crate) lease: Option<Lease>,
    /// Of a stream that others share with it: its client isn't known to take its answer.
    pub(crate) crowd: Option<Crowd>,
}

/// 1xx answers that one exchange may bring; more is an upstream gone wild.
pub(crate) const INTERIM_MAX: u8 = 16;

/// How long a peer that chose another protocol than the hop's isn't asked for it again.
const FOREIGN_FOR: Duration = Duration::from_secs(60);

/// Streams to one upstream that may be taken by what can do without: of all that there can be seven in eight.
const STREAMS_FOR_MOST: usize = pool::SHARED_PER_KEY_MAX * STREAMS_MAX as usize / 8 * 7;

/// Those that clients may take of which it isn't known that they take their answers: half, and none of the last, whoever has the
/// others. Each answer that lies unread takes about half a megabyte of the system's own memory besides, on loopback, in the sockets of
/// program, proxies and client. So many they have of HTTP/2 too, where the other side names no limit.
const STREAMS_FOR_CROWD: usize = pool::SHARED_PER_KEY_MAX * STREAMS_MAX as usize / 2;

/// A service with fewer streams than this has none to keep for clients that are known to take their answers.
const FEW_STREAMS: usize = 512;

/// Clients that may have to make room for one other: they may wait for other upstreams.
const EVICTED_MAX: u8 = 4;

/// Which streams of mesh hops are for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// All: for clients that are known to take their answers.
    All,
    /// All but the last: for tunnels, which last, and for what can be done without.
    Most,
    /// Of those the ones of a few connections: for clients that aren't known to take their answers.
    Crowd,
}

impl Room {
    /// For a client that has taken an answer before, or hasn't.
    pub(crate) const fn of(reads: bool) -> Self {
        if reads { Self::All } else { Self::Crowd }
    }

    /// Whether only streams are left that aren't for it.
    fn is_spent(self, shared: &Shared<hop::Client>) -> bool {
        let crowded = self == Self::Crowd && shared.crowd() >= STREAMS_FOR_CROWD;
        self != Self::All && (crowded || shared.open_streams() >= STREAMS_FOR_MOST)
    }

    /// The same of HTTP/2, where the other side says how many there are: a few are for whoever comes first.
    fn is_spent_h2(self, shared: &Shared<Client>) -> bool {
        self == Self::Crowd && crowd_is_full(shared.crowd(), shared.streams())
    }

    /// Counts a stream, if it's one of those that aren't for all.
    fn enter<C: Connection>(self, shared: &Shared<C>) -> Option<Crowd> {
        (self == Self::Crowd).then(|| shared.enter_crowd())
    }

    /// The connection on which it is to be had.
    fn choose(self, shared: &Shared<hop::Client>, wall: Timestamp) -> Option<hop::Client> {
        match self {
            Self::All | Self::Most => shared.with_room(wall),
            Self::Crowd => shared.with_room_for_unknown(wall),
        }
    }
}

/// Whether clients that aren't known to take their answers have as many streams of HTTP/2 as they may; of all so many are open, of so
/// many that there can be, or 0 if nobody knows yet.
const fn crowd_is_full(crowd: usize, (open, most): (usize, usize)) -> bool {
    crowd >= STREAMS_FOR_CROWD || most >= FEW_STREAMS && (crowd >= most / 2 || open >= most / 8 * 7)
}

/// Gets a connection for `plan`; `room` as [`open_hop`] has it.
pub(crate) async fn open(core: &Rc<Core>, plan: &Plan, room: Room) -> Result<Upstream, Failure> {
    match poll_fn(|cx| Poll::Ready(at_hand(core, plan, room, cx))).await {
        Some(upstream) => Ok(upstream),
        None => open_anew(core, plan, room).await,
    }
}

/// The same where there is none [`at_hand`], before the deadline of `plan`. What is opened for others too isn't given up with it.
pub(crate) async fn open_anew(core: &Rc<Core>, plan: &Plan, room: Room) -> Result<Upstream, Failure> {
    let opening = Box::pin(open_whenever(core, plan, room));
    let Some(deadline) = plan.deadline else { return opening.await };
    let left = deadline.since(runtime::now().mono);
    runtime::timeout(left, opening).await.unwrap_or(Err(Failure::DeadlineUnmet))
}

async fn open_whenever(core: &Rc<Core>, plan: &Plan, room: Room) -> Result<Upstream, Failure> {
    let to = match &plan.target {
        Target::Mesh(to) => to,
        Target::Program { program: Program::Outside(to), protocol } => {
            return Box::pin(outside::open(core, plan, to, *protocol)).await;
        }
        Target::Program { program: Program::Beside(address), protocol } => {
            let speaks = if protocol.is_h2() { Speaks::Http2 } else { Speaks::Http1 };
            return open_in(core, plan, &beside(*address, speaks), (plan.connect_timeout, room)).await;
        }
    };
    if to.protocol().is_h2() {
        return open_in(core, plan, &asked(core, to, Speaks::Http2), (plan.connect_timeout, room)).await;
    }
    match open_hop(core, plan, tls::ALPN_HTTP1, room).await? {
        Hopped::Flow(flow, crowd) => Ok(Upstream { wire: Wire::Hop(flow), lease: None, crowd }),
        Hopped::Foreign(stream, not_after) => Ok(fresh_h1(&asked(core, to, Speaks::Http1), stream, not_after)),
        Hopped::No => open_at(core, plan, &asked(core, to, Speaks::Http1), plan.connect_timeout).await,
    }
}

/// A connection or stream that can be had at once: nearly always there is one.
pub(crate) fn at_hand(core: &Core, plan: &Plan, room: Room, cx: &mut Context<'_>) -> Option<Upstream> {
    let now = runtime::coarse();
    let asked = match &plan.target {
        Target::Mesh(to) if to.protocol().is_h2() => {
            return stream_at_hand(core, &asked(core, to, Speaks::Http2), room);
        }
        Target::Program { program: Program::Beside(address), protocol } if protocol.is_h2() => {
            return stream_at_hand(core, &beside(*address, Speaks::Http2), room);
        }
        Target::Mesh(to) => {
            if matches!(core.hop, Hop::Framed) {
                let shared = core.pool.borrow_mut().hops(&asked(core, to, Speaks::Hop));
                if let Some(client) = room.choose(&shared, now.wall) {
                    let flow = (!room.is_spent(&shared)).then(|| client.open(to.sni().clone()).ok()).flatten()?;
                    return Some(Upstream { wire: Wire::Hop(flow), lease: None, crowd: room.enter(&shared) });
                }
                if !shared.is_foreign(now.mono) {
                    return None;
                }
            }
            asked(core, to, Speaks::Http1)
        }
        Target::Program { program: Program::Beside(address), .. } => beside(*address, Speaks::Http1),
        Target::Program { .. } => return None,
    };
    let (conn, lease) = core.pool.borrow_mut().take(cx, &asked, now.wall)?;
    Some(Upstream { wire: Wire::H1(conn), lease: Some(lease), crowd: None })
}

/// A stream of HTTP/2 that can be had at once, as [`open_h2`] would open it.
fn stream_at_hand(core: &Core, asked: &Asked<'_>, room: Room) -> Option<Upstream> {
    let shared = core.pool.borrow_mut().shared(asked);
    if room.is_spent_h2(&shared) {
        return None;
    }
    let client = shared.with_room(runtime::coarse().wall)?;
    Some(Upstream { wire: Wire::H2(client.open()), lease: None, crowd: room.enter(&shared) })
}

fn beside(address: SocketAddr, speaks: Speaks) -> Asked<'static> {
    Asked { address, hop: None, generation: 0, way: 0, speaks }
}

fn asked<'a>(core: &Core, to: &'a engine::Hop, speaks: Speaks) -> Asked<'a> {
    // A hop serves whatever its streams ask for; behind a gateway it is to one of those who serve what was asked for first.
    let sni = if speaks == Speaks::Hop && to.way() == 0 { "" } else { to.sni() };
    let (generation, way) = (core.generation(), to.way());
    Asked { address: to.address(), hop: Some((to.identity(), sni)), generation, way, speaks }
}

/// Gets a connection of HTTP to the very place that is `asked` for, opened within `limit`.
pub(crate) async fn open_at(
    core: &Rc<Core>,
    plan: &Plan,
    asked: &Asked<'_>,
    limit: Duration,
) -> Result<Upstream, Failure> {
    open_in(core, plan, asked, (limit, Room::All)).await
}

async fn open_in(
    core: &Rc<Core>,
    plan: &Plan,
    asked: &Asked<'_>,
    (limit, room): (Duration, Room),
) -> Result<Upstream, Failure> {
    match asked.speaks {
        Speaks::Http2 => open_h2(core, plan, asked, (limit, room)).await,
        Speaks::Http1 | Speaks::Hop => open_h1(core, plan, asked, limit).await,
    }
}

/// What came of asking for a stream of a mesh hop.
pub(crate) enum Hopped {
    /// A stream, and what counts it.
    Flow(Flow, Option<Crowd>),
    /// A connection on which the peer chose to speak something else, and when its certificate ends.
    Foreign(Stream, Option<Timestamp>),
    /// This target is reached otherwise.
    No,
}

/// A stream to the other proxy, if `plan` leads to one that knows hops; `otherwise` is what it may choose to
/// speak instead. Where there is no `room`, clients that do nothing make some; the last streams are for clients that are known
/// to take their answers, so that a burst of others doesn't keep them out.
pub(crate) async fn open_hop(
    core: &Rc<Core>,
    plan: &Plan,
    otherwise: &'static [u8],
    room: Room,
) -> Result<Hopped, Failure> {
    for _ in 0..EVICTED_MAX {
        match open_hop_once(core, plan, otherwise, room).await {
            // Whoever has to go is woken before this one.
            Err(Failure::Full) if core.laggards.evict(runtime::now().mono) => tokio::task::yield_now().await,
            other => return other,
        }
    }
    open_hop_once(core, plan, otherwise, room).await
}

async fn open_hop_once(core: &Rc<Core>, plan: &Plan, otherwise: &'static [u8], room: Room) -> Result<Hopped, Failure> {
    let (Target::Mesh(target), Hop::Framed) = (&plan.target, core.hop) else { return Ok(Hopped::No) };
    let shared = core.pool.borrow_mut().hops(&asked(core, target, Speaks::Hop));
    if room.is_spent(&shared) {
        return Err(Failure::Full);
    }
    let now = runtime::coarse();
    let client = match room.choose(&shared, now.wall) {
        Some(client) => client,
        None if shared.is_foreign(now.mono) => return Ok(Hopped::No),
        None if let Some(older) = older_hop(core, target, now.wall) => older,
        None => match Box::pin(one_more_hop(core, plan, &shared, (otherwise, room))).await? {
            Ok(client) => client,
            Err(foreign) => return Ok(foreign),
        },
    };
    // Others may have waited for the same connection meanwhile.
    if room.is_spent(&shared) {
        return Err(Failure::Full);
    }
    let opened = client.open(target.sni().clone());
    opened.map(|flow| Hopped::Flow(flow, room.enter(&shared))).map_err(|_| Failure::Full)
}

/// A hop under credentials that have just been renewed, until there is one under the new ones. Not to another site: what is
/// believed of one may have changed.
fn older_hop(core: &Core, to: &engine::Hop, wall: Timestamp) -> Option<hop::Client> {
    if to.way() != 0 {
        return None;
    }
    core.pool.borrow_mut().older_hops(&asked(core, to, Speaks::Hop))?.with_room(wall)
}

/// Opens one more mesh hop, or waits for the one that somebody else is opening.
async fn one_more_hop(
    core: &Rc<Core>,
    plan: &Plan,
    shared: &Rc<Shared<hop::Client>>,
    (otherwise, room): (&'static [u8], Room),
) -> Result<Result<hop::Client, Hopped>, Failure> {
    let asked = runtime::now();
    let failed_at = Arc::clone(&shared.opening).lock_owned().await;
    if let Some(client) = room.choose(shared, asked.wall) {
        return Ok(Ok(client));
    }
    if shared.is_foreign(asked.mono) {
        return Ok(Err(Hopped::No));
    }
    // Whoever was before us in the queue has just failed: the same would happen to us.
    if failed_at.is_some_and(|at| at >= asked.mono) {
        return Err(Failure::Connect);
    }
    if shared.is_crowded() {
        return shared.with_any_room().map(Ok).ok_or(Failure::Full);
    }
    let (core, plan, shared) = (Rc::clone(core), plan.clone(), Rc::clone(shared));
    open_apart(failed_at, async move {
        let limit = plan.connect_timeout;
        let (stream, peer) = connect(&core, &plan, None, (&[tls::ALPN_HOP, otherwise], limit)).await?;
        if peer.alpn.as_deref() == Some(tls::ALPN_HOP) {
            let client = hop::connect(stream, answers());
            shared.add(client.clone(), peer.not_after);
            return Ok(Ok(client));
        }
        shared.is_foreign_until(runtime::now().mono + FOREIGN_FOR);
        Ok(Err(Hopped::Foreign(stream, peer.not_after)))
    })
    .await
}

/// What comes of `opening`, which goes on by itself: whoever asks first may leave or have less time than the others that wait for the
/// same connection. `failed_at` is held meanwhile.
async fn open_apart<T: 'static>(
    mut failed_at: OwnedMutexGuard<Option<Instant>>,
    opening: impl Future<Output = Result<T, Failure>> + 'static,
) -> Result<T, Failure> {
    let (tell, told) = oneshot::channel();
    runtime::spawn_local("connect", async move {
        let opened = opening.await;
        if opened.is_err() {
            *failed_at = Some(runtime::now().mono);
        }
        drop(failed_at);
        // Whoever asked may have left.
        drop(tell.send(opened));
    });
    told.await.unwrap_or(Err(Failure::Connect))
}

async fn open_h1(core: &Rc<Core>, plan: &Plan, asked: &Asked<'_>, limit: Duration) -> Result<Upstream, Failure> {
    let wall = runtime::coarse().wall;
    let pooled = poll_fn(|cx| Poll::Ready(core.pool.borrow_mut().take(cx, asked, wall))).await;
    if let Some((conn, lease)) = pooled {
        return Ok(Upstream { wire: Wire::H1(conn), lease: Some(lease), crowd: None });
    }
    let opening = connect(core, plan, Some(asked.address), (&[tls::ALPN_HTTP1], limit));
    let (stream, peer) = Box::pin(opening).await?;
    Ok(fresh_h1(asked, stream, peer.not_after))
}

fn fresh_h1(asked: &Asked<'_>, stream: Stream, not_after: Option<Timestamp>) -> Upstream {
    let conn = h1::Conn::new(stream, Vec::new(), Limits::default());
    let lease = Lease { key: asked.key(), reused: false, not_after };
    Upstream { wire: Wire::H1(Box::new(conn)), lease: Some(lease), crowd: None }
}

/// A stream of HTTP/2. As of a hop's, clients that do nothing make room, and half are for clients that are known to take their answers.
async fn open_h2(
    core: &Rc<Core>,
    plan: &Plan,
    asked: &Asked<'_>,
    (limit, room): (Duration, Room),
) -> Result<Upstream, Failure> {
    let shared = core.pool.borrow_mut().shared(asked);
    let wall = runtime::coarse().wall;
    for _ in 0..EVICTED_MAX {
        let roomy = !shared.is_crowded() || shared.with_room(wall).or_else(|| shared.with_any_room()).is_some();
        let spent = room.is_spent_h2(&shared) || !roomy;
        if !spent || !core.laggards.evict(runtime::now().mono) {
            break;
        }
        // Whoever has to go is woken before this one.
        tokio::task::yield_now().await;
    }
    if room.is_spent_h2(&shared) {
        return Err(Failure::Full);
    }
    let renewed = asked.hop.is_some() && asked.way == 0;
    let older = || core.pool.borrow_mut().older_shared(asked).filter(|_| renewed)?.with_room(wall);
    let client = match shared.with_room(wall).or_else(older) {
        Some(client) => client,
        None => Box::pin(one_more(core, plan, &shared, (asked.address, limit))).await?,
    };
    Ok(Upstream { wire: Wire::H2(client.open()), lease: None, crowd: room.enter(&shared) })
}

/// Opens one more HTTP/2 connection, or waits for the one that somebody else is opening.
async fn one_more(
    core: &Rc<Core>,
    plan: &Plan,
    shared: &Rc<Shared<Client>>,
    (address, limit): (SocketAddr, Duration),
) -> Result<Client, Failure> {
    let asked = runtime::now();
    let failed_at = Arc::clone(&shared.opening).lock_owned().await;
    if let Some(client) = shared.with_room(asked.wall) {
        return Ok(client);
    }
    // Whoever was before us in the queue has just failed: the same would happen to us.
    if failed_at.is_some_and(|at| at >= asked.mono) {
        return Err(Failure::Connect);
    }
    if shared.is_crowded() {
        drop(failed_at);
        let room = runtime::timeout(plan.connect_timeout, shared.ready()).await;
        return room.map_err(|_| Failure::Full)?.map_err(|_| Failure::Refused);
    }
    let (core, plan, shared) = (Rc::clone(core), plan.clone(), Rc::clone(shared));
    open_apart(failed_at, async move {
        let (stream, peer) = connect(&core, &plan, Some(address), (&[tls::ALPN_H2], limit)).await?;
        let beside = matches!(plan.target, Target::Program { program: Program::Beside(_), .. });
        let client = if beside { http2::connect_narrow(stream) } else { http2::connect(stream) };
        shared.add(client.clone(), peer.not_after);
        Ok(client)
    })
    .await
}

/// Whether there is a connection to an endpoint that lasts until then, or none is wanted.
pub(crate) fn lasts(core: &Core, to: &engine::Hop, until: Timestamp) -> bool {
    let mut pool = core.pool.borrow_mut();
    match (to.protocol().is_h2(), core.hop) {
        (true, _) => pool.shared(&asked(core, to, Speaks::Http2)).lasts(until),
        (false, Hop::Framed) => {
            let shared = pool.hops(&asked(core, to, Speaks::Hop));
            shared.lasts(until) || shared.is_foreign(runtime::coarse().mono)
        }
        (false, Hop::Http1) => true,
    }
}

/// Whether there is one that is good now, be it under earlier credentials.
pub(crate) fn stands(core: &Core, to: &engine::Hop) -> bool {
    let wall = runtime::coarse().wall;
    if lasts(core, to, wall) {
        return true;
    }
    if !to.protocol().is_h2() {
        return older_hop(core, to, wall).is_some();
    }
    core.pool.borrow_mut().older_shared(&asked(core, to, Speaks::Http2)).is_some_and(|older| older.lasts(wall))
}

/// Opens a connection to the endpoint of `plan` that lasts until then, ahead of requests; whether there is one now.
pub(crate) async fn open_ahead(core: &Rc<Core>, plan: &Plan, until: Timestamp) -> bool {
    let Target::Mesh(to) = &plan.target else { return false };
    if to.protocol().is_h2() {
        let shared = core.pool.borrow_mut().shared(&asked(core, to, Speaks::Http2));
        let opening = connect(core, plan, None, (&[tls::ALPN_H2], plan.connect_timeout));
        return shared
            .ahead(until, async { opening.await.ok().map(|(s, peer)| (http2::connect(s), peer.not_after)) })
            .await;
    }
    let shared = core.pool.borrow_mut().hops(&asked(core, to, Speaks::Hop));
    let opening = async {
        let (stream, peer) =
            connect(core, plan, None, (&[tls::ALPN_HOP, tls::ALPN_HTTP1], plan.connect_timeout)).await.ok()?;
        if peer.alpn.as_deref() == Some(tls::ALPN_HOP) {
            return Some((hop::connect(stream, answers()), peer.not_after));
        }
        shared.is_foreign_until(runtime::now().mono + FOREIGN_FOR);
        None
    };
    shared.ahead(until, opening).await
}

/// Opens a connection for `plan` that speaks one of `alpn`, within `limit`, whatever its deadline; to `address`, if the target has several.
pub(crate) async fn connect(
    core: &Core,
    plan: &Plan,
    address: Option<SocketAddr>,
    (alpn, limit): (&[&[u8]], Duration),
) -> Result<(Stream, Peer), Failure> {
    let (address, hop) = match &plan.target {
        Target::Mesh(hop) => (hop.address(), Some(hop)),
        Target::Program { program: Program::Beside(address), .. } => (*address, None),
        Target::Program { program: Program::Outside(to), protocol } => {
            let Some(address) = address else { return Err(Failure::Connect) };
            let speaks = if protocol.is_h2() { outward::Speaks::Http2 } else { outward::Speaks::Http1 };
            return outside::connect(core, to, address, (speaks, limit)).await;
        }
    };
    let opening = async {
        let tcp = io::connect(address, limit).await.map_err(failure_to_connect)?;
        let Some(hop) = hop else { return Ok((Stream::from(tcp), Peer::default())) };
        match tls::connect(tcp, &core.keys().client, hop.identity(), hop.sni(), alpn).await {
            Ok(opened) => Ok(opened),
            Err(error) => {
                tracing::debug!(%error, address = %hop.address(), expected = %hop.identity(), "mesh connection not opened");
                Err(match error {
                    tls::Error::Refused(_) => Failure::TlsIdentity,
                    tls::Error::Timeout => Failure::ConnectTimeout,
                    _ => Failure::Connect,
                })
            }
        }
    };
    runtime::timeout(limit, Box::pin(opening)).await.unwrap_or(Err(Failure::ConnectTimeout))
}

impl Trip<'_> {
    /// Opens a connection, unless the caller of a request that is here whole leaves meanwhile. Under a key the answer is worth having
    /// even so.
    pub(crate) async fn open(&mut self, plan: &Plan, room: Room) -> Result<Upstream, Failure> {
        let mut opening = Box::pin(open_anew(self.core, plan, room));
        poll_fn(|cx| match opening.as_mut().poll(cx) {
            Poll::Pending
                if self.ticket.is_none() && self.down.has_read_all() && self.down.poll_gone(cx).is_ready() =>
            {
                Poll::Ready(Err(Failure::Forsaken))
            }
            opened => opened,
        })
        .await
    }
}

/// Passes a 1xx on, but to a client that knows none.
pub(crate) fn pass_interim(down: &mut Wire, interim: &mut Head, client: Version) {
    if client == Version::Http10 {
        return;
    }
    headers::strip_hop_by_hop(interim);
    interim.set_framing(Framing::None);
    interim.set_keep_alive(true);
    interim.set_version(client);
    // Whether the client still listens is learnt at the next flush.
    let _ = down.send_response(interim);
}

/// Sees to it that `request` asks for another protocol as it may on `wire`, or not at all; an error if its head is full.
pub(crate) async fn fit_upgrade(wire: &Wire, plan: &Plan, request: &mut Head) -> Result<(), Reject> {
    // Of a try before, to a peer that knows it.
    request.remove(OVERLOOKED);
    let Wire::H2(flow) = wire else { return Ok(()) };
    // A server may only be asked once it has said that it may be.
    let offers = poll_fn(|cx| flow.poll_offers_switch(cx, request));
    let offers = runtime::timeout(plan.connect_timeout, offers).await.unwrap_or(false);
    match plan.target {
        Target::Mesh(_) if offers => request.set(OVERLOOKED, b"1"),
        _ if offers => Ok(()),
        _ => request.set_upgrade(None),
    }
}

/// Reads the head of the final answer into `head`, and passes over interim ones, of which there have been so many.
pub(crate) fn poll_final(
    wire: &mut Wire,
    cx: &mut Context<'_>,
    asked: byrnie_codec::h1::Asked,
    head: &mut Head,
    interims: &mut u8,
) -> Poll<Result<(), Error>> {
    loop {
        match ready!(wire.poll_response(cx, asked, head))? {
            Answered::Final => return Poll::Ready(Ok(())),
            Answered::Interim if *interims < INTERIM_MAX => *interims += 1,
            // As HTTP/2 has it.
            Answered::Interim => return Poll::Ready(Err(Error::Broken(http2::PROTOCOL_ERROR))),
        }
    }
}

/// Sends what waits, which follows on what came of writing before, and reads the head as [`poll_final`] does: an answer that
/// came before the connection broke is one.
pub(crate) fn poll_exchanged(
    wire: &mut Wire,
    cx: &mut Context<'_>,
    written: Result<(), Error>,
    asked: byrnie_codec::h1::Asked,
    (head, interims): (&mut Head, &mut u8),
) -> Poll<Result<(), Error>> {
    let sent = written.map_or_else(|error| Poll::Ready(Err(error)), |()| wire.poll_flush(cx));
    match (poll_final(wire, cx, asked, head, interims), sent) {
        (Poll::Pending, Poll::Ready(Err(error))) if !wire.may_have_answered(&error) => Poll::Ready(Err(error)),
        (answered, _) => answered,
    }
}

/// What is taken of an answer from another proxy: beside a program's lines its own.
fn answers() -> Limits {
    Limits { headers_max: Limits::HEADERS_CEILING, ..Limits::default() }
}

/// What it means that a socket could not be connected.
pub(crate) fn failure_to_connect(error: std::io::Error) -> Failure {
    match error.kind() {
        std::io::ErrorKind::TimedOut => Failure::ConnectTimeout,
        _ => Failure::Connect,
    }
}

/// What an error before the response's head means.
pub(crate) fn failure_before_head(error: &Error, request_sent: bool) -> Failure {
    match error {
        Error::Refused => Failure::Refused,
        error => error.flaw().map_or(Failure::ResetBeforeHead { request_sent }, Failure::BadResponse),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use byrnie_codec::h1::Asked as AskedFor;
    use std::io::Write;

    /// Of whatever is asked without its caller: a try beside another, a copy, what became of a keyed request, a check.
    #[test]
    fn an_upstream_that_never_comes_to_its_answer_is_given_up() {
        const INTERIM: &[u8] = b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n";
        let answers = [(usize::from(INTERIM_MAX), Some(204)), (usize::from(INTERIM_MAX) + 1, None), (usize::MAX, None)];
        for (count, status) in answers {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let program = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let told = (0..count).all(|_| stream.write_all(INTERIM).is_ok());
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
                told
            });
            let read = runtime::block_on(async {
                let tcp = io::connect(address, Duration::from_secs(10)).await.unwrap();
                let mut wire = Wire::H1(Box::new(h1::Conn::new(tcp.into(), Vec::new(), Limits::default())));
                let (mut head, mut interims) = (Head::new(), 0);
                let read = poll_fn(|cx| poll_final(&mut wire, cx, AskedFor::Other, &mut head, &mut interims));
                runtime::timeout(Duration::from_secs(60), read).await.unwrap().map(|()| head.status())
            });
            let read = read.unwrap();
            let failure = read.as_ref().err().map(|error| failure_before_head(error, true));
            assert_eq!(
                (read.ok(), failure),
                (status, status.map_or(Some(Failure::BadResponse("a rule of its protocol is broken")), |_| None)),
                "{count}"
            );
            assert_eq!(program.join().unwrap(), count < usize::MAX);
        }
    }

    /// What a program said before it reset the connection lies in the system, and the reactor has noted nothing yet.
    #[test]
    fn an_answer_that_came_before_a_write_failed_is_read() {
        for (said, status) in
            [(&b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n"[..], Some(413)), (b"", None)]
        {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let read = runtime::block_on(async {
                let tcp = io::connect(address, Duration::from_secs(10)).await.unwrap();
                let mut wire = Wire::H1(Box::new(h1::Conn::new(tcp.into(), Vec::new(), Limits::default())));
                let (mut head, mut interims) = (Head::new(), 0);
                head.start_request("POST", "http", "echo", "/").unwrap();
                head.set_framing(byrnie_codec::Framing::Length(1 << 30));
                wire.send_request(&head).unwrap();
                let (mut program, _) = listener.accept().unwrap();
                program.write_all(said).unwrap();
                drop(program);
                let mut begun = false;
                let read = poll_fn(|cx| {
                    let mut written = Ok(());
                    while !begun && written.is_ok() {
                        written = wire.push(cx, byrnie_net::http::Chunk::Slice(&[0; 64 * 1024]));
                    }
                    begun = true;
                    poll_exchanged(&mut wire, cx, written, AskedFor::Other, (&mut head, &mut interims))
                });
                runtime::timeout(Duration::from_secs(60), read).await.unwrap().map(|()| head.status())
            });
            assert_eq!(read.unwrap().ok(), status);
        }
    }

    /// The same of HTTP/2, where others share the connection.
    #[test]
    fn an_answer_by_http2_that_came_before_a_write_failed_is_read() {
        // And `:status: 413` on stream 1, which ends.
        const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
        const ANSWER: &[u8] = b"\0\0\x05\x01\x05\0\0\0\x01\x08\x03413";
        for (said, status) in [(&[SETTINGS, ANSWER].concat()[..], Some(413)), (SETTINGS, None)] {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let read = runtime::block_on(async {
                let tcp = io::connect(address, Duration::from_secs(10)).await.unwrap();
                let mut wire = Wire::H2(http2::connect(tcp.into()).open());
                let (mut head, mut interims) = (Head::new(), 0);
                head.start_request("POST", "http", "echo", "/").unwrap();
                head.set_framing(byrnie_codec::Framing::Length(1 << 30));
                wire.send_request(&head).unwrap();
                let (mut program, _) = listener.accept().unwrap();
                program.set_nonblocking(true).unwrap();
                // What it leaves unread has the system reset the connection.
                while program.peek(&mut [0]).is_err() {
                    tokio::task::yield_now().await;
                }
                program.write_all(said).unwrap();
                drop(program);
                let mut begun = false;
                let read = poll_fn(|cx| {
                    let written =
                        if begun { Ok(()) } else { wire.push(cx, byrnie_net::http::Chunk::Slice(&[0; 1 << 17])) };
                    begun = true;
                    poll_exchanged(&mut wire, cx, written, AskedFor::Other, (&mut head, &mut interims))
                });
                runtime::timeout(Duration::from_secs(60), read).await.unwrap().map(|()| head.status())
            });
            assert_eq!(read.unwrap().ok(), status);
        }
    }

    #[test]
    fn a_crowd_has_half_of_the_streams_whoever_has_the_others_and_none_of_the_last() {
        for (crowd, of_all, spent) in [
            (0, (0, 0), false),
            (511, (600, 1024), false),
            (512, (512, 1024), true),
            // Those who take their answers have most of them.
            (10, (800, 1024), false),
            (10, (896, 1024), true),
            // A few are for whoever comes first.
            (300, (300, 400), false),
            // Who names no limit gets no crowd without end.
            (STREAMS_FOR_CROWD - 1, (50_000, 0), false),
            (STREAMS_FOR_CROWD, (STREAMS_FOR_CROWD, 0), true),
            (STREAMS_FOR_CROWD, (STREAMS_FOR_CROWD, usize::MAX), true),
        ] {
            assert_eq!(crowd_is_full(crowd, of_all), spent, "{crowd} of {of_all:?}");
        }
        let shared = Shared::<Client>::default();
        let crowd: Vec<_> = (0..3).map(|_| Room::Crowd.enter(&shared)).collect();
        assert!(Room::All.enter(&shared).is_none() && Room::Most.enter(&shared).is_none());
        assert_eq!(shared.crowd(), 3);
        drop(crowd);
        assert_eq!(shared.crowd(), 0);
    }
}
