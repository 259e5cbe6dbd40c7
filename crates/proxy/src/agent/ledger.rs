// SPDX-License-Identifier: Apache-2.0
//! Asks the ledger for the cores, by the own control plane or by another that keeps it, too (`circle`): what waits goes in one call, so that many keyed
//! requests share one durable step there. An inquiry that gets no answer in time is given up; its core then
//! lets nothing through.

use super::circle::{Circle, Silence};
use byrnie_base::Instant;
use byrnie_net::grpc::Status;
use byrnie_net::runtime;
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
/// How often it's asked who else keeps the ledger: while nobody is known, and then.
const LEARN_SOON: Duration = Duration::from_secs(5);
const LEARN_EVERY: Duration = Duration::from_secs(30);
/// How long that may take.
const LEARN_MAX: Duration = Duration::from_secs(5);
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
        let what =
            ledger_ask::What::Finish(wire::LedgerFinish { ending: Some(unsent), ..wire::LedgerFinish::default() });
        self.mention(wire::LedgerAsk { what: Some(what), ..ask }, TAKE_BACK_MAX);
    }
}

/// Carries inquiries for as long as the proxy runs.
pub(super) async fn run(mut asked: Asked, circle: Circle) {
    let (calls, circle) = (Arc::new(Semaphore::new(CALLS_MAX)), Rc::new(circle));
    let learning = Rc::clone(&circle);
    runtime::spawn_local("ledger neighbours", async move { learn(&learning).await });
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
        let circle = Rc::clone(&circle);
        runtime::spawn_local("ledger", async move {
            call(batch, &circle).await;
            drop(permit);
        });
    }
}

/// Hears of the other control planes before one is needed. Where nobody can share the ledger, once is enough: if that changes, an
/// answer about some key says so.
async fn learn(circle: &Circle) {
    loop {
        let heard = circle.ask(Vec::new(), runtime::now().mono + LEARN_MAX).await.is_ok();
        if heard && !circle.is_shared() {
            return;
        }
        runtime::sleep(if circle.len() > 1 { LEARN_EVERY } else { LEARN_SOON }).await;
    }
}

/// One call, tried until it is answered or nobody waits any more.
async fn call(mut batch: Vec<Inquiry>, circle: &Circle) {
    let mut tries = 0;
    loop {
        let now = runtime::now().mono;
        batch.retain(|inquiry| inquiry.deadline > now);
        let Some(last) = batch.iter().map(|inquiry| inquiry.deadline).max() else { return };
        let asks = batch.iter().map(|inquiry| inquiry.ask.clone()).collect();
        let at = circle.turn();
        match circle.ask(asks, last).await {
            Ok(answers) => {
                batch = deliver(batch, answers, tries + 1 < circle.len());
                if batch.is_empty() {
                    return;
                }
                circle.pass(at);
            }
            Err(Silence::Refused(status)) => {
                tracing::warn!(status = ?status.code(), message = status.message(), "the ledger refuses to be asked");
                return;
            }
            Err(Silence::Away) => {}
        }
        tries += 1;
        if tries >= circle.len() {
            runtime::sleep(PAUSE).await;
        }
    }
}

/// Hands out answers. What stays are questions to be asked again: a control plane that can't reach its ledger answers nothing; another may, and
/// how a request has ended is worth a wait.
fn deliver(batch: Vec<Inquiry>, answers: Vec<wire::LedgerAnswer>, others: bool) -> Vec<Inquiry> {
    let mut left = Vec::new();
    for (inquiry, answer) in batch.into_iter().zip(answers) {
        let ends = matches!(inquiry.ask.what, Some(ledger_ask::What::Finish(_)));
        match answer.what {
            Some(ledger_answer::What::Error(why)) if ends || others => {
                tracing::debug!(why, "the ledger can't be asked; it is tried again");
                left.push(inquiry);
            }
            // A core that has given up doesn't need it.
            Some(what) => drop(inquiry.reply.send(what)),
            None => {}
        }
    }
    left
}

/// Whether asking again would be in vain.
pub(super) fn is_final(status: &Status) -> bool {
    use byrnie_net::grpc::Code;
    matches!(
        status.code(),
        Code::PermissionDenied | Code::InvalidArgument | Code::Unimplemented | Code::Unauthenticated
    )
}
