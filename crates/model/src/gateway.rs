// SPDX-License-Identifier: Apache-2.0
//! Where requests enter from outside (`Gateway`, in Gateway API's meaning), who may attach routes to it,
//! and who has allowed references into a namespace.

use crate::range::Range;
use crate::{Kind, Labels, ServiceRef};
use byrnie_base::Text;
use std::collections::BTreeMap;
use std::fmt;

/// The class that is always there.
pub const CLASS: &str = "byrnie";
/// The controller of gateways that byrnie serves.
pub const CONTROLLER: &str = "mesh.byrnie.dev/gateway";

/// The entry of `spec.infrastructure.annotations` with the addresses of balancers in front.
pub const BALANCERS: &str = "mesh.byrnie.dev/proxy-protocol-from";

/// Longest description of a class, in characters, as upstream.
pub const DESCRIPTION_CHARS_MAX: usize = 64;

/// Which controller serves the gateways of a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayClass {
    /// Its name, such as `mesh.byrnie.dev/gateway`.
    pub controller: Text,
    /// What people are told of it; at most [`DESCRIPTION_CHARS_MAX`] characters.
    pub description: Option<Text>,
}

/// A group of listeners: a Gateway, or a ListenerSet that adds to one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gateway {
    /// The name of its class; empty for a ListenerSet, whose gateway has it.
    pub class: Text,
    /// The gateway that a ListenerSet adds to.
    pub parent: Option<ServiceRef>,
    /// Namespaces whose ListenerSets may add to it; `None` means none's.
    pub sets: Option<From>,
    /// Addresses of balancers in front, which begin each connection with a PROXY header; then nobody else is let in. Empty
    /// means that callers come by themselves. A ListenerSet is as its gateway.
    pub balancers: Vec<Range>,
    /// Where it has further parameters: byrnie takes none, so that such a gateway isn't served.
    pub parameters: Option<Parameters>,
    /// What callers have to prove at its listeners, and at those of the sets that add to it. No document of a ListenerSet says
    /// it: a proxy is told a set together with what its gateway says.
    pub frontend: Frontend,
    /// At least one; names are unique, and so is each pair of port and host.
    pub listeners: Vec<Listener>,
}

/// What the parameters of a gateway's infrastructure are named by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// The API group; empty for core.
    pub group: Text,
    /// The kind.
    pub kind: Text,
    /// The name, in the gateway's own namespace.
    pub name: Text,
}

/// Where requests enter. What is not under TLS is served on the edge's own port too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its name.
    pub name: Text,
    /// The host that it's for, perhaps with a leading `*.`; `None` means any.
    pub hostname: Option<Text>,
    /// The port that it names.
    pub port: u16,
    /// What is spoken there.
    pub carries: Carries,
    /// Namespaces whose routes may attach.
    pub from: From,
    /// Kinds of routes that may attach, as `KIND.GROUP`; empty means every kind that is served.
    pub kinds: Vec<Text>,
}

/// A port as sockets have it: one of TCP is another than the one of UDP with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Port {
    /// Of TCP.
    Tcp(u16),
    /// Of UDP.
    Udp(u16),
}

impl Port {
    /// Its number.
    pub const fn number(self) -> u16 {
        match self {
            Self::Tcp(number) | Self::Udp(number) => number,
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(number) => write!(f, "{number}"),
            Self::Udp(number) => write!(f, "{number}/udp"),
        }
    }
}

impl Listener {
    /// Where it is.
    pub const fn at(&self) -> Port {
        match self.carries {
            Carries::Udp => Port::Udp(self.port),
            _ => Port::Tcp(self.port),
        }
    }
}

/// What a listener speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carries {
    /// HTTP in the clear.
    Http,
    /// HTTP under TLS that ends at the gateway, which shows one of these certificates.
    Https(Vec<CertificateRef>),
    /// Connections whose bytes nobody looks at.
    Tcp,
    /// Datagrams.
    Udp,
    /// The same under TLS that ends at the gateway.
    Tls(Vec<CertificateRef>),
    /// TLS that ends at the backend: the gateway reads the host that the handshake asks for, and no more.
    Passthrough,
    /// The mesh's own TLS from other sites, which ends at the proxies of exported services.
    Sites,
}

/// The protocol of listeners that let other sites in.
pub const SITES: &str = "mesh.byrnie.dev/sites";

