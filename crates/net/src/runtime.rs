// SPDX-License-Identifier: Apache-2.0
//! Cores, tasks and time: the only file that names the async runtime. Planes start one single-threaded
//! reactor per core here and spawn their tasks through it. A task that panics ends alone: the panic is
//! counted and reported, never passed on. Nothing here knows what a task does.

use byrnie_base::clock::SystemClock;
use byrnie_base::{Clock, Now};
use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::runtime::{LocalOptions, LocalRuntime};
use tokio::sync::watch;

#[cfg(test)]
mod tests;

/// A running core: one thread with one single-threaded reactor.
#[derive(Debug)]
pub struct Core {
    thread: std::thread::JoinHandle<()>,
}

impl Core {
    /// Waits until the core's main future has ended. Blocks the calling thread.
    ///
    /// # Errors
    /// If the core's main future panicked; the panic is counted in [`panics`] as well.
    pub fn join(self) -> Result<(), Panicked> {
        self.thread.join().map_err(|_| Panicked)
    }

    /// Whether the core's main future has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

/// Pause before that begins again which has panicked and is to go on ([`keep`]).
const RESUME: Duration = Duration::from_millis(100);

/// A task or core ended by a panic instead of by returning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ended by a panic")]
pub struct Panicked;

/// Starts a core: a thread called `name` (Linux shows its first 15 bytes), tied to processor `cpu` if
/// given, on which `main` makes the future to run. [`spawn_local`] works inside it. When `main`'s future
/// ends, the tasks still on the core are dropped.
///
/// A processor that the process may not use is no error: the core then runs wherever the system puts it.
///
/// # Errors
/// If the thread or its reactor can't be made (out of threads, memory or descriptors).
pub fn spawn_core<F, Fut>(name: &str, cpu: Option<usize>, main: F) -> io::Result<Core>
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    // The reactor can't leave the thread that made it, so its thread tells whether there is one.
    let (made, made_it) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let runtime = match reactor() {
            Ok(runtime) => runtime,
            Err(error) => return drop(made.send(Err(error))),
        };
        drop(made.send(Ok(())));
        if let Some(cpu) = cpu
            && let Err(error) = pin_to(cpu)
        {
            tracing::warn!(cpu, %error, "core is not pinned");
        }
        let ran = catch_unwind(AssertUnwindSafe(|| runtime.block_on(async { main().await })));
        if let Err(panic) = ran {
            count_panic("core", &*panic);
            std::panic::resume_unwind(panic);
        }
    })?;
    made_it.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))?;
    Ok(Core { thread })
}

/// Runs `future` to its end on the calling thread, with a reactor of its own.
///
/// # Errors
/// If the reactor can't be made.
pub fn block_on<F: Future>(future: F) -> io::Result<F::Output> {
    Ok(reactor()?.block_on(future))
}

/// Tasks stand in the reactor's own queue. A `LocalSet` above it would put each wake-up by a socket through
/// two queues and, as it is woken from outside of its poll, through a write to the reactor's own descriptor.
fn reactor() -> io::Result<LocalRuntime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_unpark(|| COARSE.with(|coarse| coarse.set(Coarse { uses_left: 0, ..coarse.get() })))
        .build_local(LocalOptions::default())
}

/// How many files this process may have open.
pub fn open_files_max() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX)
}

fn pin_to(cpu: usize) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        let mut set = rustix::thread::CpuSet::new();
        if cpu >= rustix::thread::CpuSet::MAX_CPU {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        set.set(cpu);
        rustix::thread::sched_setaffinity(None, &set)?;
    }
    #[cfg(not(target_os = "linux"))]
    let _ = cpu;
    Ok(())
}

/// A spawned task. Dropping it leaves the task running.
#[derive(Debug)]
pub struct Task {
    join: tokio::task::JoinHandle<Result<(), Panicked>>,
}

impl Task {
    /// Stops the task at its next await; its values are dropped.
    pub fn abort(&self) {
        self.join.abort();
    }

