// SPDX-License-Identifier: Apache-2.0
//! The store on a real disk: in a process that is killed at any moment no acknowledged write is lost and
//! opening it again always succeeds; a full disk refuses writes whole until there is room.
//! The killed process is this test itself, started again with a path to write to.

#![expect(clippy::unwrap_used, reason = "a test may stop at anything unexpected")]

use byrnie_base::clock::SystemClock;
use byrnie_store::{Embedded, Error, Store, Txn};
use std::future::Future;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// How often the writer is killed.
const KILLS: u32 = 20;
const PATH_VARIABLE: &str = "BYRNIE_STORE_KILL_PATH";

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn wait<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

fn open(path: &str) -> Embedded {
    Embedded::open(Path::new(path), Arc::new(SystemClock::new())).unwrap()
}

/// Writes for ever, and says what was acknowledged; only when the parent asks for it.
#[test]
fn the_writer() {
    let Ok(path) = std::env::var(PATH_VARIABLE) else { return };
    let store = Arc::new(open(&path));
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let store = store.clone();
            std::thread::spawn(move || {
                for n in 0u64.. {
                    let half = vec![b'x'; 300 + (n % 7) as usize * 400];
                    let key = format!("/{}/{thread}/{n}", std::process::id());
                    let txn = Txn::new().put(format!("/a{key}"), half.clone()).put(format!("/b{key}"), half);
                    let revision = wait(store.commit(txn)).unwrap();
                    let line = format!("acked {key} {revision}\n");
                    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_killed_writer_loses_no_acknowledged_write() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb").display().to_string();
    let mut acked: Vec<(String, u64)> = Vec::new();
    for kill in 0..KILLS {
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["the_writer", "--exact", "--nocapture"])
            .env(PATH_VARIABLE, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(writer.stdout.take().unwrap());
        let mut left = 1 + kill * 3;
        for line in lines.lines().map_while(Result::ok) {
            // What was said after the kill was sent counts too: it was acknowledged.
            let Some((key, revision)) = line.split_once("acked ").and_then(|(_, rest)| rest.split_once(' ')) else {
                continue;
            };
            acked.push((key.to_owned(), revision.parse().unwrap()));
            if left == 0 {
                continue;
            }
            left -= 1;
            if left == 0 {
                // At no particular moment of what the writer does next.
                std::thread::sleep(Duration::from_micros(u64::from(kill) * 370));
                writer.kill().unwrap();
            }
        }
        assert!(!writer.wait().unwrap().success());
        verify(&open(&path), &acked);
    }
    println!("{KILLS} kills, {} acknowledged writes, 0 lost", acked.len());
}

fn verify(store: &Embedded, acked: &[(String, u64)]) {
    for (key, revision) in acked {
        for half in ["/a", "/b"] {
            let entry = wait(store.get(&format!("{half}{key}"))).unwrap();
            assert_eq!(entry.map(|entry| entry.modified.0), Some(*revision), "lost {key} of revision {revision}");
        }
    }
    let (entries, _) = wait(store.list("/a")).unwrap();
    for entry in entries {
        let other = entry.key.replacen("/a", "/b", 1);
        let other = wait(store.get(&other)).unwrap();
        assert_eq!(other.map(|other| other.modified), Some(entry.modified), "half of a transaction");
    }
}

/// A file system of 16 MiB, unmounted at the end. Needs the right to mount.
struct Small(tempfile::TempDir);

impl Small {
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=16m", "tmpfs"]).arg(directory.path()).output();
        mount.is_ok_and(|output| output.status.success()).then_some(Self(directory))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_refuses_whole_writes() {
    let Some(small) = Small::mount() else {
        println!("skipped: this user may not mount a tmpfs");
        return;
    };
    let directory = small.0.path();
    let path = directory.join("state.redb").display().to_string();
    let ballast = directory.join("ballast");
    std::fs::write(&ballast, vec![1; 6 << 20]).unwrap();
    let store = open(&path);
    let write = |n: u32| {
        let half = vec![b'x'; 100_000];
        wait(store.commit(Txn::new().put(format!("/a/{n}"), half.clone()).put(format!("/b/{n}"), half)))
    };
    let mut written = 0;
    let refused = loop {
        match write(written) {
            Ok(_) => written += 1,
            Err(refused) => break refused,
        }
        assert!(written < 500, "the disk never ran full");
    };
    assert!(matches!(refused, Error::Refused(_)), "{refused}");
    assert!(matches!(write(written), Err(Error::Refused(_))));
    assert_eq!(wait(store.list("/")).unwrap().0.len(), 2 * written as usize);
    std::fs::remove_file(&ballast).unwrap();
    write(written).unwrap();
    drop(store);
    let (entries, revision) = wait(open(&path).list("/")).unwrap();
    assert_eq!((entries.len(), revision.0), (2 * (written as usize + 1), u64::from(written) + 1));
}
