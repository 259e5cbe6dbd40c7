// SPDX-License-Identifier: Apache-2.0
//! A connection from another proxy that carries streams: each asks for a service port, and each is
//! decided on by itself. Exchanges run on tasks that are used again, so that none costs a task of its
//! own. Called by `connection`; it decides nothing.

use crate::carry::{Desk, Next, Trip};
use crate::connection::{refuse, server_name, switch};
use crate::door::{Caller, Entry};
use crate::tunnel;
use crate::worker::Core;
use byrnie_base::Text;
use byrnie_codec::hop::code;
use byrnie_codec::{Head, Reject};
use byrnie_net::hop::{Accepted, Asked, Flow, Server};
use byrnie_net::http::Wire;
use byrnie_net::io::Stream;
use byrnie_net::runtime;
use byrnie_net::tls::Peer;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Tasks kept for exchanges to come, per connection.
const RUNNERS_SPARE_MAX: usize = 128;
/// Service ports of which the caller is kept ready, per connection.
const CALLERS_KEPT_MAX: usize = 16;

/// Serves the streams of a connection until it ends.
pub(crate) async fn serve(core: &Rc<Core>, stream: Stream, peer: Peer, remote: SocketAddr) {
    let mut server = Server::new(stream, core.limits);
    let mut callers = Callers { peer, remote, kept: Vec::new() };
    let crew = Crew(Rc::default());
    let mut draining = core.drain().draining();
    let mut goodbye = false;
    loop {
        let accepted = poll_fn(|cx| {
            let due = std::pin::Pin::new(&mut draining).poll(cx).is_ready();
            if !goodbye && (due || callers.is_expired()) {
                goodbye = true;
                server.say_goodbye();
            }
            server.poll_accept(cx)
        })
        .await;
        let Some(Accepted { mut flow, target, asked }) = accepted else { return };
        // Who comes after the end of its certificate is told so before anything is done.
        let caller = if callers.is_expired() { None } else { callers.of(&target) };
        let Some(caller) = caller else {
            flow.reset(code::REFUSED);
            continue;
        };
        let request = match asked {
            Asked::Request(head) => Ok(head),
            Asked::Malformed(reject) => Err(reject),
            Asked::Bytes => {
                let core = Rc::clone(core);
                runtime::spawn_local("tunnel", async move {
                    tunnel::serve(&core, &caller, flow.into(), Vec::new()).await;
                });
                continue;
            }
        };
        if let Some(spare) = crew.give(core, Work { caller, flow, request }) {
            server.reuse(spare);
        }
    }
}

/// Who asks, by what is asked for.
struct Callers {
    peer: Peer,
    remote: SocketAddr,
    kept: Vec<(Text, Rc<Caller>)>,
}

impl Callers {
    fn is_expired(&self) -> bool {
        self.peer.not_after.is_some_and(|end| end <= runtime::coarse().wall)
    }

    fn of(&mut self, target: &Text) -> Option<Rc<Caller>> {
        if let Some((_, caller)) = self.kept.iter().find(|(kept, _)| kept == target) {
            return Some(Rc::clone(caller));
        }
        let (service, port) = server_name(target)?;
        let caller = Rc::new(Caller {
            entry: Entry::Inbound(service, port),
            source: self.peer.identity.clone(),
            remote: self.remote,
            not_after: self.peer.not_after,
        });
        if self.kept.len() >= CALLERS_KEPT_MAX {
            self.kept.remove(0);
        }
        self.kept.push((target.clone(), Rc::clone(&caller)));
        Some(caller)
    }
}

/// One exchange to be carried.
struct Work {
    caller: Rc<Caller>,
    flow: Flow,
    request: Result<Head, Reject>,
}

/// The tasks of a connection that have nothing to do. They end with it.
struct Crew(Rc<Spare>);

#[derive(Default)]
struct Spare {
    runners: RefCell<Vec<Rc<Runner>>>,
    over: Cell<bool>,
}

/// A task that carries one exchange after the other.
#[derive(Default)]
struct Runner {
    work: RefCell<Option<Work>>,
    /// Memory of a head, to be used again.
    head: RefCell<Option<Head>>,
    waker: RefCell<Option<Waker>>,
}

impl Crew {
    /// Gives an exchange to a task; answers memory for a head, if it had some to spare.
    fn give(&self, core: &Rc<Core>, work: Work) -> Option<Head> {
        let spare = self.0.runners.borrow_mut().pop();
        let Some(runner) = spare else {
            let runner = Rc::new(Runner { work: RefCell::new(Some(work)), ..Runner::default() });
            runtime::spawn_local("stream", run(Rc::clone(core), Rc::clone(&self.0), runner));
            return None;
        };
        *runner.work.borrow_mut() = Some(work);
        if let Some(waker) = runner.waker.take() {
            waker.wake();
        }
        runner.head.take()
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.0.over.set(true);
        for waker in self.0.runners.take().iter().filter_map(|runner| runner.waker.take()) {
            waker.wake();
        }
    }
}

async fn run(core: Rc<Core>, spare: Rc<Spare>, runner: Rc<Runner>) {
    let mut desk = Desk::default();
    loop {
        let work = poll_fn(|cx| {
            if let Some(work) = runner.work.take() {
                return Poll::Ready(Some(work));
            }
            if spare.over.get() {
                return Poll::Ready(None);
            }
            *runner.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
        let Some(work) = work else { return };
        carry(&core, work, &mut desk, &runner).await;
        if spare.over.get() || spare.runners.borrow().len() >= RUNNERS_SPARE_MAX {
            return;
        }
        spare.runners.borrow_mut().push(Rc::clone(&runner));
    }
}

async fn carry(core: &Rc<Core>, work: Work, desk: &mut Desk, runner: &Runner) {
    let Work { caller, flow, request } = work;
    let mut wire = Wire::Hop(flow);
    match request {
        Ok(mut head) => {
            std::mem::swap(&mut desk.request, &mut head);
            *runner.head.borrow_mut() = Some(head);
        }
        Err(reject) => {
            core.count(|counts| counts.rejected.of(reject.reason).increment());
            return refuse(core, &mut wire, desk, reject).await;
        }
    }
    match runtime::catch("stream", Trip::new(core, &caller, &mut wire, desk).run()).await {
        Ok(Next::Tunnel(upstream)) => switch(wire, *upstream).await,
        Ok(Next::Again | Next::Close | Next::Drop) => {}
        Err(_) => core.panicked(),
    }
}
