//! Writes batches of outcomes until each of them is known to be written.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::super::in_flight::Attempt;
use super::super::instance::Instance;
use super::ends::verdicts;
use crate::health::ProblemKind;
use crate::model::ids::ShardId;
use crate::recovery::Backoff;
use crate::store::{Ended, KeptAttempt, Outcome, OutcomeBatch, ShardFence, Written};

/// The largest number of outcomes in one batch, and about the largest size of their dead letters
/// and their history.
const BATCH: usize = 2000;
const BATCH_BYTES: usize = 8 << 20;
/// The wait before the lease is checked again.
pub(super) const LEASE_AGAIN: Duration = Duration::from_millis(200);

/// Takes the next outcomes to write. Of each shard they have the same epoch, since a batch reports
/// lost shards and not lost epochs.
pub(super) fn next_batch<T>(
    waiting: &mut Vec<T>,
    fence_of: impl Fn(&T) -> ShardFence,
    size_of: impl Fn(&T) -> usize,
) -> Vec<T> {
    let mut bytes = 0;
    let fits = |one: &&T| {
        bytes += size_of(one);
        bytes <= BATCH_BYTES
    };
    let count = waiting.iter().take(BATCH).take_while(fits).count().max(1);
    let rest = waiting.split_off(waiting.len().min(count));
    let taken = std::mem::replace(waiting, rest);
    let mut fences: HashMap<ShardId, ShardFence> = HashMap::new();
    let (now, later): (Vec<_>, Vec<_>) = taken.into_iter().partition(|one| {
        let fence = fence_of(one);
        *fences.entry(fence.shard).or_insert(fence) == fence
    });
    waiting.extend(later);
    now
}

pub(super) fn batch_of(instance: &Instance, attempts: &[(Attempt, Outcome)]) -> OutcomeBatch {
    let fences: BTreeSet<ShardFence> = attempts.iter().map(|(attempt, _)| attempt.fence).collect();
    let ended = |(attempt, outcome): &(Attempt, Outcome)| Ended {
        job: attempt.job.clone(),
        outcome: outcome.clone(),
        verdicts: match instance.publishes_verdicts() {
            true => verdicts(attempt, outcome, instance.clock.now_ms()),
            false => Vec::new(),
        },
        kept: kept_of(instance, attempt, outcome),
    };
    let outcomes = attempts.iter().map(ended);
    OutcomeBatch { fences: fences.into_iter().collect(), outcomes: outcomes.collect() }
}

/// What the history keeps of an attempt. One that was snoozed does not count.
fn kept_of(instance: &Instance, attempt: &Attempt, outcome: &Outcome) -> Option<KeptAttempt> {
    let has_started = match outcome {
        Outcome::Succeeded if attempt.app.config.history.is_zero() => return None,
        Outcome::Retry { error: None, .. } => return None,
        Outcome::Succeeded | Outcome::Retry { .. } => true,
        Outcome::Buried(letter) => letter.attempts > attempt.job.attempts,
        Outcome::Cancelled(stone) => stone.fired,
    };
    Some(KeptAttempt {
        app: attempt.app.id,
        started_ms: has_started.then_some(attempt.fired_ms),
        ended_ms: attempt.ended_ms,
        instance: instance.settings.instance.as_str().into(),
    })
}

/// The bytes that writing an outcome takes besides the row that it deletes.
pub(super) fn size_of((attempt, outcome): &(Attempt, Outcome)) -> usize {
    let keeps_data = match outcome {
        Outcome::Succeeded => !attempt.app.config.history.is_zero(),
        Outcome::Buried(_) | Outcome::Cancelled(_) => true,
        Outcome::Retry { .. } => false,
    };
    outcome.size() + if keeps_data { attempt.job.data.as_str().len() } else { 0 }
}

