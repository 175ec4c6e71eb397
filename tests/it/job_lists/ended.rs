//! Lists of jobs that have ended: newest first, by every filter, and without a gap while more end.

use std::collections::BTreeMap;

use infinite_scheduler::model::clock::{Clock, SystemClock};
use infinite_scheduler::operations::{JobFilter, JobName, JobState, ListedJob, Operations};
use infinite_scheduler::{
    AppConfig, JobContext, JobError, OperationError, ScheduleJobRequest, Scheduler, handler_fn,
};
use serde_json::{Value, json};

use super::{DEADLINE, DRAIN, connect, filter, page};
use crate::support::services::{Database, TestDatabase};
use crate::support::wait_until;
use crate::support::world::LEASE;

/// Jobs that ended before the walk.
const ENDED: usize = 300;

async fn start(database: &TestDatabase) -> Scheduler {
    let handler = || {
        handler_fn(|context: JobContext, _: Value| async move {
            match context.job().request_id.starts_with("dies") {
                true => Err(JobError::fail("no such number")),
                false => Ok(()),
            }
        })
    };
    let builder = Scheduler::builder().database_url(database.url()).lease(LEASE);
    let builder = builder.register_app(AppConfig::new("sms"), handler());
    builder.register_app(AppConfig::new("sipcall"), handler()).start().await.expect("a start")
}

async fn schedule(scheduler: &Scheduler, app: &str, id: &str, at: &str, priority: &str) {
    let request = ScheduleJobRequest::builder(app).request_id(id).at(at);
    let request = request.priority(priority.parse().expect("a priority")).idempotency_key(id);
    let request = request.job_data(&json!({ "id": id })).build().expect("a request");
    scheduler.schedule(request).await.expect("a job");
}

