// SPDX-License-Identifier: Apache-2.0
//! From a text to its documents as trees, whether they stand one after the other or in a list. A text that isn't YAML as a whole is read again document by
//! document, so that a slip of the pen in one doesn't hide what is wrong with the others. Called by
//! `parse` alone.

use super::de::Fault;
use super::node::{self, DEPTH_MAX, Name, Node, Raw};
use super::{DIAGNOSTICS_MAX, DOCUMENTS_MAX, INPUT_BYTES_MAX};
use crate::code;
use crate::code::Code;

/// Most values of one input, after aliases are expanded.
const NODES_MAX: usize = 2_000_000;

/// The documents of a text that are YAML, and why the others aren't. A list is what it holds: an array, or a `List` as
/// kubectl prints one.
pub(super) fn roots(text: &str) -> (Vec<Node>, Vec<Fault>) {
    if text.len() > INPUT_BYTES_MAX {
        let message = format!("the input has {} bytes; at most {INPUT_BYTES_MAX} are read at once", text.len());
        return (Vec::new(), vec![Fault::new(&code::TOO_LARGE, "", message)]);
    }
    let (roots, mut faults) = match all(text) {
        Ok(roots) => (roots, Vec::new()),
        // What is too large isn't read a second time.
        Err(fault) if is_too_large(&fault) => (Vec::new(), vec![fault]),
        Err(fault) => one_by_one(text, fault),
    };
    // As a list of what there is none of is printed.
    if matches!(&*roots, [Node { value: Raw::List(items), .. }] if items.is_empty()) {
        return (Vec::new(), faults);
    }
    let mut documents = Vec::new();
    roots.into_iter().for_each(|root| unpack(root, &mut documents));
    if documents.len() > DOCUMENTS_MAX {
        let message = format!("the input has {} documents; at most {DOCUMENTS_MAX} are read at once", documents.len());
        faults.push(Fault::new(&code::TOO_LARGE, "", message));
        documents.clear();
    }
    (documents, faults)
}

/// Lists within lists go as deep as values may.
fn unpack(root: Node, into: &mut Vec<Node>) {
    let is_list = root.field("kind").and_then(Node::text) == Some("List")
        && root.field("apiVersion").and_then(Node::text) == Some("v1");
    match root.value {
        // A list of anything else is a mistake, which is told as one.
        Raw::List(items) if items.iter().any(|item| matches!(item.value, Raw::Map(_))) => {
            items.into_iter().for_each(|item| unpack(item, into));
        }
        Raw::Map(fields) if is_list && fields.iter().any(|(name, value)| is_items(name, value)) => {
            let items = fields.into_iter().filter(|(name, value)| is_items(name, value));
            items.for_each(|(_, items)| unpack(items, into));
        }
        value => into.push(Node { value, ..root }),
    }
}

fn is_items(name: &Name, value: &Node) -> bool {
    name.text == "items" && matches!(value.value, Raw::List(_))
}

fn one_by_one(text: &str, whole: Fault) -> (Vec<Node>, Vec<Fault>) {
    let (mut roots, mut faults) = (Vec::new(), Vec::new());
    let (mut nodes, mut apart) = (0, false);
    let mut take = |read: Result<Vec<Node>, Fault>, at: (u32, u32)| {
        match read {
            Ok(read) => {
                nodes += read.iter().map(Node::count).sum::<usize>();
                roots.extend(read.into_iter().map(|root| root.behind(at)));
            }
            Err(mut fault) => {
                fault.span = fault.span.map(|span| span.behind(at));
                nodes += if is_too_large(&fault) { NODES_MAX } else { 0 };
                faults.push(fault);
            }
        }
        // Each piece has its own budget; together they have no more than one.
        nodes < NODES_MAX && faults.len() < DIAGNOSTICS_MAX
    };
    'text: for (line, piece) in pieces(text) {
        let read = all(piece);
        let values = read.as_ref().err().filter(|fault| !is_too_large(fault)).and_then(|_| values(piece));
        apart |= values.is_some();
        match values {
            Some(values) => {
                for ((down, column), value) in values {
                    if !take(all(value), (line + down, column)) {
                        break 'text;
                    }
                }
            }
            None if !take(read, (line, 0)) => break,
            None => {}
        }
    }
    if faults.is_empty() && !apart {
        faults.push(whole);
    }
    (roots, faults)
}

fn is_too_large(fault: &Fault) -> bool {
    std::ptr::eq(fault.code, &raw const code::TOO_LARGE)
}

/// The values of a text that holds JSON values one after the other and nothing else, as `-o ndjson` prints them; each with
/// how many lines stand before it, and how many characters on its own. `None` if it isn't such a text. There may be one
/// more than is read, so that it's known.
fn values(text: &str) -> Option<Vec<((u32, u32), &str)>> {
    let mut values = Vec::new();
    let (mut depth, mut quoted, mut escaped) = (0u32, false, false);
    let (mut line, mut column) = (0, 0);
    let (mut start, mut begun) = (0, (0, 0));
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' if depth > 0 => quoted = !quoted,
            _ if quoted => {}
            b'{' | b'[' => {
                if depth == 0 {
                    (start, begun) = (at, (line, column));
                }
                depth += 1;
            }
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    values.push((begun, &text[start..=at]));
                }
            }
            byte if depth == 0 && !byte.is_ascii_whitespace() => return None,
            _ => {}
        }
        if byte == b'\n' {
            (line, column) = (line + 1, 0);
        } else {
            // The later bytes of a character don't count.
            column += u32::from(byte & 0xc0 != 0x80);
        }
        if values.len() > DOCUMENTS_MAX {
            return Some(values);
        }
    }
    if depth > 0 {
        values.push((begun, &text[start..]));
    }
    (values.len() > 1).then_some(values)
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
