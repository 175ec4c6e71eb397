//! Idempotency keys are forgotten after their window, and never before their job has ended.

use infinite_scheduler::store::{KeyCursor, Store, StoreOptions};
use infinite_scheduler::{AppConfig, Discard, ScheduleJobRequest, Scheduler};

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
        database.execute("update idempotency_key set expires_ms = 0 where name = 'far'").await;
        let forget = async || store.forget_keys(KeyCursor::default(), 10_000_000).await;
        assert_eq!(forget().await.expect("a step"), (0, None), "{backend:?}: its job lives");
        database.execute("delete from job").await;
        assert_eq!(forget().await.expect("a step"), (1, None), "{backend:?}");
        let left =
            database.count("select count(*) from idempotency_key where name = 'fresh'").await;
        assert_eq!(left, 1, "{backend:?}: its window is not over");
        store.close().await;
    }
}
