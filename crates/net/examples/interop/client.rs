// SPDX-License-Identifier: Apache-2.0
//! The calling end: the cases, each by what its caller is told.

use super::{GZIP, Raw, monotonic};
use bytes::Bytes;
use futures_util::future::{BoxFuture, Either};
use futures_util::{FutureExt, Stream, StreamExt, future, stream};
use http::uri::PathAndQuery;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use std::pin::pin;
use std::str::FromStr;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codec::CompressionEncoding;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};

/// How long some of the cases may take.
const CASES_MAX: Duration = Duration::from_secs(60);
/// How long a call may take to be heard of.
const PATIENCE: Duration = Duration::from_secs(10);

const DEADLINE_MS: f64 = 100.0;
/// How far from its deadline a call may end.
const DEADLINE_ERROR_MS: f64 = 20.0;
const DEADLINES: usize = 15;
/// How long a cancel may take to the server.
const CANCEL_MS: f64 = 50.0;
/// Cancels, in batches: half of them may have met a neighbour's load.
const BATCHES: usize = 10;
/// Programs on the way through the mesh that must be scheduled, where without it there is one: what a busy machine costs that one, it
/// costs each.
const PROGRAMS: f64 = 3.0;
const CANCELS_PER_BATCH: usize = 10;

pub(super) fn message(fields: &Value, payload: usize) -> Bytes {
    let mut message = fields.to_string().into_bytes();
    message.push(b'\n');
    message.resize(message.len() + payload, b'y');
    message.into()
}

fn ask(fields: Value) -> Bytes {
    message(&fields, 0)
}

/// A client of HTTP/2 that leaves a call's deadline to the other side: tonic's own timer would tell it as CANCELLED.
struct Bare(SendRequest<Body>);

impl tower_service::Service<http::Request<Body>> for Bare {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, hyper::Result<Self::Response>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.0.send_request(request).boxed()
    }
}

async fn bare(address: &str) -> Grpc<Bare> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    // How it ends shows in its calls.
    tokio::spawn(async move { drop(connection.await) });
    Grpc::with_origin(Bare(sender), format!("http://{address}").parse().unwrap())
}

#[derive(Clone)]
pub(super) struct Client(Grpc<Channel>);

impl Client {
    pub(super) async fn connect(address: &str) -> Self {
        Self(Grpc::new(Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()))
    }

    async fn ready(&self, method: &str) -> (Grpc<Channel>, PathAndQuery) {
        let mut grpc = self.0.clone();
        grpc.ready().await.unwrap();
        (grpc, PathAndQuery::from_str(&format!("/byrnie.{method}")).unwrap())
    }

    pub(super) async fn unary(&self, method: &str, request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
        let (mut grpc, path) = self.ready(method).await;
        grpc.unary(request, path, Raw).await
    }

    async fn streams<S>(&self, method: &str, requests: Request<S>) -> Result<Response<Streaming<Bytes>>, Status>
    where
        S: Stream<Item = Bytes> + Send + 'static,
    {
        let (mut grpc, path) = self.ready(method).await;
        grpc.streaming(requests, path, Raw).await
    }

    /// How many sleeping calls have begun, and when some were given up.
    async fn sleepers(&self) -> (u64, Vec<f64>) {
        let told = self.unary("Interop/Cancelled", Request::new(Bytes::new())).await.unwrap();
        serde_json::from_slice(told.get_ref()).unwrap()
    }
}

/// All that a stream brings, and how it ends.
async fn all(answer: Result<Response<Streaming<Bytes>>, Status>) -> (Vec<usize>, Result<MetadataMap, Status>) {
    let mut answers = match answer {
        Ok(answer) => answer.into_inner(),
        Err(status) => return (Vec::new(), Err(status)),
    };
    let mut sizes = Vec::new();
    loop {
        match answers.message().await {
            Ok(Some(answer)) => sizes.push(answer.len()),
            Ok(None) => return (sizes, answers.trailers().await.map(Option::unwrap_or_default)),
            Err(status) => return (sizes, Err(status)),
        }
    }
}

