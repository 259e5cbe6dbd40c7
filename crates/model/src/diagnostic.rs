// SPDX-License-Identifier: Apache-2.0
//! What is told to a person about a document: a stable code, what happened, where, what follows, what
//! to do. The same in terminal, console and API.

use crate::Key;
use crate::code::Code;
use byrnie_base::Text;
use std::fmt::Write as _;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// It's in force, but probably not what is meant.
    Warning,
    /// It was refused, or breaks requests.
    Error,
}

impl Severity {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One message about one place in a document.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnostic {
    /// The entry of the registry.
    pub code: &'static Code,
    /// How bad it is.
    pub severity: Severity,
    /// The file, as the user named it; empty if there's none.
    pub file: Text,
    /// From 1; 0 if the place isn't known.
    pub line: u32,
    /// In characters, from 1; 0 if the place isn't known.
    pub column: u32,
    /// Characters to underline from there.
    pub width: u32,
    /// The line of the file, if at hand.
    pub snippet: Option<Text>,
    /// What happened here, in one sentence without a full stop.
    pub message: String,
    /// What follows from it.
    pub effect: String,
    /// What to do.
    pub fix: String,
    /// The resource that it's about, if one could be read.
    pub subject: Option<Key>,
    /// The field, such as `spec.rules[0].backendRefs[1].name`; empty for the whole document.
    pub path: String,
}

/// Longest part of a line that is shown, in characters.
const SNIPPET_CHARS_MAX: usize = 120;

impl Diagnostic {
    /// An error with the registry's own words for effect and fix, not yet placed in a file.
    pub fn error(code: &'static Code, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code,
            severity: Severity::Error,
            file: Text::default(),
            line: 0,
            column: 0,
            width: 1,
            snippet: None,
            message: message.into(),
            effect: code.effect.to_owned(),
            fix: code.next.to_owned(),
            subject: None,
            path: path.into(),
        }
    }

    /// The same as a warning.
    #[must_use]
    pub fn warning(code: &'static Code, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, path, message) }
    }

    /// The same with another fix.
    #[must_use]
    pub fn fixed_by(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }

    /// The same with another effect.
    #[must_use]
    pub fn so_that(mut self, effect: impl Into<String>) -> Self {
        self.effect = effect.into();
        self
    }

    /// The same, said of a resource.
    #[must_use]
    pub fn about(mut self, key: &Key) -> Self {
        self.subject = Some(key.clone());
        self
    }

    /// Whether it forbids going on.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// Plain text over several lines, like a compiler's, ending with a line feed. What came from the
    /// document is shown without control characters.
    pub fn render(&self) -> String {
        let mut out = format!("{}[{}]: {}\n", self.severity.name(), self.code.id, visible(&self.message));
        let number = if self.line == 0 { String::new() } else { self.line.to_string() };
        let gutter = " ".repeat(number.len());
        let place = self.place();
        if !place.is_empty() {
            let _ = writeln!(out, "{gutter}--> {}", visible(&place));
        }
        if let Some(snippet) = self.snippet.as_ref().filter(|_| self.line > 0) {
            let (text, skipped) = crop(snippet, self.column as usize);
            let indent = (self.column as usize).saturating_sub(1 + skipped);
            let room = text.chars().count().saturating_sub(indent).max(1);
            let carets = "^".repeat((self.width.max(1) as usize).min(room));
            let _ = writeln!(out, "{gutter} |\n{number} | {text}\n{gutter} | {}{carets}", " ".repeat(indent));
        }
        for (name, text) in [("effect", &self.effect), ("fix", &self.fix)] {
            if !text.is_empty() {
                let _ = writeln!(out, "{gutter} = {name}: {}", visible(text));
            }
        }
        out
    }

    /// `FILE:LINE:COLUMN`, as much of it as is known; without a line, the resource and the field.
    pub fn place(&self) -> String {
        let mut place = self.file.to_string();
        if self.line > 0 {
            let _ = write!(place, "{}{}:{}", if place.is_empty() { "line " } else { ":" }, self.line, self.column);
            return place;
        }
        let subject = self.subject.as_ref().map(ToString::to_string);
        for part in [subject, Some(self.path.clone())].into_iter().flatten().filter(|part| !part.is_empty()) {
            if !place.is_empty() {
                place.push(' ');
            }
            place.push_str(&part);
        }
        place
    }

    /// `{code, severity, file, line, column, message, fix}` and, beyond the promised shape, `effect`,
    /// `path` and `resource`.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "code": self.code.id,
            "severity": self.severity.name(),
            "file": self.file.as_str(),
            "line": self.line,
            "column": self.column,
            "message": self.message,
            "fix": self.fix,
            "effect": self.effect,
            "path": self.path,
            "resource": self.subject.as_ref().map(ToString::to_string),
        })
    }
}

/// Text without control characters, so that no document can steer a terminal.
fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// The part of a line around a column, and how many characters before it were left out.
fn crop(line: &str, column: usize) -> (String, usize) {
    let line = visible(&line.replace('\t', " "));
    let skipped = column.saturating_sub(SNIPPET_CHARS_MAX * 2 / 3);
    let skipped = if line.chars().count() > SNIPPET_CHARS_MAX { skipped } else { 0 };
    (line.chars().skip(skipped).take(SNIPPET_CHARS_MAX).collect(), skipped)
}

/// The candidate that someone who wrote `word` most likely meant: at most a third of it differs.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Longer words aren't compared: the work is the product of the lengths.
    const WORD_CHARS_MAX: usize = 80;
    let word: Vec<char> = word.chars().flat_map(char::to_lowercase).take(WORD_CHARS_MAX + 1).collect();
    if word.len() > WORD_CHARS_MAX {
        return None;
    }
    let allowed = (word.len() / 3).max(1);
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= WORD_CHARS_MAX)
        .map(|candidate| (distance(&word, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, candidate)| (*distance, candidate.len()))
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours between two words (optimal string
/// alignment).
fn distance(a: &[char], b: &str) -> usize {
    let b: Vec<char> = b.chars().flat_map(char::to_lowercase).collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replace = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code;

    #[test]
    fn people_mean_the_nearest_name() {
        for (word, candidates, meant) in [
            ("paymens", &["payments", "shipping"][..], Some("payments")),
            ("backendRef", &["backendRefs", "filters"], Some("backendRefs")),
            ("ruels", &["rules", "parentRefs"], Some("rules")),
            ("HTTProute", &["HTTPRoute", "Service"], Some("HTTPRoute")),
            ("x", &["payments"], None),
            ("", &["a"], Some("a")),
            ("orders", &[], None),
        ] {
            assert_eq!(nearest(word, candidates.iter().copied()), meant, "{word}");
        }
    }

    #[test]
    fn a_message_points_at_its_place() {
        let mut d =
            Diagnostic::error(&code::SERVICE_ABSENT, "spec", "no Service \"paymens\"; did you mean \"payments\"?");
        d.file = "shop/routes.yaml".into();
        (d.line, d.column, d.width) = (14, 9, 7);
        d.snippet = Some("- name: paymens\u{1b}[31m".into());
        let text = d.render();
        let expected = "error[BYR-C012]: no Service \"paymens\"; did you mean \"payments\"?\n  --> shop/routes.yaml:14:9\n   |\n14 | - name: paymens\u{fffd}[31m\n   |         ^^^^^^^\n";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.contains("   = effect: ") && text.contains("   = fix: "), "{text}");
    }
}
