//! Parked records: validated and admitted again. The row of a parked record is deleted or updated in
//! the transaction that admits it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

use super::{Admission, Conclusion, LostAnswer, Pending, Tries, TryPolicy, Written};
use crate::model::ids::LedgerId;
use crate::recovery::Backoff;
use crate::store::{BatchSource, Error as StoreError, ParkedRecord, Result as StoreResult, Taken};

/// How many rows are read together; each may be as large as a record.
const SOME: u64 = 50;
/// How many times one record is tried while the database answers and rejects it, before later ones
/// are tried.
const MAX_FAILURES: u32 = 3;
/// The wait before the lease is checked again.
const SHORT_WAIT: Duration = Duration::from_millis(50);

/// Called with each error that delays parked records.
type OnError<'a> = &'a (dyn Fn(&StoreError) + Send + Sync);

impl Admission {
    /// Tries the parked records of these partitions that are due, and returns when the next one is.
    /// Each error meanwhile is passed to `on_error`.
    ///
    /// # Errors
    /// If rows cannot be read, or the database answers and rejects one of them.
    pub(crate) async fn try_parked(
        &self,
        ledgers: impl Fn() -> Vec<LedgerId> + Send,
        on_error: OnError<'_>,
    ) -> StoreResult<Option<i64>> {
        loop {
            let rows = self.database.store().parked(&ledgers(), SOME).await?;
            let now_ms = self.clock.now_ms();
            let next = rows.iter().map(|row| row.due_ms).find(|due_ms| *due_ms > now_ms);
            let mut due: BTreeMap<LedgerId, Vec<ParkedRecord>> = BTreeMap::new();
            for row in rows.into_iter().filter(|row| row.due_ms <= now_ms) {
                due.entry(row.ledger).or_default().push(row);
            }
            if due.is_empty() {
                return Ok(next);
            }
            // An app that was unknown may have been registered meanwhile.
            self.apps.forget_unknown();
            let mut failed = Ok(());
            for (ledger, mut records) in due {
                // All instances lock rows in the same order.
                records.sort_unstable_by_key(|record| record.id);
                failed = self.admit_parked(ledger, records, on_error).await.and(failed);
            }
            failed?;
        }
    }

    /// Admits these records together, or one by one if that fails.
    async fn admit_parked(
        &self,
        ledger: LedgerId,
        records: Vec<ParkedRecord>,
        on_error: OnError<'_>,
    ) -> StoreResult<()> {
        let rows: Vec<Taken> = records.iter().map(Taken::from).collect();
        let mut pending = self.judge_parked(ledger, records).await?;
        self.counters.add(&self.counters.retried, pending.len());
        let mut policy = ParkedTries::new(ledger, rows, on_error);
        match self.admit_until_known(&mut pending, &mut policy).await {
            Conclusion::Decided(_)
            | Conclusion::Fenced(_)
            | Conclusion::Waits(_)
            | Conclusion::Cancelled => return Ok(()),
            Conclusion::Ended(End::Failed(error)) => return Err(error),
            Conclusion::Ended(End::OneByOne) => {}
        }
        // The transaction with all of them has ended once a later one has locked each row.
        let together = std::mem::take(&mut pending.unanswered);
        let mut failed = Ok(());
        for row in policy.rows {
            let others = pending.split_off(1);
            let mut one = std::mem::replace(&mut pending, others);
            let mut policy = ParkedTries::new(ledger, vec![row], on_error);
            if let Conclusion::Ended(End::Failed(error)) =
                self.admit_until_known(&mut one, &mut policy).await
            {
                failed = Err(error);
            }
        }
        if failed.is_ok() {
            together.read_again();
        }
        failed
    }

    async fn judge_parked(
        &self,
        ledger: LedgerId,
        records: Vec<ParkedRecord>,
    ) -> StoreResult<Pending> {
        let mut judged = Vec::with_capacity(records.len());
        for record in records {
            let ParkedRecord { record, attempts, request_id, id, .. } = record;
            let name = |_: &_| request_id.unwrap_or_else(|| id.to_string());
            judged.push(self.judge_record(record, ledger, attempts, name).await?);
        }
        Ok(Pending::new(judged))
    }
}

/// The tries for parked records, whose rows are changed in the same transaction. A try that finds a
/// row changed knows that another transaction has decided it, which may be an earlier try whose
/// answer was lost.
struct ParkedTries<'a> {
    ledger: LedgerId,
    rows: Vec<Taken>,
    on_error: OnError<'a>,
    failed: u32,
    backoff: Backoff,
}

enum End {
    /// Each record has to be tried by itself.
    OneByOne,
    /// The database answers and rejects this record.
    Failed(StoreError),
}

impl<'a> ParkedTries<'a> {
    fn new(ledger: LedgerId, rows: Vec<Taken>, on_error: OnError<'a>) -> Self {
        Self { ledger, rows, on_error, failed: 0, backoff: Backoff::default() }
    }
}

impl TryPolicy for ParkedTries<'_> {
    type End = End;

    fn source(&self, _: &Tries) -> BatchSource {
        BatchSource::Parked { ledger: self.ledger, rows: self.rows.clone() }
    }

    fn reads_first(&self, _: &Tries) -> bool {
        true
    }

    async fn before_try(&mut self, admission: &Admission, tries: &Tries) -> ControlFlow<End> {
        while !admission.shards.has_lease() {
            if !tries.unanswered {
                let why = StoreError::Unavailable("the lease is not valid".into());
                return ControlFlow::Break(End::Failed(why));
            }
            tokio::time::sleep(SHORT_WAIT).await;
        }
        ControlFlow::Continue(())
    }

    async fn after_error(
        &mut self,
        admission: &Admission,
        error: StoreError,
        _: &Tries,
    ) -> LostAnswer<End> {
        (self.on_error)(&error);
        self.failed += 1;
        let database = &admission.database;
        // A record that fails does not keep later ones from being tried.
        let end = if self.rows.len() > 1 {
            Some(End::OneByOne)
        } else if self.failed >= MAX_FAILURES && database.store().ping().await.is_ok() {
            Some(End::Failed(error))
        } else {
            let recovery = database.recovery();
            recovery.wait(self.backoff.failed(recovery.recoveries())).await;
            None
        };
        let next = end.map_or(ControlFlow::Continue(()), ControlFlow::Break);
        LostAnswer { written: Written::Unknown, next }
    }
}

impl From<&ParkedRecord> for Taken {
    fn from(record: &ParkedRecord) -> Self {
        Self { id: record.id, attempts: record.attempts }
    }
}
