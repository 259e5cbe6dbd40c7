// SPDX-License-Identifier: Apache-2.0
//! Calls over real sockets and real certificates on loopback.

use super::*;
use crate::listen::{Share, bind};
use crate::runtime::{Trigger, block_on, panics, shutdown, spawn, timeout};
use crate::tls::ca::Authority;
use crate::tls::tests::{HOUR, authority, credentials, identity};
use crate::tls::{self, ClientTls};
use byrnie_model::Identity;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const LIMIT: Duration = Duration::from_secs(20);

/// Answers with what it was asked; counts its open streams.
#[derive(Default)]
struct Echo {
    open: Arc<AtomicUsize>,
}

struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Service for Echo {
    fn shape(&self, path: &str) -> Option<Shape> {
        match path {
            "/t.T/Stream" | "/t.T/Refuse" | "/t.T/Silent" => Some(Shape::Stream),
            "/t.T/Unary" | "/t.T/Who" | "/t.T/Panic" | "/t.T/Deny" => Some(Shape::Unary),
            _ => None,
        }
    }

    fn unary(&self, call: Call, message: Bytes) -> BoxFuture<'static, Result<Bytes, Status>> {
        Box::pin(async move {
            match call.path.as_str() {
                "/t.T/Who" => Ok(format!("{:?} {:?}", call.peer.identity, call.token).into()),
                "/t.T/Panic" => panic!("on purpose"),
                "/t.T/Deny" => Err(Status::permission_denied("not you")),
                _ => Ok(message),
            }
        })
    }

    fn stream(
        &self,
        call: Call,
        mut incoming: Incoming,
        outgoing: mpsc::Sender<Bytes>,
    ) -> BoxFuture<'static, Result<(), Status>> {
        self.open.fetch_add(1, Ordering::SeqCst);
        let open = Open(Arc::clone(&self.open));
        Box::pin(async move {
            let _open = open;
            match call.path.as_str() {
                "/t.T/Refuse" => return Err(Status::resource_exhausted("enough")),
                "/t.T/Silent" => std::future::pending::<()>().await,
                _ => {}
            }
            while let Some(message) = incoming.next().await? {
                if outgoing.send(message).await.is_err() {
                    break;
                }
            }
            Ok(())
        })
    }
}

struct World {
    authority: Authority,
    control: Identity,
    address: SocketAddr,
    trigger: Trigger,
    open: Arc<AtomicUsize>,
    server: crate::runtime::Task,
}

fn start() -> World {
    let authority = authority();
    let control = Identity::new("mesh.local", "byrnie", "control").unwrap();
    let tls = tls::server_optional_client(&credentials(&authority, &control, HOUR), &[tls::ALPN_H2]).unwrap();
    let listener = bind("127.0.0.1:0".parse().unwrap(), Share::Alone).unwrap();
    let address = listener.local_addr();
    let (trigger, shutdown) = shutdown();
    let service = Echo::default();
    let open = Arc::clone(&service.open);
    let server = spawn("server", serve(listener, tls, Arc::new(service), shutdown));
    World { authority, control, address, trigger, open, server }
}

impl World {
    fn as_web(&self) -> ClientTls {
        tls::client(&credentials(&self.authority, &identity("web"), HOUR)).unwrap()
    }

    async fn channel(&self) -> Channel {
        Channel::connect(self.address, &self.as_web(), &self.control, None).await.unwrap()
    }
}

fn run<F: Future>(test: F) -> F::Output {
    block_on(async { timeout(LIMIT, test).await.unwrap() }).unwrap()
}

