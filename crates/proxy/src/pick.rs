// SPDX-License-Identifier: Apache-2.0
//! Asks the picker of a pool which members get a request, by Envoy's `ext_proc` on a stream of gRPC: the request's head and the
//! whole of its body go there, and come back as the picker wants them. The stream stays open until the answer is through, so
//! that the picker knows what is under way where. Called by `carry` where the engine says so.

use crate::carry::{Event, Times, Trip};
use crate::refusal::BadBody;
use crate::upstream::{self, Room, Upstream, failure_before_head};
use crate::worker::Core;
use byrnie_base::Text;
use byrnie_codec::h1::Asked;
use byrnie_codec::{Framing, Head, Known, Version, grpc};
use byrnie_engine::{Edit, Exchange, Failure, PICK_BODY_BYTES_MAX, PICKED, Pick, Picked};
use byrnie_net::http::{Chunk, Error, Progress, Wire};
use byrnie_net::runtime;
use byrnie_xds::proto::Message;
use byrnie_xds::proto::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use byrnie_xds::proto::envoy::config::core::v3::{HeaderMap, HeaderValue, HeaderValueOption, Metadata};
use byrnie_xds::proto::envoy::service::ext_proc::v3 as wire;
use byrnie_xds::proto::google::protobuf::{ListValue, Struct, Value, value};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::oneshot;
use wire::{body_mutation::Mutation, processing_request as ask, processing_response as answer};

/// What is called.
const PATH: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";
/// How long the body of a request may take to come.
const BODY_MAX: Duration = Duration::from_secs(60);
/// Largest piece of a body in one message, in bytes: as Envoy and the pickers of others cut them.
const PIECE_BYTES_MAX: usize = 62 * 1024;
/// Most bytes that a picker may say about one request: its body, as it may have grown, and what is said beside.
const SAID_BYTES_MAX: usize = PICK_BODY_BYTES_MAX + 256 * 1024;
/// How long a picker has, after an answer is through, to end its side of the stream.
const LINGER_MAX: Duration = Duration::from_secs(1);
/// Before the bytes of a message: whether it's compressed, and its length (grpc.github.io/grpc/core/md_doc__p_r_o_t_o_c_o_l-_h_t_t_p2.html).
const PREFIX_BYTES: usize = 5;
/// Where Envoy's balancers look for what is picked, and where they say what was.
const NAMESPACE: &str = "envoy.lb";
const HINT_NAMESPACE: &str = "envoy.lb.subset_hint";
const HINT: &str = "x-gateway-destination-endpoint-subset";
const SERVED: &str = "x-gateway-destination-endpoint-served";

/// The stream to a picker, after it has said whom.
pub(crate) struct Line {
    upstream: Upstream,
}

