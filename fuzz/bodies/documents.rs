// SPDX-License-Identifier: Apache-2.0
//! Documents of configuration: read or refused, and what is read survives its canonical form.

use byrnie_model::yaml::{Defaults, from_json, parse, to_json};

/// One input.
pub(crate) fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let defaults = Defaults::default();
    for document in parse("fuzz.yaml", text, &defaults).documents {
        let written = to_json(&document.resource);
        let read = from_json(&written, &defaults);
        assert!(read.is_ok(), "{written} is not read back: {read:?}");
        assert_eq!(read.map(|resource| to_json(&resource)), Ok(written));
    }
}
