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

use super::admission::try_parked;
use super::messages::*;
use super::shared::Shared;
use crate::health::ProblemKind;
use crate::store::Lane;

use outlet::{Outlet, Round, publish};

/// What a complaint about parked records is about.
const PARKED: &str = "parked records";
/// How often everything is looked at, whether or not somebody gave a hint.
const LOOK_AROUND: Duration = Duration::from_secs(30);
/// The wait after a failure, doubling up to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// Tries again and publishes.
pub(super) struct RetryDlq {
    shared: Arc<Shared>,
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
    wait: Duration,
}

/// The kinds of what the outbox holds.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Letters,
    Verdicts,
}

impl RetryDlq {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let parked = Parked { due_ms: None, trying: false, timer: None, wait: RETRY.0 };
        let (letters, verdicts) = (Outlet::default(), Outlet::default());
        Self { shared, letters, verdicts, parked }
    }

    fn look_around(&mut self, ctx: &mut Context<Self>) {
        let mut lanes: Vec<Lane> = Vec::new();
        for app in self.shared.apps.keys() {
            let fences = self.shared.holdings.of(*app);
            lanes.extend(fences.iter().map(|fence| Lane::Shard(fence.shard)));
        }
        lanes.extend(self.shared.ledgers().into_iter().map(Lane::Partition));
        self.publish_all(&lanes, ctx);
        self.parked_at(0, ctx);
    }

    fn look_around_again(&mut self, ctx: &mut Context<Self>) {
        ctx.run_later(LOOK_AROUND, Self::look_around_again);
        self.letters.try_some_refused();
        self.verdicts.try_some_refused();
        self.look_around(ctx);
    }

    fn publish_all(&mut self, lanes: &[Lane], ctx: &mut Context<Self>) {
        self.letters.add(lanes);
        self.publish(Kind::Letters, ctx);
        if self.shared.tells_verdicts() {
            self.verdicts.add(lanes);
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
        if self.shared.kafka.is_none() {
            return;
        }
        let shared = self.shared.clone();
        let Some(round) = self.outlet(kind).begin(|lane| shared.owns(lane)) else { return };
        let round = tokio::spawn(async move { publish(&shared, kind, round).await });
        ctx.spawn(round.into_actor(self).map(move |round, actor, ctx| {
            let round = round.unwrap_or_else(|error| panic!("publishing: {error}"));
            actor.after(kind, round, ctx);
        }));
    }

    fn after(&mut self, kind: Kind, round: Round, ctx: &mut Context<Self>) {
        let counted = self.outlet(kind).count(&round);
        self.count(kind, counted);
        let about = kind.about();
        match &round.failure {
            None => self.shared.health.clear(about),
            Some(failure) => {
                self.shared.health.report(about, ProblemKind::NotPublished, failure.clone())
            }
        }
        match self.outlet(kind).end(round) {
            // What comes meanwhile waits, too: the topic is away for all of it.
            Some(wait) => {
                ctx.run_later(wait, move |actor, ctx| {
                    actor.outlet(kind).waited();
                    actor.publish(kind, ctx);
                });
            }
            None => self.publish(kind, ctx),
        }
    }

    fn count(&self, kind: Kind, (sent, not_taken): (usize, usize)) {
        let counters = &self.shared.counters;
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
        let wait_ms = u64::try_from(due_ms - self.shared.clock.now_ms()).unwrap_or(0);
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
        let shared = self.shared.clone();
        let round = tokio::spawn(async move { try_parked(&shared).await });
        ctx.spawn(round.into_actor(self).map(|round, actor, ctx| {
            let round = round.unwrap_or_else(|error| panic!("trying parked records: {error}"));
            actor.parked.trying = false;
            match round {
                Ok(next) => {
                    actor.shared.health.clear(PARKED);
                    actor.parked.wait = RETRY.0;
                    next.into_iter().for_each(|due_ms| actor.parked_at(due_ms, ctx));
                    actor.set_timer(ctx);
                }
                Err(error) => {
                    let why = format!("cannot be tried: {error}");
                    actor.shared.health.report(PARKED, ProblemKind::ParkedNotTried, why);
                    let wait = actor.parked.wait;
                    actor.parked.wait = (wait * 2).min(RETRY.1);
                    let wait_ms = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
                    actor.parked.due_ms = None;
                    actor.parked_at(actor.shared.clock.now_ms() + wait_ms, ctx);
                }
            }
        }));
    }
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
    }
}

impl Handler<LookAround> for RetryDlq {
    type Result = ();

    fn handle(&mut self, _: LookAround, ctx: &mut Context<Self>) {
        self.look_around(ctx);
    }
}

impl Handler<PublishLane> for RetryDlq {
    type Result = ();

    fn handle(&mut self, lane: PublishLane, ctx: &mut Context<Self>) {
        self.publish_all(&[lane.0], ctx);
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
