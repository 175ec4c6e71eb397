//! One heartbeat: the lease is renewed, then the keeper looks around.

use std::time::Duration;

use super::super::database_clock::skew_of;
use super::super::instance::Instance;
use super::super::processes;
use crate::store::{Error as StoreError, Observation, Result as StoreResult};

/// How often the max_wait with a heartbeat doubles.
const MAX_DOUBLINGS: u32 = 3;

/// What one heartbeat brought.
pub(super) enum Heartbeat {
    /// With the database's clock less ours.
    Alive(Observation, i64),
    /// We were declared dead, or never joined.
    Unknown,
    /// There was no answer in time; perhaps a reason for it, if the database says one.
    Unanswered { error: StoreError, says_why: bool },
}

/// What a heartbeat may take, after so many without an answer. There must be time for another
/// connection before the lease is over. Once it is over, giving up as soon would not mend
/// anything: a server that is too slow for a new connection would never be heard again.
pub(super) fn max_wait(lease: Duration, unanswered: u32) -> Duration {
    (lease / 3) * (1 << unanswered.min(MAX_DOUBLINGS))
}

/// One heartbeat: renew, then look around.
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
        if !instance.store.beat(me, instance.lease.length()).await? {
            return Ok(Heartbeat::Unknown);
        }
        instance.lease.renewed(sent);
        let (mut observed, mut skew_ms) = observe(instance).await?;
        if declare_ended(instance, &observed).await? {
            // What was theirs is free, and need not wait for the next heartbeat.
            (observed, skew_ms) = observe(instance).await?;
        }
        Ok(Heartbeat::Alive(observed, skew_ms))
    };
    match tokio::time::timeout(max_wait, answered).await {
        Ok(answer) => instance.database.replace_sessions(answer),
        Err(_) => {
            instance.store.reconnect_heartbeat();
            let ms = max_wait.as_millis();
            let silence = format!("no answer to the heartbeat within {ms} ms");
            // A pool that waits for a connection does not say what for.
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

/// What there is to be seen, and the database's clock less ours.
async fn observe(instance: &Instance) -> StoreResult<(Observation, i64)> {
    let asked_ms = instance.clock.now_ms();
    let observed = instance.store.observe(instance.me()).await?;
    instance.database_clock.seen(observed.now_us);
    let skew_ms = skew_of(observed.now_us / 1000, asked_ms, instance.clock.now_ms());
    Ok((observed, skew_ms))
}

/// Declares the instances dead whose processes ran beside ours and have ended, which nobody
/// needs to wait a lease for. True if there were any.
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
