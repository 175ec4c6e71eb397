//! The bounds of the window, and who has to give way.

use super::Window;
use super::list::{List, Size};
use crate::model::ids::ShardId;
use crate::model::job::Priority;

/// Evicting a few more than needed saves choosing a list for each one.
const SLACK: usize = 64;

impl Window {
    /// Bounds the bytes of jobs in memory from now on; what is too much leaves at once.
    pub fn set_max_bytes(&mut self, max_bytes: usize) {
        self.limits.max_bytes = max_bytes;
        self.shrink();
    }

    /// What all lists hold, and what the pages that are out are expected to bring.
    pub fn expected_bytes(&self) -> usize {
        let promised = self.lists().filter_map(List::page).map(|page| page.promised.bytes);
        self.used().bytes + promised.sum::<usize>()
    }

    /// What all lists hold.
    pub(super) fn used(&self) -> Size {
        self.lists().fold(Size::default(), |used, list| used + list.size())
    }

    /// What each list may hold whatever the others do: half of the window, shared evenly,
    /// and one job at least.
    pub(super) fn guaranteed(&self) -> Size {
        let limits = Size { jobs: self.limits.max_jobs, bytes: self.limits.max_bytes };
        let part = limits.divided(2 * self.shards.len() * Priority::ALL.len());
        Size { jobs: part.jobs.max(1), ..part }
    }

    /// Evicts until the bounds are kept: the last to fire of lists above their guaranteed
    /// part, so that a flood of one class never keeps another out.
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

    /// Evicts from one list until all have `enough` or it is down to its guaranteed part.
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

    /// The list among these whose last job fires last: waiting makes up for rank.
    fn last_to_fire(&self, among: impl Fn(&List) -> bool) -> Option<(ShardId, Priority)> {
        let aging_ms = self.limits.aging_ms;
        let turn = |list: &List| {
            let last = list.last()?;
            let penalty_ms = aging_ms.saturating_mul(last.priority.rank().into());
            Some(last.due_ms.max(last.created_ms).saturating_add(penalty_ms))
        };
        self.shards
            .iter()
            .flat_map(|(shard, of)| of.lists.iter().map(|list| (*shard, list)))
            .filter(|(_, list)| among(list))
            .max_by_key(|(_, list)| turn(list))
            .map(|(shard, list)| (shard, list.priority))
    }
}
