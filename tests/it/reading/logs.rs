//! Codecs, a damaged log, and a broker that closes idle connections.

use std::fs;
use std::path::{Path, PathBuf};

use super::{DEADLINE, get, listed, metrics, problems, request, run};
use crate::support::kafka::{client_of, produce_by};
use crate::support::process::Instance;
use crate::support::servers::Server;
use crate::support::services::{Database, kafka, temporary_folder};
use crate::support::wait_until;
use crate::support::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn records_of_every_codec_are_read() {
    const EACH: usize = 50;
    let world = World::new(Database::Sqlite, 1).await;
    let instance = Instance::start(&world.config()).await;
    for (nth, codec) in ["none", "gzip", "snappy", "lz4", "zstd"].iter().enumerate() {
        let mut client = client_of(&kafka());
        client.set("compression.type", *codec);
        let records: Vec<_> = (nth * EACH..(nth + 1) * EACH).map(request).collect();
        produce_by(&client, &world.topic, &records).await;
        wait_until(DEADLINE, codec, async || {
            metrics(&instance).await["messagesProcessed"] == (nth + 1) * EACH
        })
        .await;
    }
}

/// Nothing is skipped: the partition stops and reports that, until an operator seeks.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_log_is_reported_with_its_lag_and_the_way_out() {
    let logs = temporary_folder();
    let broker = tokio::task::block_in_place(|| Server::start("kafka", logs.path()));
    let database = Database::Sqlite.fresh().await;
    let world = World::at(broker.address().to_owned(), database, 1).await;
    let mut gzip = client_of(&world.broker);
    gzip.set("compression.type", "gzip");
    produce_by(&gzip, &world.topic, &(0..40).map(request).collect::<Vec<_>>()).await;
    let plain = client_of(&world.broker);
    produce_by(&plain, &world.topic, &(40..45).map(request).collect::<Vec<_>>()).await;
    damage(&segment_of(broker.files(), &world.topic));

    // Nothing is heard between two errors, which does not show that the log can be read.
    let often = world.config().replace("[kafka]", "[kafka]\n            poll_timeout_ms = 20");
    let instance = Instance::start(&often).await;
    wait_until(DEADLINE, "the problem", async || {
        !problems(&instance, "fetchFailed").await.is_empty()
    })
    .await;
    let sentence = problems(&instance, "fetchFailed").await.remove(0);
    for said in ["from offset 0", "ompress", "ingest seek"] {
        assert!(sentence.contains(said), "{said} in {sentence}");
    }
    wait_until(DEADLINE, "the true lag, and a count", async || {
        let metrics = metrics(&instance).await;
        metrics[format!("consumerLag.{}/0", world.topic)] == 45
            && metrics["fetchErrors"].as_u64() >= Some(4)
    })
    .await;
    assert_eq!(listed(&world).await["lag"], 45);
    assert_eq!(get(&instance, "/health/ready").await["ready"], true);
    let said = instance.stderr();
    assert_eq!(said.matches("cannot be read on").count(), 1, "said once: {said}");

    let moved = ["ingest", "seek", "--to-offset", "40", "--yes"];
    let moved = run(&world.config(), &moved).await;
    assert!(moved.status.success(), "{}", String::from_utf8_lossy(&moved.stderr));
    wait_until(DEADLINE, "the records behind the damage", async || {
        metrics(&instance).await["messagesProcessed"] == 5
            && problems(&instance, "fetchFailed").await.is_empty()
    })
    .await;
}

/// The only segment of the topic's first partition.
fn segment_of(files: &Path, topic: &str) -> PathBuf {
    let folders = fs::read_dir(files).expect("the broker's files");
    let logs = folders.map(|run| {
        let run = run.expect("an entry").path();
        run.join(format!("kafka/data/{topic}-0/00000000000000000000.log"))
    });
    logs.into_iter().find(|log| log.exists()).expect("a segment")
}

/// Spoils what is compressed, behind the 61 bytes of the first batch's header.
fn damage(segment: &Path) {
    let mut bytes = fs::read(segment).expect("a segment");
    bytes[71..91].fill(0xff);
    fs::write(segment, bytes).expect("a damaged segment");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_the_broker_closes_as_idle_are_no_trouble() {
    let logs = temporary_folder();
    let idle = [("INFINITE_SCHEDULER_TEST_KAFKA_PROPERTIES", "connections.max.idle.ms=3000")];
    let broker = tokio::task::block_in_place(|| Server::start_with("kafka", logs.path(), &idle));
    let database = Database::Sqlite.fresh().await;
    let world = World::at(broker.address().to_owned(), database, 1).await;
    let log = [("RUST_LOG", "info,librdkafka=debug")];
    let mut instance = Instance::spawn_with(&world.config(), &log);
    instance.ready(DEADLINE).await;
    wait_until(DEADLINE, "connections that idled out", async || {
        let report = get(&instance, "/health/ready").await;
        assert_eq!(report["degraded"], serde_json::json!([]), "{report}");
        let closed = |line: &&str| line.contains("Disconnected") && line.contains("in state UP");
        instance.stderr().lines().filter(closed).count() >= 4
    })
    .await;
    let said = instance.stderr();
    assert!(!said.contains("no broker can be reached"), "{said}");
}
