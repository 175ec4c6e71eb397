//! Handlers that do not end at their time limit: their jobs, the other apps and the shutdown do
//! not wait for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use infinite_scheduler::model::retry::Backoff;
use infinite_scheduler::{AppConfig, JobError, ProblemKind};

use super::{
    DEADLINE, DRAIN, accept, await_firings, await_no_jobs, builder, ms, of, recorder, request,
};
use crate::support::services::Database;
use crate::support::wait_until;

const LIMIT: Duration = ms(1000);

/// Two attempts at a time, two for each job, soon after each other.
fn stuck() -> AppConfig {
    let mut app = AppConfig::new("stuck");
    app.timeout = LIMIT;
    app.max_in_flight = const { std::num::NonZeroU32::new(2).unwrap() };
    app.max_attempts = const { std::num::NonZeroU32::new(2).unwrap() };
    app.backoff = Backoff::Delays(vec![ms(1)]);
    app
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_ends_at_its_limit_whatever_its_handler_still_does() {
    let database = Database::Sqlite.fresh().await;
    let (handler, firings) = recorder(|ctx| async move {
        match ctx.job().request_id.as_str() {
            "blocking" => {
                let blocking = tokio::task::spawn_blocking(|| std::thread::sleep(LIMIT * 3));
                blocking.await.map_err(JobError::retry)
            }
            "deaf" => loop {
                tokio::time::sleep(ms(10)).await;
            },
            "late" => {
                ctx.cancelled().cancelled().await;
                tokio::time::sleep(ms(100)).await;
                Ok(())
            }
            _ => {
                ctx.cancelled().cancelled().await;
                panic!("since it was cancelled")
            }
        }
    });
    let (small, others) = recorder(|_| async { Ok(()) });
    let mut app = stuck();
    app.max_in_flight = AppConfig::new("x").max_in_flight;
    let builder = builder(&database).register_app(app, handler);
    let scheduler =
        builder.register_app(AppConfig::new("small"), small).start().await.expect("a start");
    const IDS: [&str; 4] = ["blocking", "deaf", "late", "panicking"];
    for id in IDS {
        accept(&scheduler, request("stuck", id)).await;
    }
    await_firings(&firings, IDS.len()).await;
    accept(&scheduler, request("small", "meanwhile")).await;
    await_firings(&others, 1).await;
    await_no_jobs(&database).await;
    for id in IDS {
        let attempts = of(&firings, id);
        assert_eq!(attempts.iter().map(|it| it.attempt).collect::<Vec<_>>(), [1, 2], "{id}");
        let waited = attempts[1].at_ms - attempts[0].at_ms;
        assert!((1000..1900).contains(&waited), "{id}: {waited} ms");
    }
    let metrics = scheduler.ingest_metrics().apps["stuck"].clone();
    assert_eq!((metrics.failed, metrics.succeeded, metrics.dead), (8, 0, 4), "{metrics:?}");
    let told =
        "select count(*) from scheduler_dead_letter where message like '%longer than 1000 ms%'";
    assert_eq!(database.count(told).await, 4);
    wait_until(DEADLINE, "an end of all handlers", async || {
        scheduler.ingest_metrics().apps["stuck"].attempts_hanging == 0
    })
    .await;
    scheduler.shutdown(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_that_block_their_threads_stop_their_app_and_nothing_else() {
    let database = Database::Sqlite.fresh().await;
    let blocks = Arc::new(AtomicBool::new(true));
    let still = blocks.clone();
    let (handler, firings) = recorder(move |_| {
        let blocks = still.clone();
        async move {
            while blocks.load(Ordering::SeqCst) {
                std::thread::sleep(ms(10));
            }
            Ok(())
        }
    });
    let scheduler =
        builder(&database).register_app(stuck(), handler).start().await.expect("a start");
    for n in 0..6 {
        accept(&scheduler, request("stuck", &format!("r-{n}"))).await;
    }
    let metrics = || scheduler.ingest_metrics().apps["stuck"].clone();
    wait_until(DEADLINE, "a report of the app", async || {
        let degraded = scheduler.health().degraded;
        degraded.iter().any(|it| it.kind == ProblemKind::HandlersHang)
    })
    .await;
    assert!(scheduler.health().ready);
    let stopped = metrics();
    assert!((1..=2).contains(&stopped.attempts_hanging), "{stopped:?}");
    assert!(firings.lock().expect("a lock").len() <= 4);
    // The threads return, and the jobs go on, each with its next attempt.
    blocks.store(false, Ordering::SeqCst);
    await_no_jobs(&database).await;
    wait_until(DEADLINE, "the end of the report", async || {
        scheduler.health().degraded.is_empty() && metrics().attempts_hanging == 0
    })
    .await;
    let ended = metrics();
    assert_eq!((ended.succeeded, ended.dead), (6, 0), "{ended:?}");
    // And a shutdown does not wait for what blocks.
    blocks.store(true, Ordering::SeqCst);
    let before = firings.lock().expect("a lock").len();
    accept(&scheduler, request("stuck", "last")).await;
    await_firings(&firings, before + 1).await;
    let began = Instant::now();
    scheduler.shutdown(ms(200)).await;
    assert!(began.elapsed() < ms(200) + Duration::from_secs(3), "{:?}", began.elapsed());
    blocks.store(false, Ordering::SeqCst);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_wait_that_a_handler_asks_for_is_unbounded_or_spins() {
    let database = Database::Sqlite.fresh().await;
    let (handler, firings) = recorder(|ctx| async move {
        Err(match ctx.job().request_id.as_str() {
            "wait-for-ever" => JobError::RetryAfter(Duration::MAX, "never".into()),
            "at-once" => JobError::RetryAfter(Duration::ZERO, "now".into()),
            "snooze-for-ever" => JobError::Snooze(chrono::DateTime::<chrono::Utc>::MAX_UTC),
            _ => JobError::Snooze(super::now() - chrono::TimeDelta::hours(1)),
        })
    });
    let mut app = AppConfig::new("sms");
    app.max_attempts = const { std::num::NonZeroU32::new(3).unwrap() };
    app.backoff = Backoff::Delays(vec![ms(300)]);
    let scheduler = builder(&database).register_app(app, handler).start().await.expect("a start");
    for id in ["wait-for-ever", "at-once", "snooze-for-ever", "snooze-into-the-past"] {
        accept(&scheduler, request("sms", id)).await;
    }
    wait_until(DEADLINE, "three snoozes into the past", async || {
        of(&firings, "snooze-into-the-past").len() >= 3
    })
    .await;
    for (id, least) in [("snooze-into-the-past", 1000), ("at-once", 300)] {
        let at: Vec<i64> = of(&firings, id).iter().map(|it| it.at_ms).collect();
        let shortest = at.windows(2).map(|two| two[1] - two[0]).min();
        assert!(shortest >= Some(least), "{id}: {at:?}");
    }
    let in_years =
        |years: i64| (super::now() + chrono::TimeDelta::days(365 * years)).timestamp_millis();
    let query = format!(
        "select count(*) from scheduler_job where due_ms between {} and {}",
        in_years(9),
        in_years(11)
    );
    assert_eq!(database.count(&query).await, 2);
    assert!(scheduler.ingest_metrics().apps["sms"].snoozed >= 4);
    scheduler.shutdown(DRAIN).await;
}