/// Waits until `done`, giving other tasks their turn.
async fn until(done: impl Fn() -> bool) {
    while !done() {
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_unary_call_is_answered_or_refused_with_its_status() {
    run(async {
        let world = start();
        let channel = world.channel().await;
        assert_eq!(channel.unary("/t.T/Unary", Bytes::from_static(b"hello")).await.unwrap(), "hello");
        assert_eq!(channel.unary("/t.T/Unary", Bytes::new()).await.unwrap(), "");
        let code = async |path| channel.unary(path, Bytes::new()).await.unwrap_err().code();
        assert_eq!(code("/t.T/Deny").await, Code::PermissionDenied);
        assert_eq!(code("/t.T/None").await, Code::Unimplemented);
        let counted = panics();
        assert_eq!(code("/t.T/Panic").await, Code::Internal);
        assert!(panics() > counted);
        assert_eq!(channel.unary("/t.T/Unary", Bytes::from_static(b"on")).await.unwrap(), "on");
    });
}

#[test]
fn the_service_knows_who_calls() {
    run(async {
        let world = start();
        let who = async |tls: &ClientTls, token| {
            let channel = Channel::connect(world.address, tls, &world.control, token).await.unwrap();
            channel.unary("/t.T/Who", Bytes::new()).await.unwrap()
        };
        let web = "Some(spiffe://mesh.local/ns/default/sa/web) None";
        assert_eq!(who(&world.as_web(), None).await, web);
        let nobody = tls::client_without_certificate(&world.authority.roots().unwrap());
        assert_eq!(who(&nobody, Some("s3cret")).await, "None Some(\"s3cret\")");
        let bad = Channel::connect(world.address, &nobody, &world.control, Some("line\nbreak")).await;
        assert!(matches!(bad, Err(ConnectError::Token)));
    });
}

#[test]
fn a_server_of_another_identity_is_refused() {
    run(async {
        let world = start();
        let refused = Channel::connect(world.address, &world.as_web(), &identity("web"), None).await;
        assert!(matches!(refused, Err(ConnectError::Tls { error: tls::Error::Refused(_), .. })), "{refused:?}");
        let stranger = tls::client_without_certificate(&authority().roots().unwrap());
        let refused = Channel::connect(world.address, &stranger, &world.control, None).await;
        assert!(matches!(refused, Err(ConnectError::Tls { error: tls::Error::Refused(_), .. })), "{refused:?}");
    });
}

#[test]
fn a_stream_carries_messages_both_ways_and_ends_well() {
    run(async {
        let world = start();
        let channel = world.channel().await;
        let (sender, mut incoming) = channel.open("/t.T/Stream").await.unwrap();
        // The stream holds the connection, even when the channel is gone.
        drop(channel);
        for at in 0..100_u32 {
            let message = Bytes::from(vec![7; at as usize * 1000]);
            sender.send(message.clone()).await.unwrap();
            assert_eq!(incoming.next().await.unwrap(), Some(message));
        }
        drop(sender);
        assert_eq!(incoming.next().await.unwrap(), None);
        until(|| world.open.load(Ordering::SeqCst) == 0).await;
    });
}

#[test]
fn a_stream_ends_with_the_service_s_status() {
    run(async {
        let world = start();
        let channel = world.channel().await;
        let ended = match channel.open("/t.T/Refuse").await {
            Ok((_sender, mut incoming)) => incoming.next().await.unwrap_err(),
            Err(status) => status,
        };
        assert_eq!((ended.code(), ended.message()), (Code::ResourceExhausted, "enough"));
        let missing = channel.open("/t.T/None").await.map(|_| ()).unwrap_err();
        assert_eq!(missing.code(), Code::Unimplemented);
    });
}

#[test]
fn the_service_s_stream_is_dropped_when_the_caller_goes() {
    run(async {
        let world = start();
        let channel = world.channel().await;
        let stream = channel.open("/t.T/Silent").await.unwrap();
        until(|| world.open.load(Ordering::SeqCst) == 1).await;
        drop(stream);
        until(|| world.open.load(Ordering::SeqCst) == 0).await;
        assert_eq!(channel.unary("/t.T/Unary", Bytes::from_static(b"on")).await.unwrap(), "on");
    });
}

#[test]
fn a_message_beyond_the_limit_ends_its_call_alone() {
    run(async {
        let world = start();
        let channel = world.channel().await;
        let fits = Bytes::from(vec![1; MESSAGE_BYTES_MAX]);
        assert_eq!(channel.unary("/t.T/Unary", fits.clone()).await.unwrap().len(), MESSAGE_BYTES_MAX);
        let code = channel.unary("/t.T/Unary", Bytes::from(vec![1; MESSAGE_BYTES_MAX + 1])).await.unwrap_err().code();
        assert_eq!(code, Code::OutOfRange);
        assert_eq!(channel.unary("/t.T/Unary", Bytes::from_static(b"on")).await.unwrap(), "on");
    });
}

#[test]
fn a_shutdown_is_seen_by_callers_at_once() {
    run(async {
        let world = start();
        let channel = world.channel().await;
        let (_sender, mut incoming) = channel.open("/t.T/Silent").await.unwrap();
        let started = crate::runtime::now().mono;
        world.trigger.fire();
        assert!(incoming.next().await.is_err());
        channel.closed().await;
        world.server.ended().await;
        assert!(crate::runtime::now().mono.since(started) < DRAIN_TIMEOUT * 2);
        assert!(channel.is_closed());
        let gone = channel.unary("/t.T/Unary", Bytes::new()).await.unwrap_err();
        assert_eq!(gone.code(), Code::Unavailable);
    });
}

#[test]
fn a_server_that_falls_silent_is_noticed_within_ten_seconds() {
    run(async {
        let world = start();
        // A wire that can be frozen: bytes are taken and no longer passed on.
        let wire = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = wire.local_addr().unwrap();
        let (freeze, frozen) = tokio::sync::watch::channel(false);
        let server = world.address;
        let passing = spawn("wire", async move {
            let (near, _) = wire.accept().await.unwrap();
            let far = TcpStream::connect(server).await.unwrap();
            let ((mut near_read, mut near_write), (mut far_read, mut far_write)) =
                (near.into_split(), far.into_split());
            let pass = async |from: &mut tokio::net::tcp::OwnedReadHalf, to: &mut tokio::net::tcp::OwnedWriteHalf| {
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(length @ 1..) = from.read(&mut buffer).await {
                    if !*frozen.borrow() && to.write_all(&buffer[..length]).await.is_err() {
                        break;
                    }
                }
            };
            tokio::join!(pass(&mut near_read, &mut far_write), pass(&mut far_read, &mut near_write));
        });
        let channel = Channel::connect(address, &world.as_web(), &world.control, None).await.unwrap();
        let (_sender, mut incoming) = channel.open("/t.T/Silent").await.unwrap();
        freeze.send_replace(true);
        let started = crate::runtime::now().mono;
        assert!(incoming.next().await.is_err());
        let noticed = crate::runtime::now().mono.since(started);
        assert!(noticed <= Duration::from_secs(10), "{noticed:?}");
        passing.abort();
    });
}

#[test]
fn a_connection_ends_when_its_certificate_does() {
    run(async {
        let world = start();
        let short = credentials(&world.authority, &identity("web"), Duration::from_secs(5));
        let channel =
            Channel::connect(world.address, &tls::client(&short).unwrap(), &world.control, None).await.unwrap();
        assert_eq!(channel.unary("/t.T/Unary", Bytes::from_static(b"a")).await.unwrap(), "a");
        channel.closed().await;
        assert!(crate::runtime::now().wall > short.not_after());
    });
}

#[test]
fn bytes_that_are_no_grpc_harm_nobody_else() {
    run(async {
        let world = start();
        for garbage in [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], b"\xff\xff\xff\xff"] {
            let tcp = TcpStream::connect(world.address).await.unwrap();
            let opened = tls::connect(tcp, &world.as_web(), &world.control, "x", &[tls::ALPN_H2]).await;
            let (mut stream, _) = opened.unwrap();
            stream.write_all(garbage).await.unwrap();
            stream.flush().await.unwrap();
        }
        let mut plain = TcpStream::connect(world.address).await.unwrap();
        plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        assert_eq!(world.channel().await.unary("/t.T/Unary", Bytes::from_static(b"on")).await.unwrap(), "on");
    });
}

#[test]
fn without_tls_nobody_has_an_identity() {
    run(async {
        let listener = bind("127.0.0.1:0".parse().unwrap(), Share::Alone).unwrap();
        let address = listener.local_addr();
        let (trigger, shutdown) = shutdown();
        let server = spawn("server", serve_plain(listener, Arc::new(Echo::default()), shutdown));
        let channel = Channel::connect_plain(address).await.unwrap();
        assert_eq!(channel.unary("/t.T/Who", Bytes::new()).await.unwrap(), "None None");
        // Neither kind of port takes the other's connections.
        let world = start();
        assert!(Channel::connect(address, &world.as_web(), &world.control, None).await.is_err());
        let plain = Channel::connect_plain(world.address).await;
        if let Ok(plain) = plain {
            assert!(plain.unary("/t.T/Who", Bytes::new()).await.is_err());
        }
        trigger.fire();
        server.ended().await;
    });
}

#[test]
fn a_newcomer_that_calls_nothing_is_let_go_and_others_are_kept() {
    run(async {
        let world = start();
        let nobody = tls::client_without_certificate(&world.authority.roots().unwrap());
        let silent = Channel::connect(world.address, &nobody, &world.control, None).await.unwrap();
        let calling = Channel::connect(world.address, &nobody, &world.control, None).await.unwrap();
        let known = world.channel().await;
        calling.unary("/t.T/Unary", Bytes::new()).await.unwrap();
        silent.closed().await;
        assert!(!calling.is_closed() && !known.is_closed());
        calling.unary("/t.T/Unary", Bytes::new()).await.unwrap();
    });
}
