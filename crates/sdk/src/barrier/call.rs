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
        [Self::Action, Self::Try, Self::Compensate, Self::Cancel, Self::Confirm, Self::Complete, Self::Check];

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

    /// The name of its row: a scope's completion is a confirmation.
    pub(super) const fn row(self) -> &'static str {
        match self {
            Self::Complete => Self::Confirm.name(),
            op => op.name(),
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
    /// Reads `Txn-Id`, `Txn-Branch` and `Txn-Op`, or else `Idempotency-Key`, of a request's headers.
    ///
    /// # Errors
    /// If they aren't there, or there twice, or longer than the table's columns: nothing is cut off, as two calls would then
    /// look alike.
    pub fn of<N: AsRef<str>, V: AsRef<[u8]>>(headers: impl IntoIterator<Item = (N, V)>) -> Result<Self, Malformed> {
        let mut found: [Option<String>; 4] = Default::default();
        for (name, value) in headers {
            let Some(at) = NAMES.iter().position(|known| known.eq_ignore_ascii_case(name.as_ref())) else { continue };
            let text =
                std::str::from_utf8(value.as_ref()).map_err(|_| Malformed(format!("{} is no text", NAMES[at])))?;
            if found[at].replace(text.to_owned()).is_some() {
                return Err(Malformed(format!("there is more than one {}", NAMES[at])));
            }
        }
        let [txn, branch, op, key] = found;
        if txn.is_none() {
            let Some(key) = key else { return Err(Malformed("there is neither Txn-Id nor Idempotency-Key".into())) };
            let txn = fits("Idempotency-Key", Some(bare(&key)?), TXN_BYTES_MAX)?;
            return Ok(Self { txn, branch: "-".into(), op: Op::Action });
        }
        let txn = fits("Txn-Id", txn, TXN_BYTES_MAX)?;
        let branch = fits("Txn-Branch", branch, BRANCH_BYTES_MAX)?;
        let op = fits("Txn-Op", op, OP_BYTES_MAX)?;
        let op = Op::ALL.into_iter().find(|known| known.name() == op);
        let op = op.ok_or_else(|| Malformed(format!("Txn-Op is none of {}", Op::ALL.map(Op::name).join(", "))))?;
        Ok(Self { txn, branch, op })
    }
}

/// The id of a message that its creator prepares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageId(pub(super) String);

impl MessageId {
    /// Checks an id.
    ///
    /// # Errors
    /// If it doesn't fit the table's column.
    pub fn new(id: impl Into<String>) -> Result<Self, Malformed> {
        fits("the message's id", Some(id.into()), TXN_BYTES_MAX).map(Self)
    }
}

const NAMES: [&str; 4] = ["Txn-Id", "Txn-Branch", "Txn-Op", "Idempotency-Key"];

/// The characters of a key, quoted as a string of structured fields (RFC 8941 3.3.3) or bare: both are one key.
fn bare(value: &str) -> Result<String, Malformed> {
    let value = value.trim_matches([' ', '\t']);
    let bad = || Malformed("Idempotency-Key isn't a string in quotes of printable ASCII".into());
    let Some(inner) = value.strip_prefix('"') else {
        let plain = value.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b',' | b';' | b'\\'));
        return if plain { Ok(value.to_owned()) } else { Err(bad()) };
    };
    let mut text = String::new();
    let mut rest = inner.chars();
    loop {
        match rest.next().ok_or_else(bad)? {
            '"' if rest.as_str().is_empty() => return Ok(text),
            '\\' => text.push(rest.next().filter(|c| matches!(c, '"' | '\\')).ok_or_else(bad)?),
            c if (' '..='~').contains(&c) && c != '"' => text.push(c),
            _ => return Err(bad()),
        }
    }
}

fn fits(name: &str, text: Option<String>, most: usize) -> Result<String, Malformed> {
    let text = text.ok_or_else(|| Malformed(format!("{name} is missing")))?;
    let wrong = match () {
        () if text.is_empty() => "is empty".to_owned(),
        () if text.len() > most => format!("is longer than {most} bytes"),
        () if text.bytes().any(|b| b.is_ascii_control()) => "has a control character in it".to_owned(),
        () => return Ok(text),
    };
    Err(Malformed(format!("{name} {wrong}")))
}
