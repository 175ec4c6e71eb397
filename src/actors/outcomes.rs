//! What became of attempts: judged, written in batches, and only then told to the
//! scheduler of the app.
//!
//! Two lanes, split by shard, so that one commit is under way while the other gathers.
//! What ended and is not written stays in the in-flight table: a fresh actor begins there.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::prelude::*;

use super::directory::hint;
use super::in_flight::{Ended, Flight};
use super::instance::Instance;
use super::messages::*;
use crate::dispatch::{FiredJob, JobError};
use crate::health::ProblemKind;
use crate::model::ids::{AppId, ShardId};
use crate::model::job::Job;
use crate::model::letter::{DeadLetter, ErrorKind};
use crate::model::retry::{due_after, due_at};
use crate::model::verdict::{Event, Firing, Subject, Verdict, about_attempt};
use crate::recovery::Backoff;
use crate::store::{Ended as StoreEnded, Lane, Outcome, OutcomeBatch, ShardFence, Written};

/// Batches that are written at the same time.
const LANES: usize = 2;
/// Outcomes of one batch at most, and about the bytes of their dead letters.
const BATCH: usize = 2000;
const BATCH_BYTES: usize = 8 << 20;
/// Characters of an error that its job's row keeps.
const LONGEST_ERROR: usize = 4096;
/// The wait for a lease.
const LEASE_AGAIN: Duration = Duration::from_millis(200);

/// Judges and writes.
pub(super) struct Outcomes {
    instance: Arc<Instance>,
    lanes: [WriteLane; LANES],
    written: u64,
}

#[derive(Default)]
struct WriteLane {
    waiting: Vec<(Flight, Outcome)>,
    writing: bool,
}

impl Outcomes {
    pub(super) fn new(instance: Arc<Instance>) -> Self {
        Self { instance, lanes: Default::default(), written: 0 }
    }

    /// Takes what has ended, tells the schedulers that there is room, and writes.
    fn collect(&mut self, ctx: &mut Context<Self>) {
        let ended = self.instance.in_flight.collect();
        let mut not_started: HashMap<AppId, Vec<Arc<Job>>> = HashMap::new();
        let mut apps: BTreeSet<AppId> = BTreeSet::new();
        let mut judged = Vec::new();
        for mut flight in ended {
            let Some(how) = flight.ended.clone() else { continue };
            apps.insert(flight.app.id);
            let outcome = flight.judged.take().or_else(|| judge(&self.instance, &flight, &how));
            match outcome {
                Some(outcome) => {
                    if outcome != Outcome::Succeeded {
                        judged.push((flight.job.id, outcome.clone()));
                    }
                    let lane = flight.job.shard.0.unsigned_abs() as usize % LANES;
                    self.lanes[lane].waiting.push((flight, outcome));
                }
                None => not_started.entry(flight.app.id).or_default().push(flight.job),
            }
        }
        if !judged.is_empty() {
            self.instance.in_flight.keep(judged);
        }
        for (app, put_back) in not_started {
            self.instance.in_flight.settle(put_back.iter().map(|job| job.id));
            let settled = Settled { put_back, ..Settled::default() };
            hint(self.instance.directory.app(app), settled);
        }
        for app in apps {
            hint(self.instance.directory.app(app), Fire);
        }
        for lane in 0..LANES {
            self.write(lane, ctx);
        }
    }

    fn write(&mut self, lane: usize, ctx: &mut Context<Self>) {
        let WriteLane { waiting, writing } = &mut self.lanes[lane];
        if *writing || waiting.is_empty() {
            return;
        }
        *writing = true;
        let flights =
            next_batch(waiting, |(flight, _)| flight.fence, |(_, outcome)| outcome.size());
        let instance = self.instance.clone();
        let batch = Arc::new(batch_of(&instance, &flights));
        let done = tokio::spawn(async move { write_until_answered(&instance, &batch).await });
        ctx.spawn(done.into_actor(self).map(move |written, actor, ctx| {
            let written = written.unwrap_or_else(|error| panic!("writing outcomes: {error}"));
            actor.lanes[lane].writing = false;
            actor.settle(flights, &written);
            actor.collect(ctx);
        }));
    }

