// SPDX-License-Identifier: Apache-2.0
//! One connection from a caller: finds out what it speaks and serves it until it ends. The protocol of
//! the service decides first; bytes are looked at only where the client must speak first. Called by
//! `worker` for each accepted socket, and again for what a CONNECT opens.

use crate::carry::{Desk, Next, Trip, Tunnel};
use crate::crew::{Crew, Work};
use crate::door::{Caller, Door, Entry, UNKNOWN_PORT};
use crate::gates::Way;
use crate::hop;
use crate::refusal::{self, LINGER_MAX, refuse, refuse_stream, say};
use crate::resting::{Resting, unless_needed};
use crate::running::Closing;
use crate::tunnel;
use crate::undeclared;
use crate::worker::Core;
use byrnie_base::Text;
use byrnie_codec::h1::fit_downstream;
use byrnie_codec::proxy_protocol::Source;
use byrnie_codec::sniff::Sniff;
use byrnie_codec::{Framing, Limits, Reject, RejectReason, Version};
use byrnie_engine::{Opaque, Site};
use byrnie_model::gateway::Port;
use byrnie_model::{Protocol, ServiceRef};
use byrnie_net::balancer;
use byrnie_net::http::h1::{Arrived, Conn};
use byrnie_net::http::h2::{Accepted, REFUSED_STREAM, Sender, Server};
use byrnie_net::http::{self, Alarm, Error, Wire};
use byrnie_net::io::{Stream, TcpStream};
use byrnie_net::relay::{self, Passes};
use byrnie_net::runtime;
use byrnie_net::tls::{self, ALPN_H2, ALPN_HOP, ALPN_HTTP1, ALPN_TCP, ALPN_UDP, Peer};
use std::cell::Cell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

/// How long a client may stay silent between two requests.
pub(crate) const IDLE_MAX: Duration = Duration::from_secs(75);
/// How long the head of a request may take once it has begun, and the first bytes of a connection.
pub(crate) const HEAD_MAX: Duration = Duration::from_secs(15);
/// How long a tunnel may be silent in both directions.
pub(crate) const TUNNEL_IDLE_MAX: Duration = Duration::from_secs(3600);
/// Tasks kept for exchanges to come, per HTTP/2 connection.
const RUNNERS_SPARE_MAX: usize = 32;
/// Streams of a client that hasn't taken an answer yet that begin before all others have their turn: it may have left by then.
const BEGUN_AT_ONCE: usize = 4;
/// What is read and forgotten after the last answer, so that the client sees it before a reset.
const LINGER_BYTES_MAX: usize = 1024 * 1024;

/// Serves a connection to its end.
pub(crate) async fn serve(core: &Rc<Core>, door: &Door, tcp: TcpStream, remote: SocketAddr) {
    match door {
        Door::Inbound => Box::pin(serve_mesh(core, tcp, remote)).await,
        Door::Service(service, port) => {
            let entry = Entry::Service(service.clone(), *port);
            serve_service(core, Caller::plain(entry, remote), tcp.into(), Vec::new()).await;
        }
        Door::Main(service) => {
            let first = core.snapshot().ports(service).next().map_or(UNKNOWN_PORT, |(port, _)| port);
            let entry = Entry::Service(service.clone(), first);
            serve_service(core, Caller::plain(entry, remote), tcp.into(), Vec::new()).await;
        }
        Door::Forward(_) => serve_http(core, Caller::plain(Entry::Forward, remote), tcp.into()).await,
        Door::Edge => {
            // A gateway with balancers in front may name the edge's own port.
            let behind = !core.snapshot().balancers().is_empty();
            let port = behind.then(|| tcp.local_addr().ok()).flatten().map(|own| own.port());
            match port.filter(|port| core.snapshot().balancers().contains_key(port)) {
                Some(port) => Box::pin(serve_gate(core, port, tcp, remote)).await,
                None => serve_http(core, Caller::plain(Entry::Edge, remote), tcp.into()).await,
            }
        }
        Door::Gate(Port::Tcp(port)) => Box::pin(serve_gate(core, *port, tcp, remote)).await,
        // On a thread of its own; by `datagrams`.
        Door::Admin | Door::Datagrams(..) | Door::MainDatagrams(_) | Door::Gate(Port::Udp(_)) => {}
    }
}

