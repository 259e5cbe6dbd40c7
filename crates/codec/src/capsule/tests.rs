// SPDX-License-Identifier: Apache-2.0
//! Capsules, whole and cut.

use super::*;
use proptest::prelude::*;

/// What is read of `bytes`, which come in pieces of `step`.
fn read(bytes: &[u8], step: usize) -> Result<Vec<Vec<u8>>, Wrong> {
    let (mut reader, mut datagrams) = (Reader::default(), Vec::new());
    for mut piece in bytes.chunks(step.max(1)) {
        while let Some(datagram) = reader.next(&mut piece)? {
            datagrams.push(datagram.to_vec());
        }
        assert!(piece.is_empty());
    }
    Ok(datagrams)
}

#[test]
fn a_datagram_is_as_rfc_9298_has_it() {
    let mut out = Vec::new();
    emit(b"hi", &mut out);
    emit(b"", &mut out);
    assert_eq!(out, [0, 3, 0, b'h', b'i', 0, 1, 0]);
    for length in [0, 62, 63, 16_382, 16_383, DATAGRAM_BYTES_MAX] {
        let mut out = Vec::new();
        emit(&vec![7; length], &mut out);
        assert!(out.len() - length <= OVERHEAD_BYTES_MAX, "{length}");
        assert_eq!(read(&out, out.len()), Ok(vec![vec![7; length]]), "{length}");
    }
}

#[test]
fn what_is_unknown_is_passed_over_and_what_is_malformed_ends_the_stream() {
    let check = |bytes: &[u8], expected: Result<&[&[u8]], Wrong>| {
        let expected = expected.map(|all| all.iter().map(|one| one.to_vec()).collect::<Vec<_>>());
        for step in 1..=bytes.len() {
            assert_eq!(read(bytes, step), expected, "{} by {step}", bytes.escape_ascii());
        }
    };
    // Another type, another context, a number in more bytes than it needs.
    check(&[7, 2, 9, 9, 0, 2, 0, b'a'], Ok(&[b"a"]));
    check(&[0, 3, 2, 9, 9, 0, 2, 0, b'a'], Ok(&[b"a"]));
    check(&[0x40, 0, 0x80, 0, 0, 3, 0x40, 0, b'a'], Ok(&[b"a"]));
    check(&[7, 0, 0, 1, 0], Ok(&[b""]));
    // One that hasn't ended.
    check(&[0, 9, 0, b'a'], Ok(&[]));
    check(&[0, 0], Err(Wrong::Context));
    check(&[0, 1, 0x40, 0], Err(Wrong::Context));
    check(&[0, 0x80, 1, 0, 0, 0], Err(Wrong::Length));
    check(&[7, 0x80, 1, 0, 1], Err(Wrong::Length));
    check(&[0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], Err(Wrong::Length));
}

proptest! {
    #[test]
    fn datagrams_are_read_as_they_were_written_wherever_they_are_cut(
        datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..90), 0..6),
        at in any::<prop::sample::Index>(),
    ) {
        let mut out = Vec::new();
        datagrams.iter().for_each(|datagram| emit(datagram, &mut out));
        for step in 1..=out.len() {
            prop_assert_eq!(read(&out, step), Ok(datagrams.clone()));
        }
        // Cut once, anywhere.
        let (mut reader, mut got) = (Reader::default(), Vec::new());
        let (first, second) = out.split_at(at.index(out.len() + 1));
        for mut piece in [first, second] {
            while let Some(datagram) = reader.next(&mut piece).unwrap() {
                got.push(datagram.to_vec());
            }
        }
        prop_assert_eq!(got, datagrams);
    }

    #[test]
    fn whatever_comes_is_read_alike_wherever_it_is_cut(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let whole = read(&bytes, bytes.len());
        for step in 1..bytes.len() {
            prop_assert_eq!(read(&bytes, step), whole.clone());
        }
    }
}
