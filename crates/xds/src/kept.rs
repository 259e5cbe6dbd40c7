// SPDX-License-Identifier: Apache-2.0
//! What a proxy keeps of its configuration for the time when the control plane is away: every resource in the form in which it came, and
//! whose they are. Who writes it seals it; what is read is judged like what comes from the control plane all the same.

use crate::{name, wire};
use byrnie_base::Text;
use byrnie_model::{Resource, Revision};
use std::net::SocketAddr;
use std::sync::Arc;

/// First line of the format.
const FORMAT: &[u8] = b"byrnie view 1\n";

/// Whose view it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// `NAMESPACE/NAME` of the proxy.
    pub node: Text,
    /// Where others find it.
    pub inbound: Option<SocketAddr>,
}

/// A view that was kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// Whose it is.
    pub origin: Origin,
    /// All of it.
    pub resources: Vec<Arc<Resource>>,
    /// The configuration that it is.
    pub revision: Revision,
}

/// A view as bytes.
pub fn encode<'a>(origin: &Origin, revision: Revision, resources: impl Iterator<Item = &'a Arc<Resource>>) -> Vec<u8> {
    let mut out = FORMAT.to_vec();
    field(&mut out, origin.node.as_bytes());
    field(&mut out, origin.inbound.map(|address| address.to_string()).unwrap_or_default().as_bytes());
    out.extend(revision.0.to_le_bytes());
    for resource in resources {
        let Some(url) = name::type_url(resource.key.kind) else { continue };
        field(&mut out, url.as_bytes());
        field(&mut out, name::of(&resource.key).as_bytes());
        out.extend(resource.revision.0.to_le_bytes());
        field(&mut out, &wire::encode(resource));
    }
    out
}

fn field(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// The view of these bytes; `None` if they aren't what [`encode`] makes, or hold what isn't valid.
pub fn decode(bytes: &[u8]) -> Option<Kept> {
    let mut rest = Rest(bytes.strip_prefix(FORMAT)?);
    let node = rest.text()?.into();
    let inbound = Some(rest.text()?).filter(|text| !text.is_empty()).map(str::parse).transpose().ok()?;
    let revision = Revision(rest.number()?);
    let mut resources = Vec::new();
    while !rest.0.is_empty() {
        let kind = name::kind(rest.text()?)?;
        let key = name::parse(kind, rest.text()?)?;
        let at = Revision(rest.number()?);
        resources.push(Arc::new(wire::decode(key, at, rest.field()?).ok()?));
    }
    Some(Kept { origin: Origin { node, inbound }, resources, revision })
}

/// What is still to be read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn number(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*number))
    }

    fn field(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (field, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(field)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.field()?).ok()
    }
}
