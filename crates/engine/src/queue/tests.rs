// SPDX-License-Identifier: Apache-2.0
//! Who waits, who goes first, and who is told to go elsewhere.

use crate::fixtures::*;
use crate::{Arrival, Direction, Effect, Exchange, Outcome, Place, Tls};
use byrnie_codec::Head;
use byrnie_model::policy::TrafficPolicy;
use byrnie_model::policy::traffic::Limits;
use std::net::SocketAddr;

fn limited(pending: u32, queued: u32) -> World {
    let limits = Limits { pending_max: Some(pending), queued_max: Some(queued), ..Limits::default() };
    let mut world = World::payments(2);
    world.put(vec![traffic("payments", TrafficPolicy { limits: Some(limits), ..TrafficPolicy::default() })]);
    world
}

struct Asked {
    exchange: Exchange,
    head: Head,
    place: Place,
}

fn asks(world: &mut World, at: u64, headers: &[(&str, &str)]) -> Result<Asked, u16> {
    let mut head = head("GET", "payments/", headers);
    let (exchange, effect) = world.begin(&mut head, ms(at));
    match effect {
        Effect::Queue(place) => Ok(Asked { exchange, head, place }),
        Effect::Reply(answer) => Err(answer.status),
        other => panic!("{other:?}"),
    }
}

fn turn(world: &mut World, asked: &mut Asked, at: u64) -> Effect {
    let remote = SocketAddr::from(([127, 0, 0, 1], 5555));
    let arrival = Arrival { direction: Direction::Forward, source: None, remote, tls: Tls::None };
    asked.exchange.on_turn(&mut world.shard, &arrival, &mut asked.head, ms(at))
}

/// A defect elsewhere on the core costs those who wait nothing.
#[test]
fn who_waits_keeps_the_place_when_the_core_begins_anew() {
    let mut world = limited(1, 10);
    let first = begins(&mut world, 0);
    let mut waits = asks(&mut world, 1, &[]).unwrap();
    world.shard.renew(7);
    let mut later = asks(&mut world, 2, &[]).unwrap();
    assert_ne!(waits.place.ticket, later.place.ticket);
    assert_eq!(ends(&mut world, first, 3), [waits.place.ticket]);
    plan(turn(&mut world, &mut waits, 3));
    assert_eq!(ends(&mut world, waits.exchange, 4), [later.place.ticket]);
    plan(turn(&mut world, &mut later, 4));
}

fn begins(world: &mut World, at: u64) -> Exchange {
    let mut head = head("GET", "payments/", &[]);
    let (exchange, effect) = world.begin(&mut head, ms(at));
    plan(effect);
    exchange
}

fn ends(world: &mut World, exchange: Exchange, at: u64) -> Vec<u64> {
    exchange.finish(&mut world.shard, Outcome { status: 200, failure: None }, ms(at));
    world.shard.call(ms(at).mono)
}

#[test]
fn a_burst_waits_in_its_order_and_more_are_refused() {
    let mut world = limited(1, 2);
    let first = begins(&mut world, 0);
    let (mut second, mut third) = (asks(&mut world, 1, &[]).unwrap(), asks(&mut world, 2, &[]).unwrap());
    assert_eq!(asks(&mut world, 3, &[]).err(), Some(503), "there is no place left");
    assert!(world.shard.call(ms(4).mono).is_empty(), "there is no room");
    assert_eq!(second.place.until, ms(101).mono);
    assert_eq!(ends(&mut world, first, 10), [second.place.ticket]);
    plan(turn(&mut world, &mut second, 10));
    assert!(world.shard.call(ms(11).mono).is_empty());
    assert_eq!(ends(&mut world, second.exchange, 20), [third.place.ticket]);
    let third_plan = plan(turn(&mut world, &mut third, 20));
    assert_eq!(third_plan.again.attempt, 1);
    assert!(asks(&mut world, 21, &[]).is_ok(), "all that has gone left its place");
}

