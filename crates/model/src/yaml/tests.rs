// SPDX-License-Identifier: Apache-2.0
//! Documents good and bad. Each bad one names the code it gets and the text that is underlined.

mod bad;
mod bad_outside;
mod bad_policy;
mod bad_route;
mod bad_saga;
mod bad_secret;
mod bad_slice;
mod good;
mod integers;
mod pool;
mod random;
mod site;
mod telemetry;

use super::*;

/// What is said of a document: code and underlined text, in order.
fn said(text: &str) -> Vec<(&'static str, String)> {
    let parsed = parse("t.yaml", text, &Defaults::default());
    parsed.diagnostics.iter().map(|d| (&d.code.id[4..], underlined(d))).collect()
}

fn underlined(d: &Diagnostic) -> String {
    let snippet = d.snippet.clone().unwrap_or_default();
    snippet.chars().skip(d.column.saturating_sub(1) as usize).take(d.width as usize).collect()
}

/// Checks that a document is refused, with one message of this code, placed at this text.
fn check_bad(text: &str, code: &str, place: &str) {
    let found = said(text);
    assert!(
        found.iter().any(|(id, at)| *id == code && at == place),
        "expected {code} at {place:?}, got {found:?} for:\n{text}\n{}",
        parse("t.yaml", text, &Defaults::default()).diagnostics.iter().map(Diagnostic::render).collect::<String>()
    );
    assert!(parse("t.yaml", text, &Defaults::default()).has_errors());
}

fn good(text: &str) -> Vec<Resource> {
    let parsed = parse("t.yaml", text, &Defaults::default());
    let errors: String = parsed.diagnostics.iter().map(Diagnostic::render).collect();
    assert!(parsed.diagnostics.is_empty(), "{errors}\n{text}");
    parsed.documents.into_iter().map(|d| d.resource).collect()
}
