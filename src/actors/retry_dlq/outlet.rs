//! From the outbox to a topic: everything at least once, in the order of its lane, and
//! removed from the outbox only after the broker's acknowledgement.

use std::collections::HashSet;
use std::time::Duration;

use super::super::recovery::Backoff;
use super::super::shared::{KafkaSide, Shared};
use super::Kind;
use crate::kafka::{self, Outgoing as Record};
use crate::model::verdict::{Event, pack, unpack};
use crate::store::{Lane, Outgoing, OutgoingVerdicts, Result as StoreResult};

/// Letters that are read and published together; each may be as large as a record.
const LETTERS: u64 = 50;
/// Batches of verdicts that are read and published together.
const BATCHES: u64 = 10;
/// Rows that one round finds refused at most; the next goes on behind them.
const MOST_REFUSED: usize = 500;
/// Rows that are passed over at most until the next look: each is named to the database.
const MOST_PASSED: usize = 10_000;
/// What says that a record is a `CloudEvent` in structured form.
const CLOUD_EVENT: &str = "application/cloudevents+json; charset=UTF-8";

/// One kind of what the outbox holds, on its way to its topic.
#[derive(Debug, Default)]
pub(super) struct Outlet {
    /// Lanes that may have something, beside those that are being published.
    lanes: HashSet<Lane>,
    /// Rows that the topic refuses, too large ones say: what is behind them passes them.
    passed: Vec<i64>,
    publishing: bool,
    backoff: Backoff,
    pub(super) published: u64,
}

/// What came of one round.
#[derive(Debug, Default)]
pub(super) struct Round {
    lanes: Vec<Lane>,
    /// Rows that the topic refuses, those of earlier rounds among them.
    passed: Vec<i64>,
    pub(super) acknowledged: usize,
    /// What the topic did not take; it stays.
    pub(super) not_taken: usize,
    /// Something that concerns all of it, and that may pass.
    pub(super) failure: Option<String>,
}

impl Outlet {
    pub(super) fn add(&mut self, lanes: &[Lane]) {
        self.lanes.extend(lanes);
    }

    /// The next round, unless one is under way or there is nothing to do.
    pub(super) fn begin(&mut self, owns: impl Fn(Lane) -> bool) -> Option<Round> {
        if self.publishing || self.lanes.is_empty() {
            return None;
        }
        self.publishing = true;
        // Who lost a lane leaves it to its new owner.
        let lanes = self.lanes.drain().filter(|lane| owns(*lane)).collect();
        Some(Round { lanes, passed: self.passed.clone(), ..Round::default() })
    }

    /// What was refused is tried again.
    pub(super) fn try_refused(&mut self) {
        self.passed.clear();
    }

    /// How long to wait before the next round, after a failure and so many recoveries.
    pub(super) fn end(&mut self, round: Round, recoveries: u64) -> Option<Duration> {
        self.published += round.acknowledged as u64;
        let goes_on = round.goes_on();
        self.passed = round.passed;
        if round.failure.is_some() || goes_on {
            self.lanes.extend(round.lanes);
        }
        if round.failure.is_none() {
            self.publishing = false;
            self.backoff.reset();
            return None;
        }
        Some(self.backoff.failed(recoveries))
    }

    /// The wait after a failure is over.
    pub(super) fn waited(&mut self) {
        self.publishing = false;
    }

    pub(super) fn waiting(&self) -> usize {
        self.lanes.len()
    }
}

/// Publishes what the round's lanes have of one kind.
pub(super) async fn publish(shared: &Shared, kind: Kind, mut round: Round) -> Round {
    let published = match kind {
        Kind::Letters => publish_letters(shared, &mut round).await,
        Kind::Verdicts => publish_verdicts(shared, &mut round).await,
    };
    if let Err(error) = published {
        round.failure = Some(format!("the outbox cannot be read: {error}"));
    }
    round
}

async fn publish_letters(shared: &Shared, round: &mut Round) -> StoreResult<()> {
    let Some(kafka) = &shared.kafka else { return Ok(()) };
    loop {
        let letters = shared.store.unpublished(&round.lanes, &round.passed, LETTERS).await?;
        let records = letters.iter().map(|letter| letter_record(kafka, letter)).collect();
        let answers = kafka.producer.send_all(records).await;
        let mut acknowledged = Vec::new();
        for (letter, answer) in letters.iter().zip(answers) {
            match answer {
                Ok(()) => acknowledged.push(letter.id),
                Err(error) => {
                    let id = letter.letter.id;
                    round.not_taken(letter.id, &format!("dead letter {id}"), &error);
                }
            }
        }
        if !acknowledged.is_empty() {
            round.acknowledged += acknowledged.len();
            shared.store.published(&acknowledged).await?;
        }
        if letters.len() as u64 != LETTERS || round.is_over() {
            return Ok(());
        }
    }
}

