//! Operations on one job: each answer is what becomes of the job.

mod at_its_moment;
mod of_others;
mod receiver;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use infinite_scheduler::model::retry::Backoff;
use infinite_scheduler::operations::{
    By, ChangeResult, JobAnswer, JobName, JobOperation, JobPatch, JobState, Operations, Setting,
};
use infinite_scheduler::{
    AppConfig, JobContext, JobError, OperationError, OperationsOptions, RequestStatus,
    ScheduleJobRequest, Scheduler, SchedulerBuilder, Submitted, handler_fn,
};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::kafka::{create_topic, read_all};
use crate::support::services::Database;
use crate::support::world::World;
use crate::support::{on_each_database, wait_until};

use self::receiver::Receiver;

const DEADLINE: Duration = Duration::from_secs(90);
const DRAIN: Duration = Duration::from_secs(10);

fn now() -> DateTime<Utc> {
    SystemTime::now().into()
}

fn after_ms(ms: i64) -> DateTime<Utc> {
    now() + TimeDelta::milliseconds(ms)
}

fn app() -> AppConfig {
    let mut app = AppConfig::new("sms");
    app.backoff = Backoff::Delays(vec![Duration::from_secs(10)]);
    app
}

fn builder(world: &World, name: &str, receiver: &Receiver) -> SchedulerBuilder {
    let receiver = receiver.clone();
    let handler = handler_fn(move |context, data| receiver.clone().receive(context, data));
    world.builder_without_apps().instance_id(name).register_app(app(), handler)
}

async fn start(world: &World, name: &str, receiver: &Receiver) -> Scheduler {
    builder(world, name, receiver).start().await.expect("a start")
}

fn request(id: &str, at: DateTime<Utc>) -> ScheduleJobRequest {
    let request = ScheduleJobRequest::builder("sms").request_id(id).at(at);
    request.job_data(&json!({ "v": 1 })).build().expect("a request")
}

async fn accept(scheduler: &Scheduler, request: ScheduleJobRequest) -> JobName {
    match scheduler.schedule(request).await {
        Ok(Submitted::Accepted { job_id, .. }) => job_id.into(),
        other => panic!("{other:?}"),
    }
}

fn named(request: &str) -> JobName {
    JobName::of_request("sms", request)
}

async fn live(world: &World) -> i64 {
    world.database.count("select count(*) from scheduler_job where priority < 3").await
}

async fn audited(world: &World, action: &str) -> i64 {
    let count = format!("select count(*) from scheduler_audit where action = '{action}'");
    world.database.count(&count).await
}

on_each_database! {
    a_cancelled_job_does_not_fire_again_and_says_so_however_often_it_is_asked
    a_job_moves_and_changes_at_once_or_says_why_not
    a_cancelled_request_stays_so_and_gives_its_key_back
}

