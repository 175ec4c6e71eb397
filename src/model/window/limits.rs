//! The bounds of the window, and which jobs are evicted.

use super::Window;
use super::list::{List, Size};
use crate::model::ids::ShardId;
use crate::model::job::Priority;

/// How many more jobs than needed are evicted at once, so that a list is not chosen for each one.
const SLACK: usize = 64;

impl Window {
    /// Sets the maximum bytes of jobs in memory, and evicts what exceeds it.
    pub fn set_max_bytes(&mut self, max_bytes: usize) {
        self.limits.max_bytes = max_bytes;
        self.shrink();
    }

    /// Sets how long a due job waits before it has a part beside jobs of a higher priority.
    pub fn set_aging_ms(&mut self, aging_ms: i64) {
        self.limits.aging_ms = aging_ms;
    }

    /// The size of all lists, with the expected size of the outstanding pages.
    pub fn expected_bytes(&self) -> usize {
        let expected = self.lists().filter_map(List::page).map(|page| page.expected.bytes);
        self.used().bytes + expected.sum::<usize>()
    }

    /// The size of all lists.
    pub(super) fn used(&self) -> Size {
        self.lists().fold(Size::default(), |used, list| used + list.size())
    }

    /// The guaranteed size of each list: half of the window, divided evenly, and one job at
    /// least.
    pub(super) fn guaranteed(&self) -> Size {
        let limits = Size { jobs: self.limits.max_jobs, bytes: self.limits.max_bytes };
        let part = limits.divided(2 * self.shards.len() * Priority::ALL.len());
        Size { jobs: part.jobs.max(1), ..part }
    }

    /// Evicts until the bounds are kept: the last jobs to fire of lists above their guaranteed
    /// size, so that many jobs of one priority never displace another one.
    pub(super) fn shrink(&mut self) {
        let Self { limits: bounds, .. } = *self;
        while self.used().jobs > bounds.max_jobs {
            let enough = bounds.max_jobs - bounds.max_jobs / SLACK;
            if !self.evict(|size| size.jobs, enough) {
                break;
            }
        }
        while self.used().bytes > bounds.max_bytes {
            let enough = bounds.max_bytes - bounds.max_bytes / SLACK;
            if !self.evict(|size| size.bytes, enough) {
                break;
            }
        }
    }

    /// Evicts from one list until all lists together have shrunk by `enough`, or this one has only
    /// its guaranteed size.
    fn evict(&mut self, measure: fn(Size) -> usize, enough: usize) -> bool {
        let part = measure(self.guaranteed());
        let above = |list: &List| list.size().jobs > 1 && measure(list.size()) > part;
        let mut used = measure(self.used());
        let Some((shard, priority)) = self.last_to_fire(above) else { return false };
        while used > enough {
            let Some(list) = self.list_mut(shard, priority).filter(|list| above(list)) else {
                break;
            };
            let before = measure(list.size());
            let Some(job) = list.evict_last() else { break };
            used -= before - measure(list.size());
            self.places.remove(&job.id);
        }
        true
    }

    /// The list among these whose last job fires last, with aging taken into account.
    fn last_to_fire(&self, among: impl Fn(&List) -> bool) -> Option<(ShardId, Priority)> {
        let aging_ms = self.limits.aging_ms;
        let turn = |list: &List| {
            let last = list.last()?;
            let penalty_ms = aging_ms.saturating_mul(last.priority.rank().into());
            Some(last.ready_ms().saturating_add(penalty_ms))
        };
        self.shards
            .iter()
            .flat_map(|(shard, of)| of.lists.iter().map(|list| (*shard, list)))
            .filter(|(_, list)| among(list))
            .max_by_key(|(_, list)| turn(list))
            .map(|(shard, list)| (shard, list.priority))
    }
}
