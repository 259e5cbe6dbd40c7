// SPDX-License-Identifier: Apache-2.0
//! One proxy is kept in its place. It runs in this process until the first upgrade, and in a child from then on; a child
//! that dies is started again at the same sockets, which this process holds open, so that callers wait and nobody is
//! refused.

use super::Charge;
use super::heir::Heir;
use crate::failure::Failure;
use crate::globals::Globals;
use byrnie_base::Instant;
use byrnie_model::code;
use byrnie_net::local::Tether;
use byrnie_net::runtime::{self, Task};
use byrnie_proxy::{Handed, Running};
use std::cell::Cell;
use std::ffi::OsString;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Orders that wait for their turn.
const ORDERS_MAX: usize = 8;
/// First pause before a proxy that died is started again; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause before that.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// One that ran for so long is taken to be well.
const WELL_AFTER: Duration = Duration::from_secs(60);

/// Keeps one proxy in its place; clones are of the same. When the last is dropped, the proxy stops at once.
#[derive(Clone, Debug)]
pub(crate) struct Post {
    /// What it's called.
    pub(crate) name: String,
    orders: mpsc::Sender<Order>,
}

/// How an upgrade goes.
#[derive(Debug)]
pub(crate) enum News {
    /// The new process serves.
    Serves {
        /// Its id.
        pid: u32,
        /// Of its binary.
        version: String,
        /// From the beginning until now.
        took: Duration,
    },
    /// There is no new process; the earlier one goes on.
    Refused(Failure),
    /// The earlier one has ended; whether all that it had under way ended by itself.
    Ended { whole: bool },
}

enum Order {
    Upgrade { binary: OsString, drain: Duration, news: mpsc::Sender<News> },
    Leave { deadline: Duration, done: oneshot::Sender<()> },
    Drain { deadline: Duration, done: oneshot::Sender<()> },
    Part { done: oneshot::Sender<Parted> },
}

/// A post that is left to another program in this process.
pub(super) struct Parted {
    pub(super) charge: Option<Charge>,
    pub(super) binary: OsString,
    pub(super) held: Vec<Handed>,
    /// The child, unless it has just died.
    pub(super) heir: Option<(u32, String, Tether)>,
}

impl Post {
    /// Keeps a proxy that serves. Without a charge it can't be replaced. Call it from the main thread, with which its
    /// children live.
    pub(crate) fn new(globals: &Globals, name: &str, charge: Option<Charge>, proxy: Running) -> Self {
        let (orders, given) = mpsc::channel(ORDERS_MAX);
        let holder = Holder {
            globals: globals.clone(),
            name: name.to_owned(),
            charge,
            side: Side::Own(Box::new(proxy)),
            held: Vec::new(),
            binary: OsString::new(),
            since: runtime::now().mono,
            pause: PAUSE_MIN,
            retiring: None,
        };
        runtime::spawn_local("post", holder.run(given));
        Self { name: name.to_owned(), orders }
    }

    /// Goes on with what an earlier program in this process has left.
    ///
    /// # Errors
    /// If threads have run out.
    pub(super) fn resume(globals: &Globals, name: &str, parted: Parted) -> anyhow::Result<Self> {
        let (orders, given) = mpsc::channel(ORDERS_MAX);
        let Parted { charge, binary, held, heir } = parted;
        let now = runtime::now().mono;
        let side = match heir {
            Some((pid, version, tether)) => Side::Heir(Heir::adopt(pid, tether, version)?),
            None => Side::Nobody(now),
        };
        let (globals, name, pause) = (globals.clone(), name.to_owned(), PAUSE_MIN);
        let holder =
            Holder { globals, name: name.clone(), charge, side, held, binary, since: now, pause, retiring: None };
        runtime::spawn_local("post", holder.run(given));
        Ok(Self { name, orders })
    }

    /// [`Self::drain`] as a task of its own.
    pub(crate) fn into_drain(self, deadline: Duration) -> Task {
        runtime::spawn_local("draining", async move { self.drain(deadline).await })
    }

