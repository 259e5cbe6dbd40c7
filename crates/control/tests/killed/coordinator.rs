// SPDX-License-Identifier: Apache-2.0
//! The process that is killed: the coordinator over its journal, its API on a port, and calls that go straight to the
//! shop instead of through a proxy.

use crate::striking::{Striking, say};
use byrnie_base::clock::SystemClock;
use byrnie_base::{Clock, Text};
use byrnie_control::transactions::{self, Caller, Coordinator, Outbound, Request};
use byrnie_control::{State, ingest};
use byrnie_net::listen::{self, Share};
use byrnie_net::runtime::{self, Shutdown};
use byrnie_net::serve::caller::{Caller as Client, Outgoing};
use byrnie_net::serve::client::Reply;
use byrnie_net::serve::{self, HeaderName, HeaderValue, Method};
use byrnie_net::{BoxFuture, io};
use byrnie_store::{Journal, Store, Txn, log};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

pub(crate) const FOLDER: &str = "BYRNIE_KILLED_FOLDER";
const SHOP: &str = "BYRNIE_KILLED_SHOP";
const STRIKE: &str = "BYRNIE_KILLED_STRIKE";
/// Generous, as the machine may be busy; nothing waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(60);
const SERVICE: &str = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"shop","namespace":"default"},
    "spec":{"selector":{"app":"shop"},"ports":[{"port":80}]}}"#;

/// Where the coordinator is killed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strike {
    /// The number of the step, from 0.
    pub(crate) at: usize,
    /// Once it is durable; otherwise before it is written.
    pub(crate) after: bool,
}

/// Calls that go straight to the shop, whatever service they name.
pub(crate) struct Straight {
    client: Arc<Client>,
    shop: SocketAddr,
}

impl Straight {
    pub(crate) fn to(shop: SocketAddr) -> Self {
        Self { client: Arc::new(Client::new()), shop }
    }
}

impl Outbound for Straight {
    fn call(&self, request: Request, limit: Duration) -> BoxFuture<'static, Result<Reply, Text>> {
        let (client, to) = (Arc::clone(&self.client), self.shop);
        Box::pin(async move {
            let mut headers = vec![(HeaderName::from_static("host"), HeaderValue::from_static("shop"))];
            headers.extend(request.headers);
            let outgoing = Outgoing {
                to,
                method: request.method.parse::<Method>().unwrap(),
                uri: request.path.to_string(),
                headers,
                body: request.body,
                answer_bytes_max: 1 << 20,
                http2: false,
            };
            client.send(outgoing, limit).await.map_err(|error| error.to_string().into())
        })
    }

    fn reaches(&self, _: &str) -> BoxFuture<'static, bool> {
        let to = self.shop;
        Box::pin(async move { io::connect(to, PATIENCE).await.is_ok() })
    }
}

/// Runs until it is killed.
pub(crate) fn serve() {
    let told = |name: &str| std::env::var(name).unwrap();
    let folder = PathBuf::from(told(FOLDER));
    let strike = std::env::var(STRIKE).ok().map(|strike| {
        let (at, after) = strike.split_once(' ').unwrap();
        Strike { at: at.parse().unwrap(), after: after == "after" }
    });
    let shop = SocketAddr::from(([127, 0, 0, 1], told(SHOP).parse().unwrap()));
    runtime::block_on(async move {
        let journal = log::Embedded::open(&folder.join("transactions.redb")).unwrap();
        let (_trigger, shutdown) = runtime::shutdown();
        let coordinator = open(Arc::new(Striking::new(journal, strike)), shutdown.clone()).await;
        let listener = listen::bind(SocketAddr::from(([127, 0, 0, 1], 0)), Share::Alone).unwrap();
        say(&format!("port {}", listener.local_addr().port()));
        connect(&coordinator, shop);
        let answer: serve::Answer = Arc::new(move |request| {
            let coordinator = Arc::clone(&coordinator);
            Box::pin(async move { transactions::answer(&coordinator, Some(Caller::Operator), &request).await })
        });
        serve::serve(listener, answer, shutdown).await;
    })
    .unwrap();
}

