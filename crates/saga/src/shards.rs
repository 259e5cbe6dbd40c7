// SPDX-License-Identifier: Apache-2.0
//! Who drives which transactions where several coordinators share one journal. Each transaction belongs to a shard; a
//! coordinator drives the shards that it holds by leases, whose clock is the journal's. Every take-over begins a new
//! epoch, and a write counts only in its shard's newest: whoever was deposed without noticing writes nothing more.

#[cfg(test)]
mod tests;

use byrnie_base::{Instant, Text};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Shards of a journal; also the most coordinators that find work.
pub const SHARDS: u16 = 64;
/// How long a shard stays with a coordinator that isn't heard of.
pub const LEASE: Duration = Duration::from_secs(3);
/// How often a coordinator is heard of.
pub const BEAT: Duration = Duration::from_millis(750);

/// The right to write the transactions of a shard, until somebody else takes it over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term {
    /// Which shard.
    pub shard: u16,
    /// Grows with every change of hands.
    pub epoch: u64,
}

/// What a coordinator has the journal do, in this order, as one step. By it what it has stays its own for another [`LEASE`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// Who it is; a name that no other process has, or has had.
    pub name: Text,
    /// Terms that it gives back.
    pub give: Vec<Term>,
    /// It goes, and is a member no more.
    pub leaves: bool,
    /// Shards that it wants to take over: those that are its own or nobody's by then.
    pub take: Vec<u16>,
}

/// How things stand after a [`Beat`], by the journal's clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Board {
    /// Terms that began by this beat.
    pub taken: Vec<Term>,
    /// Every shard that somebody has ever held.
    pub seats: Vec<Seat>,
    /// Coordinators that were heard of within [`LEASE`], whoever asks among them.
    pub members: BTreeSet<Text>,
}

/// Who holds a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Its newest term.
    pub term: Term,
    /// Whose that is; nobody's if it was given back, or the owner isn't a member any more.
    pub owner: Option<Text>,
}

/// What a coordinator holds, and what it does next about it.
#[derive(Clone, Debug)]
pub struct Tenure {
    name: Text,
    lease: Option<Duration>,
    held: BTreeMap<u16, Held>,
    /// How many there are.
    shards: u16,
    take: Vec<u16>,
    give: Vec<Term>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    epoch: u64,
    /// By the own clock; reckoned from before the question, so never later than by the journal's.
    until: Option<Instant>,
}

/// What has changed by a board.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Terms that began: their transactions are to be read and driven.
    pub gained: Vec<Term>,
    /// Terms that are over, or given back with the next beat: nothing is called or written for them any more.
    pub lost: Vec<Term>,
    /// Whether there is something to give or to take at once.
    pub again: bool,
}

impl Tenure {
    /// Of a coordinator that holds nothing yet. Without a `lease` what is held stays: nobody else can open the journal.
    /// One shard is enough then.
    pub const fn new(name: Text, lease: Option<Duration>) -> Self {
        let shards = if lease.is_some() { SHARDS } else { 1 };
        Self { name, lease, held: BTreeMap::new(), shards, take: Vec::new(), give: Vec::new() }
    }

    /// What to ask the journal next.
    pub fn beat(&self) -> Beat {
        Beat { name: self.name.clone(), leaves: false, give: self.give.clone(), take: self.take.clone() }
    }

    /// The last thing to ask: everything is given back. Nothing is held from now on.
    pub fn leave(&mut self) -> Beat {
        let give = self.drop_all();
        Beat { name: self.name.clone(), leaves: true, give, ..Beat::default() }
    }

    /// The journal has answered a beat that was asked at `asked`.
    pub fn on_board(&mut self, asked: Instant, board: &Board) -> Change {
        let mut change = Change { lost: self.keep(asked, board), ..Change::default() };
        for term in &board.taken {
            self.held.insert(term.shard, Held { epoch: term.epoch, until: self.until(asked) });
            change.gained.push(*term);
        }
        let fair = Fair::of(board, &self.name, self.shards);
        self.give = self.surplus(&fair);
        for term in &self.give {
            self.held.remove(&term.shard);
        }
        self.take = if self.give.is_empty() { self.wanted(board, &fair) } else { Vec::new() };
        change.lost.extend(&self.give);
        let stray = self.strays(board);
        self.give.extend(stray);
        change.again = !(self.give.is_empty() && self.take.is_empty());
        change
    }

    /// Drops what the own clock says is over. To be asked after a beat that was not answered.
    pub fn lapse(&mut self, now: Instant) -> Vec<Term> {
        self.drop_where(|_, held| held.until.is_some_and(|until| until <= now))
    }

    /// A write in this term was refused, as somebody else has taken over: whether it was held.
    pub fn depose(&mut self, term: Term) -> bool {
        !self.drop_where(|shard, held| (Term { shard, epoch: held.epoch }) == term).is_empty()
    }

