// SPDX-License-Identifier: Apache-2.0
//! Moves the bytes of delta ADS between streams and the hub. Called by `port` with the peer's proven
//! identity. What it queues is bounded by what a session has unanswered.

use super::hub::{Close, Out, SessionId};
use crate::State;
use byrnie_model::Identity;
use byrnie_net::grpc::{Code, Incoming, Status};
use byrnie_xds::Bytes;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Serves one proxy until its stream ends.
///
/// # Errors
/// Why the hub ended the stream.
pub async fn stream(
    state: Arc<State>,
    peer: Identity,
    mut incoming: Incoming,
    outgoing: mpsc::Sender<Bytes>,
) -> Result<(), Status> {
    let (id, mut queue) = state.open_stream(peer).map_err(|close| status(&close))?;
    let _open = Open { state: Arc::clone(&state), id };
    loop {
        tokio::select! {
            // Reading goes on while the other side doesn't: its answers are what makes room.
            message = incoming.next() => match message? {
                Some(bytes) => state.on_request(id, &bytes),
                None => return Ok(()),
            },
            out = deliver(&mut queue, &outgoing) => out?,
        }
    }
}

/// Hands on one message once there's room. Nothing is lost when this is given up while waiting for room:
/// the message is taken out of the queue after that.
async fn deliver(queue: &mut mpsc::UnboundedReceiver<Out>, outgoing: &mpsc::Sender<Bytes>) -> Result<(), Status> {
    let place = outgoing.reserve().await.map_err(|_| Status::cancelled("the proxy has gone away"))?;
    match queue.recv().await {
        Some(Out::Send(bytes)) => {
            place.send(bytes);
            Ok(())
        }
        Some(Out::Close(close)) => Err(status(&close)),
        None => Err(Status::unavailable("the control plane has let go of this stream")),
    }
}

/// An open stream, known to the hub until this is dropped.
struct Open {
    state: Arc<State>,
    id: SessionId,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.state.close_stream(self.id);
    }
}

fn status(close: &Close) -> Status {
    let code = match close {
        Close::Protocol(_) => Code::InvalidArgument,
        Close::NotYours { .. } => Code::PermissionDenied,
        Close::Unknown(_) => Code::NotFound,
        Close::Replaced => Code::Aborted,
        Close::Full => Code::ResourceExhausted,
    };
    Status::new(code, close.to_string())
}
