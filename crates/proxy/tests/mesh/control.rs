// SPDX-License-Identifier: Apache-2.0
//! A proxy and a control plane that goes away and comes back. The control plane is a small one, around
//! the real session of the xDS crate.

use crate::world::{self, DOMAIN, PATIENCE, Peer, Program, Reserved, World, get, loopback};
use byrnie_model::{Delta, Identity, Labels, Protocol, Resource, Revision, Spec, Workload};
use byrnie_net::BoxFuture;
use byrnie_net::grpc::{self, Call, Incoming, Service, Shape, Status};
use byrnie_net::listen::{Share, bind};
use byrnie_net::runtime::{self, Trigger};
use byrnie_net::tls;
use byrnie_proxy::{
    AccessLog, Config, Control, Error, Hop, Mount, Ports, Running, Sidecar, Source, Tokens, Users, start,
};
use byrnie_saga::ledger::{self, Begin, Begun, Change, Claim, Ending, Entry, Fingerprint, Finished, Name};
use byrnie_xds::proto::Message;
use byrnie_xds::proto::byrnie::v1::{
    HeartbeatSeen, JoinRequest, JoinResponse, Joined, LedgerAmbiguous, LedgerAnswer, LedgerAsk, LedgerFenced,
    LedgerGranted, LedgerMismatch, LedgerRecorded, LedgerRequest, LedgerResponse, Left, ReportRequest, ReportResponse,
    SignRequest, SignResponse, join_request, join_response, ledger_answer, ledger_ask, ledger_finish,
};
use byrnie_xds::server::Session;
use byrnie_xds::{Bytes, DELTA_PATH, JOIN_PATH, LEDGER_PATH, REPORT_PATH, SIGN_PATH, wire};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

pub(crate) const TOKEN: &str = "join-token";

fn control_identity() -> Identity {
    Identity::new(DOMAIN, Identity::SYSTEM_NAMESPACE, "control").unwrap()
}

/// What the control plane knows and has heard.
pub(crate) struct Plane {
    pub(crate) world: World,
    /// The bare rules of the ledger.
    pub(crate) keys: Mutex<BTreeMap<Name, Entry>>,
    /// So many asks it answers by an error, though it has done what they ask: it isn't sure of that.
    pub(crate) unsure: AtomicUsize,
    /// Nobody else is there while it is away.
    door: Reserved,
    view: watch::Sender<(Vec<Arc<Resource>>, u64)>,
    events: Mutex<Vec<String>>,
    reports: Mutex<Vec<ReportRequest>>,
}

impl Plane {
    pub(crate) fn new(view: Vec<Resource>) -> Arc<Self> {
        let view = watch::Sender::new((view.into_iter().map(Arc::new).collect(), 1));
        Arc::new(Self {
            world: World::new(),
            keys: Mutex::default(),
            unsure: AtomicUsize::new(0),
            door: Reserved::new(),
            view,
            events: Mutex::default(),
            reports: Mutex::default(),
        })
    }

    fn heard(&self, event: impl Into<String>) {
        self.events.lock().unwrap().push(event.into());
    }

    pub(crate) fn put(&self, resource: Resource) {
        self.view.send_modify(|(view, revision)| {
            *revision += 1;
            view.retain(|old| old.key != resource.key);
            view.push(Arc::new(Resource { revision: Revision(*revision), ..resource }));
        });
    }

    /// Serves until the trigger is dropped, always at the same address.
    pub(crate) fn serve(self: &Arc<Self>) -> (SocketAddr, Trigger, runtime::Core) {
        let listener = bind(self.door.address(), Share::Alone).unwrap();
        let address = listener.local_addr();
        let credentials = self.world.credentials_of(&control_identity());
        let tls = tls::server_optional_client(&credentials, &[tls::ALPN_H2]).unwrap();
        let (trigger, stop) = runtime::shutdown();
        let service: Arc<dyn Service> = Arc::new(Port(Arc::clone(self)));
        let core = runtime::spawn_core("control", None, move || grpc::serve(listener, tls, service, stop)).unwrap();
        (address, trigger, core)
    }
}

