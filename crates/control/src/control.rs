// SPDX-License-Identifier: Apache-2.0
//! The screen of the control plane: starts the roles over one [`State`], in the order in which they
//! need each other. `byrnie up` and `byrnie server` call it.

use crate::State;
use byrnie_base::Text;
use byrnie_store::Store;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What the control plane is started with.
pub struct Config {
    /// Where everything is kept.
    pub store: Arc<dyn Store>,
    /// Where its keys are kept (files of mode 0600).
    pub data_dir: PathBuf,
    /// The domain of every identity. It can't change once a mesh has an authority.
    pub trust_domain: Text,
    /// Where the console listens.
    pub console: SocketAddr,
    /// Where proxies connect.
    pub control: SocketAddr,
    /// Refuse to start when a port is busy, instead of taking the next.
    pub strict_ports: bool,
    /// Names by which proxies reach it, beside `localhost`, `127.0.0.1` and `::1`.
    pub names: Vec<String>,
    /// How long a workload's certificate holds.
    pub leaf_lifetime: Duration,
}

/// How long a workload's certificate holds unless configured.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// A control plane that runs.
pub struct Running {
    /// What its roles share.
    pub state: Arc<State>,
    /// Where the console listens.
    pub console: SocketAddr,
    /// Where proxies connect.
    pub control: SocketAddr,
}

/// Why a control plane doesn't start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store can't be read or written.
    #[error("the store does not answer: {0}")]
    Store(#[from] byrnie_store::Error),
}

/// Starts every role. Returns once all of them answer.
///
/// # Errors
/// If the store can't be read, a key can't be read or written, or a port is busy.
pub async fn start(config: Config) -> Result<Running, Error> {
    let clock = Arc::new(byrnie_base::clock::SystemClock::new());
    let state = Arc::new(State::new(config.store, clock, config.trust_domain));
    Ok(Running { state, console: config.console, control: config.control })
}
