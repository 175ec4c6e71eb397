//! A cache of idempotency keys in Redis that all instances share. It is an optimization only.
//!
//! Redis may be unavailable, slow, emptied or wrong: a hit only makes a batch be read before it is
//! written. No data of producers is stored: an entry's name is `is1:` and the 16-byte hash of the
//! key in hexadecimal, its value is `1`, and it expires after the idempotency window.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_rt::task::JoinHandle;
use secrecy::{ExposeSecret, SecretString};

use super::link::Link;
use crate::model::ids::KeyId;

/// How long a batch waits for an answer of Redis; a longer wait would cost more than it saves.
const ASK_MAX_WAIT: Duration = Duration::from_millis(20);
/// The largest number of keys in one query: Redis takes a few milliseconds for these.
const ASKED: usize = 5000;
/// How many keys are written at a time. Queries wait behind them.
const WRITTEN: usize = 1000;
/// The time limit of one write. No batch waits for it.
const WRITE_MAX_WAIT: Duration = Duration::from_secs(1);
/// How many keys may wait to be written; further ones are dropped.
const GATHERED: usize = 20_000;
/// The prefix of an entry's name: the program and the version of the format.
const PREFIX: &str = "is1:";

/// The shared cache. Its connection is closed when it is dropped.
#[derive(Debug)]
pub(super) struct Fleet {
    link: Arc<Link>,
    writer: Arc<Writer>,
    recognised: Arc<AtomicU64>,
    keeping: JoinHandle<()>,
}

/// Writes keys in the background, one batch at a time.
#[derive(Debug)]
struct Writer {
    link: Arc<Link>,
    expiry_s: u64,
    gathered: Mutex<Gathered>,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Gathered {
    keys: Vec<KeyId>,
    /// A batch is being written.
    writing: bool,
}

impl Fleet {
    /// Starts to connect to the Redis at `url`. Entries expire after `window`.
    ///
    /// # Errors
    /// If the URL is invalid.
    pub(super) fn start(url: &SecretString, window: Duration) -> redis::RedisResult<Self> {
        let link = Arc::new(Link::new(redis::Client::open(url.expose_secret())?));
        let kept = link.clone();
        let keeping = tokio::spawn(async move {
            kept.keep(exists(&[KeyId::derive("", "")]), ASK_MAX_WAIT).await;
        });
        let writer = Arc::new(Writer {
            link: link.clone(),
            expiry_s: window.as_secs().max(1),
            gathered: Mutex::default(),
            dropped: AtomicU64::new(0),
        });
        Ok(Self { link, writer, recognised: Arc::default(), keeping })
    }

    /// How many of these keys Redis has, asked in one round trip; zero if it does not answer in
    /// time.
    pub(super) fn count_known(&self, mut keys: Vec<KeyId>) -> impl Future<Output = u64> + use<> {
        let (link, recognised) = (self.link.clone(), self.recognised.clone());
        keys.truncate(ASKED);
        async move {
            let ask = async |mut redis| exists(&keys).query_async(&mut redis).await;
            let known = link.within(ASK_MAX_WAIT, ask).await.unwrap_or(0);
            recognised.fetch_add(known, Ordering::Relaxed);
            known
        }
    }

    /// Writes these keys in the background. They are dropped while Redis is unavailable or too many
    /// are waiting.
    pub(super) fn note(&self, keys: &[KeyId]) {
        let is_connected = self.link.is_connected();
        let mut gathered = self.writer.gathered();
        let room = if is_connected { GATHERED.saturating_sub(gathered.keys.len()) } else { 0 };
        let (kept, dropped) = keys.split_at(room.min(keys.len()));
        self.writer.dropped.fetch_add(dropped.len() as u64, Ordering::Relaxed);
        gathered.keys.extend_from_slice(kept);
        if !kept.is_empty() && !std::mem::replace(&mut gathered.writing, true) {
            drop(tokio::spawn(self.writer.clone().write_all()));
        }
    }

    /// Whether Redis is connected, or why not.
    pub(super) fn status(&self) -> String {
        self.link.status()
    }

    /// How many keys were found in Redis.
    pub(super) fn recognised(&self) -> u64 {
        self.recognised.load(Ordering::Relaxed)
    }

    /// How many keys were not written.
    pub(super) fn dropped(&self) -> u64 {
        self.writer.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.keeping.abort();
    }
}

impl Writer {
    /// Writes until no key is waiting.
    async fn write_all(self: Arc<Self>) {
        while let Some(some) = self.take_some() {
            let write = async |mut redis| sets(&some, self.expiry_s).exec_async(&mut redis).await;
            if self.link.within(WRITE_MAX_WAIT, write).await.is_none() {
                self.dropped.fetch_add(some.len() as u64, Ordering::Relaxed);
            }
        }
    }

    fn take_some(&self) -> Option<Vec<KeyId>> {
        let mut gathered = self.gathered();
        let count = gathered.keys.len().min(WRITTEN);
        gathered.writing = count > 0;
        (count > 0).then(|| gathered.keys.drain(..count).collect())
    }

    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The command that returns how many of these keys exist.
fn exists(keys: &[KeyId]) -> redis::Cmd {
    let mut command = redis::cmd("EXISTS");
    for key in keys {
        command.arg(name_of(key));
    }
    command
}

fn sets(keys: &[KeyId], expiry_s: u64) -> redis::Pipeline {
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