/// As long as it's held the picker takes the request to be under way.
pub(crate) struct Told(#[expect(dead_code, reason = "the other half notices that it's dropped")] oneshot::Sender<()>);

/// What a picker has said so far.
#[derive(Default)]
struct Word {
    inbox: Vec<u8>,
    seen: usize,
    edits: Vec<Edit>,
    endpoints: Text,
    /// The body in its place, piece by piece.
    body: Option<Vec<u8>>,
}

/// What came of a message.
enum Heard {
    /// More is to come.
    More,
    /// It has said all about the request.
    All,
    /// It answers itself.
    Answer(Picked),
}

impl Trip<'_> {
    /// Reads the whole request, and has the picker say who gets it. The `line` on which it did stays open.
    pub(crate) async fn pick(&mut self, mut pick: Pick, line: &mut Option<Line>) -> Result<Picked, Event> {
        if matches!(self.request.framing(), Framing::Length(length) if length > PICK_BODY_BYTES_MAX as u64) {
            return Ok(Picked::BodyTooLarge);
        }
        let end = runtime::now().mono + BODY_MAX;
        let deadline = Some(pick.end.map_or(end, |at| at.min(end)));
        let whole = match self.gather_request(PICK_BODY_BYTES_MAX, Times { deadline, ..Times::default() }).await {
            Err(Event::Failed(Failure::Deadline)) => return Err(Event::BadBody(BadBody::Slow)),
            gathered => gathered?,
        };
        if !whole {
            return Ok(Picked::BodyTooLarge);
        }
        let question = question(self.request, self.up.gathered(), pick.members.as_deref());
        let now = runtime::now().mono;
        let most = pick.end.map_or(pick.time, |at| at.since(now).min(pick.time));
        let asked = runtime::timeout(most, self.ask(&mut pick, &question)).await;
        let (outcome, picked) = match asked {
            Ok(Ok((open, word))) => {
                *line = Some(open);
                (Ok(()), self.heed(word))
            }
            Ok(Err(Unheard::Gone)) => return Err(Event::Failed(Failure::DownstreamGone)),
            Ok(Err(Unheard::Failed(failure, why))) => (Err(failure), Picked::Failed(why)),
            Err(_elapsed) => (Err(Failure::TryTimeout), Picked::Failed("no answer in time".into())),
        };
        self.core.with_shard(|shard, now| pick.finish(shard, outcome, now));
        Ok(picked)
    }

    /// Asks one instance of the picker after the other, until one has said something.
    async fn ask(&mut self, pick: &mut Pick, question: &[u8]) -> Result<(Line, Spoken), Unheard> {
        loop {
            match self.ask_once(pick, question).await {
                Err(Unheard::Failed(failure, why)) => {
                    let again = self.core.with_shard(|shard, now| pick.on_failure(shard, failure, now));
                    if !again {
                        return Err(Unheard::Failed(failure, why));
                    }
                    runtime::sleep(pick.plan.delay).await;
                }
                other => return other,
            }
        }
    }

    async fn ask_once(&mut self, pick: &Pick, question: &[u8]) -> Result<(Line, Spoken), Unheard> {
        let mut upstream = upstream::open(self.core, &pick.plan, Room::All)
            .await
            .map_err(|failure| Unheard::Failed(failure, failure.to_string().into()))?;
        let mut head = call(&pick.authority)
            .ok_or(Unheard::Failed(Failure::BadResponse("it can't be named"), "it can't be named".into()))?;
        pick.plan.stamp(&mut head, runtime::coarse());
        let failed = |error: &Error| Unheard::Failed(failure_before_head(error, true), error.to_string().into());
        upstream.wire.send_request(&head).map_err(|error| failed(&error))?;
        let asked = Asked::by(&head);
        let has_body = !self.up.gathered().is_empty();
        let (mut begun, mut answered, mut interims, mut word) = (false, false, 0, Word::default());
        let heard = poll_fn(|cx| {
            let wire = &mut upstream.wire;
            if !std::mem::replace(&mut begun, true) {
                wire.push(cx, Chunk::Slice(question)).map_err(|error| failed(&error))?;
            }
            if let Poll::Ready(Err(error)) = wire.poll_flush(cx) {
                return Poll::Ready(Err(failed(&error)));
            }
            if self.down.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(Unheard::Gone));
            }
            if !answered {
                let head = upstream::poll_final(wire, cx, asked, &mut head, &mut interims);
                ready!(head).map_err(|error| failed(&error))?;
                answered = true;
            }
            word.poll(cx, wire, &head, has_body)
        })
        .await?;
        Ok((Line { upstream }, (heard, word)))
    }

    /// Puts the body in place that the picker wants.
    fn heed(&mut self, (heard, word): Spoken) -> Picked {
        if let Heard::Answer(answer) = heard {
            return answer;
        }
        if let Some(body) = word.body {
            let framing = match (self.up.trailers(), body.is_empty() && self.request.framing() == Framing::None) {
                (Some(_), _) => Framing::Stream,
                (None, true) => Framing::None,
                (None, false) => Framing::Length(body.len() as u64),
            };
            self.request.set_framing(framing);
            self.up.replace(body);
        }
        Picked::Said { edits: word.edits, endpoints: word.endpoints }
    }
}

type Spoken = (Heard, Word);

/// Why nothing was heard of a picker.
enum Unheard {
    /// The caller has gone meanwhile.
    Gone,
    Failed(Failure, Text),
}

impl Line {
    /// Tells the picker which member answered, and how. Nobody waits for what it says to that.
    pub(crate) fn tell(self, core: &Rc<Core>, exchange: &Exchange, response: &Head) -> Told {
        let (held, released) = oneshot::channel();
        let (core, word) = (Rc::clone(core), served(exchange, response));
        let Upstream { wire, .. } = self.upstream;
        runtime::spawn_local("picker", async move {
            if runtime::catch("picker", follow(wire, &word, released)).await.is_err() {
                core.panicked();
            }
        });
        Told(held)
    }
}

