// SPDX-License-Identifier: Apache-2.0
use super::{End, Passes, Pipe, relay};
use crate::io::{self, Stream, TcpStream};
use crate::listen::{Share, bind};
use crate::runtime;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn pair() -> (TcpStream, TcpStream) {
    let listener = bind(([127, 0, 0, 1], 0).into(), Share::Alone).unwrap();
    let near = io::connect(listener.local_addr(), Duration::from_secs(1)).await.unwrap();
    (near, listener.accept().await.0)
}

#[test]
fn bytes_pass_both_ways_and_half_close_is_kept() {
    runtime::block_on(async {
        let (mut client, inner) = pair().await;
        let (outer, mut server) = pair().await;
        // Each task counts itself when all that it asserts held: a panic stays inside its task.
        let held = Rc::new(Cell::new(0));
        let (relay_held, server_held) = (Rc::clone(&held), Rc::clone(&held));
        let relaying = runtime::spawn_local("relay", async move {
            let (mut first, mut second) = (Pipe::from(Stream::from(inner)), Pipe::from(Stream::from(outer)));
            let relayed = relay(
                (&mut first, b"early ".to_vec()),
                (&mut second, Vec::new()),
                Passes::All,
                Duration::from_secs(30),
            )
            .await;
            assert!(matches!(relayed.end, End::Closed), "{relayed:?}");
            assert_eq!((relayed.sent, relayed.received), (6 + 1_000_000, 2_000_000));
            relay_held.set(relay_held.get() + 1);
        });
        let serving = runtime::spawn_local("server", async move {
            let mut got = Vec::new();
            server.read_to_end(&mut got).await.unwrap();
            assert_eq!((got.len(), &got[..6]), (1_000_006, &b"early "[..]));
            // The client has closed its half; ours still goes through.
            server.write_all(&vec![7; 2_000_000]).await.unwrap();
            server_held.set(server_held.get() + 1);
        });
        client.write_all(&vec![1; 1_000_000]).await.unwrap();
        client.shutdown().await.unwrap();
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        assert_eq!(got.len(), 2_000_000);
        relaying.ended().await;
        serving.ended().await;
        assert_eq!(held.get(), 2);
    })
    .unwrap();
}

#[test]
fn silence_ends_a_relay() {
    runtime::block_on(async {
        let (_client, inner) = pair().await;
        let (outer, _server) = pair().await;
        let (mut first, mut second) = (Pipe::from(Stream::from(inner)), Pipe::from(Stream::from(outer)));
        let relayed =
            relay((&mut first, Vec::new()), (&mut second, Vec::new()), Passes::All, Duration::from_millis(30)).await;
        assert!(matches!(relayed.end, End::Idle));
    })
    .unwrap();
}

#[test]
fn a_side_that_breaks_off_breaks_the_other_off() {
    runtime::block_on(async {
        for (breaks, stays) in [(0, 1), (1, 0)] {
            let ((near, inner), (far, outer)) = (pair().await, pair().await);
            let mut ends = [near, far].map(Some);
            let relaying = runtime::spawn_local("relay", async move {
                let (mut first, mut second) = (Pipe::from(Stream::from(inner)), Pipe::from(Stream::from(outer)));
                let (first, second) = ((&mut first, Vec::new()), (&mut second, Vec::new()));
                relay(first, second, Passes::All, Duration::from_secs(30)).await;
            });
            let mut broken = ends[breaks].take().unwrap();
            let mut other = ends[stays].take().unwrap();
            broken.write_all(b"a part").await.unwrap();
            let mut got = [0; 6];
            other.read_exact(&mut got).await.unwrap();
            broken.set_zero_linger().unwrap();
            drop(broken);
            let end = other.read(&mut got).await;
            assert_eq!(end.map_err(|error| error.kind()), Err(std::io::ErrorKind::ConnectionReset), "{breaks}");
            relaying.ended().await;
        }
    })
    .unwrap();
}

#[test]
fn a_first_line_that_begins_as_no_request_passes_until_it_is_one() {
    // What is sent, in pieces that are read one by one, and how many of them pass.
    let cases: [(&[&[u8]], usize); 4] = [
        (&[b"P@ST /a", b" HT", b"TP/1.1\r\nforged: 1\r\n\r\n"], 2),
        (&[b"\0\0\0\x08", b"\x04\xd2HTTP", b"/1.1\n"], 2),
        (&[b"{\"a\":", b"1}\n", b"GET / HTTP/1.1\r\n"], 3),
        (&[b"\x16\x03\x01\x02\0\x01\x08http/1", b".1\n", b"HTTP/"], 3),
    ];
    runtime::block_on(async {
        for (pieces, passing) in cases {
            let (mut client, inner) = pair().await;
            let (outer, mut server) = pair().await;
            let relaying = runtime::spawn_local("relay", async move {
                let (mut first, mut second) = (Pipe::from(Stream::from(inner)), Pipe::from(Stream::from(outer)));
                let (first, second) = ((&mut first, Vec::new()), (&mut second, Vec::new()));
                relay(first, second, Passes::NoRequest, Duration::from_secs(30)).await;
            });
            for (at, piece) in pieces.iter().enumerate() {
                client.write_all(piece).await.unwrap();
                if at < passing {
                    let mut got = vec![0; piece.len()];
                    server.read_exact(&mut got).await.unwrap();
                    assert_eq!(got, *piece);
                } else {
                    let left = server.read(&mut [0]).await.unwrap();
                    assert_eq!(left, 0, "{}", piece.escape_ascii());
                }
            }
            drop((client, server));
            relaying.ended().await;
        }
    })
    .unwrap();
}
