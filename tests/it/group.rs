//! Members join and leave the consumer group: restarts, kills, members without a partition, and
//! members that the group refuses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::Value;

use crate::support::kafka::{RawRecord, client_of, produce_by};
use crate::support::process::Instance;
use crate::support::servers::Server;
use crate::support::services::{Database, temporary_folder};
use crate::support::wait_until;
use crate::support::world::World;

const DEADLINE: Duration = Duration::from_secs(90);
const PARTITIONS: i32 = 6;
/// After a restart every partition is read again within this, counted from the start of
/// the process.
const AGAIN: Duration = Duration::from_secs(3);
/// The lease of restarted instances, and so their session: far from `AGAIN`, so that a member
/// that did not leave shows.
const LONG_LEASE: &str = "lease_ms = 20000";

/// Whether everything is asked for that takes minutes.
fn is_long() -> bool {
    std::env::var("INFINITE_SCHEDULER_TEST_LONG").is_ok_and(|long| long == "1")
}

/// A topic, and how many records were written to it.
struct Flow {
    world: World,
    written: i64,
}

impl Flow {
    async fn new(partitions: i32) -> Self {
        Self { world: World::new(Database::Postgres, partitions).await, written: 0 }
    }

    fn config(&self, lease: &str) -> String {
        self.world.config().replace("lease_ms = 3000", lease)
    }

