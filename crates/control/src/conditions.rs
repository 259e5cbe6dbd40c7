// SPDX-License-Identifier: Apache-2.0
//! Since when the conditions of Gateway API's resources are as they are (`lastTransitionTime`). What they are is
//! worked out from the configuration whenever it's asked for; only what was said before is remembered here. A
//! control plane that starts anew remembers nothing: what it finds is so since then.

use crate::State;
use byrnie_base::{Text, Timestamp};
use byrnie_model::gateway::Port;
use byrnie_model::{Change, Key, Kind, yaml};
use byrnie_net::runtime;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Kinds whose status has conditions.
const KINDS: [Kind; 10] = [
    Kind::GatewayClass,
    Kind::Gateway,
    Kind::ListenerSet,
    Kind::HttpRoute,
    Kind::GrpcRoute,
    Kind::TlsRoute,
    Kind::TcpRoute,
    Kind::UdpRoute,
    Kind::BackendTlsPolicy,
    Kind::TrafficPolicy,
];
/// How late a transition may be noticed that nobody looks at.
const PERIOD: Duration = Duration::from_secs(1);
/// Lists in a status whose entries have conditions, with the field that tells entries apart.
const LISTS: [(&str, &str); 3] = [("listeners", "name"), ("parents", "parentRef"), ("ancestors", "ancestorRef")];

/// What was said, and since when.
#[derive(Debug, Default)]
pub(crate) struct Conditions {
    /// By resource, then by the condition's place: its status, and since when it's that.
    said: BTreeMap<Key, BTreeMap<String, (Text, Timestamp)>>,
    /// Whether what anybody says may have changed.
    stale: bool,
}

impl Conditions {
    /// Writes into a status that is worked out now since when each condition is as it is.
    pub(crate) fn stamp(&mut self, key: &Key, status: &mut Value, now: Timestamp) {
        let before = self.said.remove(key).unwrap_or_default();
        let mut after = BTreeMap::new();
        let mut stamp = |place: &str, holder: &mut Value| {
            for condition in holder["conditions"].as_array_mut().into_iter().flatten() {
                let place = format!("{place} {}", condition["type"]);
                let said = Text::from(condition["status"].as_str().unwrap_or_default());
                let since = before.get(&place).filter(|(old, _)| *old == said).map_or(now, |(_, since)| *since);
                condition["lastTransitionTime"] = json!(yaml::time_text(since));
                after.insert(place, (said, since));
            }
        };
        if status["conditions"].is_array() {
            stamp("", status);
        }
        for (list, id) in LISTS {
            for entry in status[list].as_array_mut().into_iter().flatten() {
                let place = format!("{list} {}", entry[id]);
                stamp(&place, entry);
            }
        }
        if !after.is_empty() {
            self.said.insert(key.clone(), after);
        }
    }

    /// Takes note of changes that may bear on a condition.
    pub(crate) fn note(&mut self, changes: &[Change]) {
        let bears = |kind: Kind| {
            !matches!(kind, Kind::Workload | Kind::AccessPolicy | Kind::Saga | Kind::Mesh | Kind::Endpoint)
        };
        self.stale |= changes.iter().any(|change| bears(change.key().kind));
    }
}

/// Works out every condition anew after a change, so that it's known when it took place though nobody looks.
pub(crate) async fn follow(state: Arc<State>) {
    let mut closed = BTreeMap::new();
    loop {
        let now_closed = state.closed_ports();
        if state.conditions(|conditions| std::mem::take(&mut conditions.stale)) || now_closed != closed {
            closed = now_closed;
            look(&state, &closed);
        }
        runtime::sleep(PERIOD).await;
    }
}

fn look(state: &State, closed: &BTreeMap<Port, Text>) {
    let keys: BTreeSet<Key> = state.catalog(|catalog| {
        KINDS.into_iter().flat_map(|kind| catalog.iter(kind)).map(|resource| resource.key.clone()).collect()
    });
    state.conditions(|conditions| conditions.said.retain(|key, _| keys.contains(key)));
    let now = state.now().wall;
    for key in &keys {
        // One at a time: nobody waits for all of them.
        let status = state.catalog(|catalog| {
            let resource = catalog.resource(key)?;
            catalog.upstream_status(resource, &|at| closed.get(&at).cloned())
        });
        if let Some(mut status) = status {
            state.conditions(|conditions| conditions.stamp(key, &mut status, now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(accepted: &str, of_listener: &str) -> Value {
        let condition = |status: &str| json!([{"type": "Accepted", "status": status, "reason": "x"}]);
        json!({"conditions": condition(accepted), "listeners": [{"name": "l", "conditions": condition(of_listener)}]})
    }

    #[test]
    fn a_condition_keeps_its_time_until_its_status_changes() {
        let (mut conditions, key) = (Conditions::default(), Key::new(Kind::Gateway, "ns", "gw"));
        let mut at = |accepted: &str, of_listener: &str, second: u64| {
            let mut status = status(accepted, of_listener);
            conditions.stamp(&key, &mut status, Timestamp::from_millis(second * 1000 + 7));
            let time = |holder: &Value| holder["conditions"][0]["lastTransitionTime"].as_str().unwrap().to_owned();
            (time(&status), time(&status["listeners"][0]))
        };
        let of = |second: u64| format!("1970-01-01T00:00:0{second}Z");
        assert_eq!(at("True", "True", 1), (of(1), of(1)));
        assert_eq!(at("True", "False", 2), (of(1), of(2)));
        assert_eq!(at("True", "False", 3), (of(1), of(2)));
        assert_eq!(at("False", "True", 4), (of(4), of(4)));
    }

    #[test]
    fn workloads_that_come_and_go_make_nobody_look() {
        let mut conditions = Conditions::default();
        let gone = |kind| Change::Delete { key: Key::new(kind, "ns", "x"), revision: byrnie_model::Revision(1) };
        conditions.note(&[gone(Kind::Workload), gone(Kind::AccessPolicy)]);
        assert!(!conditions.stale);
        conditions.note(&[gone(Kind::Service)]);
        assert!(conditions.stale);
    }
}
