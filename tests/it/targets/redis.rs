//! `dispatch = "redis"`.

mod failover;
mod tls;

use redis::FromRedisValue;

use super::{DEADLINE, DRAIN, fire_to, no_jobs, schedule};
use crate::support::services::redis_url;
use crate::support::wait_until;

/// A key of this test alone.
fn key(name: &str) -> String {
    format!("it-{name}-{}", uuid::Uuid::new_v4())
}

fn keys(key: &str, command: &str) -> String {
    let url = redis_url();
    format!("dispatch = \"redis\"\nurl = \"{url}\"\nkey = \"{key}\"\ncommand = \"{command}\"\n")
}

async fn ask<T: FromRedisValue>(words: &[&str]) -> T {
    ask_of(&redis_url(), words).await
}

async fn ask_of<T: FromRedisValue>(url: &str, words: &[&str]) -> T {
    let client = redis::Client::open(url).expect("a URL");
    let mut connection = client.get_multiplexed_async_connection().await.expect("a Redis");
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    command.query_async(&mut connection).await.expect("an answer")
}

fn request_of(body: &str) -> String {
    let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
    body["requestId"].as_str().expect("a text").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_becomes_an_entry_of_a_stream() {
    let key = key("stream");
    let (database, scheduler) = fire_to(&format!("{}max_length = 1000", keys(&key, "xadd"))).await;
    schedule(&scheduler, "r-1").await;
    no_jobs(&database).await;
    let entries: Vec<(String, Vec<String>)> = ask(&["XRANGE", &key, "-", "+"]).await;
    assert_eq!(entries.len(), 1);
    let names: Vec<_> = entries[0].1.iter().step_by(2).collect();
    assert_eq!(names, ["body", "job-id", "request-id", "app-name", "attempt", "fence"]);
    assert_eq!(request_of(&entries[0].1[1]), "r-1");
    ask::<i64>(&["DEL", &key]).await;
    scheduler.shutdown(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_becomes_an_element_of_a_list_once_its_key_is_one() {
    let key = key("list");
    ask::<String>(&["SET", &key, "no list"]).await;
    let (database, scheduler) = fire_to(&keys(&key, "lpush")).await;
    schedule(&scheduler, "r-1").await;
    wait_until(DEADLINE, "a report of WRONGTYPE", async || {
        let degraded = scheduler.health().degraded;
        degraded.iter().any(|it| it.message.contains("WRONGTYPE"))
    })
    .await;
    assert_eq!(database.count("select count(*) from scheduler_job where attempts = 0").await, 1);
    ask::<i64>(&["DEL", &key]).await;
    no_jobs(&database).await;
    let elements: Vec<String> = ask(&["LRANGE", &key, "0", "-1"]).await;
    assert_eq!(elements.iter().map(|body| request_of(body)).collect::<Vec<_>>(), ["r-1"]);
    ask::<i64>(&["DEL", &key]).await;
    scheduler.shutdown(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_published_also_to_nobody() {
    let channel = key("channel");
    let (database, scheduler) = fire_to(&keys(&channel, "publish")).await;
    schedule(&scheduler, "r-1").await;
    no_jobs(&database).await;
    assert_eq!(database.count("select count(*) from scheduler_dead_letter").await, 0);
    assert_eq!(scheduler.ingest_metrics().apps["sms"].published_to_nobody, 1);
    scheduler.shutdown(DRAIN).await;
}
