// SPDX-License-Identifier: Apache-2.0
//! Handshakes over real sockets on loopback.

use super::ca::{Authority, Name};
use super::*;
use crate::io::{Stream, TcpStream};
use crate::runtime::block_on;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn identity(service_account: &str) -> Identity {
    Identity::new("mesh.local", "default", service_account).unwrap()
}

pub(crate) fn now() -> Timestamp {
    crate::runtime::now().wall
}

pub(crate) fn authority() -> Authority {
    Authority::create("mesh.local", now()).unwrap()
}

pub(crate) fn credentials(authority: &Authority, identity: &Identity, lifetime: Duration) -> Credentials {
    let key = Key::generate().unwrap();
    let names = [Name::Dns("localhost".into()), Name::Ip([127, 0, 0, 1].into())];
    let chain = authority.sign(&csr(&key, identity).unwrap(), identity, lifetime, &names, now()).unwrap();
    Credentials::new(&chain, key, authority.roots().unwrap(), now()).unwrap()
}

type Side = Result<(Stream, Peer), Error>;

/// One handshake; the client expects `expected`.
async fn shake(server: &ServerTls, client: &ClientTls, expected: &Identity, alpn: &[&[u8]]) -> (Side, Side) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = async { accept(listener.accept().await.unwrap().0, server).await };
    let connecting = async {
        let tcp = TcpStream::connect(address).await.unwrap();
        let mut opened = connect(tcp, client, expected, "80.web.default.mesh", alpn).await;
        // A client is done before the server has judged its certificate: only a byte shows the verdict.
        if let Ok((stream, _)) = &mut opened {
            let mut byte = [0];
            if let Err(error) = stream.read_exact(&mut byte).await {
                opened = Err(Error::from_handshake(error));
            }
        }
        opened
    };
    let answering = async {
        let mut accepted = accepting.await;
        if let Ok((stream, _)) = &mut accepted {
            stream.write_all(b"x").await.unwrap();
            stream.flush().await.unwrap();
        }
        accepted
    };
    tokio::time::timeout(Duration::from_secs(20), async { tokio::join!(answering, connecting) }).await.unwrap()
}

#[test]
fn both_sides_learn_who_the_other_is() {
    let authority = authority();
    let (web, cart) = (identity("web"), identity("cart"));
    let server = server(&credentials(&authority, &web, HOUR), &[ALPN_H2, ALPN_HTTP1]).unwrap();
    let client = client(&credentials(&authority, &cart, HOUR)).unwrap();
    let (accepted, connected) = block_on(shake(&server, &client, &web, &[ALPN_HTTP1, ALPN_H2])).unwrap();
    let ((accepted, of_client), (connected, of_server)) = (accepted.unwrap(), connected.unwrap());
    assert_eq!((of_client.identity.as_ref(), of_server.identity.as_ref()), (Some(&cart), Some(&web)));
    assert_eq!(of_client.sni.as_deref(), Some("80.web.default.mesh"));
    assert_eq!((of_client.alpn.as_deref(), of_server.alpn.as_deref()), (Some(ALPN_H2), Some(ALPN_H2)));
    assert!(of_client.not_after.unwrap() > now() && of_server.not_after.unwrap() > now());
    for stream in [accepted, connected] {
        let Stream::Tls(tls) = stream else { panic!("plain") };
        let session = facts(tls.session().get_ref().1);
        assert_eq!(session, ("TLSv1_3".into(), "X25519MLKEM768".into(), "TLS13_AES_128_GCM_SHA256".into()));
    }
}

/// What two sides agreed on.
fn facts(state: &rustls::CommonState) -> (String, String, String) {
    (
        format!("{:?}", state.protocol_version().unwrap()),
        format!("{:?}", state.negotiated_key_exchange_group().unwrap().name()),
        format!("{:?}", state.negotiated_cipher_suite().unwrap().suite()),
    )
}

#[test]
fn a_client_refuses_a_server_of_another_identity() {
    let authority = authority();
    let (web, cart) = (identity("web"), identity("cart"));
    let server = server(&credentials(&authority, &cart, HOUR), &[]).unwrap();
    let client = client(&credentials(&authority, &cart, HOUR)).unwrap();
    let (accepted, connected) = block_on(shake(&server, &client, &web, &[])).unwrap();
    assert_eq!(connected.unwrap_err().refusal(), Some(&Refusal::Identity { expected: web, found: cart }));
    assert!(accepted.is_err());
}

