//! Logs that are compressed, damaged, or contain transactions; and that lag is the number of records
//! to be read.

mod logs;
mod transactions;

use std::process::{Command, Output};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::TopicPartitionList;
use serde_json::Value;

use crate::support::kafka::{RawRecord, client_of};
use crate::support::process::Instance;
use crate::support::services::temporary_folder;
use crate::support::world::World;

const DEADLINE: Duration = Duration::from_secs(90);

fn request(id: usize) -> RawRecord {
    let filler = "x".repeat(100);
    let json = format!(
        r#"{{"requestId":"{id}","appName":"sms","scheduledTime":0,"jobData":{{"a":"{filler}"}}}}"#
    );
    RawRecord::new(0, json)
}

async fn metrics(instance: &Instance) -> Value {
    get(instance, "/api/metrics").await
}

async fn get(instance: &Instance, path: &str) -> Value {
    let answer = reqwest::get(instance.url(path)).await.expect("an answer");
    answer.json().await.expect("JSON")
}

/// The problems of a kind, as sentences.
async fn problems(instance: &Instance, kind: &str) -> Vec<String> {
    let report = get(instance, "/health/ready").await;
    let all = report["degraded"].as_array().cloned().unwrap_or_default();
    all.iter().filter(|one| one["kind"] == kind).map(|one| one["message"].to_string()).collect()
}

/// The listing's only line.
async fn listed(world: &World) -> Value {
    let listing = run(&world.config(), &["ingest", "--json"]).await;
    let listing: Value = serde_json::from_slice(&listing.stdout).expect("JSON");
    assert_eq!(listing["items"].as_array().map(Vec::len), Some(1), "{listing}");
    listing["items"][0].clone()
}

async fn run(config: &str, arguments: &[&str]) -> Output {
    let folder = temporary_folder();
    let file = folder.path().join("infinite-scheduler.toml");
    std::fs::write(&file, config).expect("a configuration file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_infinite-scheduler"));
    command.args(arguments).arg("--config").arg(file).current_dir(folder.path());
    let output = tokio::task::spawn_blocking(move || command.output());
    output.await.expect("no panic").expect("the binary")
}

/// What the group has committed to Kafka for partition 0, if anything.
async fn committed(world: &World) -> Option<i64> {
    let mut client = client_of(&world.broker);
    client.set("group.id", &world.group);
    let topic = world.topic.clone();
    let asked = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = client.create().expect("a consumer");
        let mut list = TopicPartitionList::new();
        list.add_partition(&topic, 0);
        let answer = consumer.committed_offsets(list, DEADLINE).expect("the broker");
        answer.elements()[0].offset().to_raw()
    });
    asked.await.expect("no panic").filter(|offset| *offset >= 0)
}
