// SPDX-License-Identifier: Apache-2.0
//! What every source, store and stream speaks.

use crate::{Key, Resource, Revision};
use std::sync::Arc;

/// One event from a source.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The resource is now this.
    Put(Arc<Resource>),
    /// The resource is gone.
    Delete {
        /// Which.
        key: Key,
        /// Since when.
        revision: Revision,
    },
}

impl Change {
    /// What changed.
    pub fn key(&self) -> &Key {
        match self {
            Self::Put(resource) => &resource.key,
            Self::Delete { key, .. } => key,
        }
    }
}

/// Differences between two states of a view.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delta {
    /// New or different; a route comes after the services that it names.
    pub changed: Vec<Arc<Resource>>,
    /// Gone.
    pub removed: Vec<Key>,
}

impl Delta {
    /// Whether nothing differs.
    pub const fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}
