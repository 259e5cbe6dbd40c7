// SPDX-License-Identifier: Apache-2.0
//! Where traces and metrics are sent, and how much of them: what a Mesh says about OTLP. Read by proxies and by the
//! coordinator of transactions. No secret stands here, only the names of those that processes bring along.

use byrnie_base::Text;
use std::time::Duration;

/// Header fields that go with each request to a collector.
pub const HEADERS_MAX: usize = 8;
/// Longest path before `/v1/traces`, in bytes.
pub const PATH_BYTES_MAX: usize = 512;
/// Longest text of certificates, in bytes.
pub const CA_BYTES_MAX: usize = 64 * 1024;
/// Shortest and longest time between two reports of metrics.
pub const EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));
/// How the variable of a header begins: whoever starts a process thereby says that it may be sent, and nothing else
/// in its environment is.
pub const VARIABLE_PREFIX: &str = "OTLP_";

/// A collector, and what it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Otlp {
    /// Where it is.
    pub endpoint: Endpoint,
    /// Whose certificates count for `https`, PEM; without, those that the system trusts.
    pub ca: Option<Text>,
    /// What goes with each request.
    pub headers: Vec<Header>,
    /// Traces that begin in the mesh, if any are to be sent.
    pub traces: Option<Share>,
    /// Time between two reports of metrics, if any are to be sent.
    pub metrics: Option<Duration>,
}

/// The base URL of a collector (OTLP/HTTP): `/v1/traces` and `/v1/metrics` follow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Under TLS.
    pub https: bool,
    /// A host's name or address, without brackets.
    pub host: Text,
    /// The port.
    pub port: u16,
    /// What comes before `/v1/...`: empty, or beginning with `/` and without one at its end.
    pub path: Text,
}

/// A header whose value each process takes from its environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// In lower case.
    pub name: Text,
    /// The variable that holds the value; with `_FILE` after it, the one that names a file that does.
    pub env: Text,
}

/// A share of all, in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(u32);

impl Share {
    /// All.
    pub const ALL: u32 = 1_000_000;

    /// So many millionths; `None` for more than all.
    pub const fn of_millionths(millionths: u32) -> Option<Self> {
        if millionths <= Self::ALL { Some(Self(millionths)) } else { None }
    }

    /// In millionths.
    pub const fn millionths(self) -> u32 {
        self.0
    }

    /// Whether what is drawn as a number of 56 bits falls into it. Whoever asks with the same number hears the same, and a
    /// larger share holds all that a smaller one does (OpenTelemetry's consistent probability sampling).
    pub const fn holds(self, drawn: u64) -> bool {
        let space = 1_u64 << 56;
        // Both factors are below 2^57 and 2^20.
        ((drawn & (space - 1)) as u128 * Self::ALL as u128) < (self.0 as u128 * space as u128)
    }
}

impl Endpoint {
    /// Reads `http://HOST[:PORT][/PATH]` or the same with `https`. Without a port it's that of any URL, 80 or 443, as with
    /// OpenTelemetry's SDKs; collectors listen at 4318.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(url: &str) -> Result<Self, String> {
        let (https, rest) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (None, Some(rest)) => (true, rest),
            (None, None) => return Err(format!("\"{url}\" does not begin with http:// or https://")),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.contains('@') {
            return Err("a URL with a user or password in it: name a header instead".to_owned());
        }
        let (host, port) = match authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
            Some((host, port)) => (host, port.parse().ok().filter(|port| *port > 0)),
            None => (authority, Some(if https { 443 } else { 80 })),
        };
        let Some(port) = port else { return Err(format!("\"{authority}\" has no port from 1 to 65535")) };
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(v6) if v6.parse::<std::net::Ipv6Addr>().is_ok() => v6,
            _ if is_host(host) => host,
            _ => return Err(format!("\"{host}\" is not a host's name or address")),
        };
        let path = path.trim_end_matches('/');
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/%".contains(&byte);
        if path.len() > PATH_BYTES_MAX || !path.bytes().all(fits) {
            return Err(format!("\"/{path}\" is not a path of letters, digits and -._~/%"));
        }
        let path = if path.is_empty() { Text::default() } else { format!("/{path}").into() };
        Ok(Self { https, host: host.to_ascii_lowercase().into(), port, path })
    }
}

