// SPDX-License-Identifier: Apache-2.0
//! How it's found out whether a program can work.

use byrnie_base::Text;
use std::time::Duration;

/// How the proxy of each instance checks its own program. One that fails is left out by every caller, until it
/// does well again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked.
    pub how: Check,
    /// The port of the service whose program is asked; its first one unless given.
    pub port: Option<u16>,
    /// Time between two checks, from [`HealthCheck::INTERVAL_MIN`] to [`HealthCheck::INTERVAL_MAX`].
    pub interval: Duration,
    /// An answer that takes longer is none; at most the interval.
    pub timeout: Duration,
    /// So many failures in a row make an instance sick.
    pub sick_after: u8,
    /// So many successes in a row make it well again.
    pub well_after: u8,
}

/// What a program is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// A GET of this path, to be answered by a status from 200 to 399, as a kubelet has it.
    Http(Text),
    /// `grpc.health.v1.Health/Check` of this service (empty: the whole server), to be answered `SERVING`.
    Grpc(Text),
    /// A connection, to be accepted.
    Tcp,
}

impl HealthCheck {
    /// The interval unless given.
    pub const INTERVAL: Duration = Duration::from_secs(5);
    /// Shortest interval.
    pub const INTERVAL_MIN: Duration = Duration::from_millis(100);
    /// Longest interval.
    pub const INTERVAL_MAX: Duration = Duration::from_secs(3600);
    /// The timeout unless given, or the interval if that is less.
    pub const TIMEOUT: Duration = Duration::from_secs(1);
    /// Failures in a row unless given, as Envoy's examples and a kubelet have them.
    pub const SICK_AFTER: u8 = 3;
    /// Successes in a row unless given.
    pub const WELL_AFTER: u8 = 1;
    /// Longest path or name of a gRPC service, in bytes.
    pub const NAME_BYTES_MAX: usize = 1024;

    /// A check in the usual times.
    pub const fn new(how: Check, port: Option<u16>) -> Self {
        let (interval, timeout) = (Self::INTERVAL, Self::TIMEOUT);
        Self { how, port, interval, timeout, sick_after: Self::SICK_AFTER, well_after: Self::WELL_AFTER }
    }
}

impl Check {
    /// What is wrong with a path or the name of a gRPC service, if something is.
    ///
    /// # Errors
    /// In words that go on from the name of the field.
    pub fn judge(&self) -> Result<(), &'static str> {
        let plain =
            |text: &str| text.len() <= HealthCheck::NAME_BYTES_MAX && text.bytes().all(|b| b.is_ascii_graphic());
        match self {
            Self::Http(path) if !(path.starts_with('/') && plain(path) && !path.contains('#')) => {
                Err("must begin with / and hold no spaces, such as /healthz")
            }
            Self::Grpc(service) if !plain(service) => Err("must be a name such as shop.Payments"),
            Self::Http(_) | Self::Grpc(_) | Self::Tcp => Ok(()),
        }
    }
}
