//! Creates missing topics, and reads the settings of existing ones.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode as Code;
use tracing::info;

use super::error::is_denial;
use super::{Error, KafkaIngestConfig, Producer};

/// The longest wait for one answer of the broker.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// How long a new topic may take to appear in the metadata.
const APPEAR_PATIENCE: Duration = Duration::from_secs(15);
/// The broker's own default replication factor.
const DEFAULT_REPLICATION: i32 = -1;

type Admin = AdminClient<DefaultClientContext>;

/// Creates those of `names` that do not exist, with `partitions` each and the broker's default
/// replication, and waits until they appear. A topic that another instance creates at the same
/// moment counts as created.
///
/// # Errors
/// [`Error::Denied`] if a topic is missing and may not be created, [`Error::Config`] if the
/// broker refuses its name or size, [`Error::Unavailable`] if it cannot be reached.
pub async fn ensure_topics(
    config: &KafkaIngestConfig,
    names: &[&str],
    partitions: i32,
) -> Result<(), Error> {
    // A producer instead of the admin client, which would not report why no broker answers.
    let cluster = Producer::metadata_only(config)?;
    let missing = missing_of(&cluster, names).await?;
    if missing.is_empty() {
        return Ok(());
    }
    let admin = admin(config)?;
    create(&admin, &missing, partitions).await?;
    await_topics(&cluster, &missing).await
}

/// The number of partitions of all ingest topics of `config`. A topic that does not exist yet
/// counts with the partitions that it would be created with.
///
/// # Errors
/// [`Error::Unavailable`] or [`Error::Denied`] if the cluster does not answer.
pub async fn count_partitions(config: &KafkaIngestConfig) -> Result<usize, Error> {
    let present = Producer::metadata_only(config)?.topics(ANSWER_PATIENCE).await?;
    let of = |name: &String| {
        let topic = present.iter().find(|(topic, _)| topic == name);
        topic.map_or(config.topic_partitions.get() as usize, |(_, partitions)| *partitions)
    };
    Ok(config.topics.iter().map(of).sum())
}

/// Those of `names` whose records are compacted (`cleanup.policy`): such a topic accepts no
/// record without a key, and keeps only the last record of each key. A topic that does not exist
/// is not among them.
///
/// # Errors
/// [`Error::Denied`] if a topic's settings may not be read (`DESCRIBE_CONFIGS`),
/// [`Error::Unavailable`] if the cluster does not answer.
pub async fn compacted_topics(
    config: &KafkaIngestConfig,
    names: &[&str],
) -> Result<Vec<String>, Error> {
    let admin = admin(config)?;
    let topics: Vec<_> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
    let options = AdminOptions::new().request_timeout(Some(ANSWER_PATIENCE));
    let mut compacted = Vec::new();
    for (name, answer) in names.iter().zip(admin.describe_configs(&topics, &options).await?) {
        let settings = match answer {
            Ok(settings) => settings,
            Err(Code::UnknownTopicOrPartition | Code::UnknownTopic) => continue,
            Err(code) if is_denial(code) => {
                return Err(Error::Denied(format!(
                    "reading the settings of topic {name} is not allowed: allow DESCRIBE_CONFIGS \
                     on it"
                )));
            }
            Err(code) => {
                let why = format!("the settings of topic {name} cannot be read: {code}");
                return Err(Error::Unavailable(why));
            }
        };
        let policy = settings.get("cleanup.policy").and_then(|entry| entry.value.as_deref());
        if policy.is_some_and(|policy| policy.split(',').any(|one| one.trim() == "compact")) {
            compacted.push((*name).to_owned());
        }
    }
    Ok(compacted)
}

fn admin(config: &KafkaIngestConfig) -> Result<Admin, Error> {
    Ok(config.to_producer_config().set("enable.idempotence", "false").create()?)
}

async fn create(admin: &Admin, names: &[&str], partitions: i32) -> Result<(), Error> {
    let replication = || TopicReplication::Fixed(DEFAULT_REPLICATION);
    let topics: Vec<NewTopic<'_>> =
        names.iter().map(|name| NewTopic::new(name, partitions, replication())).collect();
    let options = AdminOptions::new().request_timeout(Some(ANSWER_PATIENCE));
    for result in admin.create_topics(&topics, &options).await? {
        match result {
            Ok(topic) => info!(topic, partitions, "created topic {topic}"),
            Err((_, Code::TopicAlreadyExists)) => {}
            Err((topic, code)) => return Err(explain(&topic, code)),
        }
    }
    Ok(())
}

fn explain(topic: &str, code: Code) -> Error {
    match code {
        code if is_denial(code) => Error::Denied(format!(
            "topic {topic} is not visible, and may not be created: allow DESCRIBE on it if it \
             exists, else create it or allow CREATE"
        )),
        Code::InvalidTopic
        | Code::InvalidPartitions
        | Code::InvalidReplicationFactor
        | Code::InvalidConfig
        | Code::PolicyViolation
        | Code::UnsupportedFeature => {
            Error::Config(format!("topic {topic} cannot be created: {code}"))
        }
        code => Error::Unavailable(format!("topic {topic} could not be created: {code}")),
    }
}

async fn await_topics(cluster: &Producer, names: &[&str]) -> Result<(), Error> {
    let deadline = Instant::now() + APPEAR_PATIENCE;
    loop {
        let missing = missing_of(cluster, names).await?;
        let Some(topic) = missing.first() else { return Ok(()) };
        if Instant::now() > deadline {
            return Err(Error::Unavailable(format!(
                "topic {topic} was created, but does not appear in the metadata"
            )));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Those of `names` that are not in the cluster's metadata.
///
/// All topics are listed, because a query for one by its name would create it, with the broker's
/// default number of partitions, if `auto.create.topics.enable` is set.
async fn missing_of<'a>(cluster: &Producer, names: &[&'a str]) -> Result<Vec<&'a str>, Error> {
    let present = cluster.topics(ANSWER_PATIENCE).await?;
    Ok(names
        .iter()
        .copied()
        .filter(|name| !present.iter().any(|(topic, _)| topic == name))
        .collect())
}
