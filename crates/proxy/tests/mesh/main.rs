// SPDX-License-Identifier: Apache-2.0
//! The data plane over real sockets: a program, its sidecar, mutual TLS, another sidecar, another program.
//! Configuration is compiled by the real engine and given without a control plane.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod admin;
mod admission;
mod ahead;
mod blame;
mod compressed;
mod control;
mod faults;
mod hedge;
mod hop;
mod http1;
mod http2;
mod keyed;
mod load;
mod otlp;
mod queue;
mod routes;
mod tcp;
mod undeclared;
mod websocket;
mod world;
