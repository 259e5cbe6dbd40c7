// SPDX-License-Identifier: Apache-2.0
//! The calling end: the cases, each by what its caller is told.

use super::{Raw, monotonic};
use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt, future, stream};
use http::uri::PathAndQuery;
use serde_json::{Value, json};
use std::str::FromStr;
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::client::Grpc;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};

/// How long some of the cases may take.
const CASES_MAX: Duration = Duration::from_secs(60);
/// How long a call may take to be heard of.
const PATIENCE: Duration = Duration::from_secs(10);

fn message(fields: &Value, payload: usize) -> Bytes {
    let mut message = fields.to_string().into_bytes();
    message.push(b'\n');
    message.resize(message.len() + payload, b'y');
    message.into()
}

fn ask(fields: Value) -> Bytes {
    message(&fields, 0)
}

#[derive(Clone)]
struct Client(Grpc<Channel>);

impl Client {
    async fn ready(&self, method: &str) -> (Grpc<Channel>, PathAndQuery) {
        let mut grpc = self.0.clone();
        grpc.ready().await.unwrap();
        (grpc, PathAndQuery::from_str(&format!("/byrnie.{method}")).unwrap())
    }

    async fn unary(&self, method: &str, request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
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

    async fn given_up(&self) -> Vec<f64> {
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

async fn ending_cases(client: &Client) {
    let begun = monotonic();
    let mut asked = Request::new(stream::iter([ask(json!({"sleep": 0.5}))]));
    asked.set_timeout(Duration::from_millis(100));
    let status = all(client.streams("Interop/PingPong", asked).await).await.1.unwrap_err();
    // What the client itself has given up, it calls so.
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
    assert!(monotonic() - begun < 0.45, "{}", monotonic() - begun);
    done("timeout_on_sleeping_server");

    let held = stream::iter([ask(json!({"size": 9}))]).chain(stream::pending());
    let mut answers = client.streams("Interop/PingPong", Request::new(held)).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().len(), 9);
    drop(answers);
    done("cancel_after_first_response");

    let mut spans = Vec::new();
    for _ in 0..50 {
        let seen = client.given_up().await.len();
        let (mut grpc, path) = client.ready("Interop/Sleeping").await;
        // All is said, so that nothing keeps the call but whoever waits for the answer.
        let call = grpc.server_streaming::<_, Bytes, _>(Request::new(Bytes::new()), path, Raw);
        // It is on its way, or has arrived.
        drop(tokio::time::timeout(Duration::from_millis(20), call).await);
        let begun = monotonic();
        let told = loop {
            let told = client.given_up().await;
            if told.len() > seen {
                break told;
            }
            assert!(monotonic() - begun < PATIENCE.as_secs_f64(), "the server never heard of it");
        };
        spans.push((told.last().unwrap() - begun) * 1000.0);
    }
    spans.sort_by(f64::total_cmp);
    println!("    a cancel reached the server after {:.1} ms (median), {:.1} ms (worst of 50)", spans[25], spans[49]);
    done("cancel_reaches_the_server");
}

fn done(name: &str) {
    println!("  grpc {name}: ok");
}

pub(super) async fn call(address: &str) {
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let client = Client(Grpc::new(channel));
    for cases in [unary_cases(&client).boxed(), streaming_cases(&client).boxed(), ending_cases(&client).boxed()] {
        tokio::time::timeout(CASES_MAX, cases).await.unwrap();
    }
    println!("18 gRPC cases passed");
}
