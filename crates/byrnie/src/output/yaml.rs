// SPDX-License-Identifier: Apache-2.0
//! JSON values as YAML text. Commands print with it and write policy files with it; every text that
//! YAML could take for something else is quoted.

use serde_json::{Map, Value};

/// The YAML of `value`; the items of an array at the top become documents of a stream.
pub(crate) fn emit(value: &Value) -> String {
    let documents = match value {
        Value::Array(items) if !items.is_empty() && items.iter().all(Value::is_object) => items.as_slice(),
        other => std::slice::from_ref(other),
    };
    documents.iter().map(document).collect::<Vec<_>>().join("---\n")
}

fn document(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(members) if !members.is_empty() => object(members, 0, &mut out),
        Value::Array(items) if !items.is_empty() => array(items, 0, &mut out),
        other => {
            out.push_str(&scalar(other));
            out.push('\n');
        }
    }
    out
}

fn object(members: &Map<String, Value>, indent: usize, out: &mut String) {
    for (index, (name, value)) in members.iter().enumerate() {
        if index > 0 || out.ends_with('\n') {
            out.extend(std::iter::repeat_n(' ', indent));
        }
        out.push_str(&text(name));
        out.push(':');
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                out.push('\n');
                object(inner, indent + 2, out);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                array(items, indent, out);
            }
            other => {
                out.push(' ');
                out.push_str(&scalar(other));
                out.push('\n');
            }
        }
    }
}

fn array(items: &[Value], indent: usize, out: &mut String) {
    for item in items {
        out.extend(std::iter::repeat_n(' ', indent));
        out.push_str("- ");
        match item {
            Value::Object(inner) if !inner.is_empty() => object(inner, indent + 2, out),
            Value::Array(inner) if !inner.is_empty() => {
                out.push('\n');
                array(inner, indent + 2, out);
            }
            other => {
                out.push_str(&scalar(other));
                out.push('\n');
            }
        }
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(string) => text(string),
        other => other.to_string(),
    }
}

/// A string, bare only if no YAML reader could take it for anything else.
fn text(string: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./ ".contains(c);
    let bare = string.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && string.chars().all(plain)
        && !string.ends_with(' ')
        && !matches!(
            string.to_ascii_lowercase().as_str(),
            "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n"
        );
    if bare { string.to_owned() } else { Value::from(string).to_string() }
}

#[cfg(test)]
mod tests {
    use super::emit;
    use serde_json::json;

    #[test]
    fn nested_values_keep_their_shape() {
        let value = json!({"a": {"b": [1, {"c": "x", "d": []}], "e": "on"}, "f": "1s", "g": null});
        assert_eq!(emit(&value), "a:\n  b:\n  - 1\n  - c: x\n    d: []\n  e: \"on\"\nf: \"1s\"\ng: null\n");
    }

    #[test]
    fn a_list_of_objects_is_a_stream() {
        assert_eq!(emit(&json!([{"a": 1}, {"a": 2}])), "a: 1\n---\na: 2\n");
    }
}
