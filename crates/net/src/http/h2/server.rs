// SPDX-License-Identifier: Apache-2.0
//! A connection from an HTTP/2 client: hands out its streams. It must be polled for any of them to move.

use super::cork::Cork;
use super::{
    CONNECTION_WINDOW_BYTES, FRAME_BYTES_MAX, Flow, HEADER_LIST_BYTES_MAX, RESETS_FOR_ERRORS_MAX, RESETS_PENDING_MAX,
    SEND_BUFFER_BYTES_MAX, STREAM_WINDOW_BYTES, STREAMS_MAX, fields, from_h2,
};
use crate::http::Error;
use crate::io::Stream;
use byrnie_codec::{Head, Reject};
use bytes::Bytes;
use std::task::{Context, Poll, ready};

/// A connection from an HTTP/2 client.
pub struct Server {
    connection: h2::server::Connection<Cork, Bytes>,
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
    /// Exchanges prefaces with the client. `prefix` has been read of the connection already.
    ///
    /// # Errors
    /// If the client speaks no HTTP/2 or is gone.
    pub async fn handshake(stream: Stream, prefix: Vec<u8>) -> Result<Self, Error> {
        let connection = h2::server::Builder::new()
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEADER_LIST_BYTES_MAX)
            .max_frame_size(FRAME_BYTES_MAX)
            .max_send_buffer_size(SEND_BUFFER_BYTES_MAX)
            .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
            .max_local_error_reset_streams(Some(RESETS_FOR_ERRORS_MAX))
            .handshake(Cork::new(stream, prefix))
            .await
            .map_err(from_h2)?;
        Ok(Self { connection })
    }

    /// The next stream; `None` once the connection has ended. Moves all streams of the connection.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Accepted, Error>>> {
        match ready!(self.connection.poll_accept(cx)) {
            None => Poll::Ready(None),
            Some(Err(error)) => Poll::Ready(Some(Err(from_h2(error)))),
            Some(Ok((request, respond))) => {
                let (parts, recv) = request.into_parts();
                let mut head = Head::new();
                let read = fields::from_request(&parts, recv.is_end_stream(), &mut head);
                let flow = Flow::accepted(recv, respond);
                Poll::Ready(Some(Ok(Accepted { flow, head: read.map(|()| head) })))
            }
        }
    }

    /// Tells the client to open no more streams (GOAWAY); those that run may end.
    pub fn say_goodbye(&mut self) {
        self.connection.graceful_shutdown();
    }

    /// Streams that are open.
    pub fn has_streams(&self) -> bool {
        self.connection.has_streams()
    }
}
