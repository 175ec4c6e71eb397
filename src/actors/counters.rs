//! Counters since the start, under their public names.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde::Serialize;

use super::lateness_figures::LatenessFigures;
use crate::admission::AdmissionCounters;
use crate::dispatch::TargetNotes;
use crate::health::ProblemKind;
use crate::kafka::TopicPartition;

/// Every counter of this instance.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(super) admission: Arc<AdmissionCounters>,
    pub(super) sent_to_dlq: AtomicU64,
    pub(super) verdicts_sent: AtomicU64,
    pub(super) letters_not_published: AtomicU64,
    pub(super) verdicts_not_published: AtomicU64,
    pub(super) fenced: AtomicU64,
    pub(super) fetch_errors: AtomicU64,
    pub(super) offsets_lost: AtomicU64,
    pub(super) logs_recreated: AtomicU64,
    pub(super) rescued: AtomicU64,
    pub(super) interrupted: AtomicU64,
    pub(super) without_instance: AtomicU64,
    pub(super) outcomes_unmatched: AtomicU64,
    pub(super) commands_unknown: AtomicU64,
    pub(super) ingest_paused: AtomicU64,
    pub(super) instance_draining: AtomicU64,
    pub(super) clock_skew_ms: AtomicI64,
    pub(super) idempotency_cache: AtomicU64,
    pub(super) idempotency_hits: AtomicU64,
    pub(super) lag: Mutex<BTreeMap<String, i64>>,
    /// Since when an open transaction has held each partition back, epoch milliseconds.
    pub(super) held: Mutex<BTreeMap<String, i64>>,
    pub(super) apps: Mutex<BTreeMap<String, Arc<AppFigures>>>,
}

/// Counters of one app on this instance.
#[derive(Debug, Default)]
pub(crate) struct AppFigures {
    scheduled: Arc<AtomicU64>,
    pub(super) fired: AtomicU64,
    pub(super) succeeded: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) retried: AtomicU64,
    pub(super) dead: AtomicU64,
    pub(super) cancelled: AtomicU64,
    pub(super) snoozed: AtomicU64,
    pub(super) hanging: AtomicU64,
    pub(super) not_sent: AtomicU64,
    pub(super) too_many: AtomicU64,
    pub(super) circuit_opened: AtomicU64,
    pub(super) circuit_open: AtomicU64,
    /// What its target counts.
    notes: OnceLock<Arc<TargetNotes>>,
    overdue_on_arrival: AtomicU64,
    paused: AtomicU64,
    pub(super) lateness: LatenessFigures,
}

/// The current values of the counters of the ingest and of each app.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct IngestMetrics {
    /// Records read from the ingest topics, and valid requests by API.
    pub messages_received: u64,
    /// Requests that became jobs.
    pub messages_processed: u64,
    /// Records that could not become jobs. An invalid request by API is answered with an error and
    /// not counted.
    pub messages_failed: u64,
    /// Dead letters that the broker has acknowledged on the DLQ topic.
    #[serde(rename = "messagesSentToDLQ")]
    pub messages_sent_to_dlq: u64,
    /// Idempotency keys in this instance's cache.
    pub idempotency_cache_size: u64,
    /// Idempotency keys of records that this cache, or the one in Redis, contained: their batches
    /// were read before they were written.
    pub idempotency_cache_hits: u64,
    /// Requests that repeated an earlier one.
    pub messages_duplicate: u64,
    /// Operations, and schedules that were decided by their versions.
    pub messages_operations: u64,
    /// Parked records that were tried again, and batches that were tried again because the database
    /// was unavailable.
    pub messages_retried: u64,
    /// Records that were parked because their failure may be temporary.
    pub messages_parked: u64,
    /// Verdicts that the broker has acknowledged on the events topic.
    pub verdicts_sent: u64,
    /// Dead letters whose first publication to the DLQ topic failed; they stay in the outbox and
    /// are sent again.
    pub letters_not_published: u64,
    /// Verdicts whose first publication to the events topic failed; they stay in the outbox and are
    /// sent again.
    pub verdicts_not_published: u64,
    /// Unknown fields in requests.
    pub unknown_fields: u64,
    /// Batches that were not written because another reader had claimed or moved the partition's
    /// ledger row.
    pub batches_fenced: u64,
    /// How many times a partition could not be read for a reason that is not temporary.
    pub fetch_errors: u64,
    /// Records that the log had removed before they were read.
    pub offsets_lost: u64,
    /// How many times a topic was found to have been deleted and recreated.
    pub logs_recreated: u64,
    /// Jobs that an audit found in the table and not in memory; expected to be zero.
    pub jobs_rescued: u64,
    /// Attempts that ended with their instance, as found by this one.
    pub jobs_interrupted: u64,
    /// Jobs that are due and whose app no running instance has, up to 10,001 per app.
    pub jobs_without_instance: u64,
    /// Outcomes whose statement did not find the job's row: an earlier answer was lost, or the
    /// servers of the database have different rows.
    pub outcomes_unmatched: u64,
    /// Commands in shards of this instance whose kind it does not know.
    pub commands_unknown: u64,
    /// 1 while the ingest of the consumer group is paused, else 0.
    pub ingest_paused: u64,
    /// 1 after an operator has drained this instance, else 0.
    pub instance_draining: u64,
    /// The database's clock minus the clock of this machine, in milliseconds.
    pub clock_skew_ms: i64,
    /// Records that are not read yet, by partition.
    pub consumer_lag: BTreeMap<String, i64>,
    /// Partitions that an open transaction holds back, and since when, epoch milliseconds.
    pub held_back_since_ms: BTreeMap<String, i64>,
    /// The counters of each app, by its name.
    pub apps: BTreeMap<String, AppMetrics>,
    /// Current problems of this instance, by kind.
    pub degraded: BTreeMap<ProblemKind, u64>,
}

