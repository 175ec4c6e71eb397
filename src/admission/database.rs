//! The database for a caller that must have an answer: bounded in time, with waits that end
//! when it answers again.

use std::time::Duration;

use crate::recovery::Recovery;
use crate::store::{Error as StoreError, Result as StoreResult, Store};

/// A store, and whether it answers.
#[derive(Debug)]
pub(crate) struct Database {
    store: Store,
    /// How long an answer is waited for. The limits of our sessions end a transaction within
    /// the same time.
    max_wait: Duration,
    recovery: Recovery,
}

impl Database {
    /// `lease` is that of the instances on this database.
    pub(crate) fn new(store: Store, lease: Duration) -> Self {
        Self { store, max_wait: lease * 2, recovery: Recovery::default() }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// After this a transaction of ours has ended, whatever became of its answer.
    pub(super) fn max_wait(&self) -> Duration {
        self.max_wait
    }

    /// Whether it answers, as the heartbeat has found out.
    pub(crate) fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// Gives up on a database that neither answers nor closes the connection. What was asked
    /// may still happen: the caller finds out as after any lost answer.
    ///
    /// # Errors
    /// What was asked, or [`StoreError::Unavailable`] if there was no answer in time.
    pub(crate) async fn bounded<T>(
        &self,
        asked: impl Future<Output = StoreResult<T>>,
    ) -> StoreResult<T> {
        match tokio::time::timeout(self.max_wait, asked).await {
            Ok(answer) => self.replace_sessions(answer),
            Err(_) => Err(StoreError::Unavailable(format!(
                "no answer within {} ms",
                self.max_wait.as_millis()
            ))),
        }
    }

    /// A server that only reads since a failover keeps its sessions, and a session keeps its
    /// settings: they are abandoned, so that the next ones are with the server that writes
    /// now, and as they must be.
    ///
    /// # Errors
    /// Those of `answer`, with their explanation.
    pub(crate) fn replace_sessions<T>(&self, answer: StoreResult<T>) -> StoreResult<T> {
        let error = match answer {
            Err(error) => self.store.explain(error),
            answer => return answer,
        };
        if error.is_of_session() {
            self.store.leave_sessions();
        }
        Err(error)
    }
}
