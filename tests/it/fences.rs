//! A writer with an old epoch of a shard writes nothing into it.

use std::sync::Arc;

use infinite_scheduler::model::ids::{Epoch, InstanceId};
use infinite_scheduler::store::{
    Ended, Membership, Outcome, OutcomeBatch, ShardFence, Store, StoreOptions,
};
use infinite_scheduler::{AppConfig, Discard, Job, ScheduleJobRequest, Scheduler};

use crate::support::services::Database;
use crate::support::world::LEASE;

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_of_an_old_epoch_changes_nothing() {
    for backend in Database::all() {
        let database = backend.fresh().await;
        // One job far ahead, put there by an instance that leaves.
        let app = AppConfig::new("sms");
        let scheduler = Scheduler::builder().database_url(database.url()).lease(LEASE);
        let scheduler =
            scheduler.register_app(app.clone(), Discard).start().await.expect("a start");
        let request =
            ScheduleJobRequest::builder("sms").request_id("far").at("2035-01-01T00:00:00Z");
        scheduler.schedule(request.build().expect("a request")).await.expect("accepted");
        scheduler.shutdown(LEASE).await;

        let options = StoreOptions { url: database.url().into(), max_connections: 3, lease: LEASE };
        let store = Store::connect(&options).await.expect("a store");
        let row = store.find_app("sms").await.expect("an answer").expect("the app");
        let membership = Membership {
            name: "test".into(),
            apps: vec![row.id],
            time_zones: "2026f".into(),
            lease: LEASE,
            process: None,
            is_drained: false,
        };
        let me = store.join(&membership, 0).await.expect("joined");
        let id = infinite_scheduler::model::ids::JobId::derive("sms", "far");
        let job = store.jobs_by_id(&[id], 1).await.expect("an answer").0.pop().expect("the job");
        let seen = store.observe(me).await.expect("an observation");
        let shard = seen.shards.iter().find(|shard| shard.id == job.shard).expect("its shard");
        let taken = store.take_shards(&[*shard], me, 0).await.expect("an answer");
        let epoch = taken.first().expect("taken").epoch;

        let job = Arc::new(job);
        let retry = Outcome::Retry { due_ms: 1, attempts: 1, error: None };
        let write = async |owner: InstanceId, epoch: Epoch, outcome: Outcome| {
            let fences = vec![ShardFence { shard: job.shard, owner, epoch }];
            let batch = OutcomeBatch { fences, outcomes: vec![ended(&job, outcome)] };
            store.write_outcomes(&Arc::new(batch)).await.expect("an answer").lost
        };
        let old = Epoch(epoch.0 - 1);
        for (owner, epoch) in [(me, old), (InstanceId(me.0 ^ 1), epoch)] {
            for outcome in [Outcome::Succeeded, retry.clone()] {
                assert_eq!(write(owner, epoch, outcome).await, [job.shard], "{backend:?}");
            }
        }
        let unchanged = "select count(*) from scheduler_job where attempts = 0 and due_ms > 1";
        assert_eq!(database.count(unchanged).await, 1, "{backend:?}");
        assert_eq!(write(me, epoch, retry.clone()).await, [], "{backend:?}");
        assert_eq!(database.count(unchanged).await, 0, "{backend:?}: at its epoch it is written");
        // The version that was fired is not there any more: a repetition meets nothing.
        assert_eq!(write(me, epoch, Outcome::Succeeded).await, [], "{backend:?}");
        assert_eq!(database.count("select count(*) from scheduler_job").await, 1, "{backend:?}");
        store.close().await;
    }
}

fn ended(job: &Arc<Job>, outcome: Outcome) -> Ended {
    Ended { job: job.clone(), outcome, verdicts: Vec::new(), kept: None }
}
