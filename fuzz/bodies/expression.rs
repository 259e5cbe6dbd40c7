// SPDX-License-Identifier: Apache-2.0
//! Expressions of definitions: read or refused, and what has a value has the same one every time.

use byrnie_model::expr;
use serde_json::json;

/// One input.
pub(crate) fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let values = json!({
        "input": {"id": 7, "items": [{"sku": "a1", "n": 2.5}], "vip": true, "none": null},
        "a": {"id": "x-1", "list": [1, 2, 3]},
    });
    let values = values.as_object().cloned().unwrap_or_default();
    let _ = expr::names(text);
    if let Ok(value) = expr::evaluate(text, &values) {
        let again = expr::evaluate(text, &values).map(|value| value.to_string());
        assert_eq!(again, Ok(value.to_string()));
    }
    if let Ok(path) = expr::path(text, &values) {
        assert!(path.len() <= text.len() * 64 + 64);
    }
}
