// SPDX-License-Identifier: Apache-2.0
//! One file per family of rules. Each takes one resource, looks at its neighbours through the indexes,
//! and says what is wrong; none looks at all resources, none changes anything.

pub(crate) mod access;
pub(crate) mod gateway;
pub(crate) mod outside;
pub(crate) mod pool;
pub(crate) mod route;
pub(crate) mod saga;
pub(crate) mod service;
pub(crate) mod site;
pub(crate) mod slice;
pub(crate) mod traffic;
pub(crate) mod workload;

#[cfg(test)]
mod tests;
