//! Finds the row that the database refuses because of its content, by bisection, and distinguishes
//! that from a database that refuses every row.

use std::sync::Arc;

use super::batch::{Admitted, Advance, Batch, BatchSource, Decision, Entry, PlacedCandidate};
use crate::model::ids::{JobId, KeyId};
use crate::model::job::{Job, JobData};
use crate::model::letter::ErrorKind;
use crate::store::{Error, IdempotencyKey, Result, Store};

impl Store {
    /// Admits the first half, then the second, each by [`Store::admit`]. A single entry, which was
    /// refused because of `cause`, becomes a dead letter.
    pub(super) async fn admit_halves(&self, batch: &Batch, cause: String) -> Result<Admitted> {
        if batch.entries.len() <= 1 {
            return self.admit_as_letter(batch, cause).await;
        }
        let Some([first, second]) = batch.halves() else { return Err(Error::Refused(cause)) };
        let mut decisions = match self.admit(&Arc::new(first)).await? {
            Admitted::Done(decisions) => decisions,
            other => return Ok(other),
        };
        match self.admit(&Arc::new(second)).await? {
            Admitted::Done(rest) => decisions.extend(rest),
            // The first half is committed; the caller reads the new position from the row.
            _ => return Ok(Admitted::Fenced),
        }
        Ok(Admitted::Done(decisions))
    }

    /// Admits a batch whose error does not show whether a row or the database is at fault. A row is
    /// at fault if the database accepts a probe, then refuses the row again, then accepts the probe.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the database refuses every row.
    pub(super) async fn admit_unclear(&self, batch: &Batch, cause: String) -> Result<Admitted> {
        let Some(other) = batch.probe() else { return Err(Error::Unavailable(cause)) };
        if self.insert_and_roll_back(&other).await.is_err() {
            return Err(Error::Unavailable(cause));
        }
        let mut cause = cause;
        if batch.entries.len() == 1 {
            match self.admit_whole(&Arc::new(batch.clone())).await {
                Err(Error::Unclear(again)) if self.insert_and_roll_back(&other).await.is_ok() => {
                    cause = again;
                }
                Err(Error::Unclear(why)) => return Err(Error::Unavailable(why)),
                Err(Error::Refused(why)) => cause = why,
                result => return result,
            }
        }
        match batch.source.ledger() {
            Some(_) => self.admit_halves(batch, cause).await,
            None => Err(Error::Refused(cause)),
        }
    }

    /// Admits a dead letter in place of a single entry that was refused.
    async fn admit_as_letter(&self, batch: &Batch, cause: String) -> Result<Admitted> {
        let message = format!("the database refuses this request: {cause}");
        let (refusal, letter) = match &batch.entries[..] {
            [Entry::Job(candidate)] => {
                let refusal = candidate.refusal(ErrorKind::RefusedByDatabase, message);
                (refusal.clone(), candidate.letter(refusal, batch.now_ms))
            }
            [Entry::Operation(operation)] => {
                let refusal = operation.refusal(ErrorKind::RefusedByDatabase, message);
                (refusal.clone(), operation.letter(refusal, batch.now_ms))
            }
            _ => {
                return Err(Error::Unavailable(format!(
                    "the database refuses even the dead letter of this record, which blocks its \
                 partition: {cause}; raise the database's limit, or skip the record by \
                 `infinite-scheduler ingest seek`"
                )));
            }
        };
        let Some(letter) = letter else { return Err(Error::Refused(cause)) };
        let entries = vec![Entry::Letter(Box::new(letter))];
        let buried = Arc::new(Batch { entries, fences: Vec::new(), ..batch.clone() });
        match self.admit_whole(&buried).await? {
            Admitted::Done(_) => Ok(Admitted::Done(vec![Decision::Dead(refusal)])),
            other => Ok(other),
        }
    }
}

impl Batch {
    /// A batch with one job in the same shard whose content cannot be refused, and with a key if any
    /// entry has one. `None` if the batch has no job.
    fn probe(&self) -> Option<Self> {
        let mut candidates = self.entries.iter().filter_map(|entry| match entry {
            Entry::Job(candidate) => Some(candidate),
            Entry::Operation(_) | Entry::Letter(_) | Entry::Wait(_) => None,
        });
        let first = candidates.clone().next()?;
        let name = uuid::Uuid::new_v4().to_string();
        let key = candidates.find_map(|candidate| candidate.key.as_ref()).map(|key| {
            IdempotencyKey { id: KeyId::derive("", &name), name: name.clone(), ..key.clone() }
        });
        let job = Job {
            id: JobId::derive("", &name),
            request_id: name,
            data: JobData::default(),
            max_attempts: None,
            timeout_ms: None,
            expires_ms: None,
            flexible_ms: None,
            concurrency_key: None,
            trace: None,
            letter: None,
            ..first.job.clone()
        };
        let candidate = PlacedCandidate { job, key, ..(**first).clone() };
        let source = BatchSource::Call { again: false };
        Some(Self { source, entries: vec![Entry::Job(Box::new(candidate))], ..self.clone() })
    }

    /// Splits the batch into two that can be admitted one after the other; `None` if it does not come
    /// from records.
    fn halves(&self) -> Option<[Self; 2]> {
        let middle = self.entries.len() / 2;
        let (first, second) = self.entries.split_at(middle);
        let sources = match &self.source {
            BatchSource::Records(advance) => {
                let next = second.first()?.offset().unwrap_or(advance.expected);
                let before = Advance { next, last: None, ..*advance };
                let after = Advance { expected: next, ..*advance };
                [BatchSource::Records(before), BatchSource::Records(after)]
            }
            BatchSource::Parked { ledger, rows } => {
                let (before, after) = rows.split_at_checked(middle)?;
                [before, after]
                    .map(|rows| BatchSource::Parked { ledger: *ledger, rows: rows.to_vec() })
            }
            BatchSource::Replay { .. } | BatchSource::Call { .. } => return None,
        };
        let [before, after] = sources;
        let half =
            |entries: &[Entry], source| Self { source, entries: entries.to_vec(), ..self.clone() };
        Some([half(first, before), half(second, after)])
    }
}
