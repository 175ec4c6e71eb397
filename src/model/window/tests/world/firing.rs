//! Firing in the world: jobs are taken, and their outcomes are committed, confirmed or lost.

use super::*;
use crate::model::window::tests::room;

impl World {
    pub(in crate::model::window::tests) fn take_due(&mut self, limit: usize) {
        let expected = self.naive_order(limit);
        let taken = self.window.take_due(self.now_ms, room(limit, usize::MAX), |_| true);
        let ids: Vec<_> = taken.iter().map(|job| job.id).collect();
        assert_eq!(ids, expected, "the order of firing");
        for job in taken {
            assert!(job.due_ms <= self.now_ms, "early: {job:?}");
            assert_eq!(self.table.get(&job.id), Some(&*job), "taken, but its row says else");
            self.start(Arc::unwrap_or_clone(job));
        }
    }

    fn start(&mut self, job: Job) {
        self.taken += 1;
        let epoch = self.our_epoch(job.shard);
        let id = job.id;
        let before = self.running.insert(id, Run { job, epoch, committed: None });
        assert!(before.is_none(), "in flight twice: {before:?}");
    }

    fn nth_run(&self, nth: u8) -> Option<JobId> {
        self.running.keys().nth(usize::from(nth) % self.running.len().max(1)).copied()
    }

    /// Commits an outcome without passing it to the window: a retry after `delay_ms`, or the end.
    /// The fence refuses it if the shard has been reassigned since the job was taken.
    pub(in crate::model::window::tests) fn commit_outcome(
        &mut self,
        nth: u8,
        delay_ms: Option<i64>,
    ) {
        let Some(id) = self.nth_run(nth) else { return };
        let run = &self.running[&id];
        if run.committed.is_some() {
            return;
        }
        if run.epoch.is_none() || run.epoch != self.our_epoch(run.job.shard) {
            self.running.remove(&id);
            self.window.outcome_unknown(id);
            return;
        }
        let row = delay_ms.filter(|_| self.table.contains_key(&id)).map(|delay_ms| {
            let run = &self.running[&id];
            let due_ms = self.now_ms + delay_ms;
            self.write(Job { due_ms, attempts: run.job.attempts + 1, ..run.job.clone() })
        });
        if row.is_none() {
            self.table.remove(&id);
        }
        if let Some(run) = self.running.get_mut(&id) {
            run.committed = Some(row);
        }
    }

    /// Passes an outcome to the window; one that was not committed never ran.
    pub(in crate::model::window::tests) fn confirm_outcome(&mut self, nth: u8) {
        let Some(id) = self.nth_run(nth) else { return };
        let Some(run) = self.running.remove(&id) else { return };
        match run.committed {
            Some(None) => self.window.finished(id),
            Some(Some(row)) => self.window.put_back(row),
            None if self.table.get(&id) == Some(&run.job) => self.window.put_back(run.job),
            None => self.window.outcome_unknown(id),
        }
    }

    /// The answer is lost, whether or not the outcome was committed.
    pub(in crate::model::window::tests) fn lose_outcome(&mut self, nth: u8) {
        if let Some(id) = self.nth_run(nth) {
            self.running.remove(&id);
            self.window.outcome_unknown(id);
        }
    }

    /// A command takes a job out of the window; what it makes of it is an outcome like any other.
    /// The row of one that is not in memory is read later.
    pub(in crate::model::window::tests) fn withdraw(&mut self, id: JobId, shard: i32) {
        let shard = self.table.get(&id).map_or(ShardId(shard), |row| row.shard);
        let Some(epoch) = self.our_epoch(shard) else { return };
        match self.window.withdraw(shard, id) {
            Withdrawn::InFlight => {
                assert!(self.running.contains_key(&id) || self.withdrawn.contains_key(&id));
            }
            Withdrawn::Taken(job) => {
                assert_eq!(self.table.get(&id), Some(&*job), "withdrawn, but its row says else");
                self.start(Arc::unwrap_or_clone(job));
            }
            Withdrawn::Absent => drop(self.withdrawn.insert(id, (shard, epoch))),
        }
    }

    /// The row of a job that was withdrawn is read, and fenced by the shard's epoch.
    pub(in crate::model::window::tests) fn read_withdrawn(&mut self, nth: u8) {
        let nth = usize::from(nth) % self.withdrawn.len().max(1);
        let Some((&id, &(shard, epoch))) = self.withdrawn.iter().nth(nth) else { return };
        self.withdrawn.remove(&id);
        let row = self.table.get(&id).cloned();
        match row {
            _ if self.our_epoch(shard) != Some(epoch) => self.window.outcome_unknown(id),
            Some(row) if row.shard != shard => self.window.outcome_unknown(id),
            Some(row) => self.start(row),
            None => self.window.finished(id),
        }
    }

    /// Commits another time and priority of a withdrawn job, as [`Self::commit_outcome`] does.
    pub(in crate::model::window::tests) fn commit_change(
        &mut self,
        nth: u8,
        due_ms: i64,
        priority: Priority,
    ) {
        let Some(id) = self.nth_run(nth) else { return };
        self.commit_outcome(nth, Some(due_ms - self.now_ms));
        let Some(Some(Some(row))) = self.running.get(&id).map(|run| run.committed.clone()) else {
            return;
        };
        if self.table.get(&id) == Some(&row) {
            let row = self.write(Job { priority, ..row });
            if let Some(run) = self.running.get_mut(&id) {
                run.committed = Some(Some(row));
            }
        }
    }
}
