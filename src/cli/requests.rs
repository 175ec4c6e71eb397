//! `requests`: the status of one request.

use std::process::ExitCode;

use tracing_subscriber::filter::LevelFilter;

use super::ConfigFile;
use super::exit::Exit;
use super::output::{DocumentOption, document, on_one_line, say};
use super::session::Session;
use crate::operations::{RequestStatus, rfc3339_s};

/// Shows the status of a request, as far as the tables still have it
///
/// A request is unknown if it never arrived, if its job ended longer ago than its app keeps a
/// history, if it was a duplicate of a request with another requestId, if it was a call that was
/// refused, or if its dead letter was discarded.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler requests --app sms --request 9f1c
  infinite-scheduler requests --app sms --request 9f1c --json

Exit codes: 0 shown, 1 it failed, 2 it cannot work as it was asked, 3 nothing is known of the
request, 4 the database does not answer.")]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
    /// The app of the request
    #[arg(long, value_name = "NAME")]
    app: String,
    /// Its requestId
    #[arg(long, value_name = "ID")]
    request: String,
    #[command(flatten)]
    form: DocumentOption,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let session = Session::open(&arguments.config, LevelFilter::WARN).await?;
    let status = session.operations.jobs().request(&arguments.app, &arguments.request).await;
    session.close().await;
    let status = status?;
    match arguments.form.json {
        true => document(&status)?,
        false => say(on_one_line(&sentence(&status))),
    }
    Ok(match status {
        RequestStatus::Unknown => Exit::No.into(),
        RequestStatus::Accepted { .. }
        | RequestStatus::Retrying { .. }
        | RequestStatus::Cancelled { .. }
        | RequestStatus::Awaited { .. }
        | RequestStatus::Parked { .. }
        | RequestStatus::Rejected { .. }
        | RequestStatus::Succeeded { .. }
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
        RequestStatus::Awaited { job_id, until_ms } => {
            let until = rfc3339_s(*until_ms);
            format!(
                "awaited: operations on job {job_id}, which did not come yet, are remembered until {until}"
            )
        }
        RequestStatus::Parked { message } => format!("parked: {message}; it is tried again"),
        RequestStatus::Rejected { letter, kind, message } => {
            format!("rejected: {message} ({kind}), dead letter {letter}")
        }
        RequestStatus::Succeeded { job_id, at_ms, attempts } => {
            let at = rfc3339_s(*at_ms);
            format!("succeeded: job {job_id} succeeded at {at}, attempts: {attempts}")
        }
        RequestStatus::Dead { letter, job_id, kind, message } => {
            let letter = letter.map_or_else(
                || "its dead letter was discarded or replayed".to_owned(),
                |letter| format!("dead letter {letter}"),
            );
            format!("dead: job {job_id}: {message} ({kind}), {letter}")
        }
        RequestStatus::Unknown => "unknown".into(),
    }
}
