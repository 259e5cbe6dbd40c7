// SPDX-License-Identifier: Apache-2.0
//! Two coordinators in one process share a journal in memory; the participant is a function.

use super::super::{Caller, Outbound, Request};
use super::*;
use crate::State;
use byrnie_base::{Text, Timestamp};
use byrnie_net::BoxFuture;
use byrnie_net::serve::client::Reply;
use byrnie_net::serve::{HeaderMap, StatusCode};
use byrnie_saga::{Ask, Branch, Call, Child, Mode, Parent, Retry, Rules, Spec, Target, nested};
use byrnie_store::disk::RamDisk;
use byrnie_store::{Append, Journal, Memory, Value, log};
use bytes::Bytes;
use std::sync::atomic::{AtomicBool, Ordering};

const PATIENCE: Duration = Duration::from_secs(20);

/// It undoes what it is told to, does all that is within, and nothing else before it is open.
#[derive(Default)]
struct Shop {
    open: AtomicBool,
}

impl Outbound for Shop {
    fn call(&self, request: Request, _: Duration) -> BoxFuture<'static, Result<Reply, Text>> {
        let well = self.open.load(Ordering::SeqCst) || request.path.starts_with("/undo") || &*request.path == "/within";
        let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let (headers, trailers) = (HeaderMap::new(), HeaderMap::new());
        Box::pin(async move { Ok(Reply { status, headers, body: Bytes::new(), trailers }) })
    }

    fn reaches(&self, _: &str) -> BoxFuture<'static, bool> {
        Box::pin(async { true })
    }
}

struct One {
    coordinator: Arc<Coordinator>,
    trigger: Trigger,
}

impl One {
    fn start(journal: &Arc<dyn Journal>, shop: &Arc<Shop>, seed: u64) -> Self {
        let clock = Arc::new(*runtime::clock());
        let store = Memory::open(&RamDisk::new(), clock.clone()).unwrap();
        let state = Arc::new(State::new(Arc::new(store), clock, "mesh.local".into()));
        let (trigger, shutdown) = runtime::shutdown();
        let coordinator = Coordinator::new(state, Arc::clone(journal), seed, shutdown);
        coordinator.connect(Arc::clone(shop) as Arc<dyn Outbound>);
        Self { coordinator, trigger }
    }

    async fn begin(&self, id: &str) -> bool {
        self.begin_as(id, spec(vec![branch("/do")])).await
    }

    async fn begin_as(&self, id: &str, spec: Spec) -> bool {
        self.coordinator.begin(Some(id.into()), spec, None).await.unwrap().1
    }

    async fn ask(&self, id: &str, ask: Ask) -> Result<(), u16> {
        let asked = self.coordinator.ask(&id.into(), ask, &Caller::Operator).await;
        asked.map_err(|problem| problem.status)
    }

    async fn state(&self, id: &str) -> &'static str {
        self.coordinator.find(&id.into()).await.unwrap().unwrap().state.name()
    }

    async fn until(&self, id: &str, state: &str) {
        let stands = async {
            loop {
                match self.coordinator.find(&id.into()).await.unwrap() {
                    Some(sight) if sight.state.name() == state => return,
                    _ => runtime::sleep(Duration::from_millis(10)).await,
                }
            }
        };
        runtime::timeout(PATIENCE, stands).await.unwrap_or_else(|_| panic!("{id} was never {state}"));
    }

    async fn until_it_holds(&self, count: usize) {
        let held = async {
            while self.coordinator.terms.shards().len() != count {
                runtime::sleep(Duration::from_millis(10)).await;
            }
        };
        runtime::timeout(PATIENCE, held).await.unwrap_or_else(|_| panic!("it never held {count} shards"));
    }
}

fn branch(path: &str) -> Branch {
    let target =
        |path: &str| Target { method: "POST".into(), authority: "127.0.0.1:9".into(), path: path.into(), raw: true };
    let call = |path| Call { target: target(path), body: None, kind: "".into(), headers: Vec::new(), late: None };
    let retry = Retry { first_ms: 10, cap_ms: 50, ..Retry::default() };
    Branch { name: "one".into(), action: Some(call(path)), undo: Some(call("/undo")), retry, ..Branch::default() }
}

