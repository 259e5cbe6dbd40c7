// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::http::h2::INTERNAL_ERROR;
use crate::http::{Answered, Chunk, Error, Progress, Wire};
use crate::io::{self, Stream};
use crate::listen::{Share, bind};
use crate::{runtime, tls};
use byrnie_codec::hop::{Asks, CONNECTION_CREDIT_BYTES, STREAM_CREDIT_BYTES, code};
use byrnie_codec::{Framing, Head, Limits, h1};
use std::future::poll_fn;
use std::task::Poll;

const TARGET: &str = "80.echo.default.mesh";

pub(super) async fn sockets() -> (Stream, Stream) {
    let listener = bind(([127, 0, 0, 1], 0).into(), Share::Alone).unwrap();
    let near = io::connect(listener.local_addr(), Duration::from_secs(5)).await.unwrap();
    let (far, _) = listener.accept().await;
    (near.into(), far.into())
}

async fn pair() -> (Client, Server) {
    let (near, far) = sockets().await;
    (connect(near, Limits::default()), Server::new(far, Limits::default()))
}

fn request(method: &str, framing: Framing) -> Head {
    let mut head = Head::new();
    head.start_request(method, "http", "echo", "/").unwrap();
    head.set_framing(framing);
    head
}

/// The next stream; the connection moves only while this is awaited, so it is done on a task of its own.
fn serve(mut server: Server, mut take: impl FnMut(Accepted) + 'static) {
    runtime::spawn_local("server", async move {
        while let Some(accepted) = poll_fn(|cx| server.poll_accept(cx)).await {
            take(accepted);
        }
    });
}

/// Answers with what was asked, by its framing.
async fn echo(mut flow: Flow) -> Result<(), Error> {
    let body = read(&mut flow).await?.0;
    let mut head = Head::new();
    head.start_response(200);
    head.set_framing(Framing::Length(body.len() as u64));
    let mut wire = Wire::Hop(flow);
    wire.send_response(&head)?;
    poll_fn(|cx| Poll::Ready(wire.push(cx, Chunk::Slice(&body)))).await?;
    wire.end(None)?;
    poll_fn(|cx| wire.poll_flush(cx)).await
}

async fn read(flow: &mut Flow) -> Result<(Vec<u8>, bool), Error> {
    let mut body = Vec::new();
    loop {
        let progress = poll_fn(|cx| {
            flow.poll_body(cx, &mut |_, chunk| {
                body.extend_from_slice(chunk.as_slice());
                Ok(())
            })
        });
        if let Progress::End(trailers) = progress.await? {
            return Ok((body, trailers.is_some()));
        }
    }
}

async fn answer(flow: &mut Flow) -> Result<u16, Error> {
    let mut head = Head::new();
    let answered = poll_fn(|cx| flow.poll_response(cx, h1::Asked::Other, &mut head)).await?;
    assert_eq!(answered, Answered::Final);
    Ok(head.status())
}

async fn ask(client: &Client, body: &[u8]) -> Result<Vec<u8>, Error> {
    let mut flow = client.open(TARGET.into())?;
    flow.send_request(&request("POST", Framing::Length(body.len() as u64)))?;
    flow.push(body)?;
    flow.end(None)?;
    poll_fn(|cx| flow.poll_flush(cx)).await?;
    assert_eq!(answer(&mut flow).await?, 200);
    Ok(read(&mut flow).await?.0)
}

#[test]
fn exchanges_pass_side_by_side() {
    runtime::block_on(async {
        let encrypted = tls::tests::ending(|| tls::tests::now() + tls::tests::HOUR).await;
        for (near, far) in [sockets().await, encrypted] {
            pass_side_by_side(connect(near, Limits::default()), Server::new(far, Limits::default())).await;
        }
    })
    .unwrap();
}