/// A connection from another proxy.
pub(crate) async fn serve_mesh(core: &Rc<Core>, tcp: TcpStream, remote: SocketAddr) {
    let (stream, peer) = match Box::pin(tls::accept(tcp, &core.keys().server)).await {
        Ok(accepted) => accepted,
        Err(error) => {
            tracing::debug!(%remote, %error, "inbound handshake failed");
            core.count(|counts| counts.handshakes.failed.increment());
            return;
        }
    };
    count(core, &peer);
    if peer.alpn.as_deref() == Some(ALPN_HOP) {
        return Box::pin(hop::serve(core, stream, peer, remote)).await;
    }
    let Some((service, port)) = peer.sni.as_deref().and_then(server_name) else {
        tracing::debug!(%remote, sni = peer.sni.as_deref().unwrap_or_default(), "inbound connection asks for no service port");
        core.count(|counts| counts.handshakes.failed.increment());
        return;
    };
    let entry = Entry::Inbound(service, port);
    let (source, not_after) = (peer.identity, peer.not_after);
    let opaque = if peer.alpn.as_deref() == Some(ALPN_UDP) { Opaque::Datagrams } else { Opaque::Bytes };
    let caller = Caller { entry, source, remote, not_after, sni: None, reads: Cell::new(false), opaque };
    match peer.alpn.as_deref() {
        Some(ALPN_H2) => Box::pin(serve_h2(core, caller, stream, Vec::new())).await,
        Some(ALPN_TCP | ALPN_UDP) => Box::pin(tunnel::serve(core, &caller, stream.into(), Vec::new())).await,
        // A peer without ALPN speaks the older protocol (RFC 7301 3.2).
        Some(ALPN_HTTP1) | None => Box::pin(serve_h1(core, caller, stream, Vec::new())).await,
        Some(_) => {}
    }
}

/// Counts a handshake that was carried out.
pub(crate) fn count(core: &Core, peer: &Peer) {
    core.count(|counts| {
        let done = &counts.handshakes;
        if peer.resumed { done.resumed.increment() } else { done.full.increment() }
    });
}

/// A connection from outside, at a port that gateways name.
pub(crate) async fn serve_gate(core: &Rc<Core>, port: u16, mut tcp: TcpStream, remote: SocketAddr) {
    let Some(remote) = client(core, port, &mut tcp, remote).await else { return };
    let gates = core.gates();
    let terms = gates.terms(port);
    let clear = |sni| Caller::plain(Entry::Gate { port, secure: false, sni, certificate: None, terms }, remote);
    let (tls, opaque) = match gates.way(port) {
        Way::Http => return serve_http(core, clear(None), tcp.into()).await,
        Way::Tcp => return Box::pin(tunnel::serve(core, &clear(None), Stream::from(tcp).into(), Vec::new())).await,
        Way::Sites => return Box::pin(serve_site(core, tcp, remote)).await,
        Way::Https(tls) => (tls, false),
        Way::Tls(tls, sites) => {
            if sites.iter().any(|site| site.passes) {
                let Ok(Ok(host)) = runtime::timeout(HEAD_MAX, http::server_name(&tcp)).await else { return };
                if Site::passes(sites, host.as_deref()) {
                    let caller = clear(host.map(Text::from));
                    return Box::pin(tunnel::serve(core, &caller, Stream::from(tcp).into(), Vec::new())).await;
                }
            }
            (tls, true)
        }
        Way::Closed => {
            core.count(|counts| counts.handshakes.failed.increment());
            return;
        }
    };
    let (stream, peer) = match Box::pin(tls::accept(tcp, tls)).await {
        Ok(accepted) => accepted,
        Err(error) => {
            tracing::debug!(%remote, port, %error, "handshake from outside failed");
            core.count(|counts| counts.handshakes.failed.increment());
            return;
        }
    };
    count(core, &peer);
    let entry = Entry::Gate { port, secure: true, sni: peer.sni, certificate: peer.certificate, terms };
    let caller = Caller { not_after: peer.not_after, ..Caller::plain(entry, remote) };
    match peer.alpn.as_deref() {
        _ if opaque => Box::pin(tunnel::serve(core, &caller, stream.into(), Vec::new())).await,
        Some(ALPN_H2) => Box::pin(serve_h2(core, caller, stream, Vec::new())).await,
        _ => serve_http(core, caller, stream).await,
    }
}

