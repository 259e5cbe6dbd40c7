// SPDX-License-Identifier: Apache-2.0
//! Keys under which bytes rest where others may read them: nobody without one of them reads or changes what it sealed. The cipher is
//! AES-256-GCM-SIV (RFC 8452), whose nonces may be drawn at random, however often. The first key seals, every one opens, so that
//! keys can be changed while there is something left that an older one sealed. The control plane calls it.

use super::Error;
use super::keys::{Outlives, SecretText, read_private_text, write_private_bytes};
use super::secret;
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use std::fmt::Write;
use std::path::Path;

/// Most keys of one file.
const KEYS_MAX: usize = 16;
/// How many bytes are more when they are sealed.
const SEALED_BYTES: usize = 1 + NAME_BYTES + NONCE_LEN + TAG_BYTES;
/// Bytes by which it's seen that nothing was changed.
const TAG_BYTES: usize = 16;

/// What was sealed for what, as the first byte of everything that is sealed says. Whoever seals decides what a form is sealed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// It is opened, and sealed no more.
    Older = 1,
    /// What [`Keyring::seal`] makes.
    Newest = 2,
}

/// Bytes of a key's name.
const NAME_BYTES: usize = 8;
/// Bytes of a key.
const KEY_BYTES: usize = 32;

/// What a key is called by: the beginning of its digest.
type Name = [u8; NAME_BYTES];

/// Keys, of which the first seals.
#[derive(Default)]
pub struct Keyring(Vec<(Name, LessSafeKey)>);

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keyring(..)")
    }
}

/// Why sealed bytes can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The key isn't there.
    #[error("it is sealed by the key {0}, which isn't there")]
    NoKey(String),
    /// They aren't what was sealed, or not for this.
    #[error("it was changed, or is somebody else's")]
    Changed,
}

impl Keyring {
    /// The keys of a file that nobody else may read: one on each line, 64 digits of base 16; what follows `#` isn't looked at.
    ///
    /// # Errors
    /// If the file can't be read, or may be read by others, or a line is no key, or there are none or more than [`KEYS_MAX`].
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text: SecretText = read_private_text(path)?;
        let lines = text.expose().lines().map(|line| line.split('#').next().unwrap_or_default().trim());
        let keys: Vec<_> = lines.filter(|line| !line.is_empty()).map(key).collect::<Result<_, _>>()?;
        if keys.is_empty() || keys.len() > KEYS_MAX {
            return Err(Error::Amount("keys in the file"));
        }
        Ok(Self(keys))
    }

    /// The same; the file is made with a new key if there is none.
    ///
    /// # Errors
    /// As [`Self::read`], or if it can't be written.
    pub fn open(path: &Path) -> Result<Self, Error> {
        if !path.try_exists().map_err(Error::File)? {
            let line = secret::random()?.iter().fold(String::with_capacity(2 * KEY_BYTES), |mut line, byte| {
                // A string takes everything.
                let _ = write!(line, "{byte:02x}");
                line
            });
            write_private_bytes(path, &[line.as_bytes(), b"\n"], Outlives::PowerLoss).map_err(Error::File)?;
        }
        Self::read(path)
    }

    /// These keys, and after them those of another.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Whether there are none: then nothing is sealed or opened.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The form of sealed bytes; none of those that are as they were before anything was sealed.
    pub fn form(bytes: &[u8]) -> Option<Form> {
        let first = *bytes.first()?;
        [Form::Older, Form::Newest].into_iter().find(|form| *form as u8 == first)
    }

    /// Seals bytes for `purpose`: they can't be opened for another.
    ///
    /// # Errors
    /// If the system gives no randomness.
    pub fn seal(&self, purpose: &[u8], bytes: &[u8]) -> Result<Vec<u8>, Error> {
        let (name, key) = self.0.first().ok_or(Error::Amount("keys"))?;
        let mut sealed = Vec::with_capacity(bytes.len() + SEALED_BYTES);
        sealed.push(Form::Newest as u8);
        sealed.extend_from_slice(name);
        sealed.extend_from_slice(&seal_by(key, purpose, bytes)?);
        Ok(sealed)
    }

    /// What [`Self::seal`] was given.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn unseal(&self, purpose: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Unreadable> {
        let (_, rest) = Self::form(sealed).zip(sealed.get(1..)).ok_or(Unreadable::Changed)?;
        let (name, rest) = rest.split_first_chunk::<NAME_BYTES>().ok_or(Unreadable::Changed)?;
        let key = self.0.iter().find(|(known, _)| known == name);
        let (_, key) = key.ok_or_else(|| Unreadable::NoKey(shown(name)))?;
        open_by(key, purpose, rest).ok_or(Unreadable::Changed)
    }
}

