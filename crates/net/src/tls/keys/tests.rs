// SPDX-License-Identifier: Apache-2.0
//! Keys stay secret, and files of credentials whole.

use super::*;
use crate::tls::tests::{HOUR, authority, credentials, identity, now};

#[test]
fn a_key_is_never_printed() {
    let key = Key::generate().unwrap();
    assert_eq!(format!("{key:?} {:?}", key.to_pem()), "Key(..) SecretText(..)");
    let made = credentials(&authority(), &identity("web"), HOUR);
    assert!(!format!("{made:?}").contains(made.key().to_pem().expose().lines().nth(1).unwrap()));
}

#[test]
fn a_key_survives_its_text() {
    let key = Key::generate().unwrap();
    let read = Key::from_pem(key.to_pem().expose()).unwrap();
    let public = |key: &Key| rcgen::PublicKeyData::der_bytes(key).to_vec();
    assert_eq!(public(&read), public(&key));
    for bad in ["", "hello", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
        assert!(Key::from_pem(bad).is_err());
    }
}

#[test]
fn pem_is_as_others_write_it() {
    let check =
        |bytes: &[u8], text: &str| assert_eq!(pem("X", bytes), format!("-----BEGIN X-----\n{text}-----END X-----\n"));
    check(b"", "");
    check(b"f", "Zg==\n");
    check(b"fo", "Zm8=\n");
    check(b"foo", "Zm9v\n");
    check(b"foobar", "Zm9vYmFy\n");
    check(&[0xff; 49], &format!("{}\n/w==\n", "/".repeat(64)));
}

#[test]
fn credentials_are_read_as_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("web.pem");
    let made = credentials(&authority(), &identity("web"), HOUR);
    save(&path, &made).unwrap();
    let read = load(&path, "mesh.local", now()).unwrap();
    assert_eq!((read.identity(), read.chain_pem()), (made.identity(), made.chain_pem()));
    assert_eq!(read.roots().pem(), made.roots().pem());
    let again = credentials(&authority(), &identity("cart"), HOUR);
    save(&path, &again).unwrap();
    assert_eq!(load(&path, "mesh.local", now()).unwrap().identity(), again.identity());
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(names.len(), 1, "no temporary file is left");
}

#[test]
fn expired_or_broken_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("web.pem");
    assert!(matches!(load(&path, "mesh.local", now()), Err(Error::File(_))));
    save(&path, &credentials(&authority(), &identity("web"), HOUR)).unwrap();
    assert!(load(&path, "mesh.local", now() + HOUR * 2).is_err());
    assert!(load(&path, "demo.local", now()).is_err());
    let text = std::fs::read_to_string(&path).unwrap();
    for length in [0, 1, text.len() / 4, text.len() / 2, text.len() - 40] {
        write_private(&path, &[&text[..length]]).unwrap();
        assert!(load(&path, "mesh.local", now()).is_err(), "{length} bytes");
    }
}

#[cfg(unix)]
#[test]
fn a_private_file_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("web.pem");
    save(&path, &credentials(&authority(), &identity("web"), HOUR)).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    let refused = load(&path, "mesh.local", now()).unwrap_err().to_string();
    assert!(refused.contains("0600"), "{refused}");
}
