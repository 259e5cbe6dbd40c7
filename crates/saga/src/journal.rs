// SPDX-License-Identifier: Apache-2.0
//! What is written down of a transaction, and read again after a crash. A transaction's state is what its
//! entries say, in their order; the same entries are its history. The store keeps their bytes.

use crate::transaction::{Branch, End, Op, Phase, Slot, Spec};
use byrnie_base::{Text, Timestamp};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The newest format that this program knows; one that is newer is refused.
/// 2: calls with expressions (`late`), and branches that are answered before they are undone.
/// 3: sagas within sagas.
pub const VERSION: u32 = 3;

/// The oldest format that says all of a transaction, in which it's written: an older program that shares the journal goes on with it.
pub fn version(spec: &Spec) -> u32 {
    let nested = spec.parent.is_some() || spec.branches.iter().any(|branch| branch.child.is_some());
    if nested { 3 } else { 2 }
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// When, by the coordinator's clock.
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "lowercase")]
pub enum What {
    /// It was accepted.
    Begun {
        /// As asked for.
        spec: Arc<Spec>,
        /// The format of this transaction's entries.
        version: u32,
        /// Where it stands in a trace, as a `traceparent`: what its creator came from, or its own span where a trace
        /// begins with it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trace: Option<Text>,
    },
    /// A participant joined.
    Enlisted {
        /// Its part.
        branch: Box<Branch>,
        /// Who asked for it.
        by: Text,
    },
    /// A call was made and told nothing for certain. For the history alone.
    Tried {
        /// The branch, by position; absent for a check.
        branch: Option<u16>,
        /// What for.
        op: Op,
        /// The number of the call, from 1.
        attempt: u32,
        /// What was seen.
        reason: Text,
    },
    /// A participant works on it, and says where to ask.
    Ongoing {
        /// The branch.
        branch: u16,
        /// What for.
        op: Op,
        /// Path at the same service; the call itself is repeated without one.
        location: Option<Text>,
    },
    /// A call has come to an end.
    Settled {
        /// The branch.
        branch: u16,
        /// What for.
        op: Op,
        /// How it ended.
        slot: Slot,
        /// The number of calls it took; 0 if it was told otherwise.
        attempt: u32,
        /// What was answered, or why not.
        answer: Text,
        /// Who told it; empty if the participant answered the call.
        #[serde(default, skip_serializing_if = "nobody")]
        by: Text,
    },
    /// It takes another direction.
    Turned {
        /// Which.
        to: Phase,
        /// Why.
        reason: Text,
        /// Who asked for it; empty for the coordinator itself.
        by: Text,
        /// Branches whose action is done or may have been sent.
        sent: Vec<u16>,
    },
    /// An operator has a stuck call made again.
    Retried {
        /// The branch.
        branch: u16,
        /// Which call.
        op: Op,
        /// Who.
        by: Text,
    },
    /// It's over.
    Ended {
        /// How.
        end: End,
        /// Who declared it; empty for the coordinator itself.
        by: Text,
        /// The operator's words; empty otherwise.
        reason: Text,
    },
}

fn nobody(by: &Text) -> bool {
    by.is_empty()
}

impl Entry {
    /// The bytes that are kept.
    pub fn encode(&self) -> Vec<u8> {
        // Most find room at once.
        let usual = if matches!(self.what, What::Begun { .. }) { 2048 } else { 256 };
        let mut bytes = Vec::with_capacity(usual);
        // Plain data with text keys: there is nothing that JSON can't say, and a vector takes everything.
        let _ = serde_json::to_writer(&mut bytes, self);
        bytes
    }

    /// The entry of these bytes.
    ///
    /// # Errors
    /// If they aren't one of a format that this program knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let entry: Self = serde_json::from_slice(bytes).map_err(|error| Error::Unreadable(error.to_string()))?;
        match entry.what {
            What::Begun { version, .. } if version > VERSION => Err(Error::Newer(version)),
            _ => Ok(entry),
        }
    }
}

/// Why entries can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// They aren't entries.
    #[error("an entry of the journal can't be read: {0}")]
    Unreadable(String),
    /// A newer program wrote them.
    #[error("the transaction has format {0}, this program knows up to {VERSION}: use the newer program")]
    Newer(u32),
    /// They don't begin with the beginning.
    #[error("the journal of a transaction has no beginning")]
    Headless,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Child, Machine, Parent, nested};

    /// As a program of format 2 wrote it.
    const OLD: &str = r#"{"at":1000,"what":"begun","spec":{"mode":"saga","creator":"web","created":1000,"deadline":null,"open":false,"check":null,"branches":[{"name":"a","after":[],"action":{"target":{"method":"POST","authority":"shop.default","path":"/do","raw":false},"body":null,"kind":"","headers":[]},"confirm":null,"undo":null,"pivot":false,"free":false}]},"version":2}"#;

    fn begun(entry: &Entry) -> (&Spec, u32) {
        match &entry.what {
            What::Begun { spec, version, .. } => (spec, *version),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn older_formats_are_read_and_newer_ones_refused() {
        let old = Entry::decode(OLD.as_bytes()).unwrap();
        let (spec, version) = begun(&old);
        assert_eq!((spec.branches.len(), &spec.parent, version), (1, &None, 2));
        assert!(Machine::replay([old]).is_ok());
        let new = OLD.replace(r#""version":2"#, r#""version":4"#);
        let refused = Entry::decode(new.as_bytes()).unwrap_err();
        assert_eq!(refused, Error::Newer(4));
        assert!(refused.to_string().contains("format 4, this program knows up to 3: use the newer program"));
    }

    #[test]
    fn only_sagas_within_sagas_need_their_format() {
        let old = Entry::decode(OLD.as_bytes()).unwrap();
        let plain = begun(&old).0.clone();
        let written = |spec: &Spec| Machine::begin(spec.clone(), Timestamp::default()).1;
        let entry = written(&plain);
        assert_eq!(begun(&entry).1, 2);
        let text = String::from_utf8(entry.encode()).unwrap();
        assert!(!text.contains("parent") && !text.contains("child"), "{text}");
        let mut above = plain.clone();
        let child = Child::Given { spec: Box::new(plain.clone()), span_ms: None };
        nested::adopt(&mut above.branches[0], child, true);
        let parent = Some(Parent { id: "t".into(), branch: "a".into(), depth: 1 });
        for spec in [above, Spec { parent, ..plain }] {
            let entry = written(&spec);
            assert_eq!(begun(&entry).1, VERSION);
            assert_eq!(Entry::decode(&entry.encode()), Ok(entry));
        }
    }
}
