//! Finding the row that the database refuses for its content, by halving.

use std::sync::Arc;

use super::batch::{Admitted, Advance, Batch, Course, Entry, Fate};
use crate::model::letter::ErrorKind;
use crate::store::{Error, Result, Store};

impl Store {
    /// Admits the first half, then the second, each by [`Store::admit`]; a single entry that
    /// is refused for `cause` is buried.
    pub(super) async fn admit_halves(&self, batch: &Batch, cause: String) -> Result<Admitted> {
        if batch.entries.len() <= 1 {
            return self.bury_refused(batch, cause).await;
        }
        let Some([first, second]) = batch.halves() else { return Err(Error::Refused(cause)) };
        let mut fates = match self.admit(&Arc::new(first)).await? {
            Admitted::Done(fates) => fates,
            other => return Ok(other),
        };
        match self.admit(&Arc::new(second)).await? {
            Admitted::Done(rest) => fates.extend(rest),
            // The first half stands; the row tells the reader where to go on.
            _ => return Ok(Admitted::Fenced),
        }
        Ok(Admitted::Done(fates))
    }

    async fn bury_refused(&self, batch: &Batch, cause: String) -> Result<Admitted> {
        let [Entry::Job(candidate)] = &batch.entries[..] else {
            return Err(Error::Unavailable(format!(
                "the database refuses even the dead letter of this record, which holds up its \
                 partition: {cause}; mend the database's limit, or pass the record by \
                 `infinite-scheduler ingest seek`"
            )));
        };
        let refusal = candidate.refusal(
            ErrorKind::RefusedByDatabase,
            format!("the database refuses this request: {cause}"),
        );
        let Some(letter) = candidate.letter(refusal.clone(), batch.now_ms) else {
            return Err(Error::Refused(cause));
        };
        let entries = vec![Entry::Letter(Box::new(letter))];
        let buried = Arc::new(Batch { entries, fences: Vec::new(), ..batch.clone() });
        match self.admit_whole(&buried).await? {
            Admitted::Done(_) => Ok(Admitted::Done(vec![Fate::Dead(refusal)])),
            other => Ok(other),
        }
    }
}

impl Batch {
    /// The same in two parts that can be admitted one after the other; `None` if it has no
    /// records.
    fn halves(&self) -> Option<[Self; 2]> {
        let middle = self.entries.len() / 2;
        let (first, second) = self.entries.split_at(middle);
        let courses = match &self.course {
            Course::Records(advance) => {
                let next = second.first()?.offset().unwrap_or(advance.expected);
                let before = Advance { next, last: None, ..*advance };
                let after = Advance { expected: next, ..*advance };
                [Course::Records(before), Course::Records(after)]
            }
            Course::Parked { ledger, rows } => {
                let (before, after) = rows.split_at_checked(middle)?;
                [before, after].map(|rows| Course::Parked { ledger: *ledger, rows: rows.to_vec() })
            }
            Course::Replay { .. } | Course::Call { .. } => return None,
        };
        let [before, after] = courses;
        let half =
            |entries: &[Entry], course| Self { course, entries: entries.to_vec(), ..self.clone() };
        Some([half(first, before), half(second, after)])
    }
}
