//! The handler of `dispatch = "redis"`: a fired job becomes an entry of a stream or a list, or a
//! published message.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, ErrorKind, RedisError, ServerErrorKind};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout;

use super::{About, DynJobHandler, Failure, FiredJob, JobContext, Target};
use crate::model::app::AppConfig;

/// The longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// Answers that say something about the server or its settings, and nothing about the job.
const STATES: [&str; 12] = [
    "READONLY",
    "LOADING",
    "OOM",
    "MISCONF",
    "NOREPLICAS",
    "MASTERDOWN",
    "NOAUTH",
    "NOPERM",
    "WRONGTYPE",
    "MOVED",
    "ASK",
    "CLUSTERDOWN",
];

/// A Redis for fired jobs. Its `Debug` output does not show the URL.
#[derive(Clone)]
pub struct RedisTarget {
    pub(crate) url: SecretString,
    pub(crate) key: String,
    pub(crate) command: RedisCommand,
}

/// By what a job is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RedisCommand {
    /// An entry of a stream, which is cut to about this many entries.
    Xadd {
        max_length: Option<NonZeroU64>,
    },
    Lpush,
    Publish,
}

impl fmt::Debug for RedisTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url: _, key, command } = self;
        f.debug_struct("RedisTarget").field("key", key).field("command", command).finish()
    }
}

/// Sends each job to one key or channel. The attempt succeeds once Redis has answered.
pub(crate) struct RedisDispatch {
    target: RedisTarget,
    client: Client,
    /// Host and port.
    address: String,
    of_app: Target,
    connection: Mutex<Option<Connection>>,
    /// One attempt connects, for all that wait.
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Connection {
    /// Distinguishes failures of this connection from those of an earlier one.
    number: u64,
    inner: MultiplexedConnection,
}

/// The client's own `Debug` output may contain the password.
impl fmt::Debug for RedisDispatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RedisDispatch").field(&self.address).field(&self.target).finish()
    }
}

impl RedisDispatch {
    /// Fires the jobs of `app` to `target`. Connects with the first job.
    ///
    /// # Errors
    /// The URL cannot be read.
    pub(crate) fn open(target: RedisTarget, app: &AppConfig) -> Result<Self, String> {
        let name = &app.name;
        // The client's error could show the URL.
        let client = Client::open(target.url.expose_secret())
            .map_err(|_| format!("apps.{name}.url cannot be read: check its form"))?;
        let address = client.get_connection_info().addr().to_string();
        let (command, key) = (target.command.name(), &target.key);
        tracing::info!(app = name, "app {name} fires by {command} {key} to redis at {address}");
        Ok(Self {
            of_app: Target { subject: format!("target of {name}"), notes: Arc::default() },
            connection: Mutex::new(None),
            connecting: tokio::sync::Mutex::default(),
            target,
            client,
            address,
        })
    }

    async fn connect(&self) -> Result<Connection, String> {
        if let Some(connection) = self.connection().clone() {
            return Ok(connection);
        }
        let _alone = self.connecting.lock().await;
        if let Some(connection) = self.connection().clone() {
            return Ok(connection);
        }
        // Each attempt has a time limit of its own.
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let connecting = self.client.get_multiplexed_async_connection_with_config(&config);
        let address = &self.address;
        let inner = match timeout(CONNECT, connecting).await {
            Ok(Ok(inner)) => inner,
            Ok(Err(error)) => return Err(format!("connecting to {address} failed: {error}")),
            Err(_) => {
                let limit = CONNECT.as_millis();
                return Err(format!("connecting to {address} took longer than {limit} ms"));
            }
        };
        let connection = Connection { number: fastrand::u64(..), inner };
        *self.connection() = Some(connection.clone());
        Ok(connection)
    }

    /// The next attempt connects again.
    fn leave(&self, number: u64) {
        let mut connection = self.connection();
        if connection.as_ref().is_some_and(|current| current.number == number) {
            *connection = None;
        }
    }

