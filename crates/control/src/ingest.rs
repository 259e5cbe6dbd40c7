// SPDX-License-Identifier: Apache-2.0
//! The store's way in to the catalog: lists, then watches, and lists again when history has moved on.
//! Started by `control`. An entry that can't be read is reported and skipped; the last good version of
//! it stays in force.

use crate::State;
use byrnie_base::Text;
use byrnie_model::yaml::{self, Defaults};
use byrnie_model::{Change, Key, Kind, Resource};
use byrnie_net::runtime;
use byrnie_store::{Changes, Ended, Entry, Event, Watch};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Where resources are kept: `/resources/KIND/NAMESPACE/NAME`, with `_` for no namespace.
pub const RESOURCES: &str = "/resources/";
/// Pause before the store is asked again after an error.
const RETRY: Duration = Duration::from_secs(1);
/// Stands for the namespace of kinds that live in none.
const NO_NAMESPACE: &str = "_";

/// The store's key of a resource.
pub fn store_key(key: &Key) -> Text {
    let namespace = if key.kind.namespaced() { &*key.namespace } else { NO_NAMESPACE };
    format!("{RESOURCES}{}/{namespace}/{}", key.kind.name(), key.name).into()
}

/// The resource that a key of the store is for; `None` if it's for none.
pub fn resource_key(store_key: &str) -> Option<Key> {
    let mut parts = store_key.strip_prefix(RESOURCES)?.split('/');
    let (Some(kind), Some(namespace), Some(name), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    let kind = Kind::APPLICABLE.into_iter().find(|other| other.name() == kind)?;
    let namespace = if kind.namespaced() { namespace } else { "" };
    Some(Key::new(kind, namespace, name))
}

/// A stored document as text. What byrnie wrote is UTF-8; anything else is shown as well as it can be.
pub(crate) fn document(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

/// The resource that an entry holds.
///
/// # Errors
/// What is wrong with it, in words for the operator.
pub fn read(entry: &Entry, trust_domain: &Text) -> Result<Resource, Text> {
    let key = resource_key(&entry.key).ok_or("its key is not /resources/KIND/NAMESPACE/NAME")?;
    let value = serde_json::from_slice(&entry.value).map_err(|error| Text::from(format!("no JSON: {error}")))?;
    let defaults = Defaults { namespace: key.namespace.clone(), trust_domain: trust_domain.clone() };
    let mut resource = yaml::from_json(&value, &defaults).map_err(|diagnostics| {
        let first = diagnostics.first().map(|diagnostic| format!("{}: {}", diagnostic.path, diagnostic.message));
        Text::from(first.unwrap_or_else(|| "it is no resource".to_owned()))
    })?;
    if resource.key != key {
        return Err(format!("it holds {} under the key of {key}", resource.key).into());
    }
    resource.revision = entry.modified;
    resource.created = entry.created;
    Ok(resource)
}

/// Reads everything that is stored. Returns a watch that goes on from there.
///
/// # Errors
/// If the store doesn't answer.
pub async fn list(state: &State) -> Result<Watch, byrnie_store::Error> {
    let (entries, revision) = state.store.list(RESOURCES).await?;
    let mut present = BTreeSet::new();
    let mut changes = Vec::new();
    for entry in &entries {
        present.extend(resource_key(&entry.key));
        changes.extend(put(state, entry));
    }
    let gone = state.catalog(|catalog| {
        let held = Kind::APPLICABLE.into_iter().flat_map(|kind| catalog.iter(kind));
        held.map(|resource| resource.key.clone()).filter(|key| !present.contains(key)).collect::<Vec<_>>()
    });
    changes.extend(gone.into_iter().map(|key| Change::Delete { key, revision }));
    state.drive(|hub| hub.on_changes(&changes));
    state.conditions(|conditions| conditions.note(&changes));
    state.advance(revision);
    Ok(state.store.watch(RESOURCES, revision))
}

/// Follows the store until it's closed.
pub async fn follow(state: Arc<State>, mut watch: Watch) {
    loop {
        match watch.next().await {
            Ok(changes) => take(&state, &changes),
            Err(Ended::Closed) => return,
            Err(Ended::Compacted { oldest }) => {
                tracing::warn!(%oldest, "the store's history has moved on; listing again");
                watch = relist(&state).await;
            }
        }
    }
}

/// Lists until the store answers. Meanwhile the configuration stays as it is.
async fn relist(state: &State) -> Watch {
    loop {
        match list(state).await {
            Ok(watch) => return watch,
            Err(error) => tracing::error!(%error, "cannot list the store; trying again"),
        }
        runtime::sleep(RETRY).await;
    }
}

/// Takes in one revision, as a whole.
pub fn take(state: &State, changes: &Changes) {
    let read = |event: &Event| match &event.after {
        Some(entry) => put(state, entry),
        None => {
            state.judge(&event.key, None);
            resource_key(&event.key).map(|key| Change::Delete { key, revision: changes.revision })
        }
    };
    let changes_read: Vec<Change> = changes.events.iter().filter_map(read).collect();
    state.drive(|hub| hub.on_changes(&changes_read));
    state.conditions(|conditions| conditions.note(&changes_read));
    state.advance(changes.revision);
}

fn put(state: &State, entry: &Entry) -> Option<Change> {
    match read(entry, &state.trust_domain) {
        Ok(resource) => {
            state.judge(&entry.key, None);
            Some(Change::Put(Arc::new(resource)))
        }
        Err(problem) => {
            tracing::warn!(key = %entry.key, revision = %entry.modified, %problem, "a stored resource is unreadable and was skipped");
            state.judge(&entry.key, Some(problem));
            None
        }
    }
}
