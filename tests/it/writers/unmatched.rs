//! An outcome whose statement finds no row does not count as written: the row is looked up, and all
//! such outcomes are counted.

use std::sync::Arc;

use infinite_scheduler::model::ids::JobId;
use infinite_scheduler::model::verdict::Event;
use infinite_scheduler::store::{Ended, Outcome, OutcomeBatch, ShardFence};
use infinite_scheduler::{AppConfig, Discard, Job, ScheduleJobRequest, Scheduler};

use super::{DEADLINE, batch, ground_on, job, own};
use crate::support::fixture::Fixture;
use crate::support::services::{Database, TestDatabase};
use crate::support::wait_until;

/// Databases on which a trigger can keep a delete from finding its row, as a server does that
/// does not have the row yet.
const HIDING: [Database; 2] = [Database::Sqlite, Database::Postgres];

async fn hide(database: &TestDatabase) {
    let statements: &[&str] = match database.backend() {
        Database::Postgres => &[
            "create function hide() returns trigger language plpgsql as \
             $$ begin return null; end $$",
            "create trigger hide before delete on scheduler_job for each row \
             execute function hide()",
        ],
        _ => &["create trigger hide before delete on scheduler_job begin \
             select raise(ignore); end"],
    };
    for statement in statements {
        database.execute(statement).await;
    }
}

async fn show(database: &TestDatabase) {
    let statement = match database.backend() {
        Database::Postgres => "drop trigger hide on scheduler_job",
        _ => "drop trigger hide",
    };
    database.execute(statement).await;
}

/// The fixture's job in the table, and its end.
async fn ended(fixture: &Fixture, fence: ShardFence, outcome: Outcome) -> Arc<OutcomeBatch> {
    let admitted = batch(fixture.records(0), vec![job(fixture, "r")], vec![fence]);
    fixture.store.admit(&admitted).await.expect("an answer");
    let id = JobId::derive("sms", "r");
    let job = fixture
        .store
        .jobs_by_id(&[id], usize::MAX)
        .await
        .expect("an answer")
        .0
        .pop()
        .expect("the job");
    Arc::new(outcome_of(job, fence, outcome))
}

fn outcome_of(job: Job, fence: ShardFence, outcome: Outcome) -> OutcomeBatch {
    let verdicts = vec![Event { key: None, json: "\"told\"".into() }];
    let outcomes = vec![Ended { job: Arc::new(job), outcome, verdicts, kept: None }];
    OutcomeBatch { fences: vec![fence], outcomes }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_without_its_row_is_counted_and_finished() {
    for backend in Database::all() {
        for outcome in [Outcome::Succeeded, Outcome::Retry { due_ms: 7, attempts: 1, error: None }]
        {
            let database = backend.fresh().await;
            let fixture = ground_on(&database).await;
            let fence = own(&fixture).await;
            let outcomes = ended(&fixture, fence, outcome).await;
            let write = async || {
                let written = fixture.store.write_outcomes(&outcomes).await.expect("an answer");
                assert_eq!(written.lost, [], "{backend:?}");
                let left = fixture.store.outcomes_left(&outcomes, &[]).await.expect("an answer");
                (written.unmatched, left.map_or(0, |left| left.outcomes.len()))
            };
            assert_eq!(write().await, (0, 0), "{backend:?}");
            assert_eq!(write().await, (1, 0), "{backend:?}: gone, or of another version");
            database.execute("delete from scheduler_job").await;
            assert_eq!(write().await, (1, 0), "{backend:?}: gone");
            fixture.store.close().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_does_not_find_a_row_that_is_there_is_left_to_be_written() {
    for backend in HIDING {
        let database = backend.fresh().await;
        let fixture = ground_on(&database).await;
        let fence = own(&fixture).await;
        let outcomes = ended(&fixture, fence, Outcome::Succeeded).await;
        hide(&database).await;
        let written = fixture.store.write_outcomes(&outcomes).await.expect("an answer");
        assert_eq!(written.unmatched, 1, "{backend:?}");
        show(&database).await;
        let left = fixture.store.outcomes_left(&outcomes, &[]).await.expect("an answer");
        let left = Arc::new(left.expect("the outcome"));
        assert_eq!(left.outcomes[0].verdicts, [], "{backend:?}: these are told already");
        let written = fixture.store.write_outcomes(&left).await.expect("an answer");
        assert_eq!(written.unmatched, 0, "{backend:?}");
        let jobs = database.count("select count(*) from scheduler_job").await;
        assert_eq!(jobs, 0, "{backend:?}");
        fixture.store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_row_was_not_found_at_its_end_goes_all_the_same_and_fires_once() {
    for backend in HIDING {
        let database = backend.fresh().await;
        let builder = Scheduler::builder().database_url(database.url());
        let builder = builder.register_app(AppConfig::new("sms"), Discard);
        let scheduler = builder.start().await.expect("a start");
        hide(&database).await;
        let request = ScheduleJobRequest::builder("sms").at("2020-01-01T00:00:00Z").build();
        scheduler.schedule(request.expect("a request")).await.expect("accepted");
        wait_until(DEADLINE, "an outcome without its row", async || {
            scheduler.ingest_metrics().outcomes_unmatched > 0
        })
        .await;
        show(&database).await;
        wait_until(DEADLINE, "the end of the job", async || {
            database.count("select count(*) from scheduler_job").await == 0
        })
        .await;
        wait_until(DEADLINE, "the count of it", async || {
            scheduler.ingest_metrics().apps["sms"].succeeded == 1
        })
        .await;
        assert_eq!(scheduler.ingest_metrics().apps["sms"].fired, 1, "{backend:?}");
        scheduler.shutdown(DEADLINE).await;
    }
}
