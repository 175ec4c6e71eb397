//! What must be true of a window in its world, at any moment and at the end.

use std::collections::BTreeSet;

use super::{SHARDS, World};
use crate::model::ids::JobId;
use crate::model::job::Job;
use crate::model::window::list::{after_all, before_all};
use crate::model::window::places::Place;

impl World {
    /// What is to be taken now, by the rule and nothing else.
    pub(super) fn naive_order(&self, limit: usize) -> Vec<JobId> {
        let of_shards = self.window.shards.values().filter(|shard| !shard.held);
        let mut lists: Vec<Vec<&Job>> = of_shards
            .flat_map(|shard| &shard.lists)
            .map(|list| list.jobs().values().map(|job| &**job).collect())
            .collect();
        let has_aged = |job: &Job| self.now_ms - job.ready_ms() >= self.limits.aging_ms;
        let mut order = Vec::new();
        let mut turn = self.window.turn;
        while order.len() < limit {
            let heads = lists
                .iter_mut()
                .filter(|list| list.first().is_some_and(|head| head.due_ms <= self.now_ms));
            let is_for_age = turn % 4 == 3;
            let rank = |job: &Job| match is_for_age && has_aged(job) {
                true => (0, 0, job.key()),
                false => (1, job.priority.rank(), job.key()),
            };
            let Some(first) = heads.min_by_key(|list| rank(list[0])) else { break };
            let job = first.remove(0);
            turn += u32::from(!job.is_expired(self.now_ms));
            order.push(job.id);
        }
        order
    }

    /// Checks everything that must be true at any moment.
    pub(in super::super) fn check(&self) {
        self.check_lists();
        self.check_bounds();
        self.check_marks();
        let in_flight = self
            .window
            .places
            .iter()
            .filter_map(|(id, place)| matches!(place, Place::InFlight(_)).then_some(*id));
        let in_flight: BTreeSet<_> = in_flight.collect();
        let out: BTreeSet<_> = self.running.keys().chain(self.withdrawn.keys()).copied().collect();
        assert_eq!(in_flight, out, "in flight");
        let heads = self.window.shards.values().filter(|shard| !shard.held);
        let heads = heads.flat_map(|shard| &shard.lists).filter_map(|list| list.head());
        assert_eq!(self.window.next_due(), heads.map(|job| job.due_ms).min());
        let figures = self.window.figures();
        assert_eq!(figures.in_flight, self.running.len() + self.withdrawn.len());
        assert!(figures.outstanding > 0 || figures.tombstones == 0, "tombstones stay: {figures:?}");
    }

    fn check_lists(&self) {
        let mut listed = 0;
        for list in self.window.lists() {
            assert!(list.jobs().keys().all(|key| *key <= list.mark()), "beyond the mark");
            assert!(list.waiting().keys().all(|key| *key > list.mark()), "waits in vain");
            assert!(list.waiting().is_empty() || list.page().is_some(), "waits for no page");
            let all = list.jobs().iter().chain(list.waiting());
            let mut bytes = 0;
            for (key, job) in all {
                listed += 1;
                bytes += job.size();
                assert_eq!(*key, job.key());
                assert_eq!(self.table.get(&job.id), Some(&**job), "held, but its row says else");
                let place = self.window.places.get(&job.id);
                assert!(matches!(place, Some(Place::Listed { due_ms, .. }) if *due_ms == key.0));
            }
            assert_eq!(list.size().jobs, list.jobs().len() + list.waiting().len());
            assert_eq!(list.size().bytes, bytes);
        }
        let out = self.running.len() + self.withdrawn.len();
        assert_eq!(listed + out, self.window.places.len());
    }

    fn check_bounds(&self) {
        let (used, part) = (self.window.used(), self.window.guaranteed());
        let lists = || self.window.lists().map(|list| list.size());
        let many = |jobs: usize, of: usize, part: usize| jobs <= 1 || of <= part;
        assert!(
            used.jobs <= self.limits.max_jobs || lists().all(|s| many(s.jobs, s.jobs, part.jobs)),
            "too many jobs"
        );
        assert!(
            used.bytes <= self.limits.max_bytes
                || lists().all(|s| many(s.jobs, s.bytes, part.bytes)),
            "too many bytes"
        );
    }

    /// The invariant of the mark: every live row at or before it is known or on its way.
    fn check_marks(&self) {
        for row in self.table.values() {
            let Some(shard) = self.window.shards.get(&row.shard) else { continue };
            let list = &shard.lists[row.priority as usize];
            assert!(before_all() <= list.mark() && list.mark() <= after_all());
            let covered = row.key() > list.mark()
                || self.window.places.contains_key(&row.id)
                || self.window.to_look_up.contains(&row.id)
                || self.look_ups.iter().any(|look_up| look_up.what.ids.contains(&row.id))
                || self.untold.contains(&row.id)
                || self
                    .admissions
                    .iter()
                    .flat_map(|a| a.inserted.iter().flatten())
                    .any(|job| job == row);
            assert!(covered, "lost: {row:?}, mark {:?}", list.mark());
        }
    }

    // The end.

    /// Answers everything, then fires everything; returns how many rounds that took.
    pub(in super::super) fn drain(&mut self) -> usize {
        for shard in 0..SHARDS {
            self.gain_shard(shard);
            self.set_held(shard, false);
        }
        while !self.admissions.is_empty() {
            self.commit_admission(0);
            self.return_ticket(0);
        }
        while !self.withdrawn.is_empty() {
            self.read_withdrawn(0);
        }
        while !self.untold.is_empty() {
            self.report(0);
        }
        while !self.audits.is_empty() {
            self.answer_audit(0);
        }
        self.now_ms += 1_000_000;
        for round in 1..1_000 {
            self.fill();
            self.want_look_up(2);
            while !self.look_ups.is_empty() {
                self.read_look_up(0);
                self.answer_look_up(0);
            }
            self.check();
            self.take_due(3);
            while !self.running.is_empty() {
                self.commit_outcome(0, None);
                self.confirm_outcome(0);
            }
            let figures = self.window.figures();
            if self.table.is_empty() && figures.to_look_up == 0 && self.all_is_known() {
                return round;
            }
        }
        panic!("never done: {:?}", self.table);
    }

    /// Whether every list has been read to its end, and nothing is left anywhere.
    fn all_is_known(&self) -> bool {
        let figures = self.window.figures();
        figures.jobs == 0
            && figures.in_flight == 0
            && figures.tombstones == 0
            && self.window.lists().all(|list| list.mark() == after_all())
    }
}