/// A connection from another site: passed on to whoever serves what its TLS asks for, which ends there. Nothing else of it
/// is read, and nothing can be changed.
pub(crate) async fn serve_site(core: &Rc<Core>, tcp: TcpStream, remote: SocketAddr) {
    let Ok(Ok(name)) = runtime::timeout(HEAD_MAX, http::server_name(&tcp)).await else { return };
    let Some((service, port)) = name.as_deref().and_then(server_name) else {
        tracing::debug!(%remote, sni = name.as_deref().unwrap_or_default(), "a connection from another site asks for no service port");
        core.count(|counts| counts.handshakes.failed.increment());
        return;
    };
    let caller = Caller::plain(Entry::Site(service, port), remote);
    tunnel::serve(core, &caller, Stream::from(tcp).into(), Vec::new()).await;
}

/// Who a connection comes from: where balancers are in front, whom one of them names. `None` if that isn't said as it has
/// to be; what is forwarded and logged would be a guess.
async fn client(core: &Core, port: u16, tcp: &mut TcpStream, remote: SocketAddr) -> Option<SocketAddr> {
    let snapshot = core.snapshot();
    let Some(balancers) = snapshot.balancers().get(&port) else { return Some(remote) };
    let error = if balancers.iter().any(|range| range.has(remote.ip())) {
        match balancer::source(tcp).await {
            Ok(Source::Proxied { client, .. }) => return Some(client),
            // Its own health check, or a client of which it may not tell.
            Ok(Source::Local) => return Some(remote),
            Err(error) => error.to_string(),
        }
    } else {
        "it is no balancer of this gateway".to_owned()
    };
    tracing::debug!(%remote, port, error, "a connection without a PROXY header that counts");
    refusal::count(core, RejectReason::ProxyHeader);
    None
}

/// `PORT.SERVICE.NAMESPACE.mesh`.
pub(crate) fn server_name(sni: &str) -> Option<(ServiceRef, u16)> {
    let mut parts = sni.strip_suffix(".mesh")?.split('.');
    let (port, name, namespace) = (parts.next()?, parts.next()?, parts.next()?);
    let whole = parts.next().is_none() && !name.is_empty() && !namespace.is_empty();
    Some((ServiceRef::new(namespace, name), port.parse().ok()?)).filter(|_| whole)
}

/// A connection to one service port: what the service speaks decides. `bytes` have been read of it already.
async fn serve_service(core: &Rc<Core>, caller: Caller, stream: Stream, bytes: Vec<u8>) {
    match spoken(core, &caller.entry) {
        // Never looked at: the server may be the one who speaks first. Where datagrams are taken, this is refused.
        Some(Protocol::Tcp | Protocol::Udp) => Box::pin(tunnel::serve(core, &caller, stream.into(), bytes)).await,
        Some(Protocol::Undeclared) => Box::pin(undeclared::serve(core, caller, stream, bytes)).await,
        _ if bytes.is_empty() => Box::pin(serve_http(core, caller, stream)).await,
        _ => Box::pin(serve_h1(core, caller, stream, bytes)).await,
    }
}

/// What is declared to be spoken at the service port that `entry` is for.
fn spoken(core: &Core, entry: &Entry) -> Option<Protocol> {
    let Entry::Service(service, port) = entry else { return None };
    core.snapshot().ports(service).find(|known| known.0 == *port).map(|known| known.1)
}

/// A connection whose client must speak HTTP, of either version.
pub(crate) async fn serve_http(core: &Rc<Core>, caller: Caller, mut stream: Stream) {
    let mut closing = core.closing(caller.is_proxy());
    let sniffed = tokio::select! {
        sniffed = unless_needed(core, IDLE_MAX, http::sniff(&mut stream)) => sniffed,
        () = &mut closing => return,
    };
    match sniffed {
        Some(Ok((Sniff::Http2, bytes))) => Box::pin(serve_h2(core, caller, stream, bytes)).await,
        // What is no HTTP/1 either, its parser refuses with a reason. In a box as the other: one doesn't pay for both.
        Some(Ok((_, bytes))) => Box::pin(serve_h1(core, caller, stream, bytes)).await,
        Some(Err(_)) | None => {}
    }
}

