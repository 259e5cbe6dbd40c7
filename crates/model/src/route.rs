// SPDX-License-Identifier: Apache-2.0
//! Match to weighted backends, in Gateway API's meaning
//! (<https://gateway-api.sigs.k8s.io/reference/spec/#httproute>). A route points up to its parent.

use crate::ServiceRef;
use byrnie_base::Text;
use std::time::Duration;

/// Rules for requests to its parents.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// What the rules are attached to; at least one.
    pub parents: Vec<Parent>,
    /// Hosts that it's for, in lower case, perhaps with a leading `*.`; empty means any. Not used with
    /// a Service as parent.
    pub hostnames: Vec<Text>,
    /// In the order written.
    pub rules: Vec<Rule>,
}

/// What a route is attached to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Parent {
    /// A Service: the route is for every caller of it.
    pub service: ServiceRef,
    /// Only this port of it.
    pub port: Option<u16>,
}

/// One rule: if any match fits, its filters and backends apply.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Its name; empty if it has none.
    pub name: Text,
    /// At least one (an absent list became the match of every path).
    pub matches: Vec<Match>,
    /// In the order written.
    pub filters: Vec<RouteFilter>,
    /// Where requests go. Empty means: answer 500, unless a filter redirects.
    pub backends: Vec<Backend>,
    /// For the whole exchange; `None` means no limit of its own.
    pub timeout: Option<Duration>,
    /// For one try.
    pub backend_timeout: Option<Duration>,
    /// When to try again.
    pub retry: Option<Retry>,
}

/// Conditions that must all hold.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Match {
    /// On the path.
    pub path: PathMatch,
    /// On header values; names in lower case.
    pub headers: Vec<NamedMatch>,
    /// On query parameters.
    pub query: Vec<NamedMatch>,
    /// On the method; upper case.
    pub method: Option<Text>,
}

/// A condition on a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// The whole path.
    Exact(Text),
    /// Whole segments at the beginning; no trailing `/` but in `/` itself.
    Prefix(Text),
    /// A regular expression over the whole path; it compiles.
    Regex(Text),
}

impl Default for PathMatch {
    fn default() -> Self {
        Self::Prefix("/".into())
    }
}

/// A condition on a named value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedMatch {
    /// Whose value.
    pub name: Text,
    /// What it must be.
    pub value: ValueMatch,
}

/// A condition on a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    /// The same bytes.
    Exact(Text),
    /// A regular expression over the whole value; it compiles.
    Regex(Text),
}

/// A change to a request or a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteFilter {
    /// Edit request headers.
    RequestHeaders(HeaderEdits),
    /// Edit response headers.
    ResponseHeaders(HeaderEdits),
    /// Answer with a redirect.
    Redirect(Redirect),
    /// Change host or path before sending.
    Rewrite(Rewrite),
}

/// Edits, done in the order set, add, remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Replace all values by this one.
    pub set: Vec<(Text, Text)>,
    /// Add a value.
    pub add: Vec<(Text, Text)>,
    /// Drop all values; names in lower case.
    pub remove: Vec<Text>,
}

/// Where a redirect points; absent parts are the request's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<Text>,
    /// The host.
    pub hostname: Option<Text>,
    /// The path.
    pub path: Option<PathEdit>,
    /// The port.
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// What a rewrite changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// The host.
    pub hostname: Option<Text>,
    /// The path.
    pub path: Option<PathEdit>,
}

/// A change to a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathEdit {
    /// The whole path becomes this.
    Full(Text),
    /// The matched prefix becomes this.
    Prefix(Text),
}

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The service.
    pub service: ServiceRef,
    /// Its port.
    pub port: u16,
    /// Share among the rule's backends; 0 gets nothing.
    pub weight: u32,
    /// Done only for this backend.
    pub filters: Vec<RouteFilter>,
}

/// When to try again beyond the mesh's own defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Status codes that are tried again.
    pub codes: Vec<u16>,
    /// Tries after the first, at most 10.
    pub attempts: u8,
    /// Least pause before the next try.
    pub backoff: Option<Duration>,
}
