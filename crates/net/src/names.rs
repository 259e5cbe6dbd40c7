// SPDX-License-Identifier: Apache-2.0
//! Addresses of hosts outside the mesh, asked of the system's resolver and kept for a moment. One of these to a core.
//! The system tells no lifetimes, so answers are asked for anew every few seconds, as Envoy does
//! (`dns_refresh_rate`, 5 s); while nobody answers, what was known last goes on.

use crate::runtime;
use byrnie_base::{Instant, Text};
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, Semaphore, oneshot};

/// How long an answer counts.
pub const FRESH: Duration = Duration::from_secs(5);
/// How long an answer goes on counting while none can be had.
pub const STALE_MAX: Duration = Duration::from_secs(600);
/// How long nobody asks again for a host of which nothing could be learnt.
pub const PAUSE: Duration = Duration::from_secs(1);
/// Most time for an answer.
pub const LOOKUP_MAX: Duration = Duration::from_secs(3);
/// Hosts that are asked for at once. The system's resolver keeps a thread busy for each, also for one that nobody waits
/// for any more, and whoever may name many hosts must not take them all.
pub const LOOKUPS_MAX: usize = 32;
/// Hosts that are remembered; beyond, those are forgotten whose answer doesn't count any more, or else all.
pub const HOSTS_MAX: usize = 1024;
/// Addresses of one host that are used.
pub const ADDRESSES_MAX: usize = 16;

/// What one core knows of hosts outside.
#[derive(Debug)]
pub struct Names {
    hosts: RefCell<HashMap<Text, Rc<Host>>>,
    lookups: Arc<Semaphore>,
}

impl Default for Names {
    fn default() -> Self {
        Self { hosts: RefCell::default(), lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)) }
    }
}

#[derive(Debug, Default)]
struct Host {
    /// Held while it's asked for, so that a burst asks once.
    asking: Mutex<()>,
    known: RefCell<Option<Known>>,
    failed: RefCell<Option<Instant>>,
}

#[derive(Debug)]
struct Known {
    addresses: Vec<IpAddr>,
    since: Instant,
}

impl Names {
    /// The addresses of `host`, at least one, the one to be tried first at the beginning.
    ///
    /// # Errors
    /// If none can be learnt, and none was known lately.
    pub async fn lookup(&self, host: &Text) -> io::Result<Vec<IpAddr>> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        // RFC 6761 6.3: these are this machine, and no resolver need know it.
        if host.ends_with(".localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let entry = self.entry(host);
        if let Some(fresh) = entry.younger_than(FRESH) {
            return Ok(fresh);
        }
        let _asking = entry.asking.lock().await;
        if let Some(fresh) = entry.younger_than(FRESH) {
            return Ok(fresh);
        }
        let now = runtime::now().mono;
        let lately = entry.failed.borrow().is_some_and(|at| now.since(at) < PAUSE);
        let asked = if lately { Err(absent(host)) } else { self.ask(host).await };
        match asked {
            Ok(addresses) => {
                *entry.failed.borrow_mut() = None;
                *entry.known.borrow_mut() = Some(Known { addresses: addresses.clone(), since: runtime::now().mono });
                Ok(addresses)
            }
            Err(error) => {
                if !lately {
                    *entry.failed.borrow_mut() = Some(runtime::now().mono);
                }
                entry.younger_than(STALE_MAX).ok_or(error)
            }
        }
    }

    /// Puts the address that answered before the others.
    pub fn prefer(&self, host: &Text, address: IpAddr) {
        let entry = self.entry(host);
        let mut known = entry.known.borrow_mut();
        let Some(Known { addresses, .. }) = &mut *known else { return };
        if let Some(at) = addresses.iter().position(|other| *other == address) {
            addresses[..=at].rotate_right(1);
        }
    }

    fn entry(&self, host: &Text) -> Rc<Host> {
        let mut hosts = self.hosts.borrow_mut();
        if hosts.len() >= HOSTS_MAX && !hosts.contains_key(host) {
            hosts.retain(|_, host| host.younger_than(FRESH).is_some() || Rc::strong_count(host) > 1);
        }
        if hosts.len() >= HOSTS_MAX && !hosts.contains_key(host) {
            hosts.clear();
        }
        Rc::clone(hosts.entry(host.clone()).or_default())
    }

