// SPDX-License-Identifier: Apache-2.0
//! `GET /api/v1/watch`: each new revision as a server-sent event, with the resources that it changed.

use super::{Console, Outcome, Problem};
use crate::ingest::{self, RESOURCES};
use byrnie_model::code;
use byrnie_net::runtime;
use byrnie_net::serve::Body;
use byrnie_store::{Changes, Ended, Watch};
use bytes::Bytes;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// Most streams at once.
const STREAMS_MAX: usize = 64;
/// Events that wait for a reader; a slower one is held up, not cut: the watch has no queue of its own.
const QUEUE: usize = 16;
/// A comment is sent so often when nothing changes, so that a dead reader is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Starts a stream.
pub(super) fn watch(console: &Console) -> Outcome {
    if console.streams.fetch_add(1, Ordering::Relaxed) >= STREAMS_MAX {
        console.streams.fetch_sub(1, Ordering::Relaxed);
        return Err(Problem::new(503, &code::OVERLOAD, format!("{STREAMS_MAX} streams are open already")));
    }
    let open = Open(console.streams.clone());
    let watch = console.state.store.watch(RESOURCES, console.state.revision());
    let (sender, receiver) = mpsc::channel(QUEUE);
    runtime::spawn("watch", async move {
        pump(watch, &sender).await;
        drop(open);
    });
    Ok(super::wire::respond(200, "text/event-stream", Body::stream(receiver)))
}

/// One of the open streams.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn pump(mut watch: Watch, sender: &mpsc::Sender<Bytes>) {
    let hello = format!("event: hello\ndata: {}\n\n", json!({"revision": watch.revision()}));
    let mut sent = sender.send(hello.into()).await;
    while sent.is_ok() {
        sent = match runtime::timeout(KEEP_ALIVE, watch.next()).await {
            Ok(Ok(changes)) => sender.send(event(&changes)).await,
            // The reader lists anew when it connects again.
            Ok(Err(Ended::Compacted { .. } | Ended::Closed)) => return,
            Err(_) => sender.send(Bytes::from_static(b": still here\n\n")).await,
        };
    }
}

fn event(changes: &Changes) -> Bytes {
    let change = |event: &byrnie_store::Event| {
        let key = ingest::resource_key(&event.key)?;
        let action = match (&event.before, &event.after) {
            (None, _) => "created",
            (_, None) => "deleted",
            _ => "changed",
        };
        Some(json!({"kind": key.kind.name(), "namespace": key.namespace, "name": key.name, "action": action}))
    };
    let list: Vec<_> = changes.events.iter().filter_map(change).collect();
    format!(
        "event: revision\nid: {0}\ndata: {1}\n\n",
        changes.revision,
        json!({"revision": changes.revision, "changes": list})
    )
    .into()
}