async fn publish_verdicts(shared: &Shared, round: &mut Round) -> StoreResult<()> {
    let Some(kafka) = &shared.kafka else { return Ok(()) };
    let (Some(producer), Some(topic)) = (&kafka.events, &kafka.config.events_topic) else {
        return Ok(());
    };
    loop {
        let rows = shared.store.unpublished_verdicts(&round.lanes, &round.passed, BATCHES).await?;
        let batches: Vec<Vec<Event>> = rows.iter().map(events_of).collect();
        let records = batches.iter().flatten().map(|event| event_record(topic, event)).collect();
        let mut answers = producer.send_all(records).await.into_iter();
        let mut acknowledged = Vec::new();
        for (row, events) in rows.iter().zip(batches) {
            let all = events.len();
            let mut left = Vec::new();
            for (event, answer) in events.into_iter().zip(answers.by_ref()) {
                if let Err(error) = answer {
                    round.not_taken(row.id, "a verdict", &error);
                    left.push(event);
                }
            }
            round.acknowledged += all - left.len();
            if left.is_empty() {
                acknowledged.push(row.id);
                continue;
            }
            // In an outage all of it is told again, in order: the events have the same ids.
            if left.len() < all && round.failure.is_none() {
                shared.store.keep_verdicts(row.id, pack(&left)).await?;
            }
        }
        if !acknowledged.is_empty() {
            shared.store.published(&acknowledged).await?;
        }
        if rows.len() as u64 != BATCHES || round.is_over() {
            return Ok(());
        }
    }
}

impl Round {
    /// Something is away, or so much was refused that it is another round's turn.
    fn is_over(&self) -> bool {
        self.failure.is_some() || self.not_taken >= MOST_REFUSED
    }

    /// Whether another round goes on behind what this one found refused.
    fn goes_on(&self) -> bool {
        let rows = self.passed.len();
        if self.not_taken >= MOST_REFUSED && rows >= MOST_PASSED {
            tracing::error!(rows, "{rows} rows of the outbox are refused: others wait behind them");
        }
        self.not_taken >= MOST_REFUSED && rows < MOST_PASSED
    }

    /// The record, or one of the records, of this row was not taken.
    fn not_taken(&mut self, row: i64, what: &str, error: &kafka::Error) {
        self.not_taken += 1;
        match error {
            // That is nobody's outage: what is behind it can pass.
            kafka::Error::Refused { .. } => {
                tracing::warn!(%error, "{what} stays in the outbox: {error}");
                if self.passed.last() != Some(&row) {
                    self.passed.push(row);
                }
            }
            error => self.failure = Some(format!("not published: {error}")),
        }
    }
}

fn events_of(row: &OutgoingVerdicts) -> Vec<Event> {
    unpack(&row.packed).unwrap_or_else(|error| {
        // Nobody but us writes there.
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

fn letter_record(kafka: &KafkaSide, outgoing: &Outgoing) -> Record {
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

    const LANE: Lane = Lane::Shard(ShardId(1));

    fn refuse(round: &mut Round, rows: std::ops::Range<i64>) {
        let error = kafka::Error::Refused { topic: "dlq".into(), reason: "too large".into() };
        rows.for_each(|row| round.not_taken(row, "it", &error));
    }

    #[test]
    fn a_round_goes_on_behind_what_was_refused_until_that_is_tried_again() {
        let mut outlet = Outlet::default();
        outlet.add(&[LANE]);
        let mut round = outlet.begin(|_| true).unwrap();
        assert!(outlet.begin(|_| true).is_none(), "one at a time");
        refuse(&mut round, 0..499);
        assert!(!round.is_over());
        refuse(&mut round, 499..500);
        assert!(round.is_over());
        assert_eq!(outlet.end(round, 0), None, "nothing failed");

        let round = outlet.begin(|_| true).unwrap();
        assert_eq!((round.lanes.as_slice(), round.passed.len()), (&[LANE][..], 500));
        outlet.end(round, 0);
        outlet.try_refused();
        outlet.add(&[LANE]);
        assert!(outlet.begin(|_| true).unwrap().passed.is_empty());
    }

    #[test]
    fn what_is_passed_has_a_bound() {
        let mut round = Round::default();
        refuse(&mut round, 0..MOST_PASSED as i64);
        assert!(round.is_over() && !round.goes_on());
    }
}
