// SPDX-License-Identifier: Apache-2.0
//! A graceful end. One [`Drain`] says when to stop taking work; every connection holds a [`Guard`]
//! from its [`Watch`] and finishes what it has; the drain ends when the last guard is gone. Works
//! across threads and with any async runtime. Time limits are the caller's.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Who decides when to stop.
#[derive(Debug)]
pub struct Drain {
    shared: Arc<Shared>,
}

/// Who is told to stop; clone it freely, it holds nothing open.
#[derive(Clone, Debug)]
pub struct Watch {
    shared: Arc<Shared>,
}

/// A piece of work that the drain waits for; drop it when the work is done.
#[derive(Debug)]
pub struct Guard {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    draining: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    guards: usize,
    /// Wakers of those who wait for the drain to begin, each under its own key.
    waiting: BTreeMap<u64, Waker>,
    next_key: u64,
    /// Waker of the one who waits for the last guard.
    end: Option<Waker>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl Drain {
    /// A drain that has not begun.
    pub fn new() -> Self {
        Self { shared: Arc::new(Shared { draining: AtomicBool::new(false), inner: Mutex::default() }) }
    }

    /// An end to hand to those who work.
    pub fn watch(&self) -> Watch {
        Watch { shared: Arc::clone(&self.shared) }
    }

    /// Tells everybody to finish. Further calls change nothing.
    pub fn start(&self) {
        let waiting = {
            let mut inner = self.shared.lock();
            self.shared.draining.store(true, Ordering::Release);
            std::mem::take(&mut inner.waiting)
        };
        for waker in waiting.into_values() {
            waker.wake();
        }
    }

    /// Guards that are still held.
    pub fn remaining(&self) -> usize {
        self.shared.lock().guards
    }

    /// Waits until no guard is held; who hasn't called [`Drain::start`] waits for a quiet moment.
    pub async fn finished(&mut self) {
        std::future::poll_fn(|cx| {
            let mut inner = self.shared.lock();
            if inner.guards == 0 {
                return Poll::Ready(());
            }
            inner.end = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Watch {
    /// True once work is to end.
    pub fn is_draining(&self) -> bool {
        self.shared.draining.load(Ordering::Acquire)
    }

    /// A future that is ready once work is to end.
    pub fn draining(&self) -> Draining {
        Draining { shared: Arc::clone(&self.shared), registered: None }
    }

    /// Work that the drain has to wait for.
    pub fn guard(&self) -> Guard {
        self.shared.lock().guards += 1;
        Guard { shared: Arc::clone(&self.shared) }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let end = {
            let mut inner = self.shared.lock();
            inner.guards -= 1;
            if inner.guards == 0 { inner.end.take() } else { None }
        };
        if let Some(waker) = end {
            waker.wake();
        }
    }
}

/// Ready once work is to end. Polled again by the same task it takes no lock.
#[derive(Debug)]
pub struct Draining {
    shared: Arc<Shared>,
    registered: Option<(u64, Waker)>,
}

impl Future for Draining {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.shared.draining.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        if self.registered.as_ref().is_some_and(|(_, waker)| waker.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        let shared = Arc::clone(&self.shared);
        let mut inner = shared.lock();
        // Under the lock once more: `start` may have taken the wakers in between.
        if shared.draining.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        let key = self.registered.as_ref().map_or(inner.next_key, |(key, _)| *key);
        inner.next_key = inner.next_key.max(key + 1);
        inner.waiting.insert(key, cx.waker().clone());
        self.registered = Some((key, cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Draining {
    fn drop(&mut self) {
        if let Some((key, _)) = self.registered.take() {
            self.shared.lock().waiting.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll<F: Future<Output = ()> + Unpin>(future: &mut F) -> bool {
        Pin::new(future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn work_ends_before_the_drain_does() {
        let mut drain = Drain::new();
        let watch = drain.watch();
        let (a, b) = (watch.guard(), watch.clone().guard());
        let mut told = watch.draining();
        assert!(!poll(&mut told) && !poll(&mut told) && !watch.is_draining());
        drain.start();
        drain.start();
        assert!(poll(&mut told) && watch.is_draining());
        drop(a);
        assert_eq!(drain.remaining(), 1);
        {
            let mut end = Box::pin(drain.finished());
            assert!(!poll(&mut end));
        }
        drop(b);
        assert!(poll(&mut Box::pin(drain.finished())));
    }

    #[test]
    fn a_dropped_wait_leaves_nothing_behind() {
        let drain = Drain::new();
        let mut told = drain.watch().draining();
        assert!(!poll(&mut told));
        assert_eq!(drain.shared.lock().waiting.len(), 1);
        drop(told);
        assert_eq!(drain.shared.lock().waiting.len(), 0);
    }
}
