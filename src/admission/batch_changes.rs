//! Changing several jobs of one shard by a bulk action: read, decided and written together until it
//! is known what was committed.

use std::collections::HashMap;
use std::sync::Arc;

use super::Database;
use super::changes::{
    AskedChange, ChangeReply, Decided, LONGEST_WAIT, RowNow, UNCLEAR, change_until_known,
    row_after, row_of,
};
use crate::model::change::ChangeResult;
use crate::model::clock::Clock;
use crate::model::ids::JobId;
use crate::recovery::Backoff;
use crate::store::{
    ChangeAnswer, ChangeRequest, Claim, Error as StoreError, JobWrite, JobWritten, JobsWrite,
    Result as StoreResult, StoredJob,
};

/// Changes of a bulk action that are asked for, and what holds for them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AskedBatch<'a> {
    /// The bulk action.
    pub(crate) bulk: i64,
    /// The changes, of different jobs, of which no attempt runs.
    pub(crate) requests: &'a [ChangeRequest],
    /// By what right the jobs are changed.
    pub(crate) claim: Claim,
    /// The app's name.
    pub(crate) app: &'a str,
    /// The attempts that the app allows.
    pub(crate) max_attempts: u32,
    /// For how long a cancelled job is remembered, milliseconds.
    pub(crate) window_ms: i64,
    /// Whether producers get verdicts.
    pub(crate) publishes_verdicts: bool,
}

/// Carries changes out, and answers each in their order. It does not end before it is known what
/// was committed.
///
/// What was committed without an answer is found to be changed when it is tried again: it was
/// counted with its commit, and is answered as one that is not as it was found.
pub(crate) async fn change_batch_until_known(
    database: &Database,
    clock: &dyn Clock,
    asked: AskedBatch<'_>,
) -> Vec<(ChangeReply, RowNow)> {
    let (mut backoff, mut unclear) = (Backoff::default(), 0);
    while unclear < UNCLEAR {
        match asked.try_once(database, clock.now_ms()).await {
            Ok(Some(done)) => return done,
            // A row is not what it was a moment before.
            Ok(None) => unclear += 1,
            // One of them is to blame.
            Err(StoreError::Refused(_) | StoreError::Unclear(_) | StoreError::Unusable(_)) => break,
            Err(error) => tracing::debug!(%error, "changes of a bulk action are tried again"),
        }
        let recovery = database.recovery();
        recovery.wait(backoff.failed(recovery.recoveries()).min(LONGEST_WAIT)).await;
    }
    let mut done = Vec::with_capacity(asked.requests.len());
    for request in asked.requests {
        done.push(change_until_known(database, clock, asked.of(request)).await);
    }
    done
}

impl AskedBatch<'_> {
    fn of<'a>(&'a self, request: &'a ChangeRequest) -> AskedChange<'a> {
        AskedChange {
            request,
            command: None,
            claim: self.claim,
            app: self.app,
            max_attempts: self.max_attempts,
            window_ms: self.window_ms,
            publishes_verdicts: self.publishes_verdicts,
            is_running: false,
        }
    }

    async fn try_once(
        &self,
        database: &Database,
        now_ms: i64,
    ) -> StoreResult<Option<Vec<(ChangeReply, RowNow)>>> {
        let store = database.store();
        let ids: Vec<JobId> = self.requests.iter().map(|request| request.job).collect();
        let stored = database.bounded(store.stored_jobs(&ids)).await?;
        let mut stored: HashMap<JobId, StoredJob> =
            stored.into_iter().map(|stored| (stored.job.id, stored)).collect();
        let (mut writes, mut done) = (Vec::new(), Vec::with_capacity(ids.len()));
        for request in self.requests {
            let asked = self.of(request);
            let stored = stored.remove(&request.job);
            let (answer, row) = match stored.as_ref().map(|stored| asked.decide(stored, now_ms)) {
                Some(Decided::Written(write, answer)) => {
                    let row = row_after(&write);
                    writes.push(JobWrite { bulk: None, ..*write });
                    (answer, row)
                }
                Some(Decided::Unchanged(answer)) => (answer, row_of(&stored)),
                None => (asked.already_fired(), row_of(&stored)),
            };
            done.push((ChangeReply::Answered(answer), row));
        }
        if writes.is_empty() {
            return Ok(Some(done));
        }
        let write = Arc::new(JobsWrite { bulk: self.bulk, writes });
        match database.bounded(store.change_jobs(&self.claim, &write)).await? {
            JobWritten::Done => Ok(Some(done)),
            JobWritten::NotOurs => {
                for (reply, row) in &mut done {
                    if is_change(reply) {
                        (*reply, *row) = (ChangeReply::NotOurs, RowNow::Unknown);
                    }
                }
                Ok(Some(done))
            }
            JobWritten::Changed | JobWritten::Withdrawn => Ok(None),
        }
    }
}

/// What became of a job of a bulk action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Treated {
    /// It was changed, and counted with that.
    Changed,
    /// It was as was asked.
    Done,
    /// It could not be changed.
    Failed,
    /// It is not as it was found.
    Skipped,
}

/// What the answer to its change says of a job; `None` if it is to be asked again.
pub(crate) fn treated(reply: &ChangeReply) -> Option<Treated> {
    let ChangeReply::Answered(answer) = reply else { return None };
    Some(match answer {
        ChangeAnswer::Answered(answer) if answer.changed => Treated::Changed,
        ChangeAnswer::Answered(answer) => match answer.result {
            // Another operation had done that.
            ChangeResult::Cancelled => Treated::Skipped,
            _ if answer.done => Treated::Done,
            ChangeResult::Running => Treated::Failed,
            _ => Treated::Skipped,
        },
        ChangeAnswer::Refused(_) | ChangeAnswer::Conflict(_) => Treated::Failed,
        ChangeAnswer::NotMatched(_) => Treated::Skipped,
    })
}

fn is_change(reply: &ChangeReply) -> bool {
    matches!(reply, ChangeReply::Answered(ChangeAnswer::Answered(answer)) if answer.changed)
}
