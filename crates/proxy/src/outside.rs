// SPDX-License-Identifier: Apache-2.0
//! Hosts outside the mesh, on a proxy by which calls leave it: their addresses, the check of who is there, and the way
//! to them. Called by `upstream` and `tunnel`; it never decides who may go out, which the engine has.

use crate::upstream::{self, Upstream};
use crate::worker::Core;
use byrnie_codec::sniff::{HELLO_BYTES_MAX, ServerName, hello_bytes_wanted, server_name};
use byrnie_engine::{Failure, Outside, Plan, Security, Verify};
use byrnie_model::{Key, Protocol, Secret, code};
use byrnie_net::io::{self, Stream};
use byrnie_net::names::Names;
use byrnie_net::pool::{Asked, Speaks};
use byrnie_net::relay::Pipe;
use byrnie_net::runtime;
use byrnie_net::tls::edge::Certificate;
use byrnie_net::tls::outward::{self, Outward};
use byrnie_net::tls::{self, Peer};
use std::cell::RefCell;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// Checks of hosts that a core holds on to; beyond, they are made anew.
const CHECKS_MAX: usize = 256;
/// How long an address is waited for before the next one is tried beside it (RFC 8305 5, "Connection Attempt Delay").
const HEAD_START: Duration = Duration::from_millis(250);

/// What one core knows of hosts outside.
#[derive(Debug, Default)]
pub(crate) struct Outsides {
    names: Names,
    /// By what is verified; `None` for what can't be.
    checks: RefCell<Vec<(Arc<Verify>, Option<Outward>)>>,
    /// Whether hosts of this machine itself are outside too: where the whole mesh is on it.
    own_machine: bool,
}

impl Outsides {
    pub(crate) fn new(own_machine: bool) -> Self {
        Self { own_machine, ..Self::default() }
    }

    /// The check of who is at `to`, if there is to be one.
    fn check(&self, to: &Outside) -> Result<Option<Outward>, Failure> {
        let verify = match &to.security {
            Security::Plain => return Ok(None),
            Security::Tls(verify) => verify,
            Security::Broken(_) => return Err(Failure::TlsIdentity),
        };
        let mut checks = self.checks.borrow_mut();
        if let Some((of, made)) = checks.iter_mut().find(|(of, _)| Arc::ptr_eq(of, verify) || of == verify) {
            // The same in a later configuration: found by its place from now on.
            if !Arc::ptr_eq(of, verify) {
                *of = Arc::clone(verify);
            }
            return made.clone().ok_or(Failure::TlsIdentity).map(Some);
        }
        if checks.len() >= CHECKS_MAX {
            checks.clear();
        }
        let made = make(verify);
        checks.push((Arc::clone(verify), made.clone()));
        made.ok_or(Failure::TlsIdentity).map(Some)
    }

    /// Where `to` is, the address to be tried first at the beginning.
    async fn addresses(&self, to: &Outside) -> Result<Vec<SocketAddr>, Failure> {
        let found = self.names.lookup(&to.host).await.map_err(|error| {
            tracing::debug!(%error, "a host outside isn't found");
            Failure::Connect
        })?;
        let reached = found.into_iter().filter(|ip| self.own_machine || !is_inside(*ip));
        let mut reached: Vec<SocketAddr> = reached.map(|ip| SocketAddr::new(ip, to.port)).collect();
        to.choose(&mut reached);
        if reached.is_empty() {
            tracing::warn!(host = %to.host, "a host outside has only addresses of loopback or link: not reached");
            return Err(Failure::Connect);
        }
        Ok(reached)
    }
}

/// What is to be checked, and shown; `None` if it's of no use.
pub(crate) fn make(verify: &Verify) -> Option<Outward> {
    let read = |(key, secret): &(Key, Arc<Secret>)| {
        Certificate::from_pem(&secret.chain, secret.key.expose()).inspect_err(|error| {
            let code = code::CERTIFICATE_UNFIT.id;
            tracing::warn!(code, %key, %error, "a certificate for hosts outside is of no use");
        })
    };
    let shown = verify.certificate.as_ref().map(read).transpose().ok()?;
    Outward::new(&verify.hostname, &verify.names, verify.roots.as_deref(), shown.as_ref())
        .inspect_err(|error| {
            let code = code::BUNDLE_ABSENT.id;
            tracing::warn!(code, %error, host = %verify.hostname, "hosts outside can't be verified");
        })
        .ok()
}

