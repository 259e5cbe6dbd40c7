// SPDX-License-Identifier: Apache-2.0
//! Checks the own program as policies say, and lets the registry know how it is; on a proxy by which calls leave the mesh
//! also the addresses of slices and of hosts outside, and lets the cores know. One task for each of them asks; where hosts are `places`
//! finds out, and what is made of the answers is `engine/probe`'s.

use crate::outside;
use crate::upstream;
use crate::worker::InForce;
use byrnie_base::Rng;
use byrnie_codec::grpc::health;
use byrnie_codec::h1::Asked;
use byrnie_codec::{Head, Limits, Version};
use byrnie_engine::{Checked, Probe, Pulse, Security};
use byrnie_model::policy::health::Check;
use byrnie_model::{Health, ServiceRef};
use byrnie_net::grpc::Channel;
use byrnie_net::http::h2 as http2;
use byrnie_net::http::{Error, Wire, h1};
use byrnie_net::io::{self, Stream};
use byrnie_net::runtime::{self, Task};
use byrnie_net::tls::outward::{self, Outward, Speaks};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Findings that wait to be judged: one for each check, as each waits for its own.
const FINDINGS_MAX: usize = 64;
/// Addresses of slices and hosts that are checked, the first by service and address; more are judged by their answers alone.
const CHECKED_MAX: usize = 1024;
/// A check comes later than it is due by up to this part of its interval, so that those of one machine spread.
const JITTER_PART: u32 = 10;

/// What is checked: a service's own program, or what is at an address of its slices or its host.
type Subject = (ServiceRef, Option<SocketAddr>);

/// What a check found.
struct Finding {
    subject: Subject,
    well: Result<(), String>,
}

/// A check that runs until it's dropped.
struct Running {
    probe: Probe,
    /// The endpoints that are judged by it, if it isn't the own program.
    far: Option<Checked>,
    pulse: watch::Sender<Pulse>,
    task: Task,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
        // Nobody knows any more.
        self.judge(true);
    }
}

impl Running {
    fn judge(&self, well: bool) {
        if let Some(far) = &self.far {
            far.judge(well);
        }
    }
}

/// What is thought of the own program before anything is known of it but whether it listens.
pub(super) fn at_first(listening: Option<&watch::Receiver<bool>>) -> Health {
    if listening.is_none_or(|listening| *listening.borrow()) { Health::Healthy } else { Health::Unhealthy }
}

/// Follows the configuration, checks, and tells `health` what is thought of the program, which isn't well before it listens.
/// `own_machine`: the whole mesh is on this machine.
pub(super) async fn run(
    mut in_force: watch::Receiver<InForce>,
    (health, mut listening): (watch::Sender<Health>, Option<watch::Receiver<bool>>),
    own_machine: bool,
) {
    let (tell, mut findings) = mpsc::channel(FINDINGS_MAX);
    let mut running: BTreeMap<Subject, Running> = BTreeMap::new();
    loop {
        renew(&mut running, &in_force.borrow_and_update(), &tell, own_machine);
        loop {
            let mut own = running.values().filter(|one| one.far.is_none());
            let all_well = own.all(|one| one.pulse.borrow().is_well());
            let now = if all_well { at_first(listening.as_ref()) } else { Health::Unhealthy };
            health.send_if_modified(|health| std::mem::replace(health, now) != now);
            tokio::select! {
                changed = in_force.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                changed = begins(&mut listening) => if changed.is_err() {
                    // Nobody looks any more.
                    listening = None;
                },
                Some(finding) = findings.recv() => judge(&running, finding),
            }
        }
    }
}

/// What is to be checked at addresses: of slices, and of hosts as far as it's known where they are. Those of this machine itself and
/// of its link are asked only where the whole mesh is on it, as for calls.
fn far(in_force: &InForce, own_machine: bool) -> BTreeMap<Subject, Checked> {
    let slices = in_force.snapshot.checked().map(|(service, far)| (service, far.clone()));
    let hosts = in_force.snapshot.watched().flat_map(|(service, watched)| {
        watched.located(watched.addresses.len());
        watched.addresses.iter().map(move |ip| (service, watched.at(*ip)))
    });
    let reached = |far: &Checked| own_machine || !outside::is_inside(far.probe.address.ip());
    let all = slices.chain(hosts).filter(|(_, far)| reached(far));
    all.map(|(service, far)| ((service.clone(), Some(far.probe.address)), far)).collect()
}

/// Waits until it's known that the program listens; for ever where nobody looks.
async fn begins(listening: &mut Option<watch::Receiver<bool>>) -> Result<(), watch::error::RecvError> {
    match listening {
        Some(listening) => listening.changed().await,
        None => std::future::pending().await,
    }
}

