// SPDX-License-Identifier: Apache-2.0
//! Private keys and the files they rest in. Whoever has an identity makes its key here, once, and asks an
//! authority to sign the request. A key is never printed, and leaves the process only into the
//! owner's own file (mode 0600).

use super::{Credentials, Error, PEM_BYTES_MAX, Roots};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use byrnie_base::Timestamp;
use byrnie_model::Identity;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::fmt;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(test)]
mod tests;

/// A private ECDSA P-256 key. Clones share it.
///
/// Its only readable form is [`Key::to_pem`], whose result wipes itself. The copies inside the crypto
/// library are wiped by that library when freed.
#[derive(Clone)]
pub struct Key(Arc<Inner>);

struct Inner {
    pair: EcdsaKeyPair,
    pkcs8: Secret,
}

impl Key {
    /// A fresh key from the crypto library's own random source.
    ///
    /// # Errors
    /// If the system gives no randomness.
    pub fn generate() -> Result<Self, Error> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|_| Error::Crypto("new key"))?;
        let document = pair.to_pkcs8v1().map_err(|_| Error::Crypto("key encoding"))?;
        Ok(Self(Arc::new(Inner { pair, pkcs8: Secret(document.as_ref().to_vec()) })))
    }

    /// A key from its PEM text (`PRIVATE KEY`, PKCS#8, P-256).
    ///
    /// # Errors
    /// If it is no such text.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        if pem.len() > PEM_BYTES_MAX {
            return Err(Error::Amount("bytes of PEM"));
        }
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| Error::Malformed("key PEM"))?;
        let secret = Secret(der.secret_pkcs8_der().to_vec());
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &secret.0)
            .map_err(|_| Error::Malformed("key"))?;
        Ok(Self(Arc::new(Inner { pair, pkcs8: secret })))
    }

    /// The key as PEM text, for the owner's own file alone.
    pub fn to_pem(&self) -> SecretText {
        SecretText(Secret(pem("PRIVATE KEY", &self.0.pkcs8.0).into_bytes()))
    }

    /// The key for the TLS library.
    pub(super) fn signing(&self) -> Result<Arc<dyn rustls::sign::SigningKey>, Error> {
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(&*self.0.pkcs8.0));
        rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&der).map_err(|_| Error::Crypto("key"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl rcgen::PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        self.0.pair.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self.0.pair.sign(&SystemRandom::new(), message).map_err(|_| rcgen::Error::RingUnspecified)?;
        Ok(signature.as_ref().to_vec())
    }
}

/// Bytes that are overwritten when dropped.
struct Secret(Vec<u8>);

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.fill(0);
        // Keeps the compiler from leaving out writes that nobody reads.
        std::hint::black_box(&mut self.0);
    }
}

/// Secret text that is overwritten when dropped and never printed by `Debug`.
pub struct SecretText(Secret);

impl SecretText {
    /// The text itself. Whoever takes it must not log or send it.
    pub fn expose(&self) -> &str {
        std::str::from_utf8(&self.0.0).unwrap_or_default()
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(..)")
    }
}

/// A request (PKCS#10, DER) that proves possession of `key` and asks for `identity`.
///
/// An authority takes the public key from it and nothing else; the identity inside is for people who read it.
///
/// # Errors
/// If the crypto library fails.
pub fn csr(key: &Key, identity: &Identity) -> Result<Vec<u8>, Error> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let uri = identity.to_string().as_str().try_into().map_err(|_| Error::Malformed("identity"))?;
    params.subject_alt_names = vec![rcgen::SanType::URI(uri)];
    let request = params.serialize_request(key).map_err(|_| Error::Crypto("request"))?;
    Ok(request.der().as_ref().to_vec())
}

/// One PEM block.
pub(super) fn pem(label: &str, der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    // Sized at once: growing would leave copies of a key behind in freed memory.
    let mut text = String::with_capacity(der.len() / 3 * 4 + der.len() / 48 + 2 * label.len() + 64);
    text.extend(["-----BEGIN ", label, "-----\n"]);
    for line in der.chunks(48) {
        for group in line.chunks(3) {
            let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
            let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
            for place in 0..4 {
                let index = (bits >> (18 - 6 * place) & 63) as usize;
                text.push(if place <= group.len() { char::from(ALPHABET[index]) } else { '=' });
            }
        }
        text.push('\n');
    }
    text.extend(["-----END ", label, "-----\n"]);
    text
}

