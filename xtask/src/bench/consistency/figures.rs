// SPDX-License-Identifier: Apache-2.0
//! What was measured, over all rounds, as a table for people or as JSON for programs.

use super::super::report::Figure;
use anyhow::Result;
use serde_json::json;

/// One figure of one subject in one round.
#[derive(Clone, Debug)]
struct Value {
    workload: &'static str,
    subject: String,
    version: String,
    metric: &'static str,
    value: f64,
}

/// All figures, in the order in which they were first measured.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures(Vec<Value>);

impl Figures {
    pub(super) fn put(
        &mut self,
        workload: &'static str,
        (subject, version): (&str, &str),
        metric: &'static str,
        value: f64,
    ) {
        let (subject, version) = (subject.to_owned(), version.to_owned());
        self.0.push(Value { workload, subject, version, metric, value });
    }

    /// Adds what byrnie's figure is of each peer's, round by round: the disk of one round is not that of another.
    pub(super) fn compare(&mut self, workload: &'static str, metric: &'static str) {
        let of = |subject: &str| -> Vec<f64> {
            let all = self.0.iter().filter(|one| one.workload == workload && one.metric == metric);
            all.filter(|one| one.subject == subject).map(|one| one.value).collect()
        };
        let mut ratios = Vec::new();
        for (own, peer) in super::subjects::PAIRS {
            for (one, other) in of(own).into_iter().zip(of(peer)) {
                let subject = format!("{own}/{peer}");
                ratios.push(Value { workload, subject, version: "-".to_owned(), metric, value: one / other });
            }
        }
        self.0.extend(ratios);
    }

    /// Each figure once, with what it was in all rounds.
    fn rows(&self) -> Vec<(&Value, Figure)> {
        let is = |one: &Value, other: &Value| {
            (one.workload, &one.subject, one.metric) == (other.workload, &other.subject, other.metric)
        };
        let first =
            self.0.iter().enumerate().filter(|(at, value)| !self.0[..*at].iter().any(|before| is(before, value)));
        let row = |(_, value)| {
            let values = self.0.iter().filter(|other| is(value, other)).map(|other| other.value).collect();
            (value, Figure::among(values))
        };
        first.map(row).collect()
    }

    pub(super) fn print(&self, as_json: bool) -> Result<()> {
        let rows = self.rows();
        if as_json {
            let rows: Vec<_> = rows
                .iter()
                .map(|(value, figure)| {
                    let Figure { median, min, max, rounds } = *figure;
                    json!({"workload": value.workload, "subject": value.subject, "version": value.version,
                        "metric": value.metric, "median": median, "min": min, "max": max, "rounds": rounds})
                })
                .collect();
            println!("{}", serde_json::to_string(&json!({"bench": "consistency", "rows": rows}))?);
            return Ok(());
        }
        let mut workloads: Vec<&str> = Vec::new();
        for (value, _) in &rows {
            if !workloads.contains(&value.workload) {
                workloads.push(value.workload);
            }
        }
        for workload in workloads {
            table(workload, &rows.iter().filter(|(value, _)| value.workload == workload).collect::<Vec<_>>());
        }
        Ok(())
    }
}

/// One workload: a line for each subject, a column for each metric.
fn table(workload: &str, rows: &[&(&Value, Figure)]) {
    let (mut subjects, mut metrics): (Vec<(&str, &str)>, Vec<&str>) = (Vec::new(), Vec::new());
    for (value, _) in rows {
        if !subjects.iter().any(|(subject, _)| *subject == value.subject) {
            subjects.push((&value.subject, &value.version));
        }
        if !metrics.contains(&value.metric) {
            metrics.push(value.metric);
        }
    }
    let head: String = metrics.iter().map(|metric| format!(" {metric:>WIDTH$}")).collect();
    println!("\n{workload:<NAME$} {:<7}{head}", "version");
    for (subject, version) in subjects {
        let cell = |metric: &&str| {
            let found = rows.iter().find(|(value, _)| value.subject == subject && value.metric == *metric);
            format!(" {:>WIDTH$}", found.map_or_else(|| "-".to_owned(), |(_, figure)| text(*figure)))
        };
        println!("{subject:<NAME$} {version:<7}{}", metrics.iter().map(cell).collect::<String>());
    }
}

/// Room for a subject.
const NAME: usize = 28;
/// Room for a median with least and most.
const WIDTH: usize = 23;

fn text(figure: Figure) -> String {
    let Figure { median, min, max, .. } = figure;
    let digits = if median.abs() < 100.0 { 2 } else { 0 };
    format!("{median:.digits$} ({min:.digits$}-{max:.digits$})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_of_the_same_round() {
        let mut figures = Figures::default();
        for (own, peer) in [(100.0, 10.0), (300.0, 20.0), (90.0, 10.0)] {
            figures.put("sagas-64", ("byrnie", "1"), "rate", own);
            figures.put("sagas-64", ("dtm", "2"), "rate", peer);
        }
        figures.put("sagas-1", ("byrnie", "1"), "rate", 1.0);
        figures.compare("sagas-64", "rate");
        let rows = figures.rows();
        let names: Vec<&str> = rows.iter().map(|(value, _)| &*value.subject).collect();
        assert_eq!(names, ["byrnie", "dtm", "byrnie", "byrnie/dtm"]);
        let (_, ratio) = &rows[3];
        assert_eq!((ratio.median, ratio.min, ratio.max, ratio.rounds), (10.0, 9.0, 15.0, 3));
    }
}
