// SPDX-License-Identifier: Apache-2.0
//! Two tries of one request beside each other: the engine asks for the second when the first is slow. The one that
//! answers first is gone on with; the other is dropped, which resets its stream or closes its connection, so that
//! nobody goes on working for it. Called by `carry`; what counts, the engine decides.

use crate::carry::{Event, Times, Trip, UNASKED_SWITCH, Wait, late};
use crate::upstream::{self, Room, Upstream};
use crate::worker::Core;
use byrnie_codec::h1::Asked;
use byrnie_codec::{Framing, Head, Known};
use byrnie_engine::{Ending, Exchange, Failure, Plan};
use byrnie_net::http::{Chunk, Error};
use byrnie_net::runtime;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

/// What came of the second try.
type Answer = Result<Box<(Upstream, Head)>, Failure>;

/// Who was first.
enum Lap {
    First(Event),
    Second(Answer),
}

impl Trip<'_> {
    /// The try under way is slow: begins another beside it, if there may be one, and goes on with the quicker.
    pub(crate) async fn race(&mut self, exchange: &mut Exchange) -> Event {
        self.limits.hedge_at = None;
        // What can't be sent again whole isn't sent twice.
        let body = self.up.whole().filter(|_| self.up.trailers().is_none()).map(Rc::<[u8]>::from);
        let begun = body.and_then(|body| {
            let (first, plan) = self.core.with_shard(|shard, now| exchange.on_slow(shard, now))?;
            Some((first, plan, body))
        });
        let Some((first, plan, body)) = begun else { return self.await_head().await };
        let second = plan.again.attempt;
        let try_deadline = self.limits.try_deadline.take();
        let mut other = Box::pin(beside(Rc::clone(self.core), plan, self.request.clone(), body));
        let mut wait = Wait::for_answer_to(self.request);
        let lap = poll_fn(|cx| match self.poll_head(cx, &mut wait) {
            Poll::Ready(event) => Poll::Ready(Lap::First(event)),
            Poll::Pending => other.as_mut().poll(cx).map(Lap::Second),
        })
        .await;
        self.tempo.rest();
        let core = self.core;
        let fell = |exchange: &mut Exchange, which: u8, ending: Ending, left: u8| {
            core.with_shard(|shard, now| exchange.fell(shard, (which, ending), left, now));
        };
        match lap {
            Lap::First(Event::Head) if !exchange.is_worth_taking(self.response) => {
                fell(exchange, first, Ending::Status(self.response.status()), second);
                self.alone(other.as_mut()).await
            }
            Lap::First(Event::Failed(failure))
                if !matches!(failure, Failure::Deadline | Failure::DownstreamGone | Failure::Forsaken) =>
            {
                fell(exchange, first, Ending::Failed(failure), second);
                self.alone(other.as_mut()).await
            }
            Lap::First(event) => {
                drop(other);
                core.with_shard(|shard, now| exchange.won(shard, first, second, now));
                if matches!(event, Event::Head) { self.await_body().await } else { event }
            }
            Lap::Second(Ok(taken)) if exchange.is_worth_taking(&taken.1) => {
                core.with_shard(|shard, now| exchange.won(shard, second, first, now));
                self.take(*taken).await
            }
            Lap::Second(answer) => {
                let ending = answer.map_or_else(Ending::Failed, |taken| Ending::Status(taken.1.status()));
                fell(exchange, second, ending, first);
                self.limits.try_deadline = try_deadline;
                self.await_head().await
            }
        }
    }

    /// Goes on with the second try, as the first has ended.
    async fn alone(&mut self, mut other: Pin<&mut impl Future<Output = Answer>>) -> Event {
        self.upstream = None;
        let limits = Times { deadline: self.limits.deadline, ..Times::default() };
        let answer = poll_fn(|cx| {
            if self.down.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(Failure::DownstreamGone));
            }
            match other.as_mut().poll(cx) {
                Poll::Ready(answer) => Poll::Ready(answer),
                Poll::Pending => late(self.alarm, limits, cx).map(Err),
            }
        });
        match answer.await {
            Ok(taken) => self.take(*taken).await,
            Err(failure) => Event::Failed(failure),
        }
    }

    async fn take(&mut self, (upstream, head): (Upstream, Head)) -> Event {
        *self.response = head;
        if !self.down.may_be_answered_by(self.response) {
            self.upstream = None;
            return Event::Failed(UNASKED_SWITCH);
        }
        self.upstream = Some(upstream);
        self.await_body().await
    }
}

async fn beside(core: Rc<Core>, plan: Plan, mut head: Head, body: Rc<[u8]>) -> Answer {
    if !plan.delay.is_zero() {
        runtime::sleep(plan.delay).await;
    }
    plan.stamp(&mut head, runtime::coarse());
    head.remove_known(Known::Expect);
    let upstream = ask(&core, &plan, &mut head, &body).await?;
    Ok(Box::new((upstream, head)))
}

/// Sends a request whose body is here, and waits for the head of its answer, which takes the place of `head`.
pub(crate) async fn ask(core: &Rc<Core>, plan: &Plan, head: &mut Head, body: &[u8]) -> Result<Upstream, Failure> {
    // Nothing that can't be done without.
    let mut upstream = upstream::open(core, plan, Room::Most).await?;
    let framed = !matches!(head.framing(), Framing::None);
    head.set_framing(if framed || !body.is_empty() { Framing::Length(body.len() as u64) } else { Framing::None });
    head.set_keep_alive(true);
    head.set_upgrade(None).map_err(|_| Failure::BadHead)?;
    let failed = |error: Error| upstream::failure_before_head(&error, true);
    let wire = &mut upstream.wire;
    wire.send_request(head).map_err(|error| match error {
        Error::Reject(_) => Failure::BadHead,
        error => failed(error),
    })?;
    let asked = Asked::by(head);
    let (mut written, mut interims) = (false, 0);
    poll_fn(|cx| {
        let pushed = match std::mem::replace(&mut written, true) {
            true => Ok(()),
            false if body.is_empty() => wire.end(None),
            false => wire.push(cx, Chunk::Slice(body)).and_then(|()| wire.end(None)),
        };
        upstream::poll_exchanged(wire, cx, pushed, asked, (head, &mut interims))
    })
    .await
    .map_err(failed)?;
    Ok(upstream)
}
