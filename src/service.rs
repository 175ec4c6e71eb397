//! The handle of a running scheduler, with its thread, its runtime and its actix System.
//!
//! The System runs on a thread of its own, so that the library works inside any `#[tokio::main]` or
//! `#[actix_web::main]`. Callers have a handle that is cheap to clone, `Send` and `Sync`.

mod builder;
mod bring_up;
mod intake;
mod start;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actix::Addr;
use tokio::sync::oneshot;
use uuid::Uuid;

#[cfg(feature = "failpoints")]
use crate::actors::Break;
use crate::actors::{Drain, Instance, Supervisor};
use crate::health::{HealthReport, ProblemKind};
use crate::model::request::ScheduleJobRequest;
use crate::model::time::ScheduledTime;
use crate::operations::{
    AppChange, Apps, Audit, Bulk, By, DeadLetters, Error as OperationError, Ingest, Instances,
    JobAnswer, JobName, Jobs, Operations, Replayed, RequestStatus, ShownJob, Submitted,
};

pub use crate::actors::{AppMetrics, IngestMetrics};
pub use bring_up::StartError;
pub use builder::SchedulerBuilder;

/// The time limit for closing the connections and ending the threads.
const CLOSE_MAX_WAIT: Duration = Duration::from_millis(700);

/// A running scheduler. Clones are handles of the same one.
///
/// Dropping the last handle stops it without draining, like a crash: nothing is lost, but the other
/// instances wait for the end of its lease. Call [`shutdown`](Self::shutdown) for an orderly stop.
#[derive(Clone, Debug)]
pub struct Scheduler {
    inner: Arc<Inner>,
}

/// What a start is waiting for, available before there is a [`Scheduler`].
#[derive(Clone, Debug, Default)]
pub struct StartProgress(Arc<Mutex<Option<String>>>);

impl StartProgress {
    /// What the start is waiting for, as a sentence; `None` if it is not waiting.
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
    operations: Operations,
    supervisor: Addr<Supervisor>,
    runtime: tokio::runtime::Handle,
    running: Arc<AtomicBool>,
    stop: Mutex<Option<oneshot::Sender<()>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Scheduler {
    /// A builder with the default settings.
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

    /// Requests for jobs, and their status.
    pub fn jobs(&self) -> Jobs<'_> {
        self.inner.operations.jobs()
    }

