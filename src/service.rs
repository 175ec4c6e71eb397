//! Builds everything and holds it: the scheduler's thread, its runtime and actix System.
//!
//! The System has a thread of its own, so that the library works inside anybody's
//! `#[tokio::main]` or `#[actix_web::main]`; what callers hold is a handle that is cheap to
//! clone, `Send` and `Sync`.

mod builder;
mod bring_up;
mod start;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actix::Addr;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::actors::{Break, Drain, IngestMetrics, Instance, Supervisor};
use crate::admission::Replay;
use crate::health::HealthReport;
use crate::model::request::ScheduleJobRequest;
use crate::store::Names;

pub use crate::admission::{Replayed, SubmitError, Submitted};
pub use crate::store::RequestStatus;
pub use bring_up::StartError;
pub use builder::SchedulerBuilder;

/// What closing the connections and ending the threads may take: what hangs is left.
const CLOSE_PATIENCE: Duration = Duration::from_millis(700);

/// A running scheduler. Clones are handles on the same one.
///
/// Dropping the last handle stops it without draining, as a crash would: nothing is lost,
/// others wait for the lease. Call [`shutdown`](Self::shutdown) to leave well.
#[derive(Clone, Debug)]
pub struct Scheduler {
    inner: Arc<Inner>,
}

/// What a start waits for just now, to be shown while there is no [`Scheduler`] yet.
#[derive(Clone, Debug, Default)]
pub struct StartProgress(Arc<Mutex<Option<String>>>);

impl StartProgress {
    /// A sentence that says what the start waits for; `None` while it gets on.
    pub fn waits_for(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, why: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }
}

