//! Apps that are paused, resumed and deleted, on every instance and over restarts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::join_all;
use infinite_scheduler::operations::{AppResult, By, LetterFilter, PageRequest};
use infinite_scheduler::{
    AppConfig, ErrorKind, JobContext, OperationError, Refusal, Replayed, ScheduleJobRequest,
    Scheduler, Submitted, handler_fn,
};
use serde_json::Value;
use tokio::sync::Notify;

use crate::support::kafka::{RawRecord, produce};
use crate::support::services::Database;
use crate::support::wait_until;
use crate::support::world::World;

const DEADLINE: Duration = Duration::from_secs(90);
const PAST: &str = "2020-01-01T00:00:00Z";
const FAR: &str = "2031-01-01T00:00:00Z";
/// Two heartbeats, of a second at most, and the slowness of this machine.
const TWO_HEARTBEATS: Duration = Duration::from_secs(4);
/// Jobs of each way in.
const JOBS: usize = 100;

/// How often each request was fired.
type Fired = Arc<Mutex<BTreeMap<String, usize>>>;

async fn start(world: &World, name: &str, fired: &Fired) -> Scheduler {
    let fired = fired.clone();
    let handler = handler_fn(move |context: JobContext, _: Value| {
        *fired.lock().expect("a lock").entry(context.job().request_id.clone()).or_default() += 1;
        async { Ok(()) }
    });
    let builder = world.builder_without_apps().instance_id(name);
    builder.register_app(AppConfig::new("sms"), handler).start().await.expect("a start")
}

fn request(id: &str, at: &str) -> ScheduleJobRequest {
    ScheduleJobRequest::builder("sms").request_id(id).at(at).build().expect("a request")
}

fn is_paused(scheduler: &Scheduler) -> bool {
    scheduler.ingest_metrics().apps["sms"].paused == 1
}

