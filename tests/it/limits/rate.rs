//! `rate_per_second` and `burst`.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use infinite_scheduler::operations::LimitChange;
use infinite_scheduler::{
    AppConfig, JobContext, Operations, OperationsOptions, Rate, ScheduleJobRequest, Scheduler,
    handler_fn,
};
use serde_json::{Value, json};

use super::receiver::Receiver;
use super::{
    DEADLINE, PAST, await_heartbeats, await_owners, config, flood, overdue, schedule_all, start_all,
};
use crate::support::process::Instance;
use crate::support::services::Database;
use crate::support::world::LEASE;
use crate::support::{is_long, wait_until};

/// Fails if in any window more attempts started than `rate * (t + 1) + burst`.
#[track_caller]
pub(super) fn check_bound(starts: &[Instant], rate: f64, burst: f64) {
    let mut starts = starts.to_vec();
    starts.sort_unstable();
    for (first, from) in starts.iter().enumerate() {
        for (last, to) in starts.iter().enumerate().skip(first) {
            let seconds = (*to - *from).as_secs_f64();
            let most = rate * (seconds + 1.0) + burst;
            let count = last - first + 1;
            assert!(count as f64 <= most, "{count} in {seconds} s, at most {most}");
        }
    }
}

type Starts = Arc<Mutex<Vec<Instant>>>;

fn count(starts: &Starts) -> usize {
    starts.lock().expect("a lock").len()
}

