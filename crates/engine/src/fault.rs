// SPDX-License-Identifier: Apache-2.0
//! Faults on purpose: what a TrafficPolicy makes callers of a service suffer, to see what they do. Applied where
//! the call begins, after its route is known and before an endpoint is chosen, so that no program is harmed;
//! never after the policy's end.

use crate::shard::Shard;
use byrnie_base::Timestamp;
use byrnie_codec::Head;
use byrnie_model::policy::fault::Fault;
use std::time::Duration;

/// What befalls one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blow {
    /// It waits so long first.
    pub(crate) delay: Duration,
    /// Then it's answered with this status.
    pub(crate) abort: Option<u16>,
    /// Or its connection is cut.
    pub(crate) reset: bool,
    /// Or the body of its answer comes so long after the head.
    pub(crate) slow_body: Duration,
}

/// What befalls the request with this head, by the dice.
pub(crate) fn strike(fault: Option<&Fault>, head: &Head, shard: &mut Shard, wall: Timestamp) -> Option<Blow> {
    let fault = fault.filter(|fault| is_active(fault, wall) && fits(fault, head))?;
    let struck = shard.rng.percent(fault.percent.into());
    struck.then(|| Blow {
        delay: fault.delay.unwrap_or_default(),
        abort: fault.abort,
        reset: fault.reset,
        slow_body: fault.slow_body.unwrap_or_default(),
    })
}

/// Whether its end has not come yet.
pub(crate) fn is_active(fault: &Fault, wall: Timestamp) -> bool {
    wall < fault.until
}

fn fits(fault: &Fault, head: &Head) -> bool {
    let method = fault.method.as_ref().is_none_or(|method| **method == *head.method());
    let path = fault.path_prefix.as_ref().is_none_or(|prefix| is_below(head.path(), prefix));
    let header = fault.header.as_ref().is_none_or(|(name, value)| head.get(name) == Some(value.as_bytes()));
    method && path && header
}

/// By segments, as a route's `PathPrefix` is.
fn is_below(path: &str, prefix: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use crate::fixtures::*;
    use crate::{Effect, Reason};
    use byrnie_base::Timestamp;
    use byrnie_model::policy::TrafficPolicy;
    use byrnie_model::policy::fault::Fault;
    use std::time::Duration;

    fn fault() -> Fault {
        let until = Timestamp::from_millis(60_000);
        Fault {
            percent: 100,
            delay: None,
            abort: None,
            reset: false,
            slow_body: None,
            method: None,
            path_prefix: None,
            header: None,
            until,
        }
    }

    fn world(fault: Fault) -> World {
        let mut world = World::payments(2);
        world.put(vec![traffic("payments", TrafficPolicy { fault: Some(fault), ..TrafficPolicy::default() })]);
        world
    }

    /// The status of a thousand requests' answers; 0 for those that are sent.
    fn statuses(world: &mut World, method: &str, url: &str, headers: &[(&str, &str)], at: u64) -> Vec<u16> {
        let status = |effect| match effect {
            Effect::Reply(answer) => answer.status,
            _ => 0,
        };
        (0..1000).map(|_| status(world.begin(&mut head(method, url, headers), ms(at)).1)).collect()
    }

    #[test]
    fn an_abort_strikes_its_share_until_its_end() {
        let mut world = world(Fault { abort: Some(418), percent: 30, ..fault() });
        let struck = |world: &mut World, at| {
            statuses(world, "GET", "payments/", &[], at).iter().filter(|status| **status == 418).count()
        };
        assert!((240..360).contains(&struck(&mut world, 0)));
        assert!((240..360).contains(&struck(&mut world, 59_999)));
        assert_eq!(struck(&mut world, 60_000), 0);
    }

    #[test]
    fn only_what_fits_is_struck() {
        let some = |fault: Fault| world(Fault { abort: Some(503), ..fault });
        let check = |world: &mut World, method: &str, url: &str, headers: &[(&str, &str)], expected: u16| {
            let seen = statuses(world, method, url, headers, 0);
            assert!(seen.iter().all(|status| *status == expected), "{method} {url} {headers:?}");
        };
        let mut posts = some(Fault { method: Some("POST".into()), ..fault() });
        check(&mut posts, "POST", "payments/", &[], 503);
        check(&mut posts, "GET", "payments/", &[], 0);
        let mut below = some(Fault { path_prefix: Some("/a".into()), ..fault() });
        check(&mut below, "GET", "payments/a/b?c", &[], 503);
        check(&mut below, "GET", "payments/ab", &[], 0);
        let mut marked = some(Fault { header: Some(("x-test".into(), "1".into())), ..fault() });
        check(&mut marked, "GET", "payments/", &[("x-test", "1")], 503);
        check(&mut marked, "GET", "payments/", &[("x-test", "2")], 0);
        check(&mut marked, "GET", "payments/", &[], 0);
    }

    #[test]
    fn delays_come_before_the_try_and_before_the_answer() {
        let span = Duration::from_millis(250);
        let (_exchange, effect) =
            world(Fault { delay: Some(span), ..fault() }).begin(&mut head("GET", "payments/", &[]), ms(0));
        assert_eq!(plan(effect).delay, span);
        let mut both = world(Fault { delay: Some(span), abort: Some(500), ..fault() });
        let answered = answer(both.begin(&mut head("GET", "payments/", &[]), ms(0)).1);
        assert_eq!((answered.delay, answered.status, answered.reason), (span, 500, Reason::FaultInjected));
        let cut = answer(world(Fault { reset: true, ..fault() }).begin(&mut head("GET", "payments/", &[]), ms(0)).1);
        assert!(cut.cut);
        let mut held = world(Fault { slow_body: Some(span), ..fault() });
        let (exchange, effect) = held.begin(&mut head("GET", "payments/", &[]), ms(0));
        assert_eq!((plan(effect).delay, exchange.body_delay()), (Duration::ZERO, span));
        // Never beyond what the caller waits for.
        let mut slow = world(Fault { delay: Some(Duration::from_secs(9)), ..fault() });
        let late = slow.begin(&mut head("GET", "payments/", &[("x-byrnie-deadline-ms", "100")]), ms(0)).1;
        assert_eq!(answer(late).status, 504);
    }
}
