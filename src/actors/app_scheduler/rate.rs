//! Starts by the app's rate, which are bought from the time that all instances share.
//!
//! Nothing is bought while the app has no rate, or none of its jobs waits for a start. What waits is
//! in the window, and the timer says when there is a start for it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::prelude::*;

use super::super::instance::Instance;
use super::super::lease::boot_ns;
use super::AppScheduler;
use crate::model::ids::AppId;
use crate::model::rate::{Demand, Purchase, Rate, Tokens, VALID_NS};
use crate::store::Result as StoreResult;

/// The average time between two purchases.
const PACE_NS: i64 = VALID_NS;
/// How many purchases may be made sooner, so that a job that comes alone does not wait.
const SOONER: i64 = 3;
/// Further starts are bought when the last one at hand is no later than this.
const BUY_BEFORE_NS: i64 = 200_000_000;
/// How far ahead jobs are counted for which starts are bought.
const AHEAD_MS: i64 = 1000;
/// How many times a purchase is tried while others buy.
const TRIES: usize = 5;
/// The shortest wait for a start, so that those of a high rate share a turn.
const SHORTEST_WAIT_NS: i64 = 1_000_000;

/// The starts that this instance has bought, and when it may buy again, by the boot clock.
#[derive(Debug, Default)]
pub(super) struct Starts {
    tokens: Tokens,
    is_buying: bool,
    /// When the next purchase would be due if all of them were evenly spaced.
    paced_ns: i64,
    /// Before this time a purchase would be in vain.
    sold_out_until_ns: i64,
    /// The shared time as our last purchase left it.
    left_ns: Option<i64>,
    /// Nobody else had bought between our last two purchases.
    is_alone: bool,
    /// The second of these counts, and how many attempts started in it and in the one before.
    second: i64,
    started: u32,
    started_before: u32,
}

/// A purchase that was made at `bought_ns`, when the database's clock showed `at_ns`.
struct Bought {
    purchase: Purchase,
    at_ns: i64,
    bought_ns: i64,
    is_alone: bool,
}

impl AppScheduler {
    /// How many attempts may start now by the app's rate.
    pub(super) fn usable_starts(&mut self) -> usize {
        match self.app.limits().rate {
            Some(_) => self.starts.tokens.usable(boot_ns()),
            None => usize::MAX,
        }
    }

    /// Notes that so many of the usable starts are used.
    pub(super) fn use_starts(&mut self, count: usize) {
        if self.app.limits().rate.is_some() && count > 0 {
            self.starts.use_up(count, boot_ns());
        }
    }

    /// How long a due job has to wait for a start.
    pub(super) fn until_start(&self) -> Duration {
        if self.app.limits().rate.is_none() {
            return Duration::ZERO;
        }
        let wait_ns = self.starts.next_ns().saturating_sub(boot_ns()).max(SHORTEST_WAIT_NS);
        Duration::from_nanos(wait_ns.unsigned_abs())
    }

    /// Buys starts if jobs wait for them.
    pub(super) fn buy_starts(&mut self, ctx: &mut Context<Self>) {
        let Some(rate) = self.app.limits().rate else { return };
        let now_ns = boot_ns();
        if !self.may_start() || !self.starts.may_buy(now_ns) {
            return;
        }
        let demand = self.demand(now_ns);
        if demand.due == 0 {
            return;
        }
        self.starts.is_buying = true;
        self.starts.paced_ns = self.starts.paced_ns.max(now_ns) + PACE_NS;
        let (instance, app) = (self.instance.clone(), self.app.id);
        let (left_ns, is_alone) = (self.starts.left_ns, self.starts.is_alone);
        let buying = tokio::spawn(async move {
            instance.bounded(buy(&instance, app, rate, demand, left_ns, is_alone)).await
        });
        ctx.spawn(buying.into_actor(self).map(move |bought, actor, ctx| {
            let bought = bought.unwrap_or_else(|error| panic!("buying starts: {error}"));
            actor.bought(rate, bought);
            actor.advance(ctx);
        }));
    }

