//! What each answer of a handler does to the job, the order of firing, and never early.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use infinite_scheduler::model::retry::Backoff;
use infinite_scheduler::{
    AppConfig, JobContext, JobError, Priority, ScheduleJobRequest, Submitted,
};
use serde_json::json;
use tokio::sync::Semaphore;

use super::{
    DEADLINE, DRAIN, Firing, accept, await_firings, await_no_jobs, builder, ms, now, of, recorder,
    request,
};
use crate::support::kafka::{RawRecord, produce, read_all};
use crate::support::services::Database;
use crate::support::wait_until;
use crate::support::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn each_answer_of_a_handler_has_its_outcome_on_sqlite() {
    each_answer_of_a_handler_has_its_outcome(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_answer_of_a_handler_has_its_outcome_on_mariadb() {
    each_answer_of_a_handler_has_its_outcome(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_answer_of_a_handler_has_its_outcome_on_mysql() {
    each_answer_of_a_handler_has_its_outcome(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_answer_of_a_handler_has_its_outcome_on_postgres() {
    each_answer_of_a_handler_has_its_outcome(Database::Postgres).await;
}

/// Answers as the request's name says. A snooze does not count as an attempt, so those are
/// counted here.
async fn answer(ctx: JobContext, snoozes: Arc<AtomicUsize>) -> Result<(), JobError> {
    let soon = |ms: i64| now() + TimeDelta::milliseconds(ms);
    match (ctx.job().request_id.as_str(), ctx.attempt()) {
        ("retry" | "override", _) | ("second" | "key-order", 1) => Err(JobError::retry("not now")),
        ("retry-after", 1) => Err(JobError::RetryAfter(ms(700), "in a moment".into())),
        ("fail", _) => Err(JobError::fail("never")),
        ("snooze", _) if snoozes.fetch_add(1, Ordering::Relaxed) < 2 => {
            Err(JobError::Snooze(soon(400)))
        }
        ("timeout", _) => std::future::pending().await,
        ("panic", _) => panic!("a careless handler"),
        _ => Ok(()),
    }
}

async fn each_answer_of_a_handler_has_its_outcome(database: Database) {
    let world = World::new(database, 1).await;
    let snoozes = Arc::new(AtomicUsize::new(0));
    let (handler, firings) = recorder(move |ctx| answer(ctx, snoozes.clone()));
    let mut app = AppConfig::new("mail");
    app.backoff = Backoff::Delays(vec![ms(50)]);
    app.max_attempts = NonZeroU32::new(3).expect("not zero");
    app.timeout = Duration::from_secs(30);
    let builder = world.builder().register_app(app, handler);
    let scheduler = builder.start().await.expect("a start");
    let expired = r#","expiresTime":1000"#;
    let cases = [
        ("retry", "", Some(("attempts-exhausted", 3, "not now"))),
        ("second", "", None),
        ("retry-after", "", None),
        ("fail", "", Some(("attempts-exhausted", 1, "never"))),
        ("snooze", r#","maxAttempts":1"#, None),
        ("timeout", r#","timeoutMs":100"#, Some(("attempts-exhausted", 3, "longer than 100 ms"))),
        ("panic", "", Some(("attempts-exhausted", 3, "panicked"))),
        ("override", r#","maxAttempts":5"#, Some(("attempts-exhausted", 5, "not now"))),
        ("expired", expired, Some(("expired", 0, "expiresTime"))),
        ("fine", "", None),
    ];
    let records: Vec<_> = cases
        .iter()
        .map(|(id, more, _)| {
            let data = format!(r#"{{"of": "{id}", "n":1.0}}"#);
            let json = format!(
                r#"{{"requestId":"{id}","appName":"mail","scheduledTime":0,"jobData":{data}{more}}}"#
            );
            RawRecord::new(0, json).with_header("traceparent", "00-abc-def-01")
        })
        .collect();
    let offsets = produce(&world.topic, &records).await;
    let dead = cases.iter().filter(|(_, _, dead)| dead.is_some()).count() as u64;
    wait_until(DEADLINE, "an end of every job", async || {
        let metrics = scheduler.ingest_metrics();
        metrics.apps["mail"].succeeded == 4 && metrics.messages_sent_to_dlq == dead
    })
    .await;
    let metrics = scheduler.ingest_metrics().apps["mail"].clone();
    scheduler.shutdown(DRAIN).await;

    let counts: Vec<_> = cases.iter().map(|(id, ..)| of(&firings, id).len()).collect();
    assert_eq!(counts, [3, 2, 2, 1, 3, 3, 3, 5, 0, 1]);
    // Failed: all attempts but the good ones and the two snoozes. Put back: those that were
    // not the last, and the snoozes.
    assert_eq!((metrics.fired, metrics.succeeded, metrics.dead), (23, 4, 6));
    assert_eq!((metrics.failed, metrics.retried), (17, 14));
    for (id, ..) in &cases {
        check_attempts(id, &of(&firings, id));
    }
    let letters = read_all(&world.dlq).await;
    assert_eq!(letters.len() as u64, dead);
    for ((id, _, dead), offset) in cases.iter().zip(offsets) {
        let Some((kind, attempts, said)) = dead else { continue };
        let letter = letters.iter().find(|letter| letter.header("request-id") == Some(*id));
        let letter = letter.unwrap_or_else(|| panic!("no dead letter of {id}"));
        let header = |name: &str| letter.header(name).unwrap_or_else(|| panic!("{id}: {name}"));
        assert_eq!(header("error-kind"), *kind, "{id}");
        assert_eq!(header("attempts"), attempts.to_string(), "{id}");
        assert!(header("error-message").contains(said), "{id}: {}", header("error-message"));
        assert_eq!(header("original-topic"), world.topic, "{id}");
        assert_eq!(header("original-partition"), "0", "{id}");
        assert_eq!(header("original-offset"), offset.to_string(), "{id}");
        assert!(letter.header("original-timestamp").is_some(), "{id}");
        assert_eq!(header("traceparent"), "00-abc-def-01", "{id}");
        assert_eq!(letter.key.as_deref(), Some(id.as_bytes()));
        let body = letter.json();
        assert_eq!((&body["requestId"], &body["appName"]), (&json!(id), &json!("mail")));
        let raw = String::from_utf8(letter.value.clone().expect("a value")).expect("text");
        assert!(raw.ends_with(&format!(r#""jobData":{{"of": "{id}", "n":1.0}}}}"#)), "{raw}");
    }
    assert_eq!(world.database.count("select count(*) from scheduler_job").await, 0);
}

/// Attempts count up, fences grow, none is early, and each waits as it was asked to.
fn check_attempts(id: &str, firings: &[Firing]) {
    for (n, firing) in firings.iter().enumerate() {
        let attempt = if id == "snooze" { 1 } else { n as u32 + 1 };
        assert_eq!(firing.attempt, attempt, "{id}");
        assert!(firing.at_ms >= firing.due_ms, "{id} is early: {firing:?}");
    }
    let wait_ms = match id {
        "retry-after" => 700,
        "snooze" => 400,
        "timeout" => 150,
        _ => 50,
    };
    for pair in firings.windows(2) {
        assert!(pair[1].fence > pair[0].fence, "{id}: {firings:?}");
        assert!(pair[1].at_ms >= pair[0].at_ms + wait_ms, "{id}: {firings:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn due_jobs_fire_high_before_normal_before_low() {
    let database = Database::Sqlite.fresh().await;
    let gate = Arc::new(Semaphore::new(0));
    let of_handler = gate.clone();
    let (handler, firings) = recorder(move |ctx| {
        let gate = of_handler.clone();
        async move {
            if ctx.job().request_id == "first" {
                gate.acquire().await.map_err(JobError::retry)?.forget();
            }
            Ok(())
        }
    });
    let mut app = AppConfig::new("mail");
    app.max_in_flight = NonZeroU32::MIN;
    let scheduler = builder(&database).register_app(app, handler).start().await.expect("a start");
    accept(&scheduler, request("mail", "first")).await;
    await_firings(&firings, 1).await;
    // Lower ones are due earlier: only their class puts them behind.
    for n in 0..8 {
        for (priority, due) in
            [(Priority::Low, "00:00"), (Priority::Normal, "01:00"), (Priority::High, "02:00")]
        {
            let request = ScheduleJobRequest::builder("mail")
                .request_id(format!("{priority}-{n}"))
                .at(format!("2020-01-01T{due}:{n:02}Z").as_str())
                .priority(priority);
            accept(&scheduler, request.build().expect("a request")).await;
        }
    }
    assert_eq!(firings.lock().expect("a lock").len(), 1, "one at a time");
    gate.add_permits(1);
    await_firings(&firings, 25).await;
    let order: Vec<_> = firings
        .lock()
        .expect("a lock")
        .iter()
        .skip(1)
        .map(|firing| firing.request_id.clone())
        .collect();
    let classes = ["high", "normal", "low"].into_iter();
    let expected: Vec<_> =
        classes.flat_map(|class| (0..8).map(move |n| format!("{class}-{n}"))).collect();
    assert_eq!(order, expected);
    scheduler.shutdown(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_job_fires_early() {
    const JOBS: usize = 300;
    let database = Database::Sqlite.fresh().await;
    let (handler, firings) = recorder(|_| async { Ok(()) });
    let scheduler = builder(&database)
        .register_app(AppConfig::new("mail"), handler)
        .start()
        .await
        .expect("a start");
    let start = now() + TimeDelta::seconds(1);
    let mut times: BTreeMap<String, DateTime<Utc>> = BTreeMap::new();
    for n in 0..JOBS {
        // Between two milliseconds, too: what is stored is rounded up.
        let time = start + TimeDelta::microseconds(7_301 * n as i64 + 1);
        let text = time.to_rfc3339_opts(SecondsFormat::Micros, true);
        let request =
            ScheduleJobRequest::builder("mail").request_id(format!("r-{n}")).at(text.as_str());
        times.insert(format!("r-{n}"), time);
        accept(&scheduler, request.build().expect("a request")).await;
    }
    await_firings(&firings, JOBS).await;
    scheduler.shutdown(DRAIN).await;
    let firings = firings.lock().expect("a lock");
    assert_eq!(firings.len(), JOBS);
    for firing in firings.iter() {
        let asked = times.remove(&firing.request_id).expect("each once");
        let asked_us = asked.timestamp_micros();
        assert!(firing.due_ms * 1000 >= asked_us, "{firing:?}");
        assert!(
            firing.at_ms * 1000 >= asked_us - asked_us % 1000 + 1000,
            "early by the clock: {firing:?}"
        );
    }
}

/// A request id is free again when its job has ended, and from that moment: what comes
/// between the commit and the scheduler's hearing of it must not be lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_again_the_moment_its_job_has_ended_fires_again() {
    const ROUNDS: usize = 150;
    for backend in Database::all() {
        let database = backend.fresh().await;
        let (handler, firings) = recorder(|_| async { Ok(()) });
        let scheduler = builder(&database)
            .register_app(AppConfig::new("mail"), handler)
            .start()
            .await
            .expect("a start");
        let (mut accepted, mut duplicates) = (0, 0);
        let asking = async {
            while accepted < ROUNDS {
                match scheduler.schedule(request("mail", "again")).await {
                    Ok(Submitted::Accepted { .. }) => accepted += 1,
                    Ok(Submitted::Duplicate { .. }) => duplicates += 1,
                    other => panic!("{other:?}"),
                }
            }
        };
        let asked = tokio::time::timeout(DEADLINE, asking).await;
        assert!(
            asked.is_ok(),
            "{backend:?}: stuck after {accepted} jobs and {duplicates} duplicates"
        );
        await_firings(&firings, ROUNDS).await;
        await_no_jobs(&database).await;
        assert_eq!(of(&firings, "again").len(), ROUNDS, "{backend:?}: each once");
        assert_eq!(scheduler.ingest_metrics().jobs_rescued, 0, "{backend:?}");
        scheduler.shutdown(DRAIN).await;
    }
}
