//! A broker that requires TLS, SASL/SCRAM and permissions: everything works with it, and what it
//! refuses is reported in one sentence that says what to do, until it is allowed.

mod apps_topic;
mod broker;
mod rights;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use infinite_scheduler::telemetry::{self, LogFormat};
use infinite_scheduler::{AppConfig, KafkaIngestConfig, Scheduler, SchedulerBuilder};
use serde_json::{Value, json};
use tracing_subscriber::filter::LevelFilter;

use crate::support::kafka::{RawRecord, create_topic_by, produce_by, read_all_by, unique_topic};
use crate::support::process::Instance;
use crate::support::services::{Database, TestDatabase};
use crate::support::world::LEASE;
use crate::support::{wait_for, wait_until};

use broker::Broker;

/// What a loaded machine may take; Kafka's tools are slow starters.
const DEADLINE: Duration = Duration::from_secs(180);
const DRAIN: Duration = Duration::from_secs(10);

/// What a test has for itself on the secured broker.
struct Here {
    broker: Arc<Broker>,
    database: TestDatabase,
    topic: String,
    dlq: String,
    fired: String,
    group: String,
}

impl Here {
    async fn new() -> Self {
        telemetry::init(LogFormat::Text, LevelFilter::ERROR).expect("a filter");
        let topic = unique_topic("secured");
        let here = Self {
            broker: Broker::shared().await,
            database: Database::Sqlite.fresh().await,
            dlq: format!("{topic}.dlq"),
            fired: format!("{topic}.fired"),
            group: format!("{topic}.group"),
            topic,
        };
        for topic in [&here.topic, &here.dlq, &here.fired] {
            create_topic_by(&here.broker.admin(), topic, 1, &[]).await;
        }
        here
    }

    /// `Write`, for instance, on a topic.
    async fn allow(&self, operation: &str, topic: &str) {
        let user = self.broker.user();
        let words = format!("--add --allow-principal User:{user} --operation {operation}");
        self.broker.acl(&format!("{words} --topic {topic}")).await;
    }

    async fn take_back(&self, operation: &str, topic: &str) {
        let user = self.broker.user();
        let words = format!("--remove --allow-principal User:{user} --operation {operation}");
        self.broker.acl(&format!("{words} --topic {topic}")).await;
    }

    /// No more than the scheduler needs: to read its topic in its group, and to write to the
    /// other two.
    async fn allow_all(&self, user: &str) {
        let Self { topic, dlq, fired, group, .. } = self;
        let user = format!("--add --allow-principal User:{user}");
        self.broker.acl(&format!("{user} --consumer --topic {topic} --group {group}")).await;
        let write = format!("{user} --operation Write --operation Describe");
        self.broker.acl(&format!("{write} --topic {dlq} --topic {fired}")).await;
    }