    /// The commit is confirmed: the in-flight table is cleared first, the schedulers are
    /// looked up and told after that.
    fn settle(&mut self, flights: Vec<(Flight, Outcome)>, written: &Written) {
        self.written += flights.len() as u64;
        let mut by_app: HashMap<AppId, Settled> = HashMap::new();
        let mut lanes: BTreeSet<ShardId> = BTreeSet::new();
        for (flight, outcome) in flights {
            let settled = by_app.entry(flight.app.id).or_default();
            let Flight { job, app, .. } = flight;
            if written.lost.contains(&job.shard) {
                settled.unknown.push(job.id);
                continue;
            }
            if self.instance.tells_verdicts() {
                lanes.insert(job.shard);
            }
            match outcome {
                Outcome::Succeeded => {
                    app.figures.succeeded.fetch_add(1, Ordering::Relaxed);
                    settled.finished.push(job.id);
                }
                Outcome::Buried(_) => {
                    app.figures.dead.fetch_add(1, Ordering::Relaxed);
                    lanes.insert(job.shard);
                    settled.finished.push(job.id);
                }
                Outcome::Retry { due_ms, attempts, error } => {
                    app.figures.retried.fetch_add(1, Ordering::Relaxed);
                    let last_error = error.or_else(|| job.last_error.clone());
                    let job = Job { due_ms, attempts, last_error, ..Job::clone(&job) };
                    settled.put_back.push(Arc::new(job));
                }
            }
        }
        for (app, settled) in by_app {
            let in_flight = &self.instance.in_flight;
            in_flight.settle(settled.finished.iter().chain(&settled.unknown).copied());
            in_flight.settle(settled.put_back.iter().map(|job| job.id));
            hint(self.instance.directory.app(app), settled);
        }
        for shard in lanes {
            hint(self.instance.directory.retry_dlq(), PublishLane(Lane::Shard(shard)));
        }
    }
}

