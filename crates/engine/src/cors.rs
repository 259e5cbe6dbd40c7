// SPDX-License-Identifier: Apache-2.0
//! Cross-origin requests of browsers (<https://fetch.spec.whatwg.org/#http-cors-protocol>, with Gateway
//! API's choices where it leaves any): the answer to a preflight, and what is added to other answers. An
//! origin that isn't allowed gets no permission and no error: the browser refuses by itself.

use crate::{Answer, Reason};
use byrnie_base::Text;
use byrnie_codec::{Head, Known};
use byrnie_model::route::{Cors, RouteFilter};
use std::net::Ipv6Addr;

/// Longest origin, method or list of headers of a request that is looked at, in bytes.
const REQUEST_BYTES_MAX: usize = 4096;

/// The CORS filter that counts: a backend's own before its rule's.
pub(crate) fn find<'a>(rule: &'a [RouteFilter], backend: &'a [RouteFilter]) -> Option<&'a Cors> {
    backend.iter().chain(rule).find_map(|filter| if let RouteFilter::Cors(cors) = filter { Some(cors) } else { None })
}

/// The answer to `head`, if it's a preflight.
pub(crate) fn preflight(cors: &Cors, head: &Head) -> Option<Answer> {
    let origin = origin(head)?;
    let method = text(head.get("access-control-request-method")?)?;
    if head.method() != "OPTIONS" {
        return None;
    }
    let mut answer = Answer::new(Reason::Preflight, false, "a preflight, answered by the route");
    let vary = "origin, access-control-request-method, access-control-request-headers";
    answer.fields.push(("vary", vary.into()));
    if allowed(cors, origin).is_some() {
        permit(cors, origin, |name, value| answer.fields.push((name, value)));
        if let Some(methods) = permitted(&cors.methods, Some(method)) {
            answer.fields.push(("access-control-allow-methods", methods));
        }
        let asked = head.get("access-control-request-headers").and_then(text);
        if let Some(headers) = permitted(&cors.headers, asked) {
            answer.fields.push(("access-control-allow-headers", headers));
        }
        answer.fields.push(("access-control-max-age", cors.max_age.to_string().into()));
    }
    Some(answer)
}

/// The origin of a request that is to be told of its permission, to be handed to [`mark`].
pub(crate) fn granted(cors: &Cors, head: &Head) -> Option<Text> {
    allowed(cors, origin(head)?).map(Text::from)
}

/// Tells the caller of an answer that its origin is allowed.
pub(crate) fn mark(cors: &Cors, origin: &str, head: &mut Head) {
    permit(cors, origin, |name, value| {
        // An answer that has no room for it is refused by the browser: nothing opens.
        head.set(name, value.as_bytes()).ok();
    });
    // What is allowed to one origin must not be remembered for another (RFC 9110 12.5.5).
    head.append("vary", b"origin").ok();
}

fn permit(cors: &Cors, origin: &str, mut tell: impl FnMut(&'static str, Text)) {
    tell("access-control-allow-origin", origin.into());
    if cors.credentials {
        tell("access-control-allow-credentials", "true".into());
    }
    // With credentials, `*` would be the name of a header and permit nothing.
    let expose: Vec<&str> =
        cors.expose.iter().map(|name| &**name).filter(|name| *name != "*" || !cors.credentials).collect();
    if !expose.is_empty() {
        tell("access-control-expose-headers", expose.join(", ").into());
    }
}

/// What a list permits: itself, or whatever was asked for if it holds `*`.
fn permitted(list: &[Text], asked: Option<&str>) -> Option<Text> {
    if list.iter().any(|word| **word == *"*") {
        return asked.map(Text::from);
    }
    let list: Vec<&str> = list.iter().map(|word| &**word).collect();
    (!list.is_empty()).then(|| list.join(", ").into())
}

fn origin(head: &Head) -> Option<&str> {
    text(head.header(Known::Origin)?)
}

fn text(value: &[u8]) -> Option<&str> {
    let fits = value.len() <= REQUEST_BYTES_MAX && value.iter().all(|b| b.is_ascii_graphic() || *b == b' ');
    std::str::from_utf8(value).ok().filter(|_| fits)
}

/// The origin, if one of those allowed fits it.
fn allowed<'a>(cors: &Cors, origin: &'a str) -> Option<&'a str> {
    cors.origins.iter().any(|pattern| fits(pattern, origin)).then_some(origin)
}

/// Whether a pattern such as `https://*.example.com` fits an origin. A missing port is the scheme's own;
/// `*` stands for any labels to the left.
fn fits(pattern: &str, origin: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    let (Some(wanted), Some(found)) = (parts(pattern), parts(origin)) else { return false };
    let host = match wanted.1.strip_prefix('*') {
        Some(end) => {
            found.1.len() > end.len()
                && found.1.get(found.1.len() - end.len()..).is_some_and(|tail| tail.eq_ignore_ascii_case(end))
        }
        None => wanted.1.eq_ignore_ascii_case(found.1),
    };
    wanted.0.eq_ignore_ascii_case(found.0) && host && wanted.2 == found.2
}

/// Scheme, host and port of an origin; `None` if it's more than these.
fn parts(origin: &str) -> Option<(&str, &str, u16)> {
    let (scheme, rest) = origin.split_once("://")?;
    let usual = if scheme.eq_ignore_ascii_case("https") { 443 } else { 80 };
    // A colon within brackets is the address's own.
    let after_address = rest.rfind(']').map_or(0, |at| at + 1);
    let (host, port) = match rest[after_address..].rfind(':').map(|at| at + after_address) {
        Some(at) => (&rest[..at], rest[at + 1..].parse().ok()?),
        None => (rest, usual),
    };
    is_host(host).then_some((scheme, host, port))
}

