// SPDX-License-Identifier: Apache-2.0
//! The only way from one core (or thread) to another: a bounded queue with many senders and one
//! receiver. Sending never waits; a full box is the sender's problem to solve (coalesce, drop, count).
//! A receiver with nothing to do pays one load to learn that. Any async runtime can wait on it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Makes a mailbox that holds at most `capacity` messages (0 counts as 1).
pub fn mailbox<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        queue: Mutex::new(Queue { messages: VecDeque::new(), waker: None, senders: 1, open: true }),
        waiting: AtomicUsize::new(0),
        capacity: capacity.max(1),
    });
    (Sender { shared: Arc::clone(&shared) }, Receiver { shared })
}

/// The end that puts messages in; clone it for every thread that sends.
#[derive(Debug)]
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

/// The end that takes messages out. Dropping it closes the box.
#[derive(Debug)]
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
}

/// Why a message was not taken; it is handed back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError<T> {
    /// The box holds as many messages as it may.
    Full(T),
    /// The receiver is gone.
    Closed(T),
}

#[derive(Debug)]
struct Shared<T> {
    queue: Mutex<Queue<T>>,
    /// Messages in the queue, plus one if all senders are gone: what a receiver looks at first.
    waiting: AtomicUsize,
    capacity: usize,
}

#[derive(Debug)]
struct Queue<T> {
    messages: VecDeque<T>,
    waker: Option<Waker>,
    senders: usize,
    open: bool,
}

impl<T> Shared<T> {
    /// A poisoned lock means that a sender's message panicked when dropped; the queue itself is whole.
    fn lock(&self) -> MutexGuard<'_, Queue<T>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the queue's state for the receiver's first look. Called with the lock held.
    fn note(&self, queue: &Queue<T>) {
        self.waiting.store(queue.messages.len() + usize::from(queue.senders == 0), Ordering::Release);
    }
}

impl<T> Sender<T> {
    /// Puts a message in and wakes the receiver.
    ///
    /// # Errors
    /// If the box is full or its receiver is gone.
    pub fn send(&self, message: T) -> Result<(), SendError<T>> {
        let waker = {
            let mut queue = self.shared.lock();
            if !queue.open {
                return Err(SendError::Closed(message));
            }
            if queue.messages.len() >= self.shared.capacity {
                return Err(SendError::Full(message));
            }
            queue.messages.push_back(message);
            self.shared.note(&queue);
            queue.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// Puts a message in place of all that wait: for those of which only the newest counts
    /// (snapshots). Tells how many were replaced.
    ///
    /// # Errors
    /// If the receiver is gone.
    pub fn replace(&self, message: T) -> Result<usize, SendError<T>> {
        let (old, waker) = {
            let mut queue = self.shared.lock();
            if !queue.open {
                return Err(SendError::Closed(message));
            }
            let old = std::mem::take(&mut queue.messages);
            queue.messages.push_back(message);
            self.shared.note(&queue);
            (old, queue.waker.take())
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        // The old messages are dropped here, outside the lock.
        Ok(old.len())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.lock().senders += 1;
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let waker = {
            let mut queue = self.shared.lock();
            queue.senders -= 1;
            self.shared.note(&queue);
            if queue.senders == 0 { queue.waker.take() } else { None }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Receiver<T> {
    /// Takes a message if one waits. One load if none does.
    pub fn take(&mut self) -> Option<T> {
        if self.shared.waiting.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut queue = self.shared.lock();
        let message = queue.messages.pop_front();
        self.shared.note(&queue);
        message
    }

    /// Takes a message, or arranges to be woken by the next. `None` when all senders are gone and
    /// nothing is left.
    pub fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut queue = self.shared.lock();
        if let Some(message) = queue.messages.pop_front() {
            self.shared.note(&queue);
            return Poll::Ready(Some(message));
        }
        if queue.senders == 0 {
            return Poll::Ready(None);
        }
        match &mut queue.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => queue.waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Waits for a message; `None` when all senders are gone and nothing is left. Dropping the future
    /// loses no message.
    pub async fn receive(&mut self) -> Option<T> {
        std::future::poll_fn(|cx| self.poll_receive(cx)).await
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let messages = {
            let mut queue = self.shared.lock();
            queue.open = false;
            queue.waker = None;
            std::mem::take(&mut queue.messages)
        };
        drop(messages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;
    use std::task::Wake;

    struct Flag(AtomicBool);

    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn messages_arrive_in_order_and_within_bounds() {
        let (tx, mut rx) = mailbox(2);
        assert_eq!(tx.send(1), Ok(()));
        assert_eq!(tx.send(2), Ok(()));
        assert_eq!(tx.send(3), Err(SendError::Full(3)));
        assert_eq!((rx.take(), rx.take(), rx.take()), (Some(1), Some(2), None));
        assert_eq!(tx.send(4), Ok(()));
        assert_eq!(tx.replace(5), Ok(1));
        assert_eq!((rx.take(), rx.take()), (Some(5), None));
        drop(rx);
        assert_eq!(tx.send(6), Err(SendError::Closed(6)));
    }

    #[test]
    fn a_waiting_receiver_is_woken_by_messages_and_by_the_last_sender() {
        let flag = Arc::new(Flag(AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&flag));
        let mut cx = Context::from_waker(&waker);
        let (tx, mut rx) = mailbox(1);
        let other = tx.clone();
        assert_eq!(rx.poll_receive(&mut cx), Poll::Pending);
        tx.send('a').unwrap();
        assert!(flag.0.swap(false, Ordering::SeqCst));
        assert_eq!(rx.poll_receive(&mut cx), Poll::Ready(Some('a')));
        assert_eq!(rx.poll_receive(&mut cx), Poll::Pending);
        drop(tx);
        assert!(!flag.0.load(Ordering::SeqCst));
        drop(other);
        assert!(flag.0.load(Ordering::SeqCst));
        assert_eq!(rx.poll_receive(&mut cx), Poll::Ready(None));
        assert_eq!(rx.take(), None);
    }

    #[test]
    fn many_senders_lose_nothing() {
        let (tx, mut rx) = mailbox(64);
        let threads: Vec<_> = (0..4u64)
            .map(|_| {
                let tx = tx.clone();
                std::thread::spawn(move || {
                    for n in 0..1000u64 {
                        let mut message = n;
                        while let Err(SendError::Full(back)) = tx.send(message) {
                            message = back;
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        drop(tx);
        let mut sum = 0;
        let waker = Waker::noop();
        let mut cx = Context::from_waker(waker);
        loop {
            match rx.poll_receive(&mut cx) {
                Poll::Ready(Some(n)) => sum += n,
                Poll::Ready(None) => break,
                Poll::Pending => std::thread::yield_now(),
            }
        }
        assert_eq!(sum, 4 * 499_500);
        for thread in threads {
            thread.join().unwrap();
        }
    }
}
