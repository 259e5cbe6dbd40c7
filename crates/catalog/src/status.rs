// SPDX-License-Identifier: Apache-2.0
//! What became of one resource: accepted, its references found, taken in by the proxies that need it.
//! Control asks, with what its streams know; nothing is kept here.

use crate::catalog::Catalog;
use crate::node::NodeId;
use byrnie_model::{Diagnostic, Key, Revision};

/// What one proxy has said of the revisions that it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The proxy.
    pub node: NodeId,
    /// The newest revision that it has taken in.
    pub acknowledged: Revision,
    /// Why it refused the resource in question, if it did.
    pub refusal: Option<String>,
}

/// What became of one resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// Which.
    pub key: Key,
    /// When it last changed.
    pub revision: Revision,
    /// Findings that break it or parts of it, and warnings.
    pub findings: Vec<Diagnostic>,
    /// How many listening proxies were given it.
    pub proxies: usize,
    /// How many of them have taken in its last change.
    pub acknowledged: usize,
    /// Which proxies refused it, and why.
    pub refusals: Vec<(NodeId, String)>,
}

impl Status {
    /// Whether everything that it refers to exists and fits.
    pub fn resolved(&self) -> bool {
        !self.findings.iter().any(Diagnostic::is_error)
    }

    /// Whether each proxy that needs it works by it.
    pub fn programmed(&self) -> bool {
        self.acknowledged == self.proxies && self.refusals.is_empty()
    }

    /// `{revision, conditions: [{type, status, reason, message}], proxies: {of, acknowledged, refused}}`,
    /// with conditions as Kubernetes has them.
    pub fn to_json(&self) -> serde_json::Value {
        let condition = |kind: &str, holds: bool, reason: &str, message: String| {
            let status = if holds { "True" } else { "False" };
            serde_json::json!({"type": kind, "status": status, "reason": reason, "message": message})
        };
        let errors = self.findings.iter().filter(|finding| finding.is_error());
        let errors: Vec<String> = errors.map(|f| format!("{}: {} ({})", f.code.id, f.message, f.path)).collect();
        let resolved_reason = if errors.is_empty() { "ResolvedRefs" } else { "RefNotFound" };
        let taken = format!("{} of {} proxies", self.acknowledged, self.proxies);
        let (reason, message) = match self.refusals.first() {
            Some((node, why)) => ("Refused", format!("{taken}; {node} refused it: {why}")),
            None if self.programmed() => ("Programmed", taken),
            None => ("Pending", taken),
        };
        let refused: Vec<_> =
            self.refusals.iter().map(|(node, why)| serde_json::json!({"proxy": node, "reason": why})).collect();
        serde_json::json!({
            "revision": self.revision,
            "conditions": [
                condition("Accepted", true, "Accepted", String::new()),
                condition("ResolvedRefs", errors.is_empty(), resolved_reason, errors.join("; ")),
                condition("Programmed", self.programmed(), reason, message),
            ],
            "proxies": {"of": self.proxies, "acknowledged": self.acknowledged, "refused": refused},
        })
    }
}

impl Catalog {
    /// What became of a resource, by what the proxies said; `None` if there's no such resource. Looks at
    /// every listening node: it's for people who ask, not for every change.
    pub fn status(&self, key: &Key, receipts: &[Receipt]) -> Option<Status> {
        let resource = self.resource(key)?;
        let mut status = Status {
            key: key.clone(),
            revision: resource.revision,
            findings: self.check_one(resource),
            proxies: 0,
            acknowledged: 0,
            refusals: Vec::new(),
        };
        for (id, _) in
            self.nodes.by_id.iter().filter(|(_, node)| node.sent.contains_key(key) || node.dirty.contains(key))
        {
            status.proxies += 1;
            let Some(receipt) = receipts.iter().find(|receipt| receipt.node == *id) else { continue };
            match &receipt.refusal {
                Some(why) => status.refusals.push((id.clone(), why.clone())),
                None => status.acknowledged += usize::from(receipt.acknowledged >= resource.revision),
            }
        }
        Some(status)
    }
}