impl Plane {
    fn ask(&self, from: LedgerAsk) -> LedgerAnswer {
        let mut keys = self.keys.lock().unwrap();
        let service = from.service.unwrap();
        let service = format!("{}.{}", service.name, service.namespace).into();
        let name = Name { service, caller: from.caller.into(), key: from.key.into() };
        let (now, claim) = (runtime::now().wall, Claim(from.claim));
        let (what, change) = match from.what.unwrap() {
            ledger_ask::What::Begin(begin) => {
                let ask = Begin {
                    fingerprint: Fingerprint(begin.fingerprint.as_ref().try_into().unwrap()),
                    claim,
                    lease: Duration::from_millis(begin.lease_millis),
                    ttl: Duration::from_millis(begin.ttl_millis),
                    again: begin.again,
                };
                let (begun, change) = ledger::begin(keys.get(&name), &ask, now);
                let what = match begun {
                    Begun::Granted { again } => ledger_answer::What::Granted(LedgerGranted { again }),
                    Begun::Done(kept) => ledger_answer::What::Done(kept.to_vec().into()),
                    Begun::InFlight(left) => ledger_answer::What::InFlightMillis(left.as_millis() as u64),
                    Begun::Mismatch => ledger_answer::What::Mismatch(LedgerMismatch {}),
                    Begun::Ambiguous => ledger_answer::What::Ambiguous(LedgerAmbiguous {}),
                };
                (what, change)
            }
            ledger_ask::What::Finish(finish) => {
                let ending = match finish.ending.unwrap() {
                    ledger_finish::Ending::Done(kept) => Ending::Done(kept.to_vec().into()),
                    ledger_finish::Ending::Unsent(_) => Ending::Unsent,
                    ledger_finish::Ending::Ambiguous(_) => Ending::Ambiguous,
                };
                let (finished, change) = ledger::finish(keys.get(&name), claim, ending, now);
                let what = match finished {
                    Finished::Recorded => ledger_answer::What::Recorded(LedgerRecorded {}),
                    Finished::Fenced => ledger_answer::What::Fenced(LedgerFenced {}),
                };
                (what, change)
            }
            ledger_ask::What::Read(_) => panic!("proxies don't read"),
        };
        match change {
            Change::None => None,
            Change::Put(entry) => keys.insert(name, entry),
            Change::Remove => keys.remove(&name),
        };
        let unsure = self.unsure.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        let what = if unsure { ledger_answer::What::Error("the disk is strange".to_owned()) } else { what };
        LedgerAnswer { what: Some(what) }
    }
}

struct Port(Arc<Plane>);

impl Service for Port {
    fn shape(&self, path: &str) -> Option<Shape> {
        match path {
            DELTA_PATH | JOIN_PATH => Some(Shape::Stream),
            SIGN_PATH | REPORT_PATH | LEDGER_PATH => Some(Shape::Unary),
            _ => None,
        }
    }

    fn unary(&self, call: Call, message: Bytes) -> BoxFuture<'static, Result<Bytes, Status>> {
        let plane = Arc::clone(&self.0);
        Box::pin(async move {
            if call.path == LEDGER_PATH {
                let request = LedgerRequest::decode(&*message).unwrap();
                assert_eq!(request.node, "default/web");
                let answers = request.asks.into_iter().map(|ask| plane.ask(ask)).collect();
                return Ok(LedgerResponse { answers, ..LedgerResponse::default() }.encode_to_vec().into());
            }
            if call.path == REPORT_PATH {
                plane.reports.lock().unwrap().push(ReportRequest::decode(&*message).unwrap());
                return Ok(ReportResponse { sample_percent: 100 }.encode_to_vec().into());
            }
            let request = SignRequest::decode(&*message).unwrap();
            if request.token != TOKEN {
                return Err(Status::unauthenticated("no such token"));
            }
            plane.heard("sign");
            let identity = world::identity("web");
            let response = SignResponse {
                identity: identity.to_string(),
                chain: plane.world.sign(&request.csr, &identity),
                roots: plane.world.roots_pem(),
                not_after: 0,
            };
            Ok(response.encode_to_vec().into())
        })
    }

    fn stream(
        &self,
        call: Call,
        incoming: Incoming,
        out: mpsc::Sender<Bytes>,
    ) -> BoxFuture<'static, Result<(), Status>> {
        let plane = Arc::clone(&self.0);
        assert_eq!(call.peer.identity, Some(world::identity("web")));
        if call.path == JOIN_PATH { Box::pin(join(plane, incoming, out)) } else { Box::pin(ads(plane, incoming, out)) }
    }
}

