// SPDX-License-Identifier: Apache-2.0
//! An arrow between crates goes strictly down.

use super::Complaint;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// A crate's place in the house.
#[derive(Clone, Copy, PartialEq)]
enum Floor {
    /// Imports only what is below.
    Level(i64),
    /// Imports anything; imported by nobody.
    Side,
}

struct Manifest {
    name: String,
    floor: Option<Floor>,
    imports: Vec<String>,
}

/// Complains about every arrow that doesn't go down; returns the number of crates.
pub(super) fn check(root: &Path, complaints: &mut Vec<Complaint>) -> Result<usize> {
    let mut manifests = vec![read(&root.join("xtask/Cargo.toml"))?];
    for entry in std::fs::read_dir(root.join("crates"))? {
        manifests.push(read(&entry?.path().join("Cargo.toml"))?);
    }
    let floors: BTreeMap<&str, Floor> =
        manifests.iter().filter_map(|m| m.floor.map(|f| (m.name.as_str(), f))).collect();
    for manifest in &manifests {
        let Some(own) = manifest.floor else {
            complaints.push(Complaint::new(&manifest.name, "states no floor in [package.metadata.house]"));
            continue;
        };
        for import in &manifest.imports {
            let fits = match (own, floors.get(import.as_str())) {
                (_, None) => true,
                (_, Some(Floor::Side)) => false,
                (Floor::Side, Some(Floor::Level(_))) => true,
                (Floor::Level(up), Some(Floor::Level(down))) => down < &up,
            };
            if !fits {
                complaints.push(Complaint::new(&manifest.name, format!("imports {import}, which isn't below it")));
            }
        }
    }
    Ok(manifests.len())
}

fn read(path: &Path) -> Result<Manifest> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let table: toml::Table = text.parse().with_context(|| path.display().to_string())?;
    let package = table.get("package");
    let name = package.and_then(|p| p.get("name")).and_then(toml::Value::as_str).unwrap_or_default().to_owned();
    let floor =
        package.and_then(|p| p.get("metadata")).and_then(|m| m.get("house")).and_then(|h| h.get("floor")).and_then(
            |floor| match floor {
                toml::Value::Integer(level) => Some(Floor::Level(*level)),
                toml::Value::String(word) if word == "side" => Some(Floor::Side),
                _ => None,
            },
        );
    let imports = ["dependencies", "build-dependencies"]
        .iter()
        .filter_map(|section| table.get(*section).and_then(toml::Value::as_table))
        .flat_map(|section| section.keys().cloned())
        .collect();
    Ok(Manifest { name, floor, imports })
}