async fn pass_side_by_side(client: Client, server: Server) {
    serve(server, |Accepted { flow, target, asked }| {
        assert_eq!(target, TARGET);
        assert!(matches!(asked, Asked::Request(head) if head.method() == "POST"));
        runtime::spawn_local("echo", async move { echo(flow).await.unwrap() });
    });
    for size in [0, 1, 1000, 10_000, 40_000, 100_000, 3_000_000] {
        let body: Vec<u8> = (0..size).map(|n: u32| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
        assert!(ask(&client, &body).await.unwrap() == body, "{size}");
    }
    let many: Vec<Vec<u8>> = (0..200u32).map(|n| vec![n as u8; 997 * n as usize % 70_000]).collect();
    let asked = futures_util::future::join_all(many.iter().map(|body| ask(&client, body))).await;
    assert!(asked.into_iter().map(Result::unwrap).eq(many));
}

#[test]
fn a_stream_that_is_refused_was_not_processed() {
    runtime::block_on(async {
        let (client, server) = pair().await;
        serve(server, |mut accepted| accepted.flow.reset(code::REFUSED));
        assert!(matches!(ask(&client, b"body").await, Err(Error::Refused)));
    })
    .unwrap();
}

/// Who has begun to answer has done something, whatever it says then: asked again, it might do it twice.
#[test]
fn a_refusal_behind_an_answers_head_is_a_reset_and_the_head_is_handed_on() {
    runtime::block_on(async {
        let (client, server) = pair().await;
        let mut statuses = [103, 200].into_iter();
        serve(server, move |mut accepted| {
            let mut head = Head::new();
            head.start_response(statuses.next().unwrap());
            head.set_framing(Framing::Stream);
            accepted.flow.send_response(&head).unwrap();
            accepted.flow.reset(code::REFUSED);
        });
        let mut flow = client.open(TARGET.into()).unwrap();
        flow.send_request(&request("POST", Framing::None)).unwrap();
        let mut head = Head::new();
        let hint = poll_fn(|cx| flow.poll_response(cx, h1::Asked::Other, &mut head)).await;
        assert_eq!((hint.unwrap(), head.status()), (Answered::Interim, 103));
        let fault = poll_fn(|cx| flow.poll_response(cx, h1::Asked::Other, &mut head)).await;
        assert!(matches!(fault, Err(Error::Reset(INTERNAL_ERROR))), "{fault:?}");
        let mut flow = client.open(TARGET.into()).unwrap();
        flow.send_request(&request("POST", Framing::None)).unwrap();
        assert_eq!(answer(&mut flow).await.unwrap(), 200);
        let fault = read(&mut flow).await;
        assert!(matches!(fault, Err(Error::Reset(INTERNAL_ERROR))), "{fault:?}");
    })
    .unwrap();
}

/// More than may be reset at once, by many times: those who stay are none the worse, and the other side is told of each.
#[test]
fn however_many_leave_the_connection_stays_and_each_is_told() {
    const LEAVE: usize = 3 * byrnie_codec::hop::RESETS_BURST as usize;
    runtime::block_on(async {
        let (client, server) = pair().await;
        let gone = std::rc::Rc::new(std::cell::Cell::new(0));
        let count = std::rc::Rc::clone(&gone);
        serve(server, move |Accepted { mut flow, asked, .. }| {
            let count = std::rc::Rc::clone(&count);
            runtime::spawn_local("serve", async move {
                let Asked::Request(head) = asked else { panic!("no request") };
                if head.method() == "POST" {
                    return echo(flow).await.unwrap();
                }
                poll_fn(|cx| flow.poll_gone(cx)).await;
                count.set(count.get() + 1);
            });
        });
        let mut left = 0;
        while left < LEAVE {
            // Until no place is left.
            while left < LEAVE
                && let Ok(mut flow) = client.open(TARGET.into())
            {
                flow.send_request(&request("GET", Framing::None)).unwrap();
                left += 1;
            }
            if !client.is_full() {
                assert_eq!(ask(&client, b"body").await.unwrap(), b"body");
            }
            tokio::task::yield_now().await;
        }
        while gone.get() < LEAVE {
            tokio::task::yield_now().await;
        }
        assert_eq!(ask(&client, b"body").await.unwrap(), b"body");
    })
    .unwrap();
}

/// A malformed answer wouldn't be better for being asked for again, as one that broke off may be; a code of times to come says neither.
#[test]
fn an_answer_that_is_malformed_is_told_from_one_that_broke_off() {
    runtime::block_on(async {
        let (client, server) = pair().await;
        let mut codes = [code::MALFORMED, code::BROKEN, code::MALFORMED + 1].into_iter();
        serve(server, move |mut accepted| {
            let mut head = Head::new();
            head.start_response(200);
            head.set_framing(Framing::Stream);
            accepted.flow.send_response(&head).unwrap();
            accepted.flow.reset(codes.next().unwrap());
        });
        let flaws = [ask(&client, b"").await, ask(&client, b"").await, ask(&client, b"").await];
        assert_eq!(flaws.map(|error| error.unwrap_err().flaw().is_some()), [true, false, false]);
    })
    .unwrap();
}

#[test]
fn a_connection_that_breaks_tells_what_may_have_been_processed() {
    runtime::block_on(async {
        let (near, far) = sockets().await;
        let client = connect(near, Limits::default());
        let mut unsent = client.open(TARGET.into()).unwrap();
        let mut sent = client.open(TARGET.into()).unwrap();
        sent.send_request(&request("POST", Framing::Length(0))).unwrap();
        let mut seen = [0; 8];
        let Stream::Plain(mut far) = far else { panic!("plain") };
        tokio::io::AsyncReadExt::read_exact(&mut far, &mut seen).await.unwrap();
        drop(far);
        assert!(matches!(answer(&mut sent).await, Err(Error::Closed)));
        assert!(sent.has_sent());
        assert!(unsent.send_request(&request("POST", Framing::Length(0))).is_err());
        assert!(!unsent.has_sent() && client.is_ended());
        assert!(matches!(client.open(TARGET.into()), Err(Error::Refused)));
    })
    .unwrap();
}

#[test]
fn giving_up_reaches_the_other_side() {
    runtime::block_on(async {
        let (client, server) = pair().await;
        let (gone, mut told) = tokio::sync::mpsc::unbounded_channel();
        serve(server, move |mut accepted| {
            let gone = gone.clone();
            runtime::spawn_local("watch", async move {
                gone.send("begun").unwrap();
                poll_fn(|cx| accepted.flow.poll_gone(cx)).await;
                gone.send("gone").unwrap();
            });
        });
        let mut flow = client.open(TARGET.into()).unwrap();
        flow.send_request(&request("GET", Framing::None)).unwrap();
        assert_eq!(told.recv().await, Some("begun"));
        drop(flow);
        assert_eq!(told.recv().await, Some("gone"));
    })
    .unwrap();
}

#[test]
fn a_goodbye_lets_streams_end_and_no_more_begin() {
    runtime::block_on(async {
        let (client, mut server) = pair().await;
        let mut flow = client.open(TARGET.into()).unwrap();
        flow.send_request(&request("GET", Framing::None)).unwrap();
        let accepted = poll_fn(|cx| server.poll_accept(cx)).await.unwrap();
        server.say_goodbye();
        let ended = runtime::spawn_local("server", async move {
            assert!(poll_fn(|cx| server.poll_accept(cx)).await.is_none());
        });
        while !client.is_ended() {
            tokio::task::yield_now().await;
        }
        assert!(client.open(TARGET.into()).is_err());
        echo(accepted.flow).await.unwrap();
        assert_eq!(answer(&mut flow).await.unwrap(), 200);
        drop(flow);
        ended.ended().await;
    })
    .unwrap();
}

#[test]
fn who_does_not_read_holds_up_its_own_stream_alone() {
    runtime::block_on(async {
        let (client, server) = pair().await;
        serve(server, |Accepted { flow, asked, .. }| {
            runtime::spawn_local("serve", async move {
                let Asked::Request(head) = asked else { panic!("no request") };
                if head.path() == "/" {
                    return echo(flow).await.unwrap();
                }
                let mut head = Head::new();
                head.start_response(200);
                head.set_framing(Framing::Stream);
                let mut wire = Wire::Hop(flow);
                wire.send_response(&head).unwrap();
                // Without end, as far as it's let.
                loop {
                    let piece = [7; 16 * 1024];
                    if poll_fn(|cx| Poll::Ready(wire.push(cx, Chunk::Slice(&piece)))).await.is_err()
                        || poll_fn(|cx| wire.poll_flush(cx)).await.is_err()
                    {
                        return;
                    }
                }
            });
        });
        let mut slow = client.open(TARGET.into()).unwrap();
        let mut endless = request("GET", Framing::None);
        endless.set_path_and_query("/endless").unwrap();
        slow.send_request(&endless).unwrap();
        assert_eq!(answer(&mut slow).await.unwrap(), 200);
        let body = vec![1; 100_000];
        for _ in 0..50 {
            assert!(ask(&client, &body).await.unwrap() == body);
        }
        let held = slow.link.0.borrow_mut().lanes.get(slow.key).unwrap().unread().len();
        assert!(held <= STREAM_CREDIT_BYTES as usize + byrnie_codec::hop::FRAME_BYTES_MAX, "{held} bytes are kept");
        // Once it reads, it gets more.
        let mut read = 0;
        while read < 2 * CONNECTION_CREDIT_BYTES as usize {
            let piece = poll_fn(|cx| {
                slow.poll_body(cx, &mut |_, chunk| {
                    read += chunk.as_slice().len();
                    Ok(())
                })
            });
            assert!(matches!(piece.await.unwrap(), Progress::More));
        }
    })
    .unwrap();
}

#[test]
fn a_peer_that_breaks_the_rules_loses_its_connection_and_nothing_else() {
    runtime::block_on(async {
        for bytes in [
            &[0xff; 64][..],
            b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
            &[1, 0, 0, 0, 5, 0, 0, 1, b'h', b'e', b'l', b'l', b'o'],
            &[0; 8],
        ] {
            let (near, far) = sockets().await;
            let mut server = Server::new(far, Limits::default());
            let Stream::Plain(mut near) = near else { panic!("plain") };
            tokio::io::AsyncWriteExt::write_all(&mut near, bytes).await.unwrap();
            assert!(poll_fn(|cx| server.poll_accept(cx)).await.is_none(), "{bytes:?}");
        }
    })
    .unwrap();
}

/// Each of its streams is refused, which makes a frame that it never reads.
#[test]
fn who_asks_and_never_reads_is_no_longer_listened_to() {
    use byrnie_codec::hop::{Frame, Kind, STREAMS_MAX, StreamId, emit_preamble};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    const ASKED: usize = 400 * STREAMS_MAX as usize;
    runtime::block_on(async {
        // Sockets that hold little.
        let listener = tokio::net::TcpSocket::new_v4().unwrap();
        listener.set_send_buffer_size(16 * 1024).unwrap();
        listener.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = listener.listen(1).unwrap();
        let near = tokio::net::TcpSocket::new_v4().unwrap();
        near.set_recv_buffer_size(16 * 1024).unwrap();
        let near = near.connect(listener.local_addr().unwrap()).await.unwrap();
        let mut server = Server::new(listener.accept().await.unwrap().0.into(), Limits::default());
        let link = std::rc::Rc::clone(&server.link);
        let refused = std::rc::Rc::new(std::cell::Cell::new(0));
        let count = std::rc::Rc::clone(&refused);
        runtime::spawn_local("server", async move {
            while let Some(mut accepted) = poll_fn(|cx| server.poll_accept(cx)).await {
                accepted.flow.reset(code::REFUSED);
                count.set(count.get() + 1);
            }
        });
        let (mut read, mut write) = near.into_split();
        runtime::spawn_local("asks", async move {
            let mut payload = Vec::new();
            emit_preamble(Asks::Bytes, TARGET, &mut payload);
            // So long that a place isn't used again within what is read at once.
            payload.resize(1024, 0);
            let mut id = StreamId::new(0, 0);
            for n in 0..ASKED as u32 {
                let (slot, round) = (n % STREAMS_MAX + 1, n / STREAMS_MAX + 1);
                id = StreamId::new(slot, round as u16);
                let open = Frame::new(id, Kind::Open, payload.len() as u32);
                write.write_all(&[&open.to_bytes()[..], &payload].concat()).await.unwrap();
            }
            assert_eq!(id.slot(), STREAMS_MAX);
            std::future::pending::<()>().await;
        });
        let waiting = || link.0.borrow().writer.waiting().len();
        while waiting() <= SERVER_WAITING_BYTES_MAX {
            tokio::task::yield_now().await;
        }
        let before = refused.get();
        for _ in 0..10_000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(refused.get(), before, "nothing more is read");
        assert!(before < ASKED && waiting() < SERVER_WAITING_BYTES_MAX + 2 * TURN_BYTES_MAX, "{} wait", waiting());
        // Once it reads, it's served.
        let mut sink = vec![0; 64 * 1024];
        while refused.get() < ASKED || waiting() > 0 {
            assert!(read.read(&mut sink).await.unwrap() > 0);
        }
    })
    .unwrap();
}

#[test]
fn bytes_pass_both_ways_with_half_close() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    runtime::block_on(async {
        let (client, server) = pair().await;
        serve(server, |Accepted { mut flow, asked, .. }| {
            assert!(matches!(asked, Asked::Bytes));
            runtime::spawn_local("bytes", async move {
                flow.agree().unwrap();
                let mut all = Vec::new();
                flow.read_to_end(&mut all).await.unwrap();
                flow.write_all(format!("{} bytes", all.len()).as_bytes()).await.unwrap();
                flow.shutdown().await.unwrap();
            });
        });
        let mut flow = client.open(TARGET.into()).unwrap();
        flow.ask_for(Asks::Bytes).unwrap();
        poll_fn(|cx| flow.poll_agreed(cx)).await.unwrap();
        flow.write_all(&vec![7; 5_000_000]).await.unwrap();
        flow.shutdown().await.unwrap();
        let mut said = String::new();
        flow.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "5000000 bytes");
    })
    .unwrap();
}
