// SPDX-License-Identifier: Apache-2.0
//! The whole control plane over loopback and real TLS, as a proxy sees it.

mod neighbours;

use super::*;
use crate::apply::{self, Action, Outcome};
use crate::ca::token;
use crate::history;
use byrnie_model::policy::TrafficPolicy;
use byrnie_model::policy::traffic::{By, Limits, Quota, Rate};
use byrnie_model::resource::{DefaultAccess, Mesh};
use byrnie_model::workload::WorkloadPort;
use byrnie_model::{Health, Identity, Key, Kind, Protocol, Resource, Revision, ServiceRef, Spec, Workload};
use byrnie_net::grpc::{Channel, Code, Incoming};
use byrnie_net::tls::Key as PrivateKey;
use byrnie_store::{Embedded, ledger};
use byrnie_xds::client::Client;
use byrnie_xds::proto::Message;
use byrnie_xds::proto::byrnie::v1::quota_answer::What;
use byrnie_xds::proto::byrnie::v1::{
    Heartbeat, Join, JoinRequest, JoinResponse, Joined, Leave, LedgerAsk, LedgerBegin, LedgerFinish, LedgerRequest,
    LedgerResponse, QuotaAsk, QuotaRequest, QuotaResponse, SignRequest, SignResponse, join_request, join_response,
    ledger_answer, ledger_ask, ledger_finish,
};
use byrnie_xds::{Bytes, DELTA_PATH, JOIN_PATH, LEDGER_PATH, QUOTA_PATH, SIGN_PATH, name, wire};
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(20);

fn identity(account: &str) -> Identity {
    Identity::new("mesh.local", "default", account).unwrap()
}

fn workload(name: &str, account: &str, protocol: Protocol) -> Resource {
    let spec = Workload {
        identity: identity(account),
        address: "127.0.0.1".parse().unwrap(),
        ports: vec![WorkloadPort { name: "".into(), port: 8080, protocol }],
        inbound: Some("127.0.0.1:7781".parse().unwrap()),
        admin: None,
        uses: vec![],
        locality: Default::default(),
        weight: 1,
        health: Health::Healthy,
        check: None,
    };
    let labels = [("app".into(), account.into())].into();
    let key = Key::new(Kind::Workload, "default", name);
    Resource {
        key,
        revision: Revision(0),
        created: Revision(0),
        labels,
        origin: None,
        spec: Spec::Workload(Box::new(spec)),
    }
}

fn mesh(default_access: DefaultAccess) -> Action {
    let spec =
        Spec::Mesh(Mesh { trust_domain: "mesh.local".into(), default_access, otlp: None, limits: Box::default() });
    let key = Key::new(Kind::Mesh, "", "mesh");
    Action::Put(Resource {
        key,
        revision: Revision(0),
        created: Revision(0),
        labels: Default::default(),
        origin: None,
        spec,
    })
}

/// A control plane on a directory that outlives it.
struct Plane {
    running: Running,
    own: Identity,
}

impl Plane {
    async fn start(directory: &std::path::Path) -> Self {
        Self::with(directory, None).await
    }