/// Whether an address is a loopback's or of the link: there whoever may write a Service would reach what trusts its
/// neighbours, such as admin ports and the metadata of clouds.
pub(crate) fn is_inside(ip: IpAddr) -> bool {
    let ip = match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    };
    match ip {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_unspecified() || v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unspecified() || v6.is_unicast_link_local(),
    }
}

/// Gets a connection to `to` for one request.
pub(crate) async fn open(core: &Rc<Core>, plan: &Plan, to: &Outside, protocol: Protocol) -> Result<Upstream, Failure> {
    let check = core.outside.check(to)?;
    let speaks = if protocol.is_h2() { Speaks::Http2 } else { Speaks::Http1 };
    let generation = check.as_ref().map_or(0, Outward::id);
    first(core, plan, to, async |address, limit| {
        let asked = Asked { address, hop: None, generation, way: 0, speaks };
        upstream::open_at(core, plan, &asked, limit).await
    })
    .await
}

/// Opens a connection to `to` whose bytes nobody looks at.
pub(crate) async fn open_opaque(core: &Core, plan: &Plan, to: &Outside) -> Result<Stream, Failure> {
    first(core, plan, to, async |address, limit| {
        connect(core, to, address, (outward::Speaks::Opaque, limit)).await.map(|(stream, _)| stream)
    })
    .await
}

/// Which of many hosts a connection is for, by the name that its TLS asks for; `bytes` have been read of it already.
pub(crate) async fn of_hello(to: &Outside, down: &mut Pipe, bytes: &mut Vec<u8>) -> Option<Outside> {
    to.of(&asked(down, bytes).await?)
}

/// The host that the TLS of a connection asks for, which begins with `bytes` and goes on as `down`; what is read of it is added.
pub(crate) async fn asked(down: &mut Pipe, bytes: &mut Vec<u8>) -> Option<String> {
    let asked = async {
        // A byte at a time would have all of them read anew with each.
        let mut wanted = 0;
        loop {
            if bytes.len() >= wanted {
                match server_name(bytes) {
                    ServerName::Name(name) => return Some(name),
                    ServerName::Absent | ServerName::Malformed => return None,
                    ServerName::NeedMore => wanted = hello_bytes_wanted(bytes),
                }
            }
            if !matches!(down.read_on(bytes, HELLO_BYTES_MAX - bytes.len().min(HELLO_BYTES_MAX - 1)).await, Ok(1..)) {
                return None;
            }
        }
    };
    runtime::timeout(tls::HANDSHAKE_TIMEOUT, asked).await.ok().flatten()
}

/// What comes of the first address that can be connected to, within the plan's limit in all.
async fn first<T>(
    core: &Core,
    plan: &Plan,
    to: &Outside,
    open: impl AsyncFn(SocketAddr, Duration) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let found = Box::pin(async {
        let addresses = core.outside.addresses(to).await?;
        let best = addresses.first().copied();
        let (address, opened) = race(addresses, plan.connect_timeout, open).await?;
        if best != Some(address) {
            core.outside.names.prefer(&to.host, address.ip());
        }
        Ok(opened)
    });
    runtime::timeout(plan.connect_timeout, found).await.unwrap_or(Err(Failure::ConnectTimeout))
}

