// SPDX-License-Identifier: Apache-2.0
//! The serving end. Every method is a stream of requests and one of answers: what a call is, its client decides.

use super::{GZIP, Raw, monotonic};
use bytes::Bytes;
use futures_util::Stream;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::server::{Grpc, StreamingService};
use tonic::{Code, Request, Response, Status, Streaming};

/// How long a call may take whose client says nothing of it.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many sleeping calls have begun, and when some were given up.
type Sleepers = Arc<Mutex<(u64, Vec<f64>)>>;

pub(super) async fn serve(listener: TcpListener) {
    let sleepers = Sleepers::default();
    while let Ok((stream, _)) = listener.accept().await {
        let sleepers = Arc::clone(&sleepers);
        let answer = hyper::service::service_fn(move |request| answer(request, Arc::clone(&sleepers)));
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), answer);
        // How a connection ends is its client's business.
        tokio::spawn(async move { drop(connection.await) });
    }
}

async fn answer(
    request: http::Request<hyper::body::Incoming>,
    sleepers: Sleepers,
) -> Result<http::Response<Body>, Infallible> {
    let method = request.uri().path().strip_prefix("/byrnie.Interop/").and_then(Method::of);
    Ok(match method {
        Some(method) => compressing(&request).streaming(Call { method, sleepers }, request).await,
        None => Status::unimplemented("no such method").into_http(),
    })
}

/// It takes what is compressed, and compresses what the client wants so.
fn compressing<B>(request: &http::Request<B>) -> Grpc<Raw> {
    match GZIP {
        Some(gzip) if request.headers().contains_key("x-compress") => {
            Grpc::new(Raw).accept_compressed(gzip).send_compressed(gzip)
        }
        Some(gzip) => Grpc::new(Raw).accept_compressed(gzip),
        None => Grpc::new(Raw),
    }
}

#[derive(Clone, Copy)]
enum Method {
    Empty,
    Unary,
    Collect,
    Spread,
    PingPong,
    Sleeping,
    Cancelled,
}

impl Method {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "Empty" => Self::Empty,
            "Unary" => Self::Unary,
            "Collect" => Self::Collect,
            "Spread" => Self::Spread,
            "PingPong" => Self::PingPong,
            "Sleeping" => Self::Sleeping,
            "Cancelled" => Self::Cancelled,
            _ => return None,
        })
    }
}

struct Call {
    method: Method,
    sleepers: Sleepers,
}

/// What is answered, as it comes.
pub(super) struct Answers(mpsc::Receiver<Result<Bytes, Status>>);

impl Stream for Answers {
    type Item = Result<Bytes, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}

impl StreamingService<Bytes> for Call {
    type Response = Bytes;
    type ResponseStream = Answers;
    type Future = std::future::Ready<Result<Response<Answers>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let (metadata, _, requests) = request.into_parts();
        let (sender, receiver) = mpsc::channel(1);
        let mut response = Response::new(Answers(receiver));
        if let Some(value) = metadata.get("x-initial") {
            response.metadata_mut().insert("x-initial", value.clone());
        }
        let mut trailing = MetadataMap::new();
        if let Some(value) = metadata.get_bin("x-trailing-bin") {
            trailing.insert_bin("x-trailing-bin", value.clone());
        }
        let patience = metadata.get("grpc-timeout").and_then(|value| span(value.to_str().ok()?)).unwrap_or(PATIENCE);
        let (method, sleepers) = (self.method, Arc::clone(&self.sleepers));
        tokio::spawn(async move {
            let run = tokio::time::timeout(patience, run(method, requests, &sender, &sleepers));
            let ended = run.await.unwrap_or_else(|_| Err(Status::deadline_exceeded("too late")));
            let ending = match ended {
                Ok(()) if trailing.is_empty() => return,
                Ok(()) => Status::with_metadata(Code::Ok, "", trailing),
                Err(status) => status,
            };
            // Whoever is gone misses it.
            drop(sender.send(Err(ending)).await);
        });
        std::future::ready(Ok(response))
    }
}

/// A span as gRPC writes it.
fn span(text: &str) -> Option<Duration> {
    let (count, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "H" => 3600.0,
        "M" => 60.0,
        "S" => 1.0,
        "m" => 1e-3,
        "u" => 1e-6,
        "n" => 1e-9,
        _ => return None,
    };
    Duration::try_from_secs_f64(count.parse::<f64>().ok()? * seconds).ok()
}

/// The fields and the payload of a request.
fn read(request: &Bytes) -> (Value, Bytes) {
    let end = request.iter().position(|byte| *byte == b'\n').unwrap_or(request.len());
    let fields = serde_json::from_slice(&request[..end]).unwrap_or_default();
    (fields, request.slice((end + 1).min(request.len())..))
}

fn size(fields: &Value) -> Option<usize> {
    fields["size"].as_u64().and_then(|size| usize::try_from(size).ok())
}

/// The status that a request asks for.
fn asked_for(fields: &Value) -> Result<(), Status> {
    let Some(code) = fields["code"].as_i64() else { return Ok(()) };
    let code = i32::try_from(code).map_or(Code::Unknown, Code::from_i32);
    Err(Status::new(code, fields["message"].as_str().unwrap_or_default()))
}

async fn run(
    method: Method,
    mut requests: Streaming<Bytes>,
    answers: &mpsc::Sender<Result<Bytes, Status>>,
    sleepers: &Sleepers,
) -> Result<(), Status> {
    let say = async |bytes: Vec<u8>| answers.send(Ok(bytes.into())).await.map_err(|_| Status::cancelled("gone"));
    match method {
        Method::Empty => say(Vec::new()).await,
        Method::Unary => {
            let (fields, payload) = read(&requests.message().await?.unwrap_or_default());
            asked_for(&fields)?;
            say(size(&fields).map_or_else(|| payload.to_vec(), |size| vec![b'x'; size])).await
        }
        Method::Collect => {
            let mut sum = 0;
            while let Some(request) = requests.message().await? {
                sum += read(&request).1.len();
            }
            say(sum.to_string().into()).await
        }
        Method::Spread => {
            let (fields, _) = read(&requests.message().await?.unwrap_or_default());
            for size in fields["sizes"].as_array().into_iter().flatten().filter_map(Value::as_u64) {
                say(vec![b'x'; usize::try_from(size).unwrap()]).await?;
            }
            Ok(())
        }
        Method::PingPong => {
            while let Some(request) = requests.message().await? {
                let (fields, _) = read(&request);
                asked_for(&fields)?;
                tokio::time::sleep(Duration::from_secs_f64(fields["sleep"].as_f64().unwrap_or(0.0))).await;
                say(vec![b'x'; size(&fields).unwrap_or(0)]).await?;
            }
            Ok(())
        }
        Method::Sleeping => {
            sleepers.lock().unwrap().0 += 1;
            answers.closed().await;
            sleepers.lock().unwrap().1.push(monotonic());
            Ok(())
        }
        Method::Cancelled => {
            let told = serde_json::to_vec(&*sleepers.lock().unwrap()).unwrap();
            say(told).await
        }
    }
}
