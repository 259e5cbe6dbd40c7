// SPDX-License-Identifier: Apache-2.0
//! Asks the control plane's coordinator for the cores to write down a part of a transaction. What gets no answer in time is given
//! up; its core then forwards nothing.

use super::link::Link;
use byrnie_base::Instant;
use byrnie_net::grpc::Status;
use byrnie_net::runtime;
use byrnie_xds::ENLIST_PATH;
use byrnie_xds::proto::Message;
use byrnie_xds::proto::byrnie::v1 as wire;
use byrnie_xds::proto::byrnie::v1::enlist_response::What;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Questions that may wait; a core that finds no room is answered at once that nobody can be asked.
const WAITING_MAX: usize = 4096;
/// Calls under way at once: what they write shares its durable steps at the coordinator.
const CALLS_MAX: usize = 64;
/// Pause before a call is tried again.
const PAUSE: Duration = Duration::from_millis(50);

/// What a core asks, and until when it waits.
#[derive(Debug)]
struct Question {
    request: wire::EnlistRequest,
    deadline: Instant,
    reply: oneshot::Sender<What>,
}

/// Where cores ask.
#[derive(Clone, Debug)]
pub(crate) struct Enlistments(mpsc::Sender<Question>);

/// What cores ask.
pub(crate) struct Wanted(mpsc::Receiver<Question>);

/// Both ends.
pub(crate) fn enlistments() -> (Enlistments, Wanted) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    (Enlistments(sender), Wanted(receiver))
}

impl Enlistments {
    /// The coordinator's answer, or `None` if there is none within `patience`. Its node is written by the agent.
    pub(crate) async fn ask(&self, request: wire::EnlistRequest, patience: Duration) -> Option<What> {
        let (reply, answer) = oneshot::channel();
        let deadline = runtime::now().mono + patience;
        self.0.try_send(Question { request, deadline, reply }).ok()?;
        runtime::timeout(patience, answer).await.ok()?.ok()
    }
}

/// Carries questions for as long as the proxy runs. `node` is who asks.
pub(super) async fn run(mut wanted: Wanted, node: Arc<str>, link: Rc<Link>) {
    let calls = Arc::new(Semaphore::new(CALLS_MAX));
    while let Some(mut question) = wanted.0.recv().await {
        let Ok(permit) = Arc::clone(&calls).acquire_owned().await else { return };
        let link = Rc::clone(&link);
        question.request.node = node.to_string();
        runtime::spawn_local("enlist", async move {
            call(question, &link).await;
            drop(permit);
        });
    }
}

/// One question, tried until it is answered or nobody waits any more. To ask twice is harmless.
async fn call(question: Question, link: &Link) {
    let Question { request, deadline, reply } = question;
    loop {
        let left = deadline.since(runtime::now().mono);
        if left.is_zero() || reply.is_closed() {
            return;
        }
        match runtime::timeout(left, attempt(&request, link)).await {
            Ok(Ok(what)) => {
                // A core that has given up doesn't need it.
                let _ = reply.send(what);
                return;
            }
            Ok(Err(Some(status))) if super::ledger::is_final(&status) => {
                let message = status.message();
                tracing::warn!(status = ?status.code(), message, "the coordinator refuses to be asked");
                return;
            }
            Ok(Err(_)) => runtime::sleep(PAUSE).await,
            Err(_) => return,
        }
    }
}

async fn attempt(request: &wire::EnlistRequest, link: &Link) -> Result<What, Option<Status>> {
    let channel = link.channel().await.map_err(|_| None)?;
    let answer = channel.unary(ENLIST_PATH, request.encode_to_vec().into()).await.map_err(Some)?;
    wire::EnlistResponse::decode(&*answer).ok().and_then(|answer| answer.what).ok_or(None)
}
