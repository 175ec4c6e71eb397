//! Logs with transactions: lag and commits after records that are never visible, and records that an
//! open transaction holds back.

use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::{DEADLINE, committed, listed, metrics, problems, request, run};
use crate::support::kafka::{client_of, produce, watermarks};
use crate::support::process::Instance;
use crate::support::services::Database;
use crate::support::world::World;
use crate::support::{wait_for, wait_until};

/// A producer in a transaction that has begun.
struct Transaction(BaseProducer);

impl Transaction {
    fn begin(world: &World, records: std::ops::Range<usize>) -> Self {
        let producer: BaseProducer = client_of(&world.broker)
            .set("transactional.id", format!("{}.transactions", world.topic))
            .set("transaction.timeout.ms", "120000")
            .create()
            .expect("a producer");
        producer.init_transactions(DEADLINE).expect("transactions");
        producer.begin_transaction().expect("a transaction");
        for record in records.map(request) {
            let value = record.value.expect("a value");
            let record = BaseRecord::<(), [u8]>::to(&world.topic).partition(0).payload(&value);
            producer.send(record).map_err(|(error, _)| error).expect("a record");
        }
        producer.flush(DEADLINE).expect("records sent");
        Self(producer)
    }

    fn commit(self) {
        self.0.commit_transaction(DEADLINE).expect("a commit");
    }

    fn abort(self) {
        self.0.abort_transaction(DEADLINE).expect("an abort");
    }
}

/// The lags that the instance has logged.
fn logged_lags(instance: &Instance) -> Vec<String> {
    let said = instance.stderr();
    let lags = said.lines().filter_map(|line| line.split_once(" records read, lag "));
    lags.map(|(_, rest)| rest.split_whitespace().next().unwrap_or_default().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_read_although_the_log_ends_in_an_aborted_transaction() {
    let world = World::new(Database::Sqlite, 1).await;
    let mut instance = Instance::start(&world.config()).await;
    produce(&world.topic, &(0..10).map(request).collect::<Vec<_>>()).await;
    tokio::task::block_in_place(|| Transaction::begin(&world, 10..510).abort());
    // With the mark of the transaction's end, which the broker writes a little later.
    let end = wait_for(DEADLINE, "the end of the transaction", async || {
        let (_, end) = watermarks(&world.topic, 0).await;
        (end > 510).then_some(end)
    })
    .await;
    let next = "select next_offset from scheduler_ingest_offset";
    wait_until(DEADLINE, "the end of the log", async || world.database.count(next).await == end)
        .await;
    wait_until(DEADLINE, "a commit of the end", async || committed(&world).await == Some(end))
        .await;
    let before = logged_lags(&instance).len() + 1;
    wait_until(DEADLINE, "five reports", async || logged_lags(&instance).len() >= before + 5).await;
    let lags = logged_lags(&instance).split_off(before);
    assert!(lags.iter().all(|lag| lag == "0"), "{lags:?}");
    assert_eq!(metrics(&instance).await[format!("consumerLag.{}/0", world.topic)], 0);
    let line = listed(&world).await;
    assert_eq!([&line["lag"], &line["records"]], [0, 10], "{line}");
    assert_eq!(line["nextOffset"], line["endOffset"], "{line}");

    // Behind that, ordinary records: none of them is missed, and the last one is committed at the end.
    produce(&world.topic, &(510..520).map(request).collect::<Vec<_>>()).await;
    wait_until(DEADLINE, "more records", async || {
        metrics(&instance).await["messagesProcessed"] == 20
    })
    .await;
    assert!(instance.terminate(DEADLINE).await.success());
    assert_eq!(committed(&world).await, Some(end + 10));
    let instance = Instance::start(&world.config()).await;
    produce(&world.topic, &[request(520)]).await;
    wait_until(DEADLINE, "the next record", async || {
        metrics(&instance).await["messagesProcessed"] == 1
    })
    .await;
    assert_eq!(metrics(&instance).await["logsRecreated"], 0);
    assert_eq!(world.database.count("select records from scheduler_ingest_offset").await, 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_behind_an_open_transaction_are_lag_and_the_transaction_is_named() {
    let world = World::new(Database::Sqlite, 1).await;
    let instance = Instance::start(&world.config()).await;
    produce(&world.topic, &(0..3).map(request).collect::<Vec<_>>()).await;
    let transaction = tokio::task::block_in_place(|| Transaction::begin(&world, 3..4));
    produce(&world.topic, &(4..104).map(request).collect::<Vec<_>>()).await;

    let partition = format!("{}/0", world.topic);
    wait_until(DEADLINE, "lag and since when", async || {
        let metrics = metrics(&instance).await;
        metrics[format!("consumerLag.{partition}")] == 101
            && metrics[format!("heldBackSinceMs.{partition}")].as_i64() > Some(0)
    })
    .await;
    let line = listed(&world).await;
    assert_eq!([&line["lag"], &line["endOffset"], &line["heldBackFrom"]], [101, 104, 3], "{line}");
    assert!(line["heldBackSince"].as_str().is_some_and(|since| since.ends_with('Z')), "{line}");
    let shown = run(&world.config(), &["ingest"]).await;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("held back at 3 by a transaction open since"), "{shown}");
    assert!(instance.stderr().contains("held back by a transaction open since"));
    wait_until(DEADLINE, "the problem", async || {
        !problems(&instance, "transactionOpen").await.is_empty()
    })
    .await;
    let sentence = problems(&instance, "transactionOpen").await.remove(0);
    assert!(sentence.contains("101 records") && sentence.contains("open since"), "{sentence}");

    tokio::task::block_in_place(|| transaction.commit());
    wait_until(DEADLINE, "everything read", async || {
        let metrics = metrics(&instance).await;
        metrics["messagesProcessed"] == 104
            && metrics[format!("consumerLag.{partition}")] == 0
            && metrics[format!("heldBackSinceMs.{partition}")].is_null()
            && problems(&instance, "transactionOpen").await.is_empty()
    })
    .await;
}
