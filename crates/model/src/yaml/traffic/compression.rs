// SPDX-License-Identifier: Apache-2.0
//! `compression` of a TrafficPolicy.

use crate::code;
use crate::policy::traffic::Compression;
use crate::yaml::reader::Reader;
use byrnie_base::Text;
use serde::{Deserialize, Serialize};

/// Most types of content, and most bytes of one.
const CONTENT_TYPES_MAX: usize = 32;
const CONTENT_TYPE_BYTES_MAX: usize = 128;
/// Largest size from which on answers are compressed.
const SIZE_MAX: u32 = 1 << 20;

/// Which answers are compressed for callers that take them so.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CompressionSpec {
    /// How; at least one.
    types: Vec<CodingWord>,
    /// Shorter answers go as they are, in bytes; 1024 unless given. An answer whose length nobody knows before its end is
    /// compressed whatever it comes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    min_size: Option<u32>,
    /// Of which media types, such as `application/json` or `text/*`; texts, JSON, XML, scripts, SVG and WebAssembly unless given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    content_types: Vec<String>,
}

/// A way to compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
enum CodingWord {
    /// gzip (RFC 1952), which every client knows.
    Gzip,
}

pub(super) fn read(reader: &mut Reader<'_>, spec: &CompressionSpec) -> Compression {
    let at = "spec.compression";
    match spec.types.len() {
        0 => reader.fault(&code::MISSING_FIELD, format!("{at}.types"), "compression needs a type: Gzip"),
        1 => {}
        _ => reader.fault(&code::CONTRADICTION, format!("{at}.types"), "\"Gzip\" stands twice"),
    }
    let bytes_min = spec.min_size.unwrap_or(Compression::BYTES_MIN);
    reader.require(bytes_min <= SIZE_MAX, &format!("{at}.minSize"), "must be at most 1048576");
    reader.at_most(spec.content_types.len(), CONTENT_TYPES_MAX, &format!("{at}.contentTypes"));
    let mut kinds: Vec<Text> = Vec::new();
    for (i, said) in spec.content_types.iter().enumerate() {
        let at = format!("{at}.contentTypes[{i}]");
        reader.require(is_kind(said), &at, format!("\"{said}\" is not a media type such as text/html or text/*"));
        let kind = Text::from(said.to_ascii_lowercase());
        if kinds.contains(&kind) {
            reader.fault(&code::CONTRADICTION, at, format!("\"{said}\" stands twice"));
        }
        kinds.push(kind);
    }
    Compression { bytes_min, kinds }
}

/// `TYPE/SUBTYPE`, or `TYPE/*`.
fn is_kind(text: &str) -> bool {
    let is_word =
        |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b));
    text.len() <= CONTENT_TYPE_BYTES_MAX
        && text.split_once('/').is_some_and(|(group, kind)| is_word(group) && (kind == "*" || is_word(kind)))
}

impl From<&Compression> for CompressionSpec {
    fn from(compression: &Compression) -> Self {
        Self {
            types: vec![CodingWord::Gzip],
            min_size: Some(compression.bytes_min),
            content_types: compression.kinds.iter().map(ToString::to_string).collect(),
        }
    }
}
