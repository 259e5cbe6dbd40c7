// SPDX-License-Identifier: Apache-2.0
//! How long to wait before a call is made again.

use crate::transaction::Retry;
use std::time::Duration;

/// Doublings after which a pause no longer grows, whatever its cap.
const DOUBLINGS_MAX: u32 = 20;

/// The pause after the `failures`th failure in a row: anything between nothing and a bound that doubles up
/// to the cap ("full jitter", M. Brooker, "Exponential Backoff And Jitter", 2015). `roll` is evenly
/// distributed.
pub fn backoff(retry: &Retry, failures: u32, roll: u64) -> Duration {
    let doublings = failures.saturating_sub(1).min(DOUBLINGS_MAX);
    let bound = retry.first_ms.max(1).saturating_mul(1 << doublings).min(retry.cap_ms.max(1));
    let part = (u128::from(roll) * (u128::from(bound) + 1)) >> 64;
    Duration::from_millis(u64::try_from(part).unwrap_or(bound))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_grows_up_to_its_cap_and_is_spread_over_all_of_it() {
        let retry = Retry { first_ms: 100, cap_ms: 1_000, ..Retry::default() };
        let longest: Vec<u128> = (1..8).map(|n| backoff(&retry, n, u64::MAX).as_millis()).collect();
        assert_eq!(longest, [100, 200, 400, 800, 1_000, 1_000, 1_000]);
        assert_eq!(backoff(&retry, 5, 0), Duration::ZERO);
        assert_eq!(backoff(&retry, 5, u64::MAX / 2).as_millis(), 500);
        assert_eq!(backoff(&retry, u32::MAX, u64::MAX).as_millis(), 1_000, "no overflow after years");
    }
}
