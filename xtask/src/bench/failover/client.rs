// SPDX-License-Identifier: Apache-2.0
//! The client: keep-alive connections, requests at a fixed rate, every tenth a post with a number of its
//! own. What isn't answered with 200 within the limit is lost.

use super::options::Load;
use crate::bench::now;
use anyhow::Result;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A request that takes longer is lost.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// What the client saw.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) requests: u64,
    /// Requests that may be repeated and weren't answered.
    pub(super) failed: u64,
    pub(super) failed_posts: u64,
    pub(super) p99_us: u64,
    pub(super) worst_us: u64,
}

/// Sends all requests.
pub(super) fn run(entry: SocketAddr, load: Load) -> Result<Seen> {
    let (next, start) = (AtomicU64::new(0), now());
    let parts = std::thread::scope(|scope| {
        let ask = || scope.spawn(|| connection(entry, load, &next, start));
        let threads: Vec<_> = (0..load.connections).map(|_| ask()).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect::<Vec<_>>()
    });
    let mut seen = Seen::default();
    let mut latencies = Vec::new();
    for (part, own) in parts {
        seen.requests += part.requests;
        seen.failed += part.failed;
        seen.failed_posts += part.failed_posts;
        latencies.extend(own);
    }
    latencies.sort_unstable();
    seen.p99_us = latencies.get(latencies.len() * 99 / 100).copied().unwrap_or(0);
    seen.worst_us = latencies.last().copied().unwrap_or(0);
    Ok(seen)
}

/// One connection: takes the next number, waits until it's due, asks.
fn connection(entry: SocketAddr, load: Load, next: &AtomicU64, start: Instant) -> (Seen, Vec<u64>) {
    let (mut seen, mut latencies, mut wire) = (Seen::default(), Vec::new(), None);
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= load.requests {
            return (seen, latencies);
        }
        let due = start + Duration::from_nanos(number.saturating_mul(1_000_000_000) / load.rate);
        std::thread::sleep(due.saturating_duration_since(now()));
        let post = number % 10 == 9;
        let sent = now();
        let good = ask(&mut wire, entry, post.then_some(number)).is_some();
        latencies.push(u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX));
        seen.requests += 1;
        if !good {
            wire = None;
            *(if post { &mut seen.failed_posts } else { &mut seen.failed }) += 1;
        }
    }
}

fn ask(wire: &mut Option<BufReader<TcpStream>>, entry: SocketAddr, post: Option<u64>) -> Option<()> {
    if wire.is_none() {
        let stream = TcpStream::connect_timeout(&entry, ANSWER_MAX).ok()?;
        stream.set_nodelay(true).ok()?;
        stream.set_read_timeout(Some(ANSWER_MAX)).ok()?;
        *wire = Some(BufReader::new(stream));
    }
    let reader = wire.as_mut()?;
    let request = match post {
        None => "GET /b/1 HTTP/1.1\r\nhost: app\r\n\r\n".to_owned(),
        Some(number) => {
            format!("POST /b/1 HTTP/1.1\r\nhost: app\r\nx-post: {number}\r\ncontent-length: 4\r\n\r\nbody")
        }
    };
    reader.get_mut().write_all(request.as_bytes()).ok()?;
    let (mut line, mut length, mut close) = (String::new(), 0, false);
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let good = line.contains(" 200 ");
    loop {
        line.clear();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let text = line.trim().to_ascii_lowercase();
        match text.split_once(':') {
            Some(("content-length", number)) => length = number.trim().parse::<usize>().ok()?,
            Some(("connection", word)) => close = word.trim() == "close",
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length.min(1 << 20)];
    reader.read_exact(&mut body).ok()?;
    if close {
        *wire = None;
    }
    good.then_some(())
}
