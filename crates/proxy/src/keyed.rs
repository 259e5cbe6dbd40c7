// SPDX-License-Identifier: Apache-2.0
//! Performs what the engine decides on requests under an idempotency key: reads the whole request, asks
//! the ledger, gathers the answer, has it kept, and only then lets it out. Called by `carry` where the
//! engine says so; a request without a protected key never comes here.

use crate::carry::{Delivered, Event, Times, Trip, late};
use crate::pick::Line;
use crate::refusal::unread;
use crate::upstream::{self, Room};
use byrnie_base::Text;
use byrnie_codec::h1::Asked;
use byrnie_codec::headers::{self, Sender, strip_untrusted_response};
use byrnie_codec::{Fields, Framing, Head, Known, Version, grpc};
use byrnie_engine::{
    Claim, DecisionId, ERROR_DOMAIN, Effect, Enlistment, Exchange, Failure, Heard, Joined, KEYED_BODY_BYTES_MAX,
    Outcome, REPLAYED, Recall, Recalled, Told, Word,
};
use byrnie_model::code;
use byrnie_model::policy::enlist::Act;
use byrnie_net::http::{Gathered, Pump};
use byrnie_net::runtime;
use byrnie_saga::ledger::{ANSWER_BYTES_MAX, Fingerprint, Fingerprinting};
use byrnie_xds::proto::byrnie::v1 as wire;
use byrnie_xds::proto::byrnie::v1::{
    enlist_response, ledger_answer as answer, ledger_ask as ask, ledger_finish as finish,
};
use byrnie_xds::proto::{Bytes, Message};
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

/// So much of a request counts as one that begins: memory is measured after so many, in bytes.
const COUNTED_BYTES: usize = 16 * 1024;
/// Largest body of an answer that is kept for replay, in bytes.
const KEPT_BODY_BYTES_MAX: usize = 64 * 1024;
/// How long the ledger may take to let a request begin.
const BEGIN_MAX: Duration = Duration::from_secs(2);
/// How long the program may take to say what became of an earlier request.
const RECALL_MAX: Duration = Duration::from_secs(5);
/// How long it is tried to tell it how a request ended: the program has acted, so it is worth a wait.
const FINISH_MAX: Duration = Duration::from_secs(5);

/// A request under a key, from its claim to its end.
#[derive(Debug)]
pub(crate) struct Ticket {
    claim: Box<Claim>,
    fingerprint: Bytes,
    /// The answer that the ledger keeps.
    kept: Option<wire::KeptAnswer>,
}

