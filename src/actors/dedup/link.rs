//! The connection to Redis: made in the background, left alone for a while when it fails.
//!
//! Nobody waits for it to be made. Who asks while it is away is told so at once.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisResult};
use tokio::sync::Notify;
use tokio::time::timeout;

/// How long Redis is left alone after a failure, doubling up to the second. One that
/// worked for longer than it was left alone before begins at the first again.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// What connecting may take, names and password included. Nobody waits for it.
const CONNECT: Duration = Duration::from_secs(2);

/// A Redis that is there or away.
pub(super) struct Link {
    client: Client,
    state: Mutex<State>,
    /// The connection was given up.
    failed: Notify,
}

/// What is known of it just now.
enum State {
    /// Nothing, at the start.
    Unknown,
    Connected(Connection),
    /// Why.
    Unavailable(String),
}

#[derive(Clone)]
struct Connection {
    /// Tells its failures from those of a predecessor.
    number: u64,
    inner: MultiplexedConnection,
}

/// The client's own form may show the password.
impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Link").field(&self.name()).finish()
    }
}

impl Link {
    pub(super) fn new(client: Client) -> Self {
        Self { client, state: Mutex::new(State::Unknown), failed: Notify::new() }
    }

    /// Connects, and again whenever that is lost, for as long as it is polled. `probe` is
    /// what a connection must answer within `max_wait` to be of use.
    pub(super) async fn keep(&self, probe: redis::Cmd, max_wait: Duration) {
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
            tokio::time::sleep(wait.mul_f64(0.75 + fastrand::f64() / 4.0)).await;
        }
    }

    /// What `ask` gets from Redis; `None` if that is away, or fails, or takes longer than
    /// `max_wait`, when it is given up and left alone for a while.
    pub(super) async fn within<T>(
        &self,
        max_wait: Duration,
        ask: impl AsyncFnOnce(MultiplexedConnection) -> RedisResult<T>,
    ) -> Option<T> {
        let connection = self.connection()?;
        match bounded(max_wait, ask(connection.inner)).await {
            Ok(answer) => Some(answer),
            Err(why) => {
                self.give_up(connection.number, why);
                None
            }
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        matches!(*self.state(), State::Connected(_))
    }

    /// How it is, for people.
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
        // Whoever asks has a max_wait of their own.
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let connecting = self.client.get_multiplexed_async_connection_with_config(&config);
        let mut connection = bounded(CONNECT, connecting).await?;
        // Asked, because a server that wants a password says so no earlier, and because a
        // slow one would be given up again at the first question.
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

    /// It could not be reached.
    fn set_unavailable(&self, why: String) {
        let before = std::mem::replace(&mut *self.state(), State::Unavailable(why.clone()));
        if !matches!(before, State::Unavailable(_)) {
            self.log_unavailable(&why);
        }
    }

    fn give_up(&self, number: u64, why: String) {
        {
            let mut state = self.state();
            // The first of several questions that fail together ends it.
            if !matches!(&*state, State::Connected(connection) if connection.number == number) {
                return;
            }
            *state = State::Unavailable(why.clone());
        }
        self.log_unavailable(&why);
        self.failed.notify_one();
    }

    /// Said once: what changes while it is away is in the reports.
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

/// How long it is left alone after it `worked` for so long, and was left alone for
/// `before` ahead of that.
fn next_wait(before: Duration, worked: Duration) -> Duration {
    if worked > before { BACKOFF.0 } else { (before * 2).clamp(BACKOFF.0, BACKOFF.1) }
}

async fn bounded<T>(
    max_wait: Duration,
    asked: impl Future<Output = RedisResult<T>>,
) -> Result<T, String> {
    match timeout(max_wait, asked).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} ms", max_wait.as_millis())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_left_alone_for_longer_until_it_has_worked_for_longer() {
        for (before, worked, expected) in
            [(0, 0, 1), (1, 0, 2), (2, 1, 4), (16, 0, 30), (30, 30, 30), (30, 31, 1), (1, 2, 1)]
        {
            let s = Duration::from_secs;
            assert_eq!(next_wait(s(before), s(worked)), s(expected), "{before} {worked}");
        }
    }
}
