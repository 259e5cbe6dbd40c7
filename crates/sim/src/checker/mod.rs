// SPDX-License-Identifier: Apache-2.0
//! What must hold, each written as simply as can be and apart from the code that it judges. `mesh`
//! calls them as things happen; they change nothing.

pub mod access;
pub mod history;
pub mod view;

use byrnie_base::Instant;
use std::fmt;

/// Something that must not happen, and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// When.
    pub at: Instant,
    /// Which promise it breaks.
    pub promise: Promise,
    /// What was found.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.at.as_nanos() / 1_000_000;
        write!(f, "at {}.{:03} s: {}: {}", millis / 1000, millis % 1000, self.promise, self.detail)
    }
}

/// What is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// What the store acknowledged is there after every restart, and nothing is half there.
    Durable,
    /// A route never names a service that the proxy doesn't have.
    MakeBeforeBreak,
    /// What a proxy needs and always was there never vanishes from it.
    LastGood,
    /// A request that no revision between a proxy's and the newest allows isn't allowed.
    NeverOpen,
    /// The endpoints of a dead workload are gone within 3 s.
    DeadRemoved,
    /// A workload that is alive and connected is registered.
    AliveKept,
    /// After the faults every proxy has what would be compiled for it from nothing.
    Converges,
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Durable => "an acknowledged write is kept",
            Self::MakeBeforeBreak => "a route names only what is there",
            Self::LastGood => "the last good configuration stays",
            Self::NeverOpen => "access never fails open",
            Self::DeadRemoved => "a dead workload is gone within 3 s",
            Self::AliveKept => "a workload that is alive is registered",
            Self::Converges => "every proxy has the newest configuration",
        })
    }
}
