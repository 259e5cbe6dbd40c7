// SPDX-License-Identifier: Apache-2.0
//! What a route changes in a request or a response on its way: header edits, rewrite, redirect. Called
//! by `exchange` with the filters of the rule and of the backend drawn, in the order written.

use crate::Tls;
use crate::digits::Digits;
use byrnie_base::Text;
use byrnie_codec::Head;
use byrnie_codec::uri::split_port;
use byrnie_model::route::{HeaderEdits, PathEdit, Redirect, Rewrite, RouteFilter};
use std::fmt::Write as _;

/// Why a filter could not be performed: the result would not be a valid head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken;

/// Changes a request. `prefix` is the path prefix that the match fitted.
pub(crate) fn edit_request(
    filters: &[RouteFilter],
    head: &mut Head,
    prefix: Option<&str>,
    scratch: &mut String,
) -> Result<(), Broken> {
    for filter in filters {
        match filter {
            RouteFilter::RequestHeaders(edits) => edit_headers(edits, head)?,
            RouteFilter::Rewrite(rewrite) => rewrite_request(rewrite, head, prefix, scratch)?,
            RouteFilter::ResponseHeaders(_)
            | RouteFilter::Redirect(_)
            | RouteFilter::Mirror(_)
            | RouteFilter::Cors(_) => {}
        }
    }
    Ok(())
}

/// Changes a response.
pub(crate) fn edit_response(filters: &[RouteFilter], head: &mut Head) {
    for filter in filters {
        if let RouteFilter::ResponseHeaders(edits) = filter {
            // An edit that doesn't fit any more is left out: the answer itself is worth more.
            edit_headers(edits, head).ok();
        }
    }
}

/// The redirect among `filters`, if there is one.
pub(crate) fn redirect(filters: &[RouteFilter]) -> Option<&Redirect> {
    filters.iter().find_map(|filter| match filter {
        RouteFilter::Redirect(redirect) => Some(redirect),
        _ => None,
    })
}

fn edit_headers(edits: &HeaderEdits, head: &mut Head) -> Result<(), Broken> {
    for (name, value) in &edits.set {
        if name.eq_ignore_ascii_case("host") {
            head.set_authority(value).map_err(|_| Broken)?;
        } else {
            head.set(name, value.as_bytes()).map_err(|_| Broken)?;
        }
    }
    for (name, value) in &edits.add {
        head.append(name, value.as_bytes()).map_err(|_| Broken)?;
    }
    for name in &edits.remove {
        head.remove(name);
    }
    Ok(())
}

fn rewrite_request(
    rewrite: &Rewrite,
    head: &mut Head,
    prefix: Option<&str>,
    scratch: &mut String,
) -> Result<(), Broken> {
    if let Some(host) = &rewrite.hostname {
        head.set_authority(host).map_err(|_| Broken)?;
    }
    if let Some(edit) = &rewrite.path {
        scratch.clear();
        edit_path(edit, head.path(), prefix, scratch);
        if let Some(query) = head.query() {
            scratch.push('?');
            scratch.push_str(query);
        }
        head.set_path_and_query(scratch).map_err(|_| Broken)?;
    }
    Ok(())
}

/// Appends the edited path to `out`. A prefix is replaced by whole segments
/// (<https://gateway-api.sigs.k8s.io/reference/spec/#httppathmodifier>, table of `ReplacePrefixMatch`).
fn edit_path(edit: &PathEdit, path: &str, prefix: Option<&str>, out: &mut String) {
    let replacement = match (edit, prefix) {
        (PathEdit::Full(full), _) => {
            out.push_str(full);
            return;
        }
        // Without a prefix match there is nothing to replace (Gateway API refuses such a rule).
        (PathEdit::Prefix(_), None) => {
            out.push_str(path);
            return;
        }
        (PathEdit::Prefix(replacement), Some(_)) => replacement,
    };
    let prefix = prefix.map_or("", |prefix| prefix.strip_suffix('/').unwrap_or(prefix));
    let rest = path.strip_prefix(prefix).unwrap_or(path);
    let start = out.len();
    out.push_str(replacement.strip_suffix('/').unwrap_or(replacement));
    out.push_str(rest);
    if out.len() == start {
        out.push('/');
    }
}

/// The target of a redirect.
pub(crate) fn location(redirect: &Redirect, head: &Head, prefix: Option<&str>, tls: Tls) -> Text {
    let own = if tls == Tls::None { head.scheme() } else { "https" };
    let scheme = redirect.scheme.as_deref().unwrap_or(own);
    let (host, port) = split_port(head.authority());
    let mut out = String::with_capacity(128);
    write!(out, "{scheme}://{}", redirect.hostname.as_deref().unwrap_or(host)).ok();
    // A new scheme brings its own port; otherwise the caller's stays.
    let kept = if redirect.scheme.is_some() { None } else { port };
    let usual = if scheme == "https" { 443 } else { 80 };
    if let Some(port) = redirect.port.or(kept).filter(|port| *port != usual) {
        out.push(':');
        out.push_str(std::str::from_utf8(Digits::of(u64::from(port)).as_bytes()).unwrap_or_default());
    }
    match &redirect.path {
        Some(edit) => edit_path(edit, head.path(), prefix, &mut out),
        None => out.push_str(head.path()),
    }
    if let Some(query) = head.query() {
        out.push('?');
        out.push_str(query);
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_replaced_as_the_upstream_table_says() {
        // path, prefix, replacement, result: the table of HTTPPathModifier.
        for (path, prefix, replacement, result) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo", "/", "/xyz", "/xyz/foo"),
        ] {
            let mut out = String::new();
            edit_path(&PathEdit::Prefix(replacement.into()), path, Some(prefix), &mut out);
            assert_eq!(out, result, "{path} {prefix} {replacement}");
        }
    }

    fn check(redirect: Redirect, tls: Tls, expected: &str) {
        let mut head = Head::new();
        head.start_request("GET", "http", "shop.test:8080", "/a/b?q=1").unwrap();
        assert_eq!(location(&redirect, &head, Some("/a"), tls), *expected);
    }

    #[test]
    fn redirects_keep_what_they_do_not_name() {
        let plain = Redirect { scheme: None, hostname: None, path: None, port: None, status: 302 };
        check(plain.clone(), Tls::None, "http://shop.test:8080/a/b?q=1");
        check(Redirect { scheme: Some("https".into()), ..plain.clone() }, Tls::None, "https://shop.test/a/b?q=1");
        check(
            Redirect { hostname: Some("x.test".into()), ..plain.clone() },
            Tls::Simple,
            "https://x.test:8080/a/b?q=1",
        );
        check(Redirect { port: Some(80), ..plain.clone() }, Tls::None, "http://shop.test/a/b?q=1");
        let path = Some(PathEdit::Prefix("/z".into()));
        check(Redirect { path, ..plain.clone() }, Tls::None, "http://shop.test:8080/z/b?q=1");
        let path = Some(PathEdit::Full("/f".into()));
        check(Redirect { path, ..plain }, Tls::None, "http://shop.test:8080/f?q=1");
    }
}
