// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::hop::tests::sockets;
use crate::tls;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// Runs with a connection of each of these sides, whose other end says nothing, and the time at which it began.
fn alone(sides: &[Side], test: impl Fn(&mut State, Instant, Side)) {
    runtime::block_on(async {
        for side in sides.iter().copied() {
            let (near, _far) = sockets().await;
            let link = Link::new(near, side, Limits::default());
            let began = link.0.borrow().care.used;
            test(&mut link.0.borrow_mut(), began, side);
        }
    })
    .unwrap();
}

/// One stream more, opened by this side.
fn open(state: &mut State) {
    let key = state.lanes.next_key();
    state.session.open(key).unwrap();
    state.lanes.add(Lane::new());
}

#[test]
fn who_is_silent_while_streams_are_open_is_asked_and_then_given_up() {
    alone(&[Side::Opener], |state, began, _| {
        open(state);
        state.look_after(began + (PING_AFTER - SECOND));
        assert!(state.care.pinged.is_none(), "silence of less than {PING_AFTER:?} says nothing");
        let asked = began + PING_AFTER;
        state.look_after(asked);
        assert_eq!(state.care.pinged, Some(asked));
        state.look_after(asked + (PING_TIMEOUT - SECOND));
        assert!(!state.is_ended());
        state.look_after(asked + PING_TIMEOUT);
        assert!(state.is_ended(), "nothing came for {PING_TIMEOUT:?} after the question");
    });
}

#[test]
fn whatever_comes_is_a_sign_of_life() {
    alone(&[Side::Opener], |state, began, _| {
        open(state);
        state.look_after(began + PING_AFTER);
        assert!(state.care.pinged.is_some());
        // The other side asks too: that is an answer as good as any.
        let mut ping = Writer::default();
        ping.control(Frame::new(StreamId::CONNECTION, Kind::Ping, 0));
        assert!(state.take(ping.waiting()).unwrap());
        assert!(state.care.pinged.is_none());
        state.look_after(began + PING_AFTER + PING_TIMEOUT);
        assert!(!state.is_ended());
    });
}

/// A server that sends and doesn't read: more than credit allows is never to wait for it.
#[test]
fn an_opener_ends_a_connection_on_which_more_waits_than_ever_may() {
    alone(&[Side::Opener], |state, _, _| {
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(state.drive(cx).is_pending());
        let credit = Frame::new(StreamId::CONNECTION, Kind::Credit, 1);
        while !state.is_ended() {
            (0..CORK_BYTES_MAX).for_each(|_| state.control(credit));
            let _ = state.drive(cx);
            assert!(state.gathered() < OPENER_WAITING_BYTES_MAX + 16 * CORK_BYTES_MAX);
        }
    });
}

#[test]
fn an_idle_connection_takes_its_leave_the_opener_first() {
    alone(&[Side::Opener, Side::Server], |state, began, side| {
        let most = if side == Side::Opener { IDLE_OPENER } else { IDLE_SERVER };
        state.look_after(began + (most - SECOND));
        assert!(!state.session.is_leaving() && !state.is_ended(), "{side:?}");
        state.look_after(began + most);
        assert!(state.session.is_leaving(), "{side:?}");
    });
    const { assert!(IDLE_OPENER.as_secs() < IDLE_SERVER.as_secs(), "who opens must not send into a close") };
}

#[test]
fn a_goodbye_that_nobody_answers_ends_the_connection() {
    alone(&[Side::Opener, Side::Server], |state, _, side| {
        state.say_goodbye();
        let said = state.care.goodbye.unwrap();
        state.look_after(said + (GOODBYE_TIMEOUT - SECOND));
        assert!(!state.is_ended(), "{side:?}");
        state.look_after(said + GOODBYE_TIMEOUT);
        assert!(state.is_ended(), "{side:?}");
    });
}

#[test]
fn a_connection_with_a_stream_is_never_idle() {
    alone(&[Side::Opener], |state, began, _| {
        open(state);
        let mut now = began;
        while now.since(began) < IDLE_SERVER * 2 {
            now = now + SECOND;
            // The other side is alive.
            (state.care.heard, state.care.pinged) = (now, None);
            state.look_after(now);
        }
        assert!(!state.session.is_leaving() && !state.is_ended());
    });
}

#[test]
fn a_body_is_sealed_from_where_it_lies_and_leaves_with_what_follows_it() {
    runtime::block_on(async {
        let (near, _far) = tls::tests::ending(|| tls::tests::now() + tls::tests::HOUR).await;
        let link = Link::new(near, Side::Server, Limits::default());
        let state = &mut *link.0.borrow_mut();
        state.outward.driver = Some(Waker::noop().clone());
        let id = StreamId::new(1, 1);
        state.session.receive(&Frame::new(id, Kind::Open, 0), Instant::default()).unwrap();
        state.writer.head(id, Kind::Open, false, |out| out.extend_from_slice(b"head"));
        let mut written = 0;
        while written < CORK_BYTES_MAX {
            assert_eq!(state.write(id, &[7; BYPASS_BYTES]).unwrap(), BYPASS_BYTES);
            written += BYPASS_BYTES;
            assert!(state.writer.waiting().is_empty(), "copied");
            assert!(state.gathered() > written, "sent before its end could go with it");
        }
        state.writer.end(id);
        state.wrote();
        assert_eq!(state.gathered(), 0, "as much as is gathered at most");
    })
    .unwrap();
}