async fn names(operations: &Operations, asked: &JobFilter) -> Vec<String> {
    let listed = operations.jobs().list(asked, &page(1000, None)).await.expect("a page");
    assert_eq!(listed.next, None, "{asked:?}");
    listed.items.into_iter().map(|job| job.request_id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn live_jobs_come_first_and_then_the_ended_ones_that_a_filter_selects() {
    const FAR: &str = "2031-01-01T00:00:00Z";
    const PAST: &str = "2020-01-01T00:00:00Z";
    for backend in Database::all() {
        let database = backend.fresh().await;
        let scheduler = start(&database).await;
        // One after the other, so that their ends are in this order.
        for (app, id, at, priority) in [
            ("sms", "good-1", PAST, "normal"),
            ("sms", "dies-1", PAST, "high"),
            ("sipcall", "good-2", PAST, "low"),
            ("sms", "gone-1", FAR, "low"),
            ("sipcall", "dies-2", PAST, "normal"),
        ] {
            schedule(&scheduler, app, id, at, priority).await;
            if id == "gone-1" {
                scheduler.cancel(JobName::of_request(app, id)).await.expect("an answer");
            }
            wait_until(DEADLINE, "a job to end", async || {
                let live = "select count(*) from scheduler_job where priority < 3";
                database.count(live).await == 0
            })
            .await;
        }
        schedule(&scheduler, "sms", "waits-2", FAR, "low").await;
        schedule(&scheduler, "sipcall", "waits-1", "2030-01-01T00:00:00Z", "normal").await;
        let operations = connect(&database).await;
        let all = operations.jobs().list(&filter(&[]), &page(1000, None)).await.expect("a page");
        let ends = |job: &ListedJob| (job.request_id.clone(), job.ended_ms);
        let ends: BTreeMap<String, Option<i64>> = all.items.iter().map(ends).collect();
        let third = ends["good-2"].expect("an end");
        let third = chrono::DateTime::from_timestamp_millis(third).expect("a time").to_rfc3339();
        let data = r#"[{"pointer":"/id","equals":"dies-1"}]"#;
        for (pairs, meant) in [
            (&[][..], "waits-1 waits-2 dies-2 gone-1 good-2 dies-1 good-1"),
            (&[("app", "sms")], "waits-2 gone-1 dies-1 good-1"),
            (&[("state", "succeeded")], "good-2 good-1"),
            (&[("state", "dead")], "dies-2 dies-1"),
            (&[("state", "dead"), ("app", "sms")], "dies-1"),
            (&[("state", "cancelled")], "gone-1"),
            (&[("errorKind", "attempts-exhausted")], "dies-2 dies-1"),
            (&[("errorKind", "expired")], ""),
            (&[("priority", "low")], "waits-2 gone-1 good-2"),
            (&[("priority", "normal"), ("state", "dead")], "dies-2"),
            (&[("from", third.as_str())], "waits-1 waits-2 dies-2 gone-1 good-2"),
            (&[("to", third.as_str())], "dies-1 good-1"),
            (&[("to", third.as_str()), ("state", "dead")], "dies-1"),
            (&[("key", "dies-1")], "dies-1"),
            (&[("key", "waits-1")], "waits-1"),
            (&[("key", "dies-1"), ("state", "succeeded")], ""),
            (&[("data", data)], "dies-1"),
            (&[("data", data), ("state", "succeeded")], ""),
            (&[("partition", "t/0")], ""),
        ] {
            let asked = filter(pairs);
            let found = names(&operations, &asked).await;
            assert_eq!(found.join(" "), meant, "{backend:?} {pairs:?}");
            let count = operations.jobs().count(&asked).await.expect("a count");
            assert_eq!((count.jobs as usize, count.has_more), (found.len(), false), "{pairs:?}");
            super::one_at_a_time(&operations, &asked, found.len()).await;
        }
        let dead = all.items.iter().find(|job| job.request_id == "dies-1").expect("a job");
        assert_eq!((dead.state, dead.attempts), (JobState::Dead, 1));
        assert_eq!(dead.last_error.as_deref(), Some("no such number"));
        assert_eq!(dead.error_kind.as_deref(), Some("attempts-exhausted"));
        let gone = all.items.iter().find(|job| job.request_id == "gone-1").expect("a job");
        assert_eq!((gone.state, gone.error_kind.as_deref()), (JobState::Cancelled, None));
        assert!(gone.cancelled_by.is_some() && gone.ended_ms.is_some());
        assert!(all.items[0].ended_ms.is_none());
        let of_due = filter(&[("errorKind", "expired"), ("state", "due")]);
        let refused = operations.jobs().list(&of_due, &page(1, None)).await;
        let Err(OperationError::Invalid(why)) = refused else { panic!("{refused:?}") };
        assert!(why.contains("no job that is due has"), "{why}");
        operations.close().await;
        scheduler.shutdown(DRAIN).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_through_the_history_meets_each_job_once_while_more_end() {
    for backend in [Database::Sqlite, Database::MariaDb, Database::Postgres] {
        let database = backend.fresh().await;
        let scheduler = start(&database).await;
        for app in ["sms", "sipcall"] {
            many_ended(&database, app, ENDED / 2).await;
        }
        let operations = connect(&database).await;
        let asked = filter(&[("state", "succeeded")]);
        let (mut seen, mut cursor, mut pages) = (BTreeMap::<String, usize>::new(), None, 0);
        let (mut last, mut second) = (None, None);
        loop {
            let answer = match pages % 2 {
                0 => scheduler.jobs().list(&asked, &page(37, cursor.as_deref())).await,
                _ => operations.jobs().list(&asked, &page(37, cursor.as_deref())).await,
            };
            let answer = answer.expect("a page");
            for job in &answer.items {
                let place = std::cmp::Reverse((job.ended_ms, job.job_id));
                assert!(last.is_none_or(|last| last < place), "{backend:?}: in order");
                last = Some(place);
                *seen.entry(job.request_id.clone()).or_default() += 1;
            }
            pages += 1;
            let Some(next) = answer.next else { break };
            second.get_or_insert_with(|| next.clone());
            // One more ends, and the row that the page ended with is removed.
            schedule(&scheduler, "sms", &format!("new-{pages}"), "2020-01-01T00:00:00Z", "low")
                .await;
            let gone = &answer.items.last().expect("a job").request_id;
            let delete = format!("delete from scheduler_job_history where request_id = '{gone}'");
            database.execute(&delete).await;
            cursor = Some(next);
        }
        assert!(pages > ENDED / 37, "{pages}");
        for number in 0..ENDED / 2 {
            for app in ["sms", "sipcall"] {
                let name = format!("{app}-{number}");
                assert_eq!(seen.get(&name), Some(&1), "{backend:?}: {name}");
            }
        }
        let second = second.expect("a second page");
        let of_live = operations.jobs().list(&filter(&[]), &page(37, Some(&second))).await;
        assert!(matches!(of_live, Err(OperationError::InvalidCursor(_))), "{of_live:?}");
        let count = operations.jobs().count(&asked).await.expect("a count");
        assert!(!count.has_more && count.jobs as usize >= ENDED - pages, "{count:?}");
        // What no index has is looked for among so many rows.
        let data = filter(&[("state", "succeeded"), ("data", r#"[{"pointer":"/n","equals":-1}]"#)]);
        let none = operations.jobs().list(&data, &page(37, None)).await.expect("a page");
        assert_eq!((none.items.len(), none.looked_at), (0, Some(count.jobs)), "{backend:?}");
        operations.close().await;
        scheduler.shutdown(DRAIN).await;
    }
}

/// Jobs of an app that succeeded, seven of them in each millisecond.
async fn many_ended(database: &TestDatabase, app: &str, jobs: usize) {
    let now_ms = SystemClock.now_ms();
    let rows: Vec<String> = (0..jobs)
        .map(|number| {
            let digits = format!("{:031x}{}", number * 7919 % 100_003, app.len());
            let id = match database.backend() {
                Database::Postgres => format!("'{}'::uuid", &digits[..32]),
                _ => format!("x'{}'", &digits[..32]),
            };
            let ended_ms = now_ms - 60_000 + (number / 7) as i64;
            format!(
                "({id}, 1, 1, 1, (select id from scheduler_app where name = '{app}'), \
                 '{app}-{number}', 1, 1, {ended_ms}, 1, '{{\"n\":{number}}}')"
            )
        })
        .collect();
    let insert = format!(
        "insert into scheduler_job_history (id, created_ms, attempt, state, app, request_id, \
         scheduled_ms, due_ms, ended_ms, priority, data) values {}",
        rows.join(", ")
    );
    database.execute(&insert).await;
}
