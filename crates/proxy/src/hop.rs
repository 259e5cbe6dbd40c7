// SPDX-License-Identifier: Apache-2.0
//! A connection from another proxy that carries streams: each asks for a service port, and each is
//! decided on by itself. Called by `connection`; it decides nothing.

use crate::connection::server_name;
use crate::crew::{Crew, Work};
use crate::door::{Caller, Entry};
use crate::refusal::refuse_stream;
use crate::tunnel;
use crate::worker::Core;
use byrnie_base::Text;
use byrnie_codec::Limits;
use byrnie_codec::hop::code;
use byrnie_engine::Opaque;
use byrnie_net::hop::{Accepted, Asked, Server};
use byrnie_net::http::Wire;
use byrnie_net::io::Stream;
use byrnie_net::runtime;
use byrnie_net::tls::Peer;
use std::cell::Cell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;

/// Tasks kept for exchanges to come, per connection.
const RUNNERS_SPARE_MAX: usize = 128;
/// Service ports of which the caller is kept ready, per connection.
const CALLERS_KEPT_MAX: usize = 16;

/// Serves the streams of a connection until it ends.
pub(crate) async fn serve(core: &Rc<Core>, stream: Stream, peer: Peer, remote: SocketAddr) {
    let limits = Limits::default();
    let mut server = Server::new(stream, Limits { headers_max: Limits::HEADERS_CEILING, ..limits });
    let mut callers = Callers { peer, remote, kept: Vec::new() };
    let crew = Crew::new(RUNNERS_SPARE_MAX);
    let mut draining = core.drain_of(true).draining();
    let mut goodbye = false;
    loop {
        let accepted = poll_fn(|cx| {
            let due = std::pin::Pin::new(&mut draining).poll(cx).is_ready();
            if !goodbye && (due || callers.is_expired()) {
                goodbye = true;
                server.say_goodbye();
            }
            server.poll_accept(cx)
        })
        .await;
        let Some(Accepted { mut flow, target, asked }) = accepted else { return };
        // Who comes after the end of its certificate is told so before anything is done.
        let caller = if callers.is_expired() { None } else { callers.of(&target) };
        let Some(caller) = caller else {
            flow.reset(code::REFUSED);
            continue;
        };
        let request = match asked {
            Asked::Request(head) => head,
            Asked::Malformed(reject) => {
                refuse_stream(core, &caller, Wire::Hop(flow), reject).await;
                continue;
            }
            asked @ (Asked::Bytes | Asked::Datagrams) => {
                let caller = match asked {
                    Asked::Datagrams => Rc::new((*caller).clone().with_datagrams()),
                    _ => caller,
                };
                let core = Rc::clone(core);
                runtime::spawn_local("tunnel", async move {
                    tunnel::serve(&core, &caller, flow.into(), Vec::new()).await;
                });
                continue;
            }
        };
        if let Some(spare) = crew.give(core, Work { caller, wire: Wire::Hop(flow), request }) {
            server.reuse(spare);
        }
    }
}

/// Who asks, by what is asked for.
struct Callers {
    peer: Peer,
    remote: SocketAddr,
    kept: Vec<(Text, Rc<Caller>)>,
}

impl Callers {
    fn is_expired(&self) -> bool {
        self.peer.not_after.is_some_and(|end| end <= runtime::coarse().wall)
    }

    fn of(&mut self, target: &Text) -> Option<Rc<Caller>> {
        if let Some((_, caller)) = self.kept.iter().find(|(kept, _)| kept == target) {
            return Some(Rc::clone(caller));
        }
        let (service, port) = server_name(target)?;
        let caller = Rc::new(Caller {
            entry: Entry::Inbound(service, port),
            source: self.peer.identity.clone(),
            remote: self.remote,
            not_after: self.peer.not_after,
            sni: None,
            reads: Cell::new(false),
            opaque: Opaque::Bytes,
        });
        if self.kept.len() >= CALLERS_KEPT_MAX {
            self.kept.remove(0);
        }
        self.kept.push((target.clone(), Rc::clone(&caller)));
        Some(caller)
    }
}
