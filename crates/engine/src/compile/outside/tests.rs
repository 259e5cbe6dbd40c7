// SPDX-License-Identifier: Apache-2.0
//! Calls that leave the mesh: at the caller's proxy, and at the one by which they leave.

use crate::fixtures::*;
use crate::{
    Arrival, Compiler, Direction, Effect, Exchange, Node, Plan, Program, Reason, Role, Security, Shard, Snapshot, Tls,
};
use byrnie_codec::Head;
use byrnie_model::outside::{BackendTls, Bundle, Target as TlsTarget, Trust};
use byrnie_model::policy::access::{Action, Mode, Rule as AccessRule};
use byrnie_model::policy::health::Check;
use byrnie_model::policy::traffic::Choice;
use byrnie_model::policy::{HealthCheck, TrafficPolicy};
use byrnie_model::resource::Spec;
use byrnie_model::route::{Rewrite, RouteFilter};
use byrnie_model::secret::{Private, Secret};
use byrnie_model::service::{Locality, ServicePort, TargetPort};
use byrnie_model::{Delta, Identity, Key, Kind, Labels, Protocol, Resource, Revision, Service};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// `bank`, at `api.bank.test`: port 80 named `api` leads to 443, port 81 named `old` to 8080.
fn bank() -> Resource {
    let port = |name: &str, port, target| ServicePort {
        name: name.into(),
        port,
        target: TargetPort::Number(target),
        protocol: Protocol::Http1,
        prefixed: false,
    };
    let ports = vec![port("api", 80, 443), port("old", 81, 8080)];
    let spec = Service {
        ports,
        selector: Labels::new(),
        outside: Some("api.bank.test".into()),
        publish_not_ready: false,
        pool: None,
    };
    resource(Kind::Service, "shop", "bank", Spec::Service(spec))
}

fn policy(name: &str, section: Option<&str>, trust: Trust, age: u64) -> Resource {
    let targets = vec![TlsTarget { service: sref("bank"), section: section.map(Into::into) }];
    let spec =
        BackendTls { targets, hostname: format!("{name}.test").into(), names: Vec::new(), trust, certificate: None };
    let resource = resource(Kind::BackendTlsPolicy, "shop", name, Spec::BackendTls(spec.into()));
    Resource { created: Revision(age), ..resource }
}

fn bundle(name: &str, pem: &str) -> Resource {
    resource(Kind::ConfigMap, "shop", name, Spec::Bundle(Bundle { pem: pem.into() }.into()))
}

fn egress() -> Identity {
    Identity::new("demo.local", "byrnie", "egress").unwrap()
}

/// A proxy by which calls leave the mesh.
struct Exit(Compiler, u64);

impl Exit {
    fn new(resources: Vec<Resource>) -> Self {
        let node = Node {
            name: "egress-1".into(),
            namespace: "byrnie".into(),
            identity: egress(),
            locality: Locality::default(),
            role: Role::Sidecar,
        };
        let mut own = own_workload();
        own.key = Key::new(Kind::Workload, "byrnie", "egress-1");
        let mut exit = Self(Compiler::new(node), 0);
        exit.apply(resources, Vec::new());
        exit.apply(vec![own], Vec::new());
        exit
    }

    fn apply(&mut self, changed: Vec<Resource>, removed: Vec<Key>) {
        self.1 += 1;
        let changed = changed.into_iter().map(Arc::new).collect();
        assert_eq!(self.0.apply(&Delta { changed, removed }, Revision(self.1)), []);
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.0.snapshot()
    }

    /// How `bank`'s port is protected: the host that is asked for, or why nothing may be sent.
    fn security(&self, port: u16) -> String {
        let snapshot = self.snapshot();
        let (_, _, program) =
            snapshot.served().find(|(at, number, _)| *at == &sref("bank") && *number == port).unwrap();
        let Program::Outside(to) = program else { panic!("{program}") };
        match &to.security {
            Security::Plain => "plain".into(),
            Security::Tls(verify) => format!("{} by {:?}", verify.hostname, verify.roots.as_deref()),
            Security::Broken(why) => why.to_string(),
        }
    }

    fn begin(&self, from: &str, port: u16, head: &mut Head) -> Effect {
        let (service, source) = (sref("bank"), identity(from));
        let arrival = Arrival {
            direction: Direction::Inbound { service: &service, port },
            source: Some(&source),
            remote: SocketAddr::from(([10, 0, 0, 9], 5555)),
            tls: Tls::Mutual,
        };
        Exchange::begin(&self.snapshot(), &mut Shard::new(7), &arrival, head, ms(0)).1
    }
}

