// SPDX-License-Identifier: Apache-2.0
//! Paths and hosts: a canonical form is its own canonical form.

use byrnie_codec::uri;

/// One input.
pub(crate) fn run(bytes: &[u8]) {
    let (mut once, mut twice) = (String::new(), String::new());
    if let Ok(len) = uri::path_and_query(bytes, &mut once) {
        assert_eq!(uri::path_and_query(once.as_bytes(), &mut twice), Ok(len));
        assert_eq!(once, twice);
        assert!(once.starts_with('/') && !once[..len].contains("//"));
        assert!(once[..len].split('/').all(|segment| segment != "." && segment != ".."));
    }
    let (mut once, mut twice) = (String::new(), String::new());
    if uri::authority(bytes, &mut once).is_ok() {
        assert_eq!(uri::authority(once.as_bytes(), &mut twice), Ok(()));
        assert_eq!(once, twice);
    }
}
