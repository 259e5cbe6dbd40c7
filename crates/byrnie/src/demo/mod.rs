// SPDX-License-Identifier: Apache-2.0
//! The demo shop. `up --demo` applies its resources and starts each program as a process of its own,
//! below a `byrnie run` of its own. The programs know nothing of the mesh: they read URLs from their
//! environment and speak plain HTTP/1.1, gRPC and TCP to loopback.

mod calls;
mod grpc;
mod shop;
mod shopper;
mod tcp;

pub(crate) use shop::serve;
pub(crate) use shopper::shop;

/// The shop's resources, as `byrnie apply` takes them.
pub(crate) const RESOURCES: &str = include_str!("shop.yaml");

/// Pairs of caller and service in the shop.
pub(crate) const EDGES: usize = 8;

/// One program of the shop.
pub(crate) struct Program {
    /// Its service and service account.
    pub name: &'static str,
    /// What it is to the hidden command.
    pub role: &'static str,
    /// Its label `version`.
    pub version: &'static str,
    /// What it calls.
    pub uses: &'static [&'static str],
    /// What it speaks, beside HTTP/1.1 on its first port.
    pub speaks: &'static [&'static str],
}

/// The shop's programs. Whoever is called stands before whoever calls.
pub(crate) const PROGRAMS: &[Program] = &[
    program("inventory", "inventory", "v1", &[], &["grpc", "tcp"]),
    program("shipping", "shipping", "v1", &[], &["grpc"]),
    program("payments", "payments", "v1", &[], &[]),
    program("payments", "payments", "v2", &[], &[]),
    program("cart", "cart", "v1", &[], &[]),
    program("catalog", "catalog", "v1", &["inventory"], &[]),
    program("checkout", "checkout", "v1", &["payments", "inventory", "shipping"], &[]),
    program("web", "web", "v1", &["cart", "catalog", "checkout"], &[]),
    program("shopper", "shopper", "v1", &["web"], &[]),
];

const fn program(
    name: &'static str,
    role: &'static str,
    version: &'static str,
    uses: &'static [&'static str],
    speaks: &'static [&'static str],
) -> Program {
    Program { name, role, version, uses, speaks }
}
