// SPDX-License-Identifier: Apache-2.0
//! What a proxy does when it runs short of what it lives by itself: memory, files, processor time. Fed by its
//! core with what was measured; asked by exchanges and tunnels, and by the proxy for what it may save. On by
//! default. (What is too much for the program behind it is `concurrency`'s to say.)
//!
//! The order is that of Envoy's overload manager: first it saves (no connection is kept that isn't needed, no
//! body for another try, small buffers, no copies), then it refuses requests, the less important first, and
//! last it accepts no connection. Between its two bounds a class is refused by a share that grows in a straight
//! line, as Envoy's scaled triggers do: a threshold would let in all or none, in turns.
//!
//! Processor time shows as lag: by how much later than asked a core wakes up. One late wake-up says nothing (the
//! machine has others to serve), so the least lag of a window counts, as in "Controlling Queue Delay" (Nichols,
//! Jacobson, 2012): only a standing queue delays all of them. While most of what begins is asked by clients that have
//! never taken an answer, what the others ask counts one class higher here, and nothing of it is refused that matters to a user: a
//! crowd of them pays first for the lag that it makes, and the others too if that isn't enough after a while, for an answer is
//! soon taken. A caller's proxy tells the callee's which of its clients these are (`x-byrnie-newcomer`).

use crate::concurrency::{Criticality, RETRY_AFTER};
use crate::exchange::Exchange;
use crate::shard::Shard;
use crate::{Answer, Arrival, Reason, Side};
use byrnie_base::{Instant, Rng, Text};
use byrnie_codec::{Head, Known};
use std::time::Duration;

/// What a proxy runs short of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Short {
    /// Memory.
    Memory,
    /// Files, of which each connection is one.
    Files,
    /// Processor time.
    Time,
}

impl Short {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Files, Self::Time];

    /// The metric label `resource`. Stable.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Files => "files",
            Self::Time => "time",
        }
    }
}

/// What was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Bytes in use, and the most there may be; a most of 0: not known.
    pub memory: (u64, u64),
    /// Files in use, and the most there may be; a most of 0: not known.
    pub files: (u64, u64),
}

impl Reading {
    /// With what exchanges under way may still come to need.
    pub fn reserving(mut self, underway: usize) -> Self {
        self.memory.0 = self.memory.0.saturating_add((underway as u64).saturating_mul(RESERVE_BYTES));
        self
    }
}

/// How short a core's proxy is of each, in percent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Strain {
    percents: [u8; 3],
    lag: Lag,
    /// Most of what began in the last window was of strangers.
    crowded: bool,
    /// Since when all that they ask is refused for the lag, and it stands all the same.
    futile: Option<Instant>,
    /// It has been so for [`PATIENCE`], and the lag hasn't come down to where nothing ordinary is refused since.
    impatient: bool,
}

/// The least lag of a window.
#[derive(Clone, Copy, Debug, Default)]
struct Lag {
    least: Option<Duration>,
    wakes: u32,
    ends: Instant,
    /// What began within the window, of strangers and of others.
    began: [u32; 2],
}

/// From here on it saves, in percent.
const SAVES: u8 = 80;
/// From here on clients that do nothing have to make room, in percent: before anybody is refused who isn't less important
/// than others.
const EVICTS: u8 = bounds(Criticality::SheddablePlus).0;
/// Up to here a request that waits to be sent on is small, in bytes.
const SPARED_BYTES: usize = 64 * 1024;
/// From here on no connection is accepted.
const CLOSES: u8 = 95;
/// What is measured falls by so much at once at most: what was just freed is soon used again.
const FALL_MAX: u8 = 2;
/// So late is as late as can be.
const LAG_MAX: Duration = Duration::from_millis(500);
/// Lags are judged so much time at once.
const LAG_WINDOW: Duration = Duration::from_millis(500);
/// ... and so many wake-ups at once: a process that stood still as a whole (it was stopped, or its machine was) wakes up late once.
const LAG_WAKES_MIN: u32 = 2;
/// For so long a crowd of strangers is refused all that it asks before others pay too for a lag that stands: some thousand
/// connections take a second or two to be let in and told no.
const PATIENCE: Duration = Duration::from_secs(5);
/// Below this percentage nothing is refused, whatever it is.
const REFUSES_MIN: u8 = lag_bounds(Criticality::Sheddable).0;
/// So many exchanges of a core are let through whatever it is short of: then it isn't they who use it up.
const UNDERWAY_MIN: usize = 16;
/// What one more exchange may need at most, in bytes: a buffer each way, as large as `net` lets them grow.
const EXCHANGE_BYTES: u64 = 512 * 1024;
/// What each exchange under way is taken to come to need, in bytes: a buffer each way, of the least size.
const RESERVE_BYTES: u64 = 32 * 1024;
/// So many exchanges and connections may begin before it's measured anew, at most.
const CREDIT_MAX: u64 = 256;

