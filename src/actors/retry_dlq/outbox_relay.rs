//! Publishes rows of the outbox to a topic, each at least once. Rows with the same ordering key are
//! published in the order of their ids, and a row is deleted only after the broker acknowledged it.

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

/// How many letters are read and published together at most.
const MAX_LETTERS: u64 = 50;
/// The number of the first letters of a round, whose size is unknown before they are read.
const FIRST_LETTERS: u64 = 8;
/// The size of the letters that are read together, if they are as large as those read before them.
const LETTERS_BYTES: usize = 4 << 20;
/// How many rows of verdicts are read and published together. A row has the verdicts of one batch.
const BATCHES: u64 = 10;
/// A round ends when the topic has refused this many rows; the next one skips them.
const MAX_REFUSED: usize = 500;
/// How many refused rows are skipped at most: the query has to list each of them.
const MAX_SKIPPED: usize = 10_000;
/// The content type of a `CloudEvent` in structured mode.
const CLOUD_EVENT: &str = "application/cloudevents+json; charset=UTF-8";

/// The relay of one kind of rows to their topic.
#[derive(Debug, Default)]
pub(super) struct OutboxRelay {
    /// Ordering keys that may have rows, except those that are being published.
    ordering_keys: HashSet<OrderingKey>,
    /// Rows that the topic refuses, for example because they are too large. They are skipped.
    refused: Refused,
    /// Some of the refused rows are tried again in the next round.
    trial_is_due: bool,
    /// Hashes of letters and verdicts that have been counted as failed.
    counted: HashSet<u64>,
    /// A round is running, or its failure is followed by a wait.
    publishing: bool,
    backoff: Backoff,
    pub(super) published: u64,
}