/// Says `word`, waits until the answer is through, and ends the stream.
async fn follow(mut wire: Wire, word: &[u8], mut released: oneshot::Receiver<()>) {
    let mut begun = false;
    let open = poll_fn(|cx| {
        if !std::mem::replace(&mut begun, true) && wire.push(cx, Chunk::Slice(word)).is_err() {
            return Poll::Ready(false);
        }
        if matches!(wire.poll_flush(cx), Poll::Ready(Err(_))) || poll_end(cx, &mut wire).is_ready() {
            return Poll::Ready(false);
        }
        Pin::new(&mut released).poll(cx).map(|_| true)
    });
    if !open.await || wire.end(None).is_err() {
        return;
    }
    let ended = poll_fn(|cx| {
        if matches!(wire.poll_flush(cx), Poll::Ready(Err(_))) {
            return Poll::Ready(());
        }
        poll_end(cx, &mut wire)
    });
    // A picker that says no end is given up with its stream.
    let _ = runtime::timeout(LINGER_MAX, ended).await;
}

/// Reads what a picker still says, until its end.
fn poll_end(cx: &mut Context<'_>, wire: &mut Wire) -> Poll<()> {
    loop {
        match ready!(wire.poll_body(cx, &mut |_, _| Ok(()))) {
            Ok(Progress::More) => {}
            Ok(Progress::End(_)) | Err(_) => return Poll::Ready(()),
        }
    }
}

impl Word {
    /// Reads what the picker says, until that is all about the request.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        wire: &mut Wire,
        head: &Head,
        has_body: bool,
    ) -> Poll<Result<Heard, Unheard>> {
        let fail = |why: String| {
            Poll::Ready(Err(Unheard::Failed(Failure::BadResponse("it says nothing that can be heeded"), why.into())))
        };
        if head.status() != 200 {
            return fail(format!("status {}", head.status()));
        }
        loop {
            match self.next(has_body) {
                Ok(Some(heard)) => return Poll::Ready(Ok(heard)),
                Ok(None) => {}
                Err(why) => return fail(why.to_owned()),
            }
            let Self { inbox, seen, .. } = self;
            let progress = wire.poll_body(cx, &mut |_, chunk| {
                *seen += chunk.as_slice().len();
                inbox.extend_from_slice(chunk.as_slice());
                Ok(())
            });
            if *seen > SAID_BYTES_MAX {
                return fail(format!("more than {SAID_BYTES_MAX} bytes"));
            }
            match ready!(progress) {
                Ok(Progress::More) => {}
                Ok(Progress::End(trailers)) => {
                    let trailer = trailers.as_ref().and_then(|trailers| trailers.known(Known::GrpcStatus));
                    let status = trailer.or_else(|| head.header(Known::GrpcStatus)).map(grpc::Status::parse);
                    // The last message may have come with the end.
                    return match self.next(has_body) {
                        Ok(Some(heard)) => Poll::Ready(Ok(heard)),
                        _ => fail(format!("the stream ended with {:?}", status.unwrap_or(grpc::Status::Unknown))),
                    };
                }
                Err(error) => return fail(error.to_string()),
            }
        }
    }

    /// Takes in the messages that are here, as far as they matter.
    fn next(&mut self, has_body: bool) -> Result<Option<Heard>, &'static str> {
        while let Some((prefix, rest)) = self.inbox.split_first_chunk::<PREFIX_BYTES>() {
            let [compressed, a, b, c, d] = *prefix;
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            if compressed != 0 {
                return Err("a compressed message");
            }
            if length > SAID_BYTES_MAX {
                return Err("a message that is too long");
            }
            let Some(message) = rest.get(..length) else { return Ok(None) };
            let message = wire::ProcessingResponse::decode(message).map_err(|_| "a message that can't be read")?;
            self.inbox.drain(..PREFIX_BYTES + length);
            match self.take(message, has_body) {
                Heard::More => {}
                heard => return Ok(Some(heard)),
            }
        }
        Ok(None)
    }

    /// Whether no endpoint has been named yet.
    fn names_none(&self) -> bool {
        self.endpoints.is_empty() && !self.edits.iter().any(Edit::names_endpoints)
    }

    fn take(&mut self, message: wire::ProcessingResponse, has_body: bool) -> Heard {
        if let Some(endpoints) = message.dynamic_metadata.as_ref().and_then(endpoints) {
            self.endpoints = endpoints;
        }
        match message.response {
            Some(answer::Response::RequestHeaders(said)) => {
                let said = said.response.unwrap_or_default();
                let replaces = said.status == wire::common_response::ResponseStatus::ContinueAndReplace as i32;
                self.edits.extend(said.header_mutation.into_iter().flat_map(edits));
                if let Some(Mutation::Body(body)) =
                    said.body_mutation.and_then(|said| said.mutation).filter(|_| replaces)
                {
                    self.body = Some(body.to_vec());
                }
                if has_body && !replaces { Heard::More } else { Heard::All }
            }
            Some(answer::Response::RequestBody(said)) => {
                let said = said.response.unwrap_or_default();
                self.edits.extend(said.header_mutation.into_iter().flat_map(edits));
                match said.body_mutation.and_then(|said| said.mutation) {
                    Some(Mutation::StreamedResponse(piece)) => {
                        self.body.get_or_insert_default().extend_from_slice(&piece.body);
                        if piece.end_of_stream { Heard::All } else { Heard::More }
                    }
                    Some(Mutation::Body(body)) => {
                        self.body = Some(body.to_vec());
                        Heard::All
                    }
                    Some(Mutation::ClearBody(true)) => {
                        self.body = Some(Vec::new());
                        Heard::All
                    }
                    // The body stays as it was; who says no more than that it has a piece of it will say more.
                    Some(Mutation::ClearBody(false)) | None if self.names_none() => Heard::More,
                    Some(Mutation::ClearBody(false)) | None => Heard::All,
                }
            }
            Some(answer::Response::ImmediateResponse(said)) => Heard::Answer(immediate(said)),
            // Of answers nothing was asked yet; and a word that it takes longer has no message in it.
            Some(answer::Response::ResponseHeaders(_)) | None => Heard::More,
        }
    }
}

