// SPDX-License-Identifier: Apache-2.0
//! HTTP/3 at the ports where gateways serve HTTPS: the same routes and rules, by QUIC. One core serves all connections of a
//! port, that which was given its socket. Called by `worker`; it decides nothing.

use crate::carry::{Desk, Trip};
use crate::connection::{HEAD_MAX, IDLE_MAX, count};
use crate::door::{Caller, Entry};
use crate::refusal::refuse_stream;
use crate::worker::Core;
use byrnie_base::Instant;
use byrnie_codec::h3::code::REQUEST_REJECTED;
use byrnie_net::http::h3::{Flow, Server};
use byrnie_net::http::{Error, Wire};
use byrnie_net::io::EXPIRY_GRACE;
use byrnie_net::quic::{Acceptor, Config, HANDSHAKES_MAX, HANDSHAKES_UNPROVEN_MAX, Incoming, Socket};
use byrnie_net::runtime::{self, Shutdown};
use byrnie_net::tls::Peer;
use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

/// How long a client may take to acknowledge the end of an answer.
const DELIVERY_MAX: Duration = Duration::from_secs(60);
/// How long what is on its way is still served after the first word of goodbye: some round trips, within these.
const GOODBYE_MIN: Duration = Duration::from_millis(20);
const GOODBYE_MAX: Duration = Duration::from_secs(1);
/// See [`GOODBYE_MIN`].
const GOODBYE_ROUND_TRIPS: u32 = 3;

/// A port as its core serves it.
pub(crate) struct Port {
    pub(crate) number: u16,
    pub(crate) socket: Socket,
    /// What clients were shown when the port was opened; what they are shown, the configuration in force says.
    pub(crate) config: Config,
    /// When it closes.
    pub(crate) until: Shutdown,
}

/// Lets clients in until the drain begins, or the port is closed.
pub(crate) async fn accept(core: Rc<Core>, port: Port) {
    let Port { number, socket, config, mut until } = port;
    let acceptor = match Acceptor::new(socket, &config) {
        Ok(acceptor) => acceptor,
        Err(error) => {
            tracing::warn!(port = number, %error, "no HTTP/3 at this port");
            return;
        }
    };
    let shaking = Rc::new(Cell::new(0));
    let let_in = async || let_in(&core, number, &acceptor, &shaking, &mut until).await;
    runtime::keep("accept", let_in, || core.panicked()).await;
    acceptor.refuse();
}

async fn let_in(core: &Rc<Core>, number: u16, acceptor: &Acceptor, shaking: &Rc<Cell<usize>>, until: &mut Shutdown) {
    let mut draining = core.drain().draining();
    loop {
        let incoming = tokio::select! {
            incoming = acceptor.accept() => incoming,
            () = &mut draining => return,
            () = until.wait() => return,
        };
        let Some(incoming) = incoming else { return };
        let unproven = !incoming.is_proven();
        if shaking.get() >= HANDSHAKES_UNPROVEN_MAX && unproven {
            incoming.come_again();
            continue;
        }
        // Nobody makes room for an address that may be made up.
        let full = core.is_full() && (unproven || !core.makes_room().await);
        let gates = core.gates();
        // Behind a balancer nobody could say who the client is.
        let config = gates.quic(number).filter(|_| !core.snapshot().balancers().contains_key(&number)).cloned();
        let Some(config) = config.filter(|_| !full && shaking.get() < HANDSHAKES_MAX) else {
            core.count(|counts| counts.handshakes.failed.increment());
            if full && unproven {
                incoming.come_again()
            } else {
                incoming.refuse()
            }
            continue;
        };
        let terms = gates.terms(number);
        let (serving, shaking, until) = (Rc::clone(core), Shaking::enter(shaking), until.clone());
        core.enters();
        runtime::spawn_local("connection", async move {
            let guard = serving.drain().guard();
            let served =
                runtime::catch("connection", shake(&serving, (number, terms), incoming, config, (shaking, until)));
            if served.await.is_err() {
                serving.panicked();
            }
            serving.leaves();
            drop(guard);
        });
    }
}

/// Counts a handshake until it's dropped.
struct Shaking(Rc<Cell<usize>>);

impl Shaking {
    fn enter(all: &Rc<Cell<usize>>) -> Self {
        all.set(all.get() + 1);
        Self(Rc::clone(all))
    }
}