/// Starts the checks that are new, and ends those that are no more.
fn renew(
    running: &mut BTreeMap<Subject, Running>,
    in_force: &InForce,
    tell: &mpsc::Sender<Finding>,
    own_machine: bool,
) {
    let far = far(in_force, own_machine);
    let own = in_force.snapshot.probes().map(|(service, probe)| ((service.clone(), None), (probe, None)));
    let far = far.iter().take(CHECKED_MAX).map(|(subject, far)| (subject.clone(), (&far.probe, Some(far))));
    let asked: BTreeMap<Subject, (&Probe, Option<&Checked>)> = own.chain(far).collect();
    running.retain(|subject, one| asked.get(subject).is_some_and(|(probe, _)| **probe == one.probe));
    for (subject, (probe, far)) in asked {
        if let Some(one) = running.get_mut(&subject) {
            // Endpoints that are new at an address are as well as it is.
            one.far = far.cloned();
            one.judge(one.pulse.borrow().is_well());
            continue;
        }
        let (pulse, known) = watch::channel(Pulse::default());
        let task = runtime::spawn_local("health check", check(subject.clone(), probe.clone(), known, tell.clone()));
        running.insert(subject, Running { probe: probe.clone(), far: far.cloned(), pulse, task });
    }
}

fn judge(running: &BTreeMap<Subject, Running>, Finding { subject, well }: Finding) {
    let Some(one) = running.get(&subject) else { return };
    let (before, mut pulse) = (one.pulse.borrow().is_well(), *one.pulse.borrow());
    pulse.take(&one.probe.check, well.is_ok());
    one.pulse.send_replace(pulse);
    one.judge(pulse.is_well());
    let (service, address) = (&subject.0, one.probe.address);
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
async fn check(subject: Subject, probe: Probe, mut pulse: watch::Receiver<Pulse>, tell: mpsc::Sender<Finding>) {
    let mut rng = Rng::new(super::seed());
    let outward = match &probe.security {
        Security::Plain => Ok(None),
        Security::Tls(verify) => outside::make(verify).map(Some).ok_or("who is there can't be verified"),
        Security::Broken(_) => Err("the policy for its TLS can't be followed"),
    };
    loop {
        let asked = async {
            match &outward {
                Ok(outward) => ask(&probe, outward.as_ref()).await,
                Err(why) => Err((*why).to_owned()),
            }
        };
        let well = runtime::timeout(probe.check.timeout, asked).await;
        let well = well.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        if tell.send(Finding { subject: subject.clone(), well }).await.is_err() || pulse.changed().await.is_err() {
            return;
        }
        let pause = pulse.borrow_and_update().pause(&probe.check);
        let jitter = u64::try_from((pause / JITTER_PART).as_nanos()).unwrap_or(0);
        runtime::sleep(pause + Duration::from_nanos(rng.below(jitter.max(1)))).await;
    }
}

/// Asks once; an error says what was wrong.
async fn ask(probe: &Probe, outward: Option<&Outward>) -> Result<(), String> {
    let h2 = probe.protocol.is_h2();
    let speaks = match &probe.check.how {
        Check::Tcp => Speaks::Opaque,
        Check::Http(_) if !h2 => Speaks::Http1,
        Check::Http(_) | Check::Grpc(_) => Speaks::Http2,
    };
    let tcp = io::connect(probe.address, probe.check.timeout).await.map_err(|error| error.to_string())?;
    let stream = match outward {
        None => Stream::from(tcp),
        Some(outward) => outward::connect(tcp, outward, speaks).await.map_err(|error| error.to_string())?.0,
    };
    let authority = probe.authority.clone().unwrap_or_else(|| probe.address.to_string().into());
    match &probe.check.how {
        Check::Tcp => Ok(()),
        Check::Http(path) => get(stream, &authority, h2, path).await,
        Check::Grpc(service) => {
            let channel = Channel::connect_over(stream, probe.address, &authority).await;
            let channel = channel.map_err(|error| error.to_string())?;
            let answer = channel.unary(health::PATH, health::question(service).into()).await;
            let answer = answer.map_err(|status| format!("{:?}: {}", status.code(), status.message()))?;
            health::is_serving(&answer).map_err(str::to_owned)
        }
    }
}

/// GETs a path, by whatever the program speaks.
async fn get(stream: Stream, authority: &str, h2: bool, path: &str) -> Result<(), String> {
    let words = |error: Error| error.to_string();
    let mut head = Head::new();
    let started = head.start_request("GET", "http", authority, path);
    started.and_then(|()| head.append("user-agent", b"byrnie-health-check")).map_err(|reject| reject.to_string())?;
    let mut wire = if h2 {
        head.set_version(Version::Http2);
        Wire::H2(http2::connect(stream).open())
    } else {
        Wire::H1(Box::new(h1::Conn::new(stream, Vec::new(), Limits::default())))
    };
    match exchange(&mut wire, &mut head).await.map_err(words)? {
        200..400 => Ok(()),
        status => Err(format!("status {status}")),
    }
}

/// Sends a request without body; the status of its answer, whose body nobody needs.
async fn exchange(wire: &mut Wire, head: &mut Head) -> Result<u16, Error> {
    let (asked, mut interims) = (Asked::by(head), 0);
    wire.send_request(head)?;
    wire.end(None)?;
    poll_fn(|cx| upstream::poll_exchanged(wire, cx, Ok(()), asked, (head, &mut interims))).await?;
    Ok(head.status())
}
