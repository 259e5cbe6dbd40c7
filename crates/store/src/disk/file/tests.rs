// SPDX-License-Identifier: Apache-2.0
//! Whose file it is.

use super::*;

#[test]
fn one_at_a_time_and_the_second_learns_who_was_first() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    let _first = FileDisk::open(&path).unwrap();
    let OpenError::Locked { holder: Some(holder) } = FileDisk::open(&path).unwrap_err() else { panic!("not locked") };
    assert!(holder.starts_with(&format!("process {} ", std::process::id())), "{holder}");
}

#[test]
fn a_child_that_has_not_yet_closed_the_file_does_not_keep_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    let first = FileDisk::open(&path).unwrap();
    let inherited = first.file.try_clone().unwrap();
    drop(first);
    FileDisk::open(&path).unwrap();
    drop(inherited);
}
