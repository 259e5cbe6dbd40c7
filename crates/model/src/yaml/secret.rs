// SPDX-License-Identifier: Apache-2.0
//! The document of a Secret. Only those of a certificate and its key are kept: what nothing uses is not
//! worth the risk of having it.

use super::de;
use super::reader::Reader;
use crate::code;
use crate::secret::{CHAIN, KEY, Private, Secret, TLS_TYPE};
use k8s_openapi::ByteString;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What stands beside `metadata`; there is no `spec`.
pub(crate) const FIELDS: [&str; 8] =
    ["apiVersion", "kind", "metadata", "type", "data", "stringData", "immutable", "status"];
/// What is shown in place of a key.
pub(crate) const REDACTED: &str = "(not shown)";

pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Secret> {
    let kind = reader.root.field("type").and_then(|node| node.text()).unwrap_or("Opaque");
    if kind != TLS_TYPE {
        reader.unenforced("type", &format!("Secrets of type {kind}; only {TLS_TYPE}"));
        return None;
    }
    if field::<bool>(reader, "immutable")? {
        reader.unenforced("immutable", "Secrets that never change");
    }
    let shown = reader.root.field("data").and_then(|data| data.field(KEY)?.text());
    if shown == Some(REDACTED) {
        let message = "byrnie shows nobody a key: apply the file that it came from";
        reader.fault(&code::BAD_VALUE, format!("data[\"{KEY}\"]"), message);
        return None;
    }
    let coded: BTreeMap<String, ByteString> = field(reader, "data")?;
    let plain: BTreeMap<String, String> = field(reader, "stringData")?;
    for name in coded.keys().chain(plain.keys()).filter(|name| !matches!(name.as_str(), CHAIN | KEY)) {
        let at = if plain.contains_key(name) { "stringData" } else { "data" };
        let message = format!("only {CHAIN} and {KEY} are kept: \"{name}\" is dropped");
        reader.warnings.push(de::Fault::new(&code::NOT_ENFORCED, format!("{at}[\"{name}\"]"), message));
    }
    // As in Kubernetes, what is said in plain comes before what is said in code.
    let mut text = |name: &str, word: &str| {
        let found = match (plain.get(name), coded.get(name)) {
            (Some(text), _) => Some(text.clone()),
            (None, Some(bytes)) => Some(String::from_utf8_lossy(&bytes.0).into_owned()),
            (None, None) => None,
        };
        let at = if plain.contains_key(name) { "stringData" } else { "data" };
        let Some(text) = found.filter(|text| !text.is_empty()) else {
            reader.fault(&code::MISSING_FIELD, at, format!("a Secret of type {TLS_TYPE} needs \"{name}\""));
            return None;
        };
        let (begins, ends) = (text.contains("-----BEGIN "), text.contains("-----END "));
        let fits = begins && ends && text.contains(word) && text.bytes().all(|b| b.is_ascii());
        let message = format!("not PEM text with a {}", word.to_lowercase());
        reader.require(fits, &format!("{at}[\"{name}\"]"), message).then_some(text)
    };
    let (chain, key) = (text(CHAIN, "CERTIFICATE"), text(KEY, "PRIVATE KEY"));
    Some(Secret { chain: chain?.into(), key: Private::new(key?) })
}

fn field<T: serde::de::DeserializeOwned + Default>(reader: &mut Reader<'_>, name: &str) -> Option<T> {
    match reader.root.field(name) {
        None => Some(T::default()),
        Some(node) => de::read(node, name, reader.root.locate(name), &mut reader.faults),
    }
}

/// All of it, as the store keeps it.
pub(crate) fn write(secret: &Secret, document: &mut Value) {
    let coded = |text: &str| serde_json::to_value(ByteString(text.as_bytes().to_vec())).unwrap_or_default();
    document["type"] = json!(TLS_TYPE);
    document["data"] = json!({CHAIN: coded(&secret.chain), KEY: coded(secret.key.expose())});
}

/// Takes what nobody is shown out of a document.
pub(crate) fn redact(document: &mut Value) {
    if let Some(data) = document.get_mut("data").and_then(Value::as_object_mut) {
        for (_, value) in data.iter_mut().filter(|(name, _)| *name != CHAIN) {
            *value = json!(REDACTED);
        }
    }
}
