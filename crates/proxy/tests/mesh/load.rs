// SPDX-License-Identifier: Apache-2.0
//! Programs of gRPC that report their load beside their answers: requests are shared out by it, and who reports nothing is called
//! as ever.

use crate::world::{PATIENCE, Proxy, World, loopback, resource, service};
use byrnie_codec::grpc::load::{PATH, Report, question};
use byrnie_model::policy::TrafficPolicy;
use byrnie_model::policy::traffic::{Balance, Choice, LoadReport};
use byrnie_model::{Kind, Protocol, Resource, Spec};
use byrnie_net::grpc::{Call, Channel, Incoming, Service, Shape, Status, serve_plain};
use byrnie_net::listen::{Share, bind};
use byrnie_net::{BoxFuture, runtime};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

const BUY: &str = "/shop.v1.Shop/Buy";
/// How often programs are asked to report.
const EVERY: Duration = Duration::from_millis(100);
/// How busy a program was when it made reports that it sends late.
const EARLIER: f64 = 0.25;
/// Calls whose shares are looked at.
const CALLS: usize = 80;

/// A program: how it's doing, and what was asked of it.
struct Shop {
    /// What it reports; nothing if it has no such service.
    load: Option<watch::Sender<Report>>,
    /// So many reports are sent at once before the next, each of [`EARLIER`].
    late: Arc<AtomicUsize>,
    calls: AtomicUsize,
    /// How often it was asked to report, and how many such streams are open.
    asked: AtomicUsize,
    open: watch::Sender<usize>,
}

impl Shop {
    fn new(load: Option<Report>) -> Arc<Self> {
        let load = load.map(|load| watch::channel(load).0);
        Arc::new(Self {
            load,
            late: Arc::default(),
            calls: AtomicUsize::new(0),
            asked: AtomicUsize::new(0),
            open: watch::channel(0).0,
        })
    }

    fn report(&self, cpu: f64) {
        self.load.as_ref().unwrap().send_replace(under(cpu));
    }

    fn calls(&self) -> usize {
        self.calls.swap(0, Ordering::SeqCst)
    }

    async fn streams(&self, wanted: usize) {
        let mut open = self.open.subscribe();
        runtime::timeout(PATIENCE, open.wait_for(|open| *open == wanted)).await.unwrap().unwrap();
    }
}

/// A hundred requests a second, at which so much of the processors is used.
fn under(cpu: f64) -> Report {
    Report { cpu, rate: 100.0, ..Report::default() }
}

/// An `OrcaLoadReport`, with a cost by name that nobody asks for.
fn encoded(report: &Report) -> Bytes {
    let mut message = vec![0x09];
    message.extend(report.cpu.to_le_bytes());
    message.extend([0x22, 12, 0x0a, 1, b'q', 0x11]);
    message.extend(3.0f64.to_le_bytes());
    message.push(0x31);
    message.extend(report.rate.to_le_bytes());
    message.into()
}

/// A stream that was asked for, until it's dropped.
struct Open(watch::Sender<usize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

impl Service for Shop {
    fn shape(&self, path: &str) -> Option<Shape> {
        match path {
            BUY => Some(Shape::Unary),
            PATH => {
                self.asked.fetch_add(1, Ordering::SeqCst);
                self.load.as_ref().map(|_| Shape::Stream)
            }
            _ => None,
        }
    }

    fn unary(&self, _: Call, message: Bytes) -> BoxFuture<'static, Result<Bytes, Status>> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        Box::pin(std::future::ready(Ok(message)))
    }

    fn stream(
        &self,
        _: Call,
        mut incoming: Incoming,
        outgoing: mpsc::Sender<Bytes>,
    ) -> BoxFuture<'static, Result<(), Status>> {
        self.open.send_modify(|open| *open += 1);
        let (open, load) = (Open(self.open.clone()), self.load.as_ref().unwrap().subscribe());
        let late = Arc::clone(&self.late);
        Box::pin(async move {
            let _open = open;
            assert_eq!(incoming.next().await?.unwrap(), question(EVERY));
            loop {
                for _ in 0..late.swap(0, Ordering::SeqCst) {
                    if outgoing.send(encoded(&under(EARLIER))).await.is_err() {
                        return Ok(());
                    }
                }
                let report = *load.borrow();
                // So much it can't do: it breaks off.
                if report.cpu > 1.0 {
                    return Err(Status::unavailable("overloaded"));
                }
                if outgoing.send(encoded(&report)).await.is_err() {
                    return Ok(());
                }
                runtime::sleep(EVERY).await;
            }
        })
    }
}

/// Calls go by load, which instances are asked for so often, if they are.
pub(crate) fn by_load(asked: Option<Duration>) -> Resource {
    let load_report = asked.map(|interval| LoadReport { port: None, interval });
    let policy = TrafficPolicy {
        targets: vec![service("shop")],
        balance: Some(Balance::WeightedRoundRobin),
        endpoints: Some(Choice { load_report, ..Choice::default() }),
        ..TrafficPolicy::default()
    };
    resource(Kind::TrafficPolicy, "shop", Spec::Traffic(policy.into()))
}

