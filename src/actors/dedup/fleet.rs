//! What all instances remember together, in Redis: a cache that only saves work.
//!
//! It may be away, slow, emptied or wrong: what it says makes a batch be read before it is
//! written, and nothing else. Nothing of a producer's is stored: an entry is named
//! `is1:` and a key's 16-byte hash in hex, holds `1`, and ends after the idempotency window.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_rt::task::JoinHandle;
use secrecy::{ExposeSecret, SecretString};

use super::link::Link;
use crate::model::ids::KeyId;

/// What a batch waits for an answer at most; a longer wait would cost more than it saves.
const ASK_MAX_WAIT: Duration = Duration::from_millis(20);
/// Keys that are asked for at most: Redis takes a few milliseconds for so many.
const ASKED: usize = 5000;
/// Keys that are written at a time. Questions wait behind them.
const WRITTEN: usize = 1000;
/// What writing them may take. Nobody waits for it.
const WRITE_MAX_WAIT: Duration = Duration::from_secs(1);
/// Keys that wait to be written at most: more of them are dropped.
const GATHERED: usize = 20_000;
/// Before the hash in an entry's name: whose it is, and the version of its form.
const PREFIX: &str = "is1:";

/// The memory that a fleet shares. Its connection ends with it.
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
    /// A batch is under way.
    writing: bool,
}

impl Fleet {
    /// Begins to connect to the Redis at `url`. Its entries end after `window`.
    ///
    /// # Errors
    /// The URL cannot be read.
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

    /// How many of these Redis knows, in one round trip; none if it does not say so soon.
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

    /// Writes these down soon, or drops them if there are too many or Redis is away.
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

    /// Whether Redis is there, or why not.
    pub(super) fn status(&self) -> String {
        self.link.status()
    }

    /// Keys that it recognised.
    pub(super) fn recognised(&self) -> u64 {
        self.recognised.load(Ordering::Relaxed)
    }

    /// Keys that were not written.
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
    /// Until nothing is left, or Redis fails.
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

/// Says how many of them there are.
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
