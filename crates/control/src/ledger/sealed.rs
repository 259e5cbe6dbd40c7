// SPDX-License-Identifier: Apache-2.0
//! A ledger whose answers rest sealed, under `keys`.

use crate::keys::Keys;
use byrnie_base::Text;
use byrnie_net::tls::Form;
use byrnie_saga::ledger::{Begin, Begun, Claim, Ending, Entry, Fingerprint, Finished, Kept, Name, State};
use byrnie_store::ledger::Neighbour;
use byrnie_store::{Error, Ledger, Pending};
use std::sync::Arc;

/// A ledger, and the keys of its answers.
pub struct Sealed {
    ledger: Arc<dyn Ledger>,
    keys: Arc<Keys>,
}

impl Sealed {
    /// Seals what `ledger` is given. The keys are read again with each sweep, so that they are changed without a restart.
    pub fn new(ledger: Arc<dyn Ledger>, keys: Arc<Keys>) -> Self {
        Self { ledger, keys }
    }

    fn seal(&self, name: &Name, request: Fingerprint, ending: Ending) -> Result<Ending, Error> {
        match ending {
            Ending::Done(kept) => Ok(Ending::Done(self.keys.seal(&purpose(name, Some(request)), kept)?)),
            other => Ok(other),
        }
    }

    fn unseal(&self, name: &Name, request: Fingerprint, kept: Kept) -> Result<Kept, Error> {
        let purpose = |form: Form| purpose(name, Some(request).filter(|_| form == Form::Newest));
        self.keys.unseal(purpose, kept).map_err(|why| {
            tracing::error!(service = %name.service, %why, "a kept answer can't be read: put its key back into the file");
            Error::Sealed(Text::from(why.to_string()))
        })
    }
}

/// An answer is sealed for its key and its request: put under another key, or beside the digest of another request, it doesn't open. The older
/// form was sealed for the key alone. No part of a name has a NUL.
fn purpose(name: &Name, request: Option<Fingerprint>) -> Vec<u8> {
    let name = [&*name.service, &*name.caller, &*name.key].join("\0");
    match request {
        Some(Fingerprint(digest)) => [name.as_bytes(), b"\0", &digest].concat(),
        None => name.into_bytes(),
    }
}