fn allowed(name: &str) -> Resource {
    let rule = AccessRule { sources: vec![account(name)], ..AccessRule::default() };
    access("bank", "bank", Action::Allow, Mode::Enforce, vec![rule])
}

fn target(plan: &Plan) -> String {
    match &plan.target {
        crate::Target::Program { program, .. } => program.to_string(),
        crate::Target::Mesh(hop) => hop.endpoint().to_string(),
    }
}

#[test]
fn a_call_leaves_only_if_a_policy_allows_it_and_without_the_words_of_the_mesh() {
    let exit = Exit::new(vec![bank(), allowed("web")]);
    let words = [
        ("x-byrnie-deadline-ms", "500"),
        ("x-byrnie-retry-budget", "2"),
        ("x-byrnie-criticality", "high"),
        ("forwarded-client-identity", "spiffe://demo.local/ns/shop/sa/x"),
        ("idempotency-key", "k"),
        ("txn-id", "t"),
        ("accept", "*/*"),
    ];
    let mut asked = head("POST", "api.bank.test/pay", &words);
    let sent = plan(exit.begin("web", 80, &mut asked));
    assert_eq!(target(&sent), "api.bank.test:443 outside the mesh");
    let kept: Vec<&str> = ["accept", "idempotency-key", "txn-id"].to_vec();
    for (name, _) in words {
        assert_eq!(asked.get(name).is_some(), kept.contains(&name), "{name}");
    }
    let refused = answer(exit.begin("cart", 80, &mut head("POST", "api.bank.test/pay", &[])));
    assert_eq!((refused.status, refused.reason), (403, crate::Reason::AccessDenied));
}

#[test]
fn an_ordinary_workload_serves_no_host_outside() {
    let mut own = bank();
    own.key = Key::new(Kind::Service, "shop", "bank");
    let world = World::new(vec![own_workload(), own]);
    assert_eq!(world.snapshot().served().count(), 0);
}

#[test]
fn the_policy_for_a_port_comes_first_and_of_equals_the_oldest() {
    let mut exit = Exit::new(vec![bank()]);
    assert_eq!(exit.security(80), "plain");
    exit.apply(vec![policy("b-late", None, Trust::System, 7), policy("c-early", None, Trust::System, 3)], Vec::new());
    assert_eq!((exit.security(80), exit.security(81)), ("c-early.test by None".into(), "c-early.test by None".into()));
    exit.apply(vec![policy("a-port", Some("api"), Trust::System, 9)], Vec::new());
    assert_eq!((exit.security(80), exit.security(81)), ("a-port.test by None".into(), "c-early.test by None".into()));
    exit.apply(Vec::new(), vec![Key::new(Kind::BackendTlsPolicy, "shop", "c-early")]);
    assert_eq!((exit.security(80), exit.security(81)), ("a-port.test by None".into(), "b-late.test by None".into()));
}

#[test]
fn a_policy_that_cannot_be_followed_lets_nothing_out() {
    let trust = Trust::Bundles(vec!["one".into(), "two".into()]);
    let mut exit = Exit::new(vec![bank(), allowed("web"), policy("p", None, trust, 1), bundle("one", "ONE")]);
    assert!(exit.security(80).contains("ConfigMap/shop/two, which is absent"), "{}", exit.security(80));
    let refused = answer(exit.begin("web", 80, &mut head("GET", "api.bank.test/", &[])));
    assert_eq!(refused.status, 500);
    assert!(refused.detail.contains("ConfigMap/shop/two"), "{}", refused.detail);
    exit.apply(vec![bundle("two", "TWO")], Vec::new());
    assert_eq!(exit.security(80), "p.test by Some(\"ONE\\nTWO\\n\")");
    plan(exit.begin("web", 80, &mut head("GET", "api.bank.test/", &[])));
    exit.apply(Vec::new(), vec![Key::new(Kind::ConfigMap, "shop", "one")]);
    assert_eq!(exit.security(80), "BackendTLSPolicy/shop/p names ConfigMap/shop/one, which is absent");
}

