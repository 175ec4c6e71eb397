//! Topics that were deleted and created again, or gained partitions.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_recreated_with_fewer_records_is_read_from_its_start() {
    let world = World::new(Database::Sqlite, 1).await;
    write(&world, 0..80).await;
    read(&world, world.kafka(), 80).await;
    make_again(&world.topic).await;
    write(&world, 80..110).await;
    read_what_was_recreated(&world, 30).await;
    check_read(&world, 0..110).await;
    assert_eq!(next_offset(&world).await, 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_recreated_with_more_records_is_detected_by_the_last_record_that_was_read() {
    let world = World::new(Database::Sqlite, 1).await;
    write(&world, 0..30).await;
    read(&world, world.kafka(), 30).await;
    make_again(&world.topic).await;
    write(&world, 30..110).await;
    read_what_was_recreated(&world, 80).await;
    check_read(&world, 0..110).await;
    assert_eq!(next_offset(&world).await, 80);
    assert_eq!(total(&world, "jobs").await, 110);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_recreated_under_a_running_reader_is_read_from_its_start() {
    let world = World::new(Database::Sqlite, 1).await;
    let config = KafkaIngestConfig {
        properties: [("topic.metadata.refresh.interval.ms".to_owned(), "1000".to_owned())].into(),
        ..world.kafka()
    };
    let scheduler = start(&world, config).await;
    write(&world, 0..30).await;
    wait_until(DEADLINE, "the first records", async || received(&scheduler) == 30).await;
    delete_topic(&world.topic).await;
    wait_until(DEADLINE, "a group without the topic", async || {
        scheduler.ingest_metrics().consumer_lag.is_empty()
    })
    .await;
    // The broker takes its time, too.
    wait_until(DEADLINE, "the topic's end", async || !exists(&world.topic).await).await;
    create_topic(&world.topic, 1, &[]).await;
    write(&world, 30..110).await;
    wait_until(DEADLINE, "the new records", async || received(&scheduler) == 110).await;
    assert_eq!(scheduler.ingest_metrics().logs_recreated, 1);
    stop(scheduler).await;
    check_read(&world, 0..110).await;
}

/// The new topic has the offset that is read next as soon as the reader sees it.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_recreated_in_a_moment_under_a_running_reader_is_read_from_its_start() {
    let world = World::new(Database::Sqlite, 1).await;
    let scheduler = start(&world, world.kafka()).await;
    let mut written = 0;
    for round in 0..5_u64 {
        let more = 20 * (round as usize + 1);
        write(&world, written..written + more).await;
        written += more;
        wait_until(DEADLINE, "the records", async || received(&scheduler) == written).await;
        assert_eq!(scheduler.ingest_metrics().logs_recreated, round);
        make_again(&world.topic).await;
    }
    stop(scheduler).await;
    check_read(&world, 0..written).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_a_topic_gains_are_read_from_their_start() {
    for backend in Database::all() {
        let world = World::new(backend, 1).await;
        let mut config = world.kafka();
        let refresh = "topic.metadata.refresh.interval.ms";
        config.properties.insert(refresh.to_owned(), "1000".to_owned());
        let scheduler = start(&world, config).await;
        write(&world, 0..10).await;
        wait_until(DEADLINE, "the first records", async || received(&scheduler) == 10).await;
        add_partitions(&world.topic, 3).await;
        // Before any instance reads them.
        let later: Vec<RawRecord> =
            (10..50).map(|n| RawRecord { partition: 1 + n as i32 % 2, ..record(n) }).collect();
        produce(&world.topic, &later).await;
        wait_until(DEADLINE, "all records", async || received(&scheduler) == 50).await;
        let metrics = scheduler.ingest_metrics();
        assert_eq!((metrics.logs_recreated, metrics.offsets_lost), (0, 0), "{backend:?}");
        stop(scheduler).await;
        let read = "select count(*) from scheduler_ingest_offset where next_offset = jobs and \
                    (number = 0 and jobs = 10 or number > 0 and jobs = 20)";
        assert_eq!(world.database.count(read).await, 3, "{backend:?}");
        assert_eq!(fired(&world).await.len(), 50, "{backend:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_recreated_with_fewer_records_is_not_read_if_so_configured() {
    a_topic_recreated_is_not_read_if_so_configured(30..40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_recreated_with_more_records_is_not_read_if_so_configured() {
    a_topic_recreated_is_not_read_if_so_configured(30..110).await;
}

/// The first 30 records are read of one topic before it is recreated with `later` ones;
/// another topic stays as it is.
async fn a_topic_recreated_is_not_read_if_so_configured(later: std::ops::Range<usize>) {
    let world = World::new(Database::Sqlite, 1).await;
    let other = unique_topic("ingest");
    create_topic(&other, 1, &[]).await;
    let config = KafkaIngestConfig {
        topics: vec![world.topic.clone(), other.clone()],
        on_offset_lost: OnOffsetLost::Stop,
        ..world.kafka()
    };
    write(&world, 0..30).await;
    read(&world, config.clone(), 30).await;
    make_again(&world.topic).await;
    write(&world, later).await;

    let scheduler = start(&world, config).await;
    let about = format!("partition {}", world.topic);
    wait_until(DEADLINE, "the complaint", async || {
        scheduler.health().sentences().iter().any(|complaint| {
            complaint.starts_with(&about)
                && complaint.contains("it was recreated")
                && complaint.contains("on_offset_lost")
        })
    })
    .await;
    assert_eq!(scheduler.ingest_metrics().logs_recreated, 1);
    // The rest goes on.
    produce(&other, &(1000..1020).map(record).collect::<Vec<_>>()).await;
    wait_until(DEADLINE, "the other topic", async || received(&scheduler) >= 20).await;
    assert!(scheduler.health().sentences().iter().any(|complaint| complaint.starts_with(&about)));
    stop(scheduler).await;
    check_read(&world, (0..30).chain(1000..1020)).await;
    let stands =
        format!("select next_offset from scheduler_ingest_offset where topic = '{}'", world.topic);
    assert_eq!(world.database.count(&stands).await, 30);
}
