//! Lists of jobs: walked by cursor while jobs come, go and move, and filtered strictly.

mod command;
mod ended;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use infinite_scheduler::model::clock::{Clock, SystemClock};
use infinite_scheduler::operations::{JobFilter, JobPage, ListedJob, PageRequest};
use infinite_scheduler::{
    AppConfig, Discard, OperationError, Operations, OperationsOptions, Priority,
    ScheduleJobRequest, Scheduler,
};
use serde_json::json;

use crate::support::services::{Database, TestDatabase};
use crate::support::wait_until;
use crate::support::world::LEASE;

const DRAIN: Duration = Duration::from_secs(10);
const DEADLINE: Duration = Duration::from_secs(60);
/// Jobs that exist all the time.
const JOBS: usize = 1000;

async fn start(database: &TestDatabase) -> Scheduler {
    let builder = Scheduler::builder().database_url(database.url()).lease(LEASE);
    let builder = builder.register_app(AppConfig::new("sms"), Discard);
    builder.register_app(AppConfig::new("sipcall"), Discard).start().await.expect("a start")
}

async fn connect(database: &TestDatabase) -> Operations {
    let options = OperationsOptions::new(database.url());
    Operations::connect(options).await.expect("a database")
}

fn request(id: &str, at: DateTime<Utc>) -> ScheduleJobRequest {
    let request = ScheduleJobRequest::builder("sms").request_id(id).at(at);
    let priority = Priority::ALL[id.len() % 3];
    request.priority(priority).job_data(&json!({ "id": id })).build().expect("a request")
}

fn filter(pairs: &[(&str, &str)]) -> JobFilter {
    JobFilter::from_pairs(pairs.iter().copied(), None).expect("a filter")
}

fn page(limit: usize, cursor: Option<&str>) -> PageRequest {
    PageRequest { limit, cursor: cursor.map(str::to_owned) }
}

