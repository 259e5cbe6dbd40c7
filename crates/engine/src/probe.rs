// SPDX-License-Identifier: Apache-2.0
//! Judges programs by what checks of them find. The proxy of each instance checks its own, and the registry tells
//! all callers: their number doesn't multiply the checks, as it does where every caller's proxy asks every
//! endpoint (Envoy's active health checking, whose thresholds these are). The addresses of slices and hosts outside have no proxy
//! beside them: each proxy by which calls leave the mesh checks them, as it alone asks them, and there are few.

use crate::Member;
use crate::program::Security;
use crate::watch::Health;
use byrnie_base::Text;
use byrnie_model::Protocol;
use byrnie_model::policy::HealthCheck;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Time between checks of a program that has never done well: one that just starts is waited for.
const START_INTERVAL: Duration = Duration::from_millis(250);

/// What is to be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Where the program listens.
    pub address: SocketAddr,
    /// What it speaks there.
    pub protocol: Protocol,
    /// How connections there are protected.
    pub security: Security,
    /// By which name it is asked, if not by its address.
    pub authority: Option<Text>,
    /// How it is asked.
    pub check: HealthCheck,
}

/// An address of slices, or of a host outside, that is to be checked.
#[derive(Clone, Debug)]
pub struct Checked {
    /// How.
    pub probe: Probe,
    pub(crate) judged: Judged,
}

/// Who is judged by a check.
#[derive(Clone, Debug)]
pub(crate) enum Judged {
    /// The endpoints at an address: one for each port.
    Members(Vec<Arc<Member>>),
    /// One of the addresses of a host, and the endpoints there.
    Host(Arc<Health>, IpAddr, Vec<Arc<Member>>),
}

impl Checked {
    /// What is thought of it, for every core of the process.
    pub fn judge(&self, well: bool) {
        let members = match &self.judged {
            Judged::Members(members) => members,
            Judged::Host(health, ip, members) => {
                health.judge(*ip, well);
                members
            }
        };
        members.iter().for_each(|member| member.load.judge(well));
    }
}

/// What is known of a program by its checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulse {
    well: Option<bool>,
    /// It has done well at least once: from then on a change of mind takes its threshold.
    proven: bool,
    /// Results in a row that speak against `well`.
    against: u8,
}

impl Pulse {
    /// Takes in a result. The first one counts at once, and so does the first success.
    pub fn take(&mut self, check: &HealthCheck, well: bool) {
        let threshold = if well { check.well_after } else { check.sick_after };
        self.against = if self.well == Some(well) { 0 } else { self.against.saturating_add(1) };
        if !self.proven || self.against >= threshold {
            (self.well, self.against) = (Some(well), 0);
        }
        self.proven |= well;
    }

    /// Whether the program may be sent requests; one that was never checked may.
    pub fn is_well(&self) -> bool {
        self.well.unwrap_or(true)
    }

    /// Time to the next check.
    pub fn pause(&self, check: &HealthCheck) -> Duration {
        if self.proven { check.interval } else { check.interval.min(START_INTERVAL) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use byrnie_model::policy::health::Check;

    const CHECK: HealthCheck = HealthCheck {
        how: Check::Tcp,
        port: None,
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(1),
        sick_after: 3,
        well_after: 2,
    };

    /// What is thought after each result: `+` and `-` are results, in capitals of `W`ell and `S`ick thoughts.
    fn thoughts(results: &str) -> String {
        let mut pulse = Pulse::default();
        let mut think = |result| {
            pulse.take(&CHECK, result == '+');
            if pulse.is_well() { 'W' } else { 'S' }
        };
        results.chars().map(&mut think).collect()
    }

    #[test]
    fn a_change_of_mind_takes_its_threshold_in_a_row() {
        for (results, thought) in [
            ("++++", "WWWW"),
            ("+--+---+", "WWWWWWSS"),
            ("+---+-++", "WWWSSSSW"),
            // A program that just starts: sick at once, and well at once.
            ("---+", "SSSW"),
            ("-+--", "SWWW"),
        ] {
            assert_eq!(thoughts(results), thought, "{results}");
        }
    }

    #[test]
    fn one_that_has_never_done_well_is_asked_soon_again() {
        let mut pulse = Pulse::default();
        assert!(pulse.is_well(), "nothing is known against it");
        assert_eq!(pulse.pause(&CHECK), START_INTERVAL);
        pulse.take(&CHECK, false);
        assert_eq!(pulse.pause(&CHECK), START_INTERVAL);
        pulse.take(&CHECK, true);
        assert_eq!(pulse.pause(&CHECK), CHECK.interval);
        let hasty = HealthCheck { interval: Duration::from_millis(100), ..CHECK };
        assert_eq!(Pulse::default().pause(&hasty), hasty.interval);
    }
}
