// SPDX-License-Identifier: Apache-2.0
//! Documents of configuration: read or refused, and what is read survives its canonical form.
#![no_main]

use byrnie_model::yaml::{Defaults, from_json, parse, to_json};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let defaults = Defaults::default();
    for document in parse("fuzz.yaml", text, &defaults).documents {
        let written = to_json(&document.resource);
        let read = from_json(&written, &defaults);
        assert!(read.is_ok(), "{written} is not read back: {read:?}");
        assert_eq!(read.map(|resource| to_json(&resource)), Ok(written));
    }
});
