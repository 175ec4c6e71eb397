//! The fence: a number that only grows for a job and for later jobs under its name, so that a
//! receiver that remembers the highest can refuse a late firing.
//!
//! It must grow though commits are lost in a failover of the database, a job is cancelled and
//! asked for again, or a successor knows nothing of earlier starts. So it is made of times
//! and not of counters: the later of the shard's epoch and the job's admission, in seconds,
//! then the seconds since. What is left are starts within one second, which one process
//! makes and remembers.

use std::collections::HashMap;
use std::fmt;

use serde::Serialize;

use super::ids::{Epoch, JobId};

/// The number that accompanies an attempt; below 2^53, so that every JSON reader has it whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Fence(u64);

impl Fence {
    /// The bits below the epoch.
    const LOW_BITS: u32 = 20;
    const LOW_MAX: u64 = (1 << Self::LOW_BITS) - 1;
    /// Of an epoch in seconds these suffice until the year 2242.
    const EPOCH_MAX: i64 = (1 << 33) - 1;
    const MAX: u64 = (1 << 53) - 1;

    /// The `start`th number within `epoch`.
    pub fn new(epoch: i64, start: u64) -> Self {
        let epoch = epoch.clamp(0, Self::EPOCH_MAX).unsigned_abs();
        Self((epoch << Self::LOW_BITS) + start.min(Self::LOW_MAX))
    }

    /// The fence of a start at `now_ms` of a job that was admitted at `admitted_ms`, under a
    /// shard's `epoch`; greater than `last`, that of the start before if it is known.
    fn next(epoch: Epoch, admitted_ms: i64, now_ms: i64, last: Option<Self>) -> Self {
        let since_s = epoch.0.max(admitted_ms.div_euclid(1000));
        let waited_s = now_ms.div_euclid(1000).saturating_sub(since_s);
        let first = Self::new(since_s, u64::try_from(waited_s).unwrap_or(0) + 1);
        match last {
            Some(last) => Self(first.0.max(last.0 + 1).min(Self::MAX)),
            None => first,
        }
    }

    /// The number itself.
    pub fn get(self) -> u64 {
        self.0
    }

