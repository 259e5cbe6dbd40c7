// SPDX-License-Identifier: Apache-2.0
//! A ledger whose answers rest sealed: they may hold personal data, and lie in a file or a database that others may read or copy. Who may
//! read the keys reads the answers; what was kept before anything was sealed is read as it is.

use byrnie_base::Text;
use byrnie_net::tls::{self, Keyring};
use byrnie_saga::ledger::{Begin, Begun, Claim, Ending, Entry, Finished, Kept, Name, State};
use byrnie_store::ledger::Neighbour;
use byrnie_store::{Error, Ledger, Pending};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

/// A ledger, and the keys of its answers.
pub struct Sealed {
    ledger: Arc<dyn Ledger>,
    keys: RwLock<Arc<Keyring>>,
    files: Files,
}

/// Where the keys are.
struct Files {
    /// Those of all who keep the ledger.
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

impl Sealed {
    /// Seals what `ledger` is given by the first key of the file `shared`, or of `own`, which is made if it isn't there. A ledger that others
    /// keep as well gets what all can read: without `shared` nothing is sealed. All keys of both files open. They are read again with each
    /// sweep, so that keys are changed without a restart; what can't be read then, or is gone, leaves those that were read before.
    ///
    /// # Errors
    /// If a file can't be read, or may be read by others, or isn't one of keys.
    pub fn open(ledger: Arc<dyn Ledger>, shared: Option<PathBuf>, own: PathBuf) -> Result<Self, tls::Error> {
        if shared.is_none() && !ledger.is_shared() {
            Keyring::open(&own)?;
        }
        // Looked for now alone: one that goes away later is an error, not a control plane without keys.
        let own = own.try_exists().map_err(tls::Error::File)?.then_some(own);
        let files = Files { shared, own };
        Ok(Self { ledger, keys: RwLock::new(Arc::new(files.read()?)), files })
    }

    /// Whether what it is given is sealed.
    pub fn seals(&self) -> bool {
        self.files.shared.is_some() || !self.ledger.is_shared()
    }

    fn keys(&self) -> Arc<Keyring> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes the keys that stand in the files now.
    fn refresh(&self) {
        match self.files.read() {
            Ok(keys) => *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys),
            Err(error) => tracing::warn!(%error, "the keys of kept answers can't be read; those read before go on"),
        }
    }

    fn seal(&self, name: &Name, ending: Ending) -> Result<Ending, Error> {
        let kept = match ending {
            Ending::Done(kept) if self.seals() => kept,
            other => return Ok(other),
        };
        let refused = |error: tls::Error| Error::Refused(error.to_string().into());
        Ok(Ending::Done(self.keys().seal(&purpose(name), &kept).map_err(refused)?.into()))
    }

    fn unseal(&self, name: &Name, kept: Kept) -> Result<Kept, Error> {
        if !Keyring::is_sealed(&kept) {
            return Ok(kept);
        }
        let opened = self.keys().unseal(&purpose(name), &kept).map_err(|why| {
            tracing::error!(service = %name.service, %why, "a kept answer can't be read: put its key back into the file");
            Error::Sealed(Text::from(why.to_string()))
        })?;
        Ok(opened.into())
    }
}

/// An answer is sealed for its key: put under another it doesn't open. No part of a name has a NUL.
fn purpose(name: &Name) -> Vec<u8> {
    [&*name.service, &*name.caller, &*name.key].join("\0").into_bytes()
}

