// SPDX-License-Identifier: Apache-2.0
//! The journal on a real disk: in a process that is killed at any moment no acknowledged entry is lost, none
//! is there by half, and opening it again always succeeds. The killed process is this test itself,
//! started again with a path to write to.

use byrnie_saga::Term;
use byrnie_store::log::Embedded;
use byrnie_store::{Append, Journal};
use std::collections::BTreeMap;
use std::future::Future;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// How often the writer is killed.
const KILLS: u32 = 20;
const PATH_VARIABLE: &str = "BYRNIE_JOURNAL_KILL_PATH";

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

/// Writes for ever, two entries at a time, and says what was acknowledged; only when the parent asks for it.
#[test]
fn the_writer() {
    let Ok(path) = std::env::var(PATH_VARIABLE) else { return };
    let journal = Arc::new(Embedded::open(Path::new(&path)).unwrap());
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let journal = journal.clone();
            std::thread::spawn(move || {
                let id = format!("{}-{thread}", std::process::id());
                for n in 0u32.. {
                    let entry: byrnie_store::Value = vec![b'x'; 100 + (n % 7) as usize * 300].into();
                    let entries = vec![entry.clone(), entry];
                    let summary = id.as_bytes().into();
                    let (term, after) = (Term::default(), n * 2);
                    let append = Append { term, id: id.as_str().into(), after, entries, summary, ended: None };
                    wait(journal.append(append)).unwrap();
                    std::io::stdout().lock().write_all(format!("acked {id} {n}\n").as_bytes()).unwrap();
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_killed_writer_loses_no_acknowledged_entry() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal.redb").display().to_string();
    let mut acked: BTreeMap<String, usize> = BTreeMap::new();
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
            let Some((id, n)) = line.split_once("acked ").and_then(|(_, rest)| rest.split_once(' ')) else { continue };
            acked.insert(id.to_owned(), n.parse::<usize>().unwrap() + 1);
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
        let journal = Embedded::open(Path::new(&path)).unwrap();
        assert!(wait(journal.unfinished(vec![0])).unwrap().len() >= acked.len());
        for (id, count) in &acked {
            let found = wait(journal.read(id)).unwrap().entries.len();
            assert!(found >= 2 * count && found % 2 == 0, "{id}: {count} pairs acknowledged, {found} entries found");
        }
    }
    println!("{KILLS} kills, {} acknowledged pairs, 0 lost", acked.values().sum::<usize>());
}
