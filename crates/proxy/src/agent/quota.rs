// SPDX-License-Identifier: Apache-2.0
//! Asks the control plane for requests under quotas that instances share: what waits goes in one call. What gets no answer in a
//! moment is given up; its core then counts for itself.

use super::link::Link;
use byrnie_base::share::{Admitted, Lease};
use byrnie_base::{Instant, Text};
use byrnie_engine::{Allowance, QuotaAsk};
use byrnie_net::runtime;
use byrnie_xds::proto::Message;
use byrnie_xds::proto::byrnie::v1 as pb;
use byrnie_xds::proto::byrnie::v1::quota_answer::What;
use byrnie_xds::{QUOTA_PATH, wire};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// How long a request waits for the answer.
const PATIENCE: Duration = Duration::from_millis(500);
/// Questions that may wait; a core that finds no room is answered at once that nobody can be asked.
const WAITING_MAX: usize = 4096;
/// Questions in one call.
const CALL_MAX: usize = 256;
/// Calls under way at once.
const CALLS_MAX: usize = 16;

/// What a core asks, and until when it waits.
#[derive(Debug)]
struct Question {
    ask: QuotaAsk,
    deadline: Instant,
    reply: oneshot::Sender<Allowance>,
}

/// Where cores ask.
#[derive(Clone, Debug)]
pub(crate) struct Quotas(mpsc::Sender<Question>);

/// What cores ask.
pub(crate) struct Asked(mpsc::Receiver<Question>);

/// Both ends.
pub(crate) fn quotas() -> (Quotas, Asked) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    (Quotas(sender), Asked(receiver))
}

impl Quotas {
    /// What is granted.
    pub(crate) async fn ask(&self, ask: QuotaAsk) -> Allowance {
        let (reply, answer) = oneshot::channel();
        let question = Question { ask, deadline: runtime::now().mono + PATIENCE, reply };
        if self.0.try_send(question).is_err() {
            return Allowance::Unknown;
        }
        match runtime::timeout(PATIENCE, answer).await {
            Ok(Ok(grant)) => grant,
            Ok(Err(_)) | Err(_) => Allowance::Unknown,
        }
    }
}

/// Carries questions for as long as the proxy runs. `node` is who asks.
pub(super) async fn run(mut asked: Asked, node: Arc<str>, link: Rc<Link>) {
    let calls = Arc::new(Semaphore::new(CALLS_MAX));
    while let Some(first) = asked.0.recv().await {
        let Ok(permit) = Arc::clone(&calls).acquire_owned().await else { return };
        let mut batch = vec![first];
        while batch.len() < CALL_MAX
            && let Ok(next) = asked.0.try_recv()
        {
            batch.push(next);
        }
        let (node, link) = (Arc::clone(&node), Rc::clone(&link));
        runtime::spawn_local("quotas", async move {
            call(batch, &node, &link).await;
            drop(permit);
        });
    }
}

/// One call. Without an answer those who ask learn so at once.
async fn call(batch: Vec<Question>, node: &str, link: &Link) {
    let now = runtime::now().mono;
    let batch: Vec<Question> = batch.into_iter().filter(|question| question.deadline > now).collect();
    let Some(last) = batch.iter().map(|question| question.deadline).max() else { return };
    let asks = batch.iter().map(|question| wire::quota_ask_out(&question.ask.service, &question.ask.quota)).zip(&batch);
    let asks = asks.map(|(ask, Question { ask: of, .. })| pb::QuotaAsk { key: of.key, requests: of.requests, ..ask });
    let request = pb::QuotaRequest { node: node.to_owned(), asks: asks.collect() };
    let answers = match runtime::timeout(last.since(now), attempt(&request, link)).await {
        Ok(Ok(answers)) => answers,
        Ok(Err(why)) => return tracing::debug!(why = &*why, "requests under a shared quota are counted alone"),
        Err(_) => return,
    };
    for (question, answer) in batch.into_iter().zip(answers) {
        // A core that has given up counts for itself.
        let _ = question.reply.send(allowance(answer));
    }
}

async fn attempt(request: &pb::QuotaRequest, link: &Link) -> Result<Vec<pb::QuotaAnswer>, Text> {
    let channel = link.channel().await.map_err(|error| error.to_string())?;
    let answer = channel.unary(QUOTA_PATH, request.encode_to_vec().into()).await;
    let answer = answer.map_err(|status| format!("{:?}: {}", status.code(), status.message()))?;
    let answer = pb::QuotaResponse::decode(&*answer).map_err(|error| error.to_string())?;
    Ok(answer.answers)
}

fn allowance(answer: pb::QuotaAnswer) -> Allowance {
    match answer.what {
        Some(What::Lease(pb::QuotaLease { requests, left, rests_in_millis })) if requests > 0 => {
            let left = Admitted { left, rests_in: Duration::from_millis(rests_in_millis) };
            Allowance::Leased(Lease { deeds: requests, left })
        }
        Some(What::WaitMillis(wait)) => Allowance::Wait(Duration::from_millis(wait)),
        Some(What::Lease(_) | What::Unknown(_)) | None => Allowance::Unknown,
    }
}
