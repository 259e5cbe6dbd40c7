// SPDX-License-Identifier: Apache-2.0
//! The document of an HTTPRouteFilter, in the words of Envoy Gateway's kind of this name.

use crate::code;
use crate::route::{DIRECT_BODY_BYTES_MAX, DirectResponse};
use crate::yaml::names;
use crate::yaml::reader::Reader;
use serde::{Deserialize, Serialize};

/// Longest content type, in bytes.
const CONTENT_TYPE_BYTES_MAX: usize = 256;
/// Of a body of which nothing else is said: nobody runs it.
const CONTENT_TYPE: &str = "text/plain; charset=utf-8";

/// What rules of an HTTPRoute do that name it as a filter of type ExtensionRef.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct FilterSpec {
    /// Answer so, and send nothing to any backend.
    direct_response: ResponseSpec,
}

/// An answer.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ResponseSpec {
    /// From 200 to 599; 200 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status_code: Option<u16>,
    /// Of the body; plain text unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    /// None unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<BodySpec>,
}

/// A body.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct BodySpec {
    /// Where it stands: `Inline`.
    #[serde(rename = "type", default)]
    source: Source,
    /// The text itself, of at most 4096 bytes.
    inline: String,
}

/// Where a body stands.
#[derive(Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
enum Source {
    /// In the document.
    #[default]
    Inline,
}

pub(crate) fn read(reader: &mut Reader<'_>) -> Option<DirectResponse> {
    let spec: FilterSpec = reader.spec()?;
    let at = "spec.directResponse";
    let said = spec.direct_response;
    let status = said.status_code.unwrap_or(200);
    reader.require((200..=599).contains(&status), &format!("{at}.statusCode"), "must be from 200 to 599");
    let body = said.body.map(|body| body.inline).unwrap_or_default();
    let path = format!("{at}.body.inline");
    let message = format!("{} bytes; at most {DIRECT_BODY_BYTES_MAX} are allowed", body.len());
    reader.require(body.len() <= DIRECT_BODY_BYTES_MAX, &path, message);
    if !body.is_empty() && !DirectResponse::has_body(status) {
        reader.fault(&code::CONTRADICTION, path, format!("an answer of status {status} has no body"));
    }
    if let Some(kind) = said.content_type.as_deref() {
        let path = format!("{at}.contentType");
        let fits = kind.contains('/') && names::is_header_value(kind) && kind.len() <= CONTENT_TYPE_BYTES_MAX;
        reader.require(fits, &path, format!("\"{kind}\" is not a media type such as text/html"));
        if body.is_empty() {
            reader.fault(&code::CONTRADICTION, path, "there is no body of which it could be the type");
        }
    }
    let content_type = (!body.is_empty()).then(|| said.content_type.as_deref().unwrap_or(CONTENT_TYPE).into());
    Some(DirectResponse { status, content_type, body: body.into() })
}

impl From<&DirectResponse> for FilterSpec {
    fn from(response: &DirectResponse) -> Self {
        let body = BodySpec { source: Source::Inline, inline: response.body.to_string() };
        let direct_response = ResponseSpec {
            status_code: Some(response.status),
            content_type: response.content_type.as_ref().map(ToString::to_string),
            body: (!response.body.is_empty()).then_some(body),
        };
        Self { direct_response }
    }
}
