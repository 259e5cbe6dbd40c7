// SPDX-License-Identifier: Apache-2.0
//! What a request may say of retries.

use super::*;
use serde_json::json;

#[test]
fn nobody_is_hammered_on_and_no_number_means_something_else() {
    let read = |retry: Value| {
        let body = json!({"branches": [{"name": "a", "action": "POST shop/do", "compensate": "none", "retry": retry}]});
        read(Mode::Saga, false, body.to_string().as_bytes(), &Caller::Operator, Timestamp::default())
    };
    for (retry, named) in [
        (json!({"attempts": 0}), "retry.attempts"),
        (json!({"for_ms": 0}), "retry.for_ms"),
        (json!({"for_ms": u64::MAX}), "retry.for_ms"),
        (json!({"first_ms": 0}), "retry.first_ms"),
        (json!({"first_ms": u64::MAX}), "retry.first_ms"),
        (json!({"cap_ms": 1}), "`retry.cap_ms` is 1; it is 100 to"),
        (json!({"cap_ms": u64::MAX}), "retry.cap_ms"),
        (json!({"timeout_ms": 0}), "retry.timeout_ms"),
    ] {
        let refused = read(retry.clone()).unwrap_err();
        assert!(refused.status == 400 && refused.detail.contains(named), "{retry}: {}", refused.detail);
    }
    let (_, spec) = read(json!({"attempts": 1, "for_ms": 1, "first_ms": 1, "cap_ms": 100})).unwrap();
    let retry = spec.branches[0].retry;
    assert_eq!((retry.attempts, retry.for_ms, retry.first_ms, retry.cap_ms), (1, 1, 1, 100));
}
