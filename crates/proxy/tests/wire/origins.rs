// SPDX-License-Identifier: Apache-2.0
//! The requests that hide another one, before servers that others have written: each must see what was sent, as both proxies
//! have seen it, and nothing else. `cargo xtask test origins` installs them.

use crate::corpus::{Reasons, compare, corpus, counted, expected, play_to};
use crate::recorded::{Asked, Reached};
use crate::wanted;
use crate::world::{PATIENCE, Reserved, World, until};
use byrnie_model::Protocol;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Mutex;

/// The servers, as `origins.py` calls them.
const ORIGINS: [&str; 8] =
    ["uvicorn-h11", "uvicorn-httptools", "granian", "gunicorn", "waitress", "cheroot", "tornado", "aiohttp"];
/// What one may refuse that the grammar of HTTP allows: of a hundred requests so many.
const REFUSED_MAX: usize = 5;

/// One of them, until it's dropped.
struct Origin(Child);

impl Origin {
    fn start(kind: &str, port: u16, notes: &Path) -> Self {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../xtask/peers/origins.py");
        let mut command = Command::new("python3");
        command.arg(script).args([kind, &port.to_string()]).arg(notes);
        let origin = Self(command.spawn().unwrap());
        until(kind, || TcpStream::connect(("127.0.0.1", port)).is_ok());
        origin
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        // An error means that it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What of a request an origin and a proxy both tell: its method, host and path, and the length of its body.
type Told = (String, String, String, u64);

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap().to_owned()
}

fn lines(text: &str) -> impl Iterator<Item = Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap())
}

/// Every request is told alike by the origin and by the access log of the proxy before it.
fn told_alike(notes: &[Value], log: &str) {
    let mut found: BTreeMap<Told, i64> = BTreeMap::new();
    for note in notes {
        let target = text(note, "target");
        let path = target.split('?').next().unwrap().to_owned();
        let length = text(note, "body").chars().count() as u64;
        *found.entry((text(note, "method"), text(note, "host"), path, length)).or_default() += 1;
    }
    for line in lines(log).filter(|line| line["status"] == 200) {
        let length = line["bytesReceived"].as_u64().unwrap();
        *found.entry((text(&line, "method"), text(&line, "host"), text(&line, "path"), length)).or_default() -= 1;
    }
    found.retain(|_, count| *count != 0);
    assert!(found.is_empty(), "told by the origin more often (or less, if below 0) than by the proxy: {found:?}");
}

/// Sends one in `step` payloads to such a server, and judges all that came of it.
fn check(kind: &str, step: usize) {
    let (world, port) = (World::new(), Reserved::new());
    let notes = world.state_dir("notes");
    let origin = Origin::start(kind, port.address().port(), &notes);
    let mut server = world.serving("echo", port.address().port(), Protocol::Http1);
    let mut caller = world.calling(&[("echo", Protocol::Http1, &[&server])]);
    let (payloads, refused) = (corpus("a", step), Some(Mutex::default()));
    play_to(caller.outbound("echo"), &payloads, false, &refused);
    assert_eq!(counted(&caller), expected(&payloads), "{kind}: refusals by reason");
    assert_eq!(counted(&server), Reasons::new(), "{kind}: refusals at the other proxy");
    caller.drain(PATIENCE);
    server.drain(PATIENCE);
    drop(origin);
    let notes: Vec<Value> = lines(&std::fs::read_to_string(notes).unwrap()).collect();
    let bytes = |text: String| text.chars().map(|c| c as u8).collect();
    let asked =
        |note| Asked { method: text(note, "method"), target: text(note, "target"), body: bytes(text(note, "body")) };
    let mut reached = Reached { whole: notes.iter().map(asked).collect(), ..Reached::default() };
    let (saw, refused) = (reached.whole.len(), refused.unwrap().into_inner().unwrap());
    println!("{kind}: {} payloads, {saw} requests seen, {} refused by itself", payloads.len(), refused.len());
    assert!(saw >= 500 && refused.len() * 100 <= saw * REFUSED_MAX, "{kind}: {refused:?}");
    reached.whole.extend(refused);
    compare(&payloads, &reached);
    told_alike(&notes, &world.log("echo"));
}

#[test]
#[ignore = "it needs servers of others, which `cargo xtask test origins` installs"]
fn eight_servers_of_others_see_what_was_sent_and_nothing_else() {
    let step = usize::try_from(wanted("BYRNIE_ORIGINS_STEP", 8)).unwrap();
    ORIGINS.iter().for_each(|kind| check(kind, step));
}