impl Trip<'_> {
    /// Asks for the right to forward the request. An event if there is nothing to ask for any more.
    pub(crate) async fn claim(&mut self, claim: Box<Claim>) -> Result<Word, Event> {
        let end = runtime::coarse().mono + claim.lease;
        let limits = Times { deadline: Some(end), ..Times::default() };
        if !self.gather_request(KEYED_BODY_BYTES_MAX, limits).await? {
            return Ok(Word::BodyTooLarge);
        }
        let fingerprint = Bytes::from(self.fingerprint().0.to_vec());
        let begin = wire::LedgerBegin {
            fingerprint: fingerprint.clone(),
            lease_millis: millis(claim.lease),
            ttl_millis: millis(claim.ttl),
            again: claim.again,
        };
        let question = ask_of(&claim, ask::What::Begin(begin));
        self.ticket = Some(Box::new(Ticket { claim, fingerprint, kept: None }));
        let Some(found) = self.core.lines.ledger.ask(question.clone(), BEGIN_MAX).await else {
            self.core.lines.ledger.take_back(question);
            return Ok(Word::Unreachable);
        };
        Ok(match found {
            answer::What::Granted(granted) => Word::Granted { again: granted.again },
            answer::What::InFlightMillis(left) => Word::InFlight(Duration::from_millis(left)),
            answer::What::Mismatch(_) => Word::Mismatch,
            answer::What::Ambiguous(_) => Word::Ambiguous,
            answer::What::Done(kept) => match wire::KeptAnswer::decode(&*kept) {
                Ok(kept) => {
                    if let Some(ticket) = &mut self.ticket {
                        ticket.kept = Some(kept);
                    }
                    Word::Done
                }
                Err(error) => {
                    tracing::warn!(%error, "a kept answer can't be read");
                    Word::Unreachable
                }
            },
            answer::What::Error(error) => {
                tracing::warn!(error, "the ledger lets nothing begin");
                // It may not know itself whether the claim stands.
                self.core.lines.ledger.take_back(question);
                Word::Unreachable
            }
            answer::What::Recorded(_) | answer::What::Fenced(_) | answer::What::Absent(_) => Word::Unreachable,
        })
    }

    /// Asks whoever has to be asked before the request may be forwarded.
    pub(crate) async fn ask_first(
        &mut self,
        exchange: &mut Exchange,
        asking: Effect,
        line: &mut Option<Line>,
    ) -> Result<Effect, Event> {
        Ok(match asking {
            Effect::Lease(asked) => {
                let allowance = self.core.lines.quotas.ask(*asked).await;
                self.core.with_shard(|shard, now| {
                    exchange.on_allowance(shard, &self.arrival(), self.request, allowance, now)
                })
            }
            Effect::Enlist(asked) => self.enlist(exchange, *asked).await,
            Effect::Recall(recall) => self.recall(exchange, *recall).await,
            Effect::Claim(claim) => {
                let word = self.claim(claim).await?;
                self.core.with_shard(|shard, now| exchange.on_word(shard, self.request, word, now))
            }
            Effect::Pick(pick) => {
                let picked = self.pick(*pick, line).await?;
                self.core.with_shard(|shard, now| exchange.on_picked(shard, self.request, picked, now))
            }
            other => other,
        })
    }

    /// Asks the coordinator to write down the part that the request will be.
    async fn enlist(&mut self, exchange: &mut Exchange, asked: Enlistment) -> Effect {
        let act = |act: Act| wire::Act { method: act.method.to_string(), path: act.path.to_string() };
        let request = wire::EnlistRequest {
            node: String::new(),
            service: Some(service_of(&asked.service)),
            port: asked.port.map_or(0, u32::from),
            caller: asked.caller.to_string(),
            transaction: asked.transaction.to_string(),
            key: asked.key.to_string(),
            call: asked.id,
            compensate: Some(act(asked.compensate)),
            complete: asked.complete.map(act),
        };
        let joined = match self.core.lines.coordinator.ask(request, BEGIN_MAX).await {
            Some(enlist_response::What::Branch(branch)) => Joined::As(branch.into()),
            Some(enlist_response::What::Refusal(wire::EnlistRefusal { status, detail })) => {
                Joined::Refused { status: u16::try_from(status).unwrap_or_default(), detail: detail.into() }
            }
            None => Joined::Unreachable,
        };
        let arrival = self.arrival();
        self.core.with_shard(|shard, now| exchange.on_joined(shard, &arrival, self.request, joined, now))
    }

    /// Asks the program what became of an earlier request under this key. An answer is kept at the ledger at once.
    async fn recall(&mut self, exchange: &mut Exchange, recall: Recall) -> Effect {
        let recalled = self.recalled(&recall).await;
        self.core.with_shard(|_, now| exchange.on_recalled(self.request, recalled, now))
    }

    async fn recalled(&mut self, recall: &Recall) -> Recalled {
        let found = match self.ask_program(recall).await {
            Ok(found) => found,
            Err(why) => return Recalled::Unknown(why),
        };
        match found.status {
            200..=299 => {
                let kept = found.encode_to_vec();
                if let Some(ticket) = &mut self.ticket {
                    ticket.kept = Some(found);
                }
                Recalled::Answered(self.finish(finish::Ending::Done(kept.into())).await)
            }
            404 => Recalled::Absent,
            425 => {
                let after = found.headers.iter().find(|field| field.name.eq_ignore_ascii_case("retry-after"));
                let after = after.and_then(|field| std::str::from_utf8(&field.value).ok()?.trim().parse().ok());
                Recalled::UnderWay(after.map(Duration::from_secs))
            }
            status => Recalled::Unknown(format!("status {status}").into()),
        }
    }

    /// One GET of the program, on a connection that is not used again, and its whole answer.
    async fn ask_program(&mut self, Recall { plan, path }: &Recall) -> Result<wire::KeptAnswer, Text> {
        let mut head = Head::new();
        let words = |error: &dyn std::fmt::Display| Text::from(error.to_string());
        head.start_request("GET", "http", self.request.authority(), path).map_err(|error| words(&error))?;
        let told = [
            Known::IdempotencyKey,
            Known::TxnId,
            Known::TxnBranch,
            Known::TxnOp,
            Known::ForwardedClientIdentity,
            Known::XForwardedClientCert,
        ];
        for name in told.map(Known::name) {
            for value in self.request.values(name) {
                head.append(name, value).map_err(|error| words(&error))?;
            }
        }
        if plan.target.protocol().is_h2() {
            head.set_version(Version::Http2);
        }
        let end = runtime::now().mono + RECALL_MAX;
        let limits = Times { deadline: Some(plan.deadline.map_or(end, |at| at.min(end))), ..Times::default() };
        let mut upstream =
            upstream::open(self.core, plan, Room::All).await.map_err(|_| Text::from("it isn't reached"))?;
        let asked = Asked::by(&head);
        upstream.wire.send_request(&head).map_err(|error| words(&error))?;
        upstream.wire.end(None).map_err(|error| words(&error))?;
        let mut body = Pump::new(false);
        let (mut answered, mut interims) = (false, 0);
        let gathered = poll_fn(|cx| {
            // It may answer before it has read all; an error shows in what it answers.
            let _ = upstream.wire.poll_flush(cx);
            if !answered {
                match upstream::poll_final(&mut upstream.wire, cx, asked, &mut head, &mut interims) {
                    Poll::Ready(Ok(())) => answered = true,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(words(&error))),
                    Poll::Pending => return late(self.alarm, limits, cx).map(|_| Err("no answer in time".into())),
                }
            }
            match body.gather(cx, &mut upstream.wire, KEPT_BODY_BYTES_MAX) {
                Poll::Ready(gathered) => Poll::Ready(gathered.map_err(|error| words(&error))),
                Poll::Pending => late(self.alarm, limits, cx).map(|_| Err("no answer in time".into())),
            }
        })
        .await?;
        headers::strip_hop_by_hop(&mut head);
        strip_untrusted_response(&mut head, Sender::Program);
        let status = u32::from(head.status());
        if gathered != Gathered::Whole || self.keeps_status_only() {
            return Ok(wire::KeptAnswer { status, omitted: true, ..Default::default() });
        }
        let answer = wire::KeptAnswer {
            status,
            headers: head.headers().map(field).collect(),
            body: body.gathered().to_vec().into(),
            trailers: Vec::new(),
            omitted: false,
        };
        let fits = answer.encoded_len() <= ANSWER_BYTES_MAX;
        Ok(if fits { answer } else { wire::KeptAnswer { status, omitted: true, ..Default::default() } })
    }

    /// Whether the body is within this limit; then all of it has been read.
    pub(crate) async fn gather_request(&mut self, bytes_max: usize, limits: Times) -> Result<bool, Event> {
        if self.request.expects_continue() {
            // Nobody behind will be asked before all of it is here.
            self.response.start_response(100);
            upstream::pass_interim(self.down, self.response, self.client.version);
            self.request.remove_known(Known::Expect);
        }
        let mut counted = 0;
        poll_fn(|cx| {
            let gathered = self.up.gather(cx, self.down, bytes_max);
            // Where many bodies come at once, what is left is known only by measuring meanwhile.
            let length = self.up.gathered().len();
            if length >= counted + COUNTED_BYTES {
                self.core.grows(u32::try_from((length - counted) / COUNTED_BYTES).unwrap_or(u32::MAX));
                counted = length;
            }
            if let Poll::Ready(gathered) = gathered {
                let whole = gathered.map(|gathered| gathered == Gathered::Whole);
                return Poll::Ready(whole.map_err(|error| unread(&error)));
            }
            // What isn't here yet isn't waited for where there is no room for it.
            if !self.core.gathers(length) {
                // Nor is what is here kept until its client has heard of that.
                self.up.discard();
                return Poll::Ready(Err(Event::Failed(Failure::Strained)));
            }
            if let Poll::Ready(Err(_)) = self.down.poll_flush(cx) {
                return Poll::Ready(Err(Event::Failed(Failure::DownstreamGone)));
            }
            late(self.alarm, limits, cx).map(|failure| Err(Event::Failed(failure)))
        })
        .await
    }

    fn fingerprint(&self) -> Fingerprint {
        let mut print = Fingerprinting::new(self.request.method(), self.request.path_and_query());
        for name in [Known::Authorization, Known::Cookie] {
            for value in self.request.values(name.name()) {
                print = print.credential(value);
            }
        }
        print.body(self.up.gathered())
    }

    /// Gathers the answer and has it kept.
    pub(crate) async fn keep(&mut self, exchange: &Exchange) -> Result<(Told, Heard), Failure> {
        headers::strip_hop_by_hop(self.response);
        let whole = self.gather_answer().await.inspect_err(|_| self.upstream = None)?;
        let told = exchange.told(self.response.status(), self.grpc_status(whole));
        let heard = self.tell(told, Some(whole)).await;
        if heard != Heard::Recorded {
            self.upstream = None;
        }
        Ok((told, heard))
    }

    /// Reads the answer as far as it is worth keeping: whether that is all of it.
    async fn gather_answer(&mut self) -> Result<bool, Failure> {
        let limits = Times { try_deadline: None, ..self.limits };
        poll_fn(|cx| {
            let Some(upstream) = &mut self.upstream else { return Poll::Ready(Err(Failure::ResetAfterHead)) };
            if let Poll::Ready(gathered) = self.back.gather(cx, &mut upstream.wire, KEPT_BODY_BYTES_MAX) {
                let whole = gathered.map(|gathered| gathered == Gathered::Whole);
                return Poll::Ready(whole.map_err(|_| Failure::ResetAfterHead));
            }
            // It may answer before it has read all; an error shows in what it answers.
            let _ = upstream.wire.poll_flush(cx);
            late(self.alarm, limits, cx).map(Err)
        })
        .await
    }

    /// The status of a gRPC answer; `None` for other answers, and for one too long to see its end.
    fn grpc_status(&self, whole: bool) -> Option<u32> {
        if !whole || self.response.status() != 200 || !grpc::is_grpc(self.request) {
            return None;
        }
        let name = Known::GrpcStatus.name();
        let trailer = self.back.trailers().and_then(|trailers| trailers.get(name));
        let value = trailer.or_else(|| self.response.get(name));
        let code = value.and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
        Some(code.unwrap_or(u32::from(grpc::Status::Unknown.code())))
    }

    /// Tells the ledger how the request ended. `answered` says that there is an answer, and whether
    /// all of it was gathered.
    pub(crate) async fn tell(&mut self, told: Told, answered: Option<bool>) -> Heard {
        let ending = match (told, answered) {
            (Told::Done, Some(whole)) => finish::Ending::Done(self.kept(whole).into()),
            (Told::Done | Told::Ambiguous, _) => finish::Ending::Ambiguous(wire::LedgerAmbiguous {}),
            (Told::Unsent, _) => finish::Ending::Unsent(wire::LedgerUnsent {}),
        };
        self.finish(ending).await
    }

    async fn finish(&mut self, ending: finish::Ending) -> Heard {
        let Some(ticket) = &self.ticket else { return Heard::Unreachable };
        let finish = wire::LedgerFinish { fingerprint: ticket.fingerprint.clone(), ending: Some(ending) };
        let question = ask_of(&ticket.claim, ask::What::Finish(finish));
        match self.core.lines.ledger.ask(question, FINISH_MAX).await {
            Some(answer::What::Recorded(_)) => Heard::Recorded,
            Some(answer::What::Fenced(_)) => Heard::Fenced,
            Some(_) | None => Heard::Unreachable,
        }
    }

    /// Whether the policy has nothing else of an answer written down.
    fn keeps_status_only(&self) -> bool {
        self.ticket.as_ref().is_some_and(|ticket| ticket.claim.status_only)
    }

    /// The answer as it is kept.
    fn kept(&self, whole: bool) -> Vec<u8> {
        let status = u32::from(self.response.status());
        if whole && !self.keeps_status_only() {
            let answer = wire::KeptAnswer {
                status,
                headers: self.response.headers().map(field).collect(),
                body: self.back.gathered().to_vec().into(),
                trailers: self.back.trailers().map(|trailers| trailers.iter().map(field).collect()).unwrap_or_default(),
                omitted: false,
            };
            let bytes = answer.encode_to_vec();
            if bytes.len() <= ANSWER_BYTES_MAX {
                return bytes;
            }
        }
        wire::KeptAnswer { status, omitted: true, ..Default::default() }.encode_to_vec()
    }

    /// Gives the answer that was given before.
    pub(crate) async fn replay(&mut self, exchange: &mut Exchange) -> Delivered {
        let kept = self.ticket.as_mut().and_then(|ticket| ticket.kept.take()).unwrap_or_default();
        let status = u16::try_from(kept.status).unwrap_or(0);
        let (body, trailers) = if kept.omitted {
            self.write_omitted(status, exchange.id())
        } else {
            write_kept(&kept, status, self.response)
        };
        self.response.set(Known::IdempotencyStatus.name(), REPLAYED.as_bytes()).ok();
        exchange.on_replay(self.response, trailers.as_ref());
        let next = self.say(body, trailers).await;
        Delivered { outcome: Outcome { status, failure: None }, next }
    }

    /// What is said of an answer that was not kept: its status is true, its body is lost.
    fn write_omitted(&mut self, status: u16, id: &DecisionId) -> (Vec<u8>, Option<Fields>) {
        let code = &code::ANSWER_NOT_KEPT;
        let place = self.arrival().direction.side().place();
        if grpc::is_grpc(self.request) {
            let metadata = [("where", place), ("next", code.next), ("decision", id.as_str())];
            let info = grpc::Details { reason: code.id, domain: ERROR_DOMAIN, metadata: &metadata };
            grpc::trailers_only(self.response, grpc::Status::Unknown, code.title, &info).ok();
            self.response.append(Known::ByrnieDecision.name(), id.as_str().as_bytes()).ok();
            return (Vec::new(), None);
        }
        let why = if self.keeps_status_only() {
            "of answers of this service only the status is kept".to_owned()
        } else {
            format!("the answer was larger than {KEPT_BODY_BYTES_MAX} bytes and was not kept")
        };
        let body = format!(
            "{{\"title\":\"{}\",\"status\":{status},\"code\":\"{}\",\"detail\":\"the request was done and answered {status}; {why}\",\"where\":\"{place}\",\"next\":\"{}\",\"decision\":\"{id}\"}}\n",
            code.title, code.id, code.next
        );
        self.response.start_response(status);
        self.response.append(Known::ByrnieDecision.name(), id.as_str().as_bytes()).ok();
        self.response.append(Known::ContentType.name(), b"application/problem+json").ok();
        self.response.set_framing(Framing::Length(body.len() as u64));
        (body.into_bytes(), None)
    }
}

