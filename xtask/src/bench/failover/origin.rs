// SPDX-License-Identifier: Apache-2.0
//! The program behind every endpoint, in threads of the bench itself: it lives on while proxies die, and
//! counts every request that comes, and every post by its number.

use anyhow::Result;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Longest line of a head that is read, in bytes.
const LINE_BYTES_MAX: u64 = 8192;
/// Largest body of a request, in bytes.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// The origins.
pub(super) struct Origins {
    pub(super) ports: Vec<u16>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    posts: Mutex<HashMap<u64, u32>>,
}

impl Origins {
    /// Listens on so many ports of loopback.
    pub(super) fn start(count: usize) -> Result<Self> {
        let counts = Arc::new(Counts::default());
        let mut ports = Vec::new();
        for _ in 0..count {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            ports.push(listener.local_addr()?.port());
            let counts = Arc::clone(&counts);
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let counts = Arc::clone(&counts);
                    std::thread::spawn(move || serve(&stream, &counts));
                }
            });
        }
        Ok(Self { ports, counts })
    }

    /// Requests so far, and posts that came more than once.
    pub(super) fn counts(&self) -> (u64, usize) {
        let posts = self.counts.posts.lock().unwrap_or_else(PoisonError::into_inner);
        (self.counts.requests.load(Ordering::SeqCst), posts.values().filter(|times| **times > 1).count())
    }
}

/// Answers requests until the connection ends.
fn serve(stream: &TcpStream, counts: &Counts) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut reader = BufReader::new(stream);
    loop {
        let (mut line, mut post, mut length) = (String::new(), None, 0);
        reader.by_ref().take(LINE_BYTES_MAX).read_line(&mut line).ok().filter(|read| *read > 0)?;
        loop {
            line.clear();
            reader.by_ref().take(LINE_BYTES_MAX).read_line(&mut line).ok().filter(|read| *read > 0)?;
            let text = line.trim().to_ascii_lowercase();
            match text.split_once(':') {
                Some(("x-post", number)) => post = number.trim().parse().ok(),
                Some(("content-length", number)) => length = number.trim().parse().ok()?,
                Some(_) => {}
                None => break,
            }
        }
        let mut body = vec![0; std::cmp::min(length, BODY_BYTES_MAX)];
        reader.read_exact(&mut body).ok()?;
        counts.requests.fetch_add(1, Ordering::SeqCst);
        if let Some(post) = post {
            *counts.posts.lock().unwrap_or_else(PoisonError::into_inner).entry(post).or_default() += 1;
        }
        let mut socket = stream;
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok").ok()?;
    }
}
