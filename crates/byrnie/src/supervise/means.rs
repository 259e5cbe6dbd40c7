// SPDX-License-Identifier: Apache-2.0
//! How many files a process may have open, and how much memory it may use. A proxy needs a file for each connection on either side, and shells give
//! 1024; so byrnie's own processes take what they may have, and the programs that they start get back what they
//! would have had: those that still use select(2) can't tell files above 1023 apart.

use crate::failure::Failure;
use byrnie_net::machine;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::process::Command;
use std::sync::OnceLock;

/// Tells a child what to give its program back.
const VARIABLE: &str = "BYRNIE_OPEN_FILES";
/// More than any process of ours can use.
const FILES_MAX: u64 = 1 << 20;

static BEFORE: OnceLock<u64> = OnceLock::new();

/// Says how much memory byrnie's own processes may use.
const MEMORY: &str = "BYRNIE_MEMORY_MAX";
/// Less than this is no room for a proxy.
const MEMORY_MIN: u64 = 64 << 20;

/// Lets this process open as many files as the system allows it, and use as much memory as it's told.
pub(crate) fn take() -> Result<(), Failure> {
    raise();
    match std::env::var(MEMORY) {
        Ok(text) if !text.is_empty() => machine::limit_memory(bytes(&text).ok_or_else(|| {
            Failure::usage(format!("{MEMORY} is `{text}`, but can be a size from 64MiB on, such as `512MiB` or `2GiB`"))
        })?),
        _ => {}
    }
    Ok(())
}

fn bytes(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 4] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("", 1)];
    let (number, unit) = UNITS.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
    number.trim().parse::<u64>().ok()?.checked_mul(*unit).filter(|bytes| *bytes >= MEMORY_MIN)
}

fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let (Some(before), wanted) = (current, maximum.unwrap_or(FILES_MAX).min(FILES_MAX)) else { return };
    // What can't be raised stays as it is: the proxy takes fewer connections then.
    if before < wanted && setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).is_ok() {
        let _ = BEFORE.set(before);
    }
}

/// Tells a child of ours what this process had.
pub(super) fn pass_on(command: &mut Command) {
    if let Some(before) = BEFORE.get() {
        command.env(VARIABLE, before.to_string());
    }
}

/// Gives a program that this process becomes what it would have had.
pub(super) fn give_back(command: &mut Command) {
    let Some(before) = std::env::var(VARIABLE).ok().and_then(|value| value.parse().ok()) else { return };
    command.env_remove(VARIABLE);
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(before), maximum });
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_are_understood_or_refused() {
        assert_eq!(bytes("128MiB"), Some(128 << 20));
        assert_eq!(bytes("2 GiB"), Some(2 << 30));
        assert_eq!(bytes("134217728"), Some(128 << 20));
        for wrong in ["", "lots", "MiB", "-1GiB", "1TiB", "1KiB", "99999999999999GiB"] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
    }
}
