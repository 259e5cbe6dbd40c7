// SPDX-License-Identifier: Apache-2.0
//! One authority for all subjects of a bench: byrnie's own, P-256 as peers have it too.

use crate::words::Words;
use anyhow::{Context, Result};
use byrnie_model::Identity;
use byrnie_net::runtime;
use byrnie_net::tls::ca::{Authority, Name};
use byrnie_net::tls::{self, Credentials, Key};
use std::path::Path;
use std::time::Duration;

/// The mesh of every bench.
pub(crate) const DOMAIN: &str = "bench.local";
/// The name that peers' servers prove and their clients check.
const SERVER_NAME: &str = "app.bench.mesh";
/// The host that every request asks for, and the server name of the app's one port.
pub(crate) const SNI: &str = "80.app.default.mesh";
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Writes `ca.crt`, and for `app` and `web` NAME.credentials (byrnie's form) and NAME.crt, NAME.key and
/// NAME.pem (both), as peers want them.
pub(crate) fn make(words: &Words) -> Result<()> {
    let dir = words.path("dir")?;
    std::fs::create_dir_all(&dir)?;
    let now = runtime::now().wall;
    let authority = Authority::create(DOMAIN, now)?;
    std::fs::write(dir.join("ca.crt"), authority.roots_pem())?;
    for account in ["app", "web"] {
        let (key, identity) = (Key::generate()?, identity(account)?);
        let names = [Name::Dns(SERVER_NAME.into())];
        let chain = authority.sign(&tls::csr(&key, &identity)?, &identity, LIFETIME, &names, now)?;
        let pem = key.to_pem();
        std::fs::write(dir.join(format!("{account}.crt")), &chain)?;
        let file = |end: &str| dir.join(format!("{account}.{end}"));
        tls::keys::write_private(&file("key"), &[pem.expose()])?;
        tls::keys::write_private(&file("pem"), &[&chain, pem.expose()])?;
        let credentials = Credentials::new(&chain, key, authority.roots()?, now)?;
        tls::keys::save(&file("credentials"), &credentials)?;
    }
    Ok(())
}

/// Who `account` is.
pub(crate) fn identity(account: &str) -> Result<Identity> {
    Identity::new(DOMAIN, "default", account).context("identity")
}

/// What [`make`] wrote for `account`.
pub(crate) fn credentials(dir: &Path, account: &str) -> Result<Credentials> {
    let path = dir.join(format!("{account}.credentials"));
    tls::keys::load(&path, DOMAIN, runtime::now().wall).with_context(|| path.display().to_string())
}
