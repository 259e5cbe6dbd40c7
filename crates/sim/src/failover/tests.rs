// SPDX-License-Identifier: Apache-2.0
//! What is promised when endpoints or a whole zone are lost.

use super::*;

const LARGE: Size = Size { services: 1_000, endpoints: 100, rate: 6_000 };
const SMALL: Size = Size { services: 100, endpoints: 9, rate: 5_000 };

/// No GET fails and no POST is sent twice; a fifth more tries at most; and nobody is sent to the lost after a second.
fn check_zone(report: &Report) {
    assert_eq!((report.failed, report.posts_doubled), (0, 0), "{report}");
    assert!(report.tries * 5 <= report.requests * 6, "{report}");
    assert!(report.moved <= Duration::from_secs(1), "{report}");
}

#[test]
fn a_zone_that_is_lost_costs_a_large_mesh_no_request_and_is_left_within_a_second() {
    check_zone(&run(1, LARGE, Loss::Zone, Way::Silent));
}

#[test]
fn a_zone_that_is_lost_costs_no_request_however_it_is_lost() {
    for seed in 0..3 {
        for way in [Way::Killed, Way::Silent] {
            check_zone(&run(seed, SMALL, Loss::Zone, way));
        }
    }
}

#[test]
fn a_third_of_each_service_is_killed_at_once_and_no_request_is_lost() {
    for seed in 0..3 {
        let report = run(seed, SMALL, Loss::Third, Way::Killed);
        assert_eq!((report.failed, report.posts_doubled), (0, 0), "{report}");
        assert!(report.tries * 5 <= report.requests * 6, "{report}");
    }
}

#[test]
fn a_third_of_each_service_falls_silent_at_once_and_no_request_is_lost() {
    // To each endpoint as many as in a mesh ten times as large with 10,000 a second.
    let wide = Size { services: 100, endpoints: 100, rate: 1_000 };
    for (seed, size) in (0..4).map(|seed| (seed, wide)).chain((0..3).map(|seed| (seed, SMALL))) {
        let report = run(seed, size, Loss::Third, Way::Silent);
        assert_eq!((report.failed, report.posts_doubled), (0, 0), "{report}");
        assert!(report.tries * 5 <= report.requests * 6, "{report}");
    }
}

#[test]
fn a_seed_is_a_run_here_too() {
    let one = || run(7, Size { services: 5, ..SMALL }, Loss::Third, Way::Silent);
    assert_eq!(one(), one());
}
