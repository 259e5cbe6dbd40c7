// SPDX-License-Identifier: Apache-2.0
//! `ARCHITECTURE.md` and `LEXICON.md` stay true: what they name exists.

use super::{Complaint, Source};
use anyhow::{Context, Result};
use std::path::Path;

/// Complains about names in the two maps that no file or type has.
pub(super) fn check(root: &Path, sources: &[Source], complaints: &mut Vec<Complaint>) -> Result<()> {
    let architecture = std::fs::read_to_string(root.join("ARCHITECTURE.md")).context("ARCHITECTURE.md")?;
    for (line, name) in quoted(&architecture) {
        if is_place(name) && !place_exists(root, name) {
            complaints.push(Complaint::new(format!("ARCHITECTURE.md:{line}"), format!("`{name}` doesn't exist")));
        }
    }
    for entry in std::fs::read_dir(root.join("crates"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !architecture.contains(&format!("`{name}`")) {
            complaints.push(Complaint::new("ARCHITECTURE.md", format!("doesn't name the crate `{name}`")));
        }
    }
    let lexicon = std::fs::read_to_string(root.join("LEXICON.md")).context("LEXICON.md")?;
    for (line, row) in lexicon.lines().enumerate().filter(|(_, l)| l.starts_with("| `")) {
        let mut cells = row.split('|').map(|cell| cell.trim().trim_matches('`'));
        let (_, name, home) = (cells.next(), cells.next().unwrap_or_default(), cells.next().unwrap_or_default());
        if !type_exists(sources, home, name) {
            complaints.push(Complaint::new(
                format!("LEXICON.md:{}", line + 1),
                format!("no type `{name}` in crate `{home}`"),
            ));
        }
    }
    Ok(())
}

/// What stands between backticks, with its line.
fn quoted(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .flat_map(|(index, line)| line.split('`').skip(1).step_by(2).map(move |name| (index + 1, name)))
}

/// Whether a quoted word claims to be a file or a folder: `crate/module`, lower case.
fn is_place(name: &str) -> bool {
    name.contains('/')
        && !name.starts_with('/')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '/' | '_' | '.' | '-'))
}

fn place_exists(root: &Path, name: &str) -> bool {
    let (krate, rest) = name.split_once('/').unwrap_or((name, ""));
    let inside = root.join("crates").join(krate).join("src").join(rest);
    inside.is_dir() || inside.with_extension("rs").is_file() || inside.is_file() || root.join(name).exists()
}

fn type_exists(sources: &[Source], krate: &str, name: &str) -> bool {
    let forms = ["struct", "enum", "trait", "type"].map(|word| format!("{word} {name}"));
    sources.iter().filter(|s| s.path.starts_with(&format!("crates/{krate}/"))).any(|s| {
        forms.iter().any(|form| {
            s.text
                .match_indices(form.as_str())
                .any(|(at, _)| !s.text[at + form.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_'))
        })
    })
}
