// SPDX-License-Identifier: Apache-2.0
//! The dashboard's files, embedded. They're built from `dashboard/` and committed, so that a build needs
//! no other tool.

use byrnie_control::console::{Asset, Assets};
use bytes::Bytes;
use rust_embed::RustEmbed;
use std::sync::Arc;

#[derive(RustEmbed)]
#[folder = "../../dashboard/dist"]
struct Files;

/// The dashboard's files by path.
pub(crate) fn assets() -> Assets {
    Arc::new(|path| {
        let file = Files::get(path)?;
        let bytes = match file.data {
            std::borrow::Cow::Borrowed(bytes) => Bytes::from_static(bytes),
            std::borrow::Cow::Owned(bytes) => Bytes::from(bytes),
        };
        Some(Asset { mime: mime(path), bytes })
    })
}

fn mime(path: &str) -> &'static str {
    match path.rsplit('.').next().unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "json" => "application/json",
        "png" => "image/png",
        "woff2" => "font/woff2",
        _ => "application/octet-stream",
    }
}
