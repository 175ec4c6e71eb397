//! The connection to Redis: established in the background, and re-established with a backoff.
//!
//! Callers never wait for a connection: without one, a query fails at once.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisResult};
use tokio::sync::Notify;
use tokio::time::timeout;

/// The wait before reconnecting. It doubles up to the maximum, and starts at the minimum again
/// after a connection that worked for longer than the wait before it.
const MIN_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// The time limit for connecting, with name resolution and authentication.
const CONNECT: Duration = Duration::from_secs(2);

/// A client of one Redis, with one connection at a time and none while Redis is unavailable.
pub(super) struct ReconnectingClient {
    client: Client,
    state: Mutex<State>,
    /// Notified when the current connection is abandoned.
    failed: Notify,
}

/// The state of the connection.
enum State {
    /// The first attempt to connect has not ended yet.
    Unknown,
    Connected(Connection),
    /// With the reason.
    Unavailable(String),
}

#[derive(Clone)]
struct Connection {
    /// Distinguishes failures of this connection from those of an earlier one.
    number: u64,
    inner: MultiplexedConnection,
}

/// The client's own `Debug` output may contain the password.
impl std::fmt::Debug for ReconnectingClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ReconnectingClient").field(&self.name()).finish()
    }
}

impl ReconnectingClient {
    pub(super) fn new(client: Client) -> Self {
        Self { client, state: Mutex::new(State::Unknown), failed: Notify::new() }
    }

    /// Connects, and reconnects when the connection is lost, until the future is dropped. A
    /// connection is used only if it answers `probe` within `max_wait`.
    pub(super) async fn stay_connected(&self, probe: redis::Cmd, max_wait: Duration) {
        let mut wait = Duration::ZERO;
        for number in 0.. {
            let mut worked = Duration::ZERO;
            match self.connect(&probe, max_wait).await {
                Ok(inner) => {
                    let since = Instant::now();
                    self.set_connected(Connection { number, inner });
                    self.failed.notified().await;
                    worked = since.elapsed();
                }
                Err(why) => self.set_unavailable(why),
            }
            wait = next_wait(wait, worked);
            // A random part, so that instances do not reconnect all at the same time.
            tokio::time::sleep(wait.mul_f64(0.75 + fastrand::f64() / 4.0)).await;
        }
    }

    /// Runs `query` on the connection. Returns `None` if Redis is unavailable, fails, or takes
    /// longer than `max_wait`; in the latter cases the connection is abandoned.
    pub(super) async fn within<T>(
        &self,
        max_wait: Duration,
        query: impl AsyncFnOnce(MultiplexedConnection) -> RedisResult<T>,
    ) -> Option<T> {
        let connection = self.connection()?;
        match bounded(max_wait, query(connection.inner)).await {
            Ok(answer) => Some(answer),
            Err(why) => {
                self.abandon(connection.number, why);
                None
            }
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        matches!(*self.state(), State::Connected(_))
    }

    /// The state as text, for logs.
    pub(super) fn status(&self) -> String {
        match &*self.state() {
            State::Unknown => "not reached yet".into(),
            State::Connected(_) => "connected".into(),
            State::Unavailable(why) => format!("unavailable: {why}"),
        }
    }

    /// Host and port.
    fn name(&self) -> String {
        self.client.get_connection_info().addr().to_string()
    }

    async fn connect(
        &self,
        probe: &redis::Cmd,
        max_wait: Duration,
    ) -> Result<MultiplexedConnection, String> {
        // Each query has a time limit of its own.
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let connecting = self.client.get_multiplexed_async_connection_with_config(&config);
        let mut connection = bounded(CONNECT, connecting).await?;
        // Only a query shows whether authentication is required, and whether the server answers in
        // time for other queries.
        bounded(max_wait, probe.exec_async(&mut connection)).await?;
        Ok(connection)
    }

    fn connection(&self) -> Option<Connection> {
        match &*self.state() {
            State::Connected(connection) => Some(connection.clone()),
            _ => None,
        }
    }

    fn set_connected(&self, connection: Connection) {
        *self.state() = State::Connected(connection);
        let redis = self.name();
        tracing::info!(redis, "redis at {redis} is connected");
    }

    /// Connecting failed.
    fn set_unavailable(&self, why: String) {
        let before = std::mem::replace(&mut *self.state(), State::Unavailable(why.clone()));
        if !matches!(before, State::Unavailable(_)) {
            self.log_unavailable(&why);
        }
    }

    fn abandon(&self, number: u64, why: String) {
        {
            let mut state = self.state();
            // Of several queries that fail together, the first abandons the connection.
            if !matches!(&*state, State::Connected(connection) if connection.number == number) {
                return;
            }
            *state = State::Unavailable(why.clone());
        }
        self.log_unavailable(&why);
        self.failed.notify_one();
    }

    /// Logged once per outage; later changes of the reason are in the periodic reports.
    fn log_unavailable(&self, why: &str) {
        let redis = self.name();
        tracing::warn!(
            redis,
            "redis at {redis} is unavailable: {why}; until it is connected, no idempotency key is looked up \
             or noted in it"
        );
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The wait before the next connection, after a wait of `before` and a connection that lasted for
/// `worked`.
fn next_wait(before: Duration, worked: Duration) -> Duration {
    if worked > before { MIN_BACKOFF } else { (before * 2).clamp(MIN_BACKOFF, MAX_BACKOFF) }
}

async fn bounded<T>(
    max_wait: Duration,
    answer: impl Future<Output = RedisResult<T>>,
) -> Result<T, String> {
    match timeout(max_wait, answer).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} ms", max_wait.as_millis())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_until_a_connection_worked_for_longer_than_it() {
        for (before, worked, expected) in
            [(0, 0, 1), (1, 0, 2), (2, 1, 4), (16, 0, 30), (30, 30, 30), (30, 31, 1), (1, 2, 1)]
        {
            let s = Duration::from_secs;
            assert_eq!(next_wait(s(before), s(worked)), s(expected), "{before} {worked}");
        }
    }
}
