// SPDX-License-Identifier: Apache-2.0
//! More requests at once than a service is to be sent: some wait for a moment, the others are refused.

use crate::world::*;
use byrnie_model::policy::TrafficPolicy;
use byrnie_model::policy::traffic::Limits;
use byrnie_model::{Kind, Protocol, Spec};
use byrnie_net::runtime;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::Duration;

#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    moved: Condvar,
    asked: AtomicUsize,
}

impl Gate {
    fn set(&self, open: bool) {
        *self.open.lock().unwrap() = open;
        self.moved.notify_all();
    }

    fn pass(&self) {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let open = self.open.lock().unwrap();
        drop(self.moved.wait_while(open, |open| !*open).unwrap());
    }

    fn wait_for(&self, asked: usize) {
        let deadline = runtime::now().mono + PATIENCE;
        while self.asked.load(Ordering::SeqCst) < asked {
            assert!(runtime::now().mono < deadline);
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_few_wait_for_room_and_one_more_is_refused_at_once() {
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    let program = Program::start(move |mut peer| {
        while peer.read_head().is_some() {
            held.pass();
            peer.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
    });
    let world = World::new();
    let server = world.serving("echo", program.port, Protocol::Http1);
    let mut caller = world.calling(&[("echo", Protocol::Http1, &[&server])]);
    let limits = Limits { pending_max: Some(1), queued_max: Some(3), ..Limits::default() };
    let policy = TrafficPolicy { targets: vec![service("echo")], limits: Some(limits), ..TrafficPolicy::default() };
    caller.apply(vec![resource(Kind::TrafficPolicy, "echo", Spec::Traffic(Arc::new(policy)))]);
    let address = caller.outbound("echo");
    let (tell, told) = mpsc::channel();
    let ask = || {
        let tell = tell.clone();
        std::thread::spawn(move || tell.send(Peer::connect(address).ask(&get("/"))).unwrap());
    };
    // An answer takes two seconds: as long as that one waits.
    ask();
    gate.wait_for(1);
    let opens = runtime::now().mono + Duration::from_secs(2);
    while runtime::now().mono < opens {
        std::thread::yield_now();
    }
    gate.set(true);
    assert_eq!(told.recv().unwrap(), (200, "ok".into()));
    gate.set(false);
    ask();
    gate.wait_for(2);
    (0..4).for_each(|_| ask());
    let (status, body) = told.recv().unwrap();
    assert!(status == 503 && body.contains("BYR-R006") && body.contains("1 requests are under way"), "{body}");
    gate.set(true);
    for _ in 0..4 {
        assert_eq!(told.recv().unwrap(), (200, "ok".into()));
    }
}
