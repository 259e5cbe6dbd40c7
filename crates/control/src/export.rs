// SPDX-License-Identifier: Apache-2.0
//! Sends the spans of transactions and the numbers of the control plane to the collector that the Mesh names. Started by
//! `control`; the coordinator makes the spans and never waits.

use crate::State;
use crate::control::ACCOUNT;
use crate::transactions::{self, Coordinator};
use byrnie_codec::otlp::Attributes;
use byrnie_model::Identity;
use byrnie_net::otlp::{self, FLUSH_MAX, Feed};
use byrnie_net::runtime::{self, Shutdown};
use std::sync::Arc;
use tokio::sync::watch;

/// Sends for as long as the coordinator makes spans, by the newest settings. `scrape` is what `/metrics` shows.
pub(crate) async fn run(
    state: Arc<State>,
    coordinator: Arc<Coordinator>,
    scrape: Arc<dyn Fn() -> String + Send + Sync>,
    mut shutdown: Shutdown,
) {
    let tracer = &coordinator.tracer;
    let Some(spans) = tracer.gathered() else { return };
    let (tell, settings) = watch::channel(transactions::otlp(&state));
    let feed = Feed {
        spans_by: resource(transactions::ACCOUNT),
        metrics_by: resource(ACCOUNT),
        spans,
        scrape,
        began: runtime::clock().unix_nanos(runtime::clock().mono()),
        counts: Arc::clone(&tracer.counts),
    };
    let mut revisions = state.revisions();
    let follow = async {
        while revisions.changed().await.is_ok() {
            let newer = transactions::otlp(&state);
            tell.send_if_modified(|now| std::mem::replace(now, newer) != *now);
        }
    };
    let until = async {
        tokio::select! {
            () = follow => {}
            () = shutdown.wait() => {}
        }
        tracer.close();
        runtime::sleep(FLUSH_MAX).await;
    };
    tokio::select! {
        () = otlp::run(feed, settings) => {}
        () = until => {}
    }
}

fn resource(service: &'static str) -> Attributes {
    vec![
        ("service.name", service.into()),
        ("service.namespace", Identity::SYSTEM_NAMESPACE.into()),
        ("service.instance.id", ACCOUNT.into()),
    ]
}
