// SPDX-License-Identifier: Apache-2.0
//! Who may use the console: whoever shows the operator's token, from a page or program that was meant to
//! reach it. Pure; the console asks it before anything else.

use byrnie_net::serve::Request;
use data_encoding::BASE64_NOPAD;
use std::fmt;

/// Shortest token accepted, in bytes.
pub const TOKEN_BYTES_MIN: usize = 16;

/// What lets an operator in.
pub struct Operator {
    token: String,
    /// Host names by which the console may be addressed, beside loopback's.
    names: Vec<String>,
}

impl fmt::Debug for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operator").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Operator {
    /// Lets in whoever shows `token`; `names` are further host names of the console.
    pub fn new(token: impl Into<String>, names: Vec<String>) -> Self {
        Self { token: token.into(), names }
    }

    /// Whether the request shows the token: as Bearer, or as the password of Basic.
    pub fn knows(&self, request: &Request) -> bool {
        let Some((scheme, shown)) = request.header("authorization").and_then(|line| line.split_once(' ')) else {
            return false;
        };
        let shown = match scheme.to_ascii_lowercase().as_str() {
            "bearer" => shown.trim().as_bytes().to_vec(),
            "basic" => match base64(shown.trim()) {
                Some(pair) => pair.splitn(2, |b| *b == b':').nth(1).unwrap_or_default().to_vec(),
                None => return false,
            },
            _ => return false,
        };
        self.token.len() >= TOKEN_BYTES_MIN && equal(&shown, self.token.as_bytes())
    }

    /// Whether the request was addressed to the console by one of its own names. Otherwise a page could
    /// reach it by a name that its owner points here (DNS rebinding).
    pub fn is_addressed(&self, request: &Request) -> bool {
        request.header("host").is_some_and(|host| self.is_own(host_name(host)))
    }

    /// Whether the request comes from the console's own page, or from no page at all. Browsers say so by `Origin` or, where
    /// that is left out, such as for an image whose address would change something, by `Sec-Fetch-Site`
    /// (<https://www.w3.org/TR/fetch-metadata/>).
    pub fn is_own_page(&self, request: &Request) -> bool {
        let site = request.header("sec-fetch-site").unwrap_or("none");
        if !matches!(site, "none" | "same-origin") {
            return false;
        }
        let Some(origin) = request.header("origin") else { return true };
        let authority = origin.split_once("://").map_or("", |(_, authority)| authority);
        request.header("host").is_some_and(|host| host.eq_ignore_ascii_case(authority))
    }

    fn is_own(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        matches!(name.as_str(), "localhost" | "127.0.0.1" | "[::1]")
            || name.ends_with(".localhost")
            || self.names.iter().any(|own| own.eq_ignore_ascii_case(&name))
    }
}

/// The host of an authority, without its port.
fn host_name(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// Compares in a time that depends on the lengths alone.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differences, (x, y)| differences | (x ^ y)) == 0
}

/// The bytes of standard base64 (RFC 4648), with or without padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    BASE64_NOPAD.decode(text.trim_end_matches('=').as_bytes()).ok()
}

#[cfg(test)]
mod tests;