impl Ledger for Sealed {
    fn begin(&self, name: Name, ask: Begin) -> Pending<'_, Begun> {
        Box::pin(async move {
            // Else the request would run, and what it answers couldn't be kept.
            if self.keys.is_short() {
                return Err(Error::Refused("there is no key that seals its answer".into()));
            }
            match self.ledger.begin(name.clone(), ask).await? {
                // It is of the same request, by what stands there.
                Begun::Done(kept) => Ok(Begun::Done(self.unseal(&name, ask.fingerprint, kept)?)),
                other => Ok(other),
            }
        })
    }

    fn finish(&self, name: Name, claim: Claim, ending: Ending) -> Pending<'_, Finished> {
        Box::pin(async move {
            if !matches!(ending, Ending::Done(_)) || !self.keys.seals() {
                return self.ledger.finish(name, claim, ending).await;
            }
            // Without an entry no execution holds the key.
            let Some(entry) = self.ledger.read(name.clone()).await? else { return Ok(Finished::Fenced) };
            self.finish_request(name, entry.fingerprint, claim, ending).await
        })
    }

    fn finish_request(&self, name: Name, request: Fingerprint, claim: Claim, ending: Ending) -> Pending<'_, Finished> {
        Box::pin(async move {
            let ending = self.seal(&name, request, ending)?;
            self.ledger.finish(name, claim, ending).await
        })
    }

    fn read(&self, name: Name) -> Pending<'_, Option<Entry>> {
        Box::pin(async move {
            let Some(mut entry) = self.ledger.read(name.clone()).await? else { return Ok(None) };
            if let State::Done(kept) = entry.state {
                entry.state = State::Done(self.unseal(&name, entry.fingerprint, kept)?);
            }
            Ok(Some(entry))
        })
    }

    fn sweep(&self) -> Pending<'_, usize> {
        self.keys.refresh();
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
    use byrnie_net::tls::{self, Keyring};
    use byrnie_store::disk::RamDisk;
    use byrnie_store::ledger::Memory;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    fn sealed(ledger: &Arc<dyn Ledger>, shared: Option<PathBuf>, own: &Path) -> Result<Sealed, tls::Error> {
        let keys = Keys::open(shared, own.to_owned(), ledger.is_shared())?;
        Ok(Sealed::new(Arc::clone(ledger), keys))
    }

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
        let request = ask(1).fingerprint;
        ledger.finish_request(name(key), request, Claim(1), Ending::Done(answer.into())).await.unwrap();
    }

    async fn kept(ledger: &dyn Ledger, key: &str) -> Result<Vec<u8>, Error> {
        let found = ledger.begin(name(key), ask(2)).await?;
        let Begun::Done(answer) = found else { panic!("{found:?}") };
        let read = ledger.read(name(key)).await?.map(|entry| entry.state);
        assert_eq!(read, Some(State::Done(answer.clone())));
        Ok(answer.to_vec())
    }

    /// An answer is replayed to the request that it is of: whoever writes to the store can't have it given to another, not even of its own key.
    #[test]
    fn rows_that_change_places_are_not_replayed() {
        let folder = tempfile::tempdir().unwrap();
        runtime::block_on(async {
            let bare: Arc<dyn Ledger> = Arc::new(Memory::open(&RamDisk::new(), Arc::new(*runtime::clock())).unwrap());
            let own = folder.path().join("ledger.keys");
            let ledger = sealed(&bare, None, &own).unwrap();
            keep(&ledger, "pay", b"card 4711").await;
            let row = kept(&*bare, "pay").await.unwrap();
            // The same answer under the same key, beside the digest of a request that somebody else would rather have it for; and as if it
            // were of the form that was for any request.
            let mut older = row.clone();
            older[0] = Form::Older as u8;
            for moved in [row.clone(), older] {
                let bare: Arc<dyn Ledger> =
                    Arc::new(Memory::open(&RamDisk::new(), Arc::new(*runtime::clock())).unwrap());
                let stolen = Begin { fingerprint: Fingerprint([2; 32]), ..ask(1) };
                bare.begin(name("pay"), stolen).await.unwrap();
                bare.finish(name("pay"), Claim(1), Ending::Done(moved.into())).await.unwrap();
                let ledger = sealed(&bare, None, &own).unwrap();
                assert!(matches!(ledger.begin(name("pay"), stolen).await, Err(Error::Sealed(_))));
                assert!(matches!(ledger.read(name("pay")).await, Err(Error::Sealed(_))));
            }
            keep(&*bare, "other", &row).await;
            assert!(matches!(kept(&ledger, "other").await, Err(Error::Sealed(_))));
            assert_eq!(kept(&ledger, "pay").await.unwrap(), b"card 4711");
            // A proxy of before doesn't say what the request was: that stands in the row.
            ledger.begin(name("silent"), ask(1)).await.unwrap();
            assert_eq!(
                ledger.finish(name("silent"), Claim(1), Ending::Done(b"one"[..].into())).await,
                Ok(Finished::Recorded)
            );
            assert_eq!(kept(&ledger, "silent").await.unwrap(), b"one");
            assert_eq!(
                ledger.finish(name("gone"), Claim(1), Ending::Done(b"one"[..].into())).await,
                Ok(Finished::Fenced)
            );
        })
        .unwrap();
    }

    /// `card 4711`, by a program that sealed answers for their key alone; the key of AES is 32 times 5c.
    #[rustfmt::skip]
    const OLDER: [u8; 46] = [
        1, 62, 249, 68, 131, 151, 174, 47, 153, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 152, 84,
        175, 218, 228, 64, 142, 99, 198, 29, 218, 166, 81, 127, 104, 24, 209, 0, 61, 27, 163, 180, 131, 15, 175,
    ];

    /// What a program wrote that sealed answers for their key alone.
    #[test]
    fn answers_of_the_older_form_are_replayed() {
        let folder = tempfile::tempdir().unwrap();
        let shared = folder.path().join("shared");
        byrnie_net::tls::keys::write_private(&shared, &[&"5c".repeat(32)]).unwrap();
        runtime::block_on(async {
            let bare: Arc<dyn Ledger> = Arc::new(Memory::open(&RamDisk::new(), Arc::new(*runtime::clock())).unwrap());
            keep(&*bare, "old", &OLDER).await;
            let ledger = sealed(&bare, Some(shared), &folder.path().join("ledger.keys")).unwrap();
            assert_eq!(kept(&ledger, "old").await.unwrap(), b"card 4711");
        })
        .unwrap();
    }

    #[test]
    fn keys_go_on_when_their_file_goes_away() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("ledger.keys");
        runtime::block_on(async {
            let bare: Arc<dyn Ledger> = Arc::new(Memory::open(&RamDisk::new(), Arc::new(*runtime::clock())).unwrap());
            let ledger = sealed(&bare, None, &own).unwrap();
            keep(&ledger, "before", b"card 4711").await;
            std::fs::remove_file(&own).unwrap();
            ledger.sweep().await.unwrap();
            keep(&ledger, "after", b"card 4712").await;
            assert_eq!(Keyring::form(&kept(&*bare, "after").await.unwrap()), Some(Form::Newest));
            assert_eq!(kept(&ledger, "before").await.unwrap(), b"card 4711");
            assert!(!own.exists(), "another key would seal what the old one has to open");
            // Without any nothing begins.
            *ledger.keys.ring.write().unwrap() = Arc::default();
            assert!(matches!(ledger.begin(name("none"), ask(1)).await, Err(Error::Refused(_))));
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
            let ledger = sealed(&bare, None, &own).unwrap();
            keep(&ledger, "own", b"card 4711").await;
            assert_eq!(kept(&ledger, "own").await.unwrap(), b"card 4711");
            assert_eq!(kept(&ledger, "before").await.unwrap(), b"\x08\x01 as it was");
            let rests = kept(&*bare, "own").await.unwrap();
            assert!(Keyring::form(&rests).is_some() && !rests.windows(4).any(|four| four == b"4711"), "{rests:?}");
            // Put under another key it doesn't open.
            keep(&*bare, "other", &rests).await;
            assert!(matches!(kept(&ledger, "other").await, Err(Error::Sealed(_))));
            // A file for all seals from now on; what the own key sealed is read still.
            let write = |lines: &str| byrnie_net::tls::keys::write_private(&shared, &[lines]).unwrap();
            let (first, second) = ("a1".repeat(32), "b2".repeat(32));
            write(&first);
            let ledger = sealed(&bare, Some(shared.clone()), &own).unwrap();
            keep(&ledger, "first", b"one").await;
            write(&format!("{second}\n{first}\n"));
            ledger.sweep().await.unwrap();
            keep(&ledger, "second", b"two").await;
            for (key, answer) in [("own", &b"card 4711"[..]), ("first", b"one"), ("second", b"two")] {
                assert_eq!(kept(&ledger, key).await.unwrap(), answer);
            }
            write("not a key");
            ledger.sweep().await.unwrap();
            assert_eq!(kept(&ledger, "first").await.unwrap(), b"one", "keys go on that were read before");
            let refused = sealed(&bare, Some(shared.clone()), &own).map(drop);
            assert!(refused.unwrap_err().to_string().contains("64 digits"));
            write(&second);
            ledger.sweep().await.unwrap();
            (kept(&ledger, "second").await, kept(&ledger, "first").await)
        })
        .unwrap();
        assert_eq!(answers.0.unwrap(), b"two");
        let missing = answers.1.unwrap_err().to_string();
        assert!(missing.contains("sealed by the key ") && missing.contains("idempotent-requests.md"), "{missing}");
    }
}