    /// Ends the post, and leaves its child as it is. `None` if the proxy is in this program itself.
    pub(super) async fn part(&self) -> Option<Parted> {
        let (done, parted) = oneshot::channel();
        self.orders.send(Order::Part { done }).await.ok()?;
        parted.await.ok()
    }

    /// Puts `binary` in the place of what runs, which has `drain` to end what it has. What comes of it is told.
    pub(crate) async fn upgrade(&self, binary: OsString, drain: Duration) -> mpsc::Receiver<News> {
        let (news, told) = mpsc::channel(2);
        // Nobody hears it: then nothing is told either.
        let _ = self.orders.send(Order::Upgrade { binary, drain, news }).await;
        told
    }

    /// As [`Running::leave`]; given up when the future is dropped.
    pub(crate) async fn leave(&self, deadline: Duration) {
        let (done, end) = oneshot::channel();
        if self.orders.send(Order::Leave { deadline, done }).await.is_ok() {
            let _ = end.await;
        }
    }

    /// As [`Running::drain`], and nothing is kept any more.
    pub(crate) async fn drain(&self, deadline: Duration) {
        let (done, end) = oneshot::channel();
        if self.orders.send(Order::Drain { deadline, done }).await.is_ok() {
            let _ = end.await;
        }
    }
}

/// Where the proxy is.
enum Side {
    /// In this process.
    Own(Box<Running>),
    /// In a child.
    Heir(Heir),
    /// Nowhere, until then.
    Nobody(Instant),
}

impl Side {
    fn hand_over(&self, comes: bool) {
        match self {
            Self::Own(proxy) => proxy.hand_over(comes),
            Self::Heir(heir) => heir.hand_over(comes),
            Self::Nobody(_) => {}
        }
    }

    async fn leave(&mut self, deadline: Duration) {
        match self {
            Self::Own(proxy) => drop(proxy.leave(deadline).await),
            Self::Heir(heir) => heir.leave(deadline).await,
            Self::Nobody(_) => {}
        }
    }

    async fn retire(self, deadline: Duration) -> bool {
        match self {
            Self::Own(proxy) => proxy.retire(deadline).await,
            Self::Heir(heir) => heir.retire(deadline).await,
            Self::Nobody(_) => true,
        }
    }

    async fn drain(self, deadline: Duration) {
        match self {
            Self::Own(proxy) => drop(proxy.drain(deadline).await),
            Self::Heir(heir) => drop(heir.drain(deadline).await),
            Self::Nobody(_) => {}
        }
    }

    /// Waits until it has to be looked after.
    async fn is_due(&self) {
        match self {
            Self::Own(_) => std::future::pending().await,
            Self::Heir(heir) => drop(heir.ended().await),
            Self::Nobody(until) => runtime::sleep(until.since(runtime::now().mono)).await,
        }
    }
}

struct Holder {
    globals: Globals,
    name: String,
    charge: Option<Charge>,
    side: Side,
    /// The sockets that a child serves; empty while the proxy is in this process.
    held: Vec<Handed>,
    /// What the child runs.
    binary: OsString,
    /// When the child began.
    since: Instant,
    pause: Duration,
    /// An earlier one that still ends, and whether it has.
    retiring: Option<(Task, Rc<Cell<bool>>)>,
}

