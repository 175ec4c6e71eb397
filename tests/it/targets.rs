//! Dispatch targets beside Kafka: what a receiver gets, and what its answers mean.

mod authority;
mod circuit;
mod http;
mod receiver;
mod receivers;
mod redis;
mod retries;
mod retry_after;
mod routes;
mod slow;
mod tls;
mod topic;

use std::time::Duration;

use infinite_scheduler::{Config, ScheduleJobRequest, Scheduler, SchedulerBuilder, Submitted};

use crate::support::services::{Database, TestDatabase};
use crate::support::wait_for;
use crate::support::world::LEASE;

const DEADLINE: Duration = Duration::from_secs(90);
const DRAIN: Duration = Duration::from_secs(10);

/// A scheduler with an app `sms` of these keys.
async fn fire_to(keys: &str) -> (TestDatabase, Scheduler) {
    let database = Database::Sqlite.fresh().await;
    let scheduler = builder(&database, keys).start().await.expect("a start");
    (database, scheduler)
}

fn builder(database: &TestDatabase, keys: &str) -> SchedulerBuilder {
    let config = format!("[apps.sms]\nbackoff = {{ delays_ms = [200] }}\n{keys}");
    let config = Config::from_toml(&config, []).expect("a configuration");
    SchedulerBuilder::from_config(&config).database_url(database.url()).lease(LEASE)
}

/// Schedules a job of `sms` that is due at once.
async fn schedule(scheduler: &Scheduler, id: &str) {
    schedule_to(scheduler, "sms", id).await;
}

async fn schedule_to(scheduler: &Scheduler, app: &str, id: &str) {
    let request = ScheduleJobRequest::builder(app)
        .request_id(id)
        .at("2020-01-01T00:00:00Z")
        .job_data(&serde_json::json!({"a": 1}))
        .build()
        .expect("a request");
    let submitted = scheduler.schedule(request).await.expect("an answer");
    assert!(matches!(submitted, Submitted::Accepted { .. }), "{submitted:?}");
}

/// The kind and message of the only dead letter.
async fn letter(database: &TestDatabase) -> (String, String) {
    use sea_orm::{ConnectionTrait, Statement};
    let connection = database.connect().await;
    wait_for(DEADLINE, "a dead letter", async || {
        let sql = "select kind, message from scheduler_dead_letter";
        let query = Statement::from_string(connection.get_database_backend(), sql);
        let row = connection.query_one_raw(query).await.expect("rows")?;
        Some((row.try_get_by(0).expect("a kind"), row.try_get_by(1).expect("a message")))
    })
    .await
}

/// Waits until no job is left.
async fn no_jobs(database: &TestDatabase) {
    wait_for(DEADLINE, "no job left", async || {
        let left = database.count("select count(*) from scheduler_job").await;
        (left == 0).then_some(())
    })
    .await;
}