/// Makes `head` the head of the answer that was kept.
fn write_kept(kept: &wire::KeptAnswer, status: u16, head: &mut Head) -> (Vec<u8>, Option<Fields>) {
    head.start_response(status);
    for header in &kept.headers {
        // What the head won't take is not of an answer that was parsed once.
        head.append(&header.name, &header.value).ok();
    }
    let mut trailers = Fields::new();
    for trailer in &kept.trailers {
        trailers.append(&trailer.name, &trailer.value).ok();
    }
    let trailers = (!kept.trailers.is_empty()).then_some(trailers);
    let framing = match (status, &trailers) {
        (204 | 304, _) => Framing::None,
        (_, Some(_)) => Framing::Stream,
        (_, None) => Framing::Length(kept.body.len() as u64),
    };
    if trailers.is_some() {
        head.set_version(Version::Http2);
    }
    head.set_framing(framing);
    (kept.body.to_vec(), trailers)
}

fn field((name, value): (&str, &[u8])) -> wire::KeptField {
    wire::KeptField { name: name.to_owned(), value: value.to_vec().into() }
}

fn ask_of(claim: &Claim, what: ask::What) -> wire::LedgerAsk {
    wire::LedgerAsk {
        service: Some(service_of(&claim.service)),
        caller: claim.caller.to_string(),
        key: claim.key.to_string(),
        claim: claim.id,
        what: Some(what),
    }
}

/// The service of a label, `NAME.NAMESPACE`.
fn service_of(label: &str) -> wire::ServiceRef {
    let (name, namespace) = label.split_once('.').unwrap_or((label, ""));
    wire::ServiceRef { namespace: namespace.to_owned(), name: name.to_owned() }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
