// SPDX-License-Identifier: Apache-2.0
//! What the load that a program reports of itself is worth: in a response's head or trailers, or by its proxy (`reporting`). The
//! weight it makes is that of gRFC A58: `rate / (utilization + errors / rate)`, the requests per second that the endpoint could
//! take at full use.

use byrnie_codec::grpc::load::{BINARY_HEADER, HEADER, Report};

/// The capacity that the fields of a response, or its trailers, come to.
pub(crate) fn found<'f>(field: impl Fn(&str) -> Option<&'f [u8]>) -> Option<u64> {
    let report = match field(HEADER) {
        Some(text) => Report::read(text),
        None => Report::read_binary(field(BINARY_HEADER)?),
    };
    capacity(&report?)
}

/// The capacity that a report comes to: requests per second at full use, in thousandths, at least 1. A report with a number that
/// can't be says nothing.
pub(crate) fn capacity(report: &Report) -> Option<u64> {
    let numbers = [report.cpu, report.application, report.rate, report.errors];
    if !numbers.iter().all(|number| (0.0..=NUMBER_MAX).contains(number)) {
        return None;
    }
    let used = if report.application > 0.0 { report.application } else { report.cpu };
    let used = if used > 0.0 { used.clamp(UTILIZATION_MIN, UTILIZATION_MAX) } else { used };
    let burden = used + if report.errors > 0.0 { report.errors / report.rate } else { 0.0 };
    let capacity = report.rate / burden * 1000.0;
    let sane = capacity.is_finite() && report.rate > 0.0 && used > 0.0 && (1.0..=CAPACITY_MAX).contains(&capacity);
    // Below 2^40: exact.
    sane.then_some(capacity as u64)
}

/// Larger than any number in a report: what isn't is a mistake.
const NUMBER_MAX: f64 = 1e9;
/// Who says to use less counts as one who uses so much: else a program that does next to nothing, or says so, would draw all requests.
const UTILIZATION_MIN: f64 = 0.001;
/// Who says to use more, a hundred times what there is, counts as one who uses so much.
const UTILIZATION_MAX: f64 = 100.0;
/// A billion requests per second, in thousandths: more than that is a mistake.
const CAPACITY_MAX: f64 = 1e12;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(name: &str, value: &[u8]) -> Option<u64> {
        found(|field| (field == name).then_some(value))
    }

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
            ("TEXT cpu_utilization=inf,rps_fractional=100", None),
            ("TEXT cpu_utilization=0.5,application_utilization=-0.1,rps_fractional=100", None),
            ("TEXT cpu_utilization=0.5,rps_fractional=100,eps=NaN", None),
            ("TEXT cpu_utilization=0.5,rps_fractional=100,eps=-1", None),
            // Next to nothing, and more than there is.
            ("TEXT cpu_utilization=0.001,rps_fractional=100", Some(100_000_000)),
            ("TEXT cpu_utilization=0.000001,rps_fractional=100", Some(100_000_000)),
            ("TEXT cpu_utilization=1e-300,rps_fractional=100", Some(100_000_000)),
            ("TEXT application_utilization=100,rps_fractional=100", Some(1_000)),
            ("TEXT application_utilization=1e9,rps_fractional=100", Some(1_000)),
            ("BIN CgAK", None),
            ("", None),
        ] {
            assert_eq!(of(HEADER, text.as_bytes()), expected, "{text}");
        }
        // cpu_utilization 0.5, rps_fractional 100, as a program of gRPC sends it.
        assert_eq!(of(BINARY_HEADER, b"CQAAAAAAAOA/MQAAAAAAAFlA"), Some(200_000));
        assert_eq!(of(BINARY_HEADER, b"*"), None);
        assert_eq!(of("x-other", b"TEXT cpu_utilization=0.5,rps_fractional=100"), None);
    }

    /// Any bits at all, and such as are likely to be wrong.
    fn any_number() -> impl Strategy<Value = f64> {
        let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MIN_POSITIVE, f64::MAX, -0.0, -1.0, 0.0, 1e9, 1e10];
        prop_oneof![any::<u64>().prop_map(f64::from_bits), prop::sample::select(odd.to_vec()), 0.0..2.0f64, 0.0..1e6f64]
    }

    proptest! {
        /// Whatever is reported, an endpoint is worth no more than its requests allow, and at least something.
        #[test]
        fn no_report_is_worth_more_than_its_requests_allow(cpu in any_number(), application in any_number(), rate in any_number(), errors in any_number()) {
            if let Some(worth) = capacity(&Report { cpu, application, rate, errors }) {
                let most = rate / UTILIZATION_MIN * 1000.0;
                prop_assert!(worth >= 1 && worth as f64 <= most && worth as f64 <= CAPACITY_MAX, "{worth}");
                prop_assert!(worth as f64 + 1.0 >= rate / (UTILIZATION_MAX + errors / rate) * 1000.0, "{worth}");
            }
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000), text in "(TEXT|JSON) [-{}a-z_=:,.0-9eN\"]{0,60}") {
            of(HEADER, &bytes);
            of(BINARY_HEADER, &bytes);
            of(HEADER, text.as_bytes());
        }
    }
}
