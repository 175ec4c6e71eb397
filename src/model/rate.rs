//! The rate of an app's attempts over all instances: a time that is shared by them (GCRA), of
//! which each buys starts, and the starts that an instance has bought.
//!
//! Each start has a nominal time, a constant interval after the one before it. It may be used
//! from its nominal time or its purchase on, whichever is later, and for [`VALID_NS`] after that.
//! So in any `t` seconds at most `rate * (t + 1) + burst` starts are used, whoever bought them.
//!
//! All times are nanoseconds: of the database's clock where instances share them, of the boot
//! clock where they are used.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

const SECOND_NS: i64 = 1_000_000_000;

/// How far ahead starts are bought.
const AHEAD_NS: i64 = SECOND_NS;
/// How long a start may be used. Less than the second of the promise by what two instances may
/// disagree about the database's time ([`Purchase::TOLERANCE_NS`] in both directions).
pub const VALID_NS: i64 = AHEAD_NS - 2 * Purchase::TOLERANCE_NS;

/// How many attempts an app may start, over all instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    per_second: PerSecond,
    burst: Option<NonZeroU32>,
}

/// A number per second, in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct PerSecond(u64);

/// Why a rate cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "is {0}, but must be from {least} (one in eleven days) to {most}",
    least = PerSecond::LEAST,
    most = PerSecond::MOST
)]
pub struct InvalidRate(f64);

/// Starts that were bought together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purchase {
    /// The nominal time of the first one by the database's clock. If there are none, the earliest
    /// time at which it is worth to ask again.
    pub first_ns: i64,
    /// How many there are.
    pub count: u32,
    /// The shared time after the purchase.
    pub next_ns: i64,
}

/// What an instance wants to buy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// How many attempts are due now or within a second.
    pub due: u32,
    /// How many more may come within a second. They are bought only of what would otherwise be
    /// left over.
    pub expected: u32,
    /// Among how many instances the coming second is divided.
    pub buyers: u32,
}

impl PerSecond {
    /// The lowest rate.
    pub const LEAST: f64 = 0.000_001;
    /// The highest rate.
    pub const MOST: f64 = 1_000_000.0;
}

impl TryFrom<f64> for PerSecond {
    type Error = InvalidRate;

    fn try_from(per_second: f64) -> Result<Self, InvalidRate> {
        match (Self::LEAST..=Self::MOST).contains(&per_second) {
            true => Ok(Self((per_second * 1e6).round() as u64)),
            false => Err(InvalidRate(per_second)),
        }
    }
}

impl From<PerSecond> for f64 {
    fn from(per_second: PerSecond) -> Self {
        per_second.0 as Self / 1e6
    }
}

impl Rate {
    /// A rate, and how many attempts may start at once after a pause; by default as many as the
    /// rate allows in a second, and at least one.
    ///
    /// # Errors
    /// [`InvalidRate`] if it is no number from 0.000001 to 1000000.
    pub fn new(per_second: f64, burst: Option<NonZeroU32>) -> Result<Self, InvalidRate> {
        Ok(Self::of(per_second.try_into()?, burst))
    }

    pub(crate) fn of(per_second: PerSecond, burst: Option<NonZeroU32>) -> Self {
        Self { per_second, burst }
    }

    /// How many attempts may start per second.
    pub fn per_second(self) -> f64 {
        self.per_second.into()
    }

    /// How many attempts may start at once after a pause.
    pub fn burst(self) -> NonZeroU32 {
        let of_a_second = u32::try_from(self.per_second.0 / 1_000_000).ok();
        let of_a_second = of_a_second.and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN);
        self.burst.unwrap_or(of_a_second)
    }

    /// The two parts as they were given.
    pub(crate) fn parts(self) -> (PerSecond, Option<NonZeroU32>) {
        (self.per_second, self.burst)
    }

    /// The time between two starts. Rounded up, so that the rate is never exceeded.
    fn interval_ns(self) -> i64 {
        i64::try_from(1_000_000_000_000_000_u64.div_ceil(self.per_second.0.max(1)))
            .unwrap_or(i64::MAX)
    }

    /// How many starts are to be bought at `now_ns` if the shared time is `shared_ns`: those that
    /// are due, in the coming second no more than the part of one buyer.
    pub fn buy(self, shared_ns: i64, now_ns: i64, demand: Demand) -> Purchase {
        let interval_ns = self.interval_ns();
        // No purchase leaves a later time: the clock was set back, or the rate was lower before.
        let latest_ns =
            (now_ns + AHEAD_NS + 2 * Purchase::TOLERANCE_NS).saturating_add(interval_ns);
        let next_ns =
            if shared_ns > latest_ns { now_ns.saturating_add(interval_ns) } else { shared_ns };
        let saved_ns = interval_ns.saturating_mul(i64::from(self.burst().get()) - 1);
        let first_ns = next_ns.max(now_ns.saturating_sub(saved_ns));
        let until = |end_ns: i64| match end_ns - first_ns {
            before if before < 0 => 0,
            span => u32::try_from(span / interval_ns + 1).unwrap_or(u32::MAX),
        };
        let saved = until(now_ns);
        let second = self.per_second.0.div_ceil(1_000_000 * u64::from(demand.buyers.max(1)));
        let part = u32::try_from(second).unwrap_or(u32::MAX);
        let most = until(now_ns + AHEAD_NS).min(saved.saturating_add(part));
        let due = demand.due.min(most);
        let count = due.max(demand.due.saturating_add(demand.expected).min(saved));
        match count {
            0 => Purchase { first_ns: first_ns - AHEAD_NS, count, next_ns: shared_ns },
            _ => {
                let next_ns = first_ns.saturating_add(interval_ns.saturating_mul(count.into()));
                Purchase { first_ns, count, next_ns }
            }
        }
    }
}

