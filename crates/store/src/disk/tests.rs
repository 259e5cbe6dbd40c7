// SPDX-License-Identifier: Apache-2.0
//! What the simulated disk promises to those who test with it.

use super::*;

#[test]
fn a_crash_keeps_what_was_synced_and_decides_the_rest() {
    let medium = RamDisk::new();
    let disk = medium.attach();
    disk.write(0, b"synced").unwrap();
    disk.sync().unwrap();
    disk.write(0, b"SYN").unwrap();
    disk.write(6, b"kept").unwrap();
    disk.write(10, b"torn").unwrap();
    medium.crash_with(|index| [Fate::Lost, Fate::Kept, Fate::Torn(2)][index]);
    assert!(disk.len().is_err(), "who was attached before a crash is cut off");
    let disk = medium.attach();
    let mut out = vec![0; 12];
    disk.read(0, &mut out).unwrap();
    assert_eq!(&out, b"syncedkeptto");
}

#[test]
fn a_full_disk_and_a_cut_cable_refuse() {
    let medium = RamDisk::new();
    let disk = medium.attach();
    medium.limit(Some(4));
    assert_eq!(disk.write(2, b"abc").unwrap_err().kind(), io::ErrorKind::StorageFull);
    medium.limit(None);
    disk.write(2, b"abc").unwrap();
    medium.give_up_a_sync();
    assert!(disk.sync().is_err());
    disk.write(0, b"y").unwrap();
    disk.sync().unwrap();
    let mut out = vec![0; 5];
    disk.read(0, &mut out).unwrap();
    assert_eq!(&out, b"y\0abc");
    medium.crash();
    let disk = medium.attach();
    assert_eq!(disk.len().unwrap(), 1, "what a failed sync gave up isn't durable by the next");
    medium.cut_power_after(1);
    disk.write(0, b"x").unwrap();
    assert!(disk.write(0, b"y").is_err());
}