fn custom() -> (Request<()>, Vec<u8>) {
    let binary: Vec<u8> = (0..=255).collect();
    let mut request = Request::new(());
    request.metadata_mut().insert("x-initial", MetadataValue::from_static("test_initial"));
    request.metadata_mut().insert_bin("x-trailing-bin", MetadataValue::from_bytes(&binary));
    (request, binary)
}

fn check_custom(initial: &MetadataMap, trailing: &MetadataMap, binary: &[u8]) {
    assert_eq!(initial.get("x-initial").unwrap(), "test_initial");
    assert_eq!(trailing.get_bin("x-trailing-bin").unwrap().to_bytes().unwrap(), binary);
}

async fn unary_cases(client: &Client) {
    let empty = client.unary("Interop/Empty", Request::new(Bytes::new())).await.unwrap();
    assert!(empty.get_ref().is_empty());
    done("empty_unary");

    let large = || client.unary("Interop/Unary", Request::new(message(&json!({"size": 314_159}), 271_828)));
    assert_eq!(large().await.unwrap().get_ref().len(), 314_159);
    done("large_unary");

    let sums = [27_182, 8, 1828, 45_904].map(|size| message(&json!({}), size));
    let (mut grpc, path) = client.ready("Interop/Collect").await;
    let sum = grpc.client_streaming(Request::new(stream::iter(sums)), path, Raw).await.unwrap();
    assert_eq!(sum.get_ref(), "74922");
    done("client_streaming");

    let (asked, binary) = custom();
    let answer = client.unary("Interop/Unary", asked.map(|()| message(&json!({}), 1))).await.unwrap();
    check_custom(answer.metadata(), answer.metadata(), &binary);
    done("custom_metadata_unary");

    for code in 1..=16 {
        let refused = client.unary("Interop/Unary", Request::new(ask(json!({"code": code, "message": "x"})))).await;
        let status = refused.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::from_i32(code), "x"));
    }
    done("all_status_codes");

    let words = "\t\ntest with whitespace\r\nand Unicode BMP \u{263a} and non-BMP \u{1f608}\t\n";
    let refused = client.unary("Interop/Unary", Request::new(ask(json!({"code": 2, "message": words})))).await;
    assert_eq!(refused.unwrap_err().message(), words);
    done("special_status_message");

    for unknown in ["Interop/Nothing", "Nobody/Empty"] {
        let refused = client.unary(unknown, Request::new(Bytes::new())).await;
        assert_eq!(refused.unwrap_err().code(), Code::Unimplemented, "{unknown}");
    }
    done("unimplemented_method and unimplemented_service");

    let many = future::join_all((0..20).map(|_| large())).await;
    assert!(many.into_iter().all(|answer| answer.unwrap().get_ref().len() == 314_159));
    done("concurrent_large_unary");

    for _ in 0..300 {
        let answer = client.unary("Interop/Unary", Request::new(message(&json!({}), 4))).await.unwrap();
        assert_eq!(answer.get_ref(), "yyyy");
    }
    done("rpc_soak");
}

async fn streaming_cases(client: &Client) {
    let sizes = [31_415, 9, 2653, 58_979];
    let (mut grpc, path) = client.ready("Interop/Spread").await;
    let spread = grpc.server_streaming(Request::new(ask(json!({"sizes": sizes}))), path, Raw).await;
    assert_eq!(all(spread).await.0, sizes);
    done("server_streaming");

    let (sender, mut receiver) = mpsc::channel(1);
    let requests = stream::poll_fn(move |cx| receiver.poll_recv(cx));
    // A server may say nothing at all before it has been asked something.
    sender.send(ask(json!({"size": sizes[0]}))).await.unwrap();
    let mut answers = client.streams("Interop/PingPong", Request::new(requests)).await.unwrap().into_inner();
    for next in sizes.iter().skip(1).map(Some).chain([None]).zip(sizes) {
        assert_eq!(answers.message().await.unwrap().unwrap().len(), next.1);
        if let Some(size) = next.0 {
            sender.send(ask(json!({"size": size}))).await.unwrap();
        }
    }
    drop(sender);
    assert!(answers.message().await.unwrap().is_none());
    done("ping_pong");

    assert_eq!(all(client.streams("Interop/PingPong", Request::new(stream::empty())).await).await.0, [0; 0]);
    done("empty_stream");

    let (asked, binary) = custom();
    let one = stream::iter([ask(json!({"size": 1}))]);
    let answer = client.streams("Interop/PingPong", asked.map(|()| one)).await.unwrap();
    let initial = answer.metadata().clone();
    let (sizes, ending) = all(Ok(answer)).await;
    assert_eq!(sizes, [1]);
    check_custom(&initial, &ending.unwrap(), &binary);
    done("custom_metadata_streaming");

    let words = "test status message";
    let one = stream::iter([ask(json!({"code": 2, "message": words}))]);
    let status = all(client.streams("Interop/PingPong", Request::new(one)).await).await.1.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unknown, words));
    done("status_code_and_message");
}

