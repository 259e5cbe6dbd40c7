// SPDX-License-Identifier: Apache-2.0
//! Where a participant says that it may be asked (`Location`): a reference as in RFC 3986, resolved against what was called.
//! Only its own service is asked; frameworks write that as a path, as a part of one, or as a whole URL with the host that
//! they were called by.

use byrnie_base::Text;
use byrnie_model::saga;
use byrnie_saga::Target;

/// The path at the service of `target`, of which `path` was asked; an error with what was said if it is somewhere else, or nowhere.
pub(super) fn resolve(target: &Target, path: &str, said: &str) -> Result<Text, Text> {
    let elsewhere = || Err(said.into());
    let said = said.trim();
    if said.is_empty() || !said.bytes().all(|b| b.is_ascii_graphic()) {
        return elsewhere();
    }
    let reference = said.split_once('#').map_or(said, |(reference, _)| reference);
    let (scheme, rest) = match reference.find([':', '/', '?']).map(|at| reference.split_at(at)) {
        Some((scheme, rest)) if rest.starts_with(':') => (Some(scheme), rest.get(1..).unwrap_or_default()),
        _ => (None, reference),
    };
    let usual = match scheme.map(str::to_ascii_lowercase).as_deref() {
        None => None,
        Some("http") => Some("80"),
        Some("https") => Some("443"),
        Some(_) => return elsewhere(),
    };
    let path = match rest.strip_prefix("//") {
        Some(rest) => {
            let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            if !is_at(target, authority, usual) {
                return elsewhere();
            }
            if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
        }
        // A scheme and no host.
        None if scheme.is_some() => return elsewhere(),
        None => beside(path, rest),
    };
    Ok(normal(&path).into())
}

/// Whether an authority is the one that was called, or another name of the same service.
fn is_at(target: &Target, authority: &str, usual: Option<&str>) -> bool {
    let authority = authority.to_ascii_lowercase();
    if *authority == *target.authority {
        return true;
    }
    let parts = |authority: &str| match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (host.to_owned(), Some(port.to_owned())),
        _ => (authority.to_owned(), None),
    };
    let ((host, port), (called, called_port)) = (parts(&authority), parts(&target.authority));
    // A service is meant by its one port where none is said; programs are called without it, too.
    let same_port =
        port == called_port || (port.is_none() && !target.raw) || (called_port.is_none() && port.as_deref() == usual);
    let same_host = if target.raw {
        host == called
    } else {
        let namespace = called.split_once('.').map_or("", |(_, namespace)| namespace);
        saga::service(&host, namespace) == saga::service(&called, namespace)
    };
    same_host && same_port
}

/// A path reference, beside the path that was called.
fn beside(called: &str, reference: &str) -> String {
    let path = called.split_once('?').map_or(called, |(path, _)| path);
    match reference.bytes().next() {
        Some(b'/') => reference.to_owned(),
        Some(b'?') | None => format!("{path}{reference}"),
        Some(_) => {
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{folder}/{reference}")
        }
    }
}

/// Without `.` and `..` (RFC 3986 5.2.4).
fn normal(path: &str) -> String {
    let (path, query) = path.split_at(path.find('?').unwrap_or(path.len()));
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            other => kept.push(other),
        }
    }
    let folder = if path.ends_with("/.") || path.ends_with("/..") { "/" } else { "" };
    let joined = kept.join("/");
    let slash = if joined.is_empty() { "" } else { folder };
    format!("/{joined}{slash}{query}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(authority: &str, raw: bool, said: &str) -> Option<String> {
        let target = Target { method: "POST".into(), authority: authority.into(), path: "/jobs/new?a=1".into(), raw };
        resolve(&target, &target.path, said).ok().map(|path| path.to_string())
    }

    #[test]
    fn the_same_service_is_asked_however_it_is_written() {
        for (said, path) in [
            ("/poll/7", "/poll/7"),
            ("/poll?id=7#top", "/poll?id=7"),
            ("poll/7", "/jobs/poll/7"),
            ("./7", "/jobs/7"),
            ("../poll/7", "/poll/7"),
            ("../../../poll", "/poll"),
            ("?id=7", "/jobs/new?id=7"),
            ("/a/./b/..", "/a/"),
            ("//a/poll", "/poll"),
            ("http://a/poll", "/poll"),
            ("HTTP://A.Shop/poll", "/poll"),
            ("http://a.shop:80/poll/7?b=2", "/poll/7?b=2"),
            ("https://a.shop.mesh:443/poll", "/poll"),
            ("http://a.shop", "/"),
            ("http://a.shop?id=7", "/?id=7"),
        ] {
            assert_eq!(at("a.shop", false, said).as_deref(), Some(path), "{said}");
        }
        assert_eq!(at("a.shop:8080", false, "http://a:8080/poll").as_deref(), Some("/poll"));
        assert_eq!(at("a.shop:8080", false, "http://a.shop/poll").as_deref(), Some("/poll"));
        assert_eq!(at("10.0.0.7:81", true, "http://10.0.0.7:81/poll").as_deref(), Some("/poll"));
    }

    #[test]
    fn nobody_else_is_asked() {
        for said in [
            "http://b/poll",
            "http://a.other/poll",
            "http://a.shop:9001/poll",
            "http://a.shop@b/poll",
            "//b/poll",
            "http://127.0.0.1:9001/poll",
            "ftp://a.shop/poll",
            "http:poll",
            "urn:7",
            "",
            "/a b",
        ] {
            assert_eq!(at("a.shop", false, said), None, "{said}");
        }
        assert_eq!(at("a.shop:8080", false, "http://a.shop:80/poll"), None);
        for said in ["http://10.0.0.8:81/poll", "http://10.0.0.7/poll"] {
            assert_eq!(at("10.0.0.7:81", true, said), None);
        }
    }
}
