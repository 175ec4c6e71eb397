//! What did not go well the first time: tries parked records again, and takes dead letters
//! and verdicts from the outbox to their topics.
//!
//! Everything is a row first: a fresh actor finds all of it by looking around. Letters,
//! verdicts and parked records are three rounds beside each other, so that a topic that is
//! away holds up neither of the others.

mod outlet;
mod policy;
mod refused;

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use super::child::Child;
use super::instance::Instance;
use super::messages::*;
use super::registry::Answers;
use crate::health::ProblemKind;
use crate::recovery::Backoff;
use crate::store::{Error as StoreError, OrderingKey};

use outlet::{Outlet, Round, publish};

/// What a complaint about parked records is about.
const PARKED: &str = "parked records";
/// How often everything is looked at, whether or not somebody gave a hint.
const LOOK_AROUND: Duration = Duration::from_secs(30);

/// Tries again and publishes.
pub(super) struct RetryDlq {
    instance: Arc<Instance>,
    letters: Outlet,
    verdicts: Outlet,
    parked: Parked,
}

/// Where the parked records stand.
struct Parked {
    /// When the first is due, as far as we have heard, epoch milliseconds.
    due_ms: Option<i64>,
    trying: bool,
    timer: Option<SpawnHandle>,
    backoff: Backoff,
}

/// The kinds of what the outbox holds.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Letters,
    Verdicts,
}

impl RetryDlq {
    pub(super) fn new(instance: Arc<Instance>) -> Self {
        let parked =
            Parked { due_ms: None, trying: false, timer: None, backoff: Backoff::default() };
        let (letters, verdicts) = (Outlet::default(), Outlet::default());
        Self { instance, letters, verdicts, parked }
    }

    fn look_around(&mut self, ctx: &mut Context<Self>) {
        let mut ordering_keys: Vec<OrderingKey> = Vec::new();
        for app in self.instance.apps.keys() {
            let fences = self.instance.owned.of(*app);
            ordering_keys.extend(fences.iter().map(|fence| OrderingKey::Shard(fence.shard)));
        }
        ordering_keys.extend(self.instance.ledgers().into_iter().map(OrderingKey::Partition));
        self.publish_all(&ordering_keys, ctx);
        self.parked_at(0, ctx);
    }

    fn look_around_again(&mut self, ctx: &mut Context<Self>) {
        ctx.run_later(LOOK_AROUND, Self::look_around_again);
        self.letters.try_some_refused();
        self.verdicts.try_some_refused();
        self.look_around(ctx);
    }

    /// Looks now and then whether the topics can take what is published.
    fn look_at_topics(&mut self, ctx: &mut Context<Self>) {
        let instance = self.instance.clone();
        let look = tokio::spawn(async move { policy::look(&instance).await });
        ctx.spawn(look.into_actor(self).map(|again, _, ctx| {
            let again = again.unwrap_or_else(|error| panic!("looking at topics: {error}"));
            ctx.run_later(again, Self::look_at_topics);
        }));
    }

    fn publish_all(&mut self, ordering_keys: &[OrderingKey], ctx: &mut Context<Self>) {
        self.letters.add(ordering_keys);
        self.publish(Kind::Letters, ctx);
        if self.instance.tells_verdicts() {
            self.verdicts.add(ordering_keys);
            self.publish(Kind::Verdicts, ctx);
        }
    }

    fn outlet(&mut self, kind: Kind) -> &mut Outlet {
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
        let Some(round) = self.outlet(kind).begin(|ordering_key| instance.owns(ordering_key))
        else {
            return;
        };
        let round = tokio::spawn(async move { publish(&instance, kind, round).await });
        ctx.spawn(round.into_actor(self).map(move |round, actor, ctx| {
            let round = round.unwrap_or_else(|error| panic!("publishing: {error}"));
            actor.after(kind, round, ctx);
        }));
    }

