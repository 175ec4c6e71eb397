//! Idempotency keys are deleted after their window, and never before their job has ended.

use infinite_scheduler::model::ids::{JobId, KeyId};
use infinite_scheduler::store::{
    Admitted, Decision, Entry, IdempotencyKey, KeyCursor, Store, StoreOptions,
};
use infinite_scheduler::{AppConfig, Discard, ScheduleJobRequest, Scheduler};

use crate::support::fixture::Fixture;
use crate::support::services::Database;
use crate::support::world::LEASE;

#[tokio::test(flavor = "multi_thread")]
async fn a_key_goes_after_its_window_unless_its_job_lives() {
    for backend in Database::all() {
        let database = backend.fresh().await;
        let scheduler = Scheduler::builder()
            .database_url(database.url())
            .lease(LEASE)
            .register_app(AppConfig::new("sms"), Discard)
            .start()
            .await
            .expect("a start");
        for (key, at) in [("far", "2035-01-01T00:00:00Z"), ("fresh", "2035-01-01T00:00:00Z")] {
            let request = ScheduleJobRequest::builder("sms").at(at).idempotency_key(key).build();
            scheduler.schedule(request.expect("a request")).await.expect("accepted");
        }
        scheduler.shutdown(LEASE).await;
        let options = StoreOptions { url: database.url().into(), max_connections: 2, lease: LEASE };
        let store = Store::connect(&options).await.expect("a store");
        database
            .execute("update scheduler_idempotency_key set expires_ms = 0 where name = 'far'")
            .await;
        let forget = async || store.forget_keys(KeyCursor::default(), 10_000_000).await;
        assert_eq!(forget().await.expect("a step"), (0, None), "{backend:?}: its job lives");
        database.execute("delete from scheduler_job").await;
        assert_eq!(forget().await.expect("a step"), (1, None), "{backend:?}");
        let left = database
            .count("select count(*) from scheduler_idempotency_key where name = 'fresh'")
            .await;
        assert_eq!(left, 1, "{backend:?}: its window is not over");
        store.close().await;
    }
}

/// Clocks differ, and batches take their time.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_kept_an_hour_longer_and_as_long_as_its_job_exists() {
    const HOUR_MS: i64 = 3_600_000;
    for backend in Database::all() {
        let database = backend.fresh().await;
        let fixture = Fixture::new(&database).await;
        let admit = async |offset: i64, name: &str| {
            let Entry::Job(mut candidate) = fixture.job() else { panic!("not a job") };
            candidate.job.id = JobId::derive("sms", name);
            candidate.job.request_id = name.into();
            // Over by the time of every admission here.
            let (id, name) = (KeyId::derive("sms", "key"), "key".to_owned());
            candidate.key = Some(IdempotencyKey { id, name, expires_ms: 1 });
            match fixture.admit(fixture.records(offset), Entry::Job(candidate)).await {
                Admitted::Done(mut decisions) => decisions.pop().expect("a decision"),
                other => panic!("{backend:?}: {other:?}"),
            }
        };
        assert_eq!(admit(0, "first").await, Decision::Accepted, "{backend:?}");
        let job = JobId::derive("sms", "first");
        let of_first = Decision::Duplicate { of: "first".into(), job, cancelled: false };
        assert_eq!(admit(1, "second").await, of_first, "{backend:?}: its job lives");
        database.execute("delete from scheduler_job").await;
        assert_eq!(admit(2, "third").await, Decision::Accepted, "{backend:?}: it is free");

        database.execute("delete from scheduler_job").await;
        let forget = async |now_ms| {
            fixture.store.forget_keys(KeyCursor::default(), now_ms).await.expect("a step").0
        };
        // The row that took the place of another has a later window, whose hour is not over.
        assert_eq!(forget(HOUR_MS + 1).await, 0, "{backend:?}: the hour is not over");
        assert_eq!(forget(HOUR_MS + 2).await, 1, "{backend:?}");
        fixture.store.close().await;
    }
}
