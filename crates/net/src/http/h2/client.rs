// SPDX-License-Identifier: Apache-2.0
//! A connection to an HTTP/2 server, shared by the streams of one worker and one identity.

use super::cork::Cork;
use super::guard::Notes;
use super::{
    CONNECTION_WINDOW_BYTES, FRAME_BYTES_MAX, Flow, HEADER_LIST_BYTES_MAX, RESETS_FOR_ERRORS_MAX,
    SEND_BUFFER_BYTES_MAX, STREAM_WINDOW_BYTES, Sender, Side, from_h2,
};
use crate::http::Error;
use crate::io::Stream;
use crate::runtime;
use bytes::Bytes;
use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// A connection to an HTTP/2 server. Clones are the same connection, which ends when the last clone
/// and the last stream are gone.
#[derive(Clone)]
pub struct Client {
    send: h2::client::SendRequest<Bytes>,
    ended: Rc<Cell<bool>>,
    open: Rc<Cell<usize>>,
    notes: Rc<Notes>,
}

/// Counts one open stream until it's dropped.
#[derive(Debug)]
pub(super) struct Open(Rc<Cell<usize>>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("ended", &self.ended).finish_non_exhaustive()
    }
}

/// Speaks HTTP/2 on a fresh connection, and starts the task that moves its streams.
///
/// # Errors
/// If the server is gone.
pub async fn connect(stream: Stream) -> Result<Client, Error> {
    let cork = Cork::new(stream, Vec::new(), Sender::Server);
    let notes = cork.notes();
    let (send, connection) = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_send_buffer_size(SEND_BUFFER_BYTES_MAX)
        .max_local_error_reset_streams(Some(RESETS_FOR_ERRORS_MAX))
        .enable_push(false)
        .handshake(cork)
        .await
        .map_err(from_h2)?;
    let ended = Rc::new(Cell::new(false));
    let mark = Mark(Rc::clone(&ended), Rc::clone(&notes));
    runtime::spawn_local("h2 client", async move {
        let _mark = mark;
        // What went wrong, the streams learn themselves.
        let _ = connection.await;
    });
    Ok(Client { send, ended, open: Rc::default(), notes })
}

/// Marks the connection as ended, however its task ends.
struct Mark(Rc<Cell<bool>>, Rc<Notes>);

impl Drop for Mark {
    fn drop(&mut self) {
        self.0.set(true);
        self.1.offers_connect(false);
    }
}

impl Client {
    /// Whether it can't be used any more.
    pub fn is_ended(&self) -> bool {
        self.ended.get()
    }

    /// Whether the server takes no further stream just now.
    pub fn is_full(&self) -> bool {
        self.open.get() >= self.send.current_max_send_streams()
    }

    /// Ready when a stream may be opened.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(ready!(self.send.poll_ready(cx)).map_err(from_h2))
    }

    /// A stream, for [`Flow::send_request`].
    pub fn open(&self) -> Flow {
        self.open.set(self.open.get() + 1);
        let mut flow = Flow::new(Side::Unsent(self.send.clone(), Rc::clone(&self.notes)), None);
        flow.counted = Some(Open(Rc::clone(&self.open)));
        flow
    }
}
