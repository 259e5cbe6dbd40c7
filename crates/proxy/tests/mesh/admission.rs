// SPDX-License-Identifier: Apache-2.0
//! A service at which too many requests fail gets fewer, where a policy asks for it, and all of them once they succeed.

use crate::world::*;
use byrnie_model::policy::TrafficPolicy;
use byrnie_model::policy::traffic::{Admission, Limits};
use byrnie_model::{Kind, Protocol, Spec};
use byrnie_net::runtime;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

#[test]
fn fewer_requests_are_sent_where_most_fail_and_all_once_they_succeed() {
    let (well, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let of_program = (Arc::clone(&well), Arc::clone(&asked));
    let program = Program::start(move |mut peer| {
        while peer.read_head().is_some() {
            of_program.1.fetch_add(1, Ordering::SeqCst);
            let status = if of_program.0.load(Ordering::SeqCst) { "200 OK" } else { "503 Service Unavailable" };
            peer.send(format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nok"));
        }
    });
    let world = World::new();
    let server = world.serving("echo", program.port, Protocol::Http1);
    let mut caller = world.calling(&[("echo", Protocol::Http1, &[&server])]);
    let admission = Admission {
        success_percent: 50,
        window: Duration::from_secs(1),
        volume: 10,
        rejected_percent_max: 90,
        codes: Vec::new(),
    };
    let limits = Limits { admission: Some(admission), ..Limits::default() };
    let policy = TrafficPolicy { targets: vec![service("echo")], limits: Some(limits), ..TrafficPolicy::default() };
    caller.apply(vec![resource(Kind::TrafficPolicy, "echo", Spec::Traffic(Arc::new(policy)))]);
    let mut client = Peer::connect(caller.outbound("echo"));
    let (mut refused, mut failed) = (0, 0);
    while refused < 50 {
        match client.ask(&get("/")) {
            (503, body) if body.contains("BYR-R035") => refused += 1,
            answer => {
                assert_eq!(answer, (503, "ok".into()));
                failed += 1;
            }
        }
        assert!(failed < 500, "{refused} of {failed} more are refused");
    }
    assert_eq!(asked.load(Ordering::SeqCst), failed, "what is refused is never sent");
    caller.wait_for_record(&["not_admitted", "BYR-R035"]);
    let mut admin = Peer::connect(caller.ports.admin);
    admin.send("GET /metrics HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
    let metrics = String::from_utf8(admin.read_to_end()).unwrap();
    let counted = |line: &str| line.contains("reason=\"not_admitted\"") && !line.ends_with(" 0");
    assert!(metrics.lines().any(counted), "{metrics}");
    well.store(true, Ordering::SeqCst);
    let deadline = runtime::now().mono + PATIENCE;
    let mut row = 0;
    while row < 100 {
        row = if client.ask(&get("/")) == (200, "ok".into()) { row + 1 } else { 0 };
        assert!(runtime::now().mono < deadline, "{row} in a row");
    }
}
