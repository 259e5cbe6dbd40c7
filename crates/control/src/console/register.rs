// SPDX-License-Identifier: Apache-2.0
//! Programs without a proxy, by their addresses: registered, kept alive, taken out. For the operator's token alone, as
//! nobody at such an address proves who they are. What a registration is, is `registry::address`'s.

use super::look::health;
use super::wire::{found, json_response};
use super::{Console, Outcome, Problem, write};
use crate::registry::address::{self, Error, HEARTBEATS, Registered, TTL, TTL_RANGE, Wanted};
use byrnie_base::Text;
use byrnie_model::service::Locality;
use byrnie_model::{Health, Protocol, ServiceRef, code};
use byrnie_net::serve::{Request, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A body that is one.
const USAGE: &str = "{\"service\": \"legacy\", \"address\": \"192.0.2.10\", \"port\": 8080}";

/// The body of `POST /api/v1/register`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Asked {
    /// `NAME` or `NAME.NAMESPACE`; `name` in the words of `byrnie run`.
    #[serde(alias = "name")]
    service: String,
    #[serde(default)]
    namespace: String,
    /// An IP address, or one with a port, `IP:PORT`.
    address: String,
    port: Option<u16>,
    /// The service's port, by name or number.
    #[serde(default)]
    service_port: Value,
    protocol: Option<Spoken>,
    /// `REGION` or `REGION/ZONE`.
    #[serde(default)]
    locality: String,
    ttl_seconds: Option<u64>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Spoken {
    Http,
    Http2,
    Grpc,
    Tcp,
}

/// The body of a heartbeat, which may be left out.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Beat {
    health: Option<Word>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Healthy,
    Draining,
    Unhealthy,
}

/// `POST /api/v1/register`.
pub(super) async fn register(console: &Console, request: &Request) -> Outcome {
    let wanted = wanted(read(&request.body, USAGE)?)?;
    let registered = address::register(&console.state, &wanted, &write::who(request)).await?;
    let place = format!("/api/v1/register/{}", registered.id);
    let status = if registered.is_new { 201 } else { 200 };
    Ok(json_response(status, &row(&registered)).with(header::LOCATION, &place))
}

/// `PUT /api/v1/register/{id}/heartbeat`.
pub(super) async fn heartbeat(console: &Console, request: &Request, id: &str) -> Outcome {
    let beat: Beat = if request.body.is_empty() {
        Beat::default()
    } else {
        read(&request.body, "{\"health\": \"healthy\"}, or nothing")?
    };
    let told = beat.health.map(|word| match word {
        Word::Healthy => Health::Healthy,
        Word::Draining => Health::Draining,
        Word::Unhealthy => Health::Unhealthy,
    });
    Ok(found(&row(&address::beat(&console.state, id, told).await?)))
}

/// `DELETE /api/v1/register/{id}`.
pub(super) async fn leave(console: &Console, id: &str) -> Outcome {
    Ok(found(&row(&address::leave(&console.state, id).await?)))
}

fn read<T: DeserializeOwned>(body: &[u8], usage: &str) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| Problem::bad_request(format!("the body: {error}"), usage))
}

fn wanted(asked: Asked) -> Result<Wanted, Problem> {
    let bad = |what: String, at: &str| Problem::bad_request(what, USAGE).at(at);
    let namespace = if asked.namespace.is_empty() { "default" } else { &asked.namespace };
    let service = ServiceRef::from_word(&asked.service, namespace);
    if !asked.namespace.is_empty() && *service.namespace != *asked.namespace {
        return Err(bad(format!("the service is of {}, not of {}", service.namespace, asked.namespace), "namespace"));
    }
    let (alone, whole) = (asked.address.parse::<IpAddr>(), asked.address.parse::<SocketAddr>());
    let at = match (alone, whole, asked.port) {
        (Ok(ip), _, Some(port)) => SocketAddr::new(ip, port),
        (_, Ok(at), None) => at,
        (_, Ok(at), Some(port)) if at.port() == port => at,
        (Ok(_), _, None) => return Err(bad("the port is missing".to_owned(), "port")),
        (_, Ok(at), Some(port)) => return Err(bad(format!("{at} has another port than {port}"), "port")),
        (Err(_), Err(_), _) => {
            let what =
                format!("{:?} is no IP address: a host by its name is a Service of type ExternalName", asked.address);
            return Err(bad(what, "address"));
        }
    };
    let (least, most) = TTL_RANGE;
    let ttl = asked.ttl_seconds.map_or(TTL, Duration::from_secs);
    if !(least..=most).contains(&ttl) {
        let what = format!("{} s is not from {} to {} s", ttl.as_secs(), least.as_secs(), most.as_secs());
        return Err(bad(what, "ttlSeconds"));
    }
    let service_port = match &asked.service_port {
        Value::Null => Text::default(),
        Value::String(name) => name.as_str().into(),
        Value::Number(number) => number.to_string().into(),
        other => return Err(bad(format!("{other} is neither the name of a port nor its number"), "servicePort")),
    };
    let (region, zone) = asked.locality.split_once('/').unwrap_or((&asked.locality, ""));
    if region.is_empty() && !asked.locality.is_empty() || zone.contains('/') {
        return Err(bad(format!("{:?} is neither REGION nor REGION/ZONE", asked.locality), "locality"));
    }
    Ok(Wanted {
        service,
        service_port,
        at,
        protocol: asked.protocol.map(Protocol::from),
        locality: Locality { region: region.into(), zone: zone.into() },
        ttl,
    })
}

impl From<Spoken> for Protocol {
    fn from(word: Spoken) -> Self {
        match word {
            Spoken::Http => Self::Http1,
            Spoken::Http2 => Self::Http2,
            Spoken::Grpc => Self::Grpc,
            Spoken::Tcp => Self::Tcp,
        }
    }
}

fn row(registered: &Registered) -> Value {
    let Registered { key, service, at, ttl, .. } = registered;
    json!({
        "id": registered.id,
        "resource": key.to_string(),
        "service": service.name,
        "namespace": service.namespace,
        "address": at.ip(),
        "port": at.port(),
        "health": health(registered.health),
        "ttlSeconds": ttl.as_secs(),
        "heartbeatSeconds": (*ttl / HEARTBEATS).as_secs_f64(),
        "revision": registered.revision,
        "serviceCreated": registered.service_created,
    })
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        match error {
            Error::Malformed(_) => Self::bad_request(detail, USAGE),
            Error::Taken { .. } => Self::new(409, &code::NAME_TAKEN, detail),
            Error::Full(_) => Self::new(409, &code::ADDRESSES_FULL, detail),
            Error::Gone(_) => Self::new(404, &code::REGISTRATION_GONE, detail),
            Error::Store(error) => error.into(),
        }
    }
}
