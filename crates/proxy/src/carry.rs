// SPDX-License-Identifier: Apache-2.0
//! Carries one exchange from its request's head to the last byte of its answer: asks the engine, does
//! what it says, tells it what came of it. `connection` calls it for each request of an HTTP/1
//! connection and each stream of an HTTP/2 one. It decides nothing itself.

use crate::broken::Break;
use crate::connection::TUNNEL_IDLE_MAX;
use crate::door::Caller;
#[cfg(feature = "http3")]
use crate::door::Entry;
use crate::keyed::Ticket;
use crate::mirror;
use crate::pick::Line;
use crate::record::Seen;
use crate::refusal::{self, BadBody};
use crate::rest::{HEAVY_MAX, Rest, STALL_MAX, Tempo, earlier, owes};
use crate::upstream::{self, INTERIM_MAX, Room, Upstream};
use crate::whole::acknowledge;
use crate::worker::Core;
use byrnie_base::Instant;
use byrnie_codec::h1::{Asked, fit_downstream};
use byrnie_codec::headers;
use byrnie_codec::{Fields, Framing, Head, RejectReason, Version, grpc};
use byrnie_engine::{Answer, Arrival, Effect, Exchange, Failure, Outcome, Plan, Program, Target, Told};
use byrnie_net::http::h2::{CANCEL, INTERNAL_ERROR};
use byrnie_net::http::{Alarm, Answered, Chunk, Error, Fault, Pump, READ_BYTES_MIN, REPLAY_BYTES_MAX, Wire};
use byrnie_net::pool::Crowd;
use byrnie_net::relay::Pipe;
use byrnie_net::runtime;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

/// Where more exchanges run than this, those that wait for their client keep no heads.
const SLIM_FROM: usize = 64;

/// What an answer is that would have both sides leave HTTP, though one of them didn't ask for it.
pub(crate) const UNASKED_SWITCH: Failure = Failure::BadResponse(RejectReason::UnexpectedUpgrade.detail());

/// What becomes of the connection after an exchange.
#[derive(Debug)]
pub(crate) enum Next {
    /// It may carry another.
    Again,
    /// All is said; it is to be closed in order.
    Close,
    /// The message was cut, or the caller is gone.
    Drop,
    /// Both sides left HTTP.
    Tunnel(Box<Tunnel>),
}

/// What is left of a connection after a 101.
#[derive(Debug)]
pub(crate) struct Tunnel {
    /// The other side.
    pub(crate) pipe: Pipe,
    /// What has been read of it.
    pub(crate) bytes: Vec<u8>,
    /// Most time in which nothing moves.
    pub(crate) idle: Duration,
    /// Of a stream that others share with it: nothing has shown yet that its client has read the 101.
    pub(crate) crowd: Option<Crowd>,
}

/// What a connection uses again from one exchange to the next.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    /// In a box, as the streams of HTTP/2 bring theirs.
    pub(crate) request: Box<Head>,
    pub(crate) response: Head,
    pub(crate) alarm: Alarm,
    seen: Request,
}

/// A text of a request that is longer than this isn't kept for the next one.
const TEXT_KEPT_BYTES_MAX: usize = 512;

impl Desk {
    /// Lets go of what messages larger than most have left, so that a connection that rests keeps little.
    pub(crate) fn rest(&mut self) {
        self.request.slim();
        self.response.slim();
        let Request { method, host, path, .. } = &mut self.seen;
        for text in [method, host, path] {
            if text.capacity() > TEXT_KEPT_BYTES_MAX {
                *text = String::new();
            }
        }
    }
}

/// The request as it came: routes may rewrite the head.
#[derive(Debug, Default)]
struct Request {
    protocol: &'static str,
    method: String,
    host: String,
    path: String,
}

