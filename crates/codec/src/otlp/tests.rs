// SPDX-License-Identifier: Apache-2.0
//! The bytes themselves, and what hostile collectors answer. That others read them alike is shown by the tests of the
//! whole mesh.

use super::*;
use proptest::prelude::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_span_is_written_as_the_protocol_has_it() {
    let span = Span {
        trace: TraceId([0x11; 16]),
        id: SpanId([0x22; 8]),
        parent: Some(SpanId([0x33; 8])),
        kind: SpanKind::Client,
        name: "GET".into(),
        times: (1, 2),
        attributes: vec![("a", Value::Int(-1)), ("b", Value::Bool(false)), ("c", "".into())],
        events: vec![SpanEvent { at: 3, name: "e", attributes: Vec::new() }],
        error: Some("x".into()),
    };
    let bytes = hex(&traces(&Vec::new(), &[span]));
    for part in [
        "0a1011111111111111111111111111111111",
        "12082222222222222222",
        "22083333333333333333",
        "2a03474554",
        "3003",
        "390100000000000000410200000000000000",
        // a: -1, b: false, c: "".
        "4a100a0161120b18ffffffffffffffffff01",
        "4a070a016212021000",
        "4a070a016312020a00",
        "5a0c090300000000000000120165",
        "7a0512017818 02",
    ] {
        let part = part.replace(' ', "");
        assert!(bytes.contains(&part), "{part} in {bytes}");
    }
}

#[test]
fn what_a_collector_leaves_out_is_told() {
    assert_eq!(partial(b""), Partial::default());
    assert_eq!(partial(b"\x0a\x07\x08\x05\x12\x03too"), Partial { rejected: 5, message: "too".into() });
    // Cut short, and lengths that lie.
    assert_eq!(partial(b"\x0a\x07\x08\x05"), Partial::default());
    assert_eq!(partial(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), Partial::default());
}

#[test]
fn buckets_of_a_scrape_become_counts_between_bounds() {
    let text = "# HELP t_seconds How long.\n# TYPE t_seconds histogram\n\
        t_seconds_bucket{a=\"x\\\"y\",le=\"0.5\"} 3\nt_seconds_bucket{a=\"x\\\"y\",le=\"1\"} 5\n\
        t_seconds_bucket{a=\"x\\\"y\",le=\"+Inf\"} 6\nt_seconds_sum{a=\"x\\\"y\"} 4.5\nt_seconds_count{a=\"x\\\"y\"} 6\n";
    let bytes = hex(&metrics(&Vec::new(), text, 1, 2));
    // 3 up to 0.5, 2 up to 1, 1 above.
    assert!(bytes.contains("3218030000000000000002000000000000000100000000000000"), "{bytes}");
    assert!(bytes.contains("3a10000000000000e03f000000000000f03f"), "{bytes}");
    assert!(bytes.contains("210600000000000000290000000000001240"), "{bytes}");
    assert!(bytes.contains(&hex(b"x\"y")) && bytes.contains("1a0173"), "{bytes}");
}

proptest! {
    #[test]
    fn nothing_that_is_answered_panics(answer in prop::collection::vec(any::<u8>(), 0..64)) {
        partial(&answer);
    }

    #[test]
    fn no_text_panics(text in "(# (TYPE|HELP) )?[a-z_]{0,3}[{]?[\\PC\n]{0,40}") {
        metrics(&Vec::new(), &text, 0, 0);
    }
}