    /// Nobody knows what of the last writes was made: everything is dropped, and taken over anew, which waits for those.
    pub fn drop_all(&mut self) -> Vec<Term> {
        self.drop_where(|_, _| true)
    }

    /// The term in which a shard is driven here.
    pub fn term(&self, shard: u16, now: Instant) -> Option<Term> {
        let held = self.held.get(&shard)?;
        held.until.is_none_or(|until| now < until).then_some(Term { shard, epoch: held.epoch })
    }

    /// A term for something new, by a throw of the dice; none if nothing is held.
    pub fn any(&self, roll: u64, now: Instant) -> Option<Term> {
        let count = u64::try_from(self.held.len()).ok().filter(|count| *count > 0)?;
        let at = usize::try_from(roll % count).ok()?;
        self.held.keys().nth(at).and_then(|shard| self.term(*shard, now))
    }

    /// How many shards are held.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    fn until(&self, asked: Instant) -> Option<Instant> {
        self.lease.map(|lease| asked + lease)
    }

    /// Renews what the board confirms; what it doesn't is lost.
    fn keep(&mut self, asked: Instant, board: &Board) -> Vec<Term> {
        let until = self.until(asked);
        let mine = |seat: &&Seat| seat.owner.as_ref() == Some(&self.name);
        let mine: BTreeMap<u16, u64> =
            board.seats.iter().filter(mine).map(|seat| (seat.term.shard, seat.term.epoch)).collect();
        for (shard, held) in &mut self.held {
            if mine.get(shard) == Some(&held.epoch) {
                held.until = until;
            }
        }
        self.drop_where(|shard, held| mine.get(&shard) != Some(&held.epoch))
    }

    fn surplus(&self, fair: &Fair) -> Vec<Term> {
        let count = self.held.len();
        let more = count.saturating_sub(fair.most).max(usize::from(fair.yields && count > fair.least));
        let held = self.held.iter().rev().take(more);
        held.map(|(shard, held)| Term { shard: *shard, epoch: held.epoch }).collect()
    }

    /// Shards that nobody has, up to the fair part, each coordinator from another one on: so they seldom meet. What is one's
    /// own on the board and not held belongs to an answer that was lost, and is taken anew.
    fn wanted(&self, board: &Board, fair: &Fair) -> Vec<u16> {
        let others: BTreeSet<u16> = board
            .seats
            .iter()
            .filter(|seat| seat.owner.as_ref().is_some_and(|owner| *owner != self.name))
            .map(|seat| seat.term.shard)
            .collect();
        let free = |shard: &u16| !others.contains(shard) && !self.held.contains_key(shard);
        let part = if fair.spare { fair.most } else { fair.least };
        let room = part.saturating_sub(self.held.len());
        (fair.first..self.shards).chain(0..fair.first).filter(free).take(room).collect()
    }

    /// What is one's own on the board, and neither held nor to be taken anew: to be given back, as nobody drives it.
    fn strays(&self, board: &Board) -> Vec<Term> {
        let own = board.seats.iter().filter(|seat| seat.owner.as_ref() == Some(&self.name)).map(|seat| seat.term);
        let stray = |term: &Term| !self.held.contains_key(&term.shard) && !self.take.contains(&term.shard);
        own.filter(stray).filter(|term| !self.give.contains(term)).collect()
    }

    fn drop_where(&mut self, over: impl Fn(u16, &Held) -> bool) -> Vec<Term> {
        let mut dropped = Vec::new();
        self.held.retain(|shard, held| {
            let over = over(*shard, held);
            if over {
                dropped.push(Term { shard: *shard, epoch: held.epoch });
            }
            !over
        });
        dropped
    }
}

/// What would be a fair part of the shards.
struct Fair {
    least: usize,
    most: usize,
    /// Somebody has less than `least`, nothing is free, and it's this one's turn to give one of what it has more.
    yields: bool,
    /// More is free than others lack.
    spare: bool,
    /// From which shard on this one looks for free ones.
    first: u16,
}

impl Fair {
    fn of(board: &Board, name: &Text, shards: u16) -> Self {
        let (all, members) = (usize::from(shards), board.members.len().max(1));
        let (least, most) = (all / members, all.div_ceil(members));
        let mut counts: BTreeMap<&Text, usize> = board.members.iter().map(|member| (member, 0)).collect();
        for owner in board.seats.iter().filter_map(|seat| seat.owner.as_ref()) {
            *counts.entry(owner).or_default() += 1;
        }
        let free = all.saturating_sub(counts.values().sum());
        let lacking: usize = counts.values().map(|count| least.saturating_sub(*count)).sum();
        let mut rich = counts.iter().filter(|(_, count)| **count > least).map(|(member, _)| *member);
        let yields = rich.position(|member| member == name).is_some_and(|at| at < lacking.saturating_sub(free));
        let rank = board.members.iter().position(|member| member == name).unwrap_or(0);
        let first = u16::try_from(rank * all / members).unwrap_or(0) % shards;
        Self { least, most, yields, spare: free > lacking, first }
    }
}