    fn demand(&self, now_ns: i64) -> Demand {
        let (free, recent) = (self.free_slots(), self.starts.recent(now_ns));
        let now_ms = self.instance.now_ms();
        let waits = free > 0 && self.window.count_due(now_ms, 1) > 0;
        // What cannot run for want of a slot needs no start.
        let most = if waits { free.saturating_add(recent as usize) } else { 0 };
        let due = self.window.count_due(now_ms + AHEAD_MS, most);
        let buyers = self.app.instances.load(Ordering::Relaxed);
        Demand {
            due: u32::try_from(due)
                .unwrap_or(u32::MAX)
                .saturating_sub(self.starts.tokens.at_hand()),
            expected: recent,
            buyers: u32::try_from(buyers).unwrap_or(u32::MAX),
        }
    }

    fn bought(&mut self, rate: Rate, bought: StoreResult<Option<Bought>>) {
        self.starts.is_buying = false;
        match bought {
            Ok(Some(bought)) => self.starts.add(rate, &bought),
            Ok(None) => self.starts.is_alone = false,
            // The heartbeat reports that the database is unavailable.
            Err(error) => {
                tracing::debug!(app = %self.app.name, %error, "no starts were bought");
                (self.starts.left_ns, self.starts.is_alone) = (None, false);
            }
        }
    }
}

impl Starts {
    fn may_buy(&self, now_ns: i64) -> bool {
        !self.is_buying
            && now_ns >= self.next_purchase_ns()
            && self.tokens.last_ns().is_none_or(|last_ns| last_ns <= now_ns + BUY_BEFORE_NS)
    }

    fn next_purchase_ns(&self) -> i64 {
        self.sold_out_until_ns.max(self.paced_ns - SOONER * PACE_NS)
    }

    /// When there may be the next start.
    fn next_ns(&self) -> i64 {
        match self.tokens.next_ns() {
            Some(next_ns) => next_ns,
            // Its end continues.
            None if self.is_buying => i64::MAX,
            None => self.next_purchase_ns(),
        }
    }

    fn add(&mut self, rate: Rate, bought: &Bought) {
        let Bought { purchase, at_ns, bought_ns, is_alone } = *bought;
        self.tokens.add(rate, purchase, at_ns, bought_ns);
        (self.left_ns, self.is_alone) = (Some(purchase.next_ns), is_alone);
        if purchase.count == 0 {
            self.sold_out_until_ns = bought_ns + (purchase.first_ns - at_ns);
        }
    }

    fn use_up(&mut self, count: usize, now_ns: i64) {
        self.tokens.use_up(count, now_ns);
        let second = now_ns / 1_000_000_000;
        if second != self.second {
            let before = if second == self.second + 1 { self.started } else { 0 };
            (self.second, self.started_before, self.started) = (second, before, 0);
        }
        self.started = self.started.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
    }

    /// How many attempts have started within about a second.
    fn recent(&self, now_ns: i64) -> u32 {
        match now_ns / 1_000_000_000 - self.second {
            0 => self.started.max(self.started_before),
            1 => self.started,
            _ => 0,
        }
    }
}

/// Moves the shared time on. If nobody else has bought since our last purchase, it is where that
/// `left` it, so it need not be read first, and nobody has a part in the coming second.
async fn buy(
    instance: &Instance,
    app: AppId,
    rate: Rate,
    demand: Demand,
    left_ns: Option<i64>,
    was_alone: bool,
) -> StoreResult<Option<Bought>> {
    let mut known_ns = left_ns.filter(|_| was_alone);
    for _ in 0..TRIES {
        let (shared_ns, at_ns) = match known_ns.take() {
            Some(shared_ns) => (shared_ns, instance.database_us().saturating_mul(1000)),
            None => instance.store.rate_time(app).await?,
        };
        let bought_ns = boot_ns();
        let is_alone = left_ns == Some(shared_ns);
        let buyers = if is_alone { 1 } else { demand.buyers };
        let purchase = rate.buy(shared_ns, at_ns, Demand { buyers, ..demand });
        if purchase.count == 0
            || instance.store.move_rate_time(app, shared_ns, purchase, at_ns).await?
        {
            return Ok(Some(Bought { purchase, at_ns, bought_ns, is_alone }));
        }
    }
    Ok(None)
}
