// SPDX-License-Identifier: Apache-2.0
//! What every document has: `apiVersion`, `kind`, `metadata`.

use super::de::{self, Fault};
use super::kinds;
use super::names;
use super::node::{Node, Raw};
use super::reader::Reader;
use super::{outside, secret, slice};
use crate::diagnostic::nearest;
use crate::{Key, Kind, Labels, Spec, code};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The name and labels of a document.
pub(crate) struct Meta {
    pub(crate) key: Key,
    pub(crate) labels: Labels,
}

/// Fields that the API server keeps: allowed, so that what `get` shows can be applied again, and
/// without meaning here.
const KEPT_BY_SERVER: [&str; 6] =
    ["creationTimestamp", "generation", "managedFields", "resourceVersion", "selfLink", "uid"];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    namespace: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// The kind of the document.
pub(crate) fn kind(reader: &mut Reader<'_>) -> Option<Kind> {
    const FIELDS: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];
    let Raw::Map(fields) = &reader.root.value else {
        reader.fault(&code::WRONG_TYPE, "", "a document must be a mapping with apiVersion, kind, metadata and spec");
        return None;
    };
    let word = |name: &str| match reader.root.field(name) {
        None => Err(Fault::new(&code::MISSING_FIELD, "", format!("the field \"{name}\" is missing"))),
        Some(node) => node.text().ok_or_else(|| Fault::new(&code::WRONG_TYPE, name, format!("{name} must be text"))),
    };
    let found = word("apiVersion").and_then(|version| kinds::resolve(version, word("kind")?));
    let kind = match found {
        Ok(kind) => kind,
        Err(fault) => {
            reader.faults.push(fault);
            return None;
        }
    };
    let known: &[&str] = match kind {
        Kind::Secret => &secret::FIELDS,
        Kind::ConfigMap => &outside::FIELDS,
        Kind::EndpointSlice => &slice::FIELDS,
        _ => &FIELDS,
    };
    for (name, _) in fields.iter().filter(|(name, _)| !known.contains(&name.text.as_str())) {
        let meant = nearest(&name.text, known.iter().copied()).map(|m| format!("; did you mean \"{m}\"?"));
        let message = format!("unknown field \"{}\"{}", name.text, meant.unwrap_or_default());
        let mut fault = Fault::new(&code::UNKNOWN_FIELD, name.text.clone(), message);
        fault.span = Some(name.span);
        reader.faults.push(fault);
    }
    Some(kind)
}

/// Name, namespace and labels.
pub(crate) fn metadata(reader: &mut Reader<'_>, kind: Kind) -> Option<Meta> {
    let Some(node) = reader.root.field("metadata") else {
        reader.fault(&code::MISSING_FIELD, "", "the field \"metadata\" is missing");
        return None;
    };
    let metadata: Metadata =
        de::read(&without_server_fields(node), "metadata", reader.root.locate("metadata"), &mut reader.faults)?;
    let namespace = namespace_of(reader, kind, metadata.namespace.as_deref());
    let name = metadata.name;
    if kind.has_dots() {
        let fits = names::is_subdomain(&name);
        if !fits {
            let message = format!("\"{name}\" is not a DNS name: labels of a-z, 0-9 and '-', joined by dots");
            reader.fault(&code::BAD_NAME, "metadata.name", message);
        }
    } else {
        reader.label(&name, "metadata.name");
    }
    if kind == Kind::Mesh {
        reader.require(name == MESH_NAME, "metadata.name", format!("there is one Mesh, named \"{MESH_NAME}\""));
    }
    let labels = labels(reader, &metadata.labels, "metadata.labels");
    if !metadata.annotations.is_empty() {
        let warning =
            Fault::new(&code::NOT_ENFORCED, "metadata.annotations", "byrnie keeps no annotations: they are dropped");
        reader.warnings.push(warning);
    }
    Some(Meta { key: Key::new(kind, namespace, name), labels })
}

/// The name of the one Mesh.
pub(crate) const MESH_NAME: &str = "mesh";

fn namespace_of(reader: &mut Reader<'_>, kind: Kind, said: Option<&str>) -> byrnie_base::Text {
    match (said, kind.namespaced()) {
        (Some(namespace), true) => reader.label(namespace, "metadata.namespace"),
        (None, true) => reader.defaults.namespace.clone(),
        (Some(_), false) => {
            let message = format!("a {} lives in no namespace", kind.name());
            reader.fault(&code::CONTRADICTION, "metadata.namespace", message);
            "".into()
        }
        (None, false) => "".into(),
    }
}

/// Labels with their syntax checked.
pub(crate) fn labels(reader: &mut Reader<'_>, said: &BTreeMap<String, String>, path: &str) -> Labels {
    reader.at_most(said.len(), LABELS_MAX, path);
    for (key, value) in said {
        let at = format!("{path}[\"{key}\"]");
        if !names::is_label_key(key) {
            reader.fault(&code::BAD_NAME, &at, format!("\"{key}\" is not a label key: [PREFIX/]NAME"));
        } else if !names::is_label_value(value) {
            let message = format!("\"{value}\" is not a label value: at most 63 of letters, digits, '-', '_' and '.'");
            reader.fault(&code::BAD_VALUE, &at, message);
        }
    }
    said.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect()
}

/// Most labels of one object.
const LABELS_MAX: usize = 64;

fn without_server_fields(node: &Node) -> Node {
    let mut node = node.clone();
    if let Raw::Map(fields) = &mut node.value {
        fields.retain(|(name, _)| !KEPT_BY_SERVER.contains(&name.text.as_str()));
    }
    node
}

/// A Namespace says nothing; `spec` may be there and empty, or hold the API server's finalizers.
pub(crate) fn namespace(reader: &mut Reader<'_>) -> Option<Spec> {
    #[derive(Deserialize)]
    struct Nothing {
        #[serde(default, rename = "finalizers")]
        _finalizers: Vec<String>,
    }
    match reader.root.field("spec") {
        None => Some(Spec::Namespace),
        Some(node) => de::read::<Option<Nothing>>(node, "spec", reader.root.locate("spec"), &mut reader.faults)
            .map(|_| Spec::Namespace),
    }
}
