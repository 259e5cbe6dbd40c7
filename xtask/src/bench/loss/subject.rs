// SPDX-License-Identifier: Apache-2.0
//! Who is measured: byrnie's two proxies with the hop of the mesh between them and with HTTP/1.1, and the peers' pairs.

use super::wire::{FAR, Namespace, Wire, borrowed};
use crate::bench::byrnie;
use crate::bench::options::PEERS;
use crate::bench::peers::{self, Http2, Role, Tls};
use crate::bench::process::{Process, Side, Stage, free_port, loopback};
use anyhow::Result;
use std::net::SocketAddr;

/// byrnie, as it is and with HTTP/1.1 in place of its hop.
const OWN: [&str; 2] = ["byrnie", "byrnie-http1"];

/// All names.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    OWN.into_iter().chain(PEERS)
}

/// Whether it's on this machine.
pub(super) fn is_there(name: &str) -> bool {
    OWN.contains(&name) || peers::is_there(name)
}

/// A pair that runs.
pub(super) struct Subject {
    /// Where the client enters, near.
    pub(super) entry: SocketAddr,
    pub(super) version: String,
    _proxies: [Process; 2],
}

impl Subject {
    /// Starts a pair with the app behind it.
    pub(super) fn start(stage: &Stage, wire: &Wire, name: &str, app: SocketAddr) -> Result<Self> {
        if OWN.contains(&name) {
            return own(stage, wire, if name == OWN[0] { "framed" } else { "http1" }, app);
        }
        let (entry, middle) = (loopback(free_port()?), SocketAddr::from((FAR, free_port()?)));
        let role = Role {
            name: name.to_owned(),
            listen: entry,
            next: vec![app],
            tls: Tls::None,
            http2: Http2::Neither,
            edits: false,
            opaque: false,
        };
        let start = |at: &Namespace, half: &Role| {
            let (program, args) = peers::command(stage, name, half)?;
            at.start(stage, Side::Proxy, &half.name, &program, &borrowed(&args))
        };
        let [a, b] = peers::halves(stage, name, &role, middle);
        let proxies = [start(&wire.far, &b)?, start(&wire.near, &a)?];
        Ok(Self { entry, version: peers::version(name), _proxies: proxies })
    }
}

/// byrnie's proxies, whose configuration is given to them: its control plane is on loopback, and stays out of it.
fn own(stage: &Stage, wire: &Wire, hop: &str, app: SocketAddr) -> Result<Subject> {
    let start = |at: &Namespace, role: &str, more: &[String]| {
        let log = format!("loss-{role}");
        let state = stage.dir.join(format!("state-{role}"));
        let mut words = vec!["proxy".to_owned(), format!("role={role}"), format!("hop={hop}")];
        words.extend([format!("pki={}", stage.pki.display()), format!("state={}", state.display())]);
        words.extend_from_slice(more);
        let proxy = at.start(stage, Side::Proxy, &log, &stage.tool, &borrowed(&words))?;
        anyhow::Ok((proxy, byrnie::said_ready(stage, &log)?))
    };
    let (b, middle) = start(&wire.far, "callee", &[format!("next={app}"), format!("listen={FAR}:0")])?;
    let (a, entry) = start(&wire.near, "caller", &[format!("next={middle}")])?;
    Ok(Subject { entry, version: byrnie::VERSION.to_owned(), _proxies: [b, a] })
}
