//! What a request says of its job beside its time: the window in which it may fire, the moment
//! after which it may not, and the key by which jobs are kept together.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::Duration;

use chrono::{DateTime, TimeDelta};
use infinite_scheduler::model::ids::JobId;
use infinite_scheduler::model::job::instant_of;
use infinite_scheduler::operations::{LetterFilter, OperationsOptions, PageRequest};
use infinite_scheduler::{
    AppConfig, Discard, ErrorKind, JobError, JobHandler, Operations, ScheduleJobRequest, Scheduler,
};
use serde_json::json;

use super::{DEADLINE, DRAIN, accept, await_firings, await_no_jobs, builder, ms, now, recorder};
use crate::support::services::{Database, TestDatabase};
use crate::support::wait_until;

/// Jobs of one moment.
const CROWD: usize = 100;
const WINDOW: Duration = Duration::from_millis(1500);

#[tokio::test(flavor = "multi_thread")]
async fn jobs_with_a_window_fire_within_it_each_at_its_own_instant() {
    for database in Database::all() {
        let database = database.fresh().await;
        let (handler, firings) = recorder(async |_| Ok(()));
        let builder = builder(&database).register_app(AppConfig::new("mail"), handler);
        let scheduler = builder.start().await.expect("a start");
        let at_ms = now().timestamp_millis() + 2000;
        let at = DateTime::from_timestamp_millis(at_ms).expect("a time");
        for number in 0..CROWD {
            let request = ScheduleJobRequest::builder("mail").request_id(format!("r-{number}"));
            let mut request = request.at(at).flexible_window(WINDOW);
            if number % 2 == 1 {
                request = request.expires_at(at + ms(700));
            }
            accept(&scheduler, request.build().expect("a request")).await;
        }
        await_no_jobs(&database).await;
        scheduler.shutdown(DRAIN).await;
        let fired = firings.lock().expect("a lock").clone();
        // One that may fire in its last moment alone is late for it on a busy machine.
        let may_expire = CROWD / 2;
        assert!((CROWD - may_expire..=CROWD).contains(&fired.len()), "{} fired", fired.len());
        let expired = "select count(*) from scheduler_dead_letter where kind = 'expired'";
        assert_eq!(database.count(expired).await as usize, CROWD - fired.len());
        let (mut instants, mut early) = (BTreeSet::new(), 0);
        for firing in fired {
            let odd = firing.request_id.ends_with(['1', '3', '5', '7', '9']);
            let expires_ms = odd.then_some(at_ms + 700);
            let id = JobId::derive("mail", &firing.request_id);
            let instant_ms = instant_of(id, at_ms, Some(1500), expires_ms);
            assert_eq!(firing.due_ms, instant_ms, "{firing:?}");
            assert!(firing.at_ms >= instant_ms, "early: {firing:?}");
            let last_ms = if odd { at_ms + 700 } else { at_ms + 1500 };
            assert!((at_ms..=last_ms).contains(&instant_ms), "outside its window: {firing:?}");
            early += usize::from(instant_ms < at_ms + 700);
            instants.insert(instant_ms);
        }
        assert!(instants.len() > CROWD / 3, "they are spread: {instants:?}");
        assert!(early > 5, "{early}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_a_dead_letter_when_its_turn_comes_after_it_has_expired() {
    for database in Database::all() {
        let database = database.fresh().await;
        let (handler, firings) = recorder(async |_| Ok(()));
        // The app is known, and no instance has it while the job waits.
        start(&database, Discard, 8).await.shutdown(DRAIN).await;
        let operations = connect(&database).await;
        let expires = now() + ms(200);
        for (id, expires) in [("late", expires), ("fresh", expires + TimeDelta::hours(1))] {
            let request = ScheduleJobRequest::builder("mail").request_id(id);
            let request = request.at(now()).flexible_window(ms(100)).expires_at(expires);
            operations.jobs().schedule(request.build().expect("a request")).await.expect("a job");
        }
        wait_until(DEADLINE, "the end of its time", async || now() > expires).await;
        let scheduler = start(&database, handler, 8).await;
        await_no_jobs(&database).await;
        wait_until(DEADLINE, "a dead letter", async || {
            scheduler.ingest_metrics().apps["mail"].dead == 1
        })
        .await;
        let fired: Vec<String> = names(&firings.lock().expect("a lock"));
        assert_eq!(fired, ["fresh"]);
        let letters =
            operations.dead_letters().list(&LetterFilter::default(), &PageRequest::default()).await;
        let letters = letters.expect("letters").items;
        assert_eq!(letters.len(), 1);
        assert_eq!(letters[0].kind, ErrorKind::Expired.as_str());
        assert_eq!(letters[0].request_id.as_deref(), Some("late"));

        // A person wants it all the same.
        operations.dead_letters().replay(letters[0].id, None).await.expect("a replay");
        await_firings(&firings, 2).await;
        await_no_jobs(&database).await;
        assert_eq!(names(&firings.lock().expect("a lock")), ["fresh", "late"]);
        scheduler.shutdown(DRAIN).await;
        operations.close().await;
    }
}

async fn start(database: &TestDatabase, handler: impl JobHandler, shards: u32) -> Scheduler {
    let mut app = AppConfig::new("mail");
    app.shards = NonZeroU32::new(shards).expect("not zero");
    builder(database).register_app(app, handler).start().await.expect("a start")
}

fn names(firings: &[super::Firing]) -> Vec<String> {
    firings.iter().map(|firing| firing.request_id.clone()).collect()
}

async fn connect(database: &TestDatabase) -> Operations {
    let options = OperationsOptions::new(database.url());
    Operations::connect(options).await.expect("a database")
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_one_concurrency_key_are_in_one_shard_whoever_admits_them() {
    for backend in Database::all() {
        let database = backend.fresh().await;
        let (handler, firings) = recorder(async |_| Ok(()));
        let (other, of_other) = recorder(async |_| Ok(()));
        let mut schedulers = vec![start(&database, handler, 4).await];
        if backend != Database::Sqlite {
            schedulers.push(start(&database, other, 4).await);
            wait_until(DEADLINE, "each to have half of the shards", async || {
                let owners = "select count(*) from scheduler_shard where owner = \
                              (select min(id) from scheduler_instance)";
                database.count(owners).await == 2
            })
            .await;
        }
        let alone = connect(&database).await;
        let at = now() + Duration::from_secs(4);
        for number in 0..60 {
            let key = ["first", "second", "third"][number % 3];
            let request = keyed(&format!("r-{number}"), key).at(at).build().expect("a request");
            match number % 4 {
                0 => drop(alone.jobs().schedule(request).await.expect("a job")),
                _ => accept(&schedulers[number % schedulers.len()], request).await,
            }
        }
        let shards_of = async |key: &str| {
            let of_key = format!("from scheduler_job where concurrency_key = '{key}'");
            let count = format!("select count(distinct shard) {of_key}");
            assert_eq!(database.count(&count).await, 1, "{backend:?} {key}");
            let integer = match backend {
                Database::MariaDb | Database::MySql => "signed",
                Database::Sqlite | Database::Postgres => "bigint",
            };
            database.count(&format!("select cast(max(shard) as {integer}) {of_key}")).await
        };
        let mut before = Vec::new();
        for key in ["first", "second", "third"] {
            before.push(shards_of(key).await);
        }
        // Each fires once, also those that an instance put into a shard of the other.
        wait_until(DEADLINE, "each to fire", async || {
            let mut fired = names(&firings.lock().expect("a lock"));
            fired.extend(names(&of_other.lock().expect("a lock")));
            assert!(fired.len() <= 60, "{backend:?}: {fired:?}");
            fired.iter().collect::<BTreeSet<_>>().len() == 60
        })
        .await;
        for scheduler in schedulers {
            scheduler.shutdown(DRAIN).await;
        }
        a_key_keeps_its_shard_when_there_are_more(&database, &alone, &before).await;
        alone.close().await;
    }
}

async fn a_key_keeps_its_shard_when_there_are_more(
    database: &TestDatabase,
    alone: &Operations,
    before: &[i64],
) {
    let scheduler = start(database, Discard, 13).await;
    let far = now() + TimeDelta::days(1);
    for (number, key) in ["first", "second", "third"].into_iter().enumerate() {
        let request = |id: String| keyed(&id, key).at(far).build().expect("a request");
        accept(&scheduler, request(format!("{key} again"))).await;
        alone.jobs().schedule(request(format!("{key} alone"))).await.expect("a job");
        let there = format!(
            "select count(*) from scheduler_job where concurrency_key = '{key}' and shard = {}",
            before[number]
        );
        assert_eq!(database.count(&there).await, 2, "{:?} {key}", database.backend());
    }
    for number in 0..60 {
        let request = ScheduleJobRequest::builder("mail").request_id(format!("plain-{number}"));
        accept(&scheduler, request.at(far).build().expect("a request")).await;
    }
    let used = "select count(distinct shard) from scheduler_job where concurrency_key is null";
    assert_eq!(database.count(used).await, 13, "{:?}", database.backend());
    scheduler.shutdown(DRAIN).await;
}

fn keyed(id: &str, key: &str) -> infinite_scheduler::model::request::RequestBuilder {
    ScheduleJobRequest::builder("mail").request_id(id).concurrency_key(key)
}

/// What its job was fired with does not say them.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_keeps_what_the_request_said_of_its_job() {
    for backend in Database::all() {
        let database = backend.fresh().await;
        let (handler, _) = recorder(async |_| Err(JobError::fail("never")));
        let builder = builder(&database).register_app(AppConfig::new("mail"), handler);
        let scheduler = builder.start().await.expect("a start");
        let expires_ms = now().timestamp_millis() + 3_600_000;
        let expires = DateTime::from_timestamp_millis(expires_ms).expect("a time");
        let request = keyed("dies", "customer").at(now()).flexible_window(ms(50));
        let request = request.expires_at(expires).job_data(&json!({"n": 1})).build();
        accept(&scheduler, request.expect("a request")).await;
        wait_until(DEADLINE, "a dead letter", async || {
            scheduler.ingest_metrics().apps["mail"].dead == 1
        })
        .await;
        scheduler.shutdown(DRAIN).await;
        let operations = connect(&database).await;
        let page =
            operations.dead_letters().list(&LetterFilter::default(), &PageRequest::default()).await;
        let letter = page.expect("letters").items.pop().expect("a letter").id;
        let corrected = |expires_ms: i64| {
            format!(
                r#"{{"requestId":"dies","appName":"mail","scheduledTime":0,"expiresTime":{expires_ms}}}"#
            )
        };
        let early = Some(corrected(-1).into());
        let early = operations.dead_letters().preview_replay(letter, early).await;
        assert!(early.is_err(), "{backend:?}: what a correction says goes first");
        operations.dead_letters().replay(letter, None).await.expect("a replay");
        let kept = format!(
            "select count(*) from scheduler_job where concurrency_key = 'customer' \
             and flexible_ms = 50 and expires_ms = {expires_ms} and letter is not null"
        );
        assert_eq!(database.count(&kept).await, 1, "{backend:?}");
        operations.close().await;
    }
}
