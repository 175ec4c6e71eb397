//! The embeddable API: what a program that holds a `Scheduler` relies on.

mod answers;
mod fields;
mod handlers;
mod hanging;
mod runtimes;
mod settings;
mod shutdown;

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use infinite_scheduler::{
    AppConfig, ErrorKind, IngestMetrics, JobContext, JobError, JobHandler, OperationError, Refusal,
    ScheduleJobRequest, Scheduler, SchedulerBuilder, Submitted,
};
use serde_json::json;

use crate::support::services::{Database, TestDatabase};
use crate::support::wait_until;
use crate::support::world::LEASE;

const DEADLINE: Duration = Duration::from_secs(90);
const DRAIN: Duration = Duration::from_secs(10);
const PAST: &str = "2020-01-01T00:00:00Z";

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn now() -> DateTime<Utc> {
    SystemTime::now().into()
}

fn builder(database: &TestDatabase) -> SchedulerBuilder {
    Scheduler::builder().database_url(database.url()).lease(LEASE)
}

fn request(app: &str, id: &str) -> ScheduleJobRequest {
    ScheduleJobRequest::builder(app).request_id(id).at(PAST).build().expect("a request")
}

async fn accept(scheduler: &Scheduler, request: ScheduleJobRequest) {
    match scheduler.schedule(request).await {
        Ok(Submitted::Accepted { .. }) => {}
        other => panic!("{other:?}"),
    }
}

