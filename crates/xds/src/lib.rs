// SPDX-License-Identifier: Apache-2.0
//! The language between the planes: delta ADS, both halves, and the wire form of every resource.
//! The proxy drives [`client::Client`], the control plane [`server::Session`]; both are state
//! machines that take bytes and give bytes. They never know who speaks, or why.

pub mod client;
pub mod kept;
pub mod name;
pub mod proto;
pub mod server;
pub mod wire;

pub use proto::Bytes;

/// The path of the bidirectional gRPC method that carries the protocol.
pub const DELTA_PATH: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// The path of the unary method that signs certificates.
pub const SIGN_PATH: &str = "/byrnie.v1.Identity/Sign";
/// The path of the bidirectional method that registers a workload.
pub const JOIN_PATH: &str = "/byrnie.v1.Registry/Join";
/// The path of the unary method that takes reports.
pub const REPORT_PATH: &str = "/byrnie.v1.Reports/Report";
/// The path of the unary method that asks the ledger.
pub const LEDGER_PATH: &str = "/byrnie.v1.Ledger/Batch";
/// The path of the unary method that leases requests under quotas that instances share.
pub const QUOTA_PATH: &str = "/byrnie.v1.Quotas/Lease";
/// The path of what proxies ask the coordinator of transactions.
pub const ENLIST_PATH: &str = "/byrnie.v1.Transactions/Enlist";

/// At most `bytes_max` bytes of a text that came from elsewhere, cut between characters.
fn clip(text: &str, bytes_max: usize) -> byrnie_base::Text {
    text[..text.floor_char_boundary(bytes_max)].into()
}
