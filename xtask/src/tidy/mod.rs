// SPDX-License-Identifier: Apache-2.0
//! The rules of the house that a machine can check. Each rule is a function from the tree to
//! complaints; none of them changes anything.

mod doors;
mod features;
mod floors;
mod fuzz;
mod map;
mod shape;

use anyhow::{Result, bail};
use std::path::{Path, PathBuf};

/// One broken rule.
struct Complaint {
    place: String,
    what: String,
}

impl Complaint {
    fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { place: place.into(), what: what.into() }
    }
}

/// A Rust file of the tree.
struct Source {
    /// From the root, with `/`.
    path: String,
    text: String,
}

impl Source {
    /// The crate's folder name, or `xtask`.
    fn crate_name(&self) -> &str {
        self.path.strip_prefix("crates/").and_then(|p| p.split('/').next()).unwrap_or("xtask")
    }

    /// Whether it's only compiled for tests.
    fn is_test(&self) -> bool {
        self.path.contains("/tests/")
            || self.path.contains("/examples/")
            || self.path.ends_with("/tests.rs")
            || self.path.contains("/benches/")
    }

    /// Whether a generator wrote it.
    fn is_generated(&self) -> bool {
        self.text.starts_with("// @generated")
    }
}

/// Checks the tree, prints what is wrong, and fails if anything is.
pub(crate) fn run(root: &Path) -> Result<()> {
    let sources = sources(root)?;
    let mut complaints = Vec::new();
    let crates = floors::check(root, &mut complaints)?;
    shape::check(&sources, &mut complaints)?;
    doors::check(&sources, &mut complaints);
    map::check(root, &sources, &mut complaints)?;
    features::check(root, &sources, &mut complaints)?;
    fuzz::check(root, &sources, &mut complaints)?;
    for complaint in &complaints {
        println!("tidy: {}: {}", complaint.place, complaint.what);
    }
    if !complaints.is_empty() {
        bail!("tidy: {} complaints", complaints.len());
    }
    println!("tidy: {crates} crates, {} files: floors, sizes, names, purity, doors and map hold", sources.len());
    Ok(())
}

fn sources(root: &Path) -> Result<Vec<Source>> {
    let mut found = Vec::new();
    let mut folders = vec![root.join("crates"), root.join("xtask")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(Source { path: relative(root, &path), text: std::fs::read_to_string(&path)? });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn relative(root: &Path, path: &Path) -> String {
    let parts: PathBuf = path.strip_prefix(root).unwrap_or(path).to_path_buf();
    parts.to_string_lossy().replace('\\', "/")
}
