//! Reports apps that have due jobs and that no running instance fires.
//!
//! Each heartbeat shows which apps no instance has. Only if there are any, their due jobs are
//! counted, once a minute and up to a limit.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use actix::prelude::*;

use super::super::lease::boot_ms;
use super::ShardKeeper;
use crate::health::ProblemKind;
use crate::model::ids::{AppId, ShardId};
use crate::store::{DueJobs, Observation};

/// An app is reported after this time without an instance, which a restart does not exceed.
const ORPHAN_AFTER_MS: i64 = 5_000;
/// How often due jobs are counted.
const COUNT_EVERY_MS: i64 = 60_000;

/// The apps without an instance.
#[derive(Debug, Default)]
pub(super) struct Orphans {
    /// Since when no instance has the app, by the boot clock.
    since_ms: BTreeMap<AppId, i64>,
    counted_ms: Option<i64>,
    /// The apps that are reported, with the subjects of the reports.
    reported: BTreeMap<AppId, String>,
}

impl ShardKeeper {
    pub(super) fn check_orphans(&mut self, ctx: &mut Context<Self>) {
        let now_ms = boot_ms();
        let orphans = orphans_in(&self.observed);
        let known = &mut self.orphans;
        known.since_ms.retain(|app, _| orphans.contains_key(app));
        for app in orphans.keys() {
            known.since_ms.entry(*app).or_insert(now_ms);
        }
        let back: Vec<AppId> =
            known.reported.keys().filter(|app| !orphans.contains_key(*app)).copied().collect();
        for app in back {
            self.clear_orphan(app);
        }
        let known = &mut self.orphans;
        let is_lasting = |app: &AppId| {
            known.since_ms.get(app).is_some_and(|since| now_ms - since >= ORPHAN_AFTER_MS)
        };
        let lasting: Vec<(AppId, Vec<ShardId>)> =
            orphans.into_iter().filter(|(app, _)| is_lasting(app)).collect();
        let is_due = known.counted_ms.is_none_or(|counted| now_ms - counted >= COUNT_EVERY_MS);
        if lasting.is_empty() || !is_due {
            return;
        }
        known.counted_ms = Some(now_ms);
        let (instance, until_ms) = (self.instance.clone(), self.observed.now_us / 1000);
        let count = tokio::spawn(async move {
            instance.bounded(instance.store.count_due(&lasting, until_ms)).await
        });
        ctx.spawn(count.into_actor(self).map(|counted, actor, _| match counted {
            Ok(Ok(counted)) => actor.report_orphans(&counted),
            Ok(Err(error)) => tracing::debug!(%error, "due jobs were not counted"),
            Err(error) => panic!("counting due jobs: {error}"),
        }));
    }

    fn report_orphans(&mut self, counted: &[DueJobs]) {
        let due: BTreeSet<AppId> = counted.iter().map(|due| due.app).collect();
        let gone: Vec<AppId> =
            self.orphans.reported.keys().filter(|app| !due.contains(app)).copied().collect();
        for app in gone {
            self.clear_orphan(app);
        }
        for due in counted {
            let subject = format!("app {}", due.name);
            self.instance.health.report(&subject, ProblemKind::AppWithoutInstance, sentence(due));
            self.orphans.reported.insert(due.app, subject);
        }
        let jobs = counted.iter().map(|due| due.jobs).sum();
        self.instance.counters.set_without_instance(jobs);
    }

    /// Clears the report of an app that an instance has again, or whose due jobs are gone.
    fn clear_orphan(&mut self, app: AppId) {
        if let Some(subject) = self.orphans.reported.remove(&app) {
            self.instance.health.clear(&subject);
        }
        if self.orphans.reported.is_empty() {
            self.instance.counters.set_without_instance(0);
        }
    }
}

fn sentence(due: &DueJobs) -> String {
    let DueJobs { name, jobs, .. } = due;
    let (jobs, are) = match jobs {
        1 => ("1 job".to_owned(), "is"),
        jobs if *jobs > DueJobs::LIMIT => (format!("more than {} jobs", DueJobs::LIMIT), "are"),
        jobs => (format!("{jobs} jobs"), "are"),
    };
    format!(
        "{jobs} of {name} {are} due and no instance has it: configure or register the app {name} \
         again on at least one instance"
    )
}

/// Apps that no live instance has, with their shards. A drained instance fires nothing.
fn orphans_in(observed: &Observation) -> BTreeMap<AppId, Vec<ShardId>> {
    let firing = observed.instances.iter().filter(|one| !observed.draining.contains(&one.id));
    let had: HashSet<AppId> = firing.flat_map(|one| one.apps.iter().copied()).collect();
    let mut orphans: BTreeMap<AppId, Vec<ShardId>> = BTreeMap::new();
    for row in observed.shards.iter().filter(|row| !had.contains(&row.app)) {
        orphans.entry(row.app).or_default().push(row.id);
    }
    orphans
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{Epoch, InstanceId};
    use crate::store::{InstanceRow, ShardRow};

    #[test]
    fn an_app_that_no_live_instance_has_is_an_orphan() {
        let row =
            |id, app| ShardRow { id: ShardId(id), app: AppId(app), owner: None, epoch: Epoch(0) };
        let instance = |id, apps: &[i32]| InstanceRow {
            id: InstanceId(id),
            beat: 0,
            lease_until_us: 0,
            apps: apps.iter().copied().map(AppId).collect(),
            process: None,
        };
        let observed = Observation {
            instances: vec![instance(1, &[1, 2]), instance(2, &[2, 3])],
            shards: vec![row(1, 1), row(2, 2), row(3, 3), row(4, 4), row(5, 4)],
            ..Observation::default()
        };
        let expected = BTreeMap::from([(AppId(4), vec![ShardId(4), ShardId(5)])]);
        assert_eq!(orphans_in(&observed), expected);
    }

    #[test]
    fn the_sentence_counts_as_people_do() {
        let due = |jobs| sentence(&DueJobs { app: AppId(1), name: "sms".into(), jobs });
        assert!(due(1).starts_with("1 job of sms is due and no instance has it: "));
        assert!(due(8).starts_with("8 jobs of sms are due and no instance has it: "));
        assert!(due(10_001).starts_with("more than 10000 jobs of sms are due"));
    }
}
