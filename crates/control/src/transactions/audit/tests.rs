// SPDX-License-Identifier: Apache-2.0
//! What outlives the process, and how much of it.

use super::super::{Coordinator, Outbound, Request, answer};
use super::*;
use byrnie_base::clock::SystemClock;
use byrnie_net::BoxFuture;
use byrnie_net::serve::client::Reply;
use byrnie_net::serve::{self, HeaderMap, Method};
use byrnie_store::disk::RamDisk;
use byrnie_store::{Memory, log};
use std::sync::Arc;

/// A control plane that starts on this disk.
fn state(disk: &RamDisk) -> State {
    let clock = Arc::new(SystemClock::new());
    let store = Memory::open(disk, Arc::<SystemClock>::clone(&clock)).unwrap();
    State::new(Arc::new(store), clock, "mesh.local".into())
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn run(test: impl AsyncFnOnce()) {
    runtime::block_on(async { test().await }).unwrap();
}

async fn write_all(audit: &Audit, state: &State) {
    while audit.write(state).await.unwrap() > 0 {}
}

#[test]
fn steps_and_refusals_outlive_the_process() {
    run(async || {
        let disk = RamDisk::new();
        let (first, operator) = (state(&disk), Caller::Operator);
        let audit = Audit::default();
        audit.read(&first).await.unwrap();
        audit.note(at(1), Some(&operator), "start", "t", 201);
        audit.note(at(2), Some(&operator), "cancel", "t", 200);
        audit.note(at(3), None, "start", "", 403);
        write_all(&audit, &first).await;
        audit.note(at(4), Some(&operator), "skip", "t", UNHEARD);
        write_all(&audit, &first).await;
        assert_eq!(audit.newest(9).len(), 4);
        drop(first);
        let (second, audit) = (state(&disk), Audit::default());
        // What is asked before the disk is read isn't lost by that.
        audit.note(at(5), Some(&operator), "retry", "t", 409);
        audit.read(&second).await.unwrap();
        write_all(&audit, &second).await;
        let told = |audit: &Audit| audit.newest(9).iter().map(|line| line.verb.to_string()).collect::<Vec<_>>();
        assert_eq!(told(&audit), ["retry", "skip", "start", "cancel"]);
        drop(second);
        let (third, audit) = (state(&disk), Audit::default());
        audit.read(&third).await.unwrap();
        assert_eq!(told(&audit), ["retry", "skip", "start", "cancel"]);
        let refused = audit.newest(9).into_iter().find(|line| line.status == 403).unwrap();
        assert_eq!((&*refused.caller, refused.at), ("anonymous", at(3)));
    });
}

/// Nobody is there to be called.
struct Away;

impl Outbound for Away {
    fn call(&self, _: Request, _: Duration) -> BoxFuture<'static, Result<Reply, Text>> {
        Box::pin(async { Err("nobody is there".into()) })
    }

    fn reaches(&self, _: &str) -> BoxFuture<'static, bool> {
        Box::pin(async { false })
    }
}

#[test]
fn what_is_asked_of_a_coordinator_that_runs_is_kept_without_waiting_for_its_end() {
    run(async || {
        let disk = RamDisk::new();
        let journal = log::Memory::open(&RamDisk::new(), Arc::new(*runtime::clock())).unwrap();
        let state = Arc::new(state(&disk));
        let (_trigger, shutdown) = runtime::shutdown();
        let coordinator = Coordinator::new(Arc::clone(&state), Arc::new(journal), 1, shutdown);
        coordinator.connect(Arc::new(Away));
        let request = serve::Request {
            method: Method::POST,
            path: "/txn/v1/t:cancel".into(),
            query: None,
            headers: HeaderMap::new(),
            body: bytes::Bytes::new(),
            remote: ([127, 0, 0, 1], 1).into(),
        };
        assert_eq!(answer(&coordinator, Some(Caller::Operator), &request).await.status.as_u16(), 404);
        let kept = async {
            while state.store.list("/audit/").await.unwrap().0.is_empty() {
                runtime::sleep(Duration::from_millis(5)).await;
            }
        };
        runtime::timeout(Duration::from_secs(20), kept).await.unwrap();
        let audit = Audit::default();
        audit.read(&state).await.unwrap();
        let line = &audit.newest(9)[0];
        assert_eq!((&*line.caller, &*line.verb, &*line.id, line.status), ("operator", "cancel", "t", 404));
    });
}

#[test]
fn the_newest_are_kept_and_refusals_take_the_room_of_no_step() {
    run(async || {
        let disk = RamDisk::new();
        let (first, audit) = (state(&disk), Audit::default());
        let long = "x".repeat(9_000);
        audit.note(at(0), Some(&Caller::Operator), "resolve", &long, 200);
        let count = LINES_MAX as u64 + 3 * BATCH_MAX as u64;
        for number in 1..=count {
            audit.note(at(number), None, "cancel", "t", 403);
            if number % 200 == 0 {
                audit.write(&first).await.unwrap();
            }
        }
        write_all(&audit, &first).await;
        let (entries, _) = first.store.list("/audit/").await.unwrap();
        let kept: usize =
            entries.iter().map(|entry| serde_json::from_slice::<Vec<Line>>(&entry.value).unwrap().len()).sum();
        assert!((LINES_MAX..=LINES_MAX + BATCH_MAX).contains(&kept), "{kept}");
        drop(first);
        let (second, audit) = (state(&disk), Audit::default());
        audit.read(&second).await.unwrap();
        let told = audit.newest(LINES_MAX + 1);
        assert_eq!((told.len(), told[0].at), (LINES_MAX + 1, at(count)));
        let oldest = told.last().unwrap();
        assert_eq!((&*oldest.verb, oldest.id.len()), ("resolve", WORD_BYTES_MAX));
    });
}