    /// Requests that could not become jobs, and jobs that failed permanently.
    pub fn dead_letters(&self) -> DeadLetters<'_> {
        self.inner.operations.dead_letters()
    }

    /// How far the ingest topics have been read, and from which offset they are read on.
    pub fn ingest(&self) -> Ingest<'_> {
        self.inner.operations.ingest()
    }

    /// The apps that were ever registered on the database, by any instance.
    pub fn apps(&self) -> Apps<'_> {
        self.inner.operations.apps()
    }

    /// The instances on the database.
    pub fn instances(&self) -> Instances<'_> {
        self.inner.operations.instances()
    }

    /// Actions on every job that a filter selects.
    pub fn bulk(&self) -> Bulk<'_> {
        self.inner.operations.bulk()
    }

    /// Who changed what, when and why.
    pub fn audit(&self) -> Audit<'_> {
        self.inner.operations.audit()
    }

    /// The operations of this scheduler on behalf of `by`, whom the audit names with each change
    /// that is made through them. Changes through the handle itself are made by [`By::program`].
    pub fn by(&self, by: By) -> Operations {
        self.inner.operations.by(by)
    }

    /// Requests a job, as [`Jobs::schedule`]. When this returns, the job is in the database.
    ///
    /// # Errors
    /// [`OperationError::Refused`] with what is wrong with the request;
    /// [`OperationError::Unavailable`] when the database does not answer: the same request may be
    /// sent again; with the same `requestId` or idempotency key it does not become a second job;
    /// [`OperationError::ShutDown`] after [`shutdown`](Self::shutdown).
    pub async fn schedule(&self, request: ScheduleJobRequest) -> Result<Submitted, OperationError> {
        self.jobs().schedule(request).await
    }

    /// Requests several jobs, as [`Jobs::schedule_all`]; the results are in the order of the
    /// requests.
    ///
    /// # Errors
    /// For each request separately, as [`schedule`](Self::schedule).
    pub async fn schedule_all(
        &self,
        requests: impl IntoIterator<Item = ScheduleJobRequest>,
    ) -> Vec<Result<Submitted, OperationError>> {
        self.jobs().schedule_all(requests).await
    }

    /// Replays a dead letter, as [`DeadLetters::replay`]: its request, or `value` instead of it, is
    /// admitted like any other.
    ///
    /// # Errors
    /// Those of [`DeadLetters::replay`], and [`OperationError::ShutDown`] after
    /// [`shutdown`](Self::shutdown).
    pub async fn replay(
        &self,
        letter: Uuid,
        value: Option<Vec<u8>>,
    ) -> Result<Replayed, OperationError> {
        self.dead_letters().replay(letter, value).await
    }

    /// The result that [`replay`](Self::replay) would have now. Nothing is written.
    ///
    /// # Errors
    /// As [`replay`](Self::replay).
    pub async fn preview_replay(
        &self,
        letter: Uuid,
        value: Option<Vec<u8>>,
    ) -> Result<Replayed, OperationError> {
        self.dead_letters().preview_replay(letter, value).await
    }

    /// Pauses an app, as [`Apps::pause`]: none of its jobs is started until it is resumed, and its
    /// requests are accepted. [`by`](Self::by) says who does so and why.
    ///
    /// # Errors
    /// Those of [`Apps::pause`], and [`OperationError::ShutDown`] after
    /// [`shutdown`](Self::shutdown).
    pub async fn pause(&self, app: impl Into<String>) -> Result<AppChange, OperationError> {
        self.apps().pause(app, false).await
    }

    /// Resumes an app, as [`Apps::resume`].
    ///
    /// # Errors
    /// Those of [`Apps::resume`], and [`OperationError::ShutDown`] after
    /// [`shutdown`](Self::shutdown).
    pub async fn resume(&self, app: impl Into<String>) -> Result<AppChange, OperationError> {
        self.apps().resume(app).await
    }

    /// The status of a request, as [`Jobs::request`].
    ///
    /// # Errors
    /// [`OperationError::Unavailable`] when the database does not answer;
    /// [`OperationError::ShutDown`] after [`shutdown`](Self::shutdown).
    pub async fn request(
        &self,
        app: impl Into<String>,
        request_id: impl Into<String>,
    ) -> Result<RequestStatus, OperationError> {
        self.jobs().request(app, request_id).await
    }

    /// The job as it is, as [`Jobs::show`]; `None` if there is none, or not any more.
    ///
    /// # Errors
    /// [`OperationError::Unavailable`] when the database does not answer;
    /// [`OperationError::ShutDown`] after [`shutdown`](Self::shutdown).
    pub async fn job(&self, job: impl Into<JobName>) -> Result<Option<ShownJob>, OperationError> {
        match self.jobs().show(job).await {
            Ok(job) => Ok(Some(job)),
            Err(OperationError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// No further attempt at the job starts, as [`Jobs::cancel`].
    ///
    /// # Errors
    /// Those of [`Jobs::cancel`], and [`OperationError::ShutDown`] after
    /// [`shutdown`](Self::shutdown).
    pub async fn cancel(&self, job: impl Into<JobName>) -> Result<JobAnswer, OperationError> {
        self.jobs().cancel(job).await
    }

    /// The job is due at `time`, as [`Jobs::reschedule`].
    ///
    /// # Errors
    /// Those of [`Jobs::reschedule`], and [`OperationError::ShutDown`] after
    /// [`shutdown`](Self::shutdown).
    pub async fn reschedule(
        &self,
        job: impl Into<JobName>,
        time: impl Into<ScheduledTime>,
    ) -> Result<JobAnswer, OperationError> {
        self.jobs().reschedule(job, time).await
    }

    /// The counters since the start.
    pub fn ingest_metrics(&self) -> IngestMetrics {
        let degraded = self.inner.instance.health.counts();
        let instance = &self.inner.instance;
        IngestMetrics { degraded, ..instance.counters.read(instance.clock.now_ms()) }
    }

    /// Whether it was not shut down yet.
    pub fn is_running(&self) -> bool {
        self.inner.running.load(Ordering::Acquire)
    }

    /// The apps that this instance fires, by name.
    pub fn registered_apps(&self) -> Vec<String> {
        self.inner.instance.admission.app_names()
    }

    /// Whether it accepts requests and fires jobs, and its current problems.
    pub fn health(&self) -> HealthReport {
        let mut report = self.inner.instance.health.read();
        if self.is_running() && !self.inner.instance.has_lease() {
            report.ready = false;
            report.reasons.push("lease: not valid, so nothing is fired".into());
        }
        report
    }

    /// Why the database does not answer just now, as a sentence; `None` while it does.
    pub(crate) fn database_problem(&self) -> Option<String> {
        self.inner.instance.health.first_of(ProblemKind::DatabaseUnavailable)
    }

    /// Stops in order: the ingest first, then the app schedulers, then everything else.
    ///
    /// Running attempts may go on for `deadline`; after that they are cancelled, and their jobs
    /// fire again on another instance. Shards are released at once. Returns within 3 s after
    /// `deadline`, even if the database or the broker is unavailable. Only the first call waits;
    /// further ones return at once.
    pub async fn shutdown(&self, deadline: Duration) {
        if !self.inner.running.swap(false, Ordering::AcqRel) {
            return;
        }
        let deadline = Instant::now() + deadline;
        let end = deadline + Drain::REST + CLOSE_MAX_WAIT;
        let left = || end.saturating_duration_since(Instant::now());
        let drained = self.inner.supervisor.send(Drain { deadline });
        match tokio::time::timeout(left(), drained).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => tracing::error!("the supervisor has ended: stopping without draining"),
            Err(_) => tracing::error!("the supervisor does not answer: stopping without draining"),
        }
        let store = self.inner.instance.store.clone();
        let max_wait = left().max(CLOSE_MAX_WAIT / 2);
        let close = async move { tokio::time::timeout(max_wait, store.close()).await };
        drop(self.inner.runtime.spawn(close).await);
        self.inner.stop();
        let thread = self.inner.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            join(thread, left().max(CLOSE_MAX_WAIT / 2)).await;
        }
    }

    /// Makes every actor panic whose role begins with `role`, and returns their number, for tests
    /// of supervision.
    #[cfg(feature = "failpoints")]
    #[doc(hidden)]
    pub async fn break_actors(&self, role: &str) -> usize {
        self.inner.supervisor.send(Break(role.to_owned())).await.unwrap_or(0)
    }
}

/// Joins the thread without blocking the caller's runtime. A Kafka client may keep the thread, for
/// example after the machine's clock was set back; then it ends later.
async fn join(thread: JoinHandle<()>, max_wait: Duration) {
    let (done, joined) = oneshot::channel();
    drop(std::thread::spawn(move || {
        let ended = thread.join().is_ok();
        done.send(ended).ok();
    }));
    match tokio::time::timeout(max_wait, joined).await {
        Ok(Ok(true)) => {}
        Ok(_) => tracing::error!("the scheduler's thread panicked"),
        Err(_) => tracing::warn!("the scheduler's thread is slow to end: it is not waited for"),
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
        self.running.store(false, Ordering::Release);
        self.stop();
    }
}
