//! Lateness as a promise, and the forecast.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use infinite_scheduler::{
    AppConfig, JobContext, OperationError, Priority, Rate, ScheduleJobRequest, Scheduler,
    handler_fn,
};
use serde_json::{Value, json};

use super::{DEADLINE, await_heartbeats, await_owners, now, schedule_all};
use crate::support::services::{Database, TestDatabase};
use crate::support::wait_until;
use crate::support::world::LEASE;

async fn start(database: &TestDatabase, app: AppConfig, started: &Arc<AtomicUsize>) -> Scheduler {
    let started = started.clone();
    let handler = handler_fn(move |_: JobContext, _: Value| {
        started.fetch_add(1, Ordering::Relaxed);
        async { Ok(()) }
    });
    let builder = Scheduler::builder().database_url(database.url()).lease(LEASE);
    let scheduler = builder.register_app(app, handler).start().await.expect("a start");
    await_owners(database, 1).await;
    scheduler
}

fn at(id: &str, ago: Duration) -> ScheduleJobRequest {
    let request = ScheduleJobRequest::builder("sms").request_id(id).at(now() - ago);
    request.priority(Priority::Low).job_data(&json!({})).build().expect("a request")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_share_that_met_the_objective_is_shown_everywhere() {
    let database = Database::Sqlite.fresh().await;
    let started = Arc::new(AtomicUsize::new(0));
    let mut app = AppConfig::new("sms");
    app.objective = Some(Duration::from_millis(300));
    // Four start at once, the next four a second later each.
    app.rate = Some(Rate::new(1.0, NonZeroU32::new(4)).expect("a rate"));
    let scheduler = start(&database, app, &started).await;
    let jobs = (0..6).map(|n| at(&n.to_string(), Duration::from_secs(60)));
    schedule_all(&scheduler, jobs.collect()).await;
    wait_until(DEADLINE, "six starts", async || started.load(Ordering::Relaxed) == 6).await;
    let metrics = serde_json::to_value(scheduler.ingest_metrics()).expect("JSON");
    let app = &metrics["apps"]["sms"];
    let (met, missed) = (app["objectiveMet"].as_u64(), app["objectiveMissed"].as_u64());
    assert_eq!(met.expect("a number") + missed.expect("a number"), 6, "{app}");
    assert!((1..=4).contains(&met.expect("a number")), "{app}");
    let share = app["objectiveMetLastHour"].as_f64().expect("a share");
    assert!((share - met.expect("a number") as f64 / 6.0).abs() < 1e-9, "{app}");
    let up_to = |bound: &str| app["latenessUpToMs"][bound].as_u64().expect("a count");
    assert!(up_to("1") <= up_to("1000") && up_to("10000") == 6, "{app}");
    // What the instance has published with a heartbeat.
    wait_until(DEADLINE, "the published share", async || {
        let app = scheduler.apps().show("sms").await.expect("the app");
        app.started_last_hour == 6 && app.objective_met_last_hour == Some(share)
    })
    .await;
    scheduler.shutdown(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forecast_counts_by_minutes_once_a_minute_on_sqlite() {
    a_forecast_counts_by_minutes_once_a_minute(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forecast_counts_by_minutes_once_a_minute_on_mariadb() {
    a_forecast_counts_by_minutes_once_a_minute(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forecast_counts_by_minutes_once_a_minute_on_mysql() {
    a_forecast_counts_by_minutes_once_a_minute(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forecast_counts_by_minutes_once_a_minute_on_postgres() {
    a_forecast_counts_by_minutes_once_a_minute(Database::Postgres).await;
}

async fn a_forecast_counts_by_minutes_once_a_minute(database: Database) {
    let database = database.fresh().await;
    let scheduler = start(&database, AppConfig::new("sms"), &Arc::default()).await;
    scheduler.apps().pause("sms", false).await.expect("a pause");
    wait_until(DEADLINE, "the pause", async || scheduler.ingest_metrics().apps["sms"].paused == 1)
        .await;
    let jobs = [
        at("old", Duration::from_secs(400 * 24 * 3600)),
        at("late", Duration::from_secs(200)),
        at("just", Duration::from_secs(1)),
    ];
    schedule_all(&scheduler, jobs.into()).await;
    let soon = |n: u64| {
        let at = now() + Duration::from_secs(630);
        let request = ScheduleJobRequest::builder("sms").request_id(format!("soon-{n}")).at(at);
        request.build().expect("a request")
    };
    schedule_all(&scheduler, (0..7).map(soon).collect()).await;
    let forecast = scheduler.apps().forecast("sms", 2).await.expect("a forecast");
    assert_eq!((forecast.overdue, forecast.more_overdue), (3, false));
    assert_eq!(forecast.drained_in_seconds, None, "nothing starts");
    let minutes: Vec<u64> = forecast.minutes.iter().map(|minute| minute.jobs).collect();
    assert_eq!((minutes.len(), minutes.iter().sum::<u64>()), (120, 7));
    assert_eq!(minutes[9] + minutes[10], 7);
    // The database is not asked again.
    schedule_all(&scheduler, vec![at("another", Duration::from_secs(1))]).await;
    let again = scheduler.apps().forecast("sms", 2).await.expect("a forecast");
    assert_eq!(again, forecast);
    let nobody = scheduler.apps().forecast("fax", 1).await;
    assert!(matches!(nobody, Err(OperationError::NotFound(_))), "{nobody:?}");
    let never = scheduler.apps().forecast("sms", 25).await;
    assert!(matches!(never, Err(OperationError::Invalid(_))), "{never:?}");
    scheduler.shutdown(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_to_drain_is_predicted_within_a_third() {
    const JOBS: usize = 3_000;
    let database = Database::Postgres.fresh().await;
    let started = Arc::new(AtomicUsize::new(0));
    let mut app = AppConfig::new("sms");
    app.rate = Some(Rate::new(200.0, NonZeroU32::new(20)).expect("a rate"));
    let scheduler = start(&database, app, &started).await;
    let jobs = (0..JOBS).map(|n| at(&n.to_string(), Duration::from_secs(n as u64)));
    schedule_all(&scheduler, jobs.collect()).await;
    wait_until(DEADLINE, "a part", async || started.load(Ordering::Relaxed) > JOBS / 4).await;
    // Two seconds of it are in the published pace by then.
    wait_until(DEADLINE, "the pace", async || {
        scheduler.apps().show("sms").await.expect("the app").starts_per_second > 100.0
    })
    .await;
    await_heartbeats(&database, 1).await;
    let asked = Instant::now();
    let forecast = scheduler.apps().forecast("sms", 1).await.expect("a forecast");
    let predicted = forecast.drained_in_seconds.expect("a time") as f64;
    wait_until(DEADLINE, "the rest", async || started.load(Ordering::Relaxed) == JOBS).await;
    let took = asked.elapsed().as_secs_f64();
    let error = (predicted - took).abs() - 1.0;
    assert!(error <= took / 3.0, "{predicted} s were predicted, it took {took} s");
    scheduler.shutdown(DEADLINE).await;
}