impl Carries {
    /// What Gateway API calls it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Https(_) => "HTTPS",
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Tls(_) | Self::Passthrough => "TLS",
            Self::Sites => SITES,
        }
    }

    /// Whether both can be told apart by host at one port.
    pub fn goes_with(&self, other: &Self) -> bool {
        !self.is_hostless() && self.name() == other.name()
    }

    /// Whether what comes asks for no host.
    pub const fn is_hostless(&self) -> bool {
        matches!(self, Self::Tcp | Self::Udp | Self::Sites)
    }

    /// Whether routes of this kind make sense of it.
    pub const fn suits(&self, kind: Kind) -> bool {
        match self {
            Self::Http | Self::Https(_) => matches!(kind, Kind::HttpRoute | Kind::GrpcRoute),
            Self::Tcp => matches!(kind, Kind::TcpRoute),
            Self::Udp => matches!(kind, Kind::UdpRoute),
            Self::Tls(_) => matches!(kind, Kind::TcpRoute | Kind::TlsRoute),
            Self::Passthrough => matches!(kind, Kind::TlsRoute),
            // What is exported is reached, and nothing else: routes have no part in it.
            Self::Sites => false,
        }
    }

    /// Whether it shows certificates; without any, nobody is let in.
    pub const fn ends_tls(&self) -> bool {
        matches!(self, Self::Https(_) | Self::Tls(_))
    }

    /// The certificates that it's to show.
    pub fn certificates(&self) -> &[CertificateRef] {
        match self {
            Self::Https(certificates) | Self::Tls(certificates) => certificates,
            _ => &[],
        }
    }

    /// The same, to be changed.
    pub fn certificates_mut(&mut self) -> Option<&mut Vec<CertificateRef>> {
        match self {
            Self::Https(certificates) | Self::Tls(certificates) => Some(certificates),
            _ => None,
        }
    }
}

/// Where a certificate is that a listener shows, or those of authorities by which callers are believed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertificateRef {
    /// The namespace of the Secret, or of the ConfigMap.
    pub namespace: Text,
    /// Its name.
    pub name: Text,
    /// The kind, as `KIND.GROUP`, if it's of another kind than that: such a reference leads nowhere.
    pub unserved: Option<Text>,
}

/// What callers have to prove by certificates of their own (Gateway API `spec.tls.frontend`, GEP-91). It's for HTTPS listeners
/// alone, and by port: all hosts at one port ask for the same, as one connection may be for several of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Frontend {
    /// At ports of which nothing else is said; `None` asks for nothing.
    pub default: Option<Validation>,
    /// At these ports, in place of the default.
    pub ports: BTreeMap<u16, Option<Validation>>,
}

impl Frontend {
    /// What it asks of callers of a listener.
    pub fn of(&self, listener: &Listener) -> Option<&Validation> {
        let is_https = matches!(listener.carries, Carries::Https(_));
        let said = self.ports.get(&listener.port).map_or(self.default.as_ref(), Option::as_ref);
        said.filter(|_| is_https)
    }

    /// Everything that it asks for, of whomever.
    pub fn all(&self) -> impl Iterator<Item = &Validation> {
        self.default.iter().chain(self.ports.values().flatten())
    }

    /// The same, to be changed.
    pub fn all_mut(&mut self) -> impl Iterator<Item = &mut Validation> {
        self.default.iter_mut().chain(self.ports.values_mut().flatten())
    }
}

/// What a caller's certificate is worth.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Validation {
    /// ConfigMaps with authorities, of which one has to vouch for the caller. As a document says it there is at least one;
    /// where none of them can be had, nobody is let in.
    pub authorities: Vec<CertificateRef>,
    /// Whether callers without a certificate that holds are let in as well (`AllowInsecureFallback`).
    pub optional: bool,
}

/// Namespaces whose routes may attach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// The gateway's own.
    Same,
    /// Any.
    All,
    /// Those whose labels fit.
    Selected(Selector),
}

/// What labels must be: all of it (a LabelSelector of Kubernetes).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Each with this value.
    pub labels: Labels,
    /// Each of these.
    pub expressions: Vec<Expression>,
}

/// What one label must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expression {
    /// The label's key.
    pub key: Text,
    /// What its value must be.
    pub value: Wanted,
}

/// What a label's value must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// One of these.
    In(Vec<Text>),
    /// None of these; the label may be absent.
    NotIn(Vec<Text>),
    /// Anything.
    Exists,
    /// There is no such label.
    DoesNotExist,
}

impl Selector {
    /// Whether labels fit; `value` gives that of a key.
    pub fn fits<'a>(&self, value: impl Fn(&str) -> Option<&'a Text>) -> bool {
        self.labels.iter().all(|(key, wanted)| value(key) == Some(wanted))
            && self.expressions.iter().all(|expression| {
                let found = value(&expression.key);
                match &expression.value {
                    Wanted::In(values) => found.is_some_and(|found| values.contains(found)),
                    Wanted::NotIn(values) => found.is_none_or(|found| !values.contains(found)),
                    Wanted::Exists => found.is_some(),
                    Wanted::DoesNotExist => found.is_none(),
                }
            })
    }
}

/// References into the namespace that it lives in, from others (ReferenceGrant).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Who may refer; any of them.
    pub from: Vec<Referrer>,
    /// To what; any of it.
    pub to: Vec<Referent>,
}

/// Who may refer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrer {
    /// The API group.
    pub group: Text,
    /// The kind.
    pub kind: Text,
    /// The namespace.
    pub namespace: Text,
}

