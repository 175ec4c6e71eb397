//! `requests`: what became of a request, by its name.

use std::process::ExitCode;

use tracing_subscriber::filter::LevelFilter;

use super::ConfigFile;
use super::output::{on_one_line, say};
use super::session::{Session, failed};
use crate::operations::{RequestStatus, rfc3339_s};

/// The exit code for a request of which nothing is known.
const UNKNOWN: u8 = 3;

/// Shows what became of a request, as far as the tables still have it
///
/// A request is unknown if it never came, its job has ended well, it repeated a request of another
/// name, it was a call that was refused, or its dead letter was discarded.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler requests --app sms --request 9f1c
  infinite-scheduler requests --app sms --request 9f1c --json

Exit codes: 0 shown, 1 it failed, 2 it cannot work as it was asked, 3 nothing is known of it.")]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
    /// The app that it is for
    #[arg(long, value_name = "NAME")]
    app: String,
    /// Its requestId
    #[arg(long, value_name = "ID")]
    request: String,
    /// For programs: a JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let session = Session::open(&arguments.config, LevelFilter::WARN).await?;
    let status = session.operations.jobs().request(&arguments.app, &arguments.request).await;
    session.close().await;
    let status = status.map_err(failed)?;
    match arguments.json {
        true => say(serde_json::to_string_pretty(&status)?),
        false => say(on_one_line(&sentence(&status))),
    }
    Ok(match status {
        RequestStatus::Unknown => ExitCode::from(UNKNOWN),
        RequestStatus::Accepted { .. }
        | RequestStatus::Retrying { .. }
        | RequestStatus::Cancelled { .. }
        | RequestStatus::Parked { .. }
        | RequestStatus::Rejected { .. }
        | RequestStatus::Dead { .. } => ExitCode::SUCCESS,
    })
}

fn sentence(status: &RequestStatus) -> String {
    match status {
        RequestStatus::Accepted { job_id, due_ms } => {
            format!("accepted: job {job_id} is due at {}", rfc3339_s(*due_ms))
        }
        RequestStatus::Retrying { job_id, due_ms, attempts, error } => format!(
            "retrying: job {job_id} has failed {attempts} times ({error}) and is due at {}",
            rfc3339_s(*due_ms)
        ),
        RequestStatus::Cancelled { job_id, at_ms, by } => {
            format!("cancelled: job {job_id} was cancelled by {by} at {}", rfc3339_s(*at_ms))
        }
        RequestStatus::Parked { message } => format!("parked: {message}; it is tried again"),
        RequestStatus::Rejected { letter, kind, message } => {
            format!("rejected: {message} ({kind}), dead letter {letter}")
        }
        RequestStatus::Dead { letter, job_id, kind, message } => {
            format!("dead: job {job_id}: {message} ({kind}), dead letter {letter}")
        }
        RequestStatus::Unknown => "unknown".into(),
    }
}
