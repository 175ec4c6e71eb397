//! Bulk actions: each job that matched is treated once, and the numbers say so.

mod letters;
mod memory;

use std::num::NonZeroU32;
use std::process::Command;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, TimeDelta, Utc};
use infinite_scheduler::http::{Server, ServerOptions};
use infinite_scheduler::operations::{
    BulkAction, BulkItem, BulkRequest, BulkSamples, BulkState, JobFilter, JobPatch, Operations,
};
use infinite_scheduler::{AppConfig, Discard, OperationError, ScheduleJobRequest, Scheduler};
use serde_json::{Value, json};

use crate::support::process::Instance;
use crate::support::services::{Database, TestDatabase, temporary_folder};
use crate::support::world::{LEASE, World};
use crate::support::{on_each_database, wait_until};

const DEADLINE: Duration = Duration::from_secs(90);

on_each_database! {
    with_mysql:
    a_cancellation_ends_though_a_producer_goes_on_and_spares_what_came_later
    each_job_moves_once_though_its_new_time_matches_again
    it_stops_within_two_heartbeats
}

async fn start(database: &TestDatabase) -> Scheduler {
    let builder = Scheduler::builder().database_url(database.url()).lease(LEASE);
    let builder = builder
        .register_app(AppConfig::new("sms"), Discard)
        .register_app(AppConfig::new("sipcall"), Discard);
    builder.start().await.expect("a start")
}

fn requests(app: &str, name: &str, count: usize) -> Vec<ScheduleJobRequest> {
    let at = DateTime::<Utc>::from(SystemTime::now()) + TimeDelta::hours(3);
    let request = |n| {
        let request = ScheduleJobRequest::builder(app).request_id(format!("{name}-{n}"));
        request.at(at + TimeDelta::seconds(n as i64)).job_data(&json!({})).build()
    };
    (0..count).map(|n| request(n).expect("a request")).collect()
}

async fn submit(scheduler: &Scheduler, app: &str, name: &str, count: usize) {
    for submitted in scheduler.schedule_all(requests(app, name, count)).await {
        submitted.expect("a job");
    }
}

fn of_app(app: &str) -> JobFilter {
    JobFilter::from_pairs([("app", app)], None).expect("a filter")
}

async fn until_ended(operations: &Operations, id: i64) -> BulkItem {
    wait_until(DEADLINE, "the end of the bulk action", async || {
        operations.bulk().show(id).await.is_ok_and(|item| item.state.is_ended())
    })
    .await;
    operations.bulk().show(id).await.expect("a bulk action")
}

async fn live(database: &TestDatabase, name: &str) -> i64 {
    let sql = format!(
        "select count(*) from scheduler_job where priority < 3 and request_id like '{name}-%'"
    );
    database.count(&sql).await
}

fn counts(item: &BulkItem) -> [u64; 4] {
    [item.matched, item.done, item.failed, item.skipped]
}

async fn a_cancellation_ends_though_a_producer_goes_on_and_spares_what_came_later(
    database: Database,
) {
    let database = database.fresh().await;
    let scheduler = start(&database).await;
    submit(&scheduler, "sms", "early", 1000).await;
    submit(&scheduler, "sipcall", "other", 3).await;
    let asked = || BulkRequest::new(BulkAction::Cancel, of_app("sms"));
    let preview = scheduler.bulk().preview(&asked()).await.expect("a preview");
    let BulkSamples::Jobs(samples) = &preview.samples else { panic!("{preview:?}") };
    assert_eq!((preview.matched, samples.len()), (1000, 10));
    assert_eq!(live(&database, "early").await, 1000, "a preview changes nothing");

    let keyed = || asked().idempotency_key(Some("once".into()));
    let started = scheduler.bulk().start(keyed()).await.expect("a start").bulk;
    assert_eq!((started.state, started.expected), (BulkState::Counting, None));
    let again = scheduler.bulk().start(keyed()).await.expect("a start").bulk;
    assert_eq!(again.id, started.id);
    for n in 0..10 {
        submit(&scheduler, "sms", &format!("late-{n}"), 10).await;
    }
    let operations = scheduler.by(infinite_scheduler::operations::By::program());
    let ended = until_ended(&operations, started.id).await;
    assert_eq!(ended.state, BulkState::Finished);
    assert_eq!(counts(&ended), [1000, 1000, 0, 0]);
    assert!(ended.expected.is_some_and(|jobs| jobs >= 1000) && !ended.has_more, "{ended:?}");
    assert_eq!(live(&database, "early").await, 0);
    assert_eq!((live(&database, "late").await, live(&database, "other").await), (100, 3));
    let audited =
        "select count(*) from scheduler_audit where action in ('bulk.start', 'job.cancel')";
    assert_eq!(database.count(audited).await, 1);
    scheduler.shutdown(DEADLINE).await;
}