    fn after(&mut self, kind: Kind, round: Round, ctx: &mut Context<Self>) {
        let counted = self.outlet(kind).count(&round);
        self.count(kind, counted);
        let failure = round.failure.clone();
        let recoveries = self.instance.recoveries();
        let wait = self.outlet(kind).end(round, recoveries);
        let about = kind.about();
        // What waits for good is shown when what may pass has passed.
        match failure.or_else(|| self.outlet(kind).refusal(about)) {
            None => self.instance.health.clear(about),
            Some(why) => self.instance.health.report(about, ProblemKind::NotPublished, why),
        }
        match wait {
            // What comes meanwhile waits, too: the topic is away for all of it.
            Some(wait) => {
                let instance = self.instance.clone();
                let waited = async move { instance.wait_or_recovery(wait).await };
                ctx.spawn(waited.into_actor(self).map(move |(), actor, ctx| {
                    actor.outlet(kind).waited();
                    actor.publish(kind, ctx);
                }));
            }
            None => self.publish(kind, ctx),
        }
    }

    fn count(&self, kind: Kind, (sent, not_taken): (usize, usize)) {
        let counters = &self.instance.counters;
        let (sent_before, not_taken_before) = match kind {
            Kind::Letters => (&counters.sent_to_dlq, &counters.letters_not_published),
            Kind::Verdicts => (&counters.verdicts_sent, &counters.verdicts_not_published),
        };
        counters.add(sent_before, sent);
        counters.add(not_taken_before, not_taken);
    }

    /// A parked record is due at `due_ms`, or earlier by what we have heard.
    fn parked_at(&mut self, due_ms: i64, ctx: &mut Context<Self>) {
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
        // A stepped clock is noticed at the next look around.
        let wait = Duration::from_millis(wait_ms).min(LOOK_AROUND);
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
            let trouble = |error: &StoreError| report_trouble(&instance, error);
            let tried = instance.admission.try_parked(|| instance.ledgers(), &trouble).await;
            tried.inspect_err(trouble)
        });
        ctx.spawn(round.into_actor(self).map(|round, actor, ctx| {
            let round = round.unwrap_or_else(|error| panic!("trying parked records: {error}"));
            actor.parked.trying = false;
            match round {
                Ok(next) => {
                    actor.instance.health.clear(PARKED);
                    actor.parked.backoff.reset();
                    next.into_iter().for_each(|due_ms| actor.parked_at(due_ms, ctx));
                    actor.set_timer(ctx);
                }
                Err(_) => {
                    let instance = actor.instance.clone();
                    let wait =
                        actor.parked.backoff.failed(instance.database.recovery().recoveries());
                    actor.parked.due_ms = None;
                    let waited = async move { instance.database.recovery().wait(wait).await };
                    ctx.spawn(waited.into_actor(actor).map(|(), actor, ctx| {
                        actor.parked_at(0, ctx);
                    }));
                }
            }
        }));
    }
}

fn report_trouble(instance: &Instance, error: &StoreError) {
    let kind = Instance::problem(error, ProblemKind::ParkedNotTried);
    instance.health.report(PARKED, kind, format!("cannot be tried: {error}"));
}

impl Kind {
    /// What a complaint is about.
    fn about(self) -> &'static str {
        match self {
            Self::Letters => "dead letters",
            Self::Verdicts => "verdicts",
        }
    }
}

impl Actor for RetryDlq {
    type Context = Context<Self>;

    /// A predecessor may have left something.
    fn started(&mut self, ctx: &mut Context<Self>) {
        self.look_around(ctx);
        ctx.run_later(LOOK_AROUND, Self::look_around_again);
        if self.instance.kafka.is_some() {
            self.look_at_topics(ctx);
        }
    }
}

impl Child for RetryDlq {
    const KIND: &'static str = "retry-dlq";

    fn answers(answers: Answers<Self>) -> Answers<Self> {
        answers.to::<LookAround>().to::<PublishOutbox>().to::<RecordsParked>()
    }
}

impl Handler<LookAround> for RetryDlq {
    type Result = ();

    fn handle(&mut self, _: LookAround, ctx: &mut Context<Self>) {
        self.look_around(ctx);
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
        self.parked_at(parked.due_ms, ctx);
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

impl Handler<Fault> for RetryDlq {
    type Result = ();

    fn handle(&mut self, _: Fault, _: &mut Context<Self>) {
        panic!("a fault was asked for");
    }
}