    /// The second that it counts from.
    fn epoch_s(self) -> i64 {
        (self.0 >> Self::LOW_BITS) as i64
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What one process remembers of the fences that it gave out.
#[derive(Debug, Default)]
pub struct FenceMemory {
    /// Of jobs that will start again.
    waiting: HashMap<JobId, Fence>,
    /// Of jobs that ended just now: another one may come under the name in the same second.
    ended: HashMap<JobId, Fence>,
    ended_before: HashMap<JobId, Fence>,
    turned_ms: i64,
}

impl FenceMemory {
    /// How long the fence of an ended job is remembered at least. Later, the next admission
    /// under its name is of a later second, whichever instance's clock it comes from, and more
    /// seconds have passed than there were starts within one.
    const KEEP_S: i64 = 5;

    /// The fence of a start at `now_ms`.
    pub fn next(&self, job: JobId, epoch: Epoch, admitted_ms: i64, now_ms: i64) -> Fence {
        let known = [&self.waiting, &self.ended, &self.ended_before];
        let last = known.into_iter().filter_map(|fences| fences.get(&job)).max();
        Fence::next(epoch, admitted_ms, now_ms, last.copied())
    }

    /// The job that was started with `fence` will start again.
    pub fn put_back(&mut self, job: JobId, fence: Fence) {
        self.waiting.insert(job, fence);
    }

    /// The job that was started at `fired_ms` with `fence` has ended. `passed_ms` is a clock that
    /// nobody sets.
    pub fn end(&mut self, job: JobId, fence: Fence, fired_ms: i64, passed_ms: i64) {
        if passed_ms - self.turned_ms >= Self::KEEP_S * 1000 {
            self.ended_before = std::mem::take(&mut self.ended);
            self.turned_ms = passed_ms;
        }
        self.waiting.remove(&job);
        // Most jobs were admitted long before they are fired, and need not be remembered.
        if fence.epoch_s() + Self::KEEP_S >= fired_ms.div_euclid(1000) {
            self.ended.insert(job, fence);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_fence_grows_with_starts_and_more_with_epochs() {
        assert!(Fence::new(1, 2) > Fence::new(1, 1));
        assert!(Fence::new(2, 0) > Fence::new(1, u64::MAX));
        for (epoch, start, fence) in
            [(0, 3, 3), (1, 0, 1 << 20), (2, 5, (2 << 20) + 5), (1, u64::MAX, (2 << 20) - 1)]
        {
            assert_eq!(Fence::new(epoch, start).get(), fence);
            assert_eq!(Fence::new(epoch, start).to_string(), fence.to_string());
        }
        assert_eq!(Fence::new(i64::MAX, u64::MAX).get(), Fence::MAX);
        assert_eq!(Fence::new(-1, 7).get(), 7);
    }

    #[test]
    fn a_fence_counts_from_the_later_of_epoch_and_admission() {
        for (epoch_s, admitted_ms, now_ms, fence) in [
            (50, 40_999, 50_000, Fence::new(50, 1)),
            (50, 60_999, 60_999, Fence::new(60, 1)),
            (50, 60_999, 70_000, Fence::new(60, 11)),
            // A clock that was set back.
            (50, 40_000, 45_000, Fence::new(50, 1)),
        ] {
            assert_eq!(Fence::next(Epoch(epoch_s), admitted_ms, now_ms, None), fence);
        }
        let last = Some(Fence::new(60, 30));
        assert_eq!(Fence::next(Epoch(50), 60_000, 70_000, last), Fence::new(60, 31));
        assert_eq!(Fence::next(Epoch(61), 60_000, 70_000, last), Fence::new(61, 10));
    }

    #[test]
    fn only_jobs_that_may_come_again_in_the_same_second_are_remembered() {
        let job = |n: u8| JobId::from_bytes([n; 16]);
        let mut memory = FenceMemory::default();
        memory.end(job(1), Fence::new(1000, 9), 1_000_500, 0);
        memory.end(job(2), Fence::new(900, 9), 1_000_500, 0);
        memory.put_back(job(3), Fence::new(900, 9));
        let next = |memory: &FenceMemory, n| memory.next(job(n), Epoch(900), 900_000, 900_000);
        assert_eq!(next(&memory, 1), Fence::new(1000, 10));
        assert_eq!(next(&memory, 2), Fence::new(900, 1));
        assert_eq!(next(&memory, 3), Fence::new(900, 10));
        for passed_ms in [5_000, 10_000, 15_000] {
            memory.end(job(4), Fence::new(900, 9), 1_000_500, passed_ms);
        }
        assert_eq!(next(&memory, 1), Fence::new(900, 1), "forgotten");
        assert_eq!(next(&memory, 3), Fence::new(900, 10), "it will start again");
    }

    /// What happens to one name.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Pass(i64),
        /// By an instance whose clock is so far from the database's.
        Admit(i64),
        /// The owner starts the job, which ends or will start again.
        Fire {
            ends: bool,
        },
        Cancel,
        /// A process that remembers nothing takes the shard.
        Take(i64),
        /// The database goes on from its state as it was copied.
        Copy,
        FailOver,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let skew = -500_i64..500;
        let step = prop_oneof![
            2 => (0_i64..2_500).prop_map(Step::Pass),
            3 => skew.clone().prop_map(Step::Admit),
            6 => any::<bool>().prop_map(|ends| Step::Fire { ends }),
            1 => Just(Step::Cancel),
            1 => skew.prop_map(Step::Take),
            1 => Just(Step::Copy),
            1 => Just(Step::FailOver),
        ];
        proptest::collection::vec(step, 1..80)
    }

    #[derive(Clone, Copy, Debug)]
    struct Rows {
        epoch: i64,
        admitted_ms: Option<i64>,
    }

    proptest! {
        /// Whoever fires it, whatever commits were lost, and however often the name is used.
        #[test]
        fn the_fence_of_a_name_grows_in_every_case(steps in steps()) {
            let job = JobId::from_bytes([7; 16]);
            let mut now_ms = 1_790_000_000_123_i64;
            let mut rows = Rows { epoch: now_ms / 1000, admitted_ms: None };
            let mut copy = rows;
            let mut owned = Some(rows.epoch);
            let mut owner_skew_ms = 0;
            let mut memory = FenceMemory::default();
            let mut highest: Option<Fence> = None;
            for step in steps {
                match step {
                    Step::Pass(ms) => now_ms += ms,
                    Step::Admit(skew_ms) => {
                        rows.admitted_ms.get_or_insert(now_ms + skew_ms);
                    }
                    Step::Cancel => rows.admitted_ms = None,
                    Step::Fire { ends } => {
                        // An owner whose epoch is not the row's has lost the shard.
                        owned = owned.filter(|epoch| *epoch == rows.epoch);
                        let (Some(epoch), Some(admitted_ms)) = (owned, rows.admitted_ms) else {
                            continue;
                        };
                        let fired_ms = now_ms + owner_skew_ms;
                        let fence = memory.next(job, Epoch(epoch), admitted_ms, fired_ms);
                        prop_assert!(highest < Some(fence), "{fence:?} after {highest:?}");
                        prop_assert!(fence.get() < 1 << 53);
                        highest = Some(fence);
                        if ends {
                            memory.end(job, fence, fired_ms, now_ms);
                            rows.admitted_ms = None;
                        } else {
                            memory.put_back(job, fence);
                        }
                    }
                    Step::Take(skew_ms) => {
                        // It was seen at a heartbeat that there is a shard to take.
                        now_ms += 1_000;
                        let own_s = (now_ms + skew_ms) / 1000;
                        rows.epoch = rows.epoch.max(now_ms / 1000).max(own_s) + 1;
                        owned = Some(rows.epoch);
                        owner_skew_ms = skew_ms;
                        memory = FenceMemory::default();
                    }
                    Step::Copy => copy = rows,
                    Step::FailOver => {
                        // No server takes over within the second of the commits that it lost.
                        now_ms += 2_000;
                        rows = copy;
                    }
                }
            }
        }
    }
}
