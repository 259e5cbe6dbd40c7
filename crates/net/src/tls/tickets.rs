// SPDX-License-Identifier: Apache-2.0
//! Session tickets of gateways. Every process opens them that shows the same certificates on the same terms: the others behind
//! a balancer, and the one that takes over. Nothing is exchanged for it: the keys come (HKDF, RFC 5869) from those of
//! the certificates, from all else that a port shows, and from the time. [`super::edge`] gives them out.
//!
//! Whoever gets hold of a certificate's key opens these tickets, also those of long ago. Nothing that was said can be read by
//! that: sessions of TLS 1.3 are resumed with a key exchange of their own, as the library takes no other
//! (`psk_dhe_ke`, RFC 8446 2.2). A ticket of TLS 1.2 holds the very secret by which its session was enciphered; these are
//! sealed by random keys of this process, which forgets them.

use super::edge::Site;
use super::{Error, keyring};
use aws_lc_rs::aead::{AES_256_GCM_SIV, Algorithm, LessSafeKey, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Okm, Prk};
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use byrnie_base::Timestamp;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::ProducesTickets;
use std::fmt;
use std::sync::Arc;

/// How long one key seals; it opens until the next one has sealed as long. A process whose clock is this much behind others opens
/// theirs too.
const STEP_SECS: u32 = 6 * 60 * 60;
/// Bytes of a ticket: a session whose host and protocol are as long as can be has 700.
const TICKET_BYTES_MAX: usize = 1024;
/// Bytes of the number of a step.
const STEP_BYTES: usize = size_of::<u64>();
/// TLS 1.3, as in the session that a ticket is to hold.
const TLS13: [u8; 2] = [3, 4];

/// What the key of a certificate adds to those of tickets: it isn't found out by this.
#[derive(Clone, Copy)]
pub(super) struct Seed(hmac::Tag);

impl Seed {
    /// Of a key, in the encoding in which all processes have it.
    pub(super) fn of(key: &[u8]) -> Self {
        Self(hmac::sign(&hmac::Key::new(HMAC_SHA256, b"byrnie: a certificate's part of ticket keys, 1"), key))
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(..)")
    }
}

/// Gives out and opens the tickets of one port.
struct Tickets {
    secret: Prk,
    /// Those of TLS 1.2.
    own: Arc<dyn ProducesTickets>,
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets(..)")
    }
}

/// Tickets for whoever shows exactly this, speaks these protocols, and asks callers for nothing. `None` where nobody is let in, as
/// there's no certificate: what there would be to derive keys from is known to everybody.
///
/// # Errors
/// If the system gives no randomness.
pub(super) fn of(sites: &[Site], alpn: &[Vec<u8>]) -> Result<Option<Arc<dyn ProducesTickets>>, Error> {
    if sites.iter().all(|site| site.certificates.is_empty()) {
        return Ok(None);
    }
    let own = Ticketer::new().map_err(|_| Error::Crypto("ticket keys"))?;
    Ok(Some(Arc::new(Tickets { secret: secret(sites, alpn), own })))
}

/// HKDF-Extract over the keys of all certificates together, so that the owner of one opens nothing that was sealed beside
/// another's. All else goes in as well: on other terms the keys are others.
fn secret(sites: &[Site], alpn: &[Vec<u8>]) -> Prk {
    let mut terms = Terms(hmac::Context::with_key(&hmac::Key::new(HMAC_SHA256, b"byrnie: ticket keys of a port, 1")));
    terms.count(alpn.len());
    alpn.iter().for_each(|name| terms.add(name));
    terms.count(sites.len());
    for site in sites {
        // A host is never empty.
        terms.add(site.hostname.as_deref().unwrap_or_default().as_bytes());
        terms.count(site.certificates.len());
        for certificate in &site.certificates {
            terms.add(certificate.seed.0.as_ref());
            terms.count(certificate.shown.cert.len());
            certificate.shown.cert.iter().for_each(|shown| terms.add(shown));
        }
    }
    Prk::new_less_safe(HKDF_SHA256, terms.0.sign().as_ref())
}

/// Each part goes in with its length, so that no two lists of parts are the same bytes.
struct Terms(hmac::Context);

impl Terms {
    fn count(&mut self, count: usize) {
        self.0.update(&(count as u64).to_be_bytes());
    }

    fn add(&mut self, part: &[u8]) {
        self.count(part.len());
        self.0.update(part);
    }
}

impl Tickets {
    /// The key of a step.
    fn key(&self, step: &[u8; STEP_BYTES]) -> Option<LessSafeKey> {
        let info = [&step[..]];
        let made: Okm<'_, &'static Algorithm> = self.secret.expand(&info, &AES_256_GCM_SIV).ok()?;
        Some(LessSafeKey::new(UnboundKey::from(made)))
    }

    /// A ticket: the number of the step, and the session sealed by its key.
    fn seal(&self, session: &[u8], now: Timestamp) -> Option<Vec<u8>> {
        let step = step(now).to_be_bytes();
        let sealed = keyring::seal_by(&self.key(&step)?, &[], session).ok()?;
        Some([&step[..], &sealed].concat()).filter(|ticket| ticket.len() <= TICKET_BYTES_MAX)
    }

    fn open(&self, ticket: &[u8], now: Timestamp) -> Option<Vec<u8>> {
        if ticket.len() > TICKET_BYTES_MAX {
            return None;
        }
        let (step, sealed) = ticket.split_first_chunk()?;
        if u64::from_be_bytes(*step).abs_diff(self::step(now)) > 1 {
            return None;
        }
        keyring::open_by(&self.key(step)?, &[], sealed)
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    /// The longest that one is opened; one that was made late in a step is opened for half of it.
    fn lifetime(&self) -> u32 {
        2 * STEP_SECS
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        if version(session) == Some(TLS13) {
            self.seal(session, crate::runtime::now().wall)
        } else {
            self.own.encrypt(session)
        }
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.open(ticket, crate::runtime::now().wall).or_else(|| self.own.decrypt(ticket))
    }
}

/// The number of the step that a time is in.
fn step(now: Timestamp) -> u64 {
    now.as_secs() / u64::from(STEP_SECS)
}

/// The version of a session as the library writes it: after its host, which is preceded by whether there is one.
fn version(session: &[u8]) -> Option<[u8; 2]> {
    let after = match session {
        [0, rest @ ..] => rest,
        [1, bytes, rest @ ..] => rest.get(usize::from(*bytes)..)?,
        _ => return None,
    };
    after.first_chunk().copied()
}

#[cfg(test)]
mod tests;
