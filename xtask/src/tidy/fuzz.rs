// SPDX-License-Identifier: Apache-2.0
//! `fuzz/` isn't a part of the workspace, as its targets need a nightly compiler; so nothing compiles them here. Each is a
//! wrapper of the same words around a body, and every body is compiled, and run over its seeds, by a test.

use super::{Complaint, Source};
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::path::Path;

/// What runs bodies where tests run, and no body.
const REPLAY: &str = "replay";

/// What `fuzz/` holds.
struct Fuzz {
    manifest: String,
    /// By name, with their text.
    targets: Vec<(String, String)>,
    bodies: Vec<(String, String)>,
    seeds: BTreeSet<String>,
}

/// Complains about targets that can't be built, and bodies that no test runs.
pub(super) fn check(root: &Path, sources: &[Source], complaints: &mut Vec<Complaint>) -> Result<()> {
    let fuzz = root.join("fuzz");
    let seeds = read(&fuzz.join("seeds"))?;
    let found = Fuzz {
        manifest: std::fs::read_to_string(fuzz.join("Cargo.toml")).context("fuzz/Cargo.toml")?,
        targets: read(&fuzz.join("targets"))?,
        bodies: read(&fuzz.join("bodies"))?.into_iter().filter(|(name, _)| name != REPLAY).collect(),
        seeds: seeds.into_iter().map(|(name, _)| name).collect(),
    };
    let tests: Vec<&str> = sources.iter().filter(|source| source.is_test()).map(|source| &*source.text).collect();
    judge(&found, &tests, complaints);
    Ok(())
}

/// The files of a folder by name, without what follows a dot.
fn read(folder: &Path) -> Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        files.push((name, std::fs::read_to_string(&path).with_context(|| path.display().to_string())?));
    }
    files.sort();
    Ok(files)
}

fn judge(fuzz: &Fuzz, tests: &[&str], complaints: &mut Vec<Complaint>) {
    let mut complain = |place: String, what: &str| complaints.push(Complaint::new(place, what));
    for (name, text) in &fuzz.targets {
        let place = format!("fuzz/targets/{name}.rs");
        if *text != wrapper(name) {
            complain(place.clone(), "isn't the wrapper that the other targets are: what it does belongs to its body");
        }
        if !fuzz.bodies.iter().any(|(body, _)| body == name) {
            complain(place.clone(), "has no body");
        }
        if !fuzz.manifest.contains(&format!("[[bin]]\nname = \"{name}\"\npath = \"targets/{name}.rs\"\n")) {
            complain(place, "isn't in fuzz/Cargo.toml");
        }
    }
    for (name, text) in &fuzz.bodies {
        let place = format!("fuzz/bodies/{name}.rs");
        if !fuzz.targets.iter().any(|(target, _)| target == name) {
            complain(place.clone(), "has no target");
        }
        if !fuzz.seeds.contains(name) {
            complain(place.clone(), "has no seeds");
        }
        let (module, call) = (format!("fuzz/bodies/{name}.rs\"]\nmod {name};"), format!("(\"{name}\", {name}::run)"));
        if !tests.iter().any(|test| test.contains(&module) && test.contains(&call)) {
            complain(place.clone(), "is run by no test: nothing here compiles it");
        }
        let named =
            text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| word.starts_with("byrnie_"));
        for krate in named.map(|word| word.replace('_', "-")).collect::<BTreeSet<_>>() {
            if !fuzz.manifest.contains(&format!("\n{krate} = ")) {
                complain(place.clone(), "names a crate that fuzz/Cargo.toml doesn't");
            }
        }
    }
}

/// All of a target.
fn wrapper(name: &str) -> String {
    format!(
        "// SPDX-License-Identifier: Apache-2.0\n//! Feeds `bodies/{name}.rs`.\n#![no_main]\n\n#[path = \"../bodies/{name}.rs\"]\n\
         mod body;\n\nlibfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::run(bytes));\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_needs_a_body_and_a_body_a_test() {
        let file = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        let manifest = "[dependencies]\nbyrnie-codec = {}\n\n[[bin]]\nname = \"uri\"\npath = \"targets/uri.rs\"\n";
        let whole = || Fuzz {
            manifest: manifest.to_owned(),
            targets: vec![file("uri", &wrapper("uri"))],
            bodies: vec![file("uri", "use byrnie_codec::uri;\n")],
            seeds: ["uri".to_owned()].into(),
        };
        let test = "#[path = \"../../../fuzz/bodies/uri.rs\"]\nmod uri;\nreplay::replay(\"uri\", uri::run);";
        let told = |fuzz: &Fuzz, tests: &[&str]| {
            let mut complaints = Vec::new();
            judge(fuzz, tests, &mut complaints);
            complaints.into_iter().map(|complaint| complaint.what).collect::<Vec<_>>()
        };
        assert!(told(&whole(), &[test]).is_empty());
        assert_eq!(told(&whole(), &[]), ["is run by no test: nothing here compiles it"]);
        assert_eq!(told(&Fuzz { bodies: Vec::new(), ..whole() }, &[test]), ["has no body"]);
        assert_eq!(told(&Fuzz { targets: Vec::new(), ..whole() }, &[test]), ["has no target"]);
        assert_eq!(told(&Fuzz { seeds: BTreeSet::new(), ..whole() }, &[test]), ["has no seeds"]);
        assert_eq!(told(&Fuzz { targets: vec![file("uri", "fn main() {}")], ..whole() }, &[test]).len(), 1);
        let other = Fuzz { bodies: vec![file("uri", "byrnie_net::x")], ..whole() };
        assert_eq!(told(&other, &[test]), ["names a crate that fuzz/Cargo.toml doesn't"]);
        assert_eq!(told(&Fuzz { manifest: "\nbyrnie-codec = {}".to_owned(), ..whole() }, &[test]).len(), 1);
    }
}