/// What the picker answers itself.
fn immediate(said: wire::ImmediateResponse) -> Picked {
    let code = said.status.map(|status| status.code).unwrap_or_default();
    let Some(status) = u16::try_from(code).ok().filter(|code| (200..600).contains(code)) else {
        return Picked::Failed(format!("it answered with the status {code}").into());
    };
    let fields = said.headers.into_iter().flat_map(|said| said.set_headers).filter_map(|option| option.header);
    let field = |field: HeaderValue| {
        let value = String::from_utf8_lossy(value_of(&field)).into_owned();
        (Text::from(field.key), Text::from(value))
    };
    let body = String::from_utf8_lossy(&said.body).into_owned().into();
    Picked::Answered { status, fields: fields.map(field).collect(), body }
}

fn value_of(field: &HeaderValue) -> &[u8] {
    if field.raw_value.is_empty() { field.value.as_bytes() } else { &field.raw_value }
}

/// What is changed of the request's head. A line takes the place of others unless it's said to stand beside them, as Envoy's
/// `ext_proc` has it.
fn edits(said: wire::HeaderMutation) -> impl Iterator<Item = Edit> {
    let set = |option: HeaderValueOption| {
        let field = option.header?;
        let (name, value) = (Text::from(&*field.key), value_of(&field).to_vec());
        Some(match (option.append.map(|append| append.value), HeaderAppendAction::try_from(option.append_action)) {
            (Some(true), _) => Edit::Append(name, value),
            (None, Ok(HeaderAppendAction::AddIfAbsent)) => Edit::Add(name, value),
            (None, Ok(HeaderAppendAction::OverwriteIfExists)) => Edit::Replace(name, value),
            (Some(false) | None, _) => Edit::Set(name, value),
        })
    };
    let removed = said.remove_headers.into_iter().map(|name| Edit::Remove(name.into()));
    removed.chain(said.set_headers.into_iter().filter_map(set))
}

