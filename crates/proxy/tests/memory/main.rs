// SPDX-License-Identifier: Apache-2.0
//! Memory, counted by the allocator: what a request asks for on its way through two real proxies, and what hostile
//! clients make them hold. Everything in a process is counted but what threads ask for that are [`aside`], so each test has one of
//! its own, and clients and programs here use none of their own while it matters, or are aside.

#![expect(unsafe_code, reason = "an allocator can't be written without; nothing else here is unsafe")]
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "the wire tests use the rest of it")]
#[path = "../wire/frame.rs"]
mod frame;
mod held;
#[expect(dead_code, reason = "the wire tests use the rest of it")]
#[path = "../wire/hpack.rs"]
mod hpack;
mod many;
mod plain;
#[expect(dead_code, reason = "the mesh tests use the rest of it")]
#[path = "../mesh/world.rs"]
mod world;

use byrnie_codec::{Framing, Head};
use byrnie_model::Protocol;
use byrnie_net::http::h2::{Accepted, Flow, Sender, Server};
use byrnie_net::{http, io, listen, runtime};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::poll_fn;
use std::io::Write;
use std::process::Command;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use tokio::net::TcpSocket;
use world::{Peer, Program, Proxy, World};

struct Counting;

/// Calls that asked for memory, of all that aren't [`aside`].
static ASKED: AtomicU64 = AtomicU64::new(0);
/// Bytes that are held.
static HELD: AtomicI64 = AtomicI64::new(0);

thread_local! {
    /// Whether what this thread asks for is not counted.
    static ASIDE: Cell<bool> = const { Cell::new(false) };
}

/// What this thread asks for and holds from now on isn't counted: it's neither proxy's.
fn aside() {
    ASIDE.set(true);
}