/// The bytes sealed by a key of AES-256-GCM-SIV for `purpose`, after the nonce that was drawn for it.
pub(super) fn seal_by(key: &LessSafeKey, purpose: &[u8], bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let random = secret::random()?;
    let (nonce, _) = random.split_first_chunk().ok_or(Error::Crypto("randomness"))?;
    let mut body = Vec::with_capacity(bytes.len() + TAG_BYTES);
    body.extend_from_slice(bytes);
    let sealing = Nonce::assume_unique_for_key(*nonce);
    key.seal_in_place_append_tag(sealing, Aad::from(purpose), &mut body).map_err(|_| Error::Crypto("seal"))?;
    Ok([&nonce[..], &body].concat())
}

/// What [`seal_by`] was given; `None` if it isn't that, or not for this.
pub(super) fn open_by(key: &LessSafeKey, purpose: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>()?;
    let mut body = rest.to_vec();
    let opened = key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(purpose), &mut body).ok()?.len();
    body.truncate(opened);
    Some(body)
}

fn shown(name: &Name) -> String {
    name.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn key(line: &str) -> Result<(Name, LessSafeKey), Error> {
    const NO_KEY: Error = Error::Malformed("key: a line of the file is not 64 digits of base 16");
    let digits = line.as_bytes();
    if digits.len() != 2 * KEY_BYTES || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(NO_KEY);
    }
    let mut bytes = [0; KEY_BYTES];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| NO_KEY)?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| NO_KEY)?;
    }
    let digest = secret::sha256(&bytes);
    let name = digest.first_chunk().ok_or(NO_KEY)?;
    let unbound = UnboundKey::new(&AES_256_GCM_SIV, &bytes).map_err(|_| Error::Crypto("key"))?;
    Ok((*name, LessSafeKey::new(unbound)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(path: &Path, lines: &str) -> Result<Keyring, Error> {
        crate::tls::keys::write_private(path, &[lines]).unwrap();
        Keyring::read(path)
    }

    #[test]
    fn only_whoever_has_the_key_reads_what_it_sealed_and_for_what() {
        let folder = std::env::temp_dir().join(format!("byrnie-keyring-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("keys");
        let made = Keyring::open(&path).unwrap();
        let sealed = made.seal(b"order-1", b"card 4711").unwrap();
        assert_eq!(sealed.len(), 9 + SEALED_BYTES);
        assert!(!sealed.windows(4).any(|four| four == b"4711"));
        assert_eq!((Keyring::form(&sealed), Keyring::form(b"\x08\x01")), (Some(Form::Newest), None));
        assert_ne!(sealed, made.seal(b"order-1", b"card 4711").unwrap(), "nobody sees that two are the same");
        let again = Keyring::open(&path).unwrap();
        assert_eq!(again.unseal(b"order-1", &sealed).unwrap(), b"card 4711");
        assert_eq!(again.unseal(b"order-2", &sealed), Err(Unreadable::Changed));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 4;
            assert!(again.unseal(b"order-1", &changed).is_err(), "byte {at} changed");
            assert!(again.unseal(b"order-1", &sealed[..at]).is_err(), "cut at {at}");
        }
        // A new key seals from now on; the old one opens what it sealed until it's taken away.
        let old = std::fs::read_to_string(&path).unwrap();
        let new = "c0".repeat(KEY_BYTES);
        let both = ring(&path, &format!("# since today\n{new}\n{old}")).unwrap();
        assert_eq!(both.unseal(b"order-1", &sealed).unwrap(), b"card 4711");
        let newer = both.seal(b"order-1", b"card 4711").unwrap();
        let alone = ring(&path, &new).unwrap();
        assert_eq!(alone.unseal(b"order-1", &newer).unwrap(), b"card 4711");
        let gone = alone.unseal(b"order-1", &sealed).unwrap_err();
        assert!(matches!(&gone, Unreadable::NoKey(name) if gone.to_string().contains(name.as_str())), "{gone}");
        for (bad, why) in [("", "keys"), ("abc", "64 digits"), (&format!("{new}\n").repeat(17), "keys")] {
            assert!(ring(&path, bad).unwrap_err().to_string().contains(why), "{bad}");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
