// SPDX-License-Identifier: Apache-2.0
//! Sends the spans of the cores and the metrics of the proxy to the collector that the Mesh names. On the agent's
//! thread: a collector that is slow, away or refuses costs the cores nothing.

use super::State;
use crate::config::{Config, Mount};
use byrnie_base::Text;
use byrnie_base::mailbox::Receiver;
use byrnie_codec::otlp::{Attributes, Span};
use byrnie_net::otlp::{self, Feed};
use byrnie_net::runtime::{self, Task};
use std::sync::Arc;
use tokio::sync::watch;

/// Starts to send; `None` before there is any configuration. Ends after the last of those who make spans.
pub(crate) fn start(
    config: &Config,
    spans: Receiver<Span>,
    state: &Arc<State>,
    render: fn(&State) -> String,
) -> Option<Task> {
    let mut in_force = state.follow()?;
    let now = in_force.borrow_and_update().snapshot.otlp().cloned();
    let (tell, settings) = watch::channel(now);
    runtime::spawn_local("otlp settings", async move {
        while in_force.changed().await.is_ok() {
            let newer = in_force.borrow_and_update().snapshot.otlp().cloned();
            tell.send_if_modified(|now| std::mem::replace(now, newer) != *now);
        }
    });
    let scraped = Arc::clone(state);
    let resource = resource(config);
    let feed = Feed {
        spans_by: resource.clone(),
        metrics_by: resource,
        spans,
        scrape: Arc::new(move || render(&scraped)),
        began: runtime::clock().unix_nanos(runtime::clock().mono()),
        counts: Arc::clone(&state.exported),
    };
    Some(runtime::spawn_local("otlp", otlp::run(feed, settings)))
}

/// Who sends, by OpenTelemetry's conventions for services.
fn resource(config: &Config) -> Attributes {
    let account = config.identity.service_account();
    let service: &Text = match &config.mount {
        Mount::Sidecar(sidecar) if !sidecar.service.is_empty() => &sidecar.service,
        Mount::Sidecar(_) | Mount::Gateway(_) => account,
    };
    vec![
        ("service.name", service.into()),
        ("service.namespace", (&config.namespace).into()),
        ("service.instance.id", (&config.name).into()),
        ("byrnie.identity", config.identity.to_string().into()),
    ]
}
