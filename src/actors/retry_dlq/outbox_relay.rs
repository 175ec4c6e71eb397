//! Publishes rows of the outbox to a topic: each at least once, in the order of its ordering key, and
//! deleted only after the broker's acknowledgement.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::super::instance::Instance;
use super::super::kafka_clients::KafkaClients;
use super::Kind;
use super::refused::Refused;
use crate::kafka::{self, Outgoing as Record};
use crate::model::verdict::{Event, pack, unpack};
use crate::recovery::Backoff;
use crate::store::{OrderingKey, Outgoing, OutgoingVerdicts, Result as StoreResult};

/// How many letters are read and published together at most, and in the first round.
const LETTERS: (u64, u64) = (50, 8);
const LETTER_BYTES: usize = 4 << 20;
/// How many batches of verdicts are read and published together.
const BATCHES: u64 = 10;
/// A round ends when the topic has refused this many rows; the next one skips them.
const MOST_REFUSED: usize = 500;
/// How many refused rows are skipped at most: the query has to list each of them.
const MOST_PASSED: usize = 10_000;
/// The content type of a `CloudEvent` in structured mode.
const CLOUD_EVENT: &str = "application/cloudevents+json; charset=UTF-8";

/// The relay of one kind of rows to their topic.
#[derive(Debug, Default)]
pub(super) struct OutboxRelay {
    /// Lanes that may have rows, except those that are being published.
    ordering_keys: HashSet<OrderingKey>,
    /// Rows that the topic refuses, for example because they are too large. They are skipped.
    refused: Refused,
    /// Some of the refused rows are tried again in the next round.
    trial_is_due: bool,
    /// Hashes of what failed when it was first sent and has been counted.
    counted: HashSet<u64>,
    publishing: bool,
    backoff: Backoff,
    pub(super) published: u64,
}

/// One round of publishing, and its results.
#[derive(Debug, Default)]
pub(super) struct Round {
    ordering_keys: Vec<OrderingKey>,
    /// Rows that are skipped, since the topic refuses them.
    passed: Vec<i64>,
    /// Rows that the topic refused in this round, with the reasons.
    refused: Vec<(i64, String)>,
    /// Hashes of what was acknowledged and of what failed.
    taken: Vec<u64>,
    not_taken: Vec<u64>,
    /// A failure of the whole round that may be temporary.
    pub(super) failure: Option<String>,
}

impl OutboxRelay {
    pub(super) fn add(&mut self, ordering_keys: &[OrderingKey]) {
        self.ordering_keys.extend(ordering_keys);
    }

    /// Starts the next round, unless one is running or there is nothing to publish.
    pub(super) fn begin(&mut self, owns: impl Fn(OrderingKey) -> bool) -> Option<Round> {
        if self.publishing || self.ordering_keys.is_empty() {
            return None;
        }
        self.publishing = true;
        if std::mem::take(&mut self.trial_is_due) {
            self.refused.start_trial();
        }
        // Lanes that this instance has lost are published by their new owners.
        let ordering_keys =
            self.ordering_keys.drain().filter(|ordering_key| owns(*ordering_key)).collect();
        Some(Round { ordering_keys, passed: self.refused.rows(), ..Round::default() })
    }

    /// Tries some of the refused rows again in the next round, to which the caller has to add all
    /// ordering keys.
    pub(super) fn schedule_trial(&mut self) {
        self.trial_is_due = true;
    }

    /// The refused rows and their reasons as a sentence, if there are any.
    pub(super) fn refusal(&self, what: &str) -> Option<String> {
        self.refused.sentence(what)
    }

    /// How much a round sent, and how much failed for the first time: a row that fails repeatedly
    /// is counted once.
    pub(super) fn count(&mut self, round: &Round) -> (usize, usize) {
        for taken in &round.taken {
            self.counted.remove(taken);
        }
        let new = round.not_taken.iter().filter(|waits| self.counted.insert(**waits)).count();
        (round.taken.len(), new)
    }

    /// Ends a round, and returns the wait before the next one if this one failed. `recoveries` is
    /// the number of outages that have ended.
    pub(super) fn end(&mut self, round: Round, recoveries: u64) -> Option<Duration> {
        self.published += round.taken.len() as u64;
        let mut goes_on = round.goes_on();
        // If a refused row is accepted now, others may be, too.
        goes_on |= self.refused.finish_trial(&round.refused, !round.is_over());
        if round.failure.is_some() || goes_on {
            self.ordering_keys.extend(round.ordering_keys);
        }
        if round.failure.is_none() {
            self.publishing = false;
            self.backoff.reset();
            return None;
        }
        Some(self.backoff.failed(recoveries))
    }

