// SPDX-License-Identifier: Apache-2.0
//! Answers on standard output: a borderless table for people, or the same answer as JSON, YAML or
//! JSON lines for scripts. Commands call [`print`] with the answer and the way to draw its rows.

use crate::globals::{Format, Globals};
use serde_json::Value;
use std::io::Write;

pub(crate) mod yaml;

/// A table in the making: a heading and rows of the same length.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// Titles, in upper case.
    pub columns: Vec<&'static str>,
    /// How many of the columns are shown unless `wide` is asked for.
    pub narrow: usize,
    /// Columns whose cells stand to the right, by index.
    pub numbers: Vec<usize>,
    /// Cells.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table of these columns, all of them shown.
    pub(crate) fn new(columns: &[&'static str]) -> Self {
        Self { columns: columns.to_vec(), narrow: columns.len(), ..Self::default() }
    }

    /// Shows only the first `count` columns unless `wide` is asked for.
    pub(crate) fn narrow(mut self, count: usize) -> Self {
        self.narrow = count;
        self
    }

    /// Aligns these columns to the right.
    pub(crate) fn numbers(mut self, columns: &[usize]) -> Self {
        self.numbers = columns.to_vec();
        self
    }

    /// The text of it.
    pub(crate) fn render(&self, wide: bool) -> String {
        let shown = if wide { self.columns.len() } else { self.narrow };
        let mut table = comfy_table::Table::new();
        table.load_preset(comfy_table::presets::NOTHING);
        table.set_content_arrangement(comfy_table::ContentArrangement::Disabled);
        table.set_header(&self.columns[..shown]);
        for row in &self.rows {
            table.add_row(row.iter().take(shown));
        }
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((if index == 0 { 2 } else { 0 }, 2));
            if self.numbers.contains(&index) {
                column.set_cell_alignment(comfy_table::CellAlignment::Right);
            }
        }
        table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
    }
}

/// Prints `answer` as asked; `draw` makes the text for people.
///
/// # Errors
/// If standard output fails, unless because its reader has gone.
pub(crate) fn print(globals: &Globals, answer: &Value, draw: impl FnOnce(bool) -> String) -> anyhow::Result<()> {
    write(&match globals.output {
        Format::Table => draw(false),
        Format::Wide => draw(true),
        Format::Json => serde_json::to_string_pretty(answer)? + "\n",
        Format::Yaml => yaml::emit(answer),
        Format::Ndjson => match answer {
            Value::Array(items) => items.iter().map(|item| item.to_string() + "\n").collect(),
            other => other.to_string() + "\n",
        },
    })
}

/// Writes `text` to standard output as it stands.
///
/// # Errors
/// If standard output fails, unless because its reader has gone.
pub(crate) fn write(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// `1 error`, `2 errors`.
pub(crate) fn count(number: usize, word: &str) -> String {
    format!("{number} {word}{}", if number == 1 { "" } else { "s" })
}

/// A word's meaning, as a colour says it beside the word itself.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tone {
    /// All is well.
    Good,
    /// Somebody should look.
    Bad,
}

/// `word` in the colour of its tone, where the terminal takes colours.
pub(crate) fn paint(globals: &Globals, tone: Tone, word: &str) -> String {
    let color = match tone {
        Tone::Good => 32,
        Tone::Bad => 31,
    };
    if globals.color() { format!("\u{1b}[{color}m{word}\u{1b}[0m") } else { word.to_owned() }
}

/// The text of a member, or `-` if it's absent or empty.
pub(crate) fn cell(value: &Value, member: &str) -> String {
    match &value[member] {
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

/// A number with at most one decimal, or `-` if there is none: nothing measured isn't zero.
pub(crate) fn number(value: &Value, member: &str) -> String {
    value[member].as_f64().map_or_else(|| "-".to_owned(), |n| format!("{n:.1}"))
}

/// Milliseconds as people say them.
pub(crate) fn millis(value: &Value, member: &str) -> String {
    value[member]
        .as_f64()
        .map_or_else(|| "-".to_owned(), |n| if n < 10.0 { format!("{n:.1}ms") } else { format!("{n:.0}ms") })
}
