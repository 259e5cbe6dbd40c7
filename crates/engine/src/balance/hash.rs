// SPDX-License-Identifier: Apache-2.0
//! Which endpoint a key belongs to: a ring (Karger et al., "Consistent Hashing and Random Trees", STOC
//! 1997; as ketama, each endpoint has many points on it) or Maglev's table (Eisenbud et al., "Maglev: A Fast
//! and Reliable Software Network Load Balancer", NSDI 2016, 3.4). Built once by `compile`. All proxies build
//! the same from the same endpoints, so that a key finds its endpoint whichever proxy it comes by.

use crate::cluster::Member;
use crate::node::{Arrival, Side};
use byrnie_codec::{Head, Known};
use byrnie_model::policy::traffic::{Balance, HashOn};
use std::num::NonZeroU64;
use std::sync::Arc;

/// The order in which a key's endpoints come.
#[derive(Debug, Default)]
pub(crate) enum Table {
    /// The cluster's rule doesn't hash.
    #[default]
    None,
    /// Points in their order, each with the index of its member.
    Ring(Box<[(u64, u32)]>),
    /// The index of a member for each place.
    Maglev(Box<[u32]>),
}

/// Points on the ring for a member of weight 1: the shares of a hundred members differ by some 8 %.
const RING_POINTS: u64 = 160;
/// Points on a ring in all; beyond, every member has half as many, and so on.
const RING_POINTS_MAX: u64 = 1 << 18;
/// Places of the table: a prime, which the paper wants to be at least a hundred times the members.
const MAGLEV_PLACES: u64 = 65_537;
/// Places of the table for more than 655 members.
const MAGLEV_PLACES_MANY: u64 = 655_373;

impl Table {
    pub(crate) fn new(balance: Balance, members: &[Arc<Member>]) -> Self {
        match balance {
            Balance::RingHash if !members.is_empty() => Self::Ring(ring(members)),
            Balance::Maglev if !members.is_empty() => Self::Maglev(maglev(members)),
            _ => Self::None,
        }
    }

    /// The members to ask for `key`, first choice first; one may come more than once, and all of a cluster
    /// come sooner or later.
    pub(crate) fn walk(&self, key: NonZeroU64) -> impl Iterator<Item = usize> {
        let (ring, table): (&[(u64, u32)], &[u32]) = match self {
            Self::None => (&[], &[]),
            Self::Ring(ring) => (ring, &[]),
            Self::Maglev(table) => (&[], table),
        };
        let start = ring.partition_point(|(point, _)| *point < key.get());
        let on_ring = ring[start..].iter().chain(&ring[..start]).map(|(_, member)| *member);
        let place = usize::try_from(key.get() % (table.len() as u64).max(1)).unwrap_or(0);
        let in_table = table[place..].iter().chain(&table[..place]).copied();
        on_ring.chain(in_table).map(|member| member as usize)
    }
}

fn weight(member: &Member) -> u64 {
    u64::from(member.endpoint.weight.max(1))
}

fn ring(members: &[Arc<Member>]) -> Box<[(u64, u32)]> {
    // Weights in lowest terms: a member that leaves changes nobody else's points.
    let unit = members.iter().map(|m| weight(m)).fold(0, gcd).max(1);
    let total: u64 = members.iter().map(|m| weight(m) / unit * RING_POINTS).sum();
    let halvings = (0..32).find(|n| total >> n <= RING_POINTS_MAX).unwrap_or(32);
    let mut points = Vec::new();
    for (index, member) in members.iter().enumerate() {
        let own = hash(member.endpoint.workload.as_bytes(), 0);
        let count = ((weight(member) / unit * RING_POINTS) >> halvings).max(1);
        points.extend((0..count).map(|n| (mix(own ^ mix(n)), index as u32)));
    }
    // Equal points fall to the same member for everybody.
    points.sort_unstable_by_key(|(point, index)| (*point, &members[*index as usize].endpoint.workload));
    points.into()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Each member has a permutation of all places and takes the first free one of it, in turns; of heavier
/// members the turn comes more often.
fn maglev(members: &[Arc<Member>]) -> Box<[u32]> {
    let places = if members.len() > 655 { MAGLEV_PLACES_MANY } else { MAGLEV_PLACES };
    let heaviest = members.iter().map(|m| weight(m)).max().unwrap_or(1);
    // In the order of their names, which all proxies share.
    let mut order: Vec<u32> = (0..members.len() as u32).collect();
    order.sort_unstable_by(|a, b| members[*a as usize].name().cmp(members[*b as usize].name()));
    struct Turn {
        next: u64,
        skip: u64,
        credit: u64,
    }
    let mut turns: Vec<Turn> = members
        .iter()
        .map(|member| {
            let name = member.endpoint.workload.as_bytes();
            Turn { next: hash(name, 1) % places, skip: hash(name, 2) % (places - 1) + 1, credit: 0 }
        })
        .collect();
    let mut table = vec![u32::MAX; usize::try_from(places).unwrap_or(0)];
    let mut filled = 0;
    while filled < table.len() {
        for index in &order {
            let turn = &mut turns[*index as usize];
            turn.credit += weight(&members[*index as usize]);
            if turn.credit < heaviest || filled == table.len() {
                continue;
            }
            turn.credit -= heaviest;
            while table[turn.next as usize] != u32::MAX {
                turn.next = (turn.next + turn.skip) % places;
            }
            table[turn.next as usize] = *index;
            filled += 1;
        }
    }
    table.into()
}

/// FNV-1a (Fowler, Noll, Vo), finished by the mixer of SplitMix64, so that near texts lie far apart.
pub(crate) fn hash(bytes: &[u8], seed: u64) -> u64 {
    let start = 0xCBF2_9CE4_8422_2325 ^ mix(seed);
    mix(bytes.iter().fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3)))
}

fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The key of a request; `None` if it lacks what is to be hashed.
pub(crate) fn key(on: &HashOn, head: &Head, arrival: &Arrival<'_>, own: &str) -> Option<NonZeroU64> {
    let hashed = match on {
        HashOn::Header(name) => hash(head.get(name)?, 0),
        HashOn::Cookie(name) => {
            let pairs = head.values(Known::Cookie.name()).flat_map(|line| line.split(|b| *b == b';'));
            hash(pairs.filter_map(|pair| named(pair.trim_ascii(), name)).next()?, 0)
        }
        HashOn::Query(name) => hash(head.query()?.split('&').find_map(|pair| named(pair.as_bytes(), name))?, 0),
        HashOn::Source => match (arrival.source, arrival.direction.side()) {
            (Some(identity), _) => hash(identity.to_string().as_bytes(), 0),
            (None, Side::Outbound) => hash(own.as_bytes(), 0),
            (None, _) => match arrival.remote.ip() {
                std::net::IpAddr::V4(ip) => hash(&ip.octets(), 0),
                std::net::IpAddr::V6(ip) => hash(&ip.octets(), 0),
            },
        },
    };
    NonZeroU64::new(hashed.max(1))
}

/// The value in `NAME=VALUE`.
fn named<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
    pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
}
