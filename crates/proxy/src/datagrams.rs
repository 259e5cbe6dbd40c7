// SPDX-License-Identifier: Apache-2.0
//! Flows of datagrams from callers: each is served as an opaque connection is, by the core that has its socket. Called by
//! `worker`; it decides nothing.

use crate::door::{Caller, Door, Entry, UNKNOWN_PORT};
use crate::tunnel;
use crate::worker::Core;
use byrnie_model::Protocol;
use byrnie_model::gateway::Port;
use byrnie_net::datagram::{self, Datagrams};
use byrnie_net::listen::Listener;
use byrnie_net::runtime::{self, Shutdown};
use std::net::SocketAddr;
use std::rc::Rc;

/// Takes flows until the drain begins, or the listener is closed. Those that are open end in order then.
pub(crate) async fn accept(core: &Rc<Core>, door: &Door, listener: &Listener, until: &mut Shutdown) {
    let mut flows = match datagram::open(listener) {
        Ok(flows) => flows,
        Err(error) => {
            tracing::warn!(%door, %error, "no datagrams are taken there");
            return;
        }
    };
    let mut draining = core.drain_of(false).draining();
    loop {
        let (mut flow, remote) = tokio::select! {
            flow = flows.accept() => flow,
            () = &mut draining => return,
            () = until.wait() => return,
        };
        let Some(entry) = entry(core, door) else { return };
        if core.is_full() {
            core.count(|counts| counts.strain.accepts_paused.increment());
            flow.refuse();
            continue;
        }
        serve(core, entry, flow, remote);
    }
}

fn entry(core: &Core, door: &Door) -> Option<Entry> {
    match door {
        Door::Datagrams(service, port) => Some(Entry::Service(service.clone(), *port)),
        Door::MainDatagrams(service) => {
            let snapshot = core.snapshot();
            let takes = snapshot.ports(service).find(|(_, protocol)| *protocol == Protocol::Udp);
            Some(Entry::Service(service.clone(), takes.map_or(UNKNOWN_PORT, |(port, _)| port)))
        }
        Door::Gate(Port::Udp(port)) => {
            Some(Entry::Gate { port: *port, secure: false, sni: None, certificate: None, terms: 0 })
        }
        _ => None,
    }
}

fn serve(core: &Rc<Core>, entry: Entry, flow: Datagrams, remote: SocketAddr) {
    let core = Rc::clone(core);
    core.flow_enters();
    runtime::spawn_local("flow", async move {
        let guard = core.drain().guard();
        let caller = Caller::plain(entry, remote).with_datagrams();
        let served = runtime::catch("flow", tunnel::serve(&core, &caller, flow.into(), Vec::new())).await;
        if served.is_err() {
            core.panicked();
        }
        core.flow_leaves();
        drop(guard);
    });
}
