// SPDX-License-Identifier: Apache-2.0
//! What was measured, as a table for people or as JSON for programs.

use super::Workload;
use super::options::Options;
use super::round::{Cell, Sample};
use anyhow::Result;
use serde_json::{Value, json};

/// Cores busy with something else from which on a cell should be measured again.
const NOISE_MAX: f64 = 0.3;

/// Median, least and most of one figure over the rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Figure {
    median: f64,
    min: f64,
    max: f64,
}

impl Figure {
    fn of(cell: &Cell, value: impl Fn(&Sample) -> f64) -> Self {
        Self::among(cell.samples.iter().map(value).collect())
    }

    fn among(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(at(middle.wrapping_sub(1)), at(middle))
        } else {
            at(middle)
        };
        Self { median, min: at(0), max: at(values.len().wrapping_sub(1)) }
    }

    fn text(self) -> String {
        format!("{:.1} ({:.1}-{:.1})", self.median, self.min, self.max)
    }
}

fn total(sample: &Sample) -> f64 {
    sample.each.iter().sum()
}

fn rate(sample: &Sample) -> f64 {
    sample.seen.requests as f64 / sample.seen.seconds
}

/// Prints the cells of one workload.
pub(super) fn print(options: &Options, workload: Workload, cells: &[Cell]) -> Result<()> {
    if options.json {
        println!("{}", serde_json::to_string(&document(workload, cells))?);
        return Ok(());
    }
    let load = options.load;
    let pace = if load.rate == 0 { "closed loop".to_owned() } else { format!("{} requests/s", load.rate) };
    println!("\n{}: {}", workload.name(), workload.about());
    println!(
        "{} connections, {pace}, {} B answers; {} rounds of {} s; CPU in us per request: median (min-max)\n",
        load.connections,
        load.size,
        options.rounds,
        load.span.as_secs()
    );
    println!(
        "{:<9} {:<9} {:>20} {:>7} {:>17} {:>9} {:>8} {:>8} {:>6}",
        "subject", "version", "CPU us/request", "ratio", "A + B", "requests/s", "p50 us", "p99 us", "noise"
    );
    let base = cells.iter().find(|c| c.subject == "byrnie").map(|cell| Figure::of(cell, total).median);
    for cell in cells {
        println!("{}", line(cell, base));
    }
    if base.is_some() {
        println!("\nratio: the subject's CPU by byrnie's; above 1 byrnie is cheaper.");
    }
    if workload == Workload::Mtls {
        println!("byrnie runs as users run it: limits, metrics, decision records and access checks are on.");
        println!("haproxy, nginx and relay do none of this; relay's middle hop is in clear.");
    }
    Ok(())
}

fn line(cell: &Cell, base: Option<f64>) -> String {
    if let Some(failure) = cell.failure() {
        return format!("{:<9} {:<9} FAILED: {failure}", cell.subject, cell.version);
    }
    let cpu = Figure::of(cell, total);
    let ratio = base.map_or_else(|| "-".to_owned(), |base| format!("{:.2}x", cpu.median / base));
    let median = |value: fn(&Sample) -> f64| Figure::of(cell, value).median;
    let noise = median(|sample| sample.noise);
    let sides = (0..cell.samples.first().map_or(0, |sample| sample.each.len()))
        .map(|at| format!("{:.1}", Figure::of(cell, |sample| sample.each[at]).median))
        .collect::<Vec<_>>()
        .join(" + ");
    format!(
        "{:<9} {:<9} {:>20} {:>7} {:>17} {:>9.0} {:>8.0} {:>8.0} {:>6.2}{}",
        cell.subject,
        cell.version,
        cpu.text(),
        ratio,
        sides,
        median(rate),
        median(|sample| sample.seen.p50_us as f64),
        median(|sample| sample.seen.p99_us as f64),
        noise,
        if noise > NOISE_MAX { " noisy: measure again" } else { "" }
    )
}

/// Failed cells have no rows.
fn document(workload: Workload, cells: &[Cell]) -> Value {
    type Metric = (&'static str, fn(&Sample) -> f64);
    let metrics: [Metric; 5] = [
        ("cpu_us_per_request", total),
        ("requests_per_second", rate),
        ("latency_p50_us", |sample| sample.seen.p50_us as f64),
        ("latency_p99_us", |sample| sample.seen.p99_us as f64),
        ("noise_cores", |sample| sample.noise),
    ];
    let mut rows = Vec::new();
    for cell in cells.iter().filter(|cell| cell.failure().is_none()) {
        for (metric, value) in metrics {
            let Figure { median, min, max } = Figure::of(cell, value);
            rows.push(json!({
                "workload": workload.name(), "subject": cell.subject, "version": cell.version, "metric": metric,
                "median": median, "min": min, "max": max, "rounds": cell.samples.len(),
            }));
        }
    }
    json!({"bench": workload.name(), "rows": rows})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_stands_between_min_and_max() {
        assert_eq!(Figure::among(vec![3.0, 1.0, 2.0]), Figure { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Figure::among(vec![4.0, 1.0, 2.0, 3.0]), Figure { median: 2.5, min: 1.0, max: 4.0 });
        assert!(Figure::among(Vec::new()).median.is_nan());
    }
}
