//! Stops an instance in order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::instance::Instance;
use super::super::messages::{Drain, ReleaseAll, StopStarting};
use super::super::registry::Scope;

/// How often a condition is checked while waiting for it.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// The shortest and the longest time for leaving the consumer group.
const INTAKE_MAX_WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// The time for writing the last outcomes after the handlers have ended.
const WRITE_MAX_WAIT: Duration = Duration::from_secs(10);
/// The time for sending the last records of the producer.
const FLUSH_MAX_WAIT: Duration = Duration::from_millis(500);

/// Stops everything, with a time limit for each step, so that no unavailable service delays the
/// end. What is not done in time is done by the instances that own the shards and partitions next.
pub(super) async fn drain_all(instance: Arc<Instance>, deadline: Instant) {
    let left = |until: Instant| until.saturating_duration_since(Instant::now());
    let max_wait = left(deadline);
    if let Some(intake) = instance.intake() {
        // Limited, because leaving a group can take very long and the attempts need the remaining
        // time.
        let max_wait = (max_wait / 2).clamp(INTAKE_MAX_WAIT.0, INTAKE_MAX_WAIT.1);
        if let Err(error) = intake.shutdown(max_wait).await {
            tracing::warn!(%error, "the intake did not stop in time, and is not waited for");
        }
    }
    stop_starting(&instance, left(deadline)).await;
    instance.crash_guard.close();
    if !until(deadline, || instance.in_flight.running() == 0).await {
        let running = instance.in_flight.running();
        tracing::warn!(running, "{running} attempts did not end in time: they are cancelled");
        instance.in_flight.cancel_all();
    }
    let written = (Instant::now() + WRITE_MAX_WAIT).min(deadline + Drain::REST / 2);
    if !until(written, || instance.in_flight.len() == 0).await {
        let left = instance.in_flight.len();
        tracing::warn!(left, "{left} outcomes were not written: those jobs will fire again");
    }
    let gone = (Instant::now() + WRITE_MAX_WAIT).min(deadline + Drain::REST);
    let goodbye = tokio::time::timeout(left(gone), release_all(&instance));
    if tokio::join!(goodbye, flush(&instance)).0.is_err() {
        tracing::warn!(
            "no time left to release the shards: other instances wait for the end of the lease"
        );
    }
}

/// Sends the records that the producer has queued. Nothing would be lost without this, since
/// unacknowledged letters and verdicts stay in the outbox, but more would be published twice.
async fn flush(instance: &Instance) {
    let Some(kafka) = &instance.kafka else { return };
    // Limited separately, since the client's own wait becomes longer if the clock is set back.
    let flushed = tokio::time::timeout(FLUSH_MAX_WAIT * 2, kafka.producer.flush(FLUSH_MAX_WAIT));
    match flushed.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "not everything was sent"),
        Err(_) => tracing::warn!("the producer does not answer: not everything may be sent"),
    }
}

async fn stop_starting(instance: &Instance, max_wait: Duration) {
    let asked = instance.apps.keys().map(|app| instance.registry.ask(*app, StopStarting));
    drop(tokio::time::timeout(max_wait, futures::future::join_all(asked)).await);
}

/// Asks the keeper to release all shards; if it has just panicked, its replacement. Otherwise the
/// other instances would have to wait for the end of the lease.
async fn release_all(instance: &Instance) {
    while instance.registry.is_registered::<ReleaseAll>(Scope::Instance) {
        if instance.registry.ask(Scope::Instance, ReleaseAll).await.is_some() {
            return;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

async fn until(deadline: Instant, done: impl Fn() -> bool) -> bool {
    while !done() {
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    true
}
