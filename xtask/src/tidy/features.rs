// SPDX-License-Identifier: Apache-2.0
//! `docs/reference/features.md` claims nothing that no test shows.

use super::{Complaint, Source};
use anyhow::{Context, Result};
use std::path::Path;

const PAGE: &str = "docs/reference/features.md";

/// Complains about tests that the page names and nobody has, and about claims without any.
pub(super) fn check(root: &Path, sources: &[Source], complaints: &mut Vec<Complaint>) -> Result<()> {
    let page = std::fs::read_to_string(root.join(PAGE)).context(PAGE)?;
    let exists = |name: &str| {
        let (test, head) = ("#[test]", format!("fn {name}("));
        sources.iter().any(|source| source.text.contains(test) && source.text.contains(&head))
    };
    complaints.extend(judge(&page, exists));
    Ok(())
}

fn judge(page: &str, exists: impl Fn(&str) -> bool) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (line, row) in page.lines().enumerate().filter(|(_, row)| row.starts_with('|')) {
        let mut complain = |what: String| complaints.push(Complaint::new(format!("{PAGE}:{}", line + 1), what));
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let tests: Vec<&str> = row.split('`').skip(1).step_by(2).filter(|word| is_test(word)).collect();
        for test in tests.iter().filter(|test| !exists(test)) {
            complain(format!("no test is called `{test}`"));
        }
        match cells.get(2) {
            Some(&("yes" | "partly")) if tests.is_empty() => complain(format!("\"{}\" names no test", cells[1])),
            Some(&("yes" | "partly" | "no" | "byrnie" | "---")) => {}
            _ => complain("says neither yes, partly nor no".to_owned()),
        }
    }
    complaints
}

/// Whether a quoted word is the name of a test: a sentence in lower case.
fn is_test(word: &str) -> bool {
    word.matches('_').count() > 1 && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_needs_a_test_that_exists() {
        let told = |row: &str| -> Vec<String> {
            judge(row, |name| name == "it_is_so").into_iter().map(|complaint| complaint.what).collect()
        };
        assert!(told("| a | yes | `it_is_so` | |\n| b | no | | |\n| c | byrnie | | |\n|---|---|---|\ntext").is_empty());
        assert_eq!(told("| a | yes | `it_was_so` | |"), ["no test is called `it_was_so`"]);
        assert_eq!(told("| a | partly | `appProtocol` | |"), ["\"a\" names no test"]);
        assert_eq!(told("| a | perhaps | | |"), ["says neither yes, partly nor no"]);
    }
}
