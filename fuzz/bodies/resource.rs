// SPDX-License-Identifier: Apache-2.0
//! Resources as the control plane sends them to proxies, and as proxies keep them: what is read is valid, and survives its own
//! encoding.

use byrnie_model::Revision;
use byrnie_xds::name::{ORDER, of, parse};
use byrnie_xds::wire::{decode, encode};

/// One input: its first byte tells its kind, a line its name, and the rest is what is said of it.
pub(crate) fn run(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let mut parts = rest.splitn(2, |byte| *byte == b'\n');
    let (name, said) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let Some(key) = parse(ORDER[usize::from(*kind) % ORDER.len()], &String::from_utf8_lossy(name)) else { return };
    assert_eq!(parse(key.kind, &of(&key)).as_ref(), Some(&key));
    let Ok(resource) = decode(key.clone(), Revision(1), said) else { return };
    assert_eq!(decode(key, Revision(1), &encode(&resource)).as_ref(), Ok(&resource));
}
