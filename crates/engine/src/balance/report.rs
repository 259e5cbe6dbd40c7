// SPDX-License-Identifier: Apache-2.0
//! The load that a program reports of itself in a response's head or trailers: ORCA, the Open Request Cost
//! Aggregation (<https://github.com/cncf/xds/blob/main/xds/data/orca/v3/orca_load_report.proto>), in the
//! text and JSON formats of the header `endpoint-load-metrics`. The weight it makes is that of gRFC A58:
//! `rate / (utilization + errors / rate)`, the requests per second that the endpoint could take at full
//! use. Bytes that say nothing sensible say nothing.

/// The header or trailer.
pub(crate) const HEADER: &str = "endpoint-load-metrics";
/// Longest report that is read, in bytes.
const REPORT_BYTES_MAX: usize = 1024;

/// What a report says, as far as balancing asks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Report {
    cpu: f64,
    application: f64,
    rate: f64,
    errors: f64,
}

/// The capacity that a report comes to: requests per second at full use, in thousandths, at least 1.
pub(crate) fn capacity(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value.get(..value.len().min(REPORT_BYTES_MAX))?).ok()?;
    let mut report = Report::default();
    let pairs = match text.split_once(' ')? {
        ("TEXT", pairs) => pairs.split(','),
        ("JSON", object) => object.trim().strip_prefix('{')?.strip_suffix('}')?.split(','),
        _ => return None,
    };
    for pair in pairs {
        let Some((name, number)) = pair.split_once(['=', ':']) else { continue };
        let Ok(number) = number.trim().parse::<f64>() else { continue };
        let place = match name.trim().trim_matches('"') {
            "cpu_utilization" | "cpuUtilization" => &mut report.cpu,
            "application_utilization" | "applicationUtilization" => &mut report.application,
            "rps_fractional" | "rpsFractional" => &mut report.rate,
            "eps" => &mut report.errors,
            _ => continue,
        };
        *place = number;
    }
    let used = if report.application > 0.0 { report.application } else { report.cpu };
    let burden = used + if report.errors > 0.0 { report.errors / report.rate } else { 0.0 };
    let capacity = report.rate / burden * 1000.0;
    let sane = capacity.is_finite() && report.rate > 0.0 && used > 0.0 && (1.0..=CAPACITY_MAX).contains(&capacity);
    // Below 2^40: exact.
    sane.then_some(capacity as u64)
}

/// A billion requests per second, in thousandths: more than that is a mistake.
const CAPACITY_MAX: f64 = 1e12;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reports_become_capacities() {
        for (text, expected) in [
            ("TEXT cpu_utilization=0.5,rps_fractional=100", Some(200_000)),
            ("TEXT cpu_utilization=0.9, application_utilization=0.25, rps_fractional=100", Some(400_000)),
            ("TEXT cpu_utilization=0.5,rps_fractional=100,eps=50", Some(100_000)),
            ("JSON {\"cpu_utilization\": 0.5, \"rps_fractional\": 100.0}", Some(200_000)),
            ("JSON {\"cpuUtilization\":0.5,\"rpsFractional\":10,\"named_metrics\":{}}", Some(20_000)),
            ("TEXT rps_fractional=100", None),
            ("TEXT cpu_utilization=0.5", None),
            ("TEXT cpu_utilization=-1,rps_fractional=100", None),
            ("TEXT cpu_utilization=NaN,rps_fractional=100", None),
            ("TEXT cpu_utilization=1e-300,rps_fractional=1e300", None),
            ("BIN CgAK", None),
            ("", None),
        ] {
            assert_eq!(capacity(text.as_bytes()), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000), text in "(TEXT|JSON) [-{}a-z_=:,.0-9eN\"]{0,60}") {
            capacity(&bytes);
            capacity(text.as_bytes());
        }
    }
}
