// SPDX-License-Identifier: Apache-2.0
//! The load that a program reports of itself: ORCA, the Open Request Cost Aggregation (`cncf/xds`,
//! xds/data/orca/v3/orca_load_report.proto). In a header or trailer of its answers, as text, JSON or bytes, and by a stream beside
//! them (xds/service/orca/v3/orca.proto; gRFC A51). Bytes that say nothing sensible say nothing.

use crate::base64;
use crate::protobuf::{self, Field, Writer};
use std::fmt::Write as _;
use std::time::Duration;

/// Where the stream is asked for.
pub const PATH: &str = "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics";
/// The header or trailer with a report, in one of the forms `TEXT`, `JSON` and `BIN`, which it begins with.
pub const HEADER: &str = "endpoint-load-metrics";
/// The one with its bytes in base64, as programs of gRPC send it among the trailers.
pub const BINARY_HEADER: &str = "endpoint-load-metrics-bin";
/// Longest report as text or JSON that is read, in bytes.
const TEXT_BYTES_MAX: usize = 1024;
/// Longest report in base64 that is read, in bytes: beside what is looked at it may hold costs by name.
const BASE64_BYTES_MAX: usize = 4096;
/// Most fields of a report that are read: each cost and utilization by name is one.
const FIELDS_MAX: usize = 1024;

/// What a report says, as far as balancing asks. What it doesn't say is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Report {
    /// The share of the processors that is used; 1 is all of them.
    pub cpu: f64,
    /// The share of what the program itself thinks it can do; above 1 it does more.
    pub application: f64,
    /// Requests per second.
    pub rate: f64,
    /// Errors per second.
    pub errors: f64,
}

/// An `OrcaLoadReportRequest` for a report each `interval`: of all that the program knows, as costs can only be
/// asked for by name, or all of them.
pub fn question(interval: Duration) -> Vec<u8> {
    let mut out = Writer::default();
    out.message(1, |span| {
        span.number(1, interval.as_secs());
        span.number(2, interval.subsec_nanos().into());
    });
    out.into_bytes()
}

impl Report {
    /// What an `OrcaLoadReport` says.
    pub fn decode(message: &[u8]) -> Self {
        let mut report = Self::default();
        for field in protobuf::fields_up_to(message, FIELDS_MAX) {
            let Field::Fixed(field, bits) = field else { continue };
            let place = match field {
                1 => &mut report.cpu,
                6 => &mut report.rate,
                7 => &mut report.errors,
                9 => &mut report.application,
                _ => continue,
            };
            *place = f64::from_bits(bits);
        }
        report
    }

    /// What the value of [`HEADER`] says.
    pub fn read(value: &[u8]) -> Option<Self> {
        if let Some(coded) = value.strip_prefix(b"BIN ") {
            return Self::read_binary(coded.trim_ascii());
        }
        let text = std::str::from_utf8(value.get(..value.len().min(TEXT_BYTES_MAX))?).ok()?;
        let mut report = Self::default();
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
        Some(report)
    }

    /// What the value of [`BINARY_HEADER`] says.
    pub fn read_binary(value: &[u8]) -> Option<Self> {
        let coded = value.get(..BASE64_BYTES_MAX).unwrap_or(value);
        base64::decode(coded).map(|message| Self::decode(&message))
    }

    /// The value of [`HEADER`] that says this, to a millionth.
    pub fn text(&self) -> String {
        let mut out = "TEXT ".to_owned();
        let all = [
            ("cpu_utilization", self.cpu),
            ("application_utilization", self.application),
            ("rps_fractional", self.rate),
            ("eps", self.errors),
        ];
        for (name, number) in all.into_iter().filter(|(_, number)| *number != 0.0) {
            let comma = if out.ends_with(' ') { "" } else { "," };
            // Writing to a String can't fail.
            write!(out, "{comma}{name}={number:.6}").ok();
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn report() -> impl Strategy<Value = Report> {
        let number = || prop_oneof![Just(0.0), 0.001..1e9f64];
        (number(), number(), number(), number()).prop_map(|(cpu, application, rate, errors)| Report {
            cpu,
            application,
            rate,
            errors,
        })
    }

    /// As `protoc` has them.
    #[test]
    fn questions_and_reports_are_as_protobuf_has_them() {
        assert_eq!(question(Duration::from_secs(10)), [0x0a, 2, 0x08, 10]);
        assert_eq!(question(Duration::from_millis(1500)), [0x0a, 8, 0x08, 1, 0x10, 0x80, 0xca, 0xb5, 0xee, 0x01]);
        let mut message = vec![0x09];
        message.extend(0.5f64.to_le_bytes());
        // Of a name that has a cost, and of old whole requests per second, nothing is made.
        message.extend([0x18, 7, 0x22, 12, 0x0a, 1, b'q', 0x11]);
        message.extend(3.0f64.to_le_bytes());
        message.push(0x31);
        message.extend(100.0f64.to_le_bytes());
        message.push(0x39);
        message.extend(2.0f64.to_le_bytes());
        message.push(0x49);
        message.extend(0.25f64.to_le_bytes());
        let said = Report { cpu: 0.5, application: 0.25, rate: 100.0, errors: 2.0 };
        assert_eq!(Report::decode(&message), said);
        let coded = base64::encode(&message);
        assert_eq!(Report::read_binary(coded.as_bytes()), Some(said));
        assert_eq!(Report::read(format!("BIN {coded}==").as_bytes()), Some(said));
        assert_eq!(Report::decode(&message[..9]), Report { cpu: 0.5, ..Report::default() });
    }

    /// Fields of hundreds of names stand between those that are asked for.
    #[test]
    fn a_report_with_many_costs_is_read_to_its_end() {
        let mut message = Vec::new();
        for _ in 0..1000 {
            message.extend([0x22, 3, 0x0a, 1, b'q']);
        }
        message.push(0x31);
        message.extend(8.0f64.to_le_bytes());
        assert_eq!(Report::decode(&message), Report { rate: 8.0, ..Report::default() });
    }

    proptest! {
        #[test]
        fn what_is_told_is_read(said in report()) {
            let read = Report::read(said.text().as_bytes()).unwrap();
            for (one, other) in [
                (said.cpu, read.cpu),
                (said.application, read.application),
                (said.rate, read.rate),
                (said.errors, read.errors),
            ] {
                prop_assert!((one - other).abs() <= 1e-6 + one * 1e-9, "{said:?} {read:?}");
            }
            prop_assert!(said.text().len() <= TEXT_BYTES_MAX);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..6000), text in "(TEXT|JSON|BIN) [-{}a-z_=:,.0-9eN\"]{0,60}") {
            Report::decode(&bytes);
            Report::read(&bytes);
            Report::read_binary(&bytes);
            Report::read(text.as_bytes());
        }
    }
}
