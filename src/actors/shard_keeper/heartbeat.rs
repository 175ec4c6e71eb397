//! One heartbeat: renews the lease, then reads the state of the instances and shards.

use std::time::Duration;

use super::super::database_clock::skew_of;
use super::super::instance::Instance;
use super::super::processes;
use crate::store::{Error as StoreError, Observation, Result as StoreResult};

/// How many times the time limit of a heartbeat doubles.
const MAX_DOUBLINGS: u32 = 3;

/// The result of a heartbeat.
pub(super) enum Heartbeat {
    /// The lease is renewed. With the difference of the database's clock to ours, in milliseconds.
    Alive(Box<Observation>, i64),
    /// The instance was declared dead, or is not registered yet.
    Unknown,
    /// There was no answer in time. `says_why`: the error contains a reason from the database.
    Unanswered { error: StoreError, says_why: bool },
}

/// The time limit of a heartbeat, after `unanswered` ones without an answer. At first it leaves
/// time for another connection within the lease. Later it grows: otherwise a server that is slow to
/// accept connections would never be reached again.
pub(super) fn max_wait(lease: Duration, unanswered: u32) -> Duration {
    (lease / 3) * (1 << unanswered.min(MAX_DOUBLINGS))
}

/// Renews the lease and observes the other instances.
pub(super) async fn beat(
    instance: &Instance,
    max_wait: Duration,
    probes_first: bool,
) -> StoreResult<Heartbeat> {
    let me = instance.me();
    if me.0 == 0 {
        return Ok(Heartbeat::Unknown);
    }
    let answered = async {
        if probes_first {
            instance.store.knock().await?;
        }
        let sent = instance.lease.sending();
        let pace = instance.pace_to_publish();
        if !instance.store.beat(me, instance.lease.length(), pace.as_ref()).await? {
            return Ok(Heartbeat::Unknown);
        }
        instance.lease.renewed(sent);
        let (mut observed, mut skew_ms) = observe(instance).await?;
        if declare_ended(instance, &observed).await? {
            // Read again, so that their shards can be taken with this heartbeat.
            (observed, skew_ms) = observe(instance).await?;
        }
        Ok(Heartbeat::Alive(Box::new(observed), skew_ms))
    };
    match tokio::time::timeout(max_wait, answered).await {
        Ok(answer) => instance.database.replace_sessions(answer),
        Err(_) => {
            instance.store.reconnect_heartbeat();
            let ms = max_wait.as_millis();
            let silence = format!("no answer to the heartbeat within {ms} ms");
            // A pool that waits for a connection does not report the reason.
            let why = instance.store.trouble(max_wait / 4).await;
            let says_why = why.is_some();
            let error = match why {
                Some(StoreError::Unavailable(why)) => {
                    StoreError::Unavailable(format!("{silence}: {why}"))
                }
                Some(error) => error,
                None => StoreError::Unavailable(silence),
            };
            Ok(Heartbeat::Unanswered { error, says_why })
        }
    }
}

/// The state of the instances and shards, and the difference of the database's clock to ours.
async fn observe(instance: &Instance) -> StoreResult<(Observation, i64)> {
    let asked_ms = instance.clock.now_ms();
    let observed = instance.store.observe(instance.me()).await?;
    instance.database_clock.seen(observed.now_us);
    let skew_ms = skew_of(observed.now_us / 1000, asked_ms, instance.clock.now_ms());
    Ok((observed, skew_ms))
}

/// Declares instances dead whose processes on this machine have ended, so that their shards need
/// not wait for the end of the lease. Returns true if there were any.
async fn declare_ended(instance: &Instance, observed: &Observation) -> StoreResult<bool> {
    let Some(own) = &instance.process else { return Ok(false) };
    let mut any = false;
    for other in &observed.instances {
        let is_gone = other.process.as_ref().is_some_and(|of| processes::is_gone(of, own));
        if is_gone && instance.store.declare_ended(other).await? {
            let id = other.id;
            tracing::warn!(instance = %id, "instance {id} is dead: its process has ended");
            any = true;
        }
    }
    Ok(any)
}
