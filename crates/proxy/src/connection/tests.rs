// SPDX-License-Identifier: Apache-2.0

use super::serve;
use crate::door::Door;
use crate::worker::Core;
use byrnie_net::io::TcpStream;
use std::net::SocketAddr;
use std::rc::Rc;

/// Bytes of the future that `serve` makes, without making one.
fn bytes_of<'a, F: Future>(_: impl Fn(&'a Rc<Core>, &'a Door, TcpStream, SocketAddr) -> F) -> usize {
    size_of::<F>()
}

#[test]
fn an_idle_connection_is_small() {
    // Every open connection holds one, whatever it speaks: what is rare stands on the heap. 4,240 when last
    // looked at; a connection took 44 KiB when it held handshakes and refusals too, several times each.
    let bytes = bytes_of(serve);
    assert!(bytes <= 6144, "{bytes} bytes");
}
