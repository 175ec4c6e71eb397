//! `dispatch = "kafka"` while its topic is missing.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::Duration;

use infinite_scheduler::{AppConfig, Scheduler};

use super::{DEADLINE, DRAIN, no_jobs, schedule};
use crate::support::kafka::{create_topic, delete_topic, exists, read_all};
use crate::support::services::Database;
use crate::support::wait_until;
use crate::support::world::{LEASE, World};

const JOBS: usize = 40;

/// Waits until it is reported that the topic is missing.
async fn reported(scheduler: &Scheduler, topic: &str) {
    wait_until(DEADLINE, "a report of the topic", async || {
        let degraded = scheduler.health().degraded;
        degraded.iter().any(|it| {
            it.subject == format!("topic {topic}") && it.message.contains("does not exist: create")
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_missing_for_a_time_costs_no_attempt() {
    let world = World::new(Database::Sqlite, 1).await;
    let mut sms = AppConfig::new("sms");
    sms.timeout = Duration::from_secs(2);
    // An attempt that counts would end the job.
    sms.max_attempts = NonZeroU32::MIN;
    let builder = Scheduler::builder().database_url(world.database.url()).lease(LEASE);
    let builder = builder.with_kafka_ingest(world.kafka_without_topics());
    let builder = builder.register_app_on_topic(sms, &world.fired);
    let scheduler = builder.start().await.expect("a start");

    delete_topic(&world.fired).await;
    wait_until(DEADLINE, "the topic's end", async || !exists(&world.fired).await).await;
    for n in 0..JOBS {
        schedule(&scheduler, &format!("r-{n}")).await;
    }
    reported(&scheduler, &world.fired).await;
    create_topic(&world.fired, 5, &[]).await;
    no_jobs(&world.database).await;
    let records = read_all(&world.fired).await;
    let keys: BTreeSet<_> = records.iter().map(|record| record.key.clone()).collect();
    assert_eq!((keys.len(), records.len()), (JOBS, JOBS), "each once");

    let letters = "select count(*) from scheduler_dead_letter";
    assert_eq!(world.database.count(letters).await, 0);
    assert_eq!(scheduler.ingest_metrics().apps["sms"].failed, 0);
    scheduler.shutdown(DRAIN).await;
}
