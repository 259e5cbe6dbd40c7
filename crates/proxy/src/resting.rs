// SPDX-License-Identifier: Apache-2.0
//! Connections on which nothing is asked, and that may have to make room: where a core serves as many as it may, whoever has rested
//! longest goes for the next to be let in. Called by `connection`; `worker` says when.

use crate::laggards::Lag;
use crate::worker::Core;
use byrnie_net::http::Alarm;
use byrnie_net::runtime;
use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// A client that has rested for so long may have to make room. Whoever asks one thing after the other isn't at rest between two.
const REST_MIN: Duration = Duration::from_millis(500);

/// One client at rest.
#[derive(Debug)]
pub(crate) struct Resting {
    /// How long it may rest at all, from when it may have to make room; `None` from then on.
    left: Option<Duration>,
    /// Another proxy isn't sent away: it speaks for many.
    spared: bool,
    lag: Option<Lag>,
}

impl Resting {
    /// It rests from now on, for `most` at the longest; `alarm` is its own until it's polled no more.
    pub(crate) fn begin(alarm: &mut Alarm, most: Duration, spared: bool) -> Self {
        alarm.after(REST_MIN);
        Self { left: Some(most.saturating_sub(REST_MIN)), spared, lag: None }
    }

    /// Ready once it has to go.
    pub(crate) fn poll(&mut self, core: &Core, alarm: &mut Alarm, cx: &mut Context<'_>) -> Poll<()> {
        if self.lag.as_ref().is_some_and(Lag::is_evicted) {
            core.count(|counts| counts.strain.not_kept.increment());
            return Poll::Ready(());
        }
        ready!(alarm.poll(cx));
        let Some(left) = self.left.take() else { return Poll::Ready(()) };
        if !self.spared {
            self.lag = Some(core.gauge.resting.enter(cx, runtime::coarse().mono));
        }
        alarm.after(left);
        alarm.poll(cx)
    }
}

/// What comes of `work`, which waits for a client at rest; `None` if that had to go before.
pub(crate) async fn unless_needed<T>(core: &Core, most: Duration, work: impl Future<Output = T>) -> Option<T> {
    let (mut work, mut alarm) = (pin!(work), Alarm::new());
    let mut resting = Resting::begin(&mut alarm, most, false);
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => resting.poll(core, &mut alarm, cx).map(|()| None),
    })
    .await
}