impl Holder {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut next = None;
        loop {
            let order = match next.take() {
                Some(order) => order,
                None => tokio::select! {
                    order = orders.recv() => match order {
                        Some(order) => order,
                        None => return,
                    },
                    () = self.side.is_due() => {
                        self.look_after().await;
                        continue;
                    }
                },
            };
            match order {
                Order::Upgrade { binary, drain, news } => self.upgrade(binary, drain, news).await,
                Order::Leave { deadline, mut done } => {
                    tokio::select! {
                        () = self.side.leave(deadline) => { let _ = done.send(()); },
                        () = done.closed() => {}
                        order = orders.recv() => next = order,
                    }
                }
                Order::Part { done } => {
                    let heir = match self.side {
                        Side::Heir(heir) => {
                            let (pid, version) = (heir.pid(), heir.version.clone());
                            heir.part().ok().map(|tether| (pid, version, tether))
                        }
                        // Nobody parts from what it is itself.
                        Side::Own(proxy) => {
                            self.side = Side::Own(proxy);
                            continue;
                        }
                        Side::Nobody(_) => None,
                    };
                    let _ = done.send(Parted { charge: self.charge, binary: self.binary, held: self.held, heir });
                    return;
                }
                Order::Drain { deadline, done } => {
                    let retiring = async {
                        if let Some((task, _)) = self.retiring.take() {
                            task.ended().await;
                        }
                    };
                    tokio::join!(self.side.drain(deadline), async {
                        let _ = runtime::timeout(deadline, retiring).await;
                    });
                    let _ = done.send(());
                    return;
                }
            }
        }
    }

    async fn upgrade(&mut self, binary: OsString, drain: Duration, news: mpsc::Sender<News>) {
        let began = runtime::now().mono;
        if self.retiring.as_ref().is_some_and(|(_, over)| !over.get()) {
            let code = &code::UPGRADING;
            let what = format!("the process that {} ran in before has not ended yet", self.name);
            drop(news.send(News::Refused(Failure::new(code.id, what).next(code.next))).await);
            return;
        }
        let listeners = match &mut self.side {
            Side::Own(proxy) => Some(proxy.listeners()),
            Side::Heir(heir) => heir.listeners().await,
            Side::Nobody(_) => None,
        };
        let listeners = listeners.unwrap_or_else(|| self.held.iter().map(Handed::share).collect());
        self.side.hand_over(true);
        let heir = match self.raise(&binary, &listeners).await {
            Ok(heir) => heir,
            Err(failure) => {
                self.side.hand_over(false);
                drop(news.send(News::Refused(failure)).await);
                return;
            }
        };
        let (pid, version) = (heir.pid(), heir.version.clone());
        let earlier = std::mem::replace(&mut self.side, Side::Heir(heir));
        (self.held, self.binary, self.since) = (listeners, binary, runtime::now().mono);
        self.pause = PAUSE_MIN;
        drop(news.send(News::Serves { pid, version, took: runtime::now().mono.since(began) }).await);
        let over = Rc::new(Cell::new(false));
        let ends = Rc::clone(&over);
        let task = runtime::spawn_local("retiring", async move {
            let whole = earlier.retire(drain).await;
            ends.set(true);
            drop(news.send(News::Ended { whole }).await);
        });
        self.retiring = Some((task, over));
    }

    async fn raise(&self, binary: &OsString, listeners: &[Handed]) -> Result<Heir, Failure> {
        let Some(charge) = &self.charge else {
            return Err(Failure::new(code::HAND_OVER.id, format!("{} has no control plane", self.name)));
        };
        Heir::raise(binary, &self.globals, charge, listeners).await
    }

    /// A child has died, or is to be started again.
    async fn look_after(&mut self) {
        if let Side::Heir(heir) = &self.side {
            let exit = heir.ended().await;
            if runtime::now().mono.since(self.since) >= WELL_AFTER {
                self.pause = PAUSE_MIN;
            }
            eprintln!("  ! the proxy of {} ended ({exit}); starting it again. Its ports stay open.", self.name);
            self.side = Side::Nobody(runtime::now().mono);
            return;
        }
        self.since = runtime::now().mono;
        let raised = match self.raise(&self.binary, &self.held).await {
            // What it ran may have been taken away meanwhile; what this process is can't be.
            Err(failure) => {
                eprintln!("{failure}");
                self.raise(&crate::supervise::own_binary(), &self.held).await
            }
            raised => raised,
        };
        self.side = match raised {
            Ok(heir) => Side::Heir(heir),
            Err(failure) => {
                eprintln!("{failure}");
                let until = runtime::now().mono + self.pause;
                self.pause = (self.pause * 2).min(PAUSE_MAX);
                Side::Nobody(until)
            }
        };
    }
}