    fn connection(&self) -> MutexGuard<'_, Option<Connection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, ctx: &JobContext) -> Result<(), Failure> {
        let mut connection = self.connect().await.map_err(Failure::NotSent)?;
        let command = self.target.command(ctx);
        let limit = ctx.timeout();
        let address = &self.address;
        let answer = command.query_async::<redis::Value>(&mut connection.inner);
        match timeout(limit, answer).await {
            Ok(Ok(answer)) => {
                let is_publish = self.target.command == RedisCommand::Publish;
                if is_publish && answer == redis::Value::Int(0) {
                    self.of_app.notes.publish_to_nobody();
                }
                Ok(())
            }
            Ok(Err(error)) => {
                let why = format!("{address} answered {error}");
                match meaning_of(&error) {
                    Meaning::State { leave } => {
                        if leave {
                            self.leave(connection.number);
                        }
                        let cluster = if is_of_cluster(&error) { CLUSTER } else { "" };
                        Err(Failure::NotSent(format!("{why}{cluster}")))
                    }
                    Meaning::Refused => {
                        Err(Failure::Again { why, retry_after: None, about: About::Job })
                    }
                    Meaning::Unknown => {
                        self.leave(connection.number);
                        Err(Failure::NoAnswer(format!("no answer of {address}: {error}")))
                    }
                }
            }
            Err(_) => {
                self.leave(connection.number);
                let limit = limit.as_millis();
                Err(Failure::NoAnswer(format!("{address} gave no answer within {limit} ms")))
            }
        }
    }
}

impl DynJobHandler for RedisDispatch {
    fn execute<'a>(&'a self, ctx: &'a JobContext) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(self.send(ctx))
    }

    fn name(&self) -> &str {
        "redis"
    }

    /// The time limit starts with a connection in hand.
    fn target(&self) -> Option<Target> {
        Some(self.of_app.clone())
    }
}

impl RedisCommand {
    fn name(self) -> &'static str {
        match self {
            Self::Xadd { .. } => "XADD",
            Self::Lpush => "LPUSH",
            Self::Publish => "PUBLISH",
        }
    }
}

impl RedisTarget {
    fn command(&self, ctx: &JobContext) -> Cmd {
        let fired = FiredJob::of(ctx);
        let mut command = redis::cmd(self.command.name());
        command.arg(&self.key);
        match self.command {
            RedisCommand::Xadd { max_length } => {
                if let Some(max_length) = max_length {
                    command.arg("MAXLEN").arg("~").arg(max_length.get());
                }
                command.arg("*").arg("body").arg(fired.to_json());
                for (name, value) in fired.headers() {
                    command.arg(name).arg(value.unwrap_or_default());
                }
            }
            RedisCommand::Lpush | RedisCommand::Publish => {
                command.arg(fired.to_json());
            }
        }
        command
    }
}

/// Continues a sentence after such an answer.
const CLUSTER: &str = ": this is a Redis Cluster, which is not supported: name a single server";

fn is_of_cluster(error: &RedisError) -> bool {
    matches!(error.code(), Some("MOVED" | "ASK" | "CLUSTERDOWN"))
}

#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    /// Of the target: no attempt. On another connection it may be over.
    State { leave: bool },
    /// The command was not carried out.
    Refused,
    /// It may have been carried out.
    Unknown,
}

