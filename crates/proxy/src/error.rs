// SPDX-License-Identifier: Apache-2.0
//! Why a proxy can't start or go on; each error has a code of the BYR- registry.

use byrnie_model::code;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a proxy can't start or go on.
#[derive(Debug)]
pub enum Error {
    /// Someone else listens there, or the address isn't ours.
    Port {
        /// What the port is for: `inbound`, `admin`, `edge`, `outbound` or `forward`.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// What the system said.
        cause: std::io::Error,
    },
    /// A listener that an earlier proxy left is none that this one knows.
    Handed {
        /// What it's said to be.
        door: String,
    },
    /// A file of the state directory can't be read or written.
    State {
        /// Which.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The control plane wasn't reached within [`crate::Control::patience`] of the first start.
    Unreachable {
        /// Where it should be.
        address: SocketAddr,
        /// What the last try said.
        cause: String,
    },
    /// The control plane refused the join token or the certificate.
    Refused {
        /// What it said.
        cause: String,
    },
    /// The name belongs to another identity or protocol.
    NameTaken {
        /// What the control plane said.
        cause: String,
    },
    /// Credentials are unusable: a broken file, or a chain that the roots don't vouch for.
    Credentials {
        /// What is wrong.
        cause: String,
    },
    /// A thread of the proxy ended; the proxy is of no more use.
    Stopped,
}

impl Error {
    /// The code in the BYR- registry.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Port { .. } => code::PORT_BUSY.id,
            Self::Handed { .. } => code::HAND_OVER.id,
            Self::State { .. } => code::DATA_DIR.id,
            Self::Unreachable { .. } => code::UNREACHABLE.id,
            Self::Refused { .. } => code::JOIN_TOKEN.id,
            Self::NameTaken { .. } => code::NAME_TAKEN.id,
            Self::Credentials { .. } => code::LEAF_EXPIRES.id,
            Self::Stopped => code::INTERNAL.id,
        }
    }

    /// What to do about it.
    pub const fn next(&self) -> &'static str {
        match self {
            Self::Port { .. } => "see who listens there with `ss -ltnp`, or choose another port",
            Self::Handed { .. } => code::HAND_OVER.next,
            Self::State { .. } => "check that the directory exists, is yours and has space left",
            Self::Unreachable { .. } => "check that `byrnie up` runs, and its control port in ports.json",
            Self::Refused { .. } => "correct what it names; if it is the token, `byrnie token create` makes a new one",
            Self::NameTaken { .. } => "choose another --name, or stop what runs under it (`byrnie get workloads`)",
            Self::Credentials { .. } => "remove the state directory of this workload and join again",
            Self::Stopped => "see the log above; start the proxy again",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port { what, address, cause } => write!(f, "cannot listen on {address} for {what}: {cause}"),
            Self::Handed { door } => {
                write!(f, "the earlier proxy leaves a listener for `{door}`, which this version does not have")
            }
            Self::State { path, cause } => write!(f, "cannot use {}: {cause}", path.display()),
            Self::Unreachable { address, cause } => write!(f, "control plane at {address} not reached: {cause}"),
            Self::Refused { cause } => write!(f, "control plane refused this workload: {cause}"),
            // The control plane begins with the code, which is shown apart.
            Self::NameTaken { cause } => {
                let prefix = format!("{}: ", code::NAME_TAKEN.id);
                f.write_str(cause.strip_prefix(&prefix).unwrap_or(cause))
            }
            Self::Credentials { cause } => write!(f, "credentials are unusable: {cause}"),
            Self::Stopped => f.write_str("the proxy has stopped"),
        }
    }
}

impl std::error::Error for Error {}