    /// Whether the task has ended, in whatever way.
    pub fn is_finished(&self) -> bool {
        self.join.is_finished()
    }

    /// Waits for the end of the task, in whatever way it comes.
    pub async fn ended(self) {
        // A panic was caught and counted inside the task, and an abort is what the caller asked for.
        let _ = self.join.await;
    }

    /// The task's owner: dropping the result aborts the task.
    pub fn abort_on_drop(self) -> Owned {
        Owned(self)
    }
}

/// A task that ends with this value.
#[derive(Debug)]
pub struct Owned(Task);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts a task on this core. `kind` names it in the report of a panic.
///
/// # Panics
/// Outside [`spawn_core`] and [`block_on`].
pub fn spawn_local<F: Future<Output = ()> + 'static>(kind: &'static str, future: F) -> Task {
    Task { join: tokio::task::spawn_local(catch(kind, future)) }
}

/// Starts a task that may be moved between threads, on the current reactor. `kind` names it in the
/// report of a panic.
///
/// # Panics
/// Outside a reactor.
pub fn spawn<F: Future<Output = ()> + Send + 'static>(kind: &'static str, future: F) -> Task {
    Task { join: tokio::task::spawn(catch(kind, future)) }
}

/// Tasks that end together: those still running are aborted when the group is dropped.
#[derive(Debug, Default)]
pub struct Group {
    set: tokio::task::JoinSet<Result<(), Panicked>>,
}

impl Group {
    /// A group without tasks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a task in the group, on the current reactor. `kind` names it in the report of a panic.
    pub fn spawn<F: Future<Output = ()> + Send + 'static>(&mut self, kind: &'static str, future: F) {
        self.reap();
        self.set.spawn(catch(kind, future));
    }

    /// Tasks still running.
    pub fn len(&mut self) -> usize {
        self.reap();
        self.set.len()
    }

    /// Whether no task is running.
    pub fn is_empty(&mut self) -> bool {
        self.len() == 0
    }

    /// Waits until all have ended, but at most `limit`; answers how many had not and were aborted.
    pub async fn end_within(mut self, limit: Duration) -> usize {
        let all = async { while self.set.join_next().await.is_some() {} };
        match timeout(limit, all).await {
            Ok(()) => 0,
            Err(Elapsed) => self.len(),
        }
    }

    fn reap(&mut self) {
        while self.set.try_join_next().is_some() {}
    }
}

/// Runs `future`, turning a panic in it into an error after counting and reporting it under `kind`.
///
/// # Errors
/// If the future panicked. Its own values are dropped; what it shared with others may be half changed,
/// so callers rebuild that.
pub fn catch<F: Future>(kind: &'static str, future: F) -> Catch<F> {
    Catch { kind, future }
}

/// Runs what is to go on as long as its core does, until it returns. If it panics, which is counted and reported under `kind`, `mend` makes
/// anew what may be half changed, and it begins again after a moment: one defect is not to leave a proxy that looks alive and serves nobody.
pub async fn keep(kind: &'static str, mut work: impl AsyncFnMut(), mend: impl Fn()) {
    while catch(kind, work()).await.is_err() {
        mend();
        sleep(RESUME).await;
    }
}

/// What [`catch`] returns. By hand, as an `async fn` would hold `future` twice: where it was handed in and
/// where it's polled, and every task stands in at least one of these.
#[derive(Debug)]
pub struct Catch<F> {
    kind: &'static str,
    future: F,
}

impl<F: Future> Future for Catch<F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let kind = self.kind;
        // SAFETY: `future` is pinned whenever `Catch` is: it's never moved out, and `Catch` has no `Drop`
        // and is `Unpin` only if `F` is.
        let future = unsafe { self.map_unchecked_mut(|catch| &mut catch.future) };
        match catch_unwind(AssertUnwindSafe(|| future.poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(panic) => {
                count_panic(kind, &*panic);
                Poll::Ready(Err(Panicked))
            }
        }
    }
}

