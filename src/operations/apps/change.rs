//! Pausing, resuming and retiring an app.

use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::{Apps, Context};
use crate::model::audit::{AuditAction, AuditEntry};
use crate::model::pause::{AppPause, Pause};
use crate::operations::{Error, Paused, Result};
use crate::store::{AppInUse, AppState, DueJobs};

/// How many times a change is tried that others make at the same time.
pub(super) const TRIES: usize = 10;

/// What was done to an app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct AppChange {
    /// What was done.
    pub result: AppResult,
    /// The app.
    pub app_name: String,
    /// Its pause now, if it is paused.
    pub pause: Option<Paused>,
}

/// What was done to an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum AppResult {
    /// It is paused, or its pause has another reason or rule now.
    Paused,
    /// It is not paused any more.
    Resumed,
    /// It has other limits now.
    Changed,
    /// Its limits are as configured again.
    Reset,
    /// It was like that before.
    Unchanged,
    /// It is unknown now.
    Deleted,
}

impl Apps<'_> {
    /// Pauses an app: within two heartbeats no instance starts any of its jobs. What runs may end;
    /// the jobs stay, and `expiresTime` goes on. Its requests are accepted, unless
    /// `refuse_requests`. A pause outlives every restart. One that is paused gets the new rule, and
    /// the reason if one is given.
    ///
    /// # Errors
    /// [`Error::NotFound`] if no such app was ever registered; [`Error::Unavailable`] when the
    /// database does not answer.
    pub async fn pause(&self, app: impl Into<String>, refuse_requests: bool) -> Result<AppChange> {
        let app = app.into();
        self.context
            .run(move |context| async move { pause(&context, &app, refuse_requests).await })
            .await
    }

    /// Resumes an app: what is due is started within two heartbeats.
    ///
    /// # Errors
    /// As [`pause`](Self::pause).
    pub async fn resume(&self, app: impl Into<String>) -> Result<AppChange> {
        let app = app.into();
        self.context.run(move |context| async move { resume(&context, &app).await }).await
    }

    /// Deletes an app that nobody uses any more: it is unknown until it is registered again.
    ///
    /// # Errors
    /// [`Error::Conflict`] with how many there are while it has jobs, letters or verdicts that wait
    /// to be published, or a live instance; otherwise as [`pause`](Self::pause).
    pub async fn delete(&self, app: impl Into<String>) -> Result<AppChange> {
        let app = app.into();
        self.context.run(move |context| async move { delete(&context, &app).await }).await
    }
}

async fn pause(context: &Context, app: &str, refuse_requests: bool) -> Result<AppChange> {
    for _ in 0..TRIES {
        let seen = state(context, app).await?;
        let entry = entry(context, AuditAction::PauseApp, app);
        let before = seen.pause.as_ref();
        let reason = context.by.reason().map(str::to_owned);
        let to = AppPause {
            pause: Pause {
                since_ms: before.map_or(entry.at_ms, |before| before.pause.since_ms),
                by: entry.by.who().to_owned(),
                reason: reason.or_else(|| before.and_then(|before| before.pause.reason.clone())),
            },
            refuses_requests: refuse_requests,
        };
        let is_so = before.is_some_and(|before| {
            before.refuses_requests == to.refuses_requests && before.pause.reason == to.pause.reason
        });
        if is_so {
            return Ok(changed(AppResult::Unchanged, app, seen.pause));
        }
        let details = json!({
            "refuseRequests": refuse_requests,
            "before": before.map(|before| json!({
                "reason": before.pause.reason,
                "refuseRequests": before.refuses_requests,
            })),
        });
        let entry = AuditEntry { details, ..entry };
        let done = context.store().set_app_pause(&seen, Some(&to), &entry).await;
        if done.map_err(|error| context.database_error(error))? {
            return Ok(changed(AppResult::Paused, app, Some(to)));
        }
    }
    Err(others_change(app))
}

async fn resume(context: &Context, app: &str) -> Result<AppChange> {
    for _ in 0..TRIES {
        let seen = state(context, app).await?;
        let Some(before) = &seen.pause else {
            return Ok(changed(AppResult::Unchanged, app, None));
        };
        let details = json!({
            "pausedBy": before.pause.by,
            "pausedMs": before.pause.since_ms,
            "refusedRequests": before.refuses_requests,
        });
        let entry = AuditEntry { details, ..entry(context, AuditAction::ResumeApp, app) };
        let done = context.store().set_app_pause(&seen, None, &entry).await;
        if done.map_err(|error| context.database_error(error))? {
            return Ok(changed(AppResult::Resumed, app, None));
        }
    }
    Err(others_change(app))
}

async fn delete(context: &Context, app: &str) -> Result<AppChange> {
    let seen = state(context, app).await?;
    let entry = entry(context, AuditAction::DeleteApp, app);
    let in_use = context.store().retire_app(&seen, &entry).await;
    let in_use = in_use.map_err(|error| context.database_error(error))?;
    match in_use.is_none() {
        true => Ok(changed(AppResult::Deleted, app, None)),
        false => Err(Error::Conflict(sentence(app, &in_use))),
    }
}

pub(super) async fn state(context: &Context, app: &str) -> Result<AppState> {
    let found = context.store().app_state(app).await;
    let found = found.map_err(|error| context.database_error(error))?;
    found.ok_or_else(|| Error::NotFound(format!("no app {app} was ever registered")))
}

pub(super) fn entry(context: &Context, action: AuditAction, app: &str) -> AuditEntry {
    AuditEntry { app: Some(app.to_owned()), ..context.entry(action, app) }
}

pub(super) fn changed(result: AppResult, app: &str, pause: Option<AppPause>) -> AppChange {
    AppChange { result, app_name: app.to_owned(), pause: pause.map(Paused::from) }
}

pub(super) fn others_change(app: &str) -> Error {
    Error::Unavailable(format!("others change app {app} at the same time: try again"))
}

/// Why an app cannot be deleted, and what to do about it.
fn sentence(app: &str, in_use: &AppInUse) -> String {
    let AppInUse { jobs, unpublished, instances } = in_use;
    let mut uses = Vec::new();
    if *jobs > 0 {
        uses.push(format!("it has {}", counted(*jobs, "job")));
    }
    if *unpublished > 0 {
        let messages = counted(*unpublished, "message");
        uses.push(format!("{messages} of its jobs wait to be published"));
    }
    if !instances.is_empty() {
        let those = counted(instances.len() as u64, "live instance");
        let names = instances.join(", ");
        uses.push(format!("{those} ({names}) have it registered"));
    }
    format!(
        "app {app} cannot be deleted while it is in use: {}; let its jobs end or cancel them, and \
         take it out of the configuration of every instance",
        uses.join(", and ")
    )
}

fn counted(number: u64, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        number if number > DueJobs::LIMIT => format!("more than {} {what}s", DueJobs::LIMIT),
        number => format!("{number} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_says_what_keeps_an_app() {
        let instances = vec!["a".to_owned(), "b".to_owned()];
        for (in_use, said) in [
            (
                AppInUse { jobs: 1, ..AppInUse::default() },
                "while it is in use: it has 1 job; let its jobs end",
            ),
            (
                AppInUse { jobs: DueJobs::LIMIT + 1, instances, ..AppInUse::default() },
                "it has more than 10000 jobs, and 2 live instances (a, b) have it registered; let",
            ),
            (
                AppInUse { unpublished: 3, ..AppInUse::default() },
                ": 3 messages of its jobs wait to be published; let",
            ),
        ] {
            let sentence = sentence("sms", &in_use);
            assert!(sentence.contains(said), "{sentence}");
        }
    }
}
