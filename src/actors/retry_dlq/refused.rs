//! The rows of the outbox that a topic refuses, with the reasons, and the choice of those that are
//! tried again.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// How many rows are tried again at a time: one in `PART`, and at least `LEAST`.
const PART: usize = 10;
const LEAST: usize = 20;

/// Rows that a topic refuses, in order.
#[derive(Debug, Default)]
pub(super) struct Refused {
    /// With the reasons.
    rows: BTreeMap<i64, String>,
    /// Rows that are being tried again, with the reasons of their refusal.
    trial: BTreeMap<i64, String>,
    /// The last row that was chosen; the next trial continues after it.
    last: i64,
}

impl Refused {
    /// The rows that are not being tried again.
    pub(super) fn rows(&self) -> Vec<i64> {
        self.rows.keys().copied().collect()
    }

    /// Chooses the rows to be tried again: the next ones in order, and one for each reason.
    pub(super) fn start_trial(&mut self) {
        let count = (self.rows.len() / PART).max(LEAST);
        let after_last = self.rows.range((Bound::Excluded(self.last), Bound::Unbounded));
        // Starts over at the first row after the last one. The set drops rows that are met twice.
        let in_turn = after_last.chain(self.rows.iter());
        let mut chosen: BTreeSet<i64> = in_turn.take(count).map(|(row, _)| *row).collect();
        if let Some(last) = chosen.last() {
            self.last = *last;
        }
        // The first row of each reason.
        let mut reasons = BTreeSet::new();
        chosen.extend(self.rows.iter().filter(|(_, why)| reasons.insert(*why)).map(|(row, _)| row));
        for row in chosen {
            if let Some(reason) = self.rows.remove(&row) {
                self.trial.insert(row, reason);
            }
        }
    }

    /// Ends a trial in which `refused` were refused again. If a row was accepted, and no other row
    /// with the same reason was refused again, all rows with that reason are removed; returns true
    /// if there were any, so that they are tried as well.
    ///
    /// If the round stopped early (`is_complete` is false), nothing is concluded from its trial.
    pub(super) fn finish_trial(&mut self, refused: &[(i64, String)], is_complete: bool) -> bool {
        let mut trial = std::mem::take(&mut self.trial);
        if !is_complete {
            self.rows.append(&mut trial);
        }
        for (row, reason) in refused {
            trial.remove(row);
            self.rows.insert(*row, reason.clone());
        }
        let before = self.rows.len();
        let accepted_reasons: BTreeSet<String> = trial.into_values().collect();
        let repeated_reasons: BTreeSet<&String> =
            refused.iter().map(|(_, reason)| reason).collect();
        self.rows.retain(|_, reason| {
            !accepted_reasons.contains(reason) || repeated_reasons.contains(reason)
        });
        self.rows.len() < before
    }

    /// The number of refused rows and the reasons, as a sentence.
    pub(super) fn sentence(&self, what: &str) -> Option<String> {
        let (count, reasons) = (self.rows.len(), self.rows.values().collect::<BTreeSet<_>>());
        let why = reasons.into_iter().map(String::as_str).collect::<Vec<_>>().join("; ");
        (count > 0).then(|| format!("{count} {what} stay in the database: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(rows: std::ops::Range<i64>, reason: &str) -> Vec<(i64, String)> {
        rows.map(|row| (row, reason.to_owned())).collect()
    }

    #[test]
    fn each_row_is_tried_again_in_its_turn() {
        let mut all = Refused::default();
        assert!(!all.finish_trial(&refused(0..50, "no key"), true));
        let mut tried = BTreeSet::new();
        for _ in 0..4 {
            let before: BTreeSet<i64> = all.rows().into_iter().collect();
            all.start_trial();
            let chosen: Vec<i64> =
                before.difference(&all.rows().into_iter().collect()).copied().collect();
            assert!((LEAST..=LEAST + 1).contains(&chosen.len()), "{chosen:?}");
            tried.extend(chosen.iter().copied());
            let again: Vec<_> = chosen.iter().map(|row| (*row, "no key".to_owned())).collect();
            assert!(!all.finish_trial(&again, true));
        }
        assert_eq!(tried, (0..50).collect());
    }

    #[test]
    fn a_row_of_each_reason_is_tried_and_decides_about_the_others_with_that_reason() {
        let mut all = Refused::default();
        all.finish_trial(&refused(0..1000, "no key"), true);
        all.finish_trial(&refused(1000..2000, "too large"), true);
        all.start_trial();
        assert!(!all.rows().contains(&0) && !all.rows().contains(&1000), "tried");
        assert!(!all.finish_trial(&[], false), "an outage shows nothing");
        assert_eq!(all.rows().len(), 2000);
        all.last = 0;
        all.start_trial();
        // Rows that were refused without a key are accepted now; the others are not.
        assert!(all.finish_trial(&refused(1000..1001, "too large"), true));
        assert_eq!(all.rows(), (1000..2000).collect::<Vec<_>>());
        let said = all.sentence("dead letters").unwrap();
        assert_eq!(said, "1000 dead letters stay in the database: too large");
    }

    #[test]
    fn when_nothing_is_refused_nothing_is_said() {
        let mut all = Refused::default();
        all.start_trial();
        assert!(!all.finish_trial(&[], true));
        assert_eq!(all.sentence("dead letters"), None);
    }
}
