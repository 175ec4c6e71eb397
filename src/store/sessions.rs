//! Which sessions of a pool are used again: those that answer, and that are not from before a
//! failover.
//!
//! A server that is gone without a word closes nothing, and one that was demoted goes on
//! answering. Neither would ever be left by a pool that only hears of errors.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use sqlx::pool::{PoolConnectionMetadata, PoolOptions};
use sqlx::{Connection, Database};

use super::session::{Rules, Session, refusal};

/// What the pools of one store know of their sessions; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Sessions {
    /// Sessions that began before this are closed.
    since: Arc<RwLock<Instant>>,
    /// What an answer may take.
    patience: Duration,
    rules: Arc<Rules>,
    /// Why the last new session was refused, if it was.
    refused: Arc<Mutex<Option<String>>>,
}

impl Sessions {
    pub(super) fn new(patience: Duration, rules: Rules) -> Self {
        let since = Arc::new(RwLock::new(Instant::now()));
        Self { since, patience, rules: Arc::new(rules), refused: Arc::default() }
    }

    /// Why the last new session was refused, if it was: a pool only says that it has none.
    pub(super) fn refused(&self) -> Option<String> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A new session is not refused any more, as far as is known.
    pub(super) fn forget_refusal(&self) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A pool whose sessions are set up before their first use.
    pub(super) fn set_up<DB: Database>(&self, options: PoolOptions<DB>) -> PoolOptions<DB>
    where
        DB::Connection: Session,
    {
        let sessions = self.clone();
        options.test_before_acquire(false).after_connect(move |connection, _| {
            let sessions = sessions.clone();
            Box::pin(async move {
                let set_up = connection.set_up(&sessions.rules).await;
                let refused = set_up.as_ref().err().and_then(refusal).map(ToString::to_string);
                *sessions.refused.lock().unwrap_or_else(PoisonError::into_inner) = refused;
                set_up
            })
        })
    }

    /// None of those that there are is used again.
    pub(super) fn leave(&self) {
        *self.since.write().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// A pool that looks at each session before it is used, and after: without that a session
    /// which fell silent in the middle of a statement would keep its place in the pool until
    /// the kernel gives up on the connection, a quarter of an hour.
    pub(super) fn watch<DB: Database>(&self, options: PoolOptions<DB>) -> PoolOptions<DB>
    where
        DB::Connection: Session,
    {
        let (before, after) = (self.clone(), self.clone());
        self.set_up(options)
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
        let rules = Rules { lease: Duration::from_secs(3), given: Vec::new() };
        let sessions = Sessions::new(Duration::from_secs(1), rules);
        assert!(sessions.is_current(Duration::ZERO));
        sessions.leave();
        assert!(sessions.is_current(Duration::ZERO), "a new one");
        assert!(!sessions.is_current(Duration::from_secs(3600)), "an old one");
    }
}
