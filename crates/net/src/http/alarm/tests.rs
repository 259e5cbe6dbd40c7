// SPDX-License-Identifier: Apache-2.0
use super::Alarm;
use crate::runtime;
use std::future::poll_fn;
use std::time::Duration;

#[test]
fn goes_off_when_due_and_in_order() {
    runtime::block_on(async {
        let (mut late, mut soon) = (Alarm::new(), Alarm::new());
        late.after(Duration::from_millis(60));
        soon.after(Duration::from_millis(20));
        let first = poll_fn(|cx| {
            if soon.poll(cx).is_ready() {
                return std::task::Poll::Ready("soon");
            }
            late.poll(cx).map(|()| "late")
        })
        .await;
        assert_eq!(first, "soon");
        soon.set(None);
        poll_fn(|cx| late.poll(cx)).await;
    })
    .unwrap();
}

#[test]
fn a_later_time_replaces_a_sooner_one() {
    runtime::block_on(async {
        let mut alarm = Alarm::new();
        let begin = runtime::now().mono;
        alarm.after(Duration::from_millis(10));
        alarm.after(Duration::from_millis(80));
        poll_fn(|cx| alarm.poll(cx)).await;
        assert!(runtime::now().mono.since(begin) >= Duration::from_millis(70));
    })
    .unwrap();
}
