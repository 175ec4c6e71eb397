//! Pausing and resuming the ingest of the whole consumer group.

use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::{Context, Ingest};
use crate::model::audit::{AuditAction, AuditEntry};
use crate::model::pause::Pause;
use crate::operations::{Error, Paused, Result};

/// How many times a change is tried that others make at the same time.
const TRIES: usize = 10;

/// What was done to the ingest of a consumer group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct IngestChange {
    /// What was done.
    pub result: IngestResult,
    /// The consumer group.
    pub group: String,
    /// Its pause now, if it is paused.
    pub pause: Option<Paused>,
}

/// What was done to the ingest of a consumer group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum IngestResult {
    /// It is paused, or its pause has another reason now.
    Paused,
    /// It is not paused any more.
    Resumed,
    /// It was like that before.
    Unchanged,
}

impl Ingest<'_> {
    /// Pauses the ingest of the consumer group: within two heartbeats no instance takes another
    /// record. Nothing is lost: reading continues at the same offset. A pause outlives every restart.
    ///
    /// # Errors
    /// [`Error::Invalid`] if requests do not come by Kafka; [`Error::Unavailable`] when the
    /// database does not answer.
    pub async fn pause(&self) -> Result<IngestChange> {
        self.context.run(|context| async move { pause(&context).await }).await
    }

    /// Resumes the ingest of the consumer group, within two heartbeats.
    ///
    /// # Errors
    /// As [`pause`](Self::pause).
    pub async fn resume(&self) -> Result<IngestChange> {
        self.context.run(|context| async move { resume(&context).await }).await
    }
}

async fn pause(context: &Context) -> Result<IngestChange> {
    let group = &context.kafka()?.group_id;
    for _ in 0..TRIES {
        let seen = current(context, group).await?;
        let entry = context.entry(AuditAction::PauseIngest, group);
        let reason = context.by.reason().map(str::to_owned);
        let to = Pause {
            since_ms: seen.as_ref().map_or(entry.at_ms, |seen| seen.since_ms),
            by: entry.by.who().to_owned(),
            reason: reason.or_else(|| seen.as_ref().and_then(|seen| seen.reason.clone())),
        };
        if seen.as_ref().is_some_and(|seen| seen.reason == to.reason) {
            return Ok(changed(IngestResult::Unchanged, group, seen));
        }
        let done = context.store().set_ingest_pause(group, seen.as_ref(), Some(&to), &entry).await;
        if done.map_err(|error| context.database_error(error))? {
            return Ok(changed(IngestResult::Paused, group, Some(to)));
        }
    }
    Err(others_change(group))
}

async fn resume(context: &Context) -> Result<IngestChange> {
    let group = &context.kafka()?.group_id;
    for _ in 0..TRIES {
        let Some(seen) = current(context, group).await? else {
            return Ok(changed(IngestResult::Unchanged, group, None));
        };
        let entry = AuditEntry {
            details: json!({ "pausedBy": seen.by, "pausedMs": seen.since_ms }),
            ..context.entry(AuditAction::ResumeIngest, group)
        };
        let done = context.store().set_ingest_pause(group, Some(&seen), None, &entry).await;
        if done.map_err(|error| context.database_error(error))? {
            return Ok(changed(IngestResult::Resumed, group, None));
        }
    }
    Err(others_change(group))
}

pub(super) async fn current(context: &Context, group: &str) -> Result<Option<Pause>> {
    let pause = context.store().ingest_pause(group).await;
    pause.map_err(|error| context.database_error(error))
}

fn changed(result: IngestResult, group: &str, pause: Option<Pause>) -> IngestChange {
    IngestChange { result, group: group.to_owned(), pause: pause.map(Paused::from) }
}

fn others_change(group: &str) -> Error {
    Error::Unavailable(format!("others pause and resume group {group} at the same time: try again"))
}