pub(crate) async fn serve_h1(core: &Rc<Core>, caller: Caller, stream: Stream, bytes: Vec<u8>) {
    let mut wire = Wire::H1(Box::new(Conn::new(stream, bytes, Limits::default())));
    let mut desk = Desk::default();
    // One for the whole connection: to register anew takes a lock that all cores share.
    let mut closing = core.closing(caller.is_proxy());
    loop {
        match read_request(core, &mut wire, &mut desk, (&mut closing, caller.is_proxy())).await {
            Asked::Request => {}
            Asked::Malformed(reject) => {
                // Where HTTP/2 is declared, what is no HTTP at all is a broken preface (RFC 9113 3.4).
                let no_http = matches!(reject.reason, RejectReason::RequestLine | RejectReason::Version);
                if no_http && spoken(core, &caller.entry).is_some_and(Protocol::is_h2) {
                    refusal::count(core, reject.reason);
                    return;
                }
                Box::pin(refuse(core, &caller, &mut wire, &mut desk.response, reject)).await;
                return Box::pin(linger(core, wire)).await;
            }
            Asked::Nothing => return,
        }
        if caller.is_over(core, runtime::coarse().wall) {
            if !caller.is_proxy() {
                Box::pin(refusal::turn_away(&caller, &mut wire, &mut desk.response)).await;
                Box::pin(linger(core, wire)).await;
            }
            return;
        }
        if matches!(caller.entry, Entry::Forward) && desk.request.method() == "CONNECT" {
            return Box::pin(connect(core, &caller, wire, desk)).await;
        }
        match Trip::new(core, &caller, &mut wire, &mut desk).run().await {
            Next::Again => desk.rest(),
            Next::Close => return Box::pin(linger(core, wire)).await,
            Next::Drop => return,
            Next::Tunnel(upstream) => return Box::pin(switch(&caller, wire, *upstream)).await,
        }
    }
}

/// What came where a request was expected.
enum Asked {
    Request,
    Malformed(Reject),
    Nothing,
}

/// The next request; `spared`: its client needn't make room while it rests.
async fn read_request(core: &Core, wire: &mut Wire, desk: &mut Desk, (closing, spared): (&mut Closing, bool)) -> Asked {
    let Wire::H1(conn) = wire else { return Asked::Nothing };
    let mut resting = Some(Resting::begin(&mut desk.alarm, IDLE_MAX, spared));
    let asked = poll_fn(|cx| {
        match conn.poll_request(cx, &mut desk.request) {
            Poll::Ready(Ok(Arrived::Head)) => return Poll::Ready(Asked::Request),
            Poll::Ready(Ok(Arrived::Closed)) => return Poll::Ready(Asked::Nothing),
            Poll::Ready(Err(Error::Reject(reject))) => return Poll::Ready(Asked::Malformed(reject)),
            Poll::Ready(Err(_)) => return Poll::Ready(Asked::Nothing),
            Poll::Pending => {}
        }
        if conn.has_pipelined() {
            if resting.take().is_some() {
                desk.alarm.after(HEAD_MAX);
            }
        } else if std::pin::Pin::new(&mut *closing).poll(cx).is_ready() {
            return Poll::Ready(Asked::Nothing);
        }
        match &mut resting {
            Some(resting) => resting.poll(core, &mut desk.alarm, cx),
            None => desk.alarm.poll(cx),
        }
        .map(|()| Asked::Nothing)
    })
    .await;
    desk.alarm.set(None);
    asked
}

/// Closes in order: says that no more comes, and reads for a while what the client still sends, as
/// closing over unread bytes would reset the connection and take the answer with it.
async fn linger(core: &Core, wire: Wire) {
    let Wire::H1(mut conn) = wire else { return };
    let mut forgotten = 0;
    let closing = async {
        poll_fn(|cx| conn.poll_shutdown(cx)).await?;
        while forgotten < LINGER_BYTES_MAX {
            match poll_fn(|cx| conn.poll_discard(cx)).await? {
                0 => break,
                read => forgotten += read,
            }
        }
        Ok::<(), Error>(())
    };
    let _ = unless_needed(core, LINGER_MAX, closing).await;
}

/// After a 101 both sides speak what they agreed on.
pub(crate) async fn switch(caller: &Caller, wire: Wire, tunnel: Tunnel) {
    let Tunnel { pipe: mut upstream, bytes, idle, crowd } = tunnel;
    let Some((mut client, from_client)) = wire.into_tunnel() else { return };
    // Whoever goes on in what was agreed upon has read that it was.
    let heard = || {
        caller.reads.set(true);
        drop(crowd);
    };
    relay::relay_heard((&mut client, from_client), (&mut upstream, bytes), Passes::All, idle, heard).await;
}

