// SPDX-License-Identifier: Apache-2.0
//! Two sides that keep the rules, in every order that chance finds: neither ever calls the other wrong, and
//! in the end no stream is left and all credit is back.

use crate::hop::*;
use byrnie_base::Instant;
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// One side: what it sends waits in a queue, as on the wire.
struct Party {
    session: Session,
    wire: VecDeque<(Frame, usize)>,
    streams: BTreeMap<u32, Open>,
    next_key: u32,
}

#[derive(Clone, Copy)]
struct Open {
    id: StreamId,
    unread: usize,
    headed: bool,
    sent_end: bool,
}

impl Party {
    fn new(side: Side) -> Self {
        Self { session: Session::new(side), wire: VecDeque::new(), streams: BTreeMap::new(), next_key: 0 }
    }

    fn send(&mut self, frame: Frame) {
        self.wire.push_back((frame, frame.payload_bytes()));
    }

    fn add(&mut self, id: StreamId, headed: bool) -> u32 {
        let key = self.next_key;
        self.next_key += 1;
        self.streams.insert(key, Open { id, unread: 0, headed, sent_end: false });
        key
    }

    fn grant(&mut self, id: StreamId, grants: Grants) {
        for (stream, value) in [(id, grants.stream), (StreamId::CONNECTION, grants.connection)] {
            if value > 0 {
                self.send(Frame::new(stream, Kind::Credit, value));
            }
        }
    }

    /// One step that chance picks: `what`, on the stream that `which` points at, with so many bytes.
    fn step(&mut self, what: u8, which: usize, bytes: usize) {
        let picked = self.streams.keys().nth(which % self.streams.len().max(1)).copied();
        let (key, open) = match picked.and_then(|key| Some((key, *self.streams.get(&key)?))) {
            Some((key, open)) if what > 1 => (key, open),
            _ => return self.open(bytes),
        };
        match what {
            2..=4 => self.write(key, open, bytes),
            5..=7 => self.read(key, open),
            8 => self.end(key, open),
            _ => self.give_up(key, open),
        }
    }

    fn open(&mut self, bytes: usize) {
        let key = self.next_key;
        if let Some(id) = self.session.open(key) {
            self.add(id, true);
            self.session.sent(id, bytes);
            self.send(Frame { stream: id, kind: Kind::Open, end: false, value: bytes as u32 });
        }
    }

    fn write(&mut self, key: u32, open: Open, bytes: usize) {
        if open.sent_end || !self.session.is_open(open.id) {
            return;
        }
        let kind = if open.headed { Kind::Data } else { Kind::Open };
        let room = if open.headed { self.session.may_send(open.id) } else { usize::MAX };
        if room == 0 || !self.session.may_send_head() {
            return;
        }
        let bytes = bytes.min(room);
        self.session.sent(open.id, bytes);
        self.send(Frame { stream: open.id, kind, end: false, value: bytes as u32 });
        self.streams.insert(key, Open { headed: true, ..open });
    }

    fn read(&mut self, key: u32, open: Open) {
        let grants = self.session.consume(open.id, open.unread);
        self.grant(open.id, grants);
        self.streams.insert(key, Open { unread: 0, ..open });
    }

    fn end(&mut self, key: u32, open: Open) {
        if !open.sent_end && self.session.is_open(open.id) {
            let kind = if open.headed { Kind::Data } else { Kind::Open };
            self.send(Frame { stream: open.id, kind, end: true, value: 0 });
            self.session.end(open.id);
            self.streams.insert(key, Open { headed: true, sent_end: true, ..open });
        }
    }

    fn give_up(&mut self, key: u32, open: Open) {
        self.read(key, open);
        if self.session.is_open(open.id) {
            self.session.close(open.id);
            self.send(Frame::new(open.id, Kind::Reset, code::CANCEL));
        }
        self.streams.remove(&key);
    }

