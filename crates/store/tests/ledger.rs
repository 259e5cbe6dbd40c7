// SPDX-License-Identifier: Apache-2.0
//! The ledger on a real disk, in a process that is killed at any moment: nothing that was answered is lost,
//! and no key is granted twice. The same in a PostgreSQL. The killed process is this test itself, started again with a path.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may stop at anything unexpected")]

use byrnie_base::Clock as _;
use byrnie_base::clock::SystemClock;
use byrnie_saga::ledger::{Begin, Begun, Claim, Ending, Fingerprint, Finished, Name, State};
use byrnie_store::Ledger;
use byrnie_store::ledger::{Embedded, Postgres};
use std::collections::BTreeMap;
use std::future::Future;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// How often the ledger is killed.
const KILLS: u32 = 12;
const PATH_VARIABLE: &str = "BYRNIE_LEDGER_KILL_PATH";

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

/// In a file, or in a database.
fn open(path: &str) -> Box<dyn Ledger> {
    let clock = SystemClock::new();
    if path.starts_with("postgresql:") {
        let no_file = (Path::new("/nowhere/ledger.redb"), clock.now().wall);
        return Box::new(Postgres::open(path, "mesh.local", no_file).unwrap());
    }
    Box::new(Embedded::open(Path::new(path), Arc::new(clock)).unwrap())
}

fn name(key: &str) -> Name {
    Name { service: "payments.shop".into(), caller: "spiffe://demo.local/ns/shop/sa/web".into(), key: key.into() }
}

fn ask(claim: u64) -> Begin {
    let hour = Duration::from_secs(3600);
    Begin { fingerprint: Fingerprint([1; 32]), claim: Claim(claim), lease: hour, ttl: hour, again: false }
}

/// Begins and ends for ever, and says what was answered; only when the parent asks for it.
#[test]
fn the_writer() {
    let Ok(path) = std::env::var(PATH_VARIABLE) else { return };
    let ledger: Arc<dyn Ledger> = open(&path).into();
    let threads: Vec<_> = (0..4u64)
        .map(|thread| {
            let ledger = ledger.clone();
            std::thread::spawn(move || {
                for n in 0u64.. {
                    let key = format!("{}-{thread}-{n}", std::process::id());
                    let say = |what: &str| {
                        std::io::stdout().lock().write_all(format!("did {what} {key}\n").as_bytes()).unwrap();
                    };
                    assert_eq!(wait(ledger.begin(name(&key), ask(n))).unwrap(), Begun::Granted { again: false });
                    say("begin");
                    let ending = Ending::Done(key.as_bytes().into());
                    assert_eq!(wait(ledger.finish(name(&key), Claim(n), ending)).unwrap(), Finished::Recorded);
                    say("finish");
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_killed_ledger_forgets_no_answer() {
    let directory = tempfile::tempdir().unwrap();
    kill_and_look(&directory.path().join("ledger.redb").display().to_string());
}

/// While another control plane of the same database goes on.
#[test]
#[ignore = "it needs PostgreSQL, which `cargo xtask test postgres` starts"]
fn a_ledger_killed_in_postgres_forgets_no_answer() {
    kill_and_look(&std::env::var("BYRNIE_POSTGRES").unwrap());
}

fn kill_and_look(path: &str) {
    let mut answered: BTreeMap<String, bool> = BTreeMap::new();
    for kill in 0..KILLS {
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["the_writer", "--exact", "--nocapture"])
            .env(PATH_VARIABLE, path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(writer.stdout.take().unwrap());
        let mut left = 1 + kill * 5;
        for line in lines.lines().map_while(Result::ok) {
            let Some((what, key)) = line.split_once("did ").and_then(|(_, rest)| rest.split_once(' ')) else {
                continue;
            };
            // What was said after the kill was sent counts too: it was answered.
            *answered.entry(key.to_owned()).or_default() |= what == "finish";
            left = left.saturating_sub(1);
            if left == 0 {
                // At no particular moment of what the writer does next; a second kill does no harm.
                std::thread::sleep(Duration::from_micros(u64::from(kill) * 370));
                writer.kill().unwrap();
            }
        }
        assert!(!writer.wait().unwrap().success());
        let ledger = open(path);
        for (key, finished) in &answered {
            let entry = wait(ledger.read(name(key))).unwrap().unwrap_or_else(|| panic!("lost {key}"));
            let done = matches!(&entry.state, State::Done(kept) if **kept == *key.as_bytes());
            assert!(done || (!finished && matches!(entry.state, State::InFlight { .. })), "{key}: {entry:?}");
            // Nobody else is let in.
            let begun = wait(ledger.begin(name(key), ask(u64::MAX))).unwrap();
            assert!(!matches!(begun, Begun::Granted { .. }), "{key} was granted twice");
        }
    }
    println!("{KILLS} kills, {} keys answered, 0 lost", answered.len());
}
