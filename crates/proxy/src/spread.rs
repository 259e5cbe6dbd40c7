// SPDX-License-Identifier: Apache-2.0
//! Which core serves a connection. The kernel spreads connections over the cores' listeners by a hash, so that a
//! few long-lived ones may all meet on one core; a core that has more than its share gives what it accepted to
//! the one that has least (as Envoy's `exact_balance` does, but without a lock). Called by `worker`; it decides
//! before a byte is read, so that nothing but the socket moves.

use crate::door::Door;
use byrnie_base::mailbox::{Receiver, SendError, Sender, mailbox};
use byrnie_base::share::InFlight;
use std::net::SocketAddr;
use std::sync::Arc;

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
}

/// One for each core, and where it finds what others give it.
pub(crate) fn spread(cores: usize) -> Vec<(Spread, Receiver<Moved>)> {
    let open: Arc<[InFlight]> = (0..cores).map(|_| InFlight::new()).collect();
    let (doors, boxes): (Vec<_>, Vec<_>) = (0..cores).map(|_| mailbox(MOVED_WAITING_MAX)).unzip();
    let doors: Arc<[Sender<Moved>]> = doors.into();
    let spread = |own| Spread { own, open: Arc::clone(&open), doors: Arc::clone(&doors) };
    boxes.into_iter().enumerate().map(|(own, moved)| (spread(own), moved)).collect()
}

impl Spread {
    /// Connections that this core serves.
    pub(crate) fn open(&self) -> u64 {
        self.open[self.own].value()
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
    fn accept(cores: &[(Spread, Receiver<Moved>)], at: usize) {
        let (spread, _) = &cores[at];
        match spread.other() {
            Some(other) => spread.open[other].enter(),
            None => spread.open[at].enter(),
        };
    }

    fn open(cores: &[(Spread, Receiver<Moved>)]) -> Vec<u64> {
        cores.iter().map(|(spread, _)| spread.open()).collect()
    }

    #[test]
    fn few_connections_that_all_come_to_one_core_are_spread_evenly() {
        let cores = spread(4);
        for _ in 0..8 {
            accept(&cores, 2);
        }
        assert_eq!(open(&cores), [2, 2, 2, 2]);
    }

    #[test]
    fn many_differ_by_a_quarter_at_most_and_by_chance_alone_none_moves() {
        let cores = spread(2);
        for _ in 0..1000 {
            accept(&cores, 0);
        }
        let [first, second] = open(&cores)[..] else { panic!() };
        assert!(first >= second && first <= second + second / SLACK + 1, "{first} and {second}");
        let even = spread(2);
        for at in 0..1000 {
            // Runs of ten.
            even[at / 10 % 2].0.enter();
        }
        assert_eq!(even[0].0.other(), None);
        even[0].0.enter();
        assert_eq!(even[0].0.other(), None);
    }

    #[test]
    fn a_core_that_can_take_no_more_gives_the_connection_back() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let remote = listener.local_addr().unwrap();
        let tcp = TcpStream::connect(remote).unwrap();
        let moved = || Moved { tcp: tcp.try_clone().unwrap(), remote, door: Arc::new(Door::Edge) };
        let mut cores = spread(2);
        for _ in 0..MOVED_WAITING_MAX {
            cores[0].0.give(1, moved()).unwrap();
        }
        assert!(cores[0].0.give(1, moved()).is_err());
        assert_eq!(cores[1].0.open(), MOVED_WAITING_MAX as u64);
        let (_, gone) = cores.remove(1);
        drop(gone);
        assert!(cores[0].0.give(1, moved()).is_err(), "a core that has ended takes nothing");
    }
}