    /// Writes a record to each partition.
    async fn write(&mut self, partitions: i32) {
        let records: Vec<_> = (0..partitions)
            .map(|partition| {
                let id = self.written + i64::from(partition);
                let json = format!(r#"{{"requestId":"{id}","appName":"sms","scheduledTime":0}}"#);
                RawRecord::new(partition, json)
            })
            .collect();
        produce_by(&client_of(&self.world.broker), &self.world.topic, &records).await;
        self.written += i64::from(partitions);
    }

    /// Waits until all of them are read, and returns how long that took.
    async fn await_read(&self) -> Duration {
        let began = Instant::now();
        let query = "select coalesce(sum(next_offset), 0)::bigint from scheduler_ingest_offset";
        wait_until(DEADLINE, "all records read", async || {
            self.world.database.count(query).await >= self.written
        })
        .await;
        began.elapsed()
    }
}

async fn ready(instance: &Instance) -> Value {
    let answer = reqwest::get(instance.url("/health/ready")).await.expect("an answer");
    answer.json().await.expect("JSON")
}

/// Waits until the instance is degraded by a problem of this kind, and returns its sentence.
async fn await_problem(instance: &Instance, kind: &str) -> String {
    let mut sentence = String::new();
    wait_until(DEADLINE, kind, async || {
        let report = ready(instance).await;
        let problems = report["degraded"].as_array().cloned().unwrap_or_default();
        let found = problems.iter().find(|problem| problem["kind"] == kind);
        sentence = found.map(|problem| problem["message"].to_string()).unwrap_or_default();
        found.is_some()
    })
    .await;
    sentence
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_instance_reads_again_at_once() {
    let mut flow = Flow::new(PARTITIONS).await;
    let config = flow.config(LONG_LEASE);
    let mut instance = Instance::start(&config).await;
    for restart in 0..if is_long() { 8 } else { 3 } {
        flow.write(PARTITIONS).await;
        flow.await_read().await;
        assert!(instance.terminate(DEADLINE).await.success());
        flow.write(PARTITIONS).await;
        instance = Instance::spawn(&config);
        let took = flow.await_read().await;
        assert!(took < AGAIN, "restart {restart}: nothing was read for {took:?}");
        instance.ready(DEADLINE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_leaves_no_partition_unread() {
    let mut flow = Flow::new(PARTITIONS).await;
    let config = flow.config(LONG_LEASE);
    let mut instances = Vec::new();
    for _ in 0..3 {
        instances.push(Instance::start(&config).await);
    }
    for restart in 0..if is_long() { 20 } else { 4 } {
        let instance = &mut instances[restart % 3];
        assert!(instance.terminate(DEADLINE).await.success());
        flow.write(PARTITIONS).await;
        *instance = Instance::spawn(&config);
        let took = flow.await_read().await;
        assert!(took < AGAIN, "restart {restart}: a partition was not read for {took:?}");
        instance.ready(DEADLINE).await;
        flow.write(PARTITIONS).await;
        let took = flow.await_read().await;
        assert!(took < AGAIN, "rebalance {restart}: a partition was not read for {took:?}");
    }
}

/// The session follows the lease, as far as a broker accepts that by default.
#[tokio::test(flavor = "multi_thread")]
async fn the_partitions_of_a_killed_instance_move_about_when_its_lease_ends() {
    let logs = temporary_folder();
    let broker = tokio::task::block_in_place(|| Server::start("kafka", logs.path()));
    let database = Database::Postgres.fresh().await;
    let world = World::at(broker.address().to_owned(), database, PARTITIONS).await;
    let mut flow = Flow { world, written: 0 };
    let config = flow.world.config();
    let _survivor = Instance::start(&config).await;
    let mut killed = Instance::start(&config).await;
    let both = "select count(distinct instance) from scheduler_ingest_offset";
    wait_until(DEADLINE, "partitions of both", async || {
        flow.write(PARTITIONS).await;
        flow.await_read().await;
        flow.world.database.count(both).await == 2
    })
    .await;
    killed.kill();
    flow.write(PARTITIONS).await;
    let took = flow.await_read().await;
    // Brokers accept no session below 6 s, and notice its end a little later.
    assert!(took < Duration::from_secs(9), "a partition was not read for {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_for_which_no_partition_is_left_is_ready() {
    let mut flow = Flow::new(1).await;
    let config = flow.config(LONG_LEASE);
    // Each waits for its line `ready`.
    let mut instances = [Instance::start(&config).await, Instance::start(&config).await];
    for instance in &instances {
        let report = ready(instance).await;
        assert_eq!(report["degraded"], serde_json::json!([]), "{report}");
    }
    // Whichever of them has the partition: the other one takes it over at once.
    for instance in &mut instances[..1] {
        assert!(instance.terminate(DEADLINE).await.success());
    }
    flow.write(1).await;
    let took = flow.await_read().await;
    assert!(took < AGAIN, "the partition was not read for {took:?}");
    let [_, last] = &mut instances;
    assert!(last.terminate(DEADLINE).await.success());
    flow.write(1).await;
    let _next = Instance::start(&config).await;
    flow.await_read().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_of_the_same_name_is_named_and_reading_goes_on_after_it() {
    let mut flow = Flow::new(2).await;
    let config = flow
        .config("lease_ms = 6000")
        .replace(r#""client.id" = "it""#, r#""client.id" = "it", "group.instance.id" = "same""#);
    let first = Instance::start(&config).await;
    flow.write(2).await;
    flow.await_read().await;
    let mut second = Instance::spawn(&config);
    let sentence = await_problem(&first, "groupRefused").await;
    for said in ["group.instance.id", "same", &flow.world.group, "kafka.properties"] {
        assert!(sentence.contains(said), "{said} in {sentence}");
    }
    assert_eq!(ready(&first).await["ready"], true, "it still accepts calls and fires");
    assert!(second.terminate(DEADLINE).await.success());
    flow.write(2).await;
    let took = flow.await_read().await;
    assert!(took < Duration::from_secs(40), "nobody read for {took:?}");
    let said = first.stderr();
    assert_eq!(said.matches("takes our place").count(), 1, "said once: {said}");
}

/// Ends a loop on a thread that the runtime waits for, also when the test fails.
#[derive(Default)]
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_another_kind_are_named_with_the_group() {
    let flow = Flow::new(1).await;
    let stop = Stop::default();
    let member: BaseConsumer = client_of(&flow.world.broker)
        .set("group.id", &flow.world.group)
        .set("partition.assignment.strategy", "range")
        .create()
        .expect("a consumer");
    member.subscribe(&[&flow.world.topic]).expect("a subscription");
    let has = Arc::new(AtomicBool::new(false));
    let (told, holds) = (stop.0.clone(), has.clone());
    let polling = tokio::task::spawn_blocking(move || {
        while !told.load(Ordering::Acquire) {
            drop(member.poll(Duration::from_millis(50)));
            let count = member.assignment().expect("an assignment").count();
            holds.store(count > 0, Ordering::Release);
        }
    });
    wait_until(DEADLINE, "a foreign member", async || has.load(Ordering::Acquire)).await;
    let mut instance = Instance::spawn(&flow.config("lease_ms = 6000"));
    wait_until(DEADLINE, "its address", async || instance.stdout().contains("listening on")).await;
    let sentence = await_problem(&instance, "groupRefused").await;
    for said in [flow.world.group.as_str(), "another kind", "kafka.group_id"] {
        assert!(sentence.contains(said), "{said} in {sentence}");
    }
    drop(stop);
    polling.await.expect("no panic");
    instance.ready(DEADLINE).await;
}
