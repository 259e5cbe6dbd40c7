// SPDX-License-Identifier: Apache-2.0
//! A coordinator that was slow, and whose transactions another has taken over meanwhile: what it knows is of yesterday, and
//! nothing that it does by that may count. (dtm's lease of a transaction runs out without its owner knowing, and its writes
//! ask for a status, not for an owner.)

use crate::coordinator::{connect, open};
use crate::shop::Shop;
use byrnie_control::transactions::{self, Caller, Coordinator};
use byrnie_net::runtime;
use byrnie_net::serve::{HeaderMap, Request};
use byrnie_store::{Journal, log};
use bytes::Bytes;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;

pub(crate) async fn ask(coordinator: &Arc<Coordinator>, method: &str, path: &str, body: &Value) -> Value {
    let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
    let (path, headers) = (format!("/txn/v1/{path}"), HeaderMap::new());
    let remote = SocketAddr::from(([127, 0, 0, 1], 1));
    let request = Request { method: method.parse().unwrap(), path, query: None, headers, body, remote };
    let response = transactions::answer(coordinator, Some(Caller::Operator), &request).await;
    serde_json::from_slice(response.body.bytes().unwrap()).unwrap()
}

/// Asks until it stands so.
pub(crate) async fn until(coordinator: &Arc<Coordinator>, state: &str) -> Value {
    loop {
        let now = ask(coordinator, "GET", "t", &Value::Null).await;
        if now["state"] == state {
            return now;
        }
        runtime::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[test]
fn one_that_was_deposed_changes_nothing_by_what_it_hears_late() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::open();
    let at = SocketAddr::from(([127, 0, 0, 1], shop.port));
    runtime::block_on(async {
        let (_trigger, shutdown) = runtime::shutdown();
        let journal: Arc<dyn Journal> = Arc::new(log::Embedded::open(&folder.path().join("t.redb")).unwrap());
        let old = open(Arc::clone(&journal), shutdown.clone()).await;
        connect(&old, at);
        let retry = json!({"first_ms": 1, "cap_ms": 100});
        let saga = json!({"id": "t", "branches": [
            {"name": "a", "action": "POST shop/held", "compensate": "POST shop/fine", "retry": retry},
            {"name": "b", "action": "POST shop/no", "compensate": "POST shop/fine", "retry": retry, "after": ["a"]}]});
        ask(&old, "POST", "sagas", &saga).await;
        while shop.calls("\"t/a/action\"") == 0 {
            runtime::sleep(std::time::Duration::from_millis(5)).await;
        }
        // Another goes on with it while the first still waits for an answer, and takes it back.
        let new = open(journal, shutdown).await;
        connect(&new, at);
        until(&new, "COMPENSATED").await;
        let calls = || ["a/action", "a/compensate", "b/action"].map(|key| shop.calls(&format!("\"t/{key}\"")));
        assert_eq!(calls(), [2, 2, 1], "the one that took over has done all of it");
        assert_eq!(ask(&old, "GET", "t", &Value::Null).await["state"], "RUNNING", "it doesn't know yet");
        // By what it hears now it would call what comes next.
        shop.let_go();
        let now = until(&old, "COMPENSATED").await;
        assert_eq!(now["reason"], "b: 409 {}", "{now}");
        assert_eq!((calls(), shop.effects().join(" ")), ([2, 2, 1], "a:action a:compensate".to_owned()));
    })
    .unwrap();
}