#[derive(Debug)]
struct Inner {
    instance: Arc<Instance>,
    supervisor: Addr<Supervisor>,
    runtime: tokio::runtime::Handle,
    running: AtomicBool,
    stop: Mutex<Option<oneshot::Sender<()>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Scheduler {
    /// Begins to say what the scheduler shall be.
    pub fn builder() -> SchedulerBuilder {
        SchedulerBuilder::default()
    }

    /// A scheduler on a MySQL or MariaDB database: the short form of
    /// [`builder`](Self::builder) and its `mysql_*` parts.
    pub fn mysql(
        host: impl Into<String>,
        port: u16,
        database: impl Into<String>,
        user: impl Into<String>,
        password: impl Into<String>,
    ) -> SchedulerBuilder {
        Self::builder()
            .mysql_host(host)
            .mysql_port(port)
            .mysql_database(database)
            .mysql_username(user)
            .mysql_password(password)
    }

    /// Asks for a job. When this returns, it is in the database.
    ///
    /// # Errors
    /// [`SubmitError::Refused`] with what is wrong with the request;
    /// [`SubmitError::Unavailable`] when the database is away: send the same request again,
    /// with the same `requestId` or idempotency key it will not become two jobs;
    /// [`SubmitError::ShutDown`] after [`shutdown`](Self::shutdown).
    pub async fn schedule(&self, request: ScheduleJobRequest) -> Result<Submitted, SubmitError> {
        self.on_runtime(move |instance| async move { instance.admission.submit(request).await })
            .await
    }

    /// Tries a dead letter once more: its request, or `value` in the place of it, goes through
    /// the same admission as any other.
    ///
    /// # Errors
    /// [`SubmitError::Unavailable`] when the database is away: asked again, it will not be
    /// replayed twice; [`SubmitError::ShutDown`] after [`shutdown`](Self::shutdown).
    pub async fn replay(
        &self,
        letter: Uuid,
        value: Option<Vec<u8>>,
    ) -> Result<Replayed, SubmitError> {
        let replay = Replay { letter, value };
        self.on_runtime(move |instance| async move { instance.admission.replay(&replay).await })
            .await
    }

    /// What [`replay`](Self::replay) would come to just now. Nothing is written.
    ///
    /// # Errors
    /// [`SubmitError::Unavailable`] when the database is away; [`SubmitError::ShutDown`] after
    /// [`shutdown`](Self::shutdown).
    pub async fn foresee_replay(
        &self,
        letter: Uuid,
        value: Option<Vec<u8>>,
    ) -> Result<Replayed, SubmitError> {
        self.on_runtime(move |instance| async move {
            let replay = Replay { letter, value };
            instance.admission.foresee_replay(&replay, &mut Names::default()).await
        })
        .await
    }

    /// The status of the request of this app under this name.
    ///
    /// # Errors
    /// [`SubmitError::Unavailable`] when the database is away; [`SubmitError::ShutDown`] after
    /// [`shutdown`](Self::shutdown).
    pub async fn request(
        &self,
        app: impl Into<String>,
        request_id: impl Into<String>,
    ) -> Result<RequestStatus, SubmitError> {
        let (app, request_id) = (app.into(), request_id.into());
        self.on_runtime(move |instance| async move {
            let status = instance.store.status_of(&app, &request_id).await;
            status.map_err(|error| SubmitError::Unavailable(error.to_string()))
        })
        .await
    }

    async fn on_runtime<T, F>(
        &self,
        work: impl FnOnce(Arc<Instance>) -> F + Send + 'static,
    ) -> Result<T, SubmitError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, SubmitError>> + Send + 'static,
    {
        if !self.is_running() {
            return Err(SubmitError::ShutDown);
        }
        let done = self.inner.runtime.spawn(work(self.inner.instance.clone()));
        done.await.unwrap_or_else(|error| Err(SubmitError::Unavailable(error.to_string())))
    }

    /// What was counted since the start.
    pub fn ingest_metrics(&self) -> IngestMetrics {
        let degraded = self.inner.instance.health.counts();
        IngestMetrics { degraded, ..self.inner.instance.counters.read() }
    }

    /// Whether it was started and not shut down.
    pub fn is_running(&self) -> bool {
        self.inner.running.load(Ordering::Acquire)
    }

    /// The apps that this instance fires, by name.
    pub fn registered_apps(&self) -> Vec<String> {
        self.inner.instance.admission.app_names()
    }

    /// Whether it accepts calls and fires jobs, and what is wrong with it.
    pub fn health(&self) -> HealthReport {
        let mut report = self.inner.instance.health.read();
        if self.is_running() && !self.inner.instance.has_lease() {
            report.ready = false;
            report.reasons.push("lease: not valid, so nothing is fired".into());
        }
        report
    }

    /// Stops in order: Kafka first, then the app schedulers, then everything else.
    ///
    /// Attempts that run may go on for `deadline`; those that are still running then are
    /// told to stop, and their jobs fire again elsewhere. Shards are handed back at once. It
    /// returns within 3 s after `deadline`, whatever database and broker do. Only
    /// the first call waits for all that; another one returns at once.
    pub async fn shutdown(&self, deadline: Duration) {
        if !self.inner.running.swap(false, Ordering::AcqRel) {
            return;
        }
        let deadline = Instant::now() + deadline;
        let end = deadline + Drain::REST + CLOSE_PATIENCE;
        let left = || end.saturating_duration_since(Instant::now());
        let drained = self.inner.supervisor.send(Drain { deadline });
        match tokio::time::timeout(left(), drained).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => tracing::error!("the supervisor is gone: leaving without draining"),
            Err(_) => tracing::error!("the supervisor does not answer: leaving without draining"),
        }
        let store = self.inner.instance.store.clone();
        let patience = left().max(CLOSE_PATIENCE / 2);
        let close = async move { tokio::time::timeout(patience, store.close()).await };
        drop(self.inner.runtime.spawn(close).await);
        self.inner.stop();
        let thread = self.inner.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            join(thread, left().max(CLOSE_PATIENCE / 2)).await;
        }
    }

    /// Makes every actor panic whose role begins with `role`; says how many. For tests of
    /// supervision.
    #[doc(hidden)]
    pub async fn break_actors(&self, role: &str) -> usize {
        self.inner.supervisor.send(Break(role.to_owned())).await.unwrap_or(0)
    }
}

/// Joining blocks, which a caller's runtime must not. A client of Kafka may keep the thread,
/// when the machine's clock was set back for example: then it ends later.
async fn join(thread: JoinHandle<()>, patience: Duration) {
    let (done, joined) = oneshot::channel();
    drop(std::thread::spawn(move || {
        let ended = thread.join().is_ok();
        done.send(ended).ok();
    }));
    match tokio::time::timeout(patience, joined).await {
        Ok(Ok(true)) => {}
        Ok(_) => tracing::error!("the scheduler's thread panicked"),
        Err(_) => tracing::warn!("the scheduler's thread is slow to end: it is left to itself"),
    }
}

impl Inner {
    fn stop(&self) {
        let stop = self.stop.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(stop) = stop {
            stop.send(()).ok();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop();
    }
}
