// SPDX-License-Identifier: Apache-2.0
//! Documents from files and directories, as `apply`, `lint` and `up -f` read them.

use crate::failure::{self, Failure};
use byrnie_model::yaml::{self, Defaults, Parsed};
use std::path::{Path, PathBuf};

/// Most files read from one directory tree.
const FILES_MAX: usize = 10_000;
/// Deepest directory below the one given.
const DEPTH_MAX: usize = 32;

/// Reads one file, or every `.yaml`, `.yml` and `.json` file below a directory, in order of name.
///
/// # Errors
/// If a file can't be read, or holds something invalid: all that is wrong is then shown.
pub(crate) fn read(path: &Path, defaults: &Defaults) -> anyhow::Result<Parsed> {
    let mut files = Vec::new();
    collect(path, 0, &mut files)?;
    let mut all = Parsed::default();
    for file in files {
        let text = std::fs::read_to_string(&file).map_err(|error| failure::of_file(&file, &error))?;
        let parsed = yaml::parse(&file.to_string_lossy(), &text, defaults);
        all.documents.extend(parsed.documents);
        all.diagnostics.extend(parsed.diagnostics);
    }
    if all.has_errors() {
        for diagnostic in &all.diagnostics {
            eprintln!("{diagnostic}");
        }
        return Err(Failure::new("BYR-C001", "nothing was applied").into());
    }
    Ok(all)
}

fn collect(path: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let of = |error: std::io::Error| failure::of_file(path, &error);
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    if depth > DEPTH_MAX {
        return Err(Failure::new("BYR-C001", format!("deeper than {DEPTH_MAX} directories")).at(path.display().to_string()));
    }
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(path).map_err(of)?.collect::<Result<Vec<_>, _>>().map_err(of)?.iter().map(|e| e.path()).collect();
    entries.sort();
    for entry in entries {
        let wanted = entry.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if entry.is_dir() || wanted {
            collect(&entry, depth + 1, files)?;
        }
    }
    if files.len() > FILES_MAX {
        return Err(Failure::new("BYR-C001", format!("more than {FILES_MAX} files")).at(path.display().to_string()));
    }
    Ok(())
}
