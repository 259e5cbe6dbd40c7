// SPDX-License-Identifier: Apache-2.0
//! Match to weighted backends, in Gateway API's meaning
//! (<https://gateway-api.sigs.k8s.io/reference/spec/#httproute>). A route points up to its parent. The
//! kind of its resource says which: HTTPRoute, GRPCRoute, TLSRoute, TCPRoute or UDPRoute; the last three match nothing
//! but hosts and have no filters.

use crate::ServiceRef;
use byrnie_base::Text;
use std::sync::Arc;
use std::time::Duration;

/// Rules for requests to its parents.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// What the rules are attached to; at least one.
    pub parents: Vec<Parent>,
    /// Hosts that it's for, in lower case, perhaps with a leading `*.`; empty means any. With
    /// a Service as parent only those of a TLSRoute are used.
    pub hostnames: Vec<Text>,
    /// In the order written.
    pub rules: Vec<Rule>,
}

/// What a route is attached to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Parent {
    /// What sort of thing it is.
    pub kind: ParentKind,
    /// Its name.
    pub name: ServiceRef,
    /// Only this listener of a Gateway or ListenerSet.
    pub section: Option<Text>,
    /// Only this port of it.
    pub port: Option<u16>,
}

/// What sort of thing a route is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ParentKind {
    /// The route is for callers of this Service: for all of them if it lives in the service's own
    /// namespace (a producer's route), else for those of the route's namespace (a consumer's).
    Service,
    /// The route is for what comes in through this Gateway.
    Gateway,
    /// The same, by a ListenerSet of the gateway.
    ListenerSet,
}

impl Parent {
    /// The whole of a service, or one port of it.
    pub const fn service(name: ServiceRef, port: Option<u16>) -> Self {
        Self { kind: ParentKind::Service, name, section: None, port }
    }

    /// The service, if it's one.
    pub fn as_service(&self) -> Option<&ServiceRef> {
        (self.kind == ParentKind::Service).then_some(&self.name)
    }
}

impl Route {
    /// The services that it's attached to.
    pub fn services(&self) -> impl Iterator<Item = &ServiceRef> {
        self.parents.iter().filter_map(Parent::as_service)
    }

    /// Every reference to where requests go or are copied to.
    pub fn destinations(&self) -> impl Iterator<Item = &Destination> {
        self.rules.iter().flat_map(|rule| {
            mirrors(&rule.filters).map(|mirror| &mirror.to).chain(rule.backends.iter().flat_map(Backend::destinations))
        })
    }

    /// The answers that its rules give themselves.
    pub fn answers(&self) -> impl Iterator<Item = &Direct> {
        self.rules.iter().filter_map(Rule::answer)
    }

    /// The same, to be changed.
    pub fn answers_mut(&mut self) -> impl Iterator<Item = &mut Direct> {
        let filters = self.rules.iter_mut().flat_map(|rule| &mut rule.filters);
        filters.filter_map(|filter| if let RouteFilter::Direct(direct) = filter { Some(direct) } else { None })
    }

    /// The same, to be changed.
    pub fn destinations_mut(&mut self) -> impl Iterator<Item = &mut Destination> {
        self.rules.iter_mut().flat_map(|rule| {
            let of_backends = rule.backends.iter_mut().flat_map(|backend| {
                let Backend { to, filters, .. } = backend;
                std::iter::once(to).chain(mirrors_mut(filters))
            });
            mirrors_mut(&mut rule.filters).chain(of_backends)
        })
    }
}

/// The mirrors among filters.
pub fn mirrors(filters: &[RouteFilter]) -> impl Iterator<Item = &Mirror> {
    filters.iter().filter_map(|filter| if let RouteFilter::Mirror(mirror) = filter { Some(mirror) } else { None })
}

fn mirrors_mut(filters: &mut [RouteFilter]) -> impl Iterator<Item = &mut Destination> {
    filters.iter_mut().filter_map(|filter| match filter {
        RouteFilter::Mirror(mirror) => Some(&mut mirror.to),
        _ => None,
    })
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
    /// Where requests go. Empty means: answer 500, unless a filter redirects or answers.
    pub backends: Vec<Backend>,
    /// For the whole exchange; `None` means no limit of its own.
    pub timeout: Option<Duration>,
    /// For one try.
    pub backend_timeout: Option<Duration>,
    /// When to try again.
    pub retry: Option<Retry>,
    /// Whether a caller comes back to the endpoint that it had.
    pub session: Option<Session>,
}

impl Rule {
    /// The answer that it gives itself.
    pub fn answer(&self) -> Option<&Direct> {
        self.filters
            .iter()
            .find_map(|filter| if let RouteFilter::Direct(direct) = filter { Some(direct) } else { None })
    }