async fn join(plane: Arc<Plane>, mut incoming: Incoming, out: mpsc::Sender<Bytes>) -> Result<(), Status> {
    while let Some(message) = incoming.next().await? {
        let answer = match JoinRequest::decode(&*message).unwrap().what.unwrap() {
            join_request::What::Join(join) => {
                let key = byrnie_xds::name::parse(byrnie_model::Kind::Workload, &join.name).unwrap();
                let resource = wire::decode(key, Revision(0), &join.resource).unwrap();
                let Spec::Workload(workload) = resource.spec else { panic!("a workload") };
                assert!(workload.inbound.is_some() && workload.admin.is_some());
                plane.heard(format!("join {} for {}", join.name, join.service));
                join_response::What::Joined(Joined { heartbeat_millis: 50, ..Default::default() })
            }
            join_request::What::Heartbeat(_) => join_response::What::Seen(HeartbeatSeen {}),
            join_request::What::Leave(leave) => {
                plane.heard(if leave.gone { "gone" } else { "leaving" });
                if leave.gone {
                    join_response::What::Left(Left {})
                } else {
                    join_response::What::Seen(HeartbeatSeen {})
                }
            }
        };
        let last = matches!(answer, join_response::What::Left(_));
        let _ = out.send(JoinResponse { what: Some(answer) }.encode_to_vec().into()).await;
        if last {
            return Ok(());
        }
    }
    Ok(())
}

async fn ads(plane: Arc<Plane>, mut incoming: Incoming, out: mpsc::Sender<Bytes>) -> Result<(), Status> {
    let mut session = Session::new();
    let mut view = plane.view.subscribe();
    view.mark_changed();
    loop {
        tokio::select! {
            request = incoming.next() => match request? {
                Some(request) => {
                    session.on_request(&request).unwrap();
                }
                None => return Ok(()),
            },
            changed = view.changed() => {
                changed.unwrap();
                let (changed, revision) = view.borrow_and_update().clone();
                session.offer(&Delta { changed, removed: Vec::new() }, Revision(revision));
            }
        }
        for response in session.flush(|resource| wire::encode(resource)) {
            let _ = out.send(response).await;
        }
    }
}

pub(crate) fn config(plane: &Plane, address: SocketAddr, program: u16, token: &str) -> Config {
    let workload = Workload { uses: vec![world::service("web")], ..world::spec_of("web", program, Protocol::Http1) };
    let labels: Labels = world::app("web");
    let mount = Sidecar {
        workload,
        labels,
        service: "web".into(),
        inbound: loopback(),
        forward: None,
        forward_for: Users::Any,
        listening: None,
    };
    Config {
        namespace: "default".into(),
        name: "web".into(),
        identity: world::identity("web"),
        mount: Mount::Sidecar(Box::new(mount)),
        source: Source::Control(Box::new(Control {
            address: address.into(),
            roots_pem: plane.world.roots_pem(),
            identity: control_identity(),
            tokens: Some(Tokens::one(token)),
            patience: Duration::from_secs(10),
            keep_view: true,
        })),
        state_dir: plane.world.state_dir("web"),
        admin: loopback(),
        admin_token: None,
        strict_ports: true,
        workers: 1,
        access_log: AccessLog::Off,
        hop: Hop::Framed,
    }
}

pub(crate) fn ready(running: &mut Running) -> Result<Ports, Error> {
    runtime::block_on(async { runtime::timeout(PATIENCE, running.ready()).await.expect("in time") }).unwrap()
}

/// Asks until the answer is `wanted`.
pub(crate) fn until(address: SocketAddr, wanted: u16) {
    let mut client = Peer::connect(address);
    let began = runtime::now().mono;
    while client.ask(&get("/")).0 != wanted {
        assert!(runtime::now().mono.since(began) < PATIENCE, "never {wanted}");
    }
}

#[test]
fn a_proxy_lives_by_its_control_plane_and_goes_on_without() {
    let program = Program::echo();
    let view = vec![
        world::allow_all(),
        world::workload_of("web", program.port, Protocol::Http1),
        world::service_of("web", program.port, Protocol::Http1),
    ];
    let plane = Plane::new(view);
    let (address, trigger, core) = plane.serve();
    let mut running = start(config(&plane, address, program.port, TOKEN)).unwrap();
    let ports = ready(&mut running).unwrap();
    let outbound = ports.outbound[0].address;
    until(outbound, 503);
    let inbound = ports.inbound.unwrap();
    plane.put(world::endpoint_of("web", 0, inbound));
    until(outbound, 200);
    let reported = runtime::now().mono;
    while !plane.reports.lock().unwrap().iter().any(|report| report.series.iter().any(|series| series.status == 200)) {
        assert!(runtime::now().mono.since(reported) < PATIENCE, "no report of a success");
    }

    drop(trigger);
    core.join().unwrap();
    for _ in 0..20 {
        until(outbound, 200);
    }
    plane.put(world::mesh(byrnie_model::resource::DefaultAccess::Deny));
    let (_, _trigger, _core) = plane.serve();
    until(outbound, 403);

    assert!(runtime::block_on(running.drain(Duration::from_secs(5))).unwrap());
    let events = plane.events.lock().unwrap().clone();
    assert_eq!(&events[..2], ["sign", "join default/web for web"]);
    assert_eq!(&events[events.len() - 2..], ["leaving", "gone"], "{events:?}");
}

