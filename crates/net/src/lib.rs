// SPDX-License-Identifier: Apache-2.0
//! Moves bytes: the runtime, sockets, TLS, HTTP drivers, pools, gRPC and DNS transport. The planes call
//! it. It never decides anything and knows no route and no policy: what a peer may do is asked elsewhere;
//! here one only learns, by proof, who the peer is.

pub mod balancer;
pub mod datagram;
pub mod dns;
pub mod grpc;
pub mod hop;
pub mod http;
pub mod io;
pub mod listen;
pub mod local;
pub mod machine;
pub mod names;
pub mod otlp;
pub mod pool;
#[cfg(feature = "http3")]
pub mod quic;
pub mod relay;
pub mod runtime;
pub mod serve;
mod socket;
pub mod tls;
pub mod tun;

/// A future on the heap, as the traits of this crate return it.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