async fn admit(scheduler: &Scheduler, requests: Vec<ScheduleJobRequest>) {
    for answer in scheduler.jobs().schedule_all(requests).await {
        answer.expect("a job");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_meets_each_job_that_stays_once_while_others_move_on_sqlite() {
    a_walk_meets_each_job_that_stays_once(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_meets_each_job_that_stays_once_while_others_move_on_mariadb() {
    a_walk_meets_each_job_that_stays_once(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_meets_each_job_that_stays_once_while_others_move_on_mysql() {
    a_walk_meets_each_job_that_stays_once(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_meets_each_job_that_stays_once_while_others_move_on_postgres() {
    a_walk_meets_each_job_that_stays_once(Database::Postgres).await;
}

async fn a_walk_meets_each_job_that_stays_once(backend: Database) {
    let database = backend.fresh().await;
    let one = start(&database).await;
    let other = match backend {
        Database::Sqlite => None,
        _ => Some(start(&database).await),
    };
    let alone = connect(&database).await;
    // Ten minutes of jobs from two minutes on, with many at the same moment.
    let start_at = SystemClock.now() + TimeDelta::minutes(2);
    let moment = |number: usize| start_at + TimeDelta::milliseconds((number / 7 * 4200) as i64);
    let jobs = (0..JOBS).map(|number| request(&format!("r-{number}"), moment(number)));
    admit(&one, jobs.collect()).await;
    // Some fire while the walk goes on.
    let soon = SystemClock.now() + TimeDelta::seconds(2);
    admit(&one, (0..50).map(|number| request(&format!("soon-{number}"), soon)).collect()).await;

    let scheduled = filter(&[("app", "sms"), ("state", "scheduled")]);
    let (mut seen, mut touched) = (BTreeMap::<String, usize>::new(), BTreeSet::new());
    let (mut cursor, mut first_cursor, mut pages) = (None, None, 0);
    let mut last = None;
    loop {
        let limit = 100;
        let asked = page(limit, cursor.as_deref());
        let answer = match (&other, pages % 3) {
            (Some(other), 1) => other.jobs().list(&scheduled, &asked).await,
            (_, 2) => alone.jobs().list(&scheduled, &asked).await,
            _ => one.jobs().list(&scheduled, &asked).await,
        };
        let answer = answer.expect("a page");
        assert!(answer.items.len() <= limit);
        for job in &answer.items {
            assert!(last < Some((job.due_ms, job.job_id)), "{backend:?}: in order");
            last = Some((job.due_ms, job.job_id));
            *seen.entry(job.request_id.clone()).or_default() += 1;
        }
        pages += 1;
        let Some(next) = answer.next.clone() else { break };
        first_cursor.get_or_insert_with(|| next.clone());
        disturb(&database, &one, &answer, pages, &mut touched).await;
        cursor = Some(next);
    }
    assert!(pages >= 10, "{pages}");
    for number in 0..JOBS {
        let name = format!("r-{number}");
        if !touched.contains(&name) {
            assert_eq!(seen.get(&name), Some(&1), "{backend:?}: {name}");
        }
    }
    assert!(touched.len() < JOBS / 4, "{}", touched.len());
    let first_cursor = first_cursor.expect("a second page");
    the_cursor_belongs_to_its_filter(&alone, &scheduled, &first_cursor).await;
    one.shutdown(DRAIN).await;
    if let Some(other) = other {
        other.shutdown(DRAIN).await;
    }
    // After a restart it works as before.
    let again = start(&database).await;
    let there = again.jobs().list(&scheduled, &page(50, Some(&first_cursor))).await;
    let same = alone.jobs().list(&scheduled, &page(50, Some(&first_cursor))).await;
    assert_eq!(there.expect("a page").items, same.expect("a page").items, "{backend:?}");
    again.shutdown(DRAIN).await;
    alone.close().await;
}

/// New jobs before and behind the cursor, the job of the cursor is deleted, and others move from
/// the end to the start and back.
async fn disturb(
    database: &TestDatabase,
    scheduler: &Scheduler,
    shown: &JobPage,
    pages: usize,
    touched: &mut BTreeSet<String>,
) {
    let last: &ListedJob = shown.items.last().expect("a page before the end has jobs");
    let due = DateTime::from_timestamp_millis(last.due_ms).expect("a time");
    let mut new = Vec::new();
    for number in 0..10 {
        new.push(request(&format!("before-{pages}-{number}"), due - TimeDelta::seconds(1)));
        new.push(request(&format!("behind-{pages}-{number}"), due + TimeDelta::seconds(1)));
    }
    admit(scheduler, new).await;
    let delete = format!("delete from scheduler_job where request_id = '{}'", last.request_id);
    database.execute(&delete).await;
    touched.insert(last.request_id.clone());
    for number in 0..10 {
        let name = format!("r-{}", JOBS - 1 - number);
        let shift = if pages % 2 == 1 { "- 500000" } else { "+ 500000" };
        let update =
            format!("update scheduler_job set due_ms = due_ms {shift} where request_id = '{name}'");
        database.execute(&update).await;
        touched.insert(name);
    }
}

async fn the_cursor_belongs_to_its_filter(
    operations: &Operations,
    scheduled: &JobFilter,
    cursor: &str,
) {
    let jobs = operations.jobs();
    let hundred = jobs.list(scheduled, &page(100, Some(cursor))).await.expect("a page");
    let fewer = jobs.list(scheduled, &page(37, Some(cursor))).await.expect("a page");
    assert_eq!(hundred.items[..37], fewer.items[..], "another limit, the same start");
    let mut changed = cursor.to_owned();
    let swap = if changed.ends_with('A') { "B" } else { "A" };
    changed.replace_range(changed.len() - 1.., swap);
    let of_sipcall = filter(&[("app", "sipcall"), ("state", "scheduled")]);
    for (filter, cursor) in [
        (&of_sipcall, cursor),
        (&filter(&[("app", "sms")]), cursor),
        (scheduled, &*changed),
        (scheduled, "x"),
        (scheduled, ""),
    ] {
        let refused = jobs.list(filter, &page(100, Some(cursor))).await;
        let Err(OperationError::InvalidCursor(why)) = refused else { panic!("{refused:?}") };
        assert!(why.starts_with("cursor is not one of this list"), "{why}");
    }
    for limit in [0, 1001] {
        let refused = jobs.list(scheduled, &page(limit, None)).await;
        let Err(OperationError::Invalid(why)) = refused else { panic!("{refused:?}") };
        assert!(why.contains("from 1 to 1000"), "{why}");
    }
}

/// What each filter selects of a few jobs, how many that are, and what is refused.
#[tokio::test(flavor = "multi_thread")]
async fn filters_select_what_they_say() {
    for backend in Database::all() {
        let database = backend.fresh().await;
        let scheduler = start(&database).await;
        // Jobs that are due stay so while nobody has the app.
        scheduler.shutdown(DRAIN).await;
        let operations = connect(&database).await;
        let jobs = [
            ("a", "sms", "2030-01-01T00:00:00Z", "high", Some("k"), r#"{"n":1.0,"to":{"c":"BD"}}"#),
            ("b", "sms", "2030-01-01T00:00:00Z", "low", Some("K"), r#"{"n":2}"#),
            ("c", "sms", "2031-01-01T00:00:00Z", "normal", Some("k "), r#"{"n":"1"}"#),
            ("d", "sms", "2020-01-01T00:00:00Z", "normal", None, r#"{"n":null}"#),
            ("e", "sipcall", "2030-06-01T00:00:00Z", "high", Some("k"), r#"{"n":10e-1}"#),
        ];
        for (id, app, at, priority, key, data) in jobs {
            let mut request = ScheduleJobRequest::builder(app).request_id(id).at(at);
            if let Some(key) = key {
                request = request.idempotency_key(key);
            }
            let request = request.priority(priority.parse().expect("a priority"));
            let request = request.raw_job_data(data).build().expect("a request");
            operations.jobs().schedule(request).await.expect("a job");
        }
        let by_data = |pointer: &str, equals: &str| {
            format!(r#"[{{"pointer":"{pointer}","equals":{equals}}}]"#)
        };
        let (n_is_one, both) = (
            by_data("/n", "1"),
            r#"[{"pointer":"/n","equals":1},{"pointer":"/to/c","equals":"BD"}]"#,
        );
        for (pairs, names) in [
            (&[][..], "d a b e c"),
            (&[("app", "sms")], "d a b c"),
            (&[("app", "sipcall")], "e"),
            (&[("state", "due")], "d"),
            (&[("state", "scheduled")], "a b e c"),
            (&[("priority", "HIGH")], "a e"),
            (&[("from", "2030-01-01T00:00:00Z"), ("to", "2031-01-01T00:00:00Z")], "a b e"),
            (&[("from", "2030-01-01T00:00:00.001Z")], "e c"),
            (&[("to", "2030-01-01T00:00:00Z")], "d"),
            (&[("key", "k")], "a e"),
            (&[("key", "K"), ("app", "sms")], "b"),
            (&[("key", "k ")], "c"),
            (&[("key", "k"), ("priority", "low")], ""),
            (&[("key", "_")], ""),
            (&[("data", &n_is_one)], "a e"),
            (&[("data", &n_is_one), ("app", "sms")], "a"),
            (&[("data", both)], "a"),
            (&[("data", &by_data("/n", "null"))], "d"),
            (&[("data", &by_data("/n", "\"1\"")), ("state", "scheduled")], "c"),
            (&[("partition", "t/0")], ""),
        ] {
            let asked = filter(pairs);
            let listed = operations.jobs().list(&asked, &page(1000, None)).await.expect("a page");
            // The two that are due at the same moment are in the order of their ids.
            let mut found: Vec<&str> =
                listed.items.iter().map(|job| job.request_id.as_str()).collect();
            if let Some(at) = found.windows(2).position(|pair| pair == ["b", "a"]) {
                found.swap(at, at + 1);
            }
            assert_eq!(found.join(" "), names, "{backend:?} {pairs:?}");
            assert_eq!(listed.next, None, "{backend:?} {pairs:?}");
            let names: Vec<&str> = pairs.iter().map(|(name, _)| *name).collect();
            let scans =
                names.contains(&"data") || names.contains(&"partition") || names == ["priority"];
            assert_eq!(listed.looked_at.is_some(), scans, "{backend:?} {pairs:?}");
            let count = operations.jobs().count(&asked).await.expect("a count");
            assert_eq!((count.jobs as usize, count.has_more), (found.len(), false), "{pairs:?}");
            one_at_a_time(&operations, &asked, found.len()).await;
        }
        let unknown = operations.jobs().list(&filter(&[("app", "smss")]), &page(1, None)).await;
        let Err(OperationError::Invalid(why)) = unknown else { panic!("{unknown:?}") };
        assert_eq!(why, "app \"smss\" was never registered: did you mean sms?");
        operations.close().await;
    }
}

async fn one_at_a_time(operations: &Operations, filter: &JobFilter, jobs: usize) {
    let (mut cursor, mut found) = (None, 0);
    loop {
        let listed = operations.jobs().list(filter, &page(1, cursor.as_deref())).await;
        let listed = listed.expect("a page");
        found += listed.items.len();
        cursor = listed.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(found, jobs, "{filter:?}");
}

/// More jobs than are ever counted, or read for one page.
#[tokio::test(flavor = "multi_thread")]
async fn counts_and_searches_end_after_ten_thousand_jobs() {
    for backend in Database::all() {
        let database = backend.fresh().await;
        start(&database).await.shutdown(DRAIN).await;
        many_jobs(&database, 12_000).await;
        let operations = connect(&database).await;
        let count = operations.jobs().count(&filter(&[("app", "sms")])).await.expect("a count");
        assert_eq!((count.jobs, count.has_more), (10_000, true), "{backend:?}");
        let last = filter(&[("data", r#"[{"pointer":"/n","equals":11999}]"#)]);
        let first_page = operations.jobs().list(&last, &page(10, None)).await.expect("a page");
        assert_eq!(
            (first_page.items.len(), first_page.looked_at),
            (0, Some(10_000)),
            "{backend:?}"
        );
        let next = first_page.next.expect("more to be read");
        let rest = operations.jobs().list(&last, &page(10, Some(&next))).await.expect("a page");
        assert_eq!((rest.items.len(), rest.looked_at), (1, Some(2000)), "{backend:?}");
        assert_eq!((rest.items[0].request_id.as_str(), rest.next), ("m-11999", None));
        let count = operations.jobs().count(&last).await.expect("a count");
        assert_eq!((count.jobs, count.has_more), (0, true), "{backend:?}");
        operations.close().await;
    }
}

/// Jobs of `sms` in all its shards, due one a second from 2030 on.
async fn many_jobs(database: &TestDatabase, jobs: usize) {
    let first_shard = "(select min(s.id) from scheduler_shard s \
                       join scheduler_app a on a.id = s.app where a.name = 'sms')";
    for numbers in (0..jobs).collect::<Vec<_>>().chunks(1000) {
        let rows: Vec<String> = numbers
            .iter()
            .map(|number| {
                let id = match database.backend() {
                    Database::Postgres => format!("'{:032x}'::uuid", number * 7919 % 100_003),
                    _ => format!("x'{:032x}'", number * 7919 % 100_003),
                };
                let due_ms = 1_893_456_000_000 + number * 1000;
                format!(
                    "({id}, {first_shard} + {}, {}, {due_ms}, 'm-{number}', {due_ms}, 0, 0, '{{\"n\":{number}}}')",
                    number % 8,
                    number % 3
                )
            })
            .collect();
        let insert = format!(
            "insert into scheduler_job (id, shard, priority, due_ms, request_id, scheduled_ms, \
             created_ms, attempts, data) values {}",
            rows.join(", ")
        );
        database.execute(&insert).await;
    }
}

/// Those of a partition are found by their records.
#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_listed_by_the_partition_of_their_record() {
    use crate::support::kafka::{RawRecord, produce};
    use crate::support::world::World;
    for backend in [Database::Sqlite, Database::Postgres, Database::MariaDb] {
        let world = World::new(backend, 2).await;
        let scheduler = world.builder().start().await.expect("a start");
        let record = |partition: i32, id: &str| {
            let json = format!(
                r#"{{"requestId":"{id}","appName":"sms","scheduledTime":"2030-01-01T00:00:00Z"}}"#
            );
            RawRecord::new(partition, json)
        };
        produce(&world.topic, &[record(0, "zero"), record(1, "one"), record(1, "uno")]).await;
        wait_until(DEADLINE, "three jobs", async || {
            scheduler.ingest_metrics().messages_processed == 3
        })
        .await;
        for (partition, names) in [(0, &["zero"][..]), (1, &["one", "uno"]), (2, &[])] {
            let asked = filter(&[("partition", &format!("{}/{partition}", world.topic))]);
            let listed = scheduler.jobs().list(&asked, &page(10, None)).await.expect("a page");
            let found: BTreeSet<&str> =
                listed.items.iter().map(|job| job.request_id.as_str()).collect();
            assert_eq!(found, names.iter().copied().collect(), "{backend:?} {partition}");
            assert_eq!(listed.looked_at, Some(3), "{backend:?}");
        }
        scheduler.shutdown(DRAIN).await;
    }
}
