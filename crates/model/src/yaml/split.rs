// SPDX-License-Identifier: Apache-2.0
//! From a text to its documents as trees. A text that isn't YAML as a whole is read again document by
//! document, so that a slip of the pen in one doesn't hide what is wrong with the others. Called by
//! `parse` alone.

use super::de::Fault;
use super::node::{self, DEPTH_MAX, Node};
use super::{DIAGNOSTICS_MAX, DOCUMENTS_MAX, INPUT_BYTES_MAX};
use crate::code;
use crate::code::Code;

/// Most values of one input, after aliases are expanded.
const NODES_MAX: usize = 2_000_000;

/// The documents of a text that are YAML, and why the others aren't.
pub(super) fn roots(text: &str) -> (Vec<Node>, Vec<Fault>) {
    if text.len() > INPUT_BYTES_MAX {
        let message = format!("the input has {} bytes; at most {INPUT_BYTES_MAX} are read at once", text.len());
        return (Vec::new(), vec![Fault::new(&code::TOO_LARGE, "", message)]);
    }
    match all(text) {
        Ok(roots) => (roots, Vec::new()),
        // What is too large isn't read a second time.
        Err(fault) if std::ptr::eq(fault.code, &raw const code::TOO_LARGE) => (Vec::new(), vec![fault]),
        Err(fault) => one_by_one(text, fault),
    }
}

fn one_by_one(text: &str, whole: Fault) -> (Vec<Node>, Vec<Fault>) {
    let (mut roots, mut faults) = (Vec::new(), Vec::new());
    let mut nodes = 0;
    for (line, piece) in pieces(text) {
        match all(piece) {
            Ok(read) => {
                nodes += read.iter().map(Node::count).sum::<usize>();
                roots.extend(read.into_iter().map(|root| root.below(line)));
            }
            Err(mut fault) => {
                fault.span = fault.span.map(|span| span.below(line));
                nodes += if std::ptr::eq(fault.code, &raw const code::TOO_LARGE) { NODES_MAX } else { 0 };
                faults.push(fault);
            }
        }
        // Each piece has its own budget; together they have no more than one.
        if nodes >= NODES_MAX || faults.len() >= DIAGNOSTICS_MAX {
            break;
        }
    }
    if faults.is_empty() {
        faults.push(whole);
    }
    (roots, faults)
}

/// The text between the marks that begin documents, each with how many lines stand before it. A mark at the
/// beginning of a line ends a document whatever it is in the middle of (YAML 1.2.2, 9.1.2: no scalar may
/// hold one).
fn pieces(text: &str) -> Vec<(u32, &str)> {
    let mut pieces = Vec::new();
    let (mut at, mut line, mut start, mut start_line) = (0, 0, 0, 0);
    // Directives and comments belong to the document that follows.
    let mut begun = false;
    for one in text.split_inclusive('\n') {
        let mark =
            one.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if mark && begun {
            pieces.push((start_line, &text[start..at]));
            (start, start_line) = (at, line);
        }
        let bare = one.trim();
        begun |= mark || !(bare.is_empty() || bare.starts_with(['#', '%']));
        at += one.len();
        line += 1;
    }
    pieces.push((start_line, &text[start..]));
    pieces
}

fn all(text: &str) -> Result<Vec<Node>, Fault> {
    let options = serde_saphyr::options! {
        strict_booleans: true,
        merge_keys: serde_saphyr::options::MergeKeyPolicy::Error,
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::Error,
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            max_documents: DOCUMENTS_MAX,
            max_nodes: NODES_MAX,
            max_events: 4_000_000,
            max_anchors: 1_000,
            max_aliases: 10_000,
            max_total_scalar_bytes: INPUT_BYTES_MAX,
        },
    };
    serde_saphyr::from_multiple_with_options::<Node>(text, options).map_err(|error| syntax(&error))
}

fn syntax(error: &serde_saphyr::Error) -> Fault {
    use serde_saphyr::Error;
    let mut bare = error.without_snippet();
    while let Error::AliasError { error, .. } = bare {
        bare = error.without_snippet();
    }
    let code: &'static Code = match bare {
        Error::DuplicateMappingKey { .. } => &code::DUPLICATE_KEY,
        Error::Budget { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => &code::TOO_LARGE,
        _ => &code::SYNTAX,
    };
    let text = bare.render();
    let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ").trim();
    // The place is shown by the snippet, and what to do by the code; the parser's options are its own affair.
    let message = message.split_once(" at line ").map_or(message, |(said, _)| said);
    let message = message.split_once(", set DuplicateKeyPolicy").map_or(message, |(said, _)| said);
    let mut fault = Fault::new(code, "", message);
    fault.span = bare.location().as_ref().map(node::place);
    fault
}
