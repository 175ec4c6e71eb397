//! Which sessions of a pool are used again: those that answer, and that are not from before a
//! failover.
//!
//! A server that is gone without a word closes nothing, and one that was demoted goes on
//! answering. Neither would ever be left by a pool that only hears of errors.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use sqlx::pool::{PoolConnectionMetadata, PoolOptions};
use sqlx::{Connection, Database};

/// What the pools of one store know of their sessions; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Sessions {
    /// Sessions that began before this are closed.
    since: Arc<RwLock<Instant>>,
    /// What an answer may take.
    patience: Duration,
}

impl Sessions {
    pub(super) fn new(patience: Duration) -> Self {
        Self { since: Arc::new(RwLock::new(Instant::now())), patience }
    }

    /// None of those that there are is used again.
    pub(super) fn leave(&self) {
        *self.since.write().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// A pool that looks at each session before it is used, and after: without that a session
    /// which fell silent in the middle of a statement would keep its place in the pool until
    /// the kernel gives up on the connection, a quarter of an hour.
    pub(super) fn watch<DB: Database>(&self, options: PoolOptions<DB>) -> PoolOptions<DB> {
        let (before, after) = (self.clone(), self.clone());
        options
            .test_before_acquire(false)
            .before_acquire(move |connection, seen| {
                let sessions = before.clone();
                Box::pin(async move { sessions.check(connection, seen).await })
            })
            .after_release(move |connection, seen| {
                let sessions = after.clone();
                Box::pin(async move { sessions.check(connection, seen).await })
            })
    }

    /// False and errors end the session.
    async fn check<C: Connection>(
        &self,
        connection: &mut C,
        seen: PoolConnectionMetadata,
    ) -> sqlx::Result<bool> {
        if !self.is_current(seen.age) {
            return Ok(false);
        }
        match tokio::time::timeout(self.patience, connection.ping()).await {
            Ok(answer) => answer.map(|()| true),
            Err(_) => Err(sqlx::Error::Io(io::ErrorKind::TimedOut.into())),
        }
    }

    fn is_current(&self, age: Duration) -> bool {
        age <= self.since.read().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sessions_from_before_a_failover_are_left() {
        let sessions = Sessions::new(Duration::from_secs(1));
        assert!(sessions.is_current(Duration::ZERO));
        sessions.leave();
        assert!(sessions.is_current(Duration::ZERO), "a new one");
        assert!(!sessions.is_current(Duration::from_secs(3600)), "an old one");
    }
}