async fn refusal(scheduler: &Scheduler, request: ScheduleJobRequest) -> Refusal {
    match scheduler.schedule(request).await {
        Err(OperationError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

/// One attempt as its handler saw it.
#[derive(Clone, Debug)]
struct Firing {
    request_id: String,
    attempt: u32,
    fence: u64,
    /// By the handler's own look at the clock.
    at_ms: i64,
    due_ms: i64,
}

/// Notes every firing, then answers as `answer` says.
struct Recorder<F> {
    firings: Arc<Mutex<Vec<Firing>>>,
    answer: F,
}

type Firings = Arc<Mutex<Vec<Firing>>>;

fn recorder<F, Fut>(answer: F) -> (Recorder<F>, Firings)
where
    F: Fn(JobContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), JobError>> + Send,
{
    let firings = Firings::default();
    (Recorder { firings: firings.clone(), answer }, firings)
}

impl<F, Fut> JobHandler for Recorder<F>
where
    F: Fn(JobContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), JobError>> + Send,
{
    async fn execute(&self, ctx: &JobContext) -> Result<(), JobError> {
        let firing = Firing {
            request_id: ctx.job().request_id.clone(),
            attempt: ctx.attempt(),
            fence: ctx.fence().get(),
            at_ms: now().timestamp_millis(),
            due_ms: ctx.job().due_ms,
        };
        self.firings.lock().expect("a lock").push(firing);
        (self.answer)(ctx.clone()).await
    }
}

fn of(firings: &Firings, request_id: &str) -> Vec<Firing> {
    let all = firings.lock().expect("a lock");
    all.iter().filter(|firing| firing.request_id == request_id).cloned().collect()
}

async fn await_firings(firings: &Firings, count: usize) {
    wait_until(DEADLINE, &format!("{count} firings"), async || {
        firings.lock().expect("a lock").len() >= count
    })
    .await;
}

async fn await_no_jobs(database: &TestDatabase) {
    wait_until(DEADLINE, "the end of every job", async || {
        database.count("select count(*) from scheduler_job").await == 0
    })
    .await;
}

/// Checked by the compiler.
#[test]
fn the_handle_can_be_shared_among_threads_and_cloned() {
    fn check<T: Send + Sync + Clone + 'static>() {}
    check::<Scheduler>();
    fn check_send<T: Send>(_: impl Fn(SchedulerBuilder) -> T) {}
    check_send(SchedulerBuilder::start);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_kafka_jobs_come_by_api_alone() {
    let database = Database::Sqlite.fresh().await;
    let (handler, firings) = recorder(|_| async { Ok(()) });
    let scheduler = builder(&database)
        .register_app(AppConfig::new("sms"), handler)
        .register_app(AppConfig::new("mail"), infinite_scheduler::Discard)
        .start()
        .await
        .expect("a start");
    assert!(scheduler.is_running());
    assert_eq!(scheduler.registered_apps(), ["mail", "sms"]);
    wait_until(DEADLINE, "readiness", async || scheduler.health().sentences().is_empty()).await;

    let first = scheduler.clone().schedule(request("sms", "r")).await;
    let Ok(Submitted::Accepted { job_id, request_id }) = first else { panic!("{first:?}") };
    assert_eq!(request_id, "r");
    await_no_jobs(&database).await;

    let far = || ScheduleJobRequest::builder("sms").at("2030-01-01T00:00:00Z");
    let live = far().request_id("live").job_data(&json!({"n": 1})).build().expect("a request");
    accept(&scheduler, live.clone()).await;
    match scheduler.schedule(live).await {
        Ok(Submitted::Duplicate { of, job_id: of_job, .. }) => {
            assert_eq!(of, "live");
            assert_ne!(of_job, job_id);
        }
        other => panic!("{other:?}"),
    }
    let other = far().request_id("live").job_data(&json!({"n": 2})).build().expect("a request");
    let refused = refusal(&scheduler, other).await;
    assert_eq!(refused.kind, ErrorKind::RequestConflict);
    assert!(refused.message.contains("\"live\"") && refused.message.contains("other jobData"));
    let keyed = |id: &str, n: u32| {
        let request = far().request_id(id).idempotency_key("k").job_data(&json!({"n": n}));
        request.build().expect("a request")
    };
    accept(&scheduler, keyed("k-1", 1)).await;
    match scheduler.schedule(keyed("k-2", 1)).await {
        Ok(Submitted::Duplicate { of, .. }) => assert_eq!(of, "k-1"),
        other => panic!("{other:?}"),
    }
    let refused = refusal(&scheduler, keyed("k-3", 2)).await;
    assert_eq!(refused.kind, ErrorKind::IdempotencyConflict);
    assert!(refused.message.contains("\"k-1\""), "{refused}");

    let refused = refusal(&scheduler, request("nobody", "r")).await;
    assert_eq!(refused.kind, ErrorKind::UnknownApp);
    assert_eq!(
        (refused.app.as_deref(), refused.request_id.as_deref()),
        (Some("nobody"), Some("r"))
    );
    let too_far = ScheduleJobRequest::builder("sms").at("2999-01-01T00:00:00Z");
    let refused = refusal(&scheduler, too_far.build().expect("a request")).await;
    assert_eq!(refused.kind, ErrorKind::ScheduleTooFar);

    // Without a name the scheduler makes one, each time another.
    let unnamed = || far().build().expect("a request");
    let Ok(Submitted::Accepted { request_id: one, .. }) = scheduler.schedule(unnamed()).await
    else {
        panic!("not accepted")
    };
    let Ok(Submitted::Accepted { request_id: other, .. }) = scheduler.schedule(unnamed()).await
    else {
        panic!("not accepted")
    };
    assert_ne!(one, other);

    let metrics: IngestMetrics = scheduler.ingest_metrics();
    assert_eq!((metrics.messages_processed, metrics.messages_duplicate), (5, 2));
    assert_eq!((metrics.apps["sms"].succeeded, metrics.apps["sms"].scheduled), (1, 5));
    assert_eq!(metrics.apps["mail"].scheduled, 0);
    assert!(metrics.consumer_lag.is_empty());
    assert_eq!(of(&firings, "r").len(), 1);
    // By API a refusal is an answer, not a dead letter.
    assert_eq!(database.count("select count(*) from scheduler_dead_letter").await, 0);

    let clone = scheduler.clone();
    scheduler.shutdown(DRAIN).await;
    assert!(!clone.is_running() && !clone.health().sentences().is_empty());
    clone.shutdown(DRAIN).await;
    let late = clone.schedule(request("sms", "late")).await;
    assert!(matches!(late, Err(OperationError::ShutDown)), "{late:?}");
}
