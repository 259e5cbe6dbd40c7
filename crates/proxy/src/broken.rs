// SPDX-License-Identifier: Apache-2.0
//! What becomes of an answer that breaks off after its head was handed on: an HTTP/1 client loses its connection, a stream of HTTP/2 is
//! reset, and a call of gRPC is told its status where nobody else gave a code for it. `carry` calls it.

use crate::carry::{Delivered, Next, Trip};
use crate::refusal::count;
use crate::worker::Core;
use byrnie_codec::{Fields, Framing, Head, grpc};
use byrnie_engine::{Exchange, Failure, Outcome};
use byrnie_net::http::h2::{CANCEL, INTERNAL_ERROR, PROTOCOL_ERROR};
use byrnie_net::http::{Error, Wire};

/// Why an answer broke off.
pub(crate) struct Break {
    failure: Failure,
    /// The code of HTTP/2 that was given for it, or that stands for what was wrong; `None` where it's the mesh that has ended it, or the
    /// server was lost without a word.
    code: Option<u32>,
}

impl Break {
    /// Nobody gave a code for it.
    pub(crate) const fn of(failure: Failure) -> Self {
        Self { failure, code: None }
    }

    /// The client is gone.
    pub(crate) const fn gone() -> Self {
        Self { failure: Failure::DownstreamGone, code: Some(CANCEL) }
    }

    /// The rest of the request can't be read.
    pub(crate) fn by_client(core: &Core, error: &Error) -> Self {
        let Error::Reject(reject) = error else { return Self::gone() };
        count(core, reject.reason);
        Self { failure: Failure::BadBody, code: Some(CANCEL) }
    }

    /// The rest of the answer can't be read. Its code is never that it was refused: a head was handed on, and who is told so asks again
    /// whatever it asked.
    pub(crate) fn by_server(error: &Error) -> Self {
        let failure = error.flaw().map_or(Failure::ResetAfterHead, Failure::BadResponse);
        let code = match error {
            Error::Reset(code) | Error::Broken(code) => Some(*code),
            // RFC 9113 8.1.1.
            Error::Reject(_) => Some(PROTOCOL_ERROR),
            _ => None,
        };
        Self { failure, code }
    }

    /// Whether an answer with this head may end with trailers that say why it broke off: that of a call, of which no length was declared.
    pub(crate) fn takes_words(response: &Head) -> bool {
        grpc::is_grpc(response) && !matches!(response.framing(), Framing::Length(_))
    }

    /// What its client is told in place of the server's trailers. A code that a server gave is passed on instead: libraries of gRPC know
    /// what to make of it, and do so without a proxy.
    pub(crate) fn words(&self, exchange: &Exchange, taken: bool) -> Option<Fields> {
        if taken && self.code.is_none() { exchange.last_words(self.failure) } else { None }
    }
}

impl Trip<'_> {
    /// Breaks the answer off, so that the client can't take it for complete.
    pub(crate) fn cut(&mut self, status: u16, broken: Break, words: Option<Fields>) -> Delivered {
        let Break { failure, code } = broken;
        self.upstream = None;
        let ended = matches!(failure, Failure::Deadline | Failure::Strained);
        if ended
            && let Wire::H1(conn) = self.down
            && conn.unsent() > 0
        {
            conn.forsake();
        }
        if words.is_none_or(|words| !self.down.break_off(&words)) {
            self.down.abort(code.unwrap_or(if ended { CANCEL } else { INTERNAL_ERROR }));
        }
        Delivered { outcome: Outcome { status, failure: Some(failure) }, next: Next::Drop }
    }
}