#[test]
fn neither_side_accepts_a_certificate_of_another_authority() {
    let (ours, theirs) = (authority(), authority());
    let (web, cart) = (identity("web"), identity("cart"));
    for (of_server, of_client) in [(&ours, &theirs), (&theirs, &ours)] {
        let server = server(&credentials(of_server, &web, HOUR), &[]).unwrap();
        let client = client(&credentials(of_client, &cart, HOUR)).unwrap();
        let (accepted, connected) = block_on(shake(&server, &client, &web, &[])).unwrap();
        assert_eq!(connected.unwrap_err().refusal(), Some(&Refusal::UnknownIssuer));
        assert!(accepted.is_err());
    }
}

#[test]
fn a_server_refuses_a_client_it_has_no_root_for() {
    let (ours, theirs) = (authority(), authority());
    let (web, cart) = (identity("web"), identity("cart"));
    let server = server(&credentials(&ours, &web, HOUR), &[]).unwrap();
    let mut stranger = client(&credentials(&theirs, &cart, HOUR)).unwrap();
    stranger.roots = ours.roots().unwrap();
    let (accepted, connected) = block_on(shake(&server, &stranger, &web, &[])).unwrap();
    assert_eq!(accepted.unwrap_err().refusal(), Some(&Refusal::UnknownIssuer));
    assert!(connected.is_err());
}

#[test]
fn a_client_without_certificate_is_accepted_only_where_one_is_optional() {
    let authority = authority();
    let web = identity("web");
    let own = credentials(&authority, &web, HOUR);
    let nobody = client_without_certificate(&authority.roots().unwrap());
    let strict = server(&own, &[]).unwrap();
    let (accepted, connected) = block_on(shake(&strict, &nobody, &web, &[])).unwrap();
    assert_eq!(accepted.unwrap_err().refusal(), Some(&Refusal::NoCertificate));
    assert!(connected.is_err());
    let open = server_optional_client(&own, &[]).unwrap();
    let (accepted, connected) = block_on(shake(&open, &nobody, &web, &[])).unwrap();
    assert_eq!(accepted.unwrap().1.identity, None);
    assert_eq!(connected.unwrap().1.identity, Some(web));
}

#[test]
fn no_protocol_in_common_is_no_connection() {
    let authority = authority();
    let web = identity("web");
    let own = credentials(&authority, &web, HOUR);
    let (server_tls, client_tls) = (server(&own, &[ALPN_H2]).unwrap(), client(&own).unwrap());
    let (accepted, connected) = block_on(shake(&server_tls, &client_tls, &web, &[ALPN_TCP])).unwrap();
    assert!(accepted.is_err() && connected.is_err());
    // A server that ignores ALPN is refused by a client that needs it.
    let silent = server(&own, &[]).unwrap();
    let (_, connected) = block_on(shake(&silent, &client_tls, &web, &[ALPN_H2])).unwrap();
    assert!(connected.is_err());
}

#[test]
fn a_second_connection_is_a_full_handshake_too() {
    let authority = authority();
    let web = identity("web");
    let own = credentials(&authority, &web, HOUR);
    let (server, client) = (server(&own, &[]).unwrap(), client(&own).unwrap());
    for _ in 0..3 {
        let (accepted, _) = block_on(shake(&server, &client, &web, &[])).unwrap();
        let Stream::Tls(tls) = accepted.unwrap().0 else { panic!("plain") };
        assert_ne!(tls.session().get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Resumed));
    }
}

#[test]
fn a_peer_that_says_nothing_is_dropped_in_time() {
    let authority = authority();
    let tls = server(&credentials(&authority, &identity("web"), HOUR), &[]).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (tcp, _) = listener.accept().await.unwrap();
        let started = now();
        let refused = tokio::time::timeout(HANDSHAKE_TIMEOUT * 3, accept(tcp, &tls)).await.unwrap();
        assert!(matches!(refused, Err(Error::Timeout)), "{refused:?}");
        assert!(now().as_millis() - started.as_millis() >= 4_900);
    });
}

#[test]
fn bytes_that_are_no_tls_are_refused() {
    let authority = authority();
    let tls = server(&credentials(&authority, &identity("web"), HOUR), &[]).unwrap();
    block_on(async {
        for garbage in [&b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..], &[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0], &[0xff; 64]] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            tcp.write_all(garbage).await.unwrap();
            tcp.shutdown().await.unwrap();
            let (accepted, _) = listener.accept().await.unwrap();
            assert!(accept(accepted, &tls).await.is_err());
        }
    })
    .unwrap();
}

