// SPDX-License-Identifier: Apache-2.0
//! The data plane over real sockets: a program, its sidecar, mutual TLS, another sidecar, another program.
//! Configuration is compiled by the real engine and given without a control plane.

mod admin;
mod control;
mod faults;
mod http1;
mod http2;
mod tcp;
mod world;
