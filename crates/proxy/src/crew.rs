// SPDX-License-Identifier: Apache-2.0
//! The tasks that carry the exchanges of a connection with many streams. They are used again, so that no exchange
//! costs a task, a lock or memory of its own. Called by `connection` and `hop`; it decides nothing.

use crate::carry::{Desk, Next, Trip};
use crate::connection::switch;
use crate::door::Caller;
use crate::worker::Core;
use byrnie_codec::Head;
use byrnie_net::http::Wire;
use byrnie_net::runtime;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// One exchange to be carried.
pub(crate) struct Work {
    pub(crate) caller: Rc<Caller>,
    pub(crate) wire: Wire,
    pub(crate) request: Box<Head>,
}

/// The tasks of a connection. Those that have nothing to do end with it.
pub(crate) struct Crew(Rc<Spare>);

pub(crate) struct Spare {
    runners: RefCell<Vec<Rc<Runner>>>,
    most: usize,
    over: Cell<bool>,
}

/// A task that carries one exchange after the other.
#[derive(Default)]
pub(crate) struct Runner {
    work: RefCell<Option<Work>>,
    /// Memory of a head, to be used again.
    head: RefCell<Option<Box<Head>>>,
    waker: RefCell<Option<Waker>>,
}

impl Crew {
    /// One without tasks; it keeps at most `most` that have nothing to do.
    pub(crate) fn new(most: usize) -> Self {
        Self(Rc::new(Spare { runners: RefCell::default(), most, over: Cell::new(false) }))
    }

    /// Gives an exchange to a task; answers memory for a head, if it had some to spare.
    pub(crate) fn give(&self, core: &Rc<Core>, work: Work) -> Option<Box<Head>> {
        let spare = self.0.runners.borrow_mut().pop();
        let Some(runner) = spare else {
            let runner = Rc::new(Runner { work: RefCell::new(Some(work)), ..Runner::default() });
            runtime::spawn_local("stream", run(Rc::clone(core), Rc::clone(&self.0), runner));
            return None;
        };
        *runner.work.borrow_mut() = Some(work);
        if let Some(waker) = &*runner.waker.borrow() {
            waker.wake_by_ref();
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

pub(crate) async fn run(core: Rc<Core>, spare: Rc<Spare>, runner: Rc<Runner>) {
    // Held as long as the task lives: to take one for each exchange takes a lock that all cores share.
    let _guard = core.drain().guard();
    let mut desk = Desk::default();
    loop {
        let work = poll_fn(|cx| {
            if let Some(work) = runner.work.take() {
                return Poll::Ready(Some(work));
            }
            if spare.over.get() {
                return Poll::Ready(None);
            }
            let waker = &mut *runner.waker.borrow_mut();
            if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
        let Some(work) = work else { return };
        carry(&core, work, &mut desk, &runner).await;
        desk.rest();
        if spare.over.get() || spare.runners.borrow().len() >= spare.most {
            return;
        }
        spare.runners.borrow_mut().push(Rc::clone(&runner));
    }
}

async fn carry(core: &Rc<Core>, work: Work, desk: &mut Desk, runner: &Runner) {
    let Work { caller, mut wire, mut request } = work;
    std::mem::swap(&mut desk.request, &mut request);
    *runner.head.borrow_mut() = Some(request);
    match runtime::catch("stream", Trip::new(core, &caller, &mut wire, desk).run()).await {
        Ok(Next::Tunnel(upstream)) => Box::pin(switch(&caller, wire, *upstream)).await,
        Ok(Next::Again | Next::Close | Next::Drop) => {}
        Err(_) => core.panicked(),
    }
}
