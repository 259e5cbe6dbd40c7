// SPDX-License-Identifier: Apache-2.0
//! Who speaks first on a port whose protocol nobody declared. A client that does shows at once what it speaks; one that
//! waits for the server shows nothing, and mustn't be kept waiting for that. So a silent client is given a short time,
//! and where servers were seen to begin, none. Linkerd waits 10 s, Istio has such ports declared; here the wait only says
//! when the server is asked as well: whoever speaks first decides, whatever was learnt.

use crate::shard::Shard;
use crate::snapshot::Snapshot;
use byrnie_model::ServiceRef;
use std::time::Duration;

/// How long a client may say nothing before the server is asked as well. A client that speaks first does so as soon as it's
/// connected, and it's on the same machine.
pub const SILENCE_MAX: Duration = Duration::from_millis(50);

impl Shard {
    /// How long a client that says nothing is waited for before the server is asked as well.
    pub fn silence(&self, snapshot: &Snapshot, service: &ServiceRef, port: u16) -> Duration {
        let cluster = snapshot.port(service, port).map(|(_, port)| port.cluster);
        let memory = cluster.and_then(|slot| self.clusters.peek(slot));
        if memory.is_some_and(|memory| memory.server_first) { Duration::ZERO } else { SILENCE_MAX }
    }

    /// Somebody has spoken first: the server, or a client of HTTP.
    pub fn spoken(&mut self, snapshot: &Snapshot, service: &ServiceRef, port: u16, server: bool) {
        let Some((_, port)) = snapshot.port(service, port) else { return };
        if let Some(memory) = self.clusters.entry(port.cluster) {
            memory.server_first = server;
        }
    }
}
