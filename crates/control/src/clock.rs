// SPDX-License-Identifier: Apache-2.0
//! Says so when the machine's clock was set, or the machine slept. Certificates and leases go on by themselves;
//! but who looks at times then should know.

use byrnie_base::Now;
use byrnie_model::code::CLOCK_JUMP;
use byrnie_net::runtime;
use std::time::Duration;

/// How often the clock is looked at.
const PERIOD: Duration = Duration::from_secs(1);
/// What the clock must be off by within one period to be spoken of: time services that correct slowly stay below.
const JUMP_MIN: Duration = Duration::from_secs(5);

/// Looks at the clock for as long as the control plane runs.
pub(crate) async fn watch() {
    let mut before = runtime::now();
    loop {
        runtime::sleep(PERIOD).await;
        let now = runtime::now();
        if let Some((way, span)) = jump(before, now) {
            let seconds = span.as_secs();
            tracing::warn!(
                code = CLOCK_JUMP.id,
                seconds,
                way,
                "{}. {} {}",
                CLOCK_JUMP.title,
                CLOCK_JUMP.effect,
                CLOCK_JUMP.next
            );
        }
        before = now;
    }
}

/// Which way the clock was set between two looks, and how far.
fn jump(before: Now, now: Now) -> Option<(&'static str, Duration)> {
    let passed = i128::try_from(now.mono.since(before.mono).as_millis()).ok()?;
    let shown = i128::from(now.wall.as_millis()) - i128::from(before.wall.as_millis());
    let off = shown - passed;
    let span = Duration::from_millis(u64::try_from(off.unsigned_abs()).unwrap_or(u64::MAX));
    (span >= JUMP_MIN).then_some((if off < 0 { "back" } else { "forward" }, span))
}

#[cfg(test)]
mod tests {
    use super::*;
    use byrnie_base::{Instant, Timestamp};

    #[test]
    fn only_a_clock_that_was_set_is_spoken_of() {
        let at = |mono: u64, wall: u64| Now {
            mono: Instant::default() + Duration::from_millis(mono),
            wall: Timestamp::from_millis(wall),
        };
        let day = 86_400_000_u64;
        for (passed, shown, told) in [
            (1_000, 1_000, None),
            // A machine that is too busy to look.
            (60_000, 60_000, None),
            // A time service at work.
            (1_000, 1_400, None),
            (1_000, 3_601_000, Some(("forward", 3_600))),
            (1_000, -3_599_000, Some(("back", 3_600))),
        ] {
            let now = at(5_000 + passed, day.saturating_add_signed(shown));
            let heard = jump(at(5_000, day), now).map(|(way, span)| (way, span.as_secs()));
            assert_eq!(heard, told, "{passed} ms passed, {shown} ms shown");
        }
    }
}