/// Two such programs behind sidecars that ask nothing of them yet, and a caller that goes by load.
fn between(loads: [Option<Report>; 2], test: impl AsyncFnOnce(&Channel, [&Shop; 2], &mut [Proxy; 2])) {
    let world = World::new();
    let shops = loads.map(Shop::new);
    let listeners = [(); 2].map(|()| bind(loopback(), Share::Alone).unwrap());
    let ports = listeners.each_ref().map(|listener| listener.local_addr().port());
    let mut sidecars = ports.map(|port| world.serving("shop", port, Protocol::Grpc));
    let mut caller = world.calling(&[("shop", Protocol::Grpc, &[&sidecars[0], &sidecars[1]])]);
    caller.apply(vec![by_load(None)]);
    runtime::block_on(async {
        let (_trigger, shutdown) = runtime::shutdown();
        for (listener, shop) in listeners.into_iter().zip(&shops) {
            let shop = Arc::clone(shop) as Arc<dyn Service>;
            runtime::spawn_local("shop", serve_plain(listener, shop, shutdown.clone()));
        }
        let channel = Channel::connect_plain(caller.outbound("shop")).await.unwrap();
        test(&channel, shops.each_ref().map(|shop| &**shop), &mut sidecars).await;
    })
    .unwrap();
}

/// How many of some calls each program got.
async fn shares(channel: &Channel, shops: &[&Shop]) -> Vec<usize> {
    for _ in 0..CALLS {
        channel.unary(BUY, Bytes::from_static(b"apple")).await.unwrap();
    }
    shops.iter().map(|shop| shop.calls()).collect()
}

fn fits(shares: &[usize], wanted: &[usize]) -> bool {
    shares.iter().zip(wanted).all(|(share, wanted)| share.abs_diff(*wanted) <= 1)
}

/// Calls until they're shared out so.
async fn shared(channel: &Channel, shops: &[&Shop], wanted: &[usize]) {
    let mut last = shares(channel, shops).await;
    let calling = async {
        while !fits(&last, wanted) {
            last = shares(channel, shops).await;
        }
    };
    let in_time = runtime::timeout(PATIENCE, calling).await.is_ok();
    assert!(in_time, "never shared out as {wanted:?}, but as {last:?}");
}

/// Calls until something holds.
async fn until(channel: &Channel, shops: &[&Shop], holds: impl Fn() -> bool) {
    let calling = async {
        while !holds() {
            shares(channel, shops).await;
        }
    };
    runtime::timeout(PATIENCE, calling).await.unwrap();
}

#[test]
fn calls_are_shared_out_by_load_that_is_reported_beside_them() {
    between([0.25, 0.75].map(|cpu| Some(under(cpu))), async |channel, [idle, busy], sidecars| {
        let shops = [idle, busy];
        // Nobody has asked yet.
        shared(channel, &shops, &[40, 40]).await;
        sidecars.iter_mut().for_each(|sidecar| sidecar.apply(vec![by_load(Some(EVERY))]));
        shared(channel, &shops, &[60, 20]).await;
        // It changes, and nobody has to be asked again.
        idle.report(0.9);
        busy.report(0.1);
        shared(channel, &shops, &[8, 72]).await;
        assert_eq!(shops.map(|shop| shop.asked.load(Ordering::SeqCst)), [1, 1]);
        // One that breaks off is asked again, and is believed once it reports again.
        busy.report(2.0);
        busy.streams(0).await;
        busy.report(0.9);
        shared(channel, &shops, &[40, 40]).await;
        assert!(busy.asked.load(Ordering::SeqCst) >= 2);
        // Once nobody asks for it the streams are closed.
        sidecars.iter_mut().for_each(|sidecar| sidecar.apply(vec![by_load(None)]));
        idle.streams(0).await;
        busy.streams(0).await;
    });
}

#[test]
fn a_program_that_reports_nothing_is_asked_once_and_called_as_ever() {
    between([Some(under(0.5)), None], async |channel, [reports, silent], sidecars| {
        let shops = [reports, silent];
        sidecars.iter_mut().for_each(|sidecar| sidecar.apply(vec![by_load(Some(EVERY))]));
        reports.streams(1).await;
        let asked = || silent.asked.load(Ordering::SeqCst);
        until(channel, &shops, || asked() > 0).await;
        // A change of something else is no reason to ask again.
        sidecars[1].apply(vec![crate::world::allow_all()]);
        shares(channel, &shops).await;
        assert_eq!(asked(), 1);
        // One of what is asked is.
        sidecars[1].apply(vec![by_load(Some(2 * EVERY))]);
        until(channel, &shops, || asked() > 1).await;
        // It gets as much as the mean of those that report, and they as much as it.
        shared(channel, &shops, &[40, 40]).await;
        assert_eq!((asked(), reports.asked.load(Ordering::SeqCst)), (2, 1));
    });
}

#[test]
fn of_reports_that_come_all_at_once_the_newest_counts() {
    between([EARLIER, EARLIER].map(|cpu| Some(under(cpu))), async |channel, [first, second], sidecars| {
        let shops = [first, second];
        sidecars.iter_mut().for_each(|sidecar| sidecar.apply(vec![by_load(Some(EVERY))]));
        first.report(0.75);
        shared(channel, &shops, &[20, 60]).await;
        // One at a time, what comes before its newest would be heard for five minutes.
        first.report(EARLIER);
        second.late.store(3_000, Ordering::SeqCst);
        second.report(0.75);
        shared(channel, &shops, &[60, 20]).await;
    });
}

/// A program that is told to end then may wait until its streams have.
#[test]
fn a_stream_of_reports_has_ended_before_the_program_is_to_end() {
    between([Some(under(0.5)), Some(under(0.5))], async |channel, [leaves, stays], sidecars| {
        sidecars.iter_mut().for_each(|sidecar| sidecar.apply(vec![by_load(Some(EVERY))]));
        leaves.streams(1).await;
        stays.streams(1).await;
        assert!(sidecars[0].running.as_ref().unwrap().leave(PATIENCE).await, "nothing was under way");
        leaves.streams(0).await;
        // The other is called, and asked, as ever.
        shared(channel, &[stays], &[CALLS]).await;
        assert_eq!((stays.asked.load(Ordering::SeqCst), *stays.open.borrow()), (1, 1));
    });
}
