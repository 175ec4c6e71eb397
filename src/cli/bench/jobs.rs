//! Jobs and requests to measure with.

use std::sync::Arc;

use anyhow::bail;
use futures::{StreamExt, stream};
use serde_json::json;

use super::scratch::{OURS, Scratch};
use crate::model::app::AppConfig;
use crate::model::clock::{Clock, SystemClock};
use crate::model::fingerprint::Fingerprint;
use crate::model::ids::JobId;
use crate::model::job::{Job, JobData, Priority};
use crate::store::{Admitted, AppRow, Batch, BatchSource, Entry, PlacedCandidate};

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

pub(super) fn app() -> AppConfig {
    AppConfig::new(OURS)
}

/// Puts `count` jobs into the table, before any scheduler runs; `due_ms` says when the
/// `number`th is to fire.
pub(super) async fn load(
    scratch: &Scratch,
    app: &AppRow,
    count: usize,
    due_ms: impl Fn(usize) -> i64,
) -> anyhow::Result<()> {
    let app = &Arc::new(app.clone());
    let batches = (0..count).step_by(BATCH).map(|first| {
        let numbers = first..count.min(first + BATCH);
        let entries = numbers.filter_map(|number| entry(app, number, due_ms(number))).collect();
        let now_ms = SystemClock.now_ms();
        let batch = Batch {
            source: BatchSource::Call { again: false },
            verdicts: false,
            entries,
            fences: Vec::new(),
            read_first: false,
            conflict_on_time: false,
            now_ms,
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
fn entry(app: &Arc<AppRow>, number: usize, due_ms: i64) -> Option<Entry> {
    let shard = *app.shards.get(number.checked_rem(app.shards.len())?)?;
    let request_id = format!("bench-{number}");
    let text = data(number);
    let job = Job {
        id: JobId::derive(&app.name, &request_id),
        shard,
        priority: priority(number / app.shards.len()),
        due_ms,
        request_id,
        scheduled_ms: due_ms,
        expires_ms: None,
        created_ms: SystemClock.now_ms(),
        attempts: 0,
        max_attempts: None,
        timeout_ms: None,
        data: JobData::from_trusted(text),
        trace: None,
        origin: None,
        last_error: None,
        letter: None,
    };
    Some(Entry::Job(Box::new(PlacedCandidate {
        app: app.clone(),
        job,
        // Nothing is compared with it: no job here has a name that another has.
        fingerprint: Fingerprint::from_bytes([0; 16]),
        key: None,
        foreign: false,
        record: None,
    })))
}
