// SPDX-License-Identifier: Apache-2.0
//! What was measured, as a table for people or as JSON for programs.

use super::round::{Cell, Sample};
use super::workload::Workload;
use anyhow::Result;
use serde_json::{Value, json};

/// Cores busy with something else from which on a cell should be measured again.
const NOISE_MAX: f64 = 0.3;

/// Median, least and most of one figure over the rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Figure {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) rounds: usize,
}

impl Figure {
    pub(super) fn among(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(at(middle.wrapping_sub(1)), at(middle))
        } else {
            at(middle)
        };
        Self { median, min: at(0), max: at(values.len().wrapping_sub(1)), rounds: values.len() }
    }

    fn text(self) -> String {
        format!("{:.1} ({:.1}-{:.1})", self.median, self.min, self.max)
    }
}

/// One figure of a row: its name for programs, its name for people, and how it's drawn.
#[derive(Clone, Copy)]
pub(super) struct Metric {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) draw: Draw,
}

/// How a figure is drawn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Draw {
    /// Median with least and most, and what it is of byrnie's: the figure that counts.
    Main,
    Whole,
    Tenths,
    Hundredths,
}

/// One subject's figures, in the order of the metrics.
pub(super) struct Row {
    pub(super) subject: &'static str,
    pub(super) version: String,
    pub(super) figures: Vec<Figure>,
    /// In words, at the end of the line.
    pub(super) remark: String,
}

/// The figures of one workload.
pub(super) struct Table {
    pub(super) workload: Workload,
    pub(super) head: String,
    pub(super) metrics: Vec<Metric>,
    pub(super) rows: Vec<Row>,
    /// Subjects without figures, and why.
    pub(super) failed: Vec<String>,
}

impl Table {
    pub(super) fn print(&self, as_json: bool) -> Result<()> {
        if as_json {
            println!("{}", serde_json::to_string(&self.document())?);
            return Ok(());
        }
        println!("\n{}: {}\n{}\n", self.workload.name, self.workload.about, self.head);
        let mut title = format!("{:<10} {:<10}", "subject", "version");
        for metric in &self.metrics {
            title.push_str(&match metric.draw {
                Draw::Main => format!(" {:>22} {:>7}", metric.title, "ratio"),
                _ => format!(" {:>12}", metric.title),
            });
        }
        println!("{title}");
        let base = self.rows.iter().find(|row| row.subject == "byrnie");
        for row in &self.rows {
            println!("{}", self.line(row, base));
        }
        for failed in &self.failed {
            println!("FAILED: {failed}");
        }
        println!("\nratio: byrnie's figure by the subject's; below 1 byrnie costs less.");
        println!("{}", self.workload.path.caveat());
        Ok(())
    }

    fn line(&self, row: &Row, base: Option<&Row>) -> String {
        let mut line = format!("{:<10} {:<10}", row.subject, row.version);
        for (at, (metric, figure)) in self.metrics.iter().zip(&row.figures).enumerate() {
            line.push_str(&match metric.draw {
                Draw::Main => {
                    let ratio = base.map_or(f64::NAN, |base| base.figures[at].median / figure.median);
                    format!(" {:>22} {:>7}", figure.text(), format!("{ratio:.2}x"))
                }
                Draw::Whole => format!(" {:>12.0}", figure.median),
                Draw::Tenths => format!(" {:>12.1}", figure.median),
                Draw::Hundredths => format!(" {:>12.2}", figure.median),
            });
        }
        if !row.remark.is_empty() {
            line.push_str("  ");
            line.push_str(&row.remark);
        }
        line
    }

    fn document(&self) -> Value {
        let mut rows = Vec::new();
        for row in &self.rows {
            for (metric, figure) in self.metrics.iter().zip(&row.figures) {
                let Figure { median, min, max, rounds } = *figure;
                rows.push(json!({
                    "workload": self.workload.name, "subject": row.subject, "version": row.version,
                    "metric": metric.name, "median": median, "min": min, "max": max, "rounds": rounds,
                }));
            }
        }
        json!({"bench": self.workload.bench, "rows": rows})
    }
}

/// A figure, and how it's taken from a sample.
type Taken = (&'static str, &'static str, Draw, fn(&Sample) -> f64);

const TAKEN: [Taken; 5] = [
    ("cpu_us_per_request", "CPU us/request", Draw::Main, |sample| sample.each.iter().sum()),
    ("requests_per_second", "requests/s", Draw::Whole, |sample| sample.seen.requests as f64 / sample.seen.seconds),
    ("latency_p50_us", "p50 us", Draw::Whole, |sample| sample.seen.p50_us as f64),
    ("latency_p99_us", "p99 us", Draw::Whole, |sample| sample.seen.p99_us as f64),
    ("noise_cores", "noise", Draw::Hundredths, |sample| sample.noise),
];

/// The table of a workload that was measured in rounds.
pub(super) fn table(workload: &Workload, cells: &[Cell]) -> Table {
    let rounds = cells.iter().map(|cell| cell.samples.len()).max().unwrap_or(0);
    let head = format!(
        "{}; {rounds} rounds of {} s; CPU of all proxies: median (min-max); one worker each",
        workload.load.text(),
        workload.load.span.as_secs()
    );
    let metrics = TAKEN.iter().map(|(name, title, draw, _)| Metric { name, title, draw: *draw }).collect();
    let failed = cells.iter().filter_map(Cell::failure).collect();
    let rows = cells.iter().filter(|cell| cell.failure().is_none()).map(row).collect();
    Table { workload: *workload, head, metrics, rows, failed }
}

fn row(cell: &Cell) -> Row {
    let figure = |value: &dyn Fn(&Sample) -> f64| Figure::among(cell.samples.iter().map(value).collect());
    let figures: Vec<Figure> = TAKEN.iter().map(|(.., value)| figure(value)).collect();
    let sides = cell.samples.first().map_or(0, |sample| sample.each.len());
    let mut remark = Vec::new();
    if sides > 1 {
        let each = (0..sides).map(|at| format!("{:.1}", figure(&|sample: &Sample| sample.each[at]).median));
        remark.push(each.collect::<Vec<_>>().join(" + "));
    }
    if figures.last().is_some_and(|noise| noise.median > NOISE_MAX) {
        remark.push("noisy: measure again".to_owned());
    }
    Row { subject: cell.subject, version: cell.version.clone(), figures, remark: remark.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_stands_between_min_and_max() {
        assert_eq!(Figure::among(vec![3.0, 1.0, 2.0]), Figure { median: 2.0, min: 1.0, max: 3.0, rounds: 3 });
        let even = Figure::among(vec![4.0, 1.0, 2.0, 3.0]);
        assert_eq!(even, Figure { median: 2.5, min: 1.0, max: 4.0, rounds: 4 });
        assert!(Figure::among(Vec::new()).median.is_nan());
    }
}
