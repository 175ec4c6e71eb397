//! Quick tests against the embedded broker: splitting, seeking, leaving, sending.

mod producer;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::*;
use crate::model::ids::{Offset, Partition};
use crate::model::record::RawRecord;

const TOPIC: &str = "in";
const PATIENCE: Duration = Duration::from_secs(20);
const LEASE: Duration = Duration::from_secs(10);
const LIMITS: BatchLimits =
    BatchLimits { max_records: 100, max_bytes: 1 << 20, wait: Duration::from_millis(200) };

/// Hands queues on to the test, and answers a revocation with what the test says is durable.
struct Listener {
    queues: mpsc::UnboundedSender<PartitionQueue>,
    durable: Mutex<BTreeMap<TopicPartition, Offset>>,
    left: Mutex<BTreeSet<TopicPartition>>,
    /// The number of calls of `assigned`.
    assigned_calls: Mutex<u32>,
}

impl Listener {
    fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<PartitionQueue>) {
        let (queues, received) = mpsc::unbounded_channel();
        let (durable, left, assigned_calls) = <_>::default();
        (Arc::new(Self { queues, durable, left, assigned_calls }), received)
    }
}

impl Assignments for Listener {
    fn assigned(&self, queues: Vec<PartitionQueue>) {
        *self.assigned_calls.lock().unwrap() += 1;
        for queue in queues {
            self.queues.send(queue).ok();
        }
    }

    fn revoked(
        &self,
        partitions: Vec<TopicPartition>,
        _lost: bool,
    ) -> Vec<(TopicPartition, Offset)> {
        self.left.lock().unwrap().extend(partitions.iter().cloned());
        let durable = self.durable.lock().unwrap();
        let next = |partition| durable.get_key_value(partition).map(|(p, o)| (p.clone(), *o));
        partitions.iter().filter_map(next).collect()
    }
}

fn broker(partitions: i32) -> (EmbeddedBroker, KafkaIngestConfig) {
    let broker = EmbeddedBroker::start(&[(TOPIC, partitions)]).unwrap();
    let mut config = KafkaIngestConfig::builder()
        .bootstrap_servers(broker.bootstrap_servers())
        .topic(TOPIC)
        .build()
        .unwrap();
    config.properties.extend(EmbeddedBroker::client_properties());
    (broker, config)
}

fn outgoing(key: &str, value: &str) -> Outgoing {
    Outgoing {
        topic: TOPIC.to_owned(),
        key: Some(key.into()),
        value: Some(value.into()),
        headers: vec![("h".into(), Some(b"1".to_vec())), ("null".into(), None)],
    }
}

async fn publish(config: &KafkaIngestConfig, count: usize) {
    let producer = Producer::start(config).unwrap();
    for number in 0..count {
        producer.send(outgoing(&number.to_string(), &number.to_string())).await.unwrap();
    }
}

async fn queue(queues: &mut mpsc::UnboundedReceiver<PartitionQueue>) -> PartitionQueue {
    tokio::time::timeout(PATIENCE, queues.recv()).await.expect("in time").expect("a queue")
}

/// Takes `count` records and gives their offsets.
async fn offsets(queue: &mut PartitionQueue, count: usize) -> Vec<i64> {
    let deadline = Instant::now() + PATIENCE;
    let mut offsets = Vec::new();
    while offsets.len() < count && Instant::now() < deadline {
        let batch = queue.next_batch(LIMITS).await.unwrap();
        offsets.extend(batch.iter().map(|record| record.offset.0));
    }
    offsets
}

