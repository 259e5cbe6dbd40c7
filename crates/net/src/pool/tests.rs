// SPDX-License-Identifier: Apache-2.0
use super::{Asked, Connection, IDLE_TIMEOUT, Lease, Pool, SHARED_PER_KEY_MAX, Shared, Speaks};
use crate::http::h1::Conn;
use crate::http::h2;
use crate::io;
use crate::listen::{Share, bind};
use crate::runtime;
use byrnie_codec::Limits;
use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// A pool with one idle connection, and the other end of it.
async fn pooled() -> (Pool, Asked<'static>, io::TcpStream) {
    let listener = bind(([127, 0, 0, 1], 0).into(), Share::Alone).unwrap();
    let address = listener.local_addr();
    let stream = io::connect(address, Duration::from_secs(1)).await.unwrap();
    let (other, _) = listener.accept().await;
    let key = Asked { address, hop: None, generation: 0, way: 0, speaks: Speaks::Http1 };
    let conn = Box::new(Conn::new(stream.into(), Vec::new(), Limits::default()));
    let mut pool = Pool::default();
    pool.give(conn, Lease { key: key.key(), reused: false, not_after: None }, runtime::now().mono);
    (pool, key, other)
}

async fn take(pool: &mut Pool, key: &Asked<'_>) -> Option<bool> {
    let wall = runtime::now().wall;
    let taken = poll_fn(|cx| Poll::Ready(pool.take(cx, key, wall))).await;
    taken.map(|(_, lease)| lease.reused)
}

#[test]
fn a_live_connection_is_used_again_and_only_once() {
    runtime::block_on(async {
        let (mut pool, key, _other) = pooled().await;
        assert_eq!(take(&mut pool, &key).await, Some(true));
        assert_eq!(take(&mut pool, &key).await, None);
    })
    .unwrap();
}

#[test]
fn another_generation_of_credentials_gets_nothing() {
    runtime::block_on(async {
        let (mut pool, key, _other) = pooled().await;
        let renewed = Asked { generation: 1, ..key };
        assert_eq!(take(&mut pool, &renewed).await, None);
    })
    .unwrap();
}

#[test]
fn a_connection_that_its_server_closed_is_not_handed_out() {
    runtime::block_on(async {
        let (mut pool, key, other) = pooled().await;
        // What the reactor has noted is what counts: it must have seen the close.
        let (mut conn, lease) = poll_fn(|cx| Poll::Ready(pool.take(cx, &key, runtime::now().wall))).await.unwrap();
        drop(other);
        poll_fn(|cx| conn.poll_gone(cx)).await;
        pool.give(conn, lease, runtime::now().mono);
        assert_eq!(take(&mut pool, &key).await, None);
    })
    .unwrap();
}

#[test]
fn what_was_idle_for_too_long_is_closed() {
    runtime::block_on(async {
        let (mut pool, key, _other) = pooled().await;
        pool.sweep(runtime::now().mono + IDLE_TIMEOUT / 2);
        assert_eq!(pool.sizes(), (1, 0));
        pool.sweep(runtime::now().mono + IDLE_TIMEOUT);
        assert_eq!(pool.sizes(), (0, 0));
        assert_eq!(take(&mut pool, &key).await, None);
    })
    .unwrap();
}

/// Whatever is on the way may have forgotten it, and the next call would wait for nothing.
#[test]
fn an_http2_connection_without_streams_takes_its_leave_when_it_was_idle_for_too_long() {
    const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    runtime::block_on(async {
        let listener = bind(([127, 0, 0, 1], 0).into(), Share::Alone).unwrap();
        let address = listener.local_addr();
        let stream = io::connect(address, Duration::from_secs(10)).await.unwrap();
        let (mut other, _) = listener.accept().await;
        let key = Asked { address, hop: None, generation: 0, way: 0, speaks: Speaks::Http2 };
        let mut pool = Pool::default();
        pool.shared(&key).add(h2::connect(stream.into()), None);
        let flow = pool.shared(&key).with_room(runtime::now().wall).unwrap().open();
        pool.sweep(runtime::now().mono + 2 * IDLE_TIMEOUT);
        assert_eq!(pool.sizes(), (0, 1), "one with a stream is never idle");
        drop(flow);
        pool.sweep(runtime::now().mono + IDLE_TIMEOUT / 2);
        assert_eq!(pool.sizes(), (0, 1));
        pool.sweep(runtime::now().mono + IDLE_TIMEOUT);
        assert_eq!(pool.sizes(), (0, 0));
        let mut said = Vec::new();
        runtime::timeout(Duration::from_secs(10), other.read_to_end(&mut said)).await.unwrap().unwrap();
        assert!(said.ends_with(&GOAWAY), "{}", said.escape_ascii());
    })
    .unwrap();
}

/// A connection that streams share: which one, and whether it's full or short.
#[derive(Clone)]
struct Hop(usize, Rc<Cell<(bool, bool)>>);

impl Connection for Hop {
    fn is_ended(&self) -> bool {
        false
    }

    fn is_full(&self) -> bool {
        self.1.get().0
    }

    fn is_short(&self) -> bool {
        self.1.get().1
    }
}

#[test]
fn clients_of_which_nothing_is_known_share_two_connections_until_these_are_full() {
    const ROOM: (bool, bool) = (false, false);
    const SHORT: (bool, bool) = (false, true);
    const FULL: (bool, bool) = (true, true);
    let (shared, wall) = (Shared::<Hop>::default(), runtime::now().wall);
    let states: Vec<_> = (0..SHARED_PER_KEY_MAX).map(|_| Rc::new(Cell::new(ROOM))).collect();
    let open = |which: usize| shared.add(Hop(which, Rc::clone(&states[which])), None);
    let chosen =
        || [shared.with_room(wall), shared.with_room_for_unknown(wall)].map(|found| found.map(|Hop(which, _)| which));
    assert_eq!(chosen(), [None, None]);
    open(0);
    assert_eq!(chosen(), [Some(0), Some(0)]);
    // Its clients don't read: whoever comes next is given another one, which must be opened.
    states[0].set(SHORT);
    assert_eq!(chosen(), [None, None]);
    open(1);
    assert_eq!(chosen(), [Some(1), Some(1)]);
    // Nor do those: the others are for clients that do.
    states[1].set(SHORT);
    assert_eq!(chosen(), [None, Some(0)]);
    open(2);
    assert_eq!(chosen(), [Some(2), Some(0)]);
    states[0].set(FULL);
    assert_eq!(chosen(), [Some(2), Some(1)]);
    states[1].set(FULL);
    assert_eq!(chosen(), [Some(2), Some(2)]);
    states[2].set(SHORT);
    assert_eq!(chosen(), [None, None]);
    // Where there is room again, they go back.
    states[1].set(ROOM);
    assert_eq!(chosen(), [Some(1), Some(1)]);
}