/// A coordinator over this journal, which knows of the shop.
pub(crate) async fn open(journal: Arc<dyn Journal>, shutdown: Shutdown) -> Arc<Coordinator> {
    let clock = Arc::new(SystemClock::new());
    let disk = byrnie_store::disk::RamDisk::new();
    let store = Arc::new(byrnie_store::Memory::open(&disk, Arc::<SystemClock>::clone(&clock)).unwrap());
    store.commit(Txn::new().put("/resources/Service/default/shop", SERVICE.as_bytes().to_vec())).await.unwrap();
    let seed = clock.now().wall.as_millis();
    let state = Arc::new(State::new(store, clock, "mesh.local".into()));
    let _watch = ingest::list(&state).await.unwrap();
    Coordinator::new(state, journal, seed, shutdown)
}

/// Goes on with what was begun, and begins to call.
pub(crate) fn connect(coordinator: &Arc<Coordinator>, shop: SocketAddr) {
    coordinator.connect(Arc::new(Straight::to(shop)));
}

/// What a child has said.
#[derive(Default)]
struct Said {
    now: Mutex<(Vec<String>, bool)>,
    news: Condvar,
}

impl Said {
    fn wait<T>(&self, mut holds: impl FnMut(&(Vec<String>, bool)) -> Option<T>) -> T {
        let mut found = None;
        let now = self.now.lock().unwrap();
        let waited = self
            .news
            .wait_timeout_while(now, PATIENCE, |now| {
                found = holds(now);
                found.is_none()
            })
            .unwrap();
        let said = waited.0.0.join("\n");
        drop(waited);
        found.unwrap_or_else(|| panic!("it never said what is waited for:\n{said}"))
    }
}

/// The process, as the test sees it.
pub(crate) struct Child {
    pid: u32,
    port: u16,
    said: Arc<Said>,
}

impl Child {
    pub(crate) fn start(folder: &Path, shop: u16, strike: Option<Strike>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["the_coordinator", "--exact", "--nocapture"]).env(FOLDER, folder).env(SHOP, shop.to_string());
        if let Some(Strike { at, after }) = strike {
            command.env(STRIKE, format!("{at} {}", if after { "after" } else { "before" }));
        }
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let pid = process.id();
        let said = Arc::<Said>::default();
        let heard = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok) {
                if line == "strike" {
                    process.kill().unwrap();
                }
                heard.now.lock().unwrap().0.push(line);
                heard.news.notify_all();
            }
            process.wait().unwrap();
            heard.now.lock().unwrap().1 = true;
            heard.news.notify_all();
        });
        let of_line = |line: &String| line.rsplit_once("port ").and_then(|(_, port)| port.parse().ok());
        let port = said.wait(|now| now.0.iter().find_map(of_line).or_else(|| now.1.then_some(0)));
        assert!(port > 0, "it ended before it served");
        Self { pid, port, said }
    }

    /// The steps that it has made, once it has ended.
    pub(crate) fn ended(&self) -> Vec<String> {
        let step = |line: &String| line.strip_prefix("step ").map(str::to_owned);
        self.said.wait(|now| now.1.then(|| now.0.iter().filter_map(step).collect()))
    }

    /// Ends it.
    pub(crate) fn kill(&self) -> Vec<String> {
        drop(Command::new("kill").args(["-KILL", &self.pid.to_string()]).status());
        self.ended()
    }

    /// One request to its API; nothing if the process goes away meanwhile.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> std::io::Result<(u16, serde_json::Value)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let length = body.len();
        let head = format!(
            "{method} /txn/v1/{path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nprefer: wait=30\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(head.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let body = serde_json::from_str(body).map_err(|_| std::io::ErrorKind::UnexpectedEof)?;
        Ok((status.ok_or(std::io::ErrorKind::InvalidData)?, body))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.said.now.lock().unwrap().1 {
            self.kill();
        }
    }
}