static PANICS: AtomicU64 = AtomicU64::new(0);

/// How many tasks and cores of this process have panicked. Anything above zero is a defect of byrnie.
pub fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

fn count_panic(kind: &'static str, panic: &(dyn std::any::Any + Send)) {
    PANICS.fetch_add(1, Ordering::Relaxed);
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    tracing::error!(kind, panic = text, "a task panicked and was ended; please report it");
}

/// Waits for `span`.
pub async fn sleep(span: Duration) {
    tokio::time::sleep(span).await;
}

/// The time given to an operation is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("timed out")]
pub struct Elapsed;

/// Runs `future` for at most `span`.
///
/// # Errors
/// If it hasn't ended by then; it is dropped.
pub async fn timeout<F: Future>(span: Duration, future: F) -> Result<F::Output, Elapsed> {
    tokio::time::timeout(span, future).await.map_err(|_| Elapsed)
}

/// Both clocks of the process, read now.
pub fn now() -> Now {
    clock().now()
}

/// The monotonic clock read now, the wall clock as [`coarse`] has it: to measure spans by, at half the price of
/// [`now`].
pub fn precise() -> Now {
    Now { mono: clock().mono(), wall: coarse().wall }
}

/// The process' one clock: its monotonic side starts when first asked.
pub fn clock() -> &'static SystemClock {
    static CLOCK: OnceLock<SystemClock> = OnceLock::new();
    CLOCK.get_or_init(SystemClock::new)
}

/// How often [`coarse`] hands out one reading while the core stays busy: at some microseconds a use, the
/// reading is never older than a millisecond or so.
const COARSE_USES_MAX: u32 = 64;

#[derive(Clone, Copy)]
struct Coarse {
    now: Now,
    uses_left: u32,
}

thread_local! {
    static COARSE: Cell<Coarse> = const {
        Cell::new(Coarse {
            now: Now { mono: byrnie_base::Instant::from_nanos(0), wall: byrnie_base::Timestamp::from_millis(0) },
            uses_left: 0,
        })
    };
}

/// Both clocks as this core last read them: read anew after each sleep of the core and every
/// 64 uses. For deadlines and records of a millisecond's precision, at a fraction of the
/// price of [`now`].
pub fn coarse() -> Now {
    COARSE.with(|cell| {
        let held = cell.get();
        if held.uses_left > 0 {
            cell.set(Coarse { uses_left: held.uses_left - 1, ..held });
            return held.now;
        }
        let fresh = now();
        cell.set(Coarse { now: fresh, uses_left: COARSE_USES_MAX - 1 });
        fresh
    })
}

/// A pair that tells many tasks to stop.
pub fn shutdown() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (Trigger(sender), Shutdown(receiver))
}

/// Tells every [`Shutdown`] to stop, when fired or dropped.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

impl Trigger {
    /// Tells them now.
    pub fn fire(&self) {
        self.0.send_replace(true);
    }

    /// Another receiver of this trigger.
    pub fn subscribe(&self) -> Shutdown {
        Shutdown(self.0.subscribe())
    }
}

/// Learns that it is time to stop.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// Waits until the trigger has been fired or dropped. May be called again afterwards.
    pub async fn wait(&mut self) {
        // An error means that the trigger is gone, which is a reason to stop as well.
        let _ = self.0.wait_for(|fired| *fired).await;
    }

    /// Whether the trigger has been fired or dropped.
    pub fn is_over(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

/// Waits for the next termination request: `SIGTERM` or `SIGINT` where there are signals, Ctrl-C elsewhere.
/// Answers the name of the signal.
///
/// # Errors
/// If the signals can't be watched.
pub async fn terminated() -> io::Result<&'static str> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::select! {
            _ = term.recv() => Ok("SIGTERM"),
            _ = int.recv() => Ok("SIGINT"),
        }
    }
    #[cfg(not(unix))]
    {
        tokio::signal::ctrl_c().await?;
        Ok("Ctrl-C")
    }
}
