// SPDX-License-Identifier: Apache-2.0
//! What connections are kept for, and a table by it. Looked up once or twice for each request, so that looking
//! up copies nothing and hashes the address alone: hardly ever do two keys share one.

use byrnie_base::Text;
use byrnie_base::hash::BuildQuick;
use byrnie_model::Identity;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;

/// What a connection was opened for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Where to.
    pub address: SocketAddr,
    /// Who must be there and what is asked for, if it's a mesh hop.
    pub hop: Option<(Identity, Text)>,
    /// Which of our own credentials were shown; raised when they are renewed. For what isn't a mesh hop, which check a
    /// host outside has passed; 0 for none.
    pub generation: u64,
    /// Tells several connections to one place apart that aren't the same to who asks: 0 where that plays no part.
    pub way: u8,
    /// What is spoken on it.
    pub speaks: Speaks,
}

/// A [`Key`] that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked<'a> {
    /// Where to.
    pub address: SocketAddr,
    /// Who must be there and what is asked for, if it's a mesh hop.
    pub hop: Option<(&'a Identity, &'a str)>,
    /// Which of our own credentials are shown, or which check a host outside has to pass.
    pub generation: u64,
    /// Which of several connections to one place is wanted.
    pub way: u8,
    /// What is spoken on it.
    pub speaks: Speaks,
}

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Speaks {
    /// HTTP/1, one exchange at a time.
    Http1,
    /// HTTP/2.
    Http2,
    /// The framing between two proxies.
    Hop,
}

impl Key {
    fn asked(&self) -> Asked<'_> {
        let Self { address, hop, generation, way, speaks } = self;
        let hop = hop.as_ref().map(|(identity, name)| (identity, name.as_str()));
        Asked { address: *address, hop, generation: *generation, way: *way, speaks: *speaks }
    }
}

impl Asked<'_> {
    /// The key, to be kept.
    pub fn key(&self) -> Rc<Key> {
        let Self { address, hop, generation, way, speaks } = *self;
        let hop = hop.map(|(identity, name)| (identity.clone(), name.into()));
        Rc::new(Key { address, hop, generation, way, speaks })
    }
}

/// Values by key.
#[derive(Debug)]
pub(super) struct Places<V>(HashMap<SocketAddr, Vec<(Rc<Key>, V)>, BuildQuick>);

impl<V> Default for Places<V> {
    fn default() -> Self {
        Self(HashMap::default())
    }
}

impl<V> Places<V> {
    pub(super) fn get(&mut self, asked: &Asked<'_>) -> Option<&mut (Rc<Key>, V)> {
        self.0.get_mut(&asked.address)?.iter_mut().find(|(key, _)| key.asked() == *asked)
    }

    /// What is kept for the same under an earlier generation.
    pub(super) fn older(&mut self, asked: &Asked<'_>) -> Option<&V> {
        let same = |key: &Key| key.asked() == Asked { generation: key.generation, ..*asked };
        let found = self.0.get(&asked.address)?.iter();
        found.filter(|(key, _)| key.generation < asked.generation && same(key)).map(|(_, value)| value).next_back()
    }

    /// The value of `key`, made if there is none.
    pub(super) fn of(&mut self, key: Rc<Key>) -> &mut V
    where
        V: Default,
    {
        let found = self.0.entry(key.address).or_default();
        let at = found.iter().position(|(known, _)| Rc::ptr_eq(known, &key) || **known == *key);
        let at = at.unwrap_or_else(|| {
            found.push((key, V::default()));
            found.len() - 1
        });
        &mut found[at].1
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Key, &mut V) -> bool) {
        self.0.retain(|_, found| {
            found.retain_mut(|(key, value)| keep(key, value));
            !found.is_empty()
        });
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.0.values().flatten().map(|(_, value)| value)
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