impl Endpoint {
    /// Whether it's on the machine of whoever asks.
    pub fn is_loopback(&self) -> bool {
        &*self.host == "localhost" || self.host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]:{}{}", self.host, self.port, self.path),
            false => write!(f, "{scheme}://{}:{}{}", self.host, self.port, self.path),
        }
    }
}

impl Header {
    /// A header by its name and its variable.
    ///
    /// # Errors
    /// Which of them is wrong, `name` or `env`, and why, in words.
    pub fn new(name: &str, env: &str) -> Result<Self, (&'static str, String)> {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(token) {
            return Err(("name", format!("\"{name}\" is not the name of a header")));
        }
        if OWN_HEADERS.iter().any(|own| own.eq_ignore_ascii_case(name)) {
            return Err(("name", format!("the header {name} is written by byrnie itself")));
        }
        let word = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
        let rest = env.strip_prefix(VARIABLE_PREFIX).unwrap_or_default();
        if rest.is_empty() || env.len() > NAME_BYTES_MAX || !rest.bytes().all(word) {
            let why = format!("\"{env}\" is not a variable of A-Z, 0-9 and _ that begins with {VARIABLE_PREFIX}");
            return Err(("env", why));
        }
        Ok(Self { name: name.to_ascii_lowercase().into(), env: env.into() })
    }
}

/// Longest name of a header or a variable, in bytes.
const NAME_BYTES_MAX: usize = 128;
/// Headers that frame a request.
const OWN_HEADERS: [&str; 7] =
    ["host", "content-length", "content-type", "content-encoding", "transfer-encoding", "connection", "user-agent"];

fn is_host(host: &str) -> bool {
    let label = |label: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        !label.is_empty() && label.len() <= 63 && label.bytes().all(fits)
    };
    host.len() <= 253 && host.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_and_written_alike() {
        for (url, written) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318"),
            ("http://Collector", "http://collector:80"),
            ("https://tempo.example/otlp/", "https://tempo.example:443/otlp"),
            ("http://[::1]", "http://[::1]:80"),
            ("http://[::1]:9/a/b", "http://[::1]:9/a/b"),
        ] {
            let read = Endpoint::parse(url).unwrap();
            assert_eq!(read.to_string(), written);
            assert_eq!(Endpoint::parse(written), Ok(read));
        }
        for bad in [
            "",
            "127.0.0.1:4318",
            "grpc://a",
            "http://",
            "http://a:0",
            "http://a:x",
            "http://a:70000",
            "http://u:p@a",
            "http://a b",
            "http://a/?x=1",
            "http://[::1",
            "http://[a]",
            "http://a..b",
        ] {
            assert!(Endpoint::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_variables_meant_for_it_are_sent() {
        let header = Header::new("Authorization", "OTLP_TOKEN").unwrap();
        assert_eq!((&*header.name, &*header.env), ("authorization", "OTLP_TOKEN"));
        for (name, env) in [
            ("authorization", "BYRNIE_TOKEN"),
            ("authorization", "OTLP_"),
            ("authorization", "OTLP_a"),
            ("a b", "OTLP_A"),
            ("", "OTLP_A"),
            ("Host", "OTLP_A"),
        ] {
            assert!(Header::new(name, env).is_err(), "{name} {env}");
        }
    }

    #[test]
    fn a_larger_share_holds_what_a_smaller_one_does() {
        let share = |millionths| Share::of_millionths(millionths).unwrap();
        assert!(Share::of_millionths(Share::ALL + 1).is_none());
        let top = (1 << 56) - 1;
        assert!(share(Share::ALL).holds(top) && share(Share::ALL).holds(u64::MAX) && !share(0).holds(0));
        assert!(share(1).holds(0) && !share(Share::ALL - 1).holds(top));
        assert!(share(500_000).holds((1 << 55) - 1) && !share(500_000).holds(1 << 55));
    }
}
