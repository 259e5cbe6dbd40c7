// SPDX-License-Identifier: Apache-2.0
//! The ports that gateways name: what TLS shows at each, and listeners that come and go with the configuration.
//! [`Gates`] goes to the cores beside the snapshot that it was made of; [`attend`] runs on the agent's thread.

use crate::agent::State;
use crate::door::Door;
use crate::mount::{self, Wanted};
use crate::running::Open;
use crate::worker::{Entrance, InForce};
use byrnie_engine::{Proof, Served, Site, Snapshot};
use byrnie_model::gateway::Port;
use byrnie_net::listen::Listener;
use byrnie_net::runtime::{self, Shutdown, Trigger};
use byrnie_net::tls::ServerTls;
use byrnie_net::tls::callers::Callers;
use byrnie_net::tls::edge::{self, Alpn, Certificate};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

#[cfg(feature = "http3")]
mod quic;

/// How often a port that couldn't be opened is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What is served at each port that gateways name.
#[derive(Debug, Default)]
pub(crate) struct Gates {
    served: Arc<BTreeMap<Port, Served>>,
    /// Of those under TLS. One that can't be made lets nobody in.
    tls: BTreeMap<Port, Shown>,
    /// On which terms callers are let in at each: a number that changes with them.
    terms: BTreeMap<Port, u64>,
}

/// Whether all who were let in before would be now: by the same protocol, and as they prove what is asked for.
fn holds(then: &Served, now: &Served) -> bool {
    std::mem::discriminant(then) == std::mem::discriminant(now)
        && match (then.proof(), now.proof()) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(then), Some(now)) => (now.optional || !then.optional) && believed(then).is_subset(&believed(now)),
        }
}

/// The authorities that may vouch for callers, as they're written.
fn believed(proof: &Proof) -> BTreeSet<&str> {
    const END: &str = "-----END CERTIFICATE-----";
    proof.authorities.values().flat_map(|bundle| bundle.pem.split(END).map(str::trim)).collect()
}

/// What callers of a port are shown.
#[derive(Clone, Debug)]
struct Shown {
    tls: ServerTls,
    /// The same for HTTP/3, where that is served.
    #[cfg(feature = "http3")]
    quic: Option<byrnie_net::quic::Config>,
}

/// What a connection at a port is.
pub(crate) enum Way<'a> {
    /// HTTP in the clear.
    Http,
    /// HTTP under TLS.
    Https(&'a ServerTls),
    /// What is only passed on.
    Tcp,
    /// The same under TLS, which for some hosts is only passed on.
    Tls(&'a ServerTls, &'a [Site]),
    /// From another site, to be passed on by the service that its TLS asks for.
    Sites,
    /// Nothing is served there, or nothing that can be.
    Closed,
}

impl Gates {
    /// What a snapshot serves. Ports that are as they were keep their TLS, and with it what tickets of TLS 1.2 are sealed by.
    pub(crate) fn of(snapshot: &Snapshot, before: &Arc<Self>) -> Arc<Self> {
        let served = snapshot.gates();
        if Arc::ptr_eq(served, &before.served) || *served == before.served {
            return Arc::clone(before);
        }
        let (mut tls, mut terms) = (BTreeMap::new(), before.terms.clone());
        for (port, serves) in served.iter() {
            // A port that was away for a while begins anew too.
            if !before.served.get(port).is_some_and(|then| holds(then, serves)) {
                *terms.entry(*port).or_default() += 1;
            }
            let Some(sites) = serves.sites() else { continue };
            let alpn = if matches!(serves, Served::Https(..)) { Alpn::Http } else { Alpn::Any };
            let kept = before.tls.get(port).filter(|_| before.served.get(port) == Some(serves));
            if let Some(made) = kept.cloned().or_else(|| make(*port, sites, alpn, serves.proof())) {
                tls.insert(*port, made);
            }
        }
        Arc::new(Self { served: Arc::clone(served), tls, terms })
    }

    /// On which terms a connection at `port` is let in: as long as the number stays, they do.
    pub(crate) fn terms(&self, port: u16) -> u64 {
        self.terms.get(&Port::Tcp(port)).copied().unwrap_or_default()
    }

    /// What a connection at `port` is.
    pub(crate) fn way(&self, port: u16) -> Way<'_> {
        let port = Port::Tcp(port);
        match self.served.get(&port) {
            Some(Served::Http) => Way::Http,
            Some(Served::Https(..)) => self.tls.get(&port).map_or(Way::Closed, |shown| Way::Https(&shown.tls)),
            Some(Served::Tcp) => Way::Tcp,
            Some(Served::Sites) => Way::Sites,
            Some(Served::Tls(sites)) => self.tls.get(&port).map_or(Way::Closed, |shown| Way::Tls(&shown.tls, sites)),
            // Flows are no connections.
            Some(Served::Udp) | None => Way::Closed,
        }
    }

    /// What callers by HTTP/3 are shown at `port`, if that is served there: where a gateway takes datagrams, it isn't.
    #[cfg(feature = "http3")]
    pub(crate) fn quic(&self, port: u16) -> Option<&byrnie_net::quic::Config> {
        let shown = self.tls.get(&Port::Tcp(port)).filter(|_| !self.served.contains_key(&Port::Udp(port)));
        shown.and_then(|shown| shown.quic.as_ref())
    }
}