    async fn ask(&self, host: &Text) -> io::Result<Vec<IpAddr>> {
        let asked = async {
            // The semaphore is never closed, so no permit means none is needed.
            let permit = Arc::clone(&self.lookups).acquire_owned().await.ok();
            let (tell, told) = oneshot::channel();
            let name = host.clone();
            // By itself, so that the permit is held for as long as the thread.
            runtime::spawn_local("lookup", async move {
                let found = tokio::net::lookup_host((name.as_str(), 0)).await.map(distinct);
                drop(permit);
                // Nobody waits any more.
                let _ = tell.send(found);
            });
            told.await.unwrap_or_else(|_| Err(absent(host)))
        };
        let found =
            runtime::timeout(LOOKUP_MAX, asked).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        if found.is_empty() { Err(absent(host)) } else { Ok(found) }
    }
}

impl Host {
    fn younger_than(&self, age: Duration) -> Option<Vec<IpAddr>> {
        let known = self.known.borrow();
        let known = known.as_ref().filter(|known| runtime::now().mono.since(known.since) < age)?;
        Some(known.addresses.clone())
    }
}

fn distinct(found: impl Iterator<Item = SocketAddr>) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found.map(|address| address.ip()) {
        if !addresses.contains(&address) && addresses.len() < ADDRESSES_MAX {
            addresses.push(address);
        }
    }
    addresses
}

fn absent(host: &Text) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no address is known of {host}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_found_kept_and_put_in_order() {
        runtime::block_on(async {
            let names = Names::default();
            let local = Text::from("localhost");
            let found = names.lookup(&local).await.unwrap();
            assert!(found.iter().all(IpAddr::is_loopback) && !found.is_empty(), "{found:?}");
            let both = [IpAddr::from([127, 0, 0, 1]), Ipv6Addr::LOCALHOST.into()];
            assert_eq!(names.lookup(&"a.b.localhost".into()).await.unwrap(), both);
            let literal: IpAddr = "192.0.2.7".parse().unwrap();
            assert_eq!(names.lookup(&"192.0.2.7".into()).await.unwrap(), [literal]);
            let [a, b, c]: [IpAddr; 3] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(|text| text.parse().unwrap());
            let known = Known { addresses: vec![a, b, c], since: runtime::now().mono };
            *names.entry(&local).known.borrow_mut() = Some(known);
            names.prefer(&local, c);
            assert_eq!(names.lookup(&local).await.unwrap(), [c, a, b]);
        })
        .unwrap();
    }

    #[test]
    fn many_hosts_do_not_push_out_one_whose_answer_counts() {
        let names = Names::default();
        let kept: IpAddr = "192.0.2.1".parse().unwrap();
        let (host, since) = (Text::from("a.test"), runtime::now().mono);
        *names.entry(&host).known.borrow_mut() = Some(Known { addresses: vec![kept], since });
        (0..2 * HOSTS_MAX).for_each(|n| drop(names.entry(&format!("{n}.test").into())));
        assert_eq!(names.entry(&host).younger_than(FRESH), Some(vec![kept]));
        assert!(names.hosts.borrow().len() <= HOSTS_MAX);
    }

    #[test]
    fn what_was_known_lately_counts_while_nobody_answers() {
        runtime::block_on(async {
            let names = Names::default();
            // RFC 6761 6.4: no resolver may find it.
            let host = Text::from("nothing.invalid");
            assert!(names.lookup(&host).await.is_err());
            let kept: IpAddr = "192.0.2.1".parse().unwrap();
            let since = Instant::from_nanos(runtime::now().mono.as_nanos().saturating_sub(6_000_000_000));
            *names.entry(&host).known.borrow_mut() = Some(Known { addresses: vec![kept], since });
            assert_eq!(names.lookup(&host).await.unwrap(), [kept]);
        })
        .unwrap();
    }
}
