//! Checks that the topics for dead letters and verdicts keep what is published there.

use std::time::Duration;

use super::super::instance::Instance;
use crate::health::ProblemKind;
use crate::kafka::compacted_topics;

/// The wait before the next check if no topic is compacted.
const RECHECK: Duration = Duration::from_secs(600);

/// Checks whether a topic is compacted, and returns the wait before the next check. A topic that is
/// compacted is reported, and its producer sends each record without a key in a batch of its own.
///
/// A compacted topic refuses a record without a key together with its whole batch, and keeps only
/// the last record of each key.
pub(super) async fn check(instance: &Instance) -> Duration {
    let Some(kafka) = &instance.kafka else { return RECHECK };
    let dlq = (&kafka.config.dlq_topic, "dead letters", Some(&kafka.producer));
    let events = kafka.config.events_topic.as_ref();
    let events = events.map(|topic| (topic, "verdicts", kafka.events.as_ref()));
    let topics: Vec<_> = [Some(dlq), events].into_iter().flatten().collect();
    let soon = 2 * instance.settings.outbox_scan;
    let names: Vec<&str> = topics.iter().map(|(topic, ..)| topic.as_str()).collect();
    let compacted = match compacted_topics(&kafka.config, &names).await {
        Ok(compacted) => compacted,
        // An outage of the broker is reported by its clients.
        Err(error) => {
            tracing::debug!(%error, "the topics' cleanup.policy is not known: {error}");
            return soon;
        }
    };
    for (topic, what, producer) in topics {
        let subject = format!("topic {topic}");
        let is_compacted = compacted.contains(topic);
        if let Some(producer) = producer {
            producer.set_requires_keys(topic, is_compacted);
        }
        if is_compacted {
            let why = format!(
                "has cleanup.policy = compact, so that it refuses {what} without a key and keeps \
                 only the last of each key: set its cleanup.policy to delete"
            );
            instance.health.report(&subject, ProblemKind::Setting, why);
        } else {
            instance.health.clear(&subject);
        }
    }
    if compacted.is_empty() { RECHECK } else { soon }
}