#[test]
fn in_a_line_that_stands_the_newest_goes_first_and_the_others_elsewhere() {
    let mut world = limited(1, 100);
    let mut first = begins(&mut world, 0);
    let mut old: Vec<Asked> = (1..50).map(|at| asks(&mut world, at * 3, &[]).unwrap()).collect();
    // 150 ms later somebody still waits.
    let mut newest = asks(&mut world, 150, &[]).unwrap();
    assert_eq!(newest.place.until, ms(155).mono, "no longer than a moment");
    let called = ends(&mut world, first, 151);
    assert_eq!(called, [newest.place.ticket]);
    plan(turn(&mut world, &mut newest, 151));
    first = newest.exchange;
    let called = ends(&mut world, first, 160);
    assert_eq!(called.len(), old.len(), "it is too late for all of them");
    for asked in &mut old {
        let refused = answer(turn(&mut world, asked, 160));
        assert_eq!((refused.status, refused.retry_after.is_some()), (503, true));
        assert!(refused.detail.contains("it has waited for"), "{}", refused.detail);
    }
    begins(&mut world, 161);
}

/// Each core has its own lines, and the room is all cores' together: what another core frees calls nobody here.
#[test]
fn room_that_another_core_freed_is_taken() {
    let mut world = limited(2, 10);
    let elsewhere = [begins(&mut world, 0), begins(&mut world, 0)];
    let mut waits = [1, 1, 2].map(|at| asks(&mut world, at, &[]).unwrap());
    assert_eq!(waits[0].place.until, ms(101).mono);
    // Ended without a call here.
    for exchange in elsewhere {
        exchange.finish(&mut world.shard, Outcome { status: 200, failure: None }, ms(50));
    }
    let [first, second, third] = &mut waits;
    // A moment after its time, as alarms are.
    plan(turn(&mut world, first, 102));
    plan(turn(&mut world, second, 102));
    assert_eq!(answer(turn(&mut world, third, 103)).status, 503, "no more than there is room for");
}

/// As a core looks up ten times a second.
#[test]
fn a_look_finds_the_room_that_another_core_freed() {
    let mut world = limited(2, 10);
    let elsewhere = [begins(&mut world, 0), begins(&mut world, 0)];
    let mut waits = [1, 60].map(|at| asks(&mut world, at, &[]).unwrap());
    assert!(world.shard.call(ms(61).mono).is_empty());
    for exchange in elsewhere {
        exchange.finish(&mut world.shard, Outcome { status: 200, failure: None }, ms(70));
    }
    // The line has stood for so long only as nobody looked.
    assert_eq!(world.shard.call(ms(105).mono), waits.each_ref().map(|asked| asked.place.ticket));
    for asked in &mut waits {
        plan(turn(&mut world, asked, 105));
    }
}

#[test]
fn whose_deadline_cannot_be_met_is_not_kept_waiting() {
    let mut world = limited(1, 10);
    // An answer takes 40 ms.
    let mut exchange = begins(&mut world, 0);
    exchange.on_response(&mut world.shard, &mut response(200, &[]), ms(40));
    ends(&mut world, exchange, 40);
    let first = begins(&mut world, 100);
    assert_eq!(asks(&mut world, 101, &[("x-byrnie-deadline-ms", "30")]).err(), Some(503));
    let mut hurried = asks(&mut world, 101, &[("x-byrnie-deadline-ms", "60")]).unwrap();
    assert_eq!(hurried.place.until, ms(121).mono);
    assert_eq!(ends(&mut world, first, 130), [hurried.place.ticket]);
    assert_eq!(answer(turn(&mut world, &mut hurried, 130)).status, 503);
}

#[test]
fn who_leaves_takes_no_room_along() {
    let mut world = limited(1, 10);
    let first = begins(&mut world, 0);
    let (gone, called, mut stays) =
        (asks(&mut world, 1, &[]).unwrap(), asks(&mut world, 1, &[]).unwrap(), asks(&mut world, 1, &[]).unwrap());
    world.shard.leave(gone.place.ticket);
    assert_eq!(ends(&mut world, first, 2), [called.place.ticket]);
    world.shard.leave(called.place.ticket);
    assert_eq!(world.shard.call(ms(3).mono), [stays.place.ticket]);
    plan(turn(&mut world, &mut stays, 3));
}
