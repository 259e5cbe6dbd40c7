// SPDX-License-Identifier: Apache-2.0
//! Which call it is, by its headers.

/// Longest id of a transaction or key, in bytes.
pub const TXN_BYTES_MAX: usize = 160;
/// Longest name of a branch, in bytes.
pub const BRANCH_BYTES_MAX: usize = 64;
/// Longest name of an operation, in bytes.
pub const OP_BYTES_MAX: usize = 16;

/// One call of a transaction's branch, or one keyed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The transaction, or the key of a request without one.
    pub txn: String,
    /// The branch, `-` without a transaction.
    pub branch: String,
    /// What is to be done.
    pub op: Op,
}

/// What is to be done (`Txn-Op`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A saga's step, a message's delivery, a keyed request.
    Action,
    /// It is taken back.
    Compensate,
    /// TCC: resources are held.
    Try,
    /// TCC: what was held is used.
    Confirm,
    /// TCC: what was held is let go.
    Cancel,
    /// A scope ends well.
    Complete,
    /// The creator of a prepared message is asked what became of it.
    Check,
}

/// A call that can't be told from others.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(String);

impl Op {
    const ALL: [Self; 7] =
        [Self::Action, Self::Compensate, Self::Try, Self::Confirm, Self::Cancel, Self::Complete, Self::Check];

    /// As it stands in `Txn-Op`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Action => "action",
            Self::Compensate => "compensate",
            Self::Try => "try",
            Self::Confirm => "confirm",
            Self::Cancel => "cancel",
            Self::Complete => "complete",
            Self::Check => "check",
        }
    }

    /// What it takes back.
    pub(super) const fn undoes(self) -> Option<&'static str> {
        match self {
            Self::Compensate => Some("action"),
            Self::Cancel => Some("try"),
            _ => None,
        }
    }
}

impl Call {
    /// Reads `Txn-Id`, `Txn-Branch` and `Txn-Op`, or else `Idempotency-Key`. `header` gives the value of a header by its
    /// lower-case name.
    ///
    /// # Errors
    /// If they aren't there or longer than the table's columns: nothing is cut off, as two calls would then look alike.
    pub fn of(header: impl Fn(&str) -> Option<String>) -> Result<Self, Malformed> {
        let Some(txn) = header("txn-id").filter(|id| !id.is_empty()) else {
            let key = header("idempotency-key").map(|key| bare(&key));
            let txn = key.filter(|key| !key.is_empty()).ok_or_else(|| {
                Malformed("the call has neither Txn-Id nor Idempotency-Key, by which it could be told from others".into())
            })?;
            fits("Idempotency-Key", &txn, TXN_BYTES_MAX)?;
            return Ok(Self { txn, branch: "-".into(), op: Op::Action });
        };
        let word = |name: &str| header(name).filter(|word| !word.is_empty());
        let branch = word("txn-branch").ok_or_else(|| Malformed("the call has no Txn-Branch".into()))?;
        let op = word("txn-op").ok_or_else(|| Malformed("the call has no Txn-Op".into()))?;
        fits("Txn-Id", &txn, TXN_BYTES_MAX)?;
        fits("Txn-Branch", &branch, BRANCH_BYTES_MAX)?;
        fits("Txn-Op", &op, OP_BYTES_MAX)?;
        let known = Op::ALL.into_iter().find(|known| known.name() == op);
        let op = known.ok_or_else(|| Malformed(format!("Txn-Op is {op:?}, which is none of this protocol's")))?;
        Ok(Self { txn, branch, op })
    }
}

/// A string of structured fields (RFC 8941 3.3.3) without its quotes, so that both forms are one key.
fn bare(key: &str) -> String {
    let key = key.trim();
    match key.strip_prefix('"').and_then(|key| key.strip_suffix('"')) {
        Some(inner) => inner.replace("\\\"", "\"").replace("\\\\", "\\"),
        None => key.to_owned(),
    }
}

pub(super) fn fits(name: &str, text: &str, most: usize) -> Result<(), Malformed> {
    if text.len() <= most { Ok(()) } else { Err(Malformed(format!("{name} is longer than {most} bytes"))) }
}
