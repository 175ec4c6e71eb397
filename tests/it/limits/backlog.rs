//! An overdue backlog under a rate, beside fresh jobs of high priority and another app.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use infinite_scheduler::model::clock::{Clock, SystemClock};
use infinite_scheduler::{
    AppConfig, JobContext, Priority, Rate, ScheduleJobRequest, Scheduler, handler_fn,
};
use serde_json::{Value, json};

use super::{DEADLINE, await_owners, now, schedule_all};
use crate::support::services::Database;
use crate::support::world::LEASE;
use crate::support::{is_long, wait_until};

/// How late each job started, milliseconds, in the order of their starts.
type Late = Arc<Mutex<Vec<(String, i64)>>>;

fn handler(late: &Late) -> impl infinite_scheduler::JobHandler + use<> {
    let late = late.clone();
    handler_fn(move |context: JobContext, _: Value| {
        let job = context.job();
        let late_ms = SystemClock.now_ms() - job.due_ms;
        late.lock().expect("a lock").push((job.request_id.clone(), late_ms));
        async { Ok(()) }
    })
}

fn job(
    app: &str,
    id: String,
    at: DateTime<Utc>,
    priority: Priority,
    expires: Option<DateTime<Utc>>,
) -> ScheduleJobRequest {
    let mut request = ScheduleJobRequest::builder(app).request_id(id).at(at).priority(priority);
    if let Some(expires) = expires {
        request = request.expires_at(expires);
    }
    request.job_data(&json!({})).build().expect("a request")
}

/// The lateness that so many percent of the jobs with this prefix do not exceed.
fn percentile(late: &Late, prefix: &str, percent: usize) -> i64 {
    let late = late.lock().expect("a lock");
    let mut of: Vec<i64> =
        late.iter().filter(|(id, _)| id.starts_with(prefix)).map(|(_, ms)| *ms).collect();
    of.sort_unstable();
    of[(of.len() * percent / 100).min(of.len() - 1)]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aged_backlog_delays_neither_fresh_high_jobs_nor_another_app() {
    let (rate, backlog, expired, fresh) =
        if is_long() { (1_000.0, 270_000, 30_000, 240) } else { (300.0, 1_500, 300, 40) };
    let database = Database::Postgres.fresh().await;
    let (late, small_late) = (Late::default(), Late::default());
    let mut app = AppConfig::new("hook");
    app.rate = Some(Rate::new(rate, None).expect("a rate"));
    // All of the backlog has aged when it starts.
    app.priority_aging = Duration::from_millis(50);
    app.window = NonZeroU32::new(500).expect("a number");
    let builder = Scheduler::builder().database_url(database.url()).lease(LEASE);
    let builder = builder.register_app(app, handler(&late));
    let builder = builder.register_app(AppConfig::new("small"), handler(&small_late));
    let scheduler = builder.start().await.expect("a start");
    await_owners(&database, 1).await;
    scheduler.apps().pause("hook", false).await.expect("a pause");
    let by = now();
    let hour_ago = |n: usize| by - Duration::from_secs(3600) + Duration::from_millis(n as u64);
    let lower = |n: usize| if n.is_multiple_of(2) { Priority::Low } else { Priority::Normal };
    let rest = (0..backlog).map(|n| job("hook", format!("rest-{n}"), hour_ago(n), lower(n), None));
    schedule_all(&scheduler, rest.collect()).await;
    let old = by - Duration::from_secs(60);
    let gone =
        (0..expired).map(|n| job("hook", format!("gone-{n}"), hour_ago(n), lower(n), Some(old)));
    schedule_all(&scheduler, gone.collect()).await;
    scheduler.apps().resume("hook").await.expect("a resumption");

    // One of each every 100 ms, while the backlog drains.
    let soon = now() + Duration::from_millis(1_500);
    let at = |n: usize| soon + Duration::from_millis(100 * n as u64);
    let high = (0..fresh).map(|n| job("hook", format!("high-{n}"), at(n), Priority::High, None));
    let small = (0..fresh).map(|n| job("small", format!("small-{n}"), at(n), Priority::Low, None));
    schedule_all(&scheduler, high.chain(small).collect()).await;
    let deadline = if is_long() { Duration::from_secs(400) } else { DEADLINE };
    wait_until(deadline, "every job", async || {
        late.lock().expect("a lock").len() == backlog + fresh
            && small_late.lock().expect("a lock").len() == fresh
    })
    .await;
    let high = percentile(&late, "high", 95);
    assert!(high <= 200, "fresh high jobs start {high} ms late");
    let small = percentile(&small_late, "small", 95);
    assert!(small <= 100, "the other app's jobs start {small} ms late");
    // Nothing that has expired was called, nor did it use up the rate.
    let letters = "select count(*) from scheduler_dead_letter where kind = 'expired'";
    assert_eq!(database.count(letters).await, expired as i64);
    scheduler.shutdown(DEADLINE).await;
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    let late = late.lock().expect("a lock");
    for (id, _) in late.iter() {
        *places.entry(id.split('-').next().expect("a prefix")).or_default() += 1;
    }
    assert_eq!(places, BTreeMap::from([("high", fresh), ("rest", backlog)]));
}
