// SPDX-License-Identifier: Apache-2.0
//! The time a request has left: read on entry, capped, and written lower at each hop, so that nobody
//! works for a caller who has stopped waiting. Carried as `x-byrnie-deadline-ms` and, for gRPC, as
//! `grpc-timeout` (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).

use crate::digits::Digits;
use byrnie_base::Instant;
use byrnie_codec::grpc::parse_timeout;
use byrnie_codec::headers::deadline_ms;
use byrnie_codec::{Head, Known};
use std::time::Duration;

/// Longest time that a header can ask for. What lasts longer needs no deadline.
pub(crate) const DEADLINE_MAX: Duration = Duration::from_secs(24 * 3600);

/// How much later than it was told a callee's proxy ends a request: its caller's proxy, which counts its tries, is to end it first, and
/// takes up to so much off for the way.
pub(crate) const LATER: Duration = Duration::from_millis(2);

/// The earliest end that the request's headers ask for. A header that can't be read is dropped: it
/// can't be forwarded as if it meant something.
pub(crate) fn read(head: &mut Head, now: Instant) -> Option<Instant> {
    let own = header(head, Known::ByrnieDeadlineMs, |value| deadline_ms(value).map(Duration::from_millis));
    let grpc = header(head, Known::GrpcTimeout, parse_timeout);
    let span = match (own, grpc) {
        (Some(a), Some(b)) => a.min(b),
        (a, b) => a.or(b)?,
    };
    Some(now + span.min(DEADLINE_MAX))
}

/// Writes the time left into `head`: at least a millisecond less than was read from it.
pub(crate) fn stamp(head: &mut Head, deadline: Option<Instant>, now: Instant) {
    let Some(deadline) = deadline else { return };
    // What was used is rounded up, and a hop that took no time that can be measured has used some all the same.
    let left = deadline.as_nanos().saturating_sub(now.as_nanos()).div_ceil(1_000_000).saturating_sub(1).max(1);
    head.set_known(Known::ByrnieDeadlineMs, Digits::of(left).as_bytes()).ok();
    if head.header(Known::GrpcTimeout).is_some() {
        // At most 8 digits: 24 h are 86,400,000 ms.
        head.set_known(Known::GrpcTimeout, Digits::of(left.min(99_999_999)).with(b'm')).ok();
    }
}

fn header(head: &mut Head, name: Known, parse: impl Fn(&[u8]) -> Option<Duration>) -> Option<Duration> {
    let parsed = parse(head.header(name)?);
    if parsed.is_none() {
        head.remove_known(name);
    }
    parsed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(headers: &[(&str, &str)], expected_ms: Option<u64>) {
        let mut head = Head::new();
        head.start_request("GET", "http", "a", "/").unwrap();
        for (name, value) in headers {
            head.append(name, value.as_bytes()).unwrap();
        }
        let now = Instant::from_nanos(1_000_000_000);
        let expected = expected_ms.map(|ms| now + Duration::from_millis(ms));
        assert_eq!(read(&mut head, now), expected, "{headers:?}");
    }

    #[test]
    fn deadlines_are_read_and_capped() {
        check(&[], None);
        check(&[("x-byrnie-deadline-ms", "250")], Some(250));
        check(&[("x-byrnie-deadline-ms", "-1")], None);
        check(&[("x-byrnie-deadline-ms", "1e3")], None);
        check(&[("x-byrnie-deadline-ms", "99999999999999999999")], None);
        check(&[("x-byrnie-deadline-ms", "999999999")], Some(86_400_000));
        check(&[("grpc-timeout", "2S")], Some(2000));
        check(&[("grpc-timeout", "99999999H")], Some(86_400_000));
        check(&[("grpc-timeout", "999999999S")], None);
        check(&[("grpc-timeout", "5")], None);
        check(&[("grpc-timeout", "1500m"), ("x-byrnie-deadline-ms", "700")], Some(700));
    }

    #[test]
    fn each_hop_writes_less() {
        let mut head = Head::new();
        head.start_request("POST", "http", "a", "/").unwrap();
        head.append("grpc-timeout", b"2S").unwrap();
        let now = Instant::from_nanos(0);
        let deadline = read(&mut head, now);
        stamp(&mut head, deadline, now + Duration::from_millis(300));
        assert_eq!(head.get("grpc-timeout"), Some(&b"1699m"[..]));
        assert_eq!(head.get("x-byrnie-deadline-ms"), Some(&b"1699"[..]));
        assert_eq!(head.values("grpc-timeout").count(), 1);
        // At once, and after part of a millisecond.
        for micros in [0, 1, 999] {
            let deadline = read(&mut head, now);
            stamp(&mut head, deadline, now + Duration::from_micros(micros));
        }
        assert_eq!(
            (head.get("grpc-timeout"), head.get("x-byrnie-deadline-ms")),
            (Some(&b"1696m"[..]), Some(&b"1696"[..]))
        );
    }

    #[test]
    fn a_callees_proxy_waits_longer_than_it_was_told_and_tells_its_program_less() {
        use crate::fixtures::{World, head, identity, mesh, ms, own_workload, plan, service};
        use byrnie_model::Protocol;
        use byrnie_model::resource::DefaultAccess;
        let mut world = World::new(vec![mesh(DefaultAccess::Allow), own_workload(), service("web", Protocol::Http1)]);
        let mut asked = head("GET", "web/", &[("x-byrnie-deadline-ms", "100")]);
        let (_exchange, effect) = world.begin_inbound(Some(&identity("bob")), &mut asked, ms(0));
        assert_eq!(plan(effect).deadline, Some(ms(100).mono + LATER));
        assert_eq!(asked.get("x-byrnie-deadline-ms"), Some(&b"99"[..]));
    }
}
