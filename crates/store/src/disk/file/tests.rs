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
fn a_process_that_has_the_number_of_one_that_ended_is_not_taken_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    let first = FileDisk::open(&path).unwrap();
    assert!(holder(&path).is_some());
    drop(first);
    assert_eq!(std::fs::read_to_string(pid_path(&path)).unwrap(), format!("{}\n", std::process::id()));
    assert_eq!(holder(&path), None);
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

#[test]
fn a_doubt_outlives_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let disk = FileDisk::open(&path).unwrap();
    disk.write(0, b"seen").unwrap();
    assert!(!disk.is_doubted().unwrap());
    disk.doubt(true).unwrap();
    drop(disk);
    let disk = FileDisk::open(&path).unwrap();
    assert!(disk.is_doubted().unwrap());
    crate::disk::make_sure(&disk).unwrap();
    assert!(!disk.is_doubted().unwrap());
    assert_eq!(std::fs::read(&path).unwrap(), b"seen");
}
