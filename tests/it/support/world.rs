//! The environment of one test: a database, topics and a group of its own.

use std::time::Duration;

use infinite_scheduler::{
    AppConfig, KafkaIngestConfig, Operations, OperationsOptions, Scheduler, SchedulerBuilder,
};

use infinite_scheduler::telemetry::{self, LogFormat};
use tracing_subscriber::filter::LevelFilter;

use super::kafka::{client_of, create_topic_by, unique_topic};
use super::services::{Database, TestDatabase, kafka};
use super::wait_until;

/// How often the outbox is scanned in tests that wait for the next scan.
pub(crate) const OUTBOX_SCAN: Duration = Duration::from_secs(4);
/// A lease that is short enough to wait for and long enough for a loaded machine.
pub(crate) const LEASE: Duration = Duration::from_secs(3);

/// The resources of one test.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) database: TestDatabase,
    /// The broker, as `host:port`.
    pub(crate) broker: String,
    /// The ingest topic.
    pub(crate) topic: String,
    /// The DLQ topic.
    pub(crate) dlq: String,
    /// The topic for fired jobs of the app `sms`.
    pub(crate) fired: String,
    pub(crate) group: String,
}

impl World {
    pub(crate) async fn new(database: Database, partitions: i32) -> Self {
        Self::on(database.fresh().await, partitions).await
    }

    /// The same with an existing database.
    pub(crate) async fn on(database: TestDatabase, partitions: i32) -> Self {
        Self::at(kafka(), database, partitions).await
    }

    /// The same with a broker of the test's own as well.
    pub(crate) async fn at(broker: String, database: TestDatabase, partitions: i32) -> Self {
        // Quiet unless RUST_LOG asks.
        telemetry::init(LogFormat::Text, LevelFilter::ERROR).expect("a filter");
        let topic = unique_topic("ingest");
        let world = Self {
            database,
            broker,
            dlq: format!("{topic}.dlq"),
            fired: format!("{topic}.fired"),
            group: format!("{topic}.group"),
            topic,
        };
        create_topic_by(&client_of(&world.broker), &world.topic, partitions, &[]).await;
        create_topic_by(&client_of(&world.broker), &world.dlq, 1, &[]).await;
        create_topic_by(&client_of(&world.broker), &world.fired, 3, &[]).await;
        world
    }

    pub(crate) fn kafka(&self) -> KafkaIngestConfig {
        KafkaIngestConfig {
            bootstrap_servers: self.broker.clone(),
            topics: vec![self.topic.clone()],
            dlq_topic: self.dlq.clone(),
            group_id: self.group.clone(),
            ..KafkaIngestConfig::default()
        }
    }

    /// The same, for tests in which topics are missing: these are reported after four seconds.
    /// By default librdkafka waits half a minute for a topic that may just have been created.
    pub(crate) fn kafka_without_topics(&self) -> KafkaIngestConfig {
        let mut kafka = KafkaIngestConfig { ensure_topics: false, ..self.kafka() };
        kafka.properties.insert("topic.metadata.propagation.max.ms".into(), "4000".into());
        kafka
    }

    /// A scheduler that reads the topic and fires the app `sms` onto its own topic.
    pub(crate) fn builder(&self) -> SchedulerBuilder {
        self.builder_without_apps().register_app_on_topic(AppConfig::new("sms"), &self.fired)
    }

    pub(crate) fn builder_without_apps(&self) -> SchedulerBuilder {
        Scheduler::builder()
            .database_url(self.database.url())
            .lease(LEASE)
            .with_kafka_ingest(self.kafka())
    }

    /// The same as configuration of the service.
    pub(crate) fn config(&self) -> String {
        self.config_on(self.database.url())
    }

    /// The same, with the database behind another address.
    pub(crate) fn config_on(&self, database_url: &str) -> String {
        let Self { broker, topic, dlq, fired, group, .. } = self;
        let lease = LEASE.as_millis();
        format!(
            r#"
            [database]
            url = "{database_url}"
            [kafka]
            bootstrap_servers = "{broker}"
            topic = "{topic}"
            dlq_topic = "{dlq}"
            group_id = "{group}"
            properties = {{ "client.id" = "it" }}
            [instance]
            lease_ms = {lease}
            [log]
            metrics_interval_ms = 1000
            [apps.sms]
            dispatch = "kafka"
            topic = "{fired}"
            "#
        )
    }

    /// Operations on its database alone, with its topics.
    pub(crate) async fn operations(&self) -> Operations {
        let options = OperationsOptions::new(self.database.url()).with_kafka_ingest(self.kafka());
        Operations::connect(options.lease(LEASE)).await.expect("a database")
    }

    /// Waits until every live instance has sent so many heartbeats more, which each follows what
    /// its table says.
    pub(crate) async fn await_heartbeats(&self, count: i64) {
        let beats = format!(
            "select cast(coalesce(min(beat), 0) as {}) from scheduler_instance where not dead",
            self.integer()
        );
        let before = self.database.count(&beats).await;
        wait_until(Duration::from_secs(60), "some heartbeats", async || {
            self.database.count(&beats).await >= before + count
        })
        .await;
    }

    /// The SQL type of a 64-bit integer.
    pub(crate) fn integer(&self) -> &'static str {
        match self.database.backend() {
            Database::MariaDb | Database::MySql => "signed",
            _ => "bigint",
        }
    }
}