/// A compressor at either end, where this is built with one: what is compressed passes as it is.
async fn compressed_cases(client: &Client, gzip: CompressionEncoding) {
    let ready = async |method| {
        let (grpc, path) = client.ready(method).await;
        (grpc.send_compressed(gzip).accept_compressed(gzip), path)
    };
    let is_compressed = |metadata: &MetadataMap| metadata.get("grpc-encoding").is_some_and(|value| value == "gzip");
    // grpcio is told by the message, tonic beside it.
    let asking = |fields: Value| {
        let mut asked = Request::new(ask(fields));
        asked.metadata_mut().insert("x-compress", MetadataValue::from_static("1"));
        asked
    };

    let (mut grpc, path) = ready("Interop/Unary").await;
    let answer = grpc.unary(Request::new(message(&json!({}), 27_182)), path, Raw).await.unwrap();
    assert_eq!(answer.get_ref(), &[b'y'; 27_182][..]);
    done("client_compressed_unary");

    let (mut grpc, path) = ready("Interop/Unary").await;
    let answer = grpc.unary(asking(json!({"size": 314_159, "compress": true})), path, Raw).await.unwrap();
    assert!(is_compressed(answer.metadata()), "{answer:?}");
    assert_eq!(answer.get_ref(), &[b'x'; 314_159][..]);
    done("server_compressed_unary");

    let (mut grpc, path) = ready("Interop/Collect").await;
    let asked = [27_182, 45_904].map(|size| message(&json!({}), size));
    let sum = grpc.client_streaming(Request::new(stream::iter(asked)), path, Raw).await.unwrap();
    assert_eq!(sum.get_ref(), "73086");
    done("client_compressed_streaming");

    let (mut grpc, path) = ready("Interop/Spread").await;
    let sizes = [31_415, 92_653];
    let spread = grpc.server_streaming(asking(json!({"sizes": sizes, "compress": true})), path, Raw).await.unwrap();
    assert!(is_compressed(spread.metadata()), "{spread:?}");
    assert_eq!(all(Ok(spread)).await.0, sizes);
    done("server_compressed_streaming");
}

fn median(spans: &[f64]) -> f64 {
    let mut spans = spans.to_vec();
    spans.sort_by(f64::total_cmp);
    spans[spans.len() / 2]
}

/// By how many milliseconds a call ends after its deadline, and how.
async fn late(grpc: &mut Grpc<Bare>) -> (f64, Status) {
    let begun = monotonic();
    let mut asked = Request::new(stream::iter([ask(json!({"sleep": 0.5}))]));
    asked.set_timeout(Duration::from_secs_f64(DEADLINE_MS / 1000.0));
    grpc.ready().await.unwrap();
    let answer = grpc.streaming(asked, PathAndQuery::from_static("/byrnie.Interop/PingPong"), Raw).await;
    let status = all(answer).await.1.unwrap_err();
    ((monotonic() - begun) * 1000.0 - DEADLINE_MS, status)
}

