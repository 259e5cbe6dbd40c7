// SPDX-License-Identifier: Apache-2.0
//! Unary gRPC on a server of `serve`, and what a [`Reply`](super::client::Reply) says as gRPC: messages are bytes, and
//! each status has a text. Used where gRPC is one of the things that a port answers.

use super::client::Reply;
use super::{Body, HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use byrnie_codec::grpc::{self, NotOne};
use bytes::Bytes;

pub use byrnie_codec::grpc::Status;

/// Media type of gRPC.
pub const GRPC: &str = "application/grpc";

/// Why a call isn't answered with a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status code, not [`Status::Ok`].
    pub status: Status,
    /// What happened; more than 1 KiB of it is not sent.
    pub text: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(status: Status, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }
}

/// Whether a request is gRPC, by its type alone.
pub fn is_grpc(request: &Request) -> bool {
    let Some(value) = request.header("content-type") else { return false };
    let kind = value.get(..GRPC.len()).unwrap_or_default();
    let suffix = value.get(GRPC.len()..).unwrap_or_default();
    kind.eq_ignore_ascii_case(GRPC) && (suffix.is_empty() || suffix.starts_with(['+', ';', ' ']))
}

/// The message of a call.
///
/// # Errors
/// If the body isn't one uncompressed message of at most `max` bytes.
pub fn message(request: &Request, max: u32) -> Result<&[u8], Refusal> {
    grpc::only_message(&request.body, max).map_err(|error| match error {
        NotOne::Malformed => Refusal::new(Status::Internal, "the body is not one gRPC message"),
        NotOne::Compressed => Refusal::new(Status::Unimplemented, "compressed messages are not read: send identity"),
        NotOne::TooLong => Refusal::new(
            Status::ResourceExhausted,
            format!("the message is larger than {max} bytes, which is the most"),
        ),
    })
}

/// The answer to a call. HTTP status 200 whatever became of it, as gRPC has it.
pub fn answer(outcome: Result<Vec<u8>, Refusal>) -> Response {
    let (body, status, text) = match outcome {
        Ok(message) => (Some(grpc::framed(&message)), Status::Ok, String::new()),
        Err(refusal) => (None, refusal.status, refusal.text),
    };
    let mut fields = HeaderMap::new();
    fields.insert("grpc-status", HeaderValue::from(u16::from(status.code())));
    if let Some(text) = Some(text).filter(|text| !text.is_empty())
        && let Ok(text) = HeaderValue::from_str(&grpc::encode_message(&text))
    {
        fields.insert("grpc-message", text);
    }
    let mut response = Response::empty(StatusCode::OK);
    match body {
        Some(body) => response.body = Body::trailed(body.into(), fields),
        // Without a message the head is all there is.
        None => response.headers = fields,
    }
    response.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(GRPC));
    response
}

/// A message as the body of a call.
pub fn body(message: &[u8]) -> Bytes {
    grpc::framed(message).into()
}

/// What an answer says: its status and the text with it. One that isn't gRPC has the status that stands for its HTTP
/// status.
pub fn status(reply: &Reply) -> (Status, String) {
    let field = |name: &str| reply.trailers.get(name).or_else(|| reply.headers.get(name));
    match field("grpc-status") {
        Some(status) => {
            let text = field("grpc-message").map(|text| grpc::decode_message(text.as_bytes())).unwrap_or_default();
            (Status::parse(status.as_bytes()), text)
        }
        None => {
            let code = reply.status.as_u16();
            (Status::of_http(code), format!("HTTP status {code} without a gRPC status"))
        }
    }
}
