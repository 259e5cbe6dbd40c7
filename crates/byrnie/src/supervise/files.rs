// SPDX-License-Identifier: Apache-2.0
//! How many files a process may have open. A proxy needs one for each connection on either side, and shells give
//! 1024; so byrnie's own processes take what they may have, and the programs that they start get back what they
//! would have had: those that still use select(2) can't tell files above 1023 apart.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::process::Command;
use std::sync::OnceLock;

/// Tells a child what to give its program back.
const VARIABLE: &str = "BYRNIE_OPEN_FILES";
/// More than any process of ours can use.
const FILES_MAX: u64 = 1 << 20;

static BEFORE: OnceLock<u64> = OnceLock::new();

/// Lets this process open as many files as the system allows it.
pub(crate) fn raise() {
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
