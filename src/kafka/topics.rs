//! Makes the topics that are missing, and asks how those that exist are kept.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode as Code;
use tracing::info;

use super::error::is_denial;
use super::{Error, KafkaIngestConfig, Producer};

/// The longest wait for one answer of the broker.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// How long a topic that was made may take to show on the brokers.
const APPEAR_PATIENCE: Duration = Duration::from_secs(15);
/// The broker's own default replication factor.
const DEFAULT_REPLICATION: i32 = -1;

type Admin = AdminClient<DefaultClientContext>;

/// Makes those of `names` that the cluster does not have, with `partitions` each and the
/// broker's default replication, and waits until they can be seen. What another instance
/// makes at the same moment is as good.
///
/// # Errors
/// [`Error::Denied`] if a topic is missing and we may not make it, [`Error::Config`] if the
/// broker refuses its name or size, [`Error::Unavailable`] if it cannot be reached.
pub async fn ensure_topics(
    config: &KafkaIngestConfig,
    names: &[&str],
    partitions: i32,
) -> Result<(), Error> {
    // Its error callback knows why a broker that does not answer is silent.
    let cluster = Producer::inquirer(config)?;
    let missing = missing_of(&cluster, names).await?;
    if missing.is_empty() {
        return Ok(());
    }
    let admin = admin(config)?;
    create(&admin, &missing, partitions).await?;
    await_topics(&cluster, &missing).await
}

/// Those of `names` whose records are compacted (`cleanup.policy`): such a topic takes no
/// record without a key, and of each key only the last record stays. A topic that does not
/// exist is not among them.
///
/// # Errors
/// [`Error::Denied`] if we may not see a topic's settings (`DESCRIBE_CONFIGS`),
/// [`Error::Unavailable`] if the cluster does not say.
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
                    "we may not see the settings of topic {name}: allow DESCRIBE_CONFIGS on it"
                )));
            }
            Err(code) => {
                let why = format!("the settings of topic {name} are not known: {code}");
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
            Ok(topic) => info!(topic, partitions, "made topic {topic}"),
            Err((_, Code::TopicAlreadyExists)) => {}
            Err((topic, code)) => return Err(judge(&topic, code)),
        }
    }
    Ok(())
}

fn judge(topic: &str, code: Code) -> Error {
    match code {
        code if is_denial(code) => Error::Denied(format!(
            "topic {topic} is not there for us, and we may not make it: allow DESCRIBE on it if it \
             is there, else make it or allow CREATE"
        )),
        Code::InvalidTopic
        | Code::InvalidPartitions
        | Code::InvalidReplicationFactor
        | Code::InvalidConfig
        | Code::PolicyViolation
        | Code::UnsupportedFeature => {
            Error::Config(format!("topic {topic} cannot be made: {code}"))
        }
        code => Error::Unavailable(format!("topic {topic} could not be made: {code}")),
    }
}

async fn await_topics(cluster: &Producer, names: &[&str]) -> Result<(), Error> {
    let deadline = Instant::now() + APPEAR_PATIENCE;
    loop {
        let missing = missing_of(cluster, names).await?;
        let Some(topic) = missing.first() else { return Ok(()) };
        if Instant::now() > deadline {
            return Err(Error::Unavailable(format!("topic {topic} was made, but does not show")));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Which of `names` the cluster does not show.
///
/// All topics are listed, because asking for one by its name would make it, with the
/// broker's default number of partitions, where brokers make topics by themselves.
async fn missing_of<'a>(cluster: &Producer, names: &[&'a str]) -> Result<Vec<&'a str>, Error> {
    let present = cluster.topics(ANSWER_PATIENCE).await?;
    Ok(names.iter().copied().filter(|name| !present.iter().any(|topic| topic == name)).collect())
}
