//! Attempts that run for a second are marked in the rows of their jobs, so that everybody sees what
//! runs.

use std::sync::Arc;
use std::time::Duration;

use infinite_scheduler::model::clock::{Clock, SystemClock};
use infinite_scheduler::model::retry::Backoff;
use infinite_scheduler::operations::{
    ChangeResult, JobFilter, JobName, JobOperation, JobState, ListedJob, Operations, PageRequest,
    ShownJob,
};
use infinite_scheduler::{
    AppConfig, JobContext, JobError, OperationsOptions, ScheduleJobRequest, Scheduler, handler_fn,
};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::services::{Database, TestDatabase};
use crate::support::wait_until;
use crate::support::world::LEASE;

const DEADLINE: Duration = Duration::from_secs(60);
const DRAIN: Duration = Duration::from_secs(10);

/// Jobs whose names begin with `held` wait until they may go; those with `fails` fail then.
async fn start(database: &TestDatabase, name: &str, go: &Arc<Semaphore>) -> Scheduler {
    let go = go.clone();
    let handler = handler_fn(move |context: JobContext, _: Value| {
        let go = go.clone();
        async move {
            let request = &context.job().request_id;
            if request.starts_with("held") {
                tokio::select! {
                    permit = go.acquire() => permit.map_err(JobError::retry)?.forget(),
                    () = context.cancelled().cancelled() => {}
                }
            }
            if request.contains("fails") { Err(JobError::retry("busy")) } else { Ok(()) }
        }
    });
    let mut app = AppConfig::new("sms");
    app.backoff = Backoff::Delays(vec![Duration::from_secs(3600)]);
    let builder = Scheduler::builder().database_url(database.url()).lease(LEASE);
    builder.instance_id(name).register_app(app, handler).start().await.expect("a start")
}

async fn schedule(scheduler: &Scheduler, id: &str) {
    let request = ScheduleJobRequest::builder("sms").request_id(id).at("2025-01-01T00:00:00Z");
    let request = request.job_data(&json!({})).build().expect("a request");
    scheduler.schedule(request).await.expect("a job");
}

async fn connect(database: &TestDatabase) -> Operations {
    Operations::connect(OperationsOptions::new(database.url())).await.expect("a database")
}

fn named(id: &str) -> JobName {
    JobName::of_request("sms", id)
}

fn in_state(state: &str) -> JobFilter {
    JobFilter::from_pairs([("state", state)], None).expect("a filter")
}

async fn list(operations: &Operations, filter: &JobFilter) -> Vec<ListedJob> {
    let page = PageRequest { limit: 100, cursor: None };
    operations.jobs().list(filter, &page).await.expect("a page").items
}

async fn shown(operations: &Operations, id: &str) -> ShownJob {
    operations.jobs().show(named(id)).await.expect("a job")
}

async fn await_running(operations: &Operations, id: &str) {
    wait_until(DEADLINE, "a job to be seen running", async || {
        shown(operations, id).await.state == JobState::Running
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_runs_for_a_second_is_seen_by_everybody() {
    for backend in Database::all() {
        let database = backend.fresh().await;
        let go = Arc::new(Semaphore::new(0));
        let scheduler = start(&database, "one", &go).await;
        // No instance: it sees what the rows say.
        let elsewhere = connect(&database).await;
        let before_ms = SystemClock.now_ms();
        for id in ["held-fails", "quick", "held-second"] {
            schedule(&scheduler, id).await;
        }
        let etag = shown(&elsewhere, "held-second").await.etag;
        await_running(&elsewhere, "held-fails").await;
        await_running(&elsewhere, "held-second").await;
        assert!(SystemClock.now_ms() >= before_ms + 1000, "{backend:?}: marked before a second");

        let running = list(&elsewhere, &in_state("running")).await;
        let names: Vec<&str> = running.iter().map(|job| job.request_id.as_str()).collect();
        assert_eq!(names.len(), 2, "{backend:?}: {names:?}");
        for job in &running {
            let attempt = job.running.as_ref().expect("an attempt");
            assert_eq!((attempt.attempt, attempt.instance.as_str()), (1, "one"), "{backend:?}");
            assert!((before_ms..SystemClock.now_ms()).contains(&attempt.started_ms), "{attempt:?}");
            let row = serde_json::to_value(job).expect("JSON");
            assert_eq!((&row["state"], &row["running"]["attempt"]), (&json!("running"), &json!(1)));
        }
        let all = list(&elsewhere, &JobFilter::default()).await;
        assert_eq!(all[..2], running, "{backend:?}");
        assert_eq!(all[2].state, JobState::Succeeded, "{backend:?}");
        assert_eq!(list(&elsewhere, &in_state("due")).await, [], "{backend:?}");
        let count = async |state| elsewhere.jobs().count(&in_state(state)).await.expect("a count");
        assert_eq!((count("running").await.jobs, count("due").await.jobs), (2, 0), "{backend:?}");

        // Who saw the job before it was marked has seen it as it is.
        let job = shown(&elsewhere, "held-second").await;
        assert_eq!(job.etag, etag, "{backend:?}");
        let cancel = JobOperation::cancel(named("held-second")).if_match(etag);
        let cancelled = elsewhere.jobs().carry_out(cancel).await.expect("an answer");
        assert_eq!((cancelled.result, cancelled.done), (ChangeResult::Running, true));
        assert_eq!(shown(&elsewhere, "held-second").await.state, JobState::Running);

        go.add_permits(2);
        wait_until(DEADLINE, "the end of both", async || {
            list(&elsewhere, &in_state("running")).await.is_empty()
        })
        .await;
        let job = shown(&elsewhere, "held-fails").await;
        assert_eq!((job.state, job.attempts, job.running), (JobState::Scheduled, 1, None));
        let marked = "select count(*) from scheduler_job where started_ms is not null";
        assert_eq!(database.count(marked).await, 0, "{backend:?}");
        elsewhere.close().await;
        scheduler.shutdown(DRAIN).await;
    }
}

/// The mark of an attempt that is handed back would say that it still runs.
#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_a_drain_hands_back_leaves_no_mark() {
    for backend in Database::all() {
        let database = backend.fresh().await;
        let elsewhere = {
            let handler = handler_fn(|context: JobContext, _: Value| async move {
                context.cancelled().cancelled().await;
                Err(JobError::retry("the instance ends"))
            });
            let builder = Scheduler::builder().database_url(database.url()).lease(LEASE);
            let builder = builder.register_app(AppConfig::new("sms"), handler);
            let scheduler = builder.start().await.expect("a start");
            schedule(&scheduler, "endless").await;
            let elsewhere = connect(&database).await;
            await_running(&elsewhere, "endless").await;
            scheduler.shutdown(Duration::ZERO).await;
            elsewhere
        };
        let job = shown(&elsewhere, "endless").await;
        assert_eq!((job.state, job.attempts), (JobState::Due, 0), "{backend:?}");
        let marked = "select count(*) from scheduler_job where started_ms is not null";
        assert_eq!(database.count(marked).await, 0, "{backend:?}");
        elsewhere.close().await;
    }
}
