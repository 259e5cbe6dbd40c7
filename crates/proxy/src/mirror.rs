// SPDX-License-Identifier: Apache-2.0
//! Sends copies of requests elsewhere, each once, and forgets the answers. `carry` hands them over when
//! the body of a request is known, and never waits: what can't be sent now is not sent. Bodies larger
//! than what is kept for another try aren't copied.

use crate::race;
use crate::upstream::Upstream;
use crate::worker::Core;
use byrnie_engine::{Copy, Failure};
use byrnie_net::http::{Progress, Wire};
use byrnie_net::runtime;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

/// Copies that one core has under way at once; more are dropped.
const COPIES_MAX: usize = 256;
/// How long a copy may take, its answer included.
const COPY_MAX: Duration = Duration::from_secs(10);
/// What is read of an answer before its connection is given up, in bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Sends a copy, if there's room for one more.
pub(crate) fn send(core: &Rc<Core>, copy: Copy, body: Rc<[u8]>) {
    if core.gauge.mirrored.get() >= COPIES_MAX || core.saves() {
        core.count(|counts| counts.dropped.copies.increment());
        return;
    }
    core.gauge.mirrored.set(core.gauge.mirrored.get() + 1);
    let core = Rc::clone(core);
    runtime::spawn_local("mirror", async move {
        let guard = core.drain().guard();
        let ran = runtime::catch("mirror", one(&core, copy, &body)).await;
        if ran.is_err() {
            core.panicked();
        }
        core.gauge.mirrored.set(core.gauge.mirrored.get() - 1);
        drop(guard);
    });
}

async fn one(core: &Rc<Core>, mut copy: Copy, body: &[u8]) {
    let outcome = runtime::timeout(COPY_MAX, carry(core, &mut copy, body)).await.unwrap_or(Err(Failure::TryTimeout));
    core.with_shard(|shard, now| copy.finish(shard, outcome, now));
}

/// The status of the answer.
async fn carry(core: &Rc<Core>, copy: &mut Copy, body: &[u8]) -> Result<u16, Failure> {
    let head = &mut copy.head;
    let Upstream { mut wire, lease, .. } = race::ask(core, &copy.plan, head, body).await?;
    let status = head.status();
    let (keep, mut seen) = (head.keep_alive() && status != 101, 0);
    while keep && seen <= ANSWER_BYTES_MAX {
        let piece = poll_fn(|cx| {
            wire.poll_body(cx, &mut |_, chunk| {
                seen += chunk.as_slice().len();
                Ok(())
            })
        });
        match piece.await {
            Ok(Progress::More) => {}
            Ok(Progress::End(_)) => {
                if let (Wire::H1(conn), Some(lease)) = (wire, lease) {
                    core.pool.borrow_mut().give(conn, lease, runtime::coarse().mono);
                }
                break;
            }
            // The answer itself has come; its rest is of no use to anybody.
            Err(_) => break,
        }
    }
    Ok(status)
}
