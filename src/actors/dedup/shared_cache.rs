//! A cache of idempotency keys in Redis that all instances share. It is an optimization only.
//!
//! Redis may be unavailable, slow, emptied or wrong: a wrong hit only costs one additional read of
//! the database. No data of producers is stored: an entry's name is `is1:` and the 16-byte hash of
//! the key in hexadecimal, its value is `1`, and it expires after the idempotency window.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_rt::task::JoinHandle;
use secrecy::{ExposeSecret, SecretString};

use super::connection::ReconnectingClient;
use crate::model::ids::KeyId;

/// How long a batch waits for an answer of Redis; a longer wait would cost more than it saves.
const QUERY_MAX_WAIT: Duration = Duration::from_millis(20);
/// The largest number of keys in one query: Redis takes a few milliseconds for these.
const MAX_QUERIED: usize = 5000;
/// How many keys are written at a time. Queries wait behind them.
const MAX_WRITTEN: usize = 1000;
/// The time limit of one write. No batch waits for it.
const WRITE_MAX_WAIT: Duration = Duration::from_secs(1);
/// How many keys may wait to be written; further ones are dropped.
const MAX_PENDING: usize = 20_000;
/// The prefix of an entry's name: the program and the version of the format.
const PREFIX: &str = "is1:";

/// The shared cache. Its connection is closed when it is dropped.
#[derive(Debug)]
pub(super) struct SharedCache {
    client: Arc<ReconnectingClient>,
    writer: Arc<Writer>,
    found: Arc<AtomicU64>,
    /// Connects to Redis, and reconnects; it ends only when it is aborted.
    connection_task: JoinHandle<()>,
}

/// Writes keys in the background, one batch at a time.
#[derive(Debug)]
struct Writer {
    client: Arc<ReconnectingClient>,
    expiry_s: u64,
    pending: Mutex<Pending>,
    dropped: AtomicU64,
}

/// Keys that wait to be written.
#[derive(Debug, Default)]
struct Pending {
    keys: Vec<KeyId>,
    /// Whether a task writes them.
    writing: bool,
}

impl SharedCache {
    /// Starts to connect to the Redis at `url`. Entries expire after `window`.
    ///
    /// # Errors
    /// If the URL is invalid.
    pub(super) fn start(url: &SecretString, window: Duration) -> redis::RedisResult<Self> {
        let client = Arc::new(ReconnectingClient::new(redis::Client::open(url.expose_secret())?));
        let reconnecting = client.clone();
        let connection_task = tokio::spawn(async move {
            // A key that no request has: an app's name is not empty.
            let probe = exists_command(&[KeyId::derive("", "")]);
            reconnecting.stay_connected(probe, QUERY_MAX_WAIT).await;
        });
        let writer = Arc::new(Writer {
            client: client.clone(),
            expiry_s: window.as_secs().max(1),
            pending: Mutex::default(),
            dropped: AtomicU64::new(0),
        });
        Ok(Self { client, writer, found: Arc::default(), connection_task })
    }

    /// How many of the first `MAX_QUERIED` of these keys Redis has, in one round trip; zero if it
    /// does not answer in time.
    pub(super) fn count_known(&self, mut keys: Vec<KeyId>) -> impl Future<Output = u64> + use<> {
        let (client, found) = (self.client.clone(), self.found.clone());
        keys.truncate(MAX_QUERIED);
        async move {
            let query = async |mut redis| exists_command(&keys).query_async(&mut redis).await;
            let known = client.within(QUERY_MAX_WAIT, query).await.unwrap_or(0);
            found.fetch_add(known, Ordering::Relaxed);
            known
        }
    }

    /// Writes these keys in the background. They are dropped while Redis is unavailable or too many
    /// are waiting.
    pub(super) fn write_later(&self, keys: &[KeyId]) {
        let is_connected = self.client.is_connected();
        let mut pending = self.writer.pending();
        let room = if is_connected { MAX_PENDING.saturating_sub(pending.keys.len()) } else { 0 };
        let (kept, dropped) = keys.split_at(room.min(keys.len()));
        self.writer.dropped.fetch_add(dropped.len() as u64, Ordering::Relaxed);
        pending.keys.extend_from_slice(kept);
        if !kept.is_empty() && !std::mem::replace(&mut pending.writing, true) {
            drop(tokio::spawn(self.writer.clone().write_all()));
        }
    }

    /// Whether Redis is connected, or why not.
    pub(super) fn status(&self) -> String {
        self.client.status()
    }

    /// How many keys were found in Redis.
    pub(super) fn found(&self) -> u64 {
        self.found.load(Ordering::Relaxed)
    }

    /// How many keys were not written.
    pub(super) fn dropped(&self) -> u64 {
        self.writer.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for SharedCache {
    fn drop(&mut self) {
        self.connection_task.abort();
    }
}

impl Writer {
    /// Writes until no key is waiting.
    async fn write_all(self: Arc<Self>) {
        while let Some(batch) = self.take_batch() {
            let write =
                async |mut redis| set_commands(&batch, self.expiry_s).exec_async(&mut redis).await;
            if self.client.within(WRITE_MAX_WAIT, write).await.is_none() {
                self.dropped.fetch_add(batch.len() as u64, Ordering::Relaxed);
            }
        }
    }

    fn take_batch(&self) -> Option<Vec<KeyId>> {
        let mut pending = self.pending();
        let count = pending.keys.len().min(MAX_WRITTEN);
        pending.writing = count > 0;
        (count > 0).then(|| pending.keys.drain(..count).collect())
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The command that returns how many of these keys exist.
fn exists_command(keys: &[KeyId]) -> redis::Cmd {
    let mut command = redis::cmd("EXISTS");
    for key in keys {
        command.arg(name_of(key));
    }
    command
}

/// Commands that write these keys, each with the time after which it expires.
fn set_commands(keys: &[KeyId], expiry_s: u64) -> redis::Pipeline {
    let mut all = redis::Pipeline::with_capacity(keys.len());
    for key in keys {
        all.cmd("SET").arg(name_of(key)).arg(1).arg("EX").arg(expiry_s).ignore();
    }
    all
}

fn name_of(key: &KeyId) -> String {
    format!("{PREFIX}{:032x}", u128::from_be_bytes(key.into_bytes()))
}

#[cfg(test)]
mod tests;