/// One exchange on its way.
pub(crate) struct Trip<'a> {
    pub(crate) core: &'a Rc<Core>,
    pub(crate) down: &'a mut Wire,
    pub(crate) request: &'a mut Head,
    pub(crate) response: &'a mut Head,
    pub(crate) alarm: &'a mut Alarm,
    /// The request's body.
    pub(crate) up: Pump,
    /// The response's body.
    pub(crate) back: Pump,
    pub(crate) upstream: Option<Upstream>,
    pub(crate) limits: Times,
    pub(crate) tempo: Tempo,
    pub(crate) client: Client<'a>,
    /// Only for a request under an idempotency key.
    pub(crate) ticket: Option<Box<Ticket>>,
}

/// The client, and what its connection allows.
#[derive(Clone, Copy)]
pub(crate) struct Client<'a> {
    caller: &'a Caller,
    /// What it asked.
    seen: &'a Request,
    pub(crate) version: Version,
    /// Whether its connection may carry another exchange after this one.
    pub(crate) keep_alive: bool,
    /// Whether it had taken an answer before it asked.
    known: bool,
}

/// Until when what must have happened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    pub(crate) deadline: Option<Instant>,
    pub(crate) try_deadline: Option<Instant>,
    /// When another try may be begun beside the one under way.
    pub(crate) hedge_at: Option<Instant>,
    /// Most time in which no byte of a body moves.
    pub(crate) idle: Option<Duration>,
    /// When something of the request must have been acknowledged, on a connection that may stand on this side alone.
    pub(crate) acknowledged: Option<Instant>,
}

/// What came of a try.
pub(crate) enum Event {
    Head,
    /// It takes so long that another one may be begun beside it.
    Slow,
    Failed(Failure),
    /// The request's own body is malformed, or comes too slowly.
    BadBody(BadBody),
}

/// What is known while a response's head is waited for.
pub(crate) struct Wait {
    asked: Asked,
    interims: u8,
    /// Why the upstream can't be written to.
    broken: Option<Error>,
    acknowledged: Option<u64>,
    /// Bytes of the request's body that had been moved when it was last looked at.
    taken: u64,
}

impl Wait {
    pub(crate) fn for_answer_to(request: &Head) -> Self {
        Self { asked: Asked::by(request), interims: 0, broken: None, acknowledged: None, taken: 0 }
    }
}

/// How the answer was delivered.
pub(crate) struct Delivered {
    pub(crate) outcome: Outcome,
    pub(crate) next: Next,
}

impl<'a> Trip<'a> {
    /// An exchange for the request on `desk`, whose body comes by `down`.
    pub(crate) fn new(core: &'a Rc<Core>, caller: &'a Caller, down: &'a mut Wire, desk: &'a mut Desk) -> Self {
        let Desk { request, response, alarm, seen } = desk;
        seen.take(request);
        let (version, keep_alive) = (request.version(), request.keep_alive());
        let client = Client { caller, seen, version, keep_alive, known: caller.is_known(request) };
        let (up, back) = (Pump::new(false), Pump::new(false));
        let limits = Times::default();
        // A proxy of the mesh has seen to its own client.
        let tempo = if caller.source.is_none() { Tempo::of(request) } else { Tempo::free() };
        Self { core, down, request, response, alarm, up, back, upstream: None, limits, tempo, client, ticket: None }
    }