    /// Allows the next round after the wait that followed a failure.
    pub(super) fn resume(&mut self) {
        self.publishing = false;
    }

    pub(super) fn waiting(&self) -> usize {
        self.ordering_keys.len()
    }
}

/// Publishes the rows of one kind in the round's ordering keys.
pub(super) async fn publish(instance: &Instance, kind: Kind, mut round: Round) -> Round {
    let published = match kind {
        Kind::Letters => publish_letters(instance, &mut round).await,
        Kind::Verdicts => publish_verdicts(instance, &mut round).await,
    };
    if let Err(error) = published {
        round.failure = Some(format!("the outbox cannot be read: {error}"));
    }
    round
}

async fn publish_letters(instance: &Instance, round: &mut Round) -> StoreResult<()> {
    let Some(kafka) = &instance.kafka else { return Ok(()) };
    let mut limit = LETTERS.1;
    loop {
        let letters =
            instance.store.unpublished(&round.ordering_keys, &round.passed(), limit).await?;
        let (count, bytes) = (letters.len(), letters.iter().map(size_of_letter).sum::<usize>());
        let records = letters.iter().map(|letter| letter_record(kafka, letter)).collect();
        let answers = kafka.producer.send_all(records).await;
        let mut acknowledged = Vec::new();
        for (letter, answer) in letters.iter().zip(answers) {
            match answer {
                Ok(()) => acknowledged.push(letter.id),
                Err(error) => round.not_taken(letter.id, number_of(&letter.id), &error),
            }
        }
        drop(letters);
        if !acknowledged.is_empty() {
            round.taken.extend(acknowledged.iter().map(number_of));
            instance.store.remove_published(&acknowledged).await?;
        }
        if count as u64 != limit || round.is_over() {
            return Ok(());
        }
        let fitting = LETTER_BYTES / (bytes / count.max(1)).max(1);
        limit = (fitting as u64).clamp(1, LETTERS.0);
    }
}

async fn publish_verdicts(instance: &Instance, round: &mut Round) -> StoreResult<()> {
    let Some(kafka) = &instance.kafka else { return Ok(()) };
    let (Some(producer), Some(topic)) = (&kafka.events, &kafka.config.events_topic) else {
        return Ok(());
    };
    loop {
        let passed = round.passed();
        let rows =
            instance.store.unpublished_verdicts(&round.ordering_keys, &passed, BATCHES).await?;
        let batches: Vec<Vec<Event>> = rows.iter().map(events_of).collect();
        let records = batches.iter().flatten().map(|event| event_record(topic, event)).collect();
        let mut answers = producer.send_all(records).await.into_iter();
        let mut acknowledged = Vec::new();
        for (row, events) in rows.iter().zip(batches) {
            let all = events.len();
            let mut left = Vec::new();
            for (event, answer) in events.into_iter().zip(answers.by_ref()) {
                let number = number_of(&event.json);
                match answer {
                    Ok(()) => round.taken.push(number),
                    Err(error) => {
                        round.not_taken(row.id, number, &error);
                        left.push(event);
                    }
                }
            }
            if left.is_empty() {
                acknowledged.push(row.id);
                continue;
            }
            // After an outage the whole row is sent again in order; consumers recognise repeated
            // events by their ids.
            if left.len() < all && round.failure.is_none() {
                instance.store.keep_verdicts(row.id, pack(&left)).await?;
            }
        }
        if !acknowledged.is_empty() {
            instance.store.remove_published(&acknowledged).await?;
        }
        if rows.len() as u64 != BATCHES || round.is_over() {
            return Ok(());
        }
    }
}

impl Round {
    /// The rows to skip.
    fn passed(&self) -> Vec<i64> {
        let found = self.refused.iter().map(|(row, _)| *row);
        self.passed.iter().copied().chain(found).collect()
    }

    /// Whether the round has to end, after a failure or after too many refusals.
    fn is_over(&self) -> bool {
        self.failure.is_some() || self.refused.len() >= MOST_REFUSED
    }

    /// Whether another round has to continue after the rows that this one found refused.
    fn goes_on(&self) -> bool {
        let rows = self.passed.len() + self.refused.len();
        if self.refused.len() >= MOST_REFUSED && rows >= MOST_PASSED {
            tracing::error!(rows, "{rows} rows of the outbox are refused: others wait behind them");
        }
        self.refused.len() >= MOST_REFUSED && rows < MOST_PASSED
    }