/// The endpoints that a picker names in what it says beside.
fn endpoints(said: &Struct) -> Option<Text> {
    let inner = match said.fields.get(NAMESPACE)?.kind.as_ref()? {
        value::Kind::StructValue(inner) => inner,
        _ => return None,
    };
    match inner.fields.get(PICKED)?.kind.as_ref()? {
        value::Kind::StringValue(text) => Some(text.as_str().into()),
        _ => None,
    }
}

/// The head of the call.
fn call(authority: &str) -> Option<Head> {
    let mut head = Head::new();
    head.start_request("POST", "http", authority, PATH).ok()?;
    head.append("content-type", b"application/grpc").ok()?;
    head.set_version(Version::Http2);
    head.append(Known::Te.name(), b"trailers").ok()?;
    head.set_framing(Framing::Stream);
    Some(head)
}

/// All that is asked about a request: its head, and its body in pieces.
fn question(request: &Head, body: &[u8], members: Option<&[Text]>) -> Vec<u8> {
    let pseudo = [
        (":method", request.method()),
        (":scheme", request.scheme()),
        (":authority", request.authority()),
        (":path", request.path_and_query()),
    ];
    let pseudo = pseudo.into_iter().map(|(name, value)| (name, value.as_bytes()));
    let headers = wire::HttpHeaders { headers: Some(lines(pseudo, request)), end_of_stream: body.is_empty() };
    let hint = |members: &[Text]| {
        let values = members.iter().map(|at| text(at)).collect();
        metadata(HINT_NAMESPACE, HINT, Value { kind: Some(value::Kind::ListValue(ListValue { values })) })
    };
    let first = wire::ProcessingRequest {
        request: Some(ask::Request::RequestHeaders(headers)),
        metadata_context: members.map(hint),
        protocol_config: Some(wire::ProtocolConfiguration {
            request_body_mode: wire::BodySendMode::FullDuplexStreamed.into(),
            response_body_mode: wire::BodySendMode::None.into(),
            send_body_without_waiting_for_header_response: true,
        }),
    };
    let mut out = Vec::with_capacity(body.len() + 1024);
    frame(&first, &mut out);
    let mut pieces = body.chunks(PIECE_BYTES_MAX).peekable();
    while let Some(piece) = pieces.next() {
        let body = wire::HttpBody { body: piece.to_vec().into(), end_of_stream: pieces.peek().is_none() };
        let request = Some(ask::Request::RequestBody(body));
        frame(&wire::ProcessingRequest { request, ..Default::default() }, &mut out);
    }
    out
}

/// What the picker is told of an answer.
fn served(exchange: &Exchange, response: &Head) -> Vec<u8> {
    let status = response.status().to_string();
    let headers = lines([(":status", status.as_bytes())].into_iter(), response);
    let headers = wire::HttpHeaders { headers: Some(headers), end_of_stream: response.framing() == Framing::None };
    let message = wire::ProcessingRequest {
        request: Some(ask::Request::ResponseHeaders(headers)),
        metadata_context: exchange.served_by().map(|at| metadata(NAMESPACE, SERVED, text(&at))),
        protocol_config: None,
    };
    let mut out = Vec::new();
    frame(&message, &mut out);
    out
}

fn lines<'a>(pseudo: impl Iterator<Item = (&'a str, &'a [u8])>, head: &'a Head) -> HeaderMap {
    // What proxies say among themselves is for nobody else.
    let own =
        head.headers().filter(|(name, _)| !name.get(..9).is_some_and(|word| word.eq_ignore_ascii_case("x-byrnie-")));
    let line = |(name, value): (&str, &[u8])| HeaderValue {
        key: name.to_ascii_lowercase(),
        value: String::new(),
        raw_value: value.to_vec().into(),
    };
    HeaderMap { headers: pseudo.chain(own).map(line).collect() }
}

fn metadata(namespace: &str, key: &str, value: Value) -> Metadata {
    let fields = [(key.to_owned(), value)].into();
    Metadata { filter_metadata: [(namespace.to_owned(), Struct { fields })].into() }
}

fn text(text: &str) -> Value {
    Value { kind: Some(value::Kind::StringValue(text.to_owned())) }
}

/// A message as gRPC frames it.
fn frame(message: &wire::ProcessingRequest, out: &mut Vec<u8>) {
    let length = u32::try_from(message.encoded_len()).unwrap_or(u32::MAX);
    out.push(0);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&message.encode_to_vec());
}