async fn a_cancelled_job_does_not_fire_again_and_says_so_however_often_it_is_asked(
    database: Database,
) {
    let world = World::new(database, 1).await;
    let events = format!("{}.events", world.topic);
    create_topic(&events, 1, &[]).await;
    let receiver = Receiver::new();
    let kafka = infinite_scheduler::KafkaIngestConfig {
        events_topic: Some(events.clone()),
        ..world.kafka()
    };
    let a = builder(&world, "a", &receiver).with_kafka_ingest(kafka.clone()).start().await;
    let a = a.expect("a start");
    let b = match database {
        Database::Sqlite => None,
        _ => {
            let b = builder(&world, "b", &receiver).with_kafka_ingest(kafka).start().await;
            Some(b.expect("a start"))
        }
    };

    // (a) While it runs, by two at once.
    accept(&a, request("held-fails-1", now())).await;
    receiver.await_one("held-fails-1").await;
    let [ann, bob] = ["ann", "bob"].map(|who| a.by(By::new(who).because("typo")));
    let (of_ann, of_bob) = (ann.jobs(), bob.jobs());
    let (one, two) =
        tokio::join!(of_ann.cancel(named("held-fails-1")), of_bob.cancel(named("held-fails-1")));
    let answers = [one.expect("an answer"), two.expect("an answer")];
    for answer in &answers {
        assert_eq!((answer.result, answer.will_retry), (ChangeResult::Running, Some(false)));
        assert!(answer.done);
    }
    assert_eq!(answers.iter().filter(|answer| answer.changed).count(), 1);
    let other = a.jobs().run(named("held-fails-1")).await.expect("an answer");
    assert_eq!((other.result, other.done), (ChangeResult::Running, false));
    receiver.go.add_permits(1);
    let is_cancelled = async |name: &str| {
        let job = a.job(named(name)).await.expect("an answer").expect("a job");
        job.state == JobState::Cancelled
    };
    wait_until(DEADLINE, "the end of the attempt", async || is_cancelled("held-fails-1").await)
        .await;

    // (b), (c) Again: the answer is that of the first.
    let again = bob.jobs().cancel(named("held-fails-1")).await.expect("an answer");
    assert_eq!((again.result, again.done, again.changed), (ChangeResult::Cancelled, true, false));
    let first = again.cancelled_by.clone().expect("a name");
    assert!(first == "ann" || first == "bob", "{first}");
    assert_eq!(audited(&world, "job.cancel").await, 1);
    let by_first = format!(
        "select count(*) from scheduler_audit where action = 'job.cancel' and who = '{first}' \
         and reason = 'typo' and app = 'sms' and source = 'handle'"
    );
    assert_eq!(world.database.count(&by_first).await, 1);

    // (d) The attempt that ran was the good one.
    accept(&a, request("held-good", now())).await;
    receiver.await_one("held-good").await;
    let answer = ann.jobs().cancel(named("held-good")).await.expect("an answer");
    assert_eq!((answer.result, answer.will_retry), (ChangeResult::Running, Some(false)));
    receiver.go.add_permits(1);
    wait_until(DEADLINE, "its success", async || live(&world).await == 0).await;
    let good = a.job(named("held-good")).await.expect("an answer").expect("a job");
    assert_eq!((good.state, good.attempts), (JobState::Succeeded, 1));

    // Told to stop.
    accept(&a, request("held-stopped", now())).await;
    receiver.await_one("held-stopped").await;
    let stop = JobOperation::cancel(named("held-stopped")).stop_running();
    assert_eq!(ann.jobs().carry_out(stop).await.expect("an answer").result, ChangeResult::Running);
    wait_until(DEADLINE, "its end", async || live(&world).await == 0).await;

    // (e) Eight in one millisecond, half of them elsewhere.
    let job = accept(&a, request("waits", after_ms(3_600_000))).await;
    let elsewhere = Operations::connect(OperationsOptions::new(world.database.url())).await;
    let elsewhere = elsewhere.expect("a database");
    let cancels = (0..8).map(|n| {
        let (a, b, elsewhere, job) = (&a, &b, &elsewhere, job.clone());
        async move {
            match (n % 2, b) {
                (0, _) => a.cancel(job).await,
                (_, Some(b)) => b.cancel(job).await,
                (_, None) => elsewhere.jobs().cancel(job).await,
            }
        }
    });
    let answers = join_all(cancels).await;
    for answer in &answers {
        let answer = answer.as_ref().expect("an answer");
        assert_eq!((answer.result, answer.done), (ChangeResult::Cancelled, true), "{answer:?}");
    }
    let changed = answers.iter().flatten().filter(|answer| answer.changed).count();
    assert_eq!(changed, 1);
    assert!(receiver.of("waits").is_empty());
    assert_eq!(audited(&world, "job.cancel").await, 4);
    for name in ["held-fails-1", "held-good", "held-stopped"] {
        assert_eq!(receiver.of(name).len(), 1, "{name}");
    }

    // Each job has one closing verdict.
    wait_until(DEADLINE, "an empty outbox", async || {
        world.database.count("select count(*) from scheduler_outbox").await == 0
    })
    .await;
    a.shutdown(DRAIN).await;
    if let Some(b) = b {
        b.shutdown(DRAIN).await;
    }
    let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for record in read_all(&events).await {
        let event = record.json();
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        told.entry(text(&event["subject"])).or_default().push(text(&event["data"]["verdict"]));
    }
    let of = |name: &str| told[name].join(" ");
    assert_eq!(of("held-fails-1"), "accepted fired cancelled");
    assert_eq!(of("held-good"), "accepted fired succeeded");
    assert_eq!(of("waits"), "accepted cancelled");
    elsewhere.close().await;
}

