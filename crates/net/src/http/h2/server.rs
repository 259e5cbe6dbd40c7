// SPDX-License-Identifier: Apache-2.0
//! A connection from an HTTP/2 client: hands out its streams. It must be polled for any of them to move.

use super::cork::Cork;
use super::guard::Notes;
use super::{
    CONNECTION_WINDOW_BYTES, FRAME_BYTES_MAX, Flow, HEADER_LIST_BYTES_MAX, RESETS_FOR_ERRORS_MAX, RESETS_PENDING_MAX,
    SEND_BUFFER_BYTES_MAX, STREAM_WINDOW_BYTES, STREAMS_MAX, Sender, fields, from_h2,
};
use crate::http::Error;
use crate::io::Stream;
use byrnie_codec::{Head, Reject};
use bytes::Bytes;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// Heads kept for streams to come.
const HEADS_SPARE_MAX: usize = 32;

/// A connection from an HTTP/2 client.
pub struct Server {
    connection: h2::server::Connection<Cork, Bytes>,
    notes: Rc<Notes>,
    /// The client has been told that it's given up.
    given_up: bool,
    /// Memory for heads of streams to come.
    heads: Vec<Head>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

/// A stream that a client opened.
#[derive(Debug)]
pub struct Accepted {
    /// The stream.
    pub flow: Flow,
    /// Its request, or why it's none (answer with the status given).
    pub head: Result<Head, Reject>,
}

impl Server {
    /// Exchanges prefaces with `sender`. `prefix` has been read of the connection already.
    ///
    /// # Errors
    /// If the client speaks no HTTP/2 or is gone.
    pub async fn handshake(stream: Stream, prefix: Vec<u8>, sender: Sender) -> Result<Self, Error> {
        let cork = Cork::new(stream, prefix, sender);
        let notes = cork.notes();
        let connection = h2::server::Builder::new()
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEADER_LIST_BYTES_MAX)
            .max_frame_size(FRAME_BYTES_MAX)
            .max_send_buffer_size(SEND_BUFFER_BYTES_MAX)
            .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
            .max_local_error_reset_streams(Some(RESETS_FOR_ERRORS_MAX))
            .enable_connect_protocol()
            .handshake(cork)
            .await
            .map_err(from_h2)?;
        Ok(Self { connection, notes, given_up: false, heads: Vec::new() })
    }

    /// The next stream; `None` once the connection has ended. Moves all streams of the connection.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Accepted, Error>>> {
        let mut accepted = self.connection.poll_accept(cx);
        if let (Poll::Pending, Some(verdict), false) = (&accepted, self.notes.verdict.get(), self.given_up) {
            self.given_up = true;
            self.connection.abrupt_shutdown(h2::Reason::from(verdict as u32));
            accepted = self.connection.poll_accept(cx);
        }
        match ready!(accepted) {
            None => Poll::Ready(None),
            Some(Err(error)) => Poll::Ready(Some(Err(from_h2(error)))),
            Some(Ok((request, respond))) => {
                let (parts, recv) = request.into_parts();
                let mut head = self.heads.pop().unwrap_or_default();
                let read = fields::from_request(&parts, recv.is_end_stream(), &mut head);
                let mut flow = Flow::accepted(recv, respond, Rc::clone(&self.notes));
                if read.is_ok() {
                    flow.serve(&head);
                }
                Poll::Ready(Some(Ok(Accepted { flow, head: read.map(|()| head) })))
            }
        }
    }

    /// Tells the client to open no more streams (GOAWAY); those that run may end.
    pub fn say_goodbye(&mut self) {
        self.connection.graceful_shutdown();
    }

    /// Gives the memory of a request's head back.
    pub fn reuse(&mut self, head: Head) {
        if self.heads.len() < HEADS_SPARE_MAX {
            self.heads.push(head);
        }
    }

    /// Streams that are open.
    pub fn has_streams(&self) -> bool {
        self.connection.has_streams()
    }
}