/// One round of publishing, and its results.
#[derive(Debug, Default)]
pub(super) struct Round {
    ordering_keys: Vec<OrderingKey>,
    /// Rows that are skipped, since the topic refused them before.
    skipped: Vec<i64>,
    /// Rows that the topic refused in this round, with the reasons.
    refused: Vec<(i64, String)>,
    /// Hashes of the letters or verdicts that the broker acknowledged.
    acknowledged: Vec<u64>,
    /// Hashes of the letters or verdicts that were not sent.
    failed: Vec<u64>,
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
        // Rows with keys that this instance has lost are published by the new owners.
        let ordering_keys =
            self.ordering_keys.drain().filter(|ordering_key| owns(*ordering_key)).collect();
        Some(Round { ordering_keys, skipped: self.refused.rows(), ..Round::default() })
    }

    /// Has some of the refused rows tried again in the next round, to which the caller has to add
    /// all ordering keys.
    pub(super) fn schedule_retry_of_refused(&mut self) {
        self.trial_is_due = true;
    }

    /// The refused rows and their reasons as a sentence, if there are any.
    pub(super) fn refusal(&self, what: &str) -> Option<String> {
        self.refused.sentence(what)
    }

    /// How much a round sent, and how much failed for the first time: a row that fails repeatedly
    /// is counted once.
    pub(super) fn count(&mut self, round: &Round) -> (usize, usize) {
        for hash in &round.acknowledged {
            self.counted.remove(hash);
        }
        let failed = round.failed.iter().filter(|hash| self.counted.insert(**hash)).count();
        (round.acknowledged.len(), failed)
    }

    /// Ends a round, and returns the wait before the next one if this one failed. `recoveries` is
    /// the number of outages that have ended.
    pub(super) fn end(&mut self, round: Round, recoveries: u64) -> Option<Duration> {
        self.published += round.acknowledged.len() as u64;
        let mut is_unfinished = round.has_more_rows();
        let is_complete = !round.must_stop();
        // If a refused row is accepted now, others may be, too.
        is_unfinished |= self.refused.finish_trial(&round.refused, is_complete);
        if round.failure.is_some() || is_unfinished {
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
pub(super) async fn publish_round(instance: &Instance, kind: Kind, mut round: Round) -> Round {
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
    let mut limit = FIRST_LETTERS;
    loop {
        let letters =
            instance.store.unpublished(&round.ordering_keys, &round.skipped(), limit).await?;
        let (count, bytes) = (letters.len(), letters.iter().map(size_of_letter).sum::<usize>());
        let records = letters.iter().map(|letter| letter_record(kafka, letter)).collect();
        let answers = kafka.producer.send_all(records).await;
        let mut acknowledged = Vec::new();
        for (letter, answer) in letters.iter().zip(answers) {
            match answer {
                Ok(()) => acknowledged.push(letter.id),
                Err(error) => round.note_failure(letter.id, hash_of(&letter.id), &error),
            }
        }
        // Their memory is not needed while the database is waited for.
        drop(letters);
        if !acknowledged.is_empty() {
            round.acknowledged.extend(acknowledged.iter().map(hash_of));
            instance.store.remove_published(&acknowledged).await?;
        }
        // Fewer rows than were asked for are the last ones.
        if count as u64 != limit || round.must_stop() {
            return Ok(());
        }
        let fitting = LETTERS_BYTES / (bytes / count.max(1)).max(1);
        limit = (fitting as u64).clamp(1, MAX_LETTERS);
    }
}

async fn publish_verdicts(instance: &Instance, round: &mut Round) -> StoreResult<()> {
    let Some(kafka) = &instance.kafka else { return Ok(()) };
    let (Some(producer), Some(topic)) = (&kafka.events, &kafka.config.events_topic) else {
        return Ok(());
    };
    loop {
        let skipped = round.skipped();
        let rows =
            instance.store.unpublished_verdicts(&round.ordering_keys, &skipped, BATCHES).await?;
        let batches: Vec<Vec<Event>> = rows.iter().map(events_of).collect();
        let records = batches.iter().flatten().map(|event| event_record(topic, event)).collect();
        let mut answers = producer.send_all(records).await.into_iter();
        let mut acknowledged = Vec::new();
        for (row, events) in rows.iter().zip(batches) {
            let all = events.len();
            let mut remaining = Vec::new();
            for (event, answer) in events.into_iter().zip(answers.by_ref()) {
                let hash = hash_of(&event.json);
                match answer {
                    Ok(()) => round.acknowledged.push(hash),
                    Err(error) => {
                        round.note_failure(row.id, hash, &error);
                        remaining.push(event);
                    }
                }
            }
            if remaining.is_empty() {
                acknowledged.push(row.id);
                continue;
            }
            // After an outage the whole row is sent again in order; consumers recognise repeated
            // events by their ids.
            if remaining.len() < all && round.failure.is_none() {
                instance.store.keep_verdicts(row.id, pack(&remaining)).await?;
            }
        }
        if !acknowledged.is_empty() {
            instance.store.remove_published(&acknowledged).await?;
        }
        if rows.len() as u64 != BATCHES || round.must_stop() {
            return Ok(());
        }
    }
}

impl Round {
    /// The rows to skip.
    fn skipped(&self) -> Vec<i64> {
        let refused_now = self.refused.iter().map(|(row, _)| *row);
        self.skipped.iter().copied().chain(refused_now).collect()
    }

    /// Whether the round ends before it has seen all rows: after a failure, or too many refusals.
    fn must_stop(&self) -> bool {
        self.failure.is_some() || self.refused.len() >= MAX_REFUSED
    }

    /// Whether another round has to continue after the rows that were refused in this one. Logs an
    /// error if they are too many for that.
    fn has_more_rows(&self) -> bool {
        let rows = self.skipped.len() + self.refused.len();
        if self.refused.len() >= MAX_REFUSED && rows >= MAX_SKIPPED {
            tracing::error!(rows, "{rows} rows of the outbox are refused: others wait behind them");
        }
        self.refused.len() >= MAX_REFUSED && rows < MAX_SKIPPED
    }

    /// Notes that a record of this row was not sent. `hash` identifies its letter or verdict.
    fn note_failure(&mut self, row: i64, hash: u64, error: &kafka::Error) {
        self.failed.push(hash);
        match error {
            // Concerns this record alone, so that later ones can be sent.
            kafka::Error::Refused { .. } => {
                tracing::debug!(row, %error, "row {row} stays in the outbox: {error}");
                // A row of verdicts has several records, and is noted once.
                if self.refused.last().is_none_or(|(last, _)| *last != row) {
                    self.refused.push((row, error.to_string()));
                }
            }
            error => self.failure = Some(format!("not published: {error}")),
        }
    }
}

/// Identifies a letter, by the id of its row, or a verdict, by its JSON.
fn hash_of(of: &impl Hash) -> u64 {
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
        rows.for_each(|row| round.note_failure(row, hash_of(&row), &error));
    }

    #[test]
    fn the_next_round_continues_after_the_rows_that_were_refused() {
        let mut relay = OutboxRelay::default();
        relay.add(&[ORDERING_KEY]);
        let mut round = relay.begin(|_| true).unwrap();
        assert!(relay.begin(|_| true).is_none(), "one at a time");
        refuse(&mut round, 0..499);
        assert!(!round.must_stop());
        refuse(&mut round, 499..500);
        assert!(round.must_stop());
        assert_eq!(relay.end(round, 0), None, "nothing failed");

        let round = relay.begin(|_| true).unwrap();
        assert_eq!(
            (round.ordering_keys.as_slice(), round.skipped.len()),
            (&[ORDERING_KEY][..], 500)
        );
    }

    #[test]
    fn a_row_that_fails_repeatedly_is_counted_once() {
        let mut relay = OutboxRelay::default();
        let mut round = Round::default();
        refuse(&mut round, 0..3);
        assert_eq!(relay.count(&round), (0, 3));
        assert_eq!(relay.count(&round), (0, 0), "tried again");
        let round = Round { acknowledged: vec![hash_of(&1_i64)], ..Round::default() };
        assert_eq!(relay.count(&round), (1, 0));
        let mut round = Round::default();
        refuse(&mut round, 1..4);
        assert_eq!(relay.count(&round), (0, 2), "one that was acknowledged before, and a new one");
    }

    #[test]
    fn the_number_of_skipped_rows_is_bounded() {
        let mut round = Round::default();
        refuse(&mut round, 0..MAX_SKIPPED as i64);
        assert!(round.must_stop() && !round.has_more_rows());
    }
}