fn spec(branches: Vec<Branch>) -> Spec {
    Spec {
        mode: Mode::Saga,
        creator: "operator".into(),
        created: byrnie_base::Clock::now(runtime::clock()).wall,
        deadline: None,
        open: false,
        check: None,
        branches,
        rules: Rules::default(),
        definition: Text::default(),
        input: None,
        fingerprint: Text::default(),
        parent: None,
    }
}

/// Two steps, of which the first is a saga that is done at once.
fn above() -> Spec {
    let mut within = Branch { name: "in".into(), ..branch("/within") };
    let child = Child::Given { spec: Box::new(spec(vec![branch("/within")])), span_ms: None };
    nested::adopt(&mut within, child, true);
    spec(vec![within, Branch { after: vec![0], ..branch("/do") }])
}

#[test]
fn what_may_have_been_begun_is_named_so_that_it_is_not_begun_twice() {
    let test = async {
        let disk = RamDisk::new();
        let journal: Arc<dyn Journal> = Arc::new(log::Memory::open(&disk, Arc::new(*runtime::clock())).unwrap());
        let one = One::start(&journal, &Arc::new(Shop::default()), 1);
        one.until_it_holds(64).await;
        disk.fail_syncs(1);
        let problem = one.coordinator.begin(None, spec(vec![branch("/do")]), None).await.unwrap_err();
        let (_, named) = problem.detail.split_once("it may have been begun, as ").unwrap();
        let (id, _) = named.split_once(':').unwrap();
        drop((one, journal));
        // By the machine's memory it was written.
        let journal: Arc<dyn Journal> = Arc::new(log::Memory::open(&disk, Arc::new(*runtime::clock())).unwrap());
        let again = One::start(&journal, &Arc::new(Shop::default()), 2);
        assert!(!again.begin_as(id, spec(vec![branch("/do")])).await, "it is the same");
    };
    runtime::block_on(test).unwrap();
}

#[test]
fn a_saga_within_goes_with_the_one_above_and_is_asked_by_letter_where_it_does_not() {
    let test = async {
        let journal: Arc<dyn Journal> =
            Arc::new(log::Memory::open(&RamDisk::new(), Arc::new(*runtime::clock())).unwrap());
        let shop = Arc::new(Shop::default());
        let one = One::start(&journal, &shop, 1);
        one.until_it_holds(64).await;
        let two = One::start(&journal, &shop, 2);
        two.until_it_holds(32).await;
        one.until_it_holds(32).await;
        let back = || Ask::Back { reason: "why not".into() };
        // It begins in the shard of the one above; whichever is asked for the one above, both go back.
        for id in ["a", "b"] {
            one.begin_as(id, above()).await;
            one.until(&format!("{id}.in"), "HELD").await;
            assert_eq!(journal.read(&format!("{id}.in")).await.unwrap().shard, journal.read(id).await.unwrap().shard);
        }
        assert_eq!(two.ask("a", back()).await, Ok(()));
        for id in ["a", "a.in"] {
            two.until(id, "COMPENSATED").await;
        }
        // One that another drives all the same hears by letter whether it's kept or taken back.
        for id in ["c", "d"] {
            let parent = Some(Parent { id: id.into(), branch: "in".into(), depth: 1 });
            two.begin_as(&format!("{id}.in"), Spec { parent, ..spec(vec![branch("/within")]) }).await;
            two.until(&format!("{id}.in"), "HELD").await;
            one.begin_as(id, above()).await;
        }
        assert_eq!(one.ask("d.in", back()).await, Err(409), "nobody else ends it");
        assert_eq!(one.ask("c", back()).await, Ok(()));
        for id in ["c", "c.in"] {
            one.until(id, "COMPENSATED").await;
        }
        // One is lost without a word: the other goes on with both, once its lease is over, and with what was its own.
        one.trigger.fire();
        shop.open.store(true, Ordering::SeqCst);
        for id in ["b", "b.in", "d", "d.in"] {
            two.until(id, "SUCCEEDED").await;
        }
    };
    runtime::block_on(test).unwrap();
}

