//! The summary at the end: how many records became what, and how late jobs started.

use std::fmt;
use std::time::Duration;

use super::super::timing::Spread;
use crate::service::IngestMetrics;

/// The figures at the end.
#[derive(Debug, Default)]
pub(super) struct Summary {
    pub(super) took: Duration,
    /// Whether a signal ended it early.
    pub(super) stopped: bool,
    sent: u64,
    jobs: u64,
    duplicates: u64,
    dead_letters: u64,
    published: u64,
    done: u64,
    spread: Spread,
}

impl Summary {
    pub(super) fn new(sent: u64, metrics: &IngestMetrics, spread: Spread) -> Self {
        Self {
            took: Duration::ZERO,
            stopped: false,
            sent,
            jobs: metrics.messages_processed,
            duplicates: metrics.messages_duplicate,
            dead_letters: metrics.messages_failed,
            published: metrics.messages_sent_to_dlq,
            done: metrics.apps.values().map(|app| app.succeeded).sum(),
            spread,
        }
    }

    /// Whether every record became one job, one duplicate or one dead letter, and every job
    /// fired once and none early.
    pub(super) fn adds_up(&self) -> bool {
        self.sent == self.jobs + self.duplicates + self.dead_letters
            && self.published == self.dead_letters
            && self.jobs == self.done
            && self.jobs == self.spread.jobs as u64
            && self.spread.early == 0
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Spread { jobs: fired, p50_ms, p99_ms, max_ms, early } = self.spread;
        writeln!(f, "\nIn {:.1} s", self.took.as_secs_f64())?;
        writeln!(f, "  {:6} records were sent by three microservices", self.sent)?;
        writeln!(f, "  {:6} became jobs", self.jobs)?;
        writeln!(f, "  {:6} were duplicates, and became no job", self.duplicates)?;
        writeln!(f, "  {:6} were not valid requests, and are dead letters", self.dead_letters)?;
        writeln!(f, "  {fired:6} jobs fired")?;
        let none = if early == 0 { "none" } else { "SOME" };
        writeln!(f, "  {early:6} of them early ({none})")?;
        writeln!(
            f,
            "  half were less than {p50_ms:.1} ms late, 99 % less than {p99_ms:.1} ms, the latest {max_ms:.1} ms"
        )?;
        f.write_str(match (self.adds_up(), self.stopped) {
            (true, _) => "Every record is accounted for, and every job fired once.",
            (false, true) => "It was stopped before everything was done.",
            (false, false) => {
                "The numbers do not add up: please report it, with the log of --verbose."
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_adds_up_only_if_nothing_is_missing_doubled_or_early() {
        let whole = || Summary {
            sent: 10,
            jobs: 7,
            duplicates: 2,
            dead_letters: 1,
            published: 1,
            done: 7,
            spread: Spread { jobs: 7, ..Spread::default() },
            ..Summary::default()
        };
        assert!(whole().adds_up());
        assert!(!Summary { sent: 11, ..whole() }.adds_up());
        assert!(!Summary { published: 0, ..whole() }.adds_up());
        assert!(!Summary { done: 6, ..whole() }.adds_up());
        for spread in [Spread { jobs: 8, ..whole().spread }, Spread { early: 1, ..whole().spread }]
        {
            assert!(!Summary { spread, ..whole() }.adds_up());
        }
    }
}