/// Counters of one app on this instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct AppMetrics {
    /// Jobs admitted.
    pub scheduled: u64,
    /// Attempts started.
    pub fired: u64,
    /// Jobs that succeeded.
    pub succeeded: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Attempts that failed and will be repeated.
    pub retried: u64,
    /// Jobs that became dead letters.
    pub dead: u64,
    /// Jobs that were cancelled.
    pub cancelled: u64,
    /// Attempts at jobs that were overdue already when they were admitted, rescheduled or started
    /// by hand: their lateness counts from then.
    pub overdue_on_arrival: u64,
    /// Attempts whose handler has postponed the job; they do not count.
    pub snoozed: u64,
    /// Handlers that still run although the time of their attempts is over.
    pub attempts_hanging: u64,
    /// Starts of jobs that did not reach their target, or found it in a state in which it takes no
    /// job; no attempts.
    pub not_sent: u64,
    /// Starts of jobs that the target answered with 429 (too many requests); no attempts.
    pub too_many_requests: u64,
    /// Jobs whose trace headers were left out of a request, wholly or in part, since they are none
    /// or too long.
    pub trace_headers_left_out: u64,
    /// Jobs that were published to a channel of Redis without subscribers.
    pub published_to_nobody: u64,
    /// How many times failures have opened the circuit of the app's target.
    pub circuit_opened: u64,
    /// 1 while that circuit is open, else 0.
    pub circuit_open: u64,
    /// 1 while the app is paused here, else 0.
    pub paused: u64,
    /// The longest delay between a job's scheduled time and the start of its attempt, in
    /// milliseconds.
    pub lateness_max_ms: i64,
    /// The mean delay between the scheduled time and the start of an attempt, in milliseconds.
    pub lateness_mean_ms: i64,
    /// How many attempts started no later than so many milliseconds, by that number.
    pub lateness_up_to_ms: BTreeMap<i64, u64>,
    /// How many attempts started no later than the app's `objective_ms`, while it had one.
    pub objective_met: u64,
    /// How many started later.
    pub objective_missed: u64,
    /// The part of those that started within the last hour that met the objective, from 0 to 1;
    /// none if nothing started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objective_met_last_hour: Option<f64>,
}

