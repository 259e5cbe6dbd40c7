// SPDX-License-Identifier: Apache-2.0
//! The control plane: configuration, identity, registry and observation, as roles over one [`State`].
//! `byrnie` starts it; a role never calls another role.

pub mod ads;
pub mod control;
pub mod state;

pub use control::{Config, Error, Running, start};
pub use state::State;
