// SPDX-License-Identifier: Apache-2.0
//! Bad sagas.

use super::check_bad;

fn check(spec: &str, code: &str, place: &str) {
    let head = "apiVersion: mesh.byrnie.dev/v1alpha1\nkind: Saga\nmetadata: {name: a}\nspec:";
    check_bad(&format!("{head} {{{spec}}}"), code, place);
}

#[test]
fn sagas() {
    let step = |more: &str| format!("steps: [{{name: a, call: POST x/y, undo: POST x/z}}, {{name: b, {more}}}]");
    for (spec, code, place) in [
        ("deadline: 1s".to_owned(), "C005", "spec"),
        ("steps: []".to_owned(), "C011", "steps"),
        ("steps: [{name: a}]".to_owned(), "C005", "{"),
        ("deadline: 0s, steps: [{name: a, call: GET x/y}]".to_owned(), "C011", "0s"),
        ("deadline: 9000h, steps: [{name: a, call: GET x/y}]".to_owned(), "C011", "9000h"),
        ("rejected: [500], steps: [{name: a, call: GET x/y}]".to_owned(), "C011", "rejected"),
        ("key: a.id, steps: [{name: a, call: GET x/y}]".to_owned(), "C056", "a.id"),
        ("key: '1 +', steps: [{name: a, call: GET x/y}]".to_owned(), "C056", "'1 +'"),
        (step("call: x/y"), "C011", "x/y"),
        (step("call: HEAD x/y"), "C011", "HEAD x/y"),
        (step("call: 'POST http://x/y'"), "C011", "'POST http://x/y'"),
        (step("call: 'POST x:0/y'"), "C011", "'POST x:0/y'"),
        (step("call: POST X/y"), "C011", "POST X/y"),
        (step("call: POST x/y z"), "C011", "POST x/y z"),
        (step("call: POST x/../y"), "C011", "POST x/../y"),
        (step("call: 'POST x/{y'"), "C056", "'POST x/{y'"),
        (step("call: 'POST x/{c.id}'"), "C056", "'POST x/{c.id}'"),
        // What a step answers is known to its undo, not to itself, nor to one beside it.
        (step("call: 'POST x/{b.id}'"), "C056", "'POST x/{b.id}'"),
        (step("after: [], call: 'POST x/{a.id}'"), "C056", "'POST x/{a.id}'"),
        (step("call: POST x/y, body: 'input.map(i, i)'"), "C056", "'input.map(i, i)'"),
        (step("call: POST x/y, after: [c]"), "C011", "c"),
        (step("call: POST x/y, after: [b]"), "C011", "b"),
        (step("call: POST x/y, undoBody: input.x"), "C028", "input.x"),
        (step("call: POST x/y, undo: none, undoBody: input.x"), "C028", "input.x"),
        (step("call: POST x/y, retry: {for: 400d}"), "C011", "400d"),
        (step("call: POST x/y, retry: {backoff: 1s}"), "C011", "1s"),
        (step("call: POST x/y, retry: {backoff: 2s..1s}"), "C011", "2s..1s"),
        (step("call: POST x/y, retry: {timeout: 1h}"), "C011", "1h"),
        (step("call: POST x/y, compensate: POST x/z"), "C002", "compensate"),
        (step("call: POST x/y").replace("name: b", "name: a"), "C028", "a"),
        (step("call: POST x/y").replace("name: b", "name: input"), "C011", "input"),
        (step("call: POST x/y").replace("name: b", "name: 'a b'"), "C011", "'a b'"),
        // A step is a call or a saga, and not both.
        (step("saga: A b"), "C011", "A b"),
        (step("saga: x/y/z"), "C011", "x/y/z"),
        (step("saga: s, call: POST x/y"), "C028", "POST x/y"),
        (step("saga: s, body: input.x"), "C028", "input.x"),
        (step("saga: s, undo: POST x/y"), "C028", "POST x/y"),
        (step("saga: s, retry: {attempts: 1}"), "C028", "retry"),
        (step("saga: s, input: c.id"), "C056", "c.id"),
        (step("call: POST x/y, input: input.x"), "C028", "input.x"),
        // No way back, two points of no return, and one whose place isn't clear.
        (step("call: POST x/y").replace(", undo: POST x/z", ""), "C028", "a"),
        (step("call: POST x/y, pivot: true").replace("undo", "pivot: true, undo"), "C028", "true"),
        (step("call: POST x/y, pivot: true, after: []"), "C028", "a"),
    ] {
        check(&spec, code, place);
    }
}