/// The first address with which `open` succeeds, and what came of it. One that neither takes a connection nor refuses it doesn't hold
/// up the next (RFC 8305, "Happy Eyeballs").
async fn race<T>(
    addresses: Vec<SocketAddr>,
    limit: Duration,
    open: impl AsyncFn(SocketAddr, Duration) -> Result<T, Failure>,
) -> Result<(SocketAddr, T), Failure> {
    let attempt = async |address| (address, open(address, limit).await);
    let mut waiting = addresses.into_iter();
    let (mut opening, mut failed) = (Vec::new(), Failure::Connect);
    loop {
        opening.extend(waiting.next().map(|address| Box::pin(attempt(address))));
        if opening.is_empty() {
            return Err(failed);
        }
        let ended = poll_fn(|cx| {
            let ended = opening.iter_mut().enumerate().find_map(|(at, one)| match one.as_mut().poll(cx) {
                Poll::Ready(ended) => Some((at, ended)),
                Poll::Pending => None,
            });
            let Some((at, ended)) = ended else { return Poll::Pending };
            drop(opening.swap_remove(at));
            Poll::Ready(ended)
        });
        let patience = if waiting.len() > 0 { HEAD_START } else { limit };
        match runtime::timeout(patience, ended).await {
            Ok((address, Ok(opened))) => return Ok((address, opened)),
            Ok((_, Err(failure @ (Failure::Connect | Failure::ConnectTimeout)))) => failed = failure,
            Ok((_, Err(failure))) => return Err(failure),
            // The next one is tried beside it.
            Err(_) => {}
        }
    }
}

/// Opens a connection to one address of `to`, and has it prove who it is.
pub(crate) async fn connect(
    core: &Core,
    to: &Outside,
    address: SocketAddr,
    (speaks, limit): (outward::Speaks, Duration),
) -> Result<(Stream, Peer), Failure> {
    let check = core.outside.check(to)?;
    let opening = async {
        let tcp = io::connect(address, limit).await.map_err(upstream::failure_to_connect)?;
        let Some(check) = check else { return Ok((Stream::from(tcp), Peer::default())) };
        outward::connect(tcp, &check, speaks).await.map_err(|error| {
            tracing::debug!(%error, %address, host = %to.host, "no TLS with a host outside");
            match error {
                tls::Error::Unproven(_) => Failure::TlsIdentity,
                tls::Error::Timeout => Failure::ConnectTimeout,
                _ => Failure::Connect,
            }
        })
    };
    runtime::timeout(limit, Box::pin(opening)).await.unwrap_or(Err(Failure::ConnectTimeout))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn an_address_that_says_nothing_holds_up_no_other() {
        let at = |last| SocketAddr::from(([192, 0, 2, last], 443));
        let all: Vec<SocketAddr> = (1..=4).map(at).collect();
        let limit = Duration::from_secs(60);
        runtime::block_on(async {
            let begun = runtime::now().mono;
            let tried = Cell::new(0);
            let open = async |address, _| {
                tried.set(tried.get() + 1);
                match address {
                    one if one == at(1) => std::future::pending().await,
                    two if two == at(2) => Err(Failure::Connect),
                    _ => Ok("open"),
                }
            };
            assert_eq!(race(all.clone(), limit, open).await, Ok((at(3), "open")));
            assert_eq!(tried.get(), 3, "one that refuses is waited for no longer");
            assert!(runtime::now().mono.since(begun) < limit / 2);
            // Who is late may be the one all the same.
            let late = async |address, _| match address {
                one if one == at(1) => {
                    runtime::sleep(2 * HEAD_START).await;
                    Ok("late")
                }
                _ => Err(Failure::ConnectTimeout),
            };
            assert_eq!(race(all.clone(), limit, late).await, Ok((at(1), "late")));
            let none = async |_, _| Err::<(), _>(Failure::Connect);
            assert_eq!(race(all, limit, none).await, Err(Failure::Connect));
        })
        .unwrap();
    }

    #[test]
    fn this_machine_and_its_link_are_not_outside() {
        let inside =
            ["127.0.0.1", "127.9.9.9", "0.0.0.0", "169.254.169.254", "::1", "::", "fe80::1", "::ffff:127.0.0.1"];
        let outside = ["192.0.2.1", "10.0.0.7", "2001:db8::1", "::ffff:192.0.2.1"];
        for ip in inside {
            assert!(is_inside(ip.parse().unwrap()), "{ip}");
        }
        for ip in outside {
            assert!(!is_inside(ip.parse().unwrap()), "{ip}");
        }
    }
}
