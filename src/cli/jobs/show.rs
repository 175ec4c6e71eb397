//! `jobs show`.

use std::process::ExitCode;

use tracing_subscriber::filter::LevelFilter;

use super::Which;
use crate::cli::ConfigFile;
use crate::cli::output::{DocumentOption, document, on_one_line, say};
use crate::cli::session::Session;
use crate::operations::{HistoryEntry, RunningAttempt, ShownJob, rfc3339_s};

/// Shows a job as it is, or as it ended, with its attempts
///
/// The end of a job is known for as long as its app keeps a history: `history_hours`.
/// An attempt that runs for less than a second is seen only by the process that runs it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler jobs show 0d6f8e0c-8d2a-8c3f-9a51-4b2b8a5d7e11
  infinite-scheduler jobs show --app sms --request 9f1c --json

Exit codes: 0 shown, 1 it failed, 2 it cannot work as it was asked, 3 there is no such job or its
end is not kept any more, 4 the database does not answer.")]
pub(super) struct Show {
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    form: DocumentOption,
}

pub(super) async fn run(arguments: Show) -> anyhow::Result<ExitCode> {
    let name = arguments.which.name()?;
    let session = Session::open(&arguments.config, LevelFilter::WARN).await?;
    let job = session.operations.jobs().show(name).await;
    session.close().await;
    let job = job?;
    match arguments.form.json {
        true => document(&job)?,
        false => lines(&job).into_iter().for_each(|(name, value)| {
            say(format_args!("{name:<16}{}", on_one_line(&value)));
        }),
    }
    Ok(ExitCode::SUCCESS)
}

fn lines(job: &ShownJob) -> Vec<(&'static str, String)> {
    let time = |ms: Option<i64>| ms.map(rfc3339_s);
    let state = match job.app_paused {
        true => format!("{}, the app is paused", job.state.as_str()),
        false => job.state.as_str().to_owned(),
    };
    let all = [
        ("job", Some(job.job_id.to_string())),
        ("request", Some(job.request_id.clone())),
        ("app", Some(job.app_name.clone())),
        ("state", Some(state)),
        ("scheduled", time(Some(job.scheduled_ms))),
        ("due", time(job.due_ms)),
        ("expires", time(job.expires_ms)),
        ("priority", job.priority.map(|priority| priority.to_string())),
        ("attempts", Some(format!("{} of {}", job.attempts, job.max_attempts))),
        ("running", job.running.as_ref().map(running)),
        ("timeout", Some(format!("{} ms", job.timeout_ms))),
        ("last error", job.last_error.clone()),
        ("admitted", time(Some(job.created_ms))),
        ("cancelled", time(job.cancelled_ms)),
        ("cancelled by", job.cancelled_by.clone()),
        ("ended", time(job.ended_ms)),
        ("etag", Some(job.etag.clone())),
        ("jobData", job.job_data.as_ref().map(|data| data.as_str().to_owned())),
    ];
    let attempts = job.history.iter().map(|entry| ("attempt", attempt(entry)));
    all.into_iter().filter_map(|(name, value)| Some((name, value?))).chain(attempts).collect()
}

pub(super) fn running(running: &RunningAttempt) -> String {
    let RunningAttempt { attempt, started_ms, instance, .. } = running;
    format!("attempt {attempt} since {}, on {instance}", rfc3339_s(*started_ms))
}

fn attempt(entry: &HistoryEntry) -> String {
    let mut text = format!("{} {}", entry.attempt, entry.state.as_str());
    text.push_str(&format!(" at {}", rfc3339_s(entry.ended_ms)));
    if let Some((late, took)) = entry.lateness_ms.zip(entry.duration_ms()) {
        text.push_str(&format!(", {late} ms late, took {took} ms"));
    }
    if let Some(instance) = &entry.instance {
        text.push_str(&format!(", on {instance}"));
    }
    if let Some(error) = &entry.error {
        text.push_str(&format!(": {error}"));
    }
    text
}