/// Whether it's a host alone: a name (<https://url.spec.whatwg.org/#forbidden-domain-code-point>) or an address in brackets.
fn is_host(text: &str) -> bool {
    match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !b"#%/:<>?@[\\]^|".contains(&b)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{head, response};

    #[test]
    fn origins_fit_as_upstream_says() {
        for (pattern, origin, expected) in [
            ("https://www.foo.com", "https://www.foo.com", true),
            ("https://www.foo.com", "https://www.foo.com:443", true),
            ("https://www.foo.com", "https://www.foo.com:8443", false),
            ("https://www.foo.com", "http://www.foo.com", false),
            ("https://www.foo.com", "https://foobar.com", false),
            ("https://*.bar.com", "https://www.bar.com", true),
            ("https://*.bar.com", "https://xpto.www.bar.com", true),
            ("https://*.bar.com", "https://bar.com", false),
            ("https://*.bar.com", "https://.evil.com", false),
            ("https://*.bar.com", "https://evilbar.com", false),
            ("https://*.bar.com", "https://evil.com/.bar.com", false),
            ("https://*.bar.com", "https://foo.com@a.bar.com", false),
            ("https://*.bar.com", "https://evil.com:1/.bar.com", false),
            ("https://*.bar.com", "https://evil.com?a.bar.com", false),
            ("https://*.bar.com", "https://evil.com#a.bar.com", false),
            ("https://*.bar.com", "https://evil.com\\a.bar.com", false),
            ("https://*.bar.com", "https://a.bar.com/", false),
            ("https://*.bar.com", "https://xn--a_b.bar.com:443", true),
            ("https://*", "https://a/b", false),
            ("https://*", "https://[::1]", true),
            ("https://*", "https://[::1", false),
            ("https://*", "https://anything.example", true),
            ("https://*", "http://anything.example", false),
            ("http://*.a.b:8080", "http://x.a.b:8080", true),
            ("http://[::1]:80", "http://[::1]", true),
            ("*", "null", true),
            ("https://a.b", "null", false),
            ("https://a.b", "\u{e9}", false),
        ] {
            assert_eq!(fits(pattern, origin), expected, "{pattern} {origin}");
        }
    }

    fn cors() -> Cors {
        Cors {
            origins: vec!["https://www.foo.com".into(), "https://*.bar.com".into()],
            credentials: true,
            methods: vec!["GET".into(), "OPTIONS".into()],
            headers: vec!["x-header-1".into(), "x-header-2".into()],
            expose: vec!["x-header-3".into(), "*".into()],
            max_age: 3600,
        }
    }

    fn ask(cors: &Cors, origin: &str) -> Option<Vec<(&'static str, String)>> {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "x-a, x-b"),
        ];
        let answer = preflight(cors, &head("OPTIONS", "h/", &headers))?;
        assert_eq!((answer.status, answer.reason.label()), (204, "preflight"));
        Some(answer.fields.iter().filter(|(name, _)| *name != "vary").map(|(n, v)| (*n, v.to_string())).collect())
    }

    #[test]
    fn a_preflight_is_told_what_is_allowed() {
        let told = ask(&cors(), "https://a.bar.com").unwrap();
        let expected = [
            ("access-control-allow-origin", "https://a.bar.com"),
            ("access-control-allow-credentials", "true"),
            ("access-control-expose-headers", "x-header-3"),
            ("access-control-allow-methods", "GET, OPTIONS"),
            ("access-control-allow-headers", "x-header-1, x-header-2"),
            ("access-control-max-age", "3600"),
        ];
        assert_eq!(told, expected.map(|(name, value)| (name, value.to_owned())));
        assert_eq!(ask(&cors(), "https://evil.com"), Some(vec![]));
    }

    #[test]
    fn a_wildcard_says_what_was_asked_for_and_never_itself() {
        let all = || vec![Text::from("*")];
        let any = Cors { origins: all(), methods: all(), headers: all(), credentials: true, ..cors() };
        let told = ask(&any, "https://other.foo.com").unwrap();
        assert!(told.contains(&("access-control-allow-origin", "https://other.foo.com".into())), "{told:?}");
        assert!(told.contains(&("access-control-allow-methods", "PUT".into())), "{told:?}");
        assert!(told.contains(&("access-control-allow-headers", "x-a, x-b".into())), "{told:?}");
        let without = ask(&Cors { credentials: false, ..any }, "https://a.b").unwrap();
        assert!(without.iter().all(|(name, _)| *name != "access-control-allow-credentials"), "{without:?}");
        assert!(without.contains(&("access-control-expose-headers", "x-header-3, *".into())), "{without:?}");
    }

    #[test]
    fn other_requests_are_no_preflights() {
        let plain = head("OPTIONS", "h/", &[("origin", "https://www.foo.com")]);
        assert_eq!(preflight(&cors(), &plain), None);
        let get = head("GET", "h/", &[("origin", "https://www.foo.com"), ("access-control-request-method", "GET")]);
        assert_eq!(preflight(&cors(), &get), None);
        let mut answer = response(200, &[("access-control-allow-origin", "*"), ("vary", "accept")]);
        mark(&cors(), &granted(&cors(), &get).unwrap(), &mut answer);
        assert_eq!(answer.values("access-control-allow-origin").collect::<Vec<_>>(), [b"https://www.foo.com"]);
        assert_eq!(answer.values("vary").count(), 2);
        assert_eq!(granted(&cors(), &head("GET", "h/", &[("origin", "https://x.com")])), None);
    }
}