/// However many have ended since, and whatever ids they have.
#[test]
fn what_has_not_ended_is_always_listed() {
    let test = async {
        let journal: Arc<dyn Journal> =
            Arc::new(log::Memory::open(&RamDisk::new(), Arc::new(*runtime::clock())).unwrap());
        let shop = Arc::new(Shop::default());
        let one = One::start(&journal, &shop, 1);
        one.until_it_holds(64).await;
        one.begin("a").await;
        let term = one.coordinator.office().await.unwrap().term;
        let summary = Value::from(&br#"{"state":"SUCCEEDED","created":1,"services":[]}"#[..]);
        let ended = (0..20_500).map(|number| {
            let (id, entries) = (Text::from(format!("later-{number}")), vec![Value::from(&b"{}"[..])]);
            let ended = Some(Timestamp::from_millis(1));
            journal.append(Append { term, id, after: 0, entries, summary: summary.clone(), ended })
        });
        for ended in ended.collect::<Vec<_>>() {
            ended.await.unwrap();
        }
        let two = One::start(&journal, &shop, 2);
        for coordinator in [&one.coordinator, &two.coordinator] {
            let (listed, cut) = list(coordinator, "state=running").await;
            assert_eq!((&listed[0]["id"], listed.as_array().unwrap().len(), cut), (&"a".into(), 1, None));
            let (_, cut) = list(coordinator, "").await;
            assert!(cut.is_some_and(|cut| cut.contains("20000")), "it says that it isn't all");
        }
    };
    runtime::block_on(test).unwrap();
}

/// What an operator's list says, and why it isn't all.
async fn list(coordinator: &Arc<Coordinator>, query: &str) -> (serde_json::Value, Option<String>) {
    let request = byrnie_net::serve::Request {
        method: byrnie_net::serve::Method::GET,
        path: "/txn/v1".to_owned(),
        query: Some(query.to_owned()),
        headers: HeaderMap::new(),
        body: Bytes::new(),
        remote: ([127, 0, 0, 1], 1).into(),
    };
    let answer = super::super::api::answer(coordinator, Some(Caller::Operator), &request).await;
    let cut = answer.headers.get("txn-list-cut").map(|cut| cut.to_str().unwrap().to_owned());
    (serde_json::from_slice(answer.body.bytes().unwrap()).unwrap(), cut)
}

#[test]
fn two_answer_for_each_other_and_one_goes_on_with_what_the_other_gives_back() {
    let test = async {
        let journal: Arc<dyn Journal> =
            Arc::new(log::Memory::open(&RamDisk::new(), Arc::new(*runtime::clock())).unwrap());
        let shop = Arc::new(Shop::default());
        let one = One::start(&journal, &shop, 1);
        one.until_it_holds(64).await;
        let two = One::start(&journal, &shop, 2);
        two.until_it_holds(32).await;
        assert_eq!(one.coordinator.terms.shards().len(), 32);
        for (asked, id) in [(&one, "a"), (&one, "b"), (&two, "c"), (&two, "d")] {
            assert!(asked.begin(id).await, "{id}");
        }
        // Neither begins what the other has.
        assert!(!two.begin("a").await);
        assert_eq!(two.state("a").await, "RUNNING");
        let running = || [&one, &two].map(|one| one.coordinator.live().len());
        assert_eq!(running(), [2, 2]);
        // What one is asked of the other's is done by the other, and refused by it.
        assert_eq!(two.ask("a", Ask::Back { reason: "why not".into() }).await, Ok(()));
        let patience = PATIENCE;
        assert_eq!(two.coordinator.settled(&"a".into(), patience).await.unwrap().state.name(), "COMPENSATED");
        assert_eq!(two.ask("b", Ask::Resolve { reason: "it isn't stuck".into() }).await, Err(409));
        // One stops in good order: the other has all at once, and drives it to its end.
        one.trigger.fire();
        one.coordinator.leave().await;
        shop.open.store(true, Ordering::SeqCst);
        two.until_it_holds(64).await;
        for id in ["b", "c", "d"] {
            assert_eq!(two.coordinator.settled(&id.into(), patience).await.unwrap().state.name(), "SUCCEEDED", "{id}");
        }
    };
    runtime::block_on(test).unwrap();
}