    /// Carries the exchange to its end.
    pub(crate) async fn run(&mut self) -> Next {
        let core = self.core;
        let _underway = core.enter();
        core.begins();
        let (arrival, now) = (self.client.caller.arrival(), runtime::precise());
        let mut exchange = core.open_exchange(&arrival, self.client.known, self.request, now);
        let mut effect = core.decide(&mut exchange, &arrival, self.request, now);
        let mut line = None;
        let delivered = loop {
            let event = match effect {
                Effect::Reply(answer) => break self.reply(&exchange, &answer).await,
                Effect::Forward => break self.forward(&mut exchange, line).await,
                Effect::Queue(place) => match Box::pin(self.park(place)).await {
                    Ok(()) => {
                        effect = core.with_shard(|shard, now| {
                            exchange.on_turn(shard, &self.client.caller.arrival(), self.request, now)
                        });
                        continue;
                    }
                    Err(()) => Event::Failed(Failure::DownstreamGone),
                },
                Effect::Replay => break Box::pin(self.replay(&mut exchange)).await,
                Effect::Settle(told, answer) => {
                    // Whatever comes of it: untold, the claim lapses, and that is ambiguity too.
                    let _ = Box::pin(self.tell(told, None)).await;
                    break self.reply(&exchange, &answer).await;
                }
                Effect::Lease(_) | Effect::Enlist(_) | Effect::Recall(_) | Effect::Claim(_) | Effect::Pick(_) => {
                    match Box::pin(self.ask_first(&mut exchange, effect, &mut line)).await {
                        Ok(next) => {
                            effect = next;
                            continue;
                        }
                        Err(event) => event,
                    }
                }
                Effect::Keep => {
                    let kept = Box::pin(self.keep(&exchange)).await;
                    effect = self.core.with_shard(|shard, now| match kept {
                        Ok((told, heard)) => exchange.on_heard(self.response, told, heard),
                        Err(failure) => exchange.on_broken_answer(shard, failure, now),
                    });
                    continue;
                }
                Effect::Send(_) if self.is_forsaken() => Event::Failed(Failure::DownstreamGone),
                Effect::Send(plan) => match self.attempt(&plan, exchange.has_copies()).await {
                    Event::Slow => Box::pin(self.race(&mut exchange)).await,
                    other => other,
                },
                Effect::Wait => {
                    (self.limits.try_deadline, self.limits.hedge_at) = (None, None);
                    self.await_head().await
                }
            };
            // A try that follows, whether a failure or a status asked for it, needs the body once more.
            if !self.up.is_replayable() {
                exchange.body_gone();
            }
            effect = match event {
                // Nothing more is to be tried beside it.
                Event::Slow => Effect::Wait,
                Event::Head => self.core.with_shard(|shard, now| exchange.on_response(shard, self.response, now)),
                Event::BadBody(bad) => break self.refuse_body(&exchange, bad).await,
                Event::Failed(failure) => self.core.with_shard(|shard, now| exchange.on_failure(shard, failure, now)),
            };
        };
        self.close(&mut exchange, delivered.outcome);
        delivered.next
    }

    /// Whether its client has left already, so that nobody is asked; what is under a key is asked for whoever comes again.
    fn is_forsaken(&self) -> bool {
        self.ticket.is_none() && self.down.has_read_all() && self.down.is_gone()
    }

    /// Ends the exchange, and writes down how it went.
    fn close(&mut self, exchange: &mut Exchange, outcome: Outcome) {
        self.alarm.set(None);
        if let Some(trailers) = self.back.trailers() {
            exchange.on_trailers(trailers, runtime::coarse());
        }
        self.send_copies(exchange);
        let verdict = self.core.with_shard(|shard, now| exchange.end(shard, outcome, now));
        let seen = Seen {
            protocol: self.client.seen.protocol,
            method: &self.client.seen.method,
            host: &self.client.seen.host,
            path: &self.client.seen.path,
            client: self.client.caller.remote,
            source: self.client.caller.source.as_ref(),
            bytes: (self.up.bytes, self.back.bytes),
            ended: runtime::coarse().wall,
        };
        self.core.record(&verdict, &seen);
    }