async fn a_job_moves_and_changes_at_once_or_says_why_not(database: Database) {
    let world = World::new(database, 1).await;
    let receiver = Receiver::new();
    let scheduler = start(&world, "a", &receiver).await;
    let hour = 3_600_000;
    let in_an_hour = after_ms(hour);

    // Into the past: at once, and late only since then.
    accept(&scheduler, request("m1", in_an_hour)).await;
    let asked = Instant::now();
    let answer = scheduler.reschedule(named("m1"), after_ms(-hour)).await.expect("an answer");
    let took = asked.elapsed();
    assert_eq!((answer.result, answer.changed), (ChangeResult::Rescheduled, true));
    assert!(took < Duration::from_secs(1), "{took:?}");
    receiver.await_one("m1").await;
    wait_until(DEADLINE, "its end", async || live(&world).await == 0).await;
    let metrics = scheduler.ingest_metrics().apps["sms"].clone();
    assert!(metrics.lateness_max_ms < 60_000, "{metrics:?}");
    assert_eq!(metrics.overdue_on_arrival, 1);
    assert_eq!(receiver.of("m1").len(), 1);

    // Past its expiry, and too far ahead: refused with both times, unchanged.
    let m2 = ScheduleJobRequest::builder("sms").request_id("m2").at(in_an_hour);
    let m2 = m2.expires_at(after_ms(2 * hour)).build().expect("a request");
    accept(&scheduler, m2).await;
    let before = scheduler.job(named("m2")).await.expect("an answer").expect("a job");
    for (time, said) in [
        (after_ms(3 * hour), "is before scheduledTime"),
        (now() + TimeDelta::days(4_000), "3650 days ahead"),
    ] {
        match scheduler.reschedule(named("m2"), time).await {
            Err(OperationError::Refused(refusal)) => {
                assert!(refusal.message.contains(said), "{refusal}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(scheduler.job(named("m2")).await, Ok(Some(before.clone())));

    // To the very time that it has: that is what was asked for, and no change.
    let answer = scheduler.reschedule(named("m2"), in_an_hour).await.expect("an answer");
    assert_eq!((answer.result, answer.done), (ChangeResult::Rescheduled, true));
    let moved = scheduler.reschedule(named("m2"), after_ms(hour / 2)).await.expect("an answer");
    assert!(moved.changed);
    let after = scheduler.job(named("m2")).await.expect("an answer").expect("a job");
    assert_eq!((after.due_ms, Some(after.scheduled_ms)), (moved.due_ms, moved.due_ms));
    assert_ne!(after.etag, before.etag);

    // Only in the state that was seen.
    let stale = JobOperation::run(named("m2")).if_match(before.etag.as_str());
    let refused = scheduler.jobs().carry_out(stale).await;
    assert!(matches!(refused, Err(OperationError::NotMatched(_))), "{refused:?}");
    let fresh = JobOperation::run(named("m2")).if_match(after.etag.as_str());
    let started = scheduler.jobs().carry_out(fresh).await.expect("an answer");
    assert_eq!((started.result, started.changed), (ChangeResult::Started, true));
    receiver.await_one("m2").await;

    // Of a paused app it waits, and the answer says so.
    accept(&scheduler, request("m5", in_an_hour)).await;
    scheduler.apps().pause("sms", false).await.expect("a pause");
    wait_until(DEADLINE, "the pause", async || scheduler.ingest_metrics().apps["sms"].paused == 1)
        .await;
    let answer = scheduler.reschedule(named("m5"), now()).await.expect("an answer");
    assert!(answer.app_paused && answer.done);
    assert!(receiver.of("m5").is_empty());

    // Its other fields, all at once; what is wrong changes nothing.
    let patch = JobPatch::from_json(
        r#"{"jobData":{"v":2, "x":1.0},"priority":"low","maxAttempts":7,"timeoutMs":1234,
            "reason":"because"}"#,
    );
    let edited = scheduler.jobs().edit(named("m5"), patch.expect("a patch")).await;
    assert_eq!(edited.expect("an answer").result, ChangeResult::Edited);
    let job = scheduler.job(named("m5")).await.expect("an answer").expect("a job");
    assert_eq!(job.job_data.as_ref().map(|data| data.as_str()), Some(r#"{"v":2, "x":1.0}"#));
    assert_eq!((job.max_attempts, job.timeout_ms, job.state), (7, 1234, JobState::Due));
    let mut none = JobPatch::default();
    none.reason = Some("nothing".into());
    let refused = scheduler.jobs().edit(named("m5"), none).await;
    assert!(matches!(refused, Err(OperationError::Refused(_))), "{refused:?}");
    let mut default = JobPatch::default();
    default.max_attempts = Setting::Default;
    scheduler.jobs().edit(named("m5"), default).await.expect("an answer");
    let job = scheduler.job(named("m5")).await.expect("an answer").expect("a job");
    assert_eq!(job.max_attempts, 3);

    // The same request is known again by what it brought first.
    let again = scheduler.schedule(request("m5", in_an_hour)).await;
    assert!(matches!(again, Ok(Submitted::Duplicate { cancelled: false, .. })), "{again:?}");
    scheduler.apps().resume("sms").await.expect("an end of the pause");
    receiver.await_one("m5").await;
    assert_eq!(receiver.of("m5")[0].data, json!({ "v": 2, "x": 1.0 }));

    let unknown = scheduler.cancel(named("never")).await.expect("an answer");
    assert_eq!((unknown.result, unknown.done), (ChangeResult::Unknown, false));
    let unknown = scheduler.cancel(JobName::of_key("sms", "never")).await.expect("an answer");
    assert_eq!((unknown.result, unknown.job_id), (ChangeResult::Unknown, None));
    assert_eq!(audited(&world, "job.reschedule").await, 3);
    assert_eq!(audited(&world, "job.run").await, 1);
    assert_eq!(audited(&world, "job.edit").await, 2);
    scheduler.shutdown(DRAIN).await;
}

async fn a_cancelled_request_stays_so_and_gives_its_key_back(database: Database) {
    let world = World::new(database, 1).await;
    let receiver = Receiver::new();
    let scheduler = start(&world, "a", &receiver).await;
    let keyed = |id: &str, data: u32| {
        let request = ScheduleJobRequest::builder("sms").request_id(id).idempotency_key("k");
        let request = request.at(after_ms(3_600_000)).job_data(&json!({ "v": data }));
        request.build().expect("a request")
    };
    accept(&scheduler, keyed("one", 1)).await;
    let key = JobName::of_key("sms", "k");
    let answer = scheduler.cancel(key.clone()).await.expect("an answer");
    assert_eq!((answer.result, answer.changed), (ChangeResult::Cancelled, true));
    let again = scheduler.cancel(key.clone()).await.expect("an answer");
    assert_eq!((again.result, again.changed), (ChangeResult::Cancelled, false));
    let status = scheduler.request("sms", "one").await;
    assert!(matches!(status, Ok(RequestStatus::Cancelled { .. })), "{status:?}");

    // Whatever it brings, it was cancelled.
    for data in [1, 2] {
        let again = scheduler.schedule(keyed("one", data)).await;
        assert!(matches!(again, Ok(Submitted::Duplicate { cancelled: true, .. })), "{again:?}");
    }
    // For another request the key is free, and taken then.
    let second = accept(&scheduler, keyed("two", 2)).await;
    let third = scheduler.schedule(keyed("three", 2)).await;
    let Ok(Submitted::Duplicate { of, cancelled: false, .. }) = third else { panic!("{third:?}") };
    assert_eq!(of, "two");
    let shown = scheduler.job(key).await.expect("an answer").expect("a job");
    assert_eq!(JobName::from(shown.job_id), second);

    // What people count as jobs leaves tombstones out, and they go when their time has come.
    assert_eq!(live(&world).await, 1);
    let tombstones = "select count(*) from scheduler_job where priority = 3";
    assert_eq!(world.database.count(tombstones).await, 1);
    let due = "select count(*) from scheduler_job where priority = 3 and data = '{}' \
               and cancelled_by = 'program' and due_ms > scheduled_ms";
    assert_eq!(world.database.count(due).await, 1);
    let overdue = "update scheduler_job set due_ms = 0 where priority = 3";
    world.database.execute(overdue).await;
    scheduler.shutdown(DRAIN).await;
    let scheduler = start(&world, "a", &receiver).await;
    wait_until(DEADLINE, "the tombstone's end", async || {
        world.database.count(tombstones).await == 0
    })
    .await;
    assert!(receiver.of("one").is_empty());
    scheduler.shutdown(DRAIN).await;
}
