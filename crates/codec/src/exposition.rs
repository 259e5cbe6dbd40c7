// SPDX-License-Identifier: Apache-2.0
//! How metrics are shown to whoever scrapes them: in Prometheus' text format (0.0.4), in which byrnie writes them, or in
//! OpenMetrics 1.0 where that is asked for (<https://prometheus.io/docs/specs/om/open_metrics_spec/>). Of what byrnie writes
//! the two differ in the names of counters' families, which have no `_total` there, and in the end, which is marked.

/// Content type of Prometheus' text format.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Content type of OpenMetrics.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Media ranges of an `Accept` that are looked at; Prometheus sends six.
const RANGES_MAX: usize = 32;

/// The content type and the body for a scrape with this `Accept`; `text` is in Prometheus' format.
pub fn shown(accept: Option<&str>, text: String) -> (&'static str, String) {
    if accept.is_some_and(wants_open_metrics) { (OPEN_METRICS, open_metrics(&text)) } else { (PROMETHEUS, text) }
}

fn open_metrics(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for line in text.lines() {
        let mark = ["# HELP ", "# TYPE "].into_iter().find(|mark| line.starts_with(mark)).unwrap_or_default();
        let rest = &line[mark.len()..];
        let (name, _) = rest.split_once(' ').unwrap_or((rest, ""));
        let family = if mark.is_empty() { name } else { name.strip_suffix("_total").unwrap_or(name) };
        out.extend([mark, family, &rest[name.len()..], "\n"]);
    }
    out.push_str("# EOF\n");
    out
}

/// Whether OpenMetrics is named, in a version that is understood, and nothing that is served is liked better (RFC 9110 12.5.1).
fn wants_open_metrics(accept: &str) -> bool {
    let (mut open, mut plain) = (0, 0);
    for range in accept.split(',').take(RANGES_MAX) {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let (mut weight, mut version) = (1000, None);
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match name.trim().to_ascii_lowercase().as_str() {
                "q" => weight = thousandths(value.trim()),
                "version" => version = Some(value.trim().trim_matches('"')),
                _ => {}
            }
        }
        match kind.as_str() {
            "application/openmetrics-text" if matches!(version, None | Some("1.0.0")) => open = weight.max(open),
            "text/plain" | "text/*" => plain = weight.max(plain),
            _ => {}
        }
    }
    open > 0 && open >= plain
}

/// A weight from 0 to 1 with at most three digits (RFC 9110 12.4.2); what is none weighs nothing.
fn thousandths(weight: &str) -> u32 {
    let (whole, part) = weight.split_once('.').unwrap_or((weight, ""));
    let digits = part.len() <= 3 && part.bytes().all(|b| b.is_ascii_digit());
    match whole {
        "1" if digits && part.bytes().all(|b| b == b'0') => 1000,
        "0" if digits => part.bytes().chain(*b"000").take(3).fold(0, |sum, b| sum * 10 + u32::from(b - b'0')),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_open_metrics_gets_it() {
        // Prometheus 2 and 3, curl, a browser.
        for (accept, open) in [
            ("application/openmetrics-text", true),
            ("application/openmetrics-text; version=1.0.0; charset=utf-8", true),
            (
                "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                true,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=1.0.0;q=0.5,*/*;q=0.1",
                true,
            ),
            ("*/*", false),
            ("text/html,application/xhtml+xml,*/*;q=0.8", false),
            ("text/plain;q=0.9, application/openmetrics-text;q=0.8", false),
            ("application/openmetrics-text;q=0", false),
            ("application/openmetrics-text;q=0.001", true),
            ("application/openmetrics-text;q=2", false),
            ("application/openmetrics-text;version=2.0.0", false),
            ("", false),
        ] {
            assert_eq!(wants_open_metrics(accept), open, "{accept}");
        }
    }

    #[test]
    fn counters_lose_their_suffix_and_the_end_is_marked() {
        let text = "# HELP a_total Things, in total.\n# TYPE a_total counter\na_total{b=\"# HELP x_total y\"} 1\n\
                    # HELP g Now.\n# TYPE g gauge\ng 2\n";
        let open = "# HELP a Things, in total.\n# TYPE a counter\na_total{b=\"# HELP x_total y\"} 1\n\
                    # HELP g Now.\n# TYPE g gauge\ng 2\n# EOF\n";
        assert_eq!(shown(Some("application/openmetrics-text"), text.to_owned()), (OPEN_METRICS, open.to_owned()));
        assert_eq!(shown(None, text.to_owned()), (PROMETHEUS, text.to_owned()));
    }
}