async fn await_paused(schedulers: &[&Scheduler], paused: bool) {
    let asked = Instant::now();
    wait_until(DEADLINE, "every instance to notice", async || {
        schedulers.iter().all(|scheduler| is_paused(scheduler) == paused)
    })
    .await;
    assert!(asked.elapsed() < TWO_HEARTBEATS, "noticed after {:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_app_fires_nothing_anywhere_until_it_is_resumed_on_mariadb() {
    a_paused_app_fires_nothing_anywhere_until_it_is_resumed(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_app_fires_nothing_anywhere_until_it_is_resumed_on_mysql() {
    a_paused_app_fires_nothing_anywhere_until_it_is_resumed(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_app_fires_nothing_anywhere_until_it_is_resumed_on_postgres() {
    a_paused_app_fires_nothing_anywhere_until_it_is_resumed(Database::Postgres).await;
}

async fn a_paused_app_fires_nothing_anywhere_until_it_is_resumed(database: Database) {
    let world = World::new(database, 2).await;
    let fired = Fired::default();
    let (a, b) = (start(&world, "a", &fired).await, start(&world, "b", &fired).await);
    let operations = world.operations().await;
    wait_until(DEADLINE, "both to own shards", async || {
        let instances = operations.instances().list().await.expect("instances");
        instances.iter().all(|one| one.owned_shards == 4)
    })
    .await;

    let by = operations.by(By::new("anna").because("the provider is down"));
    let change = by.apps().pause("sms", false).await.expect("a pause");
    assert_eq!(change.result, AppResult::Paused);
    await_paused(&[&a, &b], true).await;

    let records: Vec<RawRecord> = (0..JOBS)
        .map(|n| {
            let value =
                format!(r#"{{"requestId":"record-{n}","appName":"sms","scheduledTime":"{PAST}"}}"#);
            RawRecord::new(n as i32 % 2, value)
        })
        .collect();
    produce(&world.topic, &records).await;
    for (name, scheduler) in [("a", &a), ("b", &b)] {
        let calls = (0..JOBS).map(|n| request(&format!("{name}-{n}"), PAST));
        for answer in scheduler.schedule_all(calls).await {
            assert!(matches!(answer, Ok(Submitted::Accepted { .. })), "{answer:?}");
        }
    }
    let jobs = async || world.database.count("select count(*) from scheduler_job").await;
    let all = 3 * JOBS as i64;
    wait_until(DEADLINE, "every job", async || jobs().await == all).await;
    world.await_heartbeats(3).await;
    assert_eq!(fired.lock().expect("a lock").len(), 0, "{database:?}: paused");

    let apps = operations.apps().list().await.expect("apps");
    let pause = apps[0].pause.clone().expect("a pause");
    assert_eq!((&*pause.by, pause.refuse_requests), ("anna", Some(false)));
    assert_eq!(pause.reason.as_deref(), Some("the provider is down"));

    join_all([a, b].map(async |scheduler| scheduler.shutdown(DEADLINE).await)).await;
    let (c, d) = (start(&world, "c", &fired).await, start(&world, "d", &fired).await);
    assert!(is_paused(&c) && is_paused(&d), "{database:?}: paused from the start");
    world.await_heartbeats(3).await;
    assert_eq!(fired.lock().expect("a lock").len(), 0, "{database:?}: after a restart of all");
    assert_eq!(jobs().await, all, "{database:?}: nothing is lost");

    let change = c.resume("sms").await.expect("an answer");
    assert_eq!((change.result, change.pause), (AppResult::Resumed, None));
    await_paused(&[&c, &d], false).await;
    wait_until(DEADLINE, "every job's end", async || jobs().await == 0).await;
    let fired = fired.lock().expect("a lock").clone();
    assert_eq!(fired.len(), 3 * JOBS, "{database:?}: the backlog");
    assert!(fired.values().all(|times| *times == 1), "{database:?}: each once");
    join_all([c, d].map(async |scheduler| scheduler.shutdown(DEADLINE).await)).await;
    operations.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_when_its_app_is_paused_ends() {
    for database in Database::all() {
        let world = World::new(database, 1).await;
        let (begun, end) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let of_handler = (begun.clone(), end.clone());
        let handler = handler_fn(move |_: JobContext, _: Value| {
            let (begun, end) = of_handler.clone();
            async move {
                begun.notify_one();
                end.notified().await;
                Ok(())
            }
        });
        let builder = world.builder_without_apps().register_app(AppConfig::new("sms"), handler);
        let scheduler = builder.start().await.expect("a start");
        scheduler.schedule(request("r", PAST)).await.expect("accepted");
        begun.notified().await;
        scheduler.pause("sms").await.expect("a pause");
        await_paused(&[&scheduler], true).await;
        end.notify_one();
        wait_until(DEADLINE, "the job's end", async || {
            scheduler.ingest_metrics().apps["sms"].succeeded == 1
        })
        .await;
        scheduler.shutdown(DEADLINE).await;
    }
}

fn refused<T: std::fmt::Debug>(answer: Result<T, OperationError>) -> Refusal {
    match answer {
        Err(OperationError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_refuses_requests_says_why_whichever_way_they_come() {
    for database in Database::all() {
        let world = World::new(database, 1).await;
        let scheduler = start(&world, "a", &Fired::default()).await;
        let operations = world.operations().await;
        let by = operations.by(By::new("anna").because("a producer runs wild"));
        by.apps().pause("sms", true).await.expect("a pause");
        await_paused(&[&scheduler], true).await;

        let said = refused(scheduler.schedule(request("call", FAR)).await);
        let alone = refused(operations.jobs().schedule(request("alone", FAR)).await);
        for refusal in [&said, &alone] {
            assert_eq!(refusal.kind, ErrorKind::RefusedByApp, "{database:?}");
            let (begins, ends) =
                ("app sms is paused and refuses requests since ", " after it was resumed");
            let message = &refusal.message;
            assert!(message.starts_with(begins) && message.ends_with(ends), "{message}");
            assert!(message.contains(", by anna: a producer runs wild; send the"), "{message}");
        }
        let value = format!(r#"{{"requestId":"record","appName":"sms","scheduledTime":"{FAR}"}}"#);
        produce(&world.topic, &[RawRecord::new(0, value)]).await;
        let ledger = async |column: &str| {
            world.database.count(&format!("select {column} from scheduler_ingest_offset")).await
        };
        wait_until(DEADLINE, "the record", async || ledger("next_offset").await == 1).await;
        assert_eq!((ledger("dead_letters").await, ledger("jobs").await), (1, 0), "{database:?}");
        let letters =
            operations.dead_letters().list(&LetterFilter::default(), &PageRequest::default()).await;
        let letter = letters.expect("letters").items.pop().expect("a letter");
        assert_eq!(letter.kind, "refused-by-app", "{database:?}");
        assert!(letter.message.contains("a producer runs wild"), "{}", letter.message);
        refused(operations.dead_letters().replay(letter.id, None).await);

        operations.apps().resume("sms").await.expect("an answer");
        await_paused(&[&scheduler], false).await;
        scheduler.schedule(request("call", FAR)).await.expect("accepted");
        let replayed = scheduler.replay(letter.id, None).await.expect("a replay");
        assert!(matches!(replayed, Replayed::Accepted { .. }), "{database:?}");
        scheduler.shutdown(DEADLINE).await;
        operations.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_deleted_when_nobody_uses_it_and_is_new_when_it_comes_back() {
    for database in Database::all() {
        let world = World::new(database, 1).await;
        let fired = Fired::default();
        let scheduler = start(&world, "a", &fired).await;
        scheduler.schedule(request("r", FAR)).await.expect("accepted");
        let operations = world.operations().await;
        operations.apps().pause("sms", false).await.expect("a pause");
        let conflict = async |said: &str| {
            let Err(OperationError::Conflict(why)) = operations.apps().delete("sms").await else {
                panic!("{database:?}: no conflict")
            };
            assert!(why.contains(said), "{database:?}: {why}");
        };
        conflict("it has 1 job, and 1 live instance (a) have it registered").await;
        scheduler.shutdown(DEADLINE).await;
        conflict("while it is in use: it has 1 job; let its jobs end").await;
        world.database.execute("delete from scheduler_job").await;
        let deleted = operations.apps().delete("sms").await.expect("deleted");
        assert_eq!(deleted.result, AppResult::Deleted, "{database:?}");
        assert_eq!(operations.apps().list().await.expect("apps"), [], "{database:?}");
        let unknown = operations.apps().resume("sms").await;
        assert!(matches!(unknown, Err(OperationError::NotFound(_))), "{unknown:?}");
        let again = world.operations().await;
        let refusal = refused(again.jobs().schedule(request("r", FAR)).await);
        assert_eq!(refusal.kind, ErrorKind::UnknownApp, "{database:?}");
        again.close().await;

        let scheduler = start(&world, "b", &fired).await;
        assert!(!is_paused(&scheduler), "{database:?}: it is a new one");
        scheduler.schedule(request("r", PAST)).await.expect("accepted");
        wait_until(DEADLINE, "the job's end", async || fired.lock().expect("a lock").len() == 1)
            .await;
        scheduler.shutdown(DEADLINE).await;
        operations.close().await;
    }
}
