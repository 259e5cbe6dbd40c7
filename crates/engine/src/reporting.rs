// SPDX-License-Identifier: Apache-2.0
//! The load that the own program reports beside its answers: by a stream that its proxy keeps to it where a policy asks for that
//! (gRFC A51), so that a program which answers seldom, or for long, tells of itself all the same. The newest report goes to callers
//! on the answers, in the words that a program's own would have; they read it as such (`balance/report`). It counts by the laws of
//! gRFC A58: not before reports have come for a while, and not for ever. The agent writes, cores read; nobody waits for a report.

use crate::Side;
use crate::balance::report;
use crate::exchange::Exchange;
use byrnie_base::Instant;
use byrnie_base::share::Line;
use byrnie_codec::Head;
use byrnie_codec::grpc::load::{BINARY_HEADER, HEADER, Report};
use byrnie_model::policy::traffic::Balance;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A report that is older than so many intervals doesn't count any more.
const INTERVALS_MAX: u32 = 3;
/// Servers of gRPC report no oftener than this unless they are told to, whatever they are asked (gRFC A51).
const PACE_USUAL: Duration = Duration::from_secs(30);

/// That the own program is asked for reports of its load.
#[derive(Clone, Debug)]
pub struct Reporting {
    /// Where it listens.
    pub address: SocketAddr,
    /// How often it's to report.
    pub interval: Duration,
    pub(crate) heard: Arc<Heard>,
}

/// The newest report, for every core of the process.
#[derive(Debug, Default)]
pub(crate) struct Heard(Line);

/// When it came; 0 if there is none.
const AT: usize = 0;
/// Since when reports come without a gap.
const SINCE: usize = 1;
const CPU: usize = 2;
const APPLICATION: usize = 3;
const RATE: usize = 4;
const ERRORS: usize = 5;

/// The same is asked of the same program for the same service.
impl PartialEq for Reporting {
    fn eq(&self, other: &Self) -> bool {
        self.address == other.address && self.interval == other.interval && Arc::ptr_eq(&self.heard, &other.heard)
    }
}

impl Eq for Reporting {}

impl Reporting {
    /// Takes in a report. One that comes to nothing doesn't take the place of one that does (gRFC A58).
    pub fn take(&self, said: &Report, now: Instant) {
        let line = &self.heard.0;
        let numbers = [(CPU, said.cpu), (APPLICATION, said.application), (RATE, said.rate), (ERRORS, said.errors)];
        if report::capacity(said).is_none() {
            return;
        }
        if self.age(now).is_none_or(|age| age > self.age_max()) {
            line.set(SINCE, now.as_nanos());
        }
        for (place, number) in numbers {
            line.set(place, number.to_bits());
        }
        line.set(AT, now.as_nanos().max(1));
    }

    /// The stream is gone: nothing is known of the program until reports come again.
    pub fn forget(&self) {
        self.heard.0.set(AT, 0);
    }

    /// What callers are to be told now, if anything is.
    fn newest(&self, now: Instant) -> Option<Report> {
        let line = &self.heard.0;
        let fresh = self.age(now)? <= self.age_max();
        // The first one after a start tells of a program that has done nothing yet; with servers that keep time the second counts.
        let spell = Instant::from_nanos(line.value(AT)).since(Instant::from_nanos(line.value(SINCE)));
        let number = |place| f64::from_bits(line.value(place));
        (fresh && spell >= self.interval / 2).then(|| Report {
            cpu: number(CPU),
            application: number(APPLICATION),
            rate: number(RATE),
            errors: number(ERRORS),
        })
    }

    fn age(&self, now: Instant) -> Option<Duration> {
        let at = self.heard.0.value(AT);
        (at > 0).then(|| now.since(Instant::from_nanos(at)))
    }

    /// At most the three minutes of gRFC A58, as no interval is longer than a minute.
    fn age_max(&self) -> Duration {
        self.interval.max(PACE_USUAL) * INTERVALS_MAX
    }
}

impl Exchange {
    /// Tells the caller's proxy of the load under which the own program stands, unless the program's answer does so itself.
    pub(crate) fn tell_load(&self, head: &mut Head, now: Instant) {
        let Some(reporting) = self.service.as_ref().and_then(|service| service.asked.reporting.as_deref()) else {
            return;
        };
        if head.get(HEADER).is_some() || head.get(BINARY_HEADER).is_some() {
            return;
        }
        if let Some(report) = reporting.newest(now) {
            // A head without room for it goes on without.
            head.append(HEADER, report.text().as_bytes()).ok();
        }
    }

