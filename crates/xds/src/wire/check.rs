// SPDX-License-Identifier: Apache-2.0
//! Checks and conversions that several kinds share. Limits are those of Kubernetes where it has one,
//! else far above what the parser of documents lets through, so that nothing valid is refused here.

use super::{Error, Problem};
use crate::proto::Bytes;
use crate::proto::byrnie::v1 as pb;
use byrnie_base::Text;
use byrnie_model::service::Locality;
use byrnie_model::{Health, Identity, Labels, Protocol, ServiceRef};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Most labels of one object, and most labels of a selector.
const LABELS_MAX: usize = 256;
/// Longest label key: a DNS name of 253, a slash, and 63.
const LABEL_KEY_BYTES_MAX: usize = 317;
/// Longest label value (63 in Kubernetes), and longest name (253).
const NAME_BYTES_MAX: usize = 253;
/// Longest path, regular expression or header value.
pub(super) const TEXT_BYTES_MAX: usize = 8 << 10;
/// Most ports of one object.
pub(super) const PORTS_MAX: usize = 256;
/// Most entries of any list inside a route or policy.
pub(super) const LIST_MAX: usize = 10_000;
/// Longest span accepted: about 136 years, so that no sum of two overflows a clock.
const SECONDS_MAX: u64 = u32::MAX as u64;

pub(super) const fn invalid(field: &'static str) -> Error {
    Error { field, problem: Problem::Invalid }
}

pub(super) const fn missing(field: &'static str) -> Error {
    Error { field, problem: Problem::Missing }
}

pub(super) fn message<M: crate::proto::Message + Default>(field: &'static str, bytes: &[u8]) -> Result<M, Error> {
    M::decode(bytes).map_err(|_| Error { field, problem: Problem::Malformed })
}

/// Converts each entry of a list that isn't longer than `max`.
pub(super) fn list<A, B>(
    field: &'static str,
    max: usize,
    entries: Vec<A>,
    convert: impl FnMut(A) -> Result<B, Error>,
) -> Result<Vec<B>, Error> {
    if entries.len() > max {
        return Err(Error { field, problem: Problem::TooMany });
    }
    entries.into_iter().map(convert).collect()
}

pub(super) fn labels(field: &'static str, map: BTreeMap<String, String>) -> Result<Labels, Error> {
    if map.len() > LABELS_MAX {
        return Err(Error { field, problem: Problem::TooMany });
    }
    map.into_iter()
        .map(|(key, value)| {
            let fits = (1..=LABEL_KEY_BYTES_MAX).contains(&key.len())
                && value.len() <= NAME_BYTES_MAX
                && key.bytes().all(|b| b.is_ascii_graphic())
                && !value.contains(|c: char| c.is_control());
            if fits { Ok((Text::from(key), Text::from(value))) } else { Err(invalid(field)) }
        })
        .collect()
}

