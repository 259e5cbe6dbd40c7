// SPDX-License-Identifier: Apache-2.0
//! The protocol table: what each answer means, one case a line. None may be misjudged.

use super::*;

/// A row: mode and op (a poll is the question what became of an action), who answers, status, the mesh's word on the key, location, body, and the meaning.
type Row = (&'static str, &'static str, u16, &'static str, &'static str, &'static str, &'static str);

const NATIVE: &[Row] = &[
    // 2xx is done, whatever the body says (fault i, ii).
    ("saga action", "app", 200, "", "", "", "done"),
    ("saga action", "app", 200, "", "", "FAILURE", "done"),
    ("saga action", "app", 200, "", "", "ONGOING", "done"),
    ("saga action", "app", 200, "", "", "{\"note\":\"no FAILURE, nothing ONGOING\"}", "done"),
    ("saga action", "app", 200, "", "", "{\"dtm_result\":\"FAILURE\"}", "done"),
    ("saga action", "app", 201, "", "", "", "done"),
    ("saga action", "app", 201, "", "/orders/7", "", "done"),
    ("saga action", "app", 202, "", "", "", "done"),
    ("saga action", "app", 203, "", "", "", "done"),
    ("saga action", "app", 204, "", "", "", "done"),
    ("saga action", "app", 205, "", "", "", "done"),
    ("saga action", "app", 206, "", "", "", "done"),
    ("saga action", "app", 207, "", "", "", "done"),
    ("saga action", "app", 208, "", "", "", "done"),
    ("saga action", "app", 202, "", "/jobs/1", "", "ongoing /jobs/1"),
    ("saga action", "app", 425, "", "", "", "ongoing"),
    ("saga action", "app", 425, "", "/jobs/1", "", "ongoing /jobs/1"),
    // The mesh's word on the key comes before the status.
    ("saga action", "mesh", 409, "in-flight", "", "", "ongoing"),
    ("saga action", "mesh", 425, "in-flight", "", "", "ongoing"),
    ("saga action", "mesh", 409, "ambiguous", "", "", "ambiguous"),
    ("saga action", "mesh", 503, "ambiguous", "", "", "unknown"),
    ("saga action", "app", 500, "ambiguous", "", "", "unknown"),
    ("saga undo", "mesh", 409, "ambiguous", "", "", "ambiguous"),
    // A poll is done once its answer isn't that it is still at it.
    ("saga poll", "app", 202, "", "", "still at it", "ongoing"),
    ("saga poll", "app", 202, "", "/jobs/2", "", "ongoing /jobs/2"),
    ("saga poll", "app", 202, "", "http://other/jobs/2", "", "ongoing"),
    ("saga poll", "app", 200, "", "", "", "done"),
    ("saga poll", "app", 201, "", "", "", "done"),
    ("saga poll", "app", 409, "", "", "", "rejected"),
    // Where nobody can be asked, it isn't done for that.
    ("saga action", "app", 202, "", "http://other/jobs/1", "", "stuck at once"),
    ("scope undo", "app", 202, "", "http://other/jobs/1", "", "stuck at once"),
    ("saga action", "mesh", 200, "replayed", "", "ok", "done"),
    ("saga action", "mesh", 409, "replayed", "", "declined", "stuck"),
    ("saga action", "app", 409, "replayed", "", "declined", "rejected"),
    // Business reasons.
    ("saga action", "app", 409, "", "", "declined", "rejected"),
    ("saga action", "app", 422, "", "", "no stock", "rejected"),
    ("saga undo", "app", 409, "", "", "", "rejected"),
    ("tcc action", "app", 409, "", "", "", "rejected"),
    // Never a refund for a fault of deployment.
    ("saga action", "app", 400, "", "", "", "stuck"),
    ("saga action", "app", 401, "", "", "", "stuck"),
    ("saga action", "app", 403, "", "", "", "stuck"),
    ("saga action", "app", 404, "", "", "", "stuck"),
    ("saga action", "app", 405, "", "", "", "stuck"),
    ("saga action", "app", 410, "", "", "", "stuck"),
    ("saga action", "app", 415, "", "", "", "stuck"),
    ("saga action", "app", 301, "", "/x", "", "stuck"),
    ("saga action", "mesh", 403, "", "", "", "stuck"),
    ("saga action", "mesh", 404, "", "", "", "stuck"),
    ("saga action", "mesh", 409, "", "", "", "stuck"),
    ("saga action", "mesh", 422, "", "", "", "stuck"),
    // Nobody knows.
    ("saga action", "app", 408, "", "", "", "unknown"),
    ("saga action", "app", 429, "", "", "", "unknown"),
    ("saga action", "app", 500, "", "", "", "unknown"),
    ("saga action", "app", 500, "", "", "FAILURE", "unknown"),
    ("saga action", "app", 502, "", "", "", "unknown"),
    ("saga action", "app", 503, "", "", "", "unknown"),
    ("saga action", "app", 504, "", "", "", "unknown"),
    ("saga action", "mesh", 503, "", "", "", "unknown"),
    ("saga action", "mesh", 429, "", "", "", "unknown"),
    ("saga action", "none", 0, "", "", "reset", "unknown"),
    ("message check", "app", 200, "", "", "", "done"),
    ("message check", "app", 409, "", "", "", "rejected"),
    ("message check", "app", 425, "", "", "", "ongoing"),
    ("message check", "app", 500, "", "", "", "unknown"),
    // LRA: 202 in progress, 409 never, 410 done and forgotten.
    ("scope undo", "app", 202, "", "", "", "ongoing"),
    ("scope confirm", "app", 202, "", "/status", "", "ongoing /status"),
    ("scope undo", "app", 409, "", "", "", "rejected"),
    ("scope undo", "app", 410, "", "", "", "done"),
    ("scope undo", "mesh", 410, "", "", "", "stuck"),
];

