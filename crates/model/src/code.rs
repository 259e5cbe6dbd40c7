// SPDX-License-Identifier: Apache-2.0
//! The BYR- registry: every message that byrnie shows has a stable code, what it means, and what
//! to do next. Codes are never reused.

/// One entry of the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// `BYR-` and a letter for the area: C configuration, A access, R requests, S system.
    pub id: &'static str,
    /// What happened, in one sentence.
    pub title: &'static str,
    /// What follows from it.
    pub effect: &'static str,
    /// What to do.
    pub next: &'static str,
}