#[test]
fn nothing_leaves_without_the_certificate_that_a_policy_says_is_shown() {
    let mut showing = policy("p", None, Trust::System, 1);
    let Spec::BackendTls(spec) = &mut showing.spec else { panic!() };
    Arc::make_mut(spec).certificate = Some("own".into());
    let secret = |namespace: &str, chain: &str| {
        let spec = Secret { chain: chain.into(), key: Private::new("KEY") };
        resource(Kind::Secret, namespace, "own", Spec::Secret(spec.into()))
    };
    let mut exit = Exit::new(vec![bank(), allowed("web"), showing, secret("else", "ELSE")]);
    let absent = "BackendTLSPolicy/shop/p names Secret/shop/own, which is absent";
    assert_eq!(exit.security(80), absent);
    let refused = answer(exit.begin("web", 80, &mut head("GET", "api.bank.test/", &[])));
    assert_eq!(refused.status, 500);
    assert!(refused.detail.contains(absent), "{}", refused.detail);
    let sent = |exit: &Exit| {
        let plan = plan(exit.begin("web", 80, &mut head("GET", "api.bank.test/", &[])));
        let crate::Target::Program { program: Program::Outside(to), .. } = &plan.target else { panic!() };
        let Security::Tls(verify) = &to.security else { panic!("{:?}", to.security) };
        assert!(!format!("{to:?}").contains("KEY"), "{to:?}");
        let shown = verify.certificate.as_ref().unwrap().1.chain.to_string();
        (shown, target(&plan))
    };
    for chain in ["ONE", "TWO"] {
        exit.apply(vec![secret("shop", chain)], Vec::new());
        let words = "api.bank.test:443 outside the mesh (TLS, verified as p.test, shown Secret/shop/own)";
        assert_eq!(sent(&exit), (chain.to_owned(), words.to_owned()));
    }
    exit.apply(Vec::new(), vec![Key::new(Kind::Secret, "shop", "own")]);
    assert_eq!(exit.security(80), absent);
}

/// `web`, which calls `bank` by the exit.
fn caller() -> World {
    let mut at_exit = endpoint("bank", "egress-1", 1);
    at_exit.identity = egress();
    at_exit.ports.push(byrnie_model::service::PortPair { service: 81, target: 8080 });
    World::new(vec![bank(), of_endpoint(at_exit)])
}

#[test]
fn a_caller_asks_the_host_by_its_own_name() {
    let mut world = caller();
    let mut authority = |asked: &str| {
        let mut head = head("GET", asked, &[]);
        assert_eq!(endpoint_of(&plan(world.begin(&mut head, ms(0)).1)), "egress-1");
        head.authority().to_owned()
    };
    assert_eq!(authority("bank/"), "api.bank.test");
    assert_eq!(authority("bank.shop.mesh:81/"), "api.bank.test:8080");
    assert_eq!(authority("api.bank.test/"), "api.bank.test", "the host itself is known to the forward proxy");
    assert_eq!(authority("api.bank.test:81/"), "api.bank.test:8080");
    for unknown in ["api.bank.test:443/", "www.bank.test/", "bank.test/"] {
        assert_eq!(answer(world.begin(&mut head("GET", unknown, &[]), ms(0)).1).status, 404, "{unknown}");
    }
    // What a route says of the host holds.
    let rewrite = Rewrite { hostname: Some("v2.bank.test".into()), path: None };
    let mut rewriting = rule(vec![prefix("/")], vec![backend("bank", 1)]);
    rewriting.filters = vec![RouteFilter::Rewrite(rewrite)];
    world.put(vec![route("r", "bank", vec![rewriting])]);
    let mut asked = head("GET", "bank/", &[]);
    plan(world.begin(&mut asked, ms(0)).1);
    assert_eq!(asked.authority(), "v2.bank.test");
}

#[test]
fn a_service_that_is_inside_again_is_no_host() {
    let mut world = caller();
    let mut inside = bank();
    let Spec::Service(service) = &mut inside.spec else { panic!() };
    service.outside = None;
    world.put(vec![inside]);
    assert_eq!(answer(world.begin(&mut head("GET", "api.bank.test/", &[]), ms(0)).1).status, 404);
    let mut asked = head("GET", "bank/", &[]);
    plan(world.begin(&mut asked, ms(0)).1);
    assert_eq!(asked.authority(), "bank");
}

/// `bank`, for all hosts below `bank.test`.
fn many() -> Resource {
    let mut many = bank();
    let Spec::Service(service) = &mut many.spec else { panic!() };
    service.outside = Some("*.bank.test".into());
    many
}

