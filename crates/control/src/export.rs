// SPDX-License-Identifier: Apache-2.0
//! Sends the spans of transactions and the numbers of the control plane to the collector that the Mesh names. Started by
//! `control`; whoever has a span told never waits.

use crate::State;
use crate::control::ACCOUNT;
use crate::transactions;
use byrnie_base::mailbox::{self, Receiver, Sender};
use byrnie_codec::otlp::{Attributes, Span};
use byrnie_model::telemetry::Otlp;
use byrnie_model::{Identity, Kind, Spec};
use byrnie_net::otlp::{self as exporter, Counts, FLUSH_MAX, Feed, SPANS_WAITING_MAX};
use byrnie_net::runtime::{self, Shutdown};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// Sends until the control plane stops, by the newest settings. `scrape` is what `/metrics` shows.
pub(crate) async fn run(state: Arc<State>, scrape: Arc<dyn Fn() -> String + Send + Sync>, mut shutdown: Shutdown) {
    let tracer = &state.tracer;
    let Some(spans) = tracer.gathered() else { return };
    let (tell, settings) = watch::channel(otlp(&state));
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
            let newer = otlp(&state);
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
        () = exporter::run(feed, settings) => {}
        () = until => {}
    }
}

/// Where traces and metrics are sent, if they are.
pub(crate) fn otlp(state: &State) -> Option<Arc<Otlp>> {
    state.catalog(|catalog| {
        catalog.iter(Kind::Mesh).find_map(|resource| match &resource.spec {
            Spec::Mesh(mesh) => mesh.otlp.clone(),
            _ => None,
        })
    })
}

fn resource(service: &'static str) -> Attributes {
    vec![
        ("service.name", service.into()),
        ("service.namespace", Identity::SYSTEM_NAMESPACE.into()),
        ("service.instance.id", ACCOUNT.into()),
    ]
}

/// Where spans go.
pub(crate) struct Tracer {
    /// Until the control plane stops.
    spans: Mutex<Option<Sender<Span>>>,
    gathered: Mutex<Option<Receiver<Span>>>,
    full: AtomicU64,
    /// What became of the others.
    counts: Arc<Counts>,
}

impl Default for Tracer {
    fn default() -> Self {
        let (spans, gathered) = mailbox::mailbox(SPANS_WAITING_MAX);
        Self {
            spans: Mutex::new(Some(spans)),
            gathered: Mutex::new(Some(gathered)),
            full: AtomicU64::new(0),
            counts: Arc::default(),
        }
    }
}

impl Tracer {
    /// Has a span sent, if there's room for it.
    pub(crate) fn tell(&self, span: Span) {
        let spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        if spans.as_ref().is_some_and(|spans| spans.send(span).is_err()) {
            self.full.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The spans that are made, for the one who sends them; the second time there are none.
    fn gathered(&self) -> Option<Receiver<Span>> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// No more are made: what waits is sent, and whoever sends them ends.
    fn close(&self) {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// The numbers, as Prometheus text.
    pub(crate) fn metrics(&self) -> String {
        let Counts { sent, refused, unreached } = &*self.counts;
        format!(
            "# HELP byrnie_spans_sent_total Spans that the collector took.\n# TYPE byrnie_spans_sent_total counter\n\
             byrnie_spans_sent_total {}\n# HELP byrnie_spans_dropped_total Spans that nobody will see, and why.\n\
             # TYPE byrnie_spans_dropped_total counter\nbyrnie_spans_dropped_total{{cause=\"full\"}} {}\n\
             byrnie_spans_dropped_total{{cause=\"refused\"}} {}\nbyrnie_spans_dropped_total{{cause=\"unreached\"}} {}\n",
            sent.value(),
            self.full.load(Ordering::Relaxed),
            refused.value(),
            unreached.value()
        )
    }
}