    /// Takes the first frame off the other's wire.
    fn take(&mut self, from: &mut Self, now: Instant) -> Result<bool, Wrong> {
        let Some((frame, bytes)) = from.wire.pop_front() else { return Ok(false) };
        let id = frame.stream;
        let action = self.session.receive(&frame, now)?;
        if self.session.runs_short() {
            let owed: Vec<_> = self.session.owed().collect();
            owed.into_iter().for_each(|(id, stream)| self.grant(id, Grants { stream, connection: 0 }));
        }
        match action {
            Action::Open { key: None } => {
                let key = self.add(id, false);
                self.session.bind(id, key);
                self.unread(key, bytes);
            }
            Action::Open { key: Some(key) } | Action::Data { key } => self.unread(key, bytes),
            Action::Nothing => {
                let back = self.session.discard(bytes);
                self.grant(id, Grants { stream: 0, connection: back });
            }
            Action::Reset { .. } | Action::Credit { .. } => {}
            other => panic!("{other:?}"),
        }
        if frame.end {
            self.session.received_end(id);
        }
        Ok(true)
    }

    fn unread(&mut self, key: u32, bytes: usize) {
        let open = self.streams.get_mut(&key).unwrap();
        open.unread += bytes;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn two_sides_that_keep_the_rules_never_part_in_anger(
        steps in prop::collection::vec((any::<bool>(), 0u8..12, 0usize..40, 0usize..=FRAME_BYTES_MAX), 0..1500),
    ) {
        let (mut a, mut b) = (Party::new(Side::Opener), Party::new(Side::Server));
        let mut now = Instant::from_nanos(1);
        for (first, what, which, bytes) in steps {
            now = now + Duration::from_millis(5);
            let (own, other) = if first { (&mut a, &mut b) } else { (&mut b, &mut a) };
            if what >= 10 {
                own.take(other, now).unwrap();
            } else {
                own.step(what, which, bytes);
            }
        }
        let rounds = 4;
        for _ in 0..rounds {
            for own in [&mut a, &mut b] {
                for (key, open) in own.streams.clone() {
                    own.give_up(key, open);
                }
            }
            loop {
                now = now + Duration::from_millis(5);
                let moved = a.take(&mut b, now).unwrap() | b.take(&mut a, now).unwrap();
                if !moved {
                    break;
                }
            }
        }
        prop_assert_eq!((a.session.open_streams(), b.session.open_streams()), (0, 0));
        // Full again but for less than half, which is given back when there is more of it.
        for party in [&mut a, &mut b] {
            prop_assert!(party.session.has_room() || party.session.open(0).is_none());
            let owed = party.session.discard(CONNECTION_CREDIT_BYTES as usize);
            prop_assert!(owed >= CONNECTION_CREDIT_BYTES);
        }
    }
}

/// Whatever is on both wires is taken, and what came on the streams that are read is passed on.
fn settle(sender: &mut Party, receiver: &mut Party, read: &[u32]) {
    let now = Instant::from_nanos(0);
    loop {
        let mut moved = receiver.take(sender, now).unwrap();
        for key in read {
            if let Some(open) = receiver.streams.get(key).copied().filter(|open| open.unread > 0) {
                receiver.read(*key, open);
                moved = true;
            }
        }
        if !moved && !sender.take(receiver, now).unwrap() {
            return;
        }
    }
}

#[test]
fn streams_that_nobody_reads_leave_the_others_their_share() {
    const BODY: usize = 1024 * 1024;
    let (mut sender, mut receiver) = (Party::new(Side::Opener), Party::new(Side::Server));
    // Each is read once, a little: what is owed for it must not be forgotten.
    for _ in 0..STREAMS_MAX - 1 {
        sender.open(100);
        settle(&mut sender, &mut receiver, &[]);
        let key = sender.next_key - 1;
        assert_eq!(sender.session.open_streams(), key + 1);
        let mut left = BODY;
        while left > 0 {
            let open = sender.streams[&key];
            let room = sender.session.may_send(open.id).min(left);
            if room == 0 {
                break;
            }
            sender.write(key, open, room);
            settle(&mut sender, &mut receiver, &[]);
            left -= room;
            if left + room == BODY {
                let begun = receiver.streams[&key];
                receiver.read(key, begun);
            }
        }
        assert!(left > 0);
    }
    assert!(sender.session.has_room() && receiver.session.may_send_head(), "one more is let in");
    // Those that were read a little ask for more all the time.
    let greedy = |sender: &mut Party, receiver: &mut Party| {
        for (key, open) in sender.streams.clone() {
            let room = sender.session.may_send(open.id);
            if room > 0 && key + 1 < STREAMS_MAX {
                sender.write(key, open, room);
            }
        }
        settle(sender, receiver, &[STREAMS_MAX - 1]);
    };
    greedy(&mut sender, &mut receiver);
    sender.open(100);
    let (key, mut left) = (sender.next_key - 1, BODY);
    settle(&mut sender, &mut receiver, &[key]);
    while left > 0 {
        let open = sender.streams[&key];
        let room = sender.session.may_send(open.id).min(left);
        assert!(room > 0, "{left} of {BODY} bytes don't pass");
        sender.write(key, open, room);
        settle(&mut sender, &mut receiver, &[key]);
        greedy(&mut sender, &mut receiver);
        left -= room;
    }
    let unread: usize = receiver.streams.values().map(|open| open.unread).sum();
    assert!(unread <= CONNECTION_CREDIT_BYTES as usize, "{unread}");
}

/// Until it has taken some of its answer, hardly anything of it is under way; then it's like others.
#[test]
fn an_answer_to_a_newcomer_is_curbed_until_it_takes_some() {
    const BODY: usize = 1024 * 1024;
    for crowded in [false, true] {
        let (mut opener, mut server) = (Party::new(Side::Opener), Party::new(Side::Server));
        if crowded {
            // Nobody reads these, so that credit is given back at once whatever it is.
            for _ in 0..60 {
                opener.open(100);
                settle(&mut opener, &mut server, &[]);
                let key = server.next_key - 1;
                while let room @ 1.. = server.session.may_send(server.streams[&key].id) {
                    server.write(key, server.streams[&key], room);
                    settle(&mut opener, &mut server, &[]);
                }
            }
        }
        opener.open(100);
        let (key, id) = (opener.next_key - 1, opener.streams[&(opener.next_key - 1)].id);
        opener.session.curb(id);
        settle(&mut opener, &mut server, &[]);
        let served = *server.streams.iter().find(|(_, open)| open.id == id).unwrap().0;
        server.session.curb(id);
        let send = |opener: &mut Party, server: &mut Party| {
            let mut sent = 0;
            while let room @ 1.. = server.session.may_send(id) {
                server.write(served, server.streams[&served], room);
                settle(opener, server, &[]);
                sent += room;
            }
            sent
        };
        server.write(served, server.streams[&served], 100);
        settle(&mut opener, &mut server, &[]);
        let begun = 100 + send(&mut opener, &mut server);
        assert!(begun <= CURB_BYTES as usize && begun >= 1024, "{begun}");
        let mut passed = 0;
        while passed < BODY {
            let open = opener.streams[&key];
            assert!(open.unread > 0, "it stops after {passed}");
            passed += open.unread;
            opener.read(key, open);
            settle(&mut opener, &mut server, &[]);
            send(&mut opener, &mut server);
            let under_way = opener.streams[&key].unread;
            assert!(
                crowded || passed < CURB_BYTES as usize || under_way > STREAM_CREDIT_BYTES as usize / 2,
                "{under_way}"
            );
        }
    }
}

#[test]
fn what_a_newcomer_sends_says_nothing_of_what_it_takes() {
    let (mut opener, mut server) = (Party::new(Side::Opener), Party::new(Side::Server));
    opener.open(100);
    let (key, id) = (opener.next_key - 1, opener.streams[&(opener.next_key - 1)].id);
    opener.session.curb(id);
    settle(&mut opener, &mut server, &[]);
    let served = *server.streams.iter().find(|(_, open)| open.id == id).unwrap().0;
    server.session.curb(id);
    let mut left = 4 * STREAM_CREDIT_BYTES as usize;
    while left > 0 {
        let room = opener.session.may_send(id).min(left);
        assert!(room > 0, "a request is held back, {left} before its end");
        opener.write(key, opener.streams[&key], room);
        settle(&mut opener, &mut server, &[]);
        let open = server.streams[&served];
        server.read(served, open);
        settle(&mut opener, &mut server, &[]);
        left -= room;
    }
    let mut sent = 0;
    while let room @ 1.. = server.session.may_send(id) {
        server.write(served, server.streams[&served], room);
        settle(&mut opener, &mut server, &[]);
        sent += room;
    }
    assert!(sent <= CURB_BYTES as usize, "{sent}");
}
