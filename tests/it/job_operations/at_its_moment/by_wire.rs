//! The same by records of the ingest topic and by HTTP, whose answers come by verdicts and statuses.

use futures::FutureExt;
use infinite_scheduler::http::{Server, ServerOptions};
use infinite_scheduler::model::ids::JobId;
use reqwest::{Client, Method};

use super::*;
use crate::support::kafka::{RawRecord, Sender};

on_each_database! {
    a_record_that_cancels_a_job_comes_before_or_after_it_fires
    a_record_that_moves_a_job_comes_before_or_after_it_fires
    a_job_that_is_cancelled_by_http_never_fires_and_one_that_is_not_always_does
    a_job_that_is_moved_by_http_fires_at_its_new_time_and_only_then
}

/// As [`super::STEP_MS`]: these take longer.
const STEP_MS: i64 = 75;

/// An instance that reads records and publishes verdicts.
struct Told {
    world: World,
    events: String,
    receiver: Receiver,
    scheduler: Scheduler,
}

impl Told {
    async fn start(database: Database) -> Self {
        let world = World::new(database, 2).await;
        let events = format!("{}.events", world.topic);
        create_topic(&events, 1, &[]).await;
        let kafka = infinite_scheduler::KafkaIngestConfig {
            events_topic: Some(events.clone()),
            ..world.kafka()
        };
        let receiver = Receiver::new();
        let builder = builder(&world, "a", &receiver).with_kafka_ingest(kafka);
        let scheduler = builder.start().await.expect("a start");
        Self { world, events, receiver, scheduler }
    }

    /// Sends the record of each job at its moment. What their producers are told, by request.
    async fn send(
        &self,
        record: impl Fn(&str) -> Value + Send + Sync + 'static,
    ) -> (Vec<(String, i64, Value)>, BTreeMap<String, Vec<String>>) {
        let sender = Arc::new(Sender::new());
        let (topic, record) = (self.world.topic.clone(), Arc::new(record));
        let send = |name: JobName| {
            let JobName::Request { request_id, .. } = name else { unreachable!("a request") };
            let (sender, record, topic) = (sender.clone(), record.clone(), topic.clone());
            async move {
                let value = record(&request_id);
                sender.send(&topic, &RawRecord::new(1, value.to_string())).await;
                Ok(value)
            }
            .boxed()
        };
        let sent = at_their_moment(&self.world, &self.scheduler, STEP_MS, send).await;
        let mut told = BTreeMap::new();
        wait_until(DEADLINE, "the verdicts", async || {
            told = self.told().await;
            told.keys().filter(|request| request.starts_with("op-")).count() == sent.len()
        })
        .await;
        (sent, told)
    }

    async fn told(&self) -> BTreeMap<String, Vec<String>> {
        let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for record in read_all(&self.events).await {
            let event = record.json();
            let request = event["subject"].as_str().expect("a request").to_owned();
            let verdict = event["data"]["verdict"].as_str().expect("a verdict").to_owned();
            let all = told.entry(request).or_default();
            if !all.contains(&verdict) {
                all.push(verdict);
            }
        }
        told
    }
}

fn count(what: &str, results: impl Iterator<Item = String>) {
    let mut by_result: BTreeMap<String, usize> = BTreeMap::new();
    results.for_each(|result| *by_result.entry(result).or_default() += 1);
    println!("{what}: {by_result:?}");
}