#[test]
fn a_pattern_stands_for_the_hosts_below_a_domain_and_for_no_other() {
    let exit = Exit::new(vec![many(), allowed("web")]);
    let sent = |host: &str| target(&plan(exit.begin("web", 80, &mut head("GET", &format!("{host}/"), &[]))));
    assert_eq!(sent("one.bank.test"), "one.bank.test:443 outside the mesh");
    assert_eq!(sent("a.b.bank.test:80"), "a.b.bank.test:443 outside the mesh");
    for host in ["bank.test", "xbank.test", "one.bank.test.evil.test", "bank", "127.0.0.1"] {
        let refused = answer(exit.begin("web", 80, &mut head("GET", &format!("{host}/"), &[])));
        assert_eq!((refused.status, refused.reason), (404, crate::Reason::UnknownService), "{host}");
    }
    // A policy that verifies one host can't be followed for many.
    let mut exit = Exit::new(vec![many(), allowed("web"), policy("p", None, Trust::System, 1)]);
    assert_eq!(answer(exit.begin("web", 80, &mut head("GET", "one.bank.test/", &[]))).status, 500);
    exit.apply(Vec::new(), vec![Key::new(Kind::BackendTlsPolicy, "shop", "p")]);
    plan(exit.begin("web", 80, &mut head("GET", "one.bank.test/", &[])));
}

#[test]
fn a_caller_names_one_of_many_hosts_and_the_nearest_service_stands_for_it() {
    let mut world = caller();
    let mut far = many();
    far.key = Key::new(Kind::Service, "shop", "all");
    let Spec::Service(service) = &mut far.spec else { panic!() };
    service.outside = Some("*.test".into());
    let at_exit = |service: &str| {
        let mut endpoint = endpoint(service, &format!("for-{service}"), 7);
        endpoint.identity = egress();
        of_endpoint(endpoint)
    };
    world.put(vec![many(), far, at_exit("all")]);
    let mut led = |host: &str| {
        let mut head = head("GET", &format!("{host}/"), &[]);
        let to = endpoint_of(&plan(world.begin(&mut head, ms(0)).1));
        assert_eq!(head.authority(), host, "it's asked as it was named");
        to
    };
    assert_eq!((led("one.bank.test"), led("a.b.bank.test")), ("egress-1".to_owned(), "egress-1".to_owned()));
    assert_eq!(led("bank.test"), "for-all");
    assert_eq!(answer(world.begin(&mut head("GET", "test/", &[]), ms(0)).1).status, 404);
}

#[test]
fn a_host_of_which_every_address_fails_its_check_is_not_asked() {
    let check = HealthCheck::new(Check::Http("/healthz".into()), Some(81));
    let choice = Choice { health_check: Some(check), ..Choice::default() };
    let checked = |choice| traffic("bank", TrafficPolicy { endpoints: Some(choice), ..TrafficPolicy::default() });
    let mut exit = Exit::new(vec![bank(), allowed("web"), checked(choice.clone())]);
    let asks = |exit: &Exit| match exit.begin("web", 80, &mut head("GET", "bank/", &[])) {
        Effect::Send(_) => Ok(()),
        Effect::Reply(answer) => Err((answer.reason, answer.detail.to_string())),
        other => panic!("{other:?}"),
    };
    let [first, second]: [IpAddr; 2] = ["192.0.2.1", "192.0.2.2"].map(|ip| ip.parse().unwrap());
    let watched = |exit: &Exit| exit.snapshot().watched().map(|(_, watched)| watched.clone()).next().unwrap();
    let probe = watched(&exit).at(first).probe;
    assert_eq!(
        (probe.address.to_string(), probe.authority.as_deref()),
        ("192.0.2.1:8080".into(), Some("api.bank.test:8080"))
    );
    assert_eq!(asks(&exit), Ok(()), "nothing is known");
    watched(&exit).located(2);
    watched(&exit).at(first).judge(false);
    assert_eq!(asks(&exit), Ok(()));
    watched(&exit).at(second).judge(false);
    let refused = (
        Reason::NoEndpoint,
        "bank.shop is not reached: no address of api.bank.test passes its health check".to_owned(),
    );
    assert_eq!(asks(&exit), Err(refused.clone()));
    // What is known outlives a change of other things, unless health is ignored now.
    exit.apply(vec![checked(Choice { panic_percent: Some(1), ..choice.clone() })], Vec::new());
    assert_eq!(asks(&exit), Ok(()));
    exit.apply(vec![checked(choice)], Vec::new());
    assert_eq!(asks(&exit), Err(refused));
    watched(&exit).at(second).judge(true);
    assert_eq!(asks(&exit), Ok(()));
    watched(&exit).at(second).judge(false);
    exit.apply(Vec::new(), vec![Key::new(Kind::TrafficPolicy, "shop", "bank")]);
    assert!(exit.snapshot().watched().next().is_none() && asks(&exit).is_ok());
}