impl Counters {
    pub(super) fn add(&self, counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Ordering::Relaxed);
    }

    pub(super) fn set_without_instance(&self, jobs: u64) {
        self.without_instance.store(jobs, Ordering::Relaxed);
    }

    pub(super) fn set_lag(&self, partition: &TopicPartition, lag: i64) {
        let mut all = self.lag.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(partition.to_string(), lag);
    }

    /// Sets since when a transaction has held the partition back, or `None` if none does.
    pub(super) fn set_held(&self, partition: &TopicPartition, since_ms: Option<i64>) {
        let mut all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match since_ms {
            Some(since_ms) => drop(all.insert(partition.to_string(), since_ms)),
            None => drop(all.remove(&partition.to_string())),
        }
    }

    pub(super) fn forget_lag(&self, partition: &TopicPartition) {
        let mut all = self.lag.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&partition.to_string());
    }

    pub(super) fn app(&self, name: &str) -> Arc<AppFigures> {
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            let scheduled = self.admission.scheduled(name);
            Arc::new(AppFigures { scheduled, ..AppFigures::default() })
        };
        apps.entry(name.to_owned()).or_insert_with(new).clone()
    }

    /// The current values.
    pub(crate) fn read(&self, now_ms: i64) -> IngestMetrics {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        // Jobs are also admitted for apps that are not registered on this instance.
        for app in self.admission.apps() {
            self.app(&app);
        }
        let admission = &self.admission;
        let apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        IngestMetrics {
            messages_received: get(&admission.received),
            messages_processed: get(&admission.processed),
            messages_failed: get(&admission.failed),
            messages_sent_to_dlq: get(&self.sent_to_dlq),
            idempotency_cache_size: get(&self.idempotency_cache),
            idempotency_cache_hits: get(&self.idempotency_hits),
            messages_duplicate: get(&admission.duplicate),
            messages_operations: get(&admission.operations),
            messages_retried: get(&admission.retried),
            messages_parked: get(&admission.parked),
            verdicts_sent: get(&self.verdicts_sent),
            letters_not_published: get(&self.letters_not_published),
            verdicts_not_published: get(&self.verdicts_not_published),
            unknown_fields: get(&admission.unknown_fields),
            batches_fenced: get(&self.fenced),
            fetch_errors: get(&self.fetch_errors),
            offsets_lost: get(&self.offsets_lost),
            logs_recreated: get(&self.logs_recreated),
            jobs_rescued: get(&self.rescued),
            jobs_interrupted: get(&self.interrupted),
            jobs_without_instance: get(&self.without_instance),
            outcomes_unmatched: get(&self.outcomes_unmatched),
            commands_unknown: get(&self.commands_unknown),
            ingest_paused: get(&self.ingest_paused),
            instance_draining: get(&self.instance_draining),
            clock_skew_ms: self.clock_skew_ms.load(Ordering::Relaxed),
            consumer_lag: self.lag.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            held_back_since_ms: self.held.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            apps: apps.iter().map(|(name, figures)| (name.clone(), figures.read(now_ms))).collect(),
            // Filled in by the handle, from the health report.
            degraded: BTreeMap::new(),
        }
    }
}

impl AppFigures {
    pub(super) fn set_paused(&self, is_paused: bool) {
        self.paused.store(is_paused.into(), Ordering::Relaxed);
    }

    pub(super) fn set_notes(&self, notes: Arc<TargetNotes>) {
        self.notes.get_or_init(|| notes);
    }

    pub(super) fn started(&self, lateness_ms: i64, was_overdue: bool) {
        self.fired.fetch_add(1, Ordering::Relaxed);
        if was_overdue {
            self.overdue_on_arrival.fetch_add(1, Ordering::Relaxed);
        }
        self.lateness.note(lateness_ms);
    }

    /// Reads how many have started by `boot_ms`, for the pace; to be called about each second.
    pub(super) fn note_pace(&self, boot_ms: i64) {
        self.lateness.note_pace(boot_ms, self.fired.load(Ordering::Relaxed));
    }

    /// The current values.
    pub(crate) fn read(&self, now_ms: i64) -> AppMetrics {
        AppMetrics {
            lateness_up_to_ms: self.lateness.up_to_ms(),
            objective_met_last_hour: self.lateness.objective_met_last_hour(now_ms),
            ..self.activity()
        }
    }

    /// The values that only activity changes: not those that follow from others or from the time.
    pub(super) fn activity(&self) -> AppMetrics {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let fired = get(&self.fired);
        let notes = self.notes.get();
        let lateness = &self.lateness;
        AppMetrics {
            scheduled: get(&self.scheduled),
            fired,
            succeeded: get(&self.succeeded),
            failed: get(&self.failed),
            retried: get(&self.retried),
            dead: get(&self.dead),
            cancelled: get(&self.cancelled),
            overdue_on_arrival: get(&self.overdue_on_arrival),
            snoozed: get(&self.snoozed),
            attempts_hanging: get(&self.hanging),
            not_sent: get(&self.not_sent),
            too_many_requests: get(&self.too_many),
            trace_headers_left_out: notes.map_or(0, |notes| notes.trace_left_out()),
            published_to_nobody: notes.map_or(0, |notes| notes.published_to_nobody()),
            circuit_opened: get(&self.circuit_opened),
            circuit_open: get(&self.circuit_open),
            paused: get(&self.paused),
            lateness_max_ms: lateness.max_ms(),
            lateness_mean_ms: lateness.mean_ms(fired),
            lateness_up_to_ms: BTreeMap::new(),
            objective_met: lateness.objective_met(),
            objective_missed: lateness.objective_missed(),
            objective_met_last_hour: None,
        }
    }
}
