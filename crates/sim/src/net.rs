// SPDX-License-Identifier: Apache-2.0
//! Connections between proxies and the control plane, with what networks do to them: delays, breaks
//! that each side notices at another time, partitions. Within a connection bytes keep their order, as
//! TCP promises; what was under way when it broke is lost from some point on.

use crate::world::World;
use byrnie_base::Instant;
use byrnie_xds::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Which proxy, by its place in the mesh.
pub type Who = usize;

/// One connection, for the whole run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Conn(pub u64);

/// The ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The proxy, who dialled.
    Proxy,
    /// The control plane.
    Control,
}

impl End {
    const fn other(self) -> Self {
        match self {
            Self::Proxy => Self::Control,
            Self::Control => Self::Proxy,
        }
    }
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// The proxy's configuration.
    Ads,
    /// The workload's registration.
    Registry,
}

/// What travels.
#[derive(Clone, Debug)]
pub enum Message {
    /// A message of delta ADS.
    Ads(Bytes),
    /// A workload registers: its wire form.
    Join(Bytes),
    /// It's still there.
    Heartbeat,
}

/// What the network does to those at its ends.
#[derive(Clone, Debug)]
pub enum Arrival {
    /// The control plane has a new connection.
    Opened,
    /// A message came.
    Message(Message),
    /// The connection is gone, or is taken to be.
    Broken,
}

/// Shortest way of a message.
const DELAY_MIN: Duration = Duration::from_micros(200);
/// Longest way of most messages.
const DELAY_MAX: Duration = Duration::from_millis(5);
/// Longest way of some: a queue somewhere.
const DELAY_RARE: Duration = Duration::from_millis(300);
/// Longest until the end of a connection is noticed: keep-alives find a dead one by then.
pub const NOTICE_MAX: Duration = Duration::from_secs(4);

/// All connections.
#[derive(Debug, Default)]
pub struct Net {
    links: BTreeMap<Conn, Link>,
    partitioned: BTreeSet<Who>,
    opened: u64,
    /// Connections that broke.
    pub breaks: u64,
}

#[derive(Debug)]
struct Link {
    who: Who,
    purpose: Purpose,
    /// Nothing more arrives.
    dead: bool,
    /// Which ends still take it for alive: proxy, control.
    open: [bool; 2],
    /// When the last message towards each end arrives: later ones come later.
    busy_until: [Instant; 2],
}

/// An event of the network.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// On which connection.
    pub conn: Conn,
    /// At which end.
    pub end: End,
    /// What.
    pub arrival: Arrival,
}

impl Net {
    /// A proxy dials. `None` if nobody can be reached: it will have to try again.
    pub fn dial<E: From<Delivery>>(&mut self, world: &mut World<E>, who: Who, purpose: Purpose) -> Option<Conn> {
        if self.partitioned.contains(&who) {
            return None;
        }
        self.opened += 1;
        let conn = Conn(self.opened);
        let link = Link { who, purpose, dead: false, open: [true, true], busy_until: [world.now(); 2] };
        self.links.insert(conn, link);
        self.carry(world, conn, End::Control, Arrival::Opened);
        Some(conn)
    }

    /// Sends a message towards `end`. On a dead connection it vanishes.
    pub fn send<E: From<Delivery>>(&mut self, world: &mut World<E>, conn: Conn, end: End, message: Message) {
        self.carry(world, conn, end, Arrival::Message(message));
    }

    /// One end closes: the other learns of it, and of all that was sent before.
    pub fn close<E: From<Delivery>>(&mut self, world: &mut World<E>, conn: Conn, by: End) {
        self.carry(world, conn, by.other(), Arrival::Broken);
        if let Some(link) = self.links.get_mut(&conn) {
            link.open[index(by)] = false;
        }
        self.forget(conn);
    }

    /// Whether a delivery counts, which is asked when its time has come.
    pub fn arrives(&mut self, delivery: &Delivery) -> bool {
        let Some(link) = self.links.get_mut(&delivery.conn) else { return false };
        let open = link.open[index(delivery.end)];
        let broken = matches!(delivery.arrival, Arrival::Broken);
        if broken {
            link.open[index(delivery.end)] = false;
        }
        let counts = open && (broken || !link.dead);
        if broken {
            self.forget(delivery.conn);
        }
        counts
    }

    /// Breaks a connection: nothing more arrives, and each end learns of it in its own time.
    pub fn cut<E: From<Delivery>>(&mut self, world: &mut World<E>, conn: Conn, notice: Duration) {
        let Some(link) = self.links.get_mut(&conn).filter(|link| !link.dead) else { return };
        link.dead = true;
        self.breaks += 1;
        for end in [End::Proxy, End::Control] {
            let span = world.between(Duration::ZERO, notice);
            world.after(span, Delivery { conn, end, arrival: Arrival::Broken }.into());
        }
    }

    /// Separates a proxy from the control plane, or joins it again.
    pub fn partition<E: From<Delivery>>(&mut self, world: &mut World<E>, who: Who, apart: bool) {
        if !apart {
            self.partitioned.remove(&who);
            return;
        }
        self.partitioned.insert(who);
        for conn in self.of(who) {
            self.cut(world, conn, NOTICE_MAX);
        }
    }

    /// Every living connection of a proxy.
    pub fn of(&self, who: Who) -> Vec<Conn> {
        self.links.iter().filter(|(_, link)| link.who == who && !link.dead).map(|(conn, _)| *conn).collect()
    }

    /// Every connection that isn't dead.
    pub fn alive(&self) -> Vec<Conn> {
        self.links.iter().filter(|(_, link)| !link.dead).map(|(conn, _)| *conn).collect()
    }

    /// Whether messages get through on it.
    pub fn is_alive(&self, conn: Conn) -> bool {
        self.links.get(&conn).is_some_and(|link| !link.dead && link.open == [true, true])
    }

    /// Whether a proxy is cut off.
    pub fn is_partitioned(&self, who: Who) -> bool {
        self.partitioned.contains(&who)
    }

    /// Whose connection it is, and what for.
    pub fn whose(&self, conn: Conn) -> Option<(Who, Purpose)> {
        self.links.get(&conn).map(|link| (link.who, link.purpose))
    }

    fn carry<E: From<Delivery>>(&mut self, world: &mut World<E>, conn: Conn, end: End, arrival: Arrival) {
        let rare = world.rng.percent(2);
        let span = world.between(DELAY_MIN, if rare { DELAY_RARE } else { DELAY_MAX });
        let Some(link) = self.links.get_mut(&conn) else { return };
        // After the previous one, as the bytes of a stream are.
        let at = (world.now() + span).max(link.busy_until[index(end)] + Duration::from_micros(1));
        link.busy_until[index(end)] = at;
        world.at(at, Delivery { conn, end, arrival }.into());
    }

    fn forget(&mut self, conn: Conn) {
        if self.links.get(&conn).is_some_and(|link| link.open == [false, false]) {
            self.links.remove(&conn);
        }
    }
}

const fn index(end: End) -> usize {
    match end {
        End::Proxy => 0,
        End::Control => 1,
    }
}