    /// Notes that a record of this row was not sent.
    fn not_taken(&mut self, row: i64, number: u64, error: &kafka::Error) {
        self.not_taken.push(number);
        match error {
            // Concerns this record alone, so that later ones can be sent.
            kafka::Error::Refused { .. } => {
                tracing::debug!(row, %error, "row {row} stays in the outbox: {error}");
                if self.refused.last().is_none_or(|(last, _)| *last != row) {
                    self.refused.push((row, error.to_string()));
                }
            }
            error => self.failure = Some(format!("not published: {error}")),
        }
    }
}

/// A hash that identifies a letter or verdict in the set of what was counted.
fn number_of(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

fn size_of_letter(outgoing: &Outgoing) -> usize {
    let of = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
    of(&outgoing.letter.record_key) + of(&outgoing.letter.record_value)
}

fn events_of(row: &OutgoingVerdicts) -> Vec<Event> {
    unpack(&row.packed).unwrap_or_else(|error| {
        // Unexpected: only this program writes these rows.
        tracing::error!(row = row.id, %error, "verdicts in the outbox cannot be read: dropped");
        Vec::new()
    })
}

fn event_record(topic: &str, event: &Event) -> Record {
    Record {
        topic: topic.to_owned(),
        key: event.key.clone().map(String::into_bytes),
        value: Some(event.json.clone().into_bytes()),
        headers: vec![("content-type".into(), Some(CLOUD_EVENT.into()))],
    }
}

fn letter_record(kafka: &KafkaClients, outgoing: &Outgoing) -> Record {
    let letter = &outgoing.letter;
    let mut headers = outgoing.headers();
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            headers.push((name.to_owned(), Some(value.into_bytes())));
        }
    };
    add("original-topic", letter.topic.clone());
    add("original-partition", letter.number.map(|number| number.to_string()));
    add("original-offset", letter.source_offset.map(|offset| offset.to_string()));
    add("original-timestamp", letter.source_time_ms.map(|time| time.to_string()));
    add("error-kind", Some(letter.kind.clone()));
    add("error-message", Some(letter.message.clone()));
    add("error-timestamp", Some(letter.created_ms.to_string()));
    add("attempts", Some(letter.attempts.to_string()));
    add("request-id", letter.request_id.clone());
    Record {
        topic: kafka.config.dlq_topic.clone(),
        key: letter.record_key.clone(),
        value: letter.record_value.clone(),
        headers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::ShardId;

    const ORDERING_KEY: OrderingKey = OrderingKey::Shard(ShardId(1));

    fn refuse(round: &mut Round, rows: std::ops::Range<i64>) {
        let error = kafka::Error::Refused { topic: "dlq".into(), reason: "too large".into() };
        rows.for_each(|row| round.not_taken(row, number_of(&row), &error));
    }

    #[test]
    fn a_round_goes_on_behind_what_was_refused() {
        let mut relay = OutboxRelay::default();
        relay.add(&[ORDERING_KEY]);
        let mut round = relay.begin(|_| true).unwrap();
        assert!(relay.begin(|_| true).is_none(), "one at a time");
        refuse(&mut round, 0..499);
        assert!(!round.is_over());
        refuse(&mut round, 499..500);
        assert!(round.is_over());
        assert_eq!(relay.end(round, 0), None, "nothing failed");

        let round = relay.begin(|_| true).unwrap();
        assert_eq!(
            (round.ordering_keys.as_slice(), round.passed.len()),
            (&[ORDERING_KEY][..], 500)
        );
    }

    #[test]
    fn what_waits_is_counted_once_however_often_it_is_tried() {
        let mut relay = OutboxRelay::default();
        let mut round = Round::default();
        refuse(&mut round, 0..3);
        assert_eq!(relay.count(&round), (0, 3));
        assert_eq!(relay.count(&round), (0, 0), "tried again");
        let round = Round { taken: vec![number_of(&1_i64)], ..Round::default() };
        assert_eq!(relay.count(&round), (1, 0));
        let mut round = Round::default();
        refuse(&mut round, 1..4);
        assert_eq!(relay.count(&round), (0, 2), "one that was taken waits anew, and another one");
    }

    #[test]
    fn what_is_passed_has_a_bound() {
        let mut round = Round::default();
        refuse(&mut round, 0..MOST_PASSED as i64);
        assert!(round.is_over() && !round.goes_on());
    }
}
