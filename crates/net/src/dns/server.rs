// SPDX-License-Identifier: Apache-2.0
//! The sockets of the DNS server: datagrams under a rate, streams under time-outs and a cap. Started through
//! [`bind`] and [`serve`].

use super::Names;
use super::answer::{Transport, answer};
use crate::io::TcpStream;
use crate::listen::{self, Listener, Ports, Share};
use crate::runtime::{Group, Shutdown, coarse, timeout};
use byrnie_base::Instant;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

/// Largest datagram read, in bytes. A query of one question takes far less.
const QUERY_BYTES_MAX: usize = 4096;

/// Streams open at once.
pub(super) const STREAMS_MAX: usize = 64;

/// Time for one query and its answer on a stream, idle time included (RFC 7766, 6.2.3).
const STREAM_TIMEOUT: Duration = Duration::from_secs(10);

/// Queries answered on one stream.
const STREAM_QUERIES_MAX: usize = 1000;

/// Datagrams answered per second for addresses beyond this machine: a spoofed sender can make no more traffic
/// than this (an answer is at most a few times its query).
pub(super) const REMOTE_ANSWERS_PER_SECOND: u32 = 2000;

/// Ports tried for one that is free for both UDP and TCP.
const PAIRS_MAX: usize = 100;

/// Both sockets on one address.
#[derive(Debug)]
pub struct Server {
    udp: UdpSocket,
    tcp: Listener,
}

impl Server {
    /// The address bound, the same for UDP and TCP.
    pub const fn local_addr(&self) -> SocketAddr {
        self.tcp.local_addr()
    }

    /// The same sockets again.
    ///
    /// # Errors
    /// If the process is out of descriptors.
    pub fn share(&self) -> io::Result<Self> {
        Ok(Self { udp: self.udp.try_clone()?, tcp: self.tcp.share() })
    }

    /// The server at sockets that another process has opened.
    ///
    /// # Errors
    /// If one of them is something else.
    pub fn from_parts(udp: OwnedFd, tcp: Listener) -> io::Result<Self> {
        let udp = UdpSocket::from(udp);
        udp.set_nonblocking(true)?;
        if udp.local_addr()? != tcp.local_addr() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "two sockets at different addresses"));
        }
        Ok(Self { udp, tcp })
    }

    /// What [`Self::from_parts`] takes.
    pub fn into_parts(self) -> (OwnedFd, Listener) {
        (self.udp.into(), self.tcp)
    }
}

/// Takes `address` for UDP and TCP; a busy port as `ports` says. Port 0 takes any that is free for both.
///
/// # Errors
/// If no port is free for both.
pub fn bind(address: SocketAddr, ports: Ports) -> Result<Server, listen::Error> {
    let mut wanted = address;
    let mut busy = None;
    for _ in 0..PAIRS_MAX {
        let tcp =
            listen::bind_or_next(wanted, Share::Alone, ports).map_err(|error| listen::Error { address, ..error })?;
        match UdpSocket::bind(tcp.local_addr()) {
            Ok(udp) => {
                udp.set_nonblocking(true).map_err(|error| listen::Error { address, error, holder: None })?;
                return Ok(Server { udp, tcp });
            }
            Err(error) => busy = Some(error),
        }
        if wanted.port() != 0 {
            let next = tcp.local_addr().port().checked_add(1).filter(|_| ports == Ports::Next);
            let Some(port) = next else { break };
            wanted.set_port(port);
        }
    }
    let error = busy.unwrap_or_else(|| io::ErrorKind::AddrInUse.into());
    Err(listen::Error { address, error, holder: None })
}

/// Answers with `names` until `shutdown`.
///
/// # Errors
/// If the sockets can't be watched.
pub async fn serve(server: Server, names: Arc<dyn Names>, mut shutdown: Shutdown) -> io::Result<()> {
    let udp = tokio::net::UdpSocket::from_std(server.udp)?;
    let mut streams = Group::new();
    let places = Arc::new(Semaphore::new(STREAMS_MAX));
    let mut rate = Rate::new(REMOTE_ANSWERS_PER_SECOND);
    let mut query = vec![0_u8; QUERY_BYTES_MAX];
    loop {
        tokio::select! {
            () = shutdown.wait() => return Ok(()),
            received = udp.recv_from(&mut query) => match received {
                Ok((length, remote)) => {
                    if !listen::is_local(remote.ip()) && !rate.take(coarse().mono) {
                        continue;
                    }
                    if let Some(reply) = answer(&query[..length], &*names, Transport::Udp) {
                        // Sent or lost: the asker asks again. Waiting would let one full queue stop all.
                        let _ = udp.try_send_to(&reply, remote);
                    }
                }
                // ICMP errors of earlier answers arrive here; they concern nobody any more.
                Err(error) => tracing::debug!(%error, "dns datagram"),
            },
            (tcp, _) = server.tcp.accept() => {
                let (Ok(place), names) = (Arc::clone(&places).try_acquire_owned(), Arc::clone(&names)) else { continue };
                streams.spawn("dns stream", async move {
                    // The asker's errors are its own; it opens another stream if it cares.
                    let _ = stream(tcp, names).await;
                    drop(place);
                });
            }
        }
    }
}

async fn stream(mut tcp: TcpStream, names: Arc<dyn Names>) -> io::Result<()> {
    let mut query = Vec::new();
    for _ in 0..STREAM_QUERIES_MAX {
        let exchange = async {
            let length = usize::from(tcp.read_u16().await?);
            query.resize(length, 0);
            tcp.read_exact(&mut query).await?;
            let Some(reply) = answer(&query, &*names, Transport::Tcp) else {
                return Err(io::ErrorKind::InvalidData.into());
            };
            let length = u16::try_from(reply.len()).map_err(|_| io::ErrorKind::InvalidData)?;
            let framed = [&length.to_be_bytes()[..], &reply].concat();
            tcp.write_all(&framed).await
        };
        timeout(STREAM_TIMEOUT, exchange).await.map_err(|_| io::ErrorKind::TimedOut)??;
    }
    Ok(())
}

/// So many events in each second, counted from the first.
#[derive(Debug)]
pub(super) struct Rate {
    limit: u32,
    window: Instant,
    used: u32,
}

impl Rate {
    pub(super) const fn new(limit: u32) -> Self {
        Self { limit, window: Instant::from_nanos(0), used: 0 }
    }

    pub(super) fn take(&mut self, now: Instant) -> bool {
        if now.since(self.window) >= Duration::from_secs(1) {
            (self.window, self.used) = (now, 0);
        }
        self.used = self.used.saturating_add(1);
        self.used <= self.limit
    }
}
