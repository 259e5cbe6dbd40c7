// SPDX-License-Identifier: Apache-2.0
//! Capsules: where the input is cut (by its first byte) must not matter, and what was read is written and read again alike.

use byrnie_codec::capsule::{DATAGRAM_BYTES_MAX, Reader, Wrong, emit};

fn read(input: &[u8], step: usize) -> Result<Vec<Vec<u8>>, Wrong> {
    let (mut reader, mut datagrams) = (Reader::default(), Vec::new());
    for mut part in input.chunks(step) {
        while let Some(datagram) = reader.next(&mut part)? {
            assert!(datagram.len() <= DATAGRAM_BYTES_MAX);
            datagrams.push(datagram.to_vec());
        }
        assert!(part.is_empty());
    }
    Ok(datagrams)
}

/// One input.
pub(crate) fn run(bytes: &[u8]) {
    let Some((step, input)) = bytes.split_first() else { return };
    let whole = read(input, input.len().max(1));
    assert_eq!(whole, read(input, usize::from(*step).max(1)));
    let Ok(datagrams) = whole else { return };
    let mut out = Vec::new();
    datagrams.iter().for_each(|datagram| emit(datagram, &mut out));
    assert_eq!(read(&out, out.len().max(1)), Ok(datagrams));
}
