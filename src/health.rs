//! What is wrong with this instance just now: one list, to which every component reports.
//!
//! An instance is *ready* while it can accept calls and fire jobs. Whatever else is wrong, a
//! broker that does not answer for example, makes it *degraded*. A problem is logged when it
//! begins, when its kind changes and when it ends; a sentence that only changes its words is
//! shown and not logged again.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use crate::model::clock::{Clock, SystemClock};

/// What is wrong, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum ProblemKind {
    /// The database does not answer, or cannot do what it is asked just now.
    DatabaseUnavailable,
    /// The database answers and does not write.
    DatabaseReadOnly,
    /// Tables, rights or settings of the database are not what they must be.
    DatabaseUnusable,
    /// The lease is not valid: nothing is fired or written.
    LeaseInvalid,
    /// The instance's clock differs too much from the database's.
    ClockSkew,
    /// The consumer has not been given its partitions yet.
    JoiningGroup,
    /// No broker answers.
    BrokerUnreachable,
    /// The broker does not accept our credentials or certificates.
    BrokerDenied,
    /// The group does not accept this consumer, or has excluded it.
    GroupRefused,
    /// A topic is missing, or we may not read or write it.
    TopicUnavailable,
    /// Records of a partition cannot be fetched.
    FetchFailed,
    /// Records are held back by a transaction that its producer has not ended.
    TransactionOpen,
    /// A partition is not read for a reason that may pass.
    PartitionWaiting,
    /// A partition is not read until somebody acts.
    PartitionStopped,
    /// Dead letters or verdicts are not published.
    NotPublished,
    /// Outcomes of attempts are not written.
    OutcomesNotWritten,
    /// Parked records cannot be tried again.
    ParkedNotTried,
    /// Jobs of an app are due and no instance has the app.
    AppWithoutInstance,
    /// What an app's jobs are sent to cannot accept them.
    TargetUnavailable,
    /// Other instances read local times by other rules.
    TimeZonesDiffer,
    /// Commands to shards of this instance are of a kind that its version does not know.
    UnknownCommands,
    /// A setting does not do what it should.
    Setting,
}

impl ProblemKind {
    /// Whether calls cannot be accepted, or jobs not be fired, because of it.
    pub fn blocks(self) -> bool {
        matches!(
            self,
            Self::DatabaseUnavailable
                | Self::DatabaseReadOnly
                | Self::DatabaseUnusable
                | Self::LeaseInvalid
                | Self::ClockSkew
        )
    }
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Problem {
    /// What kind of problem it is.
    pub kind: ProblemKind,
    /// What it is about, for example `database` or `partition jobs/3`.
    pub subject: String,
    /// What is wrong and the way out, as a sentence.
    pub message: String,
    /// When it began, RFC 3339.
    pub since: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.message)
    }
}

/// Whether an instance can accept calls and fire jobs, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct HealthReport {
    /// Whether calls are accepted and jobs fired.
    pub ready: bool,
    /// Why not, as sentences; empty when it is ready.
    pub reasons: Vec<String>,
    /// What else is wrong.
    pub degraded: Vec<Problem>,
}

impl HealthReport {
    /// One that is not ready for this reason alone.
    pub fn not_ready(reason: impl Into<String>) -> Self {
        Self { ready: false, reasons: vec![reason.into()], degraded: Vec::new() }
    }

    /// Every problem as a sentence, those that block first; none when all is well.
    pub fn sentences(&self) -> Vec<String> {
        let degraded = self.degraded.iter().map(Problem::to_string);
        self.reasons.iter().cloned().chain(degraded).collect()
    }
}

/// The problems of one instance; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Health {
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By subject: one thing has one problem at a time.
    problems: Mutex<BTreeMap<String, Reported>>,
    started: AtomicBool,
}

#[derive(Clone, Debug)]
struct Reported {
    kind: ProblemKind,
    message: String,
    since: DateTime<Utc>,
}

