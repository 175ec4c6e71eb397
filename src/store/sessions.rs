//! Decides which sessions of a pool are reused: those that answer and that were not opened before
//! a failover.
//!
//! A server that vanishes does not close its connections, and a demoted server keeps answering. A
//! pool that reacts to errors only would keep the sessions of both.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use sqlx::pool::{PoolConnectionMetadata, PoolOptions};
use sqlx::{Connection, Database};

use super::session::{Rules, Session, refusal};

/// The state that the pools of one store share about their sessions. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Sessions {
    /// Sessions that were opened before this are closed.
    since: Arc<RwLock<Instant>>,
    /// The longest wait for an answer.
    max_wait: Duration,
    rules: Arc<Rules>,
    /// Why the last new session was refused, if it was.
    refused: Arc<Mutex<Option<String>>>,
}

impl Sessions {
    pub(super) fn new(max_wait: Duration, rules: Rules) -> Self {
        let since = Arc::new(RwLock::new(Instant::now()));
        Self { since, max_wait, rules: Arc::new(rules), refused: Arc::default() }
    }

    /// Why the last new session was refused, if it was. The pool's own error does not contain it.
    pub(super) fn refused(&self) -> Option<String> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets the reason why the last new session was refused.
    pub(super) fn forget_refusal(&self) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Makes a pool set up each session before its first use.
    pub(super) fn with_set_up<DB: Database>(&self, options: PoolOptions<DB>) -> PoolOptions<DB>
    where
        DB::Connection: Session,
    {
        let sessions = self.clone();
        // The pool's own test could last for the whole `acquire_timeout`; that of `with_checks` ends
        // after `max_wait`.
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

    /// From now on the pools close each session that exists now, instead of using it again.
    pub(super) fn retire(&self) {
        *self.since.write().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// As [`with_set_up`](Self::with_set_up), and the pool also tests each session before and after
    /// its use. Otherwise a session that stopped answering during a statement would occupy its place
    /// in the pool until the kernel closes the connection, after about 15 minutes.
    pub(super) fn with_checks<DB: Database>(&self, options: PoolOptions<DB>) -> PoolOptions<DB>
    where
        DB::Connection: Session,
    {
        let (for_acquire, for_release) = (self.clone(), self.clone());
        self.with_set_up(options)
            .before_acquire(move |connection, seen| {
                let sessions = for_acquire.clone();
                Box::pin(async move { sessions.check(connection, seen).await })
            })
            .after_release(move |connection, seen| {
                let sessions = for_release.clone();
                Box::pin(async move { sessions.check(connection, seen).await })
            })
    }

    /// The pool closes the session on false and on errors.
    async fn check<C: Connection>(
        &self,
        connection: &mut C,
        seen: PoolConnectionMetadata,
    ) -> sqlx::Result<bool> {
        if !self.is_current(seen.age) {
            return Ok(false);
        }
        match tokio::time::timeout(self.max_wait, connection.ping()).await {
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
    fn only_sessions_from_before_a_failover_are_closed() {
        let rules = Rules { lease: Duration::from_secs(3), given: Vec::new() };
        let sessions = Sessions::new(Duration::from_secs(1), rules);
        assert!(sessions.is_current(Duration::ZERO));
        sessions.retire();
        assert!(sessions.is_current(Duration::ZERO), "a new one");
        assert!(!sessions.is_current(Duration::from_secs(3600)), "an old one");
    }
}
