// SPDX-License-Identifier: Apache-2.0
//! The journal in one file of this machine. One thread writes, and makes all that waits durable in one
//! step: while the disk syncs one group, the next gathers.

use super::commits::Counted;
use super::run::{Done, Job, Run};
use super::{Commits, GROUP_BYTES_MAX, GROUP_MAX};
use crate::disk::{Disk, FileDisk, split};
use crate::persist::OpenError;
use crate::persist::log::{LogFile, Pace};
use crate::queue::{Limits, Queue};
use crate::store::{Error, Pending};
use byrnie_base::Timestamp;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Size of the log beside the file, which is taken up from the start. The tables take over one half of it while the other fills: in
/// a large one most transactions end where they began, and are written into the tables once.
const LOG_BYTES: usize = 2 << 20;

/// Steps whose answers may wait for the courier. The writer itself hands on those of more.
const STEPS_MAX: usize = 64;

/// What came of the jobs of a step, and who waits for that.
type Answers = Vec<(oneshot::Sender<Result<Done, Error>>, Result<Done, Error>)>;

/// A journal in a file, and its log in another beside it. Dropping it finishes what was begun, then closes the file.
pub struct Embedded {
    queue: Arc<Queue<Job, Done>>,
    writer: Option<JoinHandle<()>>,
    courier: Arc<OnceLock<mpsc::Sender<Answers>>>,
    counted: Arc<Counted>,
    /// There is nobody to be told.
    news: watch::Sender<()>,
}

impl Embedded {
    /// Opens or creates the journal at `path`.
    ///
    /// # Errors
    /// [`OpenError`], in words for the person who started the program.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let log = path.with_extension("wal");
        let disk = Arc::new(FileDisk::open(path)?);
        Self::start(disk, Arc::new(FileDisk::open(&log)?)).map_err(|error| match error {
            OpenError::Corrupt(why) => {
                let files = format!("{} and {} belong together", path.display(), log.display());
                OpenError::Corrupt(format!("{why}; {files}, restore or move both"))
            }
            other => other,
        })
    }

    /// As [`Embedded::open`], both on one disk.
    ///
    /// # Errors
    /// As [`Embedded::open`].
    pub fn on(disk: Arc<dyn Disk>) -> Result<Self, OpenError> {
        let (log, disk) = split(disk, LOG_BYTES as u64);
        Self::start(disk, log)
    }

    fn start(disk: Arc<dyn Disk>, log: Arc<dyn Disk>) -> Result<Self, OpenError> {
        let mut file = LogFile::open(disk, log, LOG_BYTES, Pace::Beside)?;
        let queue = Arc::new(Queue::new(Limits { jobs: GROUP_MAX, bytes: GROUP_BYTES_MAX, weigh: Job::bytes }));
        let jobs = Arc::clone(&queue);
        let courier = Arc::new(OnceLock::<mpsc::Sender<Answers>>::new());
        let hired = Arc::clone(&courier);
        let counted = Arc::new(Counted::default());
        let counts = Arc::clone(&counted);
        let write = move || {
            let mut last = 0;
            loop {
                jobs.gather(last);
                let Some(group) = jobs.take(None) else { return };
                last = group.len();
                let (jobs, replies): (Vec<Job>, Vec<_>) = group.into_iter().map(|next| (next.job, next.reply)).unzip();
                let answers: Answers = replies.into_iter().zip(file.run(&jobs, Timestamp::default())).collect();
                counts.note(&jobs, answers.iter().map(|(_, answer)| answer.is_ok()));
                let left = match hired.get() {
                    Some(courier) => courier.try_send(answers).err().map(mpsc::error::TrySendError::into_inner),
                    None => Some(answers),
                };
                left.into_iter().for_each(hand_on);
            }
        };
        let writer = std::thread::Builder::new().name("journal".into()).spawn(write)?;
        Ok(Self { queue, writer: Some(writer), courier, counted, news: watch::Sender::new(()) })
    }

    /// Hands on the answers of each step as long as the journal is there: a task for the reactor on which those run who ask.
    /// Without it the writer wakes each of them, which is a call to the system; and so it does once the task has ended.
    pub fn courier(&self) -> impl Future<Output = ()> + Send + use<> {
        let (sender, mut answers) = mpsc::channel(STEPS_MAX);
        // A second one has nothing to do.
        let _ = self.courier.set(sender);
        async move {
            while let Some(answers) = answers.recv().await {
                hand_on(answers);
            }
        }
    }
}

fn hand_on(answers: Answers) {
    for (reply, result) in answers {
        // Whoever no longer waits doesn't need the answer.
        let _ = reply.send(result);
    }
}

impl Run for Embedded {
    fn run<T: Send + 'static>(&self, job: Job, read: fn(Done) -> Option<T>) -> Pending<'static, T> {
        let sent = job.check().and_then(|()| self.queue.send(job));
        Box::pin(async move { read(sent?.await.unwrap_or(Err(Error::Closed))?).ok_or(Error::Closed) })
    }

    fn counted(&self) -> Commits {
        self.counted.seen()
    }

    /// The file is locked.
    fn span(&self) -> Option<Duration> {
        None
    }

    fn bell(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has answered nobody since; there is nothing left to save here.
            let _ = writer.join();
        }
    }
}
