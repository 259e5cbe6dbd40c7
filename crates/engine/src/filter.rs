// SPDX-License-Identifier: Apache-2.0
//! What a route changes in a request or a response on its way: header edits, rewrite, redirect. Edits are compiled with
//! the route; `exchange` performs those of the rule and of the backend drawn, in the order written.

use crate::Tls;
use crate::digits::Digits;
use byrnie_base::Text;
use byrnie_codec::uri::split_port;
use byrnie_codec::{Head, ReadyLine, ReadyName};
use byrnie_model::route::{HeaderEdits, PathEdit, Redirect, Rewrite, RouteFilter};
use std::fmt::Write as _;

/// Why a filter could not be performed: the result would not be a valid head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken;

/// The changes of one list of filters, compiled.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    request: Box<[Change]>,
    /// Of each filter.
    response: Box<[Box<[Edit]>]>,
}

/// A change of a request.
#[derive(Debug)]
enum Change {
    Edits(Box<[Edit]>),
    Rewrite(Rewrite),
}

/// One edit of a head's lines.
#[derive(Debug)]
enum Edit {
    Set(ReadyLine),
    Add(ReadyLine),
    Remove(ReadyName),
    /// Sets the authority.
    Host(Text),
    /// Of a header that isn't only a line: what becomes of it depends on the head.
    SetTyped(Text, Text),
    AddTyped(Text, Text),
}

impl Changes {
    pub(crate) fn of(filters: &[RouteFilter]) -> Self {
        let request = filters.iter().filter_map(|filter| match filter {
            RouteFilter::RequestHeaders(edits) => Some(Change::Edits(compile(edits))),
            RouteFilter::Rewrite(rewrite) => Some(Change::Rewrite(rewrite.clone())),
            RouteFilter::ResponseHeaders(_)
            | RouteFilter::Redirect(_)
            | RouteFilter::Mirror(_)
            | RouteFilter::Cors(_)
            | RouteFilter::Direct(_) => None,
        });
        let response = filters.iter().filter_map(|filter| match filter {
            RouteFilter::ResponseHeaders(edits) => Some(compile(edits)),
            _ => None,
        });
        Self { request: request.collect(), response: response.collect() }
    }

    /// Changes a request. `prefix` is the path prefix that the match fitted.
    pub(crate) fn edit_request(
        &self,
        head: &mut Head,
        prefix: Option<&str>,
        scratch: &mut String,
    ) -> Result<(), Broken> {
        for change in &self.request {
            match change {
                Change::Edits(edits) => edit(edits, head)?,
                Change::Rewrite(rewrite) => rewrite_request(rewrite, head, prefix, scratch)?,
            }
        }
        Ok(())
    }

    /// Changes a response.
    pub(crate) fn edit_response(&self, head: &mut Head) {
        for edits in &self.response {
            // An edit that doesn't fit any more is left out: the answer itself is worth more.
            edit(edits, head).ok();
        }
    }
}

fn compile(edits: &HeaderEdits) -> Box<[Edit]> {
    let set = edits.set.iter().map(|(name, value)| match ReadyLine::new(name, value.as_bytes()) {
        _ if name.eq_ignore_ascii_case("host") => Edit::Host(value.clone()),
        Some(line) => Edit::Set(line),
        None => Edit::SetTyped(name.clone(), value.clone()),
    });
    let add = edits.add.iter().map(|(name, value)| match ReadyLine::new(name, value.as_bytes()) {
        Some(line) => Edit::Add(line),
        None => Edit::AddTyped(name.clone(), value.clone()),
    });
    let remove = edits.remove.iter().map(|name| Edit::Remove(ReadyName::new(name)));
    set.chain(add).chain(remove).collect()
}

fn edit(edits: &[Edit], head: &mut Head) -> Result<(), Broken> {
    for edit in edits {
        let edited = match edit {
            Edit::Set(line) => head.set_ready(line),
            Edit::Add(line) => head.append_ready(line),
            Edit::Remove(name) => {
                head.remove_ready(name);
                Ok(())
            }
            Edit::Host(host) => head.set_authority(host),
            Edit::SetTyped(name, value) => head.set(name, value.as_bytes()),
            Edit::AddTyped(name, value) => head.append(name, value.as_bytes()),
        };
        edited.map_err(|_| Broken)?;
    }
    Ok(())
}

/// The redirect among `filters`, if there is one.
pub(crate) fn redirect(filters: &[RouteFilter]) -> Option<&Redirect> {
    filters.iter().find_map(|filter| match filter {
        RouteFilter::Redirect(redirect) => Some(redirect),
        _ => None,
    })
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

/// The target of a redirect, at a gateway's listener of port `listener` or, without one, where the caller names the port.
pub(crate) fn location(
    redirect: &Redirect,
    head: &Head,
    prefix: Option<&str>,
    (tls, listener): (Tls, Option<u16>),
) -> Text {
    let own = if tls == Tls::None { head.scheme() } else { "https" };
    let scheme = redirect.scheme.as_deref().unwrap_or(own);
    let (host, port) = split_port(head.authority());
    let mut out = String::with_capacity(128);
    write!(out, "{scheme}://{}", redirect.hostname.as_deref().unwrap_or(host)).ok();
    // A new scheme brings its own port; otherwise it's the listener's, whatever the caller says (Gateway API, `RequestRedirect`).
    let kept = if redirect.scheme.is_some() { None } else { listener.or(port) };
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

    fn target(redirect: &Redirect, authority: &str, at: (Tls, Option<u16>)) -> Text {
        let mut head = Head::new();
        head.start_request("GET", "http", authority, "/a/b?q=1").unwrap();
        location(redirect, &head, Some("/a"), at)
    }

    fn check(redirect: Redirect, tls: Tls, expected: &str) {
        assert_eq!(target(&redirect, "shop.test:8080", (tls, None)), *expected);
    }

    #[test]
    fn the_port_of_a_redirect_is_the_listeners_whatever_the_caller_says() {
        let plain = Redirect { scheme: None, hostname: None, path: None, port: None, status: 302 };
        let secure = Redirect { scheme: Some("https".into()), ..plain.clone() };
        let named = Redirect { port: Some(9000), ..plain.clone() };
        for (redirect, tls, listener, expected) in [
            (&plain, Tls::None, 8080, "http://shop.test:8080/a/b?q=1"),
            (&plain, Tls::None, 80, "http://shop.test/a/b?q=1"),
            (&plain, Tls::Simple, 8443, "https://shop.test:8443/a/b?q=1"),
            (&plain, Tls::Simple, 443, "https://shop.test/a/b?q=1"),
            (&secure, Tls::None, 8080, "https://shop.test/a/b?q=1"),
            (&named, Tls::None, 8080, "http://shop.test:9000/a/b?q=1"),
        ] {
            for asked in ["shop.test", "shop.test:9999", "shop.test:80", "shop.test:443"] {
                assert_eq!(target(redirect, asked, (tls, Some(listener))), *expected, "{asked} at {listener}");
            }
        }
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