    /// What an answer, or its trailers, says of the load of its endpoint.
    pub(crate) fn hear_load<'f>(&self, field: impl Fn(&str) -> Option<&'f [u8]>, now: Instant) {
        if self.weighs_load() {
            self.course.reported(report::found(field), now);
        }
    }

    /// How busy instances are is nobody's affair outside the mesh.
    pub(crate) fn hide_load(&self, head: &mut Head) {
        for name in self.withheld_trailers() {
            head.remove(name);
        }
    }

    /// Trailers that aren't sent on to the caller, for the same reason.
    pub fn withheld_trailers(&self) -> &'static [&'static str] {
        if self.facts.side == Side::Edge && self.weighs_load() { &[HEADER, BINARY_HEADER] } else { &[] }
    }

    fn weighs_load(&self) -> bool {
        self.course.cluster().is_some_and(|cluster| cluster.call.balance == Balance::WeightedRoundRobin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::*;
    use crate::{Arrival, Direction, Effect, Gate, Tls};
    use byrnie_model::policy::TrafficPolicy;
    use byrnie_model::policy::traffic::{Choice, LoadReport};
    use byrnie_model::resource::DefaultAccess;
    use byrnie_model::{Key, Kind, Protocol};
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);
    const HALF: Report = Report { cpu: 0.5, application: 0.0, rate: 100.0, errors: 0.0 };
    const TOLD: &[u8] = b"TEXT cpu_utilization=0.500000,rps_fractional=100.000000";

    fn weighs(asked: Option<LoadReport>) -> TrafficPolicy {
        let endpoints = Some(Choice { load_report: asked, ..Choice::default() });
        TrafficPolicy { balance: Some(Balance::WeightedRoundRobin), endpoints, ..TrafficPolicy::default() }
    }

    fn asking(interval: Duration) -> Reporting {
        Reporting { address: SocketAddr::from(([127, 0, 0, 1], 1)), interval, heard: Arc::default() }
    }

    fn newest(reporting: &Reporting, at: u64) -> Option<Report> {
        reporting.newest(ms(at).mono)
    }

    #[test]
    fn reports_count_from_the_second_on_and_not_for_ever() {
        let reporting = asking(10 * SECOND);
        assert_eq!(newest(&reporting, 0), None);
        reporting.take(&HALF, ms(0).mono);
        assert_eq!(newest(&reporting, 5_000), None, "the first tells of a program that has done nothing yet");
        reporting.take(&HALF, ms(9_900).mono);
        assert_eq!(newest(&reporting, 9_900), Some(HALF));
        // Servers of gRPC report each half a minute, whatever they are asked, unless told otherwise.
        assert_eq!(newest(&reporting, 99_900), Some(HALF));
        assert_eq!(newest(&reporting, 99_901), None);
        // After such a gap it's as at the beginning.
        reporting.take(&HALF, ms(100_000).mono);
        assert_eq!(newest(&reporting, 100_000), None);
        reporting.take(&Report { cpu: 0.25, ..HALF }, ms(105_000).mono);
        assert_eq!(newest(&reporting, 105_000), Some(Report { cpu: 0.25, ..HALF }));
        reporting.forget();
        assert_eq!(newest(&reporting, 105_000), None);
    }

    #[test]
    fn what_comes_to_nothing_takes_no_reports_place() {
        let reporting = asking(SECOND);
        reporting.take(&HALF, ms(0).mono);
        reporting.take(&HALF, ms(1_000).mono);
        for nothing in [
            Report::default(),
            Report { rate: 0.0, ..HALF },
            Report { cpu: 0.0, ..HALF },
            Report { cpu: -1.0, ..HALF },
            Report { errors: -1.0, ..HALF },
            Report { cpu: f64::NAN, ..HALF },
            Report { rate: f64::INFINITY, ..HALF },
            Report { rate: 1e10, ..HALF },
        ] {
            reporting.take(&nothing, ms(2_000).mono);
            assert_eq!(newest(&reporting, 2_000), Some(HALF), "{nothing:?}");
        }
        // Nor does it keep an old one alive.
        assert_eq!(newest(&reporting, 91_001), None);
    }

    /// `web` serves; what its proxy adds to an answer with these lines.
    fn told(world: &mut World, lines: &[(&str, &str)], at: u64) -> Option<Vec<u8>> {
        let (mut exchange, effect) = world.begin_inbound(Some(&identity("bob")), &mut head("GET", "web/", &[]), ms(at));
        assert!(matches!(effect, Effect::Send(_)));
        let mut head = response(200, lines);
        exchange.on_response(&mut world.shard, &mut head, ms(at));
        head.get(HEADER).map(<[u8]>::to_vec)
    }

    fn asked(world: &World) -> Option<Reporting> {
        world.snapshot().reporting().next().map(|(_, reporting)| reporting.clone())
    }

    #[test]
    fn the_newest_report_goes_on_answers_that_say_nothing_of_load_while_a_policy_asks_for_it() {
        let mut world = World::new(vec![mesh(DefaultAccess::Allow), service("web", Protocol::Grpc), own_workload()]);
        assert!(asked(&world).is_none());
        let every = |interval| Some(LoadReport { port: None, interval });
        world.put(vec![traffic("web", weighs(every(SECOND)))]);
        let reporting = asked(&world).unwrap();
        assert_eq!((reporting.address, reporting.interval), (SocketAddr::from(([127, 0, 0, 1], 8080)), SECOND));
        assert_eq!(told(&mut world, &[], 0), None);
        reporting.take(&HALF, ms(0).mono);
        reporting.take(&HALF, ms(1_000).mono);
        assert_eq!(told(&mut world, &[], 1_000).as_deref(), Some(TOLD));
        // What a program says itself is newer.
        let own = "TEXT cpu_utilization=0.1,rps_fractional=1";
        assert_eq!(told(&mut world, &[(HEADER, own)], 1_000).as_deref(), Some(own.as_bytes()));
        assert_eq!(told(&mut world, &[(BINARY_HEADER, "CQAAAAAAAOA/MQAAAAAAAFlA")], 1_000), None);
        // It outlives changes that are none of its own.
        world.put(vec![own_workload(), service("web", Protocol::Grpc), service("other", Protocol::Http1)]);
        assert_eq!(asked(&world), Some(reporting));
        assert_eq!(told(&mut world, &[], 1_000).as_deref(), Some(TOLD));
        world.put(vec![traffic("web", weighs(every(2 * SECOND)))]);
        assert_eq!(asked(&world).map(|reporting| reporting.interval), Some(2 * SECOND));
        world.remove(vec![Key::new(Kind::TrafficPolicy, "shop", "web")]);
        assert_eq!((asked(&world), told(&mut world, &[], 1_000)), (None, None));
        // A port that isn't there is asked by nobody.
        world.put(vec![traffic("web", weighs(Some(LoadReport { port: Some(81), interval: SECOND })))]);
        assert_eq!(asked(&world), None);
    }

    /// What a caller knows of the capacity of `payments` after an answer, what goes on of that, and how many trailers don't.
    fn heard(direction: Direction<'_>, host: &str, lines: &[(&str, &str)]) -> (Option<u64>, usize, usize) {
        let mut world = World::payments(1);
        world.put(vec![mesh(DefaultAccess::Allow), traffic("payments", weighs(None))]);
        let arrival =
            Arrival { direction, source: None, remote: SocketAddr::from(([10, 0, 0, 9], 5555)), tls: Tls::None };
        let mut request = head("GET", host, &[]);
        let snapshot = world.snapshot();
        let (mut exchange, effect) = crate::Exchange::begin(&snapshot, &mut world.shard, &arrival, &mut request, ms(0));
        assert!(matches!(effect, Effect::Send(_)), "{effect:?}");
        let mut head = response(200, lines);
        exchange.on_response(&mut world.shard, &mut head, ms(0));
        let cluster = snapshot.clusters().next().unwrap();
        let left = [HEADER, BINARY_HEADER].into_iter().filter(|name| head.get(name).is_some()).count();
        (cluster.members()[0].load.capacity(ms(0).mono), left, exchange.withheld_trailers().len())
    }

    #[test]
    fn callers_learn_from_heads_and_trailers_and_tell_nobody_outside() {
        let text = (HEADER, "TEXT cpu_utilization=0.5,rps_fractional=100");
        let binary = (BINARY_HEADER, "CQAAAAAAAOA/MQAAAAAAAFlA");
        assert_eq!(heard(Direction::Forward, "payments/", &[]), (None, 0, 0));
        for line in [text, binary] {
            assert_eq!(heard(Direction::Forward, "payments/", &[line]), (Some(200_000), 1, 0));
            let edge = Direction::Edge(Gate::Own);
            assert_eq!(heard(edge, "payments.shop.mesh.localhost/", &[line]), (Some(200_000), 0, 2));
        }
        let mut world = World::payments(1);
        world.put(vec![traffic("payments", weighs(None))]);
        let (mut exchange, _) = world.begin(&mut head("POST", "payments/", &[]), ms(0));
        exchange.on_response(&mut world.shard, &mut response(200, &[]), ms(0));
        let mut trailers = byrnie_codec::Fields::new();
        trailers.append(binary.0, binary.1.as_bytes()).unwrap();
        exchange.on_trailers(&trailers, ms(0));
        let snapshot = world.snapshot();
        let member = &snapshot.clusters().next().unwrap().members()[0];
        assert_eq!(member.load.capacity(ms(0).mono), Some(200_000));
    }

    proptest! {
        /// Whatever the program reports, its callers make the same of it as its own proxy would.
        #[test]
        fn callers_make_of_it_what_the_program_said(cpu in 0.001..10f64, application in prop_oneof![Just(0.0), 0.001..10f64], rate in 0.01..1e6f64, errors in 0.0..1e4f64) {
            let said = Report { cpu, application, rate, errors };
            let reporting = asking(SECOND);
            reporting.take(&said, ms(0).mono);
            reporting.take(&said, ms(1_000).mono);
            let expected = report::capacity(&said);
            let text = newest(&reporting, 1_000).map(|newest| newest.text());
            prop_assert_eq!(text.is_some(), expected.is_some());
            if let (Some(text), Some(expected)) = (text, expected) {
                let read = report::found(|name| (name == HEADER).then_some(text.as_bytes())).unwrap_or(0);
                // Numbers are told to a millionth.
                prop_assert!(read.abs_diff(expected) <= expected / 100 + 1, "{read} {expected} {text}");
            }
        }
    }
}