async fn each_job_moves_once_though_its_new_time_matches_again(database: Database) {
    let database = database.fresh().await;
    let scheduler = start(&database).await;
    submit(&scheduler, "sms", "moved", 300).await;
    let operations = scheduler.by(infinite_scheduler::operations::By::new("ann"));
    let times = "select cast(sum(scheduled_ms / 1000) as bigint) from scheduler_job";
    let times = match database.backend() {
        Database::MariaDb | Database::MySql => times.replace("bigint", "signed"),
        _ => times.to_owned(),
    };
    let before = database.count(&times).await;
    let shift = BulkRequest::new(BulkAction::Shift(3_600_000), of_app("sms"));
    let started = operations.bulk().start(shift).await.expect("a start").bulk;
    let ended = until_ended(&operations, started.id).await;
    assert_eq!(counts(&ended), [300, 300, 0, 0]);
    let moved = database.count(&times).await - before - 300 * 3600;
    assert!(moved.abs() <= 1, "{moved}");

    let patch = JobPatch::from_json(r#"{"priority":"low"}"#).expect("a patch");
    let edit = BulkRequest::new(BulkAction::Edit(Box::new(patch)), of_app("sms"));
    let started = operations.bulk().start(edit).await.expect("a start").bulk;
    assert_eq!(counts(&until_ended(&operations, started.id).await), [300, 300, 0, 0]);
    let low = "select count(*) from scheduler_job where priority = 2 and revision = 2";
    assert_eq!(database.count(low).await, 300);

    let run = BulkRequest::new(BulkAction::Run, JobFilter::default()).all(true);
    let started = operations.bulk().start(run).await.expect("a start").bulk;
    assert_eq!(counts(&until_ended(&operations, started.id).await), [300, 300, 0, 0]);
    wait_until(DEADLINE, "the jobs to fire", async || live(&database, "moved").await == 0).await;
    scheduler.shutdown(DEADLINE).await;
}

async fn it_stops_within_two_heartbeats(database: Database) {
    let database = database.fresh().await;
    let scheduler = start(&database).await;
    submit(&scheduler, "sms", "many", 400).await;
    let operations = scheduler.by(infinite_scheduler::operations::By::new("ann").because("slowly"));
    let slow = BulkRequest::new(BulkAction::Cancel, of_app("sms")).rate(NonZeroU32::new(40));
    let id = operations.bulk().start(slow).await.expect("a start").bulk.id;
    wait_until(DEADLINE, "its beginning", async || {
        operations.bulk().show(id).await.is_ok_and(|item| item.done > 0)
    })
    .await;
    let stopping = operations.bulk().stop(id).await.expect("an answer");
    assert_eq!(stopping.state, BulkState::Stopping);
    wait_until(Duration::from_secs(2), "its end", async || {
        operations.bulk().show(id).await.is_ok_and(|item| item.state == BulkState::Stopped)
    })
    .await;
    let stopped = operations.bulk().show(id).await.expect("a bulk action");
    assert_eq!(stopped.matched, stopped.done + stopped.failed + stopped.skipped);
    assert!(stopped.done < 300, "{stopped:?}");
    assert_eq!(live(&database, "many").await, 400 - stopped.done as i64);
    assert_eq!((stopped.who.as_str(), stopped.reason.as_deref()), ("ann", Some("slowly")));
    let again = operations.bulk().stop(id).await.expect("an answer");
    assert_eq!(again.state, BulkState::Stopped);
    assert!(matches!(operations.bulk().stop(1).await, Err(OperationError::NotFound(_))));
    scheduler.shutdown(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_instance_goes_on_where_one_was_killed() {
    for backend in Database::SERVERS {
        let world = World::new(backend, 1).await;
        let mut first = Instance::start(&world.config()).await;
        let operations = world.operations().await;
        for submitted in operations.jobs().schedule_all(requests("sms", "left", 600)).await {
            submitted.expect("a job");
        }
        let cancel = BulkRequest::new(BulkAction::Cancel, of_app("sms")).rate(NonZeroU32::new(150));
        let id = operations.bulk().start(cancel).await.expect("a start").bulk.id;
        wait_until(DEADLINE, "its beginning", async || {
            operations.bulk().show(id).await.is_ok_and(|item| item.done > 80)
        })
        .await;
        let mut second = Instance::start(&world.config()).await;
        first.kill();
        let ended = until_ended(&operations, id).await;
        assert_eq!(counts(&ended), [600, 600, 0, 0], "{backend:?}");
        assert_eq!(live(&world.database, "left").await, 0, "{backend:?}");
        operations.close().await;
        second.terminate(DEADLINE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_with_a_typo_or_an_empty_one_is_not_everything() {
    let database = Database::Sqlite.fresh().await;
    let scheduler = start(&database).await;
    submit(&scheduler, "sms", "a", 3).await;
    submit(&scheduler, "sipcall", "b", 3).await;
    let server = Server::start(ServerOptions::new(([127, 0, 0, 1], 0))).expect("a server");
    server.show(scheduler.clone());
    let url = format!("http://{}/api/bulk", server.address());
    let client = reqwest::Client::new();
    let post = async |body: Value| {
        let sent = client.post(&url).json(&body).send().await.expect("an answer");
        (sent.status().as_u16(), sent.json::<Value>().await.expect("JSON"))
    };
    for (members, said) in [
        (json!({ "filter": { "apps": "sms" } }), "did you mean app?"),
        (json!({ "filter": {} }), "all are meant"),
        (json!({}), "all are meant"),
        (json!({ "filter": { "app": "" } }), "/filter/app is empty"),
        (json!({ "filter": { "app": null } }), "/filter/app must be a text"),
        (json!({ "filter": { "app": "smss" } }), "did you mean sms?"),
        (json!({ "filter": { "state": "scheduld" } }), "did you mean scheduled?"),
        (json!({ "filter": { "errorKind": "expird" } }), "/filter/errorKind"),
        (json!({ "filter": { "data": [] } }), "no condition"),
        (json!({ "filter": { "data": [{ "pointer": "/a" }] } }), "equals is missing"),
        (
            json!({ "filter": { "from": "2031-01-01T00:00:00Z", "to": "2030-01-01T00:00:00Z" } }),
            "must be before to",
        ),
        (json!({ "filter": { "app": "sms" }, "dryrun": true }), "did you mean dryRun?"),
        (json!({ "filter": { "app": "sms" }, "action": "cancle" }), "did you mean cancel?"),
        (json!({ "filter": { "app": "sms" }, "shiftMs": 5 }), "for the action reschedule"),
        (json!({ "filter": { "app": "sms" }, "action": "reschedule" }), "give either"),
        (json!({ "filter": { "app": "sms" }, "ratePerSecond": 0 }), "/ratePerSecond"),
    ] {
        let mut body = json!({ "action": "cancel", "reason": "x" });
        let object = body.as_object_mut().expect("an object");
        object.extend(members.as_object().expect("an object").clone());
        let (status, problem) = post(body.clone()).await;
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert_eq!(status, 422, "{body}: {problem}");
        assert!(detail.contains(said), "{body}: {detail}");
    }
    assert_eq!(database.count("select count(*) from scheduler_bulk").await, 0);
    assert_eq!(live(&database, "a").await + live(&database, "b").await, 6);

    let (status, preview) =
        post(json!({ "action": "cancel", "filter": { "app": "sms" }, "dryRun": true })).await;
    assert_eq!((status, &preview["matched"], &preview["hasMore"]), (200, &json!(3), &json!(false)));
    assert_eq!(preview["samples"].as_array().map(Vec::len), Some(3));
    assert_eq!(database.count("select count(*) from scheduler_bulk").await, 0);

    let (status, started) =
        post(json!({ "action": "cancel", "filter": { "app": "sms" }, "reason": "x" })).await;
    assert_eq!((status, &started["waitsForInstance"]), (202, &json!(false)), "{started}");
    let one = format!("{url}/{}", started["id"]);
    let get = async |url: &str| -> Value {
        client.get(url).send().await.expect("an answer").json().await.expect("JSON")
    };
    wait_until(DEADLINE, "its end", async || get(&one).await["state"] == "finished").await;
    let ended = get(&one).await;
    assert_eq!((&ended["done"], &ended["filter"]), (&json!(3), &json!({ "app": "sms" })));
    let stopped = client.post(format!("{one}/stop")).send().await.expect("an answer");
    assert_eq!(stopped.status(), 200);
    assert_eq!(get(&url).await["items"].as_array().map(Vec::len), Some(1));
    assert_eq!((live(&database, "a").await, live(&database, "b").await), (0, 3));
    scheduler.shutdown(DEADLINE).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_begins_shows_and_lists_for_programs() {
    let database = Database::Sqlite.fresh().await;
    let scheduler = start(&database).await;
    submit(&scheduler, "sms", "early", 3).await;
    scheduler.shutdown(DEADLINE).await;
    let folder = temporary_folder();
    let config = folder.path().join("infinite-scheduler.toml");
    let text = format!("[database]\nurl = \"{}\"\n[apps.sms]\n", database.url());
    std::fs::write(&config, text).expect("a file");
    let bulk = async |arguments: &[&str]| {
        let mut process = Command::new(env!("CARGO_BIN_EXE_infinite-scheduler"));
        process.arg("bulk").args(arguments).args(["--json", "--config"]).arg(&config);
        let done = tokio::task::spawn_blocking(move || process.output()).await;
        let done = done.expect("no panic").expect("the binary");
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        (done.status.code(), serde_json::from_slice::<Value>(&done.stdout).ok(), said)
    };
    let (code, empty, _) = bulk(&["list"]).await;
    assert_eq!((code, empty), (Some(0), Some(json!({ "items": [], "next": null }))));
    let (code, none, said) = bulk(&["cancel"]).await;
    assert_eq!((code, none), (Some(2), None), "{said}");
    assert!(said.contains("--all"), "{said}");
    let (code, preview, said) = bulk(&["cancel", "--app", "sms"]).await;
    let preview = preview.expect("a document");
    assert_eq!((code, &preview["matched"]), (Some(1), &json!(3)), "{said}");
    assert!(said.contains("--yes"), "{said}");
    let mut begun = Vec::new();
    for action in [&["cancel"][..], &["run"]] {
        let (code, started, said) = bulk(&[action, &["--app", "sms", "--yes"]].concat()).await;
        let started = started.expect("a document");
        // No instance is alive: it is done by the command.
        assert_eq!((code, &started["waitsForInstance"]), (Some(0), &json!(false)), "{said}");
        assert!(said.contains("carried out here"), "{said}");
        let jobs = if action == ["cancel"] { 3 } else { 0 };
        let numbers = ["expected", "matched", "done"].map(|name| started[name].clone());
        assert_eq!((&started["state"], numbers), (&json!("finished"), [jobs; 3].map(Value::from)));
        begun.push(started["id"].to_string());
    }
    assert_eq!(live(&database, "early").await, 0);
    let (code, none, said) = bulk(&["replay", "--state", "dead"]).await;
    assert_eq!((code, none), (Some(2), None), "{said}");
    assert!(said.contains("state is not one of dead letters"), "{said}");
    jobs_are_cancelled_by_filters_too(&database, &config).await;
    let (_, first, said) = bulk(&["list", "--limit", "1"]).await;
    let first = first.expect("a document");
    assert!(said.contains("older"), "{said}");
    let next = first["next"].as_str().expect("a cursor");
    let (_, second, _) = bulk(&["list", "--cursor", next]).await;
    let second = second.expect("a document");
    // The others are those of `jobs cancel`.
    let listed = second["items"].as_array().expect("items").iter();
    let listed: Vec<String> = listed.map(|item| item["id"].to_string()).collect();
    assert!(begun.iter().all(|id| listed.contains(id)), "{first} {second}");
    assert_eq!((listed.len(), &second["next"]), (3, &Value::Null));
    let (code, stopped, _) = bulk(&["stop", &begun[0]]).await;
    assert_eq!((code, &stopped.expect("a document")["state"]), (Some(0), &json!("finished")));
    assert_eq!(bulk(&["show", "1"]).await.0, Some(3));
}

/// `jobs cancel` without the name of one job.
async fn jobs_are_cancelled_by_filters_too(database: &TestDatabase, config: &std::path::Path) {
    let operations =
        Operations::connect(infinite_scheduler::OperationsOptions::new(database.url()));
    let operations = operations.await.expect("a database");
    for app in ["sms", "sipcall"] {
        for submitted in operations.jobs().schedule_all(requests(app, app, 3)).await {
            submitted.expect("a job");
        }
    }
    operations.close().await;
    for (arguments, code, sms, said) in [
        (&[][..], 2, 3, "give --all"),
        (&["--app", ""], 2, 3, "--app is empty"),
        (&["--app", "sms"], 1, 3, "give --yes"),
        (&["--app", "sms", "--dry-run"], 0, 3, "3 jobs match"),
        (&["--app", "sms", "--state", "due", "--yes"], 0, 3, "0 matched"),
        (&["--app", "sms", "--request", "sms-0", "--all"], 2, 3, "leave out either"),
        (&["--app", "sms", "--stop", "--yes"], 2, 3, "are for one job"),
        (&["--app", "sms", "--yes"], 0, 0, "3 done"),
    ] {
        let mut process = Command::new(env!("CARGO_BIN_EXE_infinite-scheduler"));
        process.args(["jobs", "cancel"]).args(arguments).arg("--config").arg(config);
        let done = tokio::task::spawn_blocking(move || process.output()).await;
        let done = done.expect("no panic").expect("the binary");
        let all = [done.stdout, done.stderr].concat();
        let all = String::from_utf8_lossy(&all);
        assert_eq!(done.status.code(), Some(code), "{arguments:?}: {all}");
        assert!(all.contains(said), "{arguments:?}: {all}");
        assert_eq!((live(database, "sms").await, live(database, "sipcall").await), (sms, 3));
    }
}