/// Takes the next outcomes to write: of each shard those of one epoch, since a batch finds
/// by shard what is not ours any more.
fn next_batch<T>(
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

fn batch_of(instance: &Instance, flights: &[(Flight, Outcome)]) -> OutcomeBatch {
    let fences: BTreeSet<ShardFence> = flights.iter().map(|(flight, _)| flight.fence).collect();
    let ended = |(flight, outcome): &(Flight, Outcome)| StoreEnded {
        job: flight.job.clone(),
        outcome: outcome.clone(),
        verdicts: match instance.tells_verdicts() {
            true => verdicts(flight, outcome, instance.clock.now_ms()),
            false => Vec::new(),
        },
    };
    let outcomes = flights.iter().map(ended);
    OutcomeBatch { fences: fences.into_iter().collect(), outcomes: outcomes.collect() }
}

/// What a producer is told of an attempt, in order. An attempt that does not count, a
/// snooze, is not told: a broker that is away would be told of each second.
fn verdicts(flight: &Flight, outcome: &Outcome, now_ms: i64) -> Vec<Event> {
    let Flight { job, app, fired_ms, .. } = flight;
    let subject = Subject {
        request_id: Some(job.request_id.as_str().into()),
        app: Some(&app.name),
        job_id: Some(job.id),
        source: None,
    };
    let attempt = job.attempts.saturating_add(1);
    let firing = Firing { attempt, fence: flight.shown, fired_ms: *fired_ms };
    let about = about_attempt(job, firing.fence);
    let end = match outcome {
        Outcome::Succeeded => Verdict::Succeeded(firing),
        Outcome::Retry { due_ms, error: Some(message), .. } => {
            Verdict::Retrying { firing, due_ms: *due_ms, message }
        }
        Outcome::Retry { error: None, .. } => return Vec::new(),
        Outcome::Buried(letter) => Verdict::Dead {
            firing: (letter.kind != ErrorKind::Expired).then_some(firing),
            kind: letter.kind,
            message: &letter.message,
        },
    };
    let has_fired = !matches!(end, Verdict::Dead { firing: None, .. });
    let fired = has_fired.then(|| Verdict::Fired(firing).tell(&subject, &about, *fired_ms));
    fired.into_iter().chain([end.tell(&subject, &about, now_ms)]).collect()
}

/// An answer may be lost with the connection; writing the same again does no harm, and
/// once it is answered the first has surely ended. Without a lease nothing is written.
async fn write_until_answered(instance: &Instance, batch: &Arc<OutcomeBatch>) -> Written {
    let mut written = Written::default();
    let mut parts = vec![batch.clone()];
    let (mut backoff, mut failed) = (Backoff::default(), 0);
    while let Some(part) = parts.pop() {
        // Whoever took our shards writes now. If nobody did, the lease comes back; if we
        // were declared dead, the fences say so as soon as we have a new one.
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
                // A server that answers and does not take them may have a limit on how much
                // it takes at once, or dislike one of them.
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

/// What is to be written once more of a batch whose commit was confirmed, if anything.
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
        // Writing all of it again does no harm.
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

/// What an attempt's end means for its job; `None` if it never started.
fn judge(instance: &Instance, flight: &Flight, how: &Ended) -> Option<Outcome> {
    let error = match how {
        Ended::NotStarted | Ended::Cancelled => return None,
        Ended::Answered(Ok(())) => return Some(Outcome::Succeeded),
        Ended::Expired => {
            let why = "expiresTime had passed before the job could be fired".to_owned();
            return Some(bury(instance, flight, ErrorKind::Expired, why));
        }
        Ended::Answered(Err(error)) => error.clone(),
        Ended::TimedOut(limit) => {
            JobError::Retry(format!("the attempt took longer than {} ms", limit.as_millis()))
        }
        Ended::Broke => JobError::Retry("the handler panicked".into()),
    };
    Some(judge_failure(instance, flight, error))
}

fn judge_failure(instance: &Instance, flight: &Flight, error: JobError) -> Outcome {
    let Flight { job, app, .. } = flight;
    let now_ms = instance.clock.now_ms();
    let failed = job.attempts + 1;
    if let JobError::Snooze(until) = error {
        return Outcome::Retry { due_ms: due_at(until), attempts: job.attempts, error: None };
    }
    app.figures.failed.fetch_add(1, Ordering::Relaxed);
    let why = kept(&error.to_string());
    let most = job.max_attempts.unwrap_or(app.config.max_attempts.get());
    if matches!(error, JobError::Fail(_)) || failed >= most {
        return bury(instance, flight, ErrorKind::AttemptsExhausted, why);
    }
    let wait = match error {
        JobError::RetryAfter(wait, _) => wait,
        _ => app.config.backoff.delay(failed, fastrand::f64()),
    };
    Outcome::Retry { due_ms: due_after(now_ms, wait), attempts: failed, error: Some(why) }
}

/// A handler may say anything; the row keeps the start of it, without the NUL that
/// PostgreSQL cannot keep.
fn kept(why: &str) -> String {
    why.chars().take(LONGEST_ERROR).map(|c| if c == '\0' { '\u{fffd}' } else { c }).collect()
}

fn bury(instance: &Instance, flight: &Flight, kind: ErrorKind, message: String) -> Outcome {
    let Flight { job, app, shown, fired_ms, .. } = flight;
    let attempts = job.attempts + u32::from(kind != ErrorKind::Expired);
    let trace = |name: &str, value: &String| (name.to_owned(), Some(value.clone().into_bytes()));
    let headers = job.trace.iter().flat_map(|context| {
        let parent = trace("traceparent", &context.parent);
        [Some(parent), context.state.as_ref().map(|state| trace("tracestate", state))]
    });
    Outcome::Buried(Arc::new(DeadLetter {
        kind,
        message,
        app: Some(app.name.to_string()),
        request_id: Some(job.request_id.clone()),
        job_id: Some(job.id),
        source: None,
        key: Some(job.request_id.clone().into_bytes()),
        value: Some(FiredJob::new(&app.name, job, *shown, *fired_ms).to_json()),
        headers: headers.flatten().collect(),
        attempts,
        at_ms: instance.clock.now_ms(),
    }))
}

impl Actor for Outcomes {
    type Context = Context<Self>;

    /// Begins with what a predecessor left unwritten.
    fn started(&mut self, ctx: &mut Context<Self>) {
        self.instance.in_flight.collect_all();
        self.collect(ctx);
    }
}

impl Handler<Collect> for Outcomes {
    type Result = ();

    fn handle(&mut self, _: Collect, ctx: &mut Context<Self>) {
        self.collect(ctx);
    }
}

impl Handler<Report> for Outcomes {
    type Result = ();

    fn handle(&mut self, _: Report, _: &mut Context<Self>) {
        let waiting: usize = self.lanes.iter().map(|lane| lane.waiting.len()).sum();
        tracing::info!(
            actor = "outcomes",
            running = self.instance.in_flight.running(),
            in_flight = self.instance.in_flight.len(),
            waiting,
            written = self.written,
            "{} outcomes written, {waiting} waiting",
            self.written,
        );
    }
}

impl Handler<Fault> for Outcomes {
    type Result = ();

    fn handle(&mut self, _: Fault, _: &mut Context<Self>) {
        panic!("a fault was asked for");
    }
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