impl Health {
    /// Reports that something is wrong with `subject`; it stays so until it is
    /// [cleared](Self::clear) or reported otherwise.
    pub fn report(&self, subject: &str, kind: ProblemKind, message: impl Into<String>) {
        let message = message.into();
        let mut problems = self.problems();
        let before = problems.get(subject);
        match before.is_none_or(|before| before.kind != kind) {
            // Every start comes through this, and as a rule it is over in a moment.
            true if kind == ProblemKind::JoiningGroup => {
                tracing::info!(subject, ?kind, "{subject}: {message}");
            }
            true => tracing::warn!(subject, ?kind, "{subject}: {message}"),
            false => {}
        }
        let since = before.map_or_else(|| SystemClock.now(), |before| before.since);
        problems.insert(subject.to_owned(), Reported { kind, message, since });
    }

    /// Nothing is wrong with `subject` any more.
    pub fn clear(&self, subject: &str) {
        if let Some(ended) = self.problems().remove(subject) {
            let seconds = (SystemClock.now() - ended.since).num_seconds().max(0);
            tracing::info!(
                subject,
                kind = ?ended.kind,
                seconds,
                "{subject}: works again after {seconds} s"
            );
        }
    }

    /// Everything has been brought up, or is being shut down.
    pub fn set_started(&self, started: bool) {
        self.state.started.store(started, Ordering::Release);
    }

    /// How it is just now.
    pub fn read(&self) -> HealthReport {
        let shown = |(subject, reported): (&String, &Reported)| Problem {
            kind: reported.kind,
            subject: subject.clone(),
            message: reported.message.clone(),
            since: reported.since.to_rfc3339_opts(SecondsFormat::Millis, true),
        };
        let all: Vec<Problem> = self.problems().iter().map(shown).collect();
        let (blocking, degraded): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|problem| problem.kind.blocks());
        let mut reasons: Vec<String> = blocking.iter().map(Problem::to_string).collect();
        if !self.state.started.load(Ordering::Acquire) {
            reasons.push("starting, or shutting down".into());
        }
        HealthReport { ready: reasons.is_empty(), reasons, degraded }
    }

    /// How many problems of each kind there are, for metrics.
    pub fn counts(&self) -> BTreeMap<ProblemKind, u64> {
        let mut counts = BTreeMap::new();
        for reported in self.problems().values() {
            *counts.entry(reported.kind).or_default() += 1;
        }
        counts
    }

    fn problems(&self) -> MutexGuard<'_, BTreeMap<String, Reported>> {
        self.state.problems.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_keeps_from_accepting_and_firing_makes_it_not_ready() {
        let health = Health::default();
        assert!(!health.read().ready, "before the start");
        health.set_started(true);
        assert!(health.read().ready);
        health.report("kafka", ProblemKind::BrokerUnreachable, "no broker answers");
        assert!(health.read().ready);
        assert_eq!(health.read().sentences(), ["kafka: no broker answers"]);
        health.report("database", ProblemKind::DatabaseUnavailable, "no answer");
        let report = health.read();
        assert!(!report.ready);
        assert_eq!(report.reasons, ["database: no answer"]);
        assert_eq!(report.degraded.len(), 1);
        health.clear("database");
        health.clear("kafka");
        assert!(health.read().ready && health.read().sentences().is_empty());
    }

    #[test]
    fn a_problem_whose_words_change_is_still_the_same_one() {
        let health = Health::default();
        health.report("database", ProblemKind::DatabaseUnavailable, "refused");
        let began = health.problems()["database"].since;
        health.report("database", ProblemKind::DatabaseUnavailable, "no answer");
        health.report("database", ProblemKind::DatabaseReadOnly, "reads only");
        assert_eq!(health.problems()["database"].since, began);
        assert_eq!(health.counts(), BTreeMap::from([(ProblemKind::DatabaseReadOnly, 1)]));
    }
}
