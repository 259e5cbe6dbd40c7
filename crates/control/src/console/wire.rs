// SPDX-License-Identifier: Apache-2.0
//! Small words of HTTP that the API's parts share: parameters and path segments in, JSON out.

use byrnie_net::serve::{Body, Request, Response, StatusCode};
use serde_json::{Value, json};

/// The first value of a query parameter, decoded.
pub(super) fn parameter(request: &Request, name: &str) -> Option<String> {
    request.query.as_deref()?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(&key.replace('+', " ")) == name).then(|| decode(&value.replace('+', " ")))
    })
}

/// The segments of the path, decoded; empty ones are left out.
pub(super) fn segments(request: &Request) -> Vec<String> {
    request.path.split('/').filter(|segment| !segment.is_empty()).map(decode).collect()
}

/// Undoes percent-encoding. What isn't valid stays as it is.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex = |i: usize| bytes.get(i).and_then(|b| char::from(*b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
        match (byte, hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(high * 16 + low);
                at += 3;
            }
            (other, ..) => {
                out.push(other);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// An answer of this status and type.
pub(super) fn respond(status: u16, mime: &'static str, body: impl Into<Body>) -> Response {
    Response::new(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), mime, body)
}

/// An answer in JSON.
pub(super) fn json_response(status: u16, value: &Value) -> Response {
    respond(status, "application/json", value.to_string())
}

/// An answer of 200 in JSON.
pub(super) fn found(value: &Value) -> Response {
    json_response(200, value)
}

/// A list, each of whose items is made by `item`.
pub(super) fn list<T>(items: impl IntoIterator<Item = T>, item: impl FnMut(T) -> Value) -> Value {
    json!(items.into_iter().map(item).collect::<Vec<_>>())
}