fn meaning_of(error: &RedisError) -> Meaning {
    let code = error.code().unwrap_or_default();
    if STATES.contains(&code) {
        // Behind the same name another server may be the writable one now.
        return Meaning::State {
            leave: error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly),
        };
    }
    match error.kind() {
        ErrorKind::Server(_) | ErrorKind::Extension => Meaning::Refused,
        _ => Meaning::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::context::tests::context;
    use super::*;

    fn target(url: &str, command: RedisCommand) -> RedisTarget {
        RedisTarget { url: url.into(), key: "due".into(), command }
    }

    fn packed(command: RedisCommand) -> String {
        let packed = target("redis://h", command).command(&context("{}")).get_packed_command();
        String::from_utf8(packed).unwrap()
    }

    #[test]
    fn a_stream_entry_has_the_body_and_what_identifies_the_attempt() {
        let max_length = NonZeroU64::new(1000);
        let packed = packed(RedisCommand::Xadd { max_length });
        let words: Vec<_> = packed.split("\r\n").skip(2).step_by(2).collect();
        assert_eq!(words[..7], ["XADD", "due", "MAXLEN", "~", "1000", "*", "body"]);
        let names: Vec<_> = words[8..18].iter().step_by(2).copied().collect();
        assert_eq!(names, ["job-id", "request-id", "app-name", "attempt", "fence"]);
    }

    #[test]
    fn a_list_and_a_channel_get_the_body() {
        let body = FiredJob::of(&context("{}")).to_string();
        for (command, name) in [(RedisCommand::Lpush, "LPUSH"), (RedisCommand::Publish, "PUBLISH")]
        {
            let packed = packed(command);
            let words: Vec<_> = packed.split("\r\n").skip(2).step_by(2).collect();
            assert_eq!(words[..3], [name, "due", &body]);
        }
    }

    /// What becomes of a job whose Redis gives this answer to everything, and whether its
    /// connection is kept.
    async fn after(answer: &'static str) -> (Result<(), Failure>, bool) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut heard = [0; 4096];
            loop {
                let read = stream.read(&mut heard).await.unwrap_or(0);
                if read == 0 || answer.is_empty() {
                    return;
                }
                let text = String::from_utf8_lossy(&heard[..read]).into_owned();
                // What a client says about itself is not asked for here.
                let settings = text.matches("CLIENT").count();
                let said =
                    if settings > 0 { "+OK\r\n".repeat(settings) } else { answer.to_owned() };
                stream.write_all(said.as_bytes()).await.unwrap();
            }
        });
        let url = format!("redis://127.0.0.1:{port}");
        let target = target(&url, RedisCommand::Lpush);
        let dispatch = RedisDispatch::open(target, &AppConfig::new("sms"));
        let dispatch = dispatch.unwrap();
        let result = dispatch.execute(&context("{}")).await;
        let kept = dispatch.connection().is_some();
        drop(dispatch);
        server.abort();
        (result, kept)
    }

    #[tokio::test]
    async fn states_of_the_server_are_no_attempt_and_a_read_only_one_is_left() {
        assert_eq!(after(":1\r\n").await, (Ok(()), true));
        for state in STATES {
            let answer = format!("-{state} 1 127.0.0.1:1\r\n");
            let (result, kept) = after(answer.leak()).await;
            let Err(Failure::NotSent(why)) = &result else { panic!("{state}: {result:?}") };
            let of_cluster = ["MOVED", "ASK", "CLUSTERDOWN"].contains(&state);
            assert_eq!(why.contains("this is a Redis Cluster"), of_cluster, "{why}");
            assert_eq!(kept, state != "READONLY", "{state}");
        }
        let (result, kept) = after("-ERR no\r\n").await;
        assert!(matches!(result, Err(Failure::Again { about: About::Job, .. })), "{result:?}");
        assert!(kept);
    }

    #[tokio::test]
    async fn a_redis_that_is_away_is_no_attempt() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://:hush@{}", listener.local_addr().unwrap());
        drop(listener);
        let target = target(&url, RedisCommand::Publish);
        let dispatch = RedisDispatch::open(target, &AppConfig::new("sms")).unwrap();
        let result = dispatch.execute(&context("{}")).await;
        assert!(matches!(result, Err(Failure::NotSent(_))), "{result:?}");
        let shown = format!("{dispatch:?} {result:?}");
        assert!(shown.contains("connecting to 127.0.0.1:") && !shown.contains("hush"), "{shown}");
    }
}