/// Writes a batch until its commit is confirmed. If an answer is lost, the batch is written again,
/// which has no further effect; the second answer also shows that the first transaction has ended.
/// Without a valid lease nothing is written.
pub(super) async fn write_until_answered(
    instance: &Instance,
    batch: &Arc<OutcomeBatch>,
) -> Written {
    let mut written = Written::default();
    let mut parts = vec![batch.clone()];
    let (mut backoff, mut failed) = (Backoff::default(), 0);
    while let Some(part) = parts.pop() {
        // If another instance has taken the shards, it writes from now on. Otherwise the lease is
        // renewed, or, after this instance was declared dead, the fences show which shards are
        // lost.
        while !instance.lease.is_valid() {
            tokio::time::sleep(LEASE_AGAIN).await;
        }
        match instance.bounded(instance.store.write_outcomes(&part)).await {
            Ok(done) => {
                instance.health.clear("outcomes");
                let left = left_of(instance, &part, &done).await;
                written.lost.extend(done.lost);
                match left {
                    None => {
                        backoff.reset();
                        failed = 0;
                    }
                    Some(left) => {
                        let wait = backoff.failed(instance.database.recovery().recoveries());
                        instance.database.recovery().wait(wait).await;
                        parts.push(left);
                    }
                }
            }
            Err(error) => {
                let kind = Instance::problem(&error, ProblemKind::OutcomesNotWritten);
                instance.health.report("outcomes", kind, format!("cannot be written: {error}"));
                instance
                    .database
                    .recovery()
                    .wait(backoff.failed(instance.database.recovery().recoveries()))
                    .await;
                failed += 1;
                // A server that answers and rejects the batch may limit the size of a statement, or
                // reject one of the outcomes.
                let smaller = failed > 1 && instance.store.ping().await.is_ok();
                match part.halves().filter(|_| smaller) {
                    Some([first, second]) => parts.extend([Arc::new(second), Arc::new(first)]),
                    None => parts.push(part),
                }
            }
        }
    }
    written
}

/// The outcomes of a committed batch that have to be written again, if any.
async fn left_of(
    instance: &Instance,
    part: &Arc<OutcomeBatch>,
    done: &Written,
) -> Option<Arc<OutcomeBatch>> {
    if done.unmatched == 0 {
        return None;
    }
    instance.counters.add(&instance.counters.outcomes_unmatched, done.unmatched);
    let left = match instance.bounded(instance.store.outcomes_left(part, &done.lost)).await {
        Ok(left) => left.map(Arc::new),
        // Writing all of them again has no further effect.
        Err(_) => Some(part.clone()),
    };
    let again = left.as_ref().map_or(0, |left| left.outcomes.len());
    tracing::warn!(
        unmatched = done.unmatched,
        again,
        "{} outcomes did not find the rows of their jobs; {again} are written again, the others \
         are finished",
        done.unmatched,
    );
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{Epoch, InstanceId};

    fn fence(shard: i32, epoch: i64) -> ShardFence {
        ShardFence { shard: ShardId(shard), owner: InstanceId(1), epoch: Epoch(epoch) }
    }

    #[test]
    fn a_batch_has_one_epoch_of_each_shard() {
        let [old, new, other] = [fence(1, 1), fence(1, 2), fence(3, 7)];
        let mut waiting = vec![old, other, new, old, new];
        assert_eq!(next_batch(&mut waiting, |fence| *fence, |_| 0), [old, other, old]);
        assert_eq!(next_batch(&mut waiting, |fence| *fence, |_| 0), [new, new]);
        assert_eq!(waiting, []);
    }

    #[test]
    fn a_batch_is_no_larger_than_it_may_be() {
        let mut waiting: Vec<_> = (0..).take(BATCH + 1).collect();
        assert_eq!(next_batch(&mut waiting, |_| fence(1, 1), |_| 0).len(), BATCH);
        assert_eq!(waiting, [BATCH]);
    }

    #[test]
    fn the_letters_of_a_batch_are_bounded_and_one_alone_may_be_larger() {
        let mut waiting = vec![BATCH_BYTES / 2, BATCH_BYTES / 2, 1, BATCH_BYTES + 1, 1];
        let mut next = || next_batch(&mut waiting, |_| fence(1, 1), |size| *size);
        assert_eq!(next(), [BATCH_BYTES / 2, BATCH_BYTES / 2]);
        assert_eq!(next(), [1]);
        assert_eq!(next(), [BATCH_BYTES + 1]);
        assert_eq!(next(), [1]);
    }
}
