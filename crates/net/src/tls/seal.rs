// SPDX-License-Identifier: Apache-2.0
//! Files that only their writer may have written: each carries a code (HMAC-SHA256) under a secret of this
//! folder, so that one which was changed, cut short or made by somebody else is refused. The secret never
//! leaves its folder. Mode 0600, replaced as a whole.

use super::Error;
use super::keys::{Outlives, read_private_bytes, write_private_bytes};
use super::secret;
use aws_lc_rs::hmac;
use std::io;
use std::path::Path;

/// Bytes of the code at the end of a sealed file.
const CODE_BYTES: usize = 32;

/// Bytes of a secret.
const SECRET_BYTES: usize = 32;

/// Seals files under one secret.
pub struct Seal(hmac::Key);

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seal(..)")
    }
}

impl Seal {
    /// The seal whose secret rests at `path`, made if there is none.
    ///
    /// # Errors
    /// If the file can't be read or written, or may be read by others.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let secret = match read_private_bytes(path, SECRET_BYTES + 1) {
            Ok(secret) if secret.len() == SECRET_BYTES => secret,
            Ok(_) => return Err(Error::Malformed("seal")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = secret::random()?;
                write_private_bytes(path, &[&made], Outlives::PowerLoss).map_err(Error::File)?;
                made.to_vec()
            }
            Err(error) => return Err(Error::File(error)),
        };
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &secret)))
    }

    /// Writes a file, atomically. `purpose` is sealed with it: a file is never taken for another.
    ///
    /// # Errors
    /// If the folder can't be written.
    pub fn write(&self, path: &Path, purpose: &str, bytes: &[u8], outlives: Outlives) -> io::Result<()> {
        write_private_bytes(path, &[bytes, self.code(purpose, bytes).as_ref()], outlives)
    }

    /// The content of a file that [`Self::write`] wrote, of at most `bytes_max`.
    ///
    /// # Errors
    /// If it's missing, may be read by others, is longer, or isn't whole and unchanged.
    pub fn read(&self, path: &Path, purpose: &str, bytes_max: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = read_private_bytes(path, bytes_max + CODE_BYTES + 1).map_err(Error::File)?;
        if bytes.len() > bytes_max + CODE_BYTES {
            return Err(Error::Amount("bytes of a sealed file"));
        }
        let at = bytes.len().checked_sub(CODE_BYTES).ok_or(Error::Malformed("sealed file"))?;
        let code = bytes.split_off(at);
        let given = [purpose.as_bytes(), b"\n", &bytes].concat();
        hmac::verify(&self.0, &given, &code).map_err(|_| Error::Malformed("sealed file"))?;
        Ok(bytes)
    }

    fn code(&self, purpose: &str, bytes: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(purpose.as_bytes());
        context.update(b"\n");
        context.update(bytes);
        context.sign()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_written_so_is_refused() {
        let folder = std::env::temp_dir().join(format!("byrnie-seal-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (path, secret) = (folder.join("file"), folder.join("seal"));
        let seal = Seal::open(&secret).unwrap();
        seal.write(&path, "view", b"content", Outlives::Process).unwrap();
        let read = |purpose: &str| Seal::open(&secret).unwrap().read(&path, purpose, 100);
        assert_eq!(read("view").unwrap(), b"content");
        assert!(read("other").is_err(), "a file of another purpose");
        assert!(matches!(seal.read(&path, "view", 3), Err(Error::Amount(_))));
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            std::fs::write(&path, &changed).unwrap();
            assert!(read("view").is_err(), "byte {at} changed");
            std::fs::write(&path, &whole[..at]).unwrap();
            assert!(read("view").is_err(), "cut at {at}");
        }
        std::fs::write(&path, &whole).unwrap();
        assert!(read("view").is_ok());
        std::fs::write(&secret, [7; SECRET_BYTES]).unwrap();
        assert!(read("view").is_err(), "another secret");
        std::fs::write(&secret, [7; 3]).unwrap();
        assert!(Seal::open(&secret).is_err());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
