// SPDX-License-Identifier: Apache-2.0
//! The words of byrnie. Plain data that is valid by construction: whoever holds a value of these
//! types need not check it again. No IO, no async, no locks. YAML, Kubernetes and Gateway API types
//! stay behind the feature `yaml`.

pub mod change;
pub mod code;
pub mod diagnostic;
#[cfg(feature = "yaml")]
pub mod expr;
pub mod gateway;
pub mod identity;
#[cfg(feature = "yaml")]
pub mod json;
pub mod outside;
pub mod policy;
pub mod pool;
pub mod range;
pub mod record;
pub mod resource;
pub mod route;
pub mod saga;
#[cfg(feature = "yaml")]
pub mod schema;
pub mod secret;
pub mod service;
pub mod site;
pub mod slice;
pub mod telemetry;
pub mod workload;
#[cfg(feature = "yaml")]
pub mod yaml;

pub use change::{Change, Delta};
pub use diagnostic::{Diagnostic, Severity};
pub use identity::Identity;
pub use pool::InferencePool;
pub use record::Record;
pub use resource::{Key, Kind, Labels, Resource, Revision, Spec};
pub use route::Route;
pub use saga::Saga;
pub use secret::Secret;
pub use service::{Endpoint, Health, Protocol, Service, ServiceRef};
pub use site::Site;
pub use slice::Slice;
pub use workload::Workload;