impl Purchase {
    /// A purchase is valid if the database's clock differs by no more from the time for which it
    /// was made.
    pub const TOLERANCE_NS: i64 = SECOND_NS / 20;
}

/// The starts that an instance has bought and not used, by its boot clock.
#[derive(Clone, Debug, Default)]
pub struct Tokens(VecDeque<Bought>);

#[derive(Clone, Copy, Debug)]
struct Bought {
    bought_ns: i64,
    first_ns: i64,
    interval_ns: i64,
    count: u32,
}

impl Tokens {
    /// Adds what was bought at `bought_ns`, which was `at_ns` by the database's clock.
    pub fn add(&mut self, rate: Rate, purchase: Purchase, at_ns: i64, bought_ns: i64) {
        if purchase.count > 0 {
            let first_ns = bought_ns + (purchase.first_ns - at_ns);
            let interval_ns = rate.interval_ns();
            self.0.push_back(Bought { bought_ns, first_ns, interval_ns, count: purchase.count });
        }
    }

    /// How many may be used now. Those that were not used in time are dropped.
    pub fn usable(&mut self, now_ns: i64) -> usize {
        for bought in &mut self.0 {
            bought.drop_expired(now_ns);
        }
        self.0.retain(|bought| bought.count > 0);
        self.0.iter().map(|bought| bought.usable(now_ns) as usize).sum()
    }

    /// Uses `count` of those that may be used now.
    pub fn use_up(&mut self, count: usize, now_ns: i64) {
        let mut left = count;
        for bought in &mut self.0 {
            let used = bought.usable(now_ns).min(u32::try_from(left).unwrap_or(u32::MAX));
            bought.skip(used);
            left -= used as usize;
        }
    }

    /// How many there are, those that may be used later included.
    pub fn at_hand(&self) -> u32 {
        self.0.iter().fold(0, |sum, bought| sum.saturating_add(bought.count))
    }

    /// When the next one may be used.
    pub fn next_ns(&self) -> Option<i64> {
        self.0.iter().filter(|bought| bought.count > 0).map(|bought| bought.first_ns).min()
    }

    /// The nominal time of the last one.
    pub fn last_ns(&self) -> Option<i64> {
        self.0.iter().map(Bought::last_ns).max()
    }
}

impl Bought {
    fn usable(&self, now_ns: i64) -> u32 {
        match now_ns - self.first_ns {
            before if before < 0 => 0,
            span => u32::try_from(span / self.interval_ns + 1).unwrap_or(u32::MAX).min(self.count),
        }
    }

    fn drop_expired(&mut self, now_ns: i64) {
        if now_ns - self.bought_ns > VALID_NS {
            // Nothing is older than its purchase: of the others, only those with a later nominal
            // time are still valid.
            let oldest_ns = now_ns - VALID_NS;
            let behind_ns = oldest_ns.saturating_sub(self.first_ns);
            if behind_ns > 0 {
                let expired = (behind_ns - 1) / self.interval_ns + 1;
                self.skip(u32::try_from(expired).unwrap_or(u32::MAX));
            }
        }
    }

    fn skip(&mut self, count: u32) {
        let count = count.min(self.count);
        self.count -= count;
        self.first_ns = self.first_ns.saturating_add(self.interval_ns.saturating_mul(count.into()));
    }

    fn last_ns(&self) -> i64 {
        let after_first = i64::from(self.count.saturating_sub(1));
        self.first_ns.saturating_add(self.interval_ns.saturating_mul(after_first))
    }
}
