//! The current problems of this instance: one list, to which every component reports.
//!
//! An instance is *ready* while it can accept calls and fire jobs. Any other problem, for example
//! a broker that does not answer, makes it *degraded*. A problem is logged when it begins, when
//! its kind changes and when it ends; a changed sentence of the same kind is shown but not logged
//! again.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use crate::model::clock::{Clock, SystemClock};

/// What is wrong, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum ProblemKind {
    /// The database does not answer, or cannot execute statements at the moment.
    DatabaseUnavailable,
    /// The database answers, but refuses writes.
    DatabaseReadOnly,
    /// Tables, permissions or settings of the database are wrong.
    DatabaseUnusable,
    /// The lease is not valid: nothing is fired or written.
    LeaseInvalid,
    /// The instance's clock differs too much from the database's.
    ClockSkew,
    /// The consumer's partitions have not been assigned yet.
    JoiningGroup,
    /// No broker answers.
    BrokerUnreachable,
    /// The broker does not accept the credentials or certificates.
    BrokerDenied,
    /// The group does not accept this consumer, or has excluded it.
    GroupRefused,
    /// A topic is missing, or may not be read or written.
    TopicUnavailable,
    /// Records of a partition cannot be fetched.
    FetchFailed,
    /// Records are held back by a transaction that its producer has not ended.
    TransactionOpen,
    /// A partition is not read, for a transient reason.
    PartitionWaiting,
    /// A partition is not read until an operator acts.
    PartitionStopped,
    /// Dead letters or verdicts are not published.
    NotPublished,
    /// Outcomes of attempts are not written.
    OutcomesNotWritten,
    /// Parked records cannot be retried.
    ParkedNotTried,
    /// Jobs of an app are due, and no instance has the app.
    AppWithoutInstance,
    /// An app's dispatch target does not accept jobs.
    TargetUnavailable,
    /// Handlers of an app do not end at their time limit, so that none of its jobs starts.
    HandlersHang,
    /// Other instances use another time zone database.
    TimeZonesDiffer,
    /// Commands to shards of this instance are of a kind that its version does not know.
    UnknownCommands,
    /// A setting does not have its intended effect.
    Setting,
}

impl ProblemKind {
    /// Whether it prevents accepting calls or firing jobs.
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = HealthProblem)]
#[non_exhaustive]
pub struct Problem {
    /// What kind of problem it is.
    #[schema(value_type = String)]
    pub kind: ProblemKind,
    /// The subject, for example `database` or `partition jobs/3`.
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct HealthReport {
    /// Whether calls are accepted and jobs fired.
    pub ready: bool,
    /// Why not, as sentences; empty when it is ready.
    pub reasons: Vec<String>,
    /// All other problems.
    pub degraded: Vec<Problem>,
}

impl HealthReport {
    /// A report of an instance that is not ready, for this reason alone.
    pub fn not_ready(reason: impl Into<String>) -> Self {
        Self { ready: false, reasons: vec![reason.into()], degraded: Vec::new() }
    }

    /// Every problem as a sentence, blocking ones first; empty if there is none.
    pub fn sentences(&self) -> Vec<String> {
        let degraded = self.degraded.iter().map(Problem::to_string);
        self.reasons.iter().cloned().chain(degraded).collect()
    }
}

/// The problems of one instance; clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Health {
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By subject, which has one problem at a time.
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
    /// Reports a problem of `subject`; it remains until it is [cleared](Self::clear) or replaced
    /// by another report.
    pub(crate) fn report(&self, subject: &str, kind: ProblemKind, message: impl Into<String>) {
        let message = message.into();
        let mut problems = self.problems();
        let before = problems.get(subject);
        match before.is_none_or(|before| before.kind != kind) {
            // Every start passes through this state, usually within a moment.
            true if kind == ProblemKind::JoiningGroup => {
                tracing::info!(subject, ?kind, "{subject}: {message}");
            }
            true => tracing::warn!(subject, ?kind, "{subject}: {message}"),
            false => {}
        }
        let since = before.map_or_else(|| SystemClock.now(), |before| before.since);
        problems.insert(subject.to_owned(), Reported { kind, message, since });
    }

    /// Clears the problem of `subject`.
    pub(crate) fn clear(&self, subject: &str) {
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

    /// Sets whether startup is complete; false again at shutdown.
    pub(crate) fn set_started(&self, started: bool) {
        self.state.started.store(started, Ordering::Release);
    }

    /// The current report.
    pub(crate) fn read(&self) -> HealthReport {
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

    /// The first problem of this kind, as a sentence.
    pub(crate) fn first_of(&self, kind: ProblemKind) -> Option<String> {
        let problems = self.problems();
        let found = problems.iter().find(|(_, reported)| reported.kind == kind);
        found.map(|(subject, reported)| format!("{subject}: {}", reported.message))
    }

    /// The number of problems of each kind, for metrics.
    pub(crate) fn counts(&self) -> BTreeMap<ProblemKind, u64> {
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