pub(super) fn labels_out(labels: &Labels) -> BTreeMap<String, String> {
    labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

/// The name of an object: 1 to 253 of letters, digits, `.`, `_` and `-`.
pub(super) fn name(field: &'static str, text: &str) -> Result<Text, Error> {
    let fits = (1..=NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if fits { Ok(text.into()) } else { Err(invalid(field)) }
}

/// A name, or nothing.
pub(super) fn optional_name(field: &'static str, text: &str) -> Result<Text, Error> {
    if text.is_empty() { Ok(Text::default()) } else { name(field, text) }
}

/// Text without control characters: a path, an expression, a header's value.
pub(super) fn text(field: &'static str, text: &str) -> Result<Text, Error> {
    let fits = text.len() <= TEXT_BYTES_MAX && !text.contains(|c: char| c.is_control() && c != '\t');
    if fits { Ok(text.into()) } else { Err(invalid(field)) }
}

/// A token of RFC 9110, 5.6.2: a method or a header's name.
pub(super) fn token(field: &'static str, text: &str) -> Result<Text, Error> {
    let fits = (1..=NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
    if fits { Ok(text.into()) } else { Err(invalid(field)) }
}

pub(super) fn port(field: &'static str, number: u32) -> Result<u16, Error> {
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(invalid(field)),
    }
}

pub(super) fn percent(field: &'static str, number: u32) -> Result<u8, Error> {
    u8::try_from(number).ok().filter(|percent| *percent <= 100).ok_or_else(|| invalid(field))
}

/// A weight that is at least 1.
pub(super) const fn weight(field: &'static str, number: u32) -> Result<u32, Error> {
    if number == 0 { Err(invalid(field)) } else { Ok(number) }
}

pub(super) fn service_ref(field: &'static str, service: Option<pb::ServiceRef>) -> Result<ServiceRef, Error> {
    let service = service.ok_or_else(|| missing(field))?;
    Ok(ServiceRef { namespace: name(field, &service.namespace)?, name: name(field, &service.name)? })
}

pub(super) fn service_ref_out(service: &ServiceRef) -> pb::ServiceRef {
    pb::ServiceRef { namespace: service.namespace.to_string(), name: service.name.to_string() }
}

pub(super) fn identity(field: &'static str, uri: &str) -> Result<Identity, Error> {
    Identity::parse(uri).map_err(|_| invalid(field))
}

pub(super) fn ip(field: &'static str, bytes: &[u8]) -> Result<IpAddr, Error> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(bytes).map(IpAddr::from).map_err(|_| invalid(field))
}

pub(super) fn ip_out(address: IpAddr) -> Bytes {
    match address {
        IpAddr::V4(v4) => Bytes::copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => Bytes::copy_from_slice(&v6.octets()),
    }
}

pub(super) fn address(field: &'static str, address: &pb::SocketAddress) -> Result<SocketAddr, Error> {
    Ok(SocketAddr::new(ip(field, &address.ip)?, port(field, address.port)?))
}

pub(super) fn address_out(address: SocketAddr) -> pb::SocketAddress {
    pb::SocketAddress { ip: ip_out(address.ip()), port: address.port().into() }
}

pub(super) fn duration(field: &'static str, span: pb::Duration) -> Result<Duration, Error> {
    if span.seconds > SECONDS_MAX || span.nanos > 999_999_999 {
        return Err(invalid(field));
    }
    Ok(Duration::new(span.seconds, span.nanos))
}

pub(super) fn optional_duration(field: &'static str, span: Option<pb::Duration>) -> Result<Option<Duration>, Error> {
    span.map(|span| duration(field, span)).transpose()
}

pub(super) const fn duration_out(span: Duration) -> pb::Duration {
    pb::Duration { seconds: span.as_secs(), nanos: span.subsec_nanos() }
}

pub(super) fn locality(locality: Option<pb::Locality>) -> Result<Locality, Error> {
    let Some(locality) = locality else { return Ok(Locality::default()) };
    Ok(Locality {
        region: optional_name("locality.region", &locality.region)?,
        zone: optional_name("locality.zone", &locality.zone)?,
    })
}

pub(super) fn locality_out(locality: &Locality) -> Option<pb::Locality> {
    (*locality != Locality::default())
        .then(|| pb::Locality { region: locality.region.to_string(), zone: locality.zone.to_string() })
}

/// The health that a number says.
///
/// # Errors
/// If it says none that is known.
pub fn health(number: i32) -> Result<Health, Error> {
    match pb::Health::try_from(number) {
        Ok(pb::Health::Healthy) => Ok(Health::Healthy),
        Ok(pb::Health::Draining) => Ok(Health::Draining),
        Ok(pb::Health::Unhealthy) => Ok(Health::Unhealthy),
        Ok(pb::Health::Unspecified) | Err(_) => Err(invalid("health")),
    }
}

/// The number of a health.
pub const fn health_out(health: Health) -> i32 {
    (match health {
        Health::Healthy => pb::Health::Healthy,
        Health::Draining => pb::Health::Draining,
        Health::Unhealthy => pb::Health::Unhealthy,
    }) as i32
}

pub(super) fn protocol(number: i32, undeclared: bool) -> Result<Protocol, Error> {
    match pb::Protocol::try_from(number) {
        Ok(pb::Protocol::Http1) if undeclared => Ok(Protocol::Undeclared),
        Ok(pb::Protocol::Http1) => Ok(Protocol::Http1),
        Ok(pb::Protocol::Http2) => Ok(Protocol::Http2),
        Ok(pb::Protocol::Grpc) => Ok(Protocol::Grpc),
        Ok(pb::Protocol::Tcp) => Ok(Protocol::Tcp),
        Ok(pb::Protocol::Udp) => Ok(Protocol::Udp),
        Ok(pb::Protocol::Unspecified) | Err(_) => Err(invalid("ports[].protocol")),
    }
}

/// The number of a protocol; of one that nobody declared that of HTTP/1.
pub(super) const fn protocol_out(protocol: Protocol) -> i32 {
    (match protocol {
        Protocol::Http1 | Protocol::Undeclared => pb::Protocol::Http1,
        Protocol::Http2 => pb::Protocol::Http2,
        Protocol::Grpc => pb::Protocol::Grpc,
        Protocol::Tcp => pb::Protocol::Tcp,
        Protocol::Udp => pb::Protocol::Udp,
    }) as i32
}
