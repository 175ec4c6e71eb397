//! The fence: a number that only grows for a job and for later jobs under its name, so that a
//! receiver that remembers the highest can refuse a late firing.
//!
//! It must grow even if a failover of the database loses commits, if a job is cancelled and
//! requested again, or if a shard's next owner does not know of earlier starts. It is therefore
//! derived from the database's clock, which all instances estimate, and is not stored. Since the
//! estimates differ, a fence is never less than its shard's epoch: a time in seconds that was
//! still in the future when the shard was acquired. Until the end of that second fences grow more
//! slowly, within it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::ids::Epoch;

/// The number that accompanies an attempt. Below 2^53, so that every JSON parser reads it
/// exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Fence(u64);

impl Fence {
    /// The number of bits for fractions of a second.
    const LOW_BITS: u32 = 20;
    const SECOND: u64 = 1 << Self::LOW_BITS;
    /// The remaining bits, for seconds; enough until the year 2242.
    const EPOCH_MAX: i64 = (1 << 33) - 1;
    const MAX: u64 = (1 << 53) - 1;
    /// While the clock is before the end of the epoch's second, this many steps of the clock (61
    /// microseconds) give one fence. So an epoch may be a minute ahead of the clock.
    const GRAIN: u64 = 64;

    /// The `part`th of 2^20 parts of the second `epoch`.
    pub fn new(epoch: i64, part: u64) -> Self {
        let epoch = epoch.clamp(0, Self::EPOCH_MAX).unsigned_abs();
        Self((epoch << Self::LOW_BITS) + part.min(Self::SECOND - 1))
    }

    /// The time `now_us`, epoch microseconds, as a *reading*: in units of a fence, 2^-20 s.
    fn reading(now_us: i64) -> u64 {
        let now_us = u128::from(now_us.max(0).unsigned_abs());
        let reading = (now_us << Self::LOW_BITS) / 1_000_000;
        u64::try_from(reading).unwrap_or(Self::MAX).min(Self::MAX)
    }

    /// The fence of a start under `epoch` at the time `reading`.
    fn at(epoch: Epoch, reading: u64) -> Self {
        let floor = Self::new(epoch.0, 0).0;
        match Self::end_of(epoch).checked_sub(reading) {
            None | Some(0) => Self(reading.min(Self::MAX)),
            Some(left) => Self(floor + Self::SECOND.saturating_sub(left.div_ceil(Self::GRAIN))),
        }
    }

    /// The reading at which the epoch's second ends.
    fn end_of(epoch: Epoch) -> u64 {
        Self::new(epoch.0, 0).0 + Self::SECOND
    }

