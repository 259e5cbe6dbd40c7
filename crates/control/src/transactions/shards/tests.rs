// SPDX-License-Identifier: Apache-2.0
//! Two coordinators in one process share a journal in memory; the participant is a function.

use super::super::{Caller, Outbound, Request};
use super::*;
use crate::State;
use byrnie_base::Text;
use byrnie_net::BoxFuture;
use byrnie_net::serve::client::Reply;
use byrnie_net::serve::{HeaderMap, StatusCode};
use byrnie_saga::{Ask, Branch, Call, Mode, Retry, Rules, Spec, Target};
use byrnie_store::disk::RamDisk;
use byrnie_store::{Journal, Memory, log};
use bytes::Bytes;
use std::sync::atomic::{AtomicBool, Ordering};

const PATIENCE: Duration = Duration::from_secs(20);

/// It undoes what it is told to, and does nothing before it is open.
#[derive(Default)]
struct Shop {
    open: AtomicBool,
}

impl Outbound for Shop {
    fn call(&self, request: Request, _: Duration) -> BoxFuture<'static, Result<Reply, Text>> {
        let well = self.open.load(Ordering::SeqCst) || request.path.starts_with("/undo");
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
        let target = |path: &str| Target {
            method: "POST".into(),
            authority: "127.0.0.1:9".into(),
            path: path.into(),
            raw: true,
        };
        let call = |path| Call { target: target(path), body: None, kind: "".into(), headers: Vec::new(), late: None };
        let retry = Retry { first_ms: 10, cap_ms: 50, ..Retry::default() };
        let (action, undo) = (Some(call("/do")), Some(call("/undo")));
        let branch = Branch { name: "one".into(), action, undo, retry, ..Branch::default() };
        let spec = Spec {
            mode: Mode::Saga,
            creator: "operator".into(),
            created: self.coordinator.now(),
            deadline: None,
            open: false,
            check: None,
            branches: vec![branch],
            rules: Rules::default(),
            definition: Text::default(),
            input: None,
            fingerprint: Text::default(),
        };
        self.coordinator.begin(Some(id.into()), spec, None).await.unwrap().1
    }

    async fn ask(&self, id: &str, ask: Ask) -> Result<(), u16> {
        let asked = self.coordinator.ask(&id.into(), ask, &Caller::Operator).await;
        asked.map_err(|problem| problem.status)
    }

    async fn state(&self, id: &str) -> &'static str {
        self.coordinator.find(&id.into()).await.unwrap().unwrap().state.name()
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