    /// Whether its requests are answered without a backend.
    pub fn needs_no_backend(&self) -> bool {
        self.filters.iter().any(|filter| matches!(filter, RouteFilter::Redirect(_) | RouteFilter::Direct(_)))
    }
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
    /// The path of a gRPC call, `/SERVICE/METHOD`; at least one of the two is asked for.
    Grpc {
        /// On the service, such as `helloworld.Greeter`.
        service: Option<ValueMatch>,
        /// On the method, such as `SayHello`.
        method: Option<ValueMatch>,
    },
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
    /// Send a copy elsewhere, whose answer nobody waits for.
    Mirror(Mirror),
    /// Answer preflights of browsers, and tell them what they may read.
    Cors(Cors),
    /// Answer by itself; of rules only, never of backends.
    Direct(Direct),
}

/// An answer of the route's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Direct {
    /// The HTTPRouteFilter that says it, in the route's namespace.
    pub filter: Text,
    /// What that one says, once it was looked up: `None` where it isn't there, and requests are answered 500.
    pub response: Option<Arc<DirectResponse>>,
}

/// Longest body of an answer of a route's own, in bytes: as in Envoy, whose proxies hold each in memory too.
pub const DIRECT_BODY_BYTES_MAX: usize = 4096;

/// An answer as an HTTPRouteFilter says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectResponse {
    /// From 200 to 599.
    pub status: u16,
    /// Of the body; only with one.
    pub content_type: Option<Text>,
    /// At most [`DIRECT_BODY_BYTES_MAX`]; empty with a status that has none.
    pub body: Text,
}

impl DirectResponse {
    /// Whether answers with a status have a body (RFC 9110 15.3.5, 15.3.6, 15.4.5).
    pub const fn has_body(status: u16) -> bool {
        !matches!(status, 204 | 205 | 304)
    }
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

/// Where a copy of a share of the requests goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The service.
    pub to: Destination,
    /// So many of `of` requests are copied, drawn by lot.
    pub share: u32,
    /// At least 1.
    pub of: u32,
}

/// Cross-origin requests (<https://fetch.spec.whatwg.org/#http-cors-protocol>).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cors {
    /// Origins such as `https://*.example.com`; `*` alone is any.
    pub origins: Vec<Text>,
    /// Whether cookies and the like may be sent along.
    pub credentials: bool,
    /// Methods; `*` alone is any.
    pub methods: Vec<Text>,
    /// Request headers; `*` alone is any.
    pub headers: Vec<Text>,
    /// Response headers that a page may read; `*` is any.
    pub expose: Vec<Text>,
    /// How long a browser may remember the answer, in seconds.
    pub max_age: u32,
}

/// A reference to a service: where requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The service.
    pub service: ServiceRef,
    /// Its port; 0 if it's a pool, whose ports are its own affair.
    pub port: u16,
    /// Whether requests may be sent there. If not, they're answered as if it didn't exist.
    pub standing: Standing,
}

impl Destination {
    /// A service that may be sent requests.
    pub const fn new(service: ServiceRef, port: u16) -> Self {
        Self { service, port, standing: Standing::Granted }
    }

    /// Whether it names a pool of inference servers.
    pub const fn is_pool(&self) -> bool {
        self.port == 0
    }
}

/// Whether a reference counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Yes: it stays in the route's namespace, or a ReferenceGrant allows it.
    Granted,
    /// No: it leads into another namespace, and nobody there has allowed it (or nobody has looked yet).
    Foreign,
    /// No: it names another kind than a Service, written `KIND.GROUP`.
    Unserved(Text),
}

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The service.
    pub to: Destination,
    /// Share among the rule's backends; 0 gets nothing.
    pub weight: u32,
    /// Done only for this backend.
    pub filters: Vec<RouteFilter>,
}

impl Backend {
    /// Where its requests and their copies go.
    fn destinations(&self) -> impl Iterator<Item = &Destination> {
        std::iter::once(&self.to).chain(mirrors(&self.filters).map(|mirror| &mirror.to))
    }
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

/// Whether a caller comes back to the endpoint that it had (GEP-1619).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The name of the cookie or header.
    pub name: Text,
    /// What carries it.
    pub carrier: Carrier,
    /// It ends so long after it began.
    pub absolute: Option<Duration>,
    /// It ends so long after it was last used.
    pub idle: Option<Duration>,
}

/// What carries a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// A cookie that ends with the browser's session.
    Cookie,
    /// A cookie that lives as long as the session; its absolute time-out is set.
    PermanentCookie,
    /// A header, which the caller sends back.
    Header,
}

/// Whether a route may edit the header of this name: not those that frame the message or say who calls. Nobody else may edit those
/// either; whoever isn't an operator may be let at fewer.
pub fn is_header_editable(name: &str) -> bool {
    const UNTOUCHABLE: [&str; 13] = [
        "connection",
        "content-length",
        "forwarded-client-identity",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-forwarded-client-cert",
    ];
    !UNTOUCHABLE.iter().any(|never| name.eq_ignore_ascii_case(never))
}