/// A connection of two ends, of which the client's ends with a certificate as given once it stands.
pub(crate) async fn ending(not_after: impl FnOnce() -> Timestamp) -> (Stream, Stream) {
    let authority = authority();
    let web = identity("web");
    let own = credentials(&authority, &web, HOUR);
    let (accepted, connected) = shake(&server(&own, &[]).unwrap(), &client(&own).unwrap(), &web, &[]).await;
    let Stream::Tls(tls) = connected.unwrap().0 else { panic!("plain") };
    (accepted.unwrap().0, Stream::Tls(Box::new(crate::io::Tls::new(tls.into_session(), Some(not_after())))))
}

#[test]
fn what_is_under_way_ends_some_time_after_the_certificate() {
    let grace = crate::io::EXPIRY_GRACE;
    block_on(async {
        // It has ended, but not for long: who waits is woken, who only sends is told at the next write.
        let soon = || {
            let closes = now().as_millis() + 1_000;
            Timestamp::from_millis(closes.saturating_sub(u64::try_from(grace.as_millis()).unwrap()))
        };
        let (mut server, mut client) = ending(soon).await;
        client.write_all(b"still").await.unwrap();
        client.flush().await.unwrap();
        let mut bytes = [0; 5];
        server.read_exact(&mut bytes).await.unwrap();
        let read = tokio::time::timeout(Duration::from_secs(10), client.read(&mut bytes)).await.unwrap();
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert_eq!(client.write(b"more").await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        let (mut server, mut client) = ending(|| now() + HOUR).await;
        server.write_all(b"hello").await.unwrap();
        server.flush().await.unwrap();
        client.read_exact(&mut bytes).await.unwrap();
        let waits = tokio::time::timeout(Duration::from_millis(100), client.read(&mut bytes)).await;
        assert!(waits.is_err(), "a certificate that holds ends nothing");
    })
    .unwrap();
}

#[test]
fn expiry_is_awaited_and_noticed() {
    block_on(async {
        let gone = Peer { not_after: Some(Timestamp::from_millis(1)), ..Peer::default() };
        tokio::time::timeout(Duration::from_secs(5), gone.expired()).await.unwrap();
        let soon = Peer { not_after: Some(now() + Duration::from_millis(50)), ..Peer::default() };
        tokio::time::timeout(Duration::from_secs(5), soon.expired()).await.unwrap();
        assert!(now() > soon.not_after.unwrap());
    })
    .unwrap();
}

#[test]
fn a_bundle_must_hold_authorities() {
    let authority = authority();
    let leaf = credentials(&authority, &identity("web"), HOUR).chain_pem();
    assert!(Roots::from_pem(&authority.roots_pem(), "mesh.local").is_ok());
    assert!(Roots::from_pem(&authority.roots_pem(), "Mesh.Local").is_err());
    for bad in [leaf.as_str(), "", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        assert!(Roots::from_pem(bad, "mesh.local").is_err(), "{bad:?}");
    }
    let many = authority.roots_pem().repeat(ROOTS_MAX + 1);
    assert!(matches!(Roots::from_pem(&many, "mesh.local"), Err(Error::Amount(_))));
}

#[test]
fn credentials_must_be_valid_and_belong_to_their_key() {
    let authority = authority();
    let web = identity("web");
    let key = Key::generate().unwrap();
    let chain = authority.sign(&csr(&key, &web).unwrap(), &web, HOUR, &[], now()).unwrap();
    let roots = authority.roots().unwrap();
    let made = Credentials::new(&chain, key.clone(), roots.clone(), now()).unwrap();
    assert_eq!((made.identity(), &**made.trust_domain()), (&web, "mesh.local"));
    let other_key = Credentials::new(&chain, Key::generate().unwrap(), roots.clone(), now());
    assert!(matches!(other_key, Err(Error::KeyMismatch)));
    let late = Credentials::new(&chain, key.clone(), roots, now() + HOUR * 2);
    assert_eq!(late.unwrap_err().refusal(), Some(&Refusal::Expired));
    let elsewhere =
        Credentials::new(&chain, key, Roots::from_pem(&authority.roots_pem(), "demo.local").unwrap(), now());
    assert_eq!(elsewhere.unwrap_err().refusal(), Some(&Refusal::TrustDomain("mesh.local".into())));
}

#[test]
fn a_renewal_shows_the_new_certificate_and_trusts_the_new_roots_at_once() {
    let (old, new) = (authority(), authority());
    let web = identity("web");
    let tls = server(&credentials(&old, &web, HOUR), &[]).unwrap();
    let clone = tls.clone();
    let newer = credentials(&new, &web, HOUR);
    tls.renew(&server(&newer, &[]).unwrap());
    let (accepted, connected) = block_on(shake(&clone, &client(&newer).unwrap(), &web, &[])).unwrap();
    assert!(accepted.is_ok() && connected.is_ok());
    let stale = client(&credentials(&old, &identity("cart"), HOUR)).unwrap();
    let (accepted, connected) = block_on(shake(&clone, &stale, &web, &[])).unwrap();
    assert!(accepted.is_err() && connected.is_err());
}

#[test]
fn large_reads_take_every_byte_and_see_how_the_connection_ends() {
    async fn read(mut stream: Stream) -> Result<Vec<u8>, std::io::ErrorKind> {
        let (mut all, mut reads) = (Vec::new(), 0);
        let mut room = vec![0; 2 * super::session::ROOM_BYTES_MIN];
        loop {
            // Small reads in between must take up where large ones ended.
            let most = if reads % 3 == 2 { 1000 } else { room.len() };
            reads += 1;
            match stream.read(&mut room[..most]).await.map_err(|error| error.kind())? {
                0 => return Ok(all),
                read => all.extend_from_slice(&room[..read]),
            }
        }
    }
    let authority = authority();
    let (web, cart) = (identity("web"), identity("cart"));
    let server = server(&credentials(&authority, &web, HOUR), &[]).unwrap();
    let client = client(&credentials(&authority, &cart, HOUR)).unwrap();
    let sent: Vec<u8> = (0..3_000_000u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    for in_order in [true, false] {
        let read = block_on(async {
            let (accepted, connected) = shake(&server, &client, &web, &[]).await;
            let (near, mut far) = (accepted.unwrap().0, connected.unwrap().0);
            let writing = async {
                for piece in sent.chunks(70_001) {
                    far.write_all(piece).await.unwrap();
                }
                far.flush().await.unwrap();
                if in_order {
                    far.shutdown().await.unwrap();
                }
                drop(far);
            };
            tokio::join!(read(near), writing).0
        });
        match read.unwrap() {
            Ok(all) => assert!(in_order && all == sent),
            // Without a word of farewell, somebody may have cut it.
            Err(kind) => assert!(!in_order && kind == std::io::ErrorKind::UnexpectedEof, "{kind}"),
        }
    }
}

/// Or the next request on a pooled connection would be answered by what was never asked for.
#[test]
fn a_connection_of_whose_record_something_is_left_is_not_at_rest() {
    let authority = authority();
    let (web, cart) = (identity("web"), identity("cart"));
    let server = server(&credentials(&authority, &web, HOUR), &[]).unwrap();
    let client = client(&credentials(&authority, &cart, HOUR)).unwrap();
    block_on(async {
        let (accepted, connected) = shake(&server, &client, &web, &[]).await;
        let (mut near, mut far) = (accepted.unwrap().0, connected.unwrap().0);
        far.write_all(&[7; 100]).await.unwrap();
        far.flush().await.unwrap();
        let mut room = [0; 60];
        near.read_exact(&mut room).await.unwrap();
        assert!(!near.is_at_rest());
        near.read_exact(&mut room[..40]).await.unwrap();
        let more = std::future::poll_fn(|cx| {
            std::task::Poll::Ready(std::pin::pin!(near.read(&mut room)).as_mut().poll(cx).is_ready())
        });
        assert!(!more.await && near.is_at_rest());
    })
    .unwrap();
}

#[test]
fn what_follows_a_farewell_is_passed_over() {
    let authority = authority();
    let (web, cart) = (identity("web"), identity("cart"));
    let server = server(&credentials(&authority, &web, HOUR), &[]).unwrap();
    let client = client(&credentials(&authority, &cart, HOUR)).unwrap();
    let read = block_on(async {
        let (accepted, connected) = shake(&server, &client, &web, &[]).await;
        let (mut near, far) = (accepted.unwrap().0, connected.unwrap().0);
        let Stream::Tls(far) = far else { panic!("in clear") };
        let tokio_rustls::TlsStream::Client(mut far) = far.into_session() else { panic!("accepted") };
        let (socket, session) = far.get_mut();
        session.send_close_notify();
        let mut sent = Vec::new();
        session.write_tls(&mut sent).unwrap();
        sent.resize(sent.len() + 16 * 1024, 0);
        socket.write_all(&sent).await.unwrap();
        let mut room = vec![0; super::session::ROOM_BYTES_MIN];
        crate::runtime::timeout(HANDSHAKE_TIMEOUT, near.read(&mut room)).await
    });
    assert_eq!(read.unwrap().unwrap().unwrap(), 0);
}

#[test]
fn callers_that_stall_keep_nobody_else_waiting() {
    let authority = authority();
    let (web, cart) = (identity("web"), identity("cart"));
    let server = server(&credentials(&authority, &web, HOUR), &[ALPN_H2]).unwrap();
    let client = client(&credentials(&authority, &cart, HOUR)).unwrap();
    block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut stalled = Vec::new();
        for n in 0..HANDSHAKES_MAX + 16 {
            let mut tcp = TcpStream::connect(address).await.unwrap();
            // Some say nothing at all, some begin.
            if n % 2 == 0 {
                tcp.write_all(&[0x16, 3, 1]).await.unwrap();
            }
            stalled.push(tcp);
            let (accepted, server) = (listener.accept().await.unwrap().0, server.clone());
            crate::runtime::spawn_local("stalled", async move { drop(accept(accepted, &server).await) });
        }
        let (accepted, connected) = shake(&server, &client, &web, &[ALPN_H2]).await;
        assert!(accepted.is_ok() && connected.is_ok());
        for tcp in &stalled {
            let mut byte = [0];
            let read = tcp.try_read(&mut byte);
            assert!(read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock), "they were not waited for");
        }
    })
    .unwrap();
}