/// From which percentage on some of a class are refused, and from which on all, of memory and files.
const fn bounds(class: Criticality) -> (u8, u8) {
    match class {
        Criticality::Sheddable => (80, 88),
        Criticality::SheddablePlus => (84, 91),
        Criticality::Critical => (88, 95),
        Criticality::CriticalPlus => (92, 98),
    }
}

/// The same of lag, where more is no danger but a pity.
const fn lag_bounds(class: Criticality) -> (u8, u8) {
    match class {
        Criticality::Sheddable => (20, 50),
        Criticality::SheddablePlus => (35, 65),
        Criticality::Critical => (50, 90),
        Criticality::CriticalPlus => (70, 100),
    }
}

impl Strain {
    /// Takes in what was measured.
    pub fn measured(&mut self, reading: &Reading) {
        let of = |(used, most): (u64, u64)| match most {
            0 => 0,
            _ => u8::try_from(u128::from(used) * 100 / u128::from(most)).unwrap_or(u8::MAX).min(100),
        };
        for (percent, now) in self.percents.iter_mut().zip([of(reading.memory), of(reading.files)]) {
            *percent = now.max(percent.saturating_sub(FALL_MAX));
        }
    }

    /// Takes in by how much the core woke up too late.
    pub fn woke(&mut self, late: Duration, now: Instant) {
        let least = self.lag.least.map_or(late, |least| least.min(late));
        self.lag.least = Some(least);
        self.lag.wakes += 1;
        if now >= self.lag.ends && self.lag.wakes >= LAG_WAKES_MIN {
            let [strangers, others] = self.lag.began;
            self.crowded = strangers > others;
            self.lag = Lag { ends: now + LAG_WINDOW, ..Lag::default() };
            let percent = least.min(LAG_MAX).as_micros() * 100 / LAG_MAX.as_micros();
            self.percents[2] = u8::try_from(percent).unwrap_or(100);
            let (well, all) = lag_bounds(Criticality::Critical);
            let futile = self.crowded && self.percents[2] >= all;
            self.futile = futile.then(|| self.futile.unwrap_or(now));
            let waited = self.futile.is_some_and(|since| now.since(since) >= PATIENCE);
            // That the others pay too is what helps, and no reason to let them off before it has.
            self.impatient = waited || self.impatient && self.percents[2] > well;
        }
    }

    /// An exchange or tunnel begins.
    const fn begins(&mut self, known: bool) {
        let count = &mut self.lag.began[known as usize];
        *count = count.saturating_add(1);
    }

    /// How short it is, in percent.
    pub const fn percent(&self, of: Short) -> u8 {
        self.percents[of as usize]
    }

    /// Whether nothing is to be kept that isn't needed. Processor time is no reason: to make connections anew
    /// takes more of it.
    pub fn saves(&self) -> bool {
        self.percents[0].max(self.percents[1]) >= SAVES
    }

    /// Whether exchanges that wait for their clients are to make room, the first to have waited first.
    pub fn evicts(&self) -> bool {
        self.percents[0] >= EVICTS
    }

    /// Whether a request of which so many bytes wait to be sent on may grow: a small one longer, but many of these are much too.
    pub fn gathers(&self, bytes: usize) -> bool {
        self.percents[0] < if bytes > SPARED_BYTES { SAVES } else { CLOSES }
    }

    /// Whether no connection is to be accepted.
    pub fn closes(&self) -> bool {
        self.percents[0].max(self.percents[1]) >= CLOSES
    }

    /// How many exchanges and connections may begin until it is to be measured again.
    pub fn credit(&self, reading: &Reading) -> u32 {
        u32::try_from((room(reading) / EXCHANGE_BYTES).clamp(1, CREDIT_MAX)).unwrap_or(1)
    }

