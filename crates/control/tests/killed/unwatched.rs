// SPDX-License-Identifier: Apache-2.0
//! What nobody looks after: a task that fails, a caller who goes away before it is told that its transaction is begun, and what
//! an answer says that asking again can't mend.

use crate::coordinator::{Straight, connect, open};
use crate::deposed::{ask, until};
use crate::shop::Shop;
use crate::striking::Striking;
use byrnie_base::Text;
use byrnie_control::transactions::{Coordinator, Outbound, Request};
use byrnie_net::BoxFuture;
use byrnie_net::runtime::{self, Trigger};
use byrnie_net::serve::client::Reply;
use byrnie_store::{Journal, log};
use serde_json::{Value, json};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

/// A way out that fails in each of its first calls once the shop has answered.
struct Failing {
    inner: Straight,
    left: AtomicUsize,
}

impl Outbound for Failing {
    fn call(&self, request: Request, limit: Duration) -> BoxFuture<'static, Result<Reply, Text>> {
        let fails = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        let call = self.inner.call(request, limit);
        Box::pin(async move {
            let answer = call.await;
            assert!(!fails, "an answer that nobody can read");
            answer
        })
    }

    fn reaches(&self, authority: &str) -> BoxFuture<'static, bool> {
        self.inner.reaches(authority)
    }
}

async fn one(folder: &Path) -> (Arc<Coordinator>, Trigger) {
    over(Arc::new(journal(folder))).await
}

async fn over(journal: Arc<dyn Journal>) -> (Arc<Coordinator>, Trigger) {
    let (trigger, shutdown) = runtime::shutdown();
    (open(journal, shutdown).await, trigger)
}

fn journal(folder: &Path) -> log::Embedded {
    log::Embedded::open(&folder.join("t.redb")).unwrap()
}

fn saga(id: &str, branch: &str, action: &str) -> Value {
    let retry = json!({"first_ms": 1, "cap_ms": 100});
    json!({"id": id, "branches": [
        {"name": branch, "action": format!("POST shop/{action}"), "compensate": "POST shop/fine", "retry": retry}]})
}

#[test]
fn a_call_that_fails_within_the_coordinator_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::open();
    let at = SocketAddr::from(([127, 0, 0, 1], shop.port));
    runtime::block_on(async {
        let (coordinator, _trigger) = one(folder.path()).await;
        coordinator.connect(Arc::new(Failing { inner: Straight::to(at), left: AtomicUsize::new(2) }));
        ask(&coordinator, "POST", "sagas", &saga("t", "a", "held")).await;
        shop.let_go();
        until(&coordinator, "SUCCEEDED").await;
        assert_eq!((shop.calls("\"t/a/action\""), shop.effects().join(" ")), (3, "a:action".to_owned()));
        let events = ask(&coordinator, "GET", "t/events", &Value::Null).await;
        assert_eq!(events[1]["detail"], "the coordinator failed at this call, as its log tells", "{events}");
    })
    .unwrap();
}

#[test]
fn a_transaction_whose_task_fails_is_read_again_though_nobody_asks_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::open();
    let at = SocketAddr::from(([127, 0, 0, 1], shop.port));
    runtime::block_on(async {
        // The first step is its beginning; the second tells of a call that was lost.
        let (coordinator, _trigger) = over(Arc::new(Striking::failing(journal(folder.path()), 1))).await;
        connect(&coordinator, at);
        ask(&coordinator, "POST", "sagas", &saga("t", "a", "fine")).await;
        while shop.calls("\"t/a/action\"") < 2 {
            runtime::sleep(Duration::from_millis(5)).await;
        }
        until(&coordinator, "SUCCEEDED").await;
    })
    .unwrap();
}

/// Begins to ask, and goes away before there is an answer.
async fn leave(asked: impl Future) {
    let mut asked = pin!(asked);
    assert!(poll_fn(|cx| Poll::Ready(asked.as_mut().poll(cx).is_pending())).await, "it waits for nothing");
}

/// A coordinator whose participant is a shop.
fn with_a_shop(run: impl AsyncFnOnce(&Arc<Coordinator>, &Shop)) {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::open();
    let at = SocketAddr::from(([127, 0, 0, 1], shop.port));
    runtime::block_on(async {
        let (coordinator, _trigger) = one(folder.path()).await;
        connect(&coordinator, at);
        run(&coordinator, &shop).await;
    })
    .unwrap();
}

#[test]
fn what_is_written_is_begun_though_its_caller_has_gone() {
    with_a_shop(async |coordinator, shop| {
        // By now it holds the shards.
        ask(coordinator, "POST", "sagas", &saga("t", "a", "fine")).await;
        until(coordinator, "SUCCEEDED").await;
        // The first entry is on its way to the disk, and its caller goes away.
        let begin = saga("gone", "b", "fine");
        leave(ask(coordinator, "POST", "sagas", &begin)).await;
        while shop.calls("\"gone/b/action\"") == 0 {
            runtime::sleep(Duration::from_millis(5)).await;
        }
    });
}

#[test]
fn what_was_asked_is_in_the_audit_though_its_caller_has_gone() {
    with_a_shop(async |coordinator, shop| {
        ask(coordinator, "POST", "sagas", &saga("t", "a", "held")).await;
        leave(ask(coordinator, "POST", "t:cancel", &Value::Null)).await;
        shop.let_go();
        until(coordinator, "COMPENSATED").await;
        let audit = ask(coordinator, "GET", "audit", &Value::Null).await;
        let cancel = audit.as_array().unwrap().iter().find(|line| line["verb"] == "cancel");
        assert!(cancel.is_some_and(|line| line["id"] == "t" && line["status"] == 499), "{audit}");
    });
}

#[test]
fn an_answer_that_points_elsewhere_is_asked_for_once() {
    with_a_shop(async |coordinator, shop| {
        ask(coordinator, "POST", "sagas", &saga("t", "a", "away")).await;
        let now = until(coordinator, "STUCK").await;
        assert!(now["branches"][0]["reason"].as_str().unwrap().contains("http://elsewhere/later"), "{now}");
        assert_eq!(shop.calls("\"t/a/action\""), 1);
    });
}
