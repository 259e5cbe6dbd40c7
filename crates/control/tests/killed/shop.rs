// SPDX-License-Identifier: Apache-2.0
//! The participants: each keeps a barrier by the key of a call, commits, and loses the first answer under each key. What
//! it's asked for stands in the path: `/fine`, `/slow` (202, then asked for at another place), `/away` (202, to be asked for
//! at another service), `/no`, `/stuck` (403 until an operator has it repaired), `/held` (the first answer comes only once it is let go).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

/// What has happened at the participants.
#[derive(Debug, Default)]
struct Books {
    effects: Vec<String>,
    /// Keys that were seen, and how often.
    keys: BTreeMap<String, u32>,
    repaired: BTreeSet<String>,
    /// Branches that have said no: to undo what was never done has no effect.
    refused: BTreeSet<String>,
}

/// The participants.
pub(crate) struct Shop {
    pub(crate) port: u16,
    books: Arc<Mutex<Books>>,
    held: Arc<Held>,
}

/// Whether what is held is let go.
#[derive(Default)]
struct Held {
    over: Mutex<bool>,
    news: Condvar,
}

impl Shop {
    pub(crate) fn open() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let books = Arc::<Mutex<Books>>::default();
        let held = Arc::<Held>::default();
        let (kept, holds) = (Arc::clone(&books), Arc::clone(&held));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (books, held) = (Arc::clone(&kept), Arc::clone(&holds));
                std::thread::spawn(move || serve(stream, &books, &held));
            }
        });
        Self { port, books, held }
    }

    /// What took effect, in order, as `BRANCH:OP`.
    pub(crate) fn effects(&self) -> Vec<String> {
        self.books.lock().unwrap().effects.clone()
    }

    /// How often calls under this key have come.
    pub(crate) fn calls(&self, key: &str) -> u32 {
        self.books.lock().unwrap().keys.get(key).copied().unwrap_or_default()
    }

    /// Lets go what is held.
    pub(crate) fn let_go(&self) {
        *self.held.over.lock().unwrap() = true;
        self.held.news.notify_all();
    }

    /// A branch's op no longer says 403.
    pub(crate) fn repair(&self, what: &str) {
        self.books.lock().unwrap().repaired.insert(what.to_owned());
    }
}

/// A status that is said only once what is held is let go.
const HELD: u16 = 201;

/// What is answered: nothing, or a status with further header fields.
type Said = Option<(u16, &'static str)>;

/// Reads a line; false if whoever wrote it was killed within it.
fn whole_line(reader: &mut impl BufRead, line: &mut String) -> bool {
    reader.read_line(line).is_ok() && line.ends_with('\n')
}

fn serve(stream: TcpStream, books: &Mutex<Books>, held: &Held) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let mut line = String::new();
        if !whole_line(&mut reader, &mut line) {
            return;
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            if !whole_line(&mut reader, &mut line) {
                return;
            }
            let Some((name, value)) = line.trim().split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        if reader.read_exact(&mut vec![0; length]).is_err() {
            return;
        }
        let said = act(&mut books.lock().unwrap(), &path, &headers);
        let Some((status, more)) = said else { return };
        if status == HELD {
            drop(held.news.wait_while(held.over.lock().unwrap(), |over| !*over).unwrap());
        }
        let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 2\r\n{more}\r\n{{}}");
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn act(books: &mut Books, path: &str, headers: &BTreeMap<String, String>) -> Said {
    let what = format!("{}:{}", headers["txn-branch"], headers["txn-op"]);
    let Some(key) = headers.get("idempotency-key") else {
        // Where the outcome of something slow is asked for.
        assert_eq!(path, "/later");
        return Some((200, ""));
    };
    let seen = books.keys.entry(key.clone()).or_default();
    *seen += 1;
    let seen = *seen;
    let known = books.effects.contains(&what);
    let branch = &headers["txn-branch"];
    let commit = |books: &mut Books| {
        if !known && !books.refused.contains(branch) {
            books.effects.push(what.clone());
        }
    };
    // The barrier lets each key take effect once; a second effect by another key would show.
    match path.trim_start_matches('/').split('/').next().unwrap_or_default() {
        "fine" => {
            if seen == 1 {
                assert!(!known, "{what} was done under another key");
                commit(books);
                return None;
            }
            Some((200, ""))
        }
        "slow" => {
            if seen == 1 {
                commit(books);
                return None;
            }
            Some((202, "location: /later\r\nretry-after: 0\r\n"))
        }
        "away" => Some((202, "location: http://elsewhere/later\r\n")),
        "held" => {
            commit(books);
            Some((if seen == 1 { HELD } else { 200 }, ""))
        }
        "no" => {
            books.refused.insert(branch.clone());
            Some((409, ""))
        }
        "stuck" if seen == 1 => None,
        "stuck" if !books.repaired.contains(&what) => Some((403, "")),
        "stuck" => {
            commit(books);
            Some((200, ""))
        }
        other => panic!("nothing is at {other}"),
    }
}
