// SPDX-License-Identifier: Apache-2.0
//! How a command ends: its exit status, and the one form in which every failure is shown. Commands
//! return a [`Failure`] inside `anyhow::Error` when they know more than a sentence.

use serde::Deserialize;
use std::fmt;

/// The exit status of every command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All is well.
    #[default]
    Fine,
    /// A problem was found: in what was asked about, or while doing it.
    Problem,
    /// The command line makes no sense.
    Usage,
    /// The server can't be reached.
    Unreachable,
    /// As a program that was run ended.
    Program(u8),
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Fine => Self::from(0),
            Exit::Problem => Self::from(1),
            Exit::Usage => Self::from(2),
            Exit::Unreachable => Self::from(3),
            Exit::Program(status) => Self::from(status),
        }
    }
}

/// A failure as people read it: code, what happened, where, and the next command. It has the members
/// of the console's problem documents, so that both doors say the same.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Failure {
    /// A stable code of the registry.
    pub code: String,
    /// What happened.
    pub detail: String,
    /// Where: `FILE:LINE:COLUMN`, a resource or an address; may be empty.
    #[serde(rename = "where")]
    pub place: String,
    /// What to do next; may be empty.
    pub next: String,
    /// The exit status that goes with it.
    #[serde(skip)]
    pub exit: Exit,
}

impl Failure {
    /// A problem with a code.
    pub(crate) fn new(code: &str, detail: impl Into<String>) -> Self {
        Self { code: code.to_owned(), detail: detail.into(), exit: Exit::Problem, ..Self::default() }
    }

    /// A command line that makes no sense.
    pub(crate) fn usage(detail: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, ..Self::new("", detail) }
    }

    /// With the place where it happened.
    pub(crate) fn at(mut self, place: impl Into<String>) -> Self {
        self.place = place.into();
        self
    }

    /// With what to do next.
    pub(crate) fn next(mut self, next: impl Into<String>) -> Self {
        self.next = next.into();
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.code.is_empty() {
            write!(f, "error: {}", self.detail.trim_end())?;
        } else {
            write!(f, "error[{}]: {}", self.code, self.detail.trim_end())?;
        }
        if !self.place.is_empty() {
            write!(f, "\n  --> {}", self.place)?;
        }
        if !self.next.is_empty() {
            write!(f, "\n   = next: {}", self.next)?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// Shows on standard error why a command failed, and says which exit status it has.
pub(crate) fn report(error: &anyhow::Error) -> Exit {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        eprintln!("{failure}");
        return failure.exit;
    }
    eprintln!("error: {error:#}");
    Exit::Problem
}

/// A file or directory that can't be used.
pub(crate) fn of_file(path: &std::path::Path, error: &std::io::Error) -> Failure {
    Failure::new(byrnie_model::code::DATA_DIR.id, format!("cannot use it: {error}"))
        .at(path.display().to_string())
        .next("check that it exists, is yours, and that the disk has space left")
}

/// A proxy that doesn't start or go on.
pub(crate) fn of_proxy(error: byrnie_proxy::Error) -> Failure {
    Failure::new(error.code(), error.to_string()).next(error.next())
}
