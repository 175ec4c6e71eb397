//! Takes dead letters from the outbox to the DLQ topic: every one at least once, in the
//! order of its lane, and removed from the outbox only after the broker's acknowledgement.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use super::messages::*;
use super::shared::Shared;
use crate::kafka::{self, Outgoing as Record};
use crate::store::{Lane, Outgoing, Result as StoreResult};

/// Letters that are read and published together.
const BATCH: u64 = 200;
/// The wait after a failure, doubling up to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// Publishes dead letters.
pub(super) struct RetryDlq {
    shared: Arc<Shared>,
    /// Lanes that may have something, beside those that are being published.
    lanes: HashSet<Lane>,
    publishing: bool,
    /// What the topic refused is to be tried again later.
    waits: bool,
    wait: Duration,
    published: u64,
}

/// The wait before letters that the topic refused are tried again: somebody may have given
/// it more room.
const REFUSED_AGAIN: Duration = Duration::from_secs(30);

/// What came of one round.
struct Round {
    lanes: Vec<Lane>,
    acknowledged: usize,
    /// Letters that the topic does not take; that is nobody's outage.
    refused: usize,
    /// Something is still there.
    more: bool,
    failure: Option<String>,
}

impl RetryDlq {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let lanes = HashSet::new();
        Self { shared, lanes, publishing: false, waits: false, wait: RETRY.0, published: 0 }
    }

    /// Looks into every lane of ours.
    fn look_everywhere(&mut self, ctx: &mut Context<Self>) {
        for app in self.shared.apps.keys() {
            let fences = self.shared.holdings.of(*app);
            self.lanes.extend(fences.iter().map(|fence| Lane::Shard(fence.shard)));
        }
        let ledgers = self.shared.ledgers();
        self.lanes.extend(ledgers.into_iter().map(Lane::Partition));
        self.publish(ctx);
    }

    fn publish(&mut self, ctx: &mut Context<Self>) {
        if self.publishing || self.lanes.is_empty() || self.shared.kafka.is_none() {
            return;
        }
        self.publishing = true;
        let lanes: Vec<Lane> = self.lanes.drain().collect();
        let shared = self.shared.clone();
        let round = tokio::spawn(async move { publish(&shared, lanes).await });
        ctx.spawn(round.into_actor(self).map(|round, actor, ctx| {
            let round = round.unwrap_or_else(|error| panic!("publishing letters: {error}"));
            actor.after(round, ctx);
        }));
    }

    fn after(&mut self, round: Round, ctx: &mut Context<Self>) {
        self.publishing = false;
        self.published += round.acknowledged as u64;
        self.shared.counters.add(&self.shared.counters.sent_to_dlq, round.acknowledged);
        if round.more {
            self.lanes.extend(round.lanes);
        }
        match round.failure {
            None => {
                self.shared.health.clear("dead letters");
                self.wait = RETRY.0;
                if round.refused > 0 && !std::mem::replace(&mut self.waits, true) {
                    ctx.run_later(REFUSED_AGAIN, |actor, ctx| {
                        actor.waits = false;
                        actor.look_everywhere(ctx);
                    });
                }
                self.publish(ctx);
            }
            Some(failure) => {
                self.shared.health.complain("dead letters", failure);
                ctx.run_later(self.wait.mul_f64(0.75 + fastrand::f64() / 4.0), |actor, ctx| {
                    actor.publish(ctx);
                });
                self.wait = (self.wait * 2).min(RETRY.1);
            }
        }
    }
}

async fn publish(shared: &Shared, lanes: Vec<Lane>) -> Round {
    match publish_some(shared, &lanes).await {
        Ok((acknowledged, refused, failure)) => {
            let more = failure.is_some();
            Round { lanes, acknowledged, refused, more, failure }
        }
        Err(error) => {
            let failure = Some(format!("the outbox cannot be read: {error}"));
            Round { lanes, acknowledged: 0, refused: 0, more: true, failure }
        }
    }
}

/// Gives back how many were acknowledged and how many refused, and what failed.
async fn publish_some(
    shared: &Shared,
    lanes: &[Lane],
) -> StoreResult<(usize, usize, Option<String>)> {
    let (mut after, mut count, mut refused) = (i64::MIN, 0, 0);
    loop {
        let letters = shared.store.unpublished(lanes, after, BATCH).await?;
        // Handed over in order and acknowledged together: the producer is idempotent, so the
        // order of the partition is the order of the hand-over.
        let sends = letters.iter().map(|letter| send(shared, letter));
        let answers = futures::future::join_all(sends).await;
        let mut acknowledged = Vec::new();
        let mut failure = None;
        for (letter, answer) in letters.iter().zip(answers) {
            match answer {
                Ok(()) => acknowledged.push(letter.id),
                Err(error @ kafka::Error::Refused { .. }) => {
                    let id = letter.letter.id;
                    tracing::warn!(letter = %id, %error, "dead letter {id} stays in the outbox");
                    refused += 1;
                }
                Err(error) => failure = Some(format!("not published: {error}")),
            }
        }
        if !acknowledged.is_empty() {
            shared.store.published(&acknowledged).await?;
            count += acknowledged.len();
        }
        // What comes behind those that the topic refuses, too large ones say, passes them.
        match letters.last() {
            Some(last) if letters.len() as u64 == BATCH && failure.is_none() => after = last.id,
            _ => return Ok((count, refused, failure)),
        }
    }
}

async fn send(shared: &Shared, outgoing: &Outgoing) -> Result<(), kafka::Error> {
    let Some(kafka) = &shared.kafka else { return Ok(()) };
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
    let record = Record {
        topic: kafka.config.dlq_topic.clone(),
        key: letter.record_key.clone(),
        value: letter.record_value.clone(),
        headers,
    };
    kafka.producer.send(record).await
}

impl Actor for RetryDlq {
    type Context = Context<Self>;

    /// A predecessor may have left something.
    fn started(&mut self, ctx: &mut Context<Self>) {
        self.look_everywhere(ctx);
    }
}

impl Handler<PublishLane> for RetryDlq {
    type Result = ();

    fn handle(&mut self, lane: PublishLane, ctx: &mut Context<Self>) {
        self.lanes.insert(lane.0);
        self.publish(ctx);
    }
}

impl Handler<Report> for RetryDlq {
    type Result = ();

    fn handle(&mut self, _: Report, _: &mut Context<Self>) {
        tracing::info!(
            actor = "retry-dlq",
            published = self.published,
            lanes_waiting = self.lanes.len(),
            "{} dead letters published",
            self.published,
        );
    }
}

impl Handler<Fault> for RetryDlq {
    type Result = ();

    fn handle(&mut self, _: Fault, _: &mut Context<Self>) {
        panic!("a fault was asked for");
    }
}
