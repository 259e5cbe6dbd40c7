// SPDX-License-Identifier: Apache-2.0
//! A network device whose other end is a program (Linux's TUN). No proxy has one: `byrnie-bench link` makes a bad network of two. It's
//! here because `unsafe` is.

use std::fs::File;
use std::io;

/// Makes the device `name` in the network namespace of this process. Each read takes one IP packet that the system sends by it, whole, and
/// each write hands in one that has come (Linux, `Documentation/networking/tuntap.rst`). The device is gone once the file and its clones are
/// closed, even if it was moved to another namespace.
///
/// # Errors
///
/// Without `CAP_NET_ADMIN` or `/dev/net/tun`, if there is such a device, if the name hasn't 1 to 15 bytes, and on other systems.
#[cfg(target_os = "linux")]
pub fn open(name: &str) -> io::Result<File> {
    use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

    /// `struct ifreq`: the name, which ends with a zero, then a union whose first part here are the flags.
    const REQUEST_BYTES: usize = 40;
    const NAME_BYTES: usize = 16;
    const TUNSETIFF: Opcode = opcode::write::<i32>(b'T', 202);
    const IFF_TUN: u16 = 0x0001;
    /// Packets alone, without four bytes before each that tell its protocol.
    const IFF_NO_PI: u16 = 0x1000;

    if !(1..NAME_BYTES).contains(&name.len()) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a device's name has 1 to 15 bytes"));
    }
    let mut request = [0u8; REQUEST_BYTES];
    request[..name.len()].copy_from_slice(name.as_bytes());
    request[NAME_BYTES..NAME_BYTES + 2].copy_from_slice(&(IFF_TUN | IFF_NO_PI).to_ne_bytes());
    let file = File::options().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: the call reads and writes a `struct ifreq`, which is bytes of any value and has 40 of them at most.
    unsafe { ioctl(&file, Updater::<TUNSETIFF, _>::new(&mut request)) }?;
    Ok(file)
}

/// The same.
///
/// # Errors
///
/// Always: it's Linux's.
#[cfg(not(target_os = "linux"))]
pub fn open(_name: &str) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_no_device_can_have_is_refused() {
        for name in ["", "sixteen-letters-"] {
            assert_eq!(open(name).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name}");
        }
    }
}
