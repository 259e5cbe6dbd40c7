// SPDX-License-Identifier: Apache-2.0
//! What is no request, or none to its end: counted under the rule that it breaks, and answered with it. Called by `connection`, `hop`
//! and `quic` for heads, by `carry` for bodies.

use crate::carry::{Delivered, Event, Next, Trip};
use crate::door::Caller;
use crate::upstream::failure_before_head;
use crate::worker::Core;
use byrnie_codec::h1::fit_downstream;
use byrnie_codec::{Framing, Head, Reject, RejectReason, Version};
use byrnie_engine::{DecisionId, Exchange, Failure, Outcome, Side};
use byrnie_net::http::{Chunk, Error, Wire};
use byrnie_net::runtime;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

/// How long a client is given to take what it's told.
pub(crate) const LINGER_MAX: Duration = Duration::from_secs(2);
/// The status that tells a client that its request came too slowly (RFC 9110 15.5.9).
const REQUEST_TIMEOUT: u16 = 408;

/// Counts what is no request.
pub(crate) fn count(core: &Core, reason: RejectReason) {
    core.count(|counts| counts.rejected.of(reason).increment());
}

/// Tells a client that what it sent is no request.
pub(crate) async fn refuse(core: &Core, caller: &Caller, wire: &mut Wire, response: &mut Head, reject: Reject) {
    let body = word_head(core, caller, response, reject);
    // A client that doesn't listen misses it.
    say(wire, response, body.as_bytes()).await;
}

/// Says an answer of the mesh's own to a client, and whether it was sent. One without a body isn't ended: what follows isn't HTTP.
pub(crate) async fn say(wire: &mut Wire, response: &Head, body: &[u8]) -> bool {
    let mut begun = false;
    let said = poll_fn(|cx| {
        if !std::mem::replace(&mut begun, true) {
            wire.send_response(response)?;
            if !body.is_empty() {
                wire.push(cx, Chunk::Slice(body))?;
                wire.end(None)?;
            }
        }
        wire.poll_flush(cx)
    });
    matches!(runtime::timeout(LINGER_MAX, said).await, Ok(Ok(())))
}

/// The same on a stream: at once, so that whoever gives it no window for the answer keeps nothing here by that. What of it
/// can't be said now is left out with a reset.
pub(crate) async fn refuse_stream(core: &Core, caller: &Caller, mut wire: Wire, reject: Reject) {
    let mut response = Head::default();
    let body = word_head(core, caller, &mut response, reject);
    let said = poll_fn(|cx| {
        wire.send_response(&response)?;
        wire.push(cx, Chunk::Slice(body.as_bytes()))?;
        wire.end(None)?;
        Poll::Ready(match wire.poll_flush(cx) {
            Poll::Ready(said) => said,
            Poll::Pending => Ok(()),
        })
    });
    // A client that is gone misses it.
    let _: Result<(), Error> = said.await;
}

/// Counts a refusal and makes `response` the head of its answer, whose body it gives.
fn word_head(core: &Core, caller: &Caller, response: &mut Head, reject: Reject) -> String {
    count(core, reject.reason);
    let id = core.with_shard(|shard, _| shard.draw_id());
    word(response, reject, caller.arrival().direction.side(), &id)
}

fn word(response: &mut Head, reject: Reject, at: Side, id: &DecisionId) -> String {
    let code = &byrnie_model::code::BAD_REQUEST;
    let body = format!(
        "{{\"title\":\"malformed request\",\"status\":{},\"code\":\"{}\",\"reason\":\"{}\",\"detail\":\"{}\",\"where\":\"{}\",\"next\":\"{}\",\"decision\":\"{id}\"}}
",
        reject.status,
        code.id,
        reject.reason.label(),
        reject.reason.detail(),
        at.place(),
        code.next
    );
    response.start_response(reject.status);
    response.append("content-type", b"application/problem+json").ok();
    response.append("x-byrnie-decision", id.as_str().as_bytes()).ok();
    response.set_framing(Framing::Length(body.len() as u64));
    fit_downstream(response, Version::Http11, false);
    body
}

/// Answers a request on a connection whose caller has been let in on terms that hold no more: nothing is done with it, and on another
/// connection, where it may be let in anew, it may be asked again whatever it is (RFC 9110 15.5.20).
pub(crate) async fn turn_away(caller: &Caller, wire: &mut Wire, response: &mut Head) {
    let code = &byrnie_model::code::MISDIRECTED;
    let body = format!(
        "{{\"title\":\"{}\",\"status\":421,\"code\":\"{}\",\"detail\":\"{}\",\"where\":\"{}\",\"next\":\"{}\"}}\n",
        code.title,
        code.id,
        "the connection was let in on terms that hold no more",
        caller.arrival().direction.side().place(),
        "Ask again on a new connection."
    );
    response.start_response(421);
    response.append("content-type", b"application/problem+json").ok();
    response.set_framing(Framing::Length(body.len() as u64));
    fit_downstream(response, Version::Http11, false);
    say(wire, response, body.as_bytes()).await;
}

/// Why a request, begun already, isn't taken.
#[derive(Clone, Copy)]
pub(crate) enum BadBody {
    Slow,
    Malformed(Reject),
    /// It's the head, which can't be said with what the mesh adds.
    Unsayable(Reject),
}

/// What a request comes to whose head couldn't be written for `error`: one that can't be said is its caller's.
pub(crate) fn unsaid(error: &Error) -> Event {
    match error {
        Error::Reject(reject) => Event::BadBody(BadBody::Unsayable(*reject)),
        error => Event::Failed(failure_before_head(error, false)),
    }
}

/// What a request comes to whose body can't be read on.
pub(crate) fn unread(error: &Error) -> Event {
    match error {
        Error::Reject(reject) => Event::BadBody(BadBody::Malformed(*reject)),
        _ => Event::Failed(Failure::DownstreamGone),
    }
}

impl Trip<'_> {
    /// Refuses the request for its body: nothing of it may be acted on.
    pub(crate) async fn refuse_body(&mut self, exchange: &Exchange, bad: BadBody) -> Delivered {
        self.upstream = None;
        self.client.keep_alive = false;
        let (body, failure) = match bad {
            BadBody::Slow => {
                self.response.start_response(REQUEST_TIMEOUT);
                (String::new(), Failure::DownstreamGone)
            }
            BadBody::Malformed(reject) | BadBody::Unsayable(reject) => {
                count(self.core, reject.reason);
                let failure = if matches!(bad, BadBody::Malformed(_)) { Failure::BadBody } else { Failure::BadHead };
                (word(self.response, reject, self.arrival().direction.side(), exchange.id()), failure)
            }
        };
        let status = self.response.status();
        self.say(body.into_bytes(), None).await;
        Delivered { outcome: Outcome { status, failure: Some(failure) }, next: Next::Close }
    }
}
