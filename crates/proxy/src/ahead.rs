// SPDX-License-Identifier: Apache-2.0
//! Opens connections ahead of requests, as the engine says for whom there should be one. Called by `worker` when the
//! configuration has changed and twice a second: whatever closed a connection, the next one isn't opened by a request.

use crate::upstream;
use crate::worker::Core;
use byrnie_net::runtime;
use std::rc::Rc;
use std::time::Duration;

/// Connections opened each time it's looked at. All that are opened at once are few more, as none takes long.
const OPENED_MAX: usize = 32;
/// A connection whose peer's certificate ends within this time is followed by another.
const RENEW_BEFORE: Duration = Duration::from_secs(30);

impl Core {
    /// Opens what is missing.
    pub(crate) fn look_ahead(self: &Rc<Self>) {
        if self.saves() || self.drain().is_draining() {
            return;
        }
        let snapshot = self.snapshot();
        let until = runtime::coarse().wall + RENEW_BEFORE;
        let hops = self.with_shard(|shard, now| shard.ahead(&snapshot, now.mono));
        let missing = hops.into_iter().filter(|hop| !upstream::lasts(self, hop, until));
        let plans = missing.filter_map(|hop| {
            let ends = upstream::stands(self, &hop);
            let plan = self.with_shard(|shard, now| shard.missing(&hop, ends, now.mono))?;
            Some((hop, plan))
        });
        for (hop, plan) in plans.take(OPENED_MAX) {
            let core = Rc::clone(self);
            runtime::spawn_local("ahead", async move {
                runtime::sleep(plan.delay).await;
                if upstream::open_ahead(&core, &plan, until).await {
                    core.with_shard(|shard, _| shard.joined(&hop));
                }
            });
        }
    }
}
