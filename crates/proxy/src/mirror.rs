// SPDX-License-Identifier: Apache-2.0
//! Sends copies of requests elsewhere, each once, and forgets the answers. `carry` hands them over when
//! the body of a request is known, and never waits: what can't be sent now is not sent. Bodies larger
//! than what is kept for another try aren't copied.

use crate::upstream::{self, Upstream};
use crate::worker::Core;
use byrnie_codec::Framing;
use byrnie_codec::h1::Asked;
use byrnie_engine::{Copy, Failure};
use byrnie_net::http::{Answered, Chunk, Error, Progress, Wire};
use byrnie_net::runtime;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::Duration;

/// Copies that one core has under way at once; more are dropped.
const COPIES_MAX: usize = 256;
/// How long a copy may take, its answer included.
const COPY_MAX: Duration = Duration::from_secs(10);
/// What is read of an answer before its connection is given up, in bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Sends a copy, if there's room for one more.
pub(crate) fn send(core: &Rc<Core>, copy: Copy, body: Rc<[u8]>) {
    if core.crowd.mirrored.get() >= COPIES_MAX {
        core.count(|counts| counts.dropped.copies.increment());
        return;
    }
    core.crowd.mirrored.set(core.crowd.mirrored.get() + 1);
    let core = Rc::clone(core);
    runtime::spawn_local("mirror", async move {
        let guard = core.drain().guard();
        let ran = runtime::catch("mirror", one(&core, copy, &body)).await;
        if ran.is_err() {
            core.panicked();
        }
        core.crowd.mirrored.set(core.crowd.mirrored.get() - 1);
        drop(guard);
    });
}

async fn one(core: &Rc<Core>, mut copy: Copy, body: &[u8]) {
    let outcome = runtime::timeout(COPY_MAX, carry(core, &mut copy, body)).await.unwrap_or(Err(Failure::TryTimeout));
    core.with_shard(|shard, now| copy.finish(shard, outcome, now));
}

/// The status of the answer.
async fn carry(core: &Rc<Core>, copy: &mut Copy, body: &[u8]) -> Result<u16, Failure> {
    let Upstream { mut wire, lease } = upstream::open(core, &copy.plan).await?;
    let head = &mut copy.head;
    let framed = !matches!(head.framing(), Framing::None);
    head.set_framing(if framed || !body.is_empty() { Framing::Length(body.len() as u64) } else { Framing::None });
    head.set_keep_alive(true);
    head.set_upgrade(None).map_err(|_| Failure::BadResponse)?;
    let failed = |error: Error| upstream::failure_before_head(&error, true);
    wire.send_request(head).map_err(failed)?;
    let asked = Asked::by(head);
    let mut written = false;
    let status = poll_fn(|cx| {
        if !std::mem::replace(&mut written, true) {
            if !body.is_empty() {
                wire.push(cx, Chunk::Slice(body))?;
            }
            wire.end(None)?;
        }
        if let Poll::Ready(Err(error)) = wire.poll_flush(cx) {
            return Poll::Ready(Err(error));
        }
        loop {
            match ready!(wire.poll_response(cx, asked, head)) {
                Ok(Answered::Final) => return Poll::Ready(Ok(head.status())),
                Ok(Answered::Interim) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    })
    .await
    .map_err(failed)?;
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
