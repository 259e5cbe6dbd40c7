// SPDX-License-Identifier: Apache-2.0
//! Metrics as OTLP has them, made of what a scrape shows: what `/metrics` says and what is sent can't differ. Reads
//! Prometheus' text format (0.0.4) as byrnie writes it; a line that isn't understood is left out.

use super::{Attributes, attributes, scope};
use crate::protobuf::Writer;
use std::collections::BTreeMap;

/// `AGGREGATION_TEMPORALITY_CUMULATIVE`: totals since the process began, as in a scrape.
const CUMULATIVE: u64 = 2;

/// What a family's samples are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// One family of metrics.
struct Family<'a> {
    name: &'a str,
    help: &'a str,
    kind: Kind,
    points: Vec<(Labels<'a>, &'a str)>,
    /// Of a histogram, by its labels without `le`.
    histograms: BTreeMap<Labels<'a>, Buckets>,
}

/// As they stand between the braces, in their order.
type Labels<'a> = Vec<(&'a str, String)>;

#[derive(Default)]
struct Buckets {
    /// Upper bounds with the counts up to them, the last one without bound left out.
    bounds: Vec<(f64, u64)>,
    count: u64,
    sum: f64,
}

/// The body of a request to `/v1/metrics` for what `text` shows. `began` is when counting began, `now` when it was
/// read, both in nanoseconds since 1970.
pub fn metrics(resource: &Attributes, text: &str, began: u64, now: u64) -> Vec<u8> {
    let families = read(text);
    let mut out = Writer::default();
    out.message(1, |of_resource| {
        of_resource.message(1, |out| attributes(out, 1, resource));
        of_resource.message(2, |of_scope| {
            scope(of_scope);
            for family in families.iter().filter(|f| !(f.points.is_empty() && f.histograms.is_empty())) {
                of_scope.message(2, |out| write(out, family, (began, now)));
            }
        });
    });
    out.into_bytes()
}

fn write(out: &mut Writer, family: &Family<'_>, times: (u64, u64)) {
    out.text(1, family.name);
    out.text(2, family.help);
    out.text(3, unit(family.name));
    match family.kind {
        Kind::Gauge => out.message(5, |out| numbers(out, family, times)),
        Kind::Counter => out.message(7, |out| {
            numbers(out, family, times);
            out.number(2, CUMULATIVE);
            out.number(3, 1);
        }),
        Kind::Histogram => out.message(9, |out| {
            for (labels, buckets) in &family.histograms {
                out.message(1, |out| histogram(out, labels, buckets, times));
            }
            out.number(2, CUMULATIVE);
        }),
    }
}

fn numbers(out: &mut Writer, family: &Family<'_>, (began, now): (u64, u64)) {
    for (labels, value) in &family.points {
        out.message(1, |out| {
            if family.kind == Kind::Counter {
                out.fixed(2, began);
            }
            out.fixed(3, now);
            match value.parse::<i64>() {
                Ok(whole) => out.fixed(6, whole.cast_unsigned()),
                Err(_) => out.fixed(4, value.parse::<f64>().unwrap_or(f64::NAN).to_bits()),
            }
            points_labels(out, 7, labels);
        });
    }
}

fn histogram(out: &mut Writer, labels: &Labels<'_>, buckets: &Buckets, (began, now): (u64, u64)) {
    out.fixed(2, began);
    out.fixed(3, now);
    out.fixed(4, buckets.count);
    out.fixed(5, buckets.sum.to_bits());
    // Prometheus counts up to each bound, OTLP between two of them.
    let below = std::iter::once(0).chain(buckets.bounds.iter().map(|(_, count)| *count));
    let upto = buckets.bounds.iter().map(|(_, count)| *count).chain([buckets.count]);
    let between: Vec<u64> = upto.zip(below).map(|(upto, below)| upto.saturating_sub(below)).collect();
    out.packed(6, between.into_iter());
    out.packed(7, buckets.bounds.iter().map(|(bound, _)| bound.to_bits()));
    points_labels(out, 9, labels);
}

fn points_labels(out: &mut Writer, field: u32, labels: &Labels<'_>) {
    for (name, value) in labels {
        super::attribute(out, field, name, &value.as_str().into());
    }
}

/// In UCUM, as OTLP asks.
fn unit(name: &str) -> &'static str {
    let name = name.strip_suffix("_total").unwrap_or(name);
    match name.rsplit('_').next() {
        Some("seconds") => "s",
        Some("bytes") => "By",
        Some("ratio") => "1",
        _ => "",
    }
}

fn read(text: &str) -> Vec<Family<'_>> {
    let mut families: Vec<Family<'_>> = Vec::new();
    let mut help = ("", "");
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').unwrap_or((rest, ""));
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, ""));
            let kind = match kind {
                "counter" => Kind::Counter,
                "histogram" => Kind::Histogram,
                _ => Kind::Gauge,
            };
            let help = if help.0 == name { help.1 } else { "" };
            families.push(Family { name, help, kind, points: Vec::new(), histograms: BTreeMap::new() });
        } else if let (Some((name, labels, value)), Some(family)) = (sample(line), families.last_mut()) {
            family.add(name, labels, value);
        }
    }
    families
}

impl<'a> Family<'a> {
    fn add(&mut self, name: &'a str, mut labels: Labels<'a>, value: &'a str) {
        let Some(part) = name.strip_prefix(self.name) else { return };
        if self.kind != Kind::Histogram {
            if part.is_empty() {
                self.points.push((labels, value));
            }
            return;
        }
        let bound = labels.iter().position(|(name, _)| *name == "le").map(|at| labels.remove(at).1);
        let buckets = self.histograms.entry(labels).or_default();
        match (part, bound.as_deref()) {
            ("_bucket", Some("+Inf")) => {}
            ("_bucket", Some(bound)) => {
                if let (Ok(bound), Ok(count)) = (bound.parse(), value.parse()) {
                    buckets.bounds.push((bound, count));
                }
            }
            ("_count", None) => buckets.count = value.parse().unwrap_or_default(),
            ("_sum", None) => buckets.sum = value.parse().unwrap_or_default(),
            _ => {}
        }
    }
}

/// `NAME VALUE` or `NAME{LABEL="VALUE",...} VALUE`.
fn sample(line: &str) -> Option<(&str, Labels<'_>, &str)> {
    if line.starts_with('#') {
        return None;
    }
    let Some((name, rest)) = line.split_once('{') else {
        let (name, value) = line.split_once(' ')?;
        return Some((name, Vec::new(), value));
    };
    let mut labels = Vec::new();
    let mut rest = rest;
    loop {
        if let Some(value) = rest.strip_prefix("} ") {
            return Some((name, labels, value));
        }
        let (label, quoted) = rest.strip_prefix(',').unwrap_or(rest).split_once("=\"")?;
        let (value, after) = unquote(quoted)?;
        labels.push((label, value));
        rest = after;
    }
}

/// A label's value up to its quote, and what follows.
fn unquote(quoted: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}
