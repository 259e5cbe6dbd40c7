// SPDX-License-Identifier: Apache-2.0
//! Which core serves a connection. The kernel spreads connections over the cores' listeners by a hash, so that a
//! few long-lived ones may all meet on one core; a core that has more than its share gives what it accepted to
//! the one that has least (as Envoy's `exact_balance` does, but without a lock). Called by `worker`; it decides
//! before a byte is read, so that nothing but the socket moves.

use crate::door::Door;
use byrnie_base::mailbox::{Receiver, SendError, Sender, mailbox};
use byrnie_base::share::InFlight;
use byrnie_net::runtime;
use std::net::SocketAddr;
use std::sync::Arc;

/// Connections from callers that one core serves at once, if the process may have as many files; more wait in the
/// kernel's queue.
pub(crate) const CONNECTIONS_MAX: usize = 16 * 1024;
/// Files that are kept for what isn't a caller's: listeners, the control plane, the admin's port.
const FILES_RESERVED: usize = 64;
/// Fewer connections than this are no service.
const CONNECTIONS_MIN: usize = 16;
/// Connections on their way to one core. Beyond it a core keeps what it has accepted.
const MOVED_WAITING_MAX: usize = 256;
/// A core may have this part more than the one that has least: to move a connection costs about as much as to
/// accept it, which short-lived ones, whose numbers differ by chance, are spared.
const SLACK: u64 = 4;

/// A connection that another core has accepted.
#[derive(Debug)]
pub(crate) struct Moved {
    pub(crate) tcp: std::net::TcpStream,
    pub(crate) remote: SocketAddr,
    pub(crate) door: Arc<Door>,
}

/// The connections of all cores, as one of them sees them.
#[derive(Clone, Debug)]
pub(crate) struct Spread {
    own: usize,
    open: Arc<[InFlight]>,
    doors: Arc<[Sender<Moved>]>,
    /// Connections that one core may serve.
    max: u64,
}

/// Where a core stands among the others.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) spread: Spread,
    /// What others give to it.
    pub(crate) moved: Receiver<Moved>,
}

/// One for each core.
pub(crate) fn places(cores: usize) -> Vec<Place> {
    let max = connections_max(cores);
    let open: Arc<[InFlight]> = (0..cores).map(|_| InFlight::new()).collect();
    let (doors, boxes): (Vec<_>, Vec<_>) = (0..cores).map(|_| mailbox(MOVED_WAITING_MAX)).unzip();
    let doors: Arc<[Sender<Moved>]> = doors.into();
    let spread = |own| Spread { own, open: Arc::clone(&open), doors: Arc::clone(&doors), max };
    boxes.into_iter().enumerate().map(|(own, moved)| Place { spread: spread(own), moved }).collect()
}

/// Connections from callers that one of `cores` may serve at once: for each there must be a file for another one
/// upstream, or requests that were let in could not be sent on.
fn connections_max(cores: usize) -> u64 {
    let files = usize::try_from(runtime::open_files_max()).unwrap_or(usize::MAX);
    let each = files.saturating_sub(FILES_RESERVED) / 2 / cores.max(1);
    each.clamp(CONNECTIONS_MIN, CONNECTIONS_MAX) as u64
}

impl Spread {
    /// Connections that this core serves.
    fn open(&self) -> u64 {
        self.open[self.own].value()
    }

    /// Whether this core serves as many as it may.
    pub(crate) fn is_full(&self) -> bool {
        self.open() >= self.max
    }

    /// Whether this core serves so few that it accepts more whatever it's short of.
    pub(crate) fn has_few(&self) -> bool {
        self.open() < CONNECTIONS_MIN as u64
    }

    /// This core serves one more.
    pub(crate) fn enter(&self) {
        self.open[self.own].enter();
    }

    /// This core serves one less.
    pub(crate) fn leave(&self) {
        self.open[self.own].leave();
    }

    /// The core that is to have the next connection, if it isn't this one.
    pub(crate) fn other(&self) -> Option<usize> {
        let own = self.open();
        let (least, other) = self.open.iter().map(InFlight::value).zip(0..).min()?;
        (own > least + least / SLACK).then_some(other)
    }

    /// Gives a connection to another core, which counts as its from now on.
    ///
    /// # Errors
    /// If that core can't take it: here it is again.
    pub(crate) fn give(&self, other: usize, moved: Moved) -> Result<(), Moved> {
        self.open[other].enter();
        self.doors[other].send(moved).map_err(|error| {
            self.open[other].leave();
            let (SendError::Full(moved) | SendError::Closed(moved)) = error;
            moved
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    /// Serves the next connection as core `at` of `cores` would: there, or elsewhere.
    fn accept(cores: &[Place], at: usize) {
        let spread = &cores[at].spread;
        match spread.other() {
            Some(other) => spread.open[other].enter(),
            None => spread.open[at].enter(),
        };
    }

    fn open(cores: &[Place]) -> Vec<u64> {
        cores.iter().map(|place| place.spread.open()).collect()
    }

    #[test]
    fn few_connections_that_all_come_to_one_core_are_spread_evenly() {
        let cores = places(4);
        for _ in 0..8 {
            accept(&cores, 2);
        }
        assert_eq!(open(&cores), [2, 2, 2, 2]);
    }

    #[test]
    fn many_differ_by_a_quarter_at_most_and_by_chance_alone_none_moves() {
        let cores = places(2);
        for _ in 0..1000 {
            accept(&cores, 0);
        }
        let [first, second] = open(&cores)[..] else { panic!() };
        assert!(first >= second && first <= second + second / SLACK + 1, "{first} and {second}");
        let even = places(2);
        for at in 0..1000 {
            // Runs of ten.
            even[at / 10 % 2].spread.enter();
        }
        assert_eq!(even[0].spread.other(), None);
        even[0].spread.enter();
        assert_eq!(even[0].spread.other(), None);
    }

    #[test]
    fn a_core_that_can_take_no_more_gives_the_connection_back() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let remote = listener.local_addr().unwrap();
        let tcp = TcpStream::connect(remote).unwrap();
        let moved = || Moved { tcp: tcp.try_clone().unwrap(), remote, door: Arc::new(Door::Edge) };
        let mut cores = places(2);
        for _ in 0..MOVED_WAITING_MAX {
            cores[0].spread.give(1, moved()).unwrap();
        }
        assert!(cores[0].spread.give(1, moved()).is_err());
        assert_eq!(cores[1].spread.open(), MOVED_WAITING_MAX as u64);
        drop(cores.remove(1));
        assert!(cores[0].spread.give(1, moved()).is_err(), "a core that has ended takes nothing");
    }
}