async fn deadlines(mesh: &str, direct: &str) {
    let (mut mesh, mut direct) = (bare(mesh).await, bare(direct).await);
    let (mut spans, mut without) = (Vec::new(), Vec::new());
    for _ in 0..DEADLINES {
        let (span, status) = late(&mut mesh).await;
        // Once an answer has begun, its stream is reset. gRPC's own transport takes a CANCEL after the deadline for what it is
        // (`status_conversion.cc`: "STATUS_CANCELLED iff deadline hasn't been exceeded").
        let code = if status.code() == Code::Cancelled && span >= 0.0 { Code::DeadlineExceeded } else { status.code() };
        assert_eq!(code, Code::DeadlineExceeded, "{span:.1} ms after the deadline: {status:?}");
        assert!(span >= -DEADLINE_ERROR_MS, "it ended {} ms too early", -span);
        spans.push(span);
        without.push(late(&mut direct).await.0);
    }
    let (span, without) = (median(&spans), median(&without));
    println!("    deadlines ended {span:.1} ms late (median), {without:.1} ms without a mesh");
    assert!(span <= DEADLINE_ERROR_MS + PROGRAMS * without.max(0.0), "{spans:?}");
    done("timeout_on_sleeping_server");
}

/// In how many milliseconds the server hears that a call was given up which had reached it.
async fn cancel(client: &Client) -> f64 {
    let before = client.sleepers().await;
    let (mut grpc, path) = client.ready("Interop/Sleeping").await;
    // All is said, so that nothing keeps the call but whoever waits for the answer.
    let mut call = Box::pin(grpc.server_streaming::<_, Bytes, _>(Request::new(Bytes::new()), path, Raw));
    let arrived = pin!(async { while client.sleepers().await.0 == before.0 {} });
    let answer = match future::select(&mut call, arrived).await {
        Either::Left((answer, arrived)) => {
            arrived.await;
            Some(answer)
        }
        Either::Right(_) => None,
    };
    let begun = monotonic();
    drop((call, answer));
    loop {
        let (_, told) = client.sleepers().await;
        if told.len() > before.1.len() {
            return (told.last().unwrap() - begun) * 1000.0;
        }
        assert!(monotonic() - begun < PATIENCE.as_secs_f64(), "the server never heard of it");
    }
}

async fn cancels(mesh: &Client, direct: &Client) {
    let (mut worst, mut without, mut spans) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..BATCHES {
        for (client, worst) in [(mesh, &mut worst), (direct, &mut without)] {
            let mut batch = Vec::new();
            for _ in 0..CANCELS_PER_BATCH {
                batch.push(cancel(client).await);
            }
            worst.push(batch.iter().copied().fold(0.0, f64::max));
            spans.push(batch);
        }
    }
    let through: Vec<f64> = spans.into_iter().step_by(2).flatten().collect();
    println!(
        "    a cancel reached the server after {:.1} ms (median), {:.1} ms (worst of ten, median), {:.1} ms without a mesh",
        median(&through),
        median(&worst),
        median(&without)
    );
    assert!(median(&worst) <= CANCEL_MS + PROGRAMS * median(&without), "{worst:?}, {without:?} without a mesh");
    done("cancel_reaches_the_server");
}

async fn ending_cases(client: &Client) {
    let held = stream::iter([ask(json!({"size": 9}))]).chain(stream::pending());
    let mut answers = client.streams("Interop/PingPong", Request::new(held)).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().len(), 9);
    drop(answers);
    done("cancel_after_first_response");
}

fn done(name: &str) {
    println!("  grpc {name}: ok");
}

pub(super) async fn call(address: &str, direct: &str) {
    let (client, without) = (Client::connect(address).await, Client::connect(direct).await);
    let compressed = async {
        if let Some(gzip) = GZIP {
            compressed_cases(&client, gzip).await;
        }
    };
    for cases in [
        unary_cases(&client).boxed_local(),
        compressed.boxed_local(),
        streaming_cases(&client).boxed_local(),
        ending_cases(&client).boxed_local(),
        deadlines(address, direct).boxed_local(),
        cancels(&client, &without).boxed_local(),
    ] {
        tokio::time::timeout(CASES_MAX, cases).await.unwrap();
    }
    println!("all gRPC cases passed");
}
