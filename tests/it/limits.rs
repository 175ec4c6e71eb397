//! Limits of an app over all instances, measured where its jobs arrive.

mod backlog;
mod concurrency;
mod lateness;
mod overrides;
mod rate;
mod receiver;
mod rolling;

use std::time::Duration;

use chrono::{DateTime, Utc};
use infinite_scheduler::model::clock::{Clock, SystemClock};
use infinite_scheduler::{Operations, ScheduleJobRequest, Scheduler, Submitted};
use serde_json::json;

use crate::support::process::Instance;
use crate::support::services::TestDatabase;
use crate::support::wait_until;
use crate::support::world::LEASE;

const DEADLINE: Duration = Duration::from_secs(90);
const PAST: &str = "2020-01-01T00:00:00Z";

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp_millis(SystemClock.now_ms()).expect("a time")
}

/// A request for a job that is due at once.
fn overdue(app: &str, id: &str) -> ScheduleJobRequest {
    let request = ScheduleJobRequest::builder(app).request_id(id).at(PAST);
    request.job_data(&json!({})).build().expect("a request")
}

async fn schedule_all(scheduler: &Scheduler, requests: Vec<ScheduleJobRequest>) {
    for answer in scheduler.schedule_all(requests).await {
        assert!(matches!(answer, Ok(Submitted::Accepted { .. })), "{answer:?}");
    }
}

/// Submits so many jobs of `hook` that are due at once.
async fn flood(operations: &Operations, name: &str, count: usize) {
    let requests = (0..count).map(|n| overdue("hook", &format!("{name}-{n}")));
    for answer in operations.jobs().schedule_all(requests).await {
        assert!(matches!(answer, Ok(Submitted::Accepted { .. })), "{answer:?}");
    }
}

/// The configuration of an instance with an app `hook`, whose jobs go to `url`.
fn config(database: &TestDatabase, url: &str, limits: &str) -> String {
    let lease = LEASE.as_millis();
    format!(
        "[database]\nurl = \"{}\"\n[instance]\nlease_ms = {lease}\n\
         [apps.hook]\ndispatch = \"http\"\nurl = \"{url}\"\n{limits}\n",
        database.url()
    )
}

/// Waits until each of so many live instances owns shards.
async fn await_owners(database: &TestDatabase, count: i64) {
    let owners = "select count(distinct s.owner) from scheduler_shard s \
                  join scheduler_instance i on i.id = s.owner where not i.dead";
    wait_until(DEADLINE, "every instance to own shards", async || {
        database.count(owners).await == count
    })
    .await;
}

/// Waits until every live instance has sent so many heartbeats more.
async fn await_heartbeats(database: &TestDatabase, count: i64) {
    let beats = "select min(beat) from scheduler_instance where not dead";
    let before = database.count(beats).await;
    wait_until(DEADLINE, "some heartbeats", async || database.count(beats).await >= before + count)
        .await;
}

/// Starts so many instances, at the same time.
async fn start_all(config: &str, count: usize) -> Vec<Instance> {
    let mut instances: Vec<Instance> = (0..count).map(|_| Instance::spawn(config)).collect();
    for instance in &mut instances {
        instance.ready(DEADLINE).await;
    }
    instances
}
