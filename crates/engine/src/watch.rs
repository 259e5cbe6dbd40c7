// SPDX-License-Identifier: Apache-2.0
//! What checks find of the addresses of a host outside the mesh. Those that fail are left out; once all do, calls are refused at once
//! instead of waiting for a host that can't work. As among instances (`endpoints.panicBelow`), health is ignored where less than a share
//! of them passes.

use crate::Member;
use crate::balance::hash::hash;
use crate::probe::{Checked, Judged, Probe};
use crate::program::Security;
use byrnie_base::Text;
use byrnie_base::share::Line;
use byrnie_model::Protocol;
use byrnie_model::policy::HealthCheck;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Most addresses of a host that are found sick; more count as well.
const SICK_MAX: usize = 2 * Line::LEN;

/// What is thought of a host's addresses, for every core of the process: one task writes, all read.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// Hashes of those that fail; 0: a free place.
    sick: [Line; 2],
    /// In its first place how many addresses there are.
    count: Line,
}

impl Health {
    pub(crate) fn judge(&self, ip: IpAddr, well: bool) {
        let place = match (self.place(key(ip)), well) {
            (Some(place), true) => Some((place, 0)),
            (None, false) => self.place(0).map(|place| (place, key(ip))),
            _ => None,
        };
        if let Some((place, value)) = place {
            self.sick[place / Line::LEN].set(place % Line::LEN, value);
        }
    }

    fn place(&self, value: u64) -> Option<usize> {
        (0..SICK_MAX).find(|place| self.sick[place / Line::LEN].value(place % Line::LEN) == value)
    }

    fn is_sick(&self, ip: IpAddr) -> bool {
        self.place(key(ip)).is_some()
    }

    /// How many addresses there are, and how many of them fail.
    fn counts(&self) -> (u64, u64) {
        let failing = |line: &Line| (0..Line::LEN).filter(|place| line.value(*place) != 0).count() as u64;
        let all = self.count.value(0);
        (all, self.sick.iter().map(failing).sum::<u64>().min(all))
    }
}

fn key(ip: IpAddr) -> u64 {
    let bytes = match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    hash(&bytes, 0).max(1)
}

/// How a host's health bears on calls to it.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    pub(crate) health: Arc<Health>,
    /// Where less than this share (percent) passes, health is ignored.
    pub(crate) panic_percent: u8,
}

impl PartialEq for Watch {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.health, &other.health) && self.panic_percent == other.panic_percent
    }
}

impl Eq for Watch {}

impl Watch {
    /// Whether there is nobody to ask.
    pub(crate) fn is_sick(&self) -> bool {
        let (all, sick) = self.health.counts();
        sick > 0 && sick == all && self.panic_percent == 0
    }

    /// Leaves those that may be asked: all of them, if none would be left.
    pub(crate) fn choose(&self, addresses: &mut Vec<SocketAddr>) {
        let (all, sick) = self.health.counts();
        let panics = (all - sick) * 100 < u64::from(self.panic_percent) * all;
        if sick > 0 && !panics && addresses.iter().any(|at| !self.health.is_sick(at.ip())) {
            addresses.retain(|at| !self.health.is_sick(at.ip()));
        }
    }
}

/// A host outside that is to be checked at each of its addresses.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Its name, or its address.
    pub host: Text,
    pub(crate) port: u16,
    pub(crate) protocol: Protocol,
    pub(crate) security: Security,
    pub(crate) authority: Option<Text>,
    pub(crate) check: HealthCheck,
    pub(crate) health: Arc<Health>,
    /// Where it is, as far as that is known.
    pub addresses: Vec<IpAddr>,
    /// The endpoints at its addresses, if it has several.
    pub(crate) members: Vec<Arc<Member>>,
}

impl Watched {
    /// The check of one of its addresses.
    pub fn at(&self, ip: IpAddr) -> Checked {
        let probe = Probe {
            address: SocketAddr::new(ip, self.port),
            protocol: self.protocol,
            security: self.security.clone(),
            authority: self.authority.clone(),
            check: self.check.clone(),
        };
        let members = self.members.iter().filter(|member| member.address().ip() == ip).map(Arc::clone).collect();
        Checked { probe, judged: Judged::Host(Arc::clone(&self.health), ip, members) }
    }

    /// It has so many addresses that are checked; 0: nothing is known.
    pub fn located(&self, count: usize) {
        self.health.count.set(0, count as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 443))
    }

    fn left(watch: &Watch, count: u8) -> Vec<u8> {
        let mut addresses = (1..=count).map(at).collect();
        watch.choose(&mut addresses);
        let last = |at: &SocketAddr| match at.ip() {
            IpAddr::V4(v4) => v4.octets()[3],
            IpAddr::V6(_) => 0,
        };
        addresses.iter().map(last).collect()
    }

    #[test]
    fn who_fails_is_left_out_and_once_all_do_nobody_is_asked() {
        let watch = Watch { health: Arc::default(), panic_percent: 0 };
        assert_eq!((left(&watch, 2), watch.is_sick()), (vec![1, 2], false), "nothing is known");
        watch.health.count.set(0, 2);
        watch.health.judge(at(1).ip(), false);
        watch.health.judge(at(1).ip(), false);
        assert_eq!((left(&watch, 2), watch.is_sick()), (vec![2], false));
        // One that was only just found isn't judged by the others.
        assert_eq!(left(&watch, 3), [2, 3]);
        watch.health.judge(at(2).ip(), false);
        assert!(watch.is_sick());
        let panics = Watch { panic_percent: 1, ..watch.clone() };
        assert_eq!((left(&panics, 2), panics.is_sick()), (vec![1, 2], false), "health is ignored");
        watch.health.judge(at(1).ip(), true);
        assert_eq!((left(&watch, 2), watch.is_sick()), (vec![1], false));
        let half = Watch { panic_percent: 51, ..watch.clone() };
        assert_eq!(left(&half, 2), [1, 2]);
    }

    #[test]
    fn no_more_addresses_are_found_sick_than_there_is_room_for() {
        let watch = Watch { health: Arc::default(), panic_percent: 0 };
        watch.health.count.set(0, 20);
        (1..=20).for_each(|last| watch.health.judge(at(last).ip(), false));
        assert_eq!((left(&watch, 20), watch.is_sick()), (vec![17, 18, 19, 20], false));
        (1..=20).for_each(|last| watch.health.judge(at(last).ip(), true));
        assert_eq!(left(&watch, 20).len(), 20);
    }
}
