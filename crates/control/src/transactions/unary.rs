// SPDX-License-Identifier: Apache-2.0
//! One call of a participant by gRPC: its message, which is kept as base64, and what an answer means.

use super::Request;
use byrnie_base::Text;
use byrnie_codec::grpc::format_timeout;
use byrnie_net::serve::client::Reply as Answer;
use byrnie_net::serve::unary::{self, GRPC, Status};
use byrnie_net::serve::{HeaderName, HeaderValue, header};
use byrnie_saga::Seen;
use byrnie_saga::judge::status_of_grpc;
use bytes::Bytes;
use data_encoding::BASE64;
use std::time::Duration;

/// A message as a call keeps it.
pub(super) fn text(message: &[u8]) -> Text {
    BASE64.encode(message).into()
}

/// The message that a call keeps. What isn't base64 was never made by [`text`], and is no message.
pub(super) fn bytes(kept: &str) -> Vec<u8> {
    BASE64.decode(kept.as_bytes()).unwrap_or_default()
}

/// A request as a call of gRPC: with a frame around its message, and what gRPC wants to be told.
pub(super) fn framed(request: Request, kept: Option<&Text>, left: Duration) -> Request {
    let mut headers = request.headers;
    headers.push((header::CONTENT_TYPE, HeaderValue::from_static(GRPC)));
    headers.push((header::TE, HeaderValue::from_static("trailers")));
    headers.extend(
        HeaderValue::try_from(format_timeout(left)).ok().map(|left| (HeaderName::from_static("grpc-timeout"), left)),
    );
    let body: Bytes = unary::body(&kept.map(|kept| bytes(kept)).unwrap_or_default());
    Request { headers, body, grpc: true, ..request }
}

/// What matters of an answer, in terms of HTTP; the words are gRPC's.
pub(super) fn seen(answer: &Answer, seen: Seen) -> Seen {
    let (status, text) = unary::status(answer);
    let body = match status {
        // Nothing is made of it, and it may be anything.
        Status::Ok => String::new(),
        other if text.is_empty() => other.name().to_owned(),
        other => format!("{}: {text}", other.name()),
    };
    Seen { status: Some(status_of_grpc(status.code())), location: None, elsewhere: None, body: body.into(), ..seen }
}

#[cfg(test)]
mod tests {
    use super::*;
    use byrnie_net::serve::{HeaderMap, StatusCode};

    #[test]
    fn messages_come_back_byte_by_byte() {
        for message in [&[][..], &[0], &[255, 254, 0, 10, 13], "ä".as_bytes()] {
            assert_eq!(bytes(&text(message)), message);
        }
        assert_eq!(bytes("no base64!"), Vec::<u8>::new());
    }

    #[test]
    fn an_answer_is_told_in_words() {
        let answer = |status: u16, head: &[(&'static str, &'static str)]| {
            let headers: HeaderMap =
                head.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
            let status = StatusCode::from_u16(status).unwrap();
            let answer = Answer { status, headers: HeaderMap::new(), body: Bytes::new(), trailers: headers };
            let seen = seen(&answer, Seen::default());
            (seen.status.unwrap(), seen.body.to_string())
        };
        assert_eq!(answer(200, &[("grpc-status", "0")]), (200, String::new()));
        let refused = answer(200, &[("grpc-status", "10"), ("grpc-message", "no%20money")]);
        assert_eq!(refused, (409, "ABORTED: no money".to_owned()));
        assert_eq!(answer(200, &[("grpc-status", "9")]), (425, "FAILED_PRECONDITION".to_owned()));
        // A server that doesn't speak gRPC has neither done it nor said no.
        for status in [200, 204, 409, 425] {
            assert_eq!(answer(status, &[]).0, 500, "{status}");
        }
    }
}
