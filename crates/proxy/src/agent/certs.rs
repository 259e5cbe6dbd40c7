// SPDX-License-Identifier: Apache-2.0
//! The proxy's own certificate: from the state directory if it still holds, else signed by the control
//! plane for a key that is made here and leaves this machine never. Renewed at half its life.

use super::link::{Backoff, Link};
use super::publish::Publisher;
use crate::config::{Config, Control, Tokens};
use crate::error::Error;
use byrnie_base::{Rng, Timestamp};
use byrnie_model::Identity;
use byrnie_net::grpc::{Channel, Code, Status};
use byrnie_net::runtime;
use byrnie_net::tls::{self, Credentials, Key, Roots, keys};
use byrnie_xds::SIGN_PATH;
use byrnie_xds::proto::Message;
use byrnie_xds::proto::byrnie::v1::{SignRequest, SignResponse};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// File of the key and its certificate in the state directory.
const FILE: &str = "credentials.pem";
/// Longest sleep before the wall clock is looked at again: it may jump, or the machine may sleep.
const GLANCE_MAX: Duration = Duration::from_secs(5);
/// Pause between two tries to renew.
const RENEW_PAUSE: Duration = Duration::from_secs(5);

/// Where the credentials of a proxy rest.
pub(super) fn path(config: &Config) -> PathBuf {
    config.state_dir.join(FILE)
}

/// Why no certificate came.
enum Refusal {
    /// The control plane doesn't want to.
    Final(Error),
    /// It may later.
    Later(String),
}

/// The first credentials.
pub(super) async fn first(config: &Config, control: &Control, roots: &Roots) -> Result<Credentials, Error> {
    let path = path(config);
    if let Some(credentials) = kept(&path, &config.identity, roots) {
        return Ok(credentials);
    }
    let Some(tokens) = &control.tokens else {
        return Err(Error::Refused { cause: "there is neither a valid certificate nor a join token".to_owned() });
    };
    let began = runtime::now().mono;
    let mut backoff = Backoff::new();
    let mut token = None;
    loop {
        let signed = async {
            let token = match &token {
                Some(token) => token,
                None => token.insert(tokens.next().await.map_err(Refusal::Later)?),
            };
            let nobody = tls::client_without_certificate(roots);
            let channel = Channel::connect(control.address.now(), &nobody, &control.identity, None).await;
            let channel = channel.map_err(|error| Refusal::Later(error.to_string()))?;
            sign(&channel, &config.identity, Some(token), roots.trust_domain()).await
        };
        let cause = match signed.await {
            Ok(credentials) => {
                save(&path, &credentials)?;
                return Ok(credentials);
            }
            Err(Refusal::Final(error)) => return Err(error),
            Err(Refusal::Later(cause)) => cause,
        };
        if runtime::now().mono.since(began) >= control.patience {
            return Err(Error::Unreachable { address: control.address.now(), cause });
        }
        tracing::debug!(cause, "no certificate yet");
        backoff.pause().await;
    }
}

/// Credentials kept from an earlier run, if they're ours, of the same roots, and still hold. Those that are
/// due are renewed at once, by themselves.
fn kept(path: &Path, identity: &Identity, roots: &Roots) -> Option<Credentials> {
    let now = runtime::now().wall;
    let kept = keys::load(path, roots.trust_domain(), now).ok()?;
    let fits = kept.identity() == identity && kept.roots().pem().trim() == roots.pem().trim();
    Some(kept).filter(|_| fits)
}

fn save(path: &Path, credentials: &Credentials) -> Result<(), Error> {
    keys::save(path, credentials).map_err(|error| Error::State {
        path: path.to_owned(),
        cause: match error {
            tls::Error::File(cause) => cause,
            other => std::io::Error::other(other.to_string()),
        },
    })
}

async fn sign(
    channel: &Channel,
    identity: &Identity,
    token: Option<&str>,
    domain: &str,
) -> Result<Credentials, Refusal> {
    let broken = |error: tls::Error| Refusal::Final(Error::Credentials { cause: error.to_string() });
    let key = Key::generate().map_err(broken)?;
    let csr = tls::csr(&key, identity).map_err(broken)?;
    let request = SignRequest { csr: csr.into(), token: token.unwrap_or_default().to_owned() };
    let answer = channel.unary(SIGN_PATH, request.encode_to_vec().into()).await.map_err(|status| refusal(&status))?;
    let answer = SignResponse::decode(&*answer).map_err(|error| Refusal::Later(error.to_string()))?;
    let roots = Roots::from_pem(&answer.roots, domain).map_err(broken)?;
    let credentials = Credentials::new(&answer.chain, key, roots, runtime::now().wall).map_err(broken)?;
    if credentials.identity() != identity {
        let cause = format!("the token is for {}, not for {identity}", credentials.identity());
        return Err(Refusal::Final(Error::Refused { cause }));
    }
    Ok(credentials)
}