impl Drop for Shaking {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

async fn shake(
    core: &Rc<Core>,
    (port, terms): (u16, u64),
    incoming: Incoming,
    config: Config,
    (shaking, until): (Shaking, Shutdown),
) {
    let remote = incoming.remote();
    let accepted = Box::pin(incoming.accept(&config)).await;
    drop(shaking);
    match accepted {
        Ok((quic, peer)) => {
            count(core, &peer);
            let end = Peer { not_after: peer.not_after, ..Peer::default() };
            let entry = Entry::Gate { port, secure: true, sni: peer.sni, certificate: peer.certificate, terms };
            let caller = Caller { not_after: peer.not_after, ..Caller::plain(entry, quic.remote()) };
            let Ok(Ok(server)) = runtime::timeout(HEAD_MAX, Server::begin(quic)).await else { return };
            // Dropped, it closes the connection, whatever is under way.
            tokio::select! {
                () = serve(core, caller, &server, (&end, until)) => {}
                () = over(&end) => {}
            }
        }
        Err(error) => {
            tracing::debug!(%remote, port, %error, "a QUIC handshake from outside failed");
            core.count(|counts| counts.handshakes.failed.increment());
        }
    }
}

/// How far a connection's end is.
enum Parting {
    Not,
    /// The client was told; at this time the last request was taken.
    Told(Instant),
    /// What is under way ends.
    Last,
}

/// What happens to a connection.
enum Turn {
    Asked(Option<Box<Flow>>),
    /// It is to end.
    Part,
    /// What was on its way has come.
    Last,
    /// Nothing is under way any more.
    Over,
}

/// Waits until the certificate of a client has ended, and what was under way then has had its time.
async fn over(end: &Peer) {
    end.expired().await;
    runtime::sleep(EXPIRY_GRACE).await;
}

/// Serves a connection to its end; `end` says when the client's certificate ends.
async fn serve(core: &Rc<Core>, caller: Caller, server: &Server, (end, mut until): (&Peer, Shutdown)) {
    let caller = Rc::new(caller);
    let mut closing = core.drain().draining();
    let mut parting = Parting::Not;
    loop {
        let turn = match parting {
            Parting::Not => tokio::select! {
                flow = server.accept() => Turn::Asked(flow),
                () = &mut closing => Turn::Part,
                () = until.wait() => Turn::Part,
                () = end.expired() => Turn::Part,
                () = server.rested(IDLE_MAX) => Turn::Part,
            },
            Parting::Told(due) => tokio::select! {
                flow = server.accept() => Turn::Asked(flow),
                () = runtime::sleep(due.since(runtime::now().mono)) => Turn::Last,
            },
            Parting::Last => tokio::select! {
                flow = server.accept() => Turn::Asked(flow),
                () = server.rested(Duration::ZERO) => Turn::Over,
            },
        };
        match turn {
            Turn::Asked(None) | Turn::Over => return,
            Turn::Asked(Some(mut flow)) => {
                if server.has_moved() || caller.is_over(core, runtime::now().wall) {
                    // Nothing is done with it, so it may be sent again.
                    flow.reset(REQUEST_REJECTED);
                    if matches!(parting, Parting::Not) {
                        server.say_goodbye(true);
                        parting = Parting::Last;
                    }
                    continue;
                }
                let (core, caller) = (Rc::clone(core), Rc::clone(&caller));
                runtime::spawn_local("stream", async move { carry(&core, &caller, flow).await });
            }
            Turn::Part => {
                server.say_goodbye(false);
                let pause = (server.round_trip() * GOODBYE_ROUND_TRIPS).clamp(GOODBYE_MIN, GOODBYE_MAX);
                parting = Parting::Told(runtime::now().mono + pause);
            }
            Turn::Last => {
                server.say_goodbye(true);
                parting = Parting::Last;
            }
        }
    }
}

/// Carries one exchange, and keeps its stream until the client has all of the answer: the connection isn't to be closed
/// before.
async fn carry(core: &Rc<Core>, caller: &Caller, flow: Box<Flow>) {
    let _guard = core.drain().guard();
    match runtime::catch("stream", Box::pin(exchange(core, caller, flow))).await {
        Ok(Some(flow)) => {
            let _ = runtime::timeout(DELIVERY_MAX, flow.delivered()).await;
        }
        Ok(None) => {}
        Err(_) => core.panicked(),
    }
}

async fn exchange(core: &Rc<Core>, caller: &Caller, mut flow: Box<Flow>) -> Option<Box<Flow>> {
    let mut desk = Desk::default();
    let head = runtime::timeout(HEAD_MAX, poll_fn(|cx| flow.poll_head(cx, &mut desk.request))).await;
    let mut wire = Wire::H3(flow);
    match head {
        Ok(Ok(())) => {}
        Ok(Err(Error::Reject(reject))) => {
            refuse_stream(core, caller, wire, reject).await;
            return None;
        }
        // Dropped, it is given up.
        Ok(Err(_)) | Err(_) => return None,
    }
    Trip::new(core, caller, &mut wire, &mut desk).run().await;
    match wire {
        Wire::H3(flow) => Some(flow),
        _ => None,
    }
}
