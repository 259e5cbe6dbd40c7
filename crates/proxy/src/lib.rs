// SPDX-License-Identifier: Apache-2.0
//! The data plane: the engine and the xDS client on `net`, in its mounts. `byrnie run`, `up` and
//! `agent` start one with [`start`]. It never imports the store or the catalog, and holds no lock
//! on the request path.

pub mod config;
pub mod error;
pub mod running;

pub use config::{AccessLog, Config, Control, Gateway, Mount, Sidecar, Source};
pub use error::Error;
pub use running::{Outbound, Ports, Running, start};
