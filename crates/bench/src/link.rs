// SPDX-License-Identifier: Apache-2.0
//! A network that is slow and loses packets, for kernels without `netem`: two TUN devices, whose packets are carried from one to the
//! other after a delay, except those that the dice choose.

use crate::LIFE_MAX;
use crate::tally::{now, say};
use crate::words::Words;
use anyhow::{Context, Result, bail};
use byrnie_base::Rng;
use byrnie_net::{runtime, tun};
use serde::Serialize;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Packets that are under way in one direction; what comes when there are as many is dropped.
const UNDER_WAY_MAX: usize = 16 * 1024;
/// Largest packet: what a TUN device has as its MTU unless told otherwise.
const PACKET_BYTES_MAX: usize = 1500;
/// Packets of which the share that is lost is told.
const MILLION: u64 = 1_000_000;

/// `link near=DEV far=DEV [delay=MICROSECONDS] [loss=PACKETS IN A MILLION] [seed=N]`, both ways alike. Says `ready` once the devices are there, both in
/// its own network namespace and down; when it's asked to end, what has become of the packets.
pub(crate) fn run(words: &Words) -> Result<()> {
    let delay = Duration::from_micros(words.number("delay", 0)?);
    let loss: u64 = words.number("loss", 0)?;
    if loss > MILLION {
        bail!("loss={loss} is more than {MILLION}");
    }
    let mut dice = Rng::new(words.number("seed", 1)?);
    let device = |key| {
        let name = words.text(key).with_context(|| format!("{key}= is missing"))?;
        tun::open(name).with_context(|| format!("cannot make the device {name}"))
    };
    let (near, far) = (device("near")?, device("far")?);
    let counts = Arc::new(Counts::default());
    for (from, to) in [(&near, &far), (&far, &near)] {
        let (from, to) = (from.try_clone()?, to.try_clone()?);
        let (queue, under_way) = sync_channel(UNDER_WAY_MAX);
        let lane = Lane { delay, loss, dice: dice.split(), queue, counts: Arc::clone(&counts) };
        thread::spawn(move || take(from, lane));
        thread::spawn(move || deliver(&under_way, to));
    }
    say("ready")?;
    // Both an end that was asked for and one by time are ordinary.
    let _ = runtime::block_on(runtime::timeout(LIFE_MAX, runtime::terminated()))?;
    say(&serde_json::to_string(&counts.told())?)
}

/// What became of packets, both ways together.
#[derive(Debug, Default)]
struct Counts {
    packets: AtomicU64,
    lost: AtomicU64,
    without_room: AtomicU64,
}

impl Counts {
    fn told(&self) -> Told {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Told { packets: read(&self.packets), lost: read(&self.lost), without_room: read(&self.without_room) }
    }
}

/// The same, as it's said.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Told {
    /// All that came.
    packets: u64,
    /// Of them, those that the dice chose.
    lost: u64,
    /// And those for which there was no room.
    without_room: u64,
}

/// A packet under way.
#[derive(Debug)]
struct Packet {
    due: Instant,
    bytes: Box<[u8]>,
}

/// One direction.
struct Lane {
    delay: Duration,
    /// Packets in a million.
    loss: u64,
    dice: Rng,
    /// As all are delayed alike, they leave in the order in which they came.
    queue: SyncSender<Packet>,
    counts: Arc<Counts>,
}

impl Lane {
    /// A packet has come: it's on its way from now on, or dropped. Whether anybody is there to deliver it.
    fn put(&mut self, bytes: &[u8], now: Instant) -> bool {
        let add = |count: &AtomicU64| count.fetch_add(1, Ordering::Relaxed);
        add(&self.counts.packets);
        if self.dice.below(MILLION) < self.loss {
            add(&self.counts.lost);
            return true;
        }
        match self.queue.try_send(Packet { due: now + self.delay, bytes: bytes.into() }) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                add(&self.counts.without_room);
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        }
    }
}

