//! The one loop of every admission: tried until it is known what became of it.
//!
//! An answer may be lost with its connection while the transaction commits. Until that is
//! known the schedulers' tickets stay out, and once the transaction has ended they read
//! what it may have brought; so a job that is due fires at once, whichever way it came.

use std::ops::ControlFlow;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::pending::entries_of;
use super::tickets::Tickets;
use super::{Admission, Pending};
use crate::store::{Admitted, Batch, BatchSource, Decision, Entry, Error as StoreError};

/// How often shards are chosen among ours before the owner is told to look instead.
const CHOICES: u32 = 3;
/// The wait before other shards are chosen.
const SHORT_WAIT: Duration = Duration::from_millis(50);

/// What is particular to one way in.
pub(crate) trait Policy: Send + Sync {
    /// How an admission may end, beside by its commit.
    type End: Send;

    /// What the batch changes beside its entries.
    fn source(&self, tries: &Tries) -> BatchSource;

    /// Whether the batch is read before it is written, since it is probably known already.
    fn reads_first(&self, tries: &Tries) -> bool;

    /// Ends the wait for a scheduler.
    fn leaving(&self) -> Option<&CancellationToken> {
        None
    }

    /// Waits until the next try may begin, or ends the admission. Without a valid lease jobs
    /// go into shards of other instances.
    fn before(
        &mut self,
        admission: &Admission,
        tries: &Tries,
    ) -> impl Future<Output = ControlFlow<Self::End>> + Send;

    /// A try had no answer but this error: what did it write, and is there another try?
    fn after(
        &mut self,
        admission: &Admission,
        error: StoreError,
        tries: &Tries,
    ) -> impl Future<Output = Lost<Self::End>> + Send;
}

/// The tries of one admission so far.
#[derive(Debug, Default)]
pub(crate) struct Tries {
    /// How many were made.
    pub(crate) made: u32,
    /// In how many of them the shards were not ours any more.
    pub(crate) moved: u32,
    /// Some had no answer, and may have committed.
    pub(crate) unanswered: bool,
}

/// What is known after a try without an answer.
#[derive(Debug)]
pub(crate) struct Lost<E> {
    /// What it wrote.
    pub(crate) written: Written,
    /// Whether it is tried again.
    pub(crate) next: ControlFlow<E>,
}

/// What a try without an answer wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// Nothing.
    Nothing,
    /// All of it, or some; its transaction has ended.
    Something,
    /// That is not known. The next try waits for its transaction.
    Unknown,
}

/// What became of an admission.
#[derive(Debug)]
pub(crate) enum Known<E> {
    /// It is committed; what was decided of each entry.
    Decided(Vec<Decision>),
    /// What it came from is not as it was read. A try of these without an answer may be the
    /// cause.
    Fenced(Tries),
    /// It ended as its policy says.
    Ended(E),
    /// Its policy's [`leaving`](Policy::leaving) was cancelled; nothing was written.
    Left,
}

impl Admission {
    /// Admits `pending`, all of it or nothing, until it is known what became of it.
    ///
    /// If it does not end by a commit, the entries are in `pending` again. Dropped then, the
    /// schedulers read the shards of tries whose end is not known after two leases.
    pub(crate) async fn admit_until_known<P: Policy>(
        &self,
        pending: &mut Pending,
        policy: &mut P,
    ) -> Known<P::End> {
        let never = CancellationToken::new();
        let mut tries = Tries::default();
        loop {
            if let ControlFlow::Break(end) = policy.before(self, &tries).await {
                return Known::Ended(end);
            }
            let own = tries.moved < CHOICES && self.shards.has_lease();
            let (source, reads_first) = (policy.source(&tries), policy.reads_first(&tries));
            let batch = pending.batch(self, source, own, reads_first);
            let leaving = policy.leaving().unwrap_or(&never);
            let Some(tickets) = Tickets::take(self, &batch, leaving).await else {
                pending.take_back(batch);
                return Known::Left;
            };
            let answer = self.database.bounded(self.database.store().admit(&batch)).await;
            tries.made += 1;
            match answer {
                Ok(Admitted::Done(decisions)) => {
                    // Names or rows of a transaction under way were waited for: it has ended.
                    std::mem::take(&mut pending.unanswered).read_again();
                    let decided = own_or_not(&batch, &decisions);
                    let known = decided.as_deref().unwrap_or(&decisions);
                    self.count(&batch, known);
                    self.announce_committed(&batch, known);
                    tickets.return_jobs(entries_of(batch), &decisions);
                    return Known::Decided(decided.unwrap_or(decisions));
                }
                Ok(Admitted::ShardsMoved) => {
                    tickets.return_nothing();
                    tries.moved += 1;
                    pending.take_back(batch);
                    tokio::time::sleep(SHORT_WAIT).await;
                }
                Ok(Admitted::Fenced) => {
                    // Part of a split batch may stand; and what decided it may be a try of
                    // ours, which has ended then.
                    tickets.read_again();
                    std::mem::take(&mut pending.unanswered).read_again();
                    pending.take_back(batch);
                    return Known::Fenced(tries);
                }
                Err(error) => {
                    pending.take_back(batch);
                    let Lost { written, next } = policy.after(self, error, &tries).await;
                    match written {
                        Written::Nothing => tickets.return_nothing(),
                        Written::Something => tickets.read_again(),
                        Written::Unknown => {
                            pending.unanswered.add(tickets);
                            tries.unanswered = true;
                        }
                    }
                    if let ControlFlow::Break(end) = next {
                        return Known::Ended(end);
                    }
                }
            }
        }
    }
}

/// A call is no duplicate of its own earlier try: the decisions with that set right, if a try
/// of it had no answer.
fn own_or_not(batch: &Batch, decisions: &[Decision]) -> Option<Vec<Decision>> {
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