impl Ledger for Sealed {
    fn begin(&self, name: Name, ask: Begin) -> Pending<'_, Begun> {
        Box::pin(async move {
            // Else the request would run, and what it answers couldn't be kept.
            if self.seals() && self.keys().is_empty() {
                return Err(Error::Refused("there is no key that seals its answer".into()));
            }
            match self.ledger.begin(name.clone(), ask).await? {
                Begun::Done(kept) => Ok(Begun::Done(self.unseal(&name, kept)?)),
                other => Ok(other),
            }
        })
    }

    fn finish(&self, name: Name, claim: Claim, ending: Ending) -> Pending<'_, Finished> {
        Box::pin(async move {
            let ending = self.seal(&name, ending)?;
            self.ledger.finish(name, claim, ending).await
        })
    }

    fn read(&self, name: Name) -> Pending<'_, Option<Entry>> {
        Box::pin(async move {
            let Some(mut entry) = self.ledger.read(name.clone()).await? else { return Ok(None) };
            if let State::Done(kept) = entry.state {
                entry.state = State::Done(self.unseal(&name, kept)?);
            }
            Ok(Some(entry))
        })
    }

    fn sweep(&self) -> Pending<'_, usize> {
        self.refresh();
        self.ledger.sweep()
    }

    fn is_shared(&self) -> bool {
        self.ledger.is_shared()
    }

    fn meet(&self, own: Neighbour) -> Pending<'_, Vec<Neighbour>> {
        self.ledger.meet(own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use byrnie_net::runtime;
    use byrnie_saga::ledger::Fingerprint;
    use byrnie_store::disk::RamDisk;
    use byrnie_store::ledger::Memory;
    use std::time::Duration;

    fn name(key: &str) -> Name {
        Name { service: "pay.default".into(), caller: "spiffe://mesh.local/ns/default/sa/web".into(), key: key.into() }
    }

    fn ask(claim: u64) -> Begin {
        let (lease, ttl) = (Duration::from_secs(60), Duration::from_secs(600));
        Begin { fingerprint: Fingerprint([1; 32]), claim: Claim(claim), lease, ttl, again: false }
    }

    async fn keep(ledger: &dyn Ledger, key: &str, answer: &[u8]) {
        let begun = ledger.begin(name(key), ask(1)).await.unwrap();
        assert_eq!(begun, Begun::Granted { again: false });
        ledger.finish(name(key), Claim(1), Ending::Done(answer.into())).await.unwrap();
    }

    async fn kept(ledger: &dyn Ledger, key: &str) -> Result<Vec<u8>, Error> {
        let found = ledger.begin(name(key), ask(2)).await?;
        let Begun::Done(answer) = found else { panic!("{found:?}") };
        let read = ledger.read(name(key)).await?.map(|entry| entry.state);
        assert_eq!(read, Some(State::Done(answer.clone())));
        Ok(answer.to_vec())
    }

    #[test]
    fn keys_go_on_when_their_file_goes_away() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("ledger.keys");
        runtime::block_on(async {
            let bare: Arc<dyn Ledger> = Arc::new(Memory::open(&RamDisk::new(), Arc::new(*runtime::clock())).unwrap());
            let sealed = Sealed::open(Arc::clone(&bare), None, own.clone()).unwrap();
            keep(&sealed, "before", b"card 4711").await;
            std::fs::remove_file(&own).unwrap();
            sealed.sweep().await.unwrap();
            keep(&sealed, "after", b"card 4712").await;
            assert!(Keyring::is_sealed(&kept(&*bare, "after").await.unwrap()));
            assert_eq!(kept(&sealed, "before").await.unwrap(), b"card 4711");
            assert!(!own.exists(), "another key would seal what the old one has to open");
            // Without any nothing begins.
            *sealed.keys.write().unwrap() = Arc::default();
            assert!(matches!(sealed.begin(name("none"), ask(1)).await, Err(Error::Refused(_))));
            assert_eq!(bare.read(name("none")).await.unwrap(), None);
        })
        .unwrap();
    }

    #[test]
    fn answers_rest_sealed_and_are_read_while_keys_change() {
        let folder = tempfile::tempdir().unwrap();
        let (own, shared) = (folder.path().join("ledger.keys"), folder.path().join("shared"));
        let answers = runtime::block_on(async {
            let clock = Arc::new(*runtime::clock());
            let bare: Arc<dyn Ledger> = Arc::new(Memory::open(&RamDisk::new(), clock).unwrap());
            keep(&*bare, "before", b"\x08\x01 as it was").await;
            let sealed = Sealed::open(Arc::clone(&bare), None, own.clone()).unwrap();
            keep(&sealed, "own", b"card 4711").await;
            assert_eq!(kept(&sealed, "own").await.unwrap(), b"card 4711");
            assert_eq!(kept(&sealed, "before").await.unwrap(), b"\x08\x01 as it was");
            let rests = kept(&*bare, "own").await.unwrap();
            assert!(Keyring::is_sealed(&rests) && !rests.windows(4).any(|four| four == b"4711"), "{rests:?}");
            // Put under another key it doesn't open.
            keep(&*bare, "other", &rests).await;
            assert!(matches!(kept(&sealed, "other").await, Err(Error::Sealed(_))));
            // A file for all seals from now on; what the own key sealed is read still.
            let write = |lines: &str| byrnie_net::tls::keys::write_private(&shared, &[lines]).unwrap();
            let (first, second) = ("a1".repeat(32), "b2".repeat(32));
            write(&first);
            let sealed = Sealed::open(Arc::clone(&bare), Some(shared.clone()), own.clone()).unwrap();
            keep(&sealed, "first", b"one").await;
            write(&format!("{second}\n{first}\n"));
            sealed.sweep().await.unwrap();
            keep(&sealed, "second", b"two").await;
            for (key, answer) in [("own", &b"card 4711"[..]), ("first", b"one"), ("second", b"two")] {
                assert_eq!(kept(&sealed, key).await.unwrap(), answer);
            }
            write("not a key");
            sealed.sweep().await.unwrap();
            assert_eq!(kept(&sealed, "first").await.unwrap(), b"one", "keys go on that were read before");
            let refused = Sealed::open(Arc::clone(&bare), Some(shared.clone()), own.clone()).map(drop);
            assert!(refused.unwrap_err().to_string().contains("64 digits"));
            write(&second);
            sealed.sweep().await.unwrap();
            (kept(&sealed, "second").await, kept(&sealed, "first").await)
        })
        .unwrap();
        assert_eq!(answers.0.unwrap(), b"two");
        let missing = answers.1.unwrap_err().to_string();
        assert!(missing.contains("sealed by the key ") && missing.contains("idempotent-requests.md"), "{missing}");
    }
}
