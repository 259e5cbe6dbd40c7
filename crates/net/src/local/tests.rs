// SPDX-License-Identifier: Apache-2.0
//! Real sockets, and files that travel.

use super::*;
use crate::listen::{self, Listener, Share};
use crate::runtime::{block_on, timeout};
use std::time::Duration;

#[test]
fn a_listener_that_travelled_accepts_what_waited_for_it() {
    block_on(async {
        let bound = listen::bind("127.0.0.1:0".parse().unwrap(), Share::Alone).unwrap();
        let address = bound.local_addr();
        let waiting = crate::io::TcpStream::connect(address).await.unwrap();
        let (own, other) = Tether::pair().unwrap();
        own.send(b"one", &[bound.as_fd()]).unwrap();
        // Nobody but the message holds it now.
        drop(bound);
        let (message, mut files) = Tether(other).receive().unwrap().unwrap();
        assert_eq!((message.as_slice(), files.len()), (&b"one"[..], 1));
        let listener = Listener::from_fd(files.remove(0)).unwrap();
        assert_eq!(listener.local_addr(), address);
        let (_, remote) = timeout(Duration::from_secs(10), listener.accept()).await.unwrap();
        assert_eq!(remote, waiting.local_addr().unwrap());
    })
    .unwrap();
}

#[test]
fn messages_stay_apart_and_the_end_is_seen() {
    let (own, other) = Tether::pair().unwrap();
    let other = Tether(other);
    let files: Vec<File> = (0..FILES_MAX).map(|_| File::open("/dev/null").unwrap()).collect();
    let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    own.send(b"first", &files).unwrap();
    own.send(&vec![7; MESSAGE_BYTES_MAX], &[]).unwrap();
    assert_eq!(other.receive().unwrap().map(|(m, f)| (m.len(), f.len())), Some((5, FILES_MAX)));
    assert_eq!(other.receive().unwrap().map(|(m, f)| (m.len(), f.len())), Some((MESSAGE_BYTES_MAX, 0)));
    for (message, files) in
        [(&b""[..], &[][..]), (&vec![0; MESSAGE_BYTES_MAX + 1], &[]), (b"x", &[files[0]; FILES_MAX + 1])]
    {
        assert_eq!(own.send(message, files).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
    drop(own);
    assert!(other.receive().unwrap().is_none());
}

#[test]
fn what_was_said_is_heard_though_nobody_listens_there_any_more() {
    let (own, other) = Tether::pair().unwrap();
    own.send(b"never read", &[]).unwrap();
    let other = Tether(other);
    other.send(b"the last word", &[]).unwrap();
    drop(other);
    assert_eq!(own.receive().unwrap().unwrap().0, b"the last word");
    assert!(own.receive().unwrap().is_none());
}

#[test]
fn what_does_not_listen_is_no_listener() {
    let (_, other) = Tether::pair().unwrap();
    assert!(Listener::from_fd(other).is_err());
    assert!(Listener::from_fd(File::open("/dev/null").unwrap().into()).is_err());
}

#[test]
fn a_door_is_found_however_long_its_path() {
    block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a".repeat(100)).join("b".repeat(100));
        std::fs::create_dir_all(&deep).unwrap();
        let path = deep.join("door");
        // Left by one that was killed.
        std::fs::write(&path, "").unwrap();
        let door = Door::bind(&path).unwrap();
        let mut asks = Talk::open(&path).await.unwrap();
        let mut answers = door.accept().await.unwrap();
        asks.say("what").await.unwrap();
        assert_eq!(answers.next().await.unwrap().as_deref(), Some("what"));
        answers.say("that").await.unwrap();
        drop(answers);
        assert_eq!(asks.next().await.unwrap().as_deref(), Some("that"));
        assert_eq!(asks.next().await.unwrap(), None);
        drop(door);
        assert!(!path.exists() && Talk::open(&path).await.is_err());
    })
    .unwrap();
}