#[test]
fn authorities_of_other_domains_vouch_for_their_own_and_for_nobody_else() {
    block_on(async {
        let of = |domain: &str, account: &str| Identity::new(domain, "default", account).unwrap();
        let (home, far) =
            (Authority::create("west.test", now()).unwrap(), Authority::create("east.test", now()).unwrap());
        let (web, pay) = (of("west.test", "web"), of("east.test", "pay"));
        let (near, away) = (credentials(&home, &web, HOUR), credentials(&far, &pay, HOUR));
        let (west, east) = (home.roots().unwrap(), far.roots().unwrap());
        let alpn: &[&[u8]] = &[ALPN_HOP];
        let among = |credentials, foreign: &[Roots]| {
            (server_among(credentials, foreign, alpn).unwrap(), client_among(credentials, foreign).unwrap())
        };
        let (_, caller) = among(&near, std::slice::from_ref(&east));
        let (callee, _) = among(&away, std::slice::from_ref(&west));
        let (accepted, opened) = shake(&callee, &caller, &pay, alpn).await;
        assert_eq!(accepted.unwrap().1.identity, Some(web.clone()));
        assert_eq!(opened.unwrap().1.identity, Some(pay.clone()));
        // The same names in the own domain are somebody else.
        let (_, opened) = shake(&callee, &caller, &of("west.test", "pay"), alpn).await;
        assert!(matches!(opened.unwrap_err().refusal(), Some(Refusal::Identity { .. } | Refusal::UnknownIssuer)));
        // Nobody is believed of whom nobody was told; nor is one whose authority was replaced.
        let (unaware, _) = among(&away, &[]);
        let (accepted, _) = shake(&unaware, &caller, &pay, alpn).await;
        assert!(accepted.unwrap_err().refusal().is_some());
        let renewed = Authority::create("west.test", now()).unwrap().roots().unwrap();
        let (moved, _) = among(&away, std::slice::from_ref(&renewed));
        let (accepted, _) = shake(&moved, &caller, &pay, alpn).await;
        assert_eq!(accepted.unwrap_err().refusal(), Some(&Refusal::UnknownIssuer));
        callee.renew(&moved);
        let (accepted, _) = shake(&callee, &caller, &pay, alpn).await;
        assert_eq!(accepted.unwrap_err().refusal(), Some(&Refusal::UnknownIssuer));
    })
    .unwrap();
}