    /// The number itself.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The source of one process's fences. They grow even if the clock stops or is set back.
#[derive(Debug, Default)]
pub(crate) struct FenceClock {
    last: AtomicU64,
}

impl FenceClock {
    /// The fence of a start of a job whose shard is owned at `epoch`; `now_us` is this process's
    /// estimate of the database's clock.
    pub(crate) fn next(&self, epoch: Epoch, now_us: i64) -> Fence {
        let now = Fence::reading(now_us);
        let after = |last: u64| {
            // Two consecutive readings must not give the same fence.
            let grows = if last + 1 < Fence::end_of(epoch) { Fence::GRAIN } else { 1 };
            now.max(last + grows).min(Fence::MAX)
        };
        let stored =
            self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(after(last)));
        Fence::at(epoch, after(stored.unwrap_or_else(|last| last)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_fence_grows_with_parts_and_more_with_epochs() {
        assert!(Fence::new(1, 2) > Fence::new(1, 1));
        assert!(Fence::new(2, 0) > Fence::new(1, u64::MAX));
        for (epoch, part, fence) in
            [(0, 3, 3), (1, 0, 1 << 20), (2, 5, (2 << 20) + 5), (1, u64::MAX, (2 << 20) - 1)]
        {
            assert_eq!(Fence::new(epoch, part).get(), fence);
            assert_eq!(Fence::new(epoch, part).to_string(), fence.to_string());
        }
        assert_eq!(Fence::new(i64::MAX, u64::MAX).get(), Fence::MAX);
        assert_eq!(Fence::new(-1, 7).get(), 7);
    }

    #[test]
    fn a_fence_is_a_time_and_before_that_a_part_of_the_epoch() {
        const SECOND: u64 = 1 << 20;
        for (epoch_s, now_us, fence) in [
            // The epoch's second is over.
            (50, 70_500_000, Fence::new(70, SECOND / 2)),
            (50, 51_000_000, Fence::new(51, 0)),
            // It is this second, or ahead.
            (50, 50_999_999, Fence::new(50, SECOND - 1)),
            (50, 50_500_000, Fence::new(50, SECOND - SECOND / 128)),
            (50, 50_000_000, Fence::new(50, SECOND - SECOND / 64)),
            (50, 19_000_000, Fence::new(50, SECOND / 2)),
            (110, 47_000_000, Fence::new(110, 0)),
            (110, 1_000_000, Fence::new(110, 0)),
            // Beyond what fits.
            (50, i64::MAX, Fence(Fence::MAX)),
            (i64::MAX, i64::MAX, Fence(Fence::MAX)),
            (-5, -5, Fence::new(0, SECOND - SECOND / 64)),
        ] {
            let at = Fence::at(Epoch(epoch_s), Fence::reading(now_us));
            assert_eq!(at, fence, "{epoch_s} {now_us}");
        }
    }

    #[test]
    fn starts_of_one_moment_have_fences_of_their_own() {
        let clock = FenceClock::default();
        let next = || clock.next(Epoch(50), 70_000_000);
        assert_eq!([next(), next()], [Fence::new(70, 0), Fence::new(70, 1)]);
        let back = clock.next(Epoch(50), 65_000_000);
        assert_eq!(back, Fence::new(70, 2), "a clock that was set back");
        let ahead = || clock.next(Epoch(71), 65_000_000);
        let first = ahead();
        assert_eq!(ahead().get(), first.get() + 1, "an epoch that is ahead");
    }

    /// What happens to one name. Differences of clocks are in percent of the greatest.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Pass(i64),
        Admit,
        /// The owner starts the job, which ends or will start again.
        Fire {
            ends: bool,
        },
        Cancel,
        /// A process that remembers nothing takes the shard. Its own clock differs from the
        /// database's, of which it knows less than it shows.
        Take {
            own: i64,
            late: i64,
        },
        /// The database goes on from its state as it was copied, with a clock that is behind.
        Copy,
        FailOver {
            behind: i64,
        },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let take = (-100_i64..=100, 0_i64..=100).prop_map(|(own, late)| Step::Take { own, late });
        let step = prop_oneof![
            2 => (0_i64..2_500).prop_map(Step::Pass),
            3 => Just(Step::Admit),
            6 => any::<bool>().prop_map(|ends| Step::Fire { ends }),
            1 => Just(Step::Cancel),
            1 => take,
            1 => Just(Step::Copy),
            1 => (0_i64..=100).prop_map(|behind| Step::FailOver { behind }),
        ];
        proptest::collection::vec(step, 1..80)
    }

    /// How far clocks differ at most, in milliseconds.
    #[derive(Clone, Copy, Debug)]
    struct Differences {
        own: i64,
        late: i64,
        behind: i64,
    }

    fn differences() -> impl Strategy<Value = Differences> {
        let each = (0_i64..=5_000, 0_i64..=2_000, 0_i64..=5_000);
        each.prop_map(|(own, late, behind)| Differences { own, late, behind })
    }

    #[derive(Clone, Copy, Debug)]
    struct Rows {
        owner: usize,
        epoch: i64,
        has_job: bool,
    }

    #[derive(Debug, Default)]
    struct Process {
        late_ms: i64,
        clock: FenceClock,
    }

    proptest! {
        /// Whichever process fires it, whatever commits were lost, and however often the name is
        /// used, if no failover is over within two seconds more than clocks differ.
        #[test]
        fn the_fence_of_a_name_grows_in_every_case(most in differences(), steps in steps()) {
            let mut now_ms = 1_790_000_000_123_i64;
            let mut behind_ms = 0;
            let mut rows = Rows { owner: 0, epoch: now_ms / 1000, has_job: false };
            let mut copy = rows;
            let mut processes = vec![Process::default()];
            let mut highest: Option<Fence> = None;
            for step in steps {
                match step {
                    Step::Pass(ms) => now_ms += ms,
                    Step::Admit => rows.has_job = true,
                    Step::Cancel => rows.has_job = false,
                    Step::Fire { ends } => {
                        if !rows.has_job {
                            continue;
                        }
                        let owner = &processes[rows.owner];
                        let known_ms = now_ms - behind_ms - owner.late_ms;
                        let fence = owner.clock.next(Epoch(rows.epoch), known_ms * 1000);
                        prop_assert!(highest < Some(fence), "{fence:?} after {highest:?}");
                        prop_assert!(fence.get() < 1 << 53);
                        highest = Some(fence);
                        rows.has_job = !ends;
                    }
                    Step::Take { own, late } => {
                        // It was seen at a heartbeat that there is a shard to take.
                        now_ms += 1_000;
                        let database_s = (now_ms - behind_ms) / 1000;
                        let own_s = (now_ms + most.own * own / 100) / 1000;
                        rows.epoch = rows.epoch.max(database_s).max(own_s) + 1;
                        rows.owner = processes.len();
                        let late_ms = most.late * late / 100;
                        processes.push(Process { late_ms, ..Process::default() });
                    }
                    Step::Copy => copy = rows,
                    Step::FailOver { behind } => {
                        now_ms += 2_000 + most.own + most.late + most.behind;
                        behind_ms = most.behind * behind / 100;
                        rows = copy;
                    }
                }
            }
        }

        /// In one process it does whatever the clock shows.
        #[test]
        fn the_fences_of_a_process_grow_whatever_the_clock_shows(
            starts in proptest::collection::vec((0_i64..120_000_000, 0_i64..3), 1..100),
        ) {
            let clock = FenceClock::default();
            let mut epoch = 60;
            let mut last: Option<Fence> = None;
            for (now_us, later) in starts {
                let shown_s = clock.last.load(Ordering::Relaxed) >> Fence::LOW_BITS;
                // As far ahead as an epoch may be of what its owner has seen.
                epoch = (epoch + later).min(shown_s as i64 + 60).max(epoch);
                let fence = clock.next(Epoch(epoch), now_us);
                prop_assert!(last < Some(fence), "{fence:?} after {last:?}");
                last = Some(fence);
            }
        }
    }
}
