//! The database with time limits for answers, and with waits that end when it is available again.

use std::time::Duration;

use crate::recovery::Recovery;
use crate::store::{Error as StoreError, Result as StoreResult, Store};

/// A store, and whether it is available.
#[derive(Debug)]
pub(crate) struct Database {
    store: Store,
    /// The time limit for an answer. The settings of our sessions end a transaction within the same
    /// time.
    max_wait: Duration,
    recovery: Recovery,
}

impl Database {
    /// `lease` is the lease of the instances on this database.
    pub(crate) fn new(store: Store, lease: Duration) -> Self {
        Self { store, max_wait: lease * 2, recovery: Recovery::default() }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// After this time a transaction of ours has ended, even if its answer was lost.
    pub(super) fn max_wait(&self) -> Duration {
        self.max_wait
    }

    /// The availability of the database, as determined by the heartbeat.
    pub(crate) fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// Limits the time to wait for `asked`, since a server may neither answer nor close the
    /// connection. The statement may still take effect, as after any lost answer.
    ///
    /// # Errors
    /// Those of `asked`, or [`StoreError::Unavailable`] if there was no answer in time.
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

    /// Abandons all sessions if the error concerns them: after a failover a session may still be
    /// with a server that is read-only now, or have outdated settings. New sessions are opened with
    /// the current server and the required settings.
    ///
    /// # Errors
    /// Those of `answer`, with an explanation.
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
