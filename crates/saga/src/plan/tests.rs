// SPDX-License-Identifier: Apache-2.0
//! Plans that can be followed, and those that can't.

use super::*;
use crate::transaction::{Call, Target};
use byrnie_base::Timestamp;

fn branch(name: &str, after: &[u16]) -> Branch {
    let target = Target { method: "POST".into(), authority: "a.b".into(), path: "/".into(), raw: false };
    let call = Call { target, body: None, kind: "application/json".into(), headers: Vec::new(), late: None };
    Branch {
        name: name.into(),
        after: after.to_vec(),
        action: Some(call.clone()),
        undo: Some(call),
        ..Branch::default()
    }
}

fn last(name: &str, after: &[u16]) -> Branch {
    Branch { undo: None, ..branch(name, after) }
}

fn pivot(name: &str, after: &[u16]) -> Branch {
    Branch { pivot: true, ..last(name, after) }
}

fn judged(branches: Vec<Branch>) -> String {
    let spec = Spec {
        mode: Mode::Saga,
        creator: "".into(),
        created: Timestamp::default(),
        deadline: None,
        open: false,
        check: None,
        branches,
        rules: crate::Rules::default(),
        definition: "".into(),
        input: None,
        fingerprint: "".into(),
        parent: None,
    };
    match check(&spec).and_then(|()| check_way_back(&spec)) {
        Ok(()) => "fine".to_owned(),
        Err(error) => error.to_string().split([';', ',']).next().unwrap_or_default().to_owned(),
    }
}

#[test]
fn plans_are_judged() {
    let cases = [
        ("fine", vec![branch("a", &[]), branch("b", &[0])]),
        ("fine", vec![branch("b", &[1]), branch("a", &[])]),
        ("fine", vec![branch("a", &[]), branch("b", &[]), pivot("c", &[0, 1]), last("d", &[2])]),
        ("fine", vec![branch("a", &[]), last("b", &[0])]),
        ("fine", vec![Branch { free: true, ..last("a", &[]) }, branch("b", &[0])]),
        ("it has no branch", vec![]),
        ("it has 257 branches", (0..257).map(|n| branch(&format!("b{n}"), &[])).collect()),
        ("branch \"\": a name is 1 to 63 letters", vec![branch("", &[])]),
        ("branch \"a/b\": a name is 1 to 63 letters", vec![branch("a/b", &[])]),
        ("two branches are called a", vec![branch("a", &[]), branch("a", &[])]),
        ("branch a comes after a branch that does not exist", vec![branch("a", &[7])]),
        ("branch a waits for itself", vec![branch("a", &[0])]),
        ("branch a waits for itself", vec![branch("a", &[1]), branch("b", &[0])]),
        ("branch a has nothing to call", vec![Branch { action: None, ..last("a", &[]) }]),
        ("branches a and b are both pivots", vec![pivot("a", &[]), pivot("b", &[0])]),
        ("branch a may run beside the pivot b", vec![branch("a", &[]), pivot("b", &[])]),
        ("branch a has no compensation", vec![last("a", &[]), branch("b", &[0])]),
        ("branch b has no compensation", vec![branch("a", &[]), last("b", &[])]),
    ];
    for (expected, branches) in cases {
        assert_eq!(judged(branches), expected);
    }
}
