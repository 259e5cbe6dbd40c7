// SPDX-License-Identifier: Apache-2.0
//! How long an exchange may stand still while its bodies are moved, on whichever side it is. Asked by `carry`.

use crate::laggards::Lag;
use crate::worker::Core;
use byrnie_base::Instant;
use byrnie_codec::{Framing, Head, Known};
use byrnie_net::http::{Pump, READ_BYTES_MIN};
use byrnie_net::runtime;
use std::task::Context;
use std::time::Duration;

/// How long a side may leave bytes lying that are ready to be sent to it, and a client of HTTP/1 may be silent within a body of
/// no declared length.
pub(crate) const STALL_MAX: Duration = Duration::from_secs(60);
/// How long a client may take for each [`BODY_STEP_BYTES`] of a body whose length it has declared: it has all of it to send, and
/// no reason to wait.
const BODY_STEP_MAX: Duration = Duration::from_secs(30);
/// See [`BODY_STEP_MAX`].
const BODY_STEP_BYTES: u64 = 4 * 1024;
/// While memory is short: for how long an exchange may keep more than the little that each may have then.
pub(crate) const HEAVY_MAX: Duration = Duration::from_secs(2);

/// What stands still while bodies are moved.
pub(crate) struct Rest {
    bytes: u64,
    unsent: usize,
    /// Somebody has to take what waits before anything moves.
    waits: bool,
    /// When a byte of a body moved last.
    stirred: Instant,
    /// When anything moved last, or nothing waited.
    moved: Instant,
    /// When little waited last.
    light: Instant,
}

impl Rest {
    pub(crate) const fn new(now: Instant) -> Self {
        Self { bytes: 0, unsent: 0, waits: false, stirred: now, moved: now, light: now }
    }

    /// So many bytes have been moved, and so many are unsent; `waits`: nothing moves until somebody takes some. True if
    /// that has changed: who takes a little of what waits is slow, and not gone.
    pub(crate) fn note(&mut self, (bytes, unsent): (u64, usize), waits: bool, now: Instant) -> bool {
        let stirs = (bytes, unsent) != (self.bytes, self.unsent);
        if bytes != self.bytes {
            self.stirred = now;
        }
        if stirs || !waits {
            self.moved = now;
        }
        if unsent <= READ_BYTES_MIN {
            self.light = now;
        }
        (self.bytes, self.unsent, self.waits) = (bytes, unsent, waits);
        stirs
    }

    /// Whether more has waited for a while than each exchange may have where memory is short.
    pub(crate) fn is_heavy(&self, now: Instant) -> bool {
        now.since(self.light) >= HEAVY_MAX
    }

    /// When it has stood still for too long.
    pub(crate) fn ends(&self, idle: Option<Duration>) -> Option<Instant> {
        let stall = self.waits.then(|| self.moved + STALL_MAX);
        earlier(stall, idle.map(|idle| self.stirred + idle))
    }

    /// When it's to be looked at again, whether or not anything moves.
    pub(crate) fn look(&self, now: Instant) -> Option<Instant> {
        (self.unsent > READ_BYTES_MIN).then(|| (self.light + HEAVY_MAX).max(now + HEAVY_MAX / 2))
    }
}

/// How quick the client is.
#[derive(Debug)]
pub(crate) struct Tempo {
    /// Bytes of the request's body that make a step, and the time for it; `None`: it may take its time.
    due: Option<(u64, Duration)>,
    /// Where the last step was made, and when.
    at: (u64, Instant),
    /// While the exchange waits for it.
    lag: Option<Lag>,
}

impl Tempo {
    /// For a client that may take its time.
    pub(crate) const fn free() -> Self {
        Self { due: None, at: (0, Instant::from_nanos(0)), lag: None }
    }

    /// For the client of this request.
    pub(crate) fn of(head: &Head) -> Self {
        let due = match head.framing() {
            Framing::Length(_) => Some((BODY_STEP_BYTES, BODY_STEP_MAX)),
            Framing::Chunked => Some((1, STALL_MAX)),
            // Streams of HTTP/2 may rest for as long as they like.
            Framing::None | Framing::Stream | Framing::UntilClose => None,
        };
        Self { due, at: (0, runtime::coarse().mono), lag: None }
    }

    /// Whether the client must get on with what `up` moves.
    pub(crate) fn is_due(&self, up: &Pump) -> bool {
        self.due.is_some() && !up.is_done() && !up.is_blocked()
    }

    /// When the client must have made the next step, given what `up` has moved.
    pub(crate) fn end(&mut self, up: &Pump) -> Option<Instant> {
        let (bytes, span) = self.due.filter(|_| !up.is_done())?;
        if up.bytes >= self.at.0 + bytes || up.is_blocked() {
            self.at = (up.bytes, runtime::coarse().mono);
        }
        Some(self.at.1 + span)
    }

    /// Notes whether the exchange waits for its client, which has just done something or not; true if it has to make
    /// room for others.
    pub(crate) fn lags(&mut self, core: &Core, waits: bool, stirs: bool, cx: &Context<'_>) -> bool {
        if !waits || stirs {
            self.lag = None;
        }
        match &self.lag {
            Some(lag) => return lag.is_evicted(),
            None if waits => self.lag = Some(core.laggards.enter(cx, runtime::coarse().mono)),
            None => {}
        }
        false
    }

    /// The exchange doesn't wait for its client any more.
    pub(crate) fn rest(&mut self) {
        self.lag = None;
    }
}

/// Whether the rest of a request has to come from its client: it has begun a body that ends, of which `up` has moved a part. Until it
/// is told to go on, one that asks first waits for the other side.
pub(crate) fn owes(request: &Head, up: &Pump) -> bool {
    let ends =
        matches!(request.framing(), Framing::Length(_) | Framing::Chunked) || request.declared_length().is_some();
    let asks = up.bytes == 0 && request.header(Known::Expect).is_some();
    ends && !asks && !up.is_done() && !up.is_blocked()
}

pub(crate) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (some, None) | (None, some) => some,
    }
}