fn refusal(status: &Status) -> Refusal {
    let cause = status.message().to_owned();
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument => {
            Refusal::Final(Error::Refused { cause })
        }
        Code::AlreadyExists => Refusal::Final(Error::NameTaken { cause }),
        _ => Refusal::Later(cause),
    }
}

/// What a renewal needs.
pub(super) struct Renewal {
    pub(super) path: PathBuf,
    pub(super) tokens: Option<Tokens>,
    pub(super) identity: Identity,
}

/// Renews the certificate at half its life, for as long as the proxy runs; at once if the clock was set so
/// that it holds no more, or not yet.
pub(super) async fn renew(renewal: Renewal, link: Rc<Link>, publisher: Rc<Publisher>) {
    let mut rng = Rng::new(super::seed());
    runtime::keep("certs", async || renew_in_time(&renewal, &link, &publisher, &mut rng).await, || {}).await;
}

async fn renew_in_time(renewal: &Renewal, link: &Link, publisher: &Publisher, rng: &mut Rng) {
    loop {
        // Jitter: proxies that started together don't renew together.
        wait_until_due(&link.credentials(), 45 + rng.below(10)).await;
        let mut warned = false;
        loop {
            match once(renewal, link, publisher).await {
                Ok(()) => break,
                Err(cause) => {
                    if !std::mem::replace(&mut warned, true) {
                        let code = byrnie_model::code::LEAF_EXPIRES.id;
                        let ends = link.credentials().not_after().as_secs();
                        tracing::warn!(code, cause, ends, "certificate not renewed yet; trying again");
                    }
                    runtime::sleep(RENEW_PAUSE).await;
                }
            }
        }
    }
}

async fn once(renewal: &Renewal, link: &Link, publisher: &Publisher) -> Result<(), String> {
    let held = link.credentials();
    let now = runtime::now().wall;
    let holds = held.not_before() <= now && now < held.not_after();
    // A certificate that holds is the proof. Without one, a new token is.
    let (channel, token) = match (&renewal.tokens, holds) {
        (_, true) => (link.channel().await, None),
        (None, false) => return Err("the certificate does not hold, and there is no source of join tokens".to_owned()),
        (Some(tokens), false) => {
            let token = tokens.next().await?;
            (link.channel_without_certificate().await, Some(token))
        }
    };
    let channel = channel.map_err(|error| error.to_string())?;
    let domain = renewal.identity.trust_domain();
    let credentials =
        sign(&channel, &renewal.identity, token.as_deref(), domain).await.map_err(|refusal| match refusal {
            Refusal::Final(error) => error.to_string(),
            Refusal::Later(cause) => cause,
        })?;
    if let Err(error) = save(&renewal.path, &credentials) {
        tracing::warn!(%error, "renewed certificate can't be kept; it's used all the same");
    }
    let credentials = Arc::new(credentials);
    publisher.renew(Arc::clone(&credentials)).map_err(|error| error.to_string())?;
    tracing::info!(not_after = credentials.not_after().as_secs(), "certificate renewed");
    link.renew(credentials).await;
    Ok(())
}

/// When so many percent of a certificate's life are over.
fn renew_at(credentials: &Credentials, percent: u64) -> Timestamp {
    let (start, end) = (credentials.not_before().as_millis(), credentials.not_after().as_millis());
    Timestamp::from_millis(start + end.saturating_sub(start) / 100 * percent)
}

/// Waits until a certificate is to be renewed.
async fn wait_until_due(credentials: &Credentials, percent: u64) {
    let at = renew_at(credentials, percent);
    loop {
        let now = runtime::now().wall;
        let left = at.as_millis().saturating_sub(now.as_millis());
        if left == 0 || now < credentials.not_before() {
            return;
        }
        runtime::sleep(Duration::from_millis(left).min(GLANCE_MAX)).await;
    }
}
