//! Tries parked records again, and publishes dead letters and verdicts from the outbox to their
//! topics.
//!
//! Everything is stored in the database first, so that a restarted actor finds it by a scan.
//! Letters, verdicts and parked records are processed concurrently, so that an unavailable topic
//! delays only what is published to it.

mod outbox_relay;
mod topic_check;
mod refused;

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use super::child::Child;
use super::instance::Instance;
use super::messages::*;
use super::registry::Routes;
use crate::health::ProblemKind;
use crate::recovery::Backoff;
use crate::store::{Error as StoreError, OrderingKey};

use outbox_relay::{OutboxRelay, Round, publish_round};

/// The subject of problems with parked records.
const PARKED: &str = "parked records";
/// The longest wait for a parked record, so that a change of the system clock is noticed.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Tries parked records again and publishes the outbox.
pub(super) struct RetryDlq {
    instance: Arc<Instance>,
    letters: OutboxRelay,
    verdicts: OutboxRelay,
    parked: Parked,
}

/// The state of the retries of parked records.
struct Parked {
    /// When the first record is due, as far as known, epoch milliseconds.
    due_ms: Option<i64>,
    trying: bool,
    timer: Option<SpawnHandle>,
    backoff: Backoff,
}

/// The kinds of rows in the outbox.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Letters,
    Verdicts,
}

impl RetryDlq {
    pub(super) fn new(instance: Arc<Instance>) -> Self {
        let parked =
            Parked { due_ms: None, trying: false, timer: None, backoff: Backoff::default() };
        let (letters, verdicts) = (OutboxRelay::default(), OutboxRelay::default());
        Self { instance, letters, verdicts, parked }
    }

    /// Looks for rows to publish with every ordering key that this instance owns, and for parked
    /// records that are due.
    fn scan(&mut self, ctx: &mut Context<Self>) {
        let mut ordering_keys: Vec<OrderingKey> = Vec::new();
        for app in self.instance.apps.keys() {
            let fences = self.instance.owned.of(*app);
            ordering_keys.extend(fences.iter().map(|fence| OrderingKey::Shard(fence.shard)));
        }
        ordering_keys.extend(self.instance.ledgers().into_iter().map(OrderingKey::Partition));
        self.publish_all(&ordering_keys, ctx);
        self.schedule_parked(0, ctx);
    }

    /// Scans at intervals of `outbox_scan`, and has rows tried again that a topic refused.
    fn scan_periodically(&mut self, ctx: &mut Context<Self>) {
        ctx.run_later(self.instance.settings.outbox_scan, Self::scan_periodically);
        self.letters.schedule_retry_of_refused();
        self.verdicts.schedule_retry_of_refused();
        self.scan(ctx);
    }

    /// Checks periodically that the topics are suited for what is published to them.
    fn check_topics(&mut self, ctx: &mut Context<Self>) {
        let instance = self.instance.clone();
        let check = tokio::spawn(async move { topic_check::check(&instance).await });
        ctx.spawn(check.into_actor(self).map(|wait, _, ctx| {
            let wait = wait.unwrap_or_else(|error| panic!("looking at topics: {error}"));
            ctx.run_later(wait, Self::check_topics);
        }));
    }

    fn publish_all(&mut self, ordering_keys: &[OrderingKey], ctx: &mut Context<Self>) {
        self.letters.add(ordering_keys);
        self.publish(Kind::Letters, ctx);
        if self.instance.publishes_verdicts() {
            self.verdicts.add(ordering_keys);
            self.publish(Kind::Verdicts, ctx);
        }
    }

    fn relay(&mut self, kind: Kind) -> &mut OutboxRelay {
        match kind {
            Kind::Letters => &mut self.letters,
            Kind::Verdicts => &mut self.verdicts,
        }
    }

    fn publish(&mut self, kind: Kind, ctx: &mut Context<Self>) {
        if self.instance.kafka.is_none() {
            return;
        }
        let instance = self.instance.clone();
        let Some(round) = self.relay(kind).begin(|ordering_key| instance.owns(ordering_key)) else {
            return;
        };
        let publishing = tokio::spawn(async move { publish_round(&instance, kind, round).await });
        ctx.spawn(publishing.into_actor(self).map(move |round, actor, ctx| {
            let round = round.unwrap_or_else(|error| panic!("publishing: {error}"));
            actor.finish_round(kind, round, ctx);
        }));
    }

    fn finish_round(&mut self, kind: Kind, round: Round, ctx: &mut Context<Self>) {
        let counted = self.relay(kind).count(&round);
        self.count(kind, counted);
        let failure = round.failure.clone();
        let recoveries = self.instance.recoveries();
        let wait = self.relay(kind).end(round, recoveries);
        let about = kind.about();
        // Rows that the topic refuses are reported once there is no temporary failure.
        match failure.or_else(|| self.relay(kind).refusal(about)) {
            None => self.instance.health.clear(about),
            Some(why) => self.instance.health.report(about, ProblemKind::NotPublished, why),
        }
        match wait {
            // New rows wait as well, since the failure concerns the whole topic.
            Some(wait) => {
                let instance = self.instance.clone();
                let waited = async move { instance.wait_or_recovery(wait).await };
                ctx.spawn(waited.into_actor(self).map(move |(), actor, ctx| {
                    actor.relay(kind).resume();
                    actor.publish(kind, ctx);
                }));
            }
            None => self.publish(kind, ctx),
        }
    }