async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_partition_yields_its_records_in_order_once_it_was_sought() {
    let (_broker, config) = broker(3);
    publish(&config, 300).await;
    let (listener, mut queues) = Listener::new();
    let intake = Intake::start(&config, LEASE, 6, listener).unwrap();
    assert!(intake.cluster_id().await.unwrap().starts_with("mockCluster"));
    let mut total = 0;
    for _ in 0..3 {
        let mut queue = queue(&mut queues).await;
        let partition = queue.partition().clone();
        let refusal = queue.next_batch(LIMITS).await.unwrap_err();
        assert_eq!(refusal, Error::NotSought { partition: partition.clone() });
        let (low, high) = intake.watermarks(&partition).await.unwrap();
        assert!(low == Offset(0) && high > Offset(50), "{partition}: {low} to {high}");
        assert!(intake.is_assigned(&partition));
        intake.seek(&partition, Offset(10)).await.unwrap();
        let expected: Vec<i64> = (10..high.0).collect();
        assert_eq!(offsets(&mut queue, expected.len()).await, expected);
        total += high.0;
    }
    assert_eq!(total, 300);
    assert_eq!(intake.state(), BrokerState { reachable: true, trouble: None, kind: None });
    intake.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_keeps_its_limits_and_a_dropped_wait_loses_nothing() {
    let (_broker, config) = broker(1);
    publish(&config, 50).await;
    let (listener, mut queues) = Listener::new();
    let intake = Intake::start(&config, LEASE, 6, listener).unwrap();
    let mut queue = queue(&mut queues).await;
    intake.seek(queue.partition(), Offset(0)).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 50 {
        let small = BatchLimits { max_records: 7, max_bytes: 30, wait: Duration::from_secs(5) };
        // Polled once and dropped, as a lost branch of a `select!` is.
        let polled = futures::FutureExt::now_or_never(queue.next_batch(small));
        let batch = match polled {
            Some(batch) => batch.unwrap(),
            None => queue.next_batch(small).await.unwrap(),
        };
        let bytes: usize = batch.iter().map(|record| record.size()).sum();
        assert!(batch.len() <= 7 && (bytes <= 30 || batch.len() == 1), "{bytes} bytes");
        seen.extend(batch.iter().map(|record| record.offset.0));
    }
    assert_eq!(seen, (0..50).collect::<Vec<_>>());
    let began = Instant::now();
    assert_eq!(queue.next_batch(LIMITS).await.unwrap(), []);
    assert!(began.elapsed() >= LIMITS.wait);
    intake.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_ahead_follows_the_one_before_if_there_is_room_for_both() {
    let (_broker, config) = broker(1);
    publish(&config, 50).await;
    let small = BatchLimits { max_records: 7, ..LIMITS };
    let offsets = |batch: Vec<RawRecord>| -> Vec<i64> {
        batch.iter().map(|record| record.offset.0).collect()
    };
    for (memory_mb, has_room) in [(128, true), (1, false)] {
        let memory_mb = NonZeroU32::new(memory_mb).unwrap();
        let (group_id, config) = (format!("group-{memory_mb}"), config.clone());
        let config = KafkaIngestConfig { memory_mb, group_id, ..config };
        let (listener, mut queues) = Listener::new();
        let intake = Intake::start(&config, LEASE, 6, listener).unwrap();
        let mut queue = queue(&mut queues).await;
        intake.seek(queue.partition(), Offset(0)).await.unwrap();
        let mut seen = Vec::new();
        while seen.len() < 50 {
            seen.extend(offsets(queue.next_batch(small).await.unwrap()));
            let ahead = offsets(queue.next_batch_ahead(small));
            assert!(ahead.len() <= 7 && (has_room || ahead.is_empty()), "{ahead:?}");
            seen.extend(ahead);
            queue.finish_batch();
            seen.extend(offsets(queue.next_batch_ahead(small)));
            queue.finish_all();
        }
        assert_eq!(seen, (0..50).collect::<Vec<_>>(), "{memory_mb} MiB");
        assert_eq!(queue.next_batch_ahead(small), [], "there is nothing more");
        intake.shutdown(PATIENCE).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_arrives_as_it_was_sent() {
    let (_broker, config) = broker(1);
    let producer = Producer::start(&config).unwrap();
    let sent = [
        outgoing("k", "v"),
        Outgoing { key: None, ..outgoing("", "") },
        Outgoing { value: None, headers: Vec::new(), ..outgoing("k", "") },
    ];
    for record in &sent {
        producer.send(record.clone()).await.unwrap();
    }
    producer.flush(PATIENCE).await.unwrap();
    let (listener, mut queues) = Listener::new();
    let intake = Intake::start(&config, LEASE, 6, listener).unwrap();
    let mut queue = queue(&mut queues).await;
    intake.seek(queue.partition(), Offset(0)).await.unwrap();
    let mut received = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while received.len() < sent.len() && Instant::now() < deadline {
        received.extend(queue.next_batch(LIMITS).await.unwrap());
    }
    assert_eq!(received.len(), sent.len());
    for (record, sent) in received.into_iter().zip(sent) {
        assert!(record.timestamp_ms.is_some());
        assert_eq!(&*record.topic, TOPIC);
        assert_eq!(
            (record.key, record.value, record.headers),
            (sent.key, sent.value, sent.headers)
        );
    }
    intake.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_reader_goes_on_where_it_is_told_and_the_old_one_ends() {
    let (_broker, config) = broker(1);
    publish(&config, 60).await;
    let (listener, mut queues) = Listener::new();
    let intake = Intake::start(&config, LEASE, 6, listener).unwrap();
    let mut old = queue(&mut queues).await;
    let partition = old.partition().clone();
    intake.seek(&partition, Offset(0)).await.unwrap();
    assert_eq!(offsets(&mut old, 60).await.len(), 60);

    intake.seek(&partition, Offset(20)).await.unwrap();
    let mut new = intake.split(&partition).unwrap();
    assert_eq!(old.next_batch(LIMITS).await, Err(Error::Revoked { partition: partition.clone() }));
    drop(old);
    assert_eq!(offsets(&mut new, 40).await, (20..60).collect::<Vec<_>>());

    // The old queue's end must not make the new one deaf.
    let patient = BatchLimits { wait: Duration::from_secs(10), ..LIMITS };
    let waiting = tokio::spawn(async move { (new.next_batch(patient).await, Instant::now()) });
    tokio::time::sleep(Duration::from_millis(300)).await;
    publish(&config, 1).await;
    let published = Instant::now();
    let (batch, woken) = waiting.await.unwrap();
    assert_eq!(batch.unwrap()[0].offset, Offset(60));
    assert!(woken < published + Duration::from_millis(500));
    intake.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_offset_is_told_and_a_seek_heals_it() {
    let (_broker, config) = broker(1);
    publish(&config, 30).await;
    let (listener, mut queues) = Listener::new();
    let intake = Intake::start(&config, LEASE, 6, listener).unwrap();
    let mut queue = queue(&mut queues).await;
    let partition = queue.partition().clone();
    intake.seek(&partition, Offset(5000)).await.unwrap();
    let patient = BatchLimits { wait: PATIENCE, ..LIMITS };
    let lost = queue.next_batch(patient).await;
    assert_eq!(lost, Err(Error::OffsetLost { partition: partition.clone() }));
    intake.seek(&partition, Offset(25)).await.unwrap();
    let mut queue = intake.split(&partition).unwrap();
    assert_eq!(offsets(&mut queue, 5).await, (25..30).collect::<Vec<_>>());
    intake.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_member_takes_over_where_the_first_says_it_is() {
    let (_broker, config) = broker(4);
    let (first_desk, mut first_queues) = Listener::new();
    let first = Intake::start(&config, LEASE, 6, first_desk.clone()).unwrap();
    let mut held = Vec::new();
    for _ in 0..4 {
        let queue = queue(&mut first_queues).await;
        first.seek(queue.partition(), Offset(0)).await.unwrap();
        let durable = Offset(100) + i64::from(queue.partition().partition.0);
        first_desk.durable.lock().unwrap().insert(queue.partition().clone(), durable);
        held.push(queue);
    }

    let (second_desk, mut second_queues) = Listener::new();
    let second = Intake::start(&config, LEASE, 6, second_desk).unwrap();
    let moved = queue(&mut second_queues).await;
    let partition = moved.partition().clone();
    assert!(first_desk.left.lock().unwrap().contains(&partition), "revoked before it was given");
    assert!(!first.is_assigned(&partition));
    assert!(second.is_assigned(&partition));
    let committed = second.committed(&partition).await.unwrap();
    assert_eq!(committed, Some(Offset(100) + i64::from(partition.partition.0)));
    for queue in &mut held {
        let partition = queue.partition().clone();
        let is_revoked = || first_desk.left.lock().unwrap().contains(&partition);
        let before = is_revoked();
        let answer = queue.next_batch(LIMITS).await;
        // One that is revoked meanwhile may be seen either way.
        if before == is_revoked() {
            assert_eq!(answer.is_err(), before, "{answer:?}");
        }
    }

    // Queues that a reader still holds do not keep the member in the group.
    first.shutdown(PATIENCE).await.unwrap();
    let all = |number| second.is_assigned(&TopicPartition::new(TOPIC, Partition(number)));
    eventually("all partitions are the second member's", || (0..4).all(all)).await;
    assert!(!first.state().reachable);
    drop(held);
    second.shutdown(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_without_a_partition_learns_so_and_leaves_at_once() {
    let (_broker, config) = broker(1);
    let (first_desk, mut first_queues) = Listener::new();
    let first = Intake::start(&config, LEASE, 6, first_desk.clone()).unwrap();
    let _held = queue(&mut first_queues).await;
    let (second_desk, mut second_queues) = Listener::new();
    let second = Intake::start(&config, LEASE, 6, second_desk.clone()).unwrap();
    let assigned_calls = |listener: &Listener| *listener.assigned_calls.lock().unwrap();
    eventually("both have heard from the group", || {
        assigned_calls(&first_desk) > 0 && assigned_calls(&second_desk) > 0
    })
    .await;
    let partition = TopicPartition::new(TOPIC, Partition(0));
    let (idle, reading) = match first.is_assigned(&partition) {
        true => (second, first),
        false => (first, second),
    };
    idle.shutdown(PATIENCE).await.unwrap();
    reading.shutdown(PATIENCE).await.unwrap();
    let began = Instant::now();
    let third = Intake::start(&config, LEASE, 6, second_desk).unwrap();
    eventually("the next one reads", || third.is_assigned(&partition)).await;
    // The session of a member that has not left is as long as the lease.
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    third.shutdown(PATIENCE).await.unwrap();
    drop(second_queues.try_recv());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_goes_and_comes_back_is_told() {
    let (broker, config) = broker(1);
    broker.set_reachable(false);
    let (listener, mut queues) = Listener::new();
    let intake = Intake::start(&config, LEASE, 6, listener).unwrap();
    eventually("the outage shows", || intake.state().trouble.is_some()).await;
    assert!(!intake.state().reachable);
    broker.set_reachable(true);
    let mut queue = queue(&mut queues).await;
    eventually("the outage ends", || intake.state().trouble.is_none()).await;
    intake.seek(queue.partition(), Offset(0)).await.unwrap();
    broker.set_reachable(false);
    eventually("the second outage shows", || !intake.state().reachable).await;
    assert_eq!(queue.next_batch(LIMITS).await, Ok(Vec::new()));
    broker.set_reachable(true);
    eventually("the second outage ends", || intake.state().reachable).await;
    publish(&config, 3).await;
    assert_eq!(offsets(&mut queue, 3).await, [0, 1, 2]);
    intake.shutdown(PATIENCE).await.unwrap();
}
