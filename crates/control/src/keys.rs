// SPDX-License-Identifier: Apache-2.0
//! The keys under which answers rest: those of keyed requests (`ledger/sealed`), and what is kept of transactions (`transactions/sealed`). Both
//! may hold personal data, and lie in a file or a database that others may read or copy. Who may read the keys reads them; what was kept
//! before anything was sealed is read as it is.

use byrnie_net::tls::{self, Form, Keyring, Unreadable};
use byrnie_store::Error;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

/// Keys, read again from their files while they are in use.
pub struct Keys {
    pub(crate) ring: RwLock<Arc<Keyring>>,
    files: Files,
    seals: bool,
}

/// Where the keys are.
struct Files {
    /// Those of all who keep what is sealed.
    shared: Option<PathBuf>,
    /// Those of this control plane alone, if it has any.
    own: Option<PathBuf>,
}

impl Files {
    fn read(&self) -> Result<Keyring, tls::Error> {
        let read = |path: &Option<PathBuf>| path.as_deref().map(Keyring::read).transpose();
        Ok(read(&self.shared)?.unwrap_or_default().and(read(&self.own)?.unwrap_or_default()))
    }
}

impl Keys {
    /// The keys of the file `shared`, and of `own`, which is made if it isn't there; the first of them seals. What others keep as well
    /// (`with_others`) has to be what all can read: without `shared` nothing of it is sealed. All keys of both files open. What can't be read when the
    /// files are read again, or is gone, leaves those that were read before.
    ///
    /// # Errors
    /// If a file can't be read, or may be read by others, or isn't one of keys.
    pub fn open(shared: Option<PathBuf>, own: PathBuf, with_others: bool) -> Result<Arc<Self>, tls::Error> {
        let seals = shared.is_some() || !with_others;
        if shared.is_none() && seals {
            Keyring::open(&own)?;
        }
        // Looked for now alone: one that goes away later is an error, not a control plane without keys.
        let own = own.try_exists().map_err(tls::Error::File)?.then_some(own);
        let files = Files { shared, own };
        Ok(Arc::new(Self { ring: RwLock::new(Arc::new(files.read()?)), files, seals }))
    }

    /// Whether what is kept is sealed.
    pub fn seals(&self) -> bool {
        self.seals
    }

    /// Whether there are keys that an operator has given, beside those that a control plane makes for itself.
    pub(crate) fn is_given(&self) -> bool {
        self.files.shared.is_some()
    }

    /// Whether something is to be sealed and can't be.
    pub(crate) fn is_short(&self) -> bool {
        self.seals && self.ring().is_empty()
    }

    fn ring(&self) -> Arc<Keyring> {
        Arc::clone(&self.ring.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes the keys that stand in the files now.
    pub(crate) fn refresh(&self) {
        match self.files.read() {
            Ok(ring) => *self.ring.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ring),
            Err(error) => tracing::warn!(%error, "the keys of what is sealed can't be read; those read before go on"),
        }
    }

    /// Seals what is kept for `purpose`; as it is, if nothing is sealed.
    pub(crate) fn seal<B: AsRef<[u8]> + From<Vec<u8>>>(&self, purpose: &[u8], kept: B) -> Result<B, Error> {
        if !self.seals {
            return Ok(kept);
        }
        let sealed = self.ring().seal(purpose, kept.as_ref());
        sealed.map(B::from).map_err(|error| Error::Refused(error.to_string().into()))
    }

    /// What was given to [`Self::seal`], for the purpose that belongs to the form; what was never sealed is as it was.
    pub(crate) fn unseal<B>(&self, purpose: impl FnOnce(Form) -> Vec<u8>, kept: B) -> Result<B, Unreadable>
    where
        B: AsRef<[u8]> + From<Vec<u8>>,
    {
        match Keyring::form(kept.as_ref()) {
            None => Ok(kept),
            Some(form) => self.ring().unseal(&purpose(form), kept.as_ref()).map(B::from),
        }
    }
}
