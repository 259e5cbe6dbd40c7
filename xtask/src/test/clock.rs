// SPDX-License-Identifier: Apache-2.0
//! The part of `test` that needs a clock which can be set: libfaketime, a Debian package.

use super::Outcome;
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The library, in the folder of that name that the package has.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// Runs the test of the clock, with the library installed if this may be done here.
pub(super) fn run(root: &Path) -> Result<Outcome> {
    let found = library().or_else(|| {
        install();
        library()
    });
    let Some(library) = found else {
        return Ok(Outcome::Skipped("libfaketime isn't installed: apt-get install faketime".to_owned()));
    };
    let status = Command::new(env!("CARGO"))
        .args(["test", "--locked", "-p", "byrnie", "--test", "clock"])
        .env("BYRNIE_FAKETIME", library)
        .current_dir(root)
        .status()?;
    Ok(if status.success() { Outcome::Passed } else { Outcome::Failed })
}

fn library() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten().map(|folder| folder.path());
    folders.map(|folder| folder.join(LIBRARY)).find(|path| path.exists())
}

/// Asks the package manager, which refuses unless this is root. What it says is shown.
fn install() {
    for args in [&["update", "-q"][..], &["install", "-y", "-q", "--no-install-recommends", "faketime"]] {
        // Whether it worked is seen by whether the library is there.
        drop(Command::new("apt-get").args(args).env("DEBIAN_FRONTEND", "noninteractive").status());
    }
}