/// What may be referred to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referent {
    /// The API group; empty for core.
    pub group: Text,
    /// The kind.
    pub kind: Text,
    /// Only this one.
    pub name: Option<Text>,
}

/// The hosts that two patterns have in common: `None` if there are none, `Some(None)` if that's any host.
pub fn intersection<'a>(a: Option<&'a str>, b: Option<&'a str>) -> Option<Option<&'a str>> {
    let (Some(a), Some(b)) = (a, b) else { return Some(a.or(b)) };
    match (a.strip_prefix('*'), b.strip_prefix('*')) {
        (None, None) => (a == b).then_some(Some(a)),
        (Some(end), None) => is_below(b, end).then_some(Some(b)),
        (None, Some(end)) => is_below(a, end).then_some(Some(a)),
        (Some(of_a), Some(of_b)) if of_a.ends_with(of_b) => Some(Some(a)),
        (Some(of_a), Some(of_b)) => of_b.ends_with(of_a).then_some(Some(b)),
    }
}

/// Whether a pattern fits a host.
pub fn host_fits(pattern: Option<&str>, host: &str) -> bool {
    match pattern.map(|pattern| (pattern, pattern.strip_prefix('*'))) {
        None => true,
        Some((_, Some(end))) => is_below(host, end),
        Some((exact, None)) => exact.eq_ignore_ascii_case(host),
    }
}

/// How special a pattern is: an exact host before a wildcard, a longer before a shorter one, any host last.
pub fn host_rank(pattern: Option<&str>) -> (bool, usize) {
    pattern.map_or((false, 0), |pattern| (!pattern.starts_with('*'), pattern.len()))
}

fn is_below(host: &str, end: &str) -> bool {
    host.len() > end.len() && host.get(host.len() - end.len()..).is_some_and(|tail| tail.eq_ignore_ascii_case(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_intersect_as_upstream_says() {
        for (a, b, both) in [
            (None, None, Some(None)),
            (Some("a.b"), None, Some(Some("a.b"))),
            (None, Some("*.b"), Some(Some("*.b"))),
            (Some("test.example.com"), Some("test.example.com"), Some(Some("test.example.com"))),
            (Some("test.example.com"), Some("*.example.com"), Some(Some("test.example.com"))),
            (Some("*.example.com"), Some("foo.test.example.com"), Some(Some("foo.test.example.com"))),
            (Some("*.example.com"), Some("*.test.example.com"), Some(Some("*.test.example.com"))),
            (Some("*.example.com"), Some("example.com"), None),
            (Some("*.example.com"), Some("test.example.net"), None),
            (Some("*.example.com"), Some("*.ample.com"), None),
            (Some("a.b"), Some("b.b"), None),
        ] {
            assert_eq!(intersection(a, b), both, "{a:?} {b:?}");
            assert_eq!(intersection(b, a), both, "{b:?} {a:?}");
        }
    }

    #[test]
    fn hosts_fit_patterns() {
        for (pattern, host, fits) in [
            (None, "", true),
            (Some("a.b"), "A.b", true),
            (Some("*.b"), "x.a.b", true),
            (Some("*.b"), "b", false),
            (Some("*.b"), ".b", false),
            (Some("*.b"), "ab", false),
            (Some("*.b"), "\u{e9}b", false),
        ] {
            assert_eq!(host_fits(pattern, host), fits, "{pattern:?} {host}");
        }
        assert!(host_rank(Some("a.b")) > host_rank(Some("*.long.example")));
        assert!(host_rank(Some("*.b")) > host_rank(None));
    }

    #[test]
    fn selectors_fit_as_in_kubernetes() {
        let labels: Labels = [("team".into(), "a".into()), ("tier".into(), "web".into())].into();
        let fits = |key: &str, value: Wanted| {
            let expressions = vec![Expression { key: key.into(), value }];
            Selector { labels: Labels::new(), expressions }.fits(|key| labels.get(key))
        };
        for (key, value, fitting) in [
            ("team", Wanted::In(vec!["b".into(), "a".into()]), true),
            ("team", Wanted::In(vec!["b".into()]), false),
            ("none", Wanted::In(vec!["a".into()]), false),
            ("team", Wanted::NotIn(vec!["b".into()]), true),
            ("team", Wanted::NotIn(vec!["a".into()]), false),
            ("none", Wanted::NotIn(vec!["a".into()]), true),
            ("team", Wanted::Exists, true),
            ("none", Wanted::Exists, false),
            ("team", Wanted::DoesNotExist, false),
            ("none", Wanted::DoesNotExist, true),
        ] {
            assert_eq!(fits(key, value.clone()), fitting, "{key} {value:?}");
        }
        assert!(Selector::default().fits(|key| labels.get(key)), "nothing wanted fits everything");
        let both = |team: &str| Selector {
            labels: [("team".into(), team.into())].into(),
            expressions: vec![Expression { key: "tier".into(), value: Wanted::Exists }],
        };
        assert!(both("a").fits(|key| labels.get(key)) && !both("b").fits(|key| labels.get(key)));
    }
}