/// So many bytes more are held, or less.
fn hold(bytes: i64) {
    if !ASIDE.get() {
        HELD.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// So many bytes more are held, or less, by a call that asks for memory.
fn ask(bytes: i64) {
    hold(bytes);
    if !ASIDE.get() {
        ASKED.fetch_add(1, Ordering::Relaxed);
    }
}

#[expect(clippy::cast_possible_wrap, reason = "no object is larger than isize::MAX")]
const fn signed(bytes: usize) -> i64 {
    bytes as i64
}

// SAFETY: every call is handed to the system's allocator as it came; counting touches atomics alone.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ask(signed(layout.size()));
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        hold(-signed(layout.size()));
        // SAFETY: `pointer` came from `System` with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ask(signed(size) - signed(layout.size()));
        // SAFETY: `pointer` came from `System` with this layout.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Set in the process that runs one test.
const ALONE: &str = "BYRNIE_MEMORY_TEST_ALONE";

/// Runs `test`, all of the test that calls this, in a process of its own, so that nothing is counted that another one kept or
/// let go; one at a time, so that none is slowed by another.
fn alone<T: FnOnce()>(test: T) {
    static TURN: Mutex<()> = Mutex::new(());
    if std::env::var_os(ALONE).is_some() {
        return test();
    }
    let name = std::any::type_name::<T>().trim_start_matches("memory::").trim_end_matches("::{{closure}}");
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // As many files as the system lets it have: thousands of connections have both their ends here.
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n \"$(ulimit -Hn)\"; exec \"$0\" \"$@\""]).arg(std::env::current_exe().unwrap());
    let run = command.args(["--exact", name, "--nocapture"]).env(ALONE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    println!("{said}{}", String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && said.contains("1 passed"), "{name}, alone");
}

fn asked() -> u64 {
    ASKED.load(Ordering::SeqCst)
}

fn held() -> i64 {
    HELD.load(Ordering::SeqCst)
}

static PIECE: [u8; 64 * 1024] = [b'x'; 64 * 1024];

/// So much the system may hold of what a program says, in bytes: by itself it takes mebibytes, which for hundreds of connections is more
/// than all that some machines have for sockets, and then none gets on.
const SAID_BYTES_MAX: u32 = 64 * 1024;

/// A program that answers `GET /BYTES` with so many; it keeps nothing.
fn giving() -> Program {
    Program::start(|mut peer| {
        TcpSocket::from_std_stream(peer.stream.try_clone().unwrap()).set_send_buffer_size(SAID_BYTES_MAX).unwrap();
        while let Some(head) = peer.read_head() {
            let path = head.split(' ').nth(1).unwrap_or_default();
            let mut left: usize = path[1..].split('/').next().and_then(|size| size.parse().ok()).unwrap_or(2);
            peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {left}\r\n\r\n"));
            while left > 0 {
                let part = left.min(PIECE.len());
                if peer.stream.write_all(&PIECE[..part]).is_err() {
                    return;
                }
                left -= part;
            }
        }
    })
}

/// The same for very many at once: of more than so many bytes it sends what the system takes, and then keeps the connection; as it
/// does of whoever asks for `/nothing`. It is aside.
fn giving_to_many() -> Program {
    const SMALL_BYTES: usize = 100_000;
    let kept = Mutex::new(Vec::new());
    Program::start(move |mut peer| {
        aside();
        while let Some(head) = peer.read_head() {
            let path = head.split(' ').nth(1).unwrap_or_default();
            if path == "/nothing" {
                return kept.lock().unwrap().push(peer);
            }
            let size: usize = path[1..].parse().unwrap_or(2);
            peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n"));
            if size > SMALL_BYTES {
                peer.stream.set_nonblocking(true).unwrap();
                while peer.stream.write(&PIECE).is_ok() {}
                return kept.lock().unwrap().push(peer);
            }
            peer.send(&PIECE.repeat(2)[..size]);
        }
    })
}

/// The port of a program that answers `GET /BYTES` with so many over HTTP/2, to as many as ask at once. It is aside.
fn giving_streams() -> u16 {
    let listener = listen::bind(world::loopback(), listen::Share::Alone).unwrap();
    let port = listener.local_addr().port();
    std::thread::spawn(move || {
        aside();
        runtime::block_on(async {
            loop {
                let (tcp, _) = listener.accept().await;
                runtime::spawn_local("program", give_streams(tcp.into()));
            }
        })
    });
    port
}

async fn give_streams(stream: io::Stream) {
    let Ok(mut server) = Server::handshake(stream, Vec::new(), Sender::Client).await else { return };
    while let Some(Accepted { flow, head }) = poll_fn(|cx| server.poll_accept(cx)).await {
        runtime::spawn_local("answer", async move {
            // Whoever asked may leave meanwhile.
            let _ = give(flow, head.unwrap()).await;
        });
    }
}

async fn give(mut flow: Flow, mut head: Box<Head>) -> Result<(), http::Error> {
    let mut left: usize = head.path()[1..].parse().unwrap();
    head.start_response(200);
    head.set_framing(Framing::Length(left as u64));
    flow.send_response(&head)?;
    while left > 0 {
        let part = left.min(PIECE.len());
        flow.push(&PIECE[..part])?;
        poll_fn(|cx| flow.poll_flush(cx)).await?;
        left -= part;
    }
    flow.end(None)?;
    poll_fn(|cx| flow.poll_flush(cx)).await
}

/// A pair as it comes: without an access log.
fn pair(program: &Program) -> (World, Proxy, Proxy) {
    pair_of(program.port, Protocol::Http1)
}

fn pair_of(port: u16, protocol: Protocol) -> (World, Proxy, Proxy) {
    let mut world = World::new();
    world.logs = false;
    let server = world.serving("echo", port, protocol);
    let caller = world.calling(&[("echo", protocol, &[&server])]);
    (world, server, caller)
}

fn metrics(proxy: &Proxy) -> String {
    let mut admin = Peer::connect(proxy.ports.admin);
    admin.ask("GET /metrics HTTP/1.1\r\nhost: admin\r\n\r\n").1
}