    fn count(&self, kind: Kind, (acknowledged, failed): (usize, usize)) {
        let counters = &self.instance.counters;
        let (acknowledged_total, failed_total) = match kind {
            Kind::Letters => (&counters.sent_to_dlq, &counters.letters_not_published),
            Kind::Verdicts => (&counters.verdicts_sent, &counters.verdicts_not_published),
        };
        counters.add(acknowledged_total, acknowledged);
        counters.add(failed_total, failed);
    }

    /// Has the parked records tried at `due_ms`, or earlier if that is scheduled; 0 means at once.
    fn schedule_parked(&mut self, due_ms: i64, ctx: &mut Context<Self>) {
        let parked = &mut self.parked;
        parked.due_ms = Some(parked.due_ms.map_or(due_ms, |known| known.min(due_ms)));
        self.set_timer(ctx);
    }

    fn set_timer(&mut self, ctx: &mut Context<Self>) {
        if let Some(timer) = self.parked.timer.take() {
            ctx.cancel_future(timer);
        }
        let Some(due_ms) = self.parked.due_ms.filter(|_| !self.parked.trying) else { return };
        let wait_ms = u64::try_from(due_ms - self.instance.clock.now_ms()).unwrap_or(0);
        let wait = Duration::from_millis(wait_ms).min(LONGEST_WAIT);
        self.parked.timer = Some(ctx.run_later(wait, |actor, ctx| {
            actor.parked.timer = None;
            actor.try_parked(ctx);
        }));
    }

    fn try_parked(&mut self, ctx: &mut Context<Self>) {
        self.parked.due_ms = None;
        self.parked.trying = true;
        let instance = self.instance.clone();
        let round = tokio::spawn(async move {
            let on_error = |error: &StoreError| report_error(&instance, error);
            let tried = instance.admission.try_parked(|| instance.ledgers(), &on_error).await;
            tried.inspect_err(on_error)
        });
        ctx.spawn(round.into_actor(self).map(|round, actor, ctx| {
            let round = round.unwrap_or_else(|error| panic!("trying parked records: {error}"));
            actor.parked.trying = false;
            match round {
                Ok(next) => {
                    actor.instance.health.clear(PARKED);
                    actor.parked.backoff.reset();
                    if let Some(due_ms) = next {
                        actor.schedule_parked(due_ms, ctx);
                    }
                    // For records that were parked during this round, when no timer was set.
                    actor.set_timer(ctx);
                }
                Err(_) => {
                    let instance = actor.instance.clone();
                    let wait =
                        actor.parked.backoff.failed(instance.database.recovery().recoveries());
                    // Records that were parked during this round are tried after the wait as well.
                    actor.parked.due_ms = None;
                    let waited = async move { instance.database.recovery().wait(wait).await };
                    ctx.spawn(waited.into_actor(actor).map(|(), actor, ctx| {
                        actor.schedule_parked(0, ctx);
                    }));
                }
            }
        }));
    }
}

fn report_error(instance: &Instance, error: &StoreError) {
    let kind = Instance::problem(error, ProblemKind::ParkedNotTried);
    instance.health.report(PARKED, kind, format!("cannot be tried: {error}"));
}

impl Kind {
    /// The subject of problems with this kind.
    fn about(self) -> &'static str {
        match self {
            Self::Letters => "dead letters",
            Self::Verdicts => "verdicts",
        }
    }
}

impl Actor for RetryDlq {
    type Context = Context<Self>;

    /// Scans for what the replaced actor left unfinished.
    fn started(&mut self, ctx: &mut Context<Self>) {
        self.scan(ctx);
        ctx.run_later(self.instance.settings.outbox_scan, Self::scan_periodically);
        if self.instance.kafka.is_some() {
            self.check_topics(ctx);
        }
    }
}

impl Child for RetryDlq {
    const KIND: &'static str = "retry-dlq";

    fn routes(routes: Routes<Self>) -> Routes<Self> {
        routes.handles::<ScanOutbox>().handles::<PublishOutbox>().handles::<RecordsParked>()
    }
}

impl Handler<ScanOutbox> for RetryDlq {
    type Result = ();

    fn handle(&mut self, _: ScanOutbox, ctx: &mut Context<Self>) {
        self.scan(ctx);
    }
}

impl Handler<PublishOutbox> for RetryDlq {
    type Result = ();

    fn handle(&mut self, ordering_key: PublishOutbox, ctx: &mut Context<Self>) {
        self.publish_all(&[ordering_key.0], ctx);
    }
}

impl Handler<RecordsParked> for RetryDlq {
    type Result = ();

    fn handle(&mut self, parked: RecordsParked, ctx: &mut Context<Self>) {
        self.schedule_parked(parked.due_ms, ctx);
    }
}

impl Handler<Report> for RetryDlq {
    type Result = ();

    fn handle(&mut self, _: Report, _: &mut Context<Self>) {
        let (letters, verdicts) = (&self.letters, &self.verdicts);
        tracing::info!(
            actor = "retry-dlq",
            letters_published = letters.published,
            letter_lanes_waiting = letters.waiting(),
            verdicts_published = verdicts.published,
            verdict_lanes_waiting = verdicts.waiting(),
            "{} dead letters and {} verdicts published",
            letters.published,
            verdicts.published,
        );
    }
}
