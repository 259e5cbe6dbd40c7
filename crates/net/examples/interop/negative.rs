// SPDX-License-Identifier: Apache-2.0
//! The calling end of the negative cases: each first at the server itself, then through the mesh.

use super::client::{Client, message};
use futures_util::future;
use serde_json::{Value, json};
use std::time::Duration;
use tonic::{Code, Request, Status};

/// How long all of them may take.
const CASES_MAX: Duration = Duration::from_secs(60);
const ASKED_BYTES: usize = 271_828;
const ANSWER_BYTES: usize = 314_159;
/// Calls at once.
const CALLS: usize = 10;
/// How often a connection is left amid calls until one of them is left out by it.
const LEAVES_MAX: usize = 50;

async fn ask(client: &Client, case: &str, bytes: usize) -> Result<usize, Status> {
    let asked = Request::new(message(&json!({"case": case}), bytes));
    client.unary("Unruly/Call", asked).await.map(|answer| answer.get_ref().len())
}

async fn told(client: &Client) -> Value {
    let told = client.unary("Unruly/Call", Request::new(message(&json!({"case": "told"}), 0))).await.unwrap();
    serde_json::from_slice(told.get_ref()).unwrap()
}

async fn together(client: &Client, case: &str, bytes: usize) {
    for answer in future::join_all((0..CALLS).map(|_| ask(client, case, bytes))).await {
        assert_eq!(answer.unwrap(), ANSWER_BYTES, "{case}");
    }
}

/// What holds at either server; how the calls failed that must.
async fn cases(client: &Client) -> Vec<(&'static str, Code)> {
    told(client).await;
    let mut codes = Vec::new();
    for case in ["rst_after_header", "rst_during_data", "rst_after_data"] {
        codes.push((case, ask(client, case, ASKED_BYTES).await.unwrap_err().code()));
    }
    // Nothing was asked twice: each call may have done something.
    let seen = told(client).await;
    assert_eq!(seen["served"].as_array().map(Vec::len), Some(3), "{seen}");

    assert_eq!(ask(client, "ping", ASKED_BYTES).await.unwrap(), ANSWER_BYTES);
    assert_eq!(told(client).await["pings"], json!([4, 4]));

    // The first lets the server tell its limit.
    assert_eq!(ask(client, "max_streams", ASKED_BYTES).await.unwrap(), ANSWER_BYTES);
    together(client, "max_streams", ASKED_BYTES).await;
    let seen = told(client).await;
    assert_eq!((&seen["most"], seen["served"].as_array().map(Vec::len)), (&json!(1), Some(1 + CALLS)), "{seen}");
    codes
}

/// A call after a GOAWAY takes another connection. tonic itself may be too slow to hear of it.
async fn goaway(mesh: &Client) {
    for _ in 0..2 {
        assert_eq!(ask(mesh, "goaway", ASKED_BYTES).await.unwrap(), ANSWER_BYTES);
    }
    let seen = told(mesh).await;
    assert!(seen["served"].as_array().is_some_and(|served| served.len() == 2 && served[0] != served[1]), "{seen}");
}

/// Calls that a GOAWAY leaves out are answered all the same, each once. tonic itself has no second try.
async fn goaway_amid_calls(mesh: &Client) {
    for _ in 0..LEAVES_MAX {
        together(mesh, "goaway_amid_calls", 0).await;
        let seen = told(mesh).await;
        assert_eq!(seen["served"].as_array().map(Vec::len), Some(CALLS), "{seen}");
        if seen["left_out"] != 0 {
            return;
        }
    }
    panic!("no call was ever left out by a GOAWAY");
}

async fn all(direct: &str, mesh: &str) {
    let (direct, mesh) = (Client::connect(direct).await, Client::connect(mesh).await);
    let (expected, found) = (cases(&direct).await, cases(&mesh).await);
    for ((name, found), (_, expected)) in found.iter().zip(&expected) {
        assert_eq!(found, expected, "{name}: {found:?}, and {expected:?} without a mesh");
    }
    goaway(&mesh).await;
    goaway_amid_calls(&mesh).await;
    for name in ["goaway", "goaway_amid_calls", "ping", "max_streams"] {
        println!("  http2 {name}: ok");
    }
    for ((name, found), (_, expected)) in found.iter().zip(expected) {
        println!("  http2 {name}: {found:?}, {expected:?} without a mesh");
    }
}

pub(super) async fn call(direct: &str, mesh: &str) {
    tokio::time::timeout(CASES_MAX, all(direct, mesh)).await.unwrap();
}
