//! An instance that is asked to end does so within `drain_timeout_ms`, whatever its clock, the
//! group, the broker or the database do; and at once if it is asked again.

use std::time::{Duration, Instant};

use infinite_scheduler::model::clock::{Clock, SystemClock};
use serde_json::Value;

use crate::support::clock::SetClock;
use crate::support::kafka::{RawRecord, client_of, produce_by};
use crate::support::process::Instance;
use crate::support::proxy::Proxy;
use crate::support::servers::Server;
use crate::support::services::{Database, temporary_folder};
use crate::support::wait_until;
use crate::support::world::World;

const DEADLINE: Duration = Duration::from_secs(120);
/// What running jobs get.
const TIMEOUT: Duration = Duration::from_secs(2);
/// What the rest may take: the promised three seconds, and something for a loaded machine.
const REST: Duration = Duration::from_secs(8);
/// Longer than any of these tests.
const AGES: Duration = Duration::from_secs(600);

fn with_timeout(config: &str, timeout: Duration) -> String {
    let timeout = format!("[instance]\n            drain_timeout_ms = {}", timeout.as_millis());
    config.replace("[instance]", &timeout)
}

/// A group that waits long for a member that has not left.
fn long_session(world: &World) -> String {
    let properties = "\"client.id\" = \"it\"";
    let config = world.config();
    assert!(config.contains(properties), "{config}");
    config.replace(properties, "\"session.timeout.ms\" = \"40000\"")
}

/// It drains, and says how long that took.
async fn ends(instance: &mut Instance) {
    let began = Instant::now();
    let status = instance.terminate(DEADLINE).await;
    let took = began.elapsed();
    println!("ended after {took:?}");
    assert_eq!(status.code(), Some(0), "{}", instance.stderr());
    assert!(took < TIMEOUT + REST, "it took {took:?}");
}

async fn counter(instance: &Instance, name: &str) -> i64 {
    let answer = reqwest::get(instance.url("/api/metrics")).await.expect("an answer");
    answer.json::<Value>().await.expect("JSON")[name].as_i64().unwrap_or(0)
}

fn record(id: &str, due_ms: i64) -> RawRecord {
    let json = format!(r#"{{"requestId":"{id}","appName":"sms","scheduledTime":{due_ms}}}"#);
    RawRecord::new(0, json)
}

/// Kafka's client waits by the wall clock.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_back_keeps_no_instance_from_its_end() {
    let world = World::new(Database::Sqlite, 1).await;
    let clock = SetClock::new();
    let variables = clock.variables();
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    let config = with_timeout(&long_session(&world), TIMEOUT);
    let mut instance = Instance::spawn_with(&config, &variables);
    instance.ready(DEADLINE).await;
    clock.set_back(AGES);
    ends(&mut instance).await;
    // It has left the group nevertheless: no member waits for the session timeout.
    let mut next = Instance::start(&config).await;
    let began = Instant::now();
    produce_by(&client_of(&world.broker), &world.topic, &[record("r", 0)]).await;
    wait_until(DEADLINE, "a job fired", async || counter(&next, "apps.sms.succeeded").await == 1)
        .await;
    assert!(began.elapsed() < Duration::from_secs(15), "read after {:?}", began.elapsed());
    ends(&mut next).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_does_not_answer_keeps_no_instance_from_its_end_on_mariadb() {
    a_database_that_does_not_answer_keeps_no_instance_from_its_end(Database::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_does_not_answer_keeps_no_instance_from_its_end_on_mysql() {
    a_database_that_does_not_answer_keeps_no_instance_from_its_end(Database::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_does_not_answer_keeps_no_instance_from_its_end_on_postgres() {
    a_database_that_does_not_answer_keeps_no_instance_from_its_end(Database::Postgres).await;
}

async fn a_database_that_does_not_answer_keeps_no_instance_from_its_end(database: Database) {
    let world = World::new(database, 1).await;
    let proxy = Proxy::start(world.database.url()).await;
    let config = with_timeout(&world.config_on(&proxy.url(world.database.url())), TIMEOUT);
    let mut instance = Instance::start(&config).await;
    produce_by(&client_of(&world.broker), &world.topic, &[record("r", 0)]).await;
    wait_until(DEADLINE, "a job fired", async || {
        counter(&instance, "apps.sms.succeeded").await == 1
    })
    .await;
    proxy.silence_all();
    // This one is fired at most, and its outcome is never written.
    produce_by(&client_of(&world.broker), &world.topic, &[record("s", 0)]).await;
    ends(&mut instance).await;
}

/// A member that is suspended keeps the group waiting for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_rebalance_that_does_not_end_keeps_no_instance_from_its_end() {
    let world = World::new(Database::Postgres, 3).await;
    let config = with_timeout(&long_session(&world), TIMEOUT);
    let mut first = Instance::start(&config).await;
    let second = Instance::start(&config).await;
    second.stop();
    let third = Instance::spawn(&config);
    let revoked = "is not ours any more";
    let before = first.stderr().matches(revoked).count();
    wait_until(DEADLINE, "a third member", async || third.stdout().contains("listening")).await;
    println!("revoked {before} times before");
    ends(&mut first).await;
}

/// Neither a job that is on its way to it nor the group that cannot be left.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_does_not_answer_keeps_no_instance_from_its_end() {
    let logs = temporary_folder();
    let mut broker = tokio::task::block_in_place(|| Server::start("kafka", logs.path()));
    let address = broker.address().to_owned();
    let one = World::at(address.clone(), Database::Sqlite.fresh().await, 1).await;
    let other = World::at(address, Database::Sqlite.fresh().await, 1).await;
    let mut patient = Instance::start(&with_timeout(&one.config(), TIMEOUT)).await;
    let mut asked_twice = Instance::start(&with_timeout(&other.config(), AGES)).await;
    let due_ms = SystemClock.now_ms() + 6_000;
    for (world, instance) in [(&one, &patient), (&other, &asked_twice)] {
        let client = client_of(&world.broker);
        produce_by(&client, &world.topic, &[record("r", due_ms)]).await;
        wait_until(DEADLINE, "the job", async || counter(instance, "messagesProcessed").await == 1)
            .await;
    }
    tokio::task::block_in_place(|| broker.order("suspend"));
    for instance in [&patient, &asked_twice] {
        wait_until(DEADLINE, "an attempt", async || counter(instance, "apps.sms.fired").await == 1)
            .await;
        assert_eq!(counter(instance, "apps.sms.succeeded").await, 0, "the broker does not answer");
    }
    ends(&mut patient).await;

    asked_twice.ask_to_end();
    wait_until(DEADLINE, "a drain", async || {
        asked_twice.stderr().contains("another signal ends this at once")
    })
    .await;
    let began = Instant::now();
    assert_eq!(asked_twice.terminate(DEADLINE).await.code(), Some(143));
    assert!(began.elapsed() < Duration::from_secs(2), "it took {:?}", began.elapsed());
    tokio::task::block_in_place(|| broker.order("resume"));
}
