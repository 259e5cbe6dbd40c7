// SPDX-License-Identifier: Apache-2.0
//! Calls by which a program takes part in its caller's transaction. Part of how a TrafficPolicy protects requests;
//! the callee's proxy has the part written down before it forwards the call.

use byrnie_base::Text;

/// A method and a path of the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    /// Upper case.
    pub method: Text,
    /// The whole path, without a query; one that ends in `/*` stands for all below it.
    pub path: Text,
}

/// A call that takes part, and what is called for it at the transaction's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enlist {
    /// Which calls.
    pub call: Act,
    /// What takes it back.
    pub compensate: Act,
    /// What makes it final; absent: nothing has to.
    pub complete: Option<Act>,
}

/// Kinds of calls of one policy that take part.
pub const ENLIST_MAX: usize = 64;

impl Act {
    /// Whether a request is such a one. `path` is canonical.
    pub fn covers(&self, method: &str, path: &str) -> bool {
        *self.method == *method
            && match self.path.strip_suffix('*') {
                // All below, and not the place itself.
                Some(above) => path.len() > above.len() && path.starts_with(above),
                None => *self.path == *path,
            }
    }
}

impl Enlist {
    /// Whether a request is one that the coordinator alone may make.
    pub fn reserves(&self, method: &str, path: &str) -> bool {
        self.compensate.covers(method, path) || self.complete.as_ref().is_some_and(|act| act.covers(method, path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_what_is_below() {
        let act = |path: &str| Act { method: "POST".into(), path: path.into() };
        assert!(act("/a").covers("POST", "/a") && !act("/a").covers("PUT", "/a") && !act("/a").covers("POST", "/a/b"));
        assert!(act("/a/*").covers("POST", "/a/b/c") && !act("/a/*").covers("POST", "/a/"));
        assert!(!act("/a/*").covers("POST", "/ab") && act("/*").covers("POST", "/x"));
    }
}
