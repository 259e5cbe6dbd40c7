// SPDX-License-Identifier: Apache-2.0
//! The last good view on disk, so that a proxy which starts while the control plane is away serves what it
//! served before. Written before what it holds is acknowledged: what the disk has is never older than
//! what the control plane was told, but for endpoints, which are written a moment later. Sealed: what was
//! changed, cut short, put back from earlier or made for another proxy is refused.

use byrnie_model::resource::Spec;
use byrnie_model::{Delta, Health, Key, Kind, Resource, Revision};
use byrnie_net::tls::{Outlives, Seal};
use byrnie_xds::kept::{Kept, Origin, decode, encode};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(test)]
mod tests;

/// Largest view that is kept.
const BYTES_MAX: usize = 64 << 20;
/// Files in the state directory.
const VIEW: &str = "view";
const NEWEST: &str = "view.newest";
const SEAL: &str = "view.seal";

/// The last good view of one proxy.
#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    seal: Seal,
    origin: Origin,
    resources: BTreeMap<Key, Arc<Resource>>,
    revision: Revision,
    /// Taken in on the way to a revision that isn't reached yet: beside the rest it's no state to start from.
    pending: BTreeMap<Key, Option<Arc<Resource>>>,
    /// Something of it isn't written yet.
    dirty: bool,
    /// Something of what is written would be lost with the power.
    unsynced: bool,
    /// The last write failed, and that was said.
    failing: bool,
}

/// Why no view was found.
#[derive(Debug)]
pub(crate) enum Refused {
    /// There is none.
    Absent,
    /// There is one that can't be trusted or read.
    Unfit(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("there is none"),
            Self::Unfit(why) => f.write_str(why),
        }
    }
}

/// The view that was kept in a state directory.
pub(crate) fn load(folder: &Path) -> Result<Kept, Refused> {
    if !folder.join(VIEW).exists() {
        return Err(Refused::Absent);
    }
    let unfit = |error: byrnie_net::tls::Error| Refused::Unfit(error.to_string());
    let seal = Seal::open(&folder.join(SEAL)).map_err(unfit)?;
    let bytes = seal.read(&folder.join(VIEW), VIEW, BYTES_MAX).map_err(unfit)?;
    let newest = seal.read(&folder.join(NEWEST), NEWEST, 8).map_err(unfit)?;
    let kept = decode(&bytes).ok_or_else(|| Refused::Unfit("it is of another form".to_owned()))?;
    let newest = <[u8; 8]>::try_from(newest).map_or(u64::MAX, u64::from_le_bytes);
    if kept.revision.0 < newest {
        let why = format!("it is of revision {}, and {newest} was acknowledged", kept.revision);
        return Err(Refused::Unfit(why));
    }
    Ok(kept)
}

/// What is put in force of a view where nobody can say how the endpoints are now: one that was unwell is asked like the others, as it
/// may long be well.
pub(super) fn whoever_was_well(mut kept: Kept) -> Kept {
    for resource in &mut kept.resources {
        if matches!(&resource.spec, Spec::Endpoint(endpoint) if endpoint.health == Health::Unhealthy)
            && let Spec::Endpoint(endpoint) = &mut Arc::make_mut(resource).spec
        {
            endpoint.health = Health::Healthy;
        }
    }
    kept
}

impl Cache {
    /// The cache of a proxy, which begins with what was kept. `None` with a warning if its folder can't be used.
    pub(super) fn open(folder: &Path, origin: Origin, kept: Option<&Kept>) -> Option<Self> {
        let seal = Seal::open(&folder.join(SEAL));
        let seal = seal
            .inspect_err(|error| tracing::warn!(%error, folder = %folder.display(), "the last good view can't be kept"))
            .ok()?;
        let resources = kept.into_iter().flat_map(|kept| &kept.resources).map(|r| (r.key.clone(), Arc::clone(r)));
        Some(Self {
            folder: folder.to_owned(),
            seal,
            origin,
            resources: resources.collect(),
            pending: BTreeMap::new(),
            revision: kept.map_or(Revision(0), |kept| kept.revision),
            dirty: false,
            unsynced: false,
            failing: false,
        })
    }

    /// Takes in what the compiler took in. Whether that must be on the disk before it's acknowledged.
    pub(super) fn apply(&mut self, delta: &Delta, refused: &[Key]) -> bool {
        let changed = delta.changed.iter().filter(|resource| !refused.contains(&resource.key));
        let changed = changed.map(|resource| (resource.key.clone(), Some(Arc::clone(resource))));
        let removed = delta.removed.iter().map(|key| (key.clone(), None));
        let mut urgent = false;
        for (key, resource) in changed.chain(removed) {
            urgent |= key.kind != Kind::Endpoint;
            self.pending.insert(key, resource);
        }
        urgent
    }

    /// What was taken in so far is the configuration of this revision.
    pub(super) fn reached(&mut self, revision: Revision) {
        self.dirty |= self.revision != revision || !self.pending.is_empty();
        self.revision = revision;
        for (key, resource) in std::mem::take(&mut self.pending) {
            match resource {
                Some(resource) => self.resources.insert(key, resource),
                None => self.resources.remove(&key),
            };
        }
    }

    /// Whether a loss of power would lose something.
    pub(super) const fn is_dirty(&self) -> bool {
        self.dirty || self.unsynced
    }

    /// Writes what isn't written yet. A disk that refuses is said once, and tried again.
    pub(super) fn save(&mut self, outlives: Outlives) {
        let due = self.dirty || (self.unsynced && outlives == Outlives::PowerLoss);
        if !due {
            return;
        }
        match self.write(outlives) {
            Ok(()) => (self.dirty, self.unsynced, self.failing) = (false, outlives == Outlives::Process, false),
            Err(error) if !self.failing => {
                self.failing = true;
                let code = byrnie_model::code::DATA_DIR.id;
                tracing::warn!(code, %error, folder = %self.folder.display(), "the last good view can't be kept; traffic goes on");
            }
            Err(_) => {}
        }
    }

    fn write(&self, outlives: Outlives) -> std::io::Result<()> {
        let bytes = encode(&self.origin, self.revision, self.resources.values());
        if bytes.len() > BYTES_MAX {
            return Err(std::io::Error::other(format!("it is longer than {BYTES_MAX} bytes")));
        }
        self.seal.write(&self.folder.join(VIEW), VIEW, &bytes, outlives)?;
        // After the view: a crash in between leaves a view that is newer than it says, which is fine.
        self.seal.write(&self.folder.join(NEWEST), NEWEST, &self.revision.0.to_le_bytes(), outlives)
    }
}
