// SPDX-License-Identifier: Apache-2.0
//! Asks the control plane's ledger for the cores: what waits goes in one call, so that many keyed
//! requests share one durable step there. An inquiry that gets no answer in time is given up; its core then
//! lets nothing through.

use super::link::Link;
use byrnie_base::Instant;
use byrnie_net::grpc::Status;
use byrnie_net::runtime;
use byrnie_xds::LEDGER_PATH;
use byrnie_xds::proto::Message;
use byrnie_xds::proto::byrnie::v1 as wire;
use byrnie_xds::proto::byrnie::v1::{ledger_answer, ledger_ask, ledger_finish};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Inquiries that may wait; a core that finds no room is answered at once that nobody can be asked.
const WAITING_MAX: usize = 4096;
/// Inquiries in one call.
const CALL_MAX: usize = 256;
/// Bytes of answers in one call, beyond the first.
const CALL_BYTES_MAX: usize = 1024 * 1024;
/// Calls under way at once.
const CALLS_MAX: usize = 4;
/// Pause before a call is tried again.
const PAUSE: Duration = Duration::from_millis(50);
/// How long it is tried to take back a claim whose answer was lost: nothing was forwarded under it.
const TAKE_BACK_MAX: Duration = Duration::from_secs(30);

/// What a core asks, and until when it waits.
#[derive(Debug)]
struct Inquiry {
    ask: wire::LedgerAsk,
    deadline: Instant,
    reply: oneshot::Sender<ledger_answer::What>,
}

/// Where cores ask.
#[derive(Clone, Debug)]
pub(crate) struct Inquiries(mpsc::Sender<Inquiry>);

/// What cores ask.
pub(crate) struct Asked(mpsc::Receiver<Inquiry>);

/// Both ends.
pub(crate) fn inquiries() -> (Inquiries, Asked) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    (Inquiries(sender), Asked(receiver))
}

impl Inquiries {
    /// The answer to `ask`, or `None` if there is none within `patience`.
    pub(crate) async fn ask(&self, ask: wire::LedgerAsk, patience: Duration) -> Option<ledger_answer::What> {
        let (reply, answer) = oneshot::channel();
        let deadline = runtime::now().mono + patience;
        self.0.try_send(Inquiry { ask, deadline, reply }).ok()?;
        runtime::timeout(patience, answer).await.ok()?.ok()
    }

    /// Says so without waiting for an answer.
    fn mention(&self, ask: wire::LedgerAsk, patience: Duration) {
        let (reply, _) = oneshot::channel();
        // Without room it stays unsaid, and the claim lapses.
        let _ = self.0.try_send(Inquiry { ask, deadline: runtime::now().mono + patience, reply });
    }

    /// Takes back a claim whose answer never came: it may stand, and nothing was forwarded under it.
    pub(crate) fn take_back(&self, ask: wire::LedgerAsk) {
        let unsent = ledger_finish::Ending::Unsent(wire::LedgerUnsent {});
        let what = ledger_ask::What::Finish(wire::LedgerFinish { ending: Some(unsent) });
        self.mention(wire::LedgerAsk { what: Some(what), ..ask }, TAKE_BACK_MAX);
    }
}

/// Carries inquiries for as long as the proxy runs. `node` is who asks.
pub(super) async fn run(mut asked: Asked, node: Arc<str>, link: Rc<Link>) {
    let calls = Arc::new(Semaphore::new(CALLS_MAX));
    while let Some(first) = asked.0.recv().await {
        let Ok(permit) = Arc::clone(&calls).acquire_owned().await else { return };
        let mut batch = vec![first];
        let mut bytes = 0;
        while batch.len() < CALL_MAX
            && bytes < CALL_BYTES_MAX
            && let Ok(next) = asked.0.try_recv()
        {
            bytes += next.ask.encoded_len();
            batch.push(next);
        }
        let (node, link) = (Arc::clone(&node), Rc::clone(&link));
        runtime::spawn_local("ledger", async move {
            call(batch, &node, &link).await;
            drop(permit);
        });
    }
}

/// One call, tried until it is answered or nobody waits any more.
async fn call(mut batch: Vec<Inquiry>, node: &str, link: &Link) {
    loop {
        let now = runtime::now().mono;
        batch.retain(|inquiry| inquiry.deadline > now);
        let Some(last) = batch.iter().map(|inquiry| inquiry.deadline).max() else { return };
        let asks = batch.iter().map(|inquiry| inquiry.ask.clone()).collect();
        let request = wire::LedgerRequest { node: node.to_owned(), asks };
        match runtime::timeout(last.since(now), attempt(&request, link)).await {
            Ok(Ok(answers)) => {
                for (inquiry, answer) in batch.into_iter().zip(answers) {
                    if let Some(what) = answer.what {
                        // A core that has given up doesn't need it.
                        let _ = inquiry.reply.send(what);
                    }
                }
                return;
            }
            Ok(Err(Some(status))) if is_final(&status) => {
                tracing::warn!(status = ?status.code(), message = status.message(), "the ledger refuses to be asked");
                return;
            }
            Ok(Err(_)) => runtime::sleep(PAUSE).await,
            Err(_) => return,
        }
    }
}

async fn attempt(request: &wire::LedgerRequest, link: &Link) -> Result<Vec<wire::LedgerAnswer>, Option<Status>> {
    let channel = link.channel().await.map_err(|_| None)?;
    let answer = channel.unary(LEDGER_PATH, request.encode_to_vec().into()).await.map_err(Some)?;
    let answer = wire::LedgerResponse::decode(&*answer).map_err(|_| None)?;
    Ok(answer.answers)
}

/// Whether asking again would be in vain.
pub(super) fn is_final(status: &Status) -> bool {
    use byrnie_net::grpc::Code;
    matches!(
        status.code(),
        Code::PermissionDenied | Code::InvalidArgument | Code::Unimplemented | Code::Unauthenticated
    )
}