/// CONNECT on the forward listener: what follows is served as if it had come to the service's own listener. Where that is declared
/// to be opaque, the client is told what came of it (RFC 9110 9.3.6); elsewhere its first bytes decide who is asked.
async fn connect(core: &Rc<Core>, caller: &Caller, mut wire: Wire, mut desk: Desk) {
    let port = desk.request.port().unwrap_or(80);
    let snapshot = core.snapshot();
    let found =
        snapshot.named(desk.request.host(), port).filter(|service| snapshot.ports(service).any(|p| p.0 == port));
    let Some(service) = found.cloned() else {
        // The engine words the refusal, and records it.
        let next = Trip::new(core, caller, &mut wire, &mut desk).run().await;
        if matches!(next, Next::Again | Next::Close) {
            linger(core, wire).await;
        }
        return;
    };
    let for_hosts = snapshot.asks_for_hosts(&service, port);
    let caller = Caller::plain(Entry::Service(service, port), caller.remote);
    let opaque = spoken(core, &caller.entry).is_some_and(|spoken| !spoken.is_http()) && !for_hosts;
    let way = if opaque { Some(Box::pin(tunnel::Way::open(core, &caller, None)).await) } else { None };
    let body = match way.as_ref().and_then(tunnel::Way::refusal) {
        Some((answer, id)) => {
            let body = answer.write(id, &mut desk.response);
            fit_downstream(&mut desk.response, Version::Http11, false);
            body
        }
        None => {
            desk.response.start_response(200);
            desk.response.set_framing(Framing::None);
            Vec::new()
        }
    };
    let told = say(&mut wire, &desk.response, &body).await;
    match (way, wire) {
        (Some(way), wire) if !body.is_empty() => {
            way.end(core, &caller);
            linger(core, wire).await;
        }
        (way, Wire::H1(conn)) if told => {
            let (stream, bytes) = conn.into_tunnel();
            match way {
                Some(way) => Box::pin(way.pass(core, &caller, stream.into(), bytes, Vec::new())).await,
                None => Box::pin(serve_service(core, caller, stream, bytes)).await,
            }
        }
        _ => {}
    }
}

pub(crate) async fn serve_h2(core: &Rc<Core>, caller: Caller, stream: Stream, bytes: Vec<u8>) {
    let sender = if caller.source.is_some() { Sender::Proxy } else { Sender::Client };
    let handshake = Box::pin(runtime::timeout(HEAD_MAX, Server::handshake(stream, bytes, sender))).await;
    let Ok(Ok(server)) = handshake else { return };
    let mut server = Box::new(server);
    let caller = Rc::new(caller);
    let crew = Crew::new(RUNNERS_SPARE_MAX);
    let mut draining = core.drain_of(caller.is_proxy()).draining();
    let (mut goodbye, mut alarm, mut resting) = (false, Alarm::new(), None);
    let mut begun = 0;
    loop {
        if begun >= BEGUN_AT_ONCE && !caller.is_proxy() && !caller.reads.get() {
            begun = 0;
            tokio::task::yield_now().await;
        }
        let accepted = poll_fn(|cx| {
            let due = std::pin::Pin::new(&mut draining).poll(cx).is_ready();
            if !goodbye && (due || caller.is_over(core, runtime::coarse().wall)) {
                goodbye = true;
                server.say_goodbye();
            }
            let accepted = server.poll_accept(cx);
            server.take_malformed().into_iter().for_each(|reason| refusal::count(core, reason));
            if accepted.is_ready() {
                return accepted;
            }
            if goodbye || server.has_streams() {
                resting = None;
                // Looked at again at the latest then, should nobody tell that the last stream has ended.
                alarm.after(IDLE_MAX);
                let _ = alarm.poll(cx);
                return Poll::Pending;
            }
            let rests = resting.get_or_insert_with(|| Resting::begin(&mut alarm, IDLE_MAX, caller.is_proxy()));
            if rests.poll(core, &mut alarm, cx).is_ready() {
                goodbye = true;
                server.leave();
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        })
        .await;
        match accepted {
            // It was under way when the certificate ended: nothing is done with it, so it may be sent again.
            Some(mut accepted) if caller.is_over(core, runtime::now().wall) => accepted.flow.reset(REFUSED_STREAM),
            Some(Accepted { flow, head }) => {
                begun += 1;
                let wire = Wire::H2(flow);
                match head {
                    Ok(request) => {
                        if let Some(spare) = crew.give(core, Work { caller: Rc::clone(&caller), wire, request }) {
                            server.reuse(spare);
                        }
                    }
                    Err(reject) => refuse_stream(core, &caller, wire, reject).await,
                }
            }
            None => return,
        }
    }
}
