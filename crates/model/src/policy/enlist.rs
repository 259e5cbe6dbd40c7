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
    /// Whether a request is such a one. `path` is canonical. A slash at the end, parameters of segments (`;x`) and the case of
    /// letters say nothing: many programs serve all of these by the same code.
    pub fn covers(&self, method: &str, path: &str) -> bool {
        if *self.method != *method {
            return false;
        }
        let mut asked = segments(path);
        // All below, and not the place itself.
        let (own, below) = match self.path.strip_suffix("/*") {
            Some(above) => (above, true),
            None => (&*self.path, false),
        };
        let same = segments(own).all(|own| asked.next().is_some_and(|asked| own.eq_ignore_ascii_case(asked)));
        same && asked.next().is_some() == below
    }
}

/// What programs look at of a path.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/')
        .map(move |segment| segment.split(';').next().unwrap_or_default())
        .filter(|segment| !segment.is_empty())
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

    #[test]
    fn other_spellings_are_the_same_call() {
        let act = |path: &str| Act { method: "POST".into(), path: path.into() };
        for path in ["/a/undo", "/a/undo/", "/a//undo", "/A/Undo", "/a/undo;x=1", "/a;v/undo/;x"] {
            assert!(act("/a/undo").covers("POST", path) && act("/a/*").covers("POST", path), "{path}");
        }
        for path in ["/a", "/a/undo/b", "/a/un", "/a/undo2", "/", ""] {
            assert!(!act("/a/undo").covers("POST", path), "{path}");
        }
        assert!(act("/").covers("POST", "/") && !act("/").covers("POST", "/a"));
    }
}