/// Takes what a device sends, until it's gone.
fn take(mut from: impl Read, mut lane: Lane) {
    let mut packet = [0; PACKET_BYTES_MAX];
    while let Ok(length) = from.read(&mut packet) {
        if length == 0 || !lane.put(&packet[..length], now()) {
            return;
        }
    }
}

/// Hands each packet in when it's due.
fn deliver(under_way: &Receiver<Packet>, mut to: impl Write) {
    for packet in under_way {
        thread::sleep(packet.due.saturating_duration_since(now()));
        // A device that is down takes nothing, like a cable that isn't plugged in.
        let _ = to.write(&packet.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A direction that nobody empties, and what is under way on it.
    fn lane(delay: Duration, loss: u64, seed: u64, room: usize) -> (Lane, Receiver<Packet>) {
        let (queue, under_way) = sync_channel(room);
        (Lane { delay, loss, dice: Rng::new(seed), queue, counts: Arc::default() }, under_way)
    }

    /// Which of so many packets were lost.
    fn lost(loss: u64, seed: u64, packets: u64) -> Vec<u64> {
        let (mut lane, under_way) = lane(Duration::ZERO, loss, seed, usize::try_from(packets).unwrap());
        for number in 0..packets {
            assert!(lane.put(&number.to_le_bytes(), now()));
        }
        let Counts { packets, lost, without_room } = &*lane.counts;
        let counts = [packets, lost, without_room].map(|count| count.load(Ordering::Relaxed));
        drop(lane.queue);
        let come: Vec<u64> =
            under_way.iter().map(|packet| u64::from_le_bytes((&*packet.bytes).try_into().unwrap())).collect();
        assert_eq!(counts, [counts[0], counts[0] - come.len() as u64, 0]);
        assert!(come.is_sorted(), "packets overtook each other");
        (0..counts[0]).filter(|number| come.binary_search(number).is_err()).collect()
    }

    #[test]
    fn as_many_are_lost_as_was_said_and_the_same_by_the_same_seed() {
        let first = lost(10_000, 1, 100_000);
        // 1,000 are expected, and the deviation of their number is 31.
        assert!((850..1150).contains(&first.len()), "{} of 100,000 at 1 %", first.len());
        assert_eq!(first, lost(10_000, 1, 100_000));
        assert_ne!(first, lost(10_000, 2, 100_000));
        assert_eq!((lost(0, 1, 1000).len(), lost(MILLION, 1, 1000).len()), (0, 1000));
    }

    #[test]
    fn what_finds_no_room_is_dropped_and_counted() {
        let (mut lane, under_way) = lane(Duration::ZERO, 0, 1, 2);
        for number in 0..5u8 {
            assert!(lane.put(&[number], now()));
        }
        assert_eq!(lane.counts.told(), Told { packets: 5, lost: 0, without_room: 3 });
        assert_eq!(under_way.try_iter().map(|packet| packet.bytes[0]).collect::<Vec<_>>(), [0, 1]);
        drop(under_way);
        assert!(!lane.put(&[5], now()), "nobody is there any more");
    }

    #[test]
    fn nothing_comes_before_its_time() {
        /// Keeps packets with the moments at which they came.
        struct Arrivals<'a>(&'a mut Vec<(Vec<u8>, Instant)>);
        impl Write for Arrivals<'_> {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.push((bytes.to_vec(), now()));
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let delay = Duration::from_millis(20);
        let (lane, under_way) = lane(delay, 0, 1, 8);
        let (start, mut arrivals) = (now(), Vec::new());
        // One read of a reader gives all that it has: one packet.
        take(&b"one packet"[..], lane);
        deliver(&under_way, Arrivals(&mut arrivals));
        assert_eq!(arrivals.len(), 1);
        assert_eq!(arrivals[0].0, b"one packet");
        assert!(arrivals[0].1 - start >= delay, "it came after {:?}", arrivals[0].1 - start);
    }
}
