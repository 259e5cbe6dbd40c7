// SPDX-License-Identifier: Apache-2.0
//! Checks the own program as policies say, and lets the registry know how it is. One task for each service that
//! has a check asks; what is made of the answers is `engine/probe`'s.

use crate::worker::InForce;
use byrnie_base::Rng;
use byrnie_codec::grpc::health;
use byrnie_codec::h1::Asked;
use byrnie_codec::{Head, Limits, Version};
use byrnie_engine::{Probe, Pulse};
use byrnie_model::policy::health::Check;
use byrnie_model::{Health, Protocol, ServiceRef};
use byrnie_net::grpc::Channel;
use byrnie_net::http::h2 as http2;
use byrnie_net::http::{Answered, Error, Wire, h1};
use byrnie_net::io;
use byrnie_net::runtime::{self, Task};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::task::{Poll, ready};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Findings that wait to be judged: one for each check, as each waits for its own.
const FINDINGS_MAX: usize = 64;
/// A check comes later than it is due by up to this part of its interval, so that those of one machine spread.
const JITTER_PART: u32 = 10;

/// What a check found.
struct Finding {
    service: ServiceRef,
    well: Result<(), String>,
}

/// A check that runs until it's dropped.
struct Running {
    probe: Probe,
    pulse: watch::Sender<Pulse>,
    task: Task,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Follows the configuration, checks, and tells `health` what is thought of the program.
pub(super) async fn run(mut in_force: watch::Receiver<InForce>, health: watch::Sender<Health>) {
    let (tell, mut findings) = mpsc::channel(FINDINGS_MAX);
    let mut running: BTreeMap<ServiceRef, Running> = BTreeMap::new();
    loop {
        renew(&mut running, &in_force.borrow_and_update(), &tell);
        loop {
            let all_well = running.values().all(|one| one.pulse.borrow().is_well());
            let now = if all_well { Health::Healthy } else { Health::Unhealthy };
            health.send_if_modified(|health| std::mem::replace(health, now) != now);
            tokio::select! {
                changed = in_force.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                Some(finding) = findings.recv() => judge(&running, finding),
            }
        }
    }
}

/// Starts the checks that are new, and ends those that are no more.
fn renew(running: &mut BTreeMap<ServiceRef, Running>, in_force: &InForce, tell: &mpsc::Sender<Finding>) {
    let asked: BTreeMap<&ServiceRef, &Probe> = in_force.snapshot.probes().collect();
    running.retain(|service, one| asked.get(service).is_some_and(|probe| **probe == one.probe));
    for (service, probe) in asked {
        if running.contains_key(service) {
            continue;
        }
        let (pulse, known) = watch::channel(Pulse::default());
        let check = check(service.clone(), probe.clone(), known, tell.clone());
        let task = runtime::spawn_local("health check", check);
        running.insert(service.clone(), Running { probe: probe.clone(), pulse, task });
    }
}

fn judge(running: &BTreeMap<ServiceRef, Running>, Finding { service, well }: Finding) {
    let Some(one) = running.get(&service) else { return };
    let (before, mut pulse) = (one.pulse.borrow().is_well(), *one.pulse.borrow());
    pulse.take(&one.probe.check, well.is_ok());
    one.pulse.send_replace(pulse);
    let address = one.probe.address;
    match well {
        Err(cause) if before && !pulse.is_well() => {
            let code = byrnie_model::code::PROGRAM_SICK.id;
            tracing::warn!(code, %service, %address, cause, "the program fails its health check; callers go elsewhere");
        }
        Ok(()) if !before && pulse.is_well() => tracing::info!(%service, %address, "the program does well again"),
        _ => {}
    }
}

/// Asks again and again.
async fn check(service: ServiceRef, probe: Probe, mut pulse: watch::Receiver<Pulse>, tell: mpsc::Sender<Finding>) {
    let mut rng = Rng::new(super::seed());
    loop {
        let asked = runtime::timeout(probe.check.timeout, ask(&probe)).await;
        let well = asked.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        if tell.send(Finding { service: service.clone(), well }).await.is_err() || pulse.changed().await.is_err() {
            return;
        }
        let pause = pulse.borrow_and_update().pause(&probe.check);
        let jitter = u64::try_from((pause / JITTER_PART).as_nanos()).unwrap_or(0);
        runtime::sleep(pause + Duration::from_nanos(rng.below(jitter.max(1)))).await;
    }
}

/// Asks once; an error says what was wrong.
async fn ask(Probe { address, protocol, check }: &Probe) -> Result<(), String> {
    match &check.how {
        Check::Tcp => io::connect(*address, check.timeout).await.map(drop).map_err(|error| error.to_string()),
        Check::Http(path) => get(*address, *protocol, path, check.timeout).await,
        Check::Grpc(service) => {
            let channel = Channel::connect_plain(*address).await.map_err(|error| error.to_string())?;
            let answer = channel.unary(health::PATH, health::question(service).into()).await;
            let answer = answer.map_err(|status| format!("{:?}: {}", status.code(), status.message()))?;
            health::is_serving(&answer).map_err(str::to_owned)
        }
    }
}

/// GETs a path, by whatever the program speaks.
async fn get(address: SocketAddr, protocol: Protocol, path: &str, limit: Duration) -> Result<(), String> {
    let tcp = io::connect(address, limit).await.map_err(|error| error.to_string())?;
    let words = |error: Error| error.to_string();
    let mut head = Head::new();
    let started = head.start_request("GET", "http", &address.to_string(), path);
    started.and_then(|()| head.append("user-agent", b"byrnie-health-check")).map_err(|reject| reject.to_string())?;
    let mut wire = if matches!(protocol, Protocol::Http2 | Protocol::Grpc) {
        head.set_version(Version::Http2);
        Wire::H2(Box::new(http2::connect(tcp.into()).open()))
    } else {
        Wire::H1(Box::new(h1::Conn::new(tcp.into(), Vec::new(), Limits::default())))
    };
    match exchange(&mut wire, &mut head).await.map_err(words)? {
        200..400 => Ok(()),
        status => Err(format!("status {status}")),
    }
}

/// Sends a request without body; the status of its answer, whose body nobody needs.
async fn exchange(wire: &mut Wire, head: &mut Head) -> Result<u16, Error> {
    let asked = Asked::by(head);
    wire.send_request(head)?;
    wire.end(None)?;
    poll_fn(|cx| {
        if let Poll::Ready(Err(error)) = wire.poll_flush(cx) {
            return Poll::Ready(Err(error));
        }
        loop {
            match ready!(wire.poll_response(cx, asked, head)) {
                Ok(Answered::Final) => return Poll::Ready(Ok(head.status())),
                Ok(Answered::Interim) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    })
    .await
}
