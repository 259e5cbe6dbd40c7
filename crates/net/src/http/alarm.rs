// SPDX-License-Identifier: Apache-2.0
//! Deadlines by a sweep: setting and clearing an alarm is a store, and one timer per worker wakes
//! those that are due. Every connection and tunnel holds one; no request arms a timer of its own.

use crate::runtime;
use byrnie_base::Instant;
use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

#[cfg(test)]
mod tests;

/// How much later than due an alarm may go off.
pub const GRAIN: Duration = Duration::from_millis(10);

const NEVER: u64 = u64::MAX;

thread_local! {
    static SWEEP: Sweep = const {
        Sweep {
            entries: RefCell::new(Vec::new()),
            free: RefCell::new(Vec::new()),
            planned: Cell::new(NEVER),
            ticker: RefCell::new(None),
            runs: Cell::new(false),
        }
    };
}

struct Sweep {
    entries: RefCell<Vec<Entry>>,
    free: RefCell<Vec<usize>>,
    /// When the ticker wakes next.
    planned: Cell<u64>,
    ticker: RefCell<Option<Waker>>,
    runs: Cell<bool>,
}

struct Entry {
    due: u64,
    waker: Option<Waker>,
}

/// Something that goes off once, at a time that can be moved.
#[derive(Debug)]
pub struct Alarm {
    index: usize,
    due: u64,
}

impl Default for Alarm {
    fn default() -> Self {
        Self::new()
    }
}

impl Alarm {
    /// An alarm that isn't set.
    pub fn new() -> Self {
        SWEEP.with(|sweep| {
            let mut entries = sweep.entries.borrow_mut();
            let index = sweep.free.borrow_mut().pop().unwrap_or(entries.len());
            if index == entries.len() {
                entries.push(Entry { due: NEVER, waker: None });
            }
            Self { index, due: NEVER }
        })
    }

    /// Sets it to `due`, or to never.
    pub fn set(&mut self, due: Option<Instant>) {
        let due = due.map_or(NEVER, Instant::as_nanos);
        if due == self.due {
            return;
        }
        self.due = due;
        SWEEP.with(|sweep| {
            if let Some(entry) = sweep.entries.borrow_mut().get_mut(self.index) {
                entry.due = due;
            }
            if due < sweep.planned.get() {
                sweep.plan(due);
            }
        });
    }

    /// Sets it to `span` from now.
    pub fn after(&mut self, span: Duration) {
        self.set(Some(runtime::coarse().mono + span));
    }

    /// Ready once it's due, and as long as it isn't set anew.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.due == NEVER {
            return Poll::Pending;
        }
        if runtime::coarse().mono.as_nanos() >= self.due {
            return Poll::Ready(());
        }
        SWEEP.with(|sweep| {
            if let Some(entry) = sweep.entries.borrow_mut().get_mut(self.index) {
                entry.due = self.due;
                if !entry.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    entry.waker = Some(cx.waker().clone());
                }
            }
            if self.due < sweep.planned.get() {
                sweep.plan(self.due);
            }
        });
        Poll::Pending
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // At the end of a thread the sweep may be gone before its alarms.
        let _ = SWEEP.try_with(|sweep| {
            if let Some(entry) = sweep.entries.borrow_mut().get_mut(self.index) {
                *entry = Entry { due: NEVER, waker: None };
            }
            sweep.free.borrow_mut().push(self.index);
        });
    }
}

impl Sweep {
    /// Makes the ticker wake no later than `due`.
    fn plan(&self, due: u64) {
        self.planned.set(due);
        if let Some(ticker) = self.ticker.borrow().as_ref() {
            ticker.wake_by_ref();
        }
        if !self.runs.replace(true) {
            runtime::spawn_local("alarms", tick());
        }
    }

    /// Wakes what is due and answers when to come again.
    fn sweep(&self, now: u64) -> u64 {
        let mut next = NEVER;
        let mut due = Vec::new();
        for entry in self.entries.borrow_mut().iter_mut() {
            if entry.due <= now {
                entry.due = NEVER;
                due.extend(entry.waker.take());
            } else {
                next = next.min(entry.due);
            }
        }
        due.into_iter().for_each(Waker::wake);
        next
    }
}

/// Clears the mark that a ticker runs, when the worker's tasks are dropped.
struct Running;

impl Drop for Running {
    fn drop(&mut self) {
        let _ = SWEEP.try_with(|sweep| {
            sweep.runs.set(false);
            sweep.planned.set(NEVER);
            *sweep.ticker.borrow_mut() = None;
        });
    }
}

async fn tick() {
    let _running = Running;
    let mut timer: Option<(u64, Pin<Box<tokio::time::Sleep>>)> = None;
    std::future::poll_fn(|cx| {
        SWEEP.with(|sweep| {
            *sweep.ticker.borrow_mut() = Some(cx.waker().clone());
            loop {
                let planned = sweep.planned.get();
                if planned == NEVER {
                    return Poll::<()>::Pending;
                }
                let now = runtime::now().mono.as_nanos();
                if planned <= now {
                    sweep.planned.set(sweep.sweep(now));
                    continue;
                }
                let wait = Duration::from_nanos(planned - now).max(GRAIN);
                let sleep = match &mut timer {
                    Some((at, sleep)) if *at == planned => sleep,
                    _ => &mut timer.insert((planned, Box::pin(tokio::time::sleep(wait)))).1,
                };
                if sleep.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                timer = None;
            }
        })
    })
    .await;
}
