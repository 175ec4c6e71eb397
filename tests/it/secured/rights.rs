//! Permissions that the broker gives only later, and takes away.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn records_wait_until_the_right_to_read_them_is_given_and_given_again() {
    let here = Here::new().await;
    here.produce(&[&good("r-1")]).await;
    let topic = here.topic.as_str();
    let scheduler = here.start(here.properties()).await;
    complaint(&scheduler, &["refuses access", topic, "allow DESCRIBE"]).await;
    scheduler.shutdown(DRAIN).await;
    // The same without the check of topics at the start.
    let kafka = KafkaIngestConfig { ensure_topics: false, ..here.kafka(here.properties()) };
    let scheduler = here.builder(kafka).start().await.expect("a start");
    complaint(&scheduler, &["a permission is missing", "allow READ"]).await;
    assert_eq!(scheduler.ingest_metrics().messages_received, 0);

    here.allow_all(here.broker.user()).await;
    wait_until(DEADLINE, "the job fired", async || {
        scheduler.ingest_metrics().apps["sms"].succeeded == 1
    })
    .await;
    is_well(&scheduler).await;

    // Revoked while it reads: what comes meanwhile is read as soon as that is over.
    here.take_back("Read", topic).await;
    here.produce(&[&good("r-2"), "poison", &good("r-3")]).await;
    complaint(&scheduler, &["is not allowed", topic, "allow READ"]).await;
    here.allow("Read", topic).await;
    wait_until(DEADLINE, "all jobs fired and the letter published", async || {
        let metrics = scheduler.ingest_metrics();
        metrics.apps["sms"].succeeded == 3 && metrics.messages_sent_to_dlq == 1
    })
    .await;
    is_well(&scheduler).await;
    scheduler.shutdown(DRAIN).await;
    let mut fired = here.fired().await;
    fired.sort();
    assert_eq!(fired, ["r-1", "r-2", "r-3"]);
    let read =
        "select count(*) from scheduler_ingest_offset where next_offset = 4 and dead_letters = 1";
    assert_eq!(here.database.count(read).await, 1);
}

/// A topic to read only: its letters stay rows until the user may write to it.
#[tokio::test(flavor = "multi_thread")]
async fn letters_wait_until_the_dlq_topic_may_be_written_to() {
    let here = Here::new().await;
    here.allow_all(here.broker.user()).await;
    let scheduler = here.start(here.properties()).await;
    here.produce(&["poison 0", &good("r-0")]).await;
    wait_until(DEADLINE, "a letter published", async || {
        scheduler.ingest_metrics().messages_sent_to_dlq == 1
    })
    .await;

    here.take_back("Write", &here.dlq).await;
    here.produce(&["poison 1", &good("r-1"), "poison 2"]).await;
    complaint(&scheduler, &["dead letters", &here.dlq, "allow WRITE"]).await;
    wait_until(DEADLINE, "the jobs fired all the same", async || {
        scheduler.ingest_metrics().apps["sms"].succeeded == 2
    })
    .await;
    assert_eq!(here.database.count("select count(*) from scheduler_outbox").await, 2);
    assert_eq!(here.database.count("select count(*) from scheduler_dead_letter").await, 3);
    assert_eq!(scheduler.ingest_metrics().messages_sent_to_dlq, 1);

    here.allow("Write", &here.dlq).await;
    wait_until(DEADLINE, "every letter published", async || {
        scheduler.ingest_metrics().messages_sent_to_dlq == 3
    })
    .await;
    is_well(&scheduler).await;
    assert_eq!(here.database.count("select count(*) from scheduler_outbox").await, 0);
    scheduler.shutdown(DRAIN).await;
    assert_eq!(here.letters().await, ["poison 0", "poison 1", "poison 2"]);
}