const DTM: &[Row] = &[
    ("saga action", "app", 200, "", "", "FAILURE", "done"),
    ("saga action", "app", 200, "", "", "\"ONGOING\"", "done"),
    ("saga action", "app", 201, "", "", "", "done"),
    ("saga action", "app", 204, "", "", "", "done"),
    ("saga action", "app", 409, "", "", "", "rejected"),
    ("saga action", "app", 425, "", "", "", "ongoing"),
    ("saga action", "app", 202, "", "http://other/jobs/1", "", "unknown"),
    ("saga poll", "app", 202, "", "", "", "ongoing"),
    ("saga action", "app", 400, "", "", "", "unknown"),
    ("saga action", "app", 404, "", "", "", "unknown"),
    ("saga action", "app", 422, "", "", "", "unknown"),
    ("saga action", "app", 500, "", "", "", "unknown"),
    ("saga action", "mesh", 403, "", "", "", "stuck"),
];

fn check(rules: &Rules, row: &Row) {
    let (what, who, status, ledger, location, body, expected) = *row;
    let text = |text: &str| Some(Text::from(text)).filter(|text| !text.is_empty());
    let (mode, op) = what.split_once(' ').unwrap();
    let op = match op {
        "action" | "poll" => Op::Action,
        "confirm" => Op::Confirm,
        "undo" => Op::Undo,
        _ => Op::Check,
    };
    let seen = Seen {
        status: (who != "none").then_some(status),
        ledger: text(ledger),
        mesh: who == "mesh",
        retry_after: None,
        location: text(location).filter(|place| place.starts_with('/')),
        elsewhere: text(location).filter(|place| !place.starts_with('/')),
        poll: what.ends_with(" poll"),
        body: body.into(),
    };
    let meaning = match judge(Mode::from_word(mode).unwrap(), op, rules, &seen) {
        Outcome::Done { .. } => "done".to_owned(),
        Outcome::Rejected { .. } => "rejected".to_owned(),
        Outcome::Ongoing { location: Some(place), .. } => format!("ongoing {place}"),
        Outcome::Ongoing { .. } => "ongoing".to_owned(),
        Outcome::Unknown { .. } => "unknown".to_owned(),
        Outcome::Ambiguous { .. } => "ambiguous".to_owned(),
        Outcome::Elsewhere { .. } => "stuck at once".to_owned(),
        Outcome::Misdirected { .. } => "stuck".to_owned(),
    };
    assert_eq!(meaning, expected, "{row:?}");
}

#[test]
fn no_answer_is_misjudged() {
    let dtm = Rules { rejected: vec![409], patient: true, undo_rejected: true, dtm: true };
    NATIVE.iter().for_each(|row| check(&Rules::default(), row));
    DTM.iter().for_each(|row| check(&dtm, row));
    assert!(NATIVE.len() + DTM.len() >= 60);
}

#[test]
fn a_reason_is_short_and_on_one_line() {
    let seen = Seen { status: Some(409), body: format!("a\nb{}", "ä".repeat(2_000)).into(), ..Seen::default() };
    let Outcome::Rejected { reason } = judge(Mode::Saga, Op::Action, &Rules::default(), &seen) else { panic!() };
    assert!(reason.starts_with("409 a b") && reason.len() < REASON_BYTES_MAX + 8, "{reason}");
}

#[test]
fn who_may_know_more_later_is_asked_later() {
    let ledger = || Some("ambiguous".into());
    let seen = |retry_after| Seen { status: Some(409), ledger: ledger(), mesh: true, retry_after, ..Seen::default() };
    let meaning = |seen: Seen| judge(Mode::Saga, Op::Action, &Rules::default(), &seen);
    let after = Some(Duration::from_secs(5));
    assert_eq!(meaning(seen(after)), Outcome::Unknown { reason: "409".into(), after, over: false });
    let Outcome::Ambiguous { reason } = meaning(seen(None)) else { panic!() };
    assert_eq!(&*reason, "nobody knows whether it was done, and it is not done again: 409");
}

#[test]
fn grpc_says_by_two_codes_what_dtm_means() {
    let dtm = Rules { rejected: vec![409], patient: true, undo_rejected: true, dtm: true };
    let meaning = |code: u8, mesh: bool| {
        let seen = Seen { status: Some(status_of_grpc(code)), mesh, ..Seen::default() };
        judge(Mode::Saga, Op::Action, &dtm, &seen)
    };
    for code in 0..=u8::MAX {
        let app = meaning(code, false);
        match code {
            0 => assert!(matches!(app, Outcome::Done { .. })),
            9 => assert!(matches!(app, Outcome::Ongoing { .. })),
            10 => assert!(matches!(app, Outcome::Rejected { .. })),
            _ => assert!(matches!(app, Outcome::Unknown { .. }), "{code}: {app:?}"),
        }
    }
    // The mesh refuses for ever by policy or for want of a route, and for a while for want of an endpoint.
    assert!(matches!(meaning(7, true), Outcome::Misdirected { .. }));
    assert!(matches!(meaning(12, true), Outcome::Misdirected { .. }));
    assert!(matches!(meaning(14, true), Outcome::Unknown { .. }));
}
