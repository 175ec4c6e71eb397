//! `ingest pause` and `ingest resume`: the ingest of the whole consumer group.

use std::process::ExitCode;

use crate::cli::ConfigFile;
use crate::cli::author::Author;
use crate::cli::output::{DocumentOption, document, on_one_line, say};
use crate::cli::session::Session;
use crate::operations::{IngestChange, IngestResult, Paused, rfc3339_s};

/// Pauses the ingest of the whole consumer group
///
/// Within two heartbeats no instance takes another record, and the pause outlives every restart.
/// Jobs fire as before. Nothing is lost: reading continues at the same offset.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler ingest pause --reason 'a producer runs wild'

Exit codes: 0 it is paused, now or before; 1 it failed; 2 it cannot work as it was asked;
4 the database does not answer.")]
pub(super) struct Pause {
    #[command(flatten)]
    pub(super) common: Common,
}

/// Resumes the ingest of the whole consumer group
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  infinite-scheduler ingest resume --reason 'the producer was stopped'

Exit codes: 0 it is not paused, now or before; 1 it failed; 2 it cannot work as it was asked;
4 the database does not answer.")]
pub(super) struct Resume {
    #[command(flatten)]
    pub(super) common: Common,
}

#[derive(Debug, clap::Args)]
pub(super) struct Common {
    #[command(flatten)]
    pub(super) config: ConfigFile,
    #[command(flatten)]
    pub(super) form: DocumentOption,
    #[command(flatten)]
    author: Author,
}

pub(super) async fn pause(session: &Session, arguments: Pause) -> anyhow::Result<ExitCode> {
    let operations = session.operations_of(&arguments.common.author);
    let change = operations.ingest().pause().await?;
    show(&change, arguments.common.form)
}

pub(super) async fn resume(session: &Session, arguments: Resume) -> anyhow::Result<ExitCode> {
    let operations = session.operations_of(&arguments.common.author);
    let change = operations.ingest().resume().await?;
    show(&change, arguments.common.form)
}

fn show(change: &IngestChange, form: DocumentOption) -> anyhow::Result<ExitCode> {
    match form.json {
        true => document(change)?,
        false => say(on_one_line(&sentence(change))),
    }
    Ok(ExitCode::SUCCESS)
}

fn sentence(change: &IngestChange) -> String {
    let group = &change.group;
    match (change.result, &change.pause) {
        (IngestResult::Unchanged, Some(pause)) => {
            format!("the ingest of group {group} was paused before, {}", since(pause))
        }
        (IngestResult::Unchanged, None) => format!("the ingest of group {group} was not paused"),
        (IngestResult::Paused, _) => format!("the ingest of group {group} is paused"),
        (IngestResult::Resumed, _) => format!("the ingest of group {group} is resumed"),
    }
}

/// `since 2026-11-29T08:00:00Z by anna: a producer runs wild`
pub(super) fn since(pause: &Paused) -> String {
    let reason = pause.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    format!("since {} by {}{reason}", rfc3339_s(pause.since_ms), pause.by)
}
