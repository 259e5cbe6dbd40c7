// SPDX-License-Identifier: Apache-2.0
//! Keeps a stream to the own program on which it reports its load, where a policy asks for that (ORCA out of band, gRFC A51): one
//! task for each service that the program serves. What the reports come to is `engine/reporting`'s. No request waits for any of it.

use super::link::Backoff;
use crate::worker::InForce;
use byrnie_base::Text;
use byrnie_codec::grpc::load::{PATH, Report, question};
use byrnie_engine::Reporting;
use byrnie_model::ServiceRef;
use byrnie_model::code::LOAD_UNREPORTED;
use byrnie_net::grpc::{Channel, Code, Status};
use byrnie_net::runtime::{self, Task};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::watch;

/// Longest report that is taken, in bytes; a longer one ends the stream.
const REPORT_BYTES_MAX: usize = 64 * 1024;
/// After a report none is read for so long: whoever sends more has to wait.
const REST: Duration = Duration::from_millis(100);
/// Most reports that are passed over for a newer one: more than fit into what lies unread.
const PASSED_MAX: usize = 16 * 1024;
/// Longest pause between two tries. A program that was only just started is asked sooner.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// After so many tries in a row that brought no report it is told, once: a program that starts needs some.
const TRIES_TOLD: u32 = 10;

/// A stream that is kept until it's dropped.
struct Running {
    asked: Reporting,
    task: Task,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
        self.asked.forget();
    }
}

/// Why a stream was no more.
enum Ended {
    /// The program has no such service, nor will it have as long as this connection stands.
    Unimplemented(Channel),
    /// Anything that may be otherwise the next time.
    Broken(String),
}

/// Follows the configuration, and keeps the streams that it asks for, until the proxy takes no new work: a program that is to end
/// may wait for the end of its streams.
pub(super) async fn run(mut in_force: watch::Receiver<InForce>, draining: impl Future<Output = ()>) {
    let mut running: BTreeMap<ServiceRef, Running> = BTreeMap::new();
    let mut draining = std::pin::pin!(draining);
    loop {
        renew(&mut running, &in_force.borrow_and_update());
        tokio::select! {
            changed = in_force.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = &mut draining => return,
        }
    }
}

/// Ends the streams that are no more asked for, and begins those that are new.
fn renew(running: &mut BTreeMap<ServiceRef, Running>, in_force: &InForce) {
    let asked: BTreeMap<&ServiceRef, &Reporting> = in_force.snapshot.reporting().collect();
    running.retain(|service, one| asked.get(service).is_some_and(|asked| **asked == one.asked));
    for (service, asked) in asked {
        running.entry(service.clone()).or_insert_with(|| {
            let task = runtime::spawn_local("load reports", keep(service.to_string().into(), asked.clone()));
            Running { asked: asked.clone(), task }
        });
    }
}

/// Asks again and again.
async fn keep(service: Text, asked: Reporting) {
    let mut backoff = Backoff::up_to(PAUSE_MAX);
    let (mut tries, mut told) = (0, false);
    loop {
        let mut reports = 0u64;
        let ended = hear(&asked, || {
            reports += 1;
            if reports == 1 {
                tracing::info!(%service, address = %asked.address, "the program reports its load");
            }
        })
        .await;
        asked.forget();
        if reports > 0 {
            backoff.reset();
            (tries, told) = (0, false);
        }
        tries += 1;
        let (cause, stands) = match ended {
            Ended::Unimplemented(channel) => ("it has no OpenRcaService".to_owned(), Some(channel)),
            Ended::Broken(cause) => (cause, None),
        };
        if !told && (stands.is_some() || tries >= TRIES_TOLD) {
            told = true;
            let code = LOAD_UNREPORTED.id;
            tracing::warn!(code, %service, address = %asked.address, cause, "the program does not report its load");
        } else {
            tracing::debug!(%service, address = %asked.address, cause, "no reports of load");
        }
        // Another program has another connection.
        if let Some(channel) = stands {
            channel.closed().await;
        }
        backoff.pause().await;
    }
}

/// Hears reports for as long as they come.
async fn hear(asked: &Reporting, mut heard: impl FnMut()) -> Ended {
    let channel = match Channel::connect_beside(asked.address, REPORT_BYTES_MAX).await {
        Ok(channel) => channel,
        Err(error) => return Ended::Broken(error.to_string()),
    };
    let hearing = async {
        let mut reports = channel.subscribe(PATH, question(asked.interval).into()).await?;
        while let Some(mut message) = reports.next().await? {
            // Of what has come meanwhile the last is the newest.
            for _ in 0..PASSED_MAX {
                let Ok(next) = runtime::timeout(Duration::ZERO, reports.next()).await else { break };
                let Some(newer) = next? else { break };
                message = newer;
            }
            asked.take(&Report::decode(&message), runtime::now().mono);
            heard();
            runtime::sleep(REST).await;
        }
        Ok::<_, Status>(())
    };
    let ended = hearing.await;
    match ended {
        Ok(()) => Ended::Broken("it has ended the stream".to_owned()),
        Err(status) if status.code() == Code::Unimplemented => Ended::Unimplemented(channel),
        Err(status) => Ended::Broken(format!("{:?}: {}", status.code(), status.message())),
    }
}
