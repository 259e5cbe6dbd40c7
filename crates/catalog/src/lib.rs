// SPDX-License-Identifier: Apache-2.0
//! Decides what each proxy must know. Changes go in, each node's difference comes out; the work is in
//! proportion to the nodes that a change concerns. Also judges whether resources fit each other.
//! Knows nothing of streams, stores or Kubernetes.

mod attach;
mod callers;
mod catalog;
mod change;
mod check;
mod index;
mod lint;
mod node;
mod pool;
mod status;
mod view;

pub use catalog::{Affected, Catalog};
pub use node::{NodeId, NodeSpec, Role};
pub use view::View;

#[cfg(test)]
mod tests;
