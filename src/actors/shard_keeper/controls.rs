//! What people have switched: paused apps, the paused ingest, and the drain of this instance, as
//! each heartbeat's observation shows them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::super::brokers::KAFKA;
use super::super::messages::Fire;
use super::ShardKeeper;
use crate::model::bulk::BulkWork;
use crate::model::ids::InstanceId;
use crate::model::limits::LimitValues;
use crate::store::Observation;

/// What leaving the consumer group may take before it is left to itself.
const LEAVE_PATIENCE: Duration = Duration::from_secs(30);

impl ShardKeeper {
    pub(super) fn follow_controls(&mut self, observed: &Observation) {
        self.follow_pauses(observed);
        self.follow_overrides(observed);
        self.follow_ingest_pause(observed);
        self.follow_drain(observed);
        self.follow_bulks(observed);
    }

    fn follow_pauses(&self, observed: &Observation) {
        for (id, app) in &self.instance.apps {
            let pause = observed.paused_apps.get(id);
            if !app.pause.set(pause) {
                continue;
            }
            app.figures.set_paused(pause.is_some());
            let name = &app.name;
            match pause {
                Some(pause) => {
                    let (by, reason) = (&pause.pause.by, pause.pause.reason.as_deref());
                    let refuses = pause.refuses_requests;
                    tracing::info!(app = %name, by, reason, refuses, "app {name} is paused by {by}");
                }
                None => {
                    tracing::info!(app = %name, "app {name} is resumed");
                    self.instance.registry.notify_scope(*id, Fire);
                }
            }
        }
    }

    fn follow_overrides(&self, observed: &Observation) {
        let none = LimitValues::default();
        for (id, app) in &self.instance.apps {
            if app.override_limits(observed.overrides.get(id).unwrap_or(&none)) {
                let (name, limits) = (&app.name, app.limits());
                tracing::info!(app = %name, ?limits, "app {name} has other limits");
                self.instance.registry.notify_scope(*id, Fire);
            }
        }
    }

    fn follow_ingest_pause(&self, observed: &Observation) {
        let Some(kafka) = &self.instance.kafka else { return };
        let group = &kafka.config.group_id;
        let is_paused = observed.paused_groups.contains(group);
        let is_news = self.instance.ingest_paused.send_if_modified(|before| {
            let is_news = *before != is_paused;
            *before = is_paused;
            is_news
        });
        if is_news {
            self.instance.counters.ingest_paused.store(is_paused.into(), Ordering::Relaxed);
            let what = if is_paused { "paused" } else { "resumed" };
            tracing::info!(group, "the ingest of group {group} is {what}");
        }
    }

    /// Passes on the bulk actions that this instance carries out, and those that no living instance
    /// does. The first instance that takes such an action has it.
    fn follow_bulks(&self, observed: &Observation) {
        let me = self.instance.me();
        let is_ours = |runner: Option<InstanceId>| {
            runner.is_none_or(|runner| {
                runner == me || observed.instances.iter().all(|one| one.id != runner)
            })
        };
        let ours = observed.bulks.iter().filter(|(_, runner)| is_ours(*runner));
        let bulks: Vec<i64> = match self.instance.is_drained() {
            true => Vec::new(),
            false => ours.map(|(id, _)| *id).collect(),
        };
        let work = BulkWork { me, bulks };
        // Each heartbeat says it again: the last attempt to take one may have failed.
        self.instance.bulk_work.send_if_modified(|before| {
            let is_news = !work.bulks.is_empty() || *before != work;
            *before = work;
            is_news
        });
    }

    /// A drained instance leaves the consumer group, and does not come back: it stays drained
    /// under any later id.
    fn follow_drain(&mut self, observed: &Observation) {
        let instance = &self.instance;
        if observed.draining.contains(&instance.me())
            && !instance.drained.swap(true, Ordering::AcqRel)
        {
            instance.counters.instance_draining.store(1, Ordering::Relaxed);
            tracing::info!("drained by somebody: giving up every shard and partition");
        }
        if !instance.is_drained() || self.has_left_group {
            return;
        }
        let Some(intake) = instance.intake().cloned() else { return };
        self.has_left_group = true;
        let instance = instance.clone();
        drop(tokio::spawn(async move {
            if let Err(error) = intake.shutdown(LEAVE_PATIENCE).await {
                tracing::warn!(%error, "the intake did not stop in time: it is left to itself");
            }
            instance.health.clear(KAFKA);
        }));
    }
}
