// SPDX-License-Identifier: Apache-2.0
//! A zone that is lost takes all its endpoints with it. Found one by one, each would cost a request its first try, and
//! in a large mesh there are more of them than requests before the registry knows. So a core counts, over all services,
//! the tries in a zone that nobody answered: after enough of them in a row, at enough endpoints, the zone is left out as
//! a whole and comes back through one probe, as an endpoint does. Any answer, an error included, shows that it lives.
//! If no other zone is left, nothing changes: `balance` asks all then.

use super::PROBE_MAX;
use crate::Failure;
use crate::attempts::Ending;
use crate::cluster::Member;
use crate::shard::Shard;
use byrnie_base::Instant;
use byrnie_model::service::Locality;
use std::time::Duration;

/// Tries without an answer, one after the other, after which a zone counts as lost. Where a third of the endpoints of
/// every zone is down, so many meet in one of 6,500 cases.
const ROW_MIN: u32 = 8;
/// Among them must be so many endpoints: fewer are a matter for each of them.
const ENDPOINTS_MIN: usize = 4;
/// How long a zone is left out before it's asked again: a probe costs one request its first try.
const SPAN: Duration = Duration::from_secs(1);
/// Zones that a proxy tells apart. More of them, and those without a name, are never left out.
const ZONES_MAX: usize = 63;

/// A zone, by the order in which this proxy heard of it; 0 if it has no name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ZoneNumber(u8);

/// Which zone has which number.
#[derive(Debug, Default)]
pub(crate) struct ZoneNumbers(Vec<Locality>);

impl ZoneNumbers {
    /// The number of a zone. It keeps it as long as the process runs.
    pub(crate) fn number(&mut self, locality: &Locality) -> ZoneNumber {
        if locality.zone.is_empty() {
            return ZoneNumber::default();
        }
        let known = self.0.iter().position(|known| known == locality);
        let at = known.or_else(|| {
            (self.0.len() < ZONES_MAX).then(|| {
                self.0.push(locality.clone());
                self.0.len() - 1
            })
        });
        ZoneNumber(at.and_then(|at| u8::try_from(at + 1).ok()).unwrap_or(0))
    }
}

/// Several zones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ZoneSet(u64);

impl ZoneSet {
    /// No zone.
    pub(crate) const NONE: Self = Self(0);

    /// Those of which nobody has answered since then.
    pub(crate) fn unheard(self, shard: &Shard, then: Instant) -> Self {
        let heard = |(at, zone): (usize, &Zone)| (zone.heard > then).then_some(1 << at);
        Self(self.0 & !shard.zones.zones.iter().enumerate().filter_map(heard).fold(0, |all: u64, one| all | one))
    }

    /// The same and one more, if that has a name.
    pub(crate) const fn with(self, zone: ZoneNumber) -> Self {
        Self((self.0 | 1 << zone.0) & !1)
    }

    const fn without(self, zone: ZoneNumber) -> Self {
        Self(self.0 & !(1 << zone.0))
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) const fn has(self, zone: ZoneNumber) -> bool {
        self.0 >> zone.0 & 1 == 1
    }
}

/// What a core knows of all zones.
#[derive(Debug, Default)]
pub(crate) struct Zones {
    zones: Vec<Zone>,
    /// Those that are left out or to be probed.
    out: ZoneSet,
    /// When anybody last answered, in whatever zone.
    pub(crate) heard: Instant,
}

/// What a core knows of one zone.
#[derive(Clone, Debug, Default)]
struct Zone {
    /// Tries without an answer since the last one with.
    row: u32,
    /// At whom, by slot: the last ones that differ.
    silent: Vec<u32>,
    /// It's left out from then,
    since: Instant,
    /// until then.
    until: Instant,
    /// When its probe was sent.
    probed: Option<Instant>,
    /// When somebody there last answered.
    heard: Instant,
}

impl Zones {
    fn zone(&mut self, index: usize) -> &mut Zone {
        if self.zones.len() <= index {
            self.zones.resize_with(index + 1, Zone::default);
        }
        &mut self.zones[index]
    }
}

/// Whether the endpoint's zone is left out now.
pub(crate) fn out(shard: &Shard, member: &Member, now: Instant) -> bool {
    let zones = &shard.zones;
    zones.out.has(member.zone)
        && zones
            .zones
            .get(usize::from(member.zone.0))
            .is_some_and(|zone| zone.until > now || zone.probed.is_some_and(|at| now.since(at) < PROBE_MAX))
}

/// Whether any zone is left out.
pub(crate) const fn any(shard: &Shard) -> bool {
    !shard.zones.out.is_empty()
}

/// The endpoint gets a try: the probe of its zone, if that is to prove itself.
pub(crate) fn chosen(shard: &mut Shard, member: &Member, now: Instant) {
    if shard.zones.out.has(member.zone)
        && let Some(zone) = shard.zones.zones.get_mut(usize::from(member.zone.0))
        && zone.until <= now
    {
        zone.probed = Some(now);
    }
}

/// Takes note of how a try ended, after `span`.
pub(crate) fn note(shard: &mut Shard, member: &Member, ending: Ending, span: Duration, now: Instant) {
    match ending {
        Ending::Failed(failure) if is_silence(failure) => silent(shard, member, now),
        Ending::Status(_) | Ending::Closed | Ending::Failed(Failure::Refused | Failure::TlsIdentity) => {
            alive(shard, member, span, now);
        }
        Ending::Failed(_) | Ending::Beaten => {}
    }
}

/// Whether it is what one sees of a machine or network that is gone.
const fn is_silence(failure: Failure) -> bool {
    matches!(
        failure,
        Failure::Connect | Failure::ConnectTimeout | Failure::ResetBeforeHead { .. } | Failure::TryTimeout
    )
}

fn silent(shard: &mut Shard, member: &Member, now: Instant) {
    let index = usize::from(member.zone.0);
    if index == 0 {
        return;
    }
    let zone = shard.zones.zone(index);
    zone.row = zone.row.saturating_add(1);
    let slot = member.slot.index;
    if !zone.silent.contains(&slot) && zone.silent.len() < ENDPOINTS_MIN {
        zone.silent.push(slot);
    }
    let (until, due) = (zone.until, zone.row >= ROW_MIN && zone.silent.len() >= ENDPOINTS_MIN);
    let was_out = shard.zones.out.has(member.zone);
    if was_out && until > now {
        // Asked before, or for want of another.
        return;
    }
    if was_out || due {
        let zone = shard.zones.zone(index);
        (zone.since, zone.until, zone.probed) = (now, now + SPAN, None);
        shard.zones.out = shard.zones.out.with(member.zone);
    }
}

fn alive(shard: &mut Shard, member: &Member, span: Duration, now: Instant) {
    shard.zones.heard = now;
    let is_out = shard.zones.out.has(member.zone);
    let zone = shard.zones.zone(usize::from(member.zone.0));
    zone.heard = now;
    // An answer to what was asked before it was left out says nothing new.
    if zone.row == 0 || is_out && now.since(zone.since) < span {
        return;
    }
    zone.row = 0;
    zone.silent.clear();
    zone.probed = None;
    shard.zones.out = shard.zones.out.without(member.zone);
}

#[cfg(test)]
mod tests;