/// The proxy of the test above after a first life, of which its state directory is left.
fn after_a_life(plane: &Arc<Plane>, program: u16) -> (SocketAddr, SocketAddr) {
    let (address, trigger, core) = plane.serve();
    let mut running = start(config(plane, address, program, TOKEN)).unwrap();
    let ports = ready(&mut running).unwrap();
    let (outbound, inbound) = (ports.outbound[0].address, ports.inbound.unwrap());
    plane.put(world::endpoint_of("web", 0, inbound));
    until(outbound, 200);
    // By the policy that comes last it is known that all before it is on the disk.
    plane.put(world::allow_open("web", "web"));
    plane.put(world::mesh(byrnie_model::resource::DefaultAccess::Deny));
    until(outbound, 403);
    drop(trigger);
    core.join().unwrap();
    // Nobody hears a goodbye; whatever it was about to write is written.
    assert!(runtime::block_on(running.drain(Duration::ZERO)).is_ok());
    (address, inbound)
}

#[test]
fn a_proxy_that_starts_while_its_control_plane_is_away_serves_what_it_served() {
    let program = Program::echo();
    let view = vec![
        world::allow_all(),
        world::workload_of("web", program.port, Protocol::Http1),
        world::service_of("web", program.port, Protocol::Http1),
    ];
    let plane = Plane::new(view);
    let (address, inbound) = after_a_life(&plane, program.port);
    let began = runtime::now().mono;
    let mut running = start(config(&plane, address, program.port, "none")).unwrap();
    let ports = ready(&mut running).unwrap();
    let took = runtime::now().mono.since(began);
    assert!(took < Duration::from_secs(1), "served after {took:?}");
    // Others know it by where it was; the newest policy holds, and what it allows goes through.
    assert_eq!(ports.inbound, Some(inbound));
    let outbound = ports.outbound[0].address;
    assert_eq!(Peer::connect(outbound).ask(&get("/")).0, 403);
    assert_eq!(Peer::connect(outbound).ask(&get("/open/x")).0, 200);
    // The control plane is back, and is asked for nothing but the difference.
    plane.events.lock().unwrap().clear();
    let (_, _trigger, _core) = plane.serve();
    plane.put(world::allow_all());
    until(outbound, 200);
    let began = runtime::now().mono;
    while !plane.events.lock().unwrap().iter().any(|event| event == "join default/web for web") {
        assert!(runtime::now().mono.since(began) < PATIENCE, "never joined again");
    }
    assert!(runtime::block_on(running.drain(Duration::from_secs(5))).unwrap());
}

#[test]
fn a_kept_view_that_was_tampered_with_is_not_served() {
    let program = Program::echo();
    let view = vec![
        world::allow_all(),
        world::workload_of("web", program.port, Protocol::Http1),
        world::service_of("web", program.port, Protocol::Http1),
    ];
    let plane = Plane::new(view);
    let (address, _) = after_a_life(&plane, program.port);
    let kept = plane.world.state_dir("web").join("view");
    let mut bytes = std::fs::read(&kept).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&kept, bytes).unwrap();
    let mut again = config(&plane, address, program.port, TOKEN);
    let Source::Control(control) = &mut again.source else { panic!("a control plane") };
    control.patience = Duration::from_millis(500);
    let error = ready(&mut start(again).unwrap()).unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}

#[test]
fn a_token_that_is_refused_and_a_plane_that_is_away_are_said_in_time() {
    let plane = Plane::new(Vec::new());
    let (address, trigger, core) = plane.serve();
    let mut running = start(config(&plane, address, 1, "forged")).unwrap();
    let error = ready(&mut running).unwrap_err();
    assert!(matches!(&error, Error::Refused { cause } if cause == "no such token"), "{error}");
    drop(trigger);
    core.join().unwrap();
    let mut away = config(&plane, address, 1, TOKEN);
    let Source::Control(control) = &mut away.source else { panic!("a control plane") };
    control.patience = Duration::from_millis(300);
    let error = ready(&mut start(away).unwrap()).unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}

#[test]
fn a_busy_port_is_named() {
    let plane = Plane::new(Vec::new());
    let taken = bind(loopback(), Share::Alone).unwrap();
    let mut config = config(&plane, loopback(), 1, TOKEN);
    config.admin = taken.local_addr();
    let error = start(config).unwrap_err();
    assert!(matches!(&error, Error::Port { what: "admin", address, .. } if *address == taken.local_addr()), "{error}");
}
