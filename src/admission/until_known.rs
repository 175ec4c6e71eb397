//! The loop of every admission, which tries until the result is known.
//!
//! An answer may be lost with its connection while the transaction commits. Until the result is
//! known, the schedulers' tickets are not returned; once the transaction has ended, the schedulers
//! read what it may have written. So a job that is due fires at once, whatever its source.

use std::ops::ControlFlow;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::pending::entries_of;
use super::tickets::Tickets;
use super::{Admission, Pending};
use crate::store::{Admitted, Batch, BatchSource, Decision, Entry, Error as StoreError};

/// How many times shards of this instance are chosen before a job is left to the owner of its home
/// shard.
const MAX_CHOICES: u32 = 3;
/// The wait before other shards are chosen.
const SHORT_WAIT: Duration = Duration::from_millis(50);

/// How requests from one source are tried.
pub(crate) trait TryPolicy: Send + Sync {
    /// How an admission may end other than by a commit.
    type End: Send;

    /// The source of the batch, whose state is changed in the same transaction.
    fn source(&self, tries: &Tries) -> BatchSource;

    /// Whether the batch is read before it is written, because it is probably a duplicate.
    fn reads_first(&self, tries: &Tries) -> bool;

    /// Cancels the wait for a scheduler.
    fn leaving(&self) -> Option<&CancellationToken> {
        None
    }

    /// Waits until the next try may begin, or ends the admission. Without a valid lease jobs are
    /// put into shards of other instances.
    fn before_try(
        &mut self,
        admission: &Admission,
        tries: &Tries,
    ) -> impl Future<Output = ControlFlow<Self::End>> + Send;

    /// Handles a try that ended with this error: determines what it wrote, and whether there is
    /// another try.
    fn after_error(
        &mut self,
        admission: &Admission,
        error: StoreError,
        tries: &Tries,
    ) -> impl Future<Output = LostAnswer<Self::End>> + Send;
}

/// The tries of one admission so far.
#[derive(Debug, Default)]
pub(crate) struct Tries {
    /// How many were made.
    pub(crate) made: u32,
    /// In how many of them the chosen shards had been reassigned.
    pub(crate) reassigned: u32,
    /// At least one had no answer, and may have committed.
    pub(crate) unanswered: bool,
}

/// What is known after a try whose answer was lost.
#[derive(Debug)]
pub(crate) struct LostAnswer<E> {
    /// What it wrote.
    pub(crate) written: Written,
    /// Whether there is another try.
    pub(crate) next: ControlFlow<E>,
}

/// What a try without an answer wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// Nothing.
    Nothing,
    /// All of it or a part, and its transaction has ended.
    Something,
    /// Not known. The next try waits for its transaction.
    Unknown,
}

/// The result of an admission.
#[derive(Debug)]
pub(crate) enum Conclusion<E> {
    /// It is committed, with this decision on each entry.
    Decided(Vec<Decision>),
    /// Its source has changed since it was read, possibly by one of these tries, if an answer was
    /// lost.
    Fenced(Tries),
    /// It ended as its policy decided.
    Ended(E),
    /// Nothing was written, since the entry at this place waits for a cancellation: the entries
    /// before it can be admitted alone.
    Waits(usize),
    /// Its policy's [`leaving`](TryPolicy::leaving) was cancelled, and nothing was written.
    Cancelled,
}

impl Admission {
    /// Admits `pending`, all of it or nothing, until the result is known.
    ///
    /// If it does not end by a commit, `pending` contains the entries again. If that is dropped,
    /// the schedulers read the shards of unanswered tries after two leases.
    pub(crate) async fn admit_until_known<P: TryPolicy>(
        &self,
        pending: &mut Pending,
        policy: &mut P,
    ) -> Conclusion<P::End> {
        let never = CancellationToken::new();
        let mut tries = Tries::default();
        loop {
            if let ControlFlow::Break(end) = policy.before_try(self, &tries).await {
                return Conclusion::Ended(end);
            }
            let own = tries.reassigned < MAX_CHOICES && self.shards.has_lease();
            let (source, reads_first) = (policy.source(&tries), policy.reads_first(&tries));
            let batch = pending.batch(self, source, own, reads_first);
            let leaving = policy.leaving().unwrap_or(&never);
            let Some(tickets) = Tickets::take(self, &batch, leaving).await else {
                pending.restore(batch);
                return Conclusion::Cancelled;
            };
            let answer = self.database.bounded(self.database.store().admit(&batch)).await;
            tries.made += 1;
            match answer {
                Ok(Admitted::Done(decisions)) => {
                    // The unanswered tries have ended: this one waited for the ids or rows of their
                    // transactions.
                    std::mem::take(&mut pending.unanswered).read_again();
                    let decided = without_own_duplicate(&batch, &decisions);
                    let known = decided.as_deref().unwrap_or(&decisions);
                    self.count(&batch, known);
                    self.announce_committed(&batch, known);
                    self.cancelling.note(known);
                    tickets.return_jobs(entries_of(batch), &decisions);
                    return Conclusion::Decided(decided.unwrap_or(decisions));
                }
                Ok(Admitted::Waits(at)) => {
                    tickets.return_nothing();
                    pending.restore(batch);
                    return Conclusion::Waits(at);
                }
                Ok(Admitted::ShardsMoved) => {
                    tickets.return_nothing();
                    tries.reassigned += 1;
                    pending.restore(batch);
                    tokio::time::sleep(SHORT_WAIT).await;
                }
                Ok(Admitted::Fenced) => {
                    // Part of a split batch may be committed. If an unanswered try of ours has
                    // changed the source, its transaction has ended.
                    tickets.read_again();
                    std::mem::take(&mut pending.unanswered).read_again();
                    pending.restore(batch);
                    return Conclusion::Fenced(tries);
                }
                Err(error) => {
                    pending.restore(batch);
                    let LostAnswer { written, next } =
                        policy.after_error(self, error, &tries).await;
                    match written {
                        Written::Nothing => tickets.return_nothing(),
                        Written::Something => tickets.read_again(),
                        Written::Unknown => {
                            pending.unanswered.add(tickets);
                            tries.unanswered = true;
                        }
                    }
                    if let ControlFlow::Break(end) = next {
                        return Conclusion::Ended(end);
                    }
                }
            }
        }
    }
}

/// A call is no duplicate of its own earlier try. Returns the corrected decisions if an earlier try
/// had no answer.
fn without_own_duplicate(batch: &Batch, decisions: &[Decision]) -> Option<Vec<Decision>> {
    let BatchSource::Call { again: true } = batch.source else { return None };
    let is_own = |entry: &Entry, decision: &Decision| match (entry, decision) {
        (Entry::Job(candidate), Decision::Duplicate { of, job, .. }) => {
            *of == candidate.job.request_id && *job == candidate.job.id
        }
        _ => false,
    };
    let own = |(entry, decision): (&Entry, &Decision)| match is_own(entry, decision) {
        true => Decision::Accepted,
        false => decision.clone(),
    };
    Some(batch.entries.iter().zip(decisions).map(own).collect())
}