    /// How many bytes may wait for one side of each of `underway` exchanges: if all of them grew by that much at once, and
    /// their buffers doubled, there would still be room.
    pub fn buffer_bytes(&self, reading: &Reading, underway: usize) -> usize {
        let each = room(reading) / (underway as u64 + CREDIT_MAX) / 2;
        usize::try_from(each).unwrap_or(usize::MAX)
    }

    /// What a request of this class is refused for, if it is; `known`: its client has taken an answer before.
    fn refuses(&self, class: Criticality, dice: &mut Rng, known: bool) -> Option<Short> {
        Short::ALL.into_iter().find(|short| {
            let percent = self.percent(*short);
            let (from, all) = match *short {
                Short::Time if known && self.crowded && !self.impatient && class >= Criticality::Critical => {
                    return false;
                }
                Short::Time if known && self.crowded => lag_bounds(class.higher()),
                Short::Time => lag_bounds(class),
                Short::Memory | Short::Files => bounds(class),
            };
            percent >= all || percent > from && dice.below(u64::from(all - from)) < u64::from(percent - from)
        })
    }
}

/// Bytes until it's time to save.
fn room(reading: &Reading) -> u64 {
    match reading.memory {
        (_, 0) => u64::MAX,
        (used, most) => (most / 100 * u64::from(SAVES)).saturating_sub(used),
    }
}

/// A core's strain, and what it has under way.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Overload {
    pub(crate) strain: Strain,
    /// Exchanges and tunnels of this core.
    pub(crate) underway: usize,
    /// Whether the client of the one that begins has taken no answer yet.
    pub(crate) newcomer: bool,
}

impl Overload {
    /// Whether nothing is refused for sure.
    fn is_well(&self) -> bool {
        self.underway <= UNDERWAY_MIN || self.strain.percents.iter().all(|percent| *percent < REFUSES_MIN)
    }

    /// What one more request of this class is refused for, if it is; of a greedy caller it counts two classes lower.
    fn refuses(&self, class: Criticality, dice: &mut Rng, greedy: bool) -> Option<Short> {
        let class = if greedy { class.lower().lower() } else { class };
        if self.is_well() { None } else { self.strain.refuses(class, dice, !self.newcomer) }
    }

    /// What the caller is told, and the record keeps.
    fn detail(&self, short: Short) -> Text {
        match short {
            Short::Time => {
                let lag = LAG_MAX * u32::from(self.strain.percent(short)) / 100;
                format!("the proxy is short of processor time: all waits for {} ms", lag.as_millis()).into()
            }
            _ => format!("the proxy is short of {}: {} % are in use", short.label(), self.strain.percent(short)).into(),
        }
    }
}

/// Refuses a request that the proxy is too short of something for.
pub(crate) fn admit(
    exchange: &mut Exchange,
    shard: &mut Shard,
    arrival: &Arrival<'_>,
    head: &Head,
    now: Instant,
) -> Result<(), Box<Answer>> {
    let class = Criticality::of(head.header(Known::ByrnieCriticality));
    let Some(detail) = refusal(shard, arrival, class, now) else { return Ok(()) };
    exchange.nearest = Some(detail.clone());
    let mut answer = exchange.refuse(Reason::Strain, detail);
    answer.retry_after = Some(RETRY_AFTER);
    Err(answer)
}

