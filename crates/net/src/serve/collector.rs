// SPDX-License-Identifier: Apache-2.0
//! The way to a collector of traces and metrics: OTLP over HTTP/1.1, plain or under TLS, over one connection that is
//! kept. One request after the other, each tried once; `otlp` says what is sent and tries again.

use super::client::{CONNECT_TIMEOUT, Error, Reply};
use crate::io::Stream;
use crate::runtime::{spawn, timeout};
use crate::tls::{
    self,
    outward::{self, Outward, Speaks},
};
use byrnie_model::outside::AltName;
use byrnie_model::telemetry::{Endpoint, Header, Otlp};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

/// How long one try may take, as with OpenTelemetry's SDKs.
pub(crate) const TRY_MAX: Duration = Duration::from_secs(10);
/// Addresses of one host that are tried.
const ADDRESSES_MAX: usize = 8;
/// What is read of an answer, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Longest value of a header, in bytes.
const VALUE_BYTES_MAX: usize = 8 * 1024;

/// The way to a collector.
#[derive(Debug)]
pub(crate) struct Collector {
    otlp: Arc<Otlp>,
    tls: Option<Outward>,
    kept: Option<http1::SendRequest<Full<Bytes>>>,
}

/// What came of a try.
#[derive(Debug)]
pub(crate) enum Answer {
    /// It was taken, perhaps not all of it.
    Taken(Bytes),
    /// It never will be.
    Refused(String),
    /// It may be later, not before so long if the collector says so.
    Later(String, Option<Duration>),
}

impl Collector {
    /// A way to the collector of `otlp`, not yet connected.
    ///
    /// # Errors
    /// If what vouches for it can't be used.
    pub(crate) fn new(otlp: Arc<Otlp>) -> Result<Self, tls::Error> {
        let Endpoint { https, host, .. } = &otlp.endpoint;
        let name = AltName::Host(host.clone());
        let tls = https.then(|| Outward::new(host, &[name], otlp.ca.as_deref(), None)).transpose()?;
        Ok(Self { otlp, tls, kept: None })
    }

    /// Sends `body` to `path` (`/v1/traces`), once.
    pub(crate) async fn post(&mut self, path: &str, body: Bytes) -> Answer {
        let request = match self.request(path, body) {
            Ok(request) => request,
            // A secret that comes later is found then.
            Err(why) => return Answer::Later(why, None),
        };
        match timeout(TRY_MAX, self.exchange(request)).await {
            Ok(Ok(reply)) => judge(reply),
            Ok(Err(error)) => {
                self.kept = None;
                Answer::Later(error.to_string(), None)
            }
            Err(_) => {
                self.kept = None;
                Answer::Later(Error::Timeout.to_string(), None)
            }
        }
    }

    fn request(&self, path: &str, body: Bytes) -> Result<http::Request<Full<Bytes>>, String> {
        let Endpoint { host, port, path: base, .. } = &self.otlp.endpoint;
        let host = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let mut builder = http::Request::post(format!("{base}{path}"))
            .header(header::HOST, host)
            .header(header::USER_AGENT, concat!("byrnie/", env!("CARGO_PKG_VERSION")))
            .header(header::CONTENT_TYPE, "application/x-protobuf");
        for of in &self.otlp.headers {
            let name = HeaderName::from_bytes(of.name.as_bytes()).map_err(|error| error.to_string())?;
            builder = builder.header(name, value(of)?);
        }
        builder.body(Full::new(body)).map_err(|error| error.to_string())
    }

    async fn exchange(&mut self, mut request: http::Request<Full<Bytes>>) -> Result<Reply, Error> {
        if let Some(mut sender) = self.kept.take().filter(|sender| !sender.is_closed()) {
            match sender.try_send_request(request).await {
                Ok(response) => return self.read(sender, response).await,
                Err(mut error) => match error.take_message() {
                    // The connection had ended meanwhile: nothing of the request was sent.
                    Some(unsent) => request = unsent,
                    None => return Err(Error::Http(error.into_error())),
                },
            }
        }
        let (mut sender, connection) = http1::handshake(TokioIo::new(self.connect().await?)).await?;
        spawn("otlp", async move {
            // Whoever reads the answer sees the same error there; the task ends with its sender.
            let _ = connection.await;
        });
        let response = sender.send_request(request).await?;
        self.read(sender, response).await
    }

    async fn read(
        &mut self,
        sender: http1::SendRequest<Full<Bytes>>,
        response: http::Response<hyper::body::Incoming>,
    ) -> Result<Reply, Error> {
        let reply = Reply::read(response, ANSWER_BYTES_MAX).await?;
        self.kept = Some(sender);
        Ok(reply)
    }

    async fn connect(&self) -> Result<Stream, Error> {
        let Endpoint { host, port, .. } = &self.otlp.endpoint;
        let failed = |error| Error::Connect { server: format!("{host}:{port}"), error };
        let found = tokio::net::lookup_host((&**host, *port)).await.map_err(failed)?;
        let mut last = std::io::Error::from(std::io::ErrorKind::NotFound);
        for address in found.take(ADDRESSES_MAX) {
            match crate::io::connect(address, CONNECT_TIMEOUT).await {
                Ok(tcp) => {
                    let Some(tls) = &self.tls else { return Ok(tcp.into()) };
                    let secured = outward::connect(tcp, tls, Speaks::Http1).await;
                    return secured.map(|(stream, _)| stream).map_err(|error| failed(std::io::Error::other(error)));
                }
                Err(error) => last = error,
            }
        }
        Err(failed(last))
    }
}

/// OTLP/HTTP's rules: these four statuses ask for another try, others never do.
fn judge(reply: Reply) -> Answer {
    let told = reply.headers.get(header::RETRY_AFTER).and_then(|after| after.to_str().ok()?.trim().parse().ok());
    let why = format!("it answered {}", reply.status);
    match reply.status {
        status if status.is_success() => Answer::Taken(reply.body),
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Answer::Later(why, told.map(Duration::from_secs)),
        _ => Answer::Refused(why),
    }
}

/// The value of a header, from the process' environment or the file that this names; read each time, as secrets are
/// replaced. What goes wrong is told without it.
fn value(header: &Header) -> Result<HeaderValue, String> {
    let name = &*header.env;
    let text = match (std::env::var(name), std::env::var(format!("{name}_FILE"))) {
        (Ok(text), _) => text,
        (Err(_), Ok(path)) => {
            let mut text = String::new();
            let file = std::fs::File::open(&path).map_err(|error| format!("{name}_FILE names {path}: {error}"))?;
            let limit = u64::try_from(VALUE_BYTES_MAX).unwrap_or(u64::MAX);
            let read = file.take(limit).read_to_string(&mut text);
            read.map_err(|error| format!("{name}_FILE names {path}: {error}"))?;
            text
        }
        (Err(_), Err(_)) => return Err(format!("neither {name} nor {name}_FILE is in the environment")),
    };
    let mut value = HeaderValue::from_str(text.trim()).map_err(|_| format!("{name} is not the value of a header"))?;
    value.set_sensitive(true);
    Ok(value)
}