    fn properties(&self) -> BTreeMap<String, String> {
        [
            ("security.protocol", "SASL_SSL"),
            ("ssl.ca.location", self.broker.ca()),
            ("sasl.mechanism", "SCRAM-SHA-512"),
            ("sasl.username", self.broker.user()),
            ("sasl.password", self.broker.password()),
            ("session.timeout.ms", "6000"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    fn kafka(&self, properties: BTreeMap<String, String>) -> KafkaIngestConfig {
        KafkaIngestConfig {
            bootstrap_servers: self.broker.address().to_owned(),
            topics: vec![self.topic.clone()],
            dlq_topic: self.dlq.clone(),
            group_id: self.group.clone(),
            properties,
            ..KafkaIngestConfig::default()
        }
    }

    fn builder(&self, kafka: KafkaIngestConfig) -> SchedulerBuilder {
        Scheduler::builder()
            .database_url(self.database.url())
            .lease(LEASE)
            .with_kafka_ingest(kafka)
            .register_app_on_topic(AppConfig::new("sms"), &self.fired)
    }

    async fn start(&self, properties: BTreeMap<String, String>) -> Scheduler {
        self.builder(self.kafka(properties)).start().await.expect("a start")
    }

    /// The same as configuration of the service.
    fn config(&self, properties: &BTreeMap<String, String>) -> String {
        let Self { topic, dlq, fired, group, .. } = self;
        let (url, servers) = (self.database.url(), self.broker.address());
        let properties: Vec<_> =
            properties.iter().map(|(name, value)| format!("\"{name}\" = \"{value}\"")).collect();
        let properties = properties.join(", ");
        format!(
            r#"
            [database]
            url = "{url}"
            [kafka]
            bootstrap_servers = "{servers}"
            topic = "{topic}"
            dlq_topic = "{dlq}"
            group_id = "{group}"
            properties = {{ {properties} }}
            [apps.sms]
            dispatch = "kafka"
            topic = "{fired}"
            "#
        )
    }

    async fn produce(&self, values: &[&str]) {
        let records: Vec<_> = values.iter().map(|value| RawRecord::new(0, *value)).collect();
        produce_by(&self.broker.admin(), &self.topic, &records).await;
    }

    async fn fired(&self) -> Vec<String> {
        let fired = read_all_by(&self.broker.admin(), &self.fired).await;
        fired.iter().map(|job| job.json()["requestId"].as_str().expect("a name").into()).collect()
    }

    async fn letters(&self) -> Vec<String> {
        let letters = read_all_by(&self.broker.admin(), &self.dlq).await;
        letters.iter().map(|letter| text(letter.value.as_deref())).collect()
    }
}

fn text(value: Option<&[u8]>) -> String {
    String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
}

fn good(id: &str) -> String {
    format!(r#"{{"requestId":"{id}","appName":"sms","scheduledTime":0}}"#)
}

async fn is_well(scheduler: &Scheduler) {
    wait_until(DEADLINE, "an end of the complaints", async || {
        scheduler.health().sentences().is_empty()
    })
    .await;
}

/// A problem with all of `says` in it.
async fn complaint(scheduler: &Scheduler, says: &[&str]) -> String {
    let what = format!("a complaint that says {says:?}");
    wait_for(DEADLINE, &what, async || {
        let complaints = scheduler.health().sentences();
        complaints.into_iter().find(|complaint| says.iter().all(|said| complaint.contains(said)))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_becomes_a_job_that_fires_and_poison_a_letter_over_tls_and_scram() {
    let here = Here::new().await;
    here.allow_all(here.broker.user()).await;
    let scheduler = here.start(here.properties()).await;
    here.produce(&[&good("r-1"), "poison", &good("r-2")]).await;
    wait_until(DEADLINE, "both jobs fired and the letter published", async || {
        let metrics = scheduler.ingest_metrics();
        metrics.apps["sms"].succeeded == 2 && metrics.messages_sent_to_dlq == 1
    })
    .await;
    is_well(&scheduler).await;
    scheduler.shutdown(DRAIN).await;
    let mut fired = here.fired().await;
    fired.sort();
    assert_eq!(fired, ["r-1", "r-2"]);
    assert_eq!(here.letters().await, ["poison"]);
}

/// As a process, with everything that it has to say in its log: first with a password that is
/// wrong, until the broker is given the same one.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_said_once_and_never_shown_and_is_over_when_it_is_right() {
    const HUSH: &str = "hush7a1f";
    let here = Here::new().await;
    let user = here.topic.clone();
    here.broker.set_password(&user, "another").await;
    here.allow_all(&user).await;
    let mut properties = here.properties();
    properties.insert("sasl.username".into(), user.clone());
    properties.insert("sasl.password".into(), HUSH.into());

    let log = [("RUST_LOG", "info,infinite_scheduler=debug,librdkafka=debug")];
    let mut instance = Instance::spawn_with(&here.config(&properties), &log);
    wait_until(DEADLINE, "the line `listening on`", async || {
        instance.stdout().contains("listening on http://127.0.0.1:")
    })
    .await;
    let complaints = wait_for(DEADLINE, "what is wrong", async || {
        let (status, readiness) = get(&instance, "/health/ready").await;
        let complaints = readiness["degraded"].as_array().cloned().unwrap_or_default();
        let denied = |said: &Value| said["subject"] == "kafka" && said["kind"] == "brokerDenied";
        (status == 200 && complaints.iter().any(denied)).then_some(complaints)
    })
    .await;
    let of_kafka: Vec<_> =
        complaints.iter().filter(|said| said["subject"] == "kafka").map(Value::to_string).collect();
    assert_eq!(of_kafka.len(), 1, "{complaints:?}");
    for said in ["kafka refuses access", "SASL authentication error", "sasl.password"] {
        assert!(of_kafka[0].contains(said), "{said} in {of_kafka:?}");
    }
    assert_eq!(get(&instance, "/health/live").await.0, 200);

    // librdkafka goes on trying all the while, and so do we.
    let attempts = || instance.stderr().matches("FAIL: ").count();
    wait_until(DEADLINE, "some more attempts", async || attempts() >= 8).await;
    let log = instance.stderr();
    let loud = log.lines().filter(|line| line.contains(" WARN ") || line.contains(" ERROR "));
    let loud: Vec<_> = loud.collect();
    assert_eq!(loud.len(), 2, "once by the producer, once by the start:\n{}", loud.join("\n"));

    here.broker.set_password(&user, HUSH).await;
    instance.ready(DEADLINE).await;
    here.produce(&[&good("r-1"), "poison"]).await;
    wait_until(DEADLINE, "a job fired and a letter published", async || {
        let (_, metrics) = get(&instance, "/api/metrics").await;
        metrics["apps.sms.succeeded"] == 1 && metrics["messagesSentToDLQ"] == 1
    })
    .await;
    let well = (200, json!({"ready": true, "reasons": [], "degraded": []}));
    wait_until(DEADLINE, "an end of what was wrong", async || {
        get(&instance, "/health/ready").await == well
    })
    .await;
    let metrics = get(&instance, "/api/metrics").await.1;
    assert_eq!(instance.terminate(DEADLINE).await.code(), Some(0));
    assert_eq!(
        (here.fired().await, here.letters().await),
        (vec!["r-1".into()], vec!["poison".into()])
    );
    for said in [instance.stdout(), instance.stderr(), metrics.to_string()] {
        assert!(!said.contains(HUSH), "{said}");
    }
}

async fn get(instance: &Instance, path: &str) -> (u16, Value) {
    let answer = reqwest::get(instance.url(path)).await.expect("an answer");
    let status = answer.status().as_u16();
    (status, answer.json().await.expect("JSON"))
}

/// What is reported to a client that is configured otherwise than the broker, and then the same one configured
/// rightly: the record that came meanwhile becomes a job.
#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_suit_the_broker_is_named_with_the_property_to_check() {
    let here = Here::new().await;
    here.allow_all(here.broker.user()).await;
    here.produce(&[&good("r-1")]).await;
    type Change = (&'static str, Option<&'static str>);
    let cases: [(&[Change], &[&str]); 5] = [
        (
            &[("ssl.ca.location", None)],
            &["refuses access", "certificate verify failed", "ssl.ca.location"],
        ),
        (
            &[("security.protocol", None), ("sasl.username", None), ("sasl.password", None)],
            &["no broker can be reached", "Disconnected", "TLS or SASL", "security.protocol"],
        ),
        (
            &[("security.protocol", Some("SASL_PLAINTEXT"))],
            &["no broker can be reached", "Disconnected", "TLS or SASL", "security.protocol"],
        ),
        (
            &[("security.protocol", Some("SSL"))],
            &["no broker can be reached", "Disconnected", "TLS or SASL", "security.protocol"],
        ),
        (
            &[("sasl.mechanism", Some("SCRAM-SHA-256"))],
            &["refuses access", "SCRAM-SHA-512", "sasl.mechanism"],
        ),
    ];
    let here = &here;
    join_all(cases.map(async |(changes, says)| {
        let mut properties = here.properties();
        for (name, value) in changes {
            match value {
                Some(value) => properties.insert((*name).to_owned(), (*value).to_owned()),
                None => properties.remove(*name),
            };
        }
        let database = Database::Sqlite.fresh().await;
        let builder = here.builder(here.kafka(properties)).database_url(database.url());
        let scheduler = builder.start().await.expect("a start");
        let said = complaint(&scheduler, says).await;
        assert!(!said.contains("suppressed") && !said.contains(here.broker.password()), "{said}");
        scheduler.shutdown(DRAIN).await;
    }))
    .await;
    let mut properties = here.properties();
    properties.insert("ssl.ca.location".into(), "/nowhere.pem".into());
    let refused = here.builder(here.kafka(properties)).start().await.expect_err("no start");
    for said in ["ssl.ca.location", "check that the file exists"] {
        assert!(refused.to_string().contains(said), "{said} in {refused}");
    }

    let scheduler = here.start(here.properties()).await;
    wait_until(DEADLINE, "the job fired", async || {
        scheduler.ingest_metrics().apps["sms"].succeeded == 1
    })
    .await;
    is_well(&scheduler).await;
    scheduler.shutdown(DRAIN).await;
}