/// Why one more exchange or tunnel can't be had, if it can't. Counted.
pub(crate) fn refusal(shard: &mut Shard, arrival: &Arrival<'_>, class: Criticality, now: Instant) -> Option<Text> {
    shard.overload.strain.begins(!shard.overload.newcomer);
    let overload = shard.overload;
    if overload.is_well() {
        return None;
    }
    // Only callers with a name can be told apart.
    let greedy = arrival.direction.side() == Side::Inbound && shard.is_greedy(arrival.source, now);
    let short = overload.refuses(class, &mut shard.rng, greedy)?;
    shard.counts.shed[short as usize] += 1;
    Some(overload.detail(short))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(1_000_000_000 + millis * 1_000_000)
    }

    fn strained(memory: u64) -> Overload {
        let mut overload = Overload { underway: 1000, ..Overload::default() };
        overload.strain.measured(&Reading { memory: (memory, 100), files: (0, 0) });
        overload
    }

    fn refused(overload: &Overload, class: Criticality, greedy: bool) -> usize {
        let mut dice = Rng::new(3);
        (0..1000).filter(|_| overload.refuses(class, &mut dice, greedy).is_some()).count()
    }

    #[test]
    fn it_saves_first_then_refuses_the_less_important_and_closes_last() {
        let all =
            [Criticality::Sheddable, Criticality::SheddablePlus, Criticality::Critical, Criticality::CriticalPlus];
        let seen = |memory| all.map(|class| refused(&strained(memory), class, false));
        assert_eq!((strained(79).strain.saves(), seen(79)), (false, [0; 4]));
        assert_eq!((strained(80).strain.saves(), seen(80)), (true, [0; 4]));
        let gathers = |memory| [SPARED_BYTES, SPARED_BYTES + 1].map(|bytes| strained(memory).strain.gathers(bytes));
        assert_eq!([79, 80, 94, 95].map(gathers), [[true, true], [true, false], [true, false], [false, false]]);
        let [sheddable, plus, critical, _] = seen(88);
        assert_eq!((sheddable, critical), (1000, 0));
        assert!((470..670).contains(&plus), "{plus} of 1000, four sevenths are meant");
        assert_eq!((seen(91)[1], seen(95)[2], strained(94).strain.closes()), (1000, 1000, false));
        assert!(seen(95)[3] < 700 && strained(95).strain.closes());
        assert_eq!(seen(98), [1000; 4]);
        // One that takes more than its share is refused where others aren't.
        assert_eq!(refused(&strained(88), Criticality::Critical, true), 1000);
    }

    #[test]
    fn a_few_exchanges_are_let_through_whatever_it_is_short_of() {
        let overload = Overload { underway: UNDERWAY_MIN, ..strained(100) };
        assert_eq!(refused(&overload, Criticality::Sheddable, true), 0);
    }

    #[test]
    fn what_was_freed_is_not_given_away_at_once() {
        let mut overload = strained(96);
        let reading = Reading { memory: (50, 100), files: (0, 0) };
        overload.strain.measured(&reading);
        assert_eq!(overload.strain.percent(Short::Memory), 94);
        (0..30).for_each(|_| overload.strain.measured(&reading));
        assert_eq!(overload.strain.percent(Short::Memory), 50);
    }

    #[test]
    fn the_nearer_the_end_the_more_often_it_is_measured() {
        let strain = Strain::default();
        let credit = |used: u64| strain.credit(&Reading { memory: (used << 20, 128 << 20), files: (0, 0) });
        assert_eq!((credit(0), credit(72), credit(101), credit(128)), (204, 60, 2, 1));
        assert_eq!(strain.credit(&Reading::default()), 256);
        let reading = Reading { memory: (96 << 20, 128 << 20), files: (0, 0) };
        assert_eq!(reading.reserving(512).memory, (112 << 20, 128 << 20));
        let each = |used: u64, underway| {
            strain.buffer_bytes(&Reading { memory: (used << 20, 128 << 20), files: (0, 0) }, underway) >> 10
        };
        assert_eq!((each(32, 0), each(32, 1000), each(100, 1000), each(103, 1000)), (140, 28, 0, 0));
        assert_eq!(strain.buffer_bytes(&Reading::default(), 1 << 20) >> 40, 7);
    }

    #[test]
    fn only_a_lag_that_stands_counts() {
        let mut overload = Overload { underway: 1000, ..Overload::default() };
        // Nine of ten wake-ups a second too late: others use the machine.
        for n in 0..100 {
            overload.strain.woke(Duration::from_millis(if n % 5 == 0 { 1 } else { 1000 }), at(n * 100));
        }
        assert_eq!(refused(&overload, Criticality::Sheddable, false), 0);
        for n in 100..120 {
            overload.strain.woke(Duration::from_millis(260), at(n * 100));
        }
        assert_eq!(overload.strain.percent(Short::Time), 52);
        assert_eq!(refused(&overload, Criticality::Sheddable, false), 1000);
        assert!((1..200).contains(&refused(&overload, Criticality::Critical, false)));
        assert!(!overload.strain.saves(), "connections are worth more than ever");
        assert!(overload.detail(Short::Time).contains("260 ms"));
        for n in 120..140 {
            overload.strain.woke(Duration::ZERO, at(n * 100));
        }
        assert_eq!(overload.strain.percent(Short::Time), 0);
    }

    #[test]
    fn a_process_that_stood_still_as_a_whole_refuses_nothing_for_that() {
        for before in 0..10 {
            let mut overload = Overload { underway: 1000, ..Overload::default() };
            let wakes = (0..before).map(|n| (0, n * 100)).chain([(900, before * 100 + 900), (20, before * 100 + 1020)]);
            for (late, now) in wakes.chain((0..10).map(|n| (0, before * 100 + 1120 + n * 100))) {
                overload.strain.woke(Duration::from_millis(late), at(now));
                assert_eq!(refused(&overload, Criticality::Sheddable, false), 0, "{before} before, at {now}");
            }
            // Whether it has too little to do with, it soon shows.
            let begun = before * 100 + 2100;
            let mut now = begun;
            while refused(&overload, Criticality::Critical, false) < 1000 {
                overload.strain.woke(Duration::from_millis(900), at(now));
                now += 1000;
            }
            assert!(now - begun <= 4000, "{now}");
        }
    }

    #[test]
    fn a_crowd_that_never_took_an_answer_pays_first_for_the_lag_and_not_alone() {
        let lagging_for = |windows: u64, millis, strangers, others| {
            let mut overload = Overload { underway: 1000, ..Overload::default() };
            for n in 0..5 * windows {
                (0..strangers).for_each(|_| overload.strain.begins(false));
                (0..others).for_each(|_| overload.strain.begins(true));
                overload.strain.woke(Duration::from_millis(millis), at(n * 100));
            }
            [true, false].map(|newcomer| refused(&Overload { newcomer, ..overload }, Criticality::Critical, false))
        };
        let lagging = |millis, strangers, others| lagging_for(20, millis, strangers, others);
        // As long as it may be that to refuse them is enough, nobody else is.
        assert_eq!(lagging_for(9, 450, 100, 10), [1000, 0]);
        let [strangers, others] = lagging(350, 100, 10);
        assert!((400..600).contains(&strangers) && others == 0, "{strangers} and {others} of 1000");
        let [strangers, others] = lagging(450, 100, 10);
        assert!(strangers == 1000 && (560..760).contains(&others), "{strangers} and {others} of 1000");
        // The lag is as great as can be though all of them are refused: those who have taken one answer make it.
        assert_eq!(lagging(600, 100, 10), [1000, 1000]);
        // Without a crowd nobody pays before others.
        let [strangers, others] = lagging(350, 10, 100);
        assert!((400..600).contains(&strangers) && strangers == others, "{strangers} and {others} of 1000");
        assert_eq!(lagging(600, 10, 100), [1000, 1000]);
        assert_eq!(lagging(600, 0, 0), [1000, 1000]);
        let mut overload = strained(98);
        (0..10).for_each(|_| overload.strain.begins(false));
        (0..2).for_each(|n| overload.strain.woke(Duration::ZERO, at(n)));
        assert_eq!(refused(&overload, Criticality::Critical, false), 1000, "memory is nobody's to give");
    }

    #[test]
    fn who_pays_too_for_the_lag_of_a_crowd_does_so_until_it_is_over() {
        let mut overload = Overload { underway: 1000, ..Overload::default() };
        let mut windows = 0;
        let mut others_after = |lags: &[u64]| {
            for millis in lags {
                for _ in 0..5 {
                    (0..100).for_each(|_| overload.strain.begins(false));
                    overload.strain.woke(Duration::from_millis(*millis), at(windows * 100));
                    windows += 1;
                }
            }
            refused(&overload, Criticality::Critical, false)
        };
        assert_eq!(others_after(&[600; 9]), 0);
        assert_eq!(others_after(&[600; 4]), 1000);
        // It's less because they pay.
        assert_eq!(others_after(&[300, 600, 600]), 1000);
        assert_eq!(others_after(&[100, 600, 600]), 0, "it was over");
    }

    #[test]
    fn clients_that_do_nothing_make_room_before_ordinary_requests_are_refused() {
        let seen =
            |memory| (strained(memory).strain.evicts(), refused(&strained(memory), Criticality::Critical, false));
        assert_eq!((seen(83), seen(84), seen(88)), ((false, 0), (true, 0), (true, 0)));
    }
}