    pub(crate) fn arrival(&self) -> Arrival<'a> {
        self.client.caller.arrival()
    }

    /// One try, up to the response's head.
    async fn attempt(&mut self, plan: &Plan, copied: bool) -> Event {
        self.upstream = None;
        self.back = if self.client.known { Pump::new(false) } else { Pump::curbed() };
        if !plan.delay.is_zero() && self.rest(plan.delay).await.is_err() {
            return Event::Failed(Failure::DownstreamGone);
        }
        if plan.again.attempt <= 1 {
            // Under a key, and where somebody picked by it, the whole body is here already.
            if self.ticket.is_none() && !self.up.is_gathered() {
                let long =
                    matches!(self.request.framing(), Framing::Length(length) if length > REPLAY_BYTES_MAX as u64);
                self.up = Pump::new((plan.again.keep_body || copied) && !long && !self.core.saves());
            }
        } else {
            plan.stamp(self.request, runtime::coarse());
            self.up.rewind();
        }
        let room = Room::of(self.client.known);
        // Nearly always there is one, which is put where it stays.
        poll_fn(|cx| {
            self.upstream = upstream::at_hand(self.core, plan, room, cx);
            Poll::Ready(())
        })
        .await;
        if self.upstream.is_none() {
            match self.open(plan, room).await {
                Ok(upstream) => self.upstream = Some(upstream),
                Err(failure) => return Event::Failed(failure),
            }
        }
        let Some(upstream) = &mut self.upstream else { return Event::Failed(Failure::Connect) };
        let hedge_at = plan.hedge_at.filter(|_| self.request.upgrade().is_none());
        let (deadline, try_deadline, idle) = (plan.deadline, plan.try_deadline, plan.idle_timeout);
        let fresh = upstream.lease.as_ref().is_some_and(|lease| !lease.reused);
        let acknowledged = match plan.target {
            Target::Program { program: Program::Beside(_), .. } if fresh => {
                Some(runtime::coarse().mono + plan.connect_timeout)
            }
            _ => None,
        };
        self.limits = Times { deadline, try_deadline, hedge_at, idle, acknowledged };
        if self.request.upgrade().is_some()
            && let Err(reject) = upstream::fit_upgrade(&upstream.wire, plan, self.request).await
        {
            return Event::BadBody(BadBody::Unsayable(reject));
        }
        // Whether the client's connection goes on is no concern of the upstream's.
        self.request.set_keep_alive(true);
        if let Err(error) = upstream.wire.send_request(self.request) {
            self.upstream = None;
            if self.ticket.is_some() {
                // Whatever comes of it: untold, the claim lapses.
                let _ = Box::pin(self.tell(Told::Unsent, None)).await;
            }
            return refusal::unsaid(&error);
        }
        if !self.client.known {
            upstream.wire.curb();
        }
        self.await_head().await
    }

    /// Waits before a further try; an error if the caller leaves meanwhile.
    async fn rest(&mut self, span: Duration) -> Result<(), ()> {
        self.alarm.set(Some(runtime::now().mono + span));
        poll_fn(|cx| {
            if self.up.is_done() && self.down.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(()));
            }
            self.alarm.poll(cx).map(Ok)
        })
        .await
    }

    /// Sends the request and waits for the response's head.
    pub(crate) async fn await_head(&mut self) -> Event {
        let mut wait = Wait::for_answer_to(self.request);
        let event = poll_fn(|cx| self.poll_head(cx, &mut wait)).await;
        self.tempo.rest();
        if matches!(event, Event::Failed(failure) if !matches!(failure, Failure::TryTimeout | Failure::CallerSlow))
            && let Some(mut upstream) = self.upstream.take()
        {
            upstream.wire.forsake_unacknowledged();
        }
        match event {
            Event::Head => self.await_body().await,
            other => other,
        }
    }

    /// Sends the request and looks for the response's head, or for what comes in its place.
    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>, wait: &mut Wait) -> Poll<Event> {
        let Some(upstream) = &mut self.upstream else { return Poll::Ready(Event::Failed(Failure::Connect)) };
        if wait.broken.is_none() {
            match self.up.poll(cx, self.down, &mut upstream.wire) {
                Poll::Ready(Err(Fault::Target(error))) => wait.broken = Some(error),
                Poll::Ready(Err(Fault::Source(error))) => return Poll::Ready(refusal::unread(&error)),
                Poll::Ready(Ok(())) => {}
                Poll::Pending => acknowledge(self.down, self.up.bytes, &mut wait.acknowledged),
            }
        }
        loop {
            match upstream.wire.poll_response(cx, wait.asked, self.response) {
                Poll::Ready(Ok(Answered::Final))
                    if self.down.may_be_answered_by(self.response) && self.response.switches_as_asked(self.request) =>
                {
                    return Poll::Ready(Event::Head);
                }
                Poll::Ready(Ok(Answered::Final)) => {
                    let switches = self.response.status() == 101;
                    return Poll::Ready(Event::Failed(if switches { UNASKED_SWITCH } else { Failure::NotSwitched }));
                }
                Poll::Ready(Ok(Answered::Interim)) if wait.interims < INTERIM_MAX => {
                    wait.interims += 1;
                    upstream::pass_interim(self.down, self.response, self.client.version);
                }
                Poll::Ready(Ok(Answered::Interim)) => {
                    return Poll::Ready(Event::Failed(Failure::BadResponse("there are too many interim answers")));
                }
                Poll::Ready(Err(error)) => {
                    let sent = upstream.wire.has_sent();
                    return Poll::Ready(Event::Failed(upstream::failure_before_head(&error, sent)));
                }
                Poll::Pending => break,
            }
        }
        if let Some(error) = wait.broken.as_ref().filter(|error| !upstream.wire.may_have_answered(error)) {
            // It can't be written to, and it has nothing to say.
            let sent = upstream.wire.has_sent();
            return Poll::Ready(Event::Failed(upstream::failure_before_head(error, sent)));
        }
        let client_gone = matches!(self.down.poll_flush(cx), Poll::Ready(Err(_)))
            || self.up.is_done() && self.down.poll_gone(cx).is_ready();
        // Under a key the answer is worth having even so: the caller's next try is given it.
        if client_gone && self.ticket.is_none() {
            let gone = if self.up.is_done() { Failure::Forsaken } else { Failure::DownstreamGone };
            return Poll::Ready(Event::Failed(gone));
        }
        let stirs = self.up.bytes != std::mem::replace(&mut wait.taken, self.up.bytes);
        self.poll_late(cx, stirs)
    }

    /// Ready with what has run out while a response's head is waited for; `stirs`: the client has just sent something.
    fn poll_late(&mut self, cx: &mut Context<'_>, stirs: bool) -> Poll<Event> {
        let step = self.tempo.end(&self.up);
        if self.tempo.lags(self.core, self.tempo.is_due(&self.up), stirs, cx) {
            return Poll::Ready(Event::BadBody(BadBody::Slow));
        }
        // Not before all of the request is on its way: until then it's the caller who is slow.
        let hedge_at = self.limits.hedge_at.filter(|_| self.up.is_done());
        let soon = earlier(earlier(hedge_at, self.lighten()), self.limits.acknowledged);
        let try_deadline = earlier(self.limits.try_deadline, soon);
        let limits = Times { deadline: earlier(self.limits.deadline, step), try_deadline, ..self.limits };
        match late(self.alarm, limits, cx) {
            Poll::Ready(Failure::TryTimeout) if hedge_at.is_some() && hedge_at == limits.try_deadline => {
                Poll::Ready(Event::Slow)
            }
            Poll::Ready(Failure::TryTimeout)
                if self.limits.acknowledged.is_some_and(|due| due <= runtime::coarse().mono) =>
            {
                self.limits.acknowledged = None;
                if self.upstream.as_mut().is_some_and(|upstream| upstream.wire.forsake_unacknowledged()) {
                    return Poll::Ready(Event::Failed(Failure::ResetBeforeHead { request_sent: true }));
                }
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            late => late.map(|failure| match step {
                Some(step) if step <= runtime::coarse().mono => Event::BadBody(BadBody::Slow),
                _ => Event::Failed(if owes(self.request, &self.up) { Failure::CallerSlow } else { failure }),
            }),
        }
    }

    /// Lets go of what is kept for another try, if it's much and memory is short. When that is to be asked again.
    fn lighten(&mut self) -> Option<Instant> {
        if self.up.gathered().len() <= READ_BYTES_MIN || self.ticket.is_some() {
            return None;
        }
        if self.core.saves() {
            self.up.forget();
            return None;
        }
        Some(runtime::coarse().mono + HEAVY_MAX / 2)
    }

    /// Hands the response on; a picker on the `line` is told.
    async fn forward(&mut self, exchange: &mut Exchange, line: Option<Line>) -> Delivered {
        let _told = line.map(|line| line.tell(self.core, exchange, self.response));
        if self.upstream.is_none() {
            return Delivered {
                outcome: Outcome { status: 0, failure: Some(Failure::ResetAfterHead) },
                next: Next::Drop,
            };
        }
        if !self.send_copies(exchange) {
            self.up.forget();
        }
        let (reusable, status) = (self.response.keep_alive(), self.response.status());
        if status != 101 {
            headers::strip_hop_by_hop(self.response);
        }
        let keep = self.keeps_client();
        fit_downstream(self.response, self.client.version, keep);
        #[cfg(feature = "http3")]
        self.offer_http3();
        let marked = self.down.mark_overlooked(self.response).map_err(Error::Reject);
        match marked.and_then(|()| self.down.send_response(self.response)) {
            Ok(()) => {}
            // With what the mesh adds, its head is more than can be said.
            Err(Error::Reject(reject)) => {
                let answer = exchange.on_unsayable(Failure::BadResponse(reject.reason.detail()));
                return Box::pin(self.reply(exchange, &answer)).await;
            }
            Err(_) => return self.cut(status, Break::gone(), None),
        }
        if status == 101 {
            return self.switch().await;
        }
        // Kept now, as the head may be let go.
        let takes_words = Break::takes_words(self.response);
        self.back.set_compressed(exchange.compresses());
        self.back.withhold(exchange.withheld_trailers());
        let failed = self.relay_body(exchange.body_delay()).await;
        let upstream = self.upstream.take();
        if let Some(broken) = failed {
            let words = broken.words(exchange, takes_words);
            return self.cut(status, broken, words);
        }
        if self.up.is_done()
            && reusable
            && let Some(Upstream { wire: Wire::H1(conn), lease: Some(lease), .. }) = upstream
        {
            self.core.pool.borrow_mut().give(conn, lease, runtime::coarse().mono);
        }
        self.client.caller.reads.set(true);
        Delivered { outcome: Outcome { status, failure: None }, next: self.next() }
    }

    /// Sends what copies there are, if the request's body is known by now. Whether some still wait for it.
    fn send_copies(&mut self, exchange: &mut Exchange) -> bool {
        if !exchange.has_copies() {
            return false;
        }
        let Some(body) = self.up.whole() else { return true };
        let body = Rc::<[u8]>::from(body);
        for copy in exchange.take_copies() {
            mirror::send(self.core, copy, Rc::clone(&body));
        }
        false
    }

    /// Moves the response's body, and what is left of the request's. `Some`: why it broke off. The response's waits for `delay` first.
    async fn relay_body(&mut self, delay: Duration) -> Option<Break> {
        let mut up_broken = false;
        let mut held = (!delay.is_zero()).then(|| runtime::now().mono + delay);
        let mut rest = Rest::new(runtime::coarse().mono);
        let mut acknowledged = None;
        poll_fn(|cx| {
            let Some(Upstream { wire, .. }) = &mut self.upstream else {
                return Poll::Ready(Some(Break::of(Failure::ResetAfterHead)));
            };
            if !self.up.is_done() && !up_broken {
                match self.up.poll(cx, self.down, wire) {
                    Poll::Ready(Err(Fault::Source(e))) => return Poll::Ready(Some(Break::by_client(self.core, &e))),
                    // It has answered without wanting to hear the rest.
                    Poll::Ready(Err(Fault::Target(_))) => up_broken = true,
                    Poll::Ready(Ok(())) | Poll::Pending => {}
                }
            }
            let back = match held {
                None => self.back.poll(cx, wire, self.down),
                // The head goes out all the same.
                Some(_) => match self.down.poll_flush(cx) {
                    Poll::Ready(Err(error)) => Poll::Ready(Err(Fault::Target(error))),
                    _ => Poll::Pending,
                },
            };
            match back {
                Poll::Ready(Ok(())) => return Poll::Ready(None),
                Poll::Ready(Err(Fault::Target(_))) => return Poll::Ready(Some(Break::gone())),
                Poll::Ready(Err(Fault::Source(error))) => {
                    // What came before the break is the caller's: an answer cut short, not none at all.
                    let _ = self.down.poll_flush(cx);
                    return Poll::Ready(Some(Break::by_server(&error)));
                }
                Poll::Pending => acknowledge(wire, self.back.bytes, &mut acknowledged),
            }
            // What the request's pump could not send when it was last polled.
            if self.up.is_done() && !up_broken && matches!(wire.poll_flush(cx), Poll::Ready(Err(_))) {
                up_broken = true;
            }
            if self.up.is_done() && self.down.poll_gone(cx).is_ready() {
                return Poll::Ready(Some(Break::gone()));
            }
            let now = runtime::coarse().mono;
            let unsent = self.down.unsent() + wire.unsent();
            let waits = unsent > 0 || self.back.is_blocked() || self.up.is_blocked() && !up_broken;
            let stirs = rest.note((self.up.bytes + self.back.bytes, unsent), waits, now);
            let lagging = self.down.unsent() > 0 || self.back.is_blocked() || self.tempo.is_due(&self.up) && !up_broken;
            if self.tempo.lags(self.core, lagging, stirs, cx) {
                return Poll::Ready(Some(Break::of(Failure::Deadline)));
            }
            if lagging {
                self.slim();
            }
            if rest.is_heavy(now) && self.core.saves() {
                return Poll::Ready(Some(Break::of(Failure::Strained)));
            }
            let step = self.tempo.end(&self.up).filter(|_| !up_broken);
            let deadline = earlier(self.limits.deadline, earlier(rest.ends(self.limits.idle), step));
            let due = Times { deadline, try_deadline: earlier(held, rest.look(now)), ..Times::default() };
            match late(self.alarm, due, cx) {
                Poll::Ready(Failure::TryTimeout) => {
                    held = held.filter(|until| *until > runtime::coarse().mono);
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                late => late.map(|failure| Some(Break::of(failure))),
            }
        })
        .await
    }

    /// Lets the heads go, which nobody needs any more, where many wait as this one does.
    fn slim(&mut self) {
        if self.core.gauge.underway() > SLIM_FROM {
            (*self.request, *self.response) = (Head::default(), Head::default());
        }
    }

    /// After a 101: what follows is not HTTP.
    async fn switch(&mut self) -> Delivered {
        let flushed = poll_fn(|cx| self.down.poll_flush(cx)).await;
        let left = self.upstream.take().map(|Upstream { wire, crowd, .. }| (wire.into_tunnel(), crowd));
        let Some((Some((pipe, bytes)), crowd)) = left else {
            return self.cut(101, Break::of(UNASKED_SWITCH), None);
        };
        if flushed.is_err() {
            return self.cut(101, Break::gone(), None);
        }
        let outcome = Outcome { status: 101, failure: None };
        let tunnel = Tunnel { pipe, bytes, idle: self.limits.idle.unwrap_or(TUNNEL_IDLE_MAX), crowd };
        Delivered { outcome, next: Next::Tunnel(Box::new(tunnel)) }
    }

    /// Writes an answer of the mesh's own.
    async fn reply(&mut self, exchange: &Exchange, answer: &Answer) -> Delivered {
        self.upstream = None;
        if !answer.delay.is_zero() && self.rest(answer.delay).await.is_err() {
            return Delivered { outcome: Outcome { status: 0, failure: None }, next: self.gone() };
        }
        if answer.cut {
            self.down.abort(INTERNAL_ERROR);
            return Delivered { outcome: Outcome { status: 0, failure: None }, next: Next::Drop };
        }
        let body = exchange.write(answer, self.response);
        let status = answer.status;
        if answer.reason == byrnie_engine::Reason::DownstreamGone {
            return Delivered { outcome: Outcome { status: 0, failure: None }, next: self.gone() };
        }
        let next = self.say(body, None).await;
        Delivered { outcome: Outcome { status, failure: None }, next }
    }

    /// Sends `self.response` with `body` and `trailers`, in one go.
    pub(crate) async fn say(&mut self, mut body: Vec<u8>, trailers: Option<Fields>) -> Next {
        if self.request.method() == "HEAD" && !body.is_empty() {
            self.response.set_declared_length(Some(body.len() as u64));
            self.response.set_framing(Framing::None);
            body = Vec::new();
        }
        let mut begun = false;
        let sent = poll_fn(|cx| {
            if !begun {
                begun = true;
                // A small body that is there already is swallowed, so that the connection can go on.
                self.swallow(cx);
                let keep = self.keeps_client();
                fit_downstream(self.response, self.client.version, keep);
                #[cfg(feature = "http3")]
                self.offer_http3();
                self.down.send_response(self.response)?;
                if !body.is_empty() {
                    self.down.push(cx, Chunk::Slice(&body))?;
                }
                self.down.end(trailers.as_ref())?;
            }
            self.alarm.set(self.alarm_for_stall());
            match self.down.poll_flush(cx) {
                Poll::Pending => self.alarm.poll(cx).map(|()| Err(Error::Closed)),
                ready => ready,
            }
        })
        .await;
        if sent.is_err() { self.gone() } else { self.next() }
    }

    /// Tells a client that came by another version where HTTP/3 is served, unless the service says so itself.
    #[cfg(feature = "http3")]
    fn offer_http3(&mut self) {
        const NAME: &str = "alt-svc";
        let Entry::Gate { port, secure: true, .. } = self.client.caller.entry else { return };
        if self.client.version == Version::Http3 || self.response.status() == 101 || self.response.get(NAME).is_some() {
            return;
        }
        if let Some(offer) = self.core.offer(port) {
            // A head that is full already goes without.
            let _ = self.response.append(NAME, offer.as_bytes());
        }
    }

    fn alarm_for_stall(&self) -> Option<Instant> {
        Some(runtime::coarse().mono + STALL_MAX)
    }

    /// Reads what has come of the request's body and forgets it.
    fn swallow(&mut self, cx: &mut Context<'_>) {
        let mut seen = 0;
        while seen <= REPLAY_BYTES_MAX && !self.down.has_read_all() {
            let progress = self.down.poll_body(cx, &mut |_, chunk| {
                seen += chunk.as_slice().len().max(1);
                Ok(())
            });
            match progress {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) | Poll::Pending => return,
            }
        }
    }

    /// Whether the client's connection may go on after this answer.
    fn keeps_client(&self) -> bool {
        let expired = self.client.caller.is_over(self.core, runtime::coarse().wall);
        let draining = self.core.drain_of(self.client.caller.is_proxy()).is_draining();
        let keep = self.client.keep_alive && self.down.has_read_all() && !draining && !expired;
        if keep
            && matches!(self.down, Wire::H1(_))
            && (self.core.saves() || self.core.is_crowded() && !self.client.caller.is_proxy())
        {
            self.core.count(|counts| counts.strain.not_kept.increment());
            return false;
        }
        keep
    }

    /// After a whole answer: what its head said of the client's connection is what becomes of it.
    fn next(&mut self) -> Next {
        match self.down {
            Wire::H1(conn) if conn.is_last() => return Next::Close,
            Wire::H2(flow) => flow.stop_reading(),
            _ => {}
        }
        Next::Again
    }

    fn gone(&mut self) -> Next {
        self.down.abort(CANCEL);
        Next::Drop
    }
}

impl Request {
    fn take(&mut self, head: &Head) {
        self.protocol = match head.version() {
            _ if grpc::is_grpc(head) => "grpc",
            Version::Http2 => "http/2",
            Version::Http3 => "http/3",
            Version::Http10 | Version::Http11 => "http/1.1",
        };
        for (kept, text) in
            [(&mut self.method, head.method()), (&mut self.host, head.authority()), (&mut self.path, head.path())]
        {
            kept.clear();
            kept.push_str(text);
        }
    }
}

/// Ready with what has run out.
pub(crate) fn late(alarm: &mut Alarm, limits: Times, cx: &mut Context<'_>) -> Poll<Failure> {
    alarm.set(earlier(limits.deadline, limits.try_deadline));
    if alarm.poll(cx).is_pending() {
        return Poll::Pending;
    }
    let now = runtime::coarse().mono;
    let over = limits.deadline.is_some_and(|deadline| deadline <= now);
    Poll::Ready(if over { Failure::Deadline } else { Failure::TryTimeout })
}