    /// With a ledger that isn't in its directory.
    async fn with(directory: &std::path::Path, shared: Option<Arc<dyn Ledger>>) -> Self {
        let clock = Arc::new(*runtime::clock());
        // Calls of the plane before this one may still hold the file for a moment.
        let open = async {
            loop {
                let store = Embedded::open(&directory.join("state.redb"), clock.clone());
                let ledger = ledger::Embedded::open(&directory.join("ledger.redb"), clock.clone());
                match (store, ledger) {
                    (Ok(store), Ok(ledger)) => break (store, ledger),
                    _ => runtime::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        let (store, ledger) = runtime::timeout(PATIENCE, open).await.unwrap();
        let config = Config {
            store: Arc::new(store),
            journal: Arc::new(
                byrnie_store::log::Memory::open(&byrnie_store::disk::RamDisk::new(), clock.clone()).unwrap(),
            ),
            ledger: shared.unwrap_or(Arc::new(ledger)),
            data_dir: directory.to_owned(),
            trust_domain: "mesh.local".into(),
            console: "127.0.0.1:0".parse().unwrap(),
            control: "127.0.0.1:0".parse().unwrap(),
            strict_ports: true,
            names: vec![],
            leaf_lifetime: LEAF_LIFETIME,
            operator_token: "an operator of the tests".to_owned(),
            assets: Arc::new(|_| None),
        };
        let own = Identity::new("mesh.local", "byrnie", "control").unwrap();
        Self { running: start(config).await.unwrap(), own }
    }

    async fn anonymous(&self) -> Channel {
        let tls = tls::client_without_certificate(self.running.authority.roots());
        Channel::connect(self.running.control, &tls, &self.own, None).await.unwrap()
    }

    /// Credentials by a fresh token, and a channel with them.
    async fn enrol(&self, account: &str) -> (Credentials, Channel) {
        let token = token::create(&self.running.state, identity(account), Duration::from_secs(60), 1, "test").await;
        let token = token.unwrap().0.expose().to_owned();
        let key = PrivateKey::generate().unwrap();
        let request = SignRequest { csr: tls::csr(&key, &identity(account)).unwrap().into(), token };
        let answer = self.anonymous().await.unary(SIGN_PATH, request.encode_to_vec().into()).await.unwrap();
        let answer = SignResponse::decode(answer).unwrap();
        let roots = tls::Roots::from_pem(&answer.roots, "mesh.local").unwrap();
        let credentials = Credentials::new(&answer.chain, key, roots, runtime::now().wall).unwrap();
        let tls = tls::client(&credentials).unwrap();
        let channel = Channel::connect(self.running.control, &tls, &self.own, None).await.unwrap();
        (credentials, channel)
    }

    /// Waits until the catalog says so.
    async fn until(&self, say: impl Fn(&byrnie_catalog::Catalog) -> bool) {
        let mut revisions = self.running.state.revisions();
        let wait = async {
            while !self.running.state.catalog(&say) {
                revisions.changed().await.unwrap();
            }
        };
        runtime::timeout(PATIENCE, wait).await.unwrap();
    }

    fn has(&self, name: &str) -> bool {
        let key = Key::new(Kind::Workload, "default", name);
        self.running.state.catalog(|catalog| catalog.resource(&key).is_some())
    }
}

async fn join(
    channel: &Channel,
    resource: &Resource,
    service: &str,
) -> Result<(Joined, mpsc::Sender<Bytes>, Incoming), byrnie_net::grpc::Status> {
    let (sender, mut incoming) = channel.open(JOIN_PATH).await?;
    let join = Join {
        name: name::of(&resource.key),
        resource: wire::encode(resource),
        service: service.to_owned(),
        ..Default::default()
    };
    say(&sender, join_request::What::Join(join)).await;
    let first = incoming.next().await?.unwrap();
    match JoinResponse::decode(first).unwrap().what {
        Some(join_response::What::Joined(joined)) => Ok((joined, sender, incoming)),
        other => panic!("{other:?}"),
    }
}

async fn say(sender: &mpsc::Sender<Bytes>, what: join_request::What) {
    let request = JoinRequest { what: Some(what) };
    // A stream that was refused already says why when it's read.
    let _ = sender.send(request.encode_to_vec().into()).await;
}

/// Speaks delta ADS until `done`.
async fn follow(channel: &Channel, client: &mut Client, done: impl Fn(&Client) -> bool) -> mpsc::Sender<Bytes> {
    let (sender, mut incoming) = channel.open(DELTA_PATH).await.unwrap();
    for request in client.connect() {
        sender.send(request).await.unwrap();
    }
    let speak = async {
        while !done(client) {
            let response = incoming.next().await.unwrap().unwrap();
            let update = client.on_response(&response).unwrap();
            let answer = client.accept(&update);
            sender.send(answer).await.unwrap();
        }
    };
    runtime::timeout(PATIENCE, speak).await.unwrap();
    sender
}

fn run(test: impl AsyncFnOnce(&std::path::Path)) {
    let directory = tempfile::tempdir().unwrap();
    runtime::block_on(test(directory.path())).unwrap();
}

/// What a broken stream held is given up after a moment. A successor that registers just then, under the same lease, keeps it.
#[test]
fn who_comes_back_just_as_it_is_given_up_stays_registered() {
    run(async |directory| {
        let plane = Plane::start(directory).await;
        let (state, registry) = (&plane.running.state, &plane.running.registry);
        let (peer, at) = (identity("web"), crate::ingest::store_key(&Key::new(Kind::Workload, "default", "web-1")));
        let register = |weight: u32| {
            let mut resource = workload("web-1", "web", Protocol::Http1);
            let Spec::Workload(workload) = &mut resource.spec else { panic!("no workload") };
            workload.weight = weight;
            registry.register(state, &peer, resource, "web")
        };
        let mut seat = register(1).await.unwrap();
        for round in 2..60 {
            let (next, gone) = tokio::join!(register(round), registry.gone(state, &seat));
            gone.unwrap();
            seat = next.unwrap();
            assert!(state.store.get(&at).await.unwrap().is_some(), "round {round}");
        }
    });
}

#[test]
fn a_newcomer_gets_an_identity_joins_and_is_told_what_it_needs() {
    run(async |directory| {
        let plane = Plane::start(directory).await;
        let state = &plane.running.state;
        let (credentials, channel) = plane.enrol("web").await;
        assert_eq!(*credentials.identity(), identity("web"));
        let (joined, sender, mut incoming) =
            join(&channel, &workload("web-1", "web", Protocol::Http1), "web").await.unwrap();
        assert!(joined.service_created && plane.has("web-1"));

        apply::apply(state, &[mesh(DefaultAccess::Deny)], "operator", "apply").await.unwrap();
        let mut client = Client::new("default/web-1", "0");
        let _stream = follow(&channel, &mut client, |client| client.is_complete() && client.held().len() >= 3).await;
        let held: Vec<_> = client.held().keys().map(ToString::to_string).collect();
        for expected in ["Mesh/mesh", "Service/default/web", "Workload/default/web-1"] {
            assert!(held.iter().any(|key| key == expected), "{expected} of {held:?}");
        }
        let proxies = state.proxies();
        assert_eq!((&*proxies[0].name, &proxies[0].identity), ("default/web-1", &identity("web")));

        say(&sender, join_request::What::Heartbeat(Heartbeat::default())).await;
        assert!(incoming.next().await.unwrap().is_some());
        say(&sender, join_request::What::Leave(Leave { gone: true })).await;
        plane.until(|catalog| catalog.iter(Kind::Workload).count() == 0).await;
        plane.running.stop().await;
    });
}

#[test]
fn a_stream_that_breaks_takes_its_workload_out_and_a_restart_does_not() {
    run(async |directory| {
        let plane = Plane::start(directory).await;
        let (credentials, channel) = plane.enrol("web").await;
        let resource = workload("web-1", "web", Protocol::Http1);
        let (first, sender, incoming) = join(&channel, &resource, "web").await.unwrap();
        plane.running.stop().await;
        drop((sender, incoming, channel));

        let plane = Plane::start(directory).await;
        assert!(plane.has("web-1"), "a restart empties nothing");
        let tls = tls::client(&credentials).unwrap();
        let channel = Channel::connect(plane.running.control, &tls, &plane.own, None).await.unwrap();
        let (again, sender, incoming) = join(&channel, &resource, "web").await.unwrap();
        assert!(!again.service_created && again.revision >= first.revision);
        drop((sender, incoming));
        let broke = runtime::now().mono;
        plane.until(|catalog| catalog.iter(Kind::Workload).count() == 0).await;
        let took = runtime::now().mono.since(broke);
        assert!(took < Duration::from_millis(2_000), "taken out after {took:?}");
        plane.running.stop().await;
    });
}

#[test]
fn names_of_others_are_refused_with_the_reason() {
    run(async |directory| {
        let plane = Plane::start(directory).await;
        let (_, web) = plane.enrol("web").await;
        let (_, cart) = plane.enrol("cart").await;
        let _held = join(&web, &workload("web-1", "web", Protocol::Http1), "web").await.unwrap();
        let check = async |channel: &Channel, resource: Resource, service: &str, code: Code, text: &str| {
            let status = join(channel, &resource, service).await.map(|_| ()).unwrap_err();
            assert!(status.code() == code && status.message().contains(text), "{status:?}");
        };
        let other = workload("web-1", "cart", Protocol::Http1);
        check(&cart, other, "cart", Code::AlreadyExists, "runs as spiffe://mesh.local/ns/default/sa/web").await;
        let stolen = workload("web-2", "web", Protocol::Http1);
        check(&cart, stolen, "web", Code::PermissionDenied, "BYR-A010").await;
        let other = workload("cart-1", "cart", Protocol::Http1);
        check(&cart, other, "web", Code::AlreadyExists, "the service name web.default is already taken").await;
        let tcp = workload("web-3", "web", Protocol::Tcp);
        check(&web, tcp, "web", Code::AlreadyExists, "its port 80 speaks http, and this tcp").await;
        let anonymous = plane.anonymous().await;
        check(&anonymous, workload("x", "x", Protocol::Http1), "", Code::Unauthenticated, "certificate").await;
        plane.running.stop().await;
    });
}

#[test]
fn instances_of_a_service_each_listen_on_a_port_of_their_own() {
    run(async |directory| {
        let plane = Plane::start(directory).await;
        let (_, channel) = plane.enrol("web").await;
        let on = |name: &str, port: u16, protocol: Protocol| {
            let mut resource = workload(name, "web", protocol);
            let Spec::Workload(spec) = &mut resource.spec else { unreachable!() };
            spec.ports[0] = WorkloadPort { name: protocol.name().into(), port, protocol };
            resource
        };
        let _one = join(&channel, &on("web-1", 4001, Protocol::Http1), "web").await.unwrap();
        let _two = join(&channel, &on("web-2", 4002, Protocol::Http1), "web").await.unwrap();
        plane.until(|catalog| catalog.iter(Kind::Endpoint).count() == 2).await;
        let mut targets: Vec<u16> = plane.running.state.catalog(|catalog| {
            let ports = |resource: &Resource| match &resource.spec {
                Spec::Endpoint(endpoint) => endpoint.ports.iter().map(|port| port.target).collect(),
                _ => vec![],
            };
            catalog.iter(Kind::Endpoint).flat_map(|endpoint| ports(endpoint)).collect()
        });
        targets.sort_unstable();
        assert_eq!(targets, [4001, 4002]);
        plane.running.stop().await;
    });
}

#[test]
fn certificates_are_for_a_token_once_or_for_a_renewal() {
    run(async |directory| {
        let plane = Plane::start(directory).await;
        let state = &plane.running.state;
        let (token, grant) = token::create(state, identity("web"), Duration::from_secs(60), 2, "test").await.unwrap();
        assert_eq!(token::list(state).await.unwrap(), [grant]);
        let stored = state.store.list("/tokens/").await.unwrap().0;
        let secret = token.expose().rsplit('-').next().unwrap().to_owned();
        assert!(stored.iter().all(|entry| !String::from_utf8_lossy(&entry.value).contains(&secret)));

        let key = PrivateKey::generate().unwrap();
        // What the request asks for is somebody else; what it gets is what the token says.
        let csr = tls::csr(&key, &identity("admin")).unwrap();
        let sign = async |channel: &Channel, token: &str| {
            let request = SignRequest { csr: csr.clone().into(), token: token.to_owned() };
            channel.unary(SIGN_PATH, request.encode_to_vec().into()).await
        };
        let anonymous = plane.anonymous().await;
        for _ in 0..2 {
            let answer = SignResponse::decode(sign(&anonymous, token.expose()).await.unwrap()).unwrap();
            assert_eq!(answer.identity, identity("web").to_string());
        }
        for bad in [token.expose(), "byrnie-join-0011223344556677-00", "x", ""] {
            let status = sign(&anonymous, bad).await.unwrap_err();
            assert_eq!(status.code(), Code::Unauthenticated, "{bad}");
        }
        let (_, channel) = plane.enrol("cart").await;
        let answer = SignResponse::decode(sign(&channel, "").await.unwrap()).unwrap();
        assert_eq!(answer.identity, identity("cart").to_string());

        let issued = crate::ca::issue::list(state).await.unwrap();
        let by: Vec<_> = issued.iter().map(|one| (&**one.identity.service_account(), &*one.by)).collect();
        assert_eq!(by.iter().filter(|(account, _)| *account == "web").count(), 2);
        assert!(by.contains(&("control", "own")) && by.contains(&("cart", "renewal")), "{by:?}");
        let serials: std::collections::BTreeSet<_> = issued.iter().map(|one| &one.serial).collect();
        assert_eq!(serials.len(), issued.len());
        plane.running.stop().await;
    });
}

#[test]
fn what_was_applied_is_in_the_history_and_can_be_undone() {
    run(async |directory| {
        let plane = Plane::start(directory).await;
        let state = &plane.running.state;
        let deny = apply::apply(state, &[mesh(DefaultAccess::Deny)], "ann", "apply").await.unwrap();
        assert_eq!(deny.outcomes[0].1, Outcome::Created);
        let same = apply::apply(state, &[mesh(DefaultAccess::Deny)], "ann", "apply").await.unwrap();
        assert_eq!(same.outcomes[0].1, Outcome::Unchanged);
        let allow = apply::apply(state, &[mesh(DefaultAccess::Allow)], "bob", "apply").await.unwrap();
        assert_eq!(allow.outcomes[0].1, Outcome::Changed);
        let records = history::list(state, 10).await.unwrap();
        let told: Vec<_> = records.iter().map(|record| (record.revision, &*record.who)).collect();
        assert_eq!(told, [(allow.revision, "bob"), (deny.revision, "ann")]);

        let first = history::way_back(state, Some(deny.revision)).await;
        assert!(matches!(first, Err(history::Error::Superseded { since, .. }) if since == allow.revision));
        let (last, actions) = history::way_back(state, None).await.unwrap();
        assert_eq!(last, allow.revision);
        let undone = apply::apply(state, &actions, "eve", "undo").await.unwrap();
        assert_eq!(undone.outcomes[0].1, Outcome::Changed);
        plane.until(|catalog| catalog.iter(Kind::Mesh).all(|mesh| mesh.revision == undone.revision)).await;
        let spec = state.catalog(|catalog| catalog.iter(Kind::Mesh).next().unwrap().spec.clone());
        assert!(matches!(spec, Spec::Mesh(Mesh { default_access: DefaultAccess::Deny, .. })));
        let unknown = history::way_back(state, Some(Revision(9_999))).await;
        assert!(matches!(unknown, Err(history::Error::Unknown(_))));

        let absent =
            apply::apply(state, &[Action::Delete(Key::new(Kind::Service, "default", "x"))], "ann", "delete").await;
        assert!(matches!(absent, Err(apply::Error::Absent(_))));
        let other = Spec::Mesh(Mesh {
            trust_domain: "other".into(),
            default_access: DefaultAccess::Deny,
            otlp: None,
            limits: Box::default(),
        });
        let Action::Put(resource) = mesh(DefaultAccess::Deny) else { unreachable!() };
        let moved = apply::apply(state, &[Action::Put(Resource { spec: other, ..resource })], "ann", "apply").await;
        assert!(matches!(moved, Err(apply::Error::TrustDomain { .. })));
        plane.running.stop().await;
    });
}

#[test]
fn a_stored_entry_that_is_no_resource_is_reported_and_harms_nothing() {
    run(async |directory| {
        let plane = Plane::start(directory).await;
        let state = &plane.running.state;
        apply::apply(state, &[mesh(DefaultAccess::Deny)], "ann", "apply").await.unwrap();
        let bad = |value: &[u8]| byrnie_store::Txn::new().put("/resources/Mesh/_/mesh", value);
        let revision = state.store.commit(bad(b"{nonsense")).await.unwrap();
        let mut revisions = state.revisions();
        runtime::timeout(PATIENCE, revisions.wait_for(|at| *at >= revision)).await.unwrap().unwrap();
        let reported = state.bad_entries();
        assert!(reported.len() == 1 && &*reported[0].0 == "/resources/Mesh/_/mesh", "{reported:?}");
        assert_eq!(state.catalog(|catalog| catalog.iter(Kind::Mesh).count()), 1, "the last good stays");
        plane.running.stop().await;

        let plane = Plane::start(directory).await;
        assert_eq!(plane.running.state.bad_entries().len(), 1, "a restart is no way round it");
        plane.running.stop().await;
    });
}

#[test]
fn a_proxy_asks_the_ledger_for_its_own_services_alone() {
    run(async |directory| {
        let plane = Plane::start(directory).await;
        let (_, channel) = plane.enrol("web").await;
        let (_, stranger) = plane.enrol("other").await;
        let (_joined, sender, mut incoming) =
            join(&channel, &workload("web-1", "web", Protocol::Http1), "web").await.unwrap();
        plane
            .until(|catalog| {
                catalog.is_instance(&ServiceRef::new("default", "web"), "default", "web-1", &identity("web"))
            })
            .await;

        let begin = |claim| LedgerBegin {
            fingerprint: vec![1; 32].into(),
            lease_millis: 60_000,
            ttl_millis: 600_000,
            again: claim == 9,
        };
        let asked = |service: &str, claim: u64, what| LedgerAsk {
            service: Some(wire_ref(service)),
            caller: "spiffe://mesh.local/ns/default/sa/buyer".to_owned(),
            key: "k".to_owned(),
            claim,
            what: Some(what),
        };
        let ask = async |channel: &Channel, node: &str, asks: Vec<LedgerAsk>| {
            let request = LedgerRequest { node: node.to_owned(), asks, known: 0 };
            let answer = channel.unary(LEDGER_PATH, request.encode_to_vec().into()).await?;
            let answers = LedgerResponse::decode(answer).unwrap().answers;
            Ok::<_, byrnie_net::grpc::Status>(answers.into_iter().map(|a| a.what.unwrap()).collect::<Vec<_>>())
        };
        let first = |claim| asked("web", claim, ledger_ask::What::Begin(begin(claim)));

        for (channel, node, service) in [
            (&stranger, "default/web-1", "web"),
            (&channel, "default/web-1", "payments"),
            (&channel, "default/web-2", "web"),
            (&channel, "web-1", "web"),
        ] {
            let refused =
                ask(channel, node, vec![asked(service, 1, ledger_ask::What::Begin(begin(1)))]).await.unwrap_err();
            assert_eq!(refused.code(), Code::PermissionDenied, "{node} {service}");
        }
        let anonymous = plane.anonymous().await;
        assert_eq!(ask(&anonymous, "default/web-1", vec![first(1)]).await.unwrap_err().code(), Code::Unauthenticated);

        // All asks of a call are answered, in order.
        let answers = ask(&channel, "default/web-1", vec![first(1), first(2)]).await.unwrap();
        assert!(
            matches!(answers[..], [ledger_answer::What::Granted(_), ledger_answer::What::InFlightMillis(_)]),
            "{answers:?}"
        );

        // An instance that has left still tells how its last request ended, and begins nothing more.
        say(&sender, join_request::What::Leave(Leave { gone: true })).await;
        while let Ok(Some(_)) = incoming.next().await {}
        plane.until(|catalog| catalog.iter(Kind::Workload).count() == 0).await;
        assert_eq!(ask(&channel, "default/web-1", vec![first(3)]).await.unwrap_err().code(), Code::PermissionDenied);
        let finish =
            LedgerFinish { ending: Some(ledger_finish::Ending::Done(vec![7].into())), ..LedgerFinish::default() };
        let finish = |claim| asked("web", claim, ledger_ask::What::Finish(finish.clone()));
        let refused = ask(&stranger, "default/web-1", vec![finish(1)]).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        let answers = ask(&channel, "default/web-1", vec![finish(2), finish(1)]).await.unwrap();
        assert!(
            matches!(answers[..], [ledger_answer::What::Fenced(_), ledger_answer::What::Recorded(_)]),
            "{answers:?}"
        );
        plane.running.stop().await;

        // Another control plane on the same files remembers.
        let plane = Plane::start(directory).await;
        let (_, channel) = plane.enrol("web").await;
        let (_joined, _sender, _incoming) =
            join(&channel, &workload("web-2", "web", Protocol::Http1), "web").await.unwrap();
        plane
            .until(|catalog| {
                catalog.is_instance(&ServiceRef::new("default", "web"), "default", "web-2", &identity("web"))
            })
            .await;
        let answers = ask(&channel, "default/web-2", vec![first(4)]).await.unwrap();
        assert!(matches!(&answers[..], [ledger_answer::What::Done(kept)] if **kept == [7]), "{answers:?}");
        plane.running.stop().await;
    });
}

#[test]
fn a_proxy_asks_for_requests_under_quotas_of_its_own_services_that_some_policy_shares() {
    run(async |directory| {
        let plane = Plane::start(directory).await;
        let (_, channel) = plane.enrol("web").await;
        let (_, stranger) = plane.enrol("other").await;
        let (_joined, _sender, _incoming) =
            join(&channel, &workload("web-1", "web", Protocol::Http1), "web").await.unwrap();
        let web = ServiceRef::new("default", "web");
        plane.until(|catalog| catalog.is_instance(&web, "default", "web-1", &identity("web"))).await;
        let quota = |requests: u32, shared: bool| Quota {
            rate: Rate { requests, per: Duration::from_secs(3600) },
            by: By::Caller,
            shared,
        };
        let of = |service: &str, quota: &Quota, key: u64, requests: u32| {
            let ask = byrnie_xds::wire::quota_ask_out(&ServiceRef::new("default", service), quota);
            QuotaAsk { key, requests, ..ask }
        };
        let ask = async |channel: &Channel, node: &str, asks: Vec<QuotaAsk>| {
            let request = QuotaRequest { node: node.to_owned(), asks };
            let answer = channel.unary(QUOTA_PATH, request.encode_to_vec().into()).await?;
            let answers = QuotaResponse::decode(answer).unwrap().answers;
            Ok::<_, byrnie_net::grpc::Status>(answers.into_iter().map(|a| a.what.unwrap()).collect::<Vec<_>>())
        };
        let quotas = vec![quota(5, true), Quota { by: By::All, ..quota(9, false) }];
        let limits = Some(Limits { quotas, ..Limits::default() });
        let spec =
            Spec::Traffic(TrafficPolicy { targets: vec![web.clone()], limits, ..TrafficPolicy::default() }.into());
        let key = Key::new(Kind::TrafficPolicy, "default", "web");
        let (revision, created) = (Revision(0), Revision(0));
        let policy = Resource { key, revision, created, labels: Default::default(), origin: None, spec };
        apply::apply(&plane.running.state, &[Action::Put(policy)], "ann", "apply").await.unwrap();
        plane.until(|catalog| catalog.has_shared(&web, &quota(5, true))).await;
        for (channel, node, service) in [
            (&stranger, "default/web-1", "web"),
            (&channel, "default/web-1", "bank"),
            (&channel, "default/web-2", "web"),
        ] {
            let refused = ask(channel, node, vec![of(service, &quota(5, true), 1, 1)]).await.unwrap_err();
            assert_eq!(refused.code(), Code::PermissionDenied, "{node} {service}");
        }
        // Each caller has its own, and there is no way to another one.
        let asks =
            [(5, true, 1, 3), (5, true, 1, 3), (5, true, 1, 3), (5, true, 2, 1), (6, true, 1, 1), (5, false, 1, 1)];
        let asks = asks.map(|(requests, shared, key, want)| of("web", &quota(requests, shared), key, want));
        let answers = ask(&channel, "default/web-1", asks.to_vec()).await.unwrap();
        let lease = |requests, left| move |what: &What| matches!(what, What::Lease(l) if (l.requests, l.left) == (requests, left));
        assert!(lease(3, 2)(&answers[0]) && lease(2, 0)(&answers[1]) && lease(1, 4)(&answers[3]), "{answers:?}");
        assert!(matches!(answers[2], What::WaitMillis(700_000..=720_000)), "{answers:?}");
        assert!(answers[4..].iter().all(|what| matches!(what, What::Unknown(_))), "{answers:?}");
        let many = (0..257).map(|n| of("web", &quota(5, true), n, 1)).collect();
        assert_eq!(ask(&channel, "default/web-1", many).await.unwrap_err().code(), Code::InvalidArgument);
        plane.running.stop().await;
    });
}

fn wire_ref(service: &str) -> byrnie_xds::proto::byrnie::v1::ServiceRef {
    byrnie_xds::proto::byrnie::v1::ServiceRef { namespace: "default".to_owned(), name: service.to_owned() }
}
