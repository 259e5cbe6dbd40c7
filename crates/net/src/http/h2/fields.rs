// SPDX-License-Identifier: Apache-2.0
//! Between HTTP/2's header lists and the one `Head`. Strict in both directions: pseudo-headers obey
//! RFC 9113 8.3, headers of one connection never pass, `host` never contradicts `:authority`.

use super::super::websocket;
use super::tunnel;
use crate::http::Error;
use byrnie_codec::{Fields, Framing, Head, Reject, RejectReason, Version};
use bytes::BytesMut;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};

/// The head of a request as it came. `ended`: no body follows.
pub(super) fn from_request(parts: &http::request::Parts, ended: bool, head: &mut Head) -> Result<(), Reject> {
    let uri = &parts.uri;
    let host = || parts.headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
    let authority = uri.authority().map(http::uri::Authority::as_str).or_else(host).unwrap_or_default();
    let path = uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
    let protocol = parts.extensions.get::<h2::ext::Protocol>();
    // It stands for what HTTP/1 says with a GET (RFC 8441 5).
    let method = if protocol.is_some() { "GET" } else { parts.method.as_str() };
    head.start_request(method, uri.scheme_str().unwrap_or("http"), authority, path)?;
    head.set_version(Version::Http2);
    take_fields(&parts.headers, head)?;
    if head.authority().is_empty() {
        // HTTP/1 can't be asked without one (RFC 9113 8.3.1), nor any policy.
        return Err(RejectReason::HostMissing.into());
    }
    if !parts.headers.contains_key(CONTENT_LENGTH) {
        head.set_framing(if ended { Framing::None } else { Framing::Stream });
    }
    match protocol {
        Some(_) if path.is_empty() => Err(RejectReason::TargetForm.into()),
        Some(protocol) => tunnel::ask(head, protocol.as_str()),
        None => Ok(()),
    }
}

/// The head of a response as it came.
pub(super) fn from_response(parts: &http::response::Parts, ended: bool, head: &mut Head) -> Result<(), Reject> {
    match parts.status.as_u16() {
        // HTTP/2 has no such switch (RFC 9113 8.6).
        101 => return Err(Reject { status: 502, reason: RejectReason::UnexpectedUpgrade }),
        status @ 100..=599 => head.start_response(status),
        _ => return Err(Reject { status: 502, reason: RejectReason::StatusLine }),
    }
    head.set_version(Version::Http2);
    take_fields(&parts.headers, head).map_err(|reject| Reject { status: 502, ..reject })?;
    if ended {
        if let (true, Framing::Length(length)) = (parts.headers.contains_key(CONTENT_LENGTH), head.framing()) {
            head.set_declared_length(Some(length));
        }
        let answers_nothing = matches!(parts.status.as_u16(), 100..=199 | 204 | 304);
        let declared = head.declared_length().is_some_and(|length| length > 0);
        // An empty body is said as such to HTTP/1; an answer to HEAD keeps the length it announces.
        head.set_framing(if answers_nothing || declared { Framing::None } else { Framing::Length(0) });
    } else if !parts.headers.contains_key(CONTENT_LENGTH) {
        head.set_framing(Framing::Stream);
    }
    Ok(())
}

fn take_fields(map: &HeaderMap, head: &mut Head) -> Result<(), Reject> {
    if map.get_all(CONTENT_LENGTH).iter().nth(1).is_some() {
        return Err(RejectReason::ContentLengthRepeated.into());
    }
    for (name, value) in map {
        head.append(name.as_str(), value.as_bytes())?;
    }
    Ok(())
}

/// Trailers as they came.
pub(super) fn from_trailers(map: &HeaderMap) -> Result<Fields, Reject> {
    let mut fields = Fields::new();
    for (name, value) in map {
        fields.append(name.as_str(), value.as_bytes())?;
    }
    Ok(fields)
}

/// A request to be sent.
pub(super) fn to_request(head: &Head) -> Result<Request<()>, Error> {
    let uri = if head.method() == "CONNECT" {
        Uri::builder().authority(head.authority()).build()
    } else {
        Uri::builder().scheme(head.scheme()).authority(head.authority()).path_and_query(head.path_and_query()).build()
    };
    let mut request = Request::new(());
    *request.uri_mut() = uri.map_err(|_| Error::Closed)?;
    *request.method_mut() = head.method().parse().map_err(|_| Error::Closed)?;
    *request.version_mut() = http::Version::HTTP_2;
    fill(head, request.headers_mut());
    if websocket::is_handshake(head) {
        *request.method_mut() = Method::CONNECT;
        request.extensions_mut().insert(h2::ext::Protocol::from_static(websocket::PROTOCOL));
        request.headers_mut().remove(websocket::KEY);
    }
    Ok(request)
}

/// A response to be sent; `switches` says that it's the 101 which an extended CONNECT waits for.
pub(super) fn to_response(head: &Head, switches: bool) -> Result<Response<()>, Error> {
    let mut response = Response::new(());
    let status = if switches { Ok(StatusCode::OK) } else { StatusCode::from_u16(head.status()) };
    *response.status_mut() = status.map_err(|_| Error::Closed)?;
    *response.version_mut() = http::Version::HTTP_2;
    fill(head, response.headers_mut());
    if switches {
        response.headers_mut().remove(websocket::ACCEPT);
    }
    Ok(response)
}

fn fill(head: &Head, map: &mut HeaderMap) {
    // All values in one piece of memory, of which each is a part.
    let bytes: usize = head.headers().map(|(_, value)| value.len()).sum();
    let mut values = BytesMut::with_capacity(bytes);
    head.headers().for_each(|(_, value)| values.extend_from_slice(value));
    let mut values = values.freeze();
    for (name, value) in head.headers() {
        let value = HeaderValue::from_maybe_shared(values.split_to(value.len()));
        // Both are checked by the codec, which allows no more than the map does.
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), value)
            && !is_of_one_connection(&name, &value)
        {
            map.append(name, value);
        }
    }
    let length = match head.framing() {
        Framing::Length(length) if !matches!(head.status(), 100..=199 | 204 | 304) => Some(length),
        Framing::None => head.declared_length(),
        _ => None,
    };
    if let Some(length) = length {
        map.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
}

/// What may not stand in an HTTP/2 message (RFC 9113 8.2.2).
fn is_of_one_connection(name: &HeaderName, value: &HeaderValue) -> bool {
    match name.as_str() {
        "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade" | "http2-settings"
        | "host" => true,
        "te" => value != "trailers",
        _ => false,
    }
}

/// Trailers to be sent.
pub(super) fn to_trailers(fields: &Fields) -> Result<HeaderMap, Error> {
    let mut map = HeaderMap::new();
    for (name, value) in fields.iter() {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Error::Closed)?;
        map.append(name, HeaderValue::from_bytes(value).map_err(|_| Error::Closed)?);
    }
    Ok(map)
}
