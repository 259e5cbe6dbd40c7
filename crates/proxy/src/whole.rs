// SPDX-License-Identifier: Apache-2.0
//! Begins a short answer only when all of it is here. A head that was passed on can't be taken back: a program
//! that is killed between its answer's head and body would cost its caller the request, though another
//! instance could have answered. What is waited for has bounds in bytes and in time, so that an answer which
//! is slow on purpose still begins.

use crate::carry::{Event, Trip};
use crate::upstream::failure_before_head;
use byrnie_codec::Framing;
use byrnie_net::http::{Error, Wire};
use byrnie_net::runtime;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

/// Longest body, in bytes, that is waited for before its answer begins.
const WHOLE_BYTES_MAX: usize = 16 * 1024;
/// How long it's waited for.
const WHOLE_WAIT_MAX: Duration = Duration::from_millis(100);
/// Bodies up to here are taken to be written in pieces.
const PIECES_BYTES_MAX: u64 = 64 * 1024;

impl Trip<'_> {
    /// After the answer's head: waits for a short body, and looks at what has come of another. An answer that breaks off or proves to be
    /// malformed meanwhile never began.
    pub(crate) async fn await_body(&mut self) -> Event {
        let Framing::Length(length) = self.response.framing() else { return self.check_body() };
        let short = usize::try_from(length).ok().filter(|length| *length <= WHOLE_BYTES_MAX);
        let Some((length, upstream)) = short.zip(self.upstream.as_mut()) else { return Event::Head };
        // Under a key an answer is kept before it's passed on anyway.
        if upstream.wire.unread() >= length || self.ticket.is_some() || !self.up.is_done() {
            return Event::Head;
        }
        let patience = runtime::now().mono + WHOLE_WAIT_MAX;
        self.alarm.set(Some(patience));
        let gathered = poll_fn(|cx| match self.back.gather(cx, &mut upstream.wire, WHOLE_BYTES_MAX) {
            Poll::Ready(gathered) => Poll::Ready(gathered.map(|_| ())),
            Poll::Pending => {
                // Head and body in two writes are common, and a pause of 40 ms between them that nobody asked for.
                upstream.wire.acknowledge();
                self.alarm.poll(cx).map(Ok)
            }
        })
        .await;
        self.alarm.set(None);
        self.unless_broken(gathered)
    }

    /// What is wrong with the body that has come with a head can still be told in its place.
    fn check_body(&mut self) -> Event {
        let checked = self.upstream.as_ref().map_or(Ok(()), |upstream| upstream.wire.check_unread());
        self.unless_broken(checked)
    }

    fn unless_broken(&mut self, body: Result<(), Error>) -> Event {
        match body {
            Ok(()) => Event::Head,
            Err(error) => {
                self.upstream = None;
                Event::Failed(failure_before_head(&error, true))
            }
        }
    }
}

/// A body stands still after so many bytes: its sender may be waiting for a word that they have come. Once for each
/// piece, and only while it's short: of a long one, acknowledgements go out anyway.
pub(crate) fn acknowledge(wire: &Wire, bytes: u64, last: &mut Option<u64>) {
    if bytes < PIECES_BYTES_MAX && last.replace(bytes) != Some(bytes) {
        wire.acknowledge();
    }
}