fn make(port: Port, sites: &[Site], alpn: Alpn, proof: Option<&Proof>) -> Option<Shown> {
    let (code, port) = (byrnie_model::code::CERTIFICATE_UNFIT.id, port.number());
    let callers = |Proof { authorities, optional }: &Proof| {
        let code = byrnie_model::code::AUTHORITY_ABSENT.id;
        Callers::new(authorities.values().map(|bundle| &*bundle.pem), *optional)
            .inspect_err(|error| tracing::warn!(code, port, %error, "callers can't be verified: none is let in"))
    };
    let callers = proof.map(callers).transpose().ok()?;
    let read = |site: &Site| {
        let certificates = site.certificates.iter().filter_map(|(key, secret)| {
            Certificate::from_pem(&secret.chain, secret.key.expose())
                .inspect_err(|error| tracing::warn!(code, %key, %error, "a certificate is of no use"))
                .ok()
        });
        edge::Site { hostname: site.hostname.clone(), certificates: certificates.collect() }
    };
    let sites: Vec<_> = sites.iter().filter(|site| !site.passes).map(read).collect();
    #[cfg(feature = "http3")]
    let quic = (alpn == Alpn::Http)
        .then(|| byrnie_net::quic::config(sites.clone(), callers.clone()))
        .transpose()
        .inspect_err(|error| tracing::warn!(code, port, %error, "no HTTP/3 at this port"))
        .unwrap_or_default();
    let tls = edge::server(sites, alpn, callers)
        .inspect_err(|error| tracing::warn!(code, port, %error, "no TLS at this port"))
        .ok()?;
    Some(Shown {
        tls,
        #[cfg(feature = "http3")]
        quic,
    })
}

/// Gives each core a listener, or more where an earlier proxy had more cores; a core without one gets its connections from
/// others (see `spread`).
pub(crate) fn give(cores: &[mpsc::UnboundedSender<Entrance>], door: &Door, listeners: Vec<Listener>, until: &Shutdown) {
    for (core, listener) in cores.iter().cycle().zip(listeners) {
        // A core that has ended already is noticed by its absence in the counters.
        let _ = core.send(Entrance::Listener(door.clone(), listener, until.clone()));
    }
}

/// Opens and closes listeners as the configuration asks for it, each on every core, beside the edge's own at `own`.
/// Those that are there already are `left` by an earlier proxy.
pub(crate) async fn attend(
    own: SocketAddr,
    cores: Vec<mpsc::UnboundedSender<Entrance>>,
    (listeners, left): (Open, BTreeMap<Port, Vec<Listener>>),
    mut in_force: watch::Receiver<InForce>,
    state: Arc<State>,
    mut stop: Shutdown,
) {
    let mut keeper = Keeper {
        own,
        cores,
        listeners,
        left,
        open: BTreeMap::new(),
        closed: BTreeMap::new(),
        #[cfg(feature = "http3")]
        quic: quic::Ports::default(),
    };
    let follow = async || follow(&mut keeper, &mut in_force, &state, &mut stop).await;
    runtime::keep("gates", follow, || {}).await;
}

/// Which ports of gateways are open.
struct Keeper {
    own: SocketAddr,
    cores: Vec<mpsc::UnboundedSender<Entrance>>,
    listeners: Open,
    /// Open by an earlier proxy, and not yet asked for.
    left: BTreeMap<Port, Vec<Listener>>,
    open: BTreeMap<Port, Trigger>,
    /// Why a port can't be opened.
    closed: BTreeMap<Port, String>,
    #[cfg(feature = "http3")]
    quic: quic::Ports,
}

async fn follow(keeper: &mut Keeper, in_force: &mut watch::Receiver<InForce>, state: &State, stop: &mut Shutdown) {
    let Keeper { own, cores, listeners, left, open, closed, .. } = keeper;
    loop {
        let now = in_force.borrow_and_update().clone();
        let served = Arc::clone(&now.gates.served);
        open.retain(|port, _| {
            let stays = served.contains_key(port);
            if !stays {
                listeners.remove(&Door::Gate(*port));
            }
            stays
        });
        closed.retain(|port, _| served.contains_key(port));
        // In the clear, the edge's own port serves every listener anyway.
        let wanted = served.iter().filter(|(port, serves)| port.number() != own.port() || **serves != Served::Http);
        for (&port, _) in wanted {
            if open.contains_key(&port) {
                continue;
            }
            let address = SocketAddr::new(own.ip(), port.number());
            let wanted = Wanted { door: Door::Gate(port), what: "gateway", address };
            match left.remove(&port).map_or_else(|| mount::bind(&wanted, cores.len(), true), Ok) {
                Ok(sockets) => {
                    let (trigger, until) = runtime::shutdown();
                    listeners.add(wanted.door.clone(), &sockets);
                    give(cores, &wanted.door, sockets, &until);
                    tracing::info!(door = %wanted.door, %address, "a port of a gateway is open");
                    open.insert(port, trigger);
                    closed.remove(&port);
                }
                Err(error) => {
                    let why = error.to_string();
                    if closed.get(&port) != Some(&why) {
                        let code = byrnie_model::code::PORT_CLOSED.id;
                        tracing::warn!(code, door = %wanted.door, error = why, "a port of a gateway can't be opened; trying again");
                        closed.insert(port, why);
                    }
                }
            }
        }
        // What no gateway names any more is closed.
        left.clear();
        state.set_closed(closed);
        #[cfg(feature = "http3")]
        let waits = keeper.quic.attend(*own, cores, &now) || !closed.is_empty();
        #[cfg(not(feature = "http3"))]
        let waits = !closed.is_empty();
        tokio::select! {
            changed = in_force.changed() => if changed.is_err() {
                return stop.wait().await;
            },
            () = runtime::sleep(RETRY), if waits => {}
            () = stop.wait() => return,
        }
    }
}