async fn a_record_that_cancels_a_job_comes_before_or_after_it_fires(database: Database) {
    let told = Told::start(database).await;
    let (sent, verdicts) = told
        .send(|name| {
            json!({ "requestId": format!("op-{name}"), "appName": "sms", "operation": "cancel",
                "targetRequestId": name })
        })
        .await;
    count("cancel", sent.iter().map(|(name, ..)| verdicts[&format!("op-{name}")].join(" ")));
    for (name, ..) in &sent {
        let operation = &verdicts[&format!("op-{name}")][..];
        let (fired, of_job) = (told.receiver.of(name).len(), &verdicts[name][..]);
        match operation {
            [applied] if applied == "applied" => {
                assert_eq!((fired, of_job), (0, &own(&["accepted", "cancelled"])[..]), "{name}");
            }
            [late] if late == "running" || late == "already-fired" => {
                let done = own(&["accepted", "fired", "succeeded"]);
                assert_eq!((fired, of_job), (1, &done[..]), "{name}: {late}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    told.scheduler.shutdown(DRAIN).await;
}

fn own(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

async fn a_record_that_moves_a_job_comes_before_or_after_it_fires(database: Database) {
    let told = Told::start(database).await;
    let (sent, verdicts) = told
        .send(|name| {
            json!({ "requestId": format!("op-{name}"), "appName": "sms", "operation": "reschedule",
                "targetRequestId": name,
                "scheduledTime": after_ms(LATER_MS).timestamp_millis() })
        })
        .await;
    count("reschedule", sent.iter().map(|(name, ..)| verdicts[&format!("op-{name}")].join(" ")));
    for (name, due_ms, sent) in &sent {
        let operation = &verdicts[&format!("op-{name}")][..];
        let fired = told.receiver.of(name);
        assert_eq!(fired.len(), 1, "{name}: {operation:?}");
        let not_before = match operation {
            [applied] if applied == "applied" => sent["scheduledTime"].as_i64().expect("a time"),
            [late] if late == "running" || late == "already-fired" => *due_ms,
            other => panic!("{name}: {other:?}"),
        };
        assert!(fired[0].at_ms >= not_before, "{name}: {operation:?}");
        let is_late = operation[0] != "applied";
        assert!(!is_late || fired[0].at_ms < due_ms + LATER_MS, "{name}: {operation:?}");
    }
    told.scheduler.shutdown(DRAIN).await;
}

/// A scheduler with a server for it.
struct Http {
    world: World,
    receiver: Receiver,
    scheduler: Scheduler,
    server: Server,
}

impl Http {
    async fn start(database: Database) -> Self {
        let world = World::new(database, 1).await;
        let receiver = Receiver::new();
        let scheduler = start(&world, "a", &receiver).await;
        let options = ServerOptions::new(([127, 0, 0, 1], 0));
        let server = Server::start(options).expect("a server");
        server.show(scheduler.clone());
        Self { world, receiver, scheduler, server }
    }

    /// Asks for each job at its moment. The answers, with their statuses.
    async fn ask(
        &self,
        method: Method,
        body: impl Fn() -> Value + Send + Sync + 'static,
    ) -> Vec<(String, i64, (u16, Value))> {
        let (client, body) = (Client::new(), Arc::new(body));
        let ask = |name: JobName| {
            let JobName::Request { request_id, .. } = name else { unreachable!("a request") };
            let id = JobId::derive("sms", &request_id);
            let url = format!("http://{}/api/jobs/{id}", self.server.address());
            let (request, body) = (client.request(method.clone(), url), body.clone());
            async move {
                let request = match body() {
                    Value::Null => request,
                    body => request.json(&body),
                };
                let answer = request.send().await.expect("an answer");
                let status = answer.status().as_u16();
                let body = answer.bytes().await.expect("a body");
                Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
            }
            .boxed()
        };
        let answers = at_their_moment(&self.world, &self.scheduler, STEP_MS, ask).await;
        let result = |(_, _, (status, answer)): &(_, _, (u16, Value))| {
            format!("{status} {}", answer["result"].as_str().unwrap_or("nothing"))
        };
        count(method.as_str(), answers.iter().map(result));
        answers
    }

    /// Whether the job is cancelled, if the answer did not come in time.
    async fn is_cancelled(&self, name: &str) -> bool {
        let cancelled = format!(
            "select count(*) from scheduler_job where request_id = '{name}' and priority = 3"
        );
        self.world.database.count(&cancelled).await == 1
    }

    async fn end(self) {
        self.scheduler.shutdown(DRAIN).await;
        self.server.stop().await;
    }
}

async fn a_job_that_is_cancelled_by_http_never_fires_and_one_that_is_not_always_does(
    database: Database,
) {
    let http = Http::start(database).await;
    for (name, _, (status, answer)) in http.ask(Method::DELETE, || Value::Null).await {
        let fired = http.receiver.of(&name).len();
        match (status, answer["result"].as_str()) {
            (200, Some("cancelled")) => assert_eq!(fired, 0, "{name}: {answer}"),
            (200, Some("running")) | (409, Some("already-fired")) | (404, Some("unknown")) => {
                assert_eq!(fired, 1, "{name}: {answer}");
            }
            // On a machine that is too busy.
            (408 | 503, None) => {
                let is_cancelled = http.is_cancelled(&name).await;
                assert_eq!(fired, usize::from(!is_cancelled), "{name}: {status} {answer}");
            }
            _ => panic!("{name}: {status} {answer}"),
        }
    }
    http.end().await;
}

async fn a_job_that_is_moved_by_http_fires_at_its_new_time_and_only_then(database: Database) {
    let http = Http::start(database).await;
    let later = || json!({ "scheduledTime": after_ms(LATER_MS).timestamp_millis() });
    for (name, due_ms, (status, answer)) in http.ask(Method::PATCH, later).await {
        let fired = http.receiver.of(&name);
        assert_eq!(fired.len(), 1, "{name}: {answer}");
        let moved = answer["dueTime"].as_str().map(|time| time.parse::<DateTime<Utc>>());
        let not_before = match (status, answer["result"].as_str()) {
            (200, Some("rescheduled")) => {
                moved.expect("a time").expect("RFC 3339").timestamp_millis()
            }
            (409, Some("running" | "already-fired")) | (404, Some("unknown")) => due_ms,
            (408 | 503, None) => due_ms,
            _ => panic!("{name}: {status} {answer}"),
        };
        assert!(fired[0].at_ms >= not_before, "{name}: {answer}");
    }
    http.end().await;
}
