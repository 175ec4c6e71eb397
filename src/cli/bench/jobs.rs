//! Jobs and requests to measure with.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use futures::{StreamExt, stream};
use serde_json::json;

use super::scratch::{OURS, PENDING, Scratch};
use crate::model::app::AppConfig;
use crate::model::clock::{Clock, SystemClock};
use crate::model::fingerprint::Fingerprint;
use crate::model::ids::{JobId, KeyId};
use crate::model::job::{Changes, Job, JobData, Priority};
use crate::store::{Admitted, AppRow, Batch, BatchSource, Entry, IdempotencyKey, PlacedCandidate};

/// Jobs written in one transaction when a measurement prepares its tables.
const BATCH: usize = 2000;
/// Of these at the same time.
const AT_ONCE: usize = 4;

/// The data of the `number`th job: about as much as a message to a telephone.
pub(super) fn data(number: usize) -> String {
    json!({"phoneNumber": format!("+49151{number:08}"), "message": "your code is 123456"})
        .to_string()
}

pub(super) fn priority(number: usize) -> Priority {
    Priority::ALL[number % Priority::ALL.len()]
}

/// The app of a measurement, registered.
pub(super) async fn register(scratch: &Scratch) -> anyhow::Result<AppRow> {
    Ok(scratch.store.register_app(&app(), SystemClock.now_ms()).await?)
}

/// Without a history, which is measured where it is asked for.
pub(super) fn app() -> AppConfig {
    let mut app = AppConfig::new(OURS);
    app.history = Duration::ZERO;
    app
}

/// Puts the jobs of these numbers into the table, before any scheduler runs; `due_ms` says when the
/// `number`th is to fire.
pub(super) async fn load(
    scratch: &Scratch,
    app: &AppRow,
    numbers: Range<usize>,
    due_ms: impl Fn(usize) -> i64,
) -> anyhow::Result<()> {
    let app = Arc::new(app.clone());
    let request = |number| format!("{OURS}-{number}");
    admit_all(scratch, numbers, |number| entry(&app, number, request(number), due_ms(number), None))
        .await
}

/// Puts the jobs of these numbers into the table that are not due for years, each with an
/// idempotency key.
pub(super) async fn load_pending(scratch: &Scratch, numbers: Range<usize>) -> anyhow::Result<()> {
    const YEAR_MS: i64 = 365 * 86_400_000;
    let app = Arc::new(register(scratch).await?);
    let now_ms = SystemClock.now_ms();
    let pending = |number| {
        let name = format!("{PENDING}{number}");
        let due_ms = now_ms + fastrand::i64(3 * YEAR_MS..9 * YEAR_MS);
        let id = KeyId::derive(&app.name, &name);
        let expires_ms = now_ms + fastrand::i64(YEAR_MS / 365..YEAR_MS / 182);
        let key = IdempotencyKey { id, name: name.clone(), expires_ms };
        entry(&app, number, name, due_ms, Some(key))
    };
    admit_all(scratch, numbers, pending).await
}

/// Admits the entries of these numbers.
async fn admit_all(
    scratch: &Scratch,
    all: Range<usize>,
    entry: impl Fn(usize) -> Option<Entry>,
) -> anyhow::Result<()> {
    let batches = all.clone().step_by(BATCH).map(|first| {
        let numbers = first..all.end.min(first + BATCH);
        let entries = numbers.filter_map(&entry).collect();
        let now_ms = SystemClock.now_ms();
        let batch = Batch {
            source: BatchSource::Call { again: false },
            verdicts: false,
            entries,
            fences: Vec::new(),
            cancelling: HashSet::new(),
            read_first: false,
            conflict_on_time: false,
            now_ms,
            window_ms: 0,
        };
        let store = scratch.store.clone();
        async move { store.admit(&Arc::new(batch)).await }
    });
    let mut admitted = stream::iter(batches).buffer_unordered(AT_ONCE);
    while let Some(done) = admitted.next().await {
        let Admitted::Done(_) = done? else { bail!("the jobs could not be put into the table") };
    }
    Ok(())
}

/// `None` if the app has no shards.
fn entry(
    app: &Arc<AppRow>,
    number: usize,
    request_id: String,
    due_ms: i64,
    key: Option<IdempotencyKey>,
) -> Option<Entry> {
    let shard = *app.shards.get(number.checked_rem(app.shards.len())?)?;
    let text = data(number);
    let job = Job {
        id: JobId::derive(&app.name, &request_id),
        shard,
        priority: priority(number / app.shards.len()),
        due_ms,
        request_id,
        scheduled_ms: due_ms,
        expires_ms: None,
        flexible_ms: None,
        concurrency_key: None,
        created_ms: SystemClock.now_ms(),
        attempts: 0,
        max_attempts: None,
        timeout_ms: None,
        data: JobData::from_trusted(text),
        trace: None,
        origin: None,
        last_error: None,
        letter: None,
        version: None,
        changes: Changes::default(),
    };
    Some(Entry::Job(Box::new(PlacedCandidate {
        app: app.clone(),
        job,
        // Nothing is compared with it: no job here has a name that another has.
        fingerprint: Fingerprint::from_bytes([0; 16]),
        key,
        foreign: false,
        record: None,
    })))
}
