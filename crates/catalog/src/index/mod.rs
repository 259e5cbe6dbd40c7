// SPDX-License-Identifier: Apache-2.0
//! What relates to what, one file per concern. An index is told of each old and new value and answers
//! without searching through all resources.

pub(crate) mod policy;
pub(crate) mod route;
pub(crate) mod service;
pub(crate) mod site;
pub(crate) mod workload;

use std::collections::{BTreeMap, BTreeSet};

/// A relation of many to many, read from one side.
#[derive(Debug)]
pub(crate) struct Multi<K, V>(BTreeMap<K, BTreeSet<V>>);

impl<K, V> Default for Multi<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord, V: Ord> Multi<K, V> {
    pub(crate) fn insert(&mut self, key: K, value: V) {
        self.0.entry(key).or_default().insert(value);
    }

    pub(crate) fn remove(&mut self, key: &K, value: &V) {
        if let Some(values) = self.0.get_mut(key) {
            values.remove(value);
            if values.is_empty() {
                self.0.remove(key);
            }
        }
    }

    pub(crate) fn of<'a>(&'a self, key: &K) -> impl Iterator<Item = &'a V> + use<'a, K, V> {
        self.0.get(key).into_iter().flatten()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.keys()
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.0.values().flatten()
    }

    pub(crate) fn has(&self, key: &K, value: &V) -> bool {
        self.0.get(key).is_some_and(|values| values.contains(value))
    }

    pub(crate) fn count(&self, key: &K) -> usize {
        self.0.get(key).map_or(0, BTreeSet::len)
    }
}