/// Line between the chain and the roots in a file of credentials. PEM readers skip it.
const ROOTS_LINE: &str = "# roots\n";

/// Writes credentials to `path` (mode 0600): a crash leaves either the old file or the new one, whole.
///
/// # Errors
/// If the folder can't be written.
pub fn save(path: &Path, credentials: &Credentials) -> Result<(), Error> {
    let key = credentials.key().to_pem();
    let chain = credentials.chain_pem();
    let parts = [key.expose(), &chain, ROOTS_LINE, credentials.roots().pem()];
    write_private(path, &parts).map_err(Error::File)
}

/// Reads credentials that [`save`] wrote, if they still hold for `trust_domain` at `now`.
///
/// # Errors
/// If the file is missing, may be read by others, is malformed, or its certificate has expired.
pub fn load(path: &Path, trust_domain: &str, now: Timestamp) -> Result<Credentials, Error> {
    let text = read_private(path).map_err(Error::File)?;
    let text = std::str::from_utf8(&text.0).map_err(|_| Error::Malformed("credentials file"))?;
    let (own, roots) = text.split_once(ROOTS_LINE).ok_or(Error::Malformed("credentials file"))?;
    Credentials::new(own, Key::from_pem(own)?, Roots::from_pem(roots, trust_domain)?, now)
}

/// Writes `parts` one after the other to `path` with mode 0600, atomically and durably. For every file that
/// holds a secret.
///
/// # Errors
/// If the folder can't be written.
pub fn write_private(path: &Path, parts: &[&str]) -> io::Result<()> {
    let parts: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
    write_private_bytes(path, &parts, Outlives::PowerLoss)
}

/// What a file that was just written outlives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlives {
    /// The end of this process, however it ends. Takes no wait for the disk.
    Process,
    /// The loss of power as well.
    PowerLoss,
}

/// Like [`write_private`], for what isn't text.
pub(super) fn write_private_bytes(path: &Path, parts: &[&[u8]], outlives: Outlives) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let temporary = folder.join(format!(".{name}.{}.tmp", std::process::id()));
    let written = write_new(&temporary, parts, outlives).and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        // Best effort: what matters is the error that led here.
        let _ = std::fs::remove_file(&temporary);
        return written;
    }
    match outlives {
        Outlives::Process => Ok(()),
        // The name is durable only once its folder is.
        Outlives::PowerLoss => std::fs::File::open(folder)?.sync_all(),
    }
}

fn write_new(path: &PathBuf, parts: &[&[u8]], outlives: Outlives) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    for part in parts {
        file.write_all(part)?;
    }
    if outlives == Outlives::PowerLoss { file.sync_all() } else { Ok(()) }
}

/// The text of a file that [`write_private`] wrote.
///
/// # Errors
/// If the file is missing, isn't text, or may be read by others.
pub fn read_private_text(path: &Path) -> Result<SecretText, Error> {
    let secret = read_private(path).map_err(Error::File)?;
    if std::str::from_utf8(&secret.0).is_err() {
        return Err(Error::Malformed("private file"));
    }
    Ok(SecretText(secret))
}

fn read_private(path: &Path) -> io::Result<Secret> {
    let file = open_private(path)?;
    let mut secret = Secret(Vec::with_capacity(PEM_BYTES_MAX.min(64 * 1024)));
    file.take(PEM_BYTES_MAX as u64).read_to_end(&mut secret.0)?;
    Ok(secret)
}

/// The first `bytes_max` bytes of a file that nobody else may read.
pub(super) fn read_private_bytes(path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_private(path)?.take(bytes_max as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn open_private(path: &Path) -> io::Result<std::fs::File> {
    let file = std::fs::File::open(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        if file.metadata()?.permissions().mode() & 0o077 != 0 {
            let text = format!("{} may be read by others; set its mode to 0600", path.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
    }
    Ok(file)
}