async fn start(url: &str, rate: Rate, starts: &Starts) -> Scheduler {
    let starts = starts.clone();
    let handler = handler_fn(move |_: JobContext, _: Value| {
        starts.lock().expect("a lock").push(Instant::now());
        async { Ok(()) }
    });
    let mut app = AppConfig::new("sms");
    app.rate = Some(rate);
    let builder = Scheduler::builder().database_url(url).lease(LEASE);
    builder.register_app(app, handler).start().await.expect("a start")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_is_kept_and_used_on_sqlite() {
    a_rate_is_kept_and_used(Database::Sqlite, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_is_kept_and_used_on_mariadb() {
    a_rate_is_kept_and_used(Database::MariaDb, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_is_kept_and_used_on_mysql() {
    a_rate_is_kept_and_used(Database::MySql, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_is_kept_and_used_on_postgres() {
    a_rate_is_kept_and_used(Database::Postgres, 3).await;
}

async fn a_rate_is_kept_and_used(database: Database, instances: usize) {
    const JOBS: usize = 300;
    const EXPIRED: usize = 200;
    let database = database.fresh().await;
    let rate = Rate::new(100.0, NonZeroU32::new(10)).expect("a rate");
    let starts = Starts::default();
    let mut schedulers = Vec::new();
    for _ in 0..instances {
        schedulers.push(start(database.url(), rate, &starts).await);
    }
    await_owners(&database, instances as i64).await;
    let by = Instant::now();
    let expired = |n: usize| {
        let request = ScheduleJobRequest::builder("sms").request_id(format!("expired-{n}"));
        let request = request.at(PAST).expires_at("2020-01-01T00:01:00Z");
        request.job_data(&json!({})).build().expect("a request")
    };
    let requests = (0..JOBS).map(|n| overdue("sms", &format!("{n}")));
    schedule_all(&schedulers[0], requests.chain((0..EXPIRED).map(expired)).collect()).await;
    wait_until(DEADLINE, "every job to be fired", async || count(&starts) == JOBS).await;
    let took = by.elapsed();
    check_bound(&starts.lock().expect("a lock"), 100.0, 10.0);
    assert!(took > Duration::from_millis(1_900), "{JOBS} jobs in {took:?}");
    // Expired jobs need no start, or it would be five seconds.
    assert!(took < Duration::from_millis(4_500), "{JOBS} jobs in {took:?}");
    let letters = "select count(*) from scheduler_dead_letter where kind = 'expired'";
    wait_until(DEADLINE, "every letter", async || database.count(letters).await == EXPIRED as i64)
        .await;
    for scheduler in schedulers {
        scheduler.shutdown(DEADLINE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_comes_alone_does_not_wait_for_the_rate() {
    let database = Database::Sqlite.fresh().await;
    let starts = Starts::default();
    let rate = Rate::new(1.0 / 60.0, NonZeroU32::new(2)).expect("a rate");
    let scheduler = start(database.url(), rate, &starts).await;
    await_owners(&database, 1).await;
    for n in 0..2 {
        let at = Instant::now();
        schedule_all(&scheduler, vec![overdue("sms", &n.to_string())]).await;
        wait_until(DEADLINE, "a start", async || count(&starts) == n + 1).await;
        assert!(at.elapsed() < Duration::from_millis(800), "{:?}", at.elapsed());
    }
    // The burst is used up: the next one starts in a minute.
    schedule_all(&scheduler, vec![overdue("sms", "late")]).await;
    let moved = "select count(*) from scheduler_app where rate_ns > 0";
    assert_eq!(database.count(moved).await, 1);
    assert_eq!(count(&starts), 2);
    scheduler.shutdown(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_holds_while_instances_die_are_suspended_and_come_back() {
    // Ten a second over ten minutes, or more of them in a shorter time.
    let (rate, seconds) = if is_long() { (10.0, 60) } else { (50.0, 3) };
    let calls = |of_seconds: u64| (rate * of_seconds as f64) as usize;
    let database = Database::Postgres.fresh().await;
    let receiver = Receiver::start(Duration::ZERO).await;
    let limits = format!("rate_per_second = {rate}\nburst = 10\nbackoff = {{ delays_ms = [200] }}");
    let config = config(&database, &receiver.url(), &limits);
    let mut instances = start_all(&config, 3).await;
    await_owners(&database, 3).await;
    let operations = Operations::connect(OperationsOptions::new(database.url()).lease(LEASE));
    let operations = operations.await.expect("a database");
    flood(&operations, "first", calls(10 * seconds)).await;
    receiver.await_more(calls(2)).await;

    for round in 0..if is_long() { 6 } else { 2 } {
        let chosen = round % 3;
        instances[chosen].kill();
        instances[chosen] = Instance::start(&config).await;
        receiver.await_more(calls(seconds / 3)).await;
    }
    instances[0].terminate(DEADLINE).await;
    instances[0] = Instance::start(&config).await;
    instances[1].stop();
    receiver.await_more(calls(seconds)).await;
    instances[1].cont();
    await_owners(&database, 3).await;

    // Nobody dies: the rate is used.
    receiver.await_more(calls(1)).await;
    let (quiet, before) = (Instant::now(), receiver.count());
    receiver.await_more(calls(seconds)).await;
    let used = (receiver.count() - before) as f64 / (rate * quiet.elapsed().as_secs_f64());
    assert!(used >= 0.95, "{used} of the rate is used");
    let starts: Vec<Instant> = receiver.calls().iter().map(|call| call.began).collect();
    check_bound(&starts, rate, 10.0);

    // A pause stays while the rate is changed and an instance restarts.
    operations.apps().pause("hook", false).await.expect("a pause");
    await_heartbeats(&database, 3).await;
    let before = receiver.count();
    let change = LimitChange::from_json(&format!("{{\"ratePerSecond\":{}}}", 2.0 * rate));
    operations.apps().change("hook", change.expect("limits")).await.expect("a change");
    instances[2].terminate(DEADLINE).await;
    instances[2] = Instance::start(&config).await;
    await_heartbeats(&database, 3).await;
    assert_eq!(receiver.count(), before, "it is paused");
    operations.apps().resume("hook").await.expect("a resumption");
    receiver.await_more(calls(4)).await;
    let later: Vec<Instant> = receiver.calls()[before..].iter().map(|call| call.began).collect();
    check_bound(&later, 2.0 * rate, 10.0);
    let took = later[calls(4) - 1] - later[0];
    assert!(took < Duration::from_secs(3), "{} calls at twice the rate in {took:?}", calls(4));
}
